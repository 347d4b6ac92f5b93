"""Measures in percent with intervals, out of answers.

The *measure* of a benchmark is accuracy, or alignment where every answer has one
(WorldValuesBench), as in the published table. Three p-values say whether a drop is more than what
random neurons of the same number and factor cause:

* ``p_value``: paired bootstrap over questions against the random sets' mean; starred below 0.05;
* ``p_layer_matched``: the same against random sets with as many neurons in each layer and site;
* ``p_sets``: (1 + number of random sets that do no better) / (1 + number of random sets), the rank
  of the condition among the sets. The bootstrap takes the sets that were drawn as given; this one
  asks whether another random set might do as much (10 sets can show 0.09 at best).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.bootstrap import interval, p_values_of_drop, resampled_means

LAYER_MATCHED = "layer-matched"
"""The condition with random sets that have as many neurons in each layer."""

COLUMNS = (
    *("benchmark", "condition", "n_neurons", "factor", "n_questions", "measure"),
    *("accuracy", "accuracy_low", "accuracy_high"),
    *("probability", "probability_low", "probability_high"),
    "accuracy_sd_of_draws",
    *("change", "change_low", "change_high"),
    *("p_value", "p_layer_matched", "p_sets"),
)
"""The columns of ``summarise``."""

BETWEEN = " ×"
"""Stands between the name of a condition and its factor, where there are several factors."""


def summarise(answers: pd.DataFrame, *, reference: str = "random", seed: int = 0) -> pd.DataFrame:
    """Accuracy and mean ``P(answer)`` by benchmark and condition, with intervals.

    Args:
        answers: frames of ``condition_answers``, one below the other.
        reference: the condition that a drop must beat; with several factors, each condition is
            held against the reference of its own factor (``"random ×2"``).
        seed: seed of the bootstrap.

    Returns:
        One row a benchmark and condition: n_neurons, factor, n_questions (question and culture),
        measure (``"accuracy"`` or ``"alignment"``), accuracy (the measure, in %) and its interval,
        the standard deviation of the accuracy over draws, probability (0 to 1) and its interval,
        change (of the measure, in points, against the condition without neurons) and its interval,
        and p_value, p_layer_matched and p_sets (see the module; NaN where there is no reference).

    Raises:
        InvalidInputError: conditions that answer different questions.
    """
    tables = []
    for benchmark, group in answers.groupby("benchmark", sort=False):
        measure, measured = _measured(group)
        tables.append(
            _summary(measured, reference, seed).assign(benchmark=benchmark, measure=measure)
        )
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def accuracy_by(
    answers: pd.DataFrame, by: str | Sequence[str] = "culture", *, seed: int = 0
) -> pd.DataFrame:
    """Accuracy of each culture, topic, template or any other column.

    Args:
        answers: a frame of ``evaluate`` (or of ``condition_answers``, with ``by`` naming
            ``"condition"`` too).
        by: the columns to group by.
        seed: seed of the bootstrap.

    Returns:
        The columns ``by``, then n_prompts, n_questions (question and culture), measure, accuracy
        (the measure, in %) and mean probability of the answer with their 95 % intervals.

    Raises:
        InvalidInputError: a column that the answers do not have.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", cultures=["Iran", "Spain"], limit=8)
        >>> ct.accuracy_by(ct.evaluate(ct.load_model(), rows))["culture"].tolist()
        ['Iran', 'Spain']
    """
    names = [by] if isinstance(by, str) else list(by)
    if missing := [name for name in names if name not in answers]:
        raise InvalidInputError(
            f"These answers have no column {', '.join(missing)}; "
            f"group by some of {', '.join(map(str, answers.columns))}."
        )
    rows = []
    for values, group in answers.groupby(names, sort=False):
        measure, measured = _measured(group)
        units = _unit_means(measured).to_numpy(dtype=float)
        rows.append(
            dict(zip(names, values, strict=True))
            | {"n_prompts": len(group), "n_questions": len(units), "measure": measure}
            | _with_intervals(["accuracy", "probability"], units, resampled_means(units, seed=seed))
        )
    return pd.DataFrame(rows)


def _measured(group: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The measure of some answers, and the answers with its ``value`` in percent."""
    if "alignment" in group and group["alignment"].notna().all():
        return "alignment", group.assign(value=group["alignment"])
    return "accuracy", group.assign(value=100.0 * group["correct"])


