"""Passages that name a place, half of them a second one too: which place is it?"""

import random
from functools import cache

from culnig_tl.atlas.facts import CULTURES
from culnig_tl.atlas.prompts import TaskItem, stable_seed
from culnig_tl.atlas.tasks.ordering import MONTHS
from culnig_tl.cultures import in_a_sentence

N_TRAINED_PASSAGES = 60
NAMES = (
    *("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry"),
    *("Ida", "Jack", "Kate", "Leo", "Maya", "Noah", "Olga", "Paul"),
)
PASSAGES = (
    "{name} travelled to {place} in {month}.",
    "In {month} {name} took a trip to {place}.",
    "{name} spent all of {month} in {place}.",
)
PASSAGES_WITH_DISTRACTOR = (
    "{other} lives in {other_place}. {name} travelled to {place} in {month}.",
    "In {month} {name} took a trip to {place}, while {other} stayed in {other_place}.",
    "{name} was in {place} in {month}. {other} was in {other_place}.",
)
COUNTRY_FRAMES = (
    "{phrase} Where did {name} go?",
    "{phrase} Which place did {name} see?",
    "{phrase} Where was {name}?",
    "{phrase} Name the place that {name} visited.",
)


@cache
def country_items(first: int = 0, n: int = N_TRAINED_PASSAGES) -> tuple[TaskItem, ...]:
    """`n` passages per culture, every other one with a second country that is not asked for."""
    return tuple(_country_item(culture, i) for i in range(first, first + n) for culture in CULTURES)


def _country_item(culture: str, i: int) -> TaskItem:
    rng = random.Random(stable_seed("countries", culture, str(i)))
    name, other = rng.sample(NAMES, 2)
    other_culture = rng.choice([other for other in CULTURES if other != culture])
    two = i % 2 == 1
    slots = {"name": name, "month": rng.choice(MONTHS), "place": in_a_sentence(culture)}
    if two:
        slots |= {"other": other, "other_place": in_a_sentence(other_culture)}
    return TaskItem(
        benchmark="atlas-countries",
        id=f"countries-{i:03d}",
        culture=culture,
        topic="two countries" if two else "one country",
        phrases=PASSAGES_WITH_DISTRACTOR if two else PASSAGES,
        frames=COUNTRY_FRAMES,
        answer=culture,
        distractors=tuple(other for other in CULTURES if other != culture),
        slots=tuple(sorted(slots.items())),
        required=(other_culture,) if two else (),
    )
