"""Tiny random models of a hundred families, and what plain transformers computes of them.

``plain_scores`` is METHOD section 1 written with nothing but transformers and module hooks, as the
published code reads it: one left-padded batch, ``a * dP/da`` at the outputs of linear layers.
``plain_logits`` reads each prompt on its own, with half of the MLPs' neurons at 0 if asked to. They
share nothing with the package and are the witness of every family on both backends.

    python tests/families.py docs/families.md

writes the table of what is supported where, and the sentences of what is refused.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from culnig_tl.errors import CulnigError
from culnig_tl.models import load_model
from culnig_tl.sites import SITES, measure_sites

GATED = ("mlp.hook_post", "mlp.hook_pre", "mlp.hook_pre_linear")
PLAIN_MLP = ("mlp.hook_post", "mlp.hook_pre")
ATTENTION = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
LATENT: tuple[str, ...] = ()  # queries and keys by head, then position: no axis of neurons

HAS_HOOKED = version("transformer-lens").startswith("3.")
needs_hooked = pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no such backend")
needs_3 = pytest.mark.skipif(not HAS_HOOKED, reason="a fault that TransformerLens 4 has mended")

_NO_ADAPTER = r"has no bridge for .*\(Unsupported architecture"


@dataclass(frozen=True)
class Family:
    """A configuration and what the package makes of it.

    Attributes:
        config: of transformers.
        mlp_sites: sites of its MLPs.
        attention_sites: sites of its attention.
        hooked: whether it becomes a HookedTransformer.
        refusal: what the refusal as a TransformerBridge says; empty where it is one.
        half_refusal: the same in bfloat16.
        caches: whether generation uses the key/value cache.
    """

    config: PretrainedConfig
    mlp_sites: tuple[str, ...] = GATED
    attention_sites: tuple[str, ...] = ATTENTION
    hooked: bool = False
    refusal: str = ""
    half_refusal: str = ""
    caches: bool = True

    @property
    def sites(self) -> tuple[str, ...]:
        return self.mlp_sites + self.attention_sites

    @property
    def backends(self) -> tuple[str, ...]:
        hooked = self.hooked and HAS_HOOKED
        return ("hooked",) * hooked + ("bridge",) * (not self.refusal)


# Two layers, grouped-query attention, special tokens as in the tests' tokenizer. A configuration
# takes of these what it has; every size that a class knows by another name is among them.
_SIZES: dict[str, Any] = {
    "vocab_size": 310,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "head_dim": 8,
    "n_embd": 32,
    "n_inner": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "num_layers": 2,
    "num_heads": 4,
    "attention_heads": 4,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "max_seq_len": 256,
    "rotary_dim": 4,
    "sliding_window": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
}
_LATENT: dict[str, Any] = {
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_LINEAR_ATTENTION: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_STATE_SPACE: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
}


def family_config(model_type: str, **changes: Any) -> PretrainedConfig:
    """A small configuration of a model type."""
    kind = CONFIG_MAPPING[model_type]
    known = {*kind.__dataclass_fields__, *kind.attribute_map}
    return kind(**{name: size for name, size in _SIZES.items() if name in known} | changes)


def _rope(theta: float, kind: str = "default", **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **more}


# A window of 8 in a prompt of 40, and a long base with linear scaling in the global layer.
_GEMMA3: dict[str, Any] = {
    "head_dim": 16,
    "sliding_window": 8,
    "query_pre_attn_scalar": 24,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": _rope(1e4),
        "full_attention": _rope(1e6, "linear", factor=8.0),
    },
}
_GEMMA3_SIZES = {
    name: size for name, size in _SIZES.items() if name in Gemma3TextConfig.__dataclass_fields__
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_LLAMA31_ROPE = _rope(
    1e4,
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)


def _both(config: PretrainedConfig, mlp_sites: tuple[str, ...] = GATED) -> Family:
    return Family(config, mlp_sites, hooked=True)


def _plain(config: PretrainedConfig, **more: Any) -> Family:
    """An MLP without a gate."""
    return Family(config, PLAIN_MLP, **more)


def _experts(config: PretrainedConfig, **more: Any) -> Family:
    """Mixtures of experts, in some layers at least, whose neurons are no site."""
    return Family(config, (), **more)


def _refused(config: PretrainedConfig, refusal: str) -> Family:
    return Family(config, (), (), refusal=refusal)


def _mended_in_4(family: Family) -> Family:
    """What is wrong with it in TransformerLens 3.9 is right in 4."""
    return family if HAS_HOOKED else replace(family, refusal="", caches=True)


FAMILIES: Mapping[str, Family] = {
    # ------------------------------------------------ HookedTransformer and TransformerBridge
    "llama": _both(family_config("llama")),
    "llama-3.1": _both(family_config("llama", rope_parameters=_LLAMA31_ROPE)),
    "llama-linear-rope": _both(
        family_config("llama", rope_parameters=_rope(1e4, "linear", factor=4.0))
    ),
    "llama-tied": _both(family_config("llama", tie_word_embeddings=True)),
    # Falcon3-10B: a Llama with heads wider than d_model / n_heads
    "falcon3": _both(family_config("llama", head_dim=16, rope_parameters=_rope(1000042.0))),
    "mistral": _both(family_config("mistral", sliding_window=8)),
    "mixtral": _experts(family_config("mixtral"), hooked=True),
    "qwen2": _both(family_config("qwen2", rope_parameters=_rope(1e6))),
    "qwen3": _both(family_config("qwen3", head_dim=16, rope_parameters=_rope(1e6))),
    "phi-2": _plain(family_config("phi", num_key_value_heads=4), hooked=True),
    "phi-4": _both(family_config("phi3", rope_parameters=_rope(250000.0))),
    "phi-4-mini": _both(
        family_config("phi3", rope_parameters=_rope(1e4, partial_rotary_factor=0.5))
    ),
    "gemma": _both(family_config("gemma", head_dim=16)),
    "gemma-2": _both(family_config("gemma2", head_dim=16, query_pre_attn_scalar=24)),
    "gemma-2-tight-caps": _both(
        family_config("gemma2", attn_logit_softcapping=2.0, final_logit_softcapping=1.0)
    ),
    "gemma-3": _both(family_config("gemma3_text", **_GEMMA3)),
    "gemma-3-caps": _both(
        family_config(
            "gemma3_text", **_GEMMA3, attn_logit_softcapping=0.5, final_logit_softcapping=3.0
        )
    ),
    "gemma-3-multimodal": _both(
        Gemma3Config(
            text_config=_GEMMA3_SIZES | _GEMMA3,
            vision_config=_VISION,
            mm_tokens_per_image=4,
            image_token_index=300,
            boi_token_index=301,
            eoi_token_index=302,
        )
    ),
    "gpt2": _plain(family_config("gpt2"), hooked=True),
    "gpt-neo": _plain(
        family_config(
            "gpt_neo",
            intermediate_size=None,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
        ),
        hooked=True,
    ),
    "gpt-j": _plain(family_config("gptj", n_inner=None), hooked=True),
    "pythia": _plain(family_config("gpt_neox", rotary_pct=0.25), hooked=True),
    "gpt-neox-serial": _plain(family_config("gpt_neox", use_parallel_residual=False), hooked=True),
    "opt": _plain(family_config("opt"), hooked=True),
    "bloom": _plain(family_config("bloom"), hooked=True),
    "olmo": _both(family_config("olmo", num_key_value_heads=4, clip_qkv=0.5)),
    "olmo-2": _both(family_config("olmo2", num_key_value_heads=4)),
    "olmo-3": _both(family_config("olmo3")),
    "olmoe": _experts(family_config("olmoe"), hooked=True),
    "gpt-oss": _experts(family_config("gpt_oss"), hooked=True),
    "apertus": _plain(family_config("apertus"), hooked=True),
    # ------------------------------------------------ TransformerBridge alone
    "llama-biases": Family(family_config("llama", attention_bias=True, mlp_bias=True)),
    "llama-yarn": Family(
        family_config(
            "llama",
            rope_parameters=_rope(1e4, "yarn", factor=4.0, original_max_position_embeddings=64),
        )
    ),
    "llama-dynamic-rope": Family(
        family_config("llama", rope_parameters=_rope(1e4, "dynamic", factor=4.0))
    ),
    "llama-4": _experts(family_config("llama4_text", intermediate_size_mlp=48)),
    "ministral-3": Family(family_config("ministral3")),
    "qwen3-biases": Family(family_config("qwen3", attention_bias=True)),
    "qwen2-moe": _experts(family_config("qwen2_moe")),
    "qwen3-moe": _experts(family_config("qwen3_moe", head_dim=16)),
    "qwen3-next": Family(family_config("qwen3_next", **_LINEAR_ATTENTION), (), ()),
    "qwen3.5": Family(family_config("qwen3_5_text", **_LINEAR_ATTENTION), GATED, ()),
    "phi-3-longrope": Family(
        family_config(
            "phi3",
            rope_parameters=_rope(
                1e4,
                "longrope",
                short_factor=[1.1] * 4,
                long_factor=[2.0] * 4,
                original_max_position_embeddings=64,
                partial_rotary_factor=1.0,
            ),
        )
    ),
    "gemma-4": Family(
        family_config(
            "gemma4_text",
            vocab_size_per_layer_input=310,
            hidden_size_per_layer_input=8,
            global_head_dim=8,
            layer_types=["sliding_attention", "full_attention"],
            num_kv_shared_layers=0,
        )
    ),
    "vaultgemma": Family(family_config("vaultgemma")),
    "cohere": Family(family_config("cohere")),
    "cohere-2": Family(
        family_config("cohere2", layer_types=["sliding_attention", "full_attention"])
    ),
    "hunyuan": Family(family_config("hunyuan_v1_dense")),
    "glm": Family(family_config("glm")),
    "glm-4": Family(family_config("glm4")),
    "glm-4-moe": _experts(family_config("glm4_moe")),
    "glm-4-moe-lite": _experts(family_config("glm4_moe_lite", **_LATENT), attention_sites=LATENT),
    "deepseek-v2": _experts(family_config("deepseek_v2", **_LATENT), attention_sites=LATENT),
    "deepseek-v3": _experts(family_config("deepseek_v3", **_LATENT), attention_sites=LATENT),
    "youtu": Family(family_config("youtu", **_LATENT), GATED, LATENT),
    "ernie-4.5": Family(family_config("ernie4_5")),
    "ernie-4.5-moe": _experts(family_config("ernie4_5_moe")),
    "exaone-4": Family(family_config("exaone4")),
    "smollm3": Family(family_config("smollm3", no_rope_layers=[1, 0])),
    "seed-oss": Family(family_config("seed_oss")),
    "arcee": _plain(family_config("arcee")),
    "afmoe": _experts(family_config("afmoe")),
    "laguna": _experts(family_config("laguna")),
    "minimax-m2": _experts(family_config("minimax_m2")),
    "flex-olmo": _experts(family_config("flex_olmo")),
    "bitnet": Family(family_config("bitnet")),
    "granite": Family(
        family_config(
            "granite",
            embedding_multiplier=2.0,
            logits_scaling=4.0,
            residual_multiplier=0.5,
            attention_multiplier=0.2,
        )
    ),
    "granite-moe": _experts(family_config("granitemoe")),
    "jais-2": _plain(family_config("jais2")),
    "nemotron": _plain(family_config("nemotron")),
    "nanochat": _plain(family_config("nanochat")),
    "starcoder-2": _plain(family_config("starcoder2")),
    "starcoder": _plain(family_config("gpt_bigcode")),
    "stablelm": Family(family_config("stablelm")),
    "stablelm-2-12b": Family(
        family_config("stablelm", qk_layernorm=True, use_parallel_residual=True)
    ),
    "codegen": _plain(
        family_config("codegen"), half_refusal="it cannot read a prompt: .* same dtype"
    ),
    "falcon-7b": _plain(family_config("falcon")),
    "falcon-rw": _mended_in_4(
        _plain(
            family_config("falcon", alibi=True, multi_query=False, parallel_attn=False, bias=True),
            caches=False,
        )
    ),
    "mpt": _mended_in_4(_plain(family_config("mpt"), caches=False)),
    "opt-350m": _plain(family_config("opt", do_layer_norm_before=False, word_embed_proj_dim=16)),
    "xglm": _plain(family_config("xglm")),
    "modernbert-decoder": Family(family_config("modernbert-decoder"), ("mlp.hook_post",)),
    "bert-decoder": _plain(family_config("bert", is_decoder=True)),
    "falcon-h1": Family(
        family_config(
            "falcon_h1", mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8
        )
    ),
    "bamba": Family(family_config("bamba", **_STATE_SPACE, attn_layer_indices=[1]), GATED, ()),
    "olmo-hybrid": Family(family_config("olmo_hybrid"), GATED, ()),
    "lfm2": Family(family_config("lfm2", layer_types=["full_attention", "full_attention"])),
    "jetmoe": Family(family_config("jetmoe"), (), ()),
    "mamba": Family(family_config("mamba"), (), (), caches=False),
    "mamba-2": Family(
        family_config("mamba2", num_heads=4, head_dim=16, n_groups=1, state_size=8),
        (),
        (),
        caches=False,
    ),
    "falcon-mamba": Family(family_config("falcon_mamba"), (), (), caches=False),
    # ------------------------------------------------ refused
    "bert": _refused(
        family_config("bert"), "a later token changes earlier logits by .* no causal language"
    ),
    "gpt-1": _refused(
        family_config("openai-gpt"), "as a TransformerBridge its logits would be .* % off"
    ),
    "rwkv": _refused(family_config("rwkv"), "its logits of a left-padded prompt would be .* % off"),
    "recurrentgemma": _refused(
        family_config(
            "recurrent_gemma",
            block_types=["recurrent", "attention"],
            lru_width=32,
            attention_window_size=8,
        ),
        "its logits of a left-padded prompt would be .* % off",
    ),
    "falcon-40b": _refused(
        family_config("falcon", new_decoder_architecture=True, num_kv_heads=2, bias=False),
        r"has no bridge for .*\(split_with_sizes",
    ),
    "command-r-plus": _mended_in_4(
        Family(
            family_config("cohere", use_qk_norm=True),
            refusal="has no bridge for .* did not declare 'q_norm'",
        )
    ),
    "phi-qk-norm": _refused(
        family_config("phi", qk_layernorm=True), "has no bridge for .* did not declare 'q_norm'"
    ),
    "starcoder-multihead": _refused(
        family_config("gpt_bigcode", multi_query=False),
        "has no bridge for .* only supports multi_query",
    ),
    "granite-moe-hybrid": _refused(
        family_config("granitemoehybrid", **_STATE_SPACE, layer_types=["mamba", "attention"]),
        "as a TransformerBridge it cannot read a prompt",
    ),
    "phi-moe": _refused(family_config("phimoe"), _NO_ADAPTER),
    "persimmon": _refused(family_config("persimmon"), _NO_ADAPTER),
    "helium": _refused(family_config("helium"), _NO_ADAPTER),
    "biogpt": _refused(family_config("biogpt"), _NO_ADAPTER),
}


def save(family: str, folder: Path, tokenizer: Any) -> Any:
    """Write a random model of ``family`` into ``folder`` and return it, as transformers made it.

    Weights are large and no norm or bias is the identity, so that whatever a conversion forgets
    shows in the logits.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            FAMILIES[family].config, attn_implementation="eager"
        )
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                nn.init.normal_(weight, mean=0.0 if name.endswith("bias") else 0.8, std=0.2)
            else:
                nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def plain_logits(model: Any, tokens: Tensor, mask: Tensor, *, masked: bool = False) -> Tensor:
    """transformers' own logits at the last position of each prompt, read without its padding.

    With ``masked``, every second neuron of every MLP is 0, by hooks on the last linear layer.
    """

    def scale(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept = torch.arange(inputs[0].shape[-1]) % 2
        return (inputs[0] * kept.to(inputs[0]), *inputs[1:])

    layers = [_last_of_mlp(block) for block in _blocks(model)] if masked else []
    handles = [layer.register_forward_pre_hook(scale) for layer in layers]
    try:
        with torch.no_grad():
            prompts = [line[real][None] for line, real in zip(tokens, mask, strict=True)]
            return torch.cat([model(prompt).logits[:, -1] for prompt in prompts])
    finally:
        for handle in handles:
            handle.remove()


def plain_scores(
    model: Any, batch: Any, sites: tuple[str, ...], *, padding: str
) -> dict[str, Tensor]:
    """P * max over positions of a * dP/da, [batch layer neuron] a site, by plain autograd."""
    watched = _watch(model, sites)
    positions = (batch.mask.long().cumsum(1) - 1).clamp(min=0)
    try:
        logits = model(
            batch.tokens, attention_mask=batch.mask.long(), position_ids=positions
        ).logits[:, -1]
    finally:
        for handle in watched.handles:
            handle.remove()
    probability = logits.softmax(-1)[torch.arange(len(batch.answers)), batch.answers]
    probability.sum().backward()
    scores: dict[str, list[Tensor]] = {site: [] for site in sites}
    for (site, _layer), (tensor, columns) in sorted(watched.seen.items()):
        assert tensor.grad is not None
        product = (tensor * tensor.grad).detach()[..., columns]
        product[~batch.mask] = 0.0 if padding == "zero" else float("-inf")
        scores[site].append(product.max(1).values * probability.detach()[:, None])
    model.zero_grad()
    return {site: torch.stack(layers, 1) for site, layers in scores.items()}


class _Watched:
    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], tuple[Tensor, Any]] = {}
        self.handles: list[Any] = []


