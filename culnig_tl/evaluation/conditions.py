"""A condition: which neurons are scaled, and by what, in one row of a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError, check_number, check_some
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
        sets = (neurons,) if isinstance(neurons, NeuronSet) else tuple(neurons)
        return cls(name, sets, float(factor))


def answers_under(
    benchmarks: Mapping[str, PreparedQuestions],
    conditions: Sequence[Condition],
    *,
    mode: Mode = "argmax",
    progress: str | bool = False,
    keep: Keep = lambda benchmark, condition, draw, make: make(),
) -> pd.DataFrame:
    """Answers to every benchmark under every condition, one below the other.

    Args:
        benchmarks: prepared questions by name.
        conditions: what is done to the model.
        mode: as in ``evaluate``.
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
    pieces = [
        (benchmark, condition, draw)
        for benchmark in benchmarks
        for condition in conditions
        for draw in range(len(condition.sets))
    ]
    frames = []
    for benchmark, condition, draw in tqdm(pieces, desc=str(progress), disable=not progress):
        neurons = condition.sets[draw]
        make = partial(answers, benchmarks[benchmark], neurons, condition.factor, mode=mode)
        frame = keep(benchmark, condition, draw, make)
        frames.append(
            frame.drop(columns="probabilities").assign(
                benchmark=benchmark,
                condition=condition.name,
                draw=draw,
                n_neurons=len(neurons),
                factor=condition.factor,
                random=condition.random,
            )
        )
    return pd.concat(frames, ignore_index=True)
