"""The code of README.md and docs/ runs, block after block, and prints what the page shows.

The blocks of a page share one namespace and an empty working folder. A bare fence right after a
block of Python holds its output. ``python no-run`` marks a block that needs a network, a GPU or the
reader's own files: it is only compiled, and the names that it takes from the package must exist.
"""

import ast
import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import completeness
import pytest
from registries import restored

import culnig_tl as ct

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)


class Block(NamedTuple):
    """One fenced block of a page."""

    page: Path
    line: int
    kind: str  # what stands behind the opening fence
    text: str
    follows: str  # the text between it and the block before

    def code(self) -> ast.Module:
        """Parsed so that a traceback names the page's own line."""
        return ast.parse("\n" * self.line + self.text, filename=str(self.page))


def blocks(page: Path) -> list[Block]:
    text, end, result = page.read_text(encoding="utf-8"), 0, []
    for fence in FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        result.append(Block(page, line, fence[1], fence[2], text[end : fence.start()]))
        end = fence.end()
    return result


def printed(block: Block, module: ModuleType) -> str:
    with redirect_stdout(io.StringIO()) as output:
        exec(compile(block.code(), str(block.page), "exec"), vars(module))
    return output.getvalue()


def run_page(page: Path, module: ModuleType) -> None:
    """Run the blocks in order; compare what one prints with the bare fence right after it."""
    output = None
    for block in blocks(page):
        if output is not None and not block.kind and not block.follows.strip():
            assert output.split() == block.text.split(), f"{page.name}, line {block.line}"
        output = printed(block, module) if block.kind == "python" else None


def names_in(code: ast.Module) -> set[str]:
    """What is asked of ``ct``."""
    return {
        node.attr
        for node in ast.walk(code)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ct"
    }


@pytest.mark.filterwarnings("ignore:Letter questions are at chance")  # two made-up questions
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_for_a_user: None
) -> None:
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    with restored():
        run_page(page, module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_that_is_not_run_uses_names_that_exist(page: Path) -> None:
    aside = [block for block in blocks(page) if block.kind == "python no-run"]
    assert all(hasattr(ct, name) for block in aside for name in names_in(block.code()))
    assert {block.kind.split()[0] for block in blocks(page) if "python" in block.kind} <= {"python"}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]*)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_the_table_of_completeness_is_what_its_command_prints() -> None:
    """Two families of it, to a tenth: other machines round otherwise."""
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert "`python tests/completeness.py`" in page
    head, _ = completeness.HEAD
    table = page[page.index(head) :].partition("\n\n")[0].splitlines()
    for family in ("olmo-2", "llama"):
        shown = [line for line in table if line.startswith(f"| {family} |")]
        for ours, theirs in zip(shown, completeness.lines_of(family), strict=True):
            assert ours.split(" | ")[:2] == theirs.split(" | ")[:2]
            assert figures(ours) == pytest.approx(figures(theirs), rel=0.1, abs=0.02)


def figures(line: str) -> list[float]:
    """The numbers of a line, without those in names."""
    return [float(cell.strip(" |<")) for cell in line.split(" | ")[2:]]


def test_the_test_itself_sees_output_that_differs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page.md, line 5"):
        run_page(page, ModuleType("page"))
