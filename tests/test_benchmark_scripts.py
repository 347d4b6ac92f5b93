"""The benchmarks run; models this small say nothing about their figures."""

import argparse
import importlib
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmark_files import write_commonsenseqa, write_culturalbench, write_normad
from typer.testing import CliRunner

from culnig_tl.cli import app

SCRIPTS = Path(__file__).parent / "benchmarks"
ENGINES = [(), ("--processes", "2"), ("--engine", "ray", "--processes", "2")]


def rows_of(text: str) -> list[list[str]]:
    """Cells of all tables."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def first(cell: str) -> float:
    """The median in a cell."""
    return float(cell.split()[0])


@pytest.fixture
def attribution(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("attribution")


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("newcomer")


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda script: script.stem)
def test_a_script_says_how_it_is_run_and_finds_what_it_imports(script, monkeypatch, capsys):
    """The long studies are not run here; a name of the package that they lost is noticed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module(script.stem)
    if script.stem == "results":
        return
    said = module.__doc__ or ""
    assert f"python tests/benchmarks/{script.name}" in said
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert said.split()[:4] == capsys.readouterr().out.partition("\n\n")[2].split()[:4]


def test_real_vocabularies_are_measured_on_both_backends_and_types(run_benchmark):
    rows = rows_of(run_benchmark("vocabulary.py", "--tiny", "--repeats", 1))
    cases = [cells for cells in rows if cells[0] == "500"]
    assert [(dtype, backend) for _, dtype, _, backend, *_ in cases] == [
        (dtype, backend) for dtype in ("float32", "bfloat16") for backend in ("hooked", "bridge")
    ]
    for cells in cases:
        assert all(first(cell) > 0 for cell in cells[4:])


def test_attribution_reports_every_goal_with_what_was_measured(run_benchmark, tmp_path: Path):
    out = tmp_path / "RESULTS.md"
    out.write_text("# Cost of attribution\n\nold\n\n# Another\n\nkept\n")

    printed = run_benchmark("attribution.py", "--tiny", "--repeats", 1, "--out", out)

    sections = re.split(r"^(?=# )", out.read_text(), flags=re.MULTILINE)[1:]
    assert sections[0].strip() == printed.strip()
    assert sections[1] == "# Another\n\nkept\n"
    rows = [cells for cells in rows_of(printed) if cells[-1] in ("yes", "**no**")]
    assert [goal for _, goal, _, _ in rows] == ["1.10", "1.30", "1.05", "0.60", "1.03"]
    for _, goal, measured, met in rows:
        assert first(measured) > 0
        assert (met == "yes") == (first(measured) <= float(goal)) or (
            measured.split()[0] == goal  # rounded
        )
    of_floor, of_attribution = (
        cells for cells in rows_of(printed) if len(cells) == 7 and "(" in cells[1]
    )
    assert of_floor[0] == "floor"
    for cells in (of_floor, of_attribution):
        assert all(first(cell) > 0 for cell in cells[1:4])


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_matrix_work_is_that_of_the_formula(attribution: ModuleType, backend: str):
    """Two operations for every weight of a matrix and token, and the two products of attention;
    backward as many for the gradient of what a matrix reads, of weights none, and twice as many
    for a product of attention, which reads two things."""
    shape = attribution.SHAPES["tiny"]
    model = attribution.random_model(shape, backend, "cpu", torch.float32)
    (batch,) = attribution.random_batches(4, 4, (10, 10), shape["vocab_size"], "cpu")
    d_model, n_layers, n_tokens = shape["hidden_size"], shape["num_hidden_layers"], 40
    qkv = 2 * n_tokens * d_model * 2 * d_model  # k and v are half as wide as q
    output = 2 * n_tokens * d_model * d_model
    mlp = 2 * n_tokens * d_model * 3 * shape["intermediate_size"]
    products = 2 * 2 * n_tokens * 10 * d_model
    unembed = 2 * 4 * d_model * shape["vocab_size"]
    forward = n_layers * (qkv + output + mlp + products) + unembed
    backward = forward + n_layers * products

    def counted(run_benchmark, **options):
        return attribution.matrix_work(partial(run_benchmark, model, [batch], **options))

    assert counted(attribution.forward) == forward
    assert counted(attribution.floor) == forward + backward
    # the graph begins behind the first queries, keys and values
    assert counted(attribution.attribute, progress=False) == forward + backward - qkv


