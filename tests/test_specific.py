"""The contrast with every other culture: a known answer, its loop, and the embedded model's key."""

from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import culnig_tl as ct
from culnig_tl.cultures import kin_of
from culnig_tl.errors import InvalidInputError
from culnig_tl.selection import culture_general, culture_specific

SITE = "mlp.hook_post"
CULTURES = ("A", "B", "C")
MEANS = [[0.5, 0.25], [0.5, 0.25], [0.5, 0.25]]


def scores_of(values, *, means=MEANS, **source):
    """Scores of three cultures at one layer; P(answer) and its square are on average ``means``."""
    return ct.NeuronScores(
        values={SITE: torch.as_tensor(values)[:, None].float()},
        cultures=CULTURES,
        n_questions=1,
        n_prompts=(1, 1, 1),
        source={"weight": "probability", "mean_probability": means, **source},
    )


def random_values(seed):
    """Small integers, which float32 subtracts exactly, and many of which are equal."""
    return torch.randint(-3, 6, (3, 30), generator=torch.Generator().manual_seed(seed))


def indices(neurons):
    return {neuron.index for neuron in neurons}


def contrast(*scores, culture, **options):
    return culture_specific(*scores, culture=culture, recipe="contrast", **options)


def contrast_by_loops(cultural, control, names, *, culture, top, recognition_top, min_z):
    """The docstring of ``selection.specific``, one neuron after the other; shares of 1 / 4."""
    index, neurons = CULTURES.index(culture), range(cultural.shape[1])
    share = {
        (c, k): (float(cultural[c, k]) - float(control[c, k])) / 0.25
        for c in range(3)
        for k in neurons
    }
    margin = {
        k: share[index, k] - 2 * max(0, *(share[c, k] for c in range(3) if c != index))
        for k in neurons
    }
    best = sorted(neurons, key=lambda k: -margin[k])[: int(len(neurons) * top)]
    named = sorted(neurons, key=lambda k: -float(names[index, k]))
    selected = set()
    for k in best:
        values = [share[c, k] for c in range(3)]
        mean = sum(values) / 3
        deviation = (sum((value - mean) ** 2 for value in values) / 3) ** 0.5
        z = (share[index, k] - mean) / deviation if deviation else 0.0
        if margin[k] > 0 and z >= min_z and k not in named[: int(len(neurons) * recognition_top)]:
            selected.add(k)
    return selected


def test_what_others_need_nearly_as_much_ranks_below_what_they_do_not_need():
    """Neuron 0 scores highest for A and more than half as high for B; 1 is A's own, 2 is B's."""
    scores = scores_of([[9.0, 4.0, 3.0, 2.0], [5.0, 1.0, 7.0, 1.0], [-1.0, -1.0, 0.0, 1.0]])
    assert indices(culture_specific(scores, culture="A", top=0.25)) == {0}
    own = contrast(scores, culture="A", top=0.25, normalise="none")
    assert (indices(own), own.scores[SITE]) == ({1}, (2.0,))
    every = {culture: contrast(scores, culture=culture, top=1.0) for culture in CULTURES}
    assert [indices(own) for own in every.values()] == [{1}, {2}, set()]


def test_margins_are_of_shares_so_that_easy_cultures_do_not_win():
    """Neuron 0 carries half of A's answers, which are certain, and the double of B's."""
    means = [[1.0, 1.0], [0.2, 0.04], [0.5, 0.25]]
    scores = scores_of([[0.5, 0.25], [0.08, 0.0], [-0.5, 0.0]], means=means)
    assert contrast(scores, culture="B", top=1.0).scores[SITE] == pytest.approx((1.0,))
    assert indices(contrast(scores, culture="A", top=1.0)) == {1}
    assert indices(contrast(scores, culture="A", top=1.0, normalise="none")) == {0, 1}


@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([-1.0, 0.5, 1.3]),
)
def test_contrast_equals_its_loop(seed, top, recognition_top, min_z):
    values = [random_values(seed + i) for i in range(3)]
    options = {"top": top, "recognition_top": recognition_top, "min_z": min_z}
    for culture in CULTURES:
        own = contrast(*map(scores_of, values), culture=culture, **options)
        assert indices(own) == contrast_by_loops(*values, culture=culture, **options)


@given(st.integers(0, 2**31))
def test_no_neuron_is_two_cultures_own(seed):
    scores = scores_of(random_values(seed))
    sets = [contrast(scores, culture=culture, top=1.0, min_z=-9.0) for culture in CULTURES]
    assert [len(one & other) for one, other in combinations(sets, 2)] == [0, 0, 0]
    assert sum(map(len, sets)) > 0


def test_a_set_says_that_it_is_a_contrast():
    scores = scores_of(random_values(0))
    source = contrast(scores, culture="A").source
    assert (source["recipe"], source["normalise"]) == ("contrast", "share")
    assert "recipe" not in culture_specific(scores, culture="A").source


@pytest.mark.parametrize("recipe", ["mean", "", None, 3])
def test_an_unknown_recipe_is_refused(as_for_a_user, recipe):
    with pytest.raises(
        InvalidInputError, match=r"recipe is .*; choose one of 'published', 'selective', 'contrast'"
    ):
        culture_specific(scores_of(random_values(0)), culture="A", recipe=recipe)


def test_what_is_general_has_no_contrast(as_for_a_user):
    options: dict[str, Any] = {"recipe": "contrast"}
    with pytest.raises(InvalidInputError, match=r"recipe is 'contrast'"):
        culture_general(scores_of(random_values(0)), **options)


def test_scores_of_another_target_are_compared_as_they_are():
    scores = scores_of(random_values(0), target="logit_difference")
    with pytest.raises(InvalidInputError, match="take normalise='none'"):
        contrast(scores, culture="A")
    assert len(contrast(scores, culture="A", top=0.1, normalise="none")) == 3


@pytest.fixture(scope="module")
def atlas():
    return ct.load_model()


@pytest.fixture(scope="module")
def contrasted(atlas):
    scores = ct.attribute(atlas, ct.load_benchmark("atlas", split="identify"), progress=False)
    return {each: contrast(scores, culture=each) for each in scores.cultures}


def test_every_culture_has_a_verified_own_neuron(contrasted):
    """The published rule, with its controls, finds one for 6; 22 neurons are verified in all."""
    verified = [
        len(own & ct.answer_key(culture, verified=True)) for culture, own in contrasted.items()
    ]
    assert (min(verified), sum(verified)) == (1, 21)
    assert max(len(own) for own in contrasted.values()) == int(3584 * 0.003)


def test_their_sets_off_cost_their_own_culture_alone(atlas, contrasted):
    """Points of accuracy on a third of the held-out rows."""
    rows = ct.load_benchmark("atlas", split="test").select(range(0, 576, 3))
    effects = ct.culture_effects(atlas, rows, contrasted, progress=False)
    cost = -effects.set_index(["masked", "tested"])["change"]
    others = list(permutations(contrasted, 2))
    unrelated = [pair for pair in others if pair[1] not in kin_of(pair[0])]
    assert cost[[(each, each) for each in contrasted]].mean() > 40
    assert cost[unrelated].mean() < 0.5
