"""A command that is killed at any moment, and started again until it ends, leaves the same bits.

The commands are forks of one process that has imported the package, so that a start costs no more
than what the command does. ``CULNIG_TL_KILLS=20`` kills twenty times instead of six.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import culnig_tl as ct

N_KILLS = int(os.environ.get("CULNIG_TL_KILLS", "6"))
DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
from culnig_tl.cli import app

folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
arguments = [*json.loads(sys.argv[3]), "--out"]
numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
moments, killed, log = random.Random(14), [], open(folder / "log", "w")

def start(out):
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    try:
        app([*arguments, str(out)], prog_name="culnig-tl")
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)
    except KeyboardInterrupt:  # before or after the command itself
        os._exit(130)
    os._exit(99)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

begun = time.monotonic()
assert ended(start(folder / "whole")) == 0
seconds = time.monotonic() - begun
while len(killed) < n_kills:
    out = folder / f"run-{len(killed)}"
    for kill in (True, True, False):  # what is left after two kills is too little for a third
        pid, number = start(out), numbers[len(killed) % 3]
        if kill:
            time.sleep(moments.uniform(0, seconds))
            os.kill(pid, number)  # nobody waited for it yet: the number is its own, dead or alive
        code = ended(pid)
        if code == 0:
            break
        assert kill, "it ends by itself: see the log"
        killed.append([number, code, sorted(str(p.relative_to(out)) for p in out.rglob("*.*"))])
(folder / "killed.json").write_text(json.dumps(killed))
"""
CODES = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {143, -signal.SIGTERM},  # before the command has begun, as any process
    signal.SIGINT: {130},
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that nothing stopped, ``whole``, and killed ones, ``run-*``."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = ["run", "atlas", "--n-random", "1", "--cards", "1", "--token-budget", "200"]
    benchmarks = {"cultural": "atlas", "control": "atlas-control", "recognition": "atlas-countries"}
    for role, name in benchmarks.items():
        path = folder / f"{role}.jsonl"
        ct.load_benchmark(name, split="identify", limit=24).to_json(path)
        arguments += [f"--{role}", str(path)]
    for name in ("atlas", "atlas-commonsense"):
        path = folder / f"{name}.jsonl"
        ct.load_benchmark(name, split="test", limit=8).to_json(path)
        arguments += ["--benchmark", f"{name}={path}"]
    arguments += ["--device", "cpu", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, folder, str(N_KILLS), json.dumps(arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=False,
        timeout=600,
        text=True,
    )
    assert done.returncode == 0, done.stderr + (folder / "log").read_text(encoding="utf-8")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.html"
    }


def test_killed_runs_end_bit_by_bit_like_one_that_was_not(killed: Path) -> None:
    whole = content(killed / "whole")
    assert {name.split("/")[0] for name in whole} == {
        *("settings.json", "scores", "neurons", "breakers.json", "answers", "cards"),
        *("answers_of_cultures", "table.csv", "culture_effects.csv", "doses.csv"),
    }
    runs = list(killed.glob("run-*"))
    assert len(runs) > 0
    for run in runs:
        assert content(run) == whole


def test_each_signal_ends_a_command_as_it_should(killed: Path) -> None:
    ends = json.loads((killed / "killed.json").read_text(encoding="utf-8"))
    assert len(ends) >= N_KILLS
    for number, code, _ in ends:
        assert code in CODES[signal.Signals(number)]
    log = (killed / "log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "Error" not in log