def test_on_a_gpu_seconds_and_memory_are_those_of_torch(
    attribution: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """torch.cuda is stood in for: no GPU is needed, and none was used."""
    calls = []
    stand_ins = {
        "synchronize": lambda: calls.append("wait"),
        "reset_peak_memory_stats": lambda: calls.append("reset"),
        "memory_allocated": lambda: 3 * 2**20,
        "max_memory_allocated": lambda: 10 * 2**20,
        "get_device_name": lambda: "a GPU",
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    model = attribution.random_model(attribution.SHAPES["tiny"], "hooked", "cpu", torch.bfloat16)
    model.cfg.device = "cuda"

    (costs,) = attribution.alternate(model, [lambda: calls.append("run")], 2)

    assert calls == ["run"] + ["reset", "wait", "run", "wait"] * 2
    assert [cost.peak for cost in costs] == [7, 7]
    assert all(cost.seconds > 0 for cost in costs)
    assert attribution.processor("cuda:0") == "a GPU"
    arguments = argparse.Namespace(device="cuda:0", backend="bridge")
    assert attribution.title(arguments) == "# Cost of attribution on a GPU, bridge"


@pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")
def test_bfloat16_reports_errors_ranks_and_selections(run_benchmark, tmp_path: Path):
    out = tmp_path / "RESULTS.md"

    printed = run_benchmark("bfloat16.py", "--seeds", 1, "--prompts", 6, "--steps", 2, "--out", out)

    assert out.read_text().strip() == printed.strip()
    rows = rows_of(printed)
    sites = [cells for cells in rows if "hook_" in cells[2]]
    assert len(sites) == 2 * 2 * 4
    for *_, error, rank in sites:
        assert 0 < first(error) < 0.2  # 8 bits of 1/256 each, some dozen products long
        assert first(rank) > 0.9
    selected = [cells for cells in rows if cells[2] in ("paper's shares", "5 x")]
    assert len(selected) == 2 * 2 * 2
    assert all(first(number) > 0 and first(jaccard) > 0.5 for *_, number, jaccard in selected)


def test_engines_are_timed_and_make_the_same_table(run_benchmark, monkeypatch) -> None:
    """The first run takes place, in this process; the engines' own are those of test_engines."""
    commands: list[list[str]] = []

    def in_this_process(command: list[str]) -> float:
        commands.append(command)
        if len(commands) == 1:
            done = CliRunner().invoke(app, command[3:])
            assert done.exit_code == 0, done.output
        first, out = (Path(each[each.index("--out") + 1]) for each in (commands[0], command))
        table = (first / "table.csv").read_text() + "another row" * (len(commands) == 3)
        out.mkdir(exist_ok=True)
        (out / "table.csv").write_text(table)
        return 60.0 / len(commands)

    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(importlib.import_module("engines"), "seconds", in_this_process)
    rows = rows_of(run_benchmark("engines.py", "--tiny", "--repeats", 1))[2:]
    for command, options in zip(commands, ENGINES, strict=True):
        assert command[1:4] == ["-m", "culnig_tl", "run"]
        assert tuple(command[len(commands[0]) :]) == options
    assert [row[0] for row in rows] == ["one process", "--processes 2", "--engine ray"]
    assert [first(row[1]) for row in rows] == [60, 30, 20]
    assert [first(row[2]) for row in rows] == [1, 2, 3]
    assert [row[-1] for row in rows] == ["yes", "yes", "**no**"]


def test_knowledge_and_norms_are_held_against_each_other(run_benchmark, tmp_path: Path) -> None:
    for name, write in {
        "culturalbench": write_culturalbench,
        "normad": write_normad,
        "commonsenseqa": write_commonsenseqa,
    }.items():
        write(tmp_path / name)
    options = ("--data", tmp_path, "--model", "atlas", "--folder", tmp_path / "kept")
    rows = rows_of(run_benchmark("improve.py", "norms", *options))
    (overlap,) = [row for row in rows if row[0] == "culturalbench, normad"]
    assert 0 <= first(overlap[3]) <= 1
    effects = [tuple(row[:2]) for row in rows if row[0] in ("culturalbench", "normad")]
    tested = ("culturalbench", "normad", "commonsenseqa")
    assert effects[:6] == [(one, other) for one in tested[:2] for other in tested]
    accuracy = {row[0]: row for row in rows if row[0] in tested and len(row) == 3}
    assert set(accuracy) == set(tested)
    assert all(0 <= first(row[1]) <= 100 for row in accuracy.values())
    assert [accuracy[name][2] for name in tested] == ["25", "33", "20"]


def test_what_the_explorer_does_is_timed(run_benchmark) -> None:
    rows = rows_of(run_benchmark("explorer.py", "--model", "atlas", "--repeats", 1))
    assert len(rows) == 2 + 8
    assert all(first(row[1]) > 0 for row in rows[2:])
    judged = [row[0].split(",")[0] for row in rows[2:] if row[-1].split(": ")[0] in ("1", "0.3")]
    assert judged == ["click"] * 3 + ["slider"] * 2


def test_a_newcomer_reads_readme_up_to_its_first_command(newcomer: ModuleType) -> None:
    text = "# A [name](there)\n\n![picture](of.png)\n\nTwo words.\n\n```sh\nmake it # so\n```\nmore"
    assert newcomer.what_readme_says(text) == (2 + 2 + 3, "make it")
    readme = (SCRIPTS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert newcomer.what_readme_says(readme)[1] == "make quickstart"


def test_the_whole_table_on_paper_follows_its_formula(run_benchmark) -> None:
    """A 12B model on one GPU, worked out by hand."""
    rows = {tuple(row[:5:4]): row for row in rows_of(run_benchmark("scale.py"))}
    seconds = (43 * 7.7e6 + 3 * 5e6) / (989e12 * 0.35 / (2 * 12.2e9))
    assert rows["12B", "full"][5] == f"{seconds / 3600:.1f} h"
    assert rows["70B", "full"][1] == "4"
    assert rows["70B", "full"][5] == "does not fit"
