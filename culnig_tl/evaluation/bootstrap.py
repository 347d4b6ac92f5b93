"""Intervals and p-values by drawing questions anew (Koehn 2004, paired bootstrap).

A *unit* is one question of one culture: its prompts are averaged first and drawn together. Every
condition sees the same draws, so what questions have in common cancels.

A *cluster* is one relation or category, drawn with all its questions: what questions of one kind
have in common is then part of the interval, which says what other relations would have shown. The
interval by questions is about other questions of the same relations, and narrower.

* Interval: the 2.5 % and 97.5 % percentiles of the mean over ``DRAWS`` draws.
* Fall: ``1 - mean P under a condition / mean P of the model as it is``, both means taken anew in
  each draw (the ratio of means, not the mean of ratios).
* p-value of a drop: the share of draws in which the condition does no worse than the reference,
  one added to both. It is uniform where the two have the same true mean (a draw with equal means
  counts against the drop, so with few questions it errs on the safe side).
* Rank p-value: a condition's rank among random sets, itself counted; it is uniform where the
  condition is one more such set, and with n sets never below 1 / (n + 1).
"""

import numpy as np
from jaxtyping import Float, Int

from culnig_tl.errors import check_number

DRAWS = 2000
STAR = 0.05
"""A drop with a smaller p-value gets a star, as in arXiv 2510.08284."""


Seed = int | tuple[int, int]
"""Seed of the draws; a pair for a second, independent stream of the same seed."""


def resampled_means(
    values: Float[np.ndarray, "unit measure"], *, seed: Seed = 0, draws: int = DRAWS
) -> Float[np.ndarray, "draw measure"]:
    """Means over units drawn with replacement, the same units for every column.

    Example:
        >>> resampled_means(np.ones((3, 2)), draws=4).tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    check_number("draws", draws, low=1, whole=True)
    n = len(values)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return weights @ values / n


def cluster_totals(
    totals: Float[np.ndarray, "unit measure"], clusters: Int[np.ndarray, "unit"]
) -> Float[np.ndarray, "cluster measure"]:
    """Sums over the units of each cluster; what is drawn in the place of units.

    Args:
        totals: sums over the prompts of each unit.
        clusters: number of each unit's cluster, from 0.

    Example:
        >>> cluster_totals(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 0])).tolist()
        [[5.0], [2.0]]
    """
    sums = np.zeros((int(clusters.max()) + 1, totals.shape[1]))
    np.add.at(sums, clusters, totals)
    return sums


def relative_fall(
    condition: Float[np.ndarray, "..."], original: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """``1 - condition / original``; NaN where there is nothing to fall from.

    Example:
        >>> relative_fall(np.array([0.1, 0.6, 0.0]), np.array([0.4, 0.4, 0.0])).round(2).tolist()
        [0.75, -0.5, nan]
    """
    ratio = np.full(condition.shape, np.nan)
    np.divide(condition, original, out=ratio, where=original > 0)
    return 1 - ratio


def resampled_falls(
    totals: Float[np.ndarray, "unit condition"],
    original: Float[np.ndarray, "unit"],
    *,
    seed: Seed = 0,
    draws: int = DRAWS,
) -> Float[np.ndarray, "draw condition"]:
    """Relative falls over units drawn with replacement, the same units for every condition.

    Args:
        totals: ``P(answer)``, summed over the prompts of each unit or cluster, by condition.
        original: the same of the model as it is.
        seed: seed of the draws.
        draws: their number.

    Example:
        >>> resampled_falls(np.array([[0.1], [0.2]]), np.array([0.2, 0.4]), draws=2).tolist()
        [[0.5], [0.5]]
    """
    means = resampled_means(np.column_stack([original, totals]), seed=seed, draws=draws)
    return relative_fall(means[:, 1:], means[:, :1])


def interval(resampled: Float[np.ndarray, "draw measure"]) -> Float[np.ndarray, "two measure"]:
    """Lower and upper end of the 95 % percentile interval of each measure."""
    return np.percentile(resampled, [2.5, 97.5], axis=0)


def p_values_of_drop(
    condition: Float[np.ndarray, "draw measure"], reference: Float[np.ndarray, "draw measure"]
) -> Float[np.ndarray, "measure"]:
    """Share of paired draws in which the condition does no worse than the reference."""
    return ((condition >= reference).sum(axis=0) + 1.0) / (len(condition) + 1)


def rank_p_value(value: float, sets: Float[np.ndarray, "set"]) -> float:
    """(1 + number of sets with at least this value) / (1 + number of sets).

    Example:
        >>> rank_p_value(0.5, np.array([0.1, 0.2, 0.6]))
        0.5
    """
    return float((1 + (sets >= value).sum()) / (1 + len(sets)))
