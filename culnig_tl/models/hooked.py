"""A HookedTransformer out of a transformers model, by its architecture and never by its name.

TransformerLens knows Gemma and OLMo by the names on the hub only, and leaves out of a configuration
what none of the names it knows has: a head size of its own, a rotary share, sliding layers, linear
rope scaling. All of it is read here from the configuration that came with the weights. What
remains, e.g. biases that a converter drops, shows in the logits: a converted model is compared with
transformers' own on one prompt before it is handed out, and refused if they differ.

Memory: converted weights are views of the transformers model's own, so that no second copy is made.
They lie in memory as in transformers, output by input. HookedTransformer stores them transposed and
computes ``W.T.contiguous()`` in every forward pass; here that is no copy, and the backward pass
keeps none.
"""

import copy
import math
import tempfile
import warnings
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig, loading_from_pretrained
from transformers import PretrainedConfig, PreTrainedModel

_READ_BY_TRANSFORMER_LENS = {"default", "llama3", "yarn"}
_ROPE_OF_ITS_OWN = {"llama3": "use_NTK_by_parts_rope", "yarn": "use_yarn_rope"}
_GEMMA = {
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration",
}
_OLMO = {"OlmoForCausalLM", "Olmo2ForCausalLM"}
_WITH_HEAD_DIM = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Phi3ForCausalLM", "MixtralForCausalLM"}
# Rounding of the two implementations, a hundred times over; a wrong conversion is off by more.
_TOLERANCE = {
    torch.float64: 1e-3,  # transformers takes norms and attention in float32
    torch.float32: 1e-3,
    torch.bfloat16: 0.1,
    torch.float16: 0.1,
}
_CHECKED_TOKENS = 16
# The order of a weight's axes in which HookedTransformer multiplies: output by input.
_READ_ATTENTION = {
    "W_Q": (0, 2, 1),
    "W_K": (0, 2, 1),
    "W_V": (0, 2, 1),
    "_W_K": (0, 2, 1),
    "_W_V": (0, 2, 1),
    "W_O": (2, 0, 1),
    "W_U": (1, 0),
}
_READ_GATED_MLP = {"W_in": (1, 0), "W_gate": (1, 0), "W_out": (1, 0)}


class ConversionError(Exception):
    """This model cannot become a HookedTransformer; the message says why."""


