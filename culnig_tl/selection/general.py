"""Culture-general neurons (arXiv 2510.08284).

MLP and attention neurons are two pools. In each, rank by

    S(cultural) - S(control)

and keep the top ``int(pool * t)``; then drop every neuron among the top ``int(pool * r)`` by
``S(recognition)``: those react to a country's *name*.

*The general control* (this project's, not in the paper). The paper's controls remove what answer
format and country names explain, not what any fact needs. Scores of general questions asked in the
same way do; with ``C``, ``K`` and ``G`` the mean scores of a cultural, control and general prompt
(the latter two clamped at 0),

    normalise="none":   rank by  C - K - w G
    normalise="share":  rank by  (C - K) / p(cultural) - w G / p(general)

where ``p`` is what a score is a share of (``NeuronScores.answer_scale``), so that easy and hard
questions count alike. ``recipe="selective"`` is the latter on MLP neurons alone.
"""

from collections.abc import Mapping
from typing import get_args

import torch

from culnig_tl.errors import check_choice, check_number
from culnig_tl.evaluation import control_exceeds, warn
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.selection.ranking import (
    Normalise,
    Ranking,
    Recipe,
    as_set,
    check_comparable,
    check_shares,
    located,
    pool_sites,
    settled_normalise,
    top_places,
    totals,
)
from culnig_tl.sites import PoolName

_ATTENTION_TOP: Mapping[Recipe, float] = {"published": 0.002, "selective": 0.0}
"""The share of attention neurons that a recipe keeps."""


def culture_general(
    cultural: NeuronScores,
    control: NeuronScores | None = None,
    recognition: NeuronScores | None = None,
    general: NeuronScores | None = None,
    *,
    recipe: Recipe = "published",
    mlp_top: float = 0.01,
    attention_top: float | None = None,
    recognition_top: float = 0.01,
    normalise: Normalise | None = None,
    general_weight: float = 1.0,
) -> NeuronSet:
    """Neurons that carry cultural understanding whatever the culture.

    Args:
        cultural: scores of cultural questions.
        control: scores of the same rows without the question; None subtracts nothing.
        recognition: scores of the country-name control; None drops nothing.
        general: scores of general questions asked in the same way, clamped; None subtracts nothing.
        recipe: ``"published"``, or ``"selective"``, which needs ``general``.
        mlp_top: share of the MLP pool to keep.
        attention_top: share of the attention pool (q, k and v together) to keep; None takes the
            recipe's (0.002, or none).
        recognition_top: share of each pool to drop by recognition score.
        normalise: whether scores are compared as they are, or as shares of the answer; None takes
            the recipe's (``"none"``, or ``"share"``).
        general_weight: what the general scores are multiplied by.

    Raises:
        InvalidInputError: scores of different models, sites or cultures, or that are not finite; a
            share outside 0 to 1; general scores that are not clamped, or missing where the recipe
            needs them.

    Warns:
        UserWarning: the control's scores exceed the cultural ones.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=8)
        >>> len(culture_general(ct.attribute(model, rows, progress=False)))
        23
    """
    neurons = select_general(
        cultural,
        control,
        recognition,
        general,
        recipe=recipe,
        mlp_top=mlp_top,
        attention_top=attention_top,
        recognition_top=recognition_top,
        normalise=normalise,
        general_weight=general_weight,
    )
    warn(control_exceeds(cultural, control))
    return neurons


def select_general(
    cultural: NeuronScores,
    control: NeuronScores | None,
    recognition: NeuronScores | None,
    general: NeuronScores | None,
    *,
    recipe: Recipe,
    mlp_top: float = 0.01,
    attention_top: float | None = None,
    recognition_top: float = 0.01,
    normalise: Normalise | None = None,
    general_weight: float = 1.0,
) -> NeuronSet:
    """``culture_general`` without its warning, for what selects many times or has said it."""
    check_shares(mlp_top=mlp_top, attention_top=attention_top, recognition_top=recognition_top)
    check_number("general_weight", general_weight, low=0)
    check_comparable(cultural, control, recognition, general)
    usual_top = usual_attention_top(recipe)
    attention_top = usual_top if attention_top is None else attention_top
    normalise = settled_normalise(recipe, normalise, general)
    ranking = Ranking(cultural, control, general, normalise, general_weight)
    shares: dict[PoolName, float] = {"mlp": mlp_top, "attention": attention_top}
    score_of: dict[Neuron, float] = {}
    for pool, top in shares.items():
        sites = pool_sites(cultural, pool)
        rank = ranking.of(sites)
        best = top_places(rank, top)
        if recognition is not None:
            names = top_places(totals(recognition, sites), recognition_top)
            best = best[~torch.isin(best, names)]
        score_of |= located(best, rank, sites, cultural)
    return as_set(
        score_of,
        cultural,
        kind="culture-general",
        mlp_top=mlp_top,
        attention_top=attention_top,
        recognition_top=recognition_top if recognition is not None else None,
        control=control is not None,
        **ranking.provenance,
    )


def usual_attention_top(recipe: Recipe) -> float:
    """The share of attention neurons that a recipe keeps.

    Example:
        >>> usual_attention_top("published"), usual_attention_top("selective")
        (0.002, 0.0)
    """
    check_choice("recipe", recipe, get_args(Recipe))
    return _ATTENTION_TOP[recipe]
