"""The architecture of docs/architecture.md holds: faces, circles, names, declared dependencies.

The source is read, not imported, but for ``dir``. A *room* is a folder or a module of culnig_tl;
its *face* is the folder's ``__init__.py``, or the module. atlas.training is a room of its own.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import culnig_tl as ct

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "culnig_tl"
TRAINING = "culnig_tl.atlas.training"
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)

BEHIND_A_METHOD = {
    *(("pipeline", "report"), ("neurons", "export")),
    *(("neurons", "culnig_json"), ("scores", "culnig_json")),
}
"""Who may import whom against the order, inside a function: a run's report, a set's hooks on other
models, the authors' JSON."""

DIALECT = {
    *("cells", "closer", "finder", "gathering", "headline", "hooked", "measure"),
    *("passes", "preparing", "shown", "sources", "steps", "words"),
}
"""Module names that a newcomer would have to learn."""


class Import(NamedTuple):
    """One import statement's module, and where it stands."""

    source: Path
    line: int
    target: str
    level: str  # "module", "function" or "typing"

    def __str__(self) -> str:
        return f"{self.source.relative_to(ROOT)}:{self.line} imports {self.target} ({self.level})"


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room of a dotted module; "" for the package's own face."""
    if f"{module}.".startswith(f"{TRAINING}."):
        return "atlas.training"
    return module.split(".")[1] if "." in module else ""


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def statements(node: ast.AST, level: str = "module") -> Iterator[tuple[ast.stmt, str]]:
    """Import statements, each with the level it runs at."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, level
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(child, "function")
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from statements(child, "typing")
        else:
            yield from statements(child, level)


def targets(statement: ast.stmt) -> list[str]:
    """The modules that an absolute import statement names."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert isinstance(statement, ast.ImportFrom)
    assert statement.module is not None, "relative imports hide the room"
    names = [f"{statement.module}.{alias.name}" for alias in statement.names]
    return [name for name in names if is_module(name)] or [statement.module]


@cache
def imports() -> list[Import]:
    return [
        Import(path, statement.lineno, target, level)
        for path in MODULES
        for statement, level in statements(ast.parse(path.read_text(encoding="utf-8")))
        for target in targets(statement)
    ]


def own_imports() -> Iterator[tuple[Import, str, str]]:
    """Imports from one room to another, with both rooms."""
    for each in imports():
        here, there = room(dotted(each.source)), room(each.target)
        if each.target.split(".")[0] == "culnig_tl" and there and here != there:
            yield each, here, there


@cache
def offered(face: Path) -> set[str]:
    """The names in a folder's ``__all__``; a module among them is meant to be reached."""
    for node in ast.parse(face.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def is_past_face(module: str, there: str) -> bool:
    face = PACKAGE.joinpath(*there.split("."), "__init__.py")
    inner = module.removeprefix(f"culnig_tl.{there}").lstrip(".")
    return bool(inner) and inner not in offered(face)


def test_a_room_is_entered_through_its_face() -> None:
    past = [
        str(each)
        for each, here, there in own_imports()
        if is_past_face(each.target, there) and not here.startswith(f"{there}.")
    ]
    assert past == []


def test_rooms_have_an_order() -> None:
    """Taking away, again and again, the rooms that import nothing that is left leaves none."""
    needs: dict[str, set[str]] = {}
    for each, here, there in own_imports():
        behind_method = each.level == "function" and (here, there) in BEHIND_A_METHOD
        if here and each.level != "typing" and not behind_method:
            needs.setdefault(here, set()).add(there)
            needs.setdefault(there, set())
    while free := {name for name, others in needs.items() if not others}:
        needs = {name: others - free for name, others in needs.items() if name not in free}
    while idle := needs.keys() - set().union(*needs.values()):
        needs = {name: others for name, others in needs.items() if name not in idle}
    assert needs == {}, "these rooms import one another"


def test_what_is_shipped_needs_nothing_that_is_not() -> None:
    needs = [str(each) for each, here, there in own_imports() if there == "atlas.training" != here]
    assert needs == []


def test_figures_know_nothing_of_the_embedded_model() -> None:
    from_atlas = [
        str(each) for each, here, there in own_imports() if (here, there) == ("figures", "atlas")
    ]
    assert from_atlas == []


def holds_something(path: Path) -> bool:
    """Whether a module does more than import, document and list names."""
    return any(
        not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.Assign | ast.AugAssign) and "__all__" in ast.unparse(node))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_holds_something_of_its_own(path: Path) -> None:
    assert path.name == "__init__.py" or holds_something(path), "it only re-exports"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: dotted(folder / "__init__.py"))
def test_a_folder_has_three_modules_or_more(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if holds_something(path)]) >= 3


def test_modules_are_named_in_the_words_of_the_field() -> None:
    assert [dotted(path) for path in MODULES if path.stem.lstrip("_") in DIALECT] == []


def test_dir_shows_the_public_names_and_no_other_module() -> None:
    names = [name for name in dir(ct) if not name.startswith("_")]
    assert names == sorted(name for name in ct.__all__ if not name.startswith("_"))
    modules = {name for name in names if isinstance(getattr(ct, name), ModuleType)}
    assert modules <= {"circuitsvis", "figures", "tables"}, "functions, grouped: ct.figures.<name>"
    assert ct.__version__


def distributions(*, extras: bool) -> set[str]:
    """What pyproject.toml declares for users: all but ``dev``."""
    declared = set()
    for line in requires("culnig-tl") or ():
        if "extra == 'dev'" not in line.replace('"', "'") and (extras or "extra ==" not in line):
            declared.add(re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-"))
    return declared


def third_parties() -> dict[str, list[Import]]:
    """Imports from other distributions, by top-level module, without atlas.training's."""
    by_module: dict[str, list[Import]] = {}
    for each in imports():
        top = each.target.split(".")[0]
        if top in sys.stdlib_module_names or top == "culnig_tl":
            continue
        if room(dotted(each.source)) != "atlas.training":
            by_module.setdefault(top, []).append(each)
    return by_module


distributions_of = cache(packages_distributions)  # it reads the files of every installed package


def providers(module: str) -> set[str]:
    """The distributions that a top-level module may come from."""
    return {name.lower().replace("_", "-") for name in distributions_of()[module]}


def test_what_the_package_imports_it_declares() -> None:
    declared = distributions(extras=True)
    missing = {
        module: [str(each) for each in places]
        for module, places in third_parties().items()
        if not providers(module) & declared
    }
    assert missing == {}


def test_what_is_declared_for_everyone_is_imported() -> None:
    used = set().union(*map(providers, third_parties()))
    unused = distributions(extras=False) - used
    assert unused <= {"circuitsvis"}, "circuitsvis is read as a file"


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").read_bytes() == b""