def _watch(model: Any, sites: tuple[str, ...]) -> _Watched:
    watched = _Watched()
    for layer, block in enumerate(_blocks(model)):
        for site in sites:
            module, is_input, columns = _place(block, site)

            def keep(_module, inputs, output, at=(site, layer), is_input=is_input, columns=columns):
                tensor = inputs[0] if is_input else output
                tensor.retain_grad()
                watched.seen[at] = tensor, columns
                return output.clone()  # OLMo clips what it is given in place

            watched.handles.append(module.register_forward_hook(keep))
    return watched


def _blocks(model: Any) -> Any:
    """The first list of modules that is as long as the model is deep, in the text model."""
    text = getattr(getattr(model, "model", model), "language_model", model)
    config = text.config.get_text_config()
    depth = getattr(config, "num_hidden_layers", None) or config.num_layers
    return next(
        module
        for module in text.modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    )


def _place(block: Any, site: str) -> tuple[Any, bool, Any]:
    """Linear layer, whether its input is meant, and the columns of a fused one."""
    part, _, kind = site.partition(".hook_")
    if part == "mlp":
        return _mlp_place(block.mlp, kind)
    return _attention_place(block, "qkv".index(kind))


def _mlp_place(mlp: Any, kind: str) -> tuple[Any, bool, Any]:
    if kind == "post":
        return _last_of_mlp(mlp), True, slice(None)
    if hasattr(mlp, "gate_up_proj"):
        width = mlp.gate_up_proj.out_features // 2
        return mlp.gate_up_proj, False, slice(0, width) if kind == "pre" else slice(width, None)
    names = ("gate_proj", "c_fc", "dense_h_to_4h") if kind == "pre" else ("up_proj",)
    return next(getattr(mlp, name) for name in names if hasattr(mlp, name)), False, slice(None)


