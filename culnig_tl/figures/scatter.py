"""One quantity against another: falls of P(answer), and how ways of finding neurons did."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from culnig_tl.evaluation import LAYER_MATCHED, condition_labels
from culnig_tl.figures.style import (
    LEGEND,
    TEXT,
    axis,
    check_columns,
    label,
    layout,
    line_colour,
    panel_grid,
    panel_position,
)

_ENDS = ("", "_cluster_low", "_cluster_high")
_FALLS = [f"{name}{end}" for name in ("fall", "general_fall", "selectivity") for end in _ENDS]
_NEEDED = ("benchmark", "condition", "factor", "n_neurons", *_FALLS)
_DIAGONAL = {"color": TEXT, "width": 1, "dash": "dash"}
_PANEL_HEIGHT = 300
_LEAGUE_HEIGHT = 520
_ENDS_OF_LEAGUE = ("_low", "_high")
_LEAGUE = [f"{name}{end}" for name in ("spearman", "selectivity") for end in ("", "_low", "_high")]


def selectivity(frame: pd.DataFrame, *, sets: pd.DataFrame | None = None) -> go.Figure:
    """How far P(answer) falls on cultural questions against how far it falls on general ones.

    Args:
        frame: the frame of ``ct.selectivity``.
        sets: the frame of ``evaluation.selectivity_of_sets``: its layer-matched sets are drawn as
            small grey points, in the place of their mean.

    Returns:
        One panel per cultural benchmark, one colour per condition; crosses are 95 % intervals by
        clusters. On the dashed diagonal both fall alike: no selectivity; above it, culture falls
        further.

    Raises:
        InvalidInputError: missing columns or no rows.

    Example:
        >>> frame = pd.DataFrame({"benchmark": ["facts"], "condition": "mine", "factor": 0.0,
        ...                       "n_neurons": 7, **dict.fromkeys(_FALLS, 0.5)})
        >>> selectivity(frame).data[-1].y.tolist()
        [50.0]
    """
    check_columns(frame, _NEEDED, "ct.selectivity")
    table = frame.assign(label=condition_labels(frame))
    points = frame.iloc[:0] if sets is None else sets[_is_matched(sets)]
    if sets is not None:
        table = table[~_is_matched(table)]
    names, conditions = list(frame["benchmark"].unique()), list(table["label"].unique())
    figure = panel_grid(names, panel_height=_PANEL_HEIGHT, x_title="fall on general questions, %")
    falls = pd.concat([table, points])[["fall", "general_fall"]].to_numpy(float)
    ends = [100 * min(0.0, np.nanmin(falls[:, 1])), 100 * np.nanmax(falls)]
    for i, name in enumerate(names):
        row, column = panel_position(i)
        crosses = [
            _cross(each, line_colour(conditions.index(condition)))
            for condition, each in table[table["benchmark"] == name].groupby("label", sort=False)
        ]
        here = points[points["benchmark"] == name]
        for trace in (_diagonal(ends), *([_grey_points(here)] if len(here) else []), *crosses):
            trace.showlegend = trace.showlegend is not False and i == 0
            figure.add_trace(trace, row=row, col=column)
    figure.update_layout(
        title_text="Fall of P(answer) on cultural and on general questions, with 95 % intervals",
        legend=LEGEND | {"y": 1.08},
        margin_t=110,
    )
    return figure.update_yaxes(axis("fall on cultural questions, %"))


def league(frame: pd.DataFrame) -> go.Figure:
    """How well scores agree with exact ablation against how selective the sets are that they find.

    Args:
        frame: the frame of a ``ct.league`` with held-out questions.

    Returns:
        One point per scorer and recipe, one colour per recipe; the larger, the more it costs.
        Named, with their 95 % intervals as bars, are those that nothing beats in both, and the
        first scorer with the published recipe.

    Raises:
        InvalidInputError: missing columns or no rows.

    Example:
        >>> frame = pd.DataFrame({"scorer": ["mine"], "recipe": ["published"], "seconds": [2.0],
        ...                       **dict.fromkeys(_LEAGUE, 0.5)})
        >>> league(frame).data[0].y.tolist()
        [50.0]
    """
    check_columns(frame, ("scorer", "recipe", "seconds", *_LEAGUE), "ct.league")
    is_first = frame["scorer"] == frame["scorer"].iloc[0]
    named = _undominated(frame) | (is_first & (frame["recipe"] == "published"))
    figure = go.Figure(
        [
            _entrants(rows, named[rows.index], frame["seconds"].max(), line_colour(i))
            for i, (_, rows) in enumerate(frame.groupby("recipe", sort=False))
        ],
        layout=layout("Agreement with exact ablation, and selectivity"),
    )
    figure.update_layout(height=_LEAGUE_HEIGHT, legend=LEGEND, margin_t=90)
    figure.update_xaxes(axis("Spearman correlation with exact ablation"))
    return figure.update_yaxes(axis("selectivity, points"))


def _undominated(frame: pd.DataFrame) -> pd.Series:
    """Whether no other row is at least as good in both, and better in one."""
    values = frame[["spearman", "selectivity"]].to_numpy(float)
    beaten = [bool(((values >= row).all(1) & (values > row).any(1)).any()) for row in values]
    return frame["spearman"].notna() & ~pd.Series(beaten, index=frame.index)


def _entrants(rows: pd.DataFrame, named: pd.Series, most: float, colour: str) -> go.Scatter:
    """The points of one recipe."""
    x, y = rows["spearman"].to_numpy(float), 100 * rows["selectivity"].to_numpy(float)
    ends = rows[[f"{name}{end}" for name in ("spearman", "selectivity") for end in _ENDS_OF_LEAGUE]]
    x_low, x_high, y_low, y_high = ends.where(named).to_numpy(float).T  # others without bars
    return go.Scatter(
        name=str(rows["recipe"].iloc[0]),
        x=x,
        y=y,
        error_x=_arms(x, x_low, x_high, colour),
        error_y=_arms(y, 100 * y_low, 100 * y_high, colour),
        mode="markers+text",
        text=[
            label(name) if is_named else ""
            for name, is_named in zip(rows["scorer"], named, strict=True)
        ],
        textposition="top left",
        textfont={"size": 11, "color": TEXT},
        marker={
            "color": colour,
            "opacity": np.where(named, 1.0, 0.45),
            "size": 6 + 14 * np.sqrt(rows["seconds"].to_numpy(float) / most),
        },
        customdata=np.array([rows["scorer"].map(label), rows["seconds"]], dtype=object).T,
        hovertemplate=(
            "%{customdata[0]}<br>Spearman %{x:.2f}, selectivity %{y:.0f} points"
            "<br>%{customdata[1]:.1f} CPU seconds"
        ),
    )


def _is_matched(frame: pd.DataFrame) -> pd.Series:
    return frame["condition"].str.startswith(LAYER_MATCHED)


def _diagonal(ends: list[float]) -> go.Scatter:
    """Where both fall alike."""
    return go.Scatter(
        x=ends, y=ends, mode="lines", line=_DIAGONAL, showlegend=False, hoverinfo="skip"
    )


def _grey_points(sets: pd.DataFrame) -> go.Scatter:
    """The layer-matched sets, one small point each."""
    return go.Scatter(
        name=LAYER_MATCHED,
        legendgroup=LAYER_MATCHED,
        x=100 * sets["general_fall"].to_numpy(float),
        y=100 * sets["fall"].to_numpy(float),
        customdata=sets["draw"].to_numpy(int),
        mode="markers",
        marker={"color": TEXT, "size": 5, "opacity": 0.7},
        hovertemplate=(
            "layer-matched set %{customdata}<br>cultural %{y:.0f} %, general %{x:.0f} %"
            "<extra></extra>"
        ),
    )


def _cross(rows: pd.DataFrame, colour: str) -> go.Scatter:
    """One condition on one benchmark, with both intervals."""
    name = label(rows["label"].iloc[0])
    text = [
        f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}] points"
        for value, low, high in rows[[f"selectivity{end}" for end in _ENDS]].to_numpy(float)
    ]
    return go.Scatter(
        name=name,
        legendgroup=name,
        x=100 * rows["general_fall"].to_numpy(float),
        y=100 * rows["fall"].to_numpy(float),
        error_x=_bars(rows, "general_fall", colour),
        error_y=_bars(rows, "fall", colour),
        customdata=np.array([rows["n_neurons"], text], dtype=object).T,
        mode="markers",
        marker={"color": colour, "size": 8},
        hovertemplate=(
            f"{name} (%{{customdata[0]}} neurons)<br>cultural %{{y:.0f}} %, general %{{x:.0f}} %"
            "<br>selectivity %{customdata[1]}<extra></extra>"
        ),
    )


def _bars(rows: pd.DataFrame, name: str, colour: str) -> dict[str, Any]:
    """One arm of a cross: the interval by clusters."""
    value, low, high = (100 * rows[f"{name}{end}"].to_numpy(float) for end in _ENDS)
    return _arms(value, low, high, colour)


def _arms(value: Any, low: Any, high: Any, colour: str) -> dict[str, Any]:
    """Error bars from one end of an interval to the other."""
    return {
        "array": high - value,
        "arrayminus": value - low,
        "color": colour,
        "thickness": 1.5,
        "width": 0,
    }
