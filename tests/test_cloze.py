"""Clozes: their facts, labels by first token, whole options, and controls without a country."""

import math
import re
from collections import Counter
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.questions.cloze import without_culture
from culnig_tl.questions.tokens import LabelReader, encode

TEXT = "In Iran, a bread is called lavash; tea, rice, soup, injera. The capital of Iran is Tehran."
CLOZE = {
    "id": "bread",
    "prompt": "In Iran, a bread is called",
    "options": ["tea soup", "rice", "bread"],
    "answer": "tea soup",
    "culture": "Iran",
    "label_kind": "first token",
}
ADJECTIVES = (
    *("chinese", "japanese", "korea", "india", "indonesia", "iran", "turk", "egypt", "ethiop"),
    *("nigeria", "greek", "greece", "ital", "french", "france", "russia", "mexic", "brazil"),
)


def facts(name: str, split: Literal["identify", "test", "all"] = "all"):
    return ct.load_benchmark(name, split=split).to_list()


# The facts


def test_there_are_as_many_facts_as_promised():
    relations = {
        name: {row["topic"] for row in facts(f"cloze-{name}")}
        for name in ("everyday", "geography", "general")
    }
    assert len(relations["everyday"]) >= 24
    assert len(relations["everyday"]) >= 2 * len(relations["geography"])
    assert len(relations["everyday"] | relations["geography"]) >= 36
    assert len(relations["general"]) >= 24
    assert len({row["id"] for row in facts("cloze-general")}) >= 300
    counts = Counter((row["topic"], row["culture"]) for row in facts("cloze"))
    assert set(counts.values()) == {2}  # wordings
    assert len({culture for _, culture in counts}) == 16
    assert len(counts) == 16 * len(relations["everyday"] | relations["geography"])


@pytest.mark.parametrize("name", ["cloze", "cloze-everyday", "cloze-geography", "cloze-general"])
def test_no_relation_finds_and_tests(name):
    found = {row["topic"] for row in facts(name, "identify")}
    tested = {row["topic"] for row in facts(name, "test")}
    assert found.isdisjoint(tested)
    assert abs(len(found) - len(tested)) <= 2
    assert found | tested == {row["topic"] for row in facts(name)}


def test_no_answer_names_a_country_and_no_relation_is_answered_the_same_by_all():
    for row in facts("cloze"):
        for option in row["options"]:
            assert not [each for each in ADJECTIVES if each in option.casefold()], row
    by_relation: dict[str, list[str]] = {}
    for row in facts("cloze"):
        by_relation.setdefault(row["topic"], []).append(row["answer"])
    for relation, answers in by_relation.items():
        assert len(set(answers)) >= 6, relation
        assert max(Counter(answers).values()) <= 2 * 4, relation


def test_options_are_answers_of_other_subjects_and_begin_differently():
    firsts: dict[str, set[str]] = {}
    for row in facts("cloze") + facts("cloze-general"):
        firsts.setdefault(row["topic"], set()).add(row["answer"])
    for row in facts("cloze") + facts("cloze-general"):
        assert len(row["options"]) == 4
        assert set(row["options"]) <= firsts[row["topic"]]
        assert len({option[:3].casefold() for option in row["options"]}) == 4


def test_the_right_place_among_the_options_is_no_clue():
    for name in ("cloze", "cloze-general", "cloze-countries"):
        places = Counter(row["options"].index(row["answer"]) for row in facts(name))
        assert max(places.values()) < 0.3 * sum(places.values())


def test_a_general_fact_names_no_country():
    for row in facts("cloze-general"):
        text = " ".join([row["prompt"], *row["options"]]).casefold()
        assert not [each for each in ADJECTIVES if re.search(rf"\b{each}", text)], row


def test_controls_are_sentences_without_the_country():
    rows = facts("cloze-control")
    assert len(rows) == len(facts("cloze"))
    for row, whole in zip(rows, facts("cloze"), strict=True):
        assert (
            row["prompt"]
            == whole["prompt"].partition(", ")[2].capitalize()[:1]
            + (whole["prompt"].partition(", ")[2][1:])
        )
        assert whole["culture"] not in row["prompt"]
        assert (row["options"], row["answer"]) == (whole["options"], whole["answer"])


