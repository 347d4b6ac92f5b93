"""Rows as they are given: a Dataset, a DataFrame, dictionaries, or what is taken for them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, IterableDataset

from culnig_tl.errors import InvalidInputError


def read_rows(rows: Dataset | pd.DataFrame | Iterable[Mapping[str, Any]]) -> list[dict[Any, Any]]:
    """Rows as dictionaries, whatever holds them, before anything is asked of them.

    Raises:
        InvalidInputError: no rows, several splits, or something that holds no rows.

    Example:
        >>> read_rows(pd.DataFrame({"id": ["q1"]}))
        [{'id': 'q1'}]
    """
    given: Any = rows
    if isinstance(given, Dataset):
        records = given.to_list()
    elif isinstance(given, pd.DataFrame):
        records = records_of(given)
    else:
        _check_holds_rows(given)
        records = list(given)
    if not records:
        raise InvalidInputError("There are no rows; give at least one question.")
    wrong = [at for at, row in enumerate(records) if not isinstance(row, Mapping)]
    if wrong:
        raise InvalidInputError(
            f"Row {wrong[0]} is of type {type(records[wrong[0]]).__name__}, expected a dictionary"
            f"{f' ({len(wrong)} of {len(records)} are none)' if len(wrong) > 1 else ''}."
        )
    return [dict(row) for row in records]


def _check_holds_rows(given: Any) -> None:
    """Refuse what is often given in the place of rows, by what to give."""
    kind = type(given).__name__
    if isinstance(given, Mapping):
        splits = [
            name for name, part in given.items() if isinstance(part, Dataset | IterableDataset)
        ]
        remedy = (
            f"take one of its splits {', '.join(map(repr, splits))}, as in rows[{splits[0]!r}]"
            if splits
            else "put a row into a list, [row], or a table into a pandas.DataFrame"
        )
        raise InvalidInputError(f"Rows are of type {kind}; {remedy}.")
    if isinstance(given, str | Path):
        raise InvalidInputError(
            f"Rows are the text {str(given)!r}; a file is read by "
            "questions_from_frame(path), a benchmark by load_benchmark(name)."
        )
    if not isinstance(given, Iterable):
        raise InvalidInputError(
            f"Rows are of type {kind}; give a Dataset, a DataFrame or a list of dictionaries."
        )


def records_of(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of a frame, each by column; a gap is None.

    Raises:
        InvalidInputError: columns of several levels, or of the same name.

    Example:
        >>> records_of(pd.DataFrame({"id": ["q1"], "culture": [float("nan")]}))
        [{'id': 'q1', 'culture': None}]
    """
    check_columns(frame)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def check_columns(frame: pd.DataFrame) -> None:
    """Refuse columns that a name does not single out.

    Raises:
        InvalidInputError: columns of several levels, or of the same name.
    """
    if frame.columns.nlevels > 1:
        raise InvalidInputError(
            f"The table's columns have {frame.columns.nlevels} levels, expected one; give each "
            "column one name."
        )
    if repeated := frame.columns[frame.columns.duplicated()].unique().to_list():
        raise InvalidInputError(
            f"The table has several columns {', '.join(map(repr, repeated))}; keep one of each."
        )


def column_names(frame: pd.DataFrame) -> str:
    """The names of the columns, for a sentence; quoted, so that any can be printed.

    Example:
        >>> column_names(pd.DataFrame({"id": ["q1"], 7: ["x"]}))
        "'id', 7"
    """
    return ", ".join(map(repr, frame.columns))
