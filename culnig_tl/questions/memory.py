"""Tokens per pass: where memory runs out, the budget is halved and the pass is taken in pieces."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache

from culnig_tl.errors import InvalidInputError, first_line
from culnig_tl.questions.batching import Batch

_LOG = logging.getLogger(__name__)
_OUT_OF_MEMORY = re.compile(
    r"out[ _]of[ _]([a-z]+[ _])?memory"  # CUDA, HIP, MPS, XPU, NPU
    r"|out[ _]of[ _]resources"  # XPU
    r"|(can.?t|cannot|could not|failed to) allocate|allocation failed|bad[ _]alloc"  # CPU, HPU
    r"|not enough memory"  # CPU on Windows
    r"|(cublas|cudnn|cusolver|cusparse|hipblas|rocblas)\w*_(alloc_failed|memory_error)"
    r"|cublas_status_not_initialized|cudnn_status_not_supported"  # no room for a workspace
    r"|could not create a (primitive|memory object)(?! desc)"  # oneDNN
    r"|invalid buffer size",  # MPS
    re.IGNORECASE,
)
"""What allocators and libraries say instead of raising ``torch.OutOfMemoryError``."""

T = TypeVar("T")


class TokenBudget:
    """How many tokens a pass may take, padding counted; fewer once memory ran out.

    Attributes:
        tokens: the budget as it stands.
        initial: the budget as it was given, by which batches are formed.

    Example:
        >>> TokenBudget(8192).tokens
        8192
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = self.initial = tokens

    def passes(
        self, batches: Iterable[Batch], run: Callable[[Batch], T], *, n_copies: int = 1
    ) -> Iterator[tuple[Batch, T]]:
        """Each batch with what ``run`` makes of it, cut into pieces where it does not fit.

        A piece keeps the padding of its batch, so that no result depends on how a batch was cut.

        Args:
            batches: the prompts.
            run: one forward, or forward and backward, pass.
            n_copies: copies of a prompt that a pass takes at most: the steps of integrated
                gradients.

        Raises:
            InvalidInputError: a single prompt does not fit into memory.
        """
        for batch in batches:
            n_done = 0
            while n_done < len(batch):
                piece = self._piece(batch, n_done)
                result = self._run_or_halve(piece, run, n_copies)
                if result is None:
                    clear_device_cache(garbage_collection=True)
                    continue
                yield piece, result[0]
                n_done += len(piece)

    def _piece(self, batch: Batch, start: int) -> Batch:
        """The prompts from ``start`` on that the budget allows; at least one."""
        stop = min(len(batch), start + max(1, self.tokens // batch.tokens.shape[1]))
        return batch if stop - start == len(batch) else batch.select(range(start, stop))

    def _run_or_halve(
        self, piece: Batch, run: Callable[[Batch], T], n_copies: int
    ) -> tuple[T] | None:
        """The result, or None and a smaller budget; what the failed pass held is free on return."""
        try:
            return (run(piece),)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            n_positions = piece.tokens.shape[1]
            tried = min(self.tokens, piece.tokens.numel() * n_copies)
            if tried <= n_positions:
                name = f"question {piece.ids[0]!r}: " if piece.ids[0] else ""
                raise InvalidInputError(
                    f"One prompt of {n_positions} tokens does not fit into memory ({name}"
                    f"{first_line(error)}); load the model in bfloat16 or on a "
                    "device with more memory, or shorten the prompt."
                ) from error
        self.tokens = tried // 2
        _LOG.warning(
            "out of memory with %d tokens per pass; going on with a token budget of %d",
            tried,
            self.tokens,
        )
        return None


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(
        _OUT_OF_MEMORY.search(str(error))
    )
