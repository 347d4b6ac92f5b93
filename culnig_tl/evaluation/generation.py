"""Greedy generation in batches, with a key-value cache, on both backends.

Prompts are padded on the left, longest first, so that padding is masked and changes nothing; each
step feeds the cached model one token per prompt. ``scaled_neurons`` around a call scales the
prompt's positions and every generated one, as it would without a cache.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.logits import check_finite
from culnig_tl.models import next_logits
from culnig_tl.positions import switch_lengths
from culnig_tl.questions import Batch, TokenBudget, encode, groups_within, padded, padding_token

_ENDS_OF_TURN = ("<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|end|>")


def greedy_replies(
    model: HookedModel,
    texts: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    chat: bool = True,
    max_new_tokens: int = 32,
    token_budget: int = 8192,
) -> list[str]:
    """What the model writes after each text, until it ends its turn.

    Args:
        model: a frozen model with named hook points.
        texts: what the model reads, chat template included.
        ids: question id of each text, for the sentences of errors; without them, its number.
        chat: False where the texts are plain although the model has a chat template.
        max_new_tokens: at most so many tokens.
        token_budget: tokens per pass, padding and new tokens counted.

    Raises:
        InvalidInputError: a text that does not fit into the model's context with its reply, or
            logits that are not finite.

    Example:
        >>> import culnig_tl as ct
        >>> len(greedy_replies(ct.load_model(), ["The usual staple food is"], max_new_tokens=1))
        1
    """
    check_number("max_new_tokens", max_new_tokens, low=1, whole=True)
    check_number("token_budget", token_budget, low=1, whole=True)
    prompts = [encode(model.tokenizer, text, chat=chat) for text in texts]
    names = [f"text {row}" for row in range(len(texts))] if ids is None else ids
    longest = max((len(prompt) for prompt in prompts), default=0) + max_new_tokens
    for limit, name in ((model.cfg.n_ctx, "the model's context"), (token_budget, "token_budget")):
        if longest > limit:
            raise InvalidInputError(
                f"The longest text takes {longest} tokens with {max_new_tokens} new ones and "
                f"{name} is {limit}; shorten the text or take fewer new tokens."
            )
    _check_switches(model, prompts, names, max_new_tokens)
    replies = [""] * len(texts)
    budget = TokenBudget(token_budget)
    batches = _batches(model, prompts, names, max_new_tokens, token_budget)
    for piece, generated in budget.passes(batches, partial(_replies, model, max_new_tokens)):
        for row, reply in zip(piece.rows, generated, strict=True):
            replies[row] = model.tokenizer.decode(reply, skip_special_tokens=True)
    return replies


def _check_switches(
    model: HookedModel, prompts: Sequence[Sequence[int]], ids: Sequence[str], max_new_tokens: int
) -> None:
    """Refuse a reply in the middle of which the model would rotate by other angles than those that
    its cache has been filled by."""
    for switch in switch_lengths(model):
        for prompt, name in zip(prompts, ids, strict=True):
            if len(prompt) <= switch < len(prompt) + max_new_tokens - 1:
                raise InvalidInputError(
                    f"{name!r} takes {len(prompt)} tokens, and this model reads texts of more "
                    f"than {switch} otherwise (longrope), which its reply of {max_new_tokens} new "
                    "tokens may reach; shorten the text or take fewer new tokens."
                )


def _batches(
    model: HookedModel,
    prompts: Sequence[Sequence[int]],
    ids: Sequence[str],
    max_new_tokens: int,
    token_budget: int,
) -> Iterator[Batch]:
    """Left-padded batches, longest prompts first, with room for the new tokens."""
    lengths = [len(prompt) + max_new_tokens - 1 for prompt in prompts]  # the last is not read
    for group in groups_within(lengths, token_budget, model=model):
        tokens, mask = padded([prompts[row] for row in group], padding_token(model))
        yield Batch(
            tokens=tokens.to(model.cfg.device),
            mask=mask.to(model.cfg.device),
            answers=torch.zeros(len(group), dtype=torch.long),
            cultures=("",) * len(group),
            ids=tuple(ids[row] for row in group),
            rows=tuple(group),
        )


def _replies(model: HookedModel, max_new_tokens: int, batch: Batch) -> list[list[int]]:
    """Generated tokens of each prompt, up to the end of its turn."""
    tokens, mask = batch.tokens, batch.mask
    ends = _ends(model)
    replies: list[list[int]] = [[] for _ in batch.ids]
    open_lines = set(range(len(batch)))
    cache: Any = None
    with hooked(model, gradients=False):
        for _ in range(max_new_tokens):
            logits, cache = next_logits(model, tokens, mask, cache)
            check_finite(logits[:, -1], batch.ids)
            tokens = logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            for line in list(open_lines):
                token = int(tokens[line])
                if token in ends:
                    open_lines.remove(line)
                else:
                    replies[line].append(token)
            if not open_lines:
                break
    return replies


def _ends(model: HookedModel) -> set[int]:
    """Tokens that end a reply: the model's own and the usual ones of chat templates."""
    vocabulary = model.tokenizer.get_vocab()
    known = {vocabulary[text] for text in _ENDS_OF_TURN if text in vocabulary}
    own = getattr(model.cfg, "end_tokens", [model.tokenizer.eos_token_id])
    return (known | {*own}) - {None}
