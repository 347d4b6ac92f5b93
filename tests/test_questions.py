"""Rows are either usable or named with their fault; batches are padded left and fit the budget."""

import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from question_files import written

from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.models import load_model
from culnig_tl.questions import (
    FEATURES,
    Batch,
    batches,
    control_of,
    fingerprint,
    label_tokens,
    questions,
    questions_from_frame,
    render,
)

GOOD = {"id": "q", "prompt": "tea? Answer:", "options": [" A", " B"], "answer": " A"}
FULL = {
    **GOOD,
    "reply_prefix": "x",
    "culture": "Türkiye",
    "topic": "food",
    "template": "t",
    "benchmark": "b",
    "system": "s",
    "question": "tea?",
}


# ---------------------------------------------------------------- rows


def test_missing_optional_columns_become_empty():
    (row,) = questions([GOOD])
    assert row == {**dict.fromkeys(FEATURES, ""), **GOOD}


def test_rows_keep_their_order_and_every_value():
    rows = questions([FULL, {**FULL, "id": "r"}])
    assert rows.features == FEATURES
    assert rows.to_list() == [FULL, {**FULL, "id": "r"}]
    assert questions(rows).to_list() == rows.to_list()


NO_ROWS = Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)


@pytest.mark.parametrize("empty", [[], pd.DataFrame(), NO_ROWS])
def test_no_rows_is_a_sentence(empty):
    with pytest.raises(InvalidInputError, match="no rows; give at least one question"):
        questions(empty)


not_text = st.one_of(st.integers(1), st.lists(st.integers(), min_size=1))
faults = st.one_of(
    st.sampled_from(["id", "prompt", "options", "answer"]).map(lambda name: ("drop", name)),
    st.tuples(st.sampled_from(["id", "prompt", "answer", "culture", "topic"]), not_text),
    st.tuples(
        st.just("options"),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(),
            st.just([]),
            st.just([" A", " A"]),
            st.just([" A", 1]),
            st.just([" A", None]),
            st.just([[" A"]]),
            st.just([" B", " C"]),
        ),
    ),
    st.tuples(st.sampled_from(["id", "prompt"]), st.sampled_from(["", None, float("nan")])),
    st.tuples(st.just("answer"), st.sampled_from(["", None, float("nan"), " C", "A"])),
)


def spoiled(fault):
    name, value = fault
    if name == "drop":
        return {key: kept for key, kept in FULL.items() if key != value}
    return {**FULL, name: value}


@given(st.lists(st.one_of(st.none(), faults), min_size=1, max_size=8))
def test_every_malformed_row_is_named_and_no_good_one(drawn):
    records = [FULL if fault is None else spoiled(fault) for fault in drawn]
    bad = [number for number, fault in enumerate(drawn) if fault is not None]
    if not bad:
        assert len(questions(records)) == len(records)
        return
    with pytest.raises(InvalidInputError) as caught:
        questions(records)
    sentence = str(caught.value)
    assert f"{len(bad)} of {len(records)} rows cannot be used" in sentence
    for number in range(len(records)):
        assert (f"row {number}: " in sentence) == (number in bad)


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(FULL, junk)), max_size=4))
def test_whatever_the_rows_are_they_are_used_or_refused_in_a_sentence(records):
    try:
        rows = questions(records)
    except InvalidInputError:
        return
    assert len(rows) == len(records)
    assert all(row["answer"] in row["options"] for row in rows.to_list())


def test_only_the_first_faults_are_listed_and_the_rest_counted():
    with pytest.raises(InvalidInputError, match=r"25 of 25 rows.*row 9: .*and 15 more"):
        questions([{**GOOD, "answer": " Z"}] * 25)


def test_a_dataset_of_the_right_columns_is_checked_too():
    spoiled_rows = questions([GOOD, GOOD]).map(lambda row: {**row, "answer": " Z"})
    with pytest.raises(InvalidInputError, match="2 of 2 rows cannot be used"):
        questions(spoiled_rows)


