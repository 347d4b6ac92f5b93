"""Layers by bins of neighbouring neurons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from culnig_tl.errors import InvalidInputError
from culnig_tl.figures.style import TEXT, axis, colour_bar, layout, shown
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores

_AMOUNT = ("#8458cc", "#b0328f", "#dc5c68", "#f48849", "#fdc328")
_LISTED = 12
_LISTED_IN_SETS_OF_UP_TO = 15_000
_GAP = 52


def layer_heatmap(data: NeuronSet | NeuronScores, *, bins: int = 64) -> go.Figure:
    """Where neurons are: layers by bins of neighbouring neurons, one panel a site.

    Args:
        data: a set (colour: number of selected neurons in the bin, blank where there are none) or
            scores (colour: the largest ``S(D)`` in the bin, in units of probability).
        bins: most bins a layer; a site with fewer neurons gets a bin for each.

    Returns:
        A panel for every site that the set was chosen from, or that was scored. A set made by hand
        knows no shapes: its panels reach to its last layer and neuron.

    Raises:
        InvalidInputError: an empty set, or fewer than one bin.

    Example:
        >>> by_hand = NeuronSet.of({"mlp.hook_post": [(3, 17), (3, 18), (1, 5)]})
        >>> layer_heatmap(by_hand, bins=4).data[0].z.shape
        (4, 4)
    """
    if bins < 1:
        raise InvalidInputError(f"bins is {bins}; give the number of bins a layer, at least 1.")
    if isinstance(data, NeuronSet):
        panels, title = _set_panels(data, bins), _set_title(data)
        unit, hover = "selected<br>neurons", "%{z} selected: %{customdata}"
    else:
        panels, title = _score_panels(data, bins), _score_title(data)
        unit, hover = "largest S(D)<br>in the bin", "largest S(D) %{z:.3g}, neuron %{customdata}"
    figure = _panel_grid(panels, title)
    for i, panel in enumerate(panels):
        figure.add_trace(_trace(panel, hover), row=i // 2 + 1, col=i % 2 + 1)
    values = np.concatenate([panel.amounts.ravel() for panel in panels])
    return figure.update_layout(coloraxis=_amount_axis(values, unit, isinstance(data, NeuronSet)))


@dataclass(frozen=True)
class _Panel:
    """One site of a heatmap.

    Attributes:
        edges: first neuron of every bin, and the end of the last.
        amounts: what is coloured; NaN is left blank.
        hover: what is named when a bin is pointed at.
    """

    site: str
    edges: Int[np.ndarray, "edge"]
    amounts: Float[np.ndarray, "layer bin"]
    hover: np.ndarray


def _set_panels(neurons: NeuronSet, bins: int) -> list[_Panel]:
    if len(neurons) == 0:
        raise InvalidInputError(
            "There are no neurons in this set, so there is nothing to draw; give a set with at "
            "least one, e.g. selected with a larger share."
        )
    most = _LISTED if len(neurons) <= _LISTED_IN_SETS_OF_UP_TO else 1
    panels = []
    for site in dict.fromkeys([*neurons.shapes, *neurons.sites]):
        n_layers, width = neurons.shapes.get(site) or _reach(neurons[site])
        edges = _edges(width, bins)
        found: dict[tuple[int, int], list[int]] = {}
        for layer, neuron in neurons[site]:
            at = int(np.searchsorted(edges, neuron, side="right")) - 1
            found.setdefault((layer, at), []).append(neuron)
        values = np.full((n_layers, len(edges) - 1), np.nan, dtype=np.float32)
        hover = np.full(values.shape, "", dtype=object)
        for cell, members in found.items():
            values[cell], hover[cell] = len(members), _listed(members, most)
        panels.append(_Panel(site, edges, values, hover))
    return panels


def _score_panels(scores: NeuronScores, bins: int) -> list[_Panel]:
    panels = []
    for site in scores.sites:
        total = scores.total(site).float().cpu().numpy()
        edges = _edges(total.shape[1], bins)
        spans = list(pairwise(edges))
        best = np.stack([low + total[:, low:high].argmax(1) for low, high in spans], axis=1)
        values = np.take_along_axis(total, best, axis=1)
        panels.append(_Panel(site, edges, values, best.astype(np.int32)))
    return panels


def _trace(panel: _Panel, hover: str) -> go.Heatmap | go.Scatter:
    if np.isnan(panel.amounts).all():  # plotly.js fails on a heatmap without values
        middle = {"x": [panel.edges[-1] / 2], "y": [(len(panel.amounts) - 1) / 2]}
        words = {"text": ["none selected"], "textfont_color": TEXT, "hoverinfo": "skip"}
        return go.Scatter(name=panel.site, mode="text", showlegend=False, **middle, **words)
    return go.Heatmap(
        name=panel.site,
        x=panel.edges,
        z=panel.amounts,
        customdata=panel.hover,
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate=f"{shown(panel.site)}, layer %{{y}}<br>{hover}<extra></extra>",
    )


def _edges(width: int, bins: int) -> Int[np.ndarray, "edge"]:
    return np.linspace(0, width, min(bins, width) + 1).round().astype(np.int32)


def _reach(neurons: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(layers, neurons a layer) that hold these neurons."""
    return max(layer for layer, _ in neurons) + 1, max(neuron for _, neuron in neurons) + 1


