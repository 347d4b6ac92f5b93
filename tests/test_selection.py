"""Selections equal the loops of METHOD section 5, ties and truncation included."""

from dataclasses import replace

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific, random_neurons
from culnig_tl.sites import DEFAULT_SITES, site_shape

SHAPES = {
    "mlp.hook_post": (3, 10),
    "mlp.hook_pre_linear": (3, 10),
    "attn.hook_q": (3, 4),
    "attn.hook_k": (3, 2),
    "attn.hook_v": (3, 2),
}
CULTURES = ("B", "A", "C")
SOURCE = {"model": "m", "method": "x", "pool": "max", "padding": "ignore", "weight": "probability"}


def scores_of(values, cultures=CULTURES, **source) -> NeuronScores:
    return NeuronScores(
        values=values,
        cultures=tuple(cultures),
        n_questions=1,
        n_prompts=(1,) * len(cultures),
        source={**SOURCE, **source},
    )


def random_scores(seed: int, *, ties: bool = False, cultures=CULTURES) -> NeuronScores:
    """Normal scores; with ``ties`` a few small integers, which float32 adds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return scores_of(
        {
            site: torch.randint(-2, 3, (len(cultures), *shape), generator=generator).float()
            if ties
            else torch.randn(len(cultures), *shape, generator=generator)
            for site, shape in SHAPES.items()
        },
        cultures,
    )


def table(scores: NeuronScores) -> reference.Table:
    """By culture and neuron; one site after the other, each in layer-then-neuron order."""
    return {
        culture: {
            (site, layer, k): value
            for site in scores.sites
            for layer, line in enumerate(scores.values[site][i].tolist())
            for k, value in enumerate(line)
        }
        for i, culture in enumerate(scores.cultures)
    }


shares = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.29, 0.5, 1.0])
seeds = st.integers(0, 10_000)


@given(seeds, st.booleans(), shares, shares, shares)
@pytest.mark.filterwarnings("ignore:The control scores higher")
def test_culture_general_equals_the_loops(seed, ties, mlp_top, attention_top, recognition_top):
    given_scores = [random_scores(seed + i, ties=ties) for i in range(3)]
    options = {
        "mlp_top": mlp_top,
        "attention_top": attention_top,
        "recognition_top": recognition_top,
    }
    found = culture_general(*given_scores, **options)
    assert set(found) == reference.culture_general(*map(table, given_scores), **options)


@given(seeds, st.booleans(), shares, shares, st.sampled_from([-1.0, 0.0, 0.5, 1.2]))
def test_culture_specific_equals_the_loops(seed, ties, top, recognition_top, min_z):
    given_scores = [random_scores(seed + i, ties=ties) for i in range(3)]
    for culture in CULTURES:
        options = {
            "culture": culture,
            "top": top,
            "recognition_top": recognition_top,
            "min_z": min_z,
        }
        found = culture_specific(*given_scores, **options)
        assert set(found) == reference.culture_specific(*map(table, given_scores), **options)


def test_the_share_of_a_pool_is_truncated_and_the_pools_are_apart():
    """30 MLP neurons and 24 attention neurons: 7 % of 30 is 2.1, 12 % of 24 is 2.88."""
    found = culture_general(random_scores(1), mlp_top=0.07, attention_top=0.12)
    assert len(found["mlp.hook_post"]) == 2
    assert len(found) - len(found["mlp.hook_post"]) == 2


def test_culture_specific_neurons_share_one_pool():
    """Attention scores far above the rest take every place of the one pool."""
    scores = random_scores(2)
    values = {
        site: value + 100 * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
        if site.startswith("attn")
        else value
        for site, value in scores.values.items()
    }
    found = culture_specific(scores_of(values), culture="B", top=0.1)
    assert len(found) == int(54 * 0.1)
    assert found["mlp.hook_post"] == ()


def test_recognition_drops_the_top_of_each_pool_and_fills_no_gap():
    scores = random_scores(3)
    kept = culture_general(scores, mlp_top=0.2, attention_top=0.2)
    # scored for names like for culture: the best of each pool drop out, unreplaced
    fewer = culture_general(
        scores, None, scores, mlp_top=0.2, attention_top=0.2, recognition_top=0.1
    )
    dropped = kept - fewer
    assert len(dropped["mlp.hook_post"]) == int(30 * 0.1)
    assert len(dropped) - len(dropped["mlp.hook_post"]) == int(24 * 0.1)
    assert set(fewer) <= set(kept)


@pytest.mark.filterwarnings("ignore:The control scores higher")
def test_the_control_is_subtracted():
    scores = random_scores(4)
    halved = scores_of({site: value / 2 for site, value in scores.values.items()})
    zero = scores_of({site: 0 * value for site, value in scores.values.items()})
    assert set(culture_general(scores, zero, mlp_top=0.2)) == set(
        culture_general(scores, halved, mlp_top=0.2)
    )
    opposite = scores_of({site: 2 * value for site, value in scores.values.items()})
    lowest = culture_general(scores, opposite, mlp_top=0.2)
    assert not set(lowest) & set(culture_general(scores, zero, mlp_top=0.2))


def test_ties_keep_layer_then_neuron_order():
    scores = scores_of({site: torch.ones(3, *shape) for site, shape in SHAPES.items()})
    found = culture_general(scores, mlp_top=0.4, attention_top=0.0)
    assert found["mlp.hook_post"] == tuple(divmod(index, 10) for index in range(12))


def test_a_culture_like_all_others_has_no_z_score():
    """The same value for every culture deviates by 0, and 0 counts as z = 0."""
    values = {site: torch.rand(1, *shape).expand(3, *shape) for site, shape in SHAPES.items()}
    assert len(culture_specific(scores_of(values), culture="A", top=1.0)) == 0
    assert len(culture_specific(scores_of(values), culture="A", top=1.0, min_z=0.0)) == 54


def test_scores_stand_beside_their_neurons():
    scores, control = random_scores(5), random_scores(6)
    for site, layer, neuron, score in (
        culture_general(scores, control, mlp_top=0.2)
        .to_frame()[["site", "layer", "neuron", "score"]]
        .itertuples(index=False, name=None)
    ):
        gain = scores.total(site) - control.total(site)
        assert score == pytest.approx(gain[layer, neuron].item(), rel=1e-6)


def test_up_proj_is_never_selected():
    scores = random_scores(7)
    for found in (
        culture_general(scores, mlp_top=1.0, attention_top=1.0),
        culture_specific(scores, culture="A", top=1.0, min_z=-9.0),
    ):
        assert "mlp.hook_pre_linear" not in found.sites
        assert "mlp.hook_pre_linear" not in found.shapes
        assert len(found) == 54


def test_scores_of_up_proj_alone_select_nothing():
    site = "mlp.hook_pre_linear"
    only = scores_of({site: random_scores(8).values[site]})
    assert len(culture_general(only, mlp_top=1.0)) == 0
    assert len(culture_specific(only, culture="A", top=1.0, min_z=-9.0)) == 0


def test_the_same_neurons_at_two_sites_make_no_pool():
    values = {"mlp.hook_post": torch.ones(3, 3, 10), "mlp.hook_pre": torch.ones(3, 3, 10)}
    with pytest.raises(InvalidInputError, match=r"same MLP neurons at mlp\.hook_post and mlp"):
        culture_general(scores_of(values))


def test_an_unknown_culture_lists_the_known_ones():
    scores = random_scores(9)
    with pytest.raises(UnknownNameError, match=r"'Atlantis'.*B, A, C"):
        culture_specific(scores, culture="Atlantis")
    names = random_scores(9, cultures=("A", "C"))
    with pytest.raises(UnknownNameError, match=r"'B'.*A, C"):
        culture_specific(scores, None, names, culture="B")


def test_a_control_of_other_cultures_is_refused_and_the_difference_named():
    with pytest.raises(InvalidInputError, match="not in both: C, D"):
        culture_general(random_scores(1), random_scores(2, cultures=("A", "B", "D")))


def test_the_order_of_the_controls_cultures_does_not_matter():
    scores, control = random_scores(1), random_scores(2)
    turned = replace(
        control,
        cultures=control.cultures[::-1],
        values={site: value.flip(0) for site, value in control.values.items()},
    )
    for culture in CULTURES:
        options = {"culture": culture, "top": 0.3, "min_z": 0.0}
        assert culture_specific(scores, control, **options) == culture_specific(
            scores, turned, **options
        )


@pytest.mark.parametrize("name", ["model", "method", "pool", "padding", "weight"])
def test_scores_made_in_different_ways_are_not_compared(name):
    other = replace(random_scores(2), source={**SOURCE, name: "other"})
    for others in ((other,), (None, other)):
        with pytest.raises(InvalidInputError, match=f"cannot be compared: {name}"):
            culture_general(random_scores(1), *others)


def test_scores_of_different_sites_are_not_compared():
    scores = random_scores(1)
    fewer = replace(scores, values={"mlp.hook_post": scores.values["mlp.hook_post"]})
    with pytest.raises(InvalidInputError, match="same sites"):
        culture_general(scores, fewer)


@pytest.mark.parametrize("share", [-0.01, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        culture_general(random_scores(1), mlp_top=share)
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        culture_specific(random_scores(1), culture="A", top=share)


# ---------------------------------------------------------------- random neurons


@pytest.fixture
def like(model) -> NeuronSet:
    shapes = {site: site_shape(model, site) for site in DEFAULT_SITES}
    return NeuronSet.of(
        {"mlp.hook_post": [(0, 1), (0, 2), (2, 5)], "attn.hook_q": [(1, 7)]}, shapes=shapes
    )


def test_a_random_set_has_the_size_of_its_model_and_no_repeats(model, like):
    for seed in range(20):
        drawn = random_neurons(model, like=like, seed=seed)
        assert len(drawn) == len(set(drawn)) == len(like)
        for site, layer, neuron in drawn:
            n_layers, width = site_shape(model, site)
            assert layer < n_layers
            assert neuron < width


def test_a_random_set_is_the_same_for_the_same_seed_only(model, like):
    assert random_neurons(model, like=like, seed=3) == random_neurons(model, like=like, seed=3)
    assert len({tuple(random_neurons(model, like=like, seed=seed)) for seed in range(10)}) == 10


def test_random_sets_are_drawn_from_all_sites_in_proportion(model, like):
    """192 MLP and 192 attention neurons: of 400 neurons about half are MLP neurons."""
    drawn = [random_neurons(model, like=like, seed=seed) for seed in range(100)]
    n_mlp = sum(len(neurons["mlp.hook_post"]) for neurons in drawn)
    # 200 expected, standard deviation 10: 6 deviations
    assert 140 < n_mlp < 260
    assert {site for neurons in drawn for site in neurons.sites} == set(DEFAULT_SITES)


def test_a_layer_matched_set_has_as_many_in_each_layer_of_each_site(model, like):
    for seed in range(5):
        drawn = random_neurons(model, like=like, seed=seed, layer_matched=True)
        assert drawn.per_layer().equals(like.per_layer())
    assert random_neurons(model, like=like, seed=0, layer_matched=True) != random_neurons(
        model, like=like, seed=1, layer_matched=True
    )


def test_a_random_set_leaves_the_global_generator_alone(model, like):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    random_neurons(model, like=like, seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_a_set_by_hand_is_matched_at_its_sites(model):
    drawn = random_neurons(model, like=NeuronSet.of({"attn.hook_v": [(0, 0), (1, 1)]}))
    assert drawn.sites == ("attn.hook_v",)
    assert len(drawn) == 2


# The general control


def clamped(seed: int, mean: float) -> NeuronScores:
    """Scores of general questions: one group, not negative, with the moments of P."""
    scores = random_scores(seed, cultures=("",))
    values = {site: value.clamp(min=0) for site, value in scores.values.items()}
    return scores_of(values, ("",), clamp=True, mean_probability=[[mean, mean**2 * 1.5]])


def with_means(scores: NeuronScores) -> NeuronScores:
    means = [[0.1 * (i + 1), 0.02 * (i + 1)] for i in range(len(scores.cultures))]
    prompts = {"n_questions": 4, "n_prompts": (4, 8, 12)}
    return replace(scores, **prompts, source={**scores.source, "mean_probability": means})


@pytest.mark.parametrize("weight", ["probability", "none"])
@pytest.mark.parametrize("normalise", ["share", "none"])
def test_the_general_control_is_subtracted_in_shares_of_the_answer(weight, normalise):
    """METHOD 5b, by a loop over neurons in Python."""
    cultural, control = (with_means(random_scores(seed)) for seed in (1, 2))
    general = clamped(3, 0.3)
    sets = [cultural, control, general]
    sets = [replace(s, source={**s.source, "weight": weight}) for s in sets]
    found = culture_general(
        *sets[:2], None, sets[2], mlp_top=0.2, attention_top=0.0, normalise=normalise
    )
    power = 1 if weight == "probability" else 0
    total = sum(cultural.n_prompts)
    share = (
        sum(
            mean[power] * n
            for mean, n in zip(cultural.source["mean_probability"], cultural.n_prompts, strict=True)
        )
        / total
    )
    of_general = general.source["mean_probability"][0][power]
    if normalise == "none":
        share = of_general = 1.0
    value = {}
    for layer in range(3):
        for index in range(10):
            c, k, g = (float(s.values["mlp.hook_post"][:, layer, index].sum()) for s in sets)
            per_prompt = (c - k) * cultural.n_questions / total
            value[layer, index] = per_prompt / share - g / of_general
    best = sorted(value, key=lambda place: -value[place])[:6]
    assert [tuple(n[1:]) for n in sorted(found)] == sorted(best)
    frame = found.to_frame()
    for row in frame.itertuples():
        assert row.score == pytest.approx(value[row.layer, row.neuron], rel=1e-5)


def test_the_selective_recipe_takes_shares_and_no_attention_neurons():
    cultural = with_means(random_scores(1))
    found = culture_general(cultural, None, None, clamped(3, 0.3), recipe="selective", mlp_top=0.2)
    assert found.sites == ("mlp.hook_post",)
    assert found.source["normalise"] == "share"
    assert found.source["general_weight"] == 1.0
    alone = culture_general(
        cultural, general=clamped(3, 0.3), normalise="share", mlp_top=0.2, attention_top=0.0
    )
    assert set(found) == set(alone)


def test_a_culture_is_held_against_its_own_share_of_the_answer():
    cultural, general = with_means(random_scores(1)), clamped(3, 0.3)
    found = culture_specific(
        cultural, general=general, culture="A", recipe="selective", top=0.2, min_z=-9.0
    )
    at = cultural.cultures.index("A")
    scores = cultural.values["mlp.hook_post"][at] * cultural.n_questions / cultural.n_prompts[at]
    share, of_general = cultural.source["mean_probability"][at][1], 0.3**2 * 1.5
    expected = scores / share - general.values["mlp.hook_post"][0] / of_general
    best = expected.flatten().argsort(descending=True)[:6].tolist()
    assert sorted(n.layer * 10 + n.index for n in found) == sorted(best)


def test_general_scores_must_be_there_clamped_and_say_what_they_are_a_share_of():
    cultural, general = with_means(random_scores(1)), clamped(3, 0.3)
    with pytest.raises(InvalidInputError, match="recipe is 'selective'"):
        culture_general(cultural, recipe="selective")
    unclamped = replace(general, source={**general.source, "clamp": False})
    with pytest.raises(InvalidInputError, match="not clamped"):
        culture_general(cultural, general=unclamped)
    with pytest.raises(InvalidInputError, match="what they are a share of"):
        culture_general(random_scores(1), general=general, recipe="selective")
    other = replace(general, source={**general.source, "model": "another"})
    with pytest.raises(InvalidInputError, match="model is 'm' in one"):
        culture_general(cultural, general=other)


def test_a_score_is_no_share_of_answers_that_cannot_be_given():
    cultural, general = with_means(random_scores(1)), clamped(3, 0.3)
    means = [[0.0, 0.0]] * len(cultural.cultures)
    never = replace(cultural, source={**cultural.source, "mean_probability": means})
    with pytest.raises(InvalidInputError, match=r"mean probability of these answers is 0\.0"):
        culture_general(never, general=general, recipe="selective")
