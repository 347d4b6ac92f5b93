"""Written answers are those of plain greedy decoding; they are matched word by word."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence

import pandas as pd
import pytest
import torch
from benchmark_files import PLACES, SHARED, blend_annotations, write_blend
from hypothesis import given
from hypothesis import strategies as st

import culnig_tl as ct
from culnig_tl.benchmarks import blend_open
from culnig_tl.benchmarks.blend import IDENTIFY_TOPICS, TEST_TOPICS
from culnig_tl.benchmarks.blend_open import LANGUAGES
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import greedy_replies, open_answers
from culnig_tl.evaluation.open_answers import lemmas, matched_answer
from culnig_tl.logits import last_logits
from culnig_tl.questions import Split

TEXTS = ["Which drink?", "bread soup tea rice drink? Answer:", "A", "Drink? tea"]
NEURONS = ct.NeuronSet.of(
    {"mlp.hook_post": [(0, k) for k in range(0, 64, 2)], "attn.hook_v": [(1, 3)]}
)


def slowly(model, text: str, n_new: int) -> list[int]:
    """Greedy decoding of one prompt without padding and without a cache."""
    ids = model.tokenizer(text)["input_ids"]
    written = []
    for _ in range(n_new):
        tokens = torch.tensor([ids + written])
        with torch.no_grad():
            token = int(last_logits(model, tokens, torch.ones_like(tokens).bool()).argmax())
        if token == model.tokenizer.eos_token_id:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("factor", [None, 0.0, 2.0])
@pytest.mark.parametrize("token_budget", [60, 8192])
def test_batched_cached_decoding_is_slow_decoding(either, factor, token_budget):
    """Whatever shares a batch, and with neurons scaled on the prompt and on each new token."""
    neurons = ct.NeuronSet.of({}) if factor is None else NEURONS
    with ct.scaled_neurons(either, neurons, factor=factor or 0.0):
        found = greedy_replies(either, TEXTS, max_new_tokens=8, token_budget=token_budget)
        expected = [slowly(either, text, 8) for text in TEXTS]
    assert found == [either.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]


def test_scaling_reaches_generated_tokens(model):
    """With neurons off while decoding only, the reply is another one than with them on."""
    plain = greedy_replies(model, TEXTS, max_new_tokens=8)
    with ct.scaled_neurons(model, NEURONS, factor=0.0):
        assert greedy_replies(model, TEXTS, max_new_tokens=8) != plain


def test_a_text_that_does_not_fit_is_a_sentence(model):
    with pytest.raises(InvalidInputError, match=r"context is 64"):
        greedy_replies(model, ["tea " * 60], max_new_tokens=8)
    with pytest.raises(InvalidInputError, match=r"token_budget is 5"):
        greedy_replies(model, TEXTS, max_new_tokens=8, token_budget=5)


@pytest.mark.parametrize(
    ("said", "answer", "language"),
    [
        ("They mostly eat CAKES!", "cake", "en"),
        ("children's party", "child", "en"),
        ("Las comidas típicas", "comida típica", "es"),
        ("τα παιδιά", "παιδί", "el"),
        ("میوه‌ها", "ميوه", "fa"),
        ("人们吃饺子。", "饺子", "zh"),
        ("김치를 먹는다", "김치", "ko"),
        ("fancy ｆｕｌｌｗｉｄｔｈ", "fullwidth", "ha"),
    ],
)
def test_an_answer_is_found_in_what_was_said(said, answer, language):
    assert matched_answer(said, ["nothing like it", answer], language) == answer


@pytest.mark.parametrize(
    ("said", "answer", "language"),
    [
        ("pineapple", "apple", "en"),
        ("red and green tea", "red tea", "en"),
        ("", "tea", "en"),
        ("tea", "...", "en"),
        ("饺", "饺子", "zh"),
    ],
)
def test_an_answer_that_was_not_said_is_not_found(said, answer, language):
    assert matched_answer(said, [answer], language) == ""


@given(st.text(max_size=20), st.sampled_from(sorted(set(LANGUAGES.values()))))
def test_every_text_holds_itself_and_its_shouted_form(text, language):
    if lemmas(text, language):
        assert matched_answer(text, [text], language) == text
        assert matched_answer(f"({text}), ", [text], language) == text


def test_open_answers_hold_what_was_generated(model, rows):
    asked = [
        {"id": f"q{i}", "prompt": text, "answers": ["tea", "rice"], "culture": "UK"}
        | {"language": "en"}
        for i, text in enumerate(TEXTS)
    ]
    said = greedy_replies(model, TEXTS, max_new_tokens=6)
    asked[2]["answers"] = ["no such thing", said[2]]
    frame = ct.evaluate_open(model, asked, max_new_tokens=6)
    assert frame["prediction"].tolist() == said
    assert frame["correct"].tolist() == [
        bool(matched_answer(text, row["answers"], "en"))
        for text, row in zip(said, asked, strict=True)
    ]
    off = ct.evaluate_open(model, asked, neurons=NEURONS, max_new_tokens=6)
    with ct.scaled_neurons(model, NEURONS, factor=0.0):
        assert off["prediction"].tolist() == greedy_replies(model, TEXTS, max_new_tokens=6)


def test_faulty_rows_are_listed(model):
    good = {"id": "q", "prompt": "?", "answers": ["a"], "culture": "UK", "language": "en"}
    bad = [good, {**good, "answers": "a"}, {"id": "q"}]
    with pytest.raises(InvalidInputError, match=r"row 2: no prompt.*row 1: answers must be a list"):
        ct.evaluate_open(model, bad)
    with pytest.raises(InvalidInputError, match="no rows"):
        ct.evaluate_open(model, [])


@pytest.fixture(scope="module", params=PLACES)
def annotated(request, tmp_path_factory):
    """BLEnD's questions with annotators' answers, and whether they are the real ones."""
    real = request.param == "shared"
    folder = SHARED / "blend" if real else write_blend(tmp_path_factory.mktemp("open") / "blend")
    return ct.load_benchmark("blend-open", split="all", data_dir=folder), real, folder


def test_every_answered_question_of_each_culture_is_asked_in_its_language(annotated):
    rows, real, folder = annotated
    assert rows.features == blend_open.FEATURES
    assert {r["culture"]: r["language"] for r in rows.to_list()}.items() <= LANGUAGES.items()
    for row in rows.to_list():
        assert row["question"] in row["prompt"]
        assert row["answers"]
        assert all(text.strip() for text in row["answers"])
    counts = Counter(rows["culture"])
    (left_out,) = map(int, re.findall(r"; (\d+) questions without text", rows.info.description))
    if not real:
        assert counts == {"Iran": 2, "Nigeria": 1, "South Korea": 1, "USA": 1}
        assert left_out == 2
        assert rows[0]["answers"] == ["میوه", "ميوه", "نان"]
        assert rows.to_list()[-1]["answers"] == ["cookie", "apple pie", "pie"]
        return
    unanswered = {"Algeria": 41, "Assam": 9, "China": 6, "USA": 5, "West Java": 35, "Nigeria": 36}
    assert {name: 500 - counts[name] for name in unanswered} == {**unanswered, "China": 7}
    assert len(counts) == 16
    assert len(rows) + left_out == 8000
    given = json.loads((folder / "annotations" / "Ethiopia_data.json").read_text(encoding="utf-8"))
    for row in rows.filter(lambda row: row["culture"] == "Ethiopia").to_list()[:50]:
        texts = [text for group in given[row["id"]]["annotations"] for text in group["answers"]]
        assert row["answers"] == list(dict.fromkeys(texts))


def test_halves_are_those_of_the_multiple_choice_questions(annotated):
    rows, real, folder = annotated
    halves: dict[Split, Sequence[str]] = {"test": TEST_TOPICS}
    if not real:  # the real files take long, and one half of them is enough
        halves["identify"] = IDENTIFY_TOPICS
    for split, topics in halves.items():
        found = ct.load_benchmark("blend-open", split=split, data_dir=folder)
        assert found.to_list() == [r for r in rows.to_list() if r["topic"] in topics]


def test_the_hub_s_layouts_are_read_too(tmp_path):
    """A list of objects with ID in one file, a parquet file in the folder of a country code."""
    folder = write_blend(tmp_path / "blend")
    rows = ct.load_benchmark("blend-open", split="all", data_dir=folder)
    lists, parquet = tmp_path / "lists", tmp_path / "parquet"
    (lists / "annotations_hf").mkdir(parents=True)
    codes = {"Iran": "IR", "Northern_Nigeria": "NG", "South_Korea": "KR", "US": "US"}
    for country, entries in blend_annotations().items():
        listed = [{"ID": name, **entry} for name, entry in entries.items()]
        (lists / "annotations_hf" / f"{country}_data.json").write_text(json.dumps(listed))
        place = parquet / "annotations" / codes[country]
        place.mkdir(parents=True)
        pd.DataFrame(listed).to_parquet(place / "0000.parquet")
    for there in (lists, parquet):
        shutil.copytree(folder / "questions", there / "questions")
        found = ct.load_benchmark("blend-open", split="all", data_dir=there)
        assert sorted(found.to_list(), key=str) == sorted(rows.to_list(), key=str)


def test_evaluating_written_answers_is_one_line_and_what_counts_is_the_answer(
    annotated, monkeypatch
):
    """Each reply here is put together by hand: the last answer of its row, or another row's."""
    rows, _, _ = annotated
    asked = rows.select(range(0, len(rows), max(1, len(rows) // 60)))
    replies = [
        "?!" if number % 3 == 0 else f"« {row['answers'][-1].upper()} »."
        for number, row in enumerate(asked.to_list())
    ]
    prompts = []

    def written(model, texts, **options):
        prompts.extend(texts)
        return replies

    monkeypatch.setattr(open_answers, "greedy_replies", written)
    frame = ct.evaluate_open(ct.load_model(), asked)
    assert prompts == asked["prompt"][:]
    assert frame["correct"].tolist() == [number % 3 > 0 for number in range(len(asked))]
    assert frame[["id", "topic", "template"]].to_numpy().tolist() == [
        [row["id"], row["topic"], "open-1"] for row in asked.to_list()
    ]


def test_the_embedded_model_answers_open_questions(tmp_path):
    """It writes no sentence; every stage from the files to the table runs."""
    rows = ct.load_benchmark(
        "blend-open", split="test", data_dir=write_blend(tmp_path / "blend"), cultures=["Iran"]
    )
    frame = ct.evaluate_open(ct.load_model(), rows, max_new_tokens=3)
    assert frame["id"].tolist() == ["Al-en-03"]
    assert isinstance(frame["prediction"][0], str)
    words = ct.load_benchmark(
        "blend-open",
        split="all",
        data_dir=tmp_path / "blend",
        templates=["{en_question} In {country}: {question}"],
    )
    assert words["prompt"][0] == "- In Iran: صبح چه می‌خورند؟"


def test_multiple_choice_and_written_answers_are_not_mixed_up(tmp_path):
    rows = ct.load_benchmark("blend-open", split="all", data_dir=write_blend(tmp_path / "blend"))
    with pytest.raises(InvalidInputError, match="no options, answer"):
        ct.evaluate(ct.load_model(), rows)


def test_annotators_answers_match_themselves_in_every_language(annotated):
    """The first answer of 25 questions a culture, said in a sentence of its own, is found."""
    by_culture = annotated[0].to_pandas().groupby("culture")
    for culture, group in by_culture:
        language = LANGUAGES[culture]
        texts = [answers[0] for answers in group["answers"]][:25]
        found = [bool(matched_answer(f"« {text} ».", [text], language)) for text in texts]
        assert found.count(True) == len(texts) > 0, culture
