"""Logits after the last token of each prompt: what every answer, score and card is read from.

Only the last position is unembedded, as a matrix ``[batch, d_model]`` (of whole options, as many
positions as the longest has tokens): a view of the residual
stream would make torch copy the unembedding once per prompt (2 GB each with Gemma's vocabulary).

A model in half precision is unembedded in float32 where no gradient is asked for, a part of the
vocabulary at a time: rounded to bfloat16, the best options of many prompts tie, and the first wins.
Logits that are no numbers are refused here, with the question's id.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.positions import check_lengths

_HALF = (torch.bfloat16, torch.float16)
_WIDE_VALUES = 2**20  # 4 MB of float32: what a core converts stays in its cache


def last_logits(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    *,
    ids: Sequence[str] = (),
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position of left-padded prompts.

    Args:
        model: any model with named hook points.
        tokens: token ids.
        mask: True at real tokens.
        ids: question id of each prompt, for the sentence where one is not finite.

    Raises:
        InvalidInputError: logits that are not finite.
    """
    logits = _trailing_logits(model, tokens, mask, 1).squeeze(1)  # a slice's gradient is as large
    check_finite(logits, ids)
    return logits


def continuation_log_probabilities(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    continuations: Sequence[Sequence[int]],
    *,
    ids: Sequence[str] = (),
) -> Float[Tensor, "batch"]:
    """Log-probability of a continuation of each prompt, summed over its tokens.

    Args:
        model: any model with named hook points.
        tokens: left-padded prompts, each with all of its continuation but the last token.
        mask: True at real tokens.
        continuations: token ids of each prompt's continuation.
        ids: question id of each prompt, for the sentence where a logit is not finite.

    Raises:
        InvalidInputError: logits that are not finite.
    """
    longest = max(map(len, continuations))
    logits = _trailing_logits(model, tokens, mask, longest)
    check_finite(logits.amax(1), ids)
    sums = []
    for of_prompt, continuation in zip(logits.float().log_softmax(-1), continuations, strict=True):
        wanted = torch.tensor(list(continuation), device=of_prompt.device)
        sums.append(of_prompt[-len(continuation) :].gather(1, wanted[:, None]).sum())
    return torch.stack(sums)


def _trailing_logits(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], n: int
) -> Float[Tensor, "batch n vocab"]:
    """Logits at the last ``n`` positions."""
    check_lengths(model, mask)
    # no earlier: transformers' GPT-2 asks for every position up to its last norm
    keep_last = [("unembed.hook_in", partial(_keep_last_positions, n=n))]
    gradients = torch.is_grad_enabled()
    with hooked(model, keep_last, gradients=gradients), _wide_unembedding(model):
        return model(tokens, attention_mask=mask.long())


def _keep_last_positions(residual: Tensor, hook: object, n: int) -> Tensor:
    return residual[:, -n:].contiguous()


def check_finite(logits: Float[Tensor, "batch vocab"], ids: Sequence[str]) -> None:
    """Refuse logits that are no numbers: NaN and infinity show in the largest of each prompt.

    Args:
        logits: at one position of each prompt.
        ids: question id of each prompt, for the sentence; may be empty.

    Raises:
        InvalidInputError: logits that are not finite.
    """
    broken = ~logits.detach().amax(-1).isfinite()
    if broken.any():
        first = int(broken.nonzero()[0])
        raise InvalidInputError(
            f"The logits of {int(broken.sum())} of {len(logits)} prompts are not finite numbers "
            f"({f'question {ids[first]!r}' if ids else f'prompt {first}'} the first); check the "
            "model's weights for NaN, or load it in float32 or bfloat16 instead of float16."
        )


@contextmanager
def _wide_unembedding(model: Any) -> Iterator[None]:
    """Inside, a model in half precision unembeds in float32."""
    weights = _unembedding(model.unembed)
    if torch.is_grad_enabled() or weights is None or weights[0].dtype not in _HALF:
        yield
        return
    try:
        vars(model.unembed)["forward"] = partial(_wide_forward, model.unembed, *weights)
        yield
    finally:
        vars(model.unembed).pop("forward", None)


def _unembedding(component: Any) -> tuple[Tensor, Tensor | None] | None:
    """Weight ``[vocab d_model]`` and bias; None where they are not a plain linear map."""
    if hasattr(component, "W_U") and not hasattr(component, "original_component"):
        return component.W_U.T, component.b_U
    linear = getattr(component, "original_component", None)
    return (linear.weight, linear.bias) if type(linear) is torch.nn.Linear else None


def _wide_forward(
    component: Any, weight: Tensor, bias: Tensor | None, residual: Tensor, **_: Any
) -> Tensor:
    wide = component.hook_in(residual).float()
    vectors = wide.flatten(0, -2)
    logits = vectors.new_empty(len(vectors), len(weight))
    n_rows = max(1, _WIDE_VALUES // weight.shape[1])
    for part, rows in zip(logits.split(n_rows, dim=1), weight.split(n_rows), strict=True):
        part.copy_(F.linear(vectors, rows.float()))
    if bias is not None:
        logits += bias.float()
    return component.hook_out(logits.view(*wide.shape[:-1], -1))
