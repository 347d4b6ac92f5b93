"""What fine-tuning gains on its task against what becomes of everything else."""

from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from culnig_tl.figures.style import (
    LEGEND,
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

_MEASURES = {
    "accuracy": Measure("points", "accuracy", ".1f"),
    "probability": Measure("points of P(answer)", "P(answer)", ".1f"),
}
_COLUMNS = {"accuracy": "change", "probability": "probability_change"}
_ENDS = ("", "_low", "_high")
_NO_CHANGE = {"color": TEXT, "width": 1, "dash": "dash"}
_PANEL_HEIGHT = 330


def trade_off(
    frame: pd.DataFrame,
    *,
    task: str = "task",
    value: Literal["accuracy", "probability"] = "accuracy",
) -> go.Figure:
    """Gain on the task against the change of every other benchmark, an arrow per arm.

    Args:
        frame: the ``frame`` of ``finetuning_study``, one row per benchmark and arm.
        task: the benchmark that was trained on.
        value: ``"accuracy"`` (points) or ``"probability"`` (of the answer, in hundredths).

    Returns:
        One panel per other benchmark, the cultural ones first, one colour per arm: an arrow from
        the model as it was, at 0, to what the arm made of it; bars are 95 % intervals. An arrow
        along the dashed line learns at no cost; one that points down forgets.

    Raises:
        InvalidInputError: missing columns, no rows, no task, or another ``value``.

    Example:
        >>> row = {"arm": "top", "cultural": True}
        >>> ends = {f"{name}{end}": 5.0 for name in _COLUMNS.values() for end in _ENDS}
        >>> frame = pd.DataFrame([{"benchmark": name} | row | ends for name in ("task", "facts")])
        >>> trade_off(frame).data[-1].y
        (0.0, 5.0)
    """
    measure = get_measure(value, _MEASURES)
    columns = [f"{_COLUMNS[value]}{end}" for end in _ENDS]
    check_columns(frame, ["benchmark", "arm", "cultural", *columns], "finetuning_study")
    table = frame.assign(
        **{name: frame[name] * (1 + 99 * (value == "probability")) for name in columns}
    )
    gains = table[table["benchmark"] == task].set_index("arm")[columns]
    others = table[table["benchmark"] != task]
    check_columns(others if len(gains) else gains, columns, "finetuning_study, with its task,")
    panels = list(
        others.sort_values("cultural", ascending=False, kind="stable")["benchmark"].unique()
    )
    titles = [_title(others[others["benchmark"] == name]) for name in panels]
    figure = panel_grid(
        titles, panel_height=_PANEL_HEIGHT, x_title=f"gain on the task, {measure.unit}"
    )
    for i, name in enumerate(panels):
        row, column = panel_position(i)
        for number, (arm, gain) in enumerate(gains.iterrows()):
            here = others[(others["benchmark"] == name) & (others["arm"] == arm)]
            trace = _arrow(str(arm), gain, here[columns].iloc[0], number, measure)
            trace.showlegend = i == 0
            figure.add_trace(trace, row=row, col=column)
        place: dict[str, Any] = {"row": row, "col": column}
        figure.add_hline(0, line=_NO_CHANGE, **place)
    figure.update_layout(
        title_text=f"What fine-tuning gains and costs: change of {measure.title}, 95 % intervals",
        legend=LEGEND | {"y": 1 + 0.1 / ((len(panels) + 1) // 2)},
        margin_t=110,
    )
    figure.update_yaxes(axis(None))
    same_scale(figure)
    return figure.update_yaxes(title_text=f"change, {measure.unit}", col=1)


def _title(rows: pd.DataFrame) -> str:
    kind = "cultural" if rows["cultural"].iloc[0] else "general"
    return f"{rows['benchmark'].iloc[0]} ({kind})"


def _arrow(
    arm: str, gain: pd.Series, change: pd.Series, number: int, measure: Measure
) -> go.Scatter:
    """From the model as it was to what an arm made of it, with both intervals at its tip."""
    colour, form = line_colour(number), measure.number_format
    (x, x_low, x_high), (y, y_low, y_high) = gain.to_numpy(float), change.to_numpy(float)
    return go.Scatter(
        name=label(arm),
        legendgroup=label(arm),
        x=[0.0, x],
        y=[0.0, y],
        error_x=_bars(x, x_low, x_high, colour),
        error_y=_bars(y, y_low, y_high, colour),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={
            "color": colour,
            "size": [0, 13],
            "symbol": ["circle", "arrow"],
            "angleref": "previous",
            "opacity": 1,
            "line": {"width": 0},
        },
        customdata=[[0.0] * 4, [x_low, x_high, y_low, y_high]],
        hovertemplate=(
            f"{label(arm)}<br>task %{{x:{form}}} [%{{customdata[0]:{form}}}, "
            f"%{{customdata[1]:{form}}}]<br>here %{{y:{form}}} [%{{customdata[2]:{form}}}, "
            f"%{{customdata[3]:{form}}}]<extra></extra>"
        ),
    )


def _bars(value: float, low: float, high: float, colour: str) -> dict[str, Any]:
    """The interval at the tip; none at the tail."""
    return {
        "array": [0.0, high - value],
        "arrayminus": [0.0, value - low],
        "color": colour,
        "thickness": 1.5,
        "width": 0,
    }
