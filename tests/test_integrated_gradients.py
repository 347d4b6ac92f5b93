"""Integrated gradients equal naive loops and captum, and add up to what scaling to 0 changes."""

from collections import OrderedDict
from typing import Any

import pytest
import reference
import torch
from captum.attr import LayerIntegratedGradients
from reference import SITES, NaiveLlama, PlainTransformers, max_error, norm_error

from culnig_tl.attribution import (
    answer_probability,
    attribute,
    gradient_x_activation,
    gradients,
    integrated_gradients,
)
from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import scaled_neurons
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import batches
from culnig_tl.sites import DEFAULT_SITES, site_shape

PATHS = ["joint", "layer"]
# Sums of a few thousand float64 products differ by their order only: about 1e-13
EXACT = 1e-9
# float32 rounds each product by 6e-8, a dozen layers of them
SINGLE = 1e-5


@pytest.fixture(scope="module")
def calm(tmp_path_factory, make_llama):
    """A model with usual weights, whose P is smooth in the factor; in the others it has cliffs."""
    folder = make_llama(tmp_path_factory.mktemp("calm"), initializer_range=0.02)
    return load_model(folder, backend="hooked", dtype="float64", device="cpu")


def groups(path, n_layers=3):
    """The layers that are scaled together on a path."""
    return [range(n_layers)] if path == "joint" else [[layer] for layer in range(n_layers)]


def whole_layers(model, site, layers):
    width = site_shape(model, site)[1]
    return NeuronSet.of({site: [(layer, k) for layer in layers for k in range(width)]})


def change(model, batch, site, layers):
    """P(full) - P(all neurons of these layers scaled to 0), by a real intervention."""
    with torch.no_grad(), scaled_neurons(model, whole_layers(model, site, layers), factor=0.0):
        without = answer_probability(model, batch)
    return answer_probability(model, batch) - without


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("hooked", "float64", EXACT), ("bridge", "float32", SINGLE)],
)
def test_scores_equal_the_naive_loops(folders, loaded, rows, backend, dtype, tolerance, site, path):
    """Two questions of unequal length in one batch, the shorter one padded."""
    model = loaded(2, backend, dtype)
    batch = batches(model, rows)[0].select([1, 4])
    found = integrated_gradients(model, batch, sites=[site], steps=3, path=path)[site]
    twin = {"hooked": NaiveLlama, "bridge": PlainTransformers}[backend](folders[2])
    for line in range(2):
        ids, answer = batch.tokens[line][batch.mask[line]].tolist(), int(batch.answers[line])
        probability = reference.trace(twin, ids, answer).probability
        for group in groups(path):
            shares = reference.integrated_shares(twin, ids, answer, site, group, steps=3)
            for layer in group:
                naive = [probability * max(column) for column in zip(*shares[layer], strict=True)]
                expected = torch.tensor(naive, dtype=torch.float64)
                assert norm_error(found[line, layer], expected) < tolerance


@pytest.mark.parametrize("path", PATHS)
def test_scores_add_up_to_what_scaling_to_zero_changes(calm, rows, path):
    """Completeness, within 0.1 % of the change at 20 steps, for every site and layer."""
    (batch,) = batches(calm, rows)
    options = {"path": path, "pool": "sum", "weight": "none"}
    found = integrated_gradients(calm, batch, sites=SITES, **options)
    for site in SITES:
        for group in groups(path):
            total = found[site][:, list(group)].sum((1, 2))
            assert norm_error(total, change(calm, batch, site, group)) < 1e-3


def test_the_midpoint_rule_converges_with_the_square_of_the_steps(model, rows):
    """Also where P is anything but smooth: four times the steps, a sixteenth of the error."""
    (batch,) = batches(model, rows)
    real = change(model, batch, "attn.hook_v", range(3))
    errors = [
        norm_error(
            integrated_gradients(
                model, batch, sites=["attn.hook_v"], steps=steps, pool="sum", weight="none"
            )["attn.hook_v"].sum((1, 2)),
            real,
        )
        for steps in (60, 240)
    ]
    assert 12 < errors[0] / errors[1] < 20


def test_captum_agrees_at_the_input_of_down_proj(folders, model, rows):
    batch = batches(model, rows)[0].select([0])  # the longest: no padding
    found = integrated_gradients(model, batch, sites=["mlp.hook_post"], path="layer", steps=10)
    plain = PlainTransformers(folders[2]).model
    answer = int(batch.answers[0])

    class Scale(torch.nn.Module):
        factor = torch.ones(1, 1, dtype=torch.float64)

        def forward(self, activation):
            return activation * self.factor[:, :, None]

    def probability(factor):
        """Captum moves from factor 0 to 1, so the watched layer moves from 0 to its activation."""
        Scale.factor = factor
        return plain(batch.tokens.repeat(len(factor), 1)).logits[:, -1].softmax(-1)[:, answer]

    one = torch.ones(1, 1, dtype=torch.float64)
    for layer in range(3):
        mlp: Any = plain.model.layers[layer].mlp
        at, projection = torch.nn.Identity(), mlp.down_proj
        mlp.down_proj = torch.nn.Sequential(
            OrderedDict(scale=Scale(), at=at, projection=projection)
        )
        oracle = LayerIntegratedGradients(probability, at)
        share = torch.as_tensor(
            oracle.attribute(one, baselines=0 * one, n_steps=10, method="riemann_middle")
        )
        mlp.down_proj = projection
        score = share.amax(1)[0] * probability(one).item()
        # transformers rounds norms and attention to float32 even in a float64 model
        assert norm_error(found["mlp.hook_post"][0, layer], score.detach()) < SINGLE


