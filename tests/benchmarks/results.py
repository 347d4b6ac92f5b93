"""A file of results in sections: each benchmark replaces its own and leaves the others."""

import argparse
import re
from pathlib import Path

from culnig_tl.files import replacing


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with ``--out``."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--out", type=Path, help="also put the tables into this file")
    return found


def show(section: str, out: Path | None) -> None:
    """Print a section, and write it where asked."""
    print(section)
    if out:
        write_section(out, section)


def write_section(path: Path, section: str) -> None:
    """Put a section, which begins with ``# TITLE``, in the place of the one with that title, or
    last."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    sections = {_title(each): each for each in re.split(r"^(?=# )", text, flags=re.MULTILINE)}
    sections[_title(section)] = section
    with replacing(path) as part:
        whole = "\n\n".join(each.strip() for each in sections.values() if each.strip())
        part.write_text(whole + "\n", encoding="utf-8")


def _title(section: str) -> str:
    return section.partition("\n")[0].strip()