_LAST = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2", "Wo", "output.dense")


def _last_of_mlp(block: Any) -> Any:
    """The last linear layer of a block's MLP: the one of these names that no attention has."""
    layers = dict(block.named_modules())
    return next(
        layer
        for last in _LAST
        for name, layer in layers.items()
        if f".{name}".endswith(f".{last}") and "attn" not in name and "attention" not in name
    )


def _attention_place(block: Any, which: int) -> tuple[Any, bool, Any]:
    if hasattr(block, "attn"):  # GPT-2: queries, keys and values side by side
        width = block.attn.c_attn.nf // 3
        return block.attn.c_attn, False, slice(which * width, (which + 1) * width)
    if hasattr(block, "attention"):  # GPT-NeoX: side by side within each head
        fused, d_head = block.attention.query_key_value, block.attention.head_size
        columns = torch.arange(fused.out_features).view(-1, 3, d_head)[:, which].flatten()
        return fused, False, columns
    attention = block.self_attn
    if hasattr(attention, "qkv_proj"):  # Phi-3: grouped queries, then keys, then values
        d_head, config = attention.head_dim, attention.config
        ends = [config.num_attention_heads * d_head]
        ends += [ends[0] + config.num_key_value_heads * d_head * i for i in (1, 2)]
        return attention.qkv_proj, False, slice([0, *ends][which], ends[which])
    return getattr(attention, f"{'qkv'[which]}_proj"), False, slice(None)


