"""BLEnD's short answers: questions in 13 languages, and what annotators of each culture answered.

Config ``annotations``, a split per country, or the files ``COUNTRY_data.json`` of the repository
(an object by question id, or a list of objects with ``ID``; parquet files in folders named by the
hub's country codes are read too). Rows are for ``evaluate_open``:

| column | type | meaning |
|---|---|---|
| id, prompt, system, reply_prefix, question | str | as in ``questions`` |
| culture, topic, template, benchmark | str | as in ``questions`` |
| language | str | code of the question's and the answers' language, see ``LANGUAGES`` |
| answers | list[str] | every annotator's answer, those given most often first |

Questions are asked in the culture's own language; the instruction around them is English, in words
of this project (``{en_question}`` and ``{country}`` serve templates of one's own). A question
without a text, or one that no annotator answered, is left out; ``rows.info.description`` says how
many. Topics and halves are those of ``blend``.

The paper asks in the culture's language throughout, with one of BLEnD's own wordings (the column
``Translation`` of its ``prompts`` files) per question, and lets a reply take 512 tokens. For one
culture ``templates`` can hold these wordings, ``{question}`` in the place of ``{q}``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value

from culnig_tl.benchmarks.blend import BLEND, halved, topics
from culnig_tl.benchmarks.definition import Benchmark
from culnig_tl.benchmarks.loading import Hub, Loaded, Source, checked_folder
from culnig_tl.benchmarks.records import Record, Records, cut, records, text_fault
from culnig_tl.cultures import in_a_sentence
from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.questions import TEXT_COLUMNS, Split, Template, filled, loads_once, read_table

LANGUAGES = {
    "USA": "en",
    "UK": "en",
    "China": "zh",
    "South Korea": "ko",
    "North Korea": "ko",
    "Spain": "es",
    "Mexico": "es",
    "Indonesia": "id",
    "West Java": "su",
    "Greece": "el",
    "Iran": "fa",
    "Azerbaijan": "az",
    "Algeria": "ar",
    "Assam": "as",
    "Ethiopia": "am",
    "Nigeria": "ha",
}
"""Language of each culture of BLEnD."""

TEMPLATES = (
    Template(
        "Here is a question about everyday life. Answer it in a few words, in its own language.\n"
        "{question}\nAnswer:",
        name="open-1",
    ),
)
FEATURES = Features(
    {name: Value("string") for name in (*TEXT_COLUMNS, "language") if name != "answer"}
    | {"answers": List(Value("string"))}
)
_HUB = Hub("nayeon212/BLEnD", "annotations", "")
_SPLITS = {
    "US": "USA",
    "GB": "UK",
    "CN": "China",
    "KR": "South Korea",
    "KP": "North Korea",
    "ES": "Spain",
    "MX": "Mexico",
    "ID": "Indonesia",
    "JB": "West Java",
    "GR": "Greece",
    "IR": "Iran",
    "AZ": "Azerbaijan",
    "DZ": "Algeria",
    "AS": "Assam",
    "ET": "Ethiopia",
    "NG": "Nigeria",
}
_STEMS = {
    {"USA": "US", "Nigeria": "Northern_Nigeria"}.get(name, name.replace(" ", "_")): name
    for name in LANGUAGES
}
_NAMES = ("ID", "question", "en_question", "annotations")
_COLUMNS = {name: (name,) for name in _NAMES}


def load(split: Split, source: Source, templates: Sequence[Template]) -> Loaded:
    """The questions that annotators answered, culture by culture."""
    by_culture = _from_hub(source) if source.data_dir is None else _from_folder(source.data_dir)
    topic_of = topics(source)
    questions = [
        question
        for culture, records in by_culture.items()
        for question in records.each(partial(_question, culture=culture, topics=topic_of))
    ]
    answered = [question for question in questions if question["answers"]]
    half = halved(answered, split, lambda question: question["topic"])
    rows = [_row(question, template) for template in templates for question in half]
    origin = ", ".join(records.origin for records in by_culture.values())
    left_out = len(questions) - len(answered)
    return Loaded(rows, f"{origin}; {left_out} questions without text or answer left out")


def dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """The rows as a Dataset.

    Raises:
        InvalidInputError: there are none.
    """
    if not rows:
        raise InvalidInputError("There are no questions with answers; give BLEnD's own files.")
    return Dataset.from_list([dict(row) for row in rows], features=FEATURES)


def _from_hub(source: Source) -> dict[str, Records]:
    return {
        culture: source.read(replace(_HUB, split=code), _COLUMNS, key="ID")
        for code, culture in _SPLITS.items()
    }


def _from_folder(folder: Path) -> dict[str, Records]:
    """Records by culture, in the order of the paths."""
    paths = sorted(path for path in checked_folder(folder).rglob("*") if path.is_file())
    cultures = {path: culture for path in paths if (culture := _culture_of(path))}
    if not cultures:
        raise MissingFileError(
            f"{folder} holds no file COUNTRY_data.json; give BLEnD's folder, with its annotations."
        )
    by_culture: dict[str, Records] = {}
    for path, culture in cultures.items():
        if culture in by_culture:
            raise InvalidInputError(
                f"{folder} holds answers of {culture} twice, the second time in {path.name}; leave "
                "one of them there."
            )
        by_culture[culture] = _read(path, path.relative_to(folder).as_posix())
    return by_culture


def _culture_of(path: Path) -> str | None:
    if path.suffix == ".parquet" and path.parent.parent.name == "annotations":
        return _SPLITS.get(path.parent.name)
    return _STEMS.get(path.name.removesuffix("_data.json"))


def _read(path: Path, name: str) -> Records:
    table = read_table(path) if path.suffix == ".parquet" else _json_table(path)
    if missing := [column for column in _NAMES if column not in table]:
        raise InvalidInputError(
            f"{name} has no {', '.join(missing)}; take BLEnD's own file of annotations."
        )
    return Records(records(table[list(_NAMES)], key="ID", name=name), f"file {name}")


def _json_table(path: Path) -> pd.DataFrame:
    try:
        content = loads_once(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not JSON ({error}); write the file anew.") from error
    entries = (
        [{**about, "ID": name} for name, about in content.items() if isinstance(about, dict)]
        if isinstance(content, dict)
        else content
    )
    whole = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not whole or not entries or len(entries) != len(content):
        raise InvalidInputError(
            f"{path} is no object or list of questions; take BLEnD's own file of annotations."
        )
    return pd.DataFrame(entries, dtype=object)


def _question(record: Record, culture: str, topics: Mapping[str, str]) -> dict[str, Any]:
    """What is asked of a culture, with all answers; none where there is nothing to ask."""
    groups = record["annotations"]
    groups = list(groups) if isinstance(groups, list | np.ndarray) else [groups]
    faults = [fault for group in groups if (fault := _fault(group))]
    faults += [
        f"{name} {text_fault(record[name])}"
        for name in ("question", "en_question")
        if not isinstance(record[name], str)
    ]
    if record["ID"] not in topics:
        faults.append(f"no topic is known of its question {record['ID']!r}")
    record.refuse(faults)
    answers = [text for group in groups for text in group["answers"] if text.strip()]
    question = record["question"].strip()
    return {
        "id": record["ID"],
        "culture": culture,
        "topic": topics[record["ID"]],
        "language": LANGUAGES[culture],
        "question": question,
        "en_question": record["en_question"].strip(),
        "country": in_a_sentence(culture),
        "answers": list(dict.fromkeys(answers)) if question else [],
    }


def _fault(group: Any) -> str:
    """What is wrong with a group of answers that mean the same; ``""`` if nothing is."""
    answers = group.get("answers") if isinstance(group, dict) else None
    if not isinstance(answers, list | np.ndarray) or not len(answers):
        return f"its annotations hold {cut(group)}, expected answers"
    faults = [not isinstance(text, str) or (text.strip() and text_fault(text)) for text in answers]
    if any(faults) or not any(text.strip() for text in answers):
        return f"its annotations hold the answers {cut(list(answers))}"
    return ""


def _row(question: Mapping[str, Any], template: Template) -> dict[str, Any]:
    """A question in a wording."""
    texts = {name: text for name, text in question.items() if isinstance(text, str)}
    return {
        **{name: question[name] for name in FEATURES if name in question},
        "prompt": filled(template.text, texts),
        "system": filled(template.system, texts),
        "reply_prefix": template.reply_prefix,
        "template": template.name,
        "benchmark": "blend-open",
    }


BLEND_OPEN = Benchmark(
    "blend-open",
    load,
    TEMPLATES,
    licence=BLEND.licence,
    uses=("open",),
    folder="blend",
    dataset=dataset,
)
