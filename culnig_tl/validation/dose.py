"""Dose and response: what a factor from 0 to 2 on the neurons does to answers.

The factor of ``scaled_neurons`` is the dose. If the neurons carry an ability, accuracy falls
steadily as the factor goes from 1 to 0, and random neurons of the same number leave it where it is;
a step or a fall on both sides of 1 says that the model was pushed out of its range instead.
"""

from collections.abc import Mapping, Sequence

import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import Mode, summarise
from culnig_tl.evaluation.answers import answers, labelled
from culnig_tl.hooks import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import batches, for_model

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_COLUMNS = ["benchmark", "condition", "factor", "n_neurons", "n_questions"]
_MEASURES = ["accuracy", "accuracy_low", "accuracy_high"]
_MEASURES += ["probability", "probability_low", "probability_high"]


def dose_response(
    model: HookedModel,
    benchmarks: Mapping[str, Dataset],
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
        benchmarks: questions by name, cultural and general.
        neurons: neurons to scale.
        factors: what their activations are multiplied by, one after the other.
        random: random sets of the same number, averaged, for comparison.
        mode: as in ``evaluate``.
        token_budget: tokens a batch, padding counted.
        seed: seed of the bootstrap.
        progress: show a progress bar.

    Returns:
        One row a benchmark, condition ("neurons", "random") and factor: n_neurons, n_questions,
        accuracy in % and probability (0 to 1), each with its 95 % interval (``_low``, ``_high``).

    Raises:
        InvalidInputError: no neurons, factors or benchmarks, rows that cannot be used, or neurons
            outside the model.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=8)
        >>> doses = dose_response(ct.load_model(), {"culture": rows}, ct.answer_key("general"),
        ...                       factors=[0.0, 1.0], progress=False)
        >>> doses["factor"].tolist()
        [0.0, 1.0]
    """
    if not len(neurons) or not len(factors) or not benchmarks:
        raise InvalidInputError(
            f"There are {len(neurons)} neurons, {len(factors)} factors and {len(benchmarks)} "
            "benchmarks; give at least one each."
        )
    sets = [("neurons", 0, neurons), *(("random", draw, each) for draw, each in enumerate(random))]
    found: dict[float, list[pd.DataFrame]] = {float(factor): [] for factor in factors}
    with tqdm(total=len(found) * len(benchmarks), desc="factors", disable=not progress) as bar:
        for benchmark, given in benchmarks.items():
            rows = for_model(given, model)
            prepared = batches(model, rows, token_budget=token_budget)
            for factor, frames in found.items():
                for name, draw, each in sets:
                    answered = answers(model, rows, prepared, each, factor, mode=mode)
                    label = {"condition": name, "draw": draw, "neurons": each, "factor": factor}
                    frames.append(labelled(answered, benchmark, **label))
                bar.update()
    tables = [summarise(pd.concat(frames), seed=seed) for frames in found.values()]
    return pd.concat(tables, ignore_index=True)[_COLUMNS + _MEASURES]
