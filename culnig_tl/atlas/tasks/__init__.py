"""What the embedded model is asked: the items of every task, all of them written for it.

Cultural facts, passages that name a place, commonsense about objects, what follows from having one,
and order among days, months, numbers and animals. All but the first are general tasks: no culture
has anything to do with their answers (the passages name one, which is why they serve as the control
for a culture's *name*). ``sums`` holds a further task that no embedded model was trained on.
"""

from functools import cache

from culnig_tl.atlas.prompts import TaskItem
from culnig_tl.atlas.tasks.countries import N_TRAINED_PASSAGES, country_items
from culnig_tl.atlas.tasks.cultural import cultural_items
from culnig_tl.atlas.tasks.objects import N_TRAINED_PREMISES, commonsense_items, entailment_items
from culnig_tl.atlas.tasks.ordering import ordering_items
from culnig_tl.atlas.tasks.sums import sum_items

__all__ = [
    "N_TRAINED_PASSAGES",
    "N_TRAINED_PREMISES",
    "all_answers",
    "all_items",
    "commonsense_items",
    "country_items",
    "cultural_items",
    "entailment_items",
    "ordering_items",
    "sum_items",
]


@cache
def all_items() -> tuple[TaskItem, ...]:
    """The items of every task, those of training."""
    return (
        *cultural_items(),
        *country_items(),
        *commonsense_items(),
        *ordering_items(),
        *entailment_items(),
    )


def all_answers() -> list[str]:
    """Every word that is an option somewhere, each once."""
    return sorted({word for item in all_items() for word in (item.answer, *item.distractors)})
