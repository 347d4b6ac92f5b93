"""One neuron, and a set of neurons: what selection returns, interventions take and files keep."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from operator import index as whole_number
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from culnig_tl.errors import InvalidInputError, check_kind, check_number
from culnig_tl.files import Format, read_record, write_record
from culnig_tl.sites import SITES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from culnig_tl.hooked_model import HookedModel

_FORMAT = Format(
    "culnig_tl.NeuronSet", 2, noun="set of neurons", writer="NeuronSet.save", is_editable=True
)
_TABLE_LINES = 20


class Neuron(NamedTuple):
    """One entry of the last axis of a site, in one layer.

    Attributes:
        site: the hook point within a layer.
        layer: counted from 0.
        index: counted from 0; at attention sites ``head * d_head + index within the head``.

    Example:
        >>> print(Neuron("mlp.hook_post", 0, 152))
        L0.mlp.hook_post.152
    """

    site: str
    layer: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __str__(self) -> str:
        return f"L{self.layer}.{self.site}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> "Neuron":
        """The neuron of a name.

        Raises:
            InvalidInputError: the name has another form.

        Example:
            >>> Neuron.parse("L3.mlp.hook_post.17")
            Neuron(site='mlp.hook_post', layer=3, index=17)
        """
        parts = re.fullmatch(r"L(\d+)\.(.+)\.(\d+)", text, re.ASCII)
        if parts is None:
            raise InvalidInputError(
                f"{text!r} is no neuron; write layer, site and number as in 'L3.mlp.hook_post.17'."
            )
        layer, site, index = parts.groups()
        return cls(site, int(layer), int(index))

    @classmethod
    def of(cls, neuron: "Neuron | str | tuple[str, int, int]") -> "Neuron":
        """The neuron that a value, a name or a tuple (site, layer, index) means.

        Raises:
            InvalidInputError: anything else.

        Example:
            >>> Neuron.of("L3.mlp.hook_post.17") == Neuron.of(("mlp.hook_post", 3, 17))
            True
        """
        if isinstance(neuron, str):
            return cls.parse(neuron)
        try:
            site, layer, index = neuron
            if isinstance(site, str):
                return cls(site, _counted(layer), _counted(index))
        except (TypeError, ValueError):
            pass
        raise InvalidInputError(
            f"{neuron!r} is no neuron; give a Neuron, a name such as 'L3.mlp.hook_post.17', or "
            "site, layer and whole number; count from 0."
        )


Listed = (
    Neuron
    | str
    | Iterable[Neuron | str | tuple[str, int, int]]
    | Mapping[str, Iterable[tuple[int, int]]]
    | pd.DataFrame
)
"""Neurons by value or name, by site, or as a frame with columns site, layer and neuron."""


@dataclass(frozen=True, repr=False)
class NeuronSet:
    """Neurons by site, each a sorted ``(layer, index)``; iterating yields every ``Neuron``.

    Attributes:
        neurons: sorted neurons of each site that has any.
        scores: score of each neuron, in the same order, where the set came from a ranking; NaN for
            a neuron without score.
        shapes: (layers, neurons per layer) of every site that the set was chosen from.
        source: where the set came from: thresholds, fingerprints of model and data.

    Example:
        >>> pair = NeuronSet.of(["L3.mlp.hook_post.17", Neuron("mlp.hook_post", 1, 5)])
        >>> len(pair), pair["mlp.hook_post"]
        (2, ((1, 5), (3, 17)))
        >>> pair
        2 neurons: MLP output 2; layers 1 to 3
    """

    neurons: Mapping[str, tuple[tuple[int, int], ...]]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        neurons: "NeuronSet | Listed",
        *,
        scores: Mapping[Any, float] | None = None,
        shapes: Mapping[str, tuple[int, int]] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> "NeuronSet":
        """A set of neurons given in any form and order.

        Args:
            neurons: a Neuron or its name, or several of them; (layer, index) pairs by site; a frame
                with columns site, layer and neuron (see ``from_frame``); or a set, as it is.
            scores: score by neuron.
            shapes: (layers, neurons per layer) by site.
            source: anything worth keeping about where the set came from.

        Raises:
            InvalidInputError: what is no neuron, a negative index, or one outside ``shapes``.

        Example:
            >>> NeuronSet.of({"mlp.hook_post": [(3, 17)]}) == NeuronSet.of("L3.mlp.hook_post.17")
            True
        """
        if isinstance(neurons, NeuronSet):
            return neurons
        if isinstance(neurons, pd.DataFrame):
            return cls.from_frame(neurons, shapes=shapes, source=source)
        by_site: dict[str, set[tuple[int, int]]] = {}
        for site, layer, index in _each(neurons):
            by_site.setdefault(site, set()).add((layer, index))
        shapes = {
            site: (int(layers), int(width)) for site, (layers, width) in (shapes or {}).items()
        }
        ordered = {site: tuple(sorted(places)) for site, places in by_site.items()}
        _check_range(ordered, shapes)
        return cls(
            neurons=ordered,
            scores={
                site: tuple(float(scores.get((site, *place), math.nan)) for place in places)
                for site, places in ordered.items()
            }
            if scores
            else {},
            shapes=shapes,
            source=dict(source or {}),
        )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        shapes: Mapping[str, tuple[int, int]] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> "NeuronSet":
        """The neurons of a frame with columns site, layer, neuron and, where it has one, score.

        Raises:
            InvalidInputError: a missing column, or rows that are no neurons.

        Example:
            >>> one = NeuronSet.of("L3.mlp.hook_post.17")
            >>> NeuronSet.from_frame(one.to_frame()) == one
            True
        """
        if missing := [name for name in ("site", "layer", "neuron") if name not in frame]:
            raise InvalidInputError(
                f"The frame has no column {', '.join(missing)}; it has "
                f"{', '.join(map(str, frame.columns))}."
            )
        listed = [
            Neuron.of(place)
            for place in zip(frame["site"], frame["layer"], frame["neuron"], strict=True)
        ]
        scores = dict(zip(listed, frame["score"], strict=True)) if "score" in frame else {}
        has_scores = any(not math.isnan(score) for score in scores.values())
        return cls.of(listed, scores=scores if has_scores else None, shapes=shapes, source=source)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have at least one neuron of this set."""
        return tuple(self.neurons)

    def __getitem__(self, site: str) -> tuple[tuple[int, int], ...]:
        return self.neurons.get(site, ())

    def __iter__(self) -> Iterator[Neuron]:
        return (Neuron(site, *place) for site, places in self.neurons.items() for place in places)

    def __len__(self) -> int:
        return sum(len(places) for places in self.neurons.values())

    def __contains__(self, neuron: Any) -> bool:
        site, *place = Neuron.of(neuron)
        return tuple(place) in self[site]

    def __or__(self, other: "NeuronSet") -> "NeuronSet":
        return self._combined(other, {**dict.fromkeys(self), **dict.fromkeys(other)})

    def __and__(self, other: "NeuronSet") -> "NeuronSet":
        theirs = set(other)
        return self._combined(other, [neuron for neuron in self if neuron in theirs])

    def __sub__(self, other: "NeuronSet") -> "NeuronSet":
        theirs = set(other)
        return self._combined(other, [neuron for neuron in self if neuron not in theirs])

    @property
    def fingerprint(self) -> str:
        """32 digits that say which neurons these are, whatever their scores.

        Example:
            >>> NeuronSet.of("L0.attn.hook_q.3").fingerprint == NeuronSet.of({}).fingerprint
            False
        """
        names = json.dumps(sorted(map(str, self)))
        return sha256(names.encode()).hexdigest()[:32]

    def top(self, k: int) -> "NeuronSet":
        """The ``k`` neurons with the highest scores; ties in the order of the set.

        Raises:
            InvalidInputError: a set without scores, or k below 0.

        Example:
            >>> pair = NeuronSet.of(["L0.attn.hook_q.3", "L1.attn.hook_q.4"],
            ...                     scores={("attn.hook_q", 0, 3): 0.1, ("attn.hook_q", 1, 4): 0.2})
            >>> [str(neuron) for neuron in pair.top(1)]
            ['L1.attn.hook_q.4']
        """
        if k < 0 or (len(self) and not self.scores):
            fault = f"k is {k}" if k < 0 else f"these {len(self)} neurons carry no scores"
            raise InvalidInputError(
                f"{fault}; top takes a number from 0 up, of a set that selection ranked."
            )
        best = self.to_frame().head(k)
        return NeuronSet.from_frame(best, shapes=self.shapes, source=self.source)

    def jaccard(self, other: "NeuronSet") -> float:
        """Shared neurons over all neurons of the two sets, 0 to 1; 1 for two empty sets."""
        union = set(self) | set(other)
        return len(set(self) & set(other)) / len(union) if union else 1.0

    def per_layer(self) -> pd.DataFrame:
        """Number of neurons: one row per layer, one column per site."""
        sites = list(dict.fromkeys([*self.shapes, *self.sites]))
        deepest = max((neuron.layer for neuron in self), default=-1)
        n_layers = max([layers for layers, _ in self.shapes.values()] + [deepest + 1])
        counts = {
            site: np.bincount([layer for layer, _ in self[site]], minlength=n_layers)
            for site in sites
        }
        return pd.DataFrame(counts, index=pd.RangeIndex(n_layers, name="layer"))

    def to_frame(self) -> pd.DataFrame:
        """Columns site, layer, neuron, score (NaN where the set carries none), best score first."""
        score_of = self._score_of()
        rows = [(*neuron, score_of.get(neuron, math.nan)) for neuron in self]
        frame = pd.DataFrame(rows, columns=["site", "layer", "neuron", "score"])
        return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def save(self, path: str | Path) -> None:
        """Write the set as JSON with a checksum, whole or not at all."""
        scores = {
            site: [None if math.isnan(score) else score for score in scores]
            for site, scores in self.scores.items()
        }
        write_record(
            path,
            _FORMAT,
            {
                "neurons": self.neurons,
                "scores": scores,
                "shapes": self.shapes,
                "source": self.source,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "NeuronSet":
        """Read a set that ``save`` wrote, or that was written by hand.

        By hand, ``format``, ``version`` and ``neurons`` (lists of layer and index by site) are
        enough; a checksum that is there must be right.

        Raises:
            MissingFileError: there is no such file.
            InvalidInputError: the file holds something else, or a set of a newer version.
            DamagedFileError: the file was changed after it was written.
        """
        path = Path(path)
        content = {"scores": {}, "shapes": {}, "source": {}} | read_record(path, _FORMAT)[0]
        _FORMAT.check_fields(path, content, neurons=dict, scores=dict, shapes=dict, source=dict)
        try:
            neurons = {site: _pairs(places) for site, places in content["neurons"].items()}
            return cls.of(
                neurons,
                scores={
                    (site, *place): _score(score)
                    for site, scores in content["scores"].items()
                    for place, score in zip(neurons[site], scores, strict=True)
                },
                shapes={site: _pairs([shape])[0] for site, shape in content["shapes"].items()},
                source=content["source"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _FORMAT.unusable(path, error) from error

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

    def to_hooks(
        self, hf_model: "PreTrainedModel", factor: float = 0.0
    ) -> AbstractContextManager["PreTrainedModel"]:
        """Scale these neurons on a plain transformers model, inside a ``with`` block.

        Args:
            hf_model: a decoder-only model of transformers, as transformers made it.
            factor: 0 suppresses, 1 keeps, 2 enhances; any finite number is allowed.

        Raises:
            InvalidInputError: a site whose place in this model is not known, a neuron outside the
                model, a set chosen on a model of other shape, or a factor that is no finite number
                of the model's type; all as the block is entered.

        Example:
            >>> import torch
            >>> from transformers import AutoModelForCausalLM
            >>> from culnig_tl.atlas import EMBEDDED
            >>> hf_model = AutoModelForCausalLM.from_pretrained(EMBEDDED["atlas"])
            >>> with NeuronSet.of("L1.mlp.hook_post.17").to_hooks(hf_model):
            ...     logits = hf_model(torch.tensor([[5, 6, 7]])).logits
        """
        from culnig_tl.export import scaled_modules

        return scaled_modules(hf_model, self, factor=factor)

    def __repr__(self) -> str:
        kind, culture = self.source.get("kind", ""), self.source.get("culture")
        name = f"{kind} neurons".strip() if len(self) != 1 else f"{kind} neuron".strip()
        model = f" of {self.source['model_name']}" if self.source.get("model_name") else ""
        line = f"{len(self)} {name}{f' ({culture})' if culture else ''}{model}"
        if not len(self):
            return line
        counts = ", ".join(
            f"{SITES[site].plain_name if site in SITES else site} {len(places)}"
            for site, places in self.neurons.items()
        )
        layers = sorted({neuron.layer for neuron in self})
        where = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
        return f"{line}: {counts}; {where}"

    def _repr_html_(self) -> str:
        from culnig_tl.html import described_table

        return described_table(repr(self), self.to_frame(), lines=_TABLE_LINES)

    def _score_of(self) -> dict[Neuron, float]:
        return {
            Neuron(site, *place): score
            for site, scores in self.scores.items()
            for place, score in zip(self.neurons[site], scores, strict=True)
        }

    def _combined(self, other: "NeuronSet", members: Iterable[Neuron]) -> "NeuronSet":
        """Some neurons of two sets, with their scores and with what both say of their source."""
        shapes = {**other.shapes, **self.shapes}
        order = [*shapes, *self.sites, *other.sites]
        members = sorted(members, key=lambda neuron: order.index(neuron.site))
        scores = {**other._score_of(), **self._score_of()}
        return NeuronSet.of(
            members,
            scores={neuron: scores[neuron] for neuron in members if neuron in scores},
            shapes=shapes,
            source={
                key: value
                for key, value in self.source.items()
                if key in other.source and other.source[key] == value
            },
        )


def _counted(value: Any) -> int:
    """A whole number from 0 up; no truth value."""
    if isinstance(value, bool) or whole_number(value) < 0:
        raise ValueError(value)
    return whole_number(value)


def _pairs(listed: Any) -> list[tuple[int, int]]:
    """Pairs of whole numbers, each once, as JSON has them."""
    if not isinstance(listed, list) or not all(isinstance(pair, list) for pair in listed):
        raise InvalidInputError(f"{listed!r:.60} is no list of pairs of whole numbers")
    pairs = [(_counted(first), _counted(second)) for first, second in listed]
    if len(set(pairs)) < len(pairs):
        raise InvalidInputError(f"{listed!r:.60} lists one twice")
    return pairs


def _score(written: Any) -> float:
    """A score as JSON has it: null is none."""
    if written is None:
        return math.nan
    check_number("a score", written)
    return float(written)


def _each(neurons: Any) -> Iterator[Neuron]:
    """Every neuron that ``NeuronSet.of`` was given."""
    if isinstance(neurons, Neuron | str):
        yield Neuron.of(neurons)
    elif isinstance(neurons, Mapping):
        for site, places in neurons.items():
            check_kind(f"neurons[{site!r}]", places, Iterable, "(layer, index) pairs")
            for place in places:
                check_kind(f"a neuron of {site!r}", place, Iterable, "a (layer, index) pair")
                yield Neuron.of((site, *place))
    else:
        check_kind("neurons", neurons, Iterable, "names such as 'L3.mlp.hook_post.17', or a set")
        yield from map(Neuron.of, neurons)


def _check_range(
    neurons: Mapping[str, tuple[tuple[int, int], ...]], shapes: Mapping[str, tuple[int, int]]
) -> None:
    for site, places in neurons.items():
        n_layers, width = shapes.get(site, (math.inf, math.inf))
        for layer, index in places:
            if not (0 <= layer < n_layers and 0 <= index < width):
                raise InvalidInputError(
                    f"Layer {layer}, neuron {index} is not a neuron of {site}, which has "
                    f"{n_layers} layers of {width}; count from 0."
                )