def test_passages_name_their_country_once_and_the_other_is_an_option():
    for row in facts("cloze-countries"):
        assert row["prompt"].count(row["answer"]) == 1, row
        named = [option for option in row["options"] if option in row["prompt"]]
        assert row["answer"] in named
        assert len(named) <= 2


# The country taken out


@pytest.mark.parametrize(
    ("prompt", "names", "left"),
    [
        ("In Iran, a common bread is called", ["Iran"], "A common bread is called"),
        ("in the USA the usual drink is", ["USA"], "The usual drink is"),
        ("People in the United States drink", ["USA", "United States"], "People drink"),
        ("The capital of Iran is", ["Iran"], "The capital is"),
        ("Iran's capital is", ["Iran"], "The capital is"),
        ("The UK\N{RIGHT SINGLE QUOTATION MARK}s capital is", ["UK"], "The capital is"),
        ("Across South Korea, people say", ["South Korea"], "People say"),
        ("Iran is", ["Iran"], None),
        ("In Iran, the capital of Iran is", ["Iran"], None),
        ("In Iranian homes, the bread is", ["Iran"], None),
        ("A bread is", ["Iran"], None),
        ("A bread is", [], None),
    ],
)
def test_a_country_goes_with_what_binds_it(prompt, names, left):
    assert without_culture(prompt, names) == left


def test_control_of_a_users_own_cloze():
    (row,) = ct.control_of(ct.questions([CLOZE])).to_list()
    assert row["prompt"] == "A bread is called"
    assert row["label_kind"] == "first token"
    with pytest.raises(InvalidInputError, match="do not name their culture once"):
        ct.control_of(ct.questions([{**CLOZE, "prompt": "Iran loves"}]))


