"""Margins between cultures (CAS), and differences from a control."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.activations.statistics import ActivationStatistics, as_scores, check_several_groups
from culnig_tl.errors import InvalidInputError, check_choice, check_kind
from culnig_tl.scores import NeuronScores

Positions = Literal["all", "last"]


def cas(statistics: ActivationStatistics) -> NeuronScores:
    """By how much a neuron fires more often for its first culture than for its second.

    Raises:
        InvalidInputError: statistics of one culture alone.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> scores = cas(ct.activation_statistics(ct.load_model(), rows, progress=False))
        >>> bool((scores.values["mlp.hook_post"] > 0).sum(0).max() == 1)
        True
    """
    check_several_groups(statistics, "a margin over the second culture")
    values = {}
    for site, probability in statistics.probability.items():
        (first, second), (favourite, _) = probability.topk(2, dim=0)
        margin = (first - second)[None]
        values[site] = torch.zeros_like(probability).scatter(0, favourite[None], margin)
    return as_scores(statistics, values, method="cas")


def standardised_difference(
    cultural: ActivationStatistics,
    control: ActivationStatistics,
    *,
    positions: Positions = "all",
) -> NeuronScores:
    """Mean activation on cultural less that on control prompts, in standard deviations.

    Args:
        cultural: of cultural questions.
        control: of the same cultures, compared culture by culture; or of one group, with which
            every culture is compared.
        positions: whether means are taken over all positions, or over the prompts' last ones.

    Raises:
        InvalidInputError: statistics of different models or sites, other cultures in the control,
            or an unknown choice.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> def statistics(name):
        ...     rows = ct.load_benchmark(name, split="identify", limit=8)
        ...     return ct.activation_statistics(model, rows, progress=False)
        >>> scores = standardised_difference(statistics("atlas"), statistics("atlas-control"))
        >>> scores.source["method"]
        'standardised_difference_all'
    """
    check_choice("positions", positions, get_args(Positions))
    line_of = _matched_cultures(cultural, control)
    values = {}
    for site in cultural.sites:
        n, mean, variance = _spread(cultural, site, positions)
        m, other_mean, other_variance = (
            each[line_of] for each in _spread(control, site, positions)
        )
        pooled = ((n * variance + m * other_variance) / (n + m)).sqrt()
        values[site] = torch.where(pooled == 0, 0.0, (mean - other_mean) / pooled)
    return as_scores(
        cultural,
        values,
        method=f"standardised_difference_{positions}",
        control_data=control.source["data"],
    )


def _matched_cultures(cultural: ActivationStatistics, control: ActivationStatistics) -> list[int]:
    """Index in the control of each cultural one's culture."""
    for name, given in (("cultural", cultural), ("control", control)):
        check_kind(name, given, ActivationStatistics, "what activation_statistics gives")
    for name, mine, theirs in (
        ("model", cultural.source["model"], control.source["model"]),
        ("sites", cultural.sites, control.sites),
    ):
        if mine != theirs:
            raise InvalidInputError(
                f"These statistics cannot be compared: {name} is {mine!r} in one and {theirs!r} in "
                "the other; take both on the same model at the same sites."
            )
    if len(control.cultures) == 1:
        return [0] * len(cultural.cultures)
    if different := sorted(set(control.cultures) ^ set(cultural.cultures)):
        raise InvalidInputError(
            "A control is compared culture by culture, and these are not in both: "
            f"{', '.join(different)}; take the control of the same rows, or one group."
        )
    return [control.cultures.index(culture) for culture in cultural.cultures]


def _spread(
    statistics: ActivationStatistics, site: str, positions: Positions
) -> tuple[Tensor, Float[Tensor, "culture layer neuron"], Float[Tensor, "culture layer neuron"]]:
    """Number, mean and variance of the activations that are compared."""
    number, mean, deviation = {
        "all": (statistics.n_positions, statistics.mean, statistics.deviation),
        "last": (statistics.n_prompts, statistics.last, statistics.last_deviation),
    }[positions]
    return torch.tensor(number)[:, None, None], mean[site], deviation[site].square()
