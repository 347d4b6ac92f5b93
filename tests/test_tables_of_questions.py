"""Questions of one's own: whatever a table holds is used rightly, or refused row by row.

Both ways in are covered, finished prompts and questions that prompts are made of, as data frames
and as files.
"""

import gzip
import json
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from question_files import written

import culnig_tl as ct
from culnig_tl.errors import CulnigError, InvalidInputError, UnknownNameError
from culnig_tl.questions.tables import TEMPLATES

QUESTION = {
    "question": "Which is a drink?",
    "options": ["rice", "tea", "bread"],
    "answer": "tea",
    "culture": "Iran",
}
PROMPT = {"id": "q", "prompt": "tea? Answer:", "options": [" A", " B"], "answer": " A"}
LISTED = ct.Template("{question}\n{options}\nAnswer:", name="listed")
few = settings(max_examples=40)


def made(*records, **options):
    return ct.questions_from_frame(pd.DataFrame(records, dtype=object), **options)


def shown(row):
    """The options of a prompt by label, as someone reads them there."""
    lines = [line.partition(". ") for line in row["prompt"].split("\n")]
    return {label: text for label, _, text in lines if label in row["options"]}


# ---------------------------------------------------------------- rows


def test_a_question_becomes_a_row_in_each_of_four_wordings():
    rows = made(QUESTION)
    assert rows["template"][:] == ["letters-1", "letters-2", "digits-1", "digits-2"]
    assert set(rows["id"]) == {"row 0"}
    assert set(rows["culture"]) == {"Iran"}
    for row in rows.to_list():
        assert set(shown(row).values()) == set(QUESTION["options"])
        assert shown(row)[row["answer"]] == "tea"
    assert len(set(rows["prompt"])) == 4


@pytest.mark.parametrize("answer", ["B", "b", "2", 2, 2.0, np.int64(2), "tea"])
def test_an_answer_is_a_letter_a_number_from_one_or_a_text(answer):
    (row,) = made({**QUESTION, "answer": answer}, templates=LISTED).to_list()
    assert shown(row)[row["answer"]] == "tea"


@pytest.mark.parametrize(
    ("options", "answer"),
    [(["2", "1"], "2"), (["2", "1"], 1), (["rice", "A"], "A"), (["b", "a"], "b")],
)
def test_an_answer_that_may_mean_two_options_is_refused(options, answer):
    with pytest.raises(InvalidInputError, match=r"row 1: answer .* may mean option A or B"):
        made(QUESTION, {**QUESTION, "options": options, "answer": answer})


def test_an_answer_that_means_one_option_in_two_ways_is_clear():
    same = {**QUESTION, "options": ["1", "2"], "answer": "2"}
    (row,) = made(same, templates=LISTED).to_list()
    assert shown(row)[row["answer"]] == "2"


FAULTS = {
    "question": [("", "question must be"), (" \n", "question must be"), (None, "question must be")],
    "options": [
        ([], "0 options"),
        (["tea"], "1 options"),
        (["tea", " "], "option B must be"),
        (["tea", "rice", "tea "], "options repeat"),
        (["tea", 7], "options must be a list"),
        ("tea, rice", "options must be a list"),
        ({"A": "tea"}, "options must be a list"),
        (["tea", "\ud800"], "options must be a list"),
        ([f"option {number}" for number in range(27)], "27 options"),
    ],
    "answer": [
        ("", "answer is empty"),
        (None, "answer is empty"),
        ("D", "answer 'D' is no letter to C"),
        (4, "answer 4 is no letter to C, no number to 3"),
        (0, "answer 0 is no letter"),
        ("Tea", "answer 'Tea' is no letter"),
        (True, "answer True is no letter"),
        (1.5, "answer 1.5 is no letter"),
        (["tea"], "answer ['tea'] is no letter, whole number or text"),
    ],
    "culture": [(7, "culture must be text"), ({}, "culture must be text")],
    "id": [("", "id must be text and not empty"), (7, "id must be text and not empty")],
}


