"""``python -m culnig_tl`` is the command line."""

from culnig_tl.cli import app

if __name__ == "__main__":
    app(prog_name="culnig-tl")
