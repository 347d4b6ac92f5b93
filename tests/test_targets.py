"""Scores of targets other than P equal naive loops and captum, add up, and predict ablations."""

from dataclasses import replace
from typing import Any, get_args

import pytest
import reference
import torch
from captum.attr import LayerGradientXActivation
from reference import SITES, NaiveLlama, PlainTransformers, max_error, norm_error

from culnig_tl.attribution import (
    Target,
    answer_probability,
    attribute,
    attribute_questions,
    gradient_x_activation,
    integrated_gradients,
)
from culnig_tl.attribution.targets import read_answer
from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import scaled_neurons
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import batches, prepare, questions
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general
from culnig_tl.sites import DEFAULT_SITES, site_shape

TARGETS = get_args(Target)
OTHERS = [target for target in TARGETS if target != "probability"]
# Sums of a few hundred float64 products differ by their order only: about 1e-13
EXACT = 1e-9
# float32 rounds each product by 6e-8, a dozen layers of them
SINGLE = 1e-5


def prompt(batch, line):
    """Token ids, answer and options of one prompt, as the naive twins take them."""
    options = batch.options[line].tolist()
    ids = batch.tokens[line][batch.mask[line]].tolist()
    return ids, int(batch.answers[line]), options


@pytest.fixture(scope="module")
def calm(tmp_path_factory, make_llama):
    """A model with usual weights, whose targets are smooth in the factor."""
    folder = make_llama(tmp_path_factory.mktemp("calm"), initializer_range=0.02)
    return load_model(folder, backend="hooked", dtype="float64", device="cpu")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("hooked", "float64", EXACT), ("bridge", "float32", SINGLE)],
)
def test_scores_equal_the_naive_loops(folders, loaded, rows, backend, dtype, tolerance, target):
    model = loaded(2, backend, dtype)
    batch = batches(model, rows)[0]
    scores = gradient_x_activation(model, batch, sites=SITES, target=target)
    twin = {"hooked": NaiveLlama, "bridge": PlainTransformers}[backend](folders[2])
    for line in range(len(batch)):
        ids, answer, options = prompt(batch, line)
        trace = reference.trace(twin, ids, answer, target=target, options=options)
        for site in SITES:
            naive = reference.question_scores(trace, site, 3)
            assert norm_error(scores[site][line], naive) < tolerance


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("path", ["joint", "layer"])
def test_integrated_scores_equal_the_naive_loops(folders, model, rows, target, path):
    batch = batches(model, rows)[0].select([1, 4])
    site, twin, nodes = "mlp.hook_post", NaiveLlama(folders[2]), reference.midpoint_nodes(3)
    scores = integrated_gradients(model, batch, sites=[site], steps=3, path=path, target=target)
    for line in range(2):
        ids, answer, options = prompt(batch, line)
        probability = reference.trace(twin, ids, answer).probability
        for group in [range(3)] if path == "joint" else [[layer] for layer in range(3)]:
            shares = reference.integrated_shares(
                twin, ids, answer, site, group, nodes=nodes, target=target, options=options
            )
            for layer in group:
                naive = [probability * max(column) for column in zip(*shares[layer], strict=True)]
                expected = torch.tensor(naive, dtype=torch.float64)
                assert norm_error(scores[site][line, layer], expected) < EXACT


@pytest.mark.parametrize("target", OTHERS)
def test_captum_agrees_at_the_input_of_down_proj(folders, model, rows, target):
    batch = batches(model, rows)[0]
    plain = PlainTransformers(folders[2]).model
    scores = gradient_x_activation(
        model, batch, sites=["mlp.hook_post"], weight="none", target=target
    )["mlp.hook_post"]
    for line in range(len(batch)):
        ids, answer, options = prompt(batch, line)

        def value(tokens, answer=answer, options=options):
            logits = plain(tokens).logits[:, -1]
            others = [option for option in options if option != answer]
            if target == "logit_difference":
                return logits[:, answer] - logits[:, others].mean(1)
            return logits.log_softmax(-1)[:, answer]

        for layer in range(3):
            oracle = LayerGradientXActivation(value, plain.model.layers[layer].mlp.down_proj)
            (product,) = oracle.attribute(torch.tensor([ids]), attribute_to_layer_input=True)
            # transformers rounds norms and attention to float32 even in a float64 model
            assert (
                norm_error(scores[line, layer], torch.as_tensor(product).detach().amax(0)) < SINGLE
            )


