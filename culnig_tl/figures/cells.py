"""What a layer heatmap colours: bins of neighbouring neurons, or modules or cultures as columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int

from culnig_tl.neurons import NeuronSet, neuron_id
from culnig_tl.scores import NeuronScores

_LISTED = 12
_LISTED_IN_SETS_OF_UP_TO = 15_000


@dataclass(frozen=True)
class Panel:
    """One site in bins of neighbouring neurons.

    Attributes:
        edges: first neuron of every bin, and the end of the last.
        amounts: what is coloured; NaN is left blank.
        hover: what is named when a bin is pointed at.
    """

    site: str
    edges: Int[np.ndarray, "edge"]
    amounts: Float[np.ndarray, "layer bin"]
    hover: np.ndarray


@dataclass(frozen=True)
class Grid:
    """Layers by modules or cultures.

    Attributes:
        columns: names of the columns.
        amounts: what is coloured; NaN is left blank.
        hover: what is named when a cell is pointed at.
    """

    columns: Sequence[str]
    amounts: Float[np.ndarray, "layer column"]
    hover: np.ndarray


def set_panels(neurons: NeuronSet, bins: int) -> list[Panel]:
    """How many neurons of a set each bin holds, and which."""
    most = _LISTED if len(neurons) <= _LISTED_IN_SETS_OF_UP_TO else 1
    panels = []
    for site, (n_layers, width) in set_shapes(neurons).items():
        edges = _edges(width, bins)
        found: dict[tuple[int, int], list[int]] = {}
        for layer, neuron in neurons[site]:
            at = int(np.searchsorted(edges, neuron, side="right")) - 1
            found.setdefault((layer, at), []).append(neuron)
        panels.append(Panel(site, edges, *_counted(found, (n_layers, len(edges) - 1), most)))
    return panels


def score_panels(scores: NeuronScores, bins: int) -> list[Panel]:
    """The largest ``S(D)`` of each bin, and its neuron."""
    panels = []
    for site in scores.sites:
        total = scores.total(site).float().cpu().numpy()
        edges = _edges(total.shape[1], bins)
        spans = list(pairwise(edges))
        best = np.stack([low + total[:, low:high].argmax(1) for low, high in spans], axis=1)
        values = np.take_along_axis(total, best, axis=1)
        panels.append(Panel(site, edges, values, best.astype(np.int32)))
    return panels


def set_by_module(neurons: NeuronSet) -> Grid:
    """How many neurons of a set each layer has at each site, and which."""
    shapes = set_shapes(neurons)
    found: dict[tuple[int, int], list[int]] = {}
    for column, site in enumerate(shapes):
        for layer, neuron in neurons[site]:
            found.setdefault((layer, column), []).append(neuron)
    n_layers = max(layers for layers, _ in shapes.values())
    return Grid(list(shapes), *_counted(found, (n_layers, len(shapes)), _LISTED))


def scores_by_module(scores: NeuronScores) -> Grid:
    """The largest ``S(D)`` of each layer at each site, and its neuron."""
    largest = [scores.total(site).float().cpu().max(dim=1) for site in scores.sites]
    names = [
        [neuron_id(site, layer, int(neuron)) for layer, neuron in enumerate(found.indices)]
        for site, found in zip(scores.sites, largest, strict=True)
    ]
    values = np.stack([found.values.numpy() for found in largest], axis=1)
    return Grid(list(scores.sites), values, np.array(names, dtype=object).T)


def sets_by_culture(sets: Mapping[str, NeuronSet]) -> Grid:
    """How many neurons each set has in each layer, and which."""
    found: dict[tuple[int, int], list[str]] = {}
    for column, neurons in enumerate(sets.values()):
        for site, layer, neuron in neurons:
            found.setdefault((layer, column), []).append(neuron_id(site, layer, neuron))
    n_layers = max(len(neurons.per_layer()) for neurons in sets.values())
    return Grid(list(sets), *_counted(found, (n_layers, len(sets)), _LISTED))


def scores_by_culture(scores: NeuronScores) -> Grid:
    """The largest ``S_c(D)`` of each layer for each culture, and its neuron."""
    n_layers = max(layers for layers, _ in scores.shapes.values())
    values = np.full((n_layers, len(scores.cultures)), np.nan, dtype=np.float32)
    names = np.full(values.shape, "", dtype=object)
    for site in scores.sites:
        found = scores.values[site].float().cpu().max(dim=2)
        for column, layer in np.argwhere(torch.isfinite(found.values).numpy()):
            value = found.values[column, layer].item()
            if not value <= values[layer, column]:  # NaN: the first site
                neuron = int(found.indices[column, layer])
                values[layer, column] = value
                names[layer, column] = neuron_id(site, int(layer), neuron)
    return Grid(list(scores.cultures), values, names)


def set_shapes(neurons: NeuronSet) -> dict[str, tuple[int, int]]:
    """(layers, neurons a layer) of each site; of a set made by hand, as far as it reaches."""
    sites = dict.fromkeys([*neurons.shapes, *neurons.sites])
    return {site: neurons.shapes.get(site) or _reach(neurons[site]) for site in sites}


def _counted(
    found: Mapping[tuple[int, int], Sequence[object]], shape: tuple[int, int], most: int
) -> tuple[Float[np.ndarray, "layer column"], np.ndarray]:
    """Counts, NaN where there is nothing, and the names of what was counted."""
    values = np.full(shape, np.nan, dtype=np.float32)
    hover = np.full(shape, "", dtype=object)
    for cell, members in found.items():
        values[cell], hover[cell] = len(members), _listed(members, most)
    return values, hover


def _edges(width: int, bins: int) -> Int[np.ndarray, "edge"]:
    return np.linspace(0, width, min(bins, width) + 1).round().astype(np.int32)


def _reach(neurons: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(layers, neurons a layer) that hold these neurons."""
    layers, numbers = zip(*neurons, strict=True)
    return max(layers) + 1, max(numbers) + 1


def _listed(members: Sequence[object], most: int) -> str:
    names = ", ".join(map(str, members[:most]))
    rest = len(members) - most
    return f"{names} and {rest} more" if rest > 0 else names
