"""Rows out of a table of questions that are not prompts yet.

A line of the table is one question:

| column | what |
|---|---|
| question | what is asked |
| options | the texts of its options: a list, in a csv or tsv file a JSON list |
| option_a, option_b, ... | in place of ``options``: one column an option, all of them filled |
| answer | the right option: its letter (``B`` or ``b``), its number from 1, or its exact text |
| id | the question; without this column each line is one of its own: ``row 0``, ``row 1``, ... |
| culture, topic | what results are grouped by; may be empty or left out |

Letters and numbers count the options as the table lists them; a prompt shows them in an order that
comes from a hash of id and culture, with other labels (see ``prompts``). Where an answer could mean
two options, as ``2`` does where the text of the first is ``2``, the row is refused. Questions with
different numbers of options go into ``options``.

Every question is asked in every template, so a table of 100 questions becomes 400 rows in the four
``TEMPLATES``; these share the question's id and count once in ``N(D)``. Give an id where several
cultures are asked the same. Any column can be a field of a template of one's own, ``{passage}``.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import pandas as pd

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.questions.given import column_names, records_of
from culnig_tl.questions.prompts import Item, Template, as_templates, fields_of, rows_of
from culnig_tl.questions.schema import is_text, listed_texts, refuse

TEMPLATES = (
    Template(
        "Read the question and its options, then give the letter of the right one.\n"
        "Question: {question}\n{options}\nAnswer:",
        name="letters-1",
    ),
    Template(
        "{question}\n\n{options}\n\nWhich of them is right? Write its letter only.\nAnswer:",
        name="letters-2",
    ),
    Template(
        "Read the question and its options, then give the number of the right one.\n"
        "Question: {question}\n{options}\nAnswer:",
        labels="digits",
        name="digits-1",
    ),
    Template(
        "{question}\n\n{options}\n\nWhich of them is right? Write its number only.\nAnswer:",
        labels="digits",
        name="digits-2",
    ),
)
"""The wordings that a table of questions is asked in by default."""

OPTION_COLUMNS = tuple(f"option_{letter}" for letter in ascii_lowercase)
_OF_TEMPLATES = ("reply_prefix", "template", "benchmark", "system")
_NEEDS = (
    "A row needs a question, two options or more that are filled and differ, and as answer the "
    "letter, the number from 1 or the text of one of them."
)


def rows_of_table(
    frame: pd.DataFrame,
    *,
    templates: Template | str | Sequence[Template | str] | None = None,
) -> list[dict[str, Any]]:
    """Every question of the table in every template, as rows of the schema.

    Raises:
        UnknownNameError: a template asks for a column that is not there.
        InvalidInputError: a missing column, a template that leaves the options out, or rows that
            cannot be used (all of them named by number).

    Example:
        >>> frame = pd.DataFrame({"question": ["Which is a drink?"], "options": [["rice", "tea"]],
        ...                       "answer": [2]})
        >>> [row["answer"] for row in rows_of_table(frame)]
        ['B', 'B', '2', '2']
    """
    wordings = TEMPLATES if templates is None else as_templates(templates, TEMPLATES[0])
    records = [{"id": f"row {number}", **row} for number, row in enumerate(records_of(frame))]
    if not records:
        raise InvalidInputError("There are no rows; give at least one question.")
    columns = _option_columns(frame)
    fields = _fields(frame, wordings)
    options = [_options(record, columns) for record in records]
    refuse(
        {
            number: _faults(record, options[number], fields, wordings)
            for number, record in enumerate(records)
        },
        needs=_NEEDS,
    )
    items = [_item(*pair, fields) for pair in zip(records, options, strict=True)]
    return rows_of(items, wordings, benchmark="")


def _option_columns(frame: pd.DataFrame) -> list[str]:
    """The columns with one option each; none where ``options`` lists them.

    Raises:
        InvalidInputError: columns that are missing, that leave a gap, or that templates bring.
    """
    columns = [name for name in OPTION_COLUMNS if name in frame]
    listed = ["options"] if "options" in frame else []
    missing = [name for name in ("question", "answer") if name not in frame]
    if not columns and not listed:
        missing.append("options (nor option_a, option_b, ...)")
    theirs = [name for name in _OF_TEMPLATES if name in frame]
    faults = [
        f"it has no column {', '.join(missing)}" if missing else "",
        f"it has options twice, in {', '.join(listed + columns)}" if listed and columns else "",
        f"{columns[-1]} does not follow on the columns before it"
        if columns != list(OPTION_COLUMNS[: len(columns)])
        else "",
        f"{', '.join(theirs)} come from templates" if theirs else "",
    ]
    if wrong := [fault for fault in faults if fault]:
        raise InvalidInputError(
            f"No prompts can be made of the table: {'; '.join(wrong)}. It has "
            f"{column_names(frame)}; give question, answer and options, or a "
            "finished prompt, under these names or with columns=."
        )
    return columns


def _fields(frame: pd.DataFrame, wordings: Sequence[Template]) -> list[str]:
    """The columns that templates fill in, the question among them.

    Raises:
        UnknownNameError: a column that is not there.
        InvalidInputError: a template that shows no options.
    """
    if silent := [template.name for template in wordings if not _shown(template)]:
        raise InvalidInputError(
            f"Template {silent[0]!r} does not show the options, whose order and labels it is to "
            "give; put {options} in, or {option_a}, {option_b}, ..."
        )
    everything = dict.fromkeys(name for template in wordings for name in fields_of(template))
    others = ("question", "options", *OPTION_COLUMNS)
    fields = [name for name in everything if name not in others]
    if unknown := [name for name in fields if name not in frame]:
        raise UnknownNameError(
            f"The templates ask for {', '.join(map(repr, unknown))}; the table has "
            f"{column_names(frame)}."
        )
    return ["question", *fields]


def _shown(template: Template) -> list[str]:
    """The fields by which a template shows options."""
    return [name for name in fields_of(template) if name in ("options", *OPTION_COLUMNS)]


def _options(record: Mapping[Any, Any], columns: Sequence[str]) -> list[Any] | None:
    """The options of a row; None if they are no list of texts."""
    return [record[name] for name in columns] if columns else listed_texts(record["options"])


def _faults(
    record: Mapping[Any, Any],
    options: list[Any] | None,
    fields: Sequence[str],
    wordings: Sequence[Template],
) -> list[str]:
    unfilled = [name for name in ("id", *fields) if not _is_filled(record[name])]
    grouping = [
        name
        for name in ("culture", "topic")
        if not (record.get(name) is None or is_text(record[name]))
    ]
    faults = [f"{', '.join(unfilled)} must be text and not empty"] if unfilled else []
    faults += [f"{', '.join(grouping)} must be text"] if grouping else []
    wrong = _option_faults(options, wordings)
    return faults + wrong + _answer_faults(record["answer"], [] if wrong else options or [])


def _option_faults(options: list[Any] | None, wordings: Sequence[Template]) -> list[str]:
    if options is None:
        return ["options must be a list of texts"]
    n = len(options)
    if not 2 <= n <= len(OPTION_COLUMNS):
        return [f"{n} options, expected 2 to {len(OPTION_COLUMNS)}"]
    if unfilled := [ascii_uppercase[i] for i in range(n) if not _is_filled(options[i])]:
        return [f"option {', '.join(unfilled)} must be text and not empty"]
    faults = ["options repeat"] if len({text.strip() for text in options}) < n else []
    for template in wordings:
        named = [name for name in _shown(template) if name in OPTION_COLUMNS]
        beyond = [name for name in named if name not in OPTION_COLUMNS[:n]]
        left_out = [
            name
            for name in OPTION_COLUMNS[:n]
            if name not in named and "options" not in _shown(template)
        ]
        if beyond:
            faults.append(f"template {template.name!r} shows {', '.join(beyond)}, of {n} options")
        if left_out:
            faults.append(f"template {template.name!r} leaves {', '.join(left_out)} out")
    return faults


def _answer_faults(answer: Any, options: Sequence[str]) -> list[str]:
    """What is wrong with an answer; no options where they are wrong themselves."""
    text = _answer_text(answer)
    if text is None:
        return [f"answer {answer!r} is no letter, whole number or text"]
    if not text.strip():
        return ["answer is empty"]
    meant = [ascii_uppercase[position] for position in _positions(text, options)]
    if options and not meant:
        return [
            f"answer {answer!r} is no letter to {ascii_uppercase[len(options) - 1]}, no number to "
            f"{len(options)} and no text of the options {list(options)}"
        ]
    return [f"answer {answer!r} may mean option {' or '.join(meant)}"] if len(meant) > 1 else []


def _answer_text(answer: Any) -> str | None:
    """An answer as text; a whole number may have come as a float, an empty cell is ``""``."""
    if answer is None:
        return ""
    if is_text(answer):
        return answer
    whole = isinstance(answer, float) and answer.is_integer()
    if whole or (isinstance(answer, Integral) and not isinstance(answer, bool)):
        return str(int(answer))
    return None


def _positions(answer: str, options: Sequence[str]) -> list[int]:
    """The options that an answer may mean."""
    return [
        position
        for position, option in enumerate(options)
        if answer
        in (ascii_uppercase[position], ascii_lowercase[position], str(position + 1), option)
    ]


def _is_filled(cell: Any) -> bool:
    return is_text(cell) and bool(cell.strip())


def _item(record: Mapping[Any, Any], options: list[Any] | None, fields: Sequence[str]) -> Item:
    assert options is not None, "a row without options was refused"
    (answer,) = _positions(_answer_text(record["answer"]) or "", options)
    return Item(
        id=record["id"],
        options=tuple(options),
        answer=answer,
        culture=record.get("culture") or "",
        topic=record.get("topic") or "",
        fields={name: record[name] for name in fields},
    )
