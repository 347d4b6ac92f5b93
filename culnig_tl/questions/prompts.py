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
the item's question where the prompt holds it. Where a passage or an option says the same once more,
the row says which of them is the question (``question_offset``). Of a cloze it is the culture that
is left out (see ``cloze``).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Literal

from datasets import Dataset

from culnig_tl.cultures import spellings_of
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.questions.cloze import as_beginning, without_culture
from culnig_tl.questions.schema import (
    OFFSET,
    dataset_of,
    is_cloze,
    offset_of,
    questions,
    ranges,
)

_FIELD = re.compile(r"\{([a-z][a-z_0-9]*)\}")
_MOST = len(ascii_uppercase)


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
        options: their texts, at most 26, the right one at ``answer``.
        answer: position of the right option.
        culture, topic: what results are grouped by.
        fields: the texts that a template may fill in.
        values: what the options are called under ``labels="values"``.
        ordered: keep the options in the order given.

    Example:
        >>> item = Item("drink", options=("coffee", "tea"), answer=1, culture="Iran",
        ...             fields={"question": "What do people drink in the morning?"})
        >>> item.options[item.answer]
        'tea'
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
        InvalidInputError: items whose right option is not among their 1 to 26 options, all of them
            named, or a template of values for an item without as many values.

    Example:
        >>> item = Item("drink", options=("coffee", "tea"), answer=1, culture="Iran",
        ...             fields={"question": "What do people drink in the morning?"}, ordered=True)
        >>> rows = rows_of([item], [Template("{question}\\n{options}\\nAnswer:")], benchmark="own")
        >>> print(rows[0]["prompt"], rows[0]["answer"])
        What do people drink in the morning?
        A. coffee
        B. tea
        Answer: B
    """
    items = list(items)
    if wrong := [
        number
        for number, item in enumerate(items)
        if not 0 <= item.answer < len(item.options) <= _MOST
    ]:
        raise InvalidInputError(
            f"{len(wrong)} of {len(items)} items (items {ranges(wrong)}) have no right option "
            f"among 1 to {_MOST}; give answer as a position in options, from 0."
        )
    return [_row(item, template, benchmark) for template in templates for item in items]


def as_templates(
    given: Template | str | Sequence[Template | str], usual: Template
) -> list[Template]:
    """Wordings as templates; a text becomes one like ``usual``, named by its place, of digits where
    it lists ``1. {option_a}``.

    Raises:
        InvalidInputError: no wordings.

    Example:
        >>> usual = Template("{question}", name="usual")
        >>> [(made.name, made.labels) for made in as_templates("{question} 1. {option_a}", usual)]
        [('own-1', 'digits')]
    """
    listed = [given] if isinstance(given, Template | str) else given
    if not listed:
        raise InvalidInputError("templates is empty; give at least one, or None for the usual.")
    return [
        _from_text(text, number, usual) if isinstance(text, str) else text
        for number, text in enumerate(listed, start=1)
    ]


def fields_of(template: Template) -> list[str]:
    """The fields that a template fills in, in their order.

    Example:
        >>> fields_of(Template("{question}\\n{options}\\nAnswer:", system="You live in {country}."))
        ['country', 'question', 'options']
    """
    return list(dict.fromkeys(_FIELD.findall(template.system) + _FIELD.findall(template.text)))


def control_of(rows: Dataset) -> Dataset:
    """The rows without their question: instruction, options and right label stay.

    A cloze loses its culture, with what binds it to the sentence, unless its column ``question``
    says what else; what is left begins with a capital letter.

    Raises:
        InvalidInputError: rows whose column ``question`` is empty, or whose prompt holds the
            question more than once without saying which one is meant, or clozes that do not name
            their culture once after a preposition or as a possessive, all of them named.

    Example:
        >>> rows = questions([{"id": "q", "prompt": "Choose. Hot drink? tea, ice. Answer:",
        ...                    "options": [" tea", " ice"], "answer": " tea",
        ...                    "question": "Hot drink? "}])
        >>> control_of(rows)["prompt"][0]
        'Choose. tea, ice. Answer:'
    """
    records = questions(rows).to_list()
    bare = {n: _bare(row) for n, row in enumerate(records) if is_cloze(row) and not row["question"]}
    if bound := [number for number, prompt in bare.items() if not prompt]:
        raise InvalidInputError(
            f"{len(bound)} of {len(records)} rows (rows {ranges(bound)}; the first is question "
            f"{records[bound[0]]['id']!r}) are clozes that do not name their culture once in a way "
            "that can be taken out, such as 'In Iran, a', 'bread of Iran' or 'Iran's bread'; give "
            "the part to leave out, word by word, in a column question."
        )
    asking = {number: row for number, row in enumerate(records) if number not in bare}
    if silent := [number for number, row in asking.items() if not row["question"]]:
        raise InvalidInputError(
            f"{len(silent)} of {len(records)} rows (rows {ranges(silent)}) do not say which part "
            "of their prompt is the question; give that part, word by word, in a column question."
        )
    if unclear := [number for number, row in asking.items() if _offset(row) is None]:
        raise InvalidInputError(
            f"{len(unclear)} of {len(records)} rows (rows {ranges(unclear)}; the first is question "
            f"{records[unclear[0]]['id']!r}) hold their question more than once, expected one "
            f"place to cut it from; give more of the text around it in the column question, or "
            f"the number of characters before it in a column {OFFSET}."
        )
    return questions(
        dataset_of(_control(row, bare.get(number)) for number, row in enumerate(records))
    )


def order_of(key: str, n: int) -> list[int]:
    """The numbers 0 to n - 1 in an order that depends on ``key`` alone.

    Example:
        >>> order_of("q1", 4) == order_of("q1", 4)
        True
    """
    return sorted(range(n), key=lambda index: blake2b(f"{key}|{index}".encode()).digest())


def _control(row: Mapping[str, Any], bare: str | None) -> dict[str, Any]:
    benchmark = f"{row['benchmark']}-control" if row["benchmark"] else "control"
    prompt = bare or _without_question(row)
    return {**row, "prompt": prompt, "question": "", "benchmark": benchmark, OFFSET: None}


def _without_question(row: Mapping[str, Any]) -> str:
    start = _offset(row) or 0
    rest = (row["prompt"][:start] + row["prompt"][start + len(row["question"]) :]).lstrip()
    return as_beginning(rest) if is_cloze(row) and not start else rest


def _bare(row: Mapping[str, Any]) -> str | None:
    return without_culture(row["prompt"], spellings_of(row["culture"]))


def _offset(row: Mapping[str, Any]) -> int | None:
    """Where the question starts in the prompt; None where it stands more than once."""
    prompt, question = row["prompt"], row["question"]
    if (given := offset_of(row)) is not None:
        return given
    first = prompt.find(question)
    return first if prompt.find(question, first + 1) < 0 else None


def _row(item: Item, template: Template, benchmark: str) -> dict[str, Any]:
    n = len(item.options)
    fixed = item.ordered or template.labels == "values"
    order = list(range(n)) if fixed else order_of(f"{item.id}|{item.culture}", n)
    labels = _labels(item, template, order)
    texts = [item.options[index] for index in order]
    listed = "\n".join(f"{label}. {text}" for label, text in zip(labels, texts, strict=True))
    slots = {f"option_{letter}": text for letter, text in zip(ascii_lowercase, texts, strict=False)}
    slots |= {**item.fields, "options": listed}
    prompt = filled(template.text, slots)
    question, offset = _question(template.text, slots, prompt)
    row = {
        "id": item.id,
        "prompt": prompt,
        "reply_prefix": template.reply_prefix,
        "options": labels,
        "answer": labels[order.index(item.answer)],
        "culture": item.culture,
        "topic": item.topic,
        "template": template.name,
        "benchmark": benchmark,
        "system": filled(template.system, slots),
        "question": question,
    }
    return row if offset is None or _offset(row) is not None else {**row, OFFSET: offset}


def _from_text(text: str, number: int, usual: Template) -> Template:
    listed = re.search(r"\b1\W+\{option_a\}", text)
    return replace(
        usual, text=text, name=f"own-{number}", labels="digits" if listed else usual.labels
    )


def _labels(item: Item, template: Template, order: Sequence[int]) -> list[str]:
    if template.labels == "letters":
        return list(ascii_uppercase[: len(order)])
    if template.labels == "digits":
        return [str(number + 1) for number in range(len(order))]
    if len(item.values) != len(item.options):
        raise InvalidInputError(
            f"Template {template.name!r} calls the options by their values, but question "
            f"{item.id!r} has {len(item.values)} for {len(item.options)} options; take "
            "labels='letters' or 'digits'."
        )
    return [item.values[index] for index in order]


def filled(text: str, slots: Mapping[str, str]) -> str:
    """A template's text with its fields filled in; other braces stay.

    Raises:
        UnknownNameError: the text asks for a field that is not there.

    Example:
        >>> filled('{question} Reply as {"answer": ""}.', {"question": "Tea?"})
        'Tea? Reply as {"answer": ""}.'
    """
    if unknown := [name for name in _FIELD.findall(text) if name not in slots]:
        raise UnknownNameError(
            f"The template asks for {', '.join(map(repr, unknown))}; "
            f"these questions have {', '.join(slots)}."
        )
    return _FIELD.sub(lambda match: slots[match.group(1)], text)


def _question(text: str, slots: Mapping[str, str], prompt: str) -> tuple[str, int | None]:
    """The part of the prompt that a control row leaves out, and where it starts.

    ``""`` where the prompt holds no question, no place where the template does not tell.
    """
    question = slots.get("question", "")
    if text.count("{question}") != 1:
        return (question if question in prompt else ""), None
    before, question_on = text.split("{question}")[0], "{question}"
    lines = text.splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if "{question}" in line)
    if set(_FIELD.findall(lines[number])) == {"question"}:
        before, question_on = "".join(lines[:number]), lines[number]
    return filled(question_on, slots), len(filled(before, slots))