def test_the_gradient_of_the_logarithm_is_that_of_p_over_p(model, rows):
    """So the weight P turns scores of log P into unweighted scores of P."""
    (batch,) = batches(model, rows)
    of_logarithm = gradient_x_activation(model, batch, target="log_probability")
    of_probability = gradient_x_activation(model, batch, weight="none")
    for site in DEFAULT_SITES:
        assert max_error(of_logarithm[site], of_probability[site]) < EXACT


@pytest.mark.parametrize("target", TARGETS)
def test_integrated_gradients_add_up(calm, rows, target):
    """By a real intervention, and by the figure that the scores carry."""
    (batch,) = batches(calm, rows)
    options: dict[str, Any] = {"sites": ["attn.hook_v"], "target": target}
    scores = integrated_gradients(calm, batch, pool="sum", weight="none", **options)
    every = {"attn.hook_v": [(layer, k) for layer in range(3) for k in range(16)]}
    assert site_shape(calm, "attn.hook_v") == (3, 16)
    with torch.no_grad():
        full = read_answer(calm, batch, target).value
        with scaled_neurons(calm, NeuronSet.of(every), factor=0.0):
            change = full - read_answer(calm, batch, target).value
    error = (scores["attn.hook_v"].sum((1, 2)) - change).abs().sum() / change.abs().sum()
    assert error < 1e-3
    whole = attribute(calm, rows, method="integrated_gradients", progress=False, **options)
    assert whole.completeness == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_a_score_predicts_a_small_ablation(either, rows, target):
    """Summed over positions and unweighted, the score is the target's derivative by the factor."""
    batch = batches(either, rows)[0].select([0])
    site = "mlp.hook_post"
    scores = gradient_x_activation(
        either, batch, sites=[site], pool="sum", weight="none", target=target
    )[site][0]
    layer, neuron = divmod(int(scores.abs().flatten().argmax()), scores.shape[1])
    before = read_answer(either, batch, target).value
    with (
        torch.no_grad(),
        scaled_neurons(either, NeuronSet.of({site: [(layer, neuron)]}), factor=0.99),
    ):
        drop = before - read_answer(either, batch, target).value
    # 5 %: the second-order term of a step of 1 %
    assert drop.item() == pytest.approx(0.01 * scores[layer, neuron].item(), rel=0.05)


def test_targets_are_read_from_one_pass(model, rows):
    (batch,) = batches(model, rows)
    with torch.no_grad():
        of_targets = {target: read_answer(model, batch, target) for target in TARGETS}
        probability = answer_probability(model, batch)
    for answer in of_targets.values():
        assert torch.equal(answer.probability, probability)
        assert answer.value.dtype == torch.float64
    torch.testing.assert_close(of_targets["log_probability"].value, probability.log())


def test_half_precision_targets_are_read_in_float32(loaded, rows):
    model = loaded(dtype="bfloat16")
    (batch,) = batches(model, rows)
    for target in TARGETS:
        assert read_answer(model, batch, target).value.dtype == torch.float32


# ---------------------------------------------------------------- data sets


def test_the_source_says_the_target_where_it_is_not_the_default(model, rows, tmp_path):
    usual = attribute(model, rows, target="probability", progress=False)
    assert "target" not in usual.source
    assert usual.source == attribute(model, rows, progress=False).source
    for target in OTHERS:
        attribute(model, rows, target=target, progress=False).save(tmp_path / "scores")
        other = NeuronScores.load(tmp_path / "scores")
        assert other.source["target"] == target
        with pytest.raises(InvalidInputError, match=f"target is None in one and '{target}'"):
            culture_general(usual, other)


@pytest.mark.parametrize("method", ["gradient_x_activation", "integrated_gradients"])
@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")
def test_data_sets_chunks_and_batches_score_alike(model, rows, method, target):
    options: dict[str, Any] = {"method": method, "steps": 3, "target": target, "progress": False}
    whole = attribute(model, rows, **options)
    for other in (
        attribute(model, prepare(model, rows, token_budget=30), **options),
        attribute(model, batches(model, rows, token_budget=30), **options),
    ):
        for site in DEFAULT_SITES:
            for culture in whole.cultures:
                ours, theirs = (each.of_culture(site, culture) for each in (whole, other))
                assert max_error(ours, theirs) < EXACT
    chunks = list(attribute_questions(model, rows, chunk=4, **options))
    of_a = [line for line, culture in enumerate(rows["culture"]) if culture == "A"]
    for site in DEFAULT_SITES:
        values = torch.cat([chunk.values[site] for chunk in chunks])
        assert max_error(values[of_a].sum(0) / 4, whole.of_culture(site, "A")) < EXACT


