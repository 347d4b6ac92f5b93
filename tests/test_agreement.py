"""No model is handed out whose logits are not those of transformers, unless it is asked for.

The models are random and made here; ../shared/data is not needed.
"""

import re
import warnings
from typing import Any

import pytest
import torch
from families import needs_3, needs_hooked, save
from reference import norm_error
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from culnig_tl import models
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import greedy_replies
from culnig_tl.models import agreement, bridge, conversion, next_logits

HOOKED = pytest.param("hooked", marks=needs_hooked)
TOKENS = torch.tensor([[1, 50, 60, 70, 80, 90, 100, 110, 120, 130]])


def load_model(*args: Any, **options: Any) -> Any:
    """Without a type: two backends and a configuration of open fields."""
    return models.load_model(*args, **options)


@pytest.fixture
def saved(tmp_path, make_tokenizer):
    """``saved(family)``: a folder with a random model of it."""

    def make(family: str):
        save(family, tmp_path / "model", make_tokenizer())
        return tmp_path / "model"

    return make


@pytest.fixture
def rewritten(folders, tmp_path, make_tokenizer):
    """``rewritten(change)``: a folder with the tiny Llama after ``change(model)``."""

    def make(change, config=None):
        model = AutoModelForCausalLM.from_pretrained(folders[2])
        if config is not None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = LlamaForCausalLM(config)
        with torch.no_grad():
            change(model)
        model.save_pretrained(tmp_path / "model")
        make_tokenizer().save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return make


def percent(text: str) -> float:
    """The figure that a sentence gives."""
    return float(re.search(r"([\d.e+-]+) % off", text)[1])  # pyright: ignore[reportOptionalSubscript]


# ---------------------------------------------------------------- known faults, mended


MENDED = ["cohere", "cohere-2", "hunyuan", "gemma-3-caps"]


@pytest.mark.parametrize("family", MENDED)
def test_a_bridge_that_transformer_lens_gets_wrong_is_mended(saved, family):
    folder = saved(family)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model = load_model(folder, backend="bridge")
    with torch.no_grad():
        assert norm_error(model(TOKENS), plain(TOKENS).logits) < 1e-5


@needs_3
@pytest.mark.parametrize("family", MENDED)
def test_what_is_not_mended_is_refused_with_the_figure(saved, family, monkeypatch):
    """The trap itself, so that this says when a later TransformerLens no longer has it."""
    monkeypatch.setattr(bridge, "_MENDED", {})
    folder = saved(family)
    with pytest.raises(InvalidInputError, match=r"as a TransformerBridge its logits") as refusal:
        load_model(folder, backend="bridge")
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        expected = plain(TOKENS).logits
        wrong = bridge.build(plain, "model", torch.float32)(TOKENS)
    assert percent(str(refusal.value)) == pytest.approx(100 * norm_error(wrong, expected), rel=1)


@needs_hooked
def test_small_biases_in_bfloat16_make_it_a_bridge(rewritten):
    """A converter drops them: 6 % off, where transformers' own rounding is about 1 %."""

    def small(model):
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(weight, std=0.015)
            elif weight.ndim == 2:
                nn.init.normal_(weight, std=0.05)

    config = LlamaConfig(
        vocab_size=310,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        attention_bias=True,
        mlp_bias=True,
    )
    folder = rewritten(small, config)
    model = load_model(folder, dtype="bfloat16")
    assert type(model).__name__ == "TransformerBridge"
    own = float(re.search(r"own rounding is ([\d.]+) %", model.cfg.loaded_as)[1])  # pyright: ignore[reportOptionalSubscript]
    assert percent(model.cfg.loaded_as) > 2 * own
    with pytest.raises(InvalidInputError, match=r"% off.*backend='bridge'"):
        load_model(folder, dtype="bfloat16", backend="hooked")


def test_a_model_that_sees_later_tokens_is_refused(saved):
    """A BERT loads as a causal model, and its position 0 sees the last token."""
    with pytest.raises(InvalidInputError, match=r"later token changes.*BertLMHeadModel is no"):
        load_model(saved("bert"))


