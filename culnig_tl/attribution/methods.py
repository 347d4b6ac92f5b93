"""The two methods on one batch: a number a neuron and question, by site."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import ceil
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution.passes import (
    answer_probability,
    factor_gradients,
    residuals,
    starting_at,
)
from culnig_tl.attribution.pooling import Padding, Pool, Weight, pooler, weighted
from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.hooks import DEFAULT_SITES, HookedModel, site_shape
from culnig_tl.questions import Batch

FactorPath = Literal["joint", "layer"]
Reduce = Callable[[Tensor], Tensor]


def gradient_x_activation(
    model: HookedModel,
    batch: Batch,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    pool: Pool | None = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
) -> dict[str, Float[Tensor, "batch layer *pos neuron"]]:
    """Score of every neuron on every question of a batch, by site; arguments as in ``attribute``.

    ``pool=None`` keeps the positions, ``[batch layer pos neuron]`` with 0 at padding, and the
    memory grows with them: take a few questions.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: no site, or an unknown choice.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=2)
        >>> scores = gradient_x_activation(model, ct.batches(model, rows)[0])
        >>> scores["attn.hook_q"].shape
        torch.Size([2, 4, 128])
    """
    check_choices(pool, padding, weight)
    layers = layers_of(model, sites)
    reduce = pooler(batch.mask, pool, padding)
    pooled: dict[str, dict[int, Tensor]] = {site: {} for site in sites}

    def take(site: str, layer: int, product: Tensor) -> None:
        pooled[site][layer] = reduce(product)

    probability = factor_gradients(model, batch, layers, take)
    return {site: weighted(pooled[site], probability, weight, clamp) for site in sites}


def integrated_gradients(
    model: HookedModel,
    batch: Batch,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    steps: int = 20,
    path: FactorPath = "joint",
    pool: Pool | None = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
    token_budget: int = 8192,
) -> dict[str, Float[Tensor, "batch layer *pos neuron"]]:
    """Integrated gradients of every neuron on every question of a batch, by site.

    Costs ``steps`` passes for each site on the joint path; by layer, about half as many for each
    layer of each site, since the layers below are not run again. A pass takes several steps of
    several questions. Where the steps of one question do not fit into one pass, the sums of that
    question are held for the layers that are scaled together.

    Args:
        model: a frozen model with named hook points.
        batch: the prompts.
        sites: hook points of one layer; each has a path of its own.
        steps: number of factors, at the midpoints of as many equal intervals from 0 to 1.
        path: ``"joint"`` scales all layers of a site together, ``"layer"`` one at a time.
        pool, padding, clamp, weight: as in ``gradient_x_activation``, on the mean over factors.
        token_budget: tokens of one pass, padding and steps counted.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: no site, no step, or an unknown choice.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=2)
        >>> scores = integrated_gradients(model, ct.batches(model, rows)[0], steps=4)
        >>> scores["mlp.hook_post"].shape
        torch.Size([2, 4, 512])
    """
    check_choices(pool, padding, weight)
    check_path(steps, path)
    layers = layers_of(model, sites)
    n_rows = max(1, token_budget // batch.tokens.shape[1])
    found = []
    for lines in torch.arange(len(batch)).split(max(1, n_rows // steps)):
        part = batch.select(lines.tolist())
        factors = _midpoints(steps, n_parts=ceil(steps * len(part) / n_rows))
        reduce = pooler(part.mask, pool, padding)
        integrate = _along_joint_path if path == "joint" else _along_layer_paths
        probability, means = integrate(model, part, layers, factors, reduce)
        found.append({site: weighted(means[site], probability, weight, clamp) for site in sites})
    return {site: torch.cat([scores[site] for scores in found]) for site in sites}


def check_choices(pool: Pool | None, padding: Padding, weight: Weight) -> None:
    """Refuse an unknown choice in a sentence."""
    if pool is not None:
        check_choice("pool", pool, get_args(Pool))
    check_choice("padding", padding, get_args(Padding))
    check_choice("weight", weight, get_args(Weight))


def check_path(steps: int, path: FactorPath) -> None:
    """Refuse a path of no step, or an unknown one, in a sentence."""
    check_choice("path", path, get_args(FactorPath))
    if steps < 1:
        raise InvalidInputError(f"steps is {steps}; integrated gradients need at least 1.")


def layers_of(model: HookedModel, sites: Sequence[str]) -> dict[str, range]:
    """All layers of each site.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: no site.
    """
    if not sites:
        raise InvalidInputError("There is no site to score; name at least one, e.g. mlp.hook_post.")
    return {site: range(site_shape(model, site)[0]) for site in sites}


def _midpoints(steps: int, *, n_parts: int) -> tuple[Tensor, ...]:
    return ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps).chunk(n_parts)


def _along_joint_path(
    model: HookedModel,
    batch: Batch,
    layers: Mapping[str, Iterable[int]],
    factors: Sequence[Tensor],
    reduce: Reduce,
) -> tuple[Tensor, dict[str, dict[int, Tensor]]]:
    """``P(y|x)``, and pooled integrated gradients by site and layer."""
    with torch.no_grad():
        probability = answer_probability(model, batch)
    return probability, {
        site: _mean_products(model, batch, site, scored, factors, reduce, nullcontext)
        for site, scored in layers.items()
    }


def _along_layer_paths(
    model: HookedModel,
    batch: Batch,
    layers: Mapping[str, Iterable[int]],
    factors: Sequence[Tensor],
    reduce: Reduce,
) -> tuple[Tensor, dict[str, dict[int, Tensor]]]:
    """``P(y|x)``, and pooled integrated gradients by site and layer; each starts at its layer."""
    probability, known = residuals(model, batch)
    means: dict[str, dict[int, Tensor]] = {site: {} for site in layers}
    for site, scored in layers.items():
        for layer in scored:
            start = partial(starting_at, model, layer, known)
            means[site] |= _mean_products(model, batch, site, [layer], factors, reduce, start)
    return probability, means


def _mean_products(
    model: HookedModel,
    batch: Batch,
    site: str,
    layers: Iterable[int],
    factors: Sequence[Tensor],
    reduce: Reduce,
    start: Callable[[int], AbstractContextManager[Any]],
) -> dict[int, Tensor]:
    """Pooled mean of ``a * dP / d(factor * a)`` over factors, by layer; a pass for each part of
    them."""
    n_steps = sum(map(len, factors))
    sums: dict[int, Tensor] = {}
    pooled: dict[int, Tensor] = {}

    def take(_site: str, layer: int, product: Tensor, *, n_copies: int, last: bool) -> None:
        total = product.unflatten(0, (n_copies, len(batch))).sum(0)
        if layer in sums:
            total += sums.pop(layer)
        if last:
            pooled[layer] = reduce(total.div_(n_steps))
        else:
            sums[layer] = total

    for number, some in enumerate(factors, 1):
        copies = batch.select([*range(len(batch))] * len(some))
        keep = partial(take, n_copies=len(some), last=number == len(factors))
        with start(len(some)):
            factor_gradients(
                model, copies, {site: layers}, keep, factor=some.repeat_interleave(len(batch))
            )
    return pooled
