"""Every notebook runs to its end, holds what it teaches, and is committed without outputs.

All run in one kernel, one after the other; their own assertions fail where a result is wrong.
"""

import ast
import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import keep_screenshot, opened

FOLDER = Path(__file__).parents[1] / "notebooks"
INSTALL = """import sys

if "google.colab" in sys.modules:
    %pip install -q culnig-tl"""
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.If)
LOOPS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# What JupyterLab knows of its code cells, shown or not
CELLS = """window.jupyterapp.shell.currentWidget.content.widgets
    .map(widget => widget.model.toJSON()).filter(cell => cell.cell_type === "code")"""
DONE = """(cell, i, all) => cell.outputs.some(output => output.output_type === "error")
    || (i === all.length - 1 && cell.execution_count !== null)"""

# zmq and asyncio warn while a kernel's client is closed; neither has to do with the notebooks
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def the_renderer() -> Any:
    spec = importlib.util.spec_from_file_location("render", FOLDER / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render = the_renderer()
LESSONS, SOLUTIONS = render.NOTEBOOKS, render.SOLUTIONS
every = pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=lambda path: path.stem)
lessons = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@cache
def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_of(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def parsed(notebook: Any) -> list[ast.Module]:
    """The code cells but for the one that installs, which is no Python."""
    return [ast.parse(source) for source in code_of(notebook) if source != INSTALL]


def is_figure(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ct.figures.")


def n_figures(notebook: Any) -> int:
    """Cells whose last expression is a figure."""
    ends = [cell.body[-1] for cell in parsed(notebook) if cell.body]
    return sum(isinstance(end, ast.Expr) and is_figure(end.value) for end in ends)


@pytest.fixture(scope="module")
def ran() -> Iterator[Callable[[Path], Any]]:
    """``ran(path)``: the notebook with its outputs, executed once."""
    with render.kernel() as manager:
        yield cache(lambda path: render.executed(path, manager))


def test_every_lesson_has_its_solutions() -> None:
    assert [path.stem for path in SOLUTIONS] == [f"{path.stem}_solutions" for path in LESSONS]
    numbers = [int(path.stem[:2]) for path in LESSONS]
    assert numbers == list(range(1, len(LESSONS) + 1))


@every
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    cells = read(path).cells
    assert not any(cell.outputs or cell.execution_count for cell in cells if "outputs" in cell)
    assert not any(cell.metadata for cell in cells)
    assert set(read(path).metadata) == {"kernelspec", "language_info"}


@every
def test_a_notebook_says_what_it_teaches_and_needs_and_has_one_model(path: Path) -> None:
    notebook = read(path)
    opening = notebook.cells[0].source
    assert opening.startswith("# ")
    assert all(part in opening for part in ("**You will learn**", "**It needs**", "memory"))
    assert "*planted*" in opening, "where the embedded model is used, it says what that shows"
    assert "no evidence about" in opening
    assert code_of(notebook)[0] == INSTALL
    lines = "\n".join(code_of(notebook)).splitlines()
    assert [line for line in lines if line.startswith("MODEL")] == ['MODEL = "atlas"']
    assert [line for line in lines if line.startswith("model = ")] == [
        "model = ct.load_model(MODEL)"
    ]


@lessons
def test_a_lesson_ends_with_exercises_that_are_solved(path: Path) -> None:
    closing = read(path).cells[-1].source
    assert closing.startswith("## Exercises")
    assert f"solutions/{path.stem}_solutions.ipynb" in closing
    asked = re.findall(r"^(\d)\. ", closing, re.MULTILINE)
    text = "\n".join(
        c.source for c in read(FOLDER / f"solutions/{path.stem}_solutions.ipynb").cells
    )
    assert asked == re.findall(r"^## (\d)\. ", text, re.MULTILINE)


@every
def test_a_notebook_holds_no_logic(path: Path) -> None:
    for cell in parsed(read(path)):
        nodes = list(ast.walk(cell))
        assert not any(isinstance(node, LOGIC) for node in nodes)
        for loop in (node for node in nodes if isinstance(node, LOOPS)):
            assert len(loop.generators) == 1, "no loop in a loop"
            assert not loop.generators[0].ifs


@every
def test_a_figure_is_the_last_expression_of_its_cell(path: Path) -> None:
    notebook = read(path)
    calls = [node for cell in parsed(notebook) for node in ast.walk(cell) if is_figure(node)]
    assert len(calls) == n_figures(notebook)


@every
def test_a_notebook_asserts_what_it_teaches(path: Path) -> None:
    nodes = [node for cell in parsed(read(path)) for node in ast.walk(cell)]
    assert sum(isinstance(node, ast.Assert) for node in nodes) >= 2


@every
def test_a_notebook_runs_and_draws_its_figures(path: Path, ran: Callable[[Path], Any]) -> None:
    notebook = ran(path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len([o for o in outputs if render.FIGURE in o.get("data", {})]) == n_figures(notebook)
    complaints = [o.text for o in outputs if o.get("name") == "stderr" and "Warning" in o.text]
    assert complaints == []


@pytest.mark.parametrize("lesson", ["02_how_attribution_works", "06_how_sure_are_we"])
def test_a_lesson_shows_that_sums_are_off_where_a_reader_sees_it(
    lesson: str, ran: Callable[[Path], Any]
) -> None:
    """The warning is in the output of the cell that asks for it."""
    outputs = [o for cell in ran(FOLDER / f"{lesson}.ipynb").cells for o in cell.get("outputs", [])]
    said = [o.text for o in outputs if o.get("name") == "stdout" and "do not add up" in o.text]
    assert len(said) == 1
    assert re.search(
        r"off by [\d.]+ % at mlp\.hook_post \((layer 0|all layers together)\)", said[0]
    )


@pytest.mark.browser
@every
def test_a_page_draws_its_figures_without_a_network(
    path: Path, ran: Callable[[Path], Any], tmp_path: Path
) -> None:
    notebook = ran(path)
    target = tmp_path / f"{path.stem}.html"
    target.write_text(render.page(notebook, path.stem), encoding="utf-8")
    with opened(target) as page:
        page.wait_for_load_state("load")
        drawn = page.locator(".js-plotly-plot:has(.main-svg)")
        assert drawn.count() == n_figures(notebook)
        views = page.locator("[data-component]")  # of CircuitsVis, which draws once it is unpacked
        assert views.count() == sum(
            source.count("ct.circuitsvis.colored_tokens(") for source in code_of(notebook)
        )
        for view in views.all():
            view.locator(".colored-tokens").wait_for()
        names = page.locator("div.culnig tbody th")  # in a card's tables; a notebook's own go right
        aligned = names.evaluate_all("all => all.map(name => getComputedStyle(name).textAlign)")
        assert set(aligned) <= {"left"}
        assert page.locator(".jp-RenderedHTMLCommon h1").first.is_visible()
        assert page.get_by_text("100%|").count() == 0, "progress bars are left out"
        keep_screenshot(page, path.stem)


@pytest.mark.browser
@pytest.mark.parametrize("stem", ["01_quickstart", "05_inspect_a_neuron"])
def test_all_cells_run_in_a_live_jupyterlab(stem: str, jupyterlab: Any) -> None:
    name = f"{stem}.ipynb"
    (jupyterlab.folder / name).write_bytes((FOLDER / name).read_bytes())
    with jupyterlab.opened(name) as page:
        page.wait_for_function(f"() => ({CELLS}).some({DONE})", timeout=300_000)
        ran = page.evaluate(CELLS)
        outputs = [output for cell in ran for output in cell["outputs"]]
        assert [output for output in outputs if output["output_type"] == "error"] == []
        assert all(cell["execution_count"] for cell in ran)
        drawn = [output for output in outputs if render.FIGURE in output.get("data", {})]
        assert len(drawn) == n_figures(read(FOLDER / name))