def test_a_bert_that_is_a_decoder_is_handed_out(saved):
    assert load_model(saved("bert-decoder")).cfg.caches


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", ["auto", HOOKED, "bridge"])
def test_a_weight_that_is_not_finite_is_refused(rewritten, value, backend):
    def spoil(model):
        model.model.layers[1].mlp.down_proj.weight[3, 5] = value

    with pytest.raises(InvalidInputError, match="own logits are not finite in float32"):
        load_model(rewritten(spoil), backend=backend)


def test_numbers_beyond_float16_are_refused_in_float16_only(rewritten):
    def grow(model):
        model.model.layers[0].mlp.down_proj.weight.mul_(1e6)

    folder = rewritten(grow)
    assert load_model(folder).cfg.n_layers == 3
    assert load_model(folder, dtype="bfloat16").cfg.n_layers == 3
    with pytest.raises(InvalidInputError, match="own logits are not finite in float16"):
        load_model(folder, dtype="float16")


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize(
    "family",
    ["mamba", pytest.param("mpt", marks=needs_3), pytest.param("falcon-rw", marks=needs_3)],
)
def test_a_wrong_cache_is_not_used(saved, family):
    """Its logits were off by more than 80 % in the first step; read again, they are right."""
    folder = saved(family)
    model = load_model(folder)
    assert not model.cfg.caches
    assert "generation reads each text again" in model.cfg.loaded_as
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    mask = torch.ones(1, 10, dtype=torch.bool)
    with torch.no_grad():
        _, cache = next_logits(model, TOKENS[:, :-1], mask[:, :-1])
        found, _ = next_logits(model, TOKENS[:, -1:], mask, cache)
        assert found.shape[1] == 1
        assert norm_error(found[0, -1], plain(TOKENS).logits[0, -1]) < 1e-5


TEXT = "Which drink? tea rice Answer:"


