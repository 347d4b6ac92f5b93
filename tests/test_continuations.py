"""What a model writes before and after scaling, side by side."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import culnig_tl as ct
from culnig_tl.evaluation import greedy_replies
from culnig_tl.inspection import continuations

TEXTS = ["The usual staple food in Iran is", "In the evening, people in Greece drink"]


@pytest.fixture(scope="module")
def model():
    return ct.load_model()


def test_the_replies_are_those_of_the_scaled_and_of_the_plain_model(model) -> None:
    key = ct.answer_key("general")
    shown = ct.generate(model, TEXTS, key, factor=0.0, max_new_tokens=6)
    with ct.scaled_neurons(model, key, factor=0.0):
        scaled = greedy_replies(model, TEXTS, max_new_tokens=6)
    assert shown.frame["before"].tolist() == greedy_replies(model, TEXTS, max_new_tokens=6)
    assert shown.frame["after"].tolist() == scaled
    assert scaled != shown.frame["before"].tolist()
    assert [left.text for left, _ in shown.pairs] == shown.frame["before"].tolist()
    assert "2 of 2 replies change" in repr(shown)


def test_without_neurons_nothing_changes(model) -> None:
    shown = ct.generate(model, TEXTS[0], max_new_tokens=4)
    assert shown.frame["changed"].tolist() == [0.0]
    assert shown.frame["before"].tolist() == shown.frame["after"].tolist()
    assert "scaled" not in shown._repr_html_()


def test_a_neuron_may_be_named_by_its_text(model) -> None:
    neuron = next(iter(ct.answer_key("general")))
    by_text, by_set = (
        ct.generate(model, TEXTS[0], chosen, factor=3.0, max_new_tokens=4)
        for chosen in (str(neuron), ct.NeuronSet.of([neuron]))
    )
    assert by_text.frame.equals(by_set.frame)


class Characters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [*map(ord, text)]}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(map(chr, ids))


@given(st.text("abc<", max_size=12), st.text("abc<", max_size=12))
def test_what_is_not_marked_is_the_same_in_both(before: str, after: str) -> None:
    pair = continuations._pair(Characters(), before, after)
    same = [
        [token for token, value in zip(tokens.tokens, tokens.values, strict=True) if not value]
        for tokens in pair
    ]
    assert same[0] == same[1]
    assert [tokens.text for tokens in pair] == [before, after]
    assert (continuations._share_changed(pair) == 0) == (before == after)
    assert all({*left.values} <= {0.0, sign} for left, sign in zip(pair, (-1, 1), strict=True))


def test_what_a_model_writes_is_text_on_the_page(model, tmp_path: Path, monkeypatch) -> None:
    hostile = "<script>alert(1)</script>"
    monkeypatch.setattr(continuations, "greedy_replies", lambda *_, **__: [hostile])
    shown = ct.generate(model, hostile, max_new_tokens=1)
    page = shown.to_html(tmp_path / "replies.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("texts", ["", [], [""], [3]])
def test_no_text_is_refused(model, texts, as_for_a_user) -> None:
    with pytest.raises(ct.CulnigError, match="a text or a list of texts"):
        ct.generate(model, texts)
