"""Measures along a factor or a threshold."""

from collections.abc import Sequence
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
    get_measure,
    label,
    layout,
    line_colour,
)

_DASHES = ("solid", "dot", "dash", "dashdot")
_SWEEP_MEASURES = {"n_neurons": "neurons", "jaccard": "Jaccard", "accuracy": "accuracy, %"}
_THRESHOLDS = {"t": "t: share kept", "r": "r: share dropped by name", "z": "z: least z-score"}
_UNSCALED = {"color": TEXT, "width": 1, "dash": "dash"}


def dose_response(
    doses: pd.DataFrame, *, value: Literal["accuracy", "probability"] = "accuracy"
) -> go.Figure:
    """What a factor on the neurons' activations does to each benchmark.

    Args:
        doses: the frame of ``evaluation.dose_response``, one row per benchmark, condition and
            factor.
        value: ``"accuracy"`` (%) or ``"probability"`` (mean ``P(answer)``, 0 to 1).

    Returns:
        One colour per benchmark; the first condition (the neurons) is drawn solid with its 95 %
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
    measure = get_measure(value)
    interval = (f"{value}_low", f"{value}_high")
    needed = ("benchmark", "condition", "factor", "n_neurons", "n_questions", value, *interval)
    check_columns(doses, needed, "evaluation.dose_response")
    figure = go.Figure()
    conditions = list(doses["condition"].unique())
    for i, (_, rows) in enumerate(doses.groupby("benchmark", sort=False)):
        for condition, line in rows.sort_values("factor").groupby("condition", sort=False):
            j = conditions.index(condition)
            if j == 0:
                figure.add_trace(_dose_interval(line, value, i))
            figure.add_trace(_dose_line(line, value, i, j))
    for j, condition in enumerate(conditions[1:], start=1):
        stroke = {"color": TEXT, "width": 2, "dash": _DASHES[j % len(_DASHES)]}
        figure.add_scatter(name=label(condition), x=[None], y=[None], mode="lines", line=stroke)
    title = f"{measure.title} by the factor on the activations of {conditions[0]}"
    figure.update_layout(layout(title), height=400, legend=LEGEND)
    figure.add_vline(x=1, line=_UNSCALED, layer="below")
    figure.update_xaxes(axis("factor (0 off, 1 as it is, 2 doubled)"), zeroline=False)
    return figure.update_yaxes(axis(measure.unit), range=measure.axis_range, rangemode="tozero")


def threshold_sweep(sweep: pd.DataFrame) -> go.Figure:
    """How size and content of the selected set depend on each threshold.

    Args:
        sweep: the frame of ``validation.threshold_sweep``, one row per threshold and value (and
            benchmark, where masking was measured).

    Returns:
        One column per threshold (t, r, z); rows: the set's size, its Jaccard index with the set at
        the default thresholds and, where measured, accuracy when the set is masked. Values stand at
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
    measures = [measure for measure in _SWEEP_MEASURES if measure in sweep]
    figure = _sweep_grid(names, measures)
    for row, measure in enumerate(measures, start=1):
        figure.update_yaxes(title_text=_SWEEP_MEASURES[measure], row=row, col=1)
        for column, name in enumerate(names, start=1):
            panel = sweep[sweep["threshold"] == name].sort_values("value")
            for line in _sweep_lines(panel, measure):
                line.showlegend = bool(line.name) and column == 1
                figure.add_trace(line, row=row, col=column)
    return figure


def _dose_interval(line: pd.DataFrame, value: str, i: int) -> go.Scatter:
    """The 95 % interval around a line, in the colour of benchmark ``i``."""
    benchmark = label(line["benchmark"].iloc[0])
    factors = line["factor"].to_numpy(float)
    low, high = (line[f"{value}_{end}"].to_numpy(float) for end in ("low", "high"))
    return go.Scatter(
        name=f"{benchmark}, 95 % interval",
        legendgroup=benchmark,
        showlegend=False,
        x=np.concatenate([factors, factors[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=line_colour(i, 0.22),
        hoverinfo="skip",
    )


def _dose_line(line: pd.DataFrame, value: str, i: int, j: int) -> go.Scatter:
    """One benchmark (its colour, ``i``) under one condition (its dash, ``j``)."""
    benchmark, condition = line.iloc[0][["benchmark", "condition"]].map(label)
    form = MEASURES[value].number_format
    columns = [f"{value}_low", f"{value}_high", "n_neurons", "n_questions"]
    return go.Scatter(
        name=benchmark,
        legendgroup=benchmark,
        showlegend=j == 0,
        x=line["factor"].to_numpy(float),
        y=line[value].to_numpy(float),
        customdata=line[columns].to_numpy(float).tolist(),
        mode="lines+markers" if j == 0 else "lines",
        line={"color": line_colour(i), "width": 2, "dash": _DASHES[j % len(_DASHES)]},
        hovertemplate=(
            f"{benchmark}, {condition} (%{{customdata[2]:.0f}} neurons) × %{{x:g}}<br>"
            f"{MEASURES[value].unit}: "
            f"%{{y:{form}}} [%{{customdata[0]:{form}}}, %{{customdata[1]:{form}}}]<br>"
            "%{customdata[3]:.0f} questions<extra></extra>"
        ),
    )


def _sweep_grid(names: Sequence[str], measures: Sequence[str]) -> go.Figure:
    """Empty panels: one row per measure, one column per threshold."""
    n_rows, has_legend = len(measures), "accuracy" in measures
    figure = make_subplots(
        n_rows,
        len(names),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=0.07,
        subplot_titles=[_THRESHOLDS.get(name, label(name)) for name in names],
    )
    figure.update_layout(
        layout("How much the set hangs on each threshold"),
        height=(155 if has_legend else 130) + 130 * n_rows,
        margin_t=105 if has_legend else 80,
        legend=LEGEND | {"y": 1 + 25 / (130 * n_rows)},
    )
    figure.update_annotations(font={"size": 13, "color": TEXT})
    figure.update_xaxes(axis(None), type="category", showgrid=False)
    return figure.update_yaxes(axis(None), rangemode="tozero")


def _sweep_lines(panel: pd.DataFrame, measure: str) -> list[go.Scatter]:
    """One threshold's lines of one measure: one per benchmark for accuracy, else a single one."""
    if measure != "accuracy":
        return [_sweep_line(panel.drop_duplicates("value"), measure, "", TEXT)]
    return [
        _sweep_line(line, measure, label(benchmark), line_colour(i))
        for i, (benchmark, line) in enumerate(panel.groupby("benchmark", sort=False))
    ]


def _sweep_line(line: pd.DataFrame, measure: str, name: str, colour: str) -> go.Scatter:
    return go.Scatter(
        name=name,
        legendgroup=name,
        x=[f"{value:g}" for value in line["value"]],
        y=line[measure].to_numpy(float),
        customdata=line["n_neurons"].to_numpy(int),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": np.where(line["value"] == line["default"], 12, 6), "line_width": 0},
        hovertemplate=(
            f"%{{x}}: %{{y:.3~f}} {_SWEEP_MEASURES[measure]} (%{{customdata}} neurons)"
            f"<extra>{name}</extra>"
        ),
    )
