"""A prompt is right, whatever the chat template and the tokenizer, or it is refused in a sentence.

The templates are written here. What a right prompt is, is said without the package's own functions:
the question once, then the start of a reply, and the label's token as tokenising all of it gives.
"""

import re
from datetime import datetime

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import culnig_tl as ct
from culnig_tl.errors import CulnigError, InvalidInputError, UnknownNameError
from culnig_tl.evaluation import greedy_replies
from culnig_tl.models import load_model
from culnig_tl.questions import (
    DATE,
    Item,
    Template,
    encode,
    label_tokens,
    padding_token,
    prepare,
    questions,
    read_table,
    render,
    rows_of,
    writer,
)

ROW = {"id": "q7", "prompt": "Tea or rice?", "options": ["A", "B"], "answer": "A"}
SYSTEM = "Be brief."
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
TURNS = "{% for m in messages %}" + TURN + "{% endfor %}"
USER = "<|im_start|>user\nTea or rice?<|im_end|>\n"


def prompted(text: str, turns: str = TURNS) -> str:
    """A template with this generation prompt."""
    return turns + "{% if add_generation_prompt %}" + text + "{% endif %}"


PARTS = prompted(
    "<|im_start|>assistant\n",
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}<|im_end|>\n{% endfor %}",
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
HARMONY_USER = "<|start|>user<|message|>Tea or rice?<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
THINKS_ITSELF = (  # the reply's reasoning is empty in a finished turn
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "<think>\n</think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
SWITCHED = prompted(
    "<|im_start|>assistant\n"
    "{% if thinking is defined and not thinking %}</think>{% else %}<think>{% endif %}"
)
RESPONDS = (  # a generation prompt after every conversation, and a tag before every reply
    "{% for m in messages %}<|turn|>{% if m.role == 'assistant' %}<|bot|><|START_RESPONSE|>"
    "{{ m.content }}<|END_RESPONSE|>{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}<|end|>"
    "{% endfor %}<|turn|><|bot|><|START_THINKING|><|END_THINKING|>"
)
SENDS = (  # the reply's text comes after its recipient
    "{% for m in messages %}<|turn|>{{ m.role }}\n{% if m.role == 'assistant' %}>>>all\n{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n>>>{% endif %}"
)
INSTRUCT = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def speaking(tmp_path_factory, make_llama, make_tokenizer):
    """``speaking(template)``: a model of this module with that chat template."""
    model = load_model(make_llama(tmp_path_factory.mktemp("speaking")))
    model.cfg.n_ctx = 512

    def with_template(template):
        model.tokenizer = make_tokenizer(chat_template=template)
        return model

    return with_template


def at(monkeypatch, day: datetime) -> None:
    """Stop the clock that transformers gives to templates."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return day

    monkeypatch.setattr(chat_template_utils, "datetime", Stopped)


# ---------------------------------------------------------------- completed


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (PARTS, USER + "<|im_start|>assistant\n"),
        (INSTRUCT, "[INST] Tea or rice? [/INST]"),  # the end of the user's turn opens the reply
        (prompted("{{ eos_token }}"), USER + "<|im_start|>assistant\n"),
        (TURNS, USER + "<|im_start|>assistant\n"),  # as the template writes a reply of its own
        (prompted("<think>"), f"{USER}<think>\n\n</think>\n\n"),
        (prompted("<think>\n"), f"{USER}<think>\n\n</think>\n\n"),
        (prompted("<seed:think>"), f"{USER}<seed:think>\n\n</seed:think>\n\n"),
        (prompted("<thought>\n"), f"{USER}<thought>\n\n</thought>\n\n"),
        (prompted("[THINK]"), f"{USER}[THINK][/THINK]"),
        (prompted("◁think▷"), f"{USER}◁think▷◁/think▷"),
        (prompted("<|START_THINKING|>"), f"{USER}<|START_THINKING|><|END_THINKING|>"),
        (prompted("<|begin_of_thought|>"), f"{USER}<|begin_of_thought|><|end_of_thought|>"),
        (prompted("<|think_start|>"), f"{USER}<|think_start|><|think_end|>"),
        (prompted("<|inner_prefix|>"), f"{USER}<|inner_prefix|><|inner_suffix|>"),
        (prompted("<|channel>thought\n"), f"{USER}<|channel>thought\n<channel|>"),
        (prompted("<think>\n\n</think>\n\n"), f"{USER}<think>\n\n</think>\n\n"),
        (THINKS_ITSELF, USER + "<|im_start|>assistant\n<think>\n</think>\n"),
        (THINKS_ITSELF.replace("\n<think>\n{% endif %}", "\n{% endif %}"), None),
        (
            RESPONDS,
            "<|turn|><|user|>Tea or rice?<|end|><|turn|><|bot|><|START_THINKING|><|END_THINKING|>"
            "<|START_RESPONSE|>",
        ),
        (
            RESPONDS.replace("<|END_THINKING|>", ""),
            "<|turn|><|user|>Tea or rice?<|end|><|turn|><|bot|><|START_THINKING|><|END_THINKING|>"
            "<|START_RESPONSE|>",
        ),
        (  # finished replies end the reasoning that the generation prompt begins and ends
            prompted("<bot><think></think>", RESPONDS[: RESPONDS.index("{% endfor %}") + 12])
            .replace("<|bot|>", "<bot>")
            .replace("<|START_RESPONSE|>", "</think>"),
            "<|turn|><|user|>Tea or rice?<|end|><bot><think></think>",
        ),
        (SENDS, "<|turn|>user\nTea or rice?<|end|><|turn|>assistant\n>>>all\n"),
        (TURNS + "<bot><think>", USER + "<bot><think>\n\n</think>\n\n"),  # always open
        (SWITCHED, USER + "<|im_start|>assistant\n</think>"),
        (HARMONY, HARMONY_USER + FINAL),
        (HARMONY.replace("final{%", "analysis{%"), HARMONY_USER + FINAL),
        (HARMONY.replace("assistant{% endif %}", f"assistant{FINAL}{{% endif %}}"), None),
        (
            HARMONY.replace(
                "assistant{% endif %}", "assistant<|channel|>analysis<|message|>{% endif %}"
            ),
            HARMONY_USER + f"<|channel|>analysis<|message|><|end|><|start|>assistant{FINAL}",
        ),
    ],
)
def test_a_reply_is_opened_where_its_own_text_starts(speaking, template, text):
    if text is None:
        text = USER + "<|im_start|>assistant\n<think>\n</think>\n"
        text = HARMONY_USER + FINAL if "channel" in template else text
    assert render(ROW, speaking(template)) == text
    spoken = {**ROW, "system": SYSTEM, "reply_prefix": ' {"a": "'}
    assert render(spoken, speaking(template)).endswith(
        text.partition("Tea or rice?")[2] + ' {"a": "'
    )


def test_a_reply_prefix_that_ends_the_reasoning_itself_is_enough(speaking):
    row = {**ROW, "reply_prefix": "\n</think>\n\n"}
    assert render(row, speaking(prompted("<think>\n"))) == f"{USER}<think>\n\n</think>\n\n"


def test_words_in_tags_that_are_no_open_reasoning_stay(speaking):
    for tags in ("<|assistant|>", "[reply]", "<|no_think|>", "<think></think>", "<|END_THINKING|>"):
        assert render(ROW, speaking(prompted(tags))) == USER + tags
    asked = {**ROW, "prompt": "What does <think> mean?"}
    assert render(asked, speaking(prompted("<bot>"))).endswith("mean?<|im_end|>\n<bot>")


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (prompted("<bot>", "{% for m in messages %}{{ m.role }}{% endfor %}"), "leaves the quest"),
        (prompted("<bot>", TURNS + TURNS), "writes it 2 times"),
        (prompted("<bot>", TURNS.replace("m.content", "m.content | upper")), "leaves the quest"),
        (prompted("<bot>", TURNS.replace("m.content", "m.content[:9]")), "leaves the question out"),
        (
            TURNS.replace("{{ m.role }}", "{% if m.role != 'user' %}{{ x.y }}{% endif %}"),
            "no reply",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "opens no reply"),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "end token '</s>'"),
        (
            prompted(
                "{{ eos_token }}", TURNS.replace("m.content", "m.content if m.role == 'user'")
            ),
            "end token '</s>'",
        ),
        ("{{ raise_exception('tools only') }}", "stops with 'tools only'"),
        ("{{ messages[0].content + 7 }}", "stops with"),
        ("{{ 1 / 0 }}", "stops with"),
        ("{% for m in messages %}", "stops with"),
    ],
)
def test_a_prompt_without_question_or_reply_is_refused_by_name(speaking, template, fault):
    with pytest.raises(InvalidInputError, match=rf"(?s)'q7'.*{fault}.*chat=False"):
        render(ROW, speaking(template))
    with pytest.raises(InvalidInputError, match="'q7'"):
        prepare(speaking(template), [ROW])
    assert render(ROW, speaking(template), chat=False) == ROW["prompt"]


def test_a_template_that_changes_some_questions_refuses_these_alone(speaking):
    model = speaking(prompted("<bot>", TURNS.replace("m.content", "m.content | e")))
    assert render(ROW, model) == USER + "<bot>"
    with pytest.raises(InvalidInputError, match=r"'q8'.*leaves the question out"):
        prepare(model, [ROW, {**ROW, "id": "q8", "prompt": "Tea & rice?"}])


def test_a_template_that_looks_at_the_question_is_read_for_each(speaking):
    turn = "{% if '?' in m.content %}Q: {% else %}S: {% endif %}{{ m.content | trim }}\n"
    model = speaking(prompted("<bot>", "{% for m in messages %}" + turn + "{% endfor %}"))
    assert render(ROW, model) == "Q: Tea or rice?\n<bot>"
    assert render({**ROW, "prompt": " Say tea.\n"}, model) == "S: Say tea.\n<bot>"


def test_a_blank_question_is_no_traceback(speaking):
    assert render({**ROW, "prompt": " "}, speaking(prompted("<bot>"))).endswith("<bot>")
    looks = prompted("<bot>", TURNS.replace("m.role }}", "m.role }}{{ m.content | length }}"))
    with pytest.raises(InvalidInputError, match="leaves the question out"):
        render({**ROW, "prompt": " "}, speaking(looks))
    with pytest.raises(InvalidInputError, match="given this prompt"):
        writer(speaking(looks).tokenizer)({"prompt": " ", "system": "", "reply_prefix": ""})


# ---------------------------------------------------------------- dates

DATED = prompted(
    "<bot>",
    "\n  {% if true %}{{ strftime_now('%A %d %B %Y, %H:%M, %-d.%m.%y, %j') }}{% endif %}"
    "|{{ date_string }}|" + TURNS,
)


def test_a_template_reads_the_same_date_on_any_day(speaking, monkeypatch):
    model, texts, raw, scores = speaking(DATED), [], [], []
    for day in (datetime(2026, 2, 3, 4, 5), datetime(2027, 11, 30)):
        at(monkeypatch, day)
        turns = [{"role": "user", "content": ROW["prompt"]}]
        raw.append(model.tokenizer.apply_chat_template(turns, tokenize=False))
        texts.append(render(ROW, model))
        prepared = prepare(model, [ROW])
        scores.append(ct.attribute(model, prepared, progress=False).total("mlp.hook_post"))
    assert raw[0] != raw[1]
    assert texts[0] == texts[1]
    assert texts[0].startswith("\nFriday 26 July 2024, 00:00, 26.07.24, 208|26 Jul 2024|<|im_start")
    assert torch.equal(scores[0], scores[1])
    assert prepared.date == DATE
    assert repr(prepared).endswith("dated 26 Jul 2024")
    assert prepare(speaking(TURNS), [ROW]).date == ""


def test_the_fixed_clock_writes_what_strftime_writes(speaking, monkeypatch):
    codes = "aAbBcdDeFHIjmMpRSTxXyY"
    formats = [f"%{code}" for code in codes] + ["%-d", "%-m", "%d/%m/%Y", "%H:%M:%S", "%d %b %Y"]
    at(monkeypatch, datetime(2024, 7, 26))
    written = "".join(f"[{{{{ strftime_now({code!r}) }}}}]" for code in formats)
    model = speaking(prompted("<bot>", written + TURNS))
    turns = [{"role": "user", "content": ROW["prompt"]}]
    expected = model.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    at(monkeypatch, datetime(2031, 1, 2, 13, 14, 15))
    assert render(ROW, model) == expected


# ---------------------------------------------------------------- which template


def test_a_template_is_taken_by_its_name(speaking):
    model = speaking(
        {"default": prompted("<bot>"), "short": prompted("<b>", "{{ messages[0].content }}")}
    )
    assert render(ROW, model) == USER + "<bot>"
    assert render(ROW, model, template="short") == "Tea or rice?<b>"
    usual = prepare(model, [ROW])
    short, plain = prepare(model, [ROW], template="short"), prepare(model, [ROW], chat=False)
    assert usual.fingerprint == ct.prepare(model, [ROW], template=None).fingerprint
    assert len({usual.fingerprint, short.fingerprint, plain.fingerprint}) == 3
    assert (short.template, plain.chat) == ("short", False)
    assert plain.texts == ("Tea or rice?",)
    assert plain.prompts[0][0] == model.tokenizer.bos_token_id
    assert short.select([0]).fingerprint == short.fingerprint
    assert prepare(model, short) is short
    assert prepare(model, short, template="short") is short
    with pytest.raises(InvalidInputError, match="prepared with chat=True and template='short'"):
        prepare(model, short, chat=False)
    with pytest.raises(UnknownNameError, match=r"no chat template 'long'.*'default', 'short'"):
        prepare(model, [ROW], template="long")
    with pytest.raises(InvalidInputError, match="give one of the two"):
        render(ROW, model, chat=False, template="short")


def test_several_templates_without_a_default_are_named(speaking):
    model = speaking({"rag": prompted("<bot>"), "tool_use": prompted("<tool>")})
    for call in (render, lambda row, model: prepare(model, [row])):
        with pytest.raises(InvalidInputError, match=r"'rag', 'tool_use' and none called 'default'"):
            call(ROW, model)
    assert render(ROW, model, template="rag") == USER + "<bot>"
    assert render(ROW, model, chat=False) == ROW["prompt"]
    with pytest.raises(UnknownNameError, match=r"this model has none\. Leave template out"):
        render(ROW, speaking(None), template="rag")


def test_plain_text_on_a_chat_model_is_that_of_a_plain_model(speaking):
    rows = questions([{**ROW, "prompt": "Tea or rice? Answer:", "system": SYSTEM}])
    chat, plain = prepare(speaking(TURNS), rows, chat=False), prepare(speaking(None), rows)
    assert chat.prompts == plain.prompts
    assert chat.answers == plain.answers
    assert chat.adapted.to_list() == plain.adapted.to_list()
    assert chat.adapted["answer"][0] == " A"


SHORT = prompted("<b>", "{{ messages[0].content }}")
ASKED = [({"chat": False}, None), ({"template": "short"}, SHORT)]


@pytest.mark.parametrize(("way", "same_as"), ASKED)
@pytest.mark.parametrize("asked", ["Tea or rice?", {**ROW, "system": SYSTEM}])
def test_a_prompt_is_looked_at_in_the_way_that_is_asked_for(speaking, way, same_as, asked):
    """As on the same weights with no other template."""
    model = speaking({"default": prompted("<bot>"), "short": SHORT})
    found = ct.inspect_prompt(model, asked, top=2, **way)
    usual = ct.inspect_prompt(model, asked, top=2)
    expected = ct.inspect_prompt(speaking(same_as), asked, top=2)
    assert found.total.tokens == expected.total.tokens != usual.total.tokens
    pd.testing.assert_frame_equal(found.answers, expected.answers)
    pd.testing.assert_frame_equal(found.neurons, expected.neurons)


@pytest.mark.parametrize(("way", "same_as"), ASKED)
def test_open_questions_are_asked_in_the_way_that_is_asked_for(speaking, way, same_as):
    asked = [{**ROW, "answers": ["tea"], "culture": "UK", "language": "zh", "system": SYSTEM}]
    model = speaking({"default": prompted("<bot>"), "short": SHORT})
    found, usual = (ct.evaluate_open(model, asked, max_new_tokens=8, **how) for how in (way, {}))
    expected = ct.evaluate_open(speaking(same_as), asked, max_new_tokens=8)
    pd.testing.assert_frame_equal(found, expected)
    assert found["prediction"][0] != usual["prediction"][0]


def test_what_an_open_question_and_a_text_cannot_be_asked_in_is_a_sentence(speaking):
    model = speaking(TURNS)
    asked = [{**ROW, "answers": ["tea"], "culture": "UK", "language": "zh"}]
    for call in (ct.evaluate_open, lambda model, _, **way: ct.inspect_prompt(model, "Tea?", **way)):
        with pytest.raises(UnknownNameError, match="no chat template 'long'"):
            call(model, asked, template="long")
        with pytest.raises(InvalidInputError, match="give one of the two"):
            call(model, asked, template="default", chat=False)


# ---------------------------------------------------------------- tokens

PIECES = [("▁", "A"), ("▁", "B"), ("▁", "▁"), ("t", "e"), ("te", "a"), ("▁", "tea"), ('"', "A")]


def sentencepiece(*, ends: bool = False, metaspace: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer in SentencePiece's style: a space is put before every text."""
    characters = ["▁", *map(chr, range(33, 127))]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    names += [left + right for left, right in PIECES]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, PIECES, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if ends else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["[/INST]"]})
    return fast


