"""A condition: which neurons are scaled, and by what, in one row of a table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError, check_choice, check_kind, check_number, check_some
from culnig_tl.evaluation.answers import NOTHING, Mode, answers, check_answerable
from culnig_tl.evaluation.summary import LAYER_MATCHED, RANDOM
from culnig_tl.hooks import check_intervention
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions

Neurons = NeuronSet | Sequence[NeuronSet] | None
"""Neurons to scale; several sets (random ones) are averaged; None leaves the model as it is."""
MakeAnswers = Callable[[], pd.DataFrame]
Keep = Callable[[str, "Condition", int, MakeAnswers], pd.DataFrame]
"""(benchmark, condition, draw, make) -> the answers, made or read where they were kept."""
Design = Literal["full", "split"]
"""Whether each of several sets answers all questions, or its own share of them."""

_SPLIT_LEAST = 2
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Condition:
    """What is done to a model.

    Attributes:
        name: any text; tables show it.
        sets: the neurons; several sets are answered one after the other and averaged.
        factor: what their activations are multiplied by.

    Raises:
        InvalidInputError: a factor that is no finite number, or what are no sets of neurons.

    Example:
        >>> Condition.of("as it is", None).factor
        1.0
    """

    name: str
    sets: tuple[NeuronSet, ...] = (NOTHING,)
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor)
        check_some(f"sets of {self.name!r}", self.sets)
        if others := [each for each in self.sets if not isinstance(each, NeuronSet)]:
            raise InvalidInputError(
                f"Condition {self.name!r} has {others[0]!r} among its sets of neurons; give sets, "
                "as ct.NeuronSet.of makes them."
            )

    @property
    def random(self) -> str:
        """Which random sets these are, by what ``random_neurons`` says of them; "" for others."""
        sources = [each.source for each in self.sets]
        if any(source.get("kind") != "random" for source in sources):
            return ""
        return LAYER_MATCHED if sources[0].get("layer_matched") else RANDOM

    @classmethod
    def of(cls, name: str, neurons: "Neurons | Condition", factor: float = 0.0) -> "Condition":
        """A condition under ``name``; without neurons its factor is 1."""
        if isinstance(neurons, Condition):
            return cls(name, neurons.sets, neurons.factor)
        if neurons is None:
            return cls(name)
        check_number("factor", factor)
        check_kind(f"condition {name!r}", neurons, Iterable, "a NeuronSet, several, or None")
        sets = (neurons,) if isinstance(neurons, NeuronSet) else tuple(neurons)
        return cls(name, sets, float(factor))


@dataclass(frozen=True)
class Measurement:
    """One set of neurons on one benchmark.

    Attributes:
        benchmark: its name.
        condition: what is done to the model.
        draw: which of the condition's sets.
        rows: numbers of the questions that this set answers; None for all.
    """

    benchmark: str
    condition: Condition
    draw: int
    rows: tuple[int, ...] | None = None

    @property
    def neurons(self) -> NeuronSet:
        return self.condition.sets[self.draw]

    def of(self, prepared: PreparedQuestions) -> PreparedQuestions:
        """The questions that this set answers."""
        return prepared if self.rows is None else prepared.select(self.rows)

    def answers(self, prepared: PreparedQuestions, mode: Mode) -> pd.DataFrame:
        """The frame of ``evaluate``."""
        return answers(self.of(prepared), self.neurons, self.condition.factor, mode=mode)

    def labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame of ``evaluate`` as part of ``answers_under``."""
        return frame.drop(columns="probabilities").assign(
            benchmark=self.benchmark,
            condition=self.condition.name,
            draw=self.draw,
            n_neurons=len(self.neurons),
            factor=self.condition.factor,
            random=self.condition.random,
        )


