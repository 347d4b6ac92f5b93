"""A condition: which neurons are scaled, and by what, in one row of a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.evaluation.answers import NOTHING, Mode, answers
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

    Example:
        >>> Condition.of("as it is", None).factor
        1.0
    """

    name: str
    sets: tuple[NeuronSet, ...] = (NOTHING,)
    factor: float = 1.0

    @classmethod
    def of(cls, name: str, neurons: "Neurons | Condition", factor: float = 0.0) -> "Condition":
        """A condition under ``name``; without neurons its factor is 1."""
        if isinstance(neurons, Condition):
            return cls(name, neurons.sets, neurons.factor)
        if neurons is None:
            return cls(name)
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
        and ``condition``, ``draw`` (which of several sets), ``n_neurons`` and ``factor`` are added.
    """
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
            )
        )
    return pd.concat(frames, ignore_index=True)
