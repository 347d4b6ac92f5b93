"""Pieces of work of a run, and the engines that do them.

A piece is what one set of neurons answers on one benchmark, or on a slice of a large one; also the
scores of some batches, a few cards, the doses. Its cost, in tokens, is known beforehand, its result
is small, and it depends on nothing that another piece makes. Engines do pieces in any order, on any
number of processes and machines; what a run finds does not depend on which.

| engine | processes | who keeps results |
|---|---|---|
| ``Loop`` | this one | itself |
| ``Together`` | those that torchrun, accelerate or srun launched | each its own, on one disk |
| ``OnRay`` (``pipeline.on_ray``) | workers of a Ray cluster | the driver, to which they come |
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from culnig_tl.attribution import launched
from culnig_tl.errors import CulnigError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.pipeline.questions import RunQuestions
from culnig_tl.pipeline.settings import Settings

T = TypeVar("T")
E = TypeVar("E", bound="Engine")
_ASK_AGAIN = 0.05  # seconds, whether the others are done
_LOOK_AGAIN = 2.0  # seconds, what they have kept


@dataclass(frozen=True)
class Setup:
    """What every piece is made with, on every process its own."""

    model: HookedModel
    settings: Settings
    questions: RunQuestions


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        make: makes the result; it can be pickled.
        tokens: what it costs.
        keep: puts the result where every later stage finds it.
        is_kept: whether it is there.
    """

    make: Callable[[Setup], Any]
    tokens: int
    keep: Callable[[Any], None]
    is_kept: Callable[[], bool]


class Engine(ABC):
    """Does pieces; a context, so that workers end with the run.

    Attributes:
        is_main: whether this process writes tables and shows progress.
        scores_by_pieces: whether scoring is handed out as pieces; else ``attribute`` shares it.
        n_workers: into how many parts it is worth to cut what can be cut anywhere.
    """

    is_main = True
    scores_by_pieces = False
    n_workers = 1

    def __enter__(self: E) -> E:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def first(self, do: Callable[[], T]) -> T:
        """What the main process makes of it, its error too, on every process."""
        return do()

    @abstractmethod
    def run(self, setup: Setup, pieces: Sequence[Piece], name: str, progress: bool) -> None:
        """Do all pieces, each once; when it returns, all of them are kept."""


class Loop(Engine):
    """One piece after the other, in this process."""

    def run(self, setup: Setup, pieces: Sequence[Piece], name: str, progress: bool) -> None:
        with piece_bar(pieces, name, progress) as done:
            for piece in pieces:
                piece.keep(piece.make(setup))
                done(piece)


class Together(Engine):
    """Processes that were launched together: each does its share of the pieces, longest first.

    They all see the run's folder. A process that dies takes the others with it (torchrun ends them,
    and so does ``srun --kill-on-bad-exit``); the same launch goes on from what was kept.

    Args:
        state: this process among them, as ``launched`` gives it.
    """

    def __init__(self, state: PartialState) -> None:
        self._state = state
        self.is_main = state.is_main_process
        self.n_workers = state.num_processes

    def first(self, do: Callable[[], T]) -> T:
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = do()
            except CulnigError as error:
                outcome[1] = error
        torch.distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def run(self, setup: Setup, pieces: Sequence[Piece], name: str, progress: bool) -> None:
        own = dealt([piece.tokens for piece in pieces], self.n_workers)[self._state.process_index]
        error = None
        with piece_bar(pieces, name, progress and self.is_main) as done:
            look = _watch(pieces if self.is_main else (), done)
            try:
                for number in own:
                    pieces[number].keep(pieces[number].make(setup))
                    look()
            except CulnigError as raised:
                error = raised
            everyone = torch.distributed.barrier(async_op=True)
            assert everyone is not None  # this process is one of the group
            while not everyone.is_completed():
                time.sleep(_ASK_AGAIN)
                look()
            everyone.wait()
            done(*(piece for piece in pieces if error is None))
        errors: list[CulnigError | None] = [None] * self.n_workers
        torch.distributed.all_gather_object(errors, error)
        for each in filter(None, errors):
            raise each


def _watch(pieces: Sequence[Piece], done: Callable[..., None]) -> Callable[[], None]:
    """A function that tells the bar what is kept, whoever kept it; it looks every few seconds, as
    each look asks the disk for all that was not there yet."""
    waiting, looked = list(pieces), time.monotonic()

    def look() -> None:
        nonlocal waiting, looked
        if time.monotonic() - looked < _LOOK_AGAIN:
            return
        kept = [piece.is_kept() for piece in waiting]
        done(*(piece for piece, is_kept in zip(waiting, kept, strict=True) if is_kept))
        waiting = [piece for piece, is_kept in zip(waiting, kept, strict=True) if not is_kept]
        looked = time.monotonic()

    return look


def usual_engine() -> Engine:
    """Those launched together with this process, or this process alone."""
    state = launched()
    return Loop() if state is None else Together(state)


def dealt(costs: Sequence[int], n_hands: int) -> list[list[int]]:
    """Numbers of pieces by worker: the longest first, each to the worker with the least to do.

    Example:
        >>> dealt([5, 9, 4, 3], 2)
        [[1, 3], [0, 2]]
    """
    hands: list[list[int]] = [[] for _ in range(n_hands)]
    loads = [0] * n_hands
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        hand = loads.index(min(loads))
        hands[hand].append(number)
        loads[hand] += costs[number]
    return hands


@contextmanager
def piece_bar(pieces: Sequence[Piece], name: str, progress: bool) -> Iterator[Callable[..., None]]:
    """A progress bar in tokens, so that the time left is right although pieces differ; the function
    that it gives takes pieces that are done, a second time too."""
    finished: set[int] = set()
    with tqdm(
        total=sum(piece.tokens for piece in pieces),
        desc=name,
        unit="token",
        unit_scale=True,
        disable=not progress or not pieces,
    ) as bar:

        def done(*some: Piece) -> None:
            new = {id(piece): piece.tokens for piece in some if id(piece) not in finished}
            finished.update(new)
            bar.set_postfix_str(f"{len(finished)} of {len(pieces)} pieces", refresh=False)
            bar.update(sum(new.values()))

        yield done
