"""A run finds the same on one process, on several that were launched together, and on Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from test_long_runs import SCRIPT, TESTS, environment, run_together
from test_pipeline import FILES, SETTINGS, control_of, files, names_of
from typer.testing import CliRunner

from culnig_tl import NeuronSet, OnRay, culnig, load_model
from culnig_tl.attribution.distributed import of_slurm
from culnig_tl.cli import app
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import Condition, measurements
from culnig_tl.hooked_model import HookedModel
from culnig_tl.pipeline import measuring, on_ray
from culnig_tl.pipeline.on_ray import WorkerError
from culnig_tl.pipeline.work import Loop, dealt
from culnig_tl.questions import prepare
from culnig_tl.selection import random_neurons

pytestmark = [
    pytest.mark.filterwarnings("ignore:Rows that test are among"),
    pytest.mark.filterwarnings("ignore:Letter questions are at chance"),
]

RUN = (
    SCRIPT
    + """
from test_pipeline import SETTINGS, control_of, names_of
from culnig_tl import culnig

run = culnig(model, out=sys.argv[2], cultural=rows, control=control_of(rows),
             recognition=names_of(rows), benchmarks={"tiny": rows, "half": rows.select(range(3))},
             progress=False, **SETTINGS)
run.table.to_csv(f"{sys.argv[2]}-{os.environ.get('RANK') or os.environ['SLURM_PROCID']}.csv")
"""
)
REFUSED = """
from typer.testing import CliRunner
from culnig_tl.cli import app

out = f"{sys.argv[2]}-refused"
commands = {
    "demo": ["--out", out],
    "select": ["--cultural", "scores.safetensors", "--out", out],
    "evaluate": ["atlas", "atlas:test", "--out", out],
}
for command, arguments in commands.items():
    result = CliRunner().invoke(app, [command, *arguments])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "Each of 2 processes would do this and write the same files" in said, said
assert not os.path.exists(out)
"""


def same_run(folder: Path, other: Path) -> None:
    """Tables to the byte, sets and answers to the last bit; sums of scores were added in another
    order."""
    assert files(folder) == files(other)
    for name in (name for name in FILES if name.endswith(".csv")):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    for name in (name for name in FILES if name.startswith("neurons/")):
        one, two = (NeuronSet.load(each / name) for each in (folder, other))
        pd.testing.assert_frame_equal(one.to_frame(), two.to_frame(), rtol=1e-12)
    for name in (name for name in FILES if name.endswith(".parquet")):
        one, two = (pd.read_parquet(each / name) for each in (folder, other))
        pd.testing.assert_frame_equal(one, two)


@pytest.fixture(scope="module")
def alone(folders, rows, tmp_path_factory) -> Path:
    """The run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run_by(None, folders[2], rows, out)
    return out


def run_by(engine, folder, rows, out, **options):
    model = load_model(folder, backend="hooked", dtype="float64", device="cpu")
    return culnig(
        model,
        out=out,
        cultural=rows,
        control=control_of(rows),
        recognition=names_of(rows),
        benchmarks={"tiny": rows, "half": rows.select(range(3))},
        progress=False,
        engine=engine,
        **{**SETTINGS, **options},
    )


def test_processes_launched_together_make_one_run(alone, folders, tmp_path):
    """And refuse what they do not share."""
    script = tmp_path / "script.py"
    script.write_text(RUN + REFUSED)
    done = run_together(2, script, folders[2], tmp_path / "run", TESTS)
    assert done.returncode == 0, done.stderr
    same_run(tmp_path / "run", alone)
    assert (tmp_path / "run-0.csv").read_bytes() == (tmp_path / "run-1.csv").read_bytes()


def test_tasks_of_srun_make_one_run(alone, folders, tmp_path):
    """Its variables set by hand: each task meets the others at the first host."""
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, folders[2], tmp_path / "run", TESTS],
            env=environment()
            | {
                "SLURM_JOB_ID": str(4000 + os.getpid()),
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": str(task),
                "SLURM_LOCALID": str(task),
                "SLURM_STEP_NODELIST": "localhost",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    for task in tasks:
        _, said = task.communicate(timeout=600)
        assert task.returncode == 0, said
    same_run(tmp_path / "run", alone)


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ({"SLURM_STEP_NODELIST": "gpu[03-04,9]"}, "gpu03"),
        ({"SLURM_STEP_NODELIST": "a1,b[2-3]"}, "a1"),
        ({"SLURM_JOB_NODELIST": "node-7.site"}, "node-7.site"),
        ({"SLURM_JOB_NODELIST": "x", "MASTER_ADDR": "y"}, "y"),
    ],
)
def test_the_first_host_of_slurm_is_read(given, host):
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_ID": "12345", **given}
    variables = of_slurm(task)
    assert variables["MASTER_ADDR"] == host
    assert variables["MASTER_PORT"] == "22345"
    assert (variables["RANK"], variables["WORLD_SIZE"]) == ("1", "2")