def test_a_checkpoint_of_another_target_is_refused(model, rows, tmp_path, monkeypatch):
    from culnig_tl.attribution import long_run

    path = tmp_path / "checkpoint"
    options: dict[str, Any] = {"checkpoint": path, "checkpoint_minutes": 0.0, "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(long_run.Checkpoint, "remove", lambda self: None)
        attribute(model, rows, **options)
    with pytest.raises(InvalidInputError, match=r"other settings \(target\)"):
        attribute(model, rows, target="log_probability", **options)


# ---------------------------------------------------------------- options


def rows_of(*options):
    return questions(
        [
            {"id": f"q{number}", "prompt": "tea? Answer:", "options": list(texts), "answer": " A"}
            for number, texts in enumerate(options)
        ]
    )


def test_a_batch_knows_the_tokens_of_its_options(model):
    rows = rows_of([" A", " B"], [" C", " A", " B"], [" A", " bread soup"])
    (batch,) = batches(model, rows)
    assert batch.options is not None
    by_row = {row: batch.options[line].tolist() for line, row in enumerate(batch.rows)}
    a, b, c = (
        model.tokenizer.encode(label, add_special_tokens=False)[0] for label in (" A", " B", " C")
    )
    assert by_row == {0: [a, b, -1], 1: [c, a, b], 2: [-1, -1, -1]}
    selected = batch.select([1]).options
    assert selected is not None
    assert torch.equal(selected, batch.options[1:2])


def test_fewer_options_are_averaged_over_those_that_are_there(folders, model):
    rows = rows_of([" A", " B"], [" C", " A", " B"])
    (batch,) = batches(model, rows)
    twin = NaiveLlama(folders[2])
    with torch.no_grad():
        values = read_answer(model, batch, "logit_difference").value
        for line in range(2):
            ids, answer, options = prompt(batch, line)
            there = [option for option in options if option >= 0]
            naive = reference.target_value(twin.logits(ids), answer, "logit_difference", there)
            assert values[line].item() == pytest.approx(naive.item(), rel=1e-9)


@pytest.mark.parametrize(
    "rows",
    [rows_of([" A", " B"], [" A", " bread soup"]), rows_of([" A", " B"], [" A"])],
    ids=["not one token", "no other option"],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_rows_without_a_logit_difference_are_a_sentence(model, rows):
    said = r"'logit_difference' and 1 prompts \(e\.g\. of question 'q1'\).*take 'log_probability'"
    (batch,) = batches(model, rows)
    options: dict[str, Any] = {"target": "logit_difference"}
    for score in (
        lambda: attribute(model, rows, progress=False, **options),
        lambda: attribute_questions(model, rows, progress=False, **options),
        lambda: gradient_x_activation(model, batch, **options),
        lambda: integrated_gradients(model, batch, **options),
    ):
        with pytest.raises(InvalidInputError, match=said):
            score()
    for target in ("probability", "log_probability"):
        attribute(model, rows, target=target, progress=False)


def test_batches_that_do_not_say_their_options_are_a_sentence(model, rows):
    ready = [replace(batch, options=None) for batch in batches(model, rows)]
    with pytest.raises(InvalidInputError, match="do not say which tokens their options are"):
        attribute(model, ready, target="logit_difference", progress=False)


@pytest.mark.usefixtures("as_for_a_user")
def test_an_unknown_target_is_a_sentence(model, rows):
    unknown: Any = "logits"
    (batch,) = batches(model, rows)
    for score in (
        lambda: attribute(model, rows, target=unknown, progress=False),
        lambda: gradient_x_activation(model, batch, target=unknown),
        lambda: integrated_gradients(model, batch, target=unknown),
    ):
        with pytest.raises(InvalidInputError, match=r"target.*'logits'.*log_probability"):
            score()


def test_a_method_of_ones_own_takes_no_target(model, rows):
    def magnitude(model, batch, sites):
        return {}

    with pytest.raises(InvalidInputError, match=r"log_probability.*magnitude differentiates what"):
        attribute(model, rows, method=magnitude, target="log_probability", progress=False)