def _summary(group: pd.DataFrame, reference: str, seed: int) -> pd.DataFrame:
    """The summary of one benchmark; every condition sees the same bootstrap draws."""
    by_condition = {name: group[group["condition"] == name] for name in group["condition"].unique()}
    units = _paired_units(by_condition)
    values = np.concatenate(list(units.values()), axis=1)
    resampled = dict(
        zip(units, np.split(resampled_means(values, seed=seed), len(units), axis=1), strict=True)
    )
    base = next((name for name, f in by_condition.items() if f["n_neurons"].max() == 0), None)
    return pd.DataFrame(
        [
            {
                "condition": name,
                "n_neurons": int(frame["n_neurons"].max()),
                "factor": _factor(frame),
                "n_questions": len(units[name]),
                **_with_intervals(["accuracy", "probability"], units[name], resampled[name]),
                "accuracy_sd_of_draws": _by_draw(frame).std(),
                **_change(units, resampled, name, base),
                **_p_values(by_condition, resampled, name, reference, base),
            }
            for name, frame in by_condition.items()
        ]
    )


def _paired_units(
    by_condition: Mapping[str, pd.DataFrame],
) -> dict[str, Float[np.ndarray, "unit two"]]:
    """Mean value and ``P(answer)`` of each question and culture under every condition."""
    means = {name: _unit_means(frame) for name, frame in by_condition.items()}
    first, *others = means.values()
    if not all(first.index.equals(other.index) for other in others):
        sizes = ", ".join(f"{name} {len(frame)}" for name, frame in means.items())
        raise InvalidInputError(
            f"The conditions answer different questions (numbers: {sizes}); "
            "evaluate all of them on the same rows."
        )
    return {name: frame.to_numpy(dtype=float) for name, frame in means.items()}


def _unit_means(answers: pd.DataFrame) -> pd.DataFrame:
    """Mean value and mean ``P(answer)`` of each question and culture, in one order."""
    return answers.groupby(["id", "culture"], sort=True)[["value", "probability"]].mean()


def _by_draw(answers: pd.DataFrame) -> pd.Series:
    """The measure under each of several sets."""
    return answers.groupby("draw")["value"].mean()


def _factor(answers: pd.DataFrame) -> float:
    return float(answers["factor"].iloc[0])


def _with_intervals(
    names: Sequence[str],
    values: Float[np.ndarray, "unit measure"],
    resampled: Float[np.ndarray, "draw measure"],
) -> dict[str, float]:
    """Mean and interval of each measure: NAME, NAME_low, NAME_high."""
    low, high = interval(resampled)
    found: dict[str, float] = {}
    for i, name in enumerate(names):
        found |= {name: values[:, i].mean(), f"{name}_low": low[i], f"{name}_high": high[i]}
    return found


def _change(
    units: Mapping[str, Any], resampled: Mapping[str, Any], name: str, base: str | None
) -> dict[str, float]:
    if base is None:
        return dict.fromkeys(("change", "change_low", "change_high"), float("nan"))
    return _with_intervals(
        ["change"],
        units[name][:, :1] - units[base][:, :1],
        resampled[name][:, :1] - resampled[base][:, :1],
    )


def _p_values(
    by_condition: Mapping[str, pd.DataFrame],
    resampled: Mapping[str, Float[np.ndarray, "draw two"]],
    name: str,
    reference: str,
    base: str | None,
) -> dict[str, float]:
    absent: dict[str, float] = dict.fromkeys(("p_value", "p_layer_matched", "p_sets"), float("nan"))
    if name == base or name.split(BETWEEN)[0] in (reference, LAYER_MATCHED):
        return absent
    random = _same_factor(by_condition, reference, name)
    matched = _same_factor(by_condition, LAYER_MATCHED, name)
    found = {
        column: float(p_values_of_drop(resampled[name], resampled[other])[0])
        for column, other in (("p_value", random), ("p_layer_matched", matched))
        if other is not None
    }
    if random is not None:
        sets = _by_draw(by_condition[random])
        as_low = (sets <= _by_draw(by_condition[name]).mean()).sum()
        found["p_sets"] = float((1 + as_low) / (1 + len(sets)))
    return absent | found


def _same_factor(by_condition: Mapping[str, pd.DataFrame], reference: str, name: str) -> str | None:
    """The condition called ``reference`` that scales by the same factor as condition ``name``."""
    factor = _factor(by_condition[name])
    called = (other for other in by_condition if other.split(BETWEEN)[0] == reference)
    return next((other for other in called if _factor(by_condition[other]) == factor), None)
