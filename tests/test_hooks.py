"""One factor, multiplied in at hook points, is exactly the intervention that it claims to be."""

import itertools

import pytest
import torch
from reference import PlainTransformers, max_error, norm_error, suppressed

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import batches
from culnig_tl.sites import SITES as KNOWN_SITES
from culnig_tl.sites import site_shape

SITES = list(KNOWN_SITES)
MLP_SITES = [name for name, site in KNOWN_SITES.items() if site.pool == "mlp"]
# float32: twelve layers of rounding, as in test_attribution
SINGLE = 1e-5


def some_neurons(model, site: str) -> NeuronSet:
    width = site_shape(model, site)[1]
    return NeuronSet.of({site: [(0, 1), (0, width - 1), (1, 0), (2, width // 2)]})


def recorded(model, tokens, site, layer):
    """The activation that the rest of the model sees, flattened to [pos neuron]."""
    name = f"blocks.{layer}.{site}"
    _, cache = model.run_with_cache(tokens, names_filter=lambda each: each == name)
    return cache[name][0].flatten(1)


@pytest.fixture
def tokens(model, rows):
    """The longest prompt, which has no padding."""
    return batches(model, rows)[0].tokens[:1]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0, -1.5])
def test_the_factor_multiplies_the_neurons_and_nothing_else(either, tokens, site, factor):
    neurons = NeuronSet.of({site: [(1, 3), (1, 5)]})
    before = recorded(either, tokens, site, 1)
    with scaled_neurons(either, neurons, factor=factor):
        after = recorded(either, tokens, site, 1)
    expected = before.clone()
    expected[:, 3] *= factor
    expected[:, 5] *= factor
    assert torch.equal(after, expected)


@pytest.mark.parametrize("site", SITES)
def test_positions_last_leaves_the_earlier_ones(either, tokens, site):
    neurons = NeuronSet.of({site: [(1, 3)]})
    before = recorded(either, tokens, site, 1)
    with scaled_neurons(either, neurons, factor=0.0, positions="last"):
        after = recorded(either, tokens, site, 1)
    expected = before.clone()
    expected[-1, 3] = 0.0
    assert torch.equal(after, expected)


def test_factor_one_changes_nothing_and_nested_factors_multiply(either, tokens):
    neurons = some_neurons(either, "mlp.hook_post")
    plain = either(tokens)
    with scaled_neurons(either, neurons, factor=1.0):
        assert torch.equal(either(tokens), plain)
    with scaled_neurons(either, neurons, factor=0.25):
        quarter = either(tokens)
    with scaled_neurons(either, neurons, factor=0.5):
        half = either(tokens)
        with scaled_neurons(either, neurons, factor=0.5):
            torch.testing.assert_close(either(tokens), quarter)
        assert torch.equal(either(tokens), half)
    assert torch.equal(either(tokens), plain)
    assert not torch.allclose(half, plain)


@pytest.mark.parametrize("factor", [0.0, 2.0])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_scaling_equals_scaling_in_plain_transformers(
    folders, loaded, tokens, backend, site, factor
):
    """Zeroing mlp.hook_post is zeroing the input of down_proj, and so for every site."""
    model = loaded(2, backend, "float32")
    neurons = some_neurons(model, site)
    plain = PlainTransformers(folders[2], torch.float32)
    with torch.no_grad():
        expected = plain.logits(tokens[0].tolist(), suppressed(list(neurons), factor))
        untouched = plain.logits(tokens[0].tolist())
    with scaled_neurons(model, neurons, factor=factor):
        found = model(tokens)[0, -1]
    assert norm_error(found, expected) < SINGLE
    assert norm_error(untouched, expected) > 100 * SINGLE


def test_zeroing_hook_pre_is_zeroing_hook_post_and_doubling_is_not(either, tokens):
    neurons = [(0, 1), (1, 7), (2, 40)]
    outputs = {}
    for site in ("mlp.hook_pre", "mlp.hook_post"):
        for factor in (0.0, 2.0):
            with scaled_neurons(either, NeuronSet.of({site: neurons}), factor=factor):
                outputs[site, factor] = either(tokens)
    torch.testing.assert_close(outputs["mlp.hook_pre", 0.0], outputs["mlp.hook_post", 0.0])
    assert max_error(outputs["mlp.hook_pre", 2.0], outputs["mlp.hook_post", 2.0]) > 1e-3


def test_an_exception_inside_leaves_no_hook(either, tokens, n_hooks):
    before, plain = n_hooks(either), either(tokens)
    neurons = some_neurons(either, "attn.hook_k")

    def fail():
        with scaled_neurons(either, neurons):
            assert n_hooks(either) > before
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert n_hooks(either) == before
    assert torch.equal(either(tokens), plain)


def test_an_error_on_the_way_in_leaves_no_hook(either, n_hooks):
    before = n_hooks(either)
    for neurons in ({"mlp.hook_nothing": [(0, 0)]}, {"mlp.hook_post": [(0, 0), (99, 0)]}):
        with (
            pytest.raises((UnknownNameError, InvalidInputError)),
            scaled_neurons(either, NeuronSet.of(neurons)),
        ):
            raise AssertionError("the block must not run")
    assert n_hooks(either) == before


def test_an_unknown_site_lists_the_known_ones(either):
    with pytest.raises(UnknownNameError, match=r"'mlp\.hook_out'.*mlp\.hook_post"):
        site_shape(either, "mlp.hook_out")


@pytest.mark.parametrize("neuron", [(3, 0), (0, 64)])
def test_a_neuron_outside_the_model_is_refused_with_both_numbers(either, neuron):
    neurons = NeuronSet.of({"mlp.hook_post": [neuron]})
    with (
        pytest.raises(InvalidInputError, match="3 layers of 64 neurons"),
        scaled_neurons(either, neurons),
    ):
        raise AssertionError("the block must not run")


@pytest.mark.usefixtures("as_for_a_user")
def test_unknown_positions_are_a_sentence_and_never_other_positions(model, tokens):
    neurons = NeuronSet.of({"mlp.hook_post": [(0, 0)]})
    with (
        pytest.raises(InvalidInputError, match=r"positions.*first"),
        scaled_neurons(model, neurons, positions="first"),  # pyright: ignore[reportArgumentType]
    ):
        model(tokens)


def test_grouped_query_attention_has_fewer_keys_and_values(loaded):
    for backend in ("hooked", "bridge"):
        shapes = {site: site_shape(loaded(2, backend, "float32"), site) for site in SITES}
        assert shapes["attn.hook_q"] == (3, 32)
        assert shapes["attn.hook_k"] == shapes["attn.hook_v"] == (3, 16)
        assert site_shape(loaded(4, backend, "float32"), "attn.hook_k") == (3, 32)
        assert {shapes[site] for site in MLP_SITES} == {(3, 64)}


@pytest.mark.parametrize(
    ("backend", "dtype"), [("hooked", "float64"), ("hooked", "float32"), ("bridge", "float32")]
)
def test_last_logits_are_those_of_each_prompt_read_alone(loaded, rows, backend, dtype):
    model = loaded(2, backend, dtype)
    (batch,) = batches(model, rows)
    found = last_logits(model, batch.tokens, batch.mask)
    everything = model(batch.tokens, attention_mask=batch.mask.long())
    assert norm_error(found, everything[:, -1]) < SINGLE
    for line in range(len(batch)):
        alone = model(batch.tokens[line][batch.mask[line]][None])[0, -1]
        assert norm_error(found[line], alone) < SINGLE


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("hooked", "float64"), *itertools.product(("hooked", "bridge"), ("float32", "bfloat16"))],
)
def test_padding_never_makes_a_logit_that_is_no_number(loaded, rows, backend, dtype):
    model = loaded(2, backend, dtype)
    (batch,) = batches(model, rows)
    assert last_logits(model, batch.tokens, batch.mask).isfinite().all()


def test_last_logits_leave_no_hook(either, tokens, n_hooks):
    before = n_hooks(either)
    last_logits(either, tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert n_hooks(either) == before
