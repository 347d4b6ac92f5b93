"""What every rule of selection shares: recipes, pools, ranking values and which scores compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_choice, check_kind, check_number
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import PoolName, site_named

Recipe = Literal["published", "selective"]
"""Settings of a selection that go together."""
SpecificRecipe = Literal["published", "selective", "contrast"]
"""Those of a culture-specific selection."""
Normalise = Literal["none", "share"]

_NORMALISE: Mapping[SpecificRecipe, Normalise] = {
    "published": "none",
    "selective": "share",
    "contrast": "share",
}
"""How a recipe compares scores of different questions."""


def check_shares(**shares: float | None) -> None:
    """Refuse a share of the neurons that does not lie between 0 and 1; None is the recipe's own.

    Raises:
        InvalidInputError: with the share's name.

    Example:
        >>> check_shares(mlp_top=0.01, attention_top=None)
    """
    for name, share in shares.items():
        if share is not None:
            check_number(name, share, low=0, high=1)


@dataclass(frozen=True)
class Ranking:
    """What neurons are ranked by.

    Attributes:
        cultural, control, general: scores; the controls are subtracted.
        normalise: whether as shares of the answer.
        weight: of the general scores.
    """

    cultural: NeuronScores
    control: NeuronScores | None
    general: NeuronScores | None
    normalise: Normalise
    weight: float

    def of(self, sites: Sequence[str], culture: str | None = None) -> Float[Tensor, "neuron"]:
        """The value of each neuron of a flat pool, for one culture or for all together."""
        if self.general is None and self.normalise == "none":  # the paper's, to the bit
            rank = of_culture(self.cultural, sites, culture)
            if self.control is None:
                return rank
            return rank - of_culture(self.control, sites, culture)
        rank = _per_prompt(self.cultural, sites, culture)
        if self.control is not None:
            rank = rank - _per_prompt(self.control, sites, culture)
        if self.normalise == "share":
            rank = rank / self.cultural.answer_scale(culture)
        if self.general is None:
            return rank
        general = _per_prompt(self.general, sites)
        if self.normalise == "share":
            general = general / self.general.answer_scale()
        return rank - self.weight * general

    @property
    def provenance(self) -> dict[str, Any]:
        """What a set says of it, where it is not the paper's."""
        if self.general is None and self.normalise == "none":
            return {}
        subtracted = {} if self.general is None else {"general_weight": self.weight}
        return {"normalise": self.normalise, **subtracted}


def settled_normalise(
    recipe: SpecificRecipe, normalise: Normalise | None, general: NeuronScores | None
) -> Normalise:
    """How scores are compared: the recipe's way, where none is given."""
    if normalise is not None:
        check_choice("normalise", normalise, get_args(Normalise))
    if recipe == "selective" and general is None:
        raise InvalidInputError(
            "recipe is 'selective', which subtracts the scores of general questions, and general "
            "is None; score general questions that are asked in the same way, with clamp=True."
        )
    if general is not None and not general.source.get("clamp"):
        raise InvalidInputError(
            "The general scores are not clamped, so what helps some general questions and harms "
            "others would cancel; score them with clamp=True."
        )
    return normalise or _NORMALISE[recipe]


def selectable_sites(scores: NeuronScores) -> tuple[str, ...]:
    """The scored sites of both pools."""
    return pool_sites(scores, "mlp") + pool_sites(scores, "attention")


def pool_sites(scores: NeuronScores, pool: PoolName) -> tuple[str, ...]:
    """The scored sites of one pool; two names of the same neurons make no pool."""
    by_neurons: dict[str, list[str]] = {}
    for site in map(site_named, scores.sites):
        if site.pool == pool and site.selectable:
            by_neurons.setdefault(site.same_neurons_as or site.name, []).append(site.name)
    for names in by_neurons.values():
        if len(names) > 1:
            raise InvalidInputError(
                f"These scores hold the same {pool.replace('mlp', 'MLP')} neurons at "
                f"{' and '.join(names)}; select from scores of one of these sites."
            )
    return tuple(name for names in by_neurons.values() for name in names)


