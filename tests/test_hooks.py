"""One factor, multiplied in at hook points, is exactly the intervention that it claims to be."""

import copy
import itertools
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from reference import PlainTransformers, max_error, norm_error, suppressed
from transformers import GPT2Config, GPT2LMHeadModel

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.evaluation import greedy_replies
from culnig_tl.hooked_model import hooked
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.models import load_model
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


def doubled(activation, hook):
    return activation * 2


def test_contexts_left_out_of_order_switch_off_their_own_neurons_only(either, tokens, n_hooks):
    before, plain = n_hooks(either), either(tokens)
    neurons = [NeuronSet.of({"mlp.hook_post": [(layer, 3)]}) for layer in (0, 1)]
    with scaled_neurons(either, neurons[1]):
        only_second = either(tokens)
    first, second = (scaled_neurons(either, each) for each in neurons)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(either(tokens), only_second)
    second.__exit__(None, None, None)
    assert n_hooks(either) == before
    assert torch.equal(either(tokens), plain)


def test_contexts_of_transformer_lens_and_ours_leave_each_other_alone(either, tokens, n_hooks):
    """Whichever is entered or left first, and whatever a user has set by add_hook."""
    before, plain = n_hooks(either), either(tokens)
    either.add_hook("blocks.2.hook_resid_post", doubled)
    user = either(tokens)
    neurons = some_neurons(either, "mlp.hook_post")
    with scaled_neurons(either, neurons):
        both = either(tokens)
    theirs = either.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", doubled)])
    ours = scaled_neurons(either, neurons)
    theirs.__enter__()
    ours.__enter__()
    theirs.__exit__(None, None, None)
    assert torch.equal(either(tokens), both)
    theirs = either.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", doubled)])
    theirs.__enter__()
    ours.__exit__(None, None, None)
    assert not torch.equal(either(tokens), user)
    theirs.__exit__(None, None, None)
    assert torch.equal(either(tokens), user)
    either.reset_hooks()
    assert n_hooks(either) == before
    assert torch.equal(either(tokens), plain)


def test_a_hook_that_a_user_set_before_runs_before(either, tokens):
    """``(2 a) * 0.5 + 1`` and not ``2 (0.5 a + 1)``."""
    seen = []

    def plus_one(activation, hook):
        return activation + 1

    def keep(activation, hook):
        seen.append(activation)

    point = "blocks.1.mlp.hook_post"
    plain = recorded(either, tokens, "mlp.hook_post", 1)
    with (
        either.hooks(fwd_hooks=[(point, doubled)]),
        scaled_neurons(either, NeuronSet.of({"mlp.hook_post": [(1, 5)]}), factor=0.5),
        hooked(either, [(point, plus_one), (point, keep)]),
    ):
        either(tokens)
    expected = 2 * plain
    expected[:, 5] *= 0.5
    assert torch.equal(seen[0][0], expected + 1)


def test_an_unknown_hook_point_is_a_sentence_and_sets_no_hook(either, n_hooks):
    before = n_hooks(either)
    hooks = [("blocks.0.mlp.hook_post", doubled), ("blocks.9.mlp.hook_post", doubled)]
    with (
        pytest.raises(UnknownNameError, match=r"no hook point 'blocks\.9\.mlp\.hook_post'"),
        hooked(either, hooks),
    ):
        raise AssertionError("the block must not run")
    assert n_hooks(either) == before


def test_a_hook_point_that_is_switched_off_is_no_site(folders, monkeypatch):
    """TransformerLens calls ``attn.hook_result`` only where it was told to; a bridge that is asked
    to hook it raises an error of its own."""
    site = replace(KNOWN_SITES["attn.hook_q"], name="attn.hook_result")
    monkeypatch.setitem(KNOWN_SITES, site.name, site)
    for backend in ("hooked", "bridge"):
        model = load_model(folders[2], backend=backend)
        with pytest.raises(UnknownNameError, match=r"'attn\.hook_result' is not a site"):
            site_shape(model, site.name)


