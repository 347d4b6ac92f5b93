"""Tiny random models of the families that the package is used on, and their scores by hand.

``plain_scores`` is METHOD section 1 written with nothing but transformers and module hooks, as the
published code reads it: one left-padded batch, ``a * dP/da`` at the outputs of linear layers. It
shares nothing with the package and is the witness of every family on both backends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

GATED = ("mlp.hook_post", "mlp.hook_pre", "mlp.hook_pre_linear")
PLAIN_MLP = ("mlp.hook_post", "mlp.hook_pre")
ATTENTION = ("attn.hook_q", "attn.hook_k", "attn.hook_v")


@dataclass(frozen=True)
class Family:
    """A configuration, the MLP sites that the family has and whether it can be converted."""

    config: PretrainedConfig
    mlp_sites: tuple[str, ...] = GATED
    hooked: bool = True

    @property
    def sites(self) -> tuple[str, ...]:
        return self.mlp_sites + ATTENTION

    @property
    def backends(self) -> tuple[str, ...]:
        return ("hooked", "bridge") if self.hooked else ("bridge",)


def _sizes(**changes: Any) -> dict[str, Any]:
    """Two layers, grouped-query attention, special tokens as in the tests' tokenizer."""
    return {
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
        **changes,
    }


def _rope(theta: float, kind: str = "default", **more: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **more}


# A window of 8 in a prompt of 40, and a long base with linear scaling in the global layer.
_GEMMA3_TEXT = _sizes(
    head_dim=16,
    sliding_window=8,
    query_pre_attn_scalar=24,
    layer_types=["sliding_attention", "full_attention"],
    rope_parameters={
        "sliding_attention": _rope(1e4),
        "full_attention": _rope(1e6, "linear", factor=8.0),
    },
)
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

FAMILIES: Mapping[str, Family] = {
    "llama-3.1": Family(LlamaConfig(**_sizes(rope_parameters=_LLAMA31_ROPE))),
    "qwen3": Family(Qwen3Config(**_sizes(head_dim=16, rope_parameters=_rope(1e6)))),
    "phi-4": Family(Phi3Config(**_sizes(rope_parameters=_rope(250000.0)))),
    "gemma-3": Family(Gemma3TextConfig(**_GEMMA3_TEXT)),
    "gemma-3-multimodal": Family(
        Gemma3Config(
            text_config=_GEMMA3_TEXT,
            vision_config=_VISION,
            mm_tokens_per_image=4,
            image_token_index=300,
            boi_token_index=301,
            eoi_token_index=302,
        )
    ),
    # Falcon3-10B: a Llama with heads wider than d_model / n_heads
    "falcon3": Family(LlamaConfig(**_sizes(head_dim=16, rope_parameters=_rope(1000042.0)))),
    "gpt2": Family(
        GPT2Config(
            vocab_size=310,
            n_positions=256,
            n_embd=32,
            n_inner=48,
            n_layer=2,
            n_head=4,
            bos_token_id=1,
            eos_token_id=2,
        ),
        PLAIN_MLP,
    ),
    "pythia": Family(
        GPTNeoXConfig(**{k: v for k, v in _sizes(rotary_pct=0.25).items() if "key_value" not in k}),
        PLAIN_MLP,
    ),
    "gemma-2": Family(
        Gemma2Config(**_sizes(head_dim=16, sliding_window=8, query_pre_attn_scalar=24))
    ),
    "gemma": Family(GemmaConfig(**_sizes(head_dim=16))),
    "mistral": Family(MistralConfig(**_sizes(sliding_window=8))),
    "qwen2": Family(Qwen2Config(**_sizes(rope_parameters=_rope(1e6)))),
    "olmo": Family(OlmoConfig(**_sizes(num_key_value_heads=4, clip_qkv=0.5))),
    "olmo-2": Family(Olmo2Config(**_sizes(num_key_value_heads=4))),
    "mixtral": Family(
        MixtralConfig(**_sizes(num_local_experts=4, num_experts_per_tok=2)), mlp_sites=()
    ),
    "qwen3-moe": Family(
        Qwen3MoeConfig(
            **_sizes(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
        ),
        mlp_sites=(),
        hooked=False,
    ),
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


def plain_logits(model: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """transformers' own logits at the last position; positions are counted from the first real
    token, as its ``generate`` does."""
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return model(tokens, attention_mask=mask.long(), position_ids=positions).logits[:, -1]


def plain_scores(
    model: Any, batch: Any, sites: tuple[str, ...], *, padding: str
) -> dict[str, Tensor]:
    """P * max over positions of a * dP/da, [batch layer neuron] a site, by plain autograd."""
    watched = _watch(model, sites)
    try:
        logits = plain_logits(model, batch.tokens, batch.mask)
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
    depth = text.config.get_text_config().num_hidden_layers
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
        last = next(
            getattr(mlp, name)
            for name in ("down_proj", "c_proj", "dense_4h_to_h")
            if hasattr(mlp, name)
        )
        return last, True, slice(None)
    if hasattr(mlp, "gate_up_proj"):
        width = mlp.gate_up_proj.out_features // 2
        return mlp.gate_up_proj, False, slice(0, width) if kind == "pre" else slice(width, None)
    names = ("gate_proj", "c_fc", "dense_h_to_4h") if kind == "pre" else ("up_proj",)
    return next(getattr(mlp, name) for name in names if hasattr(mlp, name)), False, slice(None)


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
