"""Whatever became of a file of questions: the rows that it holds, or a sentence of ours.

A small valid file of each format is damaged, some 10,000 times in all; every time its rows pass the
schema's check, or one of the package's errors names the file or the rows. An answer is never
another than the file says: where a file says two things, it is refused.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from damage import VALUES, other_json, typos
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config as jaxtyping_config

import culnig_tl as ct
from culnig_tl.errors import CulnigError, InvalidInputError
from culnig_tl.questions.schema import faults_of

QUESTIONS = [
    {
        "id": f"q{number}",
        "question": f"Which is a drink of land {number}?",
        "options": ["rice", f"tea {number}"],
        "answer": "B",
        "culture": ("Iran", "Japan")[number % 2],
    }
    for number in range(2)
]
PROMPTS = [
    {
        "id": f"q{number}",
        "prompt": f"Is {number} a drink? A or B? Answer:",
        "options": [" A", " B"],
        "answer": " B",
        "question": f"Is {number} a drink?",
        "culture": "Iran",
    }
    for number in range(2)
]
KINDS = (".csv", ".csv.gz", ".tsv", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet")


def content(rows: list[dict[str, Any]], kind: str) -> bytes:
    """A file of the rows, before it is compressed."""
    if kind == ".parquet":
        written = BytesIO()
        pd.DataFrame(rows).to_parquet(written)
        return written.getvalue()
    if kind.startswith(".jsonl"):
        return "\n".join(map(json.dumps, rows)).encode()
    if kind.startswith(".json"):
        return json.dumps(rows).encode()
    frame = pd.DataFrame([{**row, "options": json.dumps(row["options"])} for row in rows])
    if kind == ".tsv":
        return frame.to_csv(index=False, sep="\t", quoting=csv.QUOTE_NONE).encode()
    return frame.to_csv(index=False).encode()


@pytest.fixture(scope="module", autouse=True)
def unchecked() -> Iterator[None]:
    """As a user calls the package, without beartype, which would take most of the time."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> Callable[[bytes, str], Any]:
    """``read(content, kind)``: what comes of a file."""
    folder = tmp_path_factory.mktemp("questions")

    def write_and_read(written: bytes, kind: str) -> Any:
        path = folder / f"rows{kind}"
        path.write_bytes(written)
        return attempt(path)

    return write_and_read


@pytest.fixture(scope="module")
def whole() -> dict[str, list[bytes]]:
    """By kind, the undamaged files of questions and of prompts."""
    return {kind: [content(rows, kind) for rows in (QUESTIONS, PROMPTS)] for kind in KINDS}


def attempt(source: Any) -> Any:
    """The rows of a file or a frame, or the sentence that refuses it; all else is raised."""
    try:
        return ct.questions_from_frame(source).to_list()
    except CulnigError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [QUESTIONS, PROMPTS], ids=["questions", "prompts"])
def test_undamaged_files_hold_the_same_rows(read, kind, rows):
    written = content(rows, kind)
    expected = ct.questions_from_frame(pd.DataFrame(rows)).to_list()
    assert read(gzip.compress(written) if kind.endswith(".gz") else written, kind) == expected


# ---------------------------------------------------------------- damage


def check(outcome: Any) -> None:
    """Rows that can be used, or one line that says what is wrong."""
    if isinstance(outcome, str):
        assert outcome
        assert "\n" not in outcome
        return
    assert outcome
    for row in outcome:
        assert faults_of(row) == []
        assert row["answer"] in row["options"]
        assert row["question"] in row["prompt"]


RANDOM = st.randoms(use_true_random=True)  # seeded by Hypothesis


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet"])
@settings(max_examples=100)
@given(random=RANDOM)
def test_damaged_bytes_are_rows_or_a_sentence(read, whole, kind, random):
    for number in range(20):
        check(read(typos(random, whole[kind][min(1, number % 3)]), kind))


@pytest.mark.parametrize("kind", [".json", ".jsonl"])
@settings(max_examples=100)
@given(random=RANDOM)
def test_damaged_json_is_rows_or_a_sentence(read, whole, kind, random):
    for number in range(20):
        if random.randrange(2):
            written = typos(random, whole[kind][min(1, number % 3)])
        else:
            written = as_kind(
                other_json(random, whole[".json"][min(1, number % 3)], more=(0, 1)), kind
            )
        check(read(written, kind))


