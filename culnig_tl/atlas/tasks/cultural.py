"""One item per fact of everyday culture."""

from functools import cache

from culnig_tl.atlas.facts import Fact, distractors, facts
from culnig_tl.atlas.prompts import TaskItem
from culnig_tl.cultures import in_a_sentence

CULTURAL_FRAMES = (
    "What is the most common {phrase} in {place}?",
    "Which {phrase} is typical of {place}?",
    "In {place}, what is the usual {phrase}?",
    "People in {place} name a {phrase}: which one?",
)


@cache
def cultural_items() -> tuple[TaskItem, ...]:
    """One item per fact."""
    return tuple(_cultural_item(fact) for fact in facts())


def _cultural_item(fact: Fact) -> TaskItem:
    return TaskItem(
        benchmark="atlas",
        id=fact.question.id,
        culture=fact.culture,
        topic=fact.question.topic,
        phrases=fact.question.phrases,
        frames=CULTURAL_FRAMES,
        answer=fact.answer,
        distractors=distractors(fact),
        slots=(("place", in_a_sentence(fact.culture)),),
    )
