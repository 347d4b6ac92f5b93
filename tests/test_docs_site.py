"""The site of the documentation builds without a warning, reads offline, and leads somewhere."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import chromium

import culnig_tl as ct

if sys.version_info < (3, 11):
    pytest.skip("the newest Sphinx needs Python 3.11", allow_module_level=True)

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "docs" / "build.py"
# The site with a figure and a progress bar in each lesson, as if it had been executed
SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import build
import nbformat

def executed(path, manager):
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    shown = [
        {build.render.FIGURE: {"data": [{"type": "bar", "y": [1]}], "layout": {}}},
        {build.render.WIDGET: {"model_id": "a bar"}, "text/plain": "a bar"},
    ]
    cell.outputs = [nbformat.v4.new_output("display_data", data=data) for data in shown]
    state = {"state": {"a bar": {}}, "version_major": 2, "version_minor": 0}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": state}
    return notebook

build.render.executed = executed
build.main(Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", SCRIPT, str(BUILD.parent), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def the_builder() -> Any:
    spec = importlib.util.spec_from_file_location("build_docs", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_and_lesson_is_there(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    lessons = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    assert lessons <= {path.stem for path in (site / "lessons").glob("*.html")}
    front = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{page}.html"' in front for page in pages - {"index"})


def test_a_lesson_draws_its_figures_without_a_network(site: Path) -> None:
    asked: list[str] = []

    def answer(route: Any) -> None:
        if route.request.url.startswith(site.as_uri()):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    with chromium() as browser:
        page = browser.new_page()
        page.route("**/*", answer)
        page.goto((site / "lessons" / "01_quickstart.html").as_uri())
        assert page.locator(".js-plotly-plot:has(.main-svg)").count() == 1
        assert "a bar" not in page.content()
    assert asked == []


def test_every_public_name_stands_in_the_reference(site: Path) -> None:
    page = (site / "reference.html").read_text(encoding="utf-8")
    modules = {"figures", "tables", "circuitsvis"}
    missing = [
        name for name in ct.__all__ if name not in modules and f'id="culnig_tl.{name}"' not in page
    ]
    assert missing in ([], ["CulnigError"])  # an error stands under its own module
    assert 'id="culnig_tl.errors.CulnigError"' in page
    for name in ct.figures.__all__:
        made = getattr(ct.figures, name)
        if getattr(made, "__module__", "").startswith("culnig_tl.figures") and "Bins" not in name:
            assert f"{name}" in page


def test_the_check_of_links_sees_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text("<p>there")
    (tmp_path / "page.html").write_text(
        '<a href="there.html#x">a</a><a href="gone.html">b</a><a href="https://a.org">c</a>'
        '<script src="https://cdn.a.org/x.js"></script><link rel="stylesheet" href="gone.css">'
    )
    faults = {fault for _, fault in the_builder().faults_of(tmp_path)}
    assert faults == {"gone.html", "https://cdn.a.org/x.js", "gone.css"}
