"""From scores to neurons: culture-general, culture-specific, random (arXiv 2510.08284).

*Culture-general.* MLP and attention neurons are two pools. In each, rank by

    S(cultural) - S(control)

and keep the top ``int(pool * t)``; then drop every neuron among the top ``int(pool * r)`` by
``S(recognition)``: those react to a country's *name*.

*Culture-specific, culture c.* One pool. Rank by ``S_c(cultural) - S_c(control)``, keep the top,
drop the top by ``S_c(recognition)``, and drop neurons whose difference for c lies less than
``min_z`` population standard deviations above its mean over all cultures (a deviation of 0 counts
as z = 0).

*Random.* The same number out of all pools together, without replacement.

Ties keep layer-then-neuron order, so the same scores always give the same set.
``mlp.hook_pre_linear`` (the published ``up_proj``) is scored but never selected; a site of your own
is ranked in the pool that it names (see ``sites``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import DEFAULT_SITES, PoolName, site_named, site_shape


def culture_general(
    cultural: NeuronScores,
    control: NeuronScores | None = None,
    recognition: NeuronScores | None = None,
    *,
    mlp_top: float = 0.01,
    attention_top: float = 0.002,
    recognition_top: float = 0.01,
) -> NeuronSet:
    """Neurons that carry cultural understanding whatever the culture.

    Args:
        cultural: scores of cultural questions.
        control: scores of the same rows without the question; None subtracts nothing.
        recognition: scores of the country-name control; None drops nothing.
        mlp_top: share of the MLP pool to keep.
        attention_top: share of the attention pool (q, k and v together) to keep.
        recognition_top: share of each pool to drop by recognition score.

    Raises:
        InvalidInputError: scores of different models, sites or cultures; a share outside 0 to 1.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=8)
        >>> len(culture_general(ct.attribute(model, rows, progress=False)))
        23
    """
    _check_comparable(cultural, control, recognition)
    shares: dict[PoolName, float] = {"mlp": mlp_top, "attention": attention_top}
    score_of: dict[Neuron, float] = {}
    for pool, top in shares.items():
        sites = _pool_sites(cultural, pool)
        rank = _totals(cultural, sites)
        if control is not None:
            rank = rank - _totals(control, sites)
        best = _top(rank, top, f"{pool}_top")
        if recognition is not None:
            names = _top(_totals(recognition, sites), recognition_top, "recognition_top")
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
    )


def culture_specific(
    cultural: NeuronScores,
    control: NeuronScores | None = None,
    recognition: NeuronScores | None = None,
    *,
    culture: str,
    top: float = 0.003,
    recognition_top: float = 0.01,
    min_z: float = 0.5,
) -> NeuronSet:
    """Neurons tied to one culture.

    Args:
        cultural: scores of cultural questions.
        control: scores of the same rows without the question; None subtracts nothing.
        recognition: scores of the country-name control, with this culture; None drops nothing.
        culture: the culture.
        top: share of all neurons to keep.
        recognition_top: share of all neurons to drop by recognition score.
        min_z: least z-score of this culture among all cultures.

    Raises:
        UnknownNameError: scores without this culture.
        InvalidInputError: scores of different models, sites or cultures; a share outside 0 to 1.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=32)
        >>> scores = ct.attribute(model, rows, progress=False)
        >>> iran = culture_specific(scores, culture=scores.cultures[0])
    """
    _check_comparable(cultural, control, recognition)
    sites = _selectable_sites(cultural)
    by_culture = torch.stack([_of_culture(cultural, sites, each) for each in cultural.cultures])
    if control is not None:
        by_culture = by_culture - torch.stack(
            [_of_culture(control, sites, each) for each in cultural.cultures]
        )
    rank = _of_culture(cultural, sites, culture)
    if control is not None:
        rank = rank - _of_culture(control, sites, culture)
    best = _top(rank, top, "top")
    if recognition is not None:
        names = _top(_of_culture(recognition, sites, culture), recognition_top, "recognition_top")
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

    Example:
        >>> import culnig_tl as ct
        >>> one = ct.NeuronSet.of({"mlp.hook_post": [(3, 17)]})
        >>> len(random_neurons(ct.load_model(), like=one, seed=1))
        1
    """
    sites = tuple(like.shapes) or like.sites or DEFAULT_SITES
    sites = tuple(site for site in sites if site_named(site).selectable)
    shapes = {site: site_shape(model, site) for site in sites}
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
    for other in others:
        if other is None:
            continue
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
    scores: NeuronScores, sites: Sequence[str], culture: str
) -> Float[Tensor, "neuron"]:
    """``S_c(D)`` of one pool, flat: site, then layer, then neuron."""
    values = (scores.of_culture(site, culture).flatten() for site in sites)
    return torch.cat([torch.zeros(0), *values])


def _top(rank: Float[Tensor, "neuron"], share: float, name: str) -> Tensor:
    """Indices of the best ``int(pool * share)``, best first; ties in their order."""
    if not 0 <= share <= 1:
        raise InvalidInputError(f"{name} is {share}; give a share of the neurons between 0 and 1.")
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
