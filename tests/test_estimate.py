"""Counts of a plan are those of the run; bytes are counted, and grow with the batch."""

import importlib

import pytest
import torch

import culnig_tl as ct
from culnig_tl.sites import site_shape


def test_tokens_passes_and_bytes_are_counted(loaded, rows):
    model = loaded(2, "hooked", "float32")
    plan = ct.estimate(
        model, {"cultural": rows}, {"tiny": rows, "half": rows.select(range(3))}, n_sets=5
    )
    stages = plan.stages.set_index(["stage", "data"])
    assert stages.index.tolist() == [
        ("score", "cultural"),
        ("answer", "tiny"),
        ("answer", "half"),
        ("cultures", "tiny"),
        ("cards", "cultural"),
        ("doses", "tiny"),
        ("doses", "half"),
        ("replies", "tiny"),
        ("report", ""),
    ]
    lengths = [len(model.tokenizer(prompt)["input_ids"]) for prompt in rows["prompt"]]
    # one batch, padded to the longest prompt
    assert stages["tokens"].tolist()[:2] == [6 * max(lengths)] * 2
    assert stages["longest"].tolist()[0] == max(lengths)
    assert stages["questions"].tolist() == [5, 5, 3, 5, 5, 5, 3, 5, 0]
    assert stages["passes"].tolist() == [1, 5, 5, 3, 1, 7, 7, 2, 0]
    assert (plan.stages["seconds"] > 0).all()
    assert plan.seconds == plan.stages["seconds"].sum()
    low, high = plan.range
    assert 0 < low <= plan.seconds <= high
    ratio = plan.with_sets(10).stages["seconds"] / plan.stages["seconds"]
    assert ratio.tolist() == pytest.approx([1, 2, 2, 1, 1, 1, 1, 1, 1])
    assert plan.weights == sum(4 * weight.numel() for weight in model.parameters())
    n_neurons = sum(
        layers * width for layers, width in (site_shape(model, s) for s in ct.DEFAULT_SITES)
    )
    assert plan.tables == n_neurons * (8 * 3 + 4 * 6)
    assert plan.held > plan.weights
    assert plan.peak == plan.held + plan.batch + plan.tables


def test_the_largest_batch_keeps_at_least_the_activations_of_the_mlp(loaded, rows):
    """Lower bound by hand: gate, up and output of every MLP are needed to go backward."""
    model = loaded(2, "hooked", "float32")
    whole, small = (
        ct.estimate(model, {"cultural": rows}, {"tiny": rows}, n_sets=1, token_budget=budget)
        for budget in (8192, 40)
    )
    tokens = whole.stages["tokens"][0]
    assert whole.batch >= 3 * model.cfg.n_layers * model.cfg.d_mlp * tokens * 4
    assert small.batch < whole.batch


def test_a_batch_takes_what_the_process_grows_by(loaded, rows, monkeypatch):
    """On a CPU, in proportion to tokens: 24 prompts are measured, the largest batch has 30."""
    monkeypatch.setattr(
        importlib.import_module("culnig_tl.pipeline.estimate"),
        "_resident",
        iter([10**9, 10**9 + 24 * 10**8]).__next__,
    )
    longest = max(rows.to_list(), key=lambda row: len(row["prompt"]))
    same = ct.questions([{**longest, "id": f"{number}"} for number in range(30)])
    plan = ct.estimate(loaded(2, "hooked", "float32"), {"cultural": same}, {"tiny": same})
    assert (plan.held, plan.batch) == (10**9, 30 * 10**8)


def test_estimating_leaves_no_hook_and_no_gradient(loaded, rows, n_hooks):
    model = loaded(2, "hooked", "float32")
    before = n_hooks(model)
    ct.estimate(model, {"cultural": rows}, {"tiny": rows}, n_sets=1)
    assert n_hooks(model) == before
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.is_grad_enabled()
