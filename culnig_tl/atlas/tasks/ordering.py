"""Order among days, months, numbers and animals."""

from collections.abc import Sequence
from functools import cache

from culnig_tl.atlas.prompts import TaskItem

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
NUMBERS = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
)
ANIMALS = ("ant", "bee", "mouse", "rabbit", "cat", "goat", "donkey", "horse", "elephant", "whale")
NEIGHBOUR_PHRASES = {
    1: ("comes right after", "follows", "is just after"),
    -1: ("comes right before", "precedes", "is just before"),
}
NEIGHBOUR_FRAMES = (
    "Which {unit} {phrase} {start}?",
    "Think of the {unit} that {phrase} {start}: which is it?",
    "What {phrase} {start}?",
    "Name the {unit} that {phrase} {start}.",
)
EXTREME_PHRASES = {
    ("number", 1): ("largest number", "highest number", "greatest number"),
    ("number", -1): ("smallest number", "lowest number", "least number"),
    ("animal", 1): ("largest animal", "biggest animal", "heaviest animal"),
    ("animal", -1): ("smallest animal", "littlest animal", "lightest animal"),
}
EXTREME_FRAMES = (
    "Which is the {phrase}?",
    "Find the {phrase}.",
    "What is the {phrase} here?",
    "Of these, which one is the {phrase}?",
)


@cache
def ordering_items() -> tuple[TaskItem, ...]:
    """Neighbours in the week and the year, extremes among numbers and animals."""
    neighbours = [
        _neighbour_item(unit, cycle, i, step)
        for unit, cycle in (("day", DAYS), ("month", MONTHS))
        for i in range(len(cycle))
        for step in (1, -1)
    ]
    extremes = [
        _extreme_item(unit, scale, i, side)
        for unit, scale in (("number", NUMBERS), ("animal", ANIMALS))
        for side in (1, -1)
        for i in range(len(scale))
        if len(_beyond(scale, i, side)) >= 4
    ]
    return (*neighbours, *extremes)


def _neighbour_item(unit: str, cycle: Sequence[str], i: int, step: int) -> TaskItem:
    answer = cycle[(i + step) % len(cycle)]
    return TaskItem(
        benchmark="atlas-ordering",
        id=f"ordering-{unit}-{'after' if step > 0 else 'before'}-{cycle[i]}",
        culture="",
        topic=unit,
        phrases=NEIGHBOUR_PHRASES[step],
        frames=NEIGHBOUR_FRAMES,
        answer=answer,
        distractors=tuple(word for word in cycle if word not in (answer, cycle[i])),
        slots=(("start", cycle[i]), ("unit", unit)),
    )


def _extreme_item(unit: str, scale: Sequence[str], i: int, side: int) -> TaskItem:
    return TaskItem(
        benchmark="atlas-ordering",
        id=f"ordering-{unit}-{'largest' if side > 0 else 'smallest'}-{scale[i]}",
        culture="",
        topic=unit,
        phrases=EXTREME_PHRASES[unit, side],
        frames=EXTREME_FRAMES,
        answer=scale[i],
        distractors=_beyond(scale, i, side),
    )


def _beyond(scale: Sequence[str], i: int, side: int) -> tuple[str, ...]:
    """What is smaller than entry `i` (side 1) or larger (side -1)."""
    return tuple(scale[:i] if side > 0 else scale[i + 1 :])