def measurements(
    benchmarks: Mapping[str, PreparedQuestions],
    conditions: Sequence[Condition],
    *,
    design: Design = "full",
) -> list[Measurement]:
    """Every set on every benchmark.

    With ``design="split"`` the random sets of a condition share a benchmark's questions: each is
    answered under one of the sets, so that ten sets cost one evaluation. Questions are dealt
    culture by culture. A benchmark with fewer than two questions a set is answered in full, which
    is cheap.

    Args:
        benchmarks: prepared questions by name.
        conditions: what is done to the model.
        design: whether random sets answer all questions, or share them.

    Raises:
        InvalidInputError: an unknown design.
    """
    check_choice("random_design", design, get_args(Design))
    pieces = []
    for benchmark, prepared in benchmarks.items():
        for condition in conditions:
            n_sets = len(condition.sets)
            shared = n_sets > 1 and condition.random and design == "split"
            shares = _shares(prepared, n_sets) if shared else None
            for draw in range(n_sets):
                rows = None if shares is None else shares[draw]
                pieces.append(Measurement(benchmark, condition, draw, rows))
    return pieces


def _shares(prepared: PreparedQuestions, n_sets: int) -> list[tuple[int, ...]] | None:
    """The rows of each set: all prompts of a question of a culture go to the same one."""
    names = list(zip(prepared.rows["culture"], prepared.rows["id"], strict=True))
    units = list(dict.fromkeys(names))
    if len(units) < _SPLIT_LEAST * n_sets:
        return None
    drawn = np.random.default_rng(_SPLIT_SEED).permutation(len(units))
    dealt = sorted(drawn.tolist(), key=lambda unit: units[unit][0])
    draw_of = {units[unit]: place % n_sets for place, unit in enumerate(dealt)}
    of_row = np.array([draw_of[name] for name in names])
    return [tuple(np.flatnonzero(of_row == draw).tolist()) for draw in range(n_sets)]


def answers_under(
    benchmarks: Mapping[str, PreparedQuestions],
    conditions: Sequence[Condition],
    *,
    mode: Mode = "argmax",
    design: Design = "full",
    progress: str | bool = False,
    keep: Keep = lambda benchmark, condition, draw, make: make(),
) -> pd.DataFrame:
    """Answers to every benchmark under every condition, one below the other.

    Args:
        benchmarks: prepared questions by name.
        conditions: what is done to the model.
        mode: as in ``evaluate``.
        design: as in ``measurements``.
        progress: the name of a progress bar.
        keep: where a set's answers come from; by default they are made.

    Returns:
        The columns of ``evaluate`` without ``probabilities``; ``benchmark`` is the name given here,
        and ``condition``, ``draw`` (which of several sets), ``n_neurons``, ``factor`` and
        ``random`` (``"random"`` or ``"layer-matched"`` for sets of ``random_neurons``, else ``""``)
        are added.

    Raises:
        InvalidInputError: a condition given twice, an unknown mode, options that it cannot read, a
            factor that the model's type cannot hold, or neurons outside the model; all before the
            first pass.
    """
    check_conditions(benchmarks, conditions, mode)
    frames = []
    for piece in tqdm(
        measurements(benchmarks, conditions, design=design),
        desc=str(progress),
        disable=not progress,
    ):
        make = partial(piece.answers, benchmarks[piece.benchmark], mode)
        frames.append(piece.labelled(keep(piece.benchmark, piece.condition, piece.draw, make)))
    return pd.concat(frames, ignore_index=True)


def check_conditions(
    benchmarks: Mapping[str, PreparedQuestions], conditions: Sequence[Condition], mode: Mode
) -> None:
    """Refuse what ``answers_under`` cannot answer, before the first pass.

    Raises:
        InvalidInputError: as ``answers_under``.
    """
    names = [(condition.name, condition.factor) for condition in conditions]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidInputError(
            f"Condition {twice[0][0]!r} comes twice with the factor {twice[0][1]:g}; give each of "
            "them a name of its own."
        )
    for prepared in benchmarks.values():
        check_answerable(prepared, mode)
        for condition in conditions:
            check_intervention(prepared.model, condition.sets, condition.factor)