@pytest.mark.parametrize(
    ("column", "cell", "fault"),
    [(column, *case) for column, cases in FAULTS.items() for case in cases],
)
def test_each_fault_is_named_with_its_row(column, cell, fault):
    good = {**QUESTION, "id": "q"}
    with pytest.raises(InvalidInputError) as caught:
        made(good, {**good, column: cell}, good)
    assert f"1 of 3 rows cannot be used: row 1: {fault}" in str(caught.value)


def test_all_faults_of_all_rows_come_at_once():
    with pytest.raises(InvalidInputError) as caught:
        made({**QUESTION, "question": "", "answer": ""}, QUESTION, {**QUESTION, "options": ["x"]})
    sentence = str(caught.value)
    assert "2 of 3 rows" in sentence
    assert "row 0: question must be text and not empty, answer is empty; " in sentence
    assert "row 2: 1 options, expected 2 to 26. A row needs a question" in sentence


# ---------------------------------------------------------------- columns


def test_options_may_have_one_column_each_under_any_name():
    frame = pd.DataFrame(
        {"asked": ["Drink?", "Food?"], "A": ["tea", "ink"], "B": ["salt", "rice"], "key": ["A", 2]}
    )
    named = {"question": "asked", "option_a": "A", "option_b": "B", "answer": "key"}
    rows = ct.questions_from_frame(frame, columns=named, templates=LISTED)
    assert [shown(row)[row["answer"]] for row in rows.to_list()] == ["tea", "rice"]
    assert rows["id"][:] == ["row 0", "row 1"]
    frame["B"] = ["", None]
    with pytest.raises(InvalidInputError, match=r"row 0: option B .*; row 1: option B "):
        ct.questions_from_frame(frame, columns=named)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        (["question", "options"], "no column answer"),
        (["options", "answer"], "no column question"),
        (["question", "answer"], r"no column options \(nor option_a, option_b, \.\.\.\)"),
        (["culture"], "no column question, answer, options"),
        (["question", "options", "option_a", "answer"], "options twice, in options, option_a"),
        (["question", "option_a", "option_c", "answer"], "option_c does not follow on"),
        (["question", "options", "answer", "system"], "system come from templates"),
        ([0, 1.5, None], "no column question, answer, options"),
    ],
)
def test_columns_that_do_not_fit_are_a_sentence(columns, fault):
    with pytest.raises(InvalidInputError, match=fault):
        ct.questions_from_frame(pd.DataFrame([["x"] * len(columns)], columns=columns))


@pytest.mark.parametrize("row", [PROMPT, QUESTION])
def test_columns_that_repeat_or_have_levels_are_a_sentence(row):
    frame = pd.DataFrame([row, row], dtype=object)
    with pytest.raises(InvalidInputError, match="several columns 'answer'; keep one"):
        ct.questions_from_frame(pd.concat([frame, frame[["answer"]]], axis=1))
    with pytest.raises(InvalidInputError, match="several columns 'answer'; keep one"):
        ct.questions(pd.concat([frame, frame[["answer"]]], axis=1))
    levels = frame.set_axis(pd.MultiIndex.from_product([["top"], frame.columns]), axis=1)
    with pytest.raises(InvalidInputError, match="columns have 2 levels, expected one"):
        ct.questions_from_frame(levels)
    rows = ct.questions_from_frame(frame.set_axis(["again", "again"]))  # an index means nothing
    assert set(rows["answer"]) >= {ct.questions_from_frame(frame)["answer"][0]}
    with pytest.raises(InvalidInputError, match="There are no rows"):
        ct.questions_from_frame(frame.iloc[:0])


# ---------------------------------------------------------------- templates