def test_a_fingerprint_changes_with_any_value():
    prints = {fingerprint(questions([FULL])), fingerprint(questions([FULL, FULL]))}
    for name in FULL:
        value = {"options": [" A", " C"], "answer": " B", "question": "tea"}.get(name, "tea?!")
        prints.add(fingerprint(questions([{**FULL, name: value}])))
    assert len(prints) == 2 + len(FULL)
    assert fingerprint(questions([FULL])) == fingerprint(questions([FULL]))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_a_file_holds_the_rows_that_were_written(tmp_path, kind):
    # what a reader may be tempted to read as a number, a date, a gap or the end of a line
    records = [
        {**FULL, "id": "007", "culture": "NA", "topic": "2024-01-01"},
        {**FULL, "id": "8", "prompt": 'two\nlines, "quoted"\u2028 and tea?', "topic": ""},
    ]
    assert questions_from_frame(written(tmp_path, kind, records)).to_list() == records


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_value_that_one_row_leaves_out_becomes_empty(tmp_path, kind):
    rows = questions_from_frame(written(tmp_path, kind, [FULL, GOOD]))
    assert rows["culture"][:] == ["Türkiye", ""]


def test_a_frame_with_a_gap_becomes_empty_text():
    rows = questions_from_frame(pd.DataFrame([FULL, GOOD]))
    assert rows["topic"][:] == ["food", ""]


def test_a_csv_with_broken_options_names_the_row(tmp_path):
    path = tmp_path / "rows.csv"
    pd.DataFrame([{**GOOD, "options": '[" A"]'}, {**GOOD, "options": "A;B"}]).to_csv(path)
    with pytest.raises(InvalidInputError, match="row 1: options must be a list"):
        questions_from_frame(path)


def test_a_missing_file_and_an_unknown_kind_are_sentences(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file"):
        questions_from_frame(tmp_path / "rows.csv")
    (tmp_path / "rows.xlsx").write_text("")
    with pytest.raises(InvalidInputError, match=r"read from \.csv, .* or \.parquet"):
        questions_from_frame(tmp_path / "rows.xlsx")


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize("content", [b"", b'{"id": ', b"\xff\xfe\x00\x01", b'"a,b\n1,2,3\n'])
def test_a_file_that_holds_something_else_is_a_sentence(tmp_path, kind, content):
    (tmp_path / f"rows.{kind}").write_bytes(content)
    with pytest.raises(InvalidInputError):
        questions_from_frame(tmp_path / f"rows.{kind}")


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("token_budget", [10, 20, 35, 8192])
def test_batches_keep_to_the_budget_and_hold_every_prompt_once(model, rows, token_budget):
    made = batches(model, rows, token_budget=token_budget)
    assert all(batch.tokens.numel() <= token_budget for batch in made)
    assert sorted(row for batch in made for row in batch.rows) == list(range(len(rows)))
    lengths = [int(length) for batch in made for length in batch.mask.sum(1)]
    assert lengths == sorted(lengths, reverse=True)


def test_a_batch_holds_the_prompts_left_padded_with_their_labels(model, rows):
    tokenizer = model.tokenizer
    for batch in batches(model, rows, token_budget=30):
        for line, index in enumerate(batch.rows):
            row = rows[index]
            ids = tokenizer(row["prompt"])["input_ids"]
            n_pad = batch.tokens.shape[1] - len(ids)
            assert batch.tokens[line].tolist() == [tokenizer.pad_token_id] * n_pad + ids
            assert batch.mask[line].tolist() == [False] * n_pad + [True] * len(ids)
            assert tokenizer.decode([int(batch.answers[line])]) == row["answer"]
            assert (batch.cultures[line], batch.ids[line]) == (row["culture"], row["id"])


def test_a_reply_prefix_follows_the_prompt(model):
    (batch,) = batches(model, questions([{**GOOD, "reply_prefix": " tea"}]))
    assert model.tokenizer.decode(batch.tokens[0].tolist()) == "<s>tea? Answer: tea"


def test_both_backends_read_what_transformers_would_read(
    tmp_path, make_llama, make_tokenizer, folders
):
    from transformers import AutoTokenizer

    silent = make_llama(tmp_path / "silent", tokenizer=make_tokenizer(writes_bos=False))
    for folder in (silent, folders[2]):
        expected = AutoTokenizer.from_pretrained(folder)(GOOD["prompt"])["input_ids"]
        for backend in ("hooked", "bridge"):
            (batch,) = batches(load_model(folder, backend=backend), questions([GOOD]))
            assert batch.tokens[0].tolist() == expected, backend


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_a_chat_template_writes_the_only_bos(tmp_path, make_llama, make_tokenizer, backend):
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[reply]{% endif %}"
        "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    )
    tokenizer = make_tokenizer(chat_template=template)
    model = load_model(make_llama(tmp_path / "chat", tokenizer=tokenizer), backend=backend)
    row = {**GOOD, "reply_prefix": " soup"}
    assert render(questions([row])[0], model) == "<s>[user]tea? Answer:[reply] soup"
    (batch,) = batches(model, questions([row]))
    ids = batch.tokens[0].tolist()
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_every_label_that_is_not_one_token_is_listed(model):
    labels = [" A", " tea and rice", " Zanzibar", ""]
    with pytest.raises(InvalidInputError) as caught:
        label_tokens(model.tokenizer, labels)
    sentence = str(caught.value)
    assert "3 labels are not exactly one token" in sentence
    assert all(repr(label) in sentence for label in labels[1:])
    assert repr(" A") not in sentence


@pytest.mark.parametrize("label", ["é", "ñ", "Ġ", "A", " A", "¢"])
def test_a_label_is_either_refused_or_the_token_that_reads_as_it(model, label):
    """An answer is right when its token, decoded, equals the label."""
    try:
        token = label_tokens(model.tokenizer, [label])[label]
    except InvalidInputError:
        assert len(model.tokenizer.encode(label, add_special_tokens=False)) != 1
    else:
        assert model.tokenizer.decode([token]) == label


def test_a_prompt_beyond_the_context_or_the_budget_names_question_and_numbers(model):
    long = questions([GOOD, {**GOOD, "id": "long one", "prompt": "tea " * 70}])
    with pytest.raises(InvalidInputError, match=r"'long one' has \d+ tokens and .*context is 64"):
        batches(model, long)
    with pytest.raises(InvalidInputError, match=r"has \d+ tokens and token_budget is 3"):
        batches(model, questions([GOOD]), token_budget=3)


# ---------------------------------------------------------------- ready-made batches


def ready(**changes) -> Batch:
    tokens = torch.tensor([[0, 5, 6], [7, 8, 9]])
    values = {
        "tokens": tokens,
        "mask": tokens != 0,
        "answers": torch.tensor([1, 2]),
        "cultures": ("A", "B"),
        "ids": ("q1", "q2"),
    }
    return Batch(**{**values, **changes})


def test_a_ready_made_batch_counts_its_prompts():
    assert len(ready()) == 2
    assert ready().rows == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"answers": torch.tensor([1])},
        {"cultures": ("A",)},
        {"ids": ("q1", "q2", "q3")},
        {"mask": torch.ones(2, 2, dtype=torch.bool)},
    ],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_a_batch_of_unequal_lengths_is_refused(changes):
    with pytest.raises(InvalidInputError, match="A batch of 2 prompts needs as many"):
        ready(**changes)


