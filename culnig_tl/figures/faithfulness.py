"""Rankings along the number of their neurons, and predicted drops against real ones."""

from itertools import product
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from culnig_tl.figures.style import (
    LEGEND,
    MEASURES,
    TEXT,
    Measure,
    axis,
    check_columns,
    get_measure,
    label,
    line_colour,
    panel_grid,
    panel_position,
    same_scale,
)

_MEASURES = {**MEASURES, "fall": Measure("fall of P(answer), %", "Fall of P(answer)", ".1f")}
_ENDS = ("", "_low", "_high")
_CURVES = {"deletion": "best neurons switched off", "insertion": "all others switched off"}
_PLACE = ("curve", "ranking", "benchmark", "n_neurons")
_IDENTITY = {"color": TEXT, "width": 1, "dash": "dash"}
_PANEL_HEIGHT = 260


def faithfulness(
    frame: pd.DataFrame, *, value: Literal["accuracy", "probability", "fall"] = "fall"
) -> go.Figure:
    """What switching off the best neurons does, and all others, beside random rankings.

    Args:
        frame: the ``frame`` of ``validation.faithfulness``, one row per curve, ranking, benchmark
            and number of neurons.
        value: ``"fall"`` (of ``P(answer)``, % of that of the model as it is), ``"probability"``
            (mean ``P(answer)``, 0 to 1) or ``"accuracy"`` (%).

    Returns:
        One row of panels per benchmark, deletion and insertion, numbers of neurons on a logarithmic
        axis. One colour per ranking: its line with 95 % intervals as bars; the mean of its random
        rankings is dotted, their range shaded.

    Raises:
        InvalidInputError: missing columns, no rows, or another ``value``.

    Example:
        >>> row = {"curve": "deletion", "ranking": "mine", "benchmark": "facts", "n_neurons": 5}
        >>> falls = {f"{name}{end}": 0.5 for name in ("fall", "random_fall") for end in _ENDS}
        >>> faithfulness(pd.DataFrame([row | falls])).data[-1].y.tolist()
        [50.0]
    """
    measure = get_measure(value, _MEASURES)
    columns = [f"{name}{end}" for name in (value, f"random_{value}") for end in _ENDS]
    check_columns(frame, [*_PLACE, *columns], "validation.faithfulness")
    points = frame[frame["n_neurons"] > 0]  # a logarithmic axis has no 0
    if value == "fall":
        points = points.assign(**{column: 100 * points[column] for column in columns})
    panels = list(product(points["benchmark"].unique(), points["curve"].unique()))
    titles = [f"{benchmark}: {_CURVES.get(curve, curve)}" for benchmark, curve in panels]
    figure = panel_grid(titles, panel_height=_PANEL_HEIGHT, x_title="best neurons")
    for i, (benchmark, curve) in enumerate(panels):
        row, column = panel_position(i)
        panel = points[(points["benchmark"] == benchmark) & (points["curve"] == curve)]
        for number, (_, line) in enumerate(panel.groupby("ranking", sort=False)):
            for trace in _ranking_lines(line, value, number):
                trace.showlegend = trace.name is not None and i == 0
                figure.add_trace(trace, row=row, col=column)
    figure.update_layout(
        title_text=f"{measure.title} by the number of neurons; dotted: random rankings",
        legend=LEGEND | {"y": 1 + 0.24 / len(panels)},
        margin_t=110,
    )
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(axis(None), range=measure.axis_range)
    same_scale(figure)
    return figure.update_yaxes(title_text=measure.unit, col=1)


