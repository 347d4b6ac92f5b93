"""A scoring run of many batches: shared among processes, kept on disk, shown while it goes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from culnig_tl.attribution.checkpoint import Checkpoint
from culnig_tl.attribution.distributed import combined, launched, share
from culnig_tl.attribution.integration import Scored
from culnig_tl.attribution.workload import Workload, left_after
from culnig_tl.questions import Batch
from culnig_tl.scores import NeuronScores, ScoreAccumulator


class LongRun:
    """Sums scores of what is left to score; ``finish`` puts all processes' sums together.

    Args:
        work: the batches.
        source: everything that the sums depend on.
        checkpoint: a file that keeps the sums; a run that was stopped goes on from there.
        checkpoint_minutes: least time between two writings of it.
        progress: show a progress bar; a text names it.

    Attributes:
        remaining: the batches of this process that are not scored yet.
    """

    def __init__(
        self,
        work: Workload,
        source: Mapping[str, Any],
        checkpoint: str | Path | None,
        checkpoint_minutes: float,
        progress: bool | str,
    ) -> None:
        self._state, self._budget, self._n_done = launched(), work.budget, 0
        self._batches = share(work.batches, self._state) if self._state else work.batches
        self._sums = ScoreAccumulator(work.cultures)
        self._checkpoint = _checkpoint(checkpoint, checkpoint_minutes, source, work, self._state)
        if self._checkpoint is not None and (saved := self._checkpoint.read()):
            sums, self._n_done, self._budget.tokens = saved
            self._sums = ScoreAccumulator.of(sums)
        self._bar = tqdm(
            total=sum(map(len, self._batches)),
            initial=self._n_done,
            desc=progress if isinstance(progress, str) else "attribution",
            unit="question",
            disable=not progress or not self.is_main,
        )

    @property
    def remaining(self) -> Iterator[Batch]:
        return left_after(self._batches, self._n_done)

    def __enter__(self) -> "LongRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, piece: Batch, scored: Scored) -> None:
        """Add the scores of the next prompts; write the checkpoint where it is due."""
        self._sums.update(
            scored.scores,
            cultures=piece.cultures,
            ids=piece.ids,
            gaps=scored.gaps,
            probability=scored.probability,
        )
        self._n_done += len(piece)
        self._bar.update(len(piece))
        if self._checkpoint is not None and self._checkpoint.is_due():
            self._checkpoint.write(
                self._sums.held(), n_done=self._n_done, token_budget=self._budget.tokens
            )

    def finish(self, **source: Any) -> NeuronScores:
        """The scores of all processes; the checkpoint is removed."""
        if self._state is not None:
            self._sums = ScoreAccumulator.of(combined(self._sums.held(), self._state))
        if self._checkpoint is not None:
            self._checkpoint.remove()
        return self._sums.finish(**source)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that shows and warns."""
        return self._state is None or self._state.is_main_process


def _checkpoint(
    path: str | Path | None,
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
    own = f"{path}.{state.process_index}" if state else path
    return Checkpoint(own, settings, minutes=minutes)
