"""From scores to neurons: culture-general, culture-specific, random (arXiv 2510.08284).

*Culture-general.* MLP and attention neurons are two pools. In each, rank by

    S(cultural) - S(control)

and keep the top ``int(pool * t)``; then drop every neuron among the top ``int(pool * r)`` by
``S(recognition)``: those react to a country's *name*.

*Culture-specific, culture c.* One pool. Rank by ``S_c(cultural) - S_c(control)``, keep the top,
drop the top by ``S_c(recognition)``, and drop neurons whose difference for c lies less than
``min_z`` population standard deviations above its mean over all cultures (a deviation of 0 counts
as z = 0).

*The general control* (this project's, not in the paper). The paper's controls remove what answer
format and country names explain, not what any fact needs. Scores of general questions asked in the
same way do; with ``C``, ``K`` and ``G`` the mean scores of a cultural, control and general prompt
(the latter two clamped at 0),

    normalise="none":   rank by  C - K - w G
    normalise="share":  rank by  (C - K) / p(cultural) - w G / p(general)

where ``p`` is what a score is a share of (``NeuronScores.answer_scale``), so that easy and hard
questions count alike. ``recipe="selective"`` is the latter on MLP neurons alone.

*Random.* The same number out of all pools together, without replacement.

Ties keep layer-then-neuron order, so the same scores always give the same set.
``mlp.hook_pre_linear`` (the published ``up_proj``) is scored but never selected; a site of your own
is ranked in the pool that it names (see ``sites``).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import (
    InvalidInputError,
    check_choice,
    check_flag,
    check_number,
    check_seed,
)
from culnig_tl.evaluation import control_exceeds, warn
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import DEFAULT_SITES, PoolName, site_named, site_shape

Recipe = Literal["published", "selective"]
"""Settings of a selection that go together."""
Normalise = Literal["none", "share"]

_RECIPES: Mapping[str, tuple[Normalise, float]] = {
    "published": ("none", 0.002),
    "selective": ("share", 0.0),
}
"""How scores are compared with those of general questions, and the share of attention neurons."""


def culture_general(
    cultural: NeuronScores,
    control: NeuronScores | None = None,
    recognition: NeuronScores | None = None,
    general: NeuronScores | None = None,
    *,
    recipe: Recipe = "published",
    mlp_top: float = 0.01,
    attention_top: float | None = None,
    recognition_top: float = 0.01,
    normalise: Normalise | None = None,
    general_weight: float = 1.0,
) -> NeuronSet:
    """Neurons that carry cultural understanding whatever the culture.

    Args:
        cultural: scores of cultural questions.
        control: scores of the same rows without the question; None subtracts nothing.
        recognition: scores of the country-name control; None drops nothing.
        general: scores of general questions asked in the same way, clamped; None subtracts nothing.
        recipe: ``"published"``, or ``"selective"``, which needs ``general``.
        mlp_top: share of the MLP pool to keep.
        attention_top: share of the attention pool (q, k and v together) to keep; None takes the
            recipe's (0.002, or none).
        recognition_top: share of each pool to drop by recognition score.
        normalise: whether scores are compared as they are, or as shares of the answer; None takes
            the recipe's (``"none"``, or ``"share"``).
        general_weight: what the general scores are multiplied by.

    Raises:
        InvalidInputError: scores of different models, sites or cultures, or that are not finite; a
            share outside 0 to 1; general scores that are not clamped, or missing where the recipe
            needs them.

    Warns:
        UserWarning: the control's scores exceed the cultural ones.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=8)
        >>> len(culture_general(ct.attribute(model, rows, progress=False)))
        23
    """
    neurons = select_general(
        cultural,
        control,
        recognition,
        general,
        recipe=recipe,
        mlp_top=mlp_top,
        attention_top=attention_top,
        recognition_top=recognition_top,
        normalise=normalise,
        general_weight=general_weight,
    )
    warn(control_exceeds(cultural, control))
    return neurons


def select_general(
    cultural: NeuronScores,
    control: NeuronScores | None,
    recognition: NeuronScores | None,
    general: NeuronScores | None,
    *,
    recipe: Recipe,
    mlp_top: float = 0.01,
    attention_top: float | None = None,
    recognition_top: float = 0.01,
    normalise: Normalise | None = None,
    general_weight: float = 1.0,
) -> NeuronSet:
    """``culture_general`` without its warning, for what selects many times or has said it."""
    check_shares(mlp_top=mlp_top, attention_top=attention_top, recognition_top=recognition_top)
    check_number("general_weight", general_weight, low=0)
    _check_comparable(cultural, control, recognition, general)
    normalise, attention_top = _settled(recipe, normalise, attention_top, general)
    ranking = _Ranking(cultural, control, general, normalise, general_weight)
    shares: dict[PoolName, float] = {"mlp": mlp_top, "attention": attention_top}
    score_of: dict[Neuron, float] = {}
    for pool, top in shares.items():
        sites = _pool_sites(cultural, pool)
        rank = ranking.of(sites)
        best = _top(rank, top)
        if recognition is not None:
            names = _top(_totals(recognition, sites), recognition_top)
            best = best[~torch.isin(best, names)]
        score_of |= _located(best, rank, sites, cultural)
    return _as_set(
        score_of,
        cultural,
        kind="culture-general",
        mlp_top=mlp_top,
        attention_top=attention_top,
        recognition_top=recognition_top if recognition is not None else None,
        control=control is not None,
        **ranking.provenance,
    )


def culture_specific(
    cultural: NeuronScores,
    control: NeuronScores | None = None,
    recognition: NeuronScores | None = None,
    general: NeuronScores | None = None,
    *,
    culture: str,
    recipe: Recipe = "published",
    top: float = 0.003,
    recognition_top: float = 0.01,
    min_z: float = 0.5,
    normalise: Normalise | None = None,
    general_weight: float = 1.0,
) -> NeuronSet:
    """Neurons tied to one culture.

    Args:
        cultural: scores of cultural questions.
        control: scores of the same rows without the question; None subtracts nothing.
        recognition: scores of the country-name control, with this culture; None drops nothing.
        general: scores of general questions, as in ``culture_general``.
        culture: the culture.
        recipe, normalise, general_weight: as in ``culture_general``.
        top: share of all neurons to keep.
        recognition_top: share of all neurons to drop by recognition score.
        min_z: least z-score of this culture among all cultures.

    Raises:
        UnknownNameError: scores without this culture.
        InvalidInputError: scores of one culture alone, of different models, sites or cultures, or
            that are not finite; a share outside 0 to 1, or a ``min_z`` that is no finite number.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=32)
        >>> scores = ct.attribute(model, rows, progress=False)
        >>> iran = culture_specific(scores, culture=scores.cultures[0])
    """
    check_shares(top=top, recognition_top=recognition_top)
    check_number("min_z", min_z)
    check_number("general_weight", general_weight, low=0)
    _check_comparable(cultural, control, recognition, general)
    check_several_cultures(cultural.cultures)
    normalise, _ = _settled(recipe, normalise, None, general)
    ranking = _Ranking(cultural, control, general, normalise, general_weight)
    sites = _selectable_sites(cultural) if recipe == "published" else _pool_sites(cultural, "mlp")
    by_culture = torch.stack([ranking.of(sites, each) for each in cultural.cultures])
    rank = ranking.of(sites, culture)
    best = _top(rank, top)
    if recognition is not None:
        names = _top(_of_culture(recognition, sites, culture), recognition_top)
        best = best[~torch.isin(best, names)]
    best = best[_z_scores(rank, by_culture)[best] >= min_z]
    return _as_set(
        _located(best, rank, sites, cultural),
        cultural,
        kind="culture-specific",
        culture=culture,
        top=top,
        recognition_top=recognition_top if recognition is not None else None,
        min_z=min_z,
        control=control is not None,
        **ranking.provenance,
    )


def random_neurons(
    model: HookedModel, *, like: NeuronSet, seed: int = 0, layer_matched: bool = False
) -> NeuronSet:
    """As many neurons as ``like`` has, drawn without replacement from MLP and attention together.

    Args:
        model: the model to draw from.
        like: the set to match; drawn from the sites it was chosen from (by hand: the sites it
            names).
        seed: seed of the draw.
        layer_matched: also match the number in each layer of each site.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: more neurons than there are to draw from, or a seed that is no whole
            number from 0 up.

    Example:
        >>> import culnig_tl as ct
        >>> one = ct.NeuronSet.of({"mlp.hook_post": [(3, 17)]})
        >>> len(random_neurons(ct.load_model(), like=one, seed=1))
        1
    """
    check_seed(seed)
    check_flag("layer_matched", layer_matched)
    sites = tuple(like.shapes) or like.sites or DEFAULT_SITES
    sites = tuple(site for site in sites if site_named(site).selectable)
    shapes = {site: site_shape(model, site) for site in sites}
    _check_pool(like, shapes, layer_matched=layer_matched)
    generator = torch.Generator().manual_seed(seed)
    if layer_matched:
        counts = like.per_layer()
        drawn = [
            Neuron(site, layer, int(index))
            for site, (_, width) in shapes.items()
            for layer in counts.index
            for index in torch.randperm(width, generator=generator)[: counts.loc[layer, site]]
        ]
    else:
        pool_size = sum(n_layers * width for n_layers, width in shapes.values())
        flat = torch.randperm(pool_size, generator=generator)[: len(like)]
        drawn = [_location(place, shapes) for place in flat.tolist()]
    return NeuronSet.of(
        drawn,
        shapes=shapes,
        source={
            "kind": "random",
            "seed": seed,
            "layer_matched": layer_matched,
            "model": model_fingerprint(model),
            "model_name": model.cfg.model_name,
        },
    )


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


def check_several_cultures(cultures: Sequence[str]) -> None:
    """Refuse scores in which no culture can be told from others.

    Raises:
        InvalidInputError: there is one culture, or none.

    Example:
        >>> check_several_cultures(["Iran", "Spain"])
    """
    if len(cultures) < 2:
        raise InvalidInputError(
            f"These scores are of one culture alone ({', '.join(cultures) or 'without a name'}), "
            "and a z-score compares at least two; score questions of several cultures, or select "
            "culture-general neurons."
        )


def usual_attention_top(recipe: Recipe) -> float:
    """The share of attention neurons that a recipe keeps.

    Example:
        >>> usual_attention_top("published"), usual_attention_top("selective")
        (0.002, 0.0)
    """
    check_choice("recipe", recipe, get_args(Recipe))
    return _RECIPES[recipe][1]


@dataclass(frozen=True)
class _Ranking:
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
            rank = _of_culture(self.cultural, sites, culture)
            if self.control is None:
                return rank
            return rank - _of_culture(self.control, sites, culture)
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


def _settled(
    recipe: Recipe,
    normalise: Normalise | None,
    attention_top: float | None,
    general: NeuronScores | None,
) -> tuple[Normalise, float]:
    """The recipe's settings, where none are given."""
    check_choice("recipe", recipe, get_args(Recipe))
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
    own_normalise, own_top = _RECIPES[recipe]
    return normalise or own_normalise, own_top if attention_top is None else attention_top


