"""What the figures share: colours that read on light and dark pages, axes, names, checks."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from culnig_tl.errors import InvalidInputError

TEXT = "#7a7a7a"
LINES = ("#2E8BCB", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Okabe and Ito's colours that show on white and on black; the blue is lightened for the latter."""
AMOUNT = ("#8458cc", "#b0328f", "#dc5c68", "#f48849", "#fdc328")
"""A scale for amounts that only brightens."""
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
MEASURES = {
    "accuracy": ("accuracy, %", "Accuracy", ".1f", [0, 106]),
    "probability": ("mean P(answer)", "Mean P(answer)", ".3f", None),
}
"""Unit, name, number format and axis range of each measure of a table."""
_GRID = "rgba(128,128,128,0.28)"
_PANEL = "rgba(128,128,128,0.10)"
_CLEAR = "rgba(0,0,0,0)"
_GAP = 52
_AT_TOP = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 14}}


def layout(title: str) -> dict[str, Any]:
    """Clear background, mid-grey text, the title above the left edge; as wide as the cell is."""
    return {
        "template": "none",
        "title": {"text": shown(title), "x": 0, "xref": "paper", "font": {"size": 15}} | _AT_TOP,
        "font": {"color": TEXT, "size": 12},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _PANEL,
        "margin": {"l": 60, "r": 20, "t": 80, "b": 50},
    }


def axis(title: str | None) -> dict[str, Any]:
    """An axis in the colours of the figure."""
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "color": TEXT,
        "gridcolor": _GRID,
        "linecolor": _GRID,
        "zerolinecolor": _GRID,
    }


def colour_bar(unit: str) -> dict[str, Any]:
    """A colour bar with its unit beside it, or above it when written in two lines."""
    return {
        "title": {"text": unit, "side": "right" if "<br>" not in unit else "top"},
        "thickness": 14,
        "outlinewidth": 0,
    }


def panel_grid(titles: Sequence[str], *, tall: int, below: str) -> go.Figure:
    """Empty panels, two in a row, each ``tall`` pixels, with ``below`` under the lowest."""
    n_rows = math.ceil(len(titles) / 2)
    plotted = n_rows * tall + (n_rows - 1) * _GAP
    figure = make_subplots(
        n_rows,
        min(2, len(titles)),
        subplot_titles=all_shown(titles),
        horizontal_spacing=0.1,
        vertical_spacing=_GAP / plotted if n_rows > 1 else None,
    )
    figure.update_layout(layout(""), height=plotted + 130)
    figure.update_annotations(font={"size": 13, "color": TEXT})
    figure.update_xaxes(axis(None))
    for i in range(max(0, len(titles) - 2), len(titles)):
        row, column = panel_at(i)
        figure.update_xaxes(title_text=below, row=row, col=column)
    return figure


def panel_at(index: int) -> tuple[int, int]:
    """Row and column of a panel of ``panel_grid``."""
    return index // 2 + 1, index % 2 + 1


def line_colour(index: int, opacity: float = 1.0) -> str:
    """The colour of a line; the seventh has that of the first."""
    code = LINES[index % len(LINES)]
    red, green, blue = (int(code[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def shown(name: object) -> str:
    """A name as Plotly has to be given it to show it as it is."""
    return html.escape(str(name), quote=False)


def all_shown(names: Iterable[object]) -> list[str]:
    """Names as Plotly has to be given them."""
    return [shown(name) for name in names]


def known(value: str, choices: Iterable[str]) -> str:
    """``value``, if it is one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise InvalidInputError(f"value is {value!r}; give one of {', '.join(choices)}.")
    return value


def check_columns(frame: pd.DataFrame, needed: Sequence[str], maker: str) -> None:
    """Refuse a frame without rows or without the columns that ``maker`` gives."""
    if missing := [column for column in needed if column not in frame]:
        raise InvalidInputError(
            f"This frame lacks {', '.join(missing)}; it has {', '.join(map(str, frame)) or 'no'} "
            f"columns, and the frame of {maker} is expected."
        )
    if frame.empty:
        raise InvalidInputError(f"This frame has no rows; give the frame of {maker}.")
