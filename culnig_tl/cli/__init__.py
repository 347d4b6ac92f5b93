"""The same jobs from a shell: ``culnig-tl demo | run | paper | score | select | evaluate |
validate | harness | finetune``.

Each command is one call of the library; ``culnig-tl COMMAND --help`` shows examples. A user's
mistake prints one sentence and exits with 2; ctrl-C prints what is kept and exits with 130.
"""

import typer

from culnig_tl.cli.commands import evaluate, score, select
from culnig_tl.cli.demo import demo
from culnig_tl.cli.finetuning import finetune
from culnig_tl.cli.harness import harness
from culnig_tl.cli.paper import paper
from culnig_tl.cli.runs import run
from culnig_tl.cli.validation import validate

app = typer.Typer(
    help="Find, switch off and show the culture neurons of a language model (CULNIG).",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
for _command in (demo, run, paper, score, select, evaluate, validate, harness, finetune):
    app.command()(_command)

__all__ = ["app"]
