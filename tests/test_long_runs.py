"""A long run resumes to the same bits, survives a lack of memory, and is shared by processes."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import max_error
from typer.testing import CliRunner

from culnig_tl.attribution import (
    attribute,
    attribute_questions,
    gradient_x_activation,
    integrated_gradients,
)
from culnig_tl.attribution.methods import METHODS, scored_gradients
from culnig_tl.cli import app
from culnig_tl.errors import InvalidInputError, UnwritableError
from culnig_tl.models import load_model
from culnig_tl.questions import Batch, batches
from culnig_tl.scores import NeuronScores, ScoreAccumulator

FEW_STEPS = pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")
EXACT = 1e-12
BUDGET = 20  # tokens: six prompts in four batches
TESTS = Path(__file__).parent

SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from conftest import LABELS, ROWS
from culnig_tl import attribute, load_model, questions
from culnig_tl.scores import ScoreAccumulator

rows = questions([{**row, "options": LABELS} for row in ROWS])
model = load_model(sys.argv[1], backend="hooked", dtype="float64", device="cpu")
"""
KILLED = (
    SCRIPT
    + """
updates, update = [], ScoreAccumulator.update
def killed(self, *args, **options):
    if len(updates) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    updates.append(1)
    update(self, *args, **options)
ScoreAccumulator.update = killed
attribute(model, rows, token_budget=20, checkpoint=sys.argv[2], checkpoint_minutes=0.0)
"""
)
SHARED = (
    SCRIPT
    + """
rank = os.environ["RANK"]
kept = sys.argv[2] + "/kept"
scores = attribute(model, rows, token_budget=20, checkpoint=kept, checkpoint_minutes=0.0)
scores.save(f"{sys.argv[2]}/{rank}.safetensors")
integrated = attribute(model, rows, method="integrated_gradients", steps=3, token_budget=20)
integrated.save(f"{sys.argv[2]}/integrated-{rank}.safetensors")
"""
)


def environment():
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run_together(n_processes, *command):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return subprocess.run(
        [sys.executable, *launcher, "--nproc_per_node", str(n_processes), *map(str, command)],
        env=environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=600,
    )


def same_bits(one, other):
    return all(torch.equal(one.values[site], other.values[site]) for site in one.sites)


def test_a_killed_run_ends_bit_by_bit_like_one_that_was_not(folders, model, rows, tmp_path):
    path = tmp_path / "scores.checkpoint"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, folders[2], path, TESTS],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"scores.checkpoint", "scores.checkpoint.lock"}
    scored = []

    def seen(model, batch, *choices):
        scored.extend(batch.rows)
        return scored_gradients(model, batch, *choices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "gradient_x_activation", seen)
        resumed = attribute(model, rows, token_budget=BUDGET, checkpoint=path, progress=False)
    whole = attribute(model, rows, token_budget=BUDGET, progress=False)
    assert 0 < len(scored) < len(rows)
    assert same_bits(resumed, whole)
    assert (resumed.cultures, resumed.n_prompts, resumed.n_questions, resumed.source) == (
        whole.cultures,
        whole.n_prompts,
        whole.n_questions,
        whole.source,
    )
    assert list(tmp_path.iterdir()) == []


