"""The look that all figures share, for figures of your own as well.

Backgrounds are clear and text is mid-grey, so that a figure reads on light and on dark pages.
``layout``, ``axis`` and ``colour_bar`` give Plotly its settings, ``label`` has a name drawn as it
is written, ``check_columns`` refuses a frame that a figure cannot draw.

A figure is a function that turns a result into a ``go.Figure``; it need not live in this package:

    >>> import plotly.graph_objects as go
    >>> from culnig_tl.figures import style
    >>> from culnig_tl.neurons import NeuronSet
    >>> def neurons_per_site(neurons):
    ...     counts = neurons.per_layer().sum()
    ...     bars = go.Bar(x=style.labels(counts.index), y=counts, marker_color=style.line_colour(0))
    ...     figure = go.Figure(bars, style.layout("Neurons per site"))
    ...     figure.update_xaxes(style.axis(None), type="category")
    ...     return figure.update_yaxes(style.axis("neurons"))
    >>> neurons_per_site(NeuronSet.of({"mlp.hook_post": [(0, 3), (2, 60)]})).data[0].y.tolist()
    [2]
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from culnig_tl.errors import InvalidInputError, check_choice


class Measure(NamedTuple):
    """How a column of a table is drawn.

    Attributes:
        unit: what stands at the axis or the colour bar.
        title: what a title calls it.
        number_format: how a value is written, in d3's notation.
        axis_range: the ends of the axis; None: those of the data.
    """

    unit: str
    title: str
    number_format: str
    axis_range: Sequence[float] | None = None


TEXT = "#7a7a7a"
"""The grey of all text, legible on white and on black."""
LINE_COLOURS = ("#2E8BCB", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Okabe and Ito's colours that show on white and on black; the blue is lightened for the latter."""
AMOUNT_COLOURS = ("#8458cc", "#b0328f", "#dc5c68", "#f48849", "#fdc328")
"""A scale for amounts that only brightens; for changes use Plotly's ``"RdBu"``, centred on 0."""
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
"""A legend in one line above the plot."""
MEASURES = {
    "accuracy": Measure("accuracy, %", "Accuracy", ".1f", [0, 106]),
    "probability": Measure("mean P(answer)", "Mean P(answer)", ".3f"),
}
"""The measures of a table of conditions or doses, by column."""
_GRID_LINE = "rgba(128,128,128,0.28)"
_PLOT_BACKGROUND = "rgba(128,128,128,0.10)"
_CLEAR = "rgba(0,0,0,0)"
_GAP = 52
_AT_TOP = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 14}}


def layout(title: str) -> dict[str, Any]:
    """The layout of a figure: clear background, grey text, title above the left edge.

    No width is set: a figure is as wide as the notebook's cell.

    Example:
        >>> go.Figure(layout=layout("Neurons per site")).layout.title.text
        'Neurons per site'
    """
    return {
        "template": "none",
        "title": {"text": label(title), "x": 0, "xref": "paper", "font": {"size": 15}} | _AT_TOP,
        "font": {"color": TEXT, "size": 12},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _PLOT_BACKGROUND,
        "margin": {"l": 60, "r": 20, "t": 80, "b": 50},
    }


def same_scale(figure: go.Figure) -> None:
    """Have all panels share the vertical scale of the first, which plotly lets not match itself.

    Example:
        >>> figure = go.Figure().set_subplots(1, 2)
        >>> same_scale(figure)
        >>> figure.layout.yaxis.matches, figure.layout.yaxis2.matches
        (None, 'y')
    """
    figure.update_yaxes(matches="y")
    figure.layout.yaxis.matches = None


def axis(title: str | None) -> dict[str, Any]:
    """The settings of an axis, in the colours of the layout; None: no title.

    Example:
        >>> go.Figure().update_xaxes(axis("layer")).layout.xaxis.title.text
        'layer'
    """
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "color": TEXT,
        "gridcolor": _GRID_LINE,
        "linecolor": _GRID_LINE,
        "zerolinecolor": _GRID_LINE,
    }