def test_columns_fill_templates_and_texts_are_templates():
    record = {**QUESTION, "passage": "It is hot."}
    template = ct.Template("{passage} {question}\n{options}", system="You live in {culture}.")
    (row,) = made(record, templates=template).to_list()
    assert row["prompt"].startswith("It is hot. Which is a drink?\nA. ")
    assert row["system"] == "You live in Iran."
    listing = "{question} 1. {option_a} 2. {option_b} 3. {option_c}"
    digits, letters = made(record, templates=[listing, LISTED]).to_list()
    assert digits["options"] == ["1", "2", "3"]
    assert (digits["template"], letters["template"]) == ("own-1", "listed")


def test_a_template_that_does_not_fit_the_table_is_a_sentence():
    with pytest.raises(UnknownNameError, match=r"ask for 'passage'; the table has 'question'"):
        made(QUESTION, templates="{passage}\n{question}\n{options}")
    with pytest.raises(InvalidInputError, match="row 1: passage must be text and not empty"):
        made({**QUESTION, "passage": "x"}, QUESTION, templates="{passage}\n{question}\n{options}")
    with pytest.raises(InvalidInputError, match="'own-1' does not show the options"):
        made(QUESTION, templates="{question}")
    text = "{question} {option_a} {option_b} {option_c}"
    four, two = ["tea", "rice", "ink", "salt"], ["tea", "rice"]
    with pytest.raises(InvalidInputError) as caught:
        made(QUESTION, {**QUESTION, "options": two}, {**QUESTION, "options": four}, templates=text)
    assert "row 1: template 'own-1' shows option_c, of 2 options" in str(caught.value)
    assert "row 2: template 'own-1' leaves option_d out" in str(caught.value)
    with pytest.raises(InvalidInputError, match="by their values, but question 'row 0' has 0 for"):
        made(QUESTION, templates=ct.Template("{question}{options}", labels="values"))
    with pytest.raises(InvalidInputError, match="templates is empty"):
        made(QUESTION, templates=[])
    with pytest.raises(InvalidInputError, match="its prompts are finished; leave templates out"):
        made(PROMPT, templates=LISTED)


def test_items_that_have_no_right_option_are_named():
    items = [
        ct.Item(name, ("a", "b"), answer) for name, answer in zip("abc", [2, 0, -1], strict=True)
    ]
    with pytest.raises(InvalidInputError, match=r"2 of 3 items \(items 0, 2\) have no right"):
        ct.rows_of(items, [LISTED], benchmark="own")
    long = ct.Item("long", tuple(map(str, range(27))), 0, fields={"question": "?"})
    with pytest.raises(InvalidInputError, match=r"\(items 0\) have no right option among 1 to 26"):
        ct.rows_of([long], [LISTED], benchmark="own")
    values = ct.Item("short", ("a", "b"), 0, fields={"question": "?"}, values=("0",))
    with pytest.raises(InvalidInputError, match="'short' has 1 for 2 options"):
        ct.rows_of([values], [ct.Template("{question}", labels="values")], benchmark="own")


# ---------------------------------------------------------------- any table


odd_texts = st.sampled_from(
    ["", " ", "\n", "\x00", "\x1b[0m", "\ud800", "\u202eab", "\u2028", "茶", "چای", "A", "b", "2"]
)
texts = odd_texts | st.text(max_size=4) | st.text(st.characters(categories=["Cs"]), max_size=2)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.just(pd.NA),
    st.just(pd.NaT),
    st.just(np.array([1, 2])),
    st.just(np.array("x")),
    st.just(b"tea"),
    st.just(np.float32(2)),
)
cells = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)
finished_names = (*PROMPT, "culture", "reply_prefix", "question")
asked_names = ("question", "options", "option_a", "option_b", "option_d", "answer", "culture", "id")
column_names = st.one_of(
    st.sampled_from(finished_names), st.sampled_from(asked_names), st.none(), st.integers(), texts
)


