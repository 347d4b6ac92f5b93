"""Measures in percent with intervals, out of answers.

The *measure* of a benchmark is accuracy, or its own (WorldValuesBench: alignment), as in the
published table. Three p-values say whether a drop is more than what random neurons of the same
factor cause, of several random conditions those nearest in number:

* ``p_value``: paired bootstrap over questions against the random sets' mean; starred below 0.05;
* ``p_layer_matched``: the same against random sets with as many neurons in each layer and site;
* ``p_sets``: (1 + number of random sets that do no better) / (1 + number of random sets), the rank
  of the condition among the sets. The bootstrap takes the sets that were drawn as given; this one
  asks whether another random set might do as much (10 sets can show 0.09 at best).

``p_probability``, ``p_probability_layer_matched`` and ``p_probability_sets`` are the same three of
``P(answer)``, which moves before accuracy does. Its *fall* is relative to the model as it is,
``1 - mean P / mean P of the model as it is``, both means over the prompts of the same questions.

Random sets that share the questions (``design="split"``, see ``evaluation.conditions``) answer
different ones, so ``p_sets`` ranks their mean changes against the model as it is on the questions
of each. Fewer questions a set make these noisier than in the full design, and ``p_sets`` larger: it
errs on the safe side. Their standard deviation would be one of questions, and is NaN.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.errors import InvalidInputError, check_choice, check_kind, check_seed
from culnig_tl.evaluation.bootstrap import (
    interval,
    p_values_of_drop,
    rank_p_value,
    relative_fall,
    resampled_falls,
    resampled_means,
)

RANDOM = "random"
"""What a condition with random sets is, and what its name begins with."""
LAYER_MATCHED = "layer-matched"
"""The same, with as many neurons in each layer."""

P_VALUES = ("p_value", "p_layer_matched", "p_sets")
P_VALUES_OF_PROBABILITY = ("p_probability", "p_probability_layer_matched", "p_probability_sets")
COLUMNS = (
    *("benchmark", "condition", "n_neurons", "factor", "n_questions", "measure"),
    *("accuracy", "accuracy_low", "accuracy_high"),
    *("probability", "probability_low", "probability_high"),
    *("fall", "fall_low", "fall_high"),
    "accuracy_sd_of_draws",
    *("change", "change_low", "change_high"),
    *P_VALUES,
    *P_VALUES_OF_PROBABILITY,
)
"""The columns of ``summarise``."""

_NOTHING = np.full((1, 1), np.nan)

Key = tuple[str, float]
"""Name and factor of a condition."""


def summarise(
    answers: pd.DataFrame, *, reference: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """Accuracy and mean ``P(answer)`` by benchmark and condition, with intervals.

    Args:
        answers: the frame of ``answers_under``.
        reference: the condition that a drop must beat, in place of the random sets (see
            ``random_kinds``); each condition is held against those of its own factor.
        seed: seed of the bootstrap.

    Returns:
        One row per benchmark, condition and factor: n_neurons, factor, n_questions (question and
        culture), measure (``"accuracy"`` or the benchmark's own), accuracy (the measure, in %) and
        its interval, probability (0 to 1) and its interval, fall (of the probability, relative to
        the condition without neurons) and its interval, the standard deviation of the accuracy over
        draws, change (of the measure, in points, against the condition without neurons) and its
        interval, p_value, p_layer_matched and p_sets, and the same p-values of the probability (see
        the module; NaN where there is no reference).

    Raises:
        InvalidInputError: conditions that answer different questions, a reference that is not
            there, probabilities that are not finite, or a seed that is no whole number from 0 up.
    """
    check_seed(seed)
    check_probabilities(answers)
    if reference is not None:
        check_choice("reference", reference, answers["condition"].unique())
    answers = answers.assign(random=random_kinds(answers, reference))
    tables = []
    for benchmark, group in answers.groupby("benchmark", sort=False):
        measure, measured = _measured(group)
        tables.append(_summary(measured, seed).assign(benchmark=benchmark, measure=measure))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def check_probabilities(answers: pd.DataFrame) -> None:
    """Refuse answers whose probabilities cannot be averaged.

    Raises:
        InvalidInputError: some are not finite numbers; they are counted.
    """
    check_kind("answers", answers, pd.DataFrame, "the frame that evaluate gives")
    if "probability" not in answers:
        raise InvalidInputError(
            "These answers have no column probability; give the frame that evaluate gives."
        )
    n_broken = int((~np.isfinite(answers["probability"].to_numpy(float))).sum())
    if n_broken:
        raise InvalidInputError(
            f"{n_broken} of {len(answers)} answers have a probability that is not a finite number; "
            "answer these questions again."
        )


def random_kinds(frame: pd.DataFrame, reference: str | None = None) -> pd.Series:
    """Which rows are those of random sets: ``"random"``, ``"layer-matched"`` or ``""``.

    Sets of ``random_neurons`` say so themselves (column ``random``); others do by the name of their
    condition, which then begins with either word.

    Args:
        frame: a frame with a column condition.
        reference: the one condition that counts as random, whatever the others are.

    Example:
        >>> random_kinds(pd.DataFrame({"condition": ["mine", "random 2"]})).tolist()
        ['', 'random']
    """
    names = frame["condition"]
    kinds = frame["random"] if "random" in frame else pd.Series("", index=frame.index)
    for kind in (RANDOM, LAYER_MATCHED):
        kinds = kinds.mask(names.str.startswith(kind), kind)
    if reference is None:
        return kinds
    return kinds.mask(kinds == RANDOM, "").mask(names == reference, RANDOM)


def condition_labels(table: pd.DataFrame) -> pd.Series:
    """What each row's condition is called in print: the name, and the factor (``general ×2``) where
    the name comes with several and this is not the first.

    Example:
        >>> table = pd.DataFrame({"condition": ["general", "general"], "factor": [0.0, 2.0]})
        >>> condition_labels(table).tolist()
        ['general', 'general ×2']
    """
    first = table.groupby("condition", sort=False)["factor"].transform("first")
    return table["condition"].where(
        table["factor"] == first,
        table["condition"] + " ×" + table["factor"].map(_digits),
    )


def _digits(factor: float) -> str:
    """A factor in as many digits as tell it from every other."""
    return repr(float(factor)).removesuffix(".0")


def accuracy_by(
    answers: pd.DataFrame, by: str | Sequence[str] = "culture", *, seed: int = 0
) -> pd.DataFrame:
    """Accuracy of each culture, topic, template or any other column.

    Args:
        answers: a frame of ``evaluate`` (or of ``answers_under``, with ``by`` naming
            ``"condition"`` too).
        by: the columns to group by.
        seed: seed of the bootstrap.

    Returns:
        The columns ``by``, then n_prompts, n_questions (question and culture), measure, accuracy
        (the measure, in %) and mean probability of the answer with their 95 % intervals.

    Raises:
        InvalidInputError: a column that the answers do not have, or a seed that is no whole number
            from 0 up.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", cultures=["Iran", "Spain"], limit=8)
        >>> ct.accuracy_by(ct.evaluate(ct.load_model(), rows))["culture"].tolist()
        ['Iran', 'Spain']
    """
    check_seed(seed)
    check_probabilities(answers)
    check_kind("by", by, Sequence, "a column or a list of columns")
    names = [by] if isinstance(by, str) else list(by)
    if missing := [name for name in names if name not in answers]:
        raise InvalidInputError(
            f"These answers have no column {', '.join(map(str, missing))}; "
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
    names = group["measure"].unique() if "measure" in group else ["alignment"]
    if len(names) == 1 and names[0] in group and group[names[0]].notna().all():
        return str(names[0]), group.assign(value=group[names[0]])
    return "accuracy", group.assign(value=100.0 * group["correct"])


def _summary(group: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The summary of one benchmark; every condition sees the same bootstrap draws."""
    keys = list(dict.fromkeys(zip(group["condition"], group["factor"].astype(float), strict=True)))
    by_condition: dict[Key, pd.DataFrame] = {
        (name, factor): group[(group["condition"] == name) & (group["factor"] == factor)]
        for name, factor in keys
    }
    units = _paired_units(by_condition)
    values = np.concatenate(list(units.values()), axis=1)
    resampled = dict(
        zip(units, np.split(resampled_means(values, seed=seed), len(units), axis=1), strict=True)
    )
    base = next((key for key, f in by_condition.items() if f["n_neurons"].max() == 0), None)
    falls = _falls(by_condition, units, base, seed)
    return pd.DataFrame(
        [
            {
                "condition": key[0],
                "n_neurons": int(frame["n_neurons"].max()),
                "factor": key[1],
                "n_questions": len(units[key]),
                **_with_intervals(["accuracy", "probability"], units[key], resampled[key]),
                **falls[key],
                "accuracy_sd_of_draws": _sd_of_draws(frame),
                **_change(units, resampled, key, base),
                **_p_values(by_condition, resampled, key, base),
            }
            for key, frame in by_condition.items()
        ]
    )


def _paired_units(
    by_condition: Mapping[Key, pd.DataFrame],
) -> dict[Key, Float[np.ndarray, "unit two"]]:
    """Mean value and ``P(answer)`` of each question and culture under every condition."""
    means = {key: _unit_means(frame) for key, frame in by_condition.items()}
    first, *others = means.values()
    if not all(first.index.equals(other.index) for other in others):
        sizes = ", ".join(f"{name} {len(frame)}" for (name, _), frame in means.items())
        raise InvalidInputError(
            f"The conditions answer different questions (numbers: {sizes}); "
            "evaluate all of them on the same rows."
        )
    return {key: frame.to_numpy(dtype=float) for key, frame in means.items()}


def _unit_means(answers: pd.DataFrame) -> pd.DataFrame:
    """Mean value and mean ``P(answer)`` of each question and culture, in one order."""
    return answers.groupby(["id", "culture"], sort=True)[["value", "probability"]].mean()


def _by_draw(answers: pd.DataFrame, column: str) -> pd.Series:
    """The mean of a column under each of several sets."""
    return answers.groupby("draw")[column].mean()


def _are_shared(answers: pd.DataFrame) -> bool:
    """Whether each of several sets answers questions of its own."""
    draws = answers.groupby(["id", "culture"])["draw"].nunique()
    return bool((draws < answers["draw"].nunique()).any())


def _sd_of_draws(answers: pd.DataFrame) -> float:
    return float("nan") if _are_shared(answers) else _by_draw(answers, "value").std()


def _with_intervals(
    names: Sequence[str],
    values: Float[np.ndarray, "unit measure"],
    resampled: Float[np.ndarray, "draw measure"],
) -> dict[str, float]:
    """Mean and interval of each measure: NAME, NAME_low, NAME_high."""
    low, high = interval(resampled)
    measures: dict[str, float] = {}
    for i, name in enumerate(names):
        measures |= {name: values[:, i].mean(), f"{name}_low": low[i], f"{name}_high": high[i]}
    return measures


def _change(
    units: Mapping[Key, Any], resampled: Mapping[Key, Any], key: Key, base: Key | None
) -> dict[str, float]:
    if base is None:
        return dict.fromkeys(("change", "change_low", "change_high"), float("nan"))
    return _with_intervals(
        ["change"],
        units[key][:, :1] - units[base][:, :1],
        resampled[key][:, :1] - resampled[base][:, :1],
    )


def _falls(
    by_condition: Mapping[Key, pd.DataFrame],
    units: Mapping[Key, Float[np.ndarray, "unit two"]],
    base: Key | None,
    seed: int,
) -> dict[Key, dict[str, float]]:
    """Relative fall of ``P(answer)`` and its interval; every prompt counts alike."""
    if base is None:
        return {key: _with_intervals(["fall"], _NOTHING, _NOTHING) for key in units}
    n_prompts = by_condition[base].groupby(["id", "culture"], sort=True).size().to_numpy(float)
    totals = np.column_stack([n_prompts * values[:, 1] for values in units.values()])
    original = list(units).index(base)
    falls = relative_fall(totals.sum(axis=0), totals.sum(axis=0)[[original]])
    resampled = resampled_falls(totals, totals[:, original], seed=seed)
    return {
        key: _with_intervals(["fall"], falls[None, [i]], resampled[:, [i]])
        for i, key in enumerate(units)
    }


def _p_values(
    by_condition: Mapping[Key, pd.DataFrame],
    resampled: Mapping[Key, Float[np.ndarray, "draw two"]],
    key: Key,
    base: Key | None,
) -> dict[str, float]:
    """The p-values of a condition, each against the sets that were scaled by its factor."""
    names = tuple(zip(P_VALUES, P_VALUES_OF_PROBABILITY, strict=True))
    p_values: dict[str, float] = dict.fromkeys((*P_VALUES, *P_VALUES_OF_PROBABILITY), float("nan"))
    if key == base or by_condition[key]["random"].iloc[0]:
        return p_values
    random, matched = (_nearest(by_condition, key, kind) for kind in (RANDOM, LAYER_MATCHED))
    for pair, others in zip(names, (random, matched), strict=False):
        if others is not None:
            drops = p_values_of_drop(resampled[key], resampled[others])
            p_values |= dict(zip(pair, drops.tolist(), strict=True))
    if random is not None:
        sets, own = by_condition[random], by_condition[key]
        if _are_shared(sets):
            sets, own = (
                _changes(each, None if base is None else by_condition[base]) for each in (sets, own)
            )
        for p_name, column in zip(names[-1], ("value", "probability"), strict=True):
            value = _by_draw(own, column).mean()
            p_values[p_name] = rank_p_value(-value, -_by_draw(sets, column).to_numpy())
    return p_values


def _changes(answers: pd.DataFrame, original: pd.DataFrame | None) -> pd.DataFrame:
    """Mean value and ``P(answer)`` of each question, culture and set, less the original's."""
    columns = ["value", "probability"]
    if original is None:
        return answers.assign(value=float("nan"), probability=float("nan"))
    means = answers.groupby(["id", "culture", "draw"], as_index=False)[columns].mean()
    before = original.groupby(["id", "culture"], as_index=False)[columns].mean()
    paired = means.merge(before, on=["id", "culture"], suffixes=("", "_before"))
    return means.assign(**{name: paired[name] - paired[f"{name}_before"] for name in columns})


def _nearest(by_condition: Mapping[Key, pd.DataFrame], key: Key, kind: str) -> Key | None:
    """The random condition of a kind with this one's factor, and nearest to it in number."""
    n_neurons = {other: int(frame["n_neurons"].max()) for other, frame in by_condition.items()}
    alike = [
        other
        for other, frame in by_condition.items()
        if other[1] == key[1] and frame["random"].iloc[0] == kind
    ]
    return min(alike, key=lambda other: abs(n_neurons[other] - n_neurons[key]), default=None)
