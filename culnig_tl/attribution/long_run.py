"""A scoring run of many batches: shared among processes, kept on disk, shown while it goes.

The checkpoint is written after the first batch, so that a disk without room for it is found out at
once, then every few minutes, and last when the run is stopped or fails. It is removed when the
scores are safely elsewhere: in ``out``, where that is given.
"""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from culnig_tl.attribution.checkpoint import Checkpoint
from culnig_tl.attribution.distributed import combined, launched, own_path, share
from culnig_tl.attribution.integration import Scored
from culnig_tl.attribution.workload import Workload, left_after
from culnig_tl.files import locked
from culnig_tl.questions import Batch
from culnig_tl.scores import NeuronScores, ScoreAccumulator


class LongRun:
    """Sums scores of what is left to score; ``finish`` puts all processes' sums together.

    Args:
        work: the batches.
        source: everything that the sums depend on.
        checkpoint: a file that keeps the sums; a run that was stopped goes on from there.
        checkpoint_minutes: least time between two writings of it.
        out: a file for the scores.
        progress: show a progress bar; a text names it.

    Attributes:
        remaining: the batches of this process that are not scored yet.

    Raises:
        InvalidInputError: on entering, a checkpoint of other settings, or of another process that
            is still at it.
        UnwritableError: on entering, a folder of the checkpoint that cannot be written.
    """

    def __init__(
        self,
        work: Workload,
        source: Mapping[str, Any],
        *,
        checkpoint: str | Path | None,
        checkpoint_minutes: float,
        out: str | Path | None,
        progress: bool | str,
    ) -> None:
        self._state, self._budget, self._out = launched(), work.budget, out
        self._batches = share(work.batches, self._state) if self._state else work.batches
        self._sums = ScoreAccumulator(work.cultures)
        self._is_whole = True  # no update is halfway
        self._n_done = self._n_saved = 0
        self._path = own_path(checkpoint, self._state) if checkpoint is not None else None
        self._checkpoint = _checkpoint(self._path, checkpoint_minutes, source, work, self._state)
        self._progress = progress

    @property
    def remaining(self) -> Iterator[Batch]:
        return left_after(self._batches, self._n_done)

    def __enter__(self) -> "LongRun":
        with ExitStack() as locks:
            if self._path is not None:
                locks.enter_context(locked(self._path))
            self._resume()
            self._locks = locks.pop_all()
        self._bar = tqdm(
            total=sum(map(len, self._batches)),
            initial=self._n_done,
            desc=self._progress if isinstance(self._progress, str) else "attribution",
            unit="question",
            disable=not self._progress or not self.is_main,
        )
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with self._locks:
            self._bar.close()
            if error is not None:
                self._save()

    def add(self, piece: Batch, scored: Scored) -> None:
        """Add the scores of the next prompts; write the checkpoint where it is due."""
        with _uninterrupted():
            self._is_whole = False
            self._sums.update(
                scored.scores,
                cultures=piece.cultures,
                ids=piece.ids,
                gaps=scored.gaps,
                probability=scored.probability,
            )
            self._n_done += len(piece)
            self._is_whole = True
        self._bar.update(len(piece))
        if self._checkpoint is not None and (not self._n_saved or self._checkpoint.is_due()):
            self._save()

    def finish(self, **source: Any) -> NeuronScores:
        """The scores of all processes, in ``out`` too; the checkpoint is removed."""
        sums = self._sums
        if self._state is not None:
            sums = ScoreAccumulator.of(combined(sums.held(), self._state))
        scores = sums.finish(**source)
        if self._out is not None and self.is_main:
            scores.save(self._out)
        if self._state is not None and self._out is not None:  # checkpoints stay until it is there
            self._state.wait_for_everyone()
        if self._checkpoint is not None:
            self._checkpoint.remove()
        return scores

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that shows, warns and writes scores."""
        return self._state is None or self._state.is_main_process

    def _resume(self) -> None:
        """Go on from what the checkpoint holds."""
        if self._checkpoint is not None and (saved := self._checkpoint.read()):
            sums, self._n_done, self._budget.tokens = saved
            self._sums, self._n_saved = ScoreAccumulator.of(sums), self._n_done

    def _save(self) -> None:
        """Write the checkpoint, if there is one and something new."""
        if self._checkpoint is None or self._n_done == self._n_saved or not self._is_whole:
            return
        self._checkpoint.write(
            self._sums.held(), n_done=self._n_done, token_budget=self._budget.tokens
        )
        self._n_saved = self._n_done


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold ctrl-C, and other signals that Python handles, back until the end of a block.

    Handlers run in the main thread alone, and what is none of Python's is left as it is.
    """
    is_main = threading.current_thread() is threading.main_thread()
    of_python = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if is_main and callable(handler := signal.getsignal(number))
    }
    arrived: list[tuple[int, FrameType | None]] = []
    try:
        for number in of_python:
            signal.signal(number, lambda number, frame: arrived.append((number, frame)))
        yield
    finally:
        for number, handler in of_python.items():
            signal.signal(number, handler)
    for number, frame in arrived[:1]:
        of_python[signal.Signals(number)](number, frame)


def _checkpoint(
    path: Path | None,
    minutes: float,
    source: Mapping[str, Any],
    work: Workload,
    state: PartialState | None,
) -> Checkpoint | None:
    """The file of this process; None where no checkpoint is asked for."""
    if path is None:
        return None
    settings = {
        **source,
        "token_budget": work.budget.initial,
        "processes": state.num_processes if state else 1,
        "torch": str(torch.__version__),
    }
    return Checkpoint(path, settings, minutes=minutes)