@st.composite
def junk_frames(draw):
    """Frames of any cells under any names: missing, repeated, of several levels, without rows."""
    start = draw(st.sampled_from([[], list(PROMPT), list(QUESTION), ["question", "answer"]]))
    names = start + draw(st.lists(column_names, max_size=3))
    n_rows = draw(st.integers(0, 3))
    lines = [[draw(cells) for _ in names] for _ in range(n_rows)]
    frame = pd.DataFrame(lines, columns=pd.Index(names, dtype=object), dtype=object)
    if names and draw(st.integers(0, 9)) == 0:
        frame.columns = pd.MultiIndex.from_product([[0], range(len(names))])
    return frame


def used_or_refused(source, n_rows=None):
    """What comes of a table; all that may be raised is an error of this package."""
    try:
        rows = ct.questions_from_frame(source)
    except CulnigError as error:
        sentence = str(error)
    else:
        assert n_rows is None or len(rows) in (n_rows, 4 * n_rows)
        assert all(row["id"] and row["prompt"] for row in rows.to_list())
        assert all(row["answer"] in row["options"] for row in rows.to_list())
        return
    assert sentence.encode(), "a sentence that can be printed"


@few
@given(junk_frames())
def test_whatever_a_frame_holds_is_used_or_refused_in_a_sentence(frame):
    used_or_refused(frame, len(frame))


def is_gap(fault, optional):
    """Whether a column that may be empty is emptied."""
    name, cell = fault
    return name in optional and (cell is None or cell != cell)  # NaN alone differs from itself


@pytest.mark.parametrize(
    "good",
    [{**PROMPT, "culture": "Iran", "reply_prefix": "x", "question": "tea?"}, QUESTION],
    ids=["prompt", "question"],
)
@few
@given(data=st.data())
def test_a_spoiled_row_is_refused_by_its_number_and_no_other(good, data):
    kinds = st.sampled_from([None, False, True, 0, -3, 0.5, float("nan"), b"tea", "\ud800", {}])
    spoiled = data.draw(
        st.lists(
            st.none() | st.tuples(st.sampled_from(sorted(good)), kinds), min_size=1, max_size=5
        )
    )
    optional = {"culture", "reply_prefix"} | ({"question"} if "prompt" in good else set())
    records = [
        good if fault is None or is_gap(fault, optional) else {**good, fault[0]: fault[1]}
        for fault in spoiled
    ]
    bad = [number for number, record in enumerate(records) if record is not good]
    if not bad:
        assert len(made(*records)) in (len(records), 4 * len(records))
        return
    with pytest.raises(InvalidInputError) as caught:
        made(*records)
    for number in range(len(records)):
        assert (f"row {number}: " in str(caught.value)) == (number in bad), records


words = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=8
).filter(str.strip)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@st.composite
def good_questions(draw):
    """A question, its options, the right one, and an answer that can mean only that one."""
    options = draw(st.lists(words, min_size=2, max_size=6, unique_by=str.strip))
    right = draw(st.integers(0, len(options) - 1))
    spellings = [
        {ascii_uppercase[i], ascii_lowercase[i], str(i + 1), text} for i, text in enumerate(options)
    ]
    of_others = set().union(*(spellings[i] for i in range(len(options)) if i != right))
    clear = sorted(spellings[right] - of_others)
    assume(clear)
    return {
        "question": draw(words),
        "options": options,
        "right": options[right],
        "answer": draw(st.sampled_from(clear)),
        "culture": draw(names),
        "topic": draw(names),
    }


def by_columns(records):
    """The same rows with one column an option."""
    return [
        {key: cell for key, cell in record.items() if key != "options"}
        | {f"option_{ascii_lowercase[i]}": text for i, text in enumerate(record["options"])}
        for record in records
    ]


