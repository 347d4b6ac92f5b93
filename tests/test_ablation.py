"""Many neurons in one pass, each by itself, are what ``evaluate`` says of one after the other."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from families import save
from test_benchmark_scripts import first, rows_of

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import ablation_drops, ablation_effects, answers
from culnig_tl.hooked_model import hooked
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import prepare, questions
from culnig_tl.sites import SITES, measure_sites

EXACT = 1e-6  # of a probability: it is taken in float32, which rounds to 6e-8 of it

MLP = ("mlp.hook_pre", "hook_mlp_out")


def every_site(model, indices) -> NeuronSet:
    """Neurons of every site and layer."""
    return NeuronSet.of(
        {
            site: [(layer, index) for layer in range(n_layers) for index in indices]
            for site, (n_layers, _) in measure_sites(model).items()
        }
    )


def one_by_one(prepared, neurons, factor=0.0):
    """Drops of the probability and of correctness, [neuron, row], by a run of its own for each."""
    before = answers(prepared)
    after = [answers(prepared, NeuronSet.of(neuron), factor) for neuron in NeuronSet.of(neurons)]
    return tuple(
        torch.tensor(np.array([before[name] * 1.0 - each[name] * 1.0 for each in after]))
        for name in ("probability", "correct")
    )


def assert_exact(prepared, neurons, factor=0.0):
    drops = ablation_drops(prepared, neurons, factor=factor)
    probability, correct = one_by_one(prepared, neurons, factor)
    assert drops.probability.dtype == drops.correct.dtype == torch.float64
    assert (drops.probability - probability).abs().max() < EXACT
    assert torch.equal(drops.correct, correct)
    return drops


@pytest.mark.parametrize(("factor", "token_budget"), [(2.5, 40), (0.0, 16384)])
def test_all_sites_are_exact_in_uneven_batches_on_both_backends(either, rows, token_budget, factor):
    """Budgets of 4 prompts of 10 tokens, and of everything in one pass."""
    prepared = prepare(either, rows, token_budget=token_budget)
    neurons = every_site(either, (3,)) | NeuronSet.of({"mlp.hook_post": [(1, 0), (1, 1), (1, 2)]})
    assert set(neurons.sites) == set(SITES)
    drops = assert_exact(prepared, neurons, factor)
    sizes = drops.probability.abs().amax(1)
    for site in neurons.sites:
        of_site = [size for size, neuron in zip(sizes, neurons, strict=True) if neuron.site == site]
        assert max(of_site) > 100 * EXACT, site


def test_neurons_of_the_embedded_model_are_exact():
    model = ct.load_model(dtype="float64", device="cpu")
    rows = ct.load_benchmark("atlas", split="identify", limit=12)
    prepared = prepare(model, rows, token_budget=1000)
    assert len({len(prompt) for prompt in prepared.prompts}) > 1
    neurons = every_site(model, (7,)) | NeuronSet.of(list(ct.answer_key("general"))[::3])
    drops = assert_exact(prepared, neurons)
    assert drops.probability.abs().max() > 0.1
    assert drops.correct.abs().sum() > 0


def test_means_of_the_embedded_model_are_exact_in_its_own_type():
    model = ct.load_model()
    rows = ct.load_benchmark("atlas", split="identify", limit=21)
    neurons = list(ct.answer_key("general"))[::4]
    effects = ablation_effects(model, rows, neurons, progress=False)
    before = ct.evaluate(model, rows)
    for line, neuron in zip(effects.to_dict("records"), NeuronSet.of(neurons), strict=True):
        after = ct.evaluate(model, rows, neurons=NeuronSet.of(neuron))
        lost = before["probability"] - after["probability"]
        assert line["drop"] == pytest.approx(lost.mean(), abs=EXACT)
        assert line["standard_error"] == pytest.approx(lost.sem(), abs=EXACT)
        lost = before["correct"].mean() - after["correct"].mean()
        assert line["accuracy_drop"] == pytest.approx(100 * lost)


# MLPs that take the residual stream, or are no module of their own; blocks that add in place, that
# run attention and MLP side by side, or none in some layers; norms behind the MLP.
@pytest.mark.parametrize("name", ["bloom", "opt", "falcon-7b", "phi-2", "qwen3.5", "gemma-3"])
def test_other_families_are_exact(tmp_path, rows, make_tokenizer, name):
    save(name, tmp_path, make_tokenizer())
    model = load_model(tmp_path, backend="bridge", dtype="float32", device="cpu")
    assert_exact(prepare(model, rows, token_budget=64), every_site(model, (1, 5)), 3.0)


def test_half_precision_differs_by_its_rounding_only(loaded, rows):
    prepared = prepare(loaded(2, "hooked", "bfloat16"), rows)
    neurons = every_site(prepared.model, (3,))
    probability, _ = one_by_one(prepared, neurons, 0.5)
    drops = ablation_drops(prepared, neurons, factor=0.5).probability
    assert (drops - probability).abs().max() < 0.01  # 8 bits: 1/256 of a logit of a few units


def test_effects_are_the_summary_of_the_drops_in_the_order_of_the_set(model, rows):
    names = ["L2.mlp.hook_post.7", "L1.attn.hook_v.4", "L0.mlp.hook_post.3"]
    neurons = NeuronSet.of(names)
    drops = ablation_drops(prepare(model, rows), names)
    effects = ablation_effects(model, rows, names, progress=False)
    expected = pd.DataFrame(list(neurons), columns=["site", "layer", "neuron"]).assign(
        drop=drops.probability.mean(1).numpy(),
        standard_error=(drops.probability.std(1) / len(rows) ** 0.5).numpy(),
        accuracy_drop=100 * drops.correct.mean(1).numpy(),
    )
    pd.testing.assert_frame_equal(effects, expected)
    alone = ablation_effects(model, rows.select([0]), names[:1], progress=False)
    assert alone["standard_error"].isna().all()


def test_one_pass_takes_many_neurons_from_their_layer_on(model, rows):
    """Three times 2 prompts of 10 tokens: once as they are, then 7 copies, then 3 from layer 2 on.

    What comes before the seven is computed once for them, and of the last MLP only the end.
    """
    prepared = prepare(model, rows, token_budget=200)
    neurons = {
        "mlp.hook_post": [(1, i) for i in range(7)],
        "attn.hook_k": [(2, i) for i in range(3)],
    }
    shapes = {f"blocks.{layer}.{at}": [] for layer in range(3) for at in ("attn.hook_q", *MLP)}

    def note(activation, hook, *, name):
        shapes[name].append(tuple(activation.shape[:2]))

    with hooked(model, [(name, partial(note, name=name)) for name in shapes]):
        ablation_drops(prepared, neurons)
    once, seven, three = (2, 10), (14, 10), (6, 10)
    assert shapes == {
        "blocks.0.attn.hook_q": [once] * 3,
        "blocks.0.mlp.hook_pre": [once] * 3,
        "blocks.0.hook_mlp_out": [once] * 3,
        "blocks.1.attn.hook_q": [once] * 3,
        "blocks.1.mlp.hook_pre": [once, once] * 3,
        "blocks.1.hook_mlp_out": [once, seven] * 3,
        "blocks.2.attn.hook_q": [once, seven, three] * 3,
        "blocks.2.mlp.hook_pre": [once, (14, 1), (6, 1)] * 3,
        "blocks.2.hook_mlp_out": [once, seven, three] * 3,
    }


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_memory_halves_the_copies_too(model, rows, caplog, n_hooks, layer):
    """The rows fit once, and not several times over."""
    neurons = {"mlp.hook_post": [(layer, i) for i in range(5)], "attn.hook_q": [(layer, 1)]}
    prepared = prepare(model, rows)
    whole, before = ablation_drops(prepared, neurons), n_hooks(model)
    scarce_places = []

    def allocate(activation, hook):
        scarce_places.append(activation.shape[0] * activation.shape[1])
        if scarce_places[-1] > 80:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with (
        caplog.at_level(logging.WARNING),
        hooked(model, [("blocks.2.attn.hook_z", allocate), ("ln_final.hook_scale", allocate)]),
    ):
        pieces = ablation_drops(prepared, neurons)
    assert "going on with a token budget of" in caplog.text
    assert prepared.token_budget <= 80 < max(scarce_places)
    assert (pieces.probability - whole.probability).abs().max() < EXACT
    assert n_hooks(model) == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_copies_stay_within_the_budget(model, rows):
    sizes = []

    def measure(activation, hook):
        sizes.append(activation.shape[0] * activation.shape[1])

    prepared = prepare(model, rows, token_budget=35)
    with hooked(model, [("ln_final.hook_scale", measure)]):
        ablation_drops(prepared, every_site(model, range(9)))
    assert 25 < max(sizes) <= 35


@pytest.mark.parametrize("site", ["mlp.hook_post", "attn.hook_v"])
def test_answers_that_are_no_numbers_are_refused(loaded, rows, n_hooks, site):
    """The rows as they are have finite logits; one of several neurons has not."""
    model = loaded(2, "hooked", "float32")
    before = n_hooks(model)
    with pytest.raises(InvalidInputError, match=r"not finite numbers \(question 'q.' the first\)"):
        ablation_drops(prepare(model, rows), {site: [(1, 2), (2, 5)]}, factor=3e38)
    assert n_hooks(model) == before
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("neurons", "factor", "sentence"),
    [
        ([], 0.0, "There are no neurons to switch off; give at least one."),
        ("L0.mlp.hook_post.64", 0.0, "Neuron 64 of layer 0 at mlp.hook_post is outside this model"),
        ("L3.attn.hook_q.0", 0.0, "Neuron 0 of layer 3 at attn.hook_q is outside this model"),
        ("L0.mlp.hook_post.0", float("nan"), "factor is nan"),
        ("L0.mlp.hook_post.0", float("inf"), "factor is inf"),
    ],
)
def test_values_are_checked_before_any_pass(model, rows, passes, neurons, factor, sentence):
    prepared = prepare(model, rows)
    passes.clear()
    with pytest.raises(InvalidInputError, match=sentence):
        ablation_drops(prepared, neurons, factor=factor)
    assert not passes


def test_clozes_that_cannot_be_told_apart_are_refused(model, passes):
    alike = {
        "id": "tea",
        "prompt": "In Iran, a drink is called",
        "options": ["tea soup", "tea rice"],
        "answer": "tea soup",
        "culture": "Iran",
        "label_kind": "first token",
    }
    prepared = prepare(model, questions([alike]), shared_tokens="keep")
    assert prepared.shares_tokens.all()
    passes.clear()
    with pytest.raises(InvalidInputError, match="begin with the same token"):
        ablation_drops(prepared, "L0.mlp.hook_post.0")
    assert not passes


@pytest.mark.usefixtures("as_for_a_user")
def test_the_caller_s_way_to_compute_changes_nothing(either, rows):
    neurons = every_site(either, (2,))
    expected = ablation_drops(prepare(either, rows), neurons).probability
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        drops = ablation_drops(prepare(either, rows), neurons).probability
    assert torch.equal(drops, expected)
    assert not any(weight.grad is not None for _, weight in either.named_parameters())


def test_the_bar_counts_answers(model, rows, capsys):
    ablation_drops(prepare(model, rows), every_site(model, (1,)), progress=True)
    assert "108/108" in capsys.readouterr().err  # 18 neurons, 6 rows


def test_the_benchmark_compares_both_ways(run_benchmark, tmp_path: Path):
    out = tmp_path / "RESULTS.md"
    printed = run_benchmark("ablation.py", "--tiny", "--neurons", 4, "--repeats", 1, "--out", out)
    assert out.read_text().strip() == printed.strip()
    measured = [cells for cells in rows_of(printed) if cells[-1] in ("yes", "**no**")]
    assert len(measured) == 10
    for _, _, single, together, ratio, _, _, _ in measured:
        assert first(ratio) == pytest.approx(first(single) / first(together), rel=0.5)
