"""How scores agree with the exact ablation of single neurons, on a sample of them.

The sample has the best neurons of every way of scoring, neurons of the ranks below the largest set,
and any neurons: among the best alone nothing would speak against a score that is wrong elsewhere,
and among any alone nearly all drops are near 0.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

_DRAWS = 1000
_TOP = 20


def sampled(
    totals: Sequence[Float[np.ndarray, "neuron"]],
    n_others: tuple[int, int],
    largest: float,
    seed: int,
) -> list[int]:
    """Places of the best of every scorer, of ranks below the largest set, and of any neurons."""
    generator = np.random.default_rng([seed, 2])
    n_middle, n_random = n_others
    orders = [np.argsort(-total, kind="stable") for total in totals]
    best = [place for order in orders for place in order[:_TOP]]
    pool = len(totals[0])
    first, last = int(pool * largest), min(pool, max(int(pool * largest * 10), _TOP))
    ranks = range(min(first, last - 1), last)
    middle = [orders[i % len(orders)][generator.choice(ranks)] for i in range(n_middle)]
    anywhere = generator.permutation(pool)[:n_random]
    return sorted({int(place) for place in [*best, *middle, *anywhere]})


def agreement(
    scores: Float[np.ndarray, "neuron"], drops: Float[np.ndarray, "neuron"], *, seed: int = 0
) -> dict[str, float]:
    """Correlation of scores with exact drops over a sample, and intervals over its neurons.

    Args:
        scores: of each neuron.
        drops: what switching it off alone does.
        seed: of the bootstrap.

    Returns:
        spearman, pearson, each with ``_low`` and ``_high``, and spearman_top among the 20 neurons
        of the highest scores.

    Example:
        >>> scores = np.arange(30.0)
        >>> agreement(scores, scores**3)["spearman"]
        1.0
    """
    places = np.random.default_rng(seed).integers(len(scores), size=(_DRAWS, len(scores)))
    best = np.argsort(-scores, kind="stable")[:_TOP]
    values: dict[str, float] = {}
    for name, correlation in {"spearman": _rank_correlation, "pearson": _correlation}.items():
        draws = correlation(scores[places], drops[places])
        varied = draws[np.isfinite(draws)]
        low, high = np.quantile(varied, [0.025, 0.975]) if len(varied) else (np.nan, np.nan)
        values |= {
            name: float(correlation(scores, drops)),
            f"{name}_low": low,
            f"{name}_high": high,
        }
    return values | {"spearman_top": float(_rank_correlation(scores[best], drops[best]))}


def _rank_correlation(
    one: Float[np.ndarray, "*draw neuron"], other: Float[np.ndarray, "*draw neuron"]
) -> Float[np.ndarray, "*draw"]:
    """Spearman's: Pearson's of ranks, ties averaged; a draw is ranked anew."""
    return _correlation(_ranks(one), _ranks(other))


def _ranks(values: Float[np.ndarray, "*draw neuron"]) -> Float[np.ndarray, "*draw neuron"]:
    return pd.DataFrame(values.T).rank().to_numpy().T.reshape(values.shape)


def _correlation(
    one: Float[np.ndarray, "*draw neuron"], other: Float[np.ndarray, "*draw neuron"]
) -> Float[np.ndarray, "*draw"]:
    """Pearson's, along the last axis; NaN where one of them does not vary."""
    one = one - one.mean(-1, keepdims=True)
    other = other - other.mean(-1, keepdims=True)
    scale = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    return np.divide((one * other).sum(-1), scale, out=np.full_like(scale, np.nan), where=scale > 0)
