"""Questions are made ready once, and every pass over them goes through one token budget."""

import logging

import pandas as pd
import pytest
import torch

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import batches, prepare, prepared, questions, schema
from culnig_tl.validation import threshold_sweep

NEURONS = NeuronSet.of({"mlp.hook_post": [(0, 3), (1, 5), (2, 7)], "attn.hook_v": [(1, 4)]})


@pytest.fixture
def counts(monkeypatch):
    """How often a row was validated, and how often a prompt was encoded."""
    calls = {"validated": 0, "encoded": 0}

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(schema, "faults_of", counted("validated", schema.faults_of))
    monkeypatch.setattr(prepared, "encode", counted("encoded", prepared.encode))
    return calls


def test_a_whole_run_validates_and_encodes_each_row_once(counts, tmp_path):
    model = ct.load_model()
    rows = ct.load_benchmark("atlas", split="identify", limit=100)
    control = ct.load_benchmark("atlas-control", split="identify", limit=100)
    names = ct.load_benchmark("atlas-countries", split="identify", limit=100)
    test = ct.load_benchmark("atlas", split="test", limit=100)
    counts.update(validated=0, encoded=0)
    run = ct.culnig(
        model,
        out=tmp_path,
        cultural=rows,
        control=control,
        recognition=names,
        benchmarks={"culture": test},
        n_random=1,
        n_cards=1,
        progress=False,
    )
    assert len(run.cards) == 1
    assert counts == {"validated": 400, "encoded": 400}


def test_sixteen_ablations_encode_each_row_once(counts, model, rows):
    neurons = NeuronSet.of([f"L{i % 3}.mlp.hook_post.{i}" for i in range(16)])
    assert len(ct.ablation_effects(model, rows, neurons, progress=False)) == 16
    assert counts == {"validated": len(rows), "encoded": len(rows)}


def test_prepared_questions_serve_everything_and_are_encoded_no_more(counts, model, rows):
    ready = ct.prepare(model, rows, token_budget=20)
    assert counts == {"validated": 6, "encoded": 6}
    for with_rows, with_ready in [
        (
            ct.attribute(model, rows, token_budget=20, progress=False).total("mlp.hook_post"),
            ct.attribute(model, ready, progress=False).total("mlp.hook_post"),
        ),
    ]:
        assert torch.equal(with_rows, with_ready)
    counts.update(validated=0, encoded=0)
    calls = [
        lambda given: ct.evaluate(model, given, neurons=NEURONS, token_budget=20),
        lambda given: ct.ablation_effects(model, given, NEURONS, token_budget=20, progress=False),
        lambda given: ct.dose_response(
            model, {"a": given}, NEURONS, token_budget=20, progress=False
        ),
        lambda given: ct.inspect_neuron(model, given, "L0.mlp.hook_post.3").questions,
    ]
    for call in calls:
        counts.update(encoded=0)
        answered = call(ready)
        assert counts["encoded"] == 0
        expected = call(rows)
        assert counts["encoded"] == len(rows)
        pd.testing.assert_frame_equal(answered, expected)


def test_a_part_is_encoded_no_more_and_equals_the_part_prepared_by_itself(counts, model, rows):
    part = prepare(model, rows).select([4, 1, 2])
    counts.update(validated=0, encoded=0)
    alone = prepare(model, rows.select([4, 1, 2]))
    assert counts["encoded"] == 3
    assert part.fingerprint == alone.fingerprint
    assert part.cultures == alone.cultures == ("A",)
    for one, other in zip(part.batches, alone.batches, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert one.rows == other.rows
        assert one.ids == other.ids


def test_questions_of_another_model_are_refused(loaded, rows):
    ready = prepare(loaded(2), rows)
    assert prepare(loaded(2), ready) is ready
    with pytest.raises(InvalidInputError, match="prepared for another model"):
        ct.evaluate(loaded(4), ready)


def scarce(model, most):
    """Inside, more than ``most`` tokens in one pass raise what an allocator raises."""

    def allocate(activation, hook):
        if activation.shape[0] * activation.shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    return model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", allocate)])


PASSES = {
    "evaluate": lambda model, rows: ct.evaluate(model, rows, neurons=NEURONS),
    "compare": lambda model, rows: ct.compare(
        model, {"a": rows}, {"original": None, "general": NEURONS}, progress=False
    ),
    "culture_effects": lambda model, rows: ct.culture_effects(
        model, rows, {"A": NEURONS}, progress=False
    ),
    "doses": lambda model, rows: ct.dose_response(model, {"a": rows}, NEURONS, progress=False),
    "ablation": lambda model, rows: ct.ablation_effects(model, rows, NEURONS, progress=False),
    "card": lambda model, rows: ct.inspect_neuron(model, rows, "L0.mlp.hook_post.3").questions,
    "sweep": lambda model, rows: threshold_sweep(
        ct.attribute(model, rows, progress=False),
        t=[0.05],
        model=model,
        benchmarks={"a": rows},
        progress=False,
    ),
    "halves": lambda model, rows: ct.split_half(model, rows, splits=1, progress=False),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.filterwarnings("ignore:(Letter|Some) questions are at chance")
def test_every_pass_halves_its_budget_where_memory_runs_out(model, rows, caplog, name):
    whole = PASSES[name](model, rows)
    with caplog.at_level(logging.WARNING), scarce(model, 25):
        halved = PASSES[name](model, rows)
    assert "going on with a token budget of" in caplog.text
    pd.testing.assert_frame_equal(halved, whole, rtol=1e-5, atol=1e-7)
    with scarce(model, 2), pytest.raises(InvalidInputError, match="One prompt of 10 tokens"):
        PASSES[name](model, rows)


def test_a_smaller_budget_stays_with_the_questions(model, rows):
    ready = prepare(model, rows)
    with scarce(model, 25):
        ct.evaluate(model, ready)
    assert ready.token_budget < 25 < ready.budget.initial
    assert len(ready.batches) == len(batches(model, rows))  # how prompts are grouped stays


def test_rows_may_be_a_frame_or_dicts(model, rows):
    expected = ct.evaluate(model, rows)
    pd.testing.assert_frame_equal(ct.evaluate(model, rows.to_pandas()), expected)
    pd.testing.assert_frame_equal(ct.evaluate(model, rows.to_list()), expected)
    scores = ct.attribute(model, rows.to_list(), progress=False)
    assert torch.equal(
        scores.total("attn.hook_q"),
        ct.attribute(model, questions(rows), progress=False).total("attn.hook_q"),
    )


@pytest.mark.parametrize("by", ["topic", "id"])
def test_halves_share_no_group_and_lose_no_row(by):
    rows = ct.load_benchmark("atlas", split="all")
    one, other = ct.split(rows, by=by, seed=3)
    assert not set(one[by]) & set(other[by])
    assert len(one) + len(other) == len(rows)
    assert 0 <= len(set(one[by])) - len(set(other[by])) <= 1
    again = ct.split(rows, by=by, seed=3)[0]
    assert again["id"][:] == one["id"][:]
    assert ct.split(rows, by=by, seed=4)[0]["id"][:] != one["id"][:]


def test_one_topic_cannot_be_halved(rows):
    one = questions([{**row, "topic": "food"} for row in rows])
    with pytest.raises(InvalidInputError, match=r"same topic \('food'\).*split by id"):
        ct.split(one, by="topic")
