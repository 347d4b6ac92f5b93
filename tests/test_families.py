"""Every family, on both backends, is the model that transformers loads, neuron by neuron.

The models are random and made here; ../shared/data is not needed.
"""

import itertools
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import FAMILIES, needs_hooked, plain_logits, plain_scores, save
from reference import norm_error
from transformers import AutoModelForCausalLM

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.logits import last_logits
from culnig_tl.models import load_model
from culnig_tl.questions import Batch
from culnig_tl.sites import SITES, _n_tokens, site_shape

# float32 rounds each product by 6e-8, a dozen layers of them: about 1e-6; 1e-5 leaves room.
SINGLE = 1e-5
CASES = [(name, backend) for name, family in FAMILIES.items() for backend in family.backends]
HALF_CASES = [case for case in CASES if not FAMILIES[case[0]].half_refusal]
REFUSED = [
    (name, dtype, refusal)
    for name, family in FAMILIES.items()
    for dtype, refusal in (
        ("float32", family.refusal),
        ("bfloat16", family.refusal or family.half_refusal),
    )
    if refusal
]
# Those whose scores are compared with the naive loop as well.
SCORED = [
    *("llama-3.1", "qwen3", "phi-4", "gemma-3", "gemma-3-multimodal", "falcon3", "gpt2", "pythia"),
    *("gemma-2", "gemma", "mistral", "qwen2", "olmo", "olmo-2", "mixtral", "qwen3-moe"),
    *("cohere", "hunyuan", "gemma-3-caps", "phi-4-mini", "qwen3-biases", "granite", "seed-oss"),
]
SCORED_CASES = [(name, backend) for name, backend in CASES if name in SCORED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_tokenizer):
    """``folder(name)``: where the random model of a family was saved."""

    @cache
    def make(name):
        place = tmp_path_factory.mktemp("family") / "model"
        save(name, place, make_tokenizer())
        return place

    return make


@pytest.fixture(scope="module")
def plain(folder):
    """``plain(name, dtype)``: what transformers loads from there; ``widened`` to float32 after."""

    @cache
    def load(name, dtype=torch.float32, *, widened=False):
        model = AutoModelForCausalLM.from_pretrained(
            folder(name), dtype=dtype, attn_implementation="eager"
        ).eval()
        return model.float() if widened else model

    return load


@pytest.fixture(scope="module")
def taken(folder):
    """``taken(name, backend, dtype)``: the model as the package loads it, made once.

    In float32 the backend that it takes by itself is left to it.
    """

    @cache
    def load(name, backend, dtype):
        return load_model(folder(name), backend=backend, dtype=dtype, device="cpu")

    def of(name, backend, dtype: Any = "float32"):
        by_itself = dtype == "float32" and (backend,) == FAMILIES[name].backends[:1]
        return load(name, "auto" if by_itself else backend, dtype)

    return of


@pytest.fixture(scope="module")
def batch():
    """Three prompts of 40, 29 and 5 tokens, padded on the left; each is a culture of its own."""
    tokens = torch.randint(3, 290, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    for line, padding in enumerate((0, 11, 35)):
        tokens[line, :padding], mask[line, :padding] = 0, False
    answers = torch.tensor([5, 77, 123])
    return Batch(tokens, mask, answers, cultures=("A", "B", "C"), ids=("q1", "q2", "q3"))


def half_of(model):
    """Every second neuron of the MLPs."""
    n_layers, width = site_shape(model, "mlp.hook_post")
    places = itertools.product(range(n_layers), range(0, width, 2))
    return ct.NeuronSet.of({"mlp.hook_post": list(places)})


def read(model, batch, *, masked):
    with torch.no_grad():
        if not masked:
            return last_logits(model, batch.tokens, batch.mask)
        with ct.scaled_neurons(model, half_of(model), factor=0.0):
            return last_logits(model, batch.tokens, batch.mask)


def masks_of(name):
    return (False, True) if "mlp.hook_post" in FAMILIES[name].mlp_sites else (False,)


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_logits_are_those_of_transformers(plain, taken, batch, name, backend):
    """Prompt by prompt, and with half of the neurons of every MLP at 0."""
    for masked in masks_of(name):
        expected = plain_logits(plain(name), batch.tokens, batch.mask, masked=masked)
        found = read(taken(name, backend), batch, masked=masked)
        for line in range(len(batch)):
            assert norm_error(found[line], expected[line]) < SINGLE
    assert taken(name, backend).cfg.caches == FAMILIES[name].caches


@pytest.mark.parametrize(("name", "backend"), HALF_CASES)
def test_bfloat16_rounds_as_transformers_does(plain, taken, batch, name, backend):
    """Both differ from the same weights in float32 by as much; a token that rounding sends to
    another expert counts in one of them only, so that the best of three prompts is compared."""
    narrow = plain(name, torch.bfloat16)
    exact = plain(name, torch.bfloat16, widened=True)
    for masked in masks_of(name):
        right = plain_logits(exact, batch.tokens, batch.mask, masked=masked)
        own = plain_logits(narrow, batch.tokens, batch.mask, masked=masked)
        found = read(taken(name, backend, "bfloat16"), batch, masked=masked)
        ours, theirs = (
            sorted(norm_error(each[line], right[line]) for line in range(len(batch)))
            for each in (found, own)
        )
        assert ours[0] < 3 * theirs[0]


@pytest.mark.parametrize(("name", "dtype", "sentence"), REFUSED)
def test_what_is_refused_is_a_sentence(folder, name, dtype, sentence):
    with pytest.raises(InvalidInputError, match=sentence) as refusal:
        load_model(folder(name), dtype=dtype, device="cpu")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "backend"), SCORED_CASES)
