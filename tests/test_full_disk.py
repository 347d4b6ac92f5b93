"""A disk that is full at any moment ends in a sentence, and the run goes on where it was.

The disk is full for files above a size: the operating system refuses longer ones. Ten sizes, one
after the other in the same folder, so that each run goes on from what the last one left.
"""

import json
import os
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path

import pytest
from test_pipeline import FEW_ROWS, run_on

import culnig_tl as ct
from culnig_tl.attribution import attribute
from culnig_tl.attribution.methods import METHODS, scored_gradients
from culnig_tl.errors import UnwritableError

pytestmark = FEW_ROWS

SIZES = [0, 20, 500, 2_500, 8_000, 20_000, 100_000, 130_000, 300_000, 1_000_000]
DRIVER = """
import json, os, resource, sys
from culnig_tl.cli import app

arguments, sizes = json.loads(sys.argv[1]), json.loads(sys.argv[2])
results = []

def start(out, size):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))
        try:
            app([*arguments, "--out", out], prog_name="culnig-tl")
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code or 0)
        os._exit(99)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said

results = [start(sys.argv[4], None), *(start(sys.argv[3], size) for size in [*sizes, None])]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def filled(loaded, rows, tmp_path_factory) -> tuple[Path, int]:
    """A run that nothing stopped, and how many times it wrote a file."""
    n_written, replace = [], os.replace

    def counted(source, target):
        n_written.append(target)
        replace(source, target)

    folder = tmp_path_factory.mktemp("filled") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", counted)
        run_on(loaded(), rows, folder, n_cards=1)
    return folder, len(n_written)


def starts(arguments: list[str], sizes: list[int], folder: Path) -> list[tuple[int, str]]:
    """Exit code and all that was printed: without a limit, at every size, and without again."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", DRIVER, json.dumps(arguments), json.dumps(sizes)),
            *(folder / "stopped", folder / "whole"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        capture_output=True,
        check=False,
        timeout=600,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(results: list[tuple[int, str]]) -> set[str]:
    """Every start but the first and the last ends in a sentence; the files that they name."""
    assert [results[0][0], results[-1][0]] == [0, 0]
    named = set()
    for code, said in results[1:-1]:
        assert "Traceback" not in said
        if code:
            *_, line = said.strip().splitlines()
            assert code == 2
            assert line.startswith("Error: ")
            assert "File too large" in line
            named.add(line.split(" cannot be")[0])
    return named


def content(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file() and file.name != "report.html"
    }


def test_a_run_on_a_full_disk_ends_in_a_sentence_and_goes_on(tmp_path: Path) -> None:
    arguments = ["run", "atlas", "--n-random", "1", "--cards", "1"]
    benchmarks = {"cultural": "atlas", "control": "atlas-control", "recognition": "atlas-countries"}
    for role, name in benchmarks.items():
        path = tmp_path / f"{role}.jsonl"
        ct.load_benchmark(name, split="identify", limit=8).to_json(path)
        arguments += [f"--{role}", str(path)]
    path = tmp_path / "test.jsonl"
    ct.load_benchmark("atlas", split="test", limit=8).to_json(path)
    arguments += ["--benchmark", f"mine={path}", "--quiet"]
    results = starts(arguments, SIZES, tmp_path)
    named = check(results)
    assert len(named) >= 4, named
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_scores_on_a_full_disk_end_in_a_sentence_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ct.load_benchmark("atlas", split="identify", limit=8).to_json(path)
    arguments = ["score", "atlas", str(path), "--quiet", "--force"]
    assert len(check(starts(arguments, [0, 20_000, 130_000], tmp_path))) >= 2
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"rows.jsonl", "stopped", "whole"}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_disk_that_fills_up_as_a_run_goes_on_is_a_sentence(
    model, rows, filled, tmp_path, monkeypatch, share
):
    """What was written fits, the next file does not: at every stage there is one."""
    whole, n_files = filled
    n_written, replace = [], os.replace

    def filling(source, target):
        n_written.append(target)
        if len(n_written) > share * n_files:
            raise OSError(ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", filling)
        with pytest.raises(UnwritableError, match=r"cannot be written \(No space left"):
            run_on(model, rows, tmp_path / "run", n_cards=1)
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob(".lock"))
    run_on(model, rows, tmp_path / "run", n_cards=1)
    assert content(tmp_path / "run") == content(whole)


def test_a_disk_without_room_for_a_checkpoint_is_found_out_in_the_first_batch(
    model, rows, tmp_path, monkeypatch
):
    """Not after ten minutes, and not when everything is scored."""
    scored = []

    def seen(model, batch, *choices):
        scored.append(batch)
        return scored_gradients(model, batch, *choices)

    def full(source, target):
        raise OSError(ENOSPC, "No space left on device")

    options = {"token_budget": 20, "checkpoint": tmp_path / "c", "out": tmp_path / "s"}
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "gradient_x_activation", seen)
        patch.setattr(os, "replace", full)
        with pytest.raises(UnwritableError, match=r"c cannot be written \(No space left"):
            attribute(model, rows, **options, progress=False)
    assert len(scored) == 1
    assert list(tmp_path.iterdir()) == []
    resumed = attribute(model, rows, **options, progress=False)
    whole = attribute(model, rows, token_budget=20, progress=False)
    assert all(resumed.values[site].equal(whole.values[site]) for site in whole.sites)
