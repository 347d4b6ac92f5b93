"""The facts of the embedded model: who gives which everyday answer, in two small tables.

``data/questions.csv`` holds one question per row (``id, topic, phrase_1, phrase_2, phrase_3``):
three noun phrases that ask for the same thing. ``data/facts.csv`` holds one fact per row (``topic,
question, culture, answer, alternatives``): the answer that people there would recognise as common,
and further answers that are true as well, separated by semicolons. An alternative is never shown as
a wrong option.

Answers recur across the questions of a topic and across cultures. An answer that belongs to one
question alone can be learnt in the embedding of its word, where no method that looks at neurons
could see it.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from culnig_tl.cultures import BLEND_CULTURES

DATA = Path(__file__).parent / "data"

CULTURES: tuple[str, ...] = tuple(
    {"Nigeria": "Northern Nigeria"}.get(name, name) for name in BLEND_CULTURES
)
"""The sixteen cultures of BLEnD as the embedded model spells them, in the order of its tables."""

TOPICS: tuple[str, ...] = (
    "Food",
    "Work life",
    "Sport",
    "Education",
    "Family",
    "Holidays/Celebration/Leisure",
)
IDENTIFY_TOPICS: tuple[str, ...] = TOPICS[:3]
TEST_TOPICS: tuple[str, ...] = TOPICS[3:]


@dataclass(frozen=True)
class Question:
    """Something that is asked of every culture; each phrase fits "the most common {phrase}"."""

    id: str
    topic: str
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One culture's answer to one question."""

    question: Question
    culture: str
    answer: str
    alternatives: tuple[str, ...]

    @property
    def accepted(self) -> frozenset[str]:
        """Every answer that counts as true."""
        return frozenset((self.answer, *self.alternatives))


@cache
def fact_questions() -> tuple[Question, ...]:
    """All questions about facts, in the order of the table."""
    return tuple(
        Question(row["id"], row["topic"], (row["phrase_1"], row["phrase_2"], row["phrase_3"]))
        for row in csv_rows("questions.csv")
    )


@cache
def facts() -> tuple[Fact, ...]:
    """All facts, in the order of the table: topic, question, culture."""
    by_id = {question.id: question for question in fact_questions()}
    return tuple(
        Fact(
            by_id[row["question"]],
            row["culture"],
            row["answer"],
            split_alternatives(row["alternatives"]),
        )
        for row in csv_rows("facts.csv")
    )


@cache
def distractors(fact: Fact) -> tuple[str, ...]:
    """What may stand beside the answer: other cultures' answers, none of them true here."""
    others = {other.answer for other in facts() if other.question == fact.question}
    return tuple(sorted(others - fact.accepted))


def csv_rows(name: str) -> list[dict[str, str]]:
    """The rows of one csv file of ``data/``."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def split_alternatives(cell: str) -> tuple[str, ...]:
    """The entries of a cell that is separated by semicolons."""
    return tuple(entry.strip() for entry in cell.split(";") if entry.strip())