@pytest.mark.parametrize("padding", ["zero", "ignore"])
def test_scores_are_those_of_plain_transformers(plain, taken, batch, name, backend, padding):
    sites = FAMILIES[name].sites
    expected = plain_scores(plain(name), batch, sites, padding=padding)
    scores = ct.attribute(
        taken(name, backend), [batch], sites=sites, padding=padding, progress=False
    )
    for site, line in itertools.product(sites, range(len(batch))):
        # a culture's score is divided by the number of questions in the data
        found = scores.values[site][line] * len(batch)
        assert norm_error(found, expected[site][line]) < SINGLE, site


@pytest.mark.parametrize("sites", [ct.DEFAULT_SITES, ct.PAPER_SITES])
def test_a_subset_of_the_sites_has_the_same_scores(taken, batch, sites):
    model = taken("phi-4", "bridge")
    every = ct.attribute(model, [batch], sites=FAMILIES["phi-4"].sites, progress=False)
    some = ct.attribute(model, [batch], sites=sites, progress=False)
    assert list(some.values) == list(sites)
    assert all(torch.equal(some.values[site], every.values[site]) for site in sites)


@needs_hooked
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.hooked])
def test_auto_takes_hooked_for_every_family_that_can_be_converted(taken, name):
    model = taken(name, "hooked")
    assert type(model).__name__ == "HookedTransformer"
    assert model.cfg.loaded_as.startswith("HookedTransformer, which computes what")


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if not (family.hooked or family.refusal)]
)
def test_auto_takes_a_bridge_for_the_others_and_says_why(taken, name):
    model = taken(name, "bridge")
    assert type(model).__name__ == "TransformerBridge"
    assert model.cfg.loaded_as.startswith("TransformerBridge, since as a HookedTransformer: ")


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_a_family_has_its_sites_and_refuses_others_by_name(taken, name, backend):
    """A mixture of experts has no MLP neurons; its bridge would pass the residual stream as one."""
    model, present = taken(name, backend), FAMILIES[name].sites
    for site in SITES:
        if site in present:
            assert site_shape(model, site)[0] == 2
            continue
        with pytest.raises(UnknownNameError) as caught:
            site_shape(model, site)
        assert repr(site) in str(caught.value)
        assert f"it has {', '.join(present) or 'none'}" in str(caught.value)


@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v3", "glm-4-moe-lite", "youtu"])
@pytest.mark.parametrize("site", ["attn.hook_q", "attn.hook_k", "attn.hook_v"])
def test_latent_attention_is_refused_before_a_prompt_of_another_length_fails(taken, name, site):
    """Its hook points see ``[batch head pos d]``: two tokens of width 16 fill four heads of 8."""
    with (
        pytest.raises(UnknownNameError, match=r"hook point of that name sees no such neurons"),
        ct.scaled_neurons(taken(name, "bridge"), f"L0.{site}.3"),
    ):
        pass


@pytest.mark.parametrize(("heads", "key_value_heads"), [(4, 2), (2, 2), (3, 2), (2, 3), (32, 8)])
def test_the_probe_is_as_long_as_no_number_of_heads(heads, key_value_heads):
    config = SimpleNamespace(n_heads=heads, n_key_value_heads=key_value_heads)
    assert _n_tokens(config) not in (heads, key_value_heads, 1)


@pytest.mark.parametrize(("name", "backend"), SCORED_CASES)
def test_a_site_is_as_wide_as_the_linear_layer_it_stands_for(taken, plain, name, backend):
    model, config = taken(name, backend), plain(name).config.get_text_config()
    d_head = getattr(config, "head_dim", None) or 8
    key_value_heads = getattr(config, "num_key_value_heads", 4)
    widths = dict.fromkeys(FAMILIES[name].mlp_sites, 48)
    widths |= {"attn.hook_q": 4 * d_head}
    widths |= dict.fromkeys(("attn.hook_k", "attn.hook_v"), key_value_heads * d_head)
    assert {site: site_shape(model, site) for site in widths} == {
        site: (2, width) for site, width in widths.items()
    }
