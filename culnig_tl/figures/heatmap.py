"""Layers by neurons, by modules or by cultures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import plotly.graph_objects as go

from culnig_tl.errors import InvalidInputError, check_choice, check_number
from culnig_tl.figures import binning
from culnig_tl.figures.style import (
    AMOUNT_COLOURS,
    TEXT,
    axis,
    colour_bar,
    label,
    labels,
    layout,
    panel_grid,
    panel_position,
)
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores

# Scores have a long tail: colours go by the square root, and the colour bar shows that they do.
_SQUARE_ROOT = [[(i / (len(AMOUNT_COLOURS) - 1)) ** 2, c] for i, c in enumerate(AMOUNT_COLOURS)]


def layer_heatmap(
    data: NeuronSet | NeuronScores | Mapping[str, NeuronSet],
    *,
    by: Literal["neuron", "module", "culture"] = "neuron",
    bins: int = binning.DEFAULT_BINS,
) -> go.Figure:
    """Where neurons are, or how they score: layers by neurons, by modules or by cultures.

    Args:
        data: a set, or sets by culture (colour: number of selected neurons, blank where there are
            none), or scores (colour: the largest ``S(D)``, by culture ``S_c(D)``, in units of
            probability).
        by: ``"neuron"``: one panel per site, its neurons in bins of neighbours. ``"module"``: one
            column per site. ``"culture"``: one column per culture, all sites together; takes scores
            or sets by culture.
        bins: most bins per layer; a site with fewer neurons gets one bin for each.

    Returns:
        A panel or column for every site that the set was chosen from, or that was scored. A set
        made by hand knows no shapes: it is drawn to its last layer and neuron.

    Raises:
        InvalidInputError: no neurons, fewer than one bin, or data that ``by`` cannot show.

    Example:
        >>> by_hand = NeuronSet.of({"mlp.hook_post": [(3, 17), (3, 18), (1, 5)]})
        >>> layer_heatmap(by_hand, bins=4).data[0].z.shape
        (4, 4)
        >>> layer_heatmap({"Iran": by_hand, "Spain": by_hand}, by="culture").data[0].z.shape
        (4, 2)
    """
    check_choice("by", by, ("neuron", "module", "culture"))
    check_number("bins", bins, low=1, whole=True)
    if isinstance(data, NeuronScores):
        return _score_heatmap(data, by, bins)
    _check_sets(data, by)
    return _set_heatmap(data, by, bins)


def _score_heatmap(scores: NeuronScores, by: str, bins: int) -> go.Figure:
    value = "S<sub>c</sub>(D)" if by == "culture" else "S(D)"
    hover = f"largest {value} %{{z:.3g}}: neuron %{{customdata}}"
    if by == "neuron":
        figure = _panel_figure(binning.bin_scores(scores, bins), hover)
    elif by == "module":
        figure = _grid_figure(binning.scores_by_module(scores), by, hover)
    else:
        figure = _grid_figure(binning.scores_by_culture(scores), by, hover)
    least, most = _extremes(figure)
    colours = _amount_axis(least, most, f"largest {value} in the cell", exponentformat="power")
    colours["colorscale"] = _SQUARE_ROOT
    return figure.update_layout(title_text=_score_title(scores, by), coloraxis=colours)


def _set_heatmap(data: NeuronSet | Mapping[str, NeuronSet], by: str, bins: int) -> go.Figure:
    hover = "%{z} selected: %{customdata}"
    if isinstance(data, Mapping):
        figure = _grid_figure(binning.neurons_by_culture(data), by, hover)
    elif by == "module":
        figure = _grid_figure(binning.neurons_by_module(data), by, hover)
    else:
        figure = _panel_figure(binning.bin_neurons(data, bins), hover)
    most = max(2.0, _extremes(figure)[1])
    colours = _amount_axis(1.0, most, "selected neurons", dtick=math.ceil((most - 1) / 6))
    return figure.update_layout(title_text=_set_title(data), coloraxis=colours)


def _check_sets(data: NeuronSet | Mapping[str, NeuronSet], by: str) -> None:
    if isinstance(data, Mapping) != (by == "culture"):
        data_text = f"{len(data)} sets" if isinstance(data, Mapping) else "one set"
        raise InvalidInputError(
            f"by is {by!r}, and the data are {data_text}; give sets by culture (or scores) with "
            "by='culture', and one set with the others."
        )
    if not any(map(len, data.values() if isinstance(data, Mapping) else [data])):
        raise InvalidInputError(
            "There are no neurons in this set, so there is nothing to draw; give a set with at "
            "least one, e.g. selected with a larger share."
        )


def _set_title(data: NeuronSet | Mapping[str, NeuronSet]) -> str:
    if isinstance(data, Mapping):
        noun = "set" if len(data) == 1 else "sets"
        return f"Neurons of {len(data)} {noun} by layer"
    kind = data.source.get("kind", "")
    culture = f" of {data.source['culture']}" if "culture" in data.source else ""
    noun = "neuron" if len(data) == 1 else "neurons"
    return label(" ".join(f"{len(data):,} {kind} {noun}{culture} by layer".split()))


def _score_title(scores: NeuronScores, by: str) -> str:
    n_neurons = sum(layers * width for layers, width in scores.shapes.values())
    n_cultures = len(scores.cultures)
    noun = "culture" if n_cultures == 1 else "cultures"
    summed = "by culture" if by == "culture" else f"summed over {n_cultures} {noun}"
    return f"Scores of {n_neurons:,} neurons by layer, {summed}"


def _panel_figure(panels: Sequence[binning.SiteBins], hover: str) -> go.Figure:
    n_layers = max(len(panel.amounts) for panel in panels)
    sites = [panel.site for panel in panels]
    figure = panel_grid(sites, panel_height=_plot_height(n_layers), x_title="neuron")
    figure.update_xaxes(type="linear", showgrid=False, zeroline=False, nticks=6)
    figure.update_yaxes(_layer_axis(n_layers))
    for i, panel in enumerate(panels):
        row, column = panel_position(i)
        figure.add_trace(_panel_trace(panel, hover), row=row, col=column)
        figure.update_xaxes(range=[0, int(panel.edges[-1])], row=row, col=column)
        figure.update_yaxes(range=[-0.5, len(panel.amounts) - 0.5], row=row, col=column)
    return figure


def _panel_trace(panel: binning.SiteBins, hover: str) -> go.Heatmap | go.Scatter:
    if np.isnan(panel.amounts).all():  # plotly.js fails on a heatmap without values
        middle = {"x": [panel.edges[-1] / 2], "y": [(len(panel.amounts) - 1) / 2]}
        text = {"text": ["none selected"], "textfont_color": TEXT, "hoverinfo": "skip"}
        return go.Scatter(name=panel.site, mode="text", showlegend=False, **middle, **text)
    return go.Heatmap(
        name=panel.site,
        x=panel.edges,
        z=panel.amounts,
        customdata=panel.neurons,
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate=f"{label(panel.site)}, layer %{{y}}<br>{hover}<extra></extra>",
    )


def _grid_figure(grid: binning.LayerGrid, by: str, hover: str) -> go.Figure:
    n_layers = len(grid.amounts)
    figure = go.Figure(
        go.Heatmap(
            name=by,
            x=labels(grid.columns),
            z=grid.amounts,
            customdata=grid.neurons,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate=f"%{{x}}, layer %{{y}}<br>{hover}<extra></extra>",
        )
    )
    figure.update_layout(layout(""), height=max(_plot_height(n_layers), 190) + 150)
    figure.update_xaxes(axis(None), type="category", showgrid=False)
    return figure.update_yaxes(_layer_axis(n_layers), range=[-0.5, n_layers - 0.5])


def _plot_height(n_layers: int) -> int:
    return min(max(110, 14 * n_layers), 330)


def _layer_axis(n_layers: int) -> dict[str, Any]:
    steps = {"tick0": 0, "dtick": math.ceil(n_layers / 8)}
    return axis("layer") | steps | {"type": "linear", "showgrid": False, "zeroline": False}


def _extremes(figure: go.Figure) -> tuple[float, float]:
    """The least and the largest value of all panels."""
    traces = cast("list[Any]", list(figure.select_traces({"type": "heatmap"})))
    values = np.concatenate([np.ravel(trace.z) for trace in traces])
    return float(np.nanmin(values)), float(np.nanmax(values))


def _amount_axis(least: float, most: float, unit: str, **ticks: Any) -> dict[str, Any]:
    return {
        "colorscale": list(AMOUNT_COLOURS),
        "cmin": least,
        "cmax": most if most > least else least + 1,
        "colorbar": colour_bar(unit) | ticks,
    }