@pytest.fixture(scope="module")
def spaced(tmp_path_factory, make_llama):
    """``spaced(template, ...)``: a model whose tokenizer puts a space before every text."""
    model = load_model(make_llama(tmp_path_factory.mktemp("spaced"), tokenizer=sentencepiece()))
    model.cfg.n_ctx = 512

    def with_template(template=None, **options):
        model.tokenizer = sentencepiece(**options)
        model.tokenizer.chat_template = template
        return model

    return with_template


@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize(
    ("template", "changes", "label", "piece"),
    [
        (None, {"prompt": "tea? Answer:"}, " A", "▁A"),  # two tokens on its own
        (None, {"prompt": "tea? Answer:", "options": [" A", " B"], "answer": " A"}, " A", "▁A"),
        (None, {"prompt": "tea: "}, "A", "A"),  # would merge with the space: apart
        (None, {"prompt": "tea:", "reply_prefix": ' {"a":"'}, "A", "A"),  # and with the quote
        (None, {"prompt": "tea\n"}, "A", "A"),
        (prompted("[/INST]"), {}, "A", "▁A"),  # a special token starts a text of its own
        (prompted("[/INST]\n"), {}, "A", "A"),
        (prompted("[/INST]"), {"reply_prefix": "Answer:"}, " A", "▁A"),
    ],
)
def test_the_label_is_the_token_that_text_and_label_together_give(
    spaced, template, changes, label, piece, metaspace
):
    model = spaced(template, metaspace=metaspace)
    prepared = prepare(model, [{**ROW, **changes}])
    tokens, joint = list(prepared.prompts[0]), encode(model.tokenizer, prepared.texts[0] + label)
    assert prepared.adapted["answer"][0] == label
    assert model.tokenizer.convert_ids_to_tokens(prepared.answers[0]) == piece
    is_merged = joint[: len(tokens)] != tokens
    assert is_merged == prepared.texts[0].endswith(('"', " "))
    assert is_merged or joint == [*tokens, prepared.answers[0]]
    assert prepared.option_tokens[0, 0] == prepared.answers[0]
    assert prepared.answer_text(0, prepared.answers[0]) == label
    prepared.check_options()