def stopping_at(number, stop):
    """A method that is gradient x activation, and raises at one of its batches."""
    calls = []

    def score(model, batch, *choices):
        calls.append(1)
        if len(calls) == number:
            raise stop
        return scored_gradients(model, batch, *choices)

    return score


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError("a bug"), SystemExit(143)])
def test_whatever_stops_a_run_it_keeps_what_is_done(model, rows, tmp_path, monkeypatch, stop):
    """Ten minutes have not passed: the checkpoint is that of the stop."""
    path = tmp_path / "scores.checkpoint"
    options = {"token_budget": BUDGET, "checkpoint": path, "progress": False}
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "gradient_x_activation", stopping_at(3, stop))
        with pytest.raises(type(stop)):
            attribute(model, rows, **options)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.checkpoint"]
    scored = []

    def seen(model, batch, *choices):
        scored.append(batch)
        return scored_gradients(model, batch, *choices)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "gradient_x_activation", seen)
        resumed = attribute(model, rows, **options)
    assert len(scored) == len(batches(model, rows, token_budget=BUDGET)) - 2
    assert same_bits(resumed, attribute(model, rows, token_budget=BUDGET, progress=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_a_batch_is_wholly_added(
    model, rows, tmp_path, monkeypatch, number
):
    """The signal comes as the scores of one site are added, and those of others are not."""
    path, update, held_back = tmp_path / "scores.checkpoint", ScoreAccumulator.update, []

    def interrupted(self, scores, **options):
        if not held_back:
            signal.raise_signal(number)
            held_back.append(number)
        update(self, scores, **options)

    def stop(number, frame):
        raise KeyboardInterrupt

    before = [signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        monkeypatch.setattr(ScoreAccumulator, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            attribute(model, rows, token_budget=BUDGET, checkpoint=path, progress=False)
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == stop
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert held_back == [number]
    resumed = attribute(model, rows, token_budget=BUDGET, checkpoint=path, progress=False)
    assert same_bits(resumed, attribute(model, rows, token_budget=BUDGET, progress=False))


def test_half_an_update_is_never_kept(model, rows, tmp_path, monkeypatch):
    """Memory ends as a batch is added: the checkpoint stays that of the batch before."""
    path, update, n_updates = tmp_path / "scores.checkpoint", ScoreAccumulator.update, []

    def fails(self, scores, **options):
        n_updates.append(1)
        if len(n_updates) < 2:
            update(self, scores, **options)
            return
        update(self, dict(list(scores.items())[:1]), **options)
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(ScoreAccumulator, "update", fails)
        with pytest.raises(RuntimeError, match="a bug"):
            attribute(model, rows, token_budget=BUDGET, checkpoint=path, progress=False)
    assert path.is_file()
    resumed = attribute(model, rows, token_budget=BUDGET, checkpoint=path, progress=False)
    assert same_bits(resumed, attribute(model, rows, token_budget=BUDGET, progress=False))


def test_the_checkpoint_goes_when_the_scores_are_there(model, rows, tmp_path, monkeypatch):
    checkpoint, out = tmp_path / "scores.checkpoint", tmp_path / "scores.safetensors"
    options = {"checkpoint": checkpoint, "out": out, "progress": False}
    out.mkdir()
    with pytest.raises(UnwritableError, match=r"scores\.safetensors cannot be written"):
        attribute(model, rows, **options)
    assert checkpoint.is_file()
    out.rmdir()
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "gradient_x_activation", stopping_at(1, AssertionError("scored")))
        scores = attribute(model, rows, **options)
    assert same_bits(NeuronScores.load(out), scores)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]


@pytest.fixture
def stopped(model, rows, tmp_path, monkeypatch):
    """``stopped(**options)``: the checkpoint of a run that failed after its first batch."""

    def stop(**options):
        calls = []

        def fails(model, batch, *choices):
            calls.append(1)
            if len(calls) == 2:
                raise OSError("the disk is gone")
            return scored_gradients(model, batch, *choices)

        path = tmp_path / "checkpoint"
        with monkeypatch.context() as patch:
            patch.setitem(METHODS, "gradient_x_activation", fails)
            with pytest.raises(OSError, match="the disk is gone"):
                attribute(model, rows, checkpoint=path, checkpoint_minutes=0.0, **options)
        return path

    return stop


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pool": "sum"}, "pool"),
        ({"sites": ["attn.hook_v"]}, "sites"),
        ({"token_budget": 30}, "token_budget"),
        ({"method": "integrated_gradients"}, "method, path, steps"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(model, rows, stopped, changes, named):
    path = stopped(token_budget=BUDGET, progress=False)
    options = {"token_budget": BUDGET, "progress": False, **changes}
    with pytest.raises(InvalidInputError, match=rf"other settings \({named}\); give another"):
        attribute(model, rows, checkpoint=path, **options)
    assert path.exists()


def test_a_checkpoint_of_other_rows_or_another_model_or_no_checkpoint_is_refused(
    model, loaded, rows, stopped
):
    path = stopped(token_budget=BUDGET, progress=False)
    with pytest.raises(InvalidInputError, match=r"other settings \(data\)"):
        attribute(
            model, rows.select(range(5)), checkpoint=path, token_budget=BUDGET, progress=False
        )
    with pytest.raises(InvalidInputError, match=r"other settings \(model\)"):
        attribute(loaded(4), rows, checkpoint=path, token_budget=BUDGET, progress=False)
    path.write_text("hello")
    with pytest.raises(InvalidInputError, match="is no checkpoint; give another path"):
        attribute(model, rows, checkpoint=path, token_budget=BUDGET, progress=False)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "linux", "windows", "cublas", "python"])
@pytest.mark.parametrize("method", ["gradient_x_activation", "integrated_gradients"])
@pytest.mark.parametrize("padding", ["ignore", "zero"])
@FEW_STEPS
def test_a_lack_of_memory_halves_the_token_budget_and_goes_on(
    model, rows, caplog, n_hooks, error, method, padding
):
    """More than 25 tokens in one pass raise what an allocator raises."""
    before = n_hooks(model)
    options = {"method": method, "steps": 2, "padding": padding, "progress": False}
    whole = attribute(model, rows, **options)

    def allocate(activation, hook):
        if activation.shape[0] * activation.shape[1] > 25:
            raise error

    with (
        caplog.at_level(logging.WARNING),
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", allocate)]),
    ):
        found = attribute(model, rows, **options)
    assert "out of memory with" in caplog.text
    assert "going on with a token budget of" in caplog.text
    assert n_hooks(model) == before
    for site in whole.sites:
        assert max_error(found.values[site], whole.values[site]) < EXACT
    assert (found.n_prompts, found.n_questions) == (whole.n_prompts, whole.n_questions)


@pytest.mark.parametrize("method", ["gradient_x_activation", "integrated_gradients"])
def test_a_prompt_that_does_not_fit_is_a_sentence(model, rows, method):
    def allocate(activation, hook):
        raise ERRORS[0]

    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", allocate)]),
        pytest.raises(InvalidInputError, match=r"One prompt of 10 tokens does not fit.*'q3'"),
    ):
        attribute(model, rows, method=method, progress=False)