def _selectable_sites(scores: NeuronScores) -> tuple[str, ...]:
    return _pool_sites(scores, "mlp") + _pool_sites(scores, "attention")


def _pool_sites(scores: NeuronScores, pool: PoolName) -> tuple[str, ...]:
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


def _check_comparable(cultural: NeuronScores, *others: NeuronScores | None) -> None:
    cultural.check_finite()
    for other in others:
        if other is None:
            continue
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


def _totals(scores: NeuronScores, sites: Sequence[str]) -> Float[Tensor, "neuron"]:
    """``S(D)`` of one pool, flat: site, then layer, then neuron."""
    return torch.cat([torch.zeros(0), *(scores.total(site).flatten() for site in sites)])


def _of_culture(
    scores: NeuronScores, sites: Sequence[str], culture: str | None
) -> Float[Tensor, "neuron"]:
    """``S_c(D)`` of one pool, flat: site, then layer, then neuron; ``S(D)`` without a culture."""
    if culture is None:
        return _totals(scores, sites)
    values = (scores.of_culture(site, culture).flatten() for site in sites)
    return torch.cat([torch.zeros(0), *values])


def _per_prompt(
    scores: NeuronScores, sites: Sequence[str], culture: str | None = None
) -> Float[Tensor, "neuron"]:
    """Mean score of a prompt of one pool, flat."""
    values = (scores.per_prompt(site, culture).flatten() for site in sites)
    return torch.cat([torch.zeros(0), *values])


