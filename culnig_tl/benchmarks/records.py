"""Records: one row of a benchmark's table each, and what is wrong with one.

Cells are text, as in a csv file: numbers become text, an empty cell (None, NaN) is ``""``. A record
knows where it stands (the file or the hub's dataset, the row from 0), so that every fault is
reported with its place, and all faults of a benchmark at once. A record that comes twice counts
once; the same key with other content is a fault.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite, isnan
from typing import Any, TypeVar

import pandas as pd

from culnig_tl.cultures import culture_name, is_name
from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Item, Split, loads_once

T = TypeVar("T")
_LISTED = 10
# Something other than blanks, no NUL, and no half of a pair that stands for one character.
_TEXT = re.compile("[^\0\ud800-\udfff]*?[^\\s\0\ud800-\udfff][^\0\ud800-\udfff]*").fullmatch


class RecordFaultError(InvalidInputError):
    """A record that cannot be used; the message has its place."""


class Record(dict[str, Any]):
    """One row of a table: its cells, by our names of the columns.

    Attributes:
        key: the column that the record is known by.
        place: its file or dataset and its row, from 0.

    Example:
        >>> Record({"id": "q1", "label": "yes"}, key="id", place="a.csv, row 0")["label"]
        'yes'
    """

    def __init__(self, cells: Mapping[str, Any], *, key: str, place: str) -> None:
        super().__init__(cells)
        self.key = key
        self.place = place

    def check_texts(self, names: Iterable[str]) -> None:
        """Refuse cells that hold no text.

        Raises:
            RecordFaultError: an empty cell, a list, an object, or text that no model can read.
        """
        wrong = [n for n in names if not (isinstance(self[n], str) and _TEXT(self[n]))]
        if wrong:
            self.refuse([f"{name} {text_fault(self[name])}" for name in wrong])

    def check_choice(self, name: str, choices: Collection[str]) -> None:
        """Refuse a cell that is none of the ``choices``.

        Raises:
            RecordFaultError: with the cell and the choices.
        """
        if self[name] not in choices:
            self.refuse([f"{name} is {cut(self[name])}, expected one of {', '.join(choices)}"])

    def culture(self, name: str) -> str:
        """The name in this package of the culture that a cell names.

        Raises:
            RecordFaultError: the cell names none.
        """
        self.check_texts([name])
        spelling = self[name]
        self.refuse([] if is_name(spelling) else [f"{name} is {cut(spelling)}, which names none"])
        return culture_name(spelling)

    def refuse(self, faults: Sequence[str]) -> None:
        """Refuse the record if there are any ``faults``; empty ones do not count.

        Raises:
            RecordFaultError: with place, key and faults.
        """
        if real := [fault for fault in faults if fault]:
            name = f" ({cut(self[self.key])})" if self[self.key] else ""
            raise RecordFaultError(f"{self.place}{name}: {', '.join(real)}")


@dataclass(frozen=True)
class Records:
    """Records of a benchmark, in order, and a line that says where they were read."""

    rows: list[Record]
    origin: str

    def each(self, make: Callable[[Record], T]) -> list[T]:
        """What ``make`` makes of each record, those that come twice only once.

        Raises:
            InvalidInputError: records that cannot be used, all of them named; ``make`` says so by
                ``refuse``.
        """
        results: dict[str, tuple[Record, T]] = {}
        faults: list[str] = []
        for record in self.rows:
            result = _attempt(record, make, results)
            if isinstance(result, RecordFaultError):
                faults.append(str(result))
            else:
                results.setdefault(record[record.key], (record, result))
        if faults:
            more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
            raise InvalidInputError(
                f"{len(faults)} of {len(self.rows)} rows cannot be used: "
                f"{'; '.join(faults[:_LISTED])}{more}. Get the file anew."
            )
        return [result for _, result in results.values()]


def _attempt(
    record: Record, make: Callable[[Record], T], earlier: Mapping[str, tuple[Record, T]]
) -> T | RecordFaultError:
    """What ``make`` makes of a record, or why the record cannot be used.

    ``earlier`` has, by key, the records before it and what was made of them.
    """
    try:
        record.check_texts([record.key])
        result = make(record)
        first, expected = earlier.get(record[record.key], (record, result))
        record.refuse([] if result == expected else [f"differs from that of {first.place}"])
    except RecordFaultError as fault:
        return fault
    return result


def records(table: pd.DataFrame, *, key: str, name: str) -> list[Record]:
    """The rows of a table called ``name``, known by the column ``key``."""
    rows = [
        {
            str(column): cell if isinstance(cell, str) else _text(cell)
            for column, cell in row.items()
        }
        for row in table.to_dict("records")
    ]
    return [Record(row, key=key, place=f"{name}, row {number}") for number, row in enumerate(rows)]


def with_ids(rows: Sequence[Record]) -> list[Record]:
    """Records of a table that has no column to know them by, known by a hash of their cells.

    Example:
        >>> one, = with_ids([Record({"question": "Tea?"}, key="question", place="a.csv, row 0")])
        >>> one.key, len(one["id"]), one.place
        ('id', 12, 'a.csv, row 0')
    """
    return [Record({**row, "id": _digest(row)}, key="id", place=row.place) for row in rows]


def text_fault(cell: Any) -> str:
    """What is wrong with a cell that must hold text; ``""`` if nothing is.

    Example:
        >>> text_fault(["tea"]), text_fault(" "), text_fault("tea")
        ("holds ['tea'], not text", 'is empty', '')
    """
    if not isinstance(cell, str):
        return f"holds {cut(cell)}, not text"
    if not cell.strip():
        return "is empty"
    return "" if _TEXT(cell) else f"holds {cut(cell)}, with characters that are no text"


def cut(cell: Any) -> str:
    """A cell as it stands in a sentence, cut to 80 characters."""
    text = repr(cell)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parsed_json(record: Record, name: str) -> Any:
    """What a cell holds that is JSON text in csv files and an object in parquet ones.

    Raises:
        RecordFaultError: text that is no JSON, or in which a key comes twice.
    """
    cell = record[name]
    if not isinstance(cell, str):
        return cell
    try:
        return loads_once(cell)
    except (ValueError, RecursionError) as error:
        record.refuse([f"{name} {cut(cell)} is not JSON ({error})"])


def option_faults(options: Any, letters: str, answer: str) -> list[str]:
    """What is wrong with options by label: they go by ``letters`` from A on, each with its text."""
    if not isinstance(options, dict):
        return [f"its options are {cut(options)}, expected texts by letter"]
    labels = list(options)
    wrong = [
        f"option {label} {text_fault(text)}"
        for label, text in options.items()
        if not (isinstance(text, str) and _TEXT(text))
    ]
    if len(labels) < 2 or labels != list(letters[: len(labels)]):
        wrong.append(f"its options are called {cut(labels)}, expected {', '.join(letters)}")
    if answer not in labels:
        wrong.append(f"its answer {answer!r} is not among its options {cut(labels)}")
    return wrong


def half_of_groups(items: Sequence[Item], split: Split, group: Callable[[Item], Any]) -> list[Item]:
    """The first half of every group to identify, rounded down, the rest to test, in their order.

    Example:
        >>> items = [Item(id=name, options=("a", "b"), answer=0) for name in ("1", "2", "3")]
        >>> [item.id for item in half_of_groups(items, "test", lambda item: "one group")]
        ['2', '3']
    """
    if split == "all":
        return list(items)
    sizes = Counter(group(item) for item in items)
    counts: Counter[Any] = Counter()
    half = []
    for item in items:
        is_first = counts[group(item)] < sizes[group(item)] // 2
        counts[group(item)] += 1
        if is_first == (split == "identify"):
            half.append(item)
    return half


def _digest(row: Record) -> str:
    return blake2b(ascii(sorted(row.items())).encode(), digest_size=6).hexdigest()


def _text(cell: Any) -> Any:
    """Text for a number, ``""`` for nothing; lists, objects, truth values and infinity stay."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and isnan(cell)):
        return ""
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool) and isfinite(cell)
    return str(cell) if is_number else cell
