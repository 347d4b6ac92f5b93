"""A TransformerBridge around a transformers model, with what TransformerLens 3.9 gets wrong mended.

``TransformerBridge.boot_transformers`` looks for the image processor of a multimodal model and,
where torchvision is missing, installs it into the user's environment. The bridge is therefore built
by the function below that one, which takes a model and loads nothing.

Mended at its cause, without a change to TransformerLens's files (``agreement`` tells whether it
helped; TransformerLens 4 needs the last one only):

- Cohere, Cohere 2 rotate neighbouring entries of a query, not those half a head apart.
- HunYuan normalises queries and keys after it has rotated them, not before.
- Gemma 3 may name a soft-cap of attention scores in its configuration, which transformers ignores.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError
from culnig_tl.models.checkpoint import one_line
from culnig_tl.models.library import TransformerBridge, build_bridge_from_module


def build(hf_model: PreTrainedModel, name: str, dtype: torch.dtype) -> TransformerBridge:
    """A bridge around ``hf_model``, wherever its weights are, without a tokenizer.

    Raises:
        InvalidInputError: float64, weights that were left on disk or in main memory, or an
            architecture or variant without an adapter.
    """
    check(hf_model, name, dtype)
    try:
        bridge = build_bridge_from_module(
            hf_model,
            type(hf_model).__name__,
            hf_config=hf_model.config,
            dtype=dtype,
            device=hf_model.get_input_embeddings().weight.device,
            model_name=name,
        )
        _MENDED.get(type(hf_model).__name__, _nothing)(bridge)
        _read_mlp_width(bridge)
    except Exception as error:  # an adapter's asserts, attributes, shapes
        raise InvalidInputError(
            f"TransformerLens has no bridge for {name}, a {type(hf_model).__name__} "
            f"({one_line(error)}); load a decoder-only language model that it supports."
        ) from error
    return bridge


def check(hf_model: PreTrainedModel, name: str, dtype: torch.dtype) -> None:
    """Refuse what no bridge can be built around.

    Raises:
        InvalidInputError: float64, or weights that were left on disk or in main memory.
    """
    if dtype == torch.float64:
        raise InvalidInputError(
            f"{name} cannot run in float64 as a TransformerBridge, whose attention is float32; "
            "take dtype='float32', or backend='hooked' where the architecture allows it."
        )
    places = set(map(str, getattr(hf_model, "hf_device_map", {}).values()))
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise InvalidInputError(
            f"{name} was spread over {', '.join(sorted(places))}, and a TransformerBridge reads "
            "weights where they lie; give a device_map of accelerators only, or of 'cpu' only."
        )


def _read_mlp_width(bridge: Any) -> None:
    """Neurons of an MLP are the inputs of its last layer; configurations name them in many ways."""
    mlp = getattr(next(iter(getattr(bridge, "blocks", ())), None), "mlp", None)
    last = getattr(getattr(mlp, "out", None), "original_component", None)
    width = getattr(last, "in_features", None) or getattr(last, "nx", None)
    bridge.cfg.d_mlp = width or bridge.cfg.d_mlp


def _nothing(bridge: Any) -> None:
    """For architectures that are right as they are."""


def _rotate_neighbours(bridge: Any) -> None:
    """Cohere's cosines come as [c0 c0 c1 c1 ...]; TransformerLens 3.9 takes [c0 c1 ... c0 c1 ...]
    and pairs neighbours where the configuration says so."""
    if hasattr(bridge.cfg, "rotary_interleaved_cos_sin"):
        return
    for block in bridge.blocks:
        block.attn.config.rotary_adjacent_pairs = True

    def half_by_half(module: object, inputs: object, rotations: tuple[Tensor, ...]) -> Any:
        return tuple(torch.cat([each[..., ::2]] * 2, -1) for each in rotations)

    bridge.rotary_emb.register_forward_hook(half_by_half)


def _normalise_after_rotation(bridge: Any) -> None:
    if hasattr(bridge.cfg, "qk_norm_after_rope"):
        return

    def normalise(module: object, inputs: tuple[Tensor], *, norm: Any) -> Tensor:
        return norm(inputs[0])

    for block in bridge.blocks:
        attention = block.attn
        attention._qk_norm_phase = None  # not before
        for point, norm in (
            (attention.hook_rot_q, attention.q_norm),
            (attention.hook_rot_k, attention.k_norm),
        ):
            point.register_forward_pre_hook(partial(normalise, norm=norm))


def _no_cap_on_attention(bridge: Any) -> None:
    for block in bridge.blocks:
        block.attn.original_component.attn_logit_softcapping = None


_MENDED: Mapping[str, Callable[[Any], None]] = {
    "CohereForCausalLM": _rotate_neighbours,
    "Cohere2ForCausalLM": _rotate_neighbours,
    "HunYuanDenseV1ForCausalLM": _normalise_after_rotation,
    "Gemma3ForCausalLM": _no_cap_on_attention,
    "Gemma3ForConditionalGeneration": _no_cap_on_attention,
}
