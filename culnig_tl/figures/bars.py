"""Conditions by benchmarks."""

from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from culnig_tl.figures.style import (
    LEGEND,
    MEASURES,
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
        table: the table of ``evaluation.summarise`` or ``compare``.
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
    unit, measure, number, span = MEASURES[known(value, MEASURES)]
    low, high = f"{value}_low", f"{value}_high"
    needed = ("benchmark", "condition", "n_neurons", "n_questions", value, low, high)
    check_columns(table, needed, "evaluation.summarise")
    figure = go.Figure()
    for i, (condition, rows) in enumerate(table.groupby("condition", sort=False)):
        figure.add_bar(
            name=shown(condition),
            x=all_shown(rows["benchmark"]),
            y=rows[value].to_numpy(float),
            error_y={
                "array": (rows[high] - rows[value]).to_numpy(float),
                "arrayminus": (rows[value] - rows[low]).to_numpy(float),
                "color": _INTERVAL,
                "thickness": 2,
                "width": 4,
            },
            customdata=rows[[low, high, "n_neurons", "n_questions"]].to_numpy(float).tolist(),
            marker_color=_CONDITIONS[i % len(_CONDITIONS)],
            texttemplate=f"%{{y:{number}}}",
            textposition="inside",
            insidetextanchor="start",
            textangle=0 if len(table) <= _BARS_WITH_LEVEL_TEXT else -90,
            hovertemplate=(
                f"%{{x}}, {shown(condition)} (%{{customdata[2]:.0f}} neurons)<br>{unit}: "
                f"%{{y:{number}}} [%{{customdata[0]:{number}}}, %{{customdata[1]:{number}}}]<br>"
                "%{customdata[3]:.0f} questions<extra></extra>"
            ),
        )
    figure.update_layout(
        layout(f"{measure} by benchmark, with 95 % intervals"),
        height=380,
        barmode="group",
        bargap=0.25,
        bargroupgap=0.06,
        legend=LEGEND,
    )
    figure.update_xaxes(axis(None), type="category", showgrid=False)
    return figure.update_yaxes(axis(unit), range=span, rangemode="tozero")
