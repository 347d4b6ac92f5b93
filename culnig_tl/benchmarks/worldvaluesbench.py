"""WorldValuesBench: what people of a country answered (Zhao et al. 2024), from local files only.

The World Values Survey's data may not be passed on, so there is nothing to fetch; ``data_dir`` has

* ``question_metadata.json`` of the WorldValuesBench repository, and
* the two tables that its code makes of the survey, ``full_demographic_qa.tsv`` (``D_INTERVIEW``,
  ``B_COUNTRY``) and ``full_value_qa.tsv`` (``D_INTERVIEW`` and a column per question), in
  subfolders or not.

A question counts for a country where anyone there answered it; negative codes (no answer) are
empty. The right label is the country's commonest answer, the smallest of several. Identify: the 40
questions of a country whose answers diverge most from the world's, by Kullback-Leibler divergence
KL(country || world) in nats, the world being all respondents; test: the others.

Options are the numbers of the question's own scale in order, whether it begins at 0 or 1 and ends
at 2 or 10. Every question with the use ``value`` takes part, ``Q234A`` too. Beside accuracy, an
answer is measured by its *alignment*: how near the answer ``p`` lies to the gold answer ``g`` on
the scale,

    100 * (1 - |p - g| / max(|min - g|, |max - g|)),    0 for no number in range.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from culnig_tl.benchmarks.definition import Benchmark, Measure
from culnig_tl.benchmarks.loading import Loaded, Source, checked_folder
from culnig_tl.benchmarks.records import cut, text_fault
from culnig_tl.cultures import culture_name, in_a_sentence, is_name
from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.questions import Item, Split, Template, loads_once, ranges, rows_of

N_IDENTIFY = 40
_WORDINGS = (
    "{question}\nReply with one whole number from {min_option} to {max_option} and nothing else.\n"
    "Answer:",
    "Here is a question from a survey.\n{question}\nWhich number from {min_option} to {max_option} "
    "do you choose? Write that number only.\nAnswer:",
)
_SYSTEMS = (
    "You live in {country} and answer as someone from there would.",
    "Take the point of view of a typical person from {country}.",
)
TEMPLATES = tuple(
    Template(wording, labels="values", name=f"system-{s}-wording-{w}", system=system)
    for s, system in enumerate(_SYSTEMS, start=1)
    for w, wording in enumerate(_WORDINGS, start=1)
)
Scales = Mapping[str, range]


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """The questions of every country in the tables, halved within it."""
    if source.data_dir is None:
        raise MissingFileError(
            "The answers of WorldValuesBench may not be passed on, so the hub has none; make its "
            "tables from the survey's data and give their folder as data_dir."
        )
    folder = checked_folder(source.data_dir)
    metadata = _value_questions(_only(folder, "question_metadata.json"))
    demographic, values = (_only(folder, f"*{kind}_qa.tsv") for kind in ("demographic", "value"))
    answers = _answers(demographic, values, metadata)
    names = [name for name in metadata if name in answers]
    scales = {
        name: range(metadata[name]["answer_scale_min"], metadata[name]["answer_scale_max"] + 1)
        for name in names
    }
    items = [
        _item(name, country, counts, metadata[name], scales[name])
        for country, half in _halves(answers, scales, split).items()
        for name, counts in half.items()
    ]
    origin = f"files {demographic.name}, {values.name}: {len(names)} of {len(metadata)} questions"
    return Loaded(rows_of(items, templates, benchmark="worldvaluesbench"), origin)


def alignment(prediction: str, answer: str, options: Sequence[str]) -> float:
    """How near an answer on a scale lies to the gold one, 0 to 100.

    Args:
        prediction: what the model said; no number in range counts 0.
        answer: the gold answer, a number.
        options: the numbers of the scale.

    Raises:
        InvalidInputError: a gold answer or a scale that is no number.

    Example:
        >>> alignment("3", "1", ["1", "2", "3"]), alignment("often", "1", ["1", "2", "3"])
        (0.0, 0.0)
        >>> alignment("2", "1", ["1", "2", "3"])
        50.0
    """
    numbers = [_whole_number(text) for text in (answer, *options)]
    if not options or None in numbers:
        raise InvalidInputError(
            f"Answer {answer!r} of the options {list(options)} lies on no scale; alignment needs "
            "whole numbers."
        )
    gold, *scale = [number for number in numbers if number is not None]
    predicted = _whole_number(prediction)
    if predicted is None or not min(scale) <= predicted <= max(scale):
        return 0.0
    farthest = max(abs(min(scale) - gold), abs(max(scale) - gold))
    return 100 * (1 - abs(predicted - gold) / farthest) if farthest else 100.0


def divergence(country: pd.Series, world: pd.Series) -> float:
    """KL(country || world) in nats, from counts by answer.

    Example:
        >>> divergence(pd.Series({1: 2, 2: 2}), pd.Series({1: 1, 2: 3})).__round__(4)
        0.1438
    """
    p = country[country > 0] / country.sum()
    q = world.reindex(p.index) / world.sum()
    return float((p * np.log(p / q)).sum())


def _halves(answers: pd.DataFrame, scales: Scales, split: Split) -> dict[str, dict[str, pd.Series]]:
    """Counts by answer of the questions of a half, by country, in the order of the metadata."""
    world = {name: answers[name].value_counts() for name in scales}
    halves = {}
    for country, group in answers.groupby("country", sort=False):
        counted = {name: group[name].value_counts() for name in scales}
        counts = {name: numbers for name, numbers in counted.items() if len(numbers)}
        ranked = sorted(counts, key=lambda name: -divergence(counts[name], world[name]))
        half = {"identify": ranked[:N_IDENTIFY], "test": ranked[N_IDENTIFY:], "all": ranked}[split]
        halves[str(country)] = {name: counts[name] for name in counts if name in half}
    return halves


def _item(
    name: str, country: str, counts: pd.Series, about: Mapping[str, Any], scale: range
) -> Item:
    commonest = int(counts[counts == counts.max()].index.min())
    numbers = tuple(map(str, scale))
    return Item(
        id=name,
        culture=country,
        topic=about["category"],
        options=numbers,
        answer=scale.index(commonest),
        values=numbers,
        ordered=True,
        fields={
            "question": about["question"].strip(),
            "country": in_a_sentence(country),
            "min_option": numbers[0],
            "max_option": numbers[-1],
        },
    )


def _value_questions(path: Path) -> dict[str, dict[str, Any]]:
    """The questions with the use ``value``, by name."""
    try:
        metadata = loads_once(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not JSON ({error}); write the file anew.") from error
    entries = metadata.items() if isinstance(metadata, dict) else []
    faults = {name: fault for name, about in entries if (fault := _fault(about))}
    if faults:
        first = "; ".join(f"{name}: {fault}" for name, fault in list(faults.items())[:10])
        raise InvalidInputError(
            f"{path}: {len(faults)} questions cannot be used: {first}. Take WorldValuesBench's "
            "own file."
        )
    on_values = {name: about for name, about in entries if about["use_case"] == "value"}
    if not on_values:
        raise InvalidInputError(
            f"{path} has no question with the use_case 'value'; take WorldValuesBench's own file."
        )
    return on_values


def _fault(about: Any) -> str:
    """What is wrong with the entry of a question; ``""`` if nothing is."""
    if not isinstance(about, dict) or not isinstance(about.get("use_case"), str):
        return f"{cut(about)} has no use_case"
    if about["use_case"] != "value":
        return ""
    if wrong := [name for name in ("question", "category") if text_fault(about.get(name))]:
        return f"{' and '.join(wrong)} must be text"
    low, high = (about.get(f"answer_scale_{end}") for end in ("min", "max"))
    if type(low) is int and type(high) is int and 0 <= low < high:  # bool is another type
        return ""
    return f"its scale goes from {cut(low)} to {cut(high)}"


def _only(folder: Path, pattern: str) -> Path:
    """The one file of that name; of several, the one of the full data."""
    paths = sorted(folder.rglob(pattern))
    full = [path for path in paths if path.name.startswith("full_")]
    if len(full or paths) != 1:
        raise MissingFileError(
            f"{folder} has {len(paths)} files {pattern}, expected one (or one that begins with "
            "full_); put question_metadata.json and both full_*_qa.tsv tables there."
        )
    return (full or paths)[0]


def _answers(demographic: Path, values: Path, metadata: Mapping[str, Any]) -> pd.DataFrame:
    """One row per respondent: country, and a number or NaN for every question in the table."""
    people = _table(demographic, ["D_INTERVIEW", "B_COUNTRY"])
    answers = _table(values, ["D_INTERVIEW", *metadata], optional=True)
    for table, path in ((people, demographic), (answers, values)):
        _refuse(path, table["D_INTERVIEW"].isna(), "have no D_INTERVIEW")
        _refuse(path, table["D_INTERVIEW"].duplicated(), "repeat an interview of before")
    has_country = people["B_COUNTRY"].map(lambda name: isinstance(name, str) and is_name(name))
    _refuse(demographic, ~has_country, "name no B_COUNTRY")
    stray = ~answers["D_INTERVIEW"].isin(people["D_INTERVIEW"])
    _refuse(values, stray, f"are interviews that {demographic.name} does not have")
    joined = answers.merge(people, on="D_INTERVIEW", how="inner")
    numbers = {
        name: _numbers(joined[name], about, f"{values.name}, {name}")
        for name, about in metadata.items()
        if name in joined
    }
    countries = [culture_name(country) for country in joined["B_COUNTRY"]]
    return pd.DataFrame(numbers).assign(country=countries)


def _refuse(path: Path, wrong: pd.Series, what: str) -> None:
    """Name the rows, from 0, where ``wrong`` holds."""
    if rows := np.flatnonzero(wrong).tolist():
        raise InvalidInputError(
            f"{path.name}: {len(rows)} of its {len(wrong)} rows (rows {ranges(rows)}) {what}; take "
            "WorldValuesBench's own tables."
        )


def _table(path: Path, columns: Sequence[str], *, optional: bool = False) -> pd.DataFrame:
    wanted = set(columns)
    try:
        first = pd.read_csv(path, sep="\t", dtype=str, header=None, nrows=1).iloc[0]
        table = pd.read_csv(path, sep="\t", dtype=str, usecols=lambda name: name in wanted)
    except (ValueError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}); write the file anew.") from error
    if twice := [name for name in columns if (first == name).sum() > 1]:
        raise InvalidInputError(
            f"{path.name} has the column {', '.join(twice)} twice; take WorldValuesBench's own "
            "tables."
        )
    needed = columns[:1] if optional else columns
    if missing := [name for name in needed if name not in table]:
        raise InvalidInputError(
            f"{path.name} has no column {', '.join(missing)}; take WorldValuesBench's own tables."
        )
    return table


def _numbers(cells: pd.Series, about: Mapping[str, Any], name: str) -> pd.Series:
    """Answers as numbers; negative codes and gaps are NaN."""
    numbers = pd.to_numeric(cells, errors="coerce")
    low, high = about["answer_scale_min"], about["answer_scale_max"]
    unreadable = cells.notna() & numbers.isna()
    code = (numbers < 0) & (numbers % 1 == 0)
    outside = numbers.notna() & ~code & ~numbers.isin(range(low, high + 1))
    if bad := list(dict.fromkeys(cells[unreadable | outside])):
        raise InvalidInputError(
            f"{name}: {int((unreadable | outside).sum())} answers are no whole number from {low} "
            f"to {high} ({', '.join(map(repr, bad[:5]))}); take the tables after answer_adjustment."
        )
    return numbers.where(numbers >= 0)


def _whole_number(text: str) -> int | None:
    """The whole number that a label is, spaces around it allowed."""
    return int(text) if text.strip().isdecimal() else None


WORLDVALUESBENCH = Benchmark(
    "worldvaluesbench",
    load,
    TEMPLATES,
    measure=Measure("alignment", alignment),
    licence="may not be passed on (World Values Survey; WorldValuesBench, Zhao et al. 2024)",
)
