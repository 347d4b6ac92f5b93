"""Small benchmark files with the columns of the real ones; every sentence is written here.

Where ../shared/data lies beside the repository, the tests read the real files too.
"""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import pandas as pd

SHARED = Path(__file__).parents[2] / "shared" / "data"
PLACES = ["fixtures", "shared"] if SHARED.is_dir() else ["fixtures-because-shared-data-is-absent"]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


# --- BLEnD ----------------------------------------------------------------------------------------

BLEND_TOPICS = {"Al-en-01": "Food", "Al-en-02": "Sport", "Al-en-03": "Family"}
BLEND_ROWS = {("US", "Al-en-01"): 7, ("Northern_Nigeria", "Al-en-01"): 2, ("US", "Al-en-03"): 1}


def blend_rows() -> list[dict[str, str]]:
    """Seven rows of one country and question, of which five count, and three others."""
    rows = []
    for (country, question), n in BLEND_ROWS.items():
        for number in range(n):
            answer = "ABCD"[number % 4]
            choices = {letter: f"dish {number} {letter}" for letter in "ABCD"}
            listed = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
            rows.append(
                {
                    "MCQID": f"{question}_{country}_{number}",
                    "ID": question,
                    "country": country,
                    "prompt": f"What do people in {country} cook on a rainy day? Without any "
                    f'explanation, give one letter. {{"answer_choice":""}}\n\n{listed}\n\nAnswer:',
                    "choices": json.dumps(choices, indent=4),
                    "choice_countries": json.dumps({answer: country}),
                    "answer_idx": answer,
                }
            )
    return rows


def write_blend(folder: Path) -> Path:
    rows = blend_rows()
    write_csv(folder / "derived" / "blend.csv.gz", [{**row, "origin": "here"} for row in rows])
    write_csv(folder / "mcq" / "train.csv", rows[:4])  # again, as in ../shared/data
    write_csv(
        folder / "questions" / "US_questions.csv",
        [
            {"": n, "ID": key, "Topic": topic, "Source": "-", "Question": "-", "Translation": "-"}
            for n, (key, topic) in enumerate(BLEND_TOPICS.items())
        ],
    )
    (folder / "annotations").mkdir()
    for country, entries in blend_annotations().items():
        path = folder / "annotations" / f"{country}_data.json"
        path.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder


def blend_annotations() -> dict[str, dict[str, dict[str, object]]]:
    """By country and question: a question that nobody answered, one without text, an empty word."""

    def entry(question: str, *groups: list[str]) -> dict[str, object]:
        listed = [{"answers": g, "en_answers": ["-"], "count": 5 - n} for n, g in enumerate(groups)]
        idks = {"idk": 5 - len(groups), "no-answer": 0, "not-applicable": 0}
        return {"question": question, "en_question": "-", "annotations": listed, "idks": idks}

    return {
        "Iran": {
            "Al-en-01": entry("صبح چه می‌خورند؟", ["میوه", "ميوه"], ["نان"]),
            "Al-en-02": entry("چه بازی می‌کنند؟"),
            "Al-en-03": entry("شب چه می‌کنند؟", ["خواب"]),
        },
        "Northern_Nigeria": {"Al-en-02": entry("Wane wasa?", ["kokawa", ""])},
        "South_Korea": {"Al-en-03": entry("저녁에 무엇을 먹나요?", ["김치", "밥"])},
        "US": {
            "Al-en-01": entry("What do people bake in the US?", ["cookie"], ["apple pie", "pie"]),
            "Al-en-02": entry(" ", ["running"]),
        },
    }


# --- the others -----------------------------------------------------------------------------------


def write_culturalbench(folder: Path) -> Path:
    """Five rows of two countries; one option's cell reads None, one question has two lines."""
    countries = ["Spain", "United Kingdom", "Spain", "Spain", "United Kingdom"]
    write_csv(
        folder / "CulturalBench-Easy.csv",
        [
            {
                "data_idx": n,
                "question_idx": n,
                "prompt_question": f"What is common at table {n}\nin {country}?",
                "prompt_option_a": f"soup {n}",
                "prompt_option_b": f"bread {n}",
                "prompt_option_c": f"salad {n}",
                "prompt_option_d": "None" if n == 2 else f"tea {n}",
                "answer": "AABAD"[n],
                "country": country,
            }
            for n, country in enumerate(countries)
        ],
    )
    return folder


HARD_TRUTHS = ["TFFF", "FTTF", "FFFT"]
"""Right and wrong suggestions of three questions; of the second, two are right."""


