"""Dose and response: what a factor from 0 to 2 on the neurons does to answers.

The factor of ``scaled_neurons`` is the dose. If the neurons carry an ability, accuracy falls
steadily as the factor goes from 1 to 0, and random neurons of the same number leave it where it is;
a step or a fall on both sides of 1 says that the model was pushed out of its range instead.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import get_args

import pandas as pd
from tqdm.auto import tqdm

from culnig_tl.errors import (
    InvalidInputError,
    check_by_name,
    check_choice,
    check_kind,
    check_numbers,
    check_seed,
)
from culnig_tl.evaluation.answers import Mode
from culnig_tl.evaluation.conditions import Condition, answers_under
from culnig_tl.evaluation.summary import summarise
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_intervention
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Rows, prepare

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_COLUMNS = ["benchmark", "condition", "factor", "n_neurons", "n_questions"]
_MEASURES = ["accuracy", "accuracy_low", "accuracy_high"]
_MEASURES += ["probability", "probability_low", "probability_high"]


def dose_response(
    model: HookedModel,
    benchmarks: Mapping[str, Rows],
    neurons: NeuronSet,
    *,
    factors: Sequence[float] = FACTORS,
    random: Sequence[NeuronSet] = (),
    mode: Mode = "argmax",
    token_budget: int = 16384,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracy and mean ``P(answer)`` of every benchmark at every factor.

    Args:
        model: any model with named hook points.
        benchmarks: questions, or prepared ones, by name, cultural and general.
        neurons: neurons to scale.
        factors: what their activations are multiplied by, one after the other.
        random: random sets of the same number, averaged, for comparison.
        mode: as in ``evaluate``.
        token_budget: tokens per pass, padding counted; prepared questions have their own.
        seed: seed of the bootstrap.
        progress: show a progress bar.

    Returns:
        One row per benchmark, condition ("neurons", "random") and factor: n_neurons, n_questions,
        accuracy in % and probability (0 to 1), each with its 95 % interval (``_low``, ``_high``).

    Raises:
        InvalidInputError: no neurons, factors or benchmarks, a factor that is no finite number or
            given twice, rows that cannot be used, or neurons outside the model; before the model
            runs.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> doses = dose_response(ct.load_model(), {"culture": rows}, ct.answer_key("general"),
        ...                       factors=[0.0, 1.0], progress=False)
        >>> doses["factor"].tolist()
        [0.0, 1.0]
    """
    check_by_name("benchmarks", benchmarks)
    check_numbers("factors", factors, distinct=True)
    check_choice("mode", mode, get_args(Mode))
    check_seed(seed)
    check_kind("neurons", neurons, NeuronSet, "a NeuronSet")
    if not len(neurons):
        raise InvalidInputError("There are no neurons to scale; give at least one.")
    prepared = {
        name: prepare(model, rows, token_budget=token_budget) for name, rows in benchmarks.items()
    }
    conditions = [
        [Condition.of("neurons", neurons, factor)]
        + ([Condition.of("random", random, factor)] if random else [])
        for factor in map(float, factors)
    ]
    for of_factor in chain.from_iterable(conditions):
        check_intervention(model, of_factor.sets, of_factor.factor)
    tables = [
        summarise(answers_under(prepared, at_factor, mode=mode), seed=seed)
        for at_factor in tqdm(conditions, desc="factors", disable=not progress)
    ]
    return pd.concat(tables, ignore_index=True)[_COLUMNS + _MEASURES]
