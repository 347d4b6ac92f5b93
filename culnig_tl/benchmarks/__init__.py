"""Benchmarks by name, each as rows of the schema in ``questions``.

One module a benchmark; this one only finds them. The embedded model's own questions need no file
and no network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from culnig_tl.benchmarks import atlas
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.questions import Split, questions

_LOADERS: dict[str, Callable[[Split], list[dict[str, Any]]]] = {
    "atlas": atlas.cultural,
    "atlas-control": atlas.control,
    "atlas-countries": atlas.countries,
    "atlas-commonsense": atlas.commonsense,
    "atlas-ordering": atlas.ordering,
}


def load_benchmark(
    name: str,
    *,
    split: Split,
    cultures: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Rows of a benchmark.

    Args:
        name: ``"atlas"`` (culture), ``"atlas-control"`` (the same without the question),
            ``"atlas-countries"`` (country names), ``"atlas-commonsense"`` or ``"atlas-ordering"``.
        split: ``"identify"`` to find neurons, ``"test"`` to measure them, ``"all"`` for both.
        cultures: only these; None takes all.
        limit: at most so many rows, drawn with ``seed`` and kept in their order.
        seed: seed of the draw.

    Raises:
        UnknownNameError: an unknown benchmark or culture; the known ones are listed.
        InvalidInputError: a limit below 1.

    Example:
        >>> load_benchmark("atlas", split="test", cultures=["Iran"], limit=3)["culture"][:]
        ['Iran', 'Iran', 'Iran']
    """
    if name not in _LOADERS:
        raise UnknownNameError(
            f"There is no benchmark {name!r}; the known ones are {', '.join(_LOADERS)}."
        )
    rows = questions(_LOADERS[name](split))
    if cultures is not None:
        rows = _of_cultures(rows, cultures, name)
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise InvalidInputError(
            f"limit is {limit}; give a number of rows from 1 up, or None for all."
        )
    drawn = np.random.default_rng(seed).permutation(len(rows))[:limit]
    return rows.select(sorted(drawn.tolist()))


def _of_cultures(rows: Dataset, cultures: Sequence[str], name: str) -> Dataset:
    known = rows.unique("culture")
    if unknown := [culture for culture in cultures if culture not in known]:
        raise UnknownNameError(
            f"{name} has no culture {', '.join(map(repr, unknown))}; it has {', '.join(known)}."
        )
    return rows.select([i for i, culture in enumerate(rows["culture"]) if culture in cultures])