def culturalbench_hard_rows() -> list[dict[str, object]]:
    """Three questions of two countries, four suggestions each; one cell reads None."""
    countries = ["Spain", "United Kingdom", "Spain"]
    return [
        {
            "data_idx": 4 * n + k,
            "question_idx": n,
            "prompt_question": f"What is common at table {n}\nin {country}?",
            "prompt_option": "None" if (n, k) == (2, 1) else f"dish {n} {k}",
            "answer": truth == "T",
            "country": country,
        }
        for n, country in enumerate(countries)
        for k, truth in enumerate(HARD_TRUTHS[n])
    ]


def write_culturalbench_hard(folder: Path) -> Path:
    rows = [{**row, "answer": str(row["answer"]).upper()} for row in culturalbench_hard_rows()]
    write_csv(folder / "CulturalBench-Hard.csv", rows)
    return folder


NORMAD_LABELS = ["yes", "yes", "yes", "no", "no", "neutral"]


def write_normad(folder: Path) -> Path:
    """Six rows of one country in the hub's columns; two of them come again in other columns."""
    stories = [
        f"In Spain, Ann brought gift {n} to a traditional meal. Was that socially acceptable?"
        for n in range(len(NORMAD_LABELS))
    ]
    write_csv(
        folder / "derived" / "normad.csv.gz",
        [
            {"ID": n, "Country": "spain", "Rule-of-Thumb": "-", "Story": story, "Gold Label": label}
            for n, (story, label) in enumerate(zip(stories, NORMAD_LABELS, strict=True))
        ],
    )
    again = [
        {"ex_id": n, "situation": stories[n], "country": "spain", "answer": NORMAD_LABELS[n]}
        for n in (0, 1)
    ]
    (folder / "region.json.gz").write_bytes(gzip.compress(json.dumps(again).encode()))
    return folder


def write_commonsenseqa(folder: Path) -> Path:
    """Two questions in the official layout, and the same in the hub's."""
    folder.mkdir()
    official, hub = [], []
    for key in ("A", "E"):
        pairs = [{"label": letter, "text": f"place {letter}"} for letter in "ABCDE"]
        stem = {"stem": f"Where is {key}?", "choices": pairs, "question_concept": "-"}
        official.append({"answerKey": key, "id": f"id-{key}", "question": stem})
        choices = {name: [pair[name] for pair in pairs] for name in ("label", "text")}
        hub.append(
            {
                "id": f"id-{key}",
                "question": f"Where is {key}?",
                "question_concept": "-",
                "choices": choices,
                "answerKey": key,
            }
        )
    for name, rows in (("dev_rand_split", official), ("validation_hf_rows", hub)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "train_rand_split.jsonl").write_text(json.dumps({**hub[0], "id": "train"}))
    return folder


def exam_options(name: str) -> dict[str, str]:
    return {f"option_{letter}": f"{name} {letter}" for letter in "abcd"}


def include_rows() -> dict[str, list[dict[str, object]]]:
    """By language: regional questions and an agnostic one, one of them without a country."""
    about = {
        "Polish": [("Poland", "region implicit"), ("Poland", "culture"), ("Poland", "agnostic")],
        "Persian": [("Iran", "region explicit"), ("", "region explicit"), ("Iran", "agnostic")],
    }
    return {
        language: [
            {
                "language": language,
                "country": country,
                "domain": "Social Science",
                "subject": "Sociology" if n else "Law",
                "regional_feature": feature,
                "level": "Academic",
                "question": f"Pytanie {n}\n{language}?",
                **exam_options(f"{language} {n}"),
                "answer": n + 1,
            }
            for n, (country, feature) in enumerate(rows)
        ]
        for language, rows in about.items()
    }


def write_include(folder: Path) -> Path:
    """The hub's layout: a subfolder per language, a file per split."""
    for language, rows in include_rows().items():
        (folder / language).mkdir(parents=True)
        for split, part in {"test": rows, "validation": [{**rows[0], "answer": 0}]}.items():
            pd.DataFrame(part).to_parquet(folder / language / f"{split}-00000-of-00001.parquet")
    return folder


LITE_COUNTRIES = [
    "['United States of America (USA)', 'France', 'United States of America (USA)']",
    "['Italy', nan]",
    "['United States']",
    "[]",
    "['France', \"Italy\"]",
]


