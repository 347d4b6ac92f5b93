"""Which option a model holds likeliest, whole: for options of several tokens.

    log P(option | prompt) = sum over its tokens t of log P(t | prompt, tokens before t)

The option with the highest sum is the model's answer (``acc`` of lm-evaluation-harness), or the one
with the highest sum per character (its ``acc_norm``), since longer options are less likely.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError
from culnig_tl.logits import continuation_log_probabilities
from culnig_tl.questions import Batch, PreparedQuestions, groups_within, padded, padding_token


def option_log_probabilities(
    prepared: PreparedQuestions, *, progress: bool = False
) -> Float[np.ndarray, "row option"]:
    """Log-probability of every option of every question; NaN where a row has fewer.

    Raises:
        InvalidInputError: an option that changes the tokens of its prompt, or a prompt that is too
            long together with an option.
    """
    pairs, options, prompts = _with_options(prepared)
    table = np.full((len(prepared), max(map(len, prepared.option_ids))), np.nan)

    def run(piece: Batch) -> torch.Tensor:
        wanted = [options[pair] for pair in piece.rows]
        return continuation_log_probabilities(
            prepared.model, piece.tokens, piece.mask, wanted, ids=piece.ids
        )

    lengths = [len(prompt) for prompt in prompts]
    groups = groups_within(lengths, prepared.budget.initial, model=prepared.model)
    batches = [_batch(prepared, prompts, options, pairs, group) for group in groups]
    with tqdm(total=len(pairs), unit="option", disable=not progress) as bar:
        for piece, values in prepared.budget.passes(batches, run):
            rows, places = zip(*(pairs[pair] for pair in piece.rows), strict=True)
            table[list(rows), list(places)] = values.cpu().double().numpy()
            bar.update(len(piece))
    return table


def check_whole_options(prepared: PreparedQuestions) -> None:
    """Refuse options that cannot be read after their prompts.

    Raises:
        InvalidInputError: as ``option_log_probabilities``, before the model runs.
    """
    _with_options(prepared)


def _with_options(
    prepared: PreparedQuestions,
) -> tuple[list[tuple[int, int]], list[list[int]], list[tuple[int, ...]]]:
    """Row and place of every option, its tokens, and its prompt with all of them but the last."""
    of_rows = prepared.option_ids
    pairs = [(row, at) for row, options in enumerate(of_rows) for at in range(len(options))]
    options = [of_rows[row][at] for row, at in pairs]
    prompts = [
        (*prepared.prompts[row], *option[:-1])
        for (row, _), option in zip(pairs, options, strict=True)
    ]
    _check_lengths(prepared, prompts, pairs)
    return pairs, options, prompts


def _batch(
    prepared: PreparedQuestions,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int, int]],
    group: Sequence[int],
) -> Batch:
    model = prepared.model
    tokens, mask = padded([prompts[pair] for pair in group], padding_token(model))
    rows = prepared.rows.select([pairs[pair][0] for pair in group])
    return Batch(
        tokens=tokens.to(model.cfg.device),
        mask=mask.to(model.cfg.device),
        answers=torch.tensor([options[pair][-1] for pair in group]).to(model.cfg.device),
        cultures=tuple(rows["culture"]),
        ids=tuple(rows["id"]),
        rows=tuple(group),
    )


def _check_lengths(
    prepared: PreparedQuestions,
    prompts: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int, int]],
) -> None:
    longest = max(range(len(prompts)), key=lambda pair: len(prompts[pair]))
    context = prepared.model.cfg.n_ctx
    if (length := len(prompts[longest])) > context:
        name = prepared.rows[pairs[longest][0]]["id"]
        raise InvalidInputError(
            f"The prompt of question {name!r} has {length} tokens with its longest option, and the "
            f"model's context is {context}; shorten the prompt or the option."
        )