def test_an_answer_is_right_by_its_token_not_by_how_the_token_reads_alone(spaced, monkeypatch):
    model, row = spaced(), {**ROW, "prompt": "tea? Answer:"}
    token = prepare(model, [row]).answers[0]
    assert model.tokenizer.decode([token]) == "A"  # without the space that the label has
    bias = torch.zeros(model.cfg.d_vocab)
    bias[token] = 1e3
    monkeypatch.setattr(model.unembed, "b_U", torch.nn.Parameter(bias, requires_grad=False))
    for mode in ("argmax", "options"):
        (answer,) = ct.evaluate(model, [row], mode=mode).to_dict("records")
        assert (answer["prediction"], answer["correct"], answer["rank"]) == (" A", True, 1)
    answers = ct.inspect_prompt(model, row, top=1).answers
    assert answers.loc[answers["right"], "answer"].tolist() == [" A"]


def test_a_label_that_is_two_tokens_after_its_prompt_is_refused(spaced):
    model = spaced(prompted("[/INST]"))
    assert label_tokens(model.tokenizer, ["C"])  # one token, but "▁C" is none
    row = {**ROW, "id": "q9", "options": ["C", "A"], "answer": "C"}
    with pytest.raises(InvalidInputError, match=r"1 labels .*'C' \(2 tokens, question 'q9'\)"):
        prepare(model, [ROW, row])
    prepared = prepare(model, [{**row, "answer": "A"}])
    assert prepared.option_tokens.tolist() == [[-1, prepared.answers[0]]]
    with pytest.raises(InvalidInputError, match=r"1 labels .*'C' \(2 tokens"):
        prepared.check_options()


