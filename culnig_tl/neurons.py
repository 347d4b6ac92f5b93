"""A set of neurons, by site: what selection returns, interventions take and files keep."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from culnig_tl.errors import InvalidInputError
from culnig_tl.files import read_json, write_json

if TYPE_CHECKING:
    from culnig_tl.hooks import HookedModel

_FORMAT = "culnig_tl.NeuronSet"
_VERSION = 1

Neuron = tuple[int, int]
"""(layer, neuron) at a site."""


@dataclass(frozen=True)
class NeuronSet:
    """Neurons by site, each a sorted ``(layer, neuron)``.

    Attributes:
        neurons: sorted neurons of each site that has any.
        scores: score of each neuron, in the same order, where the set came from a ranking.
        shapes: (layers, neurons a layer) of every site that the set was chosen from.
        source: where the set came from: thresholds, fingerprints of model and data.

    Example:
        >>> one = NeuronSet.of({"mlp.hook_post": [(3, 17), (1, 5)]})
        >>> len(one), one["mlp.hook_post"]
        (2, ((1, 5), (3, 17)))
    """

    neurons: Mapping[str, tuple[Neuron, ...]]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        neurons: Mapping[str, Iterable[Neuron]],
        *,
        scores: Mapping[tuple[str, int, int], float] | None = None,
        shapes: Mapping[str, tuple[int, int]] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> "NeuronSet":
        """A set from (layer, neuron) pairs by site, in any order.

        Args:
            neurons: the neurons of each site.
            scores: score by (site, layer, neuron).
            shapes: (layers, neurons a layer) by site.
            source: anything worth keeping about where the set came from.

        Raises:
            InvalidInputError: a negative index, or one outside ``shapes``.
        """
        ordered = {
            site: tuple(sorted({(int(layer), int(neuron)) for layer, neuron in found}))
            for site, found in neurons.items()
        }
        shapes = {
            site: (int(layers), int(width)) for site, (layers, width) in (shapes or {}).items()
        }
        _check_range(ordered, shapes)
        return cls(
            neurons={site: found for site, found in ordered.items() if found},
            scores={
                site: tuple(float(scores[(site, *neuron)]) for neuron in found)
                for site, found in ordered.items()
                if found
            }
            if scores
            else {},
            shapes=shapes,
            source=dict(source or {}),
        )

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have at least one neuron of this set."""
        return tuple(self.neurons)

    def __getitem__(self, site: str) -> tuple[Neuron, ...]:
        return self.neurons.get(site, ())

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        return ((site, *neuron) for site, found in self.neurons.items() for neuron in found)

    def __len__(self) -> int:
        return sum(len(found) for found in self.neurons.values())

    def __contains__(self, key: object) -> bool:
        return key in set(self)

    def __or__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combined(other, set(self) | set(other))

    def __and__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combined(other, set(self) & set(other))

    def __sub__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combined(other, set(self) - set(other))

    def jaccard(self, other: "NeuronSet") -> float:
        """Shared neurons over all neurons of the two sets, 0 to 1; 1 for two empty sets."""
        union = set(self) | set(other)
        return len(set(self) & set(other)) / len(union) if union else 1.0

    def per_layer(self) -> pd.DataFrame:
        """Number of neurons: a row a layer, a column a site."""
        sites = list(dict.fromkeys([*self.shapes, *self.sites]))
        deepest = max((layer for _, layer, _ in self), default=-1)
        n_layers = max([layers for layers, _ in self.shapes.values()] + [deepest + 1])
        counts = {
            site: np.bincount([layer for layer, _ in self[site]], minlength=n_layers)
            for site in sites
        }
        return pd.DataFrame(counts, index=pd.RangeIndex(n_layers, name="layer"))

    def to_frame(self) -> pd.DataFrame:
        """Columns site, layer, neuron, score (NaN where the set carries none), best score first."""
        known = self._score_of()
        rows = [(*neuron, known.get(neuron, float("nan"))) for neuron in self]
        frame = pd.DataFrame(rows, columns=["site", "layer", "neuron", "score"])
        return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Write the set as JSON, whole or not at all."""
        write_json(
            path,
            {
                "format": _FORMAT,
                "version": _VERSION,
                "neurons": self.neurons,
                "scores": self.scores,
                "shapes": self.shapes,
                "source": self.source,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "NeuronSet":
        """Read a set that ``save`` wrote.

        Raises:
            MissingFileError: there is no such file.
            InvalidInputError: the file holds something else.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InvalidInputError(
                f"{path} is no set of neurons; give a file that NeuronSet.save wrote."
            )
        neurons = {
            site: [(n[0], n[1]) for n in found] for site, found in content["neurons"].items()
        }
        return cls.of(
            neurons,
            scores={
                (site, *neuron): score
                for site, values in content["scores"].items()
                for neuron, score in zip(neurons[site], values, strict=True)
            },
            shapes={site: (shape[0], shape[1]) for site, shape in content["shapes"].items()},
            source=content["source"],
        )

    def to_culnig_json(
        self,
        path: str | Path,
        *,
        model_name: str = "",
        dataset_ids: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Write the set for the authors' code (see ``culnig_json``), whole or not at all.

        Args:
            path: the file.
            model_name: the model's name on the hub, which the authors' code keeps with the set.
            dataset_ids: question ids by data set, which that code leaves out of its test.

        Raises:
            InvalidInputError: a site that has no name there.
        """
        from culnig_tl.culnig_json import write_neurons

        write_neurons(self, path, model_name=model_name, dataset_ids=dataset_ids)

    @classmethod
    def from_culnig_json(cls, path: str | Path, model: "HookedModel") -> "NeuronSet":
        """Read a set that the authors' code wrote (see ``culnig_json``).

        Args:
            path: the file.
            model: the model it belongs to, which tells the parts of fused layers apart.

        Raises:
            MissingFileError: there is no such file.
            InvalidInputError: the file holds no neurons, or neurons that this model does not have.
        """
        from culnig_tl.culnig_json import read_neurons

        return read_neurons(path, model)

    def _score_of(self) -> dict[tuple[str, int, int], float]:
        return {
            (site, *neuron): score
            for site, values in self.scores.items()
            for neuron, score in zip(self.neurons[site], values, strict=True)
        }

    def _combined(self, other: "NeuronSet", kept: set[tuple[str, int, int]]) -> "NeuronSet":
        shapes = {**other.shapes, **self.shapes}
        order = [*shapes, *self.sites, *other.sites]
        return NeuronSet.of(
            by_site(sorted(kept, key=lambda neuron: order.index(neuron[0]))), shapes=shapes
        )


def neuron_id(site: str, layer: int, neuron: int) -> str:
    """The name of a neuron in figures, cards and pages: layer, site, neuron.

    Example:
        >>> neuron_id("mlp.hook_post", 3, 17)
        'L3.mlp.hook_post.17'
    """
    return f"L{layer}.{site}.{neuron}"


def parse_neuron_id(name: str) -> tuple[str, int, int]:
    """(site, layer, neuron) of a name that ``neuron_id`` gave.

    Raises:
        InvalidInputError: the name has another form.

    Example:
        >>> parse_neuron_id("L3.mlp.hook_post.17")
        ('mlp.hook_post', 3, 17)
    """
    parts = re.fullmatch(r"L(\d+)\.(.+)\.(\d+)", name, re.ASCII)
    if parts is None:
        raise InvalidInputError(
            f"{name!r} is no neuron; write layer, site and number as in 'L3.mlp.hook_post.17'."
        )
    layer, site, neuron = parts.groups()
    return site, int(layer), int(neuron)


def by_site(neurons: Iterable[tuple[str, int, int]]) -> dict[str, list[Neuron]]:
    """(site, layer, neuron) grouped by site, sites in order of first appearance."""
    grouped: dict[str, list[Neuron]] = {}
    for site, layer, neuron in neurons:
        grouped.setdefault(site, []).append((layer, neuron))
    return grouped


def _check_range(
    neurons: Mapping[str, tuple[Neuron, ...]], shapes: Mapping[str, tuple[int, int]]
) -> None:
    for site, found in neurons.items():
        n_layers, width = shapes.get(site, (float("inf"), float("inf")))
        for layer, neuron in found:
            if not (0 <= layer < n_layers and 0 <= neuron < width):
                raise InvalidInputError(
                    f"Layer {layer}, neuron {neuron} is not a neuron of {site}, which has "
                    f"{n_layers} layers of {width}; count from 0."
                )