@pytest.mark.parametrize("path", PATHS)
def test_queries_and_keys_add_up_alike(model, rows, path):
    """Attention scores are a product of the two: scaling either is the same path."""
    (batch,) = batches(model, rows)
    found = integrated_gradients(
        model, batch, sites=["attn.hook_q", "attn.hook_k"], path=path, pool="sum", weight="none"
    )
    sums = [found[site].sum(2) for site in ("attn.hook_q", "attn.hook_k")]
    assert max_error(*sums) < EXACT


def test_one_step_at_one_half_is_a_gradient_there(model, rows):
    """With one step the factor is 1/2; hook_post is scaled, so is its product with the gradient."""
    (batch,) = batches(model, rows)
    site = "mlp.hook_post"
    found = integrated_gradients(model, batch, sites=[site], steps=1, weight="none")
    with scaled_neurons(model, whole_layers(model, site, range(3)), factor=0.5):
        halved = gradient_x_activation(model, batch, sites=[site], weight="none")
    assert max_error(found[site], 2 * halved[site]) < EXACT


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pool", ["max", "mean", None])
def test_neither_the_batch_nor_the_budget_nor_other_sites_change_a_score(model, rows, path, pool):
    """Steps of one question in one pass, over several, and several questions in one pass."""
    (batch,) = batches(model, rows)
    length = batch.tokens.shape[1]
    options = {"steps": 6, "path": path, "pool": pool}
    together = integrated_gradients(model, batch, **options)
    for site in ("mlp.hook_post", "attn.hook_k"):
        for budget in (1, 4 * length, 6 * length, 13 * length):
            found = integrated_gradients(model, batch, sites=[site], token_budget=budget, **options)
            assert max_error(found[site], together[site]) < EXACT
    for line in (0, len(batch) - 1):
        single = integrated_gradients(model, batch.select([line]), **options)
        for site in DEFAULT_SITES:
            assert max_error(single[site][0], together[site][line]) < EXACT


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_by_layer_the_layers_below_are_not_run_again(loaded, rows, monkeypatch, n_hooks, backend):
    model = loaded(2, backend, "float32")
    (batch,) = batches(model, rows)
    before = n_hooks(model)
    runs = [0, 0, 0]

    def count(layer):
        def counted(*_):
            runs[layer] += 1

        return counted

    handles = [
        block.ln2.register_forward_hook(count(layer)) for layer, block in enumerate(model.blocks)
    ]
    integrated_gradients(model, batch, sites=["mlp.hook_post"], path="layer", steps=1)
    for handle in handles:
        handle.remove()
    assert runs == [2, 3, 4]  # once for the residual streams, once for each layer at or below

    def fail(*_):
        raise RuntimeError("in the middle of a pass")

    monkeypatch.setattr(gradients, "answer_probability", fail)
    with pytest.raises(RuntimeError, match="in the middle"), torch.no_grad():
        gradients.residuals(model, batch)
    known = gradients.Residuals([batch.tokens[..., None].float()] * 3, [None] * 3)
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        gradients.starting_at(model, 2, known, n_copies=1),
    ):
        fail()
    assert n_hooks(model) == before
    assert all("forward" not in vars(block) for block in model.blocks)


def test_a_data_set_is_scored_alike(model, rows):
    options: dict[str, Any] = {"steps": 4, "path": "layer"}
    scores = attribute(model, rows, method="integrated_gradients", progress=False, **options)
    (batch,) = batches(model, rows)
    found = integrated_gradients(model, batch, **options)
    of_a = [line for line, culture in enumerate(batch.cultures) if culture == "A"]
    for site in DEFAULT_SITES:
        expected = found[site][of_a].sum(0) / 4
        assert max_error(scores.of_culture(site, "A"), expected) < EXACT
    assert {name: scores.source[name] for name in options} == options
    assert scores.source["method"] == "integrated_gradients"


@pytest.mark.parametrize("choice", [{"steps": 0}, {"path": "all"}])
@pytest.mark.usefixtures("as_for_a_user")
def test_an_impossible_path_is_a_sentence(model, rows, choice):
    ((name, value),) = choice.items()
    for score in (
        lambda: integrated_gradients(model, batches(model, rows)[0], **choice),
        lambda: attribute(model, rows, method="integrated_gradients", progress=False, **choice),
    ):
        with pytest.raises(InvalidInputError, match=f"{name}.*{value}"):
            score()
