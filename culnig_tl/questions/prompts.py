"""Rows out of items and templates, and the same rows without their question.

An `Item` is one thing to be asked, with the texts of its options; a `Template` is one wording. Text
in braces is filled in:

| field | becomes |
|---|---|
| ``{options}`` | one line an option, ``A. tea`` |
| ``{option_a}`` ... ``{option_j}`` | the texts of the options in the order shown |
| ``{question}``, ``{passage}``, ``{story}``, ``{country}``, ... | the item's own texts |

Other braces stay as they are, so a template may hold JSON. Options are shown in an order that comes
from a hash of the item's id and culture (BLAKE2, so it is the same on every machine and in every
version of Python), unless their order means something.

A *control* row is a row without its question; instruction, options, their order and the right label
stay. What counts as the question is the line of the template that holds ``{question}``, or else
the item's question where the prompt holds it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Literal

from datasets import Dataset

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.questions.schema import FEATURES, questions, ranges

_FIELD = re.compile(r"\{([a-z][a-z_0-9]*)\}")


@dataclass(frozen=True)
class Template:
    """One wording of a prompt.

    Attributes:
        text: the user's turn, with fields in braces.
        labels: what the options are called: ``"letters"`` (A, B, ...), ``"digits"`` (1, 2, ...) or
            ``"values"`` (what the item says: 0 and 1, or the numbers of a scale).
        name: of the wording; results are grouped by it.
        system: the system turn, with fields in braces.
        reply_prefix: start of the reply.

    Example:
        >>> Template("{question}\\n{options}\\nAnswer:", name="short").labels
        'letters'
    """

    text: str
    labels: Literal["letters", "digits", "values"] = "letters"
    name: str = "own"
    system: str = ""
    reply_prefix: str = ""


@dataclass(frozen=True)
class Item:
    """One thing to be asked.

    Attributes:
        id: the question; the same thing asked of several cultures shares it.
        options: their texts, the right one at ``answer``.
        answer: position of the right option.
        culture, topic: what results are grouped by.
        fields: the texts that a template may fill in.
        values: what the options are called under ``labels="values"``.
        ordered: keep the options in the order given.
    """

    id: str
    options: tuple[str, ...]
    answer: int
    culture: str = ""
    topic: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    values: tuple[str, ...] = ()
    ordered: bool = False


def rows_of(
    items: Iterable[Item], templates: Sequence[Template], *, benchmark: str
) -> list[dict[str, Any]]:
    """Every item in every template, template by template, as rows of the schema.

    Raises:
        UnknownNameError: a template asks for a field that the items do not have.
    """
    items = list(items)
    return [_row(item, template, benchmark) for template in templates for item in items]


def control_of(rows: Dataset) -> Dataset:
    """The rows without their question: instruction, options and right label stay.

    Raises:
        InvalidInputError: rows whose column ``question`` is empty, all of them named.

    Example:
        >>> rows = questions([{"id": "q", "prompt": "Choose. Hot drink? tea, ice. Answer:",
        ...                    "options": [" tea", " ice"], "answer": " tea",
        ...                    "question": "Hot drink? "}])
        >>> control_of(rows)["prompt"][0]
        'Choose. tea, ice. Answer:'
    """
    records = questions(rows).to_list()
    if silent := [number for number, row in enumerate(records) if not row["question"]]:
        raise InvalidInputError(
            f"{len(silent)} of {len(records)} rows (rows {ranges(silent)}) do not say which part "
            "of their prompt is the question; give that part, word by word, in a column question."
        )
    return questions(Dataset.from_list([_control(row) for row in records], features=FEATURES))


def order_of(key: str, n: int) -> list[int]:
    """The numbers 0 to n - 1 in an order that depends on ``key`` alone.

    Example:
        >>> order_of("q1", 4) == order_of("q1", 4)
        True
    """
    return sorted(range(n), key=lambda index: blake2b(f"{key}|{index}".encode()).digest())


def _control(row: Mapping[str, Any]) -> dict[str, Any]:
    benchmark = f"{row['benchmark']}-control" if row["benchmark"] else "control"
    prompt = row["prompt"].replace(row["question"], "", 1).lstrip()
    return {**row, "prompt": prompt, "question": "", "benchmark": benchmark}


def _row(item: Item, template: Template, benchmark: str) -> dict[str, Any]:
    n = len(item.options)
    fixed = item.ordered or template.labels == "values"
    order = list(range(n)) if fixed else order_of(f"{item.id}|{item.culture}", n)
    labels = _labels(item, template, order)
    texts = [item.options[index] for index in order]
    listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
    slots = {f"option_{letter}": text for letter, text in zip(ascii_lowercase, texts, strict=False)}
    slots |= {**item.fields, "options": listed}
    prompt = _filled(template.text, slots)
    return {
        "id": item.id,
        "prompt": prompt,
        "reply_prefix": template.reply_prefix,
        "options": labels,
        "answer": labels[order.index(item.answer)],
        "culture": item.culture,
        "topic": item.topic,
        "template": template.name,
        "benchmark": benchmark,
        "system": _filled(template.system, slots),
        "question": _question(template.text, slots, prompt),
    }


def _labels(item: Item, template: Template, order: Sequence[int]) -> list[str]:
    if template.labels == "letters":
        return list(ascii_uppercase[: len(order)])
    if template.labels == "digits":
        return [str(number + 1) for number in range(len(order))]
    if not item.values:
        raise InvalidInputError(
            f"Template {template.name!r} calls the options by their values, but question "
            f"{item.id!r} has none; take labels='letters' or 'digits'."
        )
    return [item.values[index] for index in order]


def _filled(text: str, slots: Mapping[str, str]) -> str:
    if unknown := [name for name in _FIELD.findall(text) if name not in slots]:
        raise UnknownNameError(
            f"The template asks for {', '.join(map(repr, unknown))}; "
            f"these questions have {', '.join(slots)}."
        )
    return _FIELD.sub(lambda match: slots[match.group(1)], text)


def _question(text: str, slots: Mapping[str, str], prompt: str) -> str:
    """The part of the prompt that a control row leaves out; ``""`` where it holds no question."""
    line = next((line for line in text.splitlines(keepends=True) if "{question}" in line), "")
    if set(_FIELD.findall(line)) == {"question"}:
        return _filled(line, slots)
    asked = slots.get("question", "")
    return asked if asked in prompt else ""
