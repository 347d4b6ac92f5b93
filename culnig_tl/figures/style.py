"""What the figures share: colours that read on light and dark pages, axes, names, checks."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from culnig_tl.errors import InvalidInputError

TEXT = "#7a7a7a"
_GRID = "rgba(128,128,128,0.28)"
_PANEL = "rgba(128,128,128,0.10)"
_CLEAR = "rgba(0,0,0,0)"


def layout(title: str) -> dict[str, Any]:
    """Clear background, mid-grey text, the title above the left edge; as wide as the cell is."""
    return {
        "template": "none",
        "title": {"text": shown(title), "x": 0, "xref": "paper", "font": {"size": 15}},
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
