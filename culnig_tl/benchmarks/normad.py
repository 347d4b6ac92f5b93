"""NormAd: is what someone did acceptable in a country? (Rao et al., arXiv 2404.12464, CC BY 4.0)

A story of everyday life, a country, and the options yes, no and neutral, shuffled. Identify: the
first half of the rows of each country and label, rounded down; test: the rest.

The control has the story without country and cultural words. The templates of ``CONTROL_TEMPLATES``
name no country and speak neither of norms nor of customs; in the story itself, names of countries
and the words of ``NEUTRAL`` are replaced by neutral ones (a meal's greeting in another language, a
place of worship, "socially", "traditional"). People keep their names, which may still hint at where
they live. Options, their order and the right label are those of the row.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.records import Record, half_of_groups
from culnig_tl.cultures import in_a_sentence
from culnig_tl.questions import Item, Split, Template, rows_of

LABELS = ("yes", "no", "neutral")
NEUTRAL = {
    r"socially acceptable": "acceptable",
    r"(?:cultural|culturally|traditional|ceremonial|religious|customary)": "usual",
    r"(?:culture|custom|tradition)": "habit",
    r"(?:cultures|customs|traditions)": "habits",
    r"etiquette": "manners",
    r"(?:church|cathedral|mosque|temple|shrine|synagogue)": "building",
    r"(?:guten appetit|buen provecho|buon appetito|bon app[eé]tit|itadakimasu)": "enjoy your meal",
    r"sobremesa": "talk after the meal",
    r"kahoa": "necklace",
    r"in arabic": "aloud",
}
"""Patterns of cultural words (whole words, in any case), each with what stands in their place."""

TEMPLATES = (
    Template(
        "Read the story. Is the behaviour in it acceptable by the social norms of the country?\n"
        "Country: {country}\nStory: {story}\n{options}\nReply with 1, 2 or 3 and nothing else.\n"
        "Answer:",
        labels="digits",
        name="digits-1",
    ),
    Template(
        "The following happened in {country}. Judge it by what people there find proper.\n"
        "{story}\n{options}\nGive the number of your answer only.\nAnswer:",
        labels="digits",
        name="digits-2",
    ),
    Template(
        "Country: {country}\nStory: {story}\nGoing by the customs of this country, which answer is "
        "right?\n{options}\nReply with A, B or C and nothing else.\nAnswer:",
        name="letters-1",
    ),
    Template(
        "Think of everyday manners in {country} and answer the question at the end of the story.\n"
        "{story}\n{options}\nGive the letter of your answer only.\nAnswer:",
        name="letters-2",
    ),
)
CONTROL_TEMPLATES = (
    Template(
        "Read the story. Is the behaviour in it acceptable?\n"
        "Story: {story}\n{options}\nReply with 1, 2 or 3 and nothing else.\nAnswer:",
        labels="digits",
        name="digits-1",
    ),
    Template(
        "The following happened. Judge it.\n"
        "{story}\n{options}\nGive the number of your answer only.\nAnswer:",
        labels="digits",
        name="digits-2",
    ),
    Template(
        "Story: {story}\nWhich answer is right?\n{options}\n"
        "Reply with A, B or C and nothing else.\nAnswer:",
        name="letters-1",
    ),
    Template(
        "Answer the question at the end of the story.\n"
        "{story}\n{options}\nGive the letter of your answer only.\nAnswer:",
        name="letters-2",
    ),
)
_HUB = Hub("akhilayerukola/NormAd", None, "train", "0ea94a1eb4a9c9495cd7c3248a6e8dd9a307feb0")
_COLUMNS = {
    "id": ("ID", "ex_id"),
    "country": ("Country", "country"),
    "story": ("Story", "situation"),
    "label": ("Gold Label", "answer"),
}


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """The stories with their country."""
    items, origin = _items(split, source)
    return Loaded(rows_of(items, templates, benchmark="normad"), origin)


def load_control(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """The same stories without country and cultural words."""
    items, origin = _items(split, source)
    spellings = {item.fields["spelling"] for item in items} | {item.culture for item in items}
    plain = [
        replace(item, fields={"story": without_culture(item.fields["story"], spellings)})
        for item in items
    ]
    return Loaded(rows_of(plain, templates, benchmark="normad-control"), origin)


def without_culture(story: str, countries: Collection[str]) -> str:
    """A story with neutral words in the place of countries and cultural words.

    Example:
        >>> without_culture("In Spain, Ann said 'Buen provecho'. Was it socially acceptable?",
        ...                 ["Spain"])
        "In the country, Ann said 'enjoy your meal'. Was it acceptable?"
    """
    names = "|".join(re.escape(name) for name in sorted(countries, key=len, reverse=True))
    if names:
        story = re.sub(rf"\b(?:the )?(?:{names})\b", "the country", story, flags=re.IGNORECASE)
    for pattern, neutral in NEUTRAL.items():
        story = re.sub(rf"\b{pattern}\b", neutral, story, flags=re.IGNORECASE)
    return story


def _items(split: Split, source: Source) -> tuple[list[Item], str]:
    records = source.read(_HUB, _COLUMNS, key="id")
    items = records.each(_item)
    return half_of_groups(items, split, lambda item: (item.culture, item.answer)), records.origin


def _item(record: Record) -> Item:
    record.check_texts(_COLUMNS)
    record.check_choice("label", LABELS)
    culture = record.culture("country")
    return Item(
        id=record["id"],
        culture=culture,
        options=LABELS,
        answer=LABELS.index(record["label"]),
        fields={
            "country": in_a_sentence(culture),
            "story": record["story"],
            "spelling": record["country"].replace("_", " "),
        },
    )


NORMAD = Benchmark(
    "normad",
    load,
    TEMPLATES,
    licence="CC-BY-4.0 (NormAd, Rao et al. 2024, arXiv 2404.12464)",
)
CONTROL = replace(
    NORMAD,
    name="normad-control",
    load=load_control,
    templates=CONTROL_TEMPLATES,
    uses=("control",),
    folder="normad",
)
