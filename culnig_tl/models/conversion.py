"""A HookedTransformer out of a transformers model, by its architecture and never by its name.

TransformerLens knows Gemma and OLMo by the names on the hub only, looks for Phi's rotary share
where transformers 5 no longer has it, and leaves out of a configuration what none of the names it
knows has: a head size of its own, a rotary share, sliding layers, linear rope scaling. All of it is
read here from the configuration that came with the weights. What remains, e.g. biases that a
converter drops, shows in the logits, which ``agreement`` compares. TransformerLens 4 has no
HookedTransformer, so that its names are imported where they are needed.

Memory: converted weights are views of the transformers model's own, so that no second copy is made.
They lie in memory as in transformers, output by input. HookedTransformer stores them transposed and
computes ``W.T.contiguous()`` in every forward pass; here that is no copy, and the backward pass
keeps none.
"""

import copy
import importlib.metadata
import math
import tempfile
import warnings
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import PretrainedConfig, PreTrainedModel

from culnig_tl.errors import MissingFileError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import checkpoint

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


def convert(hf_model: PreTrainedModel, *, device: str, dtype: torch.dtype) -> Any:
    """A HookedTransformer of ``hf_model`` that shares its weights and has no tokenizer.

    Raises:
        ConversionError: TransformerLens has no HookedTransformer or no converter for the
            architecture.
    """
    library = transformer_lens_3()
    try:
        with tempfile.TemporaryDirectory(prefix="model-") as folder, warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="HookedTransformer", category=DeprecationWarning
            )
            config = hooked_config(hf_model, folder, device=device, dtype=dtype)
            model = library.HookedTransformer(config, move_to_device=False)
            weights = library.loading.get_pretrained_state_dict(
                folder, config, hf_model, dtype=dtype
            )
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        model.load_state_dict(model.fill_missing_keys(weights), assign=True, strict=False)
    except Exception as error:  # a converter's attributes, shapes and asserts
        raise ConversionError(checkpoint.one_line(error)) from error
    model.move_model_modules_to_device()
    lay_out_as_transformers(model)
    return model.eval().requires_grad_(False)


def load_native(source: str, *, dtype: torch.dtype, device: str) -> Any:
    """A model of the hub that was published in TransformerLens's own format.

    Raises:
        MissingFileError: the hub and the local cache do not have it, or TransformerLens no longer
            reads it.
    """
    try:
        library = transformer_lens_3()
        if not checkpoint.hub_answers() and not try_to_load_from_cache(source, "config.json"):
            raise OSError("the hub cannot be reached and the local cache does not have it")
        return library.HookedTransformer.from_pretrained_no_processing(
            source, dtype=dtype, device=device
        )
    except (OSError, ConversionError) as error:
        raise MissingFileError(
            f"{source!r} could not be loaded ({checkpoint.one_line(error)}); give the name of a "
            "model that the hub or the local cache has."
        ) from error


def transformer_lens_3() -> Any:
    """The names that TransformerLens 4 no longer has.

    Raises:
        ConversionError: this is TransformerLens 4.
    """
    try:
        from transformer_lens import (
            HookedTransformer,
            HookedTransformerConfig,
            loading_from_pretrained,
        )
    except ImportError as error:
        version = importlib.metadata.version("transformer-lens")
        raise ConversionError(
            f"TransformerLens {version} has no HookedTransformer; 3.9 has it"
        ) from error
    return SimpleNamespace(
        HookedTransformer=HookedTransformer,
        HookedTransformerConfig=HookedTransformerConfig,
        loading=loading_from_pretrained,
    )


