"""CommonsenseQA: everyday reasoning without culture (Talmor et al. 2019, MIT).

The validation split. Five options in their own order, which is balanced and which the paper keeps.
The official ``dev_rand_split.jsonl`` and the hub's rows are both read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.records import Record, cut, option_faults, parsed_json, text_fault
from culnig_tl.questions import Item, Split, Template, rows_of

TEMPLATES = (
    Template(
        "Answer this question with one letter, A to E, and nothing else.\n"
        "Question: {question}\n{options}\nAnswer:",
        name="letters-1",
    ),
    Template(
        "{question}\n\n{options}\n\nWhich option fits best? Reply with its letter only.\nAnswer:",
        name="letters-2",
    ),
    Template(
        "Answer this question with one number, 1 to 5, and nothing else.\n"
        "Question: {question}\n{options}\nAnswer:",
        labels="digits",
        name="digits-1",
    ),
    Template(
        "{question}\n\n{options}\n\nWhich option fits best? Reply with its number only.\nAnswer:",
        labels="digits",
        name="digits-2",
    ),
)
_HUB = Hub("tau/commonsense_qa", None, "validation")
_COLUMNS = {"id": ("id",), "question": ("question",), "answer": ("answerKey",)}
# The hub's rows have the choices beside the question, the official file within it.
_WITH_CHOICES = {**_COLUMNS, "choices": ("choices", "question")}


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """The validation questions; there is no half to identify neurons with."""
    records = source.read(_HUB, _WITH_CHOICES, key="id", files=r"(^|/)(dev|validation)")
    items = records.each(_item)
    return Loaded(rows_of(items, templates, benchmark="commonsenseqa"), records.origin)


def _item(record: Record) -> Item:
    record.check_texts(["answer"])
    question, choices = record["question"], record["choices"]
    if isinstance(question, dict):
        question, choices = question.get("stem"), question.get("choices")
    else:
        choices = parsed_json(record, "choices")
    options = _options(choices)
    fault = text_fault(question)
    record.refuse(
        [fault and f"question {fault}", *option_faults(options, "ABCDE", record["answer"])]
        if options
        else [f"its choices are {cut(choices)}, expected labels A to E, each with a text"]
    )
    return Item(
        id=record["id"],
        options=tuple(options.values()),
        answer=list(options).index(record["answer"]),
        fields={"question": str(question)},
        ordered=True,
    )


def _options(choices: Any) -> dict[str, Any]:
    """Texts by label, out of pairs or of two lists; none if the choices have another form."""
    if isinstance(choices, dict):
        labels, texts = (_listed(choices.get(name)) for name in ("label", "text"))
    else:
        pairs = [pair if isinstance(pair, dict) else {} for pair in _listed(choices)]
        labels, texts = ([pair.get(name) for pair in pairs] for name in ("label", "text"))
    plain = all(isinstance(label, str) for label in labels)
    whole = len(labels) == len(texts) == len(set(labels)) if plain else False
    return dict(zip(labels, texts, strict=True)) if whole else {}


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, Sequence | np.ndarray) else []


COMMONSENSEQA = Benchmark(
    "commonsenseqa",
    load,
    TEMPLATES,
    licence="MIT (CommonsenseQA, Talmor et al. 2019)",
    uses=("general",),
    has_culture=False,
)
