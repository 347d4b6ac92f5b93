"""CulturalBench-Easy: questions about 45 places (Chiu et al., arXiv 2410.02677, CC BY 4.0).

Config ``CulturalBench-Easy`` (the hub's default is the Hard one). The right answer is A in more
than half of the file, so options are shuffled. Identify: the first half of each country's rows,
rounded down; test: the rest.

Row 221 has an option whose cell reads ``None``, which the hub's reader and pandas take for an empty
cell. It is an option like the others and is shown as ``None``.
"""

from collections.abc import Sequence

from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Hub, Loaded, Source
from culnig_tl.benchmarks.records import Record, half_of_groups, option_faults
from culnig_tl.questions import Item, Split, Template, rows_of

TEMPLATES = (
    Template(
        "Choose the right option and reply with its letter, A, B, C or D. Write nothing else.\n"
        "Question: {question}\n{options}\nAnswer:",
        name="letters-1",
    ),
    Template(
        "{question}\n\n{options}\n\nOne of these is right. Reply with its letter only.\nAnswer:",
        name="letters-2",
    ),
    Template(
        "Choose the right option and reply with its number, 1, 2, 3 or 4. Write nothing else.\n"
        "Question: {question}\n{options}\nAnswer:",
        labels="digits",
        name="digits-1",
    ),
    Template(
        "{question}\n\n{options}\n\nOne of these is right. Reply with its number only.\nAnswer:",
        labels="digits",
        name="digits-2",
    ),
)
_HUB = Hub(
    "kellycyy/CulturalBench",
    "CulturalBench-Easy",
    "test",
    "996d62a55f6a49c13596f0a31b772812a1aacd67",
)
_OPTIONS = {letter: f"prompt_option_{letter.lower()}" for letter in "ABCD"}
_COLUMNS = {
    name: (name,)
    for name in ("data_idx", "prompt_question", *_OPTIONS.values(), "answer", "country")
}


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """The questions of every country, halved within it."""
    records = source.read(_HUB, _COLUMNS, key="data_idx")
    items = half_of_groups(records.each(_item), split, lambda item: item.culture)
    return Loaded(rows_of(items, templates, benchmark="culturalbench"), records.origin)


def _item(record: Record) -> Item:
    record.check_texts(["prompt_question", "answer", "country"])
    options = {letter: record[column] or "None" for letter, column in _OPTIONS.items()}
    record.refuse(option_faults(options, "ABCD", record["answer"]))
    return Item(
        id=record["data_idx"],
        culture=record.culture("country"),
        options=tuple(options.values()),
        answer=list(options).index(record["answer"]),
        fields={"question": record["prompt_question"]},
    )


CULTURALBENCH = Benchmark(
    "culturalbench",
    load,
    TEMPLATES,
    licence="CC-BY-4.0 (CulturalBench, Chiu et al. 2024, arXiv 2410.02677)",
)
CONTROL = CULTURALBENCH.control()
