"""Measures along a factor or a threshold."""

from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from culnig_tl.figures.style import (
    LEGEND,
    MEASURES,
    TEXT,
    axis,
    check_columns,
    known,
    layout,
    line_colour,
    shown,
)

_DASHES = ("solid", "dot", "dash", "dashdot")
_SWEEP_ROWS = {"n_neurons": "neurons", "jaccard": "Jaccard", "accuracy": "accuracy, %"}
_THRESHOLDS = {"t": "t: share kept", "r": "r: share dropped by name", "z": "z: least z-score"}
_MARK = {"color": TEXT, "width": 1, "dash": "dash"}


def dose_response(
    doses: pd.DataFrame, *, value: Literal["accuracy", "probability"] = "accuracy"
) -> go.Figure:
    """What a factor on the neurons' activations does to each benchmark.

    Args:
        doses: the frame of ``validation.dose_response``, one row a benchmark, condition and factor.
        value: ``"accuracy"`` (%) or ``"probability"`` (mean ``P(answer)``, 0 to 1).

    Returns:
        A colour a benchmark; the first condition (the neurons) is drawn solid with its 95 %
        interval, others (random neurons) dotted. The vertical line is the model as it is.

    Raises:
        InvalidInputError: missing columns, no rows, or another ``value``.

    Example:
        >>> doses = pd.DataFrame({"benchmark": "culture", "condition": "neurons",
        ...     "factor": [0.0, 1.0, 2.0], "n_neurons": 7, "n_questions": 40,
        ...     "accuracy": [40.0, 92.0, 93.0], "accuracy_low": [35.0, 90.0, 91.0],
        ...     "accuracy_high": [45.0, 95.0, 96.0]})
        >>> dose_response(doses).data[1].y.tolist()
        [40.0, 92.0, 93.0]
    """
    unit, measure, _, span = MEASURES[known(value, MEASURES)]
    interval = (f"{value}_low", f"{value}_high")
    needed = ("benchmark", "condition", "factor", "n_neurons", "n_questions", value, *interval)
    check_columns(doses, needed, "validation.dose_response")
    figure = go.Figure()
    conditions = list(doses["condition"].unique())
    for i, (_, rows) in enumerate(doses.groupby("benchmark", sort=False)):
        for condition, line in rows.sort_values("factor").groupby("condition", sort=False):
            _add_dose_line(figure, line, value, i, conditions.index(condition))
    for j, condition in enumerate(conditions[1:], start=1):
        key = {"color": TEXT, "width": 2, "dash": _DASHES[j % len(_DASHES)]}
        figure.add_scatter(name=shown(condition), x=[None], y=[None], mode="lines", line=key)
    title = f"{measure} by the factor on the activations of {conditions[0]}"
    figure.update_layout(layout(title), height=400, legend=LEGEND)
    figure.add_vline(x=1, line=_MARK, layer="below")
    figure.update_xaxes(axis("factor (0 off, 1 as it is, 2 doubled)"), zeroline=False)
    return figure.update_yaxes(axis(unit), range=span, rangemode="tozero")


