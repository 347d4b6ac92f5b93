"""Conditions by benchmarks.

A star stands above a bar whose drop is larger than the one that random neurons cause (``STAR``), as
in the table of arXiv 2510.08284.
"""

from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from culnig_tl.evaluation import STAR, condition_labels
from culnig_tl.figures.style import (
    LEGEND,
    MEASURES,
    TEXT,
    axis,
    check_columns,
    get_measure,
    label,
    labels,
    layout,
)

_CONDITION_COLOURS = ("#56B4E9", "#E69F00", "#BDBDBD", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
_INTERVAL = "#707070"
_BARS_WITH_LEVEL_TEXT = 15


def comparison_bars(
    table: pd.DataFrame, *, value: Literal["accuracy", "probability"] = "accuracy"
) -> go.Figure:
    """Accuracy or probability of every condition on every benchmark, with 95 % intervals.

    Args:
        table: the table of ``evaluation.summarise`` or ``compare``; where it has p-values (of
            accuracy), bars of accuracy whose drop beats random neurons get a star.
        value: ``"accuracy"`` (%) or ``"probability"`` (mean ``P(answer)``, 0 to 1).

    Returns:
        One group of bars per benchmark; one bar per condition (original, general, random) and
        factor.

    Raises:
        InvalidInputError: missing columns, no rows, or another ``value``.

    Example:
        >>> table = pd.DataFrame({"benchmark": ["culture"], "condition": ["original"],
        ...     "n_neurons": [0], "n_questions": [288], "accuracy": [92.0], "accuracy_low": [90.0],
        ...     "accuracy_high": [95.0]})
        >>> comparison_bars(table).data[0].y.tolist()
        [92.0]
    """
    measure = get_measure(value)
    interval = (f"{value}_low", f"{value}_high")
    needed = ("benchmark", "condition", "n_neurons", "n_questions", value, *interval)
    check_columns(table, needed, "evaluation.summarise")
    if "factor" in table:
        table = table.assign(condition=condition_labels(table))
    if value != "accuracy" or "p_value" not in table:
        table = table.assign(p_value=float("nan"))
    text_angle = 0 if len(table) <= _BARS_WITH_LEVEL_TEXT else -90
    figure = go.Figure()
    for i, (_, rows) in enumerate(table.groupby("condition", sort=False)):
        colour = _CONDITION_COLOURS[i % len(_CONDITION_COLOURS)]
        figure.add_trace(_bars(rows, value).update(marker_color=colour, textangle=text_angle))
        starred = rows[rows["p_value"] < STAR]
        if not starred.empty:
            figure.add_trace(_stars(starred, value))
    any_star = bool((table["p_value"] < STAR).any())
    star = f"; *: p < {STAR:g} against random neurons" if any_star else ""
    figure.update_layout(
        layout(f"{measure.title} by benchmark, with 95 % intervals{star}"),
        height=380,
        barmode="group",
        scattermode="group",
        bargap=0.25,
        bargroupgap=0.06,
        scattergap=0.25,
        legend=LEGEND,
    )
    figure.update_xaxes(axis(None), type="category", showgrid=False)
    return figure.update_yaxes(axis(measure.unit), range=measure.axis_range, rangemode="tozero")


def _bars(rows: pd.DataFrame, value: str) -> go.Bar:
    """The bars of one condition, with their values, their intervals and a text to point at."""
    condition, form = str(rows["condition"].iloc[0]), MEASURES[value].number_format
    low, high = f"{value}_low", f"{value}_high"
    numbers = rows[[low, high, "n_neurons", "n_questions"]].to_numpy(float).tolist()
    return go.Bar(
        name=label(condition),
        offsetgroup=condition,
        legendgroup=condition,
        x=labels(rows["benchmark"]),
        y=rows[value].to_numpy(float),
        error_y={
            "array": (rows[high] - rows[value]).to_numpy(float),
            "arrayminus": (rows[value] - rows[low]).to_numpy(float),
            "color": _INTERVAL,
            "thickness": 2,
            "width": 4,
        },
        customdata=[[*row, _p_text(p)] for row, p in zip(numbers, rows["p_value"], strict=True)],
        texttemplate=f"%{{y:{form}}}",
        textposition="inside",
        insidetextanchor="start",
        hovertemplate=(
            f"%{{x}}, {label(condition)} (%{{customdata[2]:.0f}} neurons)<br>"
            f"{MEASURES[value].unit}: "
            f"%{{y:{form}}} [%{{customdata[0]:{form}}}, %{{customdata[1]:{form}}}]<br>"
            "%{customdata[3]:.0f} questions%{customdata[4]}<extra></extra>"
        ),
    )


def _p_text(p_value: float) -> str:
    return "" if pd.isna(p_value) else f"<br>p = {p_value:.2g} against random neurons"


def _stars(rows: pd.DataFrame, value: str) -> go.Scatter:
    """A star above the interval of each bar of a condition; they come and go with the bars."""
    condition = str(rows["condition"].iloc[0])
    return go.Scatter(
        x=labels(rows["benchmark"]),
        y=rows[f"{value}_high"].to_numpy(float),
        mode="text",
        text="*",
        textposition="top center",
        textfont={"size": 22, "color": TEXT},
        offsetgroup=condition,
        legendgroup=condition,
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
    )
