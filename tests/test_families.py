"""Every family, on both backends, is the model that transformers loads, neuron by neuron.

The models are random and made here; ../shared/data is not needed.
"""

import itertools
from functools import cache

import pytest
import torch
from families import FAMILIES, plain_logits, plain_scores, save
from reference import norm_error

import culnig_tl as ct
from culnig_tl.errors import UnknownNameError
from culnig_tl.hooks import MLP_SITES, last_logits, site_shape
from culnig_tl.models import load_model
from culnig_tl.questions import Batch

# float32 rounds each product by 6e-8, a dozen layers of them: about 1e-6; 1e-5 leaves room.
SINGLE = 1e-5
CASES = [(name, backend) for name, family in FAMILIES.items() for backend in family.backends]


@pytest.fixture(scope="module")
def family(tmp_path_factory, make_tokenizer):
    """``family(name)``: the model as transformers made it and the folder it was saved to."""

    @cache
    def make(name):
        folder = tmp_path_factory.mktemp("family") / "model"
        return save(name, folder, make_tokenizer()), folder

    return make


@pytest.fixture(scope="module")
def taken(family):
    """``taken(name, backend)``: the model as the package loads it, made once."""

    @cache
    def load(name, backend):
        return load_model(family(name)[1], backend=backend, device="cpu")

    return load


@pytest.fixture(scope="module")
def batch():
    """Three prompts of 40, 29 and 5 tokens, padded on the left; each is a culture of its own."""
    tokens = torch.randint(3, 290, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    for line, padding in enumerate((0, 11, 35)):
        tokens[line, :padding], mask[line, :padding] = 0, False
    answers = torch.tensor([5, 77, 123])
    return Batch(tokens, mask, answers, cultures=("A", "B", "C"), ids=("q1", "q2", "q3"))


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_logits_are_those_of_transformers(family, taken, batch, name, backend):
    with torch.no_grad():
        expected = plain_logits(family(name)[0], batch.tokens, batch.mask)
        found = last_logits(taken(name, backend), batch.tokens, batch.mask)
    for line in range(len(batch)):
        assert norm_error(found[line], expected[line]) < SINGLE


@pytest.mark.parametrize(("name", "backend"), CASES)
@pytest.mark.parametrize("padding", ["zero", "ignore"])
def test_scores_are_those_of_plain_transformers(family, taken, batch, name, backend, padding):
    sites = FAMILIES[name].sites
    expected = plain_scores(family(name)[0], batch, sites, padding=padding)
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


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.hooked])
def test_auto_takes_hooked_for_every_family_that_can_be_converted(taken, name):
    model = taken(name, "auto")
    assert type(model).__name__ == "HookedTransformer"
    assert model.cfg.loaded_as.startswith("HookedTransformer, which computes what")


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_a_site_is_as_wide_as_the_linear_layer_it_stands_for(family, taken, name, backend):
    model, config = taken(name, backend), family(name)[0].config.get_text_config()
    d_head = getattr(config, "head_dim", None) or 8
    key_value_heads = getattr(config, "num_key_value_heads", 4)
    widths = dict.fromkeys(FAMILIES[name].mlp_sites, 48)
    widths |= {"attn.hook_q": 4 * d_head}
    widths |= dict.fromkeys(("attn.hook_k", "attn.hook_v"), key_value_heads * d_head)
    assert {site: site_shape(model, site) for site in widths} == {
        site: (2, width) for site, width in widths.items()
    }


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_a_site_that_a_family_does_not_have_is_refused(taken, batch, name, backend):
    """A mixture of experts has no MLP neurons; its bridge would pass the residual stream as one."""
    present = FAMILIES[name].sites
    for absent in set(MLP_SITES) - set(present):
        with pytest.raises(UnknownNameError) as caught:
            ct.attribute(taken(name, backend), [batch], sites=(absent,), progress=False)
        assert repr(absent) in str(caught.value)
        assert f"it has {', '.join(present)}" in str(caught.value)
