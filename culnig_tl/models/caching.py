"""One step of a model that has read the tokens before, on both backends.

A HookedTransformer fills TransformerLens's own key/value cache, a TransformerBridge that of
transformers. Where a model has none that can be trusted (``agreement`` says so in
``model.cfg.caches``), the tokens themselves are kept and read again: slower, and right.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from culnig_tl.hooked_model import HookedModel
from culnig_tl.models.library import TransformerBridge


def next_logits(
    model: HookedModel,
    tokens: Int[Tensor, "batch new"],
    mask: Bool[Tensor, "batch pos"],
    cache: Any = None,
) -> tuple[Float[Tensor, "batch new vocab"], Any]:
    """Logits of the newest tokens, and the cache with them.

    Args:
        model: any model with hook points.
        tokens: those that the cache has not seen.
        mask: True at the real tokens, the cached ones first.
        cache: what the step before returned; None at first.

    Example:
        >>> import culnig_tl as ct
        >>> model, mask = ct.load_model(), torch.ones(1, 3, dtype=torch.bool)
        >>> logits, cache = next_logits(model, torch.tensor([[5, 6]]), mask[:, :2])
        >>> logits, cache = next_logits(model, torch.tensor([[7]]), mask, cache)
        >>> logits.shape == (1, 1, model.cfg.d_vocab)
        True
    """
    call: Any = model
    n_new = tokens.shape[1]
    if not getattr(model.cfg, "caches", True):
        everything = tokens if cache is None else torch.cat([cache, tokens], dim=1)
        return call(everything, attention_mask=mask.long())[:, -n_new:], everything
    if isinstance(model, TransformerBridge):
        return call(
            tokens,
            attention_mask=mask.long(),
            past_key_values=cache,
            use_past_kv_cache=True,
            return_type="logits_and_cache",
        )
    cache = _empty_cache(model, len(tokens)) if cache is None else cache
    new = mask[:, mask.shape[1] - n_new :].long()
    return call(tokens, attention_mask=new, past_kv_cache=cache), cache


def _empty_cache(model: HookedModel, n_prompts: int) -> Any:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, n_prompts)