def test_a_label_that_changes_the_tokens_of_its_prompt_is_refused(speaking):
    model = speaking(None)
    whole = model.tokenizer.backend_tokenizer
    whole.normalizer = normalizers.Replace("tea A", "rice A")
    with pytest.raises(InvalidInputError, match=r"' A' \(it changes the tokens of its prompt"):
        prepare(model, [{**ROW, "prompt": "tea", "options": [" A", " B"], "answer": " A"}])


@pytest.mark.parametrize("template", [None, prompted("[/INST]")])
def test_no_end_token_is_appended(spaced, template):
    ends, plain = (
        prepare(spaced(template, ends=ends), [{**ROW, "prompt": "tea? Answer:"}])
        for ends in (True, False)
    )
    assert ends.prompts == plain.prompts
    assert ends.prompts[0][-1] != 2
    assert ends.answers == plain.answers
    tokenizer = spaced(ends=True).tokenizer
    assert tokenizer("tea")["input_ids"][-1] == 2
    assert encode(tokenizer, "tea</s>") == [*encode(tokenizer, "tea"), 2]  # the text's own stays
    assert encode(tokenizer, "tea")[0] == 1


@pytest.mark.parametrize("padding", [None, "<padding>"])
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_a_padding_token_beyond_the_vocabulary_does_not_matter(
    loaded, rows, monkeypatch, make_tokenizer, backend, padding
):
    model = loaded(2, backend, "float32")
    expected = ct.attribute(model, rows, progress=False).total("mlp.hook_post")
    answers, texts = ct.evaluate(model, rows), ["tea", "Which drink? tea rice Answer:"]
    said = greedy_replies(model, texts, max_new_tokens=4)
    assert padding_token(model) == model.tokenizer.pad_token_id == 0
    tokenizer = make_tokenizer()
    tokenizer.pad_token = padding
    name = "tokenizer" if backend == "hooked" else "_tokenizer"
    monkeypatch.setattr(model, name, tokenizer)
    assert tokenizer.pad_token_id is None or tokenizer.pad_token_id >= model.cfg.d_vocab
    assert padding_token(model) == 0
    assert torch.equal(ct.attribute(model, rows, progress=False).total("mlp.hook_post"), expected)
    pd.testing.assert_frame_equal(ct.evaluate(model, rows), answers)
    assert greedy_replies(model, texts, max_new_tokens=4) == said


