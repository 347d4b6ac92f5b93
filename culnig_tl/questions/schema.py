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

id, prompt, options and answer must be there; the others become ``""``.

Two more columns are there only where a row needs them:

| column | type | meaning |
|---|---|---|
| question_offset | int | characters before the question, where the prompt holds it more than once |
| label_kind | str | ``"token"`` (the same as none), or ``"first token"`` for a cloze |

In a *cloze* the options are texts that may be several tokens long, such as ``lavash`` and
``injera`` after ``In Iran, a common bread is called``; the label is the first token of each, as it
follows the prompt. Options that begin with the same token cannot be told apart (see ``prepare``).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value

from culnig_tl.errors import InvalidInputError
from culnig_tl.questions.given import read_rows

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
OFFSET = "question_offset"
"""An optional column: where the question starts in its prompt."""
LABEL = "label_kind"
"""An optional column: whether options are one token, or known by their first one."""
LABELS = ("token", "first token")
FEATURES = Features(
    {name: Value("string") for name in TEXT_COLUMNS} | {"options": List(Value("string"))}
)
_OPTIONAL = {OFFSET: Value("int64"), LABEL: Value("string")}
_DETAILED_FAULTS = 10
_NEEDS = f"A row needs {', '.join(REQUIRED)}, and its answer among its options."


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
    records = read_rows(rows)
    refuse({number: faults_of(row) for number, row in enumerate(records)})
    if isinstance(rows, Dataset) and rows.features == features_of(rows.features):
        return rows
    return dataset_of(
        {name: row.get(name) or "" for name in TEXT_COLUMNS}
        | {"options": listed_texts(row["options"]), OFFSET: offset_of(row)}
        | {LABEL: row.get(LABEL) or None}
        for row in records
    )


def dataset_of(records: Iterable[Mapping[str, Any]]) -> Dataset:
    """Records with every column of the schema as rows; optional columns only where one is filled.

    Example:
        >>> row = dict.fromkeys(TEXT_COLUMNS, "") | {"options": ["tea"], LABEL: "first token"}
        >>> sorted(set(dataset_of([row]).column_names) - set(FEATURES))
        ['label_kind']
    """
    listed = list(records)
    filled = [name for name in _OPTIONAL if any(row.get(name) is not None for row in listed)]
    features = features_of(filled)
    return Dataset.from_list(
        [{name: row.get(name) for name in features} for row in listed], features=features
    )


def features_of(columns: Iterable[str]) -> Features:
    """The features of rows that have these columns.

    Example:
        >>> features_of(["label_kind"]) == FEATURES
        False
    """
    present = set(columns)
    return Features({**FEATURES, **{k: v for k, v in _OPTIONAL.items() if k in present}})


def is_cloze(row: Mapping[str, Any]) -> bool:
    """Whether the options of a row are texts known by their first token.

    Example:
        >>> is_cloze({"label_kind": "first token"}), is_cloze({"options": [" A", " B"]})
        (True, False)
    """
    return row.get(LABEL) == "first token"


def fingerprint(rows: Dataset) -> str:
    """Twelve hexadecimal digits that change when any row changes."""
    text = json.dumps(rows.to_list(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def refuse(faults: Mapping[int, Sequence[str]], *, needs: str = _NEEDS) -> None:
    """Name every row that has a fault, the first ones with what is wrong; ``needs`` says what a
    row should be.

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
        f"{len(bad)} of {len(faults)} rows cannot be used: {'; '.join(detailed)}. {needs}"
    )


def cloze_rows(rows: Dataset) -> tuple[bool, ...]:
    """``is_cloze`` of every row."""
    kinds = rows[LABEL] if LABEL in rows.column_names else [None] * len(rows)
    return tuple(is_cloze({LABEL: kind}) for kind in kinds)


def faults_of(row: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with one row."""
    if missing := [name for name in REQUIRED if name not in row]:
        return [f"no {', '.join(missing)}"]
    faults = []
    wrong = [name for name in TEXT_COLUMNS if not (row.get(name) is None or is_text(row[name]))]
    if wrong:
        faults.append(f"{', '.join(wrong)} must be text")
    if empty := [name for name in ("id", "prompt") if name not in wrong and not row[name]]:
        faults.append(f"{' and '.join(empty)} must not be empty")
    faults += _option_faults(row["options"], row["answer"])
    if not (row.get(LABEL) is None or (is_text(row[LABEL]) and row[LABEL] in ("", *LABELS))):
        faults.append(f"{LABEL} {row[LABEL]!r} is none of {', '.join(map(repr, LABELS))}")
    if not wrong:
        faults += _question_faults(row, row["prompt"] or "", row.get("question") or "")
    return faults


def _question_faults(row: Mapping[str, Any], prompt: str, question: str) -> list[str]:
    if question not in prompt:
        return ["its question is not a part of its prompt"]
    try:
        offset = offset_of(row)
    except (TypeError, ValueError, OverflowError):
        return [f"{OFFSET} {row[OFFSET]!r} is no whole number"]
    if offset is None or (question and offset >= 0 and prompt.startswith(question, offset)):
        return []
    return [f"its question does not start at character {offset} of its prompt, as {OFFSET} says"]


def offset_of(row: Mapping[str, Any]) -> int | None:
    """Where the question of a row starts in its prompt; None where the row does not say.

    Example:
        >>> offset_of({"question_offset": 7.0}), offset_of({"question_offset": ""}), offset_of({})
        (7, None, None)
    """
    cell = row.get(OFFSET)
    if cell is None or cell == "":
        return None
    if int(cell) != float(cell):
        raise ValueError(cell)
    return int(cell)


def loads_once(text: str) -> Any:
    """JSON in which no object has a key twice.

    Raises:
        ValueError: the text is no JSON, or a key comes twice.
    """
    return json.loads(text, object_pairs_hook=_with_keys_once)


def is_text(cell: Any) -> bool:
    """Whether a cell is text that can be written; half of a surrogate pair cannot.

    Example:
        >>> is_text("Türkiye"), is_text(7), is_text("\\ud800")
        (True, False, False)
    """
    if not isinstance(cell, str):
        return False
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed_texts(cell: Any) -> list[str] | None:
    """The texts of a cell that holds a list of them, a tuple or an array; None for all else.

    Example:
        >>> listed_texts((" A", " B")), listed_texts(" A, B")
        ([' A', ' B'], None)
    """
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if isinstance(cell, str) or not isinstance(cell, Sequence):
        return None
    return list(cell) if all(map(is_text, cell)) else None


def _option_faults(options: Any, answer: Any) -> list[str]:
    texts = listed_texts(options)
    if texts is None:
        return ["options must be a list of texts"]
    faults = ["options repeat"] if len(set(texts)) < len(texts) else []
    if answer is None or (is_text(answer) and answer not in texts):
        faults.append(f"answer {answer!r} is not among the options {texts}")
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


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        raise ValueError(f"the key {twice[0]!r} comes twice")
    return content
