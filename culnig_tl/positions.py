"""Positions that depend on what else is read: of prompts that may share a pass.

- ``longrope`` rotates by other angles once a pass is longer than a certain length: all of its
  prompts, by the longest, padding counted. A prompt shares a pass only with those on its own side.
- Llama 4 sharpens attention from a certain position on, padding counted. From that length on, a
  prompt shares a pass only with those of its own length.
- ``dynamic`` angles depend, beyond a model's own context, on the longest text read before: no
  prompt may be that long (see ``models.limits``).

A HookedTransformer has none of these.
"""

import math
from collections.abc import Callable
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from culnig_tl.errors import InvalidInputError


def switch_lengths(model: Any) -> list[int]:
    """Lengths beyond which a bridge rotates by other angles."""
    config = _config(getattr(model, "original_model", None))
    switching = [table for table in _tables(config) if table["rope_type"] == "longrope"]
    return sorted({int(table["original_max_position_embeddings"]) for table in switching})


def sharing(model: Any) -> Callable[[int, int], bool]:
    """What tells of (length of the longest prompt, of another) whether they may share a pass."""
    config, switches = _config(getattr(model, "original_model", None)), switch_lengths(model)
    is_sharpened = getattr(config, "attn_temperature_tuning", False)
    sharpened = getattr(config, "floor_scale", math.inf) if is_sharpened else math.inf

    def may_share(longest: int, length: int) -> bool:
        if length < longest >= sharpened:
            return False
        return not any(length <= switch < longest for switch in switches)

    return may_share


def check_lengths(model: Any, mask: Bool[Tensor, "batch pos"]) -> None:
    """Refuse prompts of a batch that are not read as if they were alone.

    Args:
        model: any model with named hook points.
        mask: True at real tokens.

    Raises:
        InvalidInputError: a prompt that may not share a pass with the longest.
    """
    longest, may_share = mask.shape[1], sharing(model)
    if may_share(longest, 1):
        return
    shortest = int(mask.sum(1).min())
    if not may_share(longest, shortest):
        raise InvalidInputError(
            f"A batch of {longest} positions has a prompt of {shortest} tokens, which this model "
            "reads otherwise beside longer ones; put it into a batch of its own, as batches() and "
            "prepare() do."
        )


def is_dynamic(hf_model: Any) -> bool:
    """Whether a transformers model has angles that depend on the longest text read before."""
    return any("dynamic" in table["rope_type"] for table in _tables(_config(hf_model)))


def _config(hf_model: Any) -> Any:
    return None if hf_model is None else hf_model.config.get_text_config()


def _tables(config: Any) -> list[dict[str, Any]]:
    """The rotary settings, of which some models have one per type of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    tables = [settings] if "rope_type" in settings else [*settings.values()]
    return [table for table in tables if isinstance(table, dict) and "rope_type" in table]
