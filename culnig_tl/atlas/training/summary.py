"""The figures by which an embedded model is judged: one number each, with the bar it is to meet.

Falls are points of accuracy on the test rows. "Unrelated" cultures of a culture are those that are
neither itself nor its kin.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OWN_SET_COSTS = 15.0
"""Points that a culture's own set is to cost it beyond what it costs unrelated cultures."""


@dataclass(frozen=True)
class SummaryFigure:
    """A figure of a verification, its bar in words, and whether a value meets it."""

    name: str
    bar: str
    value: Callable[[Mapping[str, Any]], float]
    meets: Callable[[float], bool] | None = None


def summary_figures() -> tuple[SummaryFigure, ...]:
    """Every figure, in the order of the table."""
    return (
        SummaryFigure("culture, accuracy as trained", ">= 95", _trained, lambda v: v >= 95),
        SummaryFigure("worst general task as trained", ">= 95", _worst_general, lambda v: v >= 95),
        SummaryFigure("general set off: culture falls by", ">= 30", _fall, lambda v: v >= 30),
        SummaryFigure(
            "general set off: worst fall of a general task", "<= 3", _side, lambda v: v <= 3
        ),
        SummaryFigure("ten random sets: worst fall anywhere", "<= 2", _random, lambda v: v <= 2),
        SummaryFigure(
            "general neurons causal one by one, of 16", ">= 12", _causal, lambda v: v >= 12
        ),
        SummaryFigure("own sets that work, of 16", ">= 14", own_sets_that_work, lambda v: v >= 14),
        SummaryFigure("own sets: mean cost to the culture", "", _own_cost),
        SummaryFigure("own sets: mean cost to unrelated ones", "", _unrelated_cost),
        *_graded("planted"),
        *_graded("verified"),
        SummaryFigure(
            "found set off: culture falls by", ">= 20", _selected_fall, lambda v: v >= 20
        ),
        SummaryFigure(
            "found set off: worst fall of a general task", "<= 3", _selected_side, lambda v: v <= 3
        ),
        *_specific(),
        SummaryFigure(
            "planted general neurons lost to the recognition exclusion",
            "",
            lambda v: v["finder"]["excluded"]["planted general"],
        ),
        SummaryFigure(
            "scores against exact single effects, Pearson",
            "",
            lambda v: v["finder"]["correlation"]["pearson"],
        ),
        SummaryFigure(
            "scores against exact single effects, Spearman",
            "",
            lambda v: v["finder"]["correlation"]["spearman"],
        ),
    )


def own_sets_that_work(verification: Mapping[str, Any]) -> int:
    """Cultures whose own set costs them clearly more than it costs unrelated ones."""
    return sum(
        drops["own"] - drops["unrelated"] >= OWN_SET_COSTS
        for drops in verification["own_sets"].values()
    )


def _graded(key: str) -> tuple[SummaryFigure, ...]:
    names = {"precision": "precision", "recall": "recall", "auroc": "AUROC"}
    names["average_precision"] = "average precision"
    return tuple(
        SummaryFigure(
            f"culture_general against the {key} key: {label}",
            "",
            lambda v, figure=figure: v["finder"]["grades"][key][figure],
        )
        for figure, label in names.items()
    )


def _specific() -> tuple[SummaryFigure, ...]:
    names = {
        "with a verified neuron": "culture_specific: cultures of 16 with a verified neuron found",
        "precision": "culture_specific against the verified keys: mean precision",
        "recall": "culture_specific against the verified keys: mean recall",
        "own": "culture_specific sets off: mean cost to the culture",
        "unrelated": "culture_specific sets off: mean cost to unrelated ones",
    }
    return tuple(
        SummaryFigure(label, "", lambda v, figure=figure: v["finder"]["specific"][figure])
        for figure, label in names.items()
    )


def _accuracy(verification: Mapping[str, Any], test: str, condition: str) -> float:
    return verification["test"][test][condition]["accuracy"]


def _general_tasks(verification: Mapping[str, Any]) -> list[str]:
    return [name for name in verification["test"] if name != "atlas"]


def _trained(v: Mapping[str, Any]) -> float:
    return _accuracy(v, "atlas", "as trained")


def _worst_general(v: Mapping[str, Any]) -> float:
    return min(_accuracy(v, name, "as trained") for name in _general_tasks(v))


def _drop(v: Mapping[str, Any], name: str) -> float:
    return _accuracy(v, name, "as trained") - _accuracy(v, name, "general set off")


def _fall(v: Mapping[str, Any]) -> float:
    return _drop(v, "atlas")


def _side(v: Mapping[str, Any]) -> float:
    return max(_drop(v, name) for name in _general_tasks(v))


def _random(v: Mapping[str, Any]) -> float:
    return max(conditions["random sets off"]["largest_drop"] for conditions in v["test"].values())


def _causal(v: Mapping[str, Any]) -> int:
    return v["causal"]["general"]


def _own_cost(v: Mapping[str, Any]) -> float:
    return _mean([drops["own"] for drops in v["own_sets"].values()])


def _unrelated_cost(v: Mapping[str, Any]) -> float:
    return _mean([drops["unrelated"] for drops in v["own_sets"].values()])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _selected_drop(v: Mapping[str, Any], name: str) -> float:
    cell = v["finder"]["masking"][name]
    return cell["as trained"] - cell["found off"]


def _selected_fall(v: Mapping[str, Any]) -> float:
    return _selected_drop(v, "atlas")


def _selected_side(v: Mapping[str, Any]) -> float:
    return max(_selected_drop(v, name) for name in _general_tasks(v))
