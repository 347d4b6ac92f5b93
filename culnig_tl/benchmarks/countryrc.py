"""Country names without culture: a passage names a country, the question asks which.

The neurons that react to a country's *name* are left out of a selection (CountryRC of the paper).
The 64 passages of ``countryrc.json`` were written for this project: the first 32 identify, the last
32 test; in each half, 16 name a second country that is not the answer. A passage is asked of each
of eight countries, with three wrong ones out of the 16 cultures of BLEnD, drawn and ordered by a
hash; the second country of a passage is among them.

``data_dir`` reads a file of the same layout instead, such as the authors' ``data.json``: a list of
objects ``id``, ``context`` (with ``{country}`` and perhaps ``{country_dummy}``) and ``question``.
"""

from collections.abc import Sequence
from pathlib import Path

from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Loaded, Source, read_folder
from culnig_tl.benchmarks.records import Record
from culnig_tl.cultures import BLEND_CULTURES, in_a_sentence
from culnig_tl.questions import Item, Split, Template, order_of, rows_of

COUNTRIES = ("China", "Indonesia", "Iran", "Mexico", "South Korea", "Spain", "UK", "USA")
OTHERS = tuple(sorted(set(BLEND_CULTURES) - set(COUNTRIES)))
"""Cultures that are only ever wrong options."""

TEMPLATES = (
    Template(
        "A short text, then something asked about it: reply with one letter, A, B, C or D.\n"
        "Passage: {passage}\nQuestion: {question}\n{options}\nAnswer:",
        name="letters-1",
    ),
    Template(
        "{passage}\n\n{question}\n{options}\n\nReply with the letter of the right option only.\n"
        "Answer:",
        name="letters-2",
    ),
    Template(
        "A short text, then something asked about it: reply with one number, 1, 2, 3 or 4.\n"
        "Passage: {passage}\nQuestion: {question}\n{options}\nAnswer:",
        labels="digits",
        name="digits-1",
    ),
    Template(
        "{passage}\n\n{question}\n{options}\n\nReply with the number of the right option only.\n"
        "Answer:",
        labels="digits",
        name="digits-2",
    ),
)
_OWN = Path(__file__).with_name("countryrc.json")
_COLUMNS = {name: (name,) for name in ("id", "context", "question")}
Passage = tuple[str, str, str]


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """Every passage of a half asked of every country."""
    if source.data_dir is None:
        records = read_folder(_OWN.parent, _COLUMNS, key="id", files=f"^{_OWN.name}$")
    else:
        records = read_folder(source.data_dir, _COLUMNS, key="id")
    passages = records.each(_passage)
    half = len(passages) // 2
    parts = {"identify": passages[:half], "test": passages[half:], "all": passages}
    items = [_item(passage, country) for country in COUNTRIES for passage in parts[split]]
    return Loaded(rows_of(items, templates, benchmark="countryrc"), records.origin)


def _passage(record: Record) -> Passage:
    """Id, context and question."""
    record.check_texts(_COLUMNS)
    fault = "its context has no {country} where the country's name goes"
    record.refuse([] if "{country}" in record["context"] else [fault])
    return record["id"], record["context"], record["question"]


def _item(passage: Passage, country: str) -> Item:
    name, context, question = passage
    pool = [other for other in (*COUNTRIES, *OTHERS) if other != country]
    drawn = order_of(f"{name}|{country}|wrong options", len(pool))[:3]
    wrong = [pool[index] for index in drawn]
    text = context.replace("{country}", in_a_sentence(country))
    return Item(
        id=name,
        culture=country,
        options=(country, *wrong),
        answer=0,
        fields={
            "passage": text.replace("{country_dummy}", in_a_sentence(wrong[0])),
            "question": question,
        },
    )


COUNTRYRC = Benchmark(
    "countryrc",
    load,
    TEMPLATES,
    licence="MIT (passages of this package)",
    uses=("recognition",),
    packaged=True,
)