# ---------------------------------------------------------------- the table


def table() -> str:
    """What the package makes of every family, in Markdown; run as a script to write it."""
    from conftest import tiny_tokenizer

    rows, refusals = [], []
    for name, family in FAMILIES.items():
        with TemporaryDirectory() as folder:
            save(name, Path(folder), tiny_tokenizer())
            made = {
                (backend, dtype): _made(Path(folder), backend, dtype)
                for backend in ("hooked", "bridge")
                for dtype in ("float32", "bfloat16")
            }
        architecture = type(family.config).__name__.removesuffix("Config")
        cells = [_supported(made, backend) for backend in ("hooked", "bridge")]
        models = [each for each in made.values() if not isinstance(each, str)]
        sites = [SITES[site].plain_name for site in measure_sites(models[0])] if models else []
        cache = "" if not models else "yes" if models[0].cfg.caches else "no"
        rows.append(
            f"| {name} | {architecture} | {' | '.join(cells)} | {', '.join(sites)} | {cache} |"
        )
        if not models:
            sentence = str(made["bridge", "float32"]).replace(folder, f"models/{name}")
            refusals.append(f"- **{name}**: {sentence}")
    return _PAGE.format(rows="\n".join(rows), refusals="\n".join(refusals), n=len(FAMILIES))


_PAGE = """# Families

{n} small random models of as many families and variants, compared with plain transformers prompt by
prompt in float32 and bfloat16 (tests/test_families.py): logits, and logits with half of the MLPs'
neurons at 0. A model of your own is compared when it is loaded; `model.cfg.loaded_as` says what
came out. Sites are those that every layer has; the neurons of experts are none. Where there is no
key/value cache that can be trusted, generation reads each text again at every step. Written by
`python tests/families.py docs/families.md`.

| family | configuration | HookedTransformer | TransformerBridge | sites | cache |
|---|---|---|---|---|---|
{rows}

## What is refused, and how

{refusals}
"""


def _made(folder: Path, backend: Any, dtype: Any) -> Any:
    """The model, or the sentence of its refusal."""
    try:
        return load_model(folder, backend=backend, dtype=dtype, device="cpu")
    except CulnigError as error:
        return str(error)


def _supported(made: Mapping[tuple[str, str], Any], backend: str) -> str:
    """In which of the two types."""
    types = [dtype for (of, dtype), it in made.items() if of == backend and not isinstance(it, str)]
    return "yes" if len(types) == 2 else ", ".join(types) or "no"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table())