def test_hooks_are_set_at_one_place() -> None:
    """Each of TransformerLens's own blocks removes by its depth, and in any thread."""
    sources = Path(ct.__file__).parent.rglob("*.py")
    places = {
        path.name
        for path in sources
        for call in ("model.hooks(", ".add_hook(", ".run_with_hooks(", ".run_with_cache(")
        for line in path.read_text(encoding="utf-8").splitlines()
        if call in line and not line.lstrip().startswith(">>>")  # a user's own
    }
    assert places == {"hooked_model.py"}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory, make_tokenizer):
    """A model with dropout, as a bridge: in training mode it answers by chance."""
    folder, tokenizer = tmp_path_factory.mktemp("gpt2"), make_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder, backend="bridge", device="cpu")


def in_training(model):
    model.train()
    return ExitStack()


def in_float64(model):
    stack = ExitStack()
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)
    return stack


SURROUNDINGS = {
    "inference_mode": lambda model: torch.inference_mode(),
    "no_grad": lambda model: torch.no_grad(),
    "autocast": lambda model: torch.autocast("cpu", torch.bfloat16),
    "training": in_training,
    "float64": in_float64,
}


def everything(model, rows):
    """One number, or several, of every kind of pass."""
    card = ct.inspect_neuron(model, rows, "L1.mlp.hook_post.3")
    score = partial(ct.attribute, model, rows, progress=False)
    integrate = partial(score, method="integrated_gradients", steps=2, sites=["attn.hook_v"])
    return {
        "evaluate": ct.evaluate(model, rows)["probability"].tolist(),
        "whole": ct.evaluate(model, rows, mode="likelihood")["probability"].tolist(),
        "scores": score().total("mlp.hook_post").tolist(),
        "integrated": integrate().total("attn.hook_v").tolist(),
        "by layer": integrate(path="layer").total("attn.hook_v").tolist(),
        "card": card.questions["score"].tolist() + card.promoted["effect"].tolist(),
        "prompt": ct.inspect_prompt(model, rows[3]).neurons["attribution"].tolist(),
        "written": greedy_replies(model, ["Which drink?"], max_new_tokens=4),
    }


@pytest.mark.filterwarnings("ignore:Integrated gradients do not add up")  # of two steps
@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("kind", ["hooked", "gpt2"])
def test_what_surrounds_a_pass_changes_no_bit(loaded, gpt2, rows, kind, name):
    model = gpt2 if kind == "gpt2" else loaded(2, "hooked", "float32")
    plain = everything(model, rows)
    with SURROUNDINGS[name](model):
        inside = everything(model, rows)
    was_training = {module.training for module in model.modules()}
    model.eval()
    assert was_training == {name == "training"}, "the mode is the user's"
    assert inside == plain
    assert everything(model, rows) == plain


def test_a_users_own_pass_computes_as_the_user_says(gpt2, tokens):
    with scaled_neurons(gpt2, NeuronSet.of({"mlp.hook_post": [(0, 1)]})):
        with torch.autocast("cpu", torch.bfloat16):
            assert gpt2(tokens).dtype == torch.bfloat16
        with torch.inference_mode():
            assert gpt2(tokens).is_inference()


def test_a_model_may_be_loaded_in_inference_mode(folders, rows):
    expected = ct.attribute(load_model(folders[2]), rows, progress=False)
    with torch.inference_mode():
        model = load_model(folders[2])
        prepared = ct.prepare(model, rows)
        inside = ct.attribute(model, prepared, progress=False)
    for scores in (inside, ct.attribute(model, prepared, progress=False)):
        assert torch.equal(scores.total("mlp.hook_post"), expected.total("mlp.hook_post"))


def test_weights_of_inference_mode_are_a_sentence(folders, rows):
    with torch.inference_mode():
        model = copy.deepcopy(load_model(folders[2]))
    with pytest.raises(InvalidInputError, match=r"made under torch\.inference_mode\(\).*outside"):
        ct.attribute(model, rows, progress=False)


def test_another_default_device_is_a_sentence(model, rows):
    prepared = ct.prepare(model, rows)
    for given in (rows, prepared):
        with (
            torch.device("meta"),
            pytest.raises(InvalidInputError, match=r"default device is 'meta'.*set_default_device"),
        ):
            ct.evaluate(model, given)