def colour_bar(unit: str) -> dict[str, Any]:
    """The settings of a colour bar: its unit beside it, or above it when written in two lines.

    Example:
        >>> colour_bar("S(D)")["title"]
        {'text': 'S(D)', 'side': 'right'}
    """
    return {
        "title": {"text": unit, "side": "right" if "<br>" not in unit else "top"},
        "thickness": 14,
        "outlinewidth": 0,
    }


def line_colour(index: int, opacity: float = 1.0) -> str:
    """The colour of the line with this number; the seventh line has that of the first.

    Example:
        >>> line_colour(0, opacity=0.5)
        'rgba(46,139,203,0.5)'
    """
    code = LINE_COLOURS[index % len(LINE_COLOURS)]
    red, green, blue = (int(code[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def label(name: object) -> str:
    """A name with Plotly's markup escaped, so that it is drawn as it is written.

    Example:
        >>> label("<b>Iran")
        '&lt;b&gt;Iran'
    """
    return html.escape(str(name), quote=False)


def labels(names: Iterable[object]) -> list[str]:
    """The ``label`` of each name."""
    return [label(name) for name in names]


def panel_grid(titles: Sequence[str], *, panel_height: int, x_title: str) -> go.Figure:
    """An empty figure of panels, two in a row, each with its title.

    Args:
        titles: one title per panel.
        panel_height: height of a panel in pixels.
        x_title: what stands under the lowest panel of each column.

    Example:
        >>> figure = panel_grid(["mlp.hook_post", "attn.hook_q"], panel_height=110, x_title="S(D)")
        >>> row, column = panel_position(1)
        >>> figure.add_bar(x=[0, 1], y=[3, 4], row=row, col=column).data[0].xaxis
        'x2'
    """
    n_rows = math.ceil(len(titles) / 2)
    plot_height = n_rows * panel_height + (n_rows - 1) * _GAP
    figure = make_subplots(
        n_rows,
        min(2, len(titles)),
        subplot_titles=labels(titles),
        horizontal_spacing=0.1,
        vertical_spacing=_GAP / plot_height if n_rows > 1 else None,
    )
    figure.update_layout(layout(""), height=plot_height + 130)
    figure.update_annotations(font={"size": 13, "color": TEXT})
    figure.update_xaxes(axis(None))
    for i in range(max(0, len(titles) - 2), len(titles)):
        row, column = panel_position(i)
        figure.update_xaxes(title_text=x_title, row=row, col=column)
    return figure


def panel_position(index: int) -> tuple[int, int]:
    """Row and column, from 1, of a panel of ``panel_grid``.

    Example:
        >>> panel_position(0), panel_position(3)
        ((1, 1), (2, 2))
    """
    return index // 2 + 1, index % 2 + 1


def get_measure(value: str, measures: Mapping[str, Measure] = MEASURES) -> Measure:
    """The measure of that name.

    Raises:
        InvalidInputError: ``value`` is none of the measures.

    Example:
        >>> get_measure("accuracy").unit
        'accuracy, %'
    """
    check_choice("value", value, measures)
    return measures[value]


def check_columns(frame: pd.DataFrame, columns: Sequence[str], maker: str) -> None:
    """Refuse a frame that has no rows or lacks some of these columns.

    Args:
        frame: what a figure was given.
        columns: the columns that the figure reads.
        maker: the function whose frame is expected, as the message names it.

    Raises:
        InvalidInputError: with the missing columns and those that the frame has.

    Example:
        >>> check_columns(pd.DataFrame({"accuracy": [92.0]}), ["accuracy"], "evaluation.summarise")
    """
    if missing := [column for column in columns if column not in frame]:
        raise InvalidInputError(
            f"This frame lacks {', '.join(missing)}; it has {', '.join(map(str, frame)) or 'no'} "
            f"columns, and the frame of {maker} is expected."
        )
    if frame.empty:
        raise InvalidInputError(f"This frame has no rows; give the frame of {maker}.")