def first_order(drops: pd.DataFrame, *, together: pd.DataFrame | None = None) -> go.Figure:
    """Real drops of ``P(answer)`` against those that the gradient predicts, one point per neuron.

    Args:
        drops: the ``frame`` of ``validation.first_order``, one row per factor and neuron.
        together: its ``together``: what the whole set does is said above each panel.

    Returns:
        One panel per factor; on the dashed line both are equal.

    Raises:
        InvalidInputError: missing columns or no rows.

    Example:
        >>> drops = pd.DataFrame({"factor": [0.0], "site": "mlp.hook_post", "layer": 1, "neuron": 5,
        ...                       "predicted": 0.02, "real": 0.01, "ratio": 0.5})
        >>> first_order(drops).data[-1].y.tolist()
        [0.01]
    """
    needed = ("factor", "site", "layer", "neuron", "predicted", "real", "ratio")
    check_columns(drops, needed, "validation.first_order")
    of_sets = {} if together is None else together.set_index("factor").to_dict("index")
    panels = drops.groupby("factor", sort=False)
    titles = [_panel_title(factor, of_sets.get(factor)) for factor, _ in panels]
    figure = panel_grid(titles, panel_height=_PANEL_HEIGHT, x_title="predicted drop")
    for i, (_, points) in enumerate(panels):
        row, column = panel_position(i)
        for trace in (_identity(points), _neuron_points(points)):
            figure.add_trace(trace, row=row, col=column)
    figure.update_layout(
        title_text="Drop of P(answer) as the gradient predicts it, and as scaling causes it",
        showlegend=False,
    )
    return figure.update_yaxes(axis("real drop"))


def _ranking_lines(line: pd.DataFrame, value: str, number: int) -> list[go.Scatter]:
    """Range and mean of the random rankings beside one ranking, then the ranking itself."""
    sizes = line["n_neurons"].to_numpy(float)
    middle, low, high = (line[f"random_{value}{end}"].to_numpy(float) for end in _ENDS)
    shared: dict[str, Any] = {"legendgroup": f"ranking {number}"}
    band = go.Scatter(
        x=np.concatenate([sizes, sizes[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=line_colour(number, 0.18),
        hoverinfo="skip",
        **shared,
    )
    mean = go.Scatter(
        x=sizes,
        y=middle,
        mode="lines",
        line={"color": line_colour(number), "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        **shared,
    )
    return [band, mean, _ranking_line(line, value, number, shared)]


def _ranking_line(
    line: pd.DataFrame, value: str, number: int, shared: dict[str, Any]
) -> go.Scatter:
    name, colour = label(line["ranking"].iloc[0]), line_colour(number)
    values, low, high = (line[f"{value}{end}"].to_numpy(float) for end in _ENDS)
    form = _MEASURES[value].number_format
    return go.Scatter(
        name=name,
        x=line["n_neurons"].to_numpy(float),
        y=values,
        error_y={
            "array": high - values,
            "arrayminus": values - low,
            "color": colour,
            "thickness": 1,
            "width": 0,
        },
        customdata=line[[f"{value}_low", f"{value}_high", f"random_{value}"]].to_numpy(float),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        hovertemplate=(
            f"{name}, %{{x:,.0f}} neurons<br>{_MEASURES[value].unit}: %{{y:{form}}} "
            f"[%{{customdata[0]:{form}}}, %{{customdata[1]:{form}}}]<br>"
            f"random: %{{customdata[2]:{form}}}<extra></extra>"
        ),
        **shared,
    )


def _panel_title(factor: Any, of_set: dict[Any, Any] | None) -> str:
    """The factor, and what the whole set does."""
    if of_set is None:
        return f"× {factor:g}"
    return f"× {factor:g}; all: {of_set['predicted']:.2g} predicted, {of_set['real']:.2g} real"


def _identity(points: pd.DataFrame) -> go.Scatter:
    """Where drops are as predicted; neurons above it drop further."""
    ends = [min(0.0, points["predicted"].min()), max(0.0, points["predicted"].max())]
    return go.Scatter(x=ends, y=ends, mode="lines", line=_IDENTITY, hoverinfo="skip")


def _neuron_points(points: pd.DataFrame) -> go.Scatter:
    places = zip(points["layer"], points["site"], points["neuron"], strict=True)
    return go.Scatter(
        x=points["predicted"].to_numpy(float),
        y=points["real"].to_numpy(float),
        text=[label(f"L{layer}.{site}.{neuron}") for layer, site, neuron in places],
        customdata=points["ratio"].to_numpy(float),
        mode="markers",
        marker={"color": line_colour(0, 0.75), "size": 7},
        hovertemplate=(
            "%{text}<br>predicted %{x:.2~g}, real %{y:.2~g}<br>real / predicted "
            "%{customdata:.2f}<extra></extra>"
        ),
    )