def convert(hf_model: PreTrainedModel, *, device: str, dtype: torch.dtype) -> HookedTransformer:
    """A HookedTransformer that computes what ``hf_model`` computes, shares its weights and has no
    tokenizer.

    Raises:
        ConversionError: TransformerLens has no converter for the architecture, or the converted
            model computes something else.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="model-") as folder, warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="HookedTransformer", category=DeprecationWarning
            )
            config = hooked_config(hf_model, folder, device=device, dtype=dtype)
            model = HookedTransformer(config, move_to_device=False)
            weights = loading_from_pretrained.get_pretrained_state_dict(
                folder, config, hf_model, dtype=dtype
            )
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        model.load_state_dict(model.fill_missing_keys(weights), assign=True, strict=False)
    except (NotImplementedError, RuntimeError, ValueError, AttributeError, KeyError) as error:
        raise ConversionError(" ".join(str(error).split()) or type(error).__name__) from error
    model.move_model_modules_to_device()
    lay_out_as_transformers(model)
    model.eval().requires_grad_(False)
    _check_agreement(hf_model, model, dtype)
    return model


def hooked_config(
    hf_model: PreTrainedModel, folder: str, *, device: str, dtype: torch.dtype
) -> HookedTransformerConfig:
    """What HookedTransformer is built from; ``folder`` is an empty one with a neutral name.

    TransformerLens guesses an architecture from the words in a path ("llama", "gemma"), and so it
    is shown the configuration in a folder whose name says nothing.
    """
    architecture = type(hf_model).__name__
    text = hf_model.config.get_text_config()
    if architecture in _GEMMA:
        fields = _shared(text) | _gemma(text, architecture)
    elif architecture in _OLMO:
        fields = _shared(text) | _olmo(text, architecture)
    else:
        shown = copy.deepcopy(hf_model.config)
        shown.architectures = [architecture]
        if architecture == "GPT2LMHeadModel":
            shown.n_ctx = shown.n_positions  # transformers 5 no longer writes it
        shown.save_pretrained(folder)
        fields = loading_from_pretrained.convert_hf_model_config(folder)
        fields |= _left_out(text, architecture)
    fields |= _positions(text, fields) | _sliding(text)
    fields |= {"device": device, "dtype": dtype, "init_weights": False, "tokenizer_name": None}
    fields |= {"d_vocab": text.vocab_size, "original_architecture": architecture}
    return HookedTransformerConfig.from_dict(fields)


def lay_out_as_transformers(model: HookedTransformer) -> None:
    """Let every matrix lie in memory as its forward pass reads it; values and shapes stay.

    Example:
        >>> import culnig_tl as ct
        >>> ct.load_model().blocks[0].mlp.W_in.T.is_contiguous()
        True
    """
    read = _READ_ATTENTION | (_READ_GATED_MLP if model.cfg.gated_mlp else {})
    for name, weight in model.named_parameters():
        axes = read.get(name.rpartition(".")[2])
        if axes is not None:
            back = [axes.index(axis) for axis in range(len(axes))]
            weight.data = weight.data.permute(axes).contiguous().permute(back)


def _shared(text: PretrainedConfig) -> dict[str, Any]:
    """What Llama's kin have in common: RMS norm, rotary positions, a gated MLP."""
    return {
        "d_model": text.hidden_size,
        "d_head": getattr(text, "head_dim", text.hidden_size // text.num_attention_heads),
        "n_heads": text.num_attention_heads,
        "d_mlp": text.intermediate_size,
        "n_layers": text.num_hidden_layers,
        "n_ctx": text.max_position_embeddings,
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "gated_mlp": True,
    }


def _gemma(text: PretrainedConfig, architecture: str) -> dict[str, Any]:
    later = architecture != "GemmaForCausalLM"
    return {
        "n_key_value_heads": text.num_key_value_heads,
        "act_fn": text.hidden_activation if later else text.hidden_act,
        "eps": text.rms_norm_eps,
        "final_rms": True,
        "attn_scale": math.sqrt(text.query_pre_attn_scalar if later else text.head_dim),
        "use_normalization_before_and_after": later,
        "use_qk_norm": architecture.startswith("Gemma3"),
        "attn_scores_soft_cap": getattr(text, "attn_logit_softcapping", None) or -1.0,
        "output_logits_soft_cap": getattr(text, "final_logit_softcapping", None) or -1.0,
    }


def _olmo(text: PretrainedConfig, architecture: str) -> dict[str, Any]:
    first = architecture == "OlmoForCausalLM"
    return {
        "act_fn": text.hidden_act,
        "eps": 1e-5 if first else text.rms_norm_eps,
        "normalization_type": "LN" if first else "RMS",
        "clip_qkv": getattr(text, "clip_qkv", None),
    }


def _left_out(text: PretrainedConfig, architecture: str) -> dict[str, Any]:
    """Fields that a configuration has and TransformerLens's reader of it passes over."""
    if architecture == "GPT2LMHeadModel":
        return {"d_mlp": text.n_inner or 4 * text.n_embd}
    if architecture not in _WITH_HEAD_DIM or not getattr(text, "head_dim", None):
        return {}
    return {"d_head": text.head_dim, "rotary_dim": text.head_dim}


def _positions(text: PretrainedConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions: base, scaling, share of a head and length, by kind of layer."""
    if fields.get("positional_embedding_type") != "rotary":
        return {}
    rope = getattr(text, "rope_parameters", None) or {}
    everywhere = rope.get("full_attention", rope)
    nearby = rope.get("sliding_attention", {})
    found = _rope(everywhere, fields) | {"n_ctx": text.max_position_embeddings}
    if _rope_type(nearby) != "default":
        raise NotImplementedError(f"rope of type {_rope_type(nearby)!r} in sliding layers")
    if "rope_theta" in nearby:
        found["rotary_base_local"] = nearby["rope_theta"]
    return found


def _rope(rope: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    kind = _rope_type(rope)
    found: dict[str, Any] = {"rotary_base": rope["rope_theta"]} if "rope_theta" in rope else {}
    if kind == "linear":
        return found | {"rotary_scaling_factor": float(rope["factor"])}
    read = kind in _READ_BY_TRANSFORMER_LENS
    if not read or not fields.get(_ROPE_OF_ITS_OWN.get(kind, ""), kind == "default"):
        raise NotImplementedError(f"rope of type {kind!r} in {fields['original_architecture']}")
    return found


def _rope_type(rope: dict[str, Any]) -> str:
    return rope.get("rope_type", "default")


def _sliding(text: PretrainedConfig) -> dict[str, Any]:
    """Which layers attend to a window only."""
    kinds = getattr(text, "layer_types", None) or []
    if "sliding_attention" not in kinds or not text.sliding_window:
        return {}
    return {
        "use_local_attn": True,
        "window_size": text.sliding_window,
        "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in kinds],
    }


def _check_agreement(
    hf_model: PreTrainedModel, model: HookedTransformer, dtype: torch.dtype
) -> None:
    """Refuse a converted model whose logits are not those of the original."""
    n_tokens = min(_CHECKED_TOKENS, model.cfg.n_ctx)
    tokens = (torch.arange(n_tokens) * 7 + 3) % model.cfg.d_vocab
    try:
        with torch.no_grad():
            expected = _centred(hf_model(tokens[None].to(hf_model.device)).logits)
            found = _centred(model(tokens[None].to(expected.device)))
    except RuntimeError as error:
        raise ConversionError(f"it could not be compared with transformers: {error}") from error
    error = float((found - expected).norm() / expected.norm())
    if not error < _TOLERANCE[dtype] and expected.isfinite().all():
        raise ConversionError(
            f"its logits would be {100 * error:.2g} % off those of transformers on a prompt of "
            f"{n_tokens} tokens"
        )


def _centred(logits: Tensor) -> Tensor:
    """Without the shift of all logits that no probability sees."""
    logits = logits.float()
    return logits - logits.mean(-1, keepdim=True)
