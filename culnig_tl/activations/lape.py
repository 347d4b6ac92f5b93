"""LAPE: neurons whose activation probability is spread over few cultures (arXiv 2402.16438)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from culnig_tl.activations.statistics import ActivationStatistics, as_scores, check_several_groups
from culnig_tl.errors import (
    InvalidInputError,
    check_number,
)
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import site_named


@dataclass(frozen=True, repr=False)
class Lape:
    """What LAPE finds.

    Attributes:
        entropy: entropy over cultures in nats, by site; 0 for a neuron that never fires.
        threshold: the activation probability that one culture's must exceed.
        scores: ``p'_c ln(C p'_c)``, whose sum over cultures is ``ln C - entropy``.
        neurons: the neurons of lowest entropy, scored by that sum.
        sets: those of each culture, scored by the culture's part of it; may be empty.
    """

    entropy: Mapping[str, Float[Tensor, "layer neuron"]]
    threshold: float
    scores: NeuronScores
    neurons: NeuronSet
    sets: Mapping[str, NeuronSet]

    def __repr__(self) -> str:
        counts = ", ".join(f"{culture} {len(each)}" for culture, each in self.sets.items())
        return f"{len(self.neurons)} neurons above probability {self.threshold:.3f}: {counts}"


def lape(statistics: ActivationStatistics, *, top: float = 0.01, quantile: float = 0.95) -> Lape:
    """The neurons whose activation probability is spread over the fewest cultures.

    Args:
        statistics: of rows of several cultures.
        top: share of all neurons to take, lowest entropy first.
        quantile: share of all probabilities, of any neuron and culture, that a culture's must
            exceed for its neuron to be taken, and to be the culture's.

    Raises:
        InvalidInputError: statistics of one culture alone, or of the same neurons under two names;
            a share outside 0 to 1.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> statistics = ct.activation_statistics(ct.load_model(), rows, progress=False)
        >>> len(lape(statistics).neurons)
        20
    """
    check_number("top", top, low=0, high=1)
    check_number("quantile", quantile, low=0, high=1)
    check_several_groups(statistics, "an entropy over cultures")
    _check_distinct_neurons(statistics.sites)
    probability = torch.cat([each.flatten(1) for each in statistics.probability.values()], dim=1)
    least = _order_statistic(probability, quantile)
    share = (probability / probability.sum(0)).nan_to_num(0.0)
    entropy = -torch.xlogy(share, share).sum(0)
    exceeds = probability > least
    parts = torch.xlogy(share, len(share) * share) * exceeds.any(0)
    best = _lowest(entropy, exceeds.any(0), round(entropy.numel() * top))
    settings = {"top": top, "quantile": quantile}
    as_set = partial(_as_set, statistics, **settings)
    return Lape(
        entropy=_by_site(statistics, entropy),
        threshold=least,
        scores=as_scores(statistics, _by_site(statistics, parts), method="lape", **settings),
        neurons=as_set(best, parts.sum(0)),
        sets={
            culture: as_set(best & exceeds[i], parts[i], culture=culture)
            for i, culture in enumerate(statistics.cultures)
        },
    )


def _check_distinct_neurons(sites: Sequence[str]) -> None:
    names: dict[str, str] = {}
    for site in map(site_named, sites):
        other = names.setdefault(site.same_neurons_as or site.name, site.name)
        if other != site.name:
            raise InvalidInputError(
                f"These statistics hold the same neurons at {other} and {site.name}, which would "
                "be ranked against themselves; take statistics of one of these sites."
            )


def _order_statistic(probability: Float[Tensor, "culture neuron"], share: float) -> float:
    """The probability that a share of all of them does not exceed."""
    flat = probability.flatten()
    return flat.kthvalue(max(1, round(len(flat) * share))).values.item()


def _lowest(
    entropy: Float[Tensor, "neuron"], eligible: Bool[Tensor, "neuron"], number: int
) -> Bool[Tensor, "neuron"]:
    """Whether a neuron is among the ``number`` eligible ones of lowest entropy; ties in their
    order."""
    best = entropy.where(eligible, float("inf")).argsort(stable=True)[:number]
    return torch.zeros_like(eligible).index_fill(0, best, True) & eligible


def _by_site(statistics: ActivationStatistics, flat: Tensor) -> dict[str, Tensor]:
    """The sites of a flat pool: its last axis becomes layer and neuron again."""
    sizes = [layers * width for layers, width in statistics.shapes.values()]
    parts = flat.split(sizes, dim=-1)
    return {
        site: part.unflatten(-1, shape)
        for (site, shape), part in zip(statistics.shapes.items(), parts, strict=True)
    }


def _as_set(
    statistics: ActivationStatistics,
    members: Bool[Tensor, "neuron"],
    score: Float[Tensor, "neuron"],
    **settings: Any,
) -> NeuronSet:
    scores = _by_site(statistics, score)
    places = {
        site: list(map(tuple, of_site.nonzero().tolist()))
        for site, of_site in _by_site(statistics, members).items()
    }
    return NeuronSet.of(
        {site: listed for site, listed in places.items() if listed},
        scores={
            (site, layer, index): scores[site][layer, index].item()
            for site, listed in places.items()
            for layer, index in listed
        },
        shapes=statistics.shapes,
        source={"kind": "LAPE", **settings, **statistics.source},
    )
