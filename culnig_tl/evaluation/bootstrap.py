"""Intervals and p-values by drawing questions anew (Koehn 2004, paired bootstrap).

A *unit* is one question of one culture: its prompts are averaged first and drawn together. Every
condition sees the same draws, so what questions have in common cancels.

* Interval: the 2.5 % and 97.5 % percentiles of the mean over ``DRAWS`` draws.
* p-value of a drop: the share of draws in which the condition does no worse than the reference,
  one added to both. It is uniform where the two have the same true mean (a draw with equal means
  counts against the drop, so with few questions it errs on the safe side).
"""

import numpy as np
from jaxtyping import Float

DRAWS = 2000
STAR = 0.05
"""A drop with a smaller p-value gets a star, as in arXiv 2510.08284."""


def resampled_means(
    values: Float[np.ndarray, "unit measure"], *, seed: int = 0, draws: int = DRAWS
) -> Float[np.ndarray, "draw measure"]:
    """Means over units drawn with replacement, the same units for every column.

    Example:
        >>> resampled_means(np.ones((3, 2)), draws=4).tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    n = len(values)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return weights @ values / n


def interval(resampled: Float[np.ndarray, "draw measure"]) -> Float[np.ndarray, "two measure"]:
    """Lower and upper end of the 95 % percentile interval of each measure."""
    return np.percentile(resampled, [2.5, 97.5], axis=0)


def p_values_of_drop(
    condition: Float[np.ndarray, "draw measure"], reference: Float[np.ndarray, "draw measure"]
) -> Float[np.ndarray, "measure"]:
    """Share of paired draws in which the condition does no worse than the reference."""
    return ((condition >= reference).sum(axis=0) + 1.0) / (len(condition) + 1)