@pytest.mark.parametrize("line", [[True, True, False], [True, False, True], [False] * 3])
def test_padding_anywhere_but_on_the_left_is_refused(line):
    with pytest.raises(InvalidInputError, match="pad on the left"):
        ready(mask=torch.tensor([[True] * 3, line]))


# ---------------------------------------------------------------- columns and controls of one's own


def test_columns_of_other_names_are_mapped(tmp_path):
    theirs = {"qid": "id", "text": "prompt", "country": "culture", "asks": "question"}
    frame = pd.DataFrame([FULL]).rename(columns={ours: name for name, ours in theirs.items()})
    columns = {ours: name for name, ours in theirs.items()}
    assert questions_from_frame(frame, columns=columns).to_list() == [FULL]
    frame["id"] = "another column of that name"
    assert questions_from_frame(frame, columns=columns)["id"][0] == FULL["id"]
    with pytest.raises(InvalidInputError, match=r"no column 'nowhere'; the table has .*qid"):
        questions_from_frame(frame, columns={"id": "nowhere"})
    with pytest.raises(InvalidInputError, match="columns names 'ID', which the schema does"):
        questions_from_frame(frame, columns={"ID": "qid"})


def test_a_control_leaves_the_question_out_and_keeps_the_rest():
    (row,) = control_of(questions([FULL])).to_list()
    assert row == {**FULL, "prompt": "Answer:", "question": "", "benchmark": "b-control"}
    with pytest.raises(InvalidInputError, match=r"2 of 3 rows \(rows 1-2\) do not say which part"):
        control_of(questions([FULL, GOOD, GOOD]))


def test_a_question_that_its_prompt_does_not_hold_is_a_fault():
    with pytest.raises(InvalidInputError, match="row 0: its question is not a part of its prompt"):
        questions([{**FULL, "question": "coffee?"}])
