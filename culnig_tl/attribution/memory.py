"""A batch is scored in pieces that fit: where memory runs out, the token budget is halved."""

import logging
from collections.abc import Callable, Iterator

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Batch

_LOG = logging.getLogger(__name__)

Scores = dict[str, Tensor]
Score = Callable[[Batch, int], Scores]
"""(batch, tokens of one pass) -> scores ``[batch layer neuron]`` by site."""


class Fitting:
    """Scores batches in pieces of at most ``token_budget`` tokens, fewer once memory ran out.

    A piece keeps the padding of its batch, so that no score depends on how a batch was cut.

    Args:
        score: scores one piece.
        token_budget: tokens of one pass, padding counted.
        n_copies: copies of a prompt that a pass takes at most: the steps of integrated gradients.
    """

    def __init__(self, score: Score, *, token_budget: int, n_copies: int = 1) -> None:
        self.token_budget = token_budget
        self._score = score
        self._n_copies = n_copies

    def __call__(self, batch: Batch) -> Iterator[tuple[Batch, Scores]]:
        """Each piece of a batch with its scores, in the order of the prompts.

        Raises:
            InvalidInputError: a single prompt does not fit.
        """
        n_positions, done = batch.tokens.shape[1], 0
        while done < len(batch):
            stop = min(len(batch), done + max(1, self.token_budget // n_positions))
            piece = batch.select(range(done, stop))
            scores = self._scores_or_less_budget(piece)
            if scores is None:
                clear_device_cache(garbage_collection=True)
                continue
            yield piece, scores
            done = stop

    def _scores_or_less_budget(self, piece: Batch) -> Scores | None:
        """Scores, or None and a smaller budget; what the failed pass held is free on return."""
        try:
            return self._score(piece, self.token_budget)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            n_positions = piece.tokens.shape[1]
            tried = min(self.token_budget, piece.tokens.numel() * self._n_copies)
            if tried <= n_positions:
                raise InvalidInputError(
                    f"One prompt of {n_positions} tokens does not fit into memory (question "
                    f"{piece.ids[0]!r}); load the model in bfloat16 or on a device with more "
                    "memory, or shorten the prompt."
                ) from error
        self.token_budget = tried // 2
        _LOG.warning(
            "out of memory with %d tokens a pass; going on with a token budget of %d",
            tried,
            self.token_budget,
        )
        return None


def _is_out_of_memory(error: RuntimeError) -> bool:
    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or "not enough memory" in str(error)  # the CPU's allocator on Windows
    )
