"""How scores are distributed."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.figures.style import LEGEND, axis, label, panel_grid, panel_position
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores

_ALL = "#9a9a9a"
_GIVEN = "#E69F00"
_PANEL_HEIGHT = 170


def score_distribution(
    scores: NeuronScores, *, neurons: NeuronSet | None = None, bins: int = 60
) -> go.Figure:
    """How many neurons have which ``S(D)``: one histogram per site, counts on a logarithmic axis.

    Args:
        scores: scores; ``S(D)`` is in units of probability.
        neurons: neurons to show within each bin, e.g. the selected ones.
        bins: bins between the least and the largest score of each site.

    Raises:
        InvalidInputError: fewer than one bin, or neurons outside these scores.

    Example:
        >>> import torch
        >>> values = {"mlp.hook_post": torch.rand(2, 3, 50)}
        >>> scores = NeuronScores(values, ("Iran", "Spain"), 4, (2, 2), {})
        >>> int(score_distribution(scores).data[0].y.sum())
        150
    """
    check_number("bins", bins, low=1, whole=True)
    if neurons is not None:
        _check_scored(scores, neurons)
    figure = panel_grid(scores.sites, panel_height=_PANEL_HEIGHT, x_title="S(D)")
    for i, site in enumerate(scores.sites):
        row, column = panel_position(i)
        for trace in _site_histograms(scores, site, neurons, bins):
            figure.add_trace(trace.update(showlegend=i == 0), row=row, col=column)
    n_neurons = sum(n_layers * width for n_layers, width in scores.shapes.values())
    figure.update_layout(
        title_text=f"Scores of {n_neurons:,} neurons",
        barmode="overlay",
        bargap=0,
        legend=LEGEND | {"x": 1, "xanchor": "right", "y": 1.08},
    )
    figure.update_xaxes(exponentformat="power", showgrid=False)
    return figure.update_yaxes(axis("neurons"), type="log", dtick=1)


def _site_histograms(
    scores: NeuronScores, site: str, neurons: NeuronSet | None, bins: int
) -> list[go.Bar]:
    """All neurons of a site by score, and in front of them the given ones."""
    total = scores.total(site).float().cpu().numpy()
    counts, edges = np.histogram(total, bins=bins)
    histograms = [_histogram("all neurons", counts, edges, _ALL, site)]
    if neurons is not None:
        counts, _ = np.histogram([total[place] for place in neurons[site]], bins=edges)
        histograms.append(_histogram("given neurons", counts, edges, _GIVEN, site))
    return histograms


def _histogram(
    name: str,
    counts: Int[np.ndarray, "bin"],
    edges: Float[np.ndarray, "edge"],
    colour: str,
    site: str,
) -> go.Bar:
    return go.Bar(
        name=name,
        legendgroup=name,
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        marker={"color": colour, "line": {"width": 0}},
        customdata=np.stack([edges[:-1], edges[1:]], axis=1),
        hovertemplate=(
            f"{label(site)}, {name}<br>S(D) from %{{customdata[0]:.3g}} to "
            "%{customdata[1]:.3g}: %{y}<extra></extra>"
        ),
    )


def _check_scored(scores: NeuronScores, neurons: NeuronSet) -> None:
    for neuron in neurons:
        n_layers, width = scores.shapes.get(neuron.site, (0, 0))
        if neuron.layer >= n_layers or neuron.index >= width:
            raise InvalidInputError(
                f"{neuron} was not scored; give neurons of the scored "
                f"sites, (layers, neurons) {scores.shapes}."
            )
