"""Two processes in one folder: one of them runs, the other gets a sentence, nothing is mixed."""

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from test_pipeline import FEW_ROWS, run_on
from typer.testing import CliRunner

from culnig_tl.attribution import attribute
from culnig_tl.cli import app
from culnig_tl.errors import InvalidInputError
from culnig_tl.files import locked

pytestmark = FEW_ROWS
TESTS = Path(__file__).parent

DRIVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from conftest import LABELS, ROWS
from test_pipeline import run_on
from culnig_tl import load_model, questions

model = load_model(sys.argv[2], backend="hooked", dtype="float64", device="cpu")
rows = questions([{**row, "options": LABELS} for row in ROWS])
results = []
for number, pair in enumerate(json.loads(sys.argv[4])):
    gate, opened = os.pipe()
    processes = []
    for changes in pair:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(opened)
            os.read(gate, 1)  # until all are ready
            try:
                run_on(model, rows, f"{sys.argv[3]}/{number}", **changes)
                said = ""
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            os.write(write, said.encode())
            os._exit(0)
        os.close(write)
        processes.append((pid, read))
    os.close(gate)
    os.close(opened)
    said = []
    for pid, read in processes:
        with os.fdopen(read) as pipe:
            said.append(pipe.read())
        os.waitpid(pid, 0)
    results.append(said)
print(json.dumps(results))
"""
PAIRS = [
    [{"factor": 0.0}, {"factor": 2.0}],
    [{"factor": 2.0}, {"factor": 0.0}],
    [{"n_random": 1}, {"mode": "options"}],
    [{}, {}],
    [{"n_cards": 1}, {}],
    [{"factor": 0.0}, {"factor": 1.5}, {"factor": 2.0}],
]
REFUSED = ("is being written by", "holds a run with other settings")


@pytest.fixture
def run_in(model, rows):
    """``run_in(folder, **changes)``: the whole method on the tiny model."""
    return partial(run_on, model, rows)


def test_simultaneous_runs_never_mix(run_in, folders, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, TESTS, folders[2], tmp_path / "runs", json.dumps(PAIRS)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        timeout=600,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    for number, (pair, said) in enumerate(zip(PAIRS, results, strict=True)):
        refusals = [sentence for sentence in said if sentence]
        assert len(refusals) < len(pair)
        for sentence in refusals:
            assert sentence.startswith("InvalidInputError: ")
            assert any(reason in sentence for reason in REFUSED), sentence
        winner = pair[said.index("")]
        folder = tmp_path / "runs" / str(number)
        assert not list(folder.rglob("*.lock"))
        together, alone = run_in(folder, **winner), run_in(tmp_path / "alone", **winner)
        pd.testing.assert_frame_equal(together.answers, alone.answers)
        pd.testing.assert_frame_equal(together.table, alone.table)
        (tmp_path / "alone").rename(tmp_path / f"alone-{number}")
    assert sum(1 for said in results for sentence in said if sentence) >= 4


def test_the_refusal_names_process_host_and_age(run_in, tmp_path):
    tmp_path.joinpath("run").mkdir()
    with locked(tmp_path / "run"):
        expected = (
            f"run is being written by process {os.getpid()} on {socket.gethostname()}, for 0 "
            "minutes now; wait for it, give another path"
        )
        with pytest.raises(InvalidInputError, match=expected):
            run_in(tmp_path / "run")
    assert len(run_in(tmp_path / "run").general) > 0


def test_a_lock_of_another_host_is_not_broken_and_says_how_old_it_is(run_in, tmp_path):
    lock = tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    lock.write_text("4711\nanother-host\n")
    os.utime(lock, (lock.stat().st_mtime - 7200,) * 2)
    with pytest.raises(InvalidInputError, match="process 4711 on another-host, for 120 minutes"):
        run_in(tmp_path / "run")
    assert lock.is_file()
    lock.unlink()
    assert len(run_in(tmp_path / "run").general) > 0


def test_the_lock_of_a_process_that_is_gone_is_taken_over(run_in, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    lock.write_text(f"{gone.pid}\n{socket.gethostname()}\n")
    assert len(run_in(tmp_path / "run").general) > 0
    assert not lock.exists()


def test_a_checkpoint_has_one_process(model, rows, tmp_path):
    path = tmp_path / "scores.checkpoint"
    with (
        locked(path),
        pytest.raises(InvalidInputError, match=r"scores\.checkpoint is being written"),
    ):
        attribute(model, rows, checkpoint=path, progress=False)
    assert list(tmp_path.iterdir()) == []
    attribute(model, rows, checkpoint=path, progress=False)


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_the_file_of_a_command_has_one_process(tmp_path, command):
    """Found out before the model is loaded: there is none of this name."""
    out = tmp_path / "out"
    arguments = [command, "./no-model", "atlas:test", "--out", str(out), "--quiet"]
    with locked(out):
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert f"out is being written by process {os.getpid()}" in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []
