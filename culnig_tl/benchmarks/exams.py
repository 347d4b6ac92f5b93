"""Exam questions that need culture, and exam questions that do not: contrast pairs of one kind.

| benchmark | what |
|---|---|
| ``include`` | regional questions of INCLUDE base-44, by country |
| ``include-agnostic`` | its questions that are the same in any region |
| ``global-mmlu-lite-sensitive`` | English Global-MMLU-Lite, labelled culturally sensitive (CS) |
| ``global-mmlu-lite-agnostic`` | the same, labelled culturally agnostic (CA) |
| the first and the third with ``-control`` | the same without the question |

Both halves of a pair have the same form, wordings and sources, so the agnostic one is a general
control that differs in culture alone. Options keep the order of the exam, since they may speak of
each other ("both of the above"). Topics are the data's subjects.

*INCLUDE* (Romanou et al., arXiv 2411.19799, Apache 2.0): exams in 44 languages, none of them
English; the wording around a question is English. A question is agnostic where its
``regional_feature`` says so. Its rows have no id; here it is a hash of the row's cells. From the
hub the test split of all 44 languages is read; a folder may hold any of them.

*Global-MMLU-Lite* (Singh et al., arXiv 2412.03304, Apache 2.0): the config ``en``; a folder must
hold one language. Its column ``country`` lists what each annotator named; the culture is the
country that most of them named, without what stands in brackets behind it.

Identify: the first half of each country's rows, rounded down; test: the rest, with all rows that
name no country. Agnostic questions have no culture and nothing to identify with.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.records import Record, Records, half_of_groups, option_faults, with_ids
from culnig_tl.cultures import culture_name, is_name
from culnig_tl.questions import Item, Split, Template, rows_of

TEMPLATES = (
    Template(
        "This is taken from an exam. Reply with the letter of the right option, A, B, C or D, and "
        "nothing else.\nQuestion: {question}\n{options}\nAnswer:",
        name="letters-1",
    ),
    Template(
        "{question}\n\n{options}\n\nWhich option earns the mark? Reply with its letter only.\n"
        "Answer:",
        name="letters-2",
    ),
    Template(
        "This is taken from an exam. Reply with the number of the right option, 1, 2, 3 or 4, and "
        "nothing else.\nQuestion: {question}\n{options}\nAnswer:",
        labels="digits",
        name="digits-1",
    ),
    Template(
        "{question}\n\n{options}\n\nWhich option earns the mark? Reply with its number only.\n"
        "Answer:",
        labels="digits",
        name="digits-2",
    ),
)
LANGUAGES = (
    *("Albanian", "Arabic", "Armenian", "Azerbaijani", "Basque", "Belarusian", "Bengali"),
    *("Bulgarian", "Chinese", "Croatian", "Dutch", "Estonian", "Finnish", "French", "Georgian"),
    *("German", "Greek", "Hebrew", "Hindi", "Hungarian", "Indonesian", "Italian", "Japanese"),
    *("Kazakh", "Korean", "Lithuanian", "Malay", "Malayalam", "Nepali", "North Macedonian"),
    *("Persian", "Polish", "Portuguese", "Russian", "Serbian", "Spanish", "Tagalog", "Tamil"),
    *("Telugu", "Turkish", "Ukrainian", "Urdu", "Uzbek", "Vietnamese"),
)
"""The configs of INCLUDE."""

_INCLUDE = Hub(
    "CohereLabs/include-base-44",
    LANGUAGES[0],
    "test",
    "d2e1f6015f67a43c02a9a68db98e2298e2d6a660",
)
_LITE = Hub("CohereLabs/Global-MMLU-Lite", "en", "test", "36c2fd756f19ccf13a9a96c8e53ccecc02192b8b")
_TEST = r"^(?!(.*/)?(validation|dev)[^/]*$)"  # in a folder, every table but those of other splits
_LETTERS = "ABCD"
_SHARED = (
    "country",
    "subject",
    "question",
    *(f"option_{letter.lower()}" for letter in _LETTERS),
    "answer",
)
_INCLUDE_COLUMNS = {name: (name,) for name in ("language", "regional_feature", *_SHARED)}
_LITE_COLUMNS = {name: (name,) for name in ("sample_id", "cultural_sensitivity_label", *_SHARED)}
# Names in the text of a Python list, as the annotators' columns have it.
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")

Question = tuple[bool, Item]
"""Whether a question is agnostic, and the question."""


def load(
    split: Split,
    source: Source,
    templates: Sequence[Template],
    *,
    name: str,
    read: Callable[[Source], Records],
    question: Callable[[Record], Question],
    agnostic: bool,
) -> Loaded:
    """The agnostic questions of a dataset or the others, halved within each country."""
    records = read(source)
    items = [item for is_agnostic, item in records.each(question) if is_agnostic == agnostic]
    # A row without a country is a group of its own, the half of which is nothing.
    half = half_of_groups(items, split, lambda item: item.culture or item.id)
    return Loaded(rows_of(half, templates, benchmark=name), records.origin)


def _include_records(source: Source) -> Records:
    """Every language of the hub, or what the folder has, under ids made of the cells."""
    languages = LANGUAGES if source.data_dir is None else LANGUAGES[:1]
    parts = [
        source.read(replace(_INCLUDE, config=each), _INCLUDE_COLUMNS, key="question", files=_TEST)
        for each in languages
    ]
    others = f" and {len(parts) - 1} other languages" if parts[1:] else ""
    rows = [record for part in parts for record in part.rows]
    return Records(with_ids(rows), f"{parts[0].origin}{others}")


def _include_question(record: Record) -> Question:
    record.check_texts(["regional_feature", "question", "answer"])
    record.check_choice("answer", ("0", "1", "2", "3"))
    is_agnostic = "agnostic" in record["regional_feature"].casefold()
    culture = "" if is_agnostic or record["country"] == "" else record.culture("country")
    return is_agnostic, _item(record, culture, _LETTERS[int(record["answer"])])


def _lite_records(source: Source) -> Records:
    return source.read(_LITE, _LITE_COLUMNS, key="sample_id", files=_TEST)


def _lite_question(record: Record) -> Question:
    record.check_texts(["question", "answer"])
    record.check_choice("cultural_sensitivity_label", ("CS", "CA"))
    is_agnostic = record["cultural_sensitivity_label"] == "CA"
    culture = "" if is_agnostic else _country_of_most(record)
    return is_agnostic, _item(record, culture, record["answer"])


def _item(record: Record, culture: str, answer: str) -> Item:
    options = {letter: record[f"option_{letter.lower()}"] for letter in _LETTERS}
    record.refuse(option_faults(options, _LETTERS, answer))
    if record["subject"] != "":
        record.check_texts(["subject"])
    return Item(
        id=record[record.key],
        culture=culture,
        topic=record["subject"],
        options=tuple(options.values()),
        answer=_LETTERS.index(answer),
        fields={"question": record["question"]},
        ordered=True,
    )


def _country_of_most(record: Record) -> str:
    """The country that most annotators named, the first of several; ``""`` where none did."""
    if record["country"] == "":
        return ""
    record.check_texts(["country"])
    text = record["country"].strip()
    listed = [one or other for one, other in _QUOTED.findall(text)]
    names = listed if text.startswith("[") else [text]
    plain = [name.partition(" (")[0] for name in names]
    counts = Counter(culture_name(name) for name in plain if is_name(name))
    return max(counts, key=lambda name: counts[name], default="")


_INCLUDE_LICENCE = "Apache-2.0 (INCLUDE, Romanou et al. 2024, arXiv 2411.19799)"
_LITE_LICENCE = "Apache-2.0 (Global-MMLU-Lite, Singh et al. 2024, arXiv 2412.03304)"
_include = partial(load, read=_include_records, question=_include_question)
_lite = partial(load, read=_lite_records, question=_lite_question)

INCLUDE = Benchmark(
    "include",
    partial(_include, name="include", agnostic=False),
    TEMPLATES,
    licence=_INCLUDE_LICENCE,
)
INCLUDE_CONTROL = INCLUDE.control()
INCLUDE_AGNOSTIC = Benchmark(
    "include-agnostic",
    partial(_include, name="include-agnostic", agnostic=True),
    TEMPLATES,
    licence=_INCLUDE_LICENCE,
    uses=("general",),
    folder="include",
    has_culture=False,
)
SENSITIVE = Benchmark(
    "global-mmlu-lite-sensitive",
    partial(_lite, name="global-mmlu-lite-sensitive", agnostic=False),
    TEMPLATES,
    licence=_LITE_LICENCE,
    folder="global-mmlu-lite",
)
SENSITIVE_CONTROL = SENSITIVE.control()
AGNOSTIC = Benchmark(
    "global-mmlu-lite-agnostic",
    partial(_lite, name="global-mmlu-lite-agnostic", agnostic=True),
    TEMPLATES,
    licence=_LITE_LICENCE,
    uses=("general",),
    folder="global-mmlu-lite",
    has_culture=False,
)