def test_a_token_beyond_the_vocabulary_is_refused_by_name(speaking):
    model = speaking(None)
    model.tokenizer.add_tokens(["durian"])
    with pytest.raises(
        InvalidInputError,
        match=r"'q7' holds the token 'durian' with number 290, and the model has 290 tok",
    ):
        prepare(model, [{**ROW, "prompt": "Tea or durian?"}])
    assert prepare(model, [ROW]).prompts


# ---------------------------------------------------------------- any template

PROMPTS = st.text(st.sampled_from("abé \n?&<>|{}%'\"_/"), max_size=12).map("¿{}¡".format)
SPACES = st.sampled_from(["", " ", "\n"])
CONTENTS = {  # how a turn's content is written, and whether that keeps every question
    "{{ m.content }}": True,
    "{{ m.content | trim }}": True,
    "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}": True,
    "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}": True,
    "{% for p in m.content %}{{ p['text'] | trim }}{% endfor %}": True,
    "{{ m.content | e }}": False,
    "{{ m.content }} {{ m.content }}": False,
    "{{ m.content[:5] }}": False,
    "{{ m.nothing }}": False,
}
SYSTEMS = [
    "",
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
    "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}",
    "{% if messages[0].role != 'system' %}<sys>You are a model.</sys>{% endif %}",
]
HEADS = ["", "{{ bos_token }}", "{{ strftime_now('%d %B %Y') }}\n", "{{ date_string }}\n"]
REPLIES = {  # the generation prompt, and whether it can open a reply
    "<|bot|>": True,
    "<|bot|>\n": True,
    "<|bot|><think>\n": True,
    "<|bot|>{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}": True,
    "<|bot|>{% if thinking is not defined or thinking %}[THINK]{% endif %}": True,
    "<|bot|><think>\n\n</think>\n\n": True,
    "<|bot|>{# <|channel|> <|message|> #}": True,
    "<|bot|><|channel|>analysis<|message|>": True,
    "{{ eos_token }}": False,
}
ASSISTANTS = ["<|bot|>", "<|bot|><think>\n</think>\n", "{{ raise_exception('no reply') }}"]