def _listed(members: Sequence[int], most: int) -> str:
    names = ", ".join(map(str, members[:most]))
    rest = len(members) - most
    return f"{names} and {rest} more" if rest > 0 else names


def _set_title(neurons: NeuronSet) -> str:
    kind = neurons.source.get("kind", "")
    culture = f" of {neurons.source['culture']}" if "culture" in neurons.source else ""
    noun = "neuron" if len(neurons) == 1 else "neurons"
    return " ".join(f"{len(neurons):,} {kind} {noun}{culture} by layer".split())


def _score_title(scores: NeuronScores) -> str:
    n_neurons = sum(layers * width for layers, width in scores.shapes.values())
    n_cultures = len(scores.cultures)
    noun = "culture" if n_cultures == 1 else "cultures"
    return f"Scores of {n_neurons:,} neurons by layer, summed over {n_cultures} {noun}"


def _panel_grid(panels: Sequence[_Panel], title: str) -> go.Figure:
    """Empty panels, two in a row, with their axes."""
    n_columns = min(2, len(panels))
    n_rows = math.ceil(len(panels) / 2)
    n_layers = max(len(panel.amounts) for panel in panels)
    tall = min(max(110, 14 * n_layers), 330)
    plotted = n_rows * tall + (n_rows - 1) * _GAP
    figure = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[shown(panel.site) for panel in panels],
        horizontal_spacing=0.1,
        vertical_spacing=_GAP / plotted if n_rows > 1 else None,
    )
    figure.update_layout(layout(title), height=plotted + 130)
    figure.update_annotations(font={"size": 13, "color": TEXT})
    figure.update_xaxes(axis(None), type="linear", showgrid=False, zeroline=False, nticks=6)
    figure.update_yaxes(
        axis("layer"),
        type="linear",
        showgrid=False,
        tick0=0,
        dtick=math.ceil(n_layers / 8),
        zeroline=False,
    )
    for i, panel in enumerate(panels):
        row, column = i // 2 + 1, i % 2 + 1
        lowest = i + 2 >= len(panels)
        figure.update_xaxes(
            range=[0, int(panel.edges[-1])],
            title_text="neuron" if lowest else None,
            row=row,
            col=column,
        )
        figure.update_yaxes(range=[-0.5, len(panel.amounts) - 0.5], row=row, col=column)
    return figure


def _amount_axis(values: Float[np.ndarray, "cell"], unit: str, counted: bool) -> dict[str, Any]:
    least, most = (1, max(2, int(np.nanmax(values)))) if counted else (values.min(), values.max())
    ticks = {"dtick": math.ceil((most - least) / 6)} if counted else {"exponentformat": "power"}
    return {
        "colorscale": list(_AMOUNT),
        "cmin": float(least),
        "cmax": float(most) if most > least else float(least) + 1,
        "colorbar": colour_bar(unit) | ticks,
    }
