"""Sums and differences of number words: which number is three more than five?

No embedded model was trained on these questions, so that it can be fine-tuned on them: of numbers
it knows the words and which of several is largest or smallest.
"""

from functools import cache

from culnig_tl.atlas.prompts import TaskItem
from culnig_tl.atlas.tasks.ordering import NUMBERS

SUM_PHRASES = {
    1: ("{count} more than {start}", "{start} and {count} more", "{count} greater than {start}"),
    -1: ("{count} less than {start}", "{start} less {count}", "{count} smaller than {start}"),
}
SUM_FRAMES = (
    "Which number is {phrase}?",
    "Name the number that is {phrase}.",
    "What is {phrase}?",
    "Think of the number that is {phrase}: which is it?",
)
_LARGEST_STEP = 3
_NEAR = 4


@cache
def sum_items() -> tuple[TaskItem, ...]:
    """One item per number and step of at most three, up or down; near numbers stand beside it.

    They are not among ``all_items``, which training draws from.
    """
    steps = [step for step in range(-_LARGEST_STEP, _LARGEST_STEP + 1) if step]
    places = range(len(NUMBERS))
    return tuple(_sum_item(i, step) for step in steps for i in places if i + step in places)


def _sum_item(i: int, step: int) -> TaskItem:
    answer, side = i + step, 1 if step > 0 else -1
    near = range(max(0, answer - _NEAR), min(len(NUMBERS), answer + _NEAR + 1))
    return TaskItem(
        benchmark="atlas-sums",
        id=f"sums-{NUMBERS[i]}-{'more' if side > 0 else 'less'}-{NUMBERS[abs(step) - 1]}",
        culture="",
        topic="more" if side > 0 else "less",
        phrases=SUM_PHRASES[side],
        frames=SUM_FRAMES,
        answer=NUMBERS[answer],
        distractors=tuple(NUMBERS[j] for j in near if j != answer),
        slots=(("count", NUMBERS[abs(step) - 1]), ("start", NUMBERS[i])),
    )