@st.composite
def templates(draw):
    """A chat template, and whether every question has a right prompt in it."""
    content, keeps = draw(st.sampled_from(sorted(CONTENTS.items())))
    reply, opens = draw(st.sampled_from(sorted(REPLIES.items())))
    assistant = draw(st.sampled_from(ASSISTANTS))
    has_prompt = draw(st.booleans())
    turn = (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + assistant
        + "{% else %}<|{{ m.role }}|>"
        "{% endif %}"
        + content
        + draw(st.sampled_from(["<|end|>\n", "<|end|>", "{{ eos_token }}\n"]))
        + "{% endfor %}"
    )
    prompt = "{% if add_generation_prompt %}" + reply + "{% endif %}" if has_prompt else ""
    is_right = keeps and ((has_prompt and opens) or "raise" not in assistant)
    return draw(st.sampled_from(HEADS)) + draw(st.sampled_from(SYSTEMS)) + turn + prompt, is_right


def faults(text: str, row: dict, tokenizer) -> list[str]:
    """What is wrong with a rendered prompt."""
    question, after = row["prompt"].strip(), text.rpartition(row["prompt"].strip())[2]
    tags = re.findall(r"</?think>|\[/?THINK\]", after)
    channels = re.findall(r"<\|channel\|>(\w+)<\|message\|>", after)
    return [
        *(["question"] if text.count(question) != 1 else []),
        *(["system"] if row["system"].strip() not in text else []),
        *(["no reply"] if "<|bot|>" not in after else []),
        *(["open reasoning"] if tags and "/" not in tags[-1] else []),
        *(["channel"] if channels and channels[-1] != "final" else []),
        *(["end"] if text.rstrip().endswith(tokenizer.eos_token) else []),
        *(["date"] if re.search(r"20(2[5-9]|[3-9]\d)", text) else []),
        *(["start"] if encode(tokenizer, text).count(tokenizer.bos_token_id) > 1 else []),
    ]


