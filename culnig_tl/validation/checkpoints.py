"""What training does to culture neurons: the same questions to several checkpoints of one model.

Each checkpoint answers, is scored and gets a set of its own, from the same rows by the same rule.
For every two of them

* *overlap*: the Jaccard index of their sets, beside what sets with as many neurons in each layer
  share by chance, and how likely that is (exactly; ``overlap.shared_by_chance``);
* *drift*: 1 - Spearman's rank correlation of S(cultural) - S(control) over the neurons of a pool.

Neurons are compared by their place, which means something only where one checkpoint was trained
from the other: shapes must be the same, and two models trained apart share no neurons by name.
One model is in memory at a time where paths or names are given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import control_exceeds, evaluate
from culnig_tl.figures import model_comparison
from culnig_tl.hooked_model import HookedModel
from culnig_tl.html import described_table
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Rows
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import Recipe, culture_general
from culnig_tl.sites import SITES
from culnig_tl.validation.overlap import shared_by_chance

_CLAMPED = ("control", "general")


@dataclass(frozen=True, repr=False)
class ModelComparison:
    """Checkpoints of a model side by side; it shows itself in Jupyter as a table.

    Attributes:
        models: one row per checkpoint: model, accuracy (%), probability (mean P(answer) of the
            cultural questions), neurons (in its set), control (S(control) over S(cultural), summed
            over all neurons; above 1 the form outweighs the question), warning.
        pairs: one row per two checkpoints: first, second, shared, jaccard, by_chance, p_value (of
            sharing as many by chance), drift_mlp and drift_attention (0: the same ranks, 1:
            unrelated ones).
        sets: the set of each checkpoint.
    """

    models: pd.DataFrame
    pairs: pd.DataFrame
    sets: Mapping[str, NeuronSet]

    def figure(self) -> go.Figure:
        """What the sets share, and in which layers each has its neurons."""
        return model_comparison(self.sets)

    def __repr__(self) -> str:
        return f"{len(self.models)} checkpoints: {', '.join(self.sets)}"

    def _repr_html_(self) -> str:
        return described_table(f"{self!r}.", self.models) + described_table(
            "Every two of them:", self.pairs
        )


def compare_models(
    models: Mapping[str, HookedModel | str | Path],
    cultural: Rows,
    control: Rows | None = None,
    recognition: Rows | None = None,
    general: Rows | None = None,
    *,
    recipe: Recipe = "published",
    options: Mapping[str, Any] | None = None,
    token_budget: int = 8192,
    progress: bool = True,
) -> ModelComparison:
    """How culture neurons differ between checkpoints of one model: base, tuned, preference-tuned.

    Args:
        models: checkpoints by name, as models, or as what ``load_model`` takes.
        cultural, control, recognition, general: rows, as for ``culture_general``; scores of the
            control and of general questions are clamped.
        recipe: the rule by which neurons are selected.
        options: for ``load_model``, such as ``{"dtype": "bfloat16"}``.
        token_budget, progress: as in ``attribute``.

    Raises:
        InvalidInputError: fewer than two models, models of different shapes, or what ``attribute``
            and ``culture_general`` refuse.

    Warns:
        UserWarning: where the control outscores the cultural questions; the table says in which
            checkpoint.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> both = ct.compare_models({"planted": "atlas", "twin": "atlas-natural"}, rows,
        ...                          progress=False)
        >>> both.pairs[["first", "second"]].values.tolist()
        [['planted', 'twin']]
    """
    if len(models) < 2:
        raise InvalidInputError(
            f"There is nothing to compare in {len(models)} model; give at least two by name, such "
            "as {'base': 'models/base', 'tuned': 'models/tuned'}."
        )
    rows = {
        "cultural": cultural,
        "control": control,
        "recognition": recognition,
        "general": general,
    }
    lines, sets, differences = [], {}, {}
    for name, source in models.items():
        model = load_model(source, **(options or {})) if isinstance(source, str | Path) else source
        answers = evaluate(model, cultural, token_budget=token_budget, progress=progress)
        scores = {
            role: attribute(
                model,
                of_role,
                clamp=role in _CLAMPED,
                token_budget=token_budget,
                progress=progress,
            )
            for role, of_role in rows.items()
            if of_role is not None
        }
        differences[name] = _differences(scores["cultural"], scores.get("control"))
        _check_shapes({each: len(values) for each, values in differences.items()})
        sets[name] = culture_general(
            scores["cultural"],
            scores.get("control"),
            scores.get("recognition"),
            scores.get("general"),
            recipe=recipe,
        )
        lines.append(_line(name, answers, scores, sets[name]))
    return ModelComparison(pd.DataFrame(lines), _pairs(sets, differences), sets)


def _differences(cultural: NeuronScores, control: NeuronScores | None) -> pd.Series:
    """S(cultural) - S(control) of every neuron that a rule may select, by its pool."""
    values = {
        site: cultural.total(site) - (0.0 if control is None else control.total(site))
        for site in cultural.sites
        if SITES[site].pool is not None
    }
    return pd.concat(
        [
            pd.Series(of_site.flatten().numpy(), index=[SITES[site].pool] * of_site.numel())
            for site, of_site in values.items()
        ]
    )


def _check_shapes(sizes: Mapping[str, int]) -> None:
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise InvalidInputError(
            f"These models have different numbers of neurons ({listed}); neurons are compared by "
            "their place, so give checkpoints of one model."
        )


def _line(
    name: str, answers: pd.DataFrame, scores: Mapping[str, NeuronScores], neurons: NeuronSet
) -> dict[str, Any]:
    control = scores.get("control")
    sums = {
        role: sum(each.total(site).sum().item() for site in each.sites)
        for role, each in scores.items()
    }
    return {
        "model": name,
        "accuracy": 100 * answers["correct"].mean(),
        "probability": answers["probability"].mean(),
        "neurons": len(neurons),
        "control": sums["control"] / sums["cultural"] if control is not None else float("nan"),
        "warning": control_exceeds(scores["cultural"], control),
    }


def _pairs(sets: Mapping[str, NeuronSet], differences: Mapping[str, pd.Series]) -> pd.DataFrame:
    lines = []
    for first, second in combinations(sets, 2):
        one, other = sets[first], sets[second]
        expected, p_value = shared_by_chance(one, other)
        line = {
            "first": first,
            "second": second,
            "shared": len(one & other),
            "jaccard": one.jaccard(other),
            "by_chance": expected / max(len(one) + len(other) - expected, 1),
            "p_value": p_value,
        }
        lines.append(line | _drift(differences[first], differences[second]))
    return pd.DataFrame(lines)


def _drift(first: pd.Series, second: pd.Series) -> dict[str, float]:
    pools = first.index.unique()
    return {f"drift_{pool}": 1 - first[pool].rank().corr(second[pool].rank()) for pool in pools}
