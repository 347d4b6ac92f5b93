"""Some of the rows of a benchmark: those of a culture or topic, or a draw."""

from collections.abc import Callable, Iterable

import numpy as np
from datasets import Dataset

from culnig_tl.errors import InvalidInputError, UnknownNameError


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


def drawn(rows: Dataset, limit: int, seed: int) -> Dataset:
    """At most ``limit`` rows, drawn with ``seed``, in their order.

    Raises:
        InvalidInputError: a limit below 1.
    """
    _check_number("limit", limit)
    return rows if limit >= len(rows) else rows.select(_draw(list(range(len(rows))), limit, seed))


def drawn_per_culture(rows: Dataset, limit: int, seed: int) -> Dataset:
    """At most ``limit`` rows of each culture, drawn with ``seed``, in their order.

    A culture's draw does not depend on the other cultures in the rows.

    Raises:
        InvalidInputError: a limit below 1.
    """
    _check_number("per_culture", limit)
    places: dict[str, list[int]] = {}
    for place, culture in enumerate(rows["culture"]):
        places.setdefault(culture, []).append(place)
    return rows.select(sorted(i for each in places.values() for i in _draw(each, limit, seed)))


def _draw(places: list[int], limit: int, seed: int) -> list[int]:
    order = np.random.default_rng(seed).permutation(len(places))
    return sorted(places[i] for i in order[:limit])


def _check_number(name: str, limit: int) -> None:
    if limit < 1:
        raise InvalidInputError(
            f"{name} is {limit}; give a number of rows from 1 up, or None for all."
        )