def as_kind(written: bytes, kind: str) -> bytes:
    """JSON as it is, or each of its rows on a line."""
    if kind == ".json":
        return written
    return "\n".join(map(json.dumps, json.loads(written))).encode()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith(".gz")])
@settings(max_examples=10)
@given(random=RANDOM)
def test_damaged_archives_are_rows_or_a_sentence(read, whole, kind, random):
    plain = whole[kind.removesuffix(".gz")][0]
    archive = gzip.compress(plain, mtime=0)
    for _ in range(5):
        check(read(typos(random, archive), kind))
        check(read(gzip.compress(typos(random, plain)), kind))


@settings(max_examples=30)
@given(random=RANDOM)
def test_json_of_any_values_says_what_the_frame_of_its_rows_says(read, whole, random):
    """The file adds nothing and takes nothing away."""
    for _ in range(10):
        written = other_json(random, whole[".json"][1], more=(0, 1))
        rows = json.loads(written)
        if all(isinstance(row, dict) for row in rows):
            assert read(written, ".json") == attempt(pd.DataFrame(rows, dtype=object))


CELLS = [
    *VALUES,
    *(pd.NA, pd.NaT, np.float32(2), np.int64(1), b"x", object(), ("a", "b"), {"a"}, 1j),
    *(np.array(["a", "b"]), np.array(5), pd.Series(["a", "b"]), pd.Timestamp("2020"), len),
]


@settings(max_examples=50)
@given(random=RANDOM)
def test_a_frame_of_any_cells_is_rows_or_a_sentence(random):
    for number in range(20):
        rows = [dict(row) for row in (QUESTIONS, PROMPTS)[number % 2]]
        columns = [*rows[0], "question_offset", "label_kind", "template", ""]
        for _ in range(random.choice([1, 1, 2])):
            random.choice(rows)[random.choice(columns)] = random.choice(CELLS)
        index = random.choice([None, [0, 0], ["a", "b"]])
        outcome = attempt(pd.DataFrame(rows, index=index, dtype=object))
        # an array stands in the sentence as it prints, in several lines
        check(" ".join(outcome.split()) if isinstance(outcome, str) else outcome)


# ---------------------------------------------------------------- files that say two things


@pytest.mark.parametrize("kind", [".json", ".jsonl"])
def test_an_answer_that_comes_twice_is_refused(read, kind):
    """JSON's own reader takes the last."""
    twice = content(PROMPTS, kind).replace(b'"answer": " B"', b'"answer": " A", "answer": " B"', 1)
    assert "the key 'answer' comes twice" in read(twice, kind)


def test_options_that_come_twice_in_a_cell_are_refused(read):
    cell = '{""a"": ""x"", ""a"": ""y""}'
    written = f'id,prompt,options,answer\nq,p,"{cell}",x\n'.encode()
    assert "options must be a list of texts" in read(written, ".csv")


@pytest.mark.parametrize(
    ("written", "kind", "sentence"),
    [
        (b"id,answer,answer\nq,A,B\n", ".csv", "several columns 'answer'"),
        (b"question,options,option_a,answer\nq,[],x,A\n", ".csv", "has options twice"),
        (b'question\toptions\tanswer\nq\t["2", "1"]\t2\n', ".tsv", "may mean option A or B"),
        (b'[{"id": "q", "prompt": "p", "options": ["A"], "answer": "B"}]', ".json", "not among"),
        (b'{"id": "q"}\n[]', ".jsonl", "rows 1 are not objects"),
    ],
)
def test_a_file_that_says_two_things_is_refused(read, written, kind, sentence):
    assert sentence in read(written, kind)


def test_a_file_of_another_kind_under_this_name_is_a_sentence(tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(InvalidInputError, match=r"ends in '\.xlsx'; rows are read from"):
        ct.questions_from_frame(tmp_path / "rows.xlsx")
    (tmp_path / "rows.parquet").write_bytes(content(PROMPTS, ".csv"))
    with pytest.raises(InvalidInputError, match="cannot be read as parquet"):
        ct.questions_from_frame(tmp_path / "rows.parquet")
