"""BLEnD: everyday knowledge in 16 cultures (Myung et al. 2024, arXiv 2406.09948, CC BY-SA 4.0).

Config ``multiple-choice-questions``. Of the rows of one country and question, which differ in their
wrong options, the first five count. A row keeps the prompt that BLEnD wrote for it, as in the
paper, and its own order of options, which is balanced; the prompt asks for JSON, so the reply
begins with ``{"answer_choice":"``. ``templates`` puts other wordings in its place. The control is
the same prompt without its question.

The topic of a question comes from BLEnD's own questions (config ``short-answer-questions``, or
``US_questions.csv``): Food, Work life and Sport identify; Education, Family and
Holidays/Celebration/Leisure test.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from string import ascii_uppercase
from typing import TypeVar

from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.records import Record, option_faults, parsed_json
from culnig_tl.errors import MissingFileError
from culnig_tl.questions import Item, Split, Template, rows_of

T = TypeVar("T")
IDENTIFY_TOPICS = ("Food", "Work life", "Sport")
TEST_TOPICS = ("Education", "Family", "Holidays/Celebration/Leisure")
REPLY_PREFIX = '{"answer_choice":"'
ROWS_PER_QUESTION = 5

_CHOICES = Hub("nayeon212/BLEnD", "multiple-choice-questions", "test")
_CHOICE_COLUMNS = {
    name: (name,) for name in ("MCQID", "ID", "country", "prompt", "choices", "answer_idx")
}
_TOPICS = Hub("nayeon212/BLEnD", "short-answer-questions", "US")
_TOPIC_COLUMNS = {"ID": ("ID",), "Topic": ("Topic",)}
# The question ends where BLEnD's instruction begins.
_INSTRUCTION = "Without any explanation"

TEMPLATES = (
    Template(
        'Pick the one option that answers the question. Reply in JSON, as {"answer_choice":"A"}, '
        "with the letter of the option and nothing else.\n"
        "Question: {question}\n{options}\nAnswer:",
        name="json-1",
        reply_prefix=REPLY_PREFIX,
    ),
    Template(
        "Question: {question}\n{options}\n"
        'Which letter is right? Write only this JSON, filled in: {"answer_choice":""}\nAnswer:',
        name="json-2",
        reply_prefix=REPLY_PREFIX,
    ),
    Template(
        "Below is a question about everyday life, with possible answers.\n"
        "{question}\n{options}\n"
        'Give the letter of the best answer as JSON with the key "answer_choice".\nAnswer:',
        name="json-3",
        reply_prefix=REPLY_PREFIX,
    ),
    Template(
        'Read the question and reply with one letter, in the form {"answer_choice":"..."}. '
        "Explain nothing.\n{question}\n\n{options}\n\nAnswer:",
        name="json-4",
        reply_prefix=REPLY_PREFIX,
    ),
)
"""Wordings of this project, for ``templates``."""

OWN_PROMPT = (Template("{prompt}", name="blend", reply_prefix=REPLY_PREFIX),)
"""The prompt that BLEnD itself holds: the one of the paper, and the default."""


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """BLEnD's rows, at most five per country and question."""
    choices = source.read(_CHOICES, _CHOICE_COLUMNS, key="MCQID")
    items = _first_items(choices.each(partial(_item, topics=topics(source))))
    half = halved(items, split, lambda item: item.topic)
    return Loaded(rows_of(half, templates, benchmark="blend"), choices.origin)


def halved(items: Sequence[T], split: Split, topic: Callable[[T], str]) -> list[T]:
    """Those whose topic belongs to the half.

    Example:
        >>> halved(["Food", "Family"], "test", lambda topic: topic)
        ['Family']
    """
    wanted = {"identify": IDENTIFY_TOPICS, "test": TEST_TOPICS}.get(split)
    return [item for item in items if wanted is None or topic(item) in wanted]


def topics(source: Source) -> dict[str, str]:
    """Topic of each question; a folder that has none takes them from the hub."""
    try:
        records = source.read(_TOPICS, _TOPIC_COLUMNS, key="ID")
    except MissingFileError:
        if source.data_dir is None:
            raise
        records = replace(source, data_dir=None).read(_TOPICS, _TOPIC_COLUMNS, key="ID")
    return dict(records.each(_topic))


def _topic(record: Record) -> tuple[str, str]:
    record.check_choice("Topic", (*IDENTIFY_TOPICS, *TEST_TOPICS))
    return record["ID"], record["Topic"]


def _first_items(items: Sequence[Item]) -> list[Item]:
    """The first items of each culture and question."""
    counts: Counter[tuple[str, str]] = Counter()
    first = []
    for item in items:
        counts[item.culture, item.id] += 1
        if counts[item.culture, item.id] <= ROWS_PER_QUESTION:
            first.append(item)
    return first


def _item(record: Record, topics: Mapping[str, str]) -> Item:
    record.check_texts(["ID", "country", "prompt", "answer_idx"])
    choices = parsed_json(record, "choices")
    question, instruction, _ = record["prompt"].partition(_INSTRUCTION)
    is_whole = instruction and question.strip()
    record.refuse(
        [
            *option_faults(choices, ascii_uppercase, record["answer_idx"]),
            "" if is_whole else f"its prompt does not hold a question and then {_INSTRUCTION!r}",
            "" if record["ID"] in topics else f"no topic is known of its question {record['ID']!r}",
        ]
    )
    return Item(
        id=record["ID"],
        culture=record.culture("country"),
        topic=topics[record["ID"]],
        options=tuple(choices.values()),
        answer=list(choices).index(record["answer_idx"]),
        fields={"prompt": record["prompt"], "question": question.strip()},
        ordered=True,
    )


BLEND = Benchmark(
    "blend",
    load,
    OWN_PROMPT,
    licence="CC-BY-SA-4.0 (BLEnD, Myung et al. 2024, arXiv 2406.09948)",
)
CONTROL = BLEND.control()