def _top(rank: Float[Tensor, "neuron"], share: float) -> Tensor:
    """Indices of the best ``int(pool * share)``, best first; ties in their order."""
    return rank.argsort(descending=True, stable=True)[: int(len(rank) * share)]


def _z_scores(
    rank: Float[Tensor, "neuron"], by_culture: Float[Tensor, "culture neuron"]
) -> Float[Tensor, "neuron"]:
    """How far one culture lies above the mean of all, in population standard deviations."""
    exact = by_culture.double()
    mean = exact.mean(0)
    deviation = (exact - mean).square().mean(0).sqrt()
    z = (rank - mean) / deviation
    return torch.where(deviation == 0, 0.0, z)


def _check_pool(
    like: NeuronSet, shapes: Mapping[str, tuple[int, int]], *, layer_matched: bool
) -> None:
    """Refuse a set with more neurons than there are to draw from, in all or in one layer."""
    pools = {"these sites": (len(like), sum(layers * width for layers, width in shapes.values()))}
    if layer_matched:
        for site in like.sites:
            n_layers, width = shapes.get(site, (0, 0))
            for layer, count in Counter(layer for layer, _ in like[site]).items():
                pools[f"layer {layer} of {site}"] = (count, width if layer < n_layers else 0)
    for place, (n_neurons, n_pool) in pools.items():
        if n_neurons > n_pool:
            raise InvalidInputError(
                f"{n_neurons} neurons cannot be drawn from {place}, where this model has {n_pool} "
                "that are selected; give a set of this model, at sites that are selected."
            )


def _location(place: int, shapes: Mapping[str, tuple[int, int]]) -> Neuron:
    """The neuron at a place of a flat pool."""
    for site, (n_layers, width) in shapes.items():
        if place < n_layers * width:
            return Neuron(site, *divmod(place, width))
        place -= n_layers * width
    raise AssertionError("an index beyond the pool")


def _located(
    places: Tensor, rank: Float[Tensor, "neuron"], sites: Sequence[str], scores: NeuronScores
) -> dict[Neuron, float]:
    """Score of each neuron at some places of a flat pool."""
    shapes = {site: scores.shapes[site] for site in sites}
    return {_location(place, shapes): rank[place].item() for place in places.tolist()}


def _as_set(score_of: Mapping[Neuron, float], scores: NeuronScores, **source: Any) -> NeuronSet:
    origin = {key: scores.source.get(key) for key in ("model", "data")}
    if "model_name" in scores.source:
        origin["model_name"] = scores.source["model_name"]
    return NeuronSet.of(
        list(score_of),
        scores=score_of,
        shapes={site: scores.shapes[site] for site in _selectable_sites(scores)},
        source={**source, **origin},
    )