def check(rows, records):
    """Every question once a wording, its label at the right text, and a control without it."""
    assert len(rows) == len(TEMPLATES) * len(records)
    control = ct.control_of(rows)
    for number, (row, bare) in enumerate(zip(rows.to_list(), control.to_list(), strict=True)):
        record = records[number % len(records)]
        assert row["id"] == f"row {number % len(records)}"
        assert (row["culture"], row["topic"]) == (record["culture"], record["topic"])
        assert f"\n{row['answer']}. {record['right']}\n" in row["prompt"]
        assert record["question"] in row["prompt"]
        assert len(bare["prompt"]) < len(row["prompt"])
        assert bare["answer"] == row["answer"]
        assert all(f". {text}\n" in bare["prompt"] for text in record["options"])


@few
@given(st.lists(good_questions(), min_size=1, max_size=4))
def test_any_table_of_good_questions_keeps_what_it_says(records):
    check(made(*records), records)
    same_number = [
        record for record in records if len(record["options"]) == len(records[0]["options"])
    ]
    check(made(*by_columns(same_number)), same_number)


# ---------------------------------------------------------------- any file


SUFFIXES = ("csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "json.gz", "jsonl.gz")
HEADS = (
    b"",
    b"id,prompt,options,answer\n",
    b"question,option_a,option_b,answer\n",
    b"question\toptions\tanswer\n",
    b'[{"question": ',
    b'{"id": "q", "prompt": "p", "options": ["A"], "answer": "A"}\n',
    b"\xef\xbb\xbf",
    b"PAR1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@few
@given(
    suffix=st.sampled_from(SUFFIXES),
    head=st.sampled_from(HEADS),
    tail=st.binary(max_size=30) | st.text('{}[]",:\n\r\t 1a\\', max_size=20).map(str.encode),
    packed=st.booleans(),
)
def test_whatever_bytes_a_file_holds_they_are_used_or_refused(folder, suffix, head, tail, packed):
    path = folder / f"bytes.{suffix}"
    content = head + tail
    path.write_bytes(
        gzip.compress(content)[: None if packed else -9] if suffix[-2:] == "gz" else content
    )
    used_or_refused(path)


json_cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(asked_names), inner)
    ),
    max_leaves=6,
)


@few
@given(content=json_cells, lines=st.booleans())
def test_whatever_json_a_file_holds_is_used_or_refused(folder, content, lines):
    path = folder / ("any.jsonl" if lines else "any.json")
    listed = content if lines and isinstance(content, list) else [content]
    path.write_text("\n".join(map(json.dumps, listed)))
    used_or_refused(path)


@few
@given(
    st.lists(good_questions(), min_size=1, max_size=3),
    st.sampled_from(["csv", "json", "jsonl", "parquet"]),
)
def test_a_file_of_good_questions_keeps_what_it_says(folder, records, kind):
    check(ct.questions_from_frame(written(folder, kind, records)), records)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("question,option_a,option_b,answer\na,b,c,A,one more\n", "Expected 4 fields"),
        ("question,option_a,option_b,answer,answer\na,b,c,A,B\n", "several columns 'answer'"),
        ("question,option_a,option_b,answer\na,b\n", "row 0: option B must be text and not empty"),
    ],
)
def test_a_csv_whose_lines_do_not_fit_its_names_is_a_sentence(tmp_path, lines, fault):
    path = tmp_path / "rows.csv"
    path.write_text(lines)
    with pytest.raises(InvalidInputError, match=fault):
        ct.questions_from_frame(path)


def test_a_csv_with_empty_columns_beside_the_table_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(",question,option_a,option_b,answer,,\n0,Drink?,ink,tea,B,,\n")
    (row,) = ct.questions_from_frame(path, templates=LISTED).to_list()
    assert shown(row)[row["answer"]] == "tea"


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_brackets_without_end_are_a_sentence(tmp_path, kind):
    deep = "[" * 100_000
    path = tmp_path / f"deep.{kind}"
    if kind == "csv":
        pd.DataFrame([{**QUESTION, "options": deep}]).to_csv(path)
    else:
        path.write_text(deep)
    fault = "row 0: options must be a list" if kind == "csv" else f"cannot be read as {kind}"
    with pytest.raises(InvalidInputError, match=fault):
        ct.questions_from_frame(path)
