"""The schema of a question, and what is wrong with a row.

A *row* is one multiple-choice prompt with its right label:

| column | type | meaning |
|---|---|---|
| id | str | the question; its variants and cultures share it, ``N(D)`` counts these ids |
| prompt | str | the text that the model reads (the user's turn, where it has a chat template) |
| reply_prefix | str | start of the reply, appended after the prompt; usually empty |
| options | list[str] | the labels in the order shown |
| answer | str | the right label: exactly one token, as it follows the prompt |
| culture, topic, template, benchmark | str | what results are grouped by; ``""`` for none |
| system | str | the system turn; ``""`` for none |
| question | str | the part of the prompt that a control prompt leaves out; ``""`` if unknown |

The first four of id, prompt, options and answer must be there; the others become ``""``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import pandas as pd
from datasets import Dataset, Features, List, Value

from culnig_tl.errors import InvalidInputError

Split = Literal["identify", "test", "all"]
"""Part of a benchmark: to find neurons, to measure them, or both."""

TEXT_COLUMNS = (
    "id",
    "prompt",
    "reply_prefix",
    "answer",
    "culture",
    "topic",
    "template",
    "benchmark",
    "system",
    "question",
)
REQUIRED = ("id", "prompt", "options", "answer")
FEATURES = Features(
    {name: Value("string") for name in TEXT_COLUMNS} | {"options": List(Value("string"))}
)
_DETAILED_FAULTS = 10


def questions(rows: Dataset | pd.DataFrame | Iterable[Mapping[str, Any]]) -> Dataset:
    """Validated rows in the schema of this module; missing optional columns become empty.

    Raises:
        InvalidInputError: no rows, a missing column, or rows that cannot be used (all of them
            named by number).

    Example:
        >>> len(questions([{"id": "q1", "prompt": "Tea or rice? Answer:",
        ...                 "options": [" tea", " rice"], "answer": " rice", "culture": "China"}]))
        1
    """
    records: list[Any]
    if isinstance(rows, Dataset):
        records = rows.to_list()
    elif isinstance(rows, pd.DataFrame):
        records = rows.astype(object).where(rows.notna(), None).to_dict("records")
    else:
        records = [dict(row) for row in rows]
    if not records:
        raise InvalidInputError("There are no rows; give at least one question.")
    refuse({number: faults_of(row) for number, row in enumerate(records)})
    if isinstance(rows, Dataset) and rows.features == FEATURES:
        return rows
    filled = [
        {name: row.get(name) or "" for name in TEXT_COLUMNS} | {"options": list(row["options"])}
        for row in records
    ]
    return Dataset.from_list(filled, features=FEATURES)


def fingerprint(rows: Dataset) -> str:
    """Twelve hexadecimal digits that change when any row changes."""
    text = json.dumps(rows.to_list(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def refuse(faults: Mapping[int, Sequence[str]]) -> None:
    """Name every row that has a fault, the first ones with what is wrong.

    Raises:
        InvalidInputError: any row has a fault.
    """
    bad = {number: listed for number, listed in faults.items() if listed}
    if not bad:
        return
    detailed = [
        f"row {number}: {', '.join(listed)}"
        for number, listed in list(bad.items())[:_DETAILED_FAULTS]
    ]
    if rest := list(bad)[_DETAILED_FAULTS:]:
        detailed.append(f"and {len(rest)} more (rows {ranges(rest)})")
    raise InvalidInputError(
        f"{len(bad)} of {len(faults)} rows cannot be used: {'; '.join(detailed)}. "
        f"A row needs {', '.join(REQUIRED)}, and its answer among its options."
    )


def faults_of(row: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with one row."""
    if missing := [name for name in REQUIRED if name not in row]:
        return [f"no {', '.join(missing)}"]
    faults = []
    wrong = [name for name in TEXT_COLUMNS if not isinstance(row.get(name, "") or "", str)]
    if wrong:
        faults.append(f"{', '.join(wrong)} must be text")
    if empty := [name for name in ("id", "prompt") if not row[name]]:
        faults.append(f"{' and '.join(empty)} must not be empty")
    faults += _option_faults(row["options"], row["answer"])
    if not wrong and (row.get("question") or "") not in (row["prompt"] or ""):
        faults.append("its question is not a part of its prompt")
    return faults


def _option_faults(options: Any, answer: Any) -> list[str]:
    if isinstance(options, str | Mapping) or not isinstance(options, Iterable):
        return ["options must be a list of texts"]
    options = list(options)
    if not all(isinstance(option, str) for option in options):
        return ["options must be a list of texts"]
    faults = ["options repeat"] if len(set(options)) < len(options) else []
    if answer not in options:
        faults.append(f"answer {answer!r} is not among the options {options}")
    return faults


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short.

    Example:
        >>> ranges([3, 5, 6, 7, 12])
        '3, 5-7, 12'
    """
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
