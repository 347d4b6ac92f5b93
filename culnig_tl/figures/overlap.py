"""What sets of neurons share."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import plotly.graph_objects as go

from culnig_tl.errors import InvalidInputError
from culnig_tl.figures.style import AMOUNT_COLOURS, axis, colour_bar, labels, layout
from culnig_tl.neurons import NeuronSet

_SETS_WITH_VALUES = 20
_LEAST_LIMIT = 0.01
_DISJOINT = "rgba(132,88,204,0.12)"


def overlap_matrix(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """How many neurons every two sets share: the Jaccard index, shared over all neurons of the two.

    Args:
        sets: sets by name, drawn in their order.

    Returns:
        Sets as rows and columns. A set against itself is 1 by definition and is left blank, so
        that the colours show the others; point at it for the set's size.

    Raises:
        InvalidInputError: fewer than two sets.

    Example:
        >>> iran = NeuronSet.of({"mlp.hook_post": [(3, 17), (3, 18)]})
        >>> spain = NeuronSet.of({"mlp.hook_post": [(3, 18), (1, 5)]})
        >>> overlap_matrix({"Iran": iran, "Spain": spain}).data[0].z[0, 1].round(3).item()
        0.333
    """
    if len(sets) < 2:
        raise InvalidInputError(
            f"There is nothing to compare with {len(sets)} set; give at least two sets by name."
        )
    figure = go.Figure(_heatmap(sets))
    figure.update_layout(layout("Neurons that sets share"), height=170 + 27 * max(len(sets), 7))
    figure.update_xaxes(axis(None), type="category", tickangle=-40, showgrid=False)
    return figure.update_yaxes(axis(None), type="category", autorange="reversed", showgrid=False)


def _heatmap(sets: Mapping[str, NeuronSet]) -> go.Heatmap:
    """The coloured cells, the number of shared neurons and the sizes of both sets behind them."""
    members = [set(neurons) for neurons in sets.values()]
    pairs = product(sets.values(), repeat=2)
    jaccard = np.array([one.jaccard(other) for one, other in pairs]).reshape(len(sets), len(sets))
    np.fill_diagonal(jaccard, np.nan)
    counts = [[[len(a & b), len(a), len(b)] for b in members] for a in members]
    names = labels(sets)
    return go.Heatmap(
        x=names,
        y=names,
        z=jaccard,
        customdata=counts,
        text=[[f"{value:.2f}" if value > 0 else "" for value in row] for row in jaccard],
        colorscale=[_DISJOINT, *AMOUNT_COLOURS],
        zmin=0,
        zmax=max(float(np.nanmax(jaccard)), _LEAST_LIMIT),
        xgap=1,
        ygap=1,
        hoverongaps=False,
        texttemplate="%{text}" if len(sets) <= _SETS_WITH_VALUES else None,
        hovertemplate=(
            "%{y} (%{customdata[1]} neurons)<br>%{x} (%{customdata[2]} neurons)<br>"
            "%{customdata[0]} shared, Jaccard %{z:.3f}<extra></extra>"
        ),
        colorbar=colour_bar("Jaccard index"),
    )
