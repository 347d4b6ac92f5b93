"""Rotary positions that depend on the length of a text.

``longrope`` rotates by other angles once a pass is longer than a certain length: all of its
prompts, by the longest, padding counted. A prompt therefore shares a pass only with those on its
own side of that length, as if it were read alone. ``dynamic`` angles depend, beyond the model's own
context, on the longest text read before; no prompt may be that long (see ``models.limits``).
"""

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from culnig_tl.errors import InvalidInputError


def switch_lengths(model: Any) -> list[int]:
    """Lengths beyond which a bridge rotates by other angles; a HookedTransformer never does."""
    hf_model = getattr(model, "original_model", None)
    tables = [] if hf_model is None else rotary_tables(hf_model)
    switching = [table for table in tables if table["rope_type"] == "longrope"]
    return sorted({int(table["original_max_position_embeddings"]) for table in switching})


def check_lengths(model: Any, mask: Bool[Tensor, "batch pos"]) -> None:
    """Refuse a short prompt beside one that would rotate it by other angles.

    Args:
        model: any model with named hook points.
        mask: True at real tokens.

    Raises:
        InvalidInputError: prompts on both sides of such a length.
    """
    longest = mask.shape[1]
    for switch in switch_lengths(model):
        if longest > switch and bool((mask.sum(1) <= switch).any()):
            raise InvalidInputError(
                f"A batch of {longest} positions has prompts of {switch} tokens or fewer, which "
                "this model reads otherwise beside longer ones (longrope); put them into batches "
                "of their own, as batches() and prepare() do."
            )


def rotary_tables(hf_model: Any) -> list[dict[str, Any]]:
    """The rotary settings of a transformers model, of which some have one per type of layer."""
    settings = getattr(hf_model.config.get_text_config(), "rope_parameters", None) or {}
    tables = [settings] if "rope_type" in settings else [*settings.values()]
    return [table for table in tables if isinstance(table, dict) and "rope_type" in table]
