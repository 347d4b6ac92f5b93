"""What two sets of neurons share, beside what chance and what their questions give.

*Overlap* of two sets: the Jaccard index, beside

* what chance gives: as many neurons drawn in each layer of each site as the sets have there. The
  number shared is then a sum of hypergeometric numbers, and the p-value that of sharing as many
  or more, exactly. (Drawn from all layers, two sets in the same late layers would always differ
  from chance.)
* what the questions give: halves of two contents share less than the contents, and so do halves of
  one content. ``halves`` is the mean Jaccard index of a half of one with the disjoint half of the
  other, ``own_halves`` that of the two halves of each content with one another: two contents that
  have the same neurons have ``halves`` near ``own_halves``, however unsure the sets are.
* an interval: questions are drawn with replacement and both sets selected anew. Such draws are
  noisier than the questions were (a draw misses a third of them), so that the Jaccard index may lie
  above its own interval; with selections this unsure, read the halves.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.evaluation import interval
from culnig_tl.neurons import NeuronSet

Draws = Mapping[str, Sequence[NeuronSet]]
"""By content: the set of all questions, of each resample, and of each half in pairs."""


def overlap_table(selected: Draws, draws: int) -> pd.DataFrame:
    """The frame ``Contents.overlap`` of sets by draw.

    Args:
        selected: by content, the set of all questions, then ``draws`` resampled ones, then pairs of
            halves.
        draws: number of resamples.

    Example:
        >>> one, other = (NeuronSet.of(f"L0.mlp.hook_post.{n}", shapes={"mlp.hook_post": (1, 4)})
        ...               for n in (1, 2))
        >>> overlap_table({"a": [one] * 4, "b": [one, one, one, other]}, 1)["own_halves"].tolist()
        [0.5]
    """
    rows = []
    for first, second in combinations(selected, 2):
        one, other = selected[first][0], selected[second][0]
        resamples = zip(selected[first][1:], selected[second][1:], strict=True)
        drawn = [a.jaccard(b) for a, b in list(resamples)[:draws]]
        halves = [_pairs(selected[name][1 + draws :]) for name in (first, second)]
        low, high = interval(np.array(drawn)[:, None])
        expected, p_value = shared_by_chance(one, other)
        crossed = [
            pair[i].jaccard(theirs[1 - i])
            for pair, theirs in zip(*halves, strict=True)
            for i in (0, 1)
        ]
        rows.append(
            {
                "first": first,
                "second": second,
                "n_first": len(one),
                "n_second": len(other),
                "shared": len(one & other),
                "jaccard": one.jaccard(other),
                "jaccard_low": float(low[0]),
                "jaccard_high": float(high[0]),
                "by_chance": expected / (len(one) + len(other) - expected),
                "p_value": p_value,
                "halves": float(np.mean(crossed)),
                "own_halves": float(np.mean([a.jaccard(b) for each in halves for a, b in each])),
            }
        )
    return pd.DataFrame(rows)


def shared_by_chance(first: NeuronSet, second: NeuronSet) -> tuple[float, float]:
    """How many neurons two sets with as many in each layer would share, and how likely so many.

    Args:
        first, second: sets that know the shapes of their sites.

    Returns:
        The mean, and the probability to share at least as many as these two do.

    Example:
        >>> one = NeuronSet.of("L0.mlp.hook_post.1", shapes={"mlp.hook_post": (2, 4)})
        >>> shared_by_chance(one, one)
        (0.25, 0.25)
    """
    likely, expected = np.ones(1), 0.0
    for site, (n_layers, width) in {**first.shapes, **second.shapes}.items():
        counts = [
            np.bincount([layer for layer, _ in each[site]], minlength=n_layers)
            for each in (first, second)
        ]
        for mine, theirs in zip(*(each.tolist() for each in counts), strict=True):
            likely = np.convolve(likely, _hypergeometric(mine, theirs, width))
            expected += mine * theirs / width
    return expected, min(1.0, float(likely[len(first & second) :].sum()))


def _hypergeometric(mine: int, theirs: int, width: int) -> Float[np.ndarray, "count"]:
    """How likely it is that two draws out of a layer share 0, 1, ... neurons."""
    every = comb(width, theirs)
    counts = range(min(mine, theirs) + 1)
    return np.array([comb(mine, n) * comb(width - mine, theirs - n) / every for n in counts])


def _pairs(halves: Sequence[NeuronSet]) -> list[tuple[NeuronSet, NeuronSet]]:
    return list(zip(halves[::2], halves[1::2], strict=True))