@given(templates(), SPACES, PROMPTS, SPACES, st.sampled_from(["", "Vivió en México", " x\n"]))
def test_any_template_gives_a_right_prompt_or_a_sentence(
    speaking, template, before, prompt, after, system
):
    source, is_right = template
    row = {**ROW, "prompt": before + prompt + after, "system": system}
    model = speaking(source)
    refusal = ""
    try:
        text = render(row, model)
    except InvalidInputError as error:
        refusal = str(error)
        text = ""
    if not text:
        assert "'q7'" in refusal
        assert not is_right, source
        return
    assert faults(text, row, model.tokenizer) == [], source
    try:
        prepared = prepare(model, [row])
    except CulnigError:
        return
    assert prepared.texts == (text,)
    assert prepared.prompts[0][-1] != model.tokenizer.eos_token_id
    joint = model.tokenizer(text + "A", add_special_tokens=False)["input_ids"]
    assert joint == [*prepared.prompts[0], prepared.answers[0]]


@given(st.text(st.sampled_from("{}%mcontext.[]|<>/ 'role#-+\n"), max_size=40))
def test_text_that_may_be_no_template_at_all_is_no_traceback(speaking, source):
    try:
        text = render(ROW, speaking(source or None))
    except InvalidInputError:
        return
    assert text.count(ROW["prompt"]) == 1


# ---------------------------------------------------------------- controls


TWICE = "Guide: 'Is it polite?' is what guests ask.\nIs it polite? A. yes B. no\nAnswer:"


def test_a_question_that_stands_twice_is_not_cut_by_chance():
    row = {**ROW, "prompt": TWICE, "question": "Is it polite?"}
    rows = questions([{**ROW, "question": "Tea"}, row])
    with pytest.raises(
        InvalidInputError, match=r"1 of 2 rows \(rows 1; the first is question 'q7'"
    ):
        ct.control_of(rows)
    told = questions([{**row, "question_offset": TWICE.rindex("Is it")}])
    assert ct.control_of(told)["prompt"][0] == TWICE.replace("\nIs it polite? A", "\n A")
    longer = questions([{**row, "question": "\nIs it polite?"}])
    assert ct.control_of(longer)["prompt"][0] == TWICE.replace("\nIs it polite? A", " A")


