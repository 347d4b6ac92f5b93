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

from culnig_tl.benchmarks.cultures import in_a_sentence
from culnig_tl.benchmarks.sources import Loaded, Record, Source, read_folder
from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Item, Split, Template, order_of, rows_of

COUNTRIES = ("China", "Indonesia", "Iran", "Mexico", "South Korea", "Spain", "UK", "USA")
OTHERS = (
    "Algeria",
    "Assam",
    "Azerbaijan",
    "Ethiopia",
    "Greece",
    "Nigeria",
    "North Korea",
    "West Java",
)
"""Cultures that are only ever wrong options."""

TEMPLATES = (
    Template(
        "Read the passage and answer the question with one letter, A, B, C or D.\n"
        "Passage: {passage}\nQuestion: {question}\n{options}\nAnswer:",
        name="letters-1",
    ),
    Template(
        "{passage}\n\n{question}\n{options}\n\nReply with the letter of the right option only.\n"
        "Answer:",
        name="letters-2",
    ),
    Template(
        "Read the passage and answer the question with one number, 1, 2, 3 or 4.\n"
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


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """Every passage of a half asked of every country."""
    if source.data_dir is None:
        read = read_folder(_OWN.parent, _COLUMNS, key="id", files=f"^{_OWN.name}$")
    else:
        read = read_folder(source.data_dir, _COLUMNS, key="id")
    half = len(read.rows) // 2
    records = {"identify": read.rows[:half], "test": read.rows[half:], "all": read.rows}[split]
    items = [_item(record, country) for country in COUNTRIES for record in records]
    return Loaded(rows_of(items, templates, benchmark="countryrc"), read.origin)


def _item(record: Record, country: str) -> Item:
    if "{country}" not in record["context"]:
        raise InvalidInputError(
            f"CountryRC item {record['id']!r} has no {{country}} in its context; put it where the "
            "country's name goes."
        )
    pool = [name for name in (*COUNTRIES, *OTHERS) if name != country]
    drawn = order_of(f"{record['id']}|{country}|wrong options", len(pool))[:3]
    wrong = [pool[index] for index in drawn]
    passage = record["context"].replace("{country}", in_a_sentence(country))
    return Item(
        id=record["id"],
        culture=country,
        options=(country, *wrong),
        answer=0,
        fields={
            "passage": passage.replace("{country_dummy}", in_a_sentence(wrong[0])),
            "question": record["question"],
        },
    )