def test_any_other_error_of_torch_is_left_as_it_is(model, rows):
    def fail(activation, hook):
        raise RuntimeError("shapes do not match")

    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", fail)]),
        pytest.raises(RuntimeError, match="shapes do not match"),
    ):
        attribute(model, rows, progress=False)


@FEW_STEPS
def test_two_processes_find_what_one_finds(folders, model, rows, tmp_path):
    """Uneven shares, without padding or repetition; the same scores on both, no file left."""
    script = tmp_path / "script.py"
    script.write_text(SHARED)
    out = tmp_path / "out"
    out.mkdir()
    done = run_together(2, script, folders[2], out, TESTS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("attribution: 100%") >= 1
    alone = attribute(model, rows, token_budget=BUDGET, progress=False)
    integrated = attribute(
        model, rows, method="integrated_gradients", steps=3, token_budget=BUDGET, progress=False
    )
    kept = {f"{name}{rank}.safetensors" for name in ("", "integrated-") for rank in range(2)}
    assert {file.name for file in out.iterdir()} == kept
    for rank in range(2):
        shared = NeuronScores.load(out / f"integrated-{rank}.safetensors")
        assert shared.completeness_by_site == pytest.approx(
            integrated.completeness_by_site, rel=1e-9
        )
        found = NeuronScores.load(out / f"{rank}.safetensors")
        for site in alone.sites:
            assert found.values[site].dtype == torch.float64
            assert max_error(found.values[site], alone.values[site]) < EXACT
        assert (found.cultures, found.n_prompts, found.n_questions) == (
            alone.cultures,
            alone.n_prompts,
            alone.n_questions,
        )
        means = [{**each.source}.pop("mean_probability") for each in (found, alone)]
        np.testing.assert_allclose(*means, rtol=1e-12)  # added up in another order
        assert {**found.source, "mean_probability": means[1]} == alone.source


def test_the_command_line_scores_in_many_processes_and_writes_once(folders, rows, tmp_path):
    rows.to_json(tmp_path / "rows.jsonl")
    common = [str(folders[2]), str(tmp_path / "rows.jsonl"), "--backend", "hooked"]
    common += ["--dtype", "float64", "--device", "cpu", "--token-budget", "20"]
    done = run_together(
        2, "-m", "culnig_tl", "score", *common, "--out", tmp_path / "two.safetensors"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 cultures") == 1
    alone = CliRunner().invoke(
        app, ["score", *common, "--quiet", "--out", str(tmp_path / "one.safetensors")]
    )
    assert alone.exit_code == 0
    one = NeuronScores.load(tmp_path / "one.safetensors")
    two = NeuronScores.load(tmp_path / "two.safetensors")
    for site in one.sites:
        assert max_error(two.values[site], one.values[site]) < EXACT
    assert {file.name for file in tmp_path.iterdir()} == {
        "rows.jsonl",
        "one.safetensors",
        "two.safetensors",
    }


@pytest.mark.parametrize("method", ["gradient_x_activation", "integrated_gradients"])
@FEW_STEPS
def test_questions_come_in_the_order_of_rows(model, rows, method):
    chunks = list(
        attribute_questions(
            model, rows, chunk=4, method=method, steps=2, token_budget=BUDGET, progress=False
        )
    )
    assert [chunk.rows for chunk in chunks] == [(0, 1, 2, 3), (4, 5)]
    assert [chunk.ids for chunk in chunks] == [("q1", "q2", "q1", "q3"), ("q2", "q4")]
    assert [chunk.cultures for chunk in chunks] == [("B", "A", "A", "C"), ("A", "B")]
    (batch,) = batches(model, rows)
    score = {"gradient_x_activation": gradient_x_activation}.get(
        method, lambda *data: integrated_gradients(*data, steps=2)
    )
    expected = score(model, batch)
    whole = attribute(model, rows, method=method, steps=2, progress=False)
    for site, values in expected.items():
        found = torch.cat([chunk.values[site] for chunk in chunks])
        assert max_error(found, values[[batch.rows.index(row) for row in range(6)]]) < EXACT
        of_a = found[[1, 2, 4]].sum(0) / 4
        assert max_error(whole.of_culture(site, "A"), of_a) < EXACT


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunk": 0}, "chunk is 0"),
        ({"sites": []}, "sites is"),
        ({"token_budget": 3}, "token_budget"),
    ],
)
def test_questions_are_checked_before_the_first_chunk(model, rows, options, said):
    with pytest.raises(InvalidInputError, match=said):
        attribute_questions(model, rows, progress=False, **options)


