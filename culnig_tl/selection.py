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
``mlp.hook_pre_linear`` (the published ``up_proj``) is scored but never selected.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import ATTENTION_SITES, DEFAULT_SITES, MLP_SITES, HookedModel, site_shape
from culnig_tl.neurons import NeuronSet, by_site
from culnig_tl.scores import NeuronScores

__all__ = ["NeuronSet", "culture_general", "culture_specific", "random_neurons"]

_NEVER_SELECTED = "mlp.hook_pre_linear"


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
    pools = {
        "mlp": (_pool_sites(cultural, MLP_SITES), mlp_top),
        "attention": (_pool_sites(cultural, ATTENTION_SITES), attention_top),
    }
    kept: dict[tuple[str, int, int], float] = {}
    for name, (sites, top) in pools.items():
        rank = _totals(cultural, sites)
        if control is not None:
            rank = rank - _totals(control, sites)
        chosen = _top(rank, top, f"{name}_top")
        if recognition is not None:
            names = _top(_totals(recognition, sites), recognition_top, "recognition_top")
            chosen = chosen[~torch.isin(chosen, names)]
        kept |= _located(chosen, rank, sites, cultural)
    return _as_set(
        kept,
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
    sites = _pool_sites(cultural, MLP_SITES) + _pool_sites(cultural, ATTENTION_SITES)
    by_culture = torch.stack([_of_culture(cultural, sites, each) for each in cultural.cultures])
    if control is not None:
        by_culture = by_culture - torch.stack(
            [_of_culture(control, sites, each) for each in cultural.cultures]
        )
    rank = _of_culture(cultural, sites, culture)
    if control is not None:
        rank = rank - _of_culture(control, sites, culture)
    chosen = _top(rank, top, "top")
    if recognition is not None:
        names = _top(_of_culture(recognition, sites, culture), recognition_top, "recognition_top")
        chosen = chosen[~torch.isin(chosen, names)]
    chosen = chosen[_z_scores(rank, by_culture)[chosen] >= min_z]
    return _as_set(
        _located(chosen, rank, sites, cultural),
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
    sites = tuple(site for site in sites if site != _NEVER_SELECTED)
    shapes = {site: site_shape(model, site) for site in sites}
    generator = torch.Generator().manual_seed(seed)
    if layer_matched:
        counts = like.per_layer()
        drawn = {
            site: [
                (layer, int(neuron))
                for layer in counts.index
                for neuron in torch.randperm(width, generator=generator)[: counts.loc[layer, site]]
            ]
            for site, (_, width) in shapes.items()
        }
    else:
        pool_size = sum(n_layers * width for n_layers, width in shapes.values())
        flat = torch.randperm(pool_size, generator=generator)[: len(like)]
        drawn = by_site(_location(index, shapes) for index in flat.tolist())
    return NeuronSet.of(
        drawn,
        shapes=shapes,
        source={"kind": "random", "seed": seed, "layer_matched": layer_matched},
    )


def _pool_sites(scores: NeuronScores, family: Sequence[str]) -> tuple[str, ...]:
    """The scored sites of one family; two names of the same MLP neurons make no pool."""
    sites = tuple(site for site in scores.sites if site in family and site != _NEVER_SELECTED)
    if family is MLP_SITES and len(sites) > 1:
        raise InvalidInputError(
            f"These scores hold the same MLP neurons at {' and '.join(sites)}; "
            "select from scores of one of these sites."
        )
    return sites


def _check_comparable(cultural: NeuronScores, *others: NeuronScores | None) -> None:
    for other in others:
        if other is None:
            continue
        for name in ("model", "method", "pool", "padding", "weight"):
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


def _location(index: int, shapes: Mapping[str, tuple[int, int]]) -> tuple[str, int, int]:
    """(site, layer, neuron) of an index into a flat pool."""
    for site, (n_layers, width) in shapes.items():
        if index < n_layers * width:
            return site, *divmod(index, width)
        index -= n_layers * width
    raise AssertionError("an index beyond the pool")


def _located(
    chosen: Tensor, rank: Float[Tensor, "neuron"], sites: Sequence[str], scores: NeuronScores
) -> dict[tuple[str, int, int], float]:
    """Score by (site, layer, neuron) of indices into a flat pool."""
    shapes = {site: scores.shapes[site] for site in sites}
    return {_location(index, shapes): rank[index].item() for index in chosen.tolist()}


def _as_set(
    kept: Mapping[tuple[str, int, int], float], scores: NeuronScores, **source: Any
) -> NeuronSet:
    sites = _pool_sites(scores, MLP_SITES) + _pool_sites(scores, ATTENTION_SITES)
    return NeuronSet.of(
        by_site(kept),
        scores=kept,
        shapes={site: scores.shapes[site] for site in sites},
        source={**source, "model": scores.source.get("model"), "data": scores.source.get("data")},
    )
