"""How far first order holds: predicted against real drops of ``P(answer)``.

With ``a`` a neuron's activation, scaled by a factor ``f``, the derivative of ``P`` by ``f`` at 1 is
the sum over positions of ``a * dP/da``, and so

    predicted drop = (1 - f) * mean over prompts of  sum over positions of a * dP/da

the score of ``attribute`` with ``pool="sum"`` and ``weight="none"``. The real drop is what scaling
does. Their ratio (real over predicted) tends to 1 as the factor tends to 1; how far it is from 1 at
factor 0 is what a score misses as an estimate of an ablation. For a whole set the prediction is the
sum of the neurons', and the sum of the neurons' real drops tells apart what is missed: it differs
from the set's real drop where neurons act together, and from the prediction where each by itself is
not linear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError, check_numbers
from culnig_tl.evaluation import ablation_effects, answers
from culnig_tl.hooked_model import HookedModel
from culnig_tl.hooks import check_intervention
from culnig_tl.neurons import Listed, NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare


@dataclass(frozen=True)
class FirstOrder:
    """Predicted and real drops of mean ``P(answer)``, 0 to 1.

    Attributes:
        frame: one row per factor and neuron: factor, site, layer, neuron, predicted, real, and
            ratio (real over predicted; NaN where nothing is predicted).
        together: one row per factor, all neurons scaled at once: factor, predicted, real, ratio,
            sum_of_real (of the neurons by themselves), and pearson and spearman (correlations of
            predicted with real over the neurons; NaN where either does not vary).
    """

    frame: pd.DataFrame
    together: pd.DataFrame


def first_order(
    model: HookedModel,
    rows: Rows,
    neurons: NeuronSet | Listed,
    *,
    factors: Sequence[float] = (0.9, 0.5, 0.0),
    token_budget: int = 8192,
    progress: bool = True,
) -> FirstOrder:
    """Drops of ``P(answer)`` that the gradient predicts, and those that scaling causes.

    Args:
        model: any model with named hook points.
        rows: questions, or prepared ones.
        neurons: a set, or neurons by value or name; each by itself, and all at once.
        factors: what activations are multiplied by; not 1, which changes nothing.
        token_budget: tokens per pass, padding counted; prepared questions have their own.
        progress: show progress bars.

    Returns:
        Drops by neuron and of the whole set; ``ct.figures.first_order(result.frame)`` draws them.

    Raises:
        InvalidInputError: no neurons, factors that are no finite numbers, given twice or 1, rows
            that cannot be used, or neurons outside the model; before the model answers.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=16)
        >>> pair = ["L3.mlp.hook_post.17", "L1.mlp.hook_post.5"]
        >>> drops = first_order(ct.load_model(), rows, pair, factors=[0.5, 0.0], progress=False)
        >>> len(drops.frame), len(drops.together)
        (4, 2)
    """
    neurons = NeuronSet.of(neurons)
    if not len(neurons):
        raise InvalidInputError("There are no neurons to scale; give at least one.")
    check_numbers("factors", factors, distinct=True)
    if 1 in factors:
        raise InvalidInputError(
            f"factors is {list(factors)}, and 1 changes nothing; give factors other than 1."
        )
    prepared = prepare(model, rows, token_budget=token_budget)
    for factor in factors:
        check_intervention(model, [neurons], factor)
    slopes = _slopes(prepared, neurons, progress)
    original = answers(prepared)["probability"].mean()
    frames, together = [], []
    for factor in map(float, factors):
        effects = ablation_effects(model, prepared, neurons, factor=factor, progress=progress)
        drops = effects[["site", "layer", "neuron"]].assign(
            predicted=(1 - factor) * slopes, real=effects["drop"]
        )
        whole = original - answers(prepared, neurons, factor)["probability"].mean()
        frames.append(_with_ratio(drops.assign(factor=factor)))
        together.append({"factor": factor, "real": whole, **_summary(drops)})
    columns = ["factor", "predicted", "real", "ratio", "sum_of_real", "pearson", "spearman"]
    return FirstOrder(
        pd.concat(frames, ignore_index=True)[["factor", "site", "layer", "neuron", *columns[1:4]]],
        _with_ratio(pd.DataFrame(together))[columns],
    )


def _slopes(prepared: PreparedQuestions, neurons: NeuronSet, progress: bool) -> np.ndarray:
    """The derivative of mean ``P(answer)`` by the factor of each neuron, at 1."""
    scores = attribute(
        prepared.model,
        prepared,
        sites=neurons.sites,
        pool="sum",
        weight="none",
        progress="gradients" if progress else False,
    )
    by_site = {site: scores.per_prompt(site) for site in neurons.sites}
    return np.array([float(by_site[site][layer, index]) for site, layer, index in neurons])


def _summary(drops: pd.DataFrame) -> dict[str, Any]:
    """What the drops of single neurons say of the set."""
    pair = drops[["predicted", "real"]]
    return {
        "predicted": drops["predicted"].sum(),
        "sum_of_real": drops["real"].sum(),
        "pearson": pair.corr().loc["predicted", "real"],
        "spearman": pair.corr(method="spearman").loc["predicted", "real"],
    }


def _with_ratio(drops: pd.DataFrame) -> pd.DataFrame:
    return drops.assign(ratio=drops["real"] / drops["predicted"].where(drops["predicted"] != 0))
