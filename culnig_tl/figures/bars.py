"""Conditions by benchmarks.

A star stands above a bar whose drop is larger than the one that random neurons cause (``STAR``), as
in the table of arXiv 2510.08284.
"""

from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from culnig_tl.evaluation.bootstrap import STAR
from culnig_tl.figures.style import (
    LEGEND,
    MEASURES,
    TEXT,
    all_shown,
    axis,
    check_columns,
    known,
    layout,
    shown,
)

_CONDITIONS = ("#56B4E9", "#E69F00", "#BDBDBD", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
_INTERVAL = "#707070"
_BARS_WITH_LEVEL_TEXT = 15


def comparison_bars(
    table: pd.DataFrame, *, value: Literal["accuracy", "probability"] = "accuracy"
) -> go.Figure:
    """Benchmarks as groups, conditions (original, general, random) as bars, 95 % intervals.

    Args:
        table: the table of ``evaluation.summarise`` or ``compare``; where it has p-values (of
            accuracy), bars of accuracy whose drop beats random neurons get a star.
        value: ``"accuracy"`` (%) or ``"probability"`` (mean ``P(answer)``, 0 to 1).

    Raises:
        InvalidInputError: missing columns, no rows, or another ``value``.

    Example:
        >>> table = pd.DataFrame({"benchmark": ["culture"], "condition": ["original"],
        ...     "n_neurons": [0], "n_questions": [288], "accuracy": [92.0], "accuracy_low": [90.0],
        ...     "accuracy_high": [95.0]})
        >>> comparison_bars(table).data[0].y.tolist()
        [92.0]
    """
    unit, measure, _, span = MEASURES[known(value, MEASURES)]
    low, high = f"{value}_low", f"{value}_high"
    needed = ("benchmark", "condition", "n_neurons", "n_questions", value, low, high)
    check_columns(table, needed, "evaluation.summarise")
    tested = value == "accuracy" and "p_value" in table
    p_values = table["p_value"] if tested else pd.Series(float("nan"), index=table.index)
    figure, starred = go.Figure(), p_values < STAR
    for i, (condition, rows) in enumerate(table.groupby("condition", sort=False)):
        p_of_rows = p_values.loc[rows.index]
        _add_bars(figure, str(condition), rows, value, p_of_rows, i, n_bars=len(table))
        if starred.loc[rows.index].any():
            _add_stars(figure, str(condition), rows[starred.loc[rows.index]], high)
    star = f"; *: p < {STAR:g} against random neurons" if starred.any() else ""
    figure.update_layout(
        layout(f"{measure} by benchmark, with 95 % intervals{star}"),
        height=380,
        barmode="group",
        scattermode="group",
        bargap=0.25,
        bargroupgap=0.06,
        scattergap=0.25,
        legend=LEGEND,
    )
    figure.update_xaxes(axis(None), type="category", showgrid=False)
    return figure.update_yaxes(axis(unit), range=span, rangemode="tozero")


def _add_bars(
    figure: go.Figure,
    condition: str,
    rows: pd.DataFrame,
    value: str,
    p_values: pd.Series,
    index: int,
    *,
    n_bars: int,
) -> None:
    """The bars of one condition, with their values, intervals and what they say when pointed at."""
    unit, _, number, _ = MEASURES[value]
    low, high = f"{value}_low", f"{value}_high"
    said = ["" if pd.isna(p) else f"<br>p = {p:.2g} against random neurons" for p in p_values]
    numbers = rows[[low, high, "n_neurons", "n_questions"]].to_numpy(float).tolist()
    figure.add_bar(
        name=shown(condition),
        offsetgroup=condition,
        legendgroup=condition,
        x=all_shown(rows["benchmark"]),
        y=rows[value].to_numpy(float),
        error_y={
            "array": (rows[high] - rows[value]).to_numpy(float),
            "arrayminus": (rows[value] - rows[low]).to_numpy(float),
            "color": _INTERVAL,
            "thickness": 2,
            "width": 4,
        },
        customdata=[[*line, text] for line, text in zip(numbers, said, strict=True)],
        marker_color=_CONDITIONS[index % len(_CONDITIONS)],
        texttemplate=f"%{{y:{number}}}",
        textposition="inside",
        insidetextanchor="start",
        textangle=0 if n_bars <= _BARS_WITH_LEVEL_TEXT else -90,
        hovertemplate=(
            f"%{{x}}, {shown(condition)} (%{{customdata[2]:.0f}} neurons)<br>{unit}: "
            f"%{{y:{number}}} [%{{customdata[0]:{number}}}, %{{customdata[1]:{number}}}]<br>"
            "%{customdata[3]:.0f} questions%{customdata[4]}<extra></extra>"
        ),
    )


def _add_stars(figure: go.Figure, condition: str, rows: pd.DataFrame, high: str) -> None:
    """A star above the interval of each of these bars; it comes and goes with them."""
    figure.add_scatter(
        x=all_shown(rows["benchmark"]),
        y=rows[high].to_numpy(float),
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
