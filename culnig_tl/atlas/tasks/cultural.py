"""One item a fact of everyday culture."""

from functools import cache

from culnig_tl.atlas.facts import Fact, distractors, facts
from culnig_tl.atlas.prompts import Item

CULTURAL_FRAMES = (
    "What is the most common {phrase} in {place}?",
    "Which {phrase} is typical of {place}?",
    "In {place}, what is the usual {phrase}?",
    "People in {place} name a {phrase}: which one?",
)


def place_name(culture: str) -> str:
    """A culture's name in a sentence."""
    return f"the {culture}" if culture in ("USA", "UK") else culture


@cache
def cultural_items() -> tuple[Item, ...]:
    """One item a fact."""
    return tuple(_cultural_item(fact) for fact in facts())


def _cultural_item(fact: Fact) -> Item:
    return Item(
        benchmark="atlas",
        id=fact.question.id,
        culture=fact.culture,
        topic=fact.question.topic,
        phrases=fact.question.phrases,
        frames=CULTURAL_FRAMES,
        answer=fact.answer,
        distractors=distractors(fact),
        slots=(("place", place_name(fact.culture)),),
    )