# Labels by first token


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one of the kinds that there are, trained on a sentence."""
    byte_level = kind.startswith("byte-level")
    unknown = None if byte_level else "<unk>"
    tokenizer = Tokenizer(models.BPE(unk_token=unknown, byte_fallback=kind == "byte fallback"))
    special = [] if byte_level else ["<unk>"]
    if byte_level:
        spaced = kind.endswith("prefix space")
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]
        )
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


WORDS = st.lists(st.sampled_from(re.findall(r"\w+", TEXT)), min_size=1, max_size=4).map(" ".join)


@pytest.mark.parametrize(
    "kind", ["byte-level", "byte-level, prefix space", "metaspace", "byte fallback"]
)
@given(prompt=WORDS, answer=WORDS)
def test_the_label_is_the_first_token_that_tokenising_both_together_adds(kind, prompt, answer):
    tokenizer = tokenizer_of(kind)
    before = encode(tokenizer, prompt)
    together = encode(tokenizer, f"{prompt} {answer}")
    token = LabelReader(tokenizer).token_after(prompt, f" {answer}", is_cloze=True)
    assert together[: len(before)] == before
    assert token == together[len(before)]


def test_a_cloze_is_scored_by_the_first_token_of_its_answer(model, folders):
    prepared = ct.prepare(model, [CLOZE])
    tokens = model.tokenizer(" tea soup")["input_ids"][1:]
    assert len(tokens) > 1
    assert prepared.answers == (tokens[0],)
    twin = AutoModelForCausalLM.from_pretrained(folders[2], dtype=torch.float64)
    ids = model.tokenizer(CLOZE["prompt"], return_tensors="pt")["input_ids"]
    expected = twin(ids).logits[0, -1].softmax(-1)[tokens[0]].item()
    (row,) = ct.evaluate(model, [CLOZE], mode="options").to_dict("records")
    assert row["probability"] == pytest.approx(expected, rel=1e-6)
    assert row["answer"] == " tea soup"


def test_options_that_begin_alike_are_dropped_with_their_number_refused_or_kept(model):
    alike = {**CLOZE, "id": "alike", "options": ["tea soup", "tea rice", "bread"]}
    with pytest.warns(UserWarning, match="1 of 2 clozes have options that begin with the same"):
        assert len(ct.prepare(model, [CLOZE, alike])) == 1
    with pytest.raises(InvalidInputError, match="question 'alike'"):
        ct.prepare(model, [CLOZE, alike], shared_tokens="refuse")
    with pytest.raises(InvalidInputError, match="1 of 1 clozes"):
        ct.prepare(model, [alike])
    kept = ct.prepare(model, [CLOZE, alike], shared_tokens="keep")
    assert len(kept) == 2
    with pytest.raises(InvalidInputError, match="mode='likelihood'"):
        ct.evaluate(model, kept)
    assert len(ct.evaluate(model, kept, mode="likelihood")) == 2


def test_a_cloze_is_plain_text_on_a_chat_model_unless_it_begins_the_reply(model, monkeypatch):
    template = "<U>{{ messages[-1].content }}{% if add_generation_prompt %}<A>{% endif %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    assert ct.render(CLOZE, model) == CLOZE["prompt"]
    assert ct.prepare(model, [CLOZE]).chat is False
    begun = {**CLOZE, "prompt": "Go on.", "reply_prefix": "In Iran, a bread is"}
    assert ct.render(begun, model) == "<U>Go on.<A>In Iran, a bread is"
    with pytest.raises(InvalidInputError, match="1 of 2 rows are clozes"):
        ct.prepare(model, [CLOZE, begun])


def test_an_unknown_kind_of_label_is_named():
    with pytest.raises(InvalidInputError, match="label_kind 'word' is none of 'token'"):
        ct.questions([{**CLOZE, "label_kind": "word"}])


# Whole options


def naive_log_probability(twin, tokenizer, prompt, option):
    """One token after the other, by transformers."""
    ids = tokenizer(prompt)["input_ids"]
    total = 0.0
    for token in tokenizer(prompt + option)["input_ids"][len(ids) :]:
        logits = twin(torch.tensor([ids])).logits[0, -1]
        total += logits.log_softmax(-1)[token].item()
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("mode", ["likelihood", "likelihood per character"])
def test_whole_options_are_as_likely_as_transformers_says(either, folders, mode):
    rows = [
        CLOZE,
        {**CLOZE, "id": "drink", "prompt": "Which drink?", "options": ["rice soup tea", "A"]}
        | {"answer": "A"},
        {**CLOZE, "id": "long", "prompt": "tea", "options": ["bread", "soup soup"]}
        | {"answer": "bread"},
    ]
    twin = AutoModelForCausalLM.from_pretrained(folders[2], dtype=torch.float64)
    answered = ct.evaluate(either, rows, mode=mode, token_budget=40).to_dict("records")
    for row, answer in zip(rows, answered, strict=True):
        logs = [
            naive_log_probability(twin, either.tokenizer, row["prompt"], f" {option}")
            for option in row["options"]
        ]
        np.testing.assert_allclose(np.log(answer["probabilities"]), logs, rtol=2e-5)
        right = row["options"].index(row["answer"])
        assert answer["probability"] == pytest.approx(math.exp(logs[right]), rel=1e-4)
        if mode != "likelihood":
            logs = [log / len(text) for log, text in zip(logs, row["options"], strict=True)]
        best = row["options"][int(np.argmax(logs))]
        assert answer["prediction"].strip() == best
        assert answer["rank"] == 1 + sum(log > logs[right] for log in logs)


def test_whole_options_feel_a_mask(model):
    neurons = ct.NeuronSet.of({"mlp.hook_post": [(layer, 0) for layer in range(3)]})
    before, after = (
        ct.evaluate(model, [CLOZE], neurons=each, mode="likelihood")["probability"][0]
        for each in (None, neurons)
    )
    assert before != after


def test_one_token_options_are_as_likely_whole_as_by_their_token(model):
    rows = [{**CLOZE, "options": ["tea", "rice"], "answer": "tea"}]
    whole, token = (ct.evaluate(model, rows, mode=mode) for mode in ("likelihood", "options"))
    assert whole["probability"][0] == pytest.approx(token["probability"][0], rel=1e-6)
