"""Facts about sixteen countries as sentences to be finished, and general facts in the same form.

Small models do not answer by letters: one position wins whatever is asked. They do finish a
sentence: ``In Iran, a common flat bread is called`` goes on with ``lavash`` rather than with what
other countries eat. All facts were written for this project.

| benchmark | what |
|---|---|
| ``cloze`` | relations (bread, greeting, river, ...) of 16 countries, in two wordings |
| ``cloze-everyday``, ``cloze-geography`` | the two kinds of relations apart |
| the three with ``-control`` | the same sentences without the country |
| ``cloze-countries`` | passages that name a country, to be finished with its name |
| ``cloze-general`` | general facts, without a country, in the same forms |

Before each sentence stands a finished one, of another country or thing, so that the model sees what
is asked for (``system``); the control keeps it. A cloze is read as plain text, whatever chat
template the model has.

The options are the answer and three first answers of other countries (of other subjects, for
general facts) that would be wrong here and begin differently; which ones is drawn by a hash. The
label is the first token. ``topic`` is the relation or category. Halves are halves of relations and
categories, every other one of the file, so that nothing that finds neurons tests them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from culnig_tl.benchmarks.definition import Benchmark, Use
from culnig_tl.benchmarks.loading import Loaded, Source
from culnig_tl.questions import Split, Template, order_of

_FILES = Path(__file__).parent / "cloze_facts"
_DOMAINS = ("everyday", "geography")
_EXAMPLES = {
    True: "In Canada, a popular sport is hockey.",
    False: "In a garage, the thing usually kept is a car.",
}
_N_WRONG = 3
_START = 3
"""Options differ within so many letters: only their first tokens are compared."""

Relation = Mapping[str, Any]


def load_facts(
    split: Split,
    source: Source,
    templates: Sequence[Template],
    *,
    name: str,
    domains: Sequence[str],
) -> Loaded:
    """Every relation of a half, of every subject, in both wordings."""
    relations = [relation for domain in domains for relation in _half(_read(domain), split)]
    return Loaded([row for relation in relations for row in _rows(relation, name)])


def load_passages(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """Every passage of a half with every country."""
    passages = _half(_read("passages"), split)
    return Loaded([row for passage in passages for row in _naming(passage)])


@cache
def _read(name: str) -> tuple[Relation, ...]:
    return tuple(json.loads((_FILES / f"{name}.json").read_text("utf-8")))


def _half(relations: Sequence[Relation], split: Split) -> Sequence[Relation]:
    """Every other relation; both halves are all of them in their order."""
    return {"identify": relations[::2], "test": relations[1::2], "all": relations}[split]


def _rows(relation: Relation, benchmark: str) -> Iterator[dict[str, Any]]:
    """A relation of every subject; only a country is a culture."""
    is_cultural = relation["domain"] in _DOMAINS
    for number, wording in enumerate(relation["wordings"], start=1):
        for subject, answers in relation["answers"].items():
            name = relation["relation"]
            begin = relation["prefix"].format(subject=subject)
            begin = begin[:1].upper() + begin[1:]
            yield {
                "id": name if is_cultural else f"{name}: {subject}",
                "prompt": begin + wording,
                "options": _options(f"{name}|{subject}", answers, relation["answers"].values()),
                "answer": answers[0],
                "culture": subject if is_cultural else "",
                "topic": name,
                "template": f"wording-{number}",
                "benchmark": benchmark,
                "system": _EXAMPLES[is_cultural],
                "question": begin,
                "label_kind": "first token",
            }


def _naming(passage: Relation) -> Iterator[dict[str, Any]]:
    """A passage with every country; the other country that it names is a wrong option."""
    countries = list(_read("geography")[0]["answers"])
    for country in countries:
        others = [each for each in countries if _start(each) != _start(country)]
        order = [others[at] for at in order_of(f"{passage['id']}|{country}", len(others))]
        wrong = _differing(order, [country])
        options = [country, *wrong]
        yield {
            "id": f"passage {passage['id']}",
            "prompt": passage["text"].format(country=country, other=wrong[0]),
            "options": [options[at] for at in order_of(f"{country}|{passage['id']}", len(options))],
            "answer": country,
            "culture": country,
            "benchmark": "cloze-countries",
            "label_kind": "first token",
        }


def _options(key: str, answers: Sequence[str], of_all: Any) -> list[str]:
    """The answer and wrong ones, in an order that comes from a hash."""
    firsts = sorted({others[0] for others in of_all} - set(answers))
    drawn = [firsts[at] for at in order_of(key, len(firsts))]
    options = [answers[0], *_differing(drawn, answers)]
    return [options[at] for at in order_of(f"{key}|order", len(options))]


def _differing(candidates: Sequence[str], answers: Sequence[str]) -> list[str]:
    """The first candidates that begin unlike each other and unlike every right answer."""
    starts, wrong = {_start(answer) for answer in answers}, []
    for candidate in candidates:
        if _start(candidate) not in starts and len(wrong) < _N_WRONG:
            starts.add(_start(candidate))
            wrong.append(candidate)
    return wrong


def _start(text: str) -> str:
    return text[:_START].casefold()


def _benchmark(name: str, use: Use, domains: Sequence[str]) -> Benchmark:
    return Benchmark(
        name,
        partial(load_facts, name=name, domains=domains),
        licence="MIT",
        uses=(use,),
        packaged=True,
    )


CLOZE = _benchmark("cloze", "cultural", _DOMAINS)
EVERYDAY = _benchmark("cloze-everyday", "cultural", ("everyday",))
GEOGRAPHY = _benchmark("cloze-geography", "cultural", ("geography",))
CONTROL = CLOZE.control()
EVERYDAY_CONTROL = EVERYDAY.control()
GEOGRAPHY_CONTROL = GEOGRAPHY.control()
GENERAL = _benchmark("cloze-general", "general", ("general",))
COUNTRIES = Benchmark(
    "cloze-countries", load_passages, licence="MIT", uses=("recognition",), packaged=True
)