@pytest.mark.parametrize("offset", [-1, 0, 10**6, "x", 1.5, [1]])
def test_an_offset_where_no_question_starts_is_a_fault(offset):
    row = {**ROW, "prompt": TWICE, "question": "Is it polite?", "question_offset": offset}
    with pytest.raises(InvalidInputError, match=r"row 0: .*question_offset"):
        questions([row])


@pytest.mark.parametrize(
    ("text", "control"),
    [
        (
            "{passage} {question} {options}\nAnswer:",
            "Is it polite? they ask.  A. yes\nB. no\nAnswer:",
        ),
        ("{passage}\nQ: {question}\n{options}", "Is it polite? they ask.\nA. yes\nB. no"),
        ("{question} {passage}\n{options}", "Is it polite? they ask.\nA. yes\nB. no"),
    ],
)
def test_rows_out_of_templates_say_where_their_question_is(tmp_path, text, control):
    item = Item(
        "q",
        ("yes", "no"),
        0,
        ordered=True,
        fields={"question": "Is it polite?", "passage": "Is it polite? they ask."},
    )
    rows = questions(rows_of([item], [Template(text)], benchmark="own"))
    assert ct.control_of(rows)["prompt"][0] == control
    rows.to_parquet(tmp_path / "rows.parquet")
    again = ct.questions_from_frame(tmp_path / "rows.parquet")
    assert again.to_list() == rows.to_list()
    assert ct.control_of(again)["prompt"][0] == control


@given(
    st.lists(st.sampled_from(["Why?", "Why", "?", " ", "\n", "tea"]), max_size=6).map("".join),
    st.sampled_from(["Why?", "Why?Why?", "?"]),
    st.permutations(["{passage}", "{question}", "{options}"]).map(" ".join),
)
def test_a_control_is_its_template_without_the_question(passage, question, text):
    fields = {"question": question, "passage": passage}
    rows = rows_of([Item("q", ("Why?", "no"), 0, fields=fields)], [Template(text)], benchmark="b")
    (control,) = ct.control_of(questions(rows)).to_list()
    without = rows_of(
        [Item("q", ("Why?", "no"), 0, fields=fields)],
        [Template(text.replace("{question}", ""))],
        benchmark="b",
    )
    assert control["prompt"] == without[0]["prompt"].lstrip()


def test_a_template_that_asks_twice_has_no_control():
    item = Item("q", ("yes", "no"), 0, fields={"question": "Is it polite?"})
    twice = Template("Q: {question}\n{options}\nAgain: {question}\nAnswer:")
    rows = questions(rows_of([item], [twice], benchmark="own"))
    with pytest.raises(InvalidInputError, match="hold their question more than once"):
        ct.control_of(rows)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "json", "jsonl"])
@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-be", "UTF-16-BE"),
        ("utf-16-le", "UTF-16-LE"),
        ("utf-32", "UTF-32"),
        ("cp1252", "cp1252"),
    ],
)
def test_the_encoding_of_a_file_is_named(tmp_path, ending, encoding, name):
    import gzip

    content = 'id,prompt\nq,"Türkiye?"\n'.encode(encoding)
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(InvalidInputError, match=f"{name}.*expected UTF-8; save it as UTF-8"):
        read_table(path)


def test_utf8_is_read_with_and_without_its_mark(tmp_path):
    for number, encoding in enumerate(["utf-8", "utf-8-sig"]):
        path = tmp_path / f"{number}.csv"
        path.write_bytes("id,prompt\r\nq,Türkiye?\r\n".encode(encoding))
        assert read_table(path).to_dict("records") == [{"id": "q", "prompt": "Türkiye?"}]


def test_frames_and_dictionaries_are_rows_everywhere(model, rows):
    expected = ct.attribute(model, rows, progress=False).total("mlp.hook_post")
    for given_rows in (
        rows.to_pandas(),
        rows.to_list(),
        tuple(rows.to_list()),
        iter(rows.to_list()),
    ):
        scores = ct.attribute(model, given_rows, progress=False)
        assert torch.equal(scores.total("mlp.hook_post"), expected)
    pd.testing.assert_frame_equal(ct.evaluate(model, rows.to_list()), ct.evaluate(model, rows))
    for call in (ct.attribute, ct.evaluate):
        with pytest.raises(InvalidInputError, match="rows cannot be used"):
            call(model, [{"id": "q"}])
