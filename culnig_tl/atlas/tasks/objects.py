"""Objects: their kind, use, place and material, and what follows from having one."""

import random
from functools import cache

from culnig_tl.atlas.facts import csv_rows, split_alternatives
from culnig_tl.atlas.prompts import TaskItem, stable_seed
from culnig_tl.atlas.tasks.countries import NAMES

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
def commonsense_items() -> tuple[TaskItem, ...]:
    """One item per object and relation; a cell holds the answer, then what is true as well."""
    cells = {
        (row["object"], relation): split_alternatives(row[relation])
        for row in csv_rows("objects.csv")
        for relation in RELATION_PHRASES
        if row[relation]
    }
    pools = {
        relation: sorted({words[0] for (_, other), words in cells.items() if other == relation})
        for relation in RELATION_PHRASES
    }
    return tuple(
        TaskItem(
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
def entailment_items(first: int = 0, n: int = N_TRAINED_PREMISES) -> tuple[TaskItem, ...]:
    """`n` pairs of sentences per object and kind, with other people in each."""
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
    kinds = {row["object"]: split_alternatives(row["kind"]) for row in csv_rows("objects.csv")}
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


def _entailment_item(name: str, kind: str, follows: bool, i: int) -> TaskItem:
    rng = random.Random(stable_seed("entailment", name, kind, str(i)))
    return TaskItem(
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
