"""What the embedded model is asked: the items of every task, all of them written for it.

Cultural facts, passages that name a place, commonsense about objects, and order among days, months,
numbers and animals. The last three are general tasks: no culture has anything to do with their
answers (the passages name one, which is why they serve as the control for a culture's *name*).
"""

import random
from collections.abc import Sequence
from functools import cache

from culnig_tl.atlas.facts import (
    CULTURES,
    Fact,
    distractors,
    facts,
    read_table,
    split_alternatives,
)
from culnig_tl.atlas.prompts import Item, stable_seed

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
def country_items(first: int = 0, n: int = N_TRAINED_PASSAGES) -> tuple[Item, ...]:
    """`n` passages a culture, every other one with a second country that is not asked for."""
    return tuple(_country_item(culture, i) for i in range(first, first + n) for culture in CULTURES)


def _country_item(culture: str, i: int) -> Item:
    rng = random.Random(stable_seed("countries", culture, str(i)))
    name, other = rng.sample(NAMES, 2)
    other_culture = rng.choice([other for other in CULTURES if other != culture])
    two = i % 2 == 1
    slots = {"name": name, "month": rng.choice(MONTHS), "place": place_name(culture)}
    if two:
        slots |= {"other": other, "other_place": place_name(other_culture)}
    return Item(
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


RELATION_PHRASES = {
    "kind": ("kind of thing", "category", "class of objects"),
    "use": ("main use", "purpose", "usual function"),
    "place": ("usual place", "normal location", "most likely place"),
    "material": ("main material", "usual substance", "typical material"),
}
OBJECT_FRAMES = (
    "What is the {phrase} of {object}?",
    "Think of {object}: what is the {phrase}?",
    "For {object}, what is the {phrase}?",
    "Name the {phrase} of {object}.",
)
NO_ARTICLE = ("scissors", "boots", "sandals", "soap", "chalk")


@cache
def commonsense_items() -> tuple[Item, ...]:
    """One item an object and relation; a cell holds the answer, then what is true as well."""
    cells = {
        (row["object"], relation): split_alternatives(row[relation])
        for row in read_table("objects.csv")
        for relation in RELATION_PHRASES
        if row[relation]
    }
    pools = {
        relation: sorted({words[0] for (_, other), words in cells.items() if other == relation})
        for relation in RELATION_PHRASES
    }
    return tuple(
        Item(
            benchmark="atlas-commonsense",
            id=f"commonsense-{name}-{relation}",
            culture="",
            topic=relation,
            phrases=RELATION_PHRASES[relation],
            frames=OBJECT_FRAMES,
            answer=words[0],
            distractors=tuple(word for word in pools[relation] if word not in words),
            slots=(("object", _with_article(name)),),
        )
        for (name, relation), words in cells.items()
    )


def _with_article(name: str) -> str:
    if name in NO_ARTICLE:
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


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
def ordering_items() -> tuple[Item, ...]:
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


def _neighbour_item(unit: str, cycle: Sequence[str], i: int, step: int) -> Item:
    answer = cycle[(i + step) % len(cycle)]
    return Item(
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


def _extreme_item(unit: str, scale: Sequence[str], i: int, side: int) -> Item:
    return Item(
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


KIND_NOUNS = {
    "tool": "a tool",
    "furniture": "a piece of furniture",
    "clothing": "a piece of clothing",
    "instrument": "a musical instrument",
    "vehicle": "a vehicle",
    "toy": "a toy",
    "book": "a book",
}
"""The kinds of the sentence pairs: those whose members few people would argue about."""

N_TRAINED_PREMISES = 6
PREMISES = ("{name} bought {object}.", "{name} received {object}.", "{name} owns {object}.")
ENTAILMENT_FRAMES = (
    "{phrase} Does it follow that {name} has {kind}?",
    "{phrase} So {name} has {kind}: does that follow?",
    "{phrase} Is it then true that {name} has {kind}?",
    "First: {phrase} Second: {name} has {kind}. Does the second follow from the first?",
)


@cache
def entailment_items(first: int = 0, n: int = N_TRAINED_PREMISES) -> tuple[Item, ...]:
    """`n` pairs of sentences an object and kind, with other people in each."""
    return tuple(
        _entailment_item(name, kind, follows, i)
        for i in range(first, first + n)
        for name, kind, follows in _kind_pairs()
    )


@cache
def _kind_pairs() -> tuple[tuple[str, str, bool], ...]:
    """(object, kind, true): every object and every kind is as often false as it is true.

    The kinds of the true pairs are dealt out again, each to an object of which it is not true; so
    neither the object alone nor the kind alone tells the answer.
    """
    kinds = {row["object"]: split_alternatives(row["kind"]) for row in read_table("objects.csv")}
    kinds = {name: words for name, words in kinds.items() if words and words[0] in KIND_NOUNS}
    names, dealt = list(kinds), [words[0] for words in kinds.values()]
    rng = random.Random(0)
    while wrong := [i for i, name in enumerate(names) if dealt[i] in kinds[name]]:
        i, j = wrong[0], rng.randrange(len(names))
        if dealt[j] not in kinds[names[i]]:
            dealt[i], dealt[j] = dealt[j], dealt[i]
    return (
        *((name, words[0], True) for name, words in kinds.items()),
        *((name, kind, False) for name, kind in zip(names, dealt, strict=True)),
    )


def _entailment_item(name: str, kind: str, follows: bool, i: int) -> Item:
    rng = random.Random(stable_seed("entailment", name, kind, str(i)))
    return Item(
        benchmark="atlas-entailment",
        id=f"entailment-{name}-{kind}-{i}",
        culture="",
        topic=kind,
        phrases=PREMISES,
        frames=ENTAILMENT_FRAMES,
        answer="yes" if follows else "no",
        distractors=("no" if follows else "yes",),
        slots=(
            ("kind", KIND_NOUNS[kind]),
            ("name", rng.choice(NAMES)),
            ("object", _with_article(name)),
        ),
        n_wrong=1,
    )


@cache
def all_items() -> tuple[Item, ...]:
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