def global_mmlu_lite_rows() -> list[dict[str, object]]:
    """Five culturally sensitive questions, one of which names no country, and two agnostic."""
    labels = ["CS"] * len(LITE_COUNTRIES) + ["CA"] * 2
    return [
        {
            "sample_id": f"world_religions/test/{n}",
            "subject": "world_religions" if label == "CS" else "anatomy",
            "subject_category": "Humanities",
            "question": f"Which of these is number {n}?",
            **exam_options(f"choice {n}"),
            "answer": "ABCD"[n % 4],
            "required_knowledge": "['Cultural']" if label == "CS" else "['None']",
            "time_sensitive": "['No']",
            "reference": "[]",
            "culture": "[]",
            "region": "[]",
            "country": country,
            "cultural_sensitivity_label": label,
            "is_annotated": True,
        }
        for n, (label, country) in enumerate(
            zip(labels, [*LITE_COUNTRIES, "[]", "[]"], strict=True)
        )
    ]


def write_global_mmlu_lite(folder: Path) -> Path:
    """Tests, and a dev file whose rows have no label, as json."""
    (folder / "en").mkdir(parents=True)
    rows = global_mmlu_lite_rows()
    dev = [{**rows[0], "sample_id": "dev/0", "cultural_sensitivity_label": "-"}]
    for split, part in {"test": rows, "dev": dev}.items():
        (folder / "en" / f"{split}-00000-of-00001.json").write_text(json.dumps(part))
    return folder


def write_qnli(folder: Path) -> Path:
    """Three rows, one with a lone quote, which swallows lines where quotes count."""
    folder.mkdir(parents=True)
    lines = [
        "index\tquestion\tsentence\tlabel",
        '0\tWho sang?\t"Ann sang, he said.\tentailment',
        "1\tWho sang?\tIt rained.\tnot_entailment",
        '2\tWhat fell?\tRain" fell.\tentailment',
    ]
    (folder / "dev.tsv").write_text("\n".join(lines) + "\n")
    (folder / "train.tsv").write_text("\n".join([lines[0], "9\tWhy?\tSo.\tentailment"]) + "\n")
    return folder


def write_mrpc(folder: Path) -> Path:
    """Two test rows behind a byte-order mark, and a dev file without index."""
    folder.mkdir(parents=True)
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    (folder / "test.tsv").write_text(
        f'\ufeffindex\t{header}\n0\t1\t7\t8\tHe said " yes .\tYes , he said .\n'
        "1\t0\t9\t10\tA .\tB .\n",
        encoding="utf-8",
    )
    (folder / "dev.tsv").write_text(f"\ufeff{header}\n1\t1\t2\tC .\tD .\n", encoding="utf-8")
    return folder


def write_countryrc(folder: Path) -> Path:
    folder.mkdir()
    contexts = ["Jo flew to {country}.", "Jo left {country_dummy} for {country}."]
    (folder / "data.json").write_text(
        json.dumps(
            [
                {"id": str(n), "context": text, "question": "Where did Jo go?"}
                for n, text in enumerate(contexts)
            ]
        )
    )
    return folder


SCALES = {"Q1": (1, 4), "Q48": (1, 10), "Q106": (0, 2), "Q234A": (1, 5)}


def write_survey(folder: Path, metadata: Mapping[str, Mapping[str, object]] | None = None) -> Path:
    """Made-up respondents of three countries who answer every question of the metadata.

    The world, 30 people a country, answers by turns; in Iran everyone gives the largest number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = metadata or {
        "B_COUNTRY": {"use_case": "demographic"},
        **{
            name: {
                "question": f"On a scale of {low} to {high}, how much?",
                "category": "Trust",
                "use_case": "value",
                "answer_scale_min": low,
                "answer_scale_max": high,
            }
            for name, (low, high) in SCALES.items()
        },
    }
    (folder / "question_metadata.json").write_text(json.dumps(metadata))
    on_values = {name: about for name, about in metadata.items() if about["use_case"] == "value"}
    people, values = ["D_INTERVIEW\tA_YEAR\tB_COUNTRY"], ["\t".join(["D_INTERVIEW", *on_values])]
    for number, country in enumerate(["Iran", "Great Britain", "Mexico"] * 30):
        people.append(f"{number}\t2018\t{country}")
        cells = []
        for about in on_values.values():
            low, high = int(str(about["answer_scale_min"])), int(str(about["answer_scale_max"]))
            cells.append(f"{high if country == 'Iran' else low + number % (high + 1 - low)}.0")
        values.append("\t".join([str(number), *cells]))
    (folder / "full_demographic_qa.tsv").write_text("\n".join(people) + "\n")
    (folder / "full_value_qa.tsv").write_text("\n".join(values) + "\n")
    return folder
