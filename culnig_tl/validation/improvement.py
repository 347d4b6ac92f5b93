"""Can the neurons improve answers, not only break them? A factor searched, and judged elsewhere.

The neurons' activations are multiplied by each factor of a grid, and the best one is taken:

* ``by="set"``: one factor for all neurons;
* ``by="layer"``: one factor per layer, found layer by layer from below, those found so far in place
  (a sweep of coordinate ascent); a layer stays as it is unless another factor does better.

Best is what mean ``P(answer)``, or accuracy, is highest under on the questions that search. A
factor taken for being best there is flattered by them, the more the larger the grid; what counts
are the changes on held-out questions, cultural and general ones, with intervals (see
``validation.changes``). A higher ``P`` alone changes no answer: read accuracy beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.errors import (
    InvalidInputError,
    check_by_name,
    check_choice,
    check_numbers,
    check_seed,
)
from culnig_tl.evaluation import (
    Mode,
    answers,
    chance_warning,
    check_answerable,
    rows_in_common,
    warn,
)
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_intervention, scaled_neurons
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.validation.changes import paired_change

Criterion = Literal["probability", "accuracy"]
By = Literal["set", "layer"]
FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
_MEASURES: Mapping[Criterion, str] = {"probability": "gain", "accuracy": "change"}
"""The column of ``TunedFactors.effects`` that says what a criterion came to."""


_ENOUGH_UNITS = 20
"""Units below which intervals are clearly too narrow (see ``evaluation.selectivity``)."""


@dataclass(frozen=True)
class TunedFactors:
    """The factors that did best where they were searched, and what they do elsewhere.

    Attributes:
        factors: factor of each layer that has neurons of the set; ``scaled_layers`` applies them.
        criterion: what they were searched by.
        search: one row per factor that was tried: layer (-1: all together), factor, probability
            (mean ``P(answer)``, 0 to 1) and accuracy (%), on the questions that search.
        effects: one row per held-out benchmark: benchmark, is_cultural, n_prompts, n_units,
            probability_before, probability, accuracy_before, accuracy (%), and gain (of ``P``,
            relative) and change (of accuracy, in points), each with its 95 % interval.
    """

    factors: Mapping[int, float]
    criterion: Criterion
    search: pd.DataFrame
    effects: pd.DataFrame

    @property
    def is_gain(self) -> bool:
        """Whether the criterion rises on held-out cultural questions, by the interval."""
        return self._rises(_MEASURES[self.criterion])

    def _rises(self, measure: str) -> bool:
        cultural = self.effects[self.effects["is_cultural"]]
        return bool((cultural[f"{measure}_low"] > 0).any())

    @property
    def verdict(self) -> str:
        """What was gained on held-out questions, and what it costs, in plain words."""
        if set(self.factors.values()) == {1.0}:
            return (
                "Nothing is gained: no factor does better than 1, the model as it is, even on the "
                "questions that it was searched on."
            )
        begin = (
            f"{self.criterion.capitalize()} rises on held-out cultural questions"
            if self.is_gain
            else f"Nothing is gained on held-out questions: {self.criterion} does not surely rise"
        )
        if self.is_gain and not self._rises("change"):
            begin += ", but accuracy does not"
        general = self.effects[~self.effects["is_cultural"]]
        names = general.loc[(general[["gain_high", "change_high"]] < 0).any(axis=1), "benchmark"]
        costs = f" It costs {', '.join(names)}." if len(names) else ""
        said = " ".join(map(_sentence, self.effects.to_dict("records")))
        least = int(self.effects["n_units"].min())
        few = f" Intervals over {least} topics are too narrow." if least < _ENOUGH_UNITS else ""
        return f"{begin}. {said}{costs}{few}"


def tune_factors(
    model: HookedModel,
    neurons: NeuronSet,
    rows: Rows,
    tests: Mapping[str, Rows],
    *,
    factors: Sequence[float] = FACTORS,
    by: By = "set",
    criterion: Criterion = "probability",
    mode: Mode = "argmax",
    token_budget: int = 16384,
    seed: int = 0,
    progress: bool = True,
) -> TunedFactors:
    """Search what to multiply neurons by on some questions, and judge it on others.

    Args:
        model: any model with named hook points.
        neurons: the set.
        rows: questions to search with: those that found the set, or others of the same half.
        tests: held-out questions by name, cultural and general.
        factors: what is tried; 1, the model as it is, always is.
        by: one factor for the ``"set"``, or one per ``"layer"``.
        criterion: mean ``P(answer)``, or accuracy.
        mode: what counts as an answer, as in ``evaluate``.
        token_budget: tokens per pass; prepared questions have their own.
        seed: seed of the bootstrap.
        progress: show a progress bar.

    Raises:
        InvalidInputError: no neurons or tests, factors that are no finite numbers or given twice,
            an unknown choice, rows that cannot be used, or neurons outside the model; before any
            pass.

    Warns:
        UserWarning: rows that test are among those that search, or benchmarks at chance.

    Example:
        >>> import culnig_tl as ct
        >>> rows, test = (ct.load_benchmark("atlas", split=split, limit=8)
        ...               for split in ("identify", "test"))
        >>> tuned = tune_factors(ct.load_model(), ct.answer_key("general"), rows, {"culture": test},
        ...                      factors=[0.0], progress=False)
        >>> set(tuned.factors.values())
        {1.0}
    """
    check_numbers("factors", factors, distinct=True)
    check_by_name("tests", tests)
    for name, value, choices in (("by", by, By), ("criterion", criterion, Criterion)):
        check_choice(name, value, get_args(choices))
    check_seed(seed)
    if not len(neurons):
        raise InvalidInputError("There are no neurons to scale; give at least one.")
    for factor in factors:
        check_intervention(model, [neurons], factor)
    searched = prepare(model, rows, token_budget=token_budget)
    tested = {name: prepare(model, each, token_budget=token_budget) for name, each in tests.items()}
    for prepared in (searched, *tested.values()):
        check_answerable(prepared, mode)
    warn(rows_in_common(searched, tested))
    tried, search = _searched(searched, neurons, factors, by, criterion, mode, progress)
    before = {name: answers(each, mode=mode) for name, each in tested.items()}
    warn(chance_warning(tested, {name: each["correct"] for name, each in before.items()}))
    effects = []
    for name, prepared in tested.items():
        with scaled_layers(model, neurons, tried):
            after = answers(prepared, mode=mode)
        change = paired_change(before[name], after, seed=seed).columns()
        effects.append({"benchmark": name, "is_cultural": any(prepared.cultures), **change})
    return TunedFactors(tried, criterion, search, pd.DataFrame(effects))


@contextmanager
def scaled_layers(
    model: HookedModel, neurons: NeuronSet, factors: Mapping[int, float]
) -> Iterator[HookedModel]:
    """Multiply the neurons of each layer by the layer's factor inside a ``with`` block.

    Args:
        model: any model with named hook points.
        neurons: a set; layers without a factor stay as they are.
        factors: factor by layer.

    Raises:
        InvalidInputError: as ``scaled_neurons``.

    Example:
        >>> import culnig_tl as ct
        >>> key = ct.answer_key("general")
        >>> with scaled_layers(ct.load_model(), key, {0: 0.5, 2: 2.0}) as model:
        ...     logits = model("What is the usual staple food?")
    """
    with ExitStack() as stack:
        for factor in dict.fromkeys(factors.values()):
            layers = {layer for layer, each in factors.items() if each == factor}
            if factor != 1:
                stack.enter_context(scaled_neurons(model, _of(neurons, layers), factor=factor))
        yield model


def _of(neurons: NeuronSet, layers: set[int]) -> NeuronSet:
    """The neurons of some layers."""
    of_layers = [neuron for neuron in neurons if neuron.layer in layers]
    return NeuronSet.of(of_layers, shapes=neurons.shapes, source=neurons.source)


def _searched(
    prepared: PreparedQuestions,
    neurons: NeuronSet,
    factors: Sequence[float],
    by: By,
    criterion: Criterion,
    mode: Mode,
    progress: bool,
) -> tuple[dict[int, float], pd.DataFrame]:
    """The best factor of each layer, and every one that was tried."""
    layers = sorted({neuron.layer for neuron in neurons})
    best = dict.fromkeys(layers, 1.0)
    grid = [float(factor) for factor in factors if factor != 1]
    steps = [[layer] for layer in layers] if by == "layer" else [layers]

    def measured(tried: Mapping[int, float]) -> dict[str, float]:
        with scaled_layers(prepared.model, neurons, tried):
            frame = answers(prepared, mode=mode)
        probability, correct = frame["probability"].mean(), frame["correct"].mean()
        return {"probability": float(probability), "accuracy": 100 * float(correct)}

    held = measured(best)
    rows = [{"layer": -1, "factor": 1.0, **held}]
    for of_step in tqdm(steps, desc="factors", disable=not progress):
        start = best
        for factor in grid:
            tried = start | dict.fromkeys(of_step, factor)
            value = measured(tried)
            rows.append({"layer": of_step[0] if by == "layer" else -1, "factor": factor, **value})
            if value[criterion] > held[criterion]:
                best, held = tried, value
    return best, pd.DataFrame(rows)


def _sentence(row: Mapping[Any, Any]) -> str:
    """What changed on one benchmark."""
    gain, gain_low, gain_high = (f"{row[f'gain{end}']:+.0%}" for end in ("", "_low", "_high"))
    change, low, high = (f"{row[f'change{end}']:+.1f}" for end in ("", "_low", "_high"))
    return (
        f"“{row['benchmark']}”: P(answer) {gain} [{gain_low}, {gain_high}], accuracy {change} "
        f"points [{low}, {high}]."
    )
