"""Build the site: the lessons executed, the pages of docs/, the reference out of docstrings.

    python docs/build.py build/docs                      what make docs runs
    python docs/build.py build/docs --without-outputs    lessons as they are, in half a minute

Sphinx reads a copy of docs/ with the executed lessons beside it. A warning ends the build, and so
does a page that would ask a network for anything or leads to a page that is not there.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from plotly.offline import get_plotlyjs
from sphinx.cmd.build import build_main

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.append(str(ROOT / "notebooks"))

import render  # noqa: E402

_AS_HTML = {"format": "text/html"}
_LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


def main(out: Path, *, execute: bool = True) -> None:
    """Write the site into ``out``.

    Args:
        out: a folder; it is replaced.
        execute: False leaves the lessons without outputs, for a look at everything else.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for name in ("docs", "tests/benchmarks", ".github"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copytree(
            ROOT / "culnig_tl" / "atlas" / "assets", copy / "culnig_tl" / "atlas" / "assets"
        )
        write_lessons(copy / "docs" / "lessons", execute=execute)
        script = copy / "docs" / "_static" / "plotly.min.js"
        script.write_text(get_plotlyjs(), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        options = ["-q", "-W", "--keep-going", "-b", "html", "-j", "auto"]
        if build_main([*options, str(copy / "docs"), str(out)]):
            raise SystemExit("docs: Sphinx has warned, see above")
    faults = [f"{page.relative_to(out)}: {fault}" for page, fault in faults_of(out)]
    if faults:
        raise SystemExit("\n".join(["docs: these lead nowhere or ask a network:", *faults]))


def write_lessons(folder: Path, *, execute: bool) -> None:
    """Lessons and solutions as Sphinx reads them: figures as HTML, progress bars left out."""
    (folder / "solutions").mkdir(parents=True)
    paths = render.NOTEBOOKS + render.SOLUTIONS
    if not execute:
        for path in paths:
            shutil.copy(path, folder / path.relative_to(render.HERE))
        return
    with render.kernel() as manager:
        for path in paths:
            notebook = render.for_page(render.executed(path, manager))
            place = path.relative_to(render.HERE)
            script = f'<script src="{"../" * len(place.parts)}_static/plotly.min.js"></script>'
            notebook.cells.insert(1, nbformat.v4.new_raw_cell(script, metadata=_AS_HTML))
            nbformat.write(notebook, folder / place)
            print(f"docs: {path.relative_to(ROOT)}", flush=True)


class _Links(HTMLParser):
    """What a page loads, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.links.append(values["href"] or "")
        is_page = tag == "link" and values.get("rel") in ("next", "prev", "search", "index")
        if tag in _LOADING and values.get(_LOADING[tag]) and not is_page:
            self.loaded.append(values[_LOADING[tag]] or "")


def faults_of(site: Path) -> Iterator[tuple[Path, str]]:
    """Pages with what they would fetch from a network, and with links into nothing."""
    for page in sorted(site.rglob("*.html")):
        links = _Links()
        links.feed(page.read_text(encoding="utf-8"))
        for address in links.loaded:
            if urlsplit(address).netloc:
                yield page, address
        for address in {*links.links, *links.loaded}:
            parts = urlsplit(address)
            target = page.parent / unquote(parts.path)
            if not parts.scheme and not parts.netloc and parts.path and not target.exists():
                yield page, address


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the site of the documentation.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("build/docs"))
    parser.add_argument("--without-outputs", action="store_true")
    arguments = parser.parse_args()
    main(arguments.out, execute=not arguments.without_outputs)
