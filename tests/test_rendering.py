"""What a model reads, to the letter, under six kinds of chat template; and the tokens of labels.

The templates are written here: they lay out the special tokens as each family does, no more.
"""

import pytest
from jinja2 import TemplateError

from culnig_tl.benchmarks.worldvaluesbench import alignment
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.answers import _measures
from culnig_tl.models import load_model
from culnig_tl.questions import (
    adapted_rows,
    batches,
    encode,
    label_tokens,
    prepare,
    questions,
    render,
)

EACH = "{% for m in messages %}"
LLAMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set said = messages[0].content | trim %}"
    "{% set rest = messages[1:] %}{% else %}{% set said = '' %}{% set rest = messages %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n{{ said }}"
    "<|eot_id|>{% for m in rest %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN = (
    EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% set ns = namespace(head='') %}"
    + EACH
    + "{% if m.role == 'system' %}{% set ns.head = m.content + '\n\n' %}{% else %}"
    "<start_of_turn>{{ m.role }}\n{{ ns.head }}{{ m.content | trim }}<end_of_turn>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    EACH + "<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
FALCON = (
    EACH + "<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# A family's own way to say that it has no system turn, and one that drops it without a word.
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PHI
DROPS = PHI.replace(EACH, EACH + "{% if m.role != 'system' %}").replace(
    "{% endfor %}", "{% endif %}{% endfor %}"
)

ASKED = {"id": "q", "prompt": "Tea or rice?\nA. tea\nB. rice\nAnswer:", "options": ["A", "B"]}
ROW = {**ASKED, "answer": "A", "reply_prefix": '{"answer_choice":"'}
USER = ASKED["prompt"]
SYSTEM = "Answer as someone from Iran."
END = "<|eot_id|>"
LLAMA_SYSTEM = "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
LLAMA_USER = f"{END}<|start_header_id|>user<|end_header_id|>\n\n{USER}{END}"
LLAMA_REPLY = "<|start_header_id|>assistant<|end_header_id|>\n\n"
QWEN_REPLY = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
GEMMA_REPLY = "<end_of_turn>\n<start_of_turn>model\n"
PHI_REPLY = "<|im_end|><|im_start|>assistant<|im_sep|>"

FAMILIES = {  # template, text without and with a system turn, number of BOS tokens
    "llama-3": (
        LLAMA,
        LLAMA_SYSTEM + LLAMA_USER + LLAMA_REPLY,
        LLAMA_SYSTEM + SYSTEM + LLAMA_USER + LLAMA_REPLY,
        1,
    ),
    "qwen3": (
        QWEN,
        f"<|im_start|>user\n{USER}<|im_end|>\n{QWEN_REPLY}",
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{USER}<|im_end|>\n{QWEN_REPLY}",
        0,
    ),
    "gemma-3": (
        GEMMA,
        f"<s><start_of_turn>user\n{USER}{GEMMA_REPLY}",
        f"<s><start_of_turn>user\n{SYSTEM}\n\n{USER}{GEMMA_REPLY}",
        1,
    ),
    "phi-4": (
        PHI,
        f"<|im_start|>user<|im_sep|>{USER}{PHI_REPLY}",
        f"<|im_start|>system<|im_sep|>{SYSTEM}<|im_end|><|im_start|>user<|im_sep|>{USER}{PHI_REPLY}",
        0,
    ),
    "falcon3": (
        FALCON,
        f"<|user|>\n{USER}\n<|assistant|>\n",
        f"<|system|>\n{SYSTEM}\n<|user|>\n{USER}\n<|assistant|>\n",
        0,
    ),
    "none": (None, USER, f"{SYSTEM}\n\n{USER}", 1),
    "refuses-a-system-turn": (
        REFUSES,
        f"<|im_start|>user<|im_sep|>{USER}{PHI_REPLY}",
        f"<|im_start|>user<|im_sep|>{SYSTEM}\n\n{USER}{PHI_REPLY}",
        0,
    ),
    "drops-a-system-turn": (
        DROPS,
        f"<|im_start|>user<|im_sep|>{USER}{PHI_REPLY}",
        f"<|im_start|>user<|im_sep|>{SYSTEM}\n\n{USER}{PHI_REPLY}",
        0,
    ),
}


@pytest.fixture(scope="module")
def speaking(tmp_path_factory, make_llama, make_tokenizer):
    """``speaking(template)``: a model of this module with that chat template."""
    model = load_model(make_llama(tmp_path_factory.mktemp("speaking")))

    def with_template(template):
        model.tokenizer = make_tokenizer(chat_template=template)
        return model

    return with_template


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_the_family_s_own_with_one_bos_and_the_start_of_the_reply(speaking, family):
    template, plain, with_system, n_bos = FAMILIES[family]
    model = speaking(template)
    assert render(ROW, model) == plain + ROW["reply_prefix"]
    assert render({**ROW, "system": SYSTEM}, model) == with_system + ROW["reply_prefix"]
    ids = encode(model.tokenizer, render(ROW, model))
    assert ids.count(model.tokenizer.bos_token_id) == n_bos


def test_a_template_that_refuses_is_heard_as_such(speaking):
    tokenizer = speaking(REFUSES).tokenizer
    with pytest.raises(TemplateError, match="no system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("template", "changes", "label", "ending"),
    [
        (None, {}, " A", "Answer:"),  # plain text after a word: the label has its space
        (None, {"reply_prefix": '{"a":"'}, "A", '{"a":"'),  # after a quote: none
        (None, {"options": ["1", "2"], "answer": "1"}, "1", "Answer: "),  # no token " 1": the text
        (PHI, {}, "A", "<|im_sep|>"),  # after a generation prompt: none
        (PHI, {"reply_prefix": "Answer:"}, " A", "Answer:"),
        (None, {"options": [" A", " B"], "answer": " A"}, " A", "Answer:"),  # literal: as it is
        (None, {"options": ["tea", "rice"], "answer": "tea"}, "tea", "Answer:"),
    ],
)
def test_a_label_is_one_token_as_it_follows_the_text(speaking, template, changes, label, ending):
    model = speaking(template)
    row = {**ASKED, "answer": "A", **changes}
    (fitted,) = adapted_rows(questions([row]), model).to_list()
    assert fitted["answer"] == label
    assert label in fitted["options"]
    assert render(row, model).endswith(ending)
    assert adapted_rows(adapted_rows(questions([row]), model), model).to_list() == [fitted]
    if label != "tea":
        token = label_tokens(model.tokenizer, [label])[label]
        assert model.tokenizer.decode([token]) == label


def test_a_tokenizer_that_would_merge_quote_and_label_keeps_them_apart(speaking):
    model = speaking(None)
    model.tokenizer.add_tokens(['"A'])
    merged = model.tokenizer.convert_tokens_to_ids('"A')
    text = render(ROW, model)
    assert merged in encode(model.tokenizer, text + "A")
    assert merged not in encode(model.tokenizer, text)
    assert label_tokens(model.tokenizer, ["A"])["A"] != merged


def test_a_number_that_is_not_one_token_is_asked_by_letters(speaking):
    model = speaking(PHI)
    numbers = [str(number) for number in range(1, 11)]
    row = {"id": "q", "prompt": "How much, 1 to 10?", "options": numbers, "answer": "10"}
    (fitted,) = adapted_rows(questions([row]), model).to_list()
    assert fitted["options"] == list("ABCDEFGHIJ")
    assert fitted["answer"] == "J"
    assert fitted["prompt"].endswith(row["prompt"])
    assert "A for 1, B for 2" in fitted["prompt"]
    assert "J for 10" in fitted["prompt"]
    few = {**row, "options": numbers[:4], "answer": "4"}
    assert adapted_rows(questions([few]), model)["options"][0] == numbers[:4]


def test_labels_that_are_no_token_are_still_refused(speaking):
    row = {**ASKED, "options": ["tea and rice", "ice"], "answer": "tea and rice"}
    with pytest.raises(InvalidInputError, match="not exactly one token"):
        batches(speaking(None), questions([row]))


def test_letters_on_a_scale_align_like_the_numbers_they_stand_for(speaking, monkeypatch):
    """The same answer is as near by letters as it is by numbers."""
    numbers = [str(number) for number in range(1, 11)]
    row = {"id": "q", "prompt": "How much?", "options": numbers, "benchmark": "worldvaluesbench"}
    pairs = [("A", "10"), ("E", "3"), ("J", "10"), ("?", "1")]
    asked = questions([{**row, "answer": gold} for _, gold in pairs])
    model = speaking(PHI)
    monkeypatch.setattr(model.cfg, "n_ctx", 256)
    prepared = prepare(model, asked)
    assert prepared.adapted["options"][0] == list("ABCDEFGHIJ")
    measured = _measures(prepared, [said for said, _ in pairs])
    meant = dict(zip("ABCDEFGHIJ", numbers, strict=True))
    expected = [alignment(meant.get(said, said), gold, numbers) for said, gold in pairs]
    assert measured["alignment"] == expected
    assert expected[2:] == [100.0, 0.0]