def test_a_step_of_one_task_and_a_batch_script_are_alone():
    assert of_slurm({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}) == {}
    assert of_slurm({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == {}
    with pytest.raises(InvalidInputError, match="set MASTER_ADDR"):
        of_slurm({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"})


ATLAS = (
    *("atlas", "--cultural", "{rows}", "--control", "{rows}", "--recognition", "{rows}"),
    *("--benchmark", "culture={rows}", "--n-random", "6", "--cards", "2", "--quiet"),
)


@pytest.fixture(scope="module")
def questions_file(tmp_path_factory) -> Path:
    import culnig_tl as ct

    path = tmp_path_factory.mktemp("rows") / "rows.json"
    ct.load_benchmark("atlas", split="test", limit=60).to_json(path, lines=False)
    return path


def command(questions: Path, out: Path, *options: str) -> list[str]:
    arguments = [each.format(rows=questions) for each in ATLAS]
    return ["run", *arguments, "--out", str(out), *options]


def started(questions: Path, out: Path) -> subprocess.Popen[str]:
    """The command in two processes."""
    return subprocess.Popen(
        [sys.executable, "-m", "culnig_tl", *command(questions, out, "--processes", "2")],
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.filterwarnings("ignore:The control scores higher")
def test_a_killed_process_ends_the_launch_with_a_sentence_and_it_goes_on(questions_file, tmp_path):
    done = CliRunner().invoke(app, command(questions_file, tmp_path / "alone"))
    assert done.exit_code == 0, done.output
    launch = started(questions_file, tmp_path / "run")
    kept = wait_for(tmp_path / "run", "answers/*/*.parquet")
    ranks = [
        process
        for process in psutil.Process(launch.pid).children(recursive=True)
        if process.environ().get("RANK") == "1"
    ]
    ranks[0].send_signal(signal.SIGKILL)
    _, said = launch.communicate(timeout=600)
    assert launch.returncode == 2
    assert "process 1 of 2 ended with SIGKILL" in said
    assert "the same command goes on from there" in said
    times = {path: path.stat().st_mtime_ns for path in kept}
    again = started(questions_file, tmp_path / "run")
    _, said = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in kept} == times  # they were not made again
    for name in ("table.csv", "doses.csv", "culture_effects.csv", "neurons/general.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def wait_for(folder: Path, pattern: str, seconds: float = 600) -> list[Path]:
    """Files that are there as soon as one is."""
    end = time.monotonic() + seconds
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--processes", "some"), "give a whole number from 1 up, or auto"),
        (("--address", "auto"), "add --engine ray"),
        (("--engine", "ray", "--address", "127.0.0.1:1"), "There is no Ray cluster"),
    ],
)
def test_options_that_make_no_engine_are_a_sentence(questions_file, tmp_path, options, said):
    done = CliRunner().invoke(app, command(questions_file, tmp_path / "run", *options))
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "run").exists()


ray = pytest.importorskip("ray", reason="Ray has no version for this Python")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[str]:
    """Two machines imitated: raylets with folders of their own."""
    from ray.cluster_utils import Cluster

    nodes = [{"num_cpus": 1, "include_dashboard": False} for _ in range(2)]
    several = Cluster(initialize_head=True, head_node_args=nodes[0] | {"num_cpus": 1})
    several.add_node(**nodes[1])
    yield str(several.address)
    several.shutdown()


def loader(folder: Path):
    return partial(load_model, folder, backend="hooked", dtype="float64", device="cpu")


def test_workers_of_two_machines_make_one_run_although_one_of_them_dies(
    cluster, alone, folders, rows, tmp_path
):
    """Another takes its place and does its piece again."""

    class Killing(OnRay):
        """Ends one of its workers as soon as a file of answers is there."""

        def _result(self, ready):
            if not killed and list((tmp_path / "run").glob("answers/*/*.parquet")):
                pid = self._ray.get(self._workers[0].make.remote(process_id))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            return super()._result(ready)

    killed: list[int] = []
    engine = Killing(loader(folders[2]), address=cluster)
    run_by(engine, folders[2], rows, tmp_path / "run")
    assert engine.n_workers == 2  # one for each machine
    assert len(killed) == 1
    same_run(tmp_path / "run", alone)
    assert not ray.is_initialized()


def process_id(_setup) -> int:
    return os.getpid()


def test_a_piece_that_ends_every_worker_is_named(cluster, folders, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_answer", end_the_process)
    monkeypatch.setattr(on_ray, "_ATTEMPTS", 2)
    engine = OnRay(loader(folders[2]), address=cluster, workers=1)
    with pytest.raises(WorkerError, match="A piece of answers ended its worker 2 times"):
        run_by(engine, folders[2], rows, tmp_path / "run")


def end_the_process(_setup, *, piece, test) -> None:
    os._exit(1)


def end_as_it_loads() -> HookedModel:
    os._exit(1)


def test_a_worker_that_dies_as_it_loads_is_a_sentence(cluster, folders, rows, tmp_path):
    engine = OnRay(end_as_it_loads, address=cluster, workers=1)
    with pytest.raises(WorkerError, match="A worker died while it loaded the model"):
        run_by(engine, folders[2], rows, tmp_path / "run")


def test_an_error_of_a_piece_is_the_error_of_the_run(cluster, folders, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_answer", refuse)
    engine = OnRay(loader(folders[2]), address=cluster, workers=1)
    with pytest.raises(InvalidInputError, match="not today"):
        run_by(engine, folders[2], rows, tmp_path / "run")


def refuse(_setup, *, piece, test) -> None:
    raise InvalidInputError("not today")


def test_a_worker_with_another_model_is_refused(cluster, folders, rows, tmp_path):
    engine = OnRay(loader(folders[4]), address=cluster, workers=1)
    with pytest.raises(InvalidInputError, match="A worker loaded a model with fingerprint"):
        run_by(engine, folders[2], rows, tmp_path / "run")


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"gpus_per_worker": 0}])
def test_numbers_of_workers_are_checked(folders, numbers):
    with pytest.raises(InvalidInputError, match="whole number from 1"):
        OnRay(loader(folders[2]), **numbers)


def test_the_longest_pieces_are_dealt_first():
    costs = np.random.default_rng(0).integers(1, 100, size=50).tolist()
    hands = dealt(costs, 4)
    assert sorted(number for hand in hands for number in hand) == list(range(50))
    loads = [sum(costs[number] for number in hand) for hand in hands]
    assert max(loads) <= sum(costs) / 4 + max(costs)
    assert all(
        [costs[n] for n in hand] == sorted((costs[n] for n in hand), reverse=True) for hand in hands
    )


def test_slices_of_a_large_benchmark_give_the_same_answers(
    alone, folders, rows, tmp_path, monkeypatch
):
    longest = max(map(len, prepare(load_model(folders[2]), rows).prompts))
    monkeypatch.setattr(measuring, "SLICE", 2 * longest)
    run = run_by(Loop(), folders[2], rows, tmp_path / "run")
    assert (tmp_path / "run" / "answers" / "tiny" / "original-0.0.parquet").is_file()
    again = run_by(Loop(), folders[2], rows, tmp_path / "run")
    monkeypatch.undo()
    whole = run_by(Loop(), folders[2], rows, alone)
    columns = ["benchmark", "id", "culture", "condition", "draw", "prediction", "answer", "rank"]
    for each in (run, again):
        pd.testing.assert_frame_equal(each.answers[columns], whole.answers[columns])
        close = np.abs(each.answers["probability"] - whole.answers["probability"])
        assert close.max() < 1e-12


def test_sets_that_share_the_questions_answer_each_once(folders, rows, tmp_path):
    """Every prompt of a question of a culture goes to the same set, and every culture is shared
    out; a small benchmark is answered in full."""
    run = run_by(None, folders[2], rows, tmp_path / "run", random_design="split")
    answered = run.answers[run.answers["condition"] == "random"]
    tiny = answered[answered["benchmark"] == "tiny"]
    assert len(tiny) == len(rows)
    assert (
        len(tiny[["id", "culture", "draw"]].drop_duplicates())
        == tiny.groupby(["id", "culture"]).ngroups
    )
    assert len(answered[answered["benchmark"] == "half"]) == 2 * 3
    assert run.settings["random_design"] == "split"
    assert "random_design" in run.report().read_text()


def test_shares_are_even_in_every_culture():
    import culnig_tl as ct

    model = ct.load_model()
    prepared = ct.prepare(model, ct.load_benchmark("atlas", split="test", per_culture=10))
    like = ct.NeuronSet.of(["L1.mlp.hook_post.3", "L2.mlp.hook_post.4"])
    sets = tuple(random_neurons(model, like=like, seed=seed) for seed in range(3))
    pieces = measurements({"a": prepared}, [Condition("random", sets, 0.0)], design="split")
    assert sorted(row for piece in pieces for row in piece.rows or ()) == list(range(len(prepared)))
    for culture in prepared.cultures:
        shares = [
            len(
                {
                    row["id"]
                    for row in piece.of(prepared).rows.to_list()
                    if row["culture"] == culture
                }
            )
            for piece in pieces
        ]
        assert max(shares) - min(shares) <= 1