def hooked_config(
    hf_model: PreTrainedModel, folder: str, *, device: str, dtype: torch.dtype
) -> Any:
    """What HookedTransformer is built from; ``folder`` is an empty one with a neutral name.

    TransformerLens guesses an architecture from the words in a path ("llama", "gemma"), and so it
    is shown the configuration in a folder whose name says nothing.
    """
    library = transformer_lens_3()
    architecture = type(hf_model).__name__
    text = hf_model.config.get_text_config()
    if architecture in _GEMMA:
        fields = _shared(text) | _gemma(text, architecture)
    elif architecture in _OLMO:
        fields = _shared(text) | _olmo(text, architecture)
    elif architecture == "PhiForCausalLM":
        fields = _shared(text) | _phi(text)
    else:
        config = copy.deepcopy(hf_model.config)
        config.architectures = [architecture]
        if architecture == "GPT2LMHeadModel":
            config.n_ctx = config.n_positions  # transformers 5 no longer writes it
        config.save_pretrained(folder)
        fields = library.loading.convert_hf_model_config(folder, trust_remote_code=False)
        fields |= _left_out(text, architecture)
    fields |= _positions(text, fields) | _sliding(text)
    fields |= {"device": device, "dtype": dtype, "init_weights": False, "tokenizer_name": None}
    fields |= {"d_vocab": text.vocab_size, "original_architecture": architecture}
    return library.HookedTransformerConfig.from_dict(fields)


def lay_out_as_transformers(model: HookedModel) -> None:
    """Let every matrix lie in memory as its forward pass reads it; values and shapes stay.

    Example:
        >>> import culnig_tl as ct
        >>> ct.load_model().blocks[0].mlp.W_in.T.is_contiguous()
        True
    """
    orders = axes_as_read(model)
    for name, weight in model.named_parameters():
        axes = orders.get(name.rpartition(".")[2])
        if axes is not None:
            back = [axes.index(axis) for axis in range(len(axes))]
            weight.data = weight.data.permute(axes).contiguous().permute(back)


def axes_as_read(model: HookedModel) -> dict[str, tuple[int, ...]]:
    """The order in which forward passes read the axes of a weight, by the weight's last name.

    Example:
        >>> import culnig_tl as ct
        >>> axes_as_read(ct.load_model())["W_in"]
        (1, 0)
    """
    return _READ_ATTENTION | (_READ_GATED_MLP if model.cfg.gated_mlp else {})


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
    later, second = architecture != "GemmaForCausalLM", architecture == "Gemma2ForCausalLM"
    return {
        "n_key_value_heads": text.num_key_value_heads,
        "act_fn": text.hidden_activation if later else text.hidden_act,
        "eps": text.rms_norm_eps,
        "final_rms": True,
        "attn_scale": math.sqrt(text.query_pre_attn_scalar if later else text.head_dim),
        "use_normalization_before_and_after": later,
        "use_qk_norm": architecture.startswith("Gemma3"),
        # transformers caps the scores of Gemma 2 only
        "attn_scores_soft_cap": (second and text.attn_logit_softcapping) or -1.0,
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


def _phi(text: PretrainedConfig) -> dict[str, Any]:
    return {
        "act_fn": text.hidden_act,
        "eps": text.layer_norm_eps,
        "normalization_type": "LN",
        "gated_mlp": False,
        "parallel_attn_mlp": True,
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
    positions = _rope(everywhere, fields) | {"n_ctx": text.max_position_embeddings}
    if _rope_type(nearby) != "default":
        raise NotImplementedError(f"rope of type {_rope_type(nearby)!r} in sliding layers")
    if "rope_theta" in nearby:
        positions["rotary_base_local"] = nearby["rope_theta"]
    return positions


def _rope(rope: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    kind = _rope_type(rope)
    base: dict[str, Any] = {"rotary_base": rope["rope_theta"]} if "rope_theta" in rope else {}
    if rope.get("partial_rotary_factor", 1) != 1:
        base["rotary_dim"] = int(fields["d_head"] * rope["partial_rotary_factor"])
    if kind == "linear":
        return base | {"rotary_scaling_factor": float(rope["factor"])}
    read = kind in _READ_BY_TRANSFORMER_LENS
    if not read or not fields.get(_ROPE_OF_ITS_OWN.get(kind, ""), kind == "default"):
        raise NotImplementedError(f"rope of type {kind!r} in {fields['original_architecture']}")
    return base


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