def threshold_sweep(sweep: pd.DataFrame) -> go.Figure:
    """How much the selected set hangs on each threshold.

    Args:
        sweep: the frame of ``validation.threshold_sweep``, one row a threshold and value (and
            benchmark, where masking was measured).

    Returns:
        A column a threshold (t, r, z); rows: the set's size, its Jaccard index with the set at the
        default thresholds and, where measured, accuracy when the set is masked. Values stand at
        equal steps; the large point is the default.

    Raises:
        InvalidInputError: missing columns or no rows.

    Example:
        >>> sweep = pd.DataFrame({"threshold": "t", "value": [0.005, 0.01, 0.02], "default": 0.01,
        ...     "n_neurons": [10, 20, 40], "jaccard": [0.5, 1.0, 0.5]})
        >>> [trace.y.tolist() for trace in threshold_sweep(sweep).data]
        [[10.0, 20.0, 40.0], [0.5, 1.0, 0.5]]
    """
    needed = ("threshold", "value", "default", "n_neurons", "jaccard")
    check_columns(sweep, needed, "validation.threshold_sweep")
    names = list(sweep["threshold"].unique())
    rows = [row for row in _SWEEP_ROWS if row in sweep]
    figure = make_subplots(
        len(rows),
        len(names),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.07,
        subplot_titles=[_THRESHOLDS.get(name, shown(name)) for name in names],
    )
    figure.update_layout(
        layout("How much the set hangs on each threshold"),
        height=(155 if "accuracy" in rows else 130) + 130 * len(rows),
        margin_t=105 if "accuracy" in rows else 80,
        legend=LEGEND | {"y": 1 + 25 / (130 * len(rows))},
    )
    figure.update_annotations(font={"size": 13, "color": TEXT})
    figure.update_xaxes(axis(None), type="category", showgrid=False)
    figure.update_yaxes(axis(None), rangemode="tozero")
    for row, measure in enumerate(rows, start=1):
        figure.update_yaxes(title_text=_SWEEP_ROWS[measure], row=row, col=1)
        for column, name in enumerate(names, start=1):
            part = sweep[sweep["threshold"] == name].sort_values("value")
            _add_sweep(figure, part, measure, row, column)
    return figure


def _add_dose_line(figure: go.Figure, line: pd.DataFrame, value: str, i: int, j: int) -> None:
    """One benchmark (its colour, ``i``) under one condition (its dash, ``j``)."""
    unit, _, number, _ = MEASURES[value]
    low, high = f"{value}_low", f"{value}_high"
    benchmark, condition = line.iloc[0][["benchmark", "condition"]].map(shown)
    factors = line["factor"].to_numpy(float)
    if j == 0:
        figure.add_scatter(
            name=f"{benchmark}, 95 % interval",
            legendgroup=benchmark,
            showlegend=False,
            x=np.concatenate([factors, factors[::-1]]),
            y=np.concatenate([line[high].to_numpy(float), line[low].to_numpy(float)[::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=line_colour(i, 0.22),
            hoverinfo="skip",
        )
    figure.add_scatter(
        name=benchmark,
        legendgroup=benchmark,
        showlegend=j == 0,
        x=factors,
        y=line[value].to_numpy(float),
        customdata=line[[low, high, "n_neurons", "n_questions"]].to_numpy(float).tolist(),
        mode="lines+markers" if j == 0 else "lines",
        line={"color": line_colour(i), "width": 2, "dash": _DASHES[j % len(_DASHES)]},
        hovertemplate=(
            f"{benchmark}, {condition} (%{{customdata[2]:.0f}} neurons) × %{{x:g}}<br>{unit}: "
            f"%{{y:{number}}} [%{{customdata[0]:{number}}}, %{{customdata[1]:{number}}}]<br>"
            "%{customdata[3]:.0f} questions<extra></extra>"
        ),
    )


def _add_sweep(figure: go.Figure, part: pd.DataFrame, measure: str, row: int, column: int) -> None:
    """One threshold's panel of one measure: a line, or for accuracy a line a benchmark."""
    groups = (
        part.groupby("benchmark", sort=False)
        if measure == "accuracy"
        else [("", part.drop_duplicates("value"))]
    )
    for i, (benchmark, line) in enumerate(groups):
        values = [f"{value:g}" for value in line["value"]]
        figure.add_scatter(
            name=shown(benchmark),
            legendgroup=shown(benchmark),
            showlegend=bool(benchmark) and column == 1,
            x=values,
            y=line[measure].to_numpy(float),
            customdata=line["n_neurons"].to_numpy(int),
            mode="lines+markers",
            line={"color": line_colour(i) if benchmark else TEXT, "width": 2},
            marker={"size": np.where(line["value"] == line["default"], 12, 6), "line_width": 0},
            hovertemplate=(
                f"%{{x}}: %{{y:.3~f}} {_SWEEP_ROWS[measure]} (%{{customdata}} neurons)"
                f"<extra>{shown(benchmark)}</extra>"
            ),
            row=row,
            col=column,
        )
