"""What a layer heatmap colours: bins of neighbouring neurons, or modules or cultures as columns.

The explorer draws the same bins, so that a click finds the neuron that the heatmap names there.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int

from culnig_tl.errors import check_number
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.scores import NeuronScores

DEFAULT_BINS = 64
_NAMES_LISTED = 12
_LISTED_IN_SETS_OF_UP_TO = 15_000


@dataclass(frozen=True)
class SiteBins:
    """The neurons of one site, in bins of neighbours.

    Attributes:
        edges: first neuron of every bin, and the end of the last.
        amounts: what is coloured; NaN is left blank.
        neurons: which neurons an amount is of: the number of the best one, or a list as text.
    """

    site: str
    edges: Int[np.ndarray, "edge"]
    amounts: Float[np.ndarray, "layer bin"]
    neurons: np.ndarray


@dataclass(frozen=True)
class LayerGrid:
    """Layers by modules or cultures.

    Attributes:
        columns: names of the columns.
        amounts: what is coloured; NaN is left blank.
        neurons: which neurons an amount is of: the best one, or a list, as text.
    """

    columns: Sequence[str]
    amounts: Float[np.ndarray, "layer column"]
    neurons: np.ndarray


def bin_edges(width: int, bins: int = DEFAULT_BINS) -> Int[np.ndarray, "edge"]:
    """The first neuron of every bin, and the end of the last; bins differ by one neuron at most.

    Example:
        >>> bin_edges(10, bins=4).tolist()
        [0, 2, 5, 8, 10]
    """
    check_number("bins", bins, low=1, whole=True)
    return np.linspace(0, width, min(bins, width) + 1).round().astype(np.int32)


def bin_scores(scores: NeuronScores, bins: int = DEFAULT_BINS) -> list[SiteBins]:
    """The largest ``S(D)`` of each bin, and the number of its neuron; one entry per site.

    Example:
        >>> values = {"mlp.hook_post": torch.tensor([[[0.1, 0.4, 0.3, 0.2]]])}
        >>> (binned,) = bin_scores(NeuronScores(values, ("Iran",), 1, (1,), {}), bins=2)
        >>> binned.edges.tolist(), binned.neurons.tolist()
        ([0, 2, 4], [[1, 2]])
    """
    return [_bin_site(scores, site, bins) for site in scores.sites]


def bin_neurons(neurons: NeuronSet, bins: int = DEFAULT_BINS) -> list[SiteBins]:
    """How many neurons of a set each bin holds, and which; one entry per site."""
    n_listed = _NAMES_LISTED if len(neurons) <= _LISTED_IN_SETS_OF_UP_TO else 1
    binned = []
    for site, (n_layers, width) in set_shapes(neurons).items():
        edges = bin_edges(width, bins)
        cells = (
            ((layer, int(np.searchsorted(edges, index, side="right")) - 1), index)
            for layer, index in neurons[site]
        )
        binned.append(SiteBins(site, edges, *_count(cells, (n_layers, len(edges) - 1), n_listed)))
    return binned


def neurons_by_module(neurons: NeuronSet) -> LayerGrid:
    """How many neurons of a set each layer has at each site, and which."""
    shapes = set_shapes(neurons)
    cells = (
        ((layer, column), index)
        for column, site in enumerate(shapes)
        for layer, index in neurons[site]
    )
    n_layers = max(layers for layers, _ in shapes.values())
    return LayerGrid(list(shapes), *_count(cells, (n_layers, len(shapes))))


def scores_by_module(scores: NeuronScores) -> LayerGrid:
    """The largest ``S(D)`` of each layer at each site, and its neuron."""
    best = {site: scores.total(site).float().cpu().max(dim=1) for site in scores.sites}
    names = [
        [str(Neuron(site, layer, index)) for layer, index in enumerate(indices.tolist())]
        for site, (_, indices) in best.items()
    ]
    values = np.stack([largest.numpy() for largest, _ in best.values()], axis=1)
    return LayerGrid(list(best), values, np.array(names, dtype=object).T)


def neurons_by_culture(sets: Mapping[str, NeuronSet]) -> LayerGrid:
    """How many neurons each culture's set has in each layer, and which."""
    cells = (
        ((neuron.layer, column), neuron)
        for column, neurons in enumerate(sets.values())
        for neuron in neurons
    )
    n_layers = max(len(neurons.per_layer()) for neurons in sets.values())
    return LayerGrid(list(sets), *_count(cells, (n_layers, len(sets))))


def scores_by_culture(scores: NeuronScores) -> LayerGrid:
    """The largest ``S_c(D)`` of each layer for each culture, and its neuron."""
    n_layers = max(layers for layers, _ in scores.shapes.values())
    values = np.full((n_layers, len(scores.cultures)), np.nan, dtype=np.float32)
    names = np.full(values.shape, "", dtype=object)
    for site in scores.sites:
        largest, indices = scores.values[site].float().cpu().max(dim=2)
        for column, layer in np.argwhere(torch.isfinite(largest).numpy()).tolist():
            value = largest[column, layer].item()
            if not value <= values[layer, column]:  # NaN before the first site
                values[layer, column] = value
                names[layer, column] = str(Neuron(site, layer, int(indices[column, layer])))
    return LayerGrid(list(scores.cultures), values, names)


def set_shapes(neurons: NeuronSet) -> dict[str, tuple[int, int]]:
    """(layers, neurons per layer) of each site; of a set made by hand, as far as it reaches."""
    sites = dict.fromkeys([*neurons.shapes, *neurons.sites])
    return {site: neurons.shapes.get(site) or _reach(neurons[site]) for site in sites}


def _bin_site(scores: NeuronScores, site: str, bins: int) -> SiteBins:
    total = scores.total(site).float().cpu().numpy()
    edges = bin_edges(total.shape[1], bins)
    best = [start + total[:, start:end].argmax(1) for start, end in pairwise(edges)]
    neurons = np.stack(best, axis=1)
    values = np.take_along_axis(total, neurons, axis=1)
    return SiteBins(site, edges, values, neurons.astype(np.int32))


def _count(
    cells: Iterable[tuple[tuple[int, int], object]],
    shape: tuple[int, int],
    n_listed: int = _NAMES_LISTED,
) -> tuple[Float[np.ndarray, "layer column"], np.ndarray]:
    """How many neurons each cell was given, NaN for none, and their names."""
    members: dict[tuple[int, int], list[object]] = defaultdict(list)
    for cell, neuron in cells:
        members[cell].append(neuron)
    values = np.full(shape, np.nan, dtype=np.float32)
    names = np.full(shape, "", dtype=object)
    for cell, neurons in members.items():
        values[cell], names[cell] = len(neurons), _name_list(neurons, n_listed)
    return values, names


def _reach(neurons: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(layers, neurons per layer) that just hold these neurons."""
    layers, indices = zip(*neurons, strict=True)
    return max(layers) + 1, max(indices) + 1


def _name_list(neurons: Sequence[object], n_listed: int) -> str:
    names = ", ".join(map(str, neurons[:n_listed]))
    rest = len(neurons) - n_listed
    return f"{names} and {rest} more" if rest > 0 else names