def likeliest(folder, tokenizer) -> list[int]:
    """Eight tokens after TEXT as transformers writes them, all read again for each: no cache."""
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, plain(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert 2 not in ids[0, -8:]  # nothing ends it early
    return ids[0, -8:].tolist()


@pytest.mark.parametrize("family", ["mpt", "falcon-rw", "mamba", "llama"])
def test_what_a_model_writes_is_what_transformers_writes(saved, family):
    """Whether its cache may be used or not."""
    folder = saved(family)
    model = load_model(folder)
    expected = model.tokenizer.decode(likeliest(folder, model.tokenizer), skip_special_tokens=True)
    assert greedy_replies(model, [TEXT], max_new_tokens=8) == [expected]


@pytest.mark.parametrize("backend", [HOOKED, "bridge"])
def test_a_reply_ends_at_any_token_that_a_generation_config_names(saved, backend):
    folder = saved("llama")
    tokenizer = load_model(folder).tokenizer
    tokens = likeliest(folder, tokenizer)
    GenerationConfig(eos_token_id=[2, tokens[3]]).save_pretrained(folder)
    (reply,) = greedy_replies(load_model(folder, backend=backend), [TEXT], max_new_tokens=8)
    assert reply == tokenizer.decode(tokens[: tokens.index(tokens[3])])


@pytest.mark.parametrize("backend", [HOOKED, "bridge"])
def test_a_right_cache_is_used(loaded, backend):
    model = loaded(2, backend, "float32")
    assert model.cfg.caches
    mask = torch.ones(1, 10, dtype=torch.bool)
    with torch.no_grad():
        before, cache = next_logits(model, TOKENS[:, :-1], mask[:, :-1])
        after, _ = next_logits(model, TOKENS[:, -1:], mask, cache)
        assert not isinstance(cache, torch.Tensor)
        assert norm_error(torch.cat([before, after], 1), model(TOKENS)) < 1e-5


# ---------------------------------------------------------------- trust


@needs_3
def test_trust_hands_it_out_with_a_warning_that_stays(saved, monkeypatch):
    monkeypatch.setattr(bridge, "_MENDED", {})
    with pytest.warns(UserWarning, match=r"on trust although its logits would be .* % off"):
        model = load_model(saved("cohere"), trust=True)
    assert re.search(r"TransformerBridge, on trust although .* % off", model.cfg.loaded_as)


@pytest.mark.parametrize("backend", [HOOKED, "bridge"])
def test_trust_takes_the_backend_that_is_asked_for(saved, backend):
    folder = saved("llama-biases")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_model(folder, backend=backend, trust=True)
    wrong = backend == "hooked"
    assert any("on trust" in str(each.message) for each in caught) == wrong
    assert ("on trust" in model.cfg.loaded_as) == wrong


def test_trust_needs_no_trust_where_the_bridge_is_right(saved):
    assert "on trust" not in load_model(saved("llama-biases"), trust=True).cfg.loaded_as


def test_trust_hands_out_what_is_not_causal(saved):
    with pytest.warns(UserWarning, match="no causal language model"):
        assert "no causal" in load_model(saved("bert"), trust=True).cfg.loaded_as


# ---------------------------------------------------------------- the check itself


@pytest.mark.parametrize(
    ("backend", "dtype", "n_theirs", "n_ours"),
    [
        pytest.param("hooked", "float32", 24, 30, marks=needs_hooked),
        ("bridge", "float32", 24, 30),
        pytest.param("hooked", "bfloat16", 48, 30, marks=needs_hooked),
        ("bridge", "bfloat16", 48, 30),
    ],
)
def test_it_costs_two_short_passes(folders, monkeypatch, backend, dtype, n_theirs, n_ours):
    """Tokens that transformers and the model read while it is loaded."""
    theirs, ours = [], []
    reading, stepping = agreement._read_alone, agreement.next_logits

    def read_alone(read, tokens, mask):
        theirs.append(int(mask.sum()))
        return reading(read, tokens, mask)

    def step(model, tokens, mask, cache=None):
        ours.append(tokens.numel())
        return stepping(model, tokens, mask, cache)

    monkeypatch.setattr(agreement, "_read_alone", read_alone)
    monkeypatch.setattr(agreement, "next_logits", step)
    load_model(folders[2], backend=backend, dtype=dtype)
    assert (sum(theirs), sum(ours)) == (n_theirs, n_ours)


@pytest.mark.parametrize("backend", [HOOKED, "bridge"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_of_their_type_after_it(folders, backend, dtype):
    """They are widened while a module runs, and no longer."""
    model = load_model(folders[2], backend=backend, dtype=dtype)
    assert {str(weight.dtype) for weight in model.parameters()} == {f"torch.{dtype}"}
    plain = AutoModelForCausalLM.from_pretrained(folders[2], dtype=getattr(torch, dtype))
    hooks = [module for module in plain.modules() if module._forward_pre_hooks]
    assert not hooks
    found, expected = model(TOKENS), plain(TOKENS).logits
    assert norm_error(found, expected.detach()) < 0.05


@pytest.mark.parametrize("family", ["llama", "gemma-2", "gpt2", "mixtral", "qwen3-next", "cohere"])
def test_widened_modules_compute_what_a_float32_model_does(saved, family):
    folder = saved(family)
    narrow, wide = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval() for _ in range(2)
    )
    with torch.no_grad(), agreement._widened(narrow):
        found = narrow(TOKENS).logits
    assert found.dtype == torch.float32
    assert norm_error(found, wide.float()(TOKENS).logits.detach()) < 1e-2


def test_nothing_of_it_is_left_if_the_model_fails(folders, monkeypatch):
    plain = AutoModelForCausalLM.from_pretrained(folders[2], dtype=torch.bfloat16)
    before = [weight.data_ptr() for weight in plain.parameters()]

    def fail(*args, **options):
        raise RuntimeError("no")

    monkeypatch.setattr(plain.model.norm, "forward", fail)
    with pytest.raises(RuntimeError), agreement._widened(plain):
        plain(TOKENS)
    assert [weight.data_ptr() for weight in plain.parameters()] == before
    assert all(weight.dtype == torch.bfloat16 for weight in plain.parameters())
    assert not any(module._forward_pre_hooks for module in plain.modules())


@pytest.mark.parametrize("precision", ["medium", "highest"])
def test_products_are_exact_while_it_compares(folders, precision):
    """TF32, allowed elsewhere, would be a thousand times the tolerance."""
    torch.set_float32_matmul_precision(precision)
    try:
        load_model(folders[2])
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


@needs_hooked
@pytest.mark.parametrize("strength", [1e-5, 1e-2])
def test_a_converter_that_is_slightly_wrong_is_noticed(folders, monkeypatch, strength):
    converting = conversion.convert

    def wrong(*args, **options):
        model = converting(*args, **options)
        model.unembed.W_U.data = model.unembed.W_U.data + strength * torch.randn_like(model.W_U)
        return model

    monkeypatch.setattr(conversion, "convert", wrong)
    backend = "HookedTransformer" if strength < 1e-4 else "TransformerBridge"
    assert type(load_model(folders[2])).__name__ == backend


# ---------------------------------------------------------------- limits


def test_the_context_is_the_one_that_the_configuration_keeps(saved):
    """MPT calls it max_seq_len, OPT has two positions more than it says, BLOOM keeps none."""
    for family, length in (("mpt", 256), ("opt", 256), ("gpt2", 256), ("llama", 256)):
        assert load_model(saved(family)).cfg.n_ctx == length


def test_without_a_context_of_its_own_the_tokenizer_tells(tmp_path, make_tokenizer):
    tokenizer = make_tokenizer()
    for said, length in ((int(1e30), 2048), (123, 123)):
        tokenizer.model_max_length = said
        save("mamba", tmp_path / f"{length}", tokenizer)
        assert load_model(tmp_path / f"{length}").cfg.n_ctx == length


@pytest.mark.parametrize("backend", [HOOKED, "bridge"])
def test_a_longer_context_is_taken_where_positions_are_computed(folders, backend):
    model = load_model(folders[2], backend=backend, n_ctx=3000)
    plain = AutoModelForCausalLM.from_pretrained(folders[2])
    tokens = torch.arange(2500)[None] % 290
    assert model.cfg.n_ctx == 3000
    with torch.no_grad():
        assert norm_error(model(tokens)[0, -1], plain(tokens).logits[0, -1]) < 1e-4
    assert load_model(folders[2], backend=backend, n_ctx=12).cfg.n_ctx == 12


def test_a_longer_context_than_a_table_of_positions_is_refused(saved):
    folder = saved("gpt2")
    assert load_model(folder, n_ctx=100).cfg.n_ctx == 100
    with pytest.raises(InvalidInputError, match=r"n_ctx is 257.*table of 256 positions"):
        load_model(folder, n_ctx=257)
    with pytest.raises(InvalidInputError, match="n_ctx is 0"):
        load_model(folder, n_ctx=0)


def test_every_token_that_ends_a_reply_is_known(folders, saved):
    folder = saved("llama")
    assert load_model(folder).cfg.end_tokens == [2]
    GenerationConfig(eos_token_id=[7, 2, 9]).save_pretrained(folder)
    assert load_model(folder).cfg.end_tokens == [2, 7, 9]


def test_the_vocabulary_is_that_of_the_unembedding(rewritten):
    folder = rewritten(lambda model: model.resize_token_embeddings(320, mean_resizing=False))
    for backend in ("auto", "bridge"):
        model = load_model(folder, backend=backend)
        assert model.cfg.d_vocab == model(TOKENS).shape[-1] == 320


@pytest.mark.parametrize(
    ("family", "n_experts"), [("llama", 0), ("mixtral", 4), ("deepseek-v3", 4)]
)
def test_the_number_of_experts_is_known(saved, family, n_experts):
    assert load_model(saved(family)).cfg.num_experts == n_experts


def test_the_width_of_an_mlp_is_that_of_its_last_layer(saved):
    """OPT and XGLM call it ffn_dim, which TransformerLens takes for four times the model's."""
    for family in ("opt", "xglm", "opt-350m"):
        assert load_model(saved(family), backend="bridge").cfg.d_mlp == 48
