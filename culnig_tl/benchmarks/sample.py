"""Some of the rows of a benchmark: those of a culture or topic, or a draw."""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from datasets import Dataset

from culnig_tl.errors import UnknownNameError


def with_values(
    rows: Dataset,
    column: str,
    values: Iterable[str],
    *,
    name: str,
    key: Callable[[str], str] = str,
) -> Dataset:
    """The rows of the benchmark ``name`` that have one of the values in a column.

    ``key`` says what spellings of one value have in common.

    Raises:
        UnknownNameError: a value that no row has; those of the rows are listed.
    """
    spellings = {key(value): value for value in values}
    key_of = {value: key(value) for value in rows[column]}
    if unknown := [value for each, value in spellings.items() if each not in key_of.values()]:
        raise UnknownNameError(
            f"{name} has no {column} {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(filter(None, key_of)) or 'none'}."
        )
    return rows.select([i for i, value in enumerate(rows[column]) if key_of[value] in spellings])


def drawn(rows: Dataset, limit: int, seed: int, *, together: int = 1) -> Dataset:
    """At most ``limit`` rows, drawn with ``seed`` from each culture in turn, in their order.

    The rows are shuffled; the first of each culture are taken, then the second of each, until there
    are ``limit``. So no culture gives two rows more than another that has some left.

    ``together`` rows, one after the other, are one question, and are drawn as one.
    """
    if limit >= len(rows):
        return rows
    cultures, counts = rows["culture"][::together], Counter[str]()
    order = np.random.default_rng(seed).permutation(len(cultures)).tolist()
    turns = []
    for place in order:
        turns.append(counts[cultures[place]])
        counts[cultures[place]] += 1
    first = np.argsort(turns, kind="stable")[: limit // together]
    return _selected(rows, [order[turn] for turn in first], together)


def drawn_per_culture(rows: Dataset, limit: int, seed: int, *, together: int = 1) -> Dataset:
    """At most ``limit`` rows of each culture, drawn with ``seed``, in their order.

    A culture's draw does not depend on the other cultures in the rows. ``together`` is as in
    ``drawn``.
    """
    places: dict[str, list[int]] = {}
    for place, culture in enumerate(rows["culture"][::together]):
        places.setdefault(culture, []).append(place)
    limit //= together
    return _selected(
        rows, [i for each in places.values() for i in _draw(each, limit, seed)], together
    )


def _selected(rows: Dataset, places: Iterable[int], together: int) -> Dataset:
    """The rows of the questions at some places, in their order."""
    return rows.select([together * place + k for place in sorted(places) for k in range(together)])


def _draw(places: list[int], limit: int, seed: int) -> list[int]:
    order = np.random.default_rng(seed).permutation(len(places))
    return sorted(places[i] for i in order[:limit])
