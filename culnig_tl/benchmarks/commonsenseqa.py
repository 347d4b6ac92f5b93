"""CommonsenseQA: everyday reasoning without culture (Talmor et al. 2019, MIT).

The validation split. Five options in their own order, which is balanced and which the paper keeps.
The official ``dev_rand_split.jsonl`` and the hub's rows are both read.
"""

from collections.abc import Sequence

from culnig_tl.benchmarks.sources import Hub, Loaded, Record, Source, parsed_json
from culnig_tl.errors import InvalidInputError
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
    items = [_item(record) for record in records.rows]
    return Loaded(rows_of(items, templates, benchmark="commonsenseqa"), records.origin)


def _item(record: Record) -> Item:
    name = f"CommonsenseQA question {record['id']!r}"
    question, choices = record["question"], parsed_json(record["choices"], name)
    if isinstance(question, dict):
        question, choices = question["stem"], question["choices"]
    if isinstance(choices, dict):
        texts = dict(zip(choices["label"], choices["text"], strict=True))
    else:
        texts = {choice["label"]: choice["text"] for choice in choices}
    if record["answer"] not in texts:
        raise InvalidInputError(
            f"{name}: its answer {record['answer']!r} is not among its options {list(texts)}; "
            "get the file anew."
        )
    return Item(
        id=record["id"],
        options=tuple(texts.values()),
        answer=list(texts).index(record["answer"]),
        fields={"question": question},
        ordered=True,
    )