def check_comparable(cultural: NeuronScores, *others: NeuronScores | None) -> None:
    """Refuse scores that cannot be subtracted from the cultural ones; the control comes first."""
    check_kind("cultural", cultural, NeuronScores, "NeuronScores, as attribute(...)")
    cultural.check_finite()
    for other in others:
        if other is None:
            continue
        check_kind("control", other, NeuronScores, "NeuronScores, as attribute(...)")
        other.check_finite()
        for name in ("model", "method", "pool", "padding", "weight", "target"):
            mine, theirs = cultural.source.get(name), other.source.get(name)
            if mine != theirs:
                raise InvalidInputError(
                    f"These scores cannot be compared: {name} is {mine!r} in one and {theirs!r} in "
                    "the other; score both data sets on the same model in the same way."
                )
        if other.shapes != cultural.shapes:
            raise InvalidInputError(
                f"These scores cannot be compared: one has the sites {cultural.shapes}, the other "
                f"{other.shapes}; score both data sets at the same sites."
            )
    control = others[0]
    if control is not None and set(control.cultures) != set(cultural.cultures):
        different = sorted(set(control.cultures) ^ set(cultural.cultures))
        raise InvalidInputError(
            "Control scores are subtracted culture by culture, and these are not in both: "
            f"{', '.join(different)}; score the control of the same rows."
        )


def totals(scores: NeuronScores, sites: Sequence[str]) -> Float[Tensor, "neuron"]:
    """``S(D)`` of one pool, flat: site, then layer, then neuron."""
    return torch.cat([torch.zeros(0), *(scores.total(site).flatten() for site in sites)])


def of_culture(
    scores: NeuronScores, sites: Sequence[str], culture: str | None
) -> Float[Tensor, "neuron"]:
    """``S_c(D)`` of one pool, flat: site, then layer, then neuron; ``S(D)`` without a culture."""
    if culture is None:
        return totals(scores, sites)
    values = (scores.of_culture(site, culture).flatten() for site in sites)
    return torch.cat([torch.zeros(0), *values])


def _per_prompt(
    scores: NeuronScores, sites: Sequence[str], culture: str | None = None
) -> Float[Tensor, "neuron"]:
    """Mean score of a prompt of one pool, flat."""
    values = (scores.per_prompt(site, culture).flatten() for site in sites)
    return torch.cat([torch.zeros(0), *values])


def top_places(rank: Float[Tensor, "neuron"], share: float) -> Tensor:
    """Indices of the best ``int(pool * share)``, best first; ties in their order."""
    return rank.argsort(descending=True, stable=True)[: int(len(rank) * share)]


def location(place: int, shapes: Mapping[str, tuple[int, int]]) -> Neuron:
    """The neuron at a place of a flat pool."""
    for site, (n_layers, width) in shapes.items():
        if place < n_layers * width:
            return Neuron(site, *divmod(place, width))
        place -= n_layers * width
    raise AssertionError("an index beyond the pool")


def located(
    places: Tensor, rank: Float[Tensor, "neuron"], sites: Sequence[str], scores: NeuronScores
) -> dict[Neuron, float]:
    """Score of each neuron at some places of a flat pool."""
    shapes = {site: scores.shapes[site] for site in sites}
    return {location(place, shapes): rank[place].item() for place in places.tolist()}


def as_set(score_of: Mapping[Neuron, float], scores: NeuronScores, **source: Any) -> NeuronSet:
    """The selected neurons, with where their scores come from."""
    origin = {key: scores.source.get(key) for key in ("model", "data")}
    if "model_name" in scores.source:
        origin["model_name"] = scores.source["model_name"]
    return NeuronSet.of(
        list(score_of),
        scores=score_of,
        shapes={site: scores.shapes[site] for site in selectable_sites(scores)},
        source={**source, **origin},
    )
