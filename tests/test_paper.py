"""The paper as one command, on a tiny random model; the benchmarks' own files are not needed."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_pipeline import FEW_ROWS
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl.benchmarks import paper
from culnig_tl.cli import app
from culnig_tl.cli.paper import _fitting
from culnig_tl.errors import InvalidInputError, MissingFileError, UnknownNameError

pytestmark = FEW_ROWS
TWO = "blend,mrpc"


@pytest.fixture
def asked(rows, monkeypatch) -> list[dict[str, Any]]:
    """Every benchmark is six tiny prompts; what was asked of ``load_benchmark`` is written down."""
    calls: list[dict[str, Any]] = []

    def load(name: str, **options: Any):
        calls.append({"name": name, **options})
        if name == "normad":
            raise MissingFileError("There is no folder normad; check the path.")
        known = [i for i, culture in enumerate(rows["culture"]) if culture != "C"]
        chosen = rows.select(known) if name == "countryrc" else rows
        return (
            chosen.map(lambda row: {**row, "prompt": "Answer:"})
            if name == "blend-control"
            else chosen
        )

    monkeypatch.setattr(paper, "load_benchmark", load)
    return calls


def invoke(*arguments: object) -> tuple[int, str]:
    """Exit code and all that the command printed."""
    texts = ["paper", *map(str, arguments), "--dtype", "float32", "--device", "cpu", "--quiet"]
    result = CliRunner().invoke(app, texts, catch_exceptions=False, env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_rows_come_from_the_folders_and_halves_that_the_paper_takes(asked, tmp_path):
    names = ("blend", "culturalbench", "worldvaluesbench", "countryrc", "commonsenseqa", "qnli")
    data, tests = paper.paper_rows(names, data_dir=tmp_path, limit=5)
    assert list(data) == ["cultural", "control", "recognition"]
    assert tuple(tests) == names
    found = [(call["name"], call["split"], call["data_dir"]) for call in asked]
    assert found == [
        ("blend", "identify", tmp_path / "blend"),
        ("blend-control", "identify", tmp_path / "blend"),
        ("countryrc", "identify", None),  # no such folder: the items of this package
        ("blend", "test", tmp_path / "blend"),
        ("culturalbench", "all", tmp_path / "culturalbench"),
        ("worldvaluesbench", "all", tmp_path / "worldvaluesbench"),
        ("countryrc", "test", None),
        ("commonsenseqa", "test", tmp_path / "commonsenseqa"),
        ("qnli", "test", tmp_path / "glue/QNLI"),
    ]
    assert {call["limit"] for call in asked} == {5}


def test_a_benchmark_that_is_missing_is_named_with_what_to_do(asked):
    with pytest.raises(InvalidInputError, match=r"normad cannot be read: There is.*--benchmarks"):
        paper.paper_rows()
    with pytest.raises(UnknownNameError, match=r"no benchmark squad; it has blend, culturalbench"):
        paper.paper_rows(["squad"])


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(asked, folders, tmp_path):
    out = tmp_path / "run"
    code, shown = invoke("--model", folders[2], "--out", out, "--benchmarks", TWO, "--dry-run")
    assert code == 0, shown
    lines = [line.split() for line in shown.splitlines()]
    # original, then general and ten random sets of each kind under two factors
    assert ["score", "cultural", "5", "6"] in [line[:4] for line in lines]
    passes = {line[1]: line[6] for line in lines if line[:1] == ["answer"]}
    assert passes == {"blend": "43", "mrpc": "43"}
    assert "GB of memory" in shown
    assert "as passes over two small batches took" in shown
    assert "With --random-design split" in shown
    assert not out.exists()


def test_the_command_writes_table_figures_and_report_and_resumes(asked, folders, tmp_path):
    out = tmp_path / "run"
    arguments = ("--model", folders[2], "--out", out, "--benchmarks", TWO, "--n-random", 2)
    code, shown = invoke(*arguments)
    assert code == 0, shown
    table = pd.read_csv(out / "table.csv")
    names = ["general", "random", "layer-matched"]
    expected = ["original", *names, *names]
    assert table["condition"].tolist() == expected * 2
    assert table["factor"].tolist() == [1.0, *[0.0] * 3, *[2.0] * 3] * 2
    assert (out / "table.md").read_text(encoding="utf-8") == ct.to_markdown(table)
    assert r"\begin{tabular}" in (out / "table.tex").read_text(encoding="utf-8")
    assert "layer-matched ×2" in (out / "report.html").read_text(encoding="utf-8")
    assert "layer-matched ×2" in shown
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert invoke(*arguments)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == written


@pytest.mark.parametrize("width", [20, 80, 100, 300])
def test_the_table_comes_in_parts_that_fit_into_the_terminal(width):
    whole = ct.paper_table(ct.published("gemma-3-12b-it"))
    parts = list(_fitting(whole, width))
    assert [name for part in parts for name in part.columns[2:]] == list(whole.columns[2:])
    for part in parts:
        assert list(part.columns[:2]) == ["condition", "neurons"]
        longest = [max(len(name), *part[name].str.len()) + 2 for name in part.columns]
        assert sum(longest) < width or part.shape[1] == 3
    assert len(parts) == {20: 7, 80: 3, 100: 2, 300: 1}[width]


def test_a_known_model_has_the_published_rows_beside_its_own(
    asked, make_llama, folders, tmp_path: Path
):
    folder = make_llama(tmp_path / "Qwen3-14B")
    out = tmp_path / "run"
    code, shown = invoke(
        "--model", folder, "--out", out, "--benchmarks", TWO, "--n-random", 1, "--no-layer-matched"
    )
    assert code == 0, shown
    assert "general (published)" in shown
    assert "35.84 (-30.12)" in (out / "table.md").read_text(encoding="utf-8")


def test_a_missing_benchmark_is_one_sentence(asked, folders, tmp_path):
    code, shown = invoke("--model", folders[2], "--out", tmp_path / "run")
    assert code == 2
    assert "normad cannot be read" in " ".join(shown.split())
    assert "Traceback" not in shown


def test_quiet_hides_the_bars_of_transformers_and_brings_them_back(asked, folders, tmp_path, capfd):
    assert transformers_logging.is_progress_bar_enabled()
    invoke("--model", folders[2], "--out", tmp_path / "run", "--benchmarks", TWO, "--dry-run")
    assert transformers_logging.is_progress_bar_enabled()
    assert "Loading weights" not in capfd.readouterr().err
