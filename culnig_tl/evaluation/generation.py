"""Greedy generation in batches, with a key-value cache, on both backends.

Prompts are padded on the left, longest first, so that padding is masked and changes nothing; each
step feeds the cached model one token a prompt. ``scaled_neurons`` around a call scales the prompt's
positions and every generated one, as it would without a cache.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import HookedModel
from culnig_tl.questions.rendering import encode

_ENDS_OF_TURN = ("<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|end|>")


def generate(
    model: HookedModel,
    texts: Sequence[str],
    *,
    max_new_tokens: int = 32,
    token_budget: int = 8192,
) -> list[str]:
    """What the model writes after each text, until it ends its turn.

    Args:
        model: a frozen model with named hook points.
        texts: what the model reads, chat template included.
        max_new_tokens: at most so many tokens.
        token_budget: tokens a batch, padding and new tokens counted.

    Raises:
        InvalidInputError: a text that does not fit into the model's context with its reply.

    Example:
        >>> import culnig_tl as ct
        >>> len(generate(ct.load_model(), ["What is the usual staple food?"], max_new_tokens=1))
        1
    """
    prompts = [encode(model.tokenizer, text) for text in texts]
    longest = max((len(prompt) for prompt in prompts), default=0) + max_new_tokens
    for limit, name in ((model.cfg.n_ctx, "the model's context"), (token_budget, "token_budget")):
        if longest > limit:
            raise InvalidInputError(
                f"The longest text takes {longest} tokens with {max_new_tokens} new ones and "
                f"{name} is {limit}; shorten the text or take fewer new tokens."
            )
    written = [""] * len(texts)
    order = sorted(range(len(texts)), key=lambda index: -len(prompts[index]))
    while order:
        size = max(1, token_budget // (len(prompts[order[0]]) + max_new_tokens))
        group, order = order[:size], order[size:]
        replies = _replies(model, [prompts[index] for index in group], max_new_tokens)
        for index, reply in zip(group, replies, strict=True):
            written[index] = model.tokenizer.decode(reply, skip_special_tokens=True)
    return written


def _replies(
    model: HookedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Generated tokens of a batch, longest prompt first, each up to the end of its turn."""
    length, device = len(prompts[0]), model.cfg.device
    tokens = torch.full((len(prompts), length), model.tokenizer.pad_token_id or 0)
    mask = torch.zeros((len(prompts), length), dtype=torch.bool)
    for line, prompt in enumerate(prompts):
        tokens[line, length - len(prompt) :] = torch.tensor(prompt)
        mask[line, length - len(prompt) :] = True
    tokens, mask = tokens.to(device), mask.to(device)
    ends = _ends(model.tokenizer)
    replies: list[list[int]] = [[] for _ in prompts]
    open_lines = set(range(len(prompts)))
    cache: Any = None
    with torch.no_grad():
        for _ in range(max_new_tokens):
            logits, cache = _step(model, tokens, mask, cache)
            tokens = logits.argmax(-1)[:, None]
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


def _step(
    model: HookedModel,
    tokens: Int[Tensor, "batch new"],
    mask: Bool[Tensor, "batch pos"],
    cache: Any,
) -> tuple[Float[Tensor, "batch vocab"], Any]:
    """Logits after the newest token, and the cache with it."""
    call: Any = model
    if isinstance(model, HookedTransformer):
        if cache is None:
            cache = TransformerLensKeyValueCache.init_cache(
                model.cfg, model.cfg.device, len(tokens)
            )
        new = mask[:, mask.shape[1] - tokens.shape[1] :].long()
        return call(tokens, attention_mask=new, past_kv_cache=cache)[:, -1], cache
    logits, cache = call(
        tokens,
        attention_mask=mask.long(),
        past_key_values=cache,
        use_past_kv_cache=True,
        return_type="logits_and_cache",
    )
    return logits[:, -1], cache


def _ends(tokenizer: Any) -> set[int]:
    vocabulary = tokenizer.get_vocab()
    known = {vocabulary[text] for text in _ENDS_OF_TURN if text in vocabulary}
    return known | ({tokenizer.eos_token_id} - {None})
