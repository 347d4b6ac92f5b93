"""Whatever happened to a benchmark's files: every row is fit for use, or a sentence says why not.

Each benchmark's small files are damaged at random, one or two places at a time. Loading them gives
rows that pass the schema's own check, or one of the package's errors; where a cell that matters was
emptied or holds something that is no text, it is an error, and it names the file and the row.
"""

import csv
import gzip
import json
import re
import shutil
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmark_files import (
    blend_rows,
    culturalbench_hard_rows,
    global_mmlu_lite_rows,
    include_rows,
    write_blend,
    write_commonsenseqa,
    write_countryrc,
    write_culturalbench,
    write_culturalbench_hard,
    write_global_mmlu_lite,
    write_include,
    write_mrpc,
    write_normad,
    write_qnli,
    write_survey,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from culnig_tl import load_benchmark
from culnig_tl.errors import CulnigError, MissingFileError
from culnig_tl.questions.schema import faults_of

WRITERS = {
    "blend": write_blend,
    "blend-open": write_blend,
    "countryrc": write_countryrc,
    "culturalbench": write_culturalbench,
    "culturalbench-hard": write_culturalbench_hard,
    "include": write_include,
    "include-agnostic": write_include,
    "global-mmlu-lite-sensitive": write_global_mmlu_lite,
    "global-mmlu-lite-agnostic": write_global_mmlu_lite,
    "normad": write_normad,
    "normad-control": write_normad,
    "commonsenseqa": write_commonsenseqa,
    "qnli": write_qnli,
    "mrpc": write_mrpc,
    "worldvaluesbench": write_survey,
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The undamaged files of every benchmark: contents by path within its folder."""
    root = tmp_path_factory.mktemp("whole")
    contents = {}
    for name, write in WRITERS.items():
        folder = write(root / name)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        contents[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return contents


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """``place(files)``: a folder with these files and no others."""
    folder = tmp_path_factory.mktemp("damaged") / "files"

    def put(files: dict[str, bytes]) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    return put


def outcome(name: str, folder: Path) -> str:
    """Rows that pass the schema's check, or the sentence of an error of the package."""
    try:
        rows = load_benchmark(name, split="all", data_dir=folder)
    except CulnigError as error:
        return str(error)
    assert len(rows) > 0
    if name == "blend-open":
        assert all(row["question"].strip() and row["answers"] for row in rows.to_list())
        return ""
    assert not any(faults_of(row) for row in rows.to_list())
    return ""


# ---------------------------------------------------------------- bytes


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A file cut off, with some bytes put in, or with other content altogether."""
    at = draw(st.integers(0, len(content)))
    few = draw(st.binary(min_size=1, max_size=8))
    return draw(
        st.sampled_from(
            [
                content[:at],
                content[:at] + few + content[at:],
                content[:at] + few + content[at + len(few) :],
                content + content[:at],
                few,
                b"",
                b"\x00" * 16,
                b"5",
                b'"text"',
                b"null",
                b"[1, 2, 3]",
                b'[{"id": 1}, 2]',
                b"[[]]",
                b"{}",
                b"[]",
                b'{"id": 1}\n{"id": ',
                b"{\n",
                b"[" * 20_000,
                gzip.compress(content)[: 10 + at],
            ]
        )
    )


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=40)
@given(data=st.data())
def test_damaged_bytes_never_end_in_a_traceback(whole, place, name, data):
    files = dict(whole[name])
    path = data.draw(st.sampled_from(sorted(files)))
    content = files[path]
    if path.endswith(".gz") and data.draw(st.booleans(), "damaged before it was compressed"):
        files[path] = gzip.compress(data.draw(damaged(gzip.decompress(content))))
    else:
        files[path] = data.draw(damaged(content))
    outcome(name, place(files))


# ---------------------------------------------------------------- cells

NO_TEXT = [
    None,
    float("nan"),
    "",
    "  ",
    [],
    ["tea"],
    {},
    {"a": 1},
    True,
    float("inf"),
    "\0",
    "\ud800",
]


@dataclass(frozen=True)
class Table:
    """Records as a JSON file, and the cells in which only a text (or a number) will do."""

    benchmark: str
    records: list[dict[str, Any]]
    texts: tuple[str, ...]
    others: dict[str, bytes]


def tables(files: dict[str, dict[str, bytes]]) -> list[Table]:
    """The records of each benchmark that is a table."""
    topics = {"topics.csv": files["blend"]["questions/US_questions.csv"]}

    def lines(name: str, path: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in files[name][path].splitlines()]

    def tsv(name: str, path: str) -> list[dict[str, Any]]:
        first, *rest = files[name][path].decode("utf-8-sig").splitlines()
        names = first.split("\t")
        return [dict(zip(names, line.split("\t"), strict=True)) for line in rest]

    text = StringIO(files["culturalbench"]["CulturalBench-Easy.csv"].decode(), newline="")
    cultural = list(csv.DictReader(text))
    region = json.loads(gzip.decompress(files["normad"]["region.json.gz"]))
    mcq = ("MCQID", "ID", "country", "prompt", "choices", "answer_idx")
    needed = ("data_idx", "prompt_question", "answer", "country")
    return [
        Table("blend", blend_rows(), mcq, topics),
        Table("culturalbench", cultural, needed, {}),
        Table("normad", region, ("ex_id", "situation", "country", "answer"), {}),
        Table(
            "commonsenseqa",
            lines("commonsenseqa", "validation_hf_rows.jsonl"),
            ("id", "question", "answerKey"),
            {},
        ),
        Table("qnli", tsv("qnli", "dev.tsv"), ("index", "question", "sentence", "label"), {}),
        Table("mrpc", tsv("mrpc", "test.tsv"), ("index", "#1 String", "#2 String", "Quality"), {}),
        Table(
            "countryrc",
            json.loads(files["countryrc"]["data.json"]),
            ("id", "context", "question"),
            {},
        ),
        Table(
            "culturalbench-hard",
            culturalbench_hard_rows(),
            ("data_idx", "question_idx", "prompt_question", "country"),
            {},
        ),
        Table(
            "include",
            [row for rows in include_rows().values() for row in rows],
            ("regional_feature", "question", "option_c", "answer"),
            {},
        ),
        Table(
            "global-mmlu-lite-sensitive",
            global_mmlu_lite_rows(),
            ("sample_id", "cultural_sensitivity_label", "question", "option_c", "answer"),
            {},
        ),
    ]


FILES = {
    "mrpc": "test.json",
    "include": "test.json",
    "global-mmlu-lite-sensitive": "test.json",
}


def loaded(place, table: Table, records: list[Any]) -> str:
    file = FILES.get(table.benchmark, "validation.json")
    content = json.dumps(records).encode()
    return outcome(table.benchmark, place({**table.others, file: content}))


@pytest.mark.parametrize("number", range(10))
@settings(max_examples=20)
@given(data=st.data())
def test_a_cell_that_is_no_text_is_reported_with_file_and_row(whole, place, number, data):
    table = tables(whole)[number]
    row = data.draw(st.integers(0, len(table.records) - 1), "row")
    column = data.draw(st.sampled_from(table.texts), "column")
    records = [dict(record) for record in table.records]
    records[row][column] = data.draw(st.sampled_from(NO_TEXT), "cell")
    said = loaded(place, table, records)
    assert f".json, row {row}" in said
    assert f"1 of {len(records)} rows cannot be used" in said


@pytest.mark.parametrize("number", range(10))
def test_the_tables_themselves_are_whole_and_every_column_is_needed(whole, place, number):
    table = tables(whole)[number]
    assert loaded(place, table, table.records) == ""
    for column in table.texts:
        without = [
            {k: cell for k, cell in record.items() if k != column} for record in table.records
        ]
        said = loaded(place, table, without)
        assert re.search(r"No file in .* is a table with the columns .*\.json has no \S", said), (
            said
        )


def test_a_column_that_comes_twice_is_reported(place, whole):
    text = whole["culturalbench"]["CulturalBench-Easy.csv"]
    twice = text.replace(b"question_idx", b"answer", 1)
    said = outcome("culturalbench", place({"rows.csv": twice}))
    assert said == "rows.csv has the column answer twice; get the file anew."
    frame = pd.read_csv(BytesIO(text), dtype=str, keep_default_na=False)
    folder = place({})
    frame.rename(columns={"question_idx": "id"}).to_parquet(folder / "rows.parquet")
    assert outcome("culturalbench", folder) == ""


@pytest.mark.parametrize("ending", [".jsonl", ".json", "-list.json", ".json.gz"])
def test_a_key_that_comes_twice_in_a_record_is_reported(place, whole, ending):
    lines = whole["commonsenseqa"]["validation_hf_rows.jsonl"].decode().splitlines()
    lines[1] = lines[1].replace('"answerKey": "E"', '"answerKey": "E", "answerKey": "A"')
    text = f"[{', '.join(lines)}]" if "list" in ending else "\n".join(lines)
    content = gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode()
    said = outcome("commonsenseqa", place({f"validation{ending}": content}))
    assert f"validation{ending} cannot be read as json" in said
    assert "the key 'answerKey' comes twice" in said


def test_a_table_without_rows_is_named(place, whole):
    header = whole["culturalbench"]["CulturalBench-Easy.csv"].partition(b"\r\n")[0] + b"\r\n"
    said = outcome("culturalbench", place({"part/rows.csv": header}))
    assert "part/rows.csv has no rows" in said


@pytest.mark.parametrize(
    ("choices", "fault"),
    [
        ('{"A": "tea", "A": "rice", "B": "milk"}', "key 'A' comes twice"),
        ('{"A": "tea"}', "options are called ['A'], expected A, B"),
        ('{"B": "tea", "A": "rice"}', "options are called ['B', 'A'], expected A, B"),
        ('{"A": "tea", "B": 5}', "option B holds 5, not text"),
        ('{"A": "tea", "B": " "}', "option B is empty"),
        ('["tea", "rice"]', "options are ['tea', 'rice'], expected texts by letter"),
        ("5", "options are 5"),
        ("[" * 5000, "is not JSON"),
    ],
)
def test_blend_s_choices_are_texts_by_letter(place, whole, choices, fault):
    table = tables(whole)[0]
    said = loaded(place, table, [{**table.records[0], "choices": choices}, *table.records[1:]])
    assert "validation.json, row 0 ('Al-en-01_US_0')" in said
    assert fault in said


@pytest.mark.parametrize(
    "choices",
    [
        {"label": ["A", "B"], "text": ["one"]},
        {"label": ["A", "A"], "text": ["one", "two"]},
        {"label": ["A", ["B"]], "text": ["one", "two"]},
        {"label": "AB", "text": None},
        {"label": ["B", "A"], "text": ["one", "two"]},
        [{"label": "A", "text": "one"}, "two"],
        [{"label": "A", "text": "one"}, {"label": "B"}],
        [],
        7,
    ],
)
def test_commonsenseqa_s_choices_are_labels_with_texts(place, whole, choices):
    table = tables(whole)[3]
    said = loaded(place, table, [table.records[0], {**table.records[1], "choices": choices}])
    assert "1 of 2 rows cannot be used: validation.json, row 1 ('id-E')" in said


def test_the_same_record_counts_once_and_another_of_its_name_is_reported(place, whole):
    table = tables(whole)[1]
    twice = [*table.records, table.records[0]]
    folder = place({"rows.json": json.dumps(twice).encode()})
    assert len(load_benchmark(table.benchmark, split="all", data_dir=folder)) == 4 * 5
    twice[-1] = {**table.records[0], "prompt_question": "Another?"}
    said = outcome(table.benchmark, place({"rows.json": json.dumps(twice).encode()}))
    assert "rows.json, row 5 ('0'): differs from that of rows.json, row 0" in said


def test_all_faults_are_listed_at_once(place, whole):
    table = tables(whole)[0]
    bad = [{**record, "country": "364"} for record in table.records]
    said = loaded(
        place, table, [*bad, *({**record, "MCQID": f"{n}"} for n, record in enumerate(bad))]
    )
    assert "20 of 20 rows cannot be used" in said
    assert "row 9 ('Al-en-03_US_0'): country is '364', which names none; and 10 more" in said


def test_an_unknown_topic_is_reported_since_its_rows_would_be_in_no_half(place, whole):
    table = tables(whole)[0]
    topics = table.others["topics.csv"].replace(b"Sport", b"Spord")
    rows = json.dumps(table.records).encode()
    said = outcome("blend", place({"rows.json": rows, "topics.csv": topics}))
    assert "topics.csv, row 1 ('Al-en-02'): Topic is 'Spord', expected one of Food" in said


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_empty_or_a_file_is_a_sentence(place, name):
    folder = place({"a.csv": b"a,b\n1,2\n", "empty/x.txt": b""})
    for there in (folder / "empty", folder / "a.csv", folder / "nowhere", folder):
        with pytest.raises(MissingFileError, match=f"{there}"):
            load_benchmark(name, split="all", data_dir=there)


def test_a_folder_called_like_a_table_is_no_table(place, whole):
    files = {f"rows.csv/{name}": content for name, content in whole["culturalbench"].items()}
    assert outcome("culturalbench", place(files)) == ""


def test_an_object_beside_the_tables_is_left_alone_whichever_way_it_is_written(place, whole):
    plain = b'\xef\xbb\xbf{"a":\n {"b": [1]}}'
    others = {"a.json": plain, "b.json.gz": gzip.compress(plain), "c.json": b'{"a": {"b": [1]}}'}
    assert outcome("culturalbench", place({**whole["culturalbench"], **others})) == ""
    said = outcome("culturalbench", place({**whole["culturalbench"], "d.json": plain[:-1]}))
    assert re.search(r"d\.json cannot be read as json \(.*\); write the file anew", said)


# ---------------------------------------------------------------- WorldValuesBench


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("demographic", "\n7\t2018", "\n\t2018", "1 of its 90 rows (rows 7) have no D_INTERVIEW"),
        ("demographic", "\n7\t2018", "\n8\t2018", "(rows 8) repeat an interview of before"),
        ("demographic", "\tIran\n", "\t364\n", "(rows 0) name no B_COUNTRY"),
        ("demographic", "\tIran\n", "\t\n", "(rows 0) name no B_COUNTRY"),
        ("demographic", "B_COUNTRY", "COUNTRY", "has no column B_COUNTRY"),
        ("demographic", "A_YEAR", "B_COUNTRY", "has the column B_COUNTRY twice"),
        ("value", "\n7\t", "\n700\t", "(rows 7) are interviews that full_demographic_qa.tsv"),
        ("value", "\tQ48", "\tQ1", "has the column Q1 twice"),
        ("value", "\n0\t4.0", "\n0\t-0.5", "Q1: 1 answers are no whole number from 1 to 4"),
        ("value", "\n0\t4.0", "\n0\t-inf", "Q1: 1 answers are no whole number from 1 to 4"),
        ("metadata", '"Q48"', '"Q1"', "the key 'Q1' comes twice"),
        ("metadata", '"Trust"', "5", "Q1: category must be text"),
        ("metadata", '"question": ', '"asked": ', "Q1: question must be text"),
        ("metadata", '"answer_scale_max": 4', '"answer_scale_max": true', "from 1 to True"),
        ("metadata", '"answer_scale_max": 4', '"answer_scale_max": 1', "from 1 to 1"),
        ("metadata", '"use_case": "value"', '"use_case": []', "has no use_case"),
    ],
)
def test_the_survey_s_files_are_checked_cell_by_cell(place, whole, file, old, new, fault):
    files = dict(whole["worldvaluesbench"])
    (path,) = [name for name in files if file in name]
    text = files[path].decode()
    assert old in text
    said = outcome("worldvaluesbench", place({**files, path: text.replace(old, new, 1).encode()}))
    assert fault in said
    assert path in said


# ---------------------------------------------------------------- BLEnD's written answers


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"annotations": 5}, "its annotations hold '5', expected answers"),
        ({"annotations": [{"answers": "tea"}]}, "its annotations hold {'answers': 'tea'}"),
        ({"annotations": [{"answers": []}]}, "expected answers"),
        ({"annotations": [{"answers": ["", ""]}]}, "hold the answers ['', '']"),
        ({"annotations": [{"answers": ["tea", None]}]}, "hold the answers ['tea', None]"),
        ({"question": ["Why?"]}, "question holds ['Why?'], not text"),
        ({"question": None, "annotations": None}, "its annotations hold '', expected answers"),
        ({"ID": "Xx-01"}, "no topic is known of its question 'Xx-01'"),
    ],
)
def test_a_question_with_faulty_answers_is_named(place, whole, changes, fault):
    good = {"ID": "Al-en-01", "question": "Why?", "en_question": "Why?"}
    good |= {"annotations": [{"answers": ["tea", " "]}]}
    topics = {"topics.csv": whole["blend"]["questions/US_questions.csv"]}
    entries = [good, {**good, "ID": "Al-en-02", **changes}]
    content = json.dumps(entries).encode()
    said = outcome("blend-open", place({**topics, "part/US_data.json": content}))
    assert "1 of 2 rows cannot be used: part/US_data.json, row 1" in said
    assert fault in said


def test_answers_of_a_country_that_come_twice_are_reported(place, whole):
    content = whole["blend-open"]["annotations/US_data.json"]
    said = outcome("blend-open", place({**whole["blend-open"], "more/US_data.json": content}))
    assert "holds answers of USA twice" in said
