"""Written answers are those of plain greedy decoding; they are matched word by word."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.generation import generate
from culnig_tl.evaluation.open_answers import LANGUAGES, lemmas, matched_answer
from culnig_tl.hooks import last_logits

ANNOTATIONS = Path(__file__).parents[2] / "shared" / "data" / "blend" / "annotations"
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
        found = generate(either, TEXTS, max_new_tokens=8, token_budget=token_budget)
        expected = [slowly(either, text, 8) for text in TEXTS]
    assert found == [either.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]


def test_scaling_reaches_generated_tokens(model):
    """With neurons off while decoding only, the reply is another one than with them on."""
    plain = generate(model, TEXTS, max_new_tokens=8)
    with ct.scaled_neurons(model, NEURONS, factor=0.0):
        assert generate(model, TEXTS, max_new_tokens=8) != plain


def test_a_text_that_does_not_fit_is_a_sentence(model):
    with pytest.raises(InvalidInputError, match=r"context is 64"):
        generate(model, ["tea " * 60], max_new_tokens=8)
    with pytest.raises(InvalidInputError, match=r"token_budget is 5"):
        generate(model, TEXTS, max_new_tokens=8, token_budget=5)


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
    said = generate(model, TEXTS, max_new_tokens=6)
    asked[2]["answers"] = ["no such thing", said[2]]
    frame = ct.evaluate_open(model, asked, max_new_tokens=6)
    assert frame["prediction"].tolist() == said
    assert frame["correct"].tolist() == [
        bool(matched_answer(text, row["answers"], "en"))
        for text, row in zip(said, asked, strict=True)
    ]
    off = ct.evaluate_open(model, asked, neurons=NEURONS, max_new_tokens=6)
    with ct.scaled_neurons(model, NEURONS, factor=0.0):
        assert off["prediction"].tolist() == generate(model, TEXTS, max_new_tokens=6)


def test_faulty_rows_are_listed(model):
    good = {"id": "q", "prompt": "?", "answers": ["a"], "culture": "UK", "language": "en"}
    bad = [good, {**good, "answers": "a"}, {"id": "q"}]
    with pytest.raises(InvalidInputError, match=r"row 2: no prompt.*row 1: answers must be a list"):
        ct.evaluate_open(model, bad)
    with pytest.raises(InvalidInputError, match="no rows"):
        ct.evaluate_open(model, [])


def annotated() -> dict[str, dict[str, list[str]]]:
    """Answers by question and culture: BLEnD's where it is here, else two made-up questions."""
    if not ANNOTATIONS.is_dir():
        print(f"{ANNOTATIONS} is not here; made-up answers are used")
        return {"UK": {"q1": ["cake", "a cup of tea"]}, "Iran": {"q2": ["میوه", "تخم‌مرغ"]}}
    names = {"US": "USA", "Northern_Nigeria": "Nigeria"}
    return {
        names.get(stem, stem.replace("_", " ")): {
            question: [text for each in entry["annotations"] for text in each["answers"]]
            for question, entry in json.loads(path.read_text(encoding="utf-8")).items()
        }
        for path in sorted(ANNOTATIONS.glob("*_data.json"))
        for stem in [path.stem.removesuffix("_data")]
    }


def test_annotators_answers_match_themselves_in_every_language():
    """The first answer of 25 questions a culture, said in a sentence of its own, is found."""
    for culture, answers in annotated().items():
        language = LANGUAGES[culture]
        given_answers = [texts[0] for texts in answers.values() if texts][:25]
        found = [bool(matched_answer(f"« {text} ».", [text], language)) for text in given_answers]
        assert found.count(True) == len(given_answers) > 0, culture
