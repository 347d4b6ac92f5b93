"""Grades against hand-made keys, AUROC against counting every pair."""

import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.validation import grade, grade_scores

KEY = NeuronSet.of({"mlp.hook_post": [(0, 1), (0, 2), (1, 0), (1, 3)]})


def scores_of(values: torch.Tensor) -> NeuronScores:
    return NeuronScores({"mlp.hook_post": values}, ("A", "B"), 1, (1, 1), {})


def test_precision_recall_and_f1_by_hand():
    found = NeuronSet.of({"mlp.hook_post": [(0, 1), (0, 2), (1, 1)], "attn.hook_q": [(0, 0)]})
    result = grade(found, KEY)
    assert (result.n_found, result.n_key) == (3, 4)
    assert result.precision == pytest.approx(2 / 3)
    assert result.recall == pytest.approx(2 / 4)
    assert result.f1 == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_a_key_grades_itself_perfect_and_a_disjoint_set_zero():
    assert (grade(KEY, KEY).precision, grade(KEY, KEY).recall, grade(KEY, KEY).f1) == (1, 1, 1)
    apart = grade(NeuronSet.of({"mlp.hook_post": [(2, 0)]}), KEY)
    assert (apart.precision, apart.recall, apart.f1) == (0, 0, 0)


def test_nothing_found_has_no_precision():
    result = grade(NeuronSet.of({"attn.hook_q": [(0, 0)]}), KEY)
    assert math.isnan(result.precision)
    assert (result.recall, result.n_found) == (0, 0)


def test_an_empty_key_is_refused():
    with pytest.raises(InvalidInputError, match="no neurons"):
        grade(KEY, NeuronSet.of({}))
    with pytest.raises(InvalidInputError, match="no neurons"):
        grade_scores(scores_of(torch.rand(2, 2, 4)), NeuronSet.of({}))


def test_a_key_at_a_site_that_was_not_scored_is_refused():
    with pytest.raises(InvalidInputError, match=r"attn\.hook_q.*mlp\.hook_post"):
        grade_scores(scores_of(torch.rand(2, 2, 4)), NeuronSet.of({"attn.hook_q": [(0, 0)]}))


@given(st.lists(st.integers(-3, 3), min_size=16, max_size=16))
def test_auroc_counts_every_pair(values):
    scores = scores_of(torch.tensor(values, dtype=torch.float32).view(2, 2, 4))
    total = scores.values["mlp.hook_post"].sum(0)
    inside = [total[layer, k].item() for layer, k in KEY["mlp.hook_post"]]
    outside = [
        total[layer, k].item()
        for layer in range(2)
        for k in range(4)
        if (layer, k) not in KEY["mlp.hook_post"]
    ]
    found = grade_scores(scores, KEY).auroc
    assert found == pytest.approx(reference.auroc(inside, outside), abs=1e-6)


def test_average_precision_by_hand():
    # ranks of the key's neurons: 1, 3, 4 and 8
    order = [(0, 1), (0, 0), (0, 2), (1, 0), (0, 3), (1, 1), (1, 2), (1, 3)]
    values = torch.zeros(2, 2, 4)
    for rank, (layer, k) in enumerate(order):
        values[0, layer, k] = 10.0 - rank
    result = grade_scores(scores_of(values), KEY)
    assert result.average_precision == pytest.approx((1 / 1 + 2 / 3 + 3 / 4 + 4 / 8) / 4)


def test_the_control_is_subtracted_before_ranking():
    values = torch.rand(2, 2, 4)
    key_above = torch.zeros(2, 2, 4)
    for layer, k in KEY["mlp.hook_post"]:
        key_above[:, layer, k] = 5.0
    perfect = grade_scores(scores_of(values + key_above), KEY, control=scores_of(values))
    assert perfect.auroc == 1.0
    assert perfect.average_precision == pytest.approx(1.0)


def test_one_cultures_scores_are_ranked_by_themselves():
    values = torch.zeros(2, 2, 4)
    for layer, k in KEY["mlp.hook_post"]:
        values[0, layer, k] = 1.0
    values[1] = 9.0 * (1 - values[0])
    control = scores_of(torch.zeros(2, 2, 4))
    assert grade_scores(scores_of(values), KEY, culture="A", control=control).auroc == 1.0
    assert grade_scores(scores_of(values), KEY, culture="B").auroc == 0.0
    assert grade_scores(scores_of(values), KEY).auroc == 0.0
    with pytest.raises(UnknownNameError, match=r"C.*A, B"):
        grade_scores(scores_of(values), KEY, culture="C")
