"""Positions that depend on what else is read: each prompt is read as if it were alone."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from families import family_config, plain_logits
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.generation import greedy_replies
from culnig_tl.evaluation.likelihood import option_log_probabilities
from culnig_tl.logits import last_logits
from culnig_tl.positions import switch_lengths
from culnig_tl.questions import encode, padded

SWITCH = 24
ANGLES = {
    "longrope": {
        "original_max_position_embeddings": SWITCH,
        "factor": 4.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 2.6, 3.2, 3.8],
    },
    "dynamic": {"factor": 4.0},
}


@pytest.fixture(scope="module")
def turning(tmp_path_factory, make_tokenizer):
    """Folders of Llamas by the type of their rotary positions."""
    folders = {}
    for kind, settings in ANGLES.items():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=310,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=96,
            initializer_range=0.15,
            rope_parameters={"rope_type": kind, "rope_theta": 1e4, **settings},
        )
        folders[kind] = tmp_path_factory.mktemp(kind)
        LlamaForCausalLM(config).save_pretrained(folders[kind])
        make_tokenizer().save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="module")
def switching(turning):
    return ct.load_model(str(turning["longrope"]), backend="bridge")


@pytest.fixture(scope="module")
def rows():
    """Questions of 6 to 62 tokens."""
    prompts = [" ".join(["tea"] * n) + " drink? Answer:" for n in (2, 10, 19, 24, 30, 60)]
    return [
        {"id": str(at), "culture": "A", "answer": " A", "prompt": prompt, "options": [" A", " B"]}
        for at, prompt in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def prompts(switching, rows):
    found = [encode(switching.tokenizer, row["prompt"]) for row in rows]
    assert min(map(len, found)) <= SWITCH < sorted(map(len, found))[-2]
    return found


def plain_of(folder):
    return LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def test_probabilities_are_those_of_transformers_reading_one_prompt(
    turning, switching, rows, prompts
):
    plain = plain_of(turning["longrope"])
    singles = [plain_logits(plain, *padded([prompt], 0)) for prompt in prompts]
    answers = torch.tensor(ct.prepare(switching, rows).answers)
    expected = torch.cat(singles).softmax(-1).gather(1, answers[:, None]).squeeze(1)
    found = torch.tensor(ct.evaluate(switching, rows)["probability"])
    assert torch.allclose(found.float(), expected, rtol=1e-4)


def test_scores_and_whole_options_do_not_depend_on_what_is_read_beside(switching, rows):
    def measured(some):
        chunks = ct.attribute_questions(switching, some, progress=False)
        scores = torch.cat([chunk.values["mlp.hook_post"] for chunk in chunks])
        return scores, torch.tensor(option_log_probabilities(ct.prepare(switching, some)))

    together, separate = measured(rows), [measured([row]) for row in rows]
    for whole, parts in zip(together, zip(*separate, strict=True), strict=True):
        assert torch.allclose(whole, torch.cat(parts), rtol=1e-3, atol=1e-9)


def test_replies_are_those_of_one_prompt_at_a_time(switching, rows):
    texts = [row["prompt"] for row in rows]
    separate = [greedy_replies(switching, [text], max_new_tokens=1)[0] for text in texts]
    assert greedy_replies(switching, texts, max_new_tokens=1) == separate


def test_a_reply_across_the_switch_is_a_sentence(switching, prompts, rows):
    room = SWITCH - min(map(len, prompts)) + 1
    greedy_replies(switching, [rows[0]["prompt"]], max_new_tokens=room)
    with pytest.raises(InvalidInputError, match=r"'text 0' takes .* more than 24 otherwise"):
        greedy_replies(switching, [rows[0]["prompt"]], max_new_tokens=room + 1)


def test_a_batch_across_the_switch_is_a_sentence(switching, prompts):
    with pytest.raises(InvalidInputError, match="65 positions has a prompt of 7"):
        last_logits(switching, *padded(prompts, 0))
    long = [prompt for prompt in prompts if len(prompt) > SWITCH]
    assert last_logits(switching, *padded(long, 0)).shape == (len(long), 310)


def test_angles_that_depend_on_what_was_read_before_are_kept_to_the_context(turning):
    folder = str(turning["dynamic"])
    assert ct.load_model(folder, backend="bridge", n_ctx=64).cfg.n_ctx == 64
    with pytest.raises(
        InvalidInputError, match=r"n_ctx is 97 .* read before .dynamic.; take at most 96"
    ):
        ct.load_model(folder, backend="bridge", n_ctx=97)


def test_layers_with_angles_of_their_own_are_read_each(switching):
    both = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": switching.original_model.config.rope_parameters,
    }
    config = Gemma3TextConfig(vocab_size=310, rope_parameters=both)
    assert switch_lengths(SimpleNamespace(original_model=SimpleNamespace(config=config))) == [24]
    assert switch_lengths(switching) == [SWITCH]
    assert switch_lengths(ct.load_model()) == []


def test_attention_that_is_sharpened_by_position_reads_long_prompts_by_their_length(
    tmp_path, make_tokenizer, rows
):
    config = family_config(
        "llama4_text",
        intermediate_size_mlp=48,
        floor_scale=40,
        attn_scale=0.9,
        no_rope_layers=[0, 0],
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    model = ct.load_model(str(tmp_path))
    long = rows[-1] | {"prompt": "tea " + rows[-1]["prompt"]}
    together, separate = [rows[-1], long, *rows[:-1]], [rows[-1:], [long], rows[:-1]]
    alone = pd.concat([ct.evaluate(model, each) for each in separate])
    found = ct.evaluate(model, together)
    assert found["probability"].tolist() == pytest.approx(alone["probability"].tolist(), rel=1e-4)
    assert len(ct.batches(model, together)) == 3
