"""Selected neurons by depth."""

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from culnig_tl.errors import InvalidInputError, check_seed
from culnig_tl.figures.style import LEGEND, axis, label, layout, line_colour
from culnig_tl.neurons import NeuronSet

_DRAWS = 2000
_BAND_COLOUR = "rgba(128,128,128,0.3)"
_OVERLAID = 0.15


def layer_profile(sets: NeuronSet | Mapping[str, NeuronSet], *, seed: int = 0) -> go.Figure:
    """In which layers the neurons of a set lie, as shares; several sets are overlaid.

    Args:
        sets: a set, or sets by name.
        seed: seed of the random sets behind the band.

    Returns:
        One line per set, in % of its neurons. Its band, grey for a single set and in the line's
        colour for several, is where 95 % of random sets of its size lie, layer by layer, when drawn
        from the sites it was chosen from; a set made by hand knows no shapes and has no band.

    Raises:
        InvalidInputError: no sets, or one without neurons.

    Example:
        >>> by_hand = NeuronSet.of({"mlp.hook_post": [(3, 17), (3, 18), (1, 5), (0, 0)]})
        >>> layer_profile(by_hand).data[0].y.tolist()
        [25.0, 25.0, 0.0, 50.0]
    """
    check_seed(seed)
    named = {"selected": sets} if isinstance(sets, NeuronSet) else dict(sets)
    if not named or not all(map(len, named.values())):
        sizes = ", ".join(f"{name} {len(neurons)}" for name, neurons in named.items())
        raise InvalidInputError(
            f"There is nothing to draw (neurons in each set: {sizes or 'no sets'}); give at least "
            "one set, and only sets with neurons."
        )
    n_layers = max(len(neurons.per_layer()) for neurons in named.values())
    figure = go.Figure()
    for i, neurons in enumerate(named.values()):
        if neurons.shapes:
            colour = _BAND_COLOUR if len(named) == 1 else line_colour(i, opacity=_OVERLAID)
            figure.add_trace(_band(neurons, seed, colour))
    for i, (name, neurons) in enumerate(named.items()):
        figure.add_trace(_share_line(name, neurons, line_colour(i)))
    figure.update_layout(layout("Selected neurons by depth"), height=340, legend=LEGEND)
    figure.update_xaxes(axis("layer"), tick0=0, dtick=math.ceil(n_layers / 12), zeroline=False)
    return figure.update_yaxes(axis("share of the set, %"), rangemode="tozero")


def _share_line(name: str, neurons: NeuronSet, colour: str) -> go.Scatter:
    counts = neurons.per_layer().sum(axis=1)
    return go.Scatter(
        name=label(f"{name} ({len(neurons):,})"),
        x=counts.index.to_numpy(),
        y=100 * counts.to_numpy(float) / len(neurons),
        customdata=counts.to_numpy(int),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 6},
        hovertemplate=(
            f"{label(name)}, layer %{{x}}<br>%{{customdata}} of {len(neurons):,} neurons "
            "(%{y:.1f} %)<extra></extra>"
        ),
    )


def _band(neurons: NeuronSet, seed: int, colour: str) -> go.Scatter:
    low, high = _random_shares(neurons, seed)
    layers = np.arange(len(low))
    return go.Scatter(
        name=f"random, 95 % of sets of {len(neurons):,}",
        x=np.concatenate([layers, layers[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=colour,
        hoverinfo="skip",
    )


def _random_shares(
    neurons: NeuronSet, seed: int
) -> tuple[Float[np.ndarray, "layer"], Float[np.ndarray, "layer"]]:
    """2.5 % and 97.5 % quantile of each layer's share in random sets of the same size."""
    n_layers = max(layers for layers, _ in neurons.shapes.values())
    widths = np.array(
        [
            sum(width for layers, width in neurons.shapes.values() if layer < layers)
            for layer in range(n_layers)
        ]
    )
    counts = np.random.default_rng(seed).hypergeometric(
        widths, widths.sum() - widths, len(neurons), size=(_DRAWS, n_layers)
    )
    low, high = np.percentile(100 * counts / len(neurons), [2.5, 97.5], axis=0)
    return low, high