@pytest.mark.usefixtures("as_for_a_user")
def test_no_pool_keeps_positions_of_a_batch_and_is_refused_for_a_data_set(model, rows):
    (batch,) = batches(model, rows)
    for score in (
        gradient_x_activation,
        lambda *data, **o: integrated_gradients(*data, steps=2, **o),
    ):
        kept = score(model, batch, pool=None)
        summed = score(model, batch, pool="sum")
        for site, values in kept.items():
            assert values.shape[2] == batch.tokens.shape[1]
            assert max_error(values.sum(2), summed[site]) < EXACT
            assert (values.movedim(2, 1)[~batch.mask] == 0).all()
    for call in (attribute, attribute_questions):
        with pytest.raises(InvalidInputError, match=r"pool is None.*gradient_x_activation"):
            call(model, rows, pool=None, progress=False)  # pyright: ignore[reportArgumentType]


def test_the_order_of_the_rows_does_not_show(model, rows):
    forwards = attribute(model, rows, progress=False)
    backwards = attribute(model, rows.select(range(5, -1, -1)), token_budget=BUDGET, progress=False)
    for site in forwards.sites:
        for culture in forwards.cultures:
            assert (
                max_error(backwards.of_culture(site, culture), forwards.of_culture(site, culture))
                < EXACT
            )


def test_a_row_without_culture_among_others_is_a_sentence_and_none_at_all_one_group(model, rows):
    mixed = rows.map(lambda row: {**row, "culture": "" if row["id"] == "q4" else row["culture"]})
    with pytest.raises(InvalidInputError, match=r"1 of 6 rows have no culture \(questions 'q4'\)"):
        attribute(model, mixed, progress=False)
    with pytest.raises(InvalidInputError, match="1 of 6 rows have no culture"):
        attribute(model, batches(model, mixed), progress=False)
    without = rows.map(lambda row: {**row, "culture": ""})
    found = attribute(model, without, progress=False)
    assert found.cultures == ("",)
    named = attribute(model, rows, progress=False)
    for site in named.sites:
        assert max_error(found.total(site), named.total(site)) < EXACT


def test_no_prompts_are_a_sentence(model):
    nothing = Batch(
        tokens=torch.zeros(0, 3, dtype=torch.long),
        mask=torch.zeros(0, 3, dtype=torch.bool),
        answers=torch.zeros(0, dtype=torch.long),
        cultures=(),
        ids=(),
    )
    for ready in ([], [nothing]):
        with pytest.raises(InvalidInputError, match="no prompts"):
            attribute(model, ready, progress=False)


def test_ready_made_batches_are_known_by_their_content(model, rows):
    ready = batches(model, rows, token_budget=BUDGET)
    source = attribute(model, ready, progress=False).source["data"]
    assert attribute(model, list(ready), progress=False).source["data"] == source
    assert attribute(model, ready[:-1], progress=False).source["data"] != source


def test_an_unfrozen_model_computes_no_weight_gradient_and_stays_unfrozen(folders, model, rows):
    unfrozen = load_model(folders[2], backend="hooked", dtype="float64", device="cpu")
    unfrozen.requires_grad_(True)
    found = attribute(unfrozen, rows, progress=False)
    assert all(weight.grad is None for weight in unfrozen.parameters())
    assert all(weight.requires_grad for weight in unfrozen.parameters())
    assert same_bits(found, attribute(model, rows, progress=False))


def test_bfloat16_moves_scores_by_its_rounding_and_keeps_most_of_a_selection(loaded, rows):
    """bfloat16 keeps 8 bits, 0.4 %; the best twentieth of the neurons stays the same for the most
    part. Scores themselves are float32: what moves them is the model."""
    single, half = (
        attribute(loaded(dtype=dtype), rows, progress=False) for dtype in ("float32", "bfloat16")
    )
    for site in single.sites:
        one, other = single.total(site).flatten(), half.total(site).flatten()
        assert other.dtype == torch.float32
        assert (other - one).norm() < 0.15 * one.norm()
        n_best = len(one) // 20
        best = [set(scores.topk(n_best).indices.tolist()) for scores in (one, other)]
        assert len(best[0] & best[1]) >= 0.7 * n_best
