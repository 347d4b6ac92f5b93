"""Attribution methods on one batch: one score per neuron and question, by site.

A method is a value. The built-in ones stand in ``METHODS``; a method of your own is a function

    (model, batch, sites) -> products before pooling

either ``{site: [batch layer pos neuron]}`` or, to hold less at a time, an iterable of
``(site, layer, [batch pos neuron])``. Pooling over real positions, weighting by ``P(y|x)`` and
clamping are the same for all.

``activation_x_weight_norm`` needs no gradient: a neuron's activation times the length of what one
unit of it adds to the residual stream (``Site.output_direction``): a row of ``W_out``, the summed
rows of ``W_O`` that read a value. At ``mlp.hook_pre`` and ``mlp.hook_pre_linear``, whose other
factors set the size, it is the activation there all the same. Queries and keys write nothing and
are refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution.attention import check_attention, scored_atp_star
from culnig_tl.attribution.gradients import (
    HookPoint,
    factor_gradients,
)
from culnig_tl.attribution.integration import FactorPath, Paths, Scored, integrate
from culnig_tl.attribution.pooling import (
    Padding,
    Pool,
    Pooler,
    Reduction,
    Scores,
    Weight,
    pooled_products,
    pooler,
    weighted,
)
from culnig_tl.attribution.quadrature import Nodes
from culnig_tl.attribution.rules import RULES, Rules
from culnig_tl.attribution.targets import Target, answer_probability, check_target
from culnig_tl.errors import InvalidInputError, check_choice, check_flag, check_kind, check_number
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.questions import Batch
from culnig_tl.sites import DEFAULT_SITES, hook_name, layers_of, site_shape

Products = Mapping[str, Tensor] | Iterable[tuple[str, int, Tensor]]
OwnMethod = Callable[[Any, Batch, Sequence[str]], Products]


def gradient_x_activation(
    model: HookedModel,
    batch: Batch,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    pool: Pool | None = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
    target: Target = "probability",
) -> Scores:
    """Score of every neuron on every question of a batch, by site; arguments as in ``attribute``.

    ``pool=None`` keeps the positions, ``[batch layer pos neuron]`` with 0 at padding, and the
    memory grows with them: take a few questions.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: no site, an unknown choice, or a target that these prompts do not have.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=2)
        >>> scores = gradient_x_activation(model, ct.batches(model, rows)[0])
        >>> scores["attn.hook_q"].shape
        torch.Size([2, 4, 128])
    """
    check_kind("batch", batch, Batch, "one of those that batches(model, rows) makes")
    check_pooling(pool, padding, clamp, weight)
    check_target(target, [batch])
    reduction = Reduction(pool, padding, clamp, weight)
    return scored_gradients(model, batch, sites, reduction, target).scores


def scored_gradients(
    model: HookedModel,
    batch: Batch,
    sites: Sequence[str],
    reduction: Reduction,
    target: Target,
    *,
    rules: Rules | None = None,
    pooled_scores: Callable[[Pooler, Tensor, Tensor], Tensor] = pooled_products,
) -> Scored:
    """``gradient_x_activation``, by rules or of something else than products if need be, with the
    probability of each answer."""
    pooled = pooler(batch.mask, reduction.pool, reduction.padding)
    answer, reduced = factor_gradients(
        model,
        batch,
        layers_of(model, sites),
        lambda _, activation, gradient: pooled_scores(pooled, activation, gradient),
        target=target,
        rules=rules,
    )
    scores = weighted(reduced, answer.probability, sites, reduction.weight, reduction.clamp)
    return Scored(scores, answer.probability, {})


def integrated_gradients(
    model: HookedModel,
    batch: Batch,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    steps: int = 20,
    path: FactorPath = "joint",
    nodes: Nodes = "auto",
    pool: Pool | None = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
    target: Target = "probability",
    token_budget: int = 8192,
) -> Scores:
    """Integrated gradients of every neuron on every question of a batch, by site.

    Costs ``steps`` passes for each site on the joint path; by layer, about half as many for each
    layer of each site, since the layers below are not run again. A pass takes several steps of
    several questions. Where the steps of one question do not fit into one pass, the sums of that
    question are held for the layers that are scaled together. One more forward pass per path, at
    factor 0, tells whether the scores add up (see ``completeness``).

    Args:
        model: a frozen model with named hook points.
        batch: the prompts.
        sites: hook points of one layer; each has a path of its own.
        steps: number of factors from 0 to 1.
        path: ``"joint"`` scales all layers of a site together, ``"layer"`` one at a time.
        nodes: ``"midpoint"`` takes the midpoints of equal intervals, ``"geometric"`` factors that
            crowd towards 0 (see ``quadrature``); ``"auto"`` the latter where a norm follows the
            site.
        pool, padding, clamp, weight: as in ``gradient_x_activation``, on the mean over factors.
        target: what is differentiated, as in ``attribute``.
        token_budget: tokens per pass, padding and steps counted.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: no site, no step, an unknown choice, or a target that these prompts do
            not have.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=2)
        >>> scores = integrated_gradients(model, ct.batches(model, rows)[0], steps=4)
        >>> scores["mlp.hook_post"].shape
        torch.Size([2, 4, 512])
    """
    check_kind("batch", batch, Batch, "one of those that batches(model, rows) makes")
    check_pooling(pool, padding, clamp, weight)
    check_target(target, [batch])
    check_number("token_budget", token_budget, low=1, whole=True)
    paths = Paths.of(model, sites, steps=steps, path=path, nodes=nodes)
    reduction = Reduction(pool, padding, clamp, weight)
    return integrate(model, batch, paths, reduction, target, token_budget).scores


def own_method_scores(
    model: HookedModel,
    batch: Batch,
    method: OwnMethod,
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    pool: Pool | None = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
) -> Scores:
    """Scores of a method of your own; its products are pooled and weighted as all others are.

    Raises:
        InvalidInputError: products of another form, or not of every layer of every site.

    Example:
        >>> import culnig_tl as ct
        >>> model, rows = ct.load_model(), ct.load_benchmark("atlas", split="identify", limit=2)
        >>> batch = ct.batches(model, rows)[0]
        >>> def magnitude(model, batch, sites):
        ...     options = {"sites": sites, "pool": None, "weight": "none"}
        ...     products = gradient_x_activation(model, batch, **options)
        ...     return {site: product.abs() for site, product in products.items()}
        >>> own_method_scores(model, batch, magnitude, sites=["attn.hook_q"])["attn.hook_q"].shape
        torch.Size([2, 4, 128])
    """
    check_pooling(pool, padding, clamp, weight)
    return scored_by(method, model, batch, sites, Reduction(pool, padding, clamp, weight)).scores


def scored_by(
    method: OwnMethod,
    model: HookedModel,
    batch: Batch,
    sites: Sequence[str],
    reduction: Reduction,
) -> Scored:
    """``own_method_scores`` with the probability of each answer."""
    layers = layers_of(model, sites)
    pooled = pooler(batch.mask, reduction.pool, reduction.padding)
    reduced = {
        (site, layer): pooled(_checked(product, model, batch, site).clone())
        for site, layer, product in _each_product(method(model, batch, tuple(sites)), method)
    }
    wanted = {(site, layer) for site, scored in layers.items() for layer in scored}
    if missing := sorted(wanted - reduced.keys()):
        raise InvalidInputError(
            f"{method_name(method)} gave no products of {len(missing)} hook points, e.g. layer "
            f"{missing[0][1]} of {missing[0][0]}; a method gives those of every layer of the sites "
            "that it is asked for."
        )
    with torch.no_grad():
        probability = answer_probability(model, batch)
    scores = weighted(reduced, probability, sites, reduction.weight, reduction.clamp)
    return Scored(scores, probability, {})


def scored_weight_norms(
    model: HookedModel,
    batch: Batch,
    sites: Sequence[str],
    reduction: Reduction,
    target: Target = "probability",
) -> Scored:
    """Activations times lengths of output directions, with the probability of each answer; no
    target is differentiated."""
    pooled = pooler(batch.mask, reduction.pool, reduction.padding)
    reduced: dict[HookPoint, Tensor] = {}

    def watch(activation: Tensor, hook: object, *, point: HookPoint) -> None:
        exact = torch.promote_types(activation.dtype, torch.float32)
        weights = _output_weights(model, *point)
        norms = torch.linalg.vector_norm(weights, dim=-1, dtype=exact).to(activation.device)
        reduced[point] = pooled(activation.flatten(2).to(exact) * norms)

    points = [(site, layer) for site, layers in layers_of(model, sites).items() for layer in layers]
    fwd_hooks = [(hook_name(*point), partial(watch, point=point)) for point in points]
    with hooked(model, fwd_hooks, gradients=False):
        probability = answer_probability(model, batch)
    return Scored(
        weighted(reduced, probability, sites, reduction.weight, reduction.clamp), probability, {}
    )


def _pooled_gradients(pooled: Pooler, activation: Tensor, gradient: Tensor) -> Tensor:
    exact = torch.promote_types(gradient.dtype, torch.float32)
    return pooled(gradient.to(exact, copy=True).flatten(2))  # pooling may overwrite it


METHODS: dict[str, Callable[..., Scored]] = {
    "gradient_x_activation": scored_gradients,
    "integrated_gradients": integrate,
    "gradient": partial(scored_gradients, pooled_scores=_pooled_gradients),
    "activation_x_weight_norm": scored_weight_norms,
    "atp_star": scored_atp_star,
    **{name: partial(scored_gradients, rules=rules) for name, rules in RULES.items()},
}
"""What scores a batch by the built-in methods, by name."""


def check_method(
    model: HookedModel, method: str | OwnMethod, sites: Sequence[str], target: Target
) -> None:
    """Refuse what a method cannot score, before the model runs.

    Raises:
        InvalidInputError: a model or sites that it is not made for, or a target where none is
            differentiated.
    """
    name = method_name(method)
    if callable(method):
        if target != "probability":
            raise InvalidInputError(
                f"target is {target!r} and {name} differentiates what it likes; leave target out, "
                "or take a built-in method."
            )
        return
    if name in RULES:
        RULES[name].check(model, name)
    elif name == "atp_star":
        check_attention(model, sites)
    elif name == "activation_x_weight_norm":
        _check_weights(sites, target)


def method_name(method: str | OwnMethod) -> str:
    """What scores say of the method that made them.

    Example:
        >>> method_name("gradient_x_activation")
        'gradient_x_activation'
    """
    if isinstance(method, str):
        return method
    return f"{method.__module__}.{getattr(method, '__qualname__', type(method).__qualname__)}"


def check_pooling(pool: Pool | None, padding: Padding, clamp: bool, weight: Weight) -> None:
    """Refuse an unknown choice in a sentence."""
    check_flag("clamp", clamp)
    if pool is not None:
        check_choice("pool", pool, get_args(Pool))
    check_choice("padding", padding, get_args(Padding))
    check_choice("weight", weight, get_args(Weight))


def _each_product(products: Any, method: OwnMethod) -> Iterator[tuple[str, int, Tensor]]:
    """(site, layer, product) of what a method of one's own gave, in either of its two forms."""
    if not isinstance(products, Mapping):
        yield from products
        return
    for site, layers in products.items():
        if layers.ndim != 4:
            raise InvalidInputError(
                f"{method_name(method)} gave products of shape {tuple(layers.shape)} at {site}, "
                "expected [batch layer pos neuron]; or let it yield (site, layer, [batch pos "
                "neuron])."
            )
        for layer in range(layers.shape[1]):
            yield site, layer, layers[:, layer]


def _checked(product: Tensor, model: HookedModel, batch: Batch, site: str) -> Tensor:
    expected = (*batch.tokens.shape, site_shape(model, site)[1])
    if tuple(product.shape) != expected:
        raise InvalidInputError(
            f"A product at {site} has shape {tuple(product.shape)}, expected {expected}: batch, "
            "position, neuron."
        )
    return product


_WRITING = ("mlp.hook_post", "mlp.hook_pre", "mlp.hook_pre_linear", "attn.hook_v")


def _output_weights(model: Any, site: str, layer: int) -> Float[Tensor, "neuron d_model"]:
    """The output direction of every neuron of a layer at once."""
    block = model.blocks[layer]
    if site != "attn.hook_v":
        return block.mlp.W_out
    heads: Tensor = block.attn.W_O
    n_values = site_shape(model, site)[1] // heads.shape[1]
    return heads.unflatten(0, (n_values, -1)).sum(1).flatten(0, 1)


def _check_weights(sites: Sequence[str], target: Target) -> None:
    if silent := [site for site in sites if site not in _WRITING]:
        raise InvalidInputError(
            f"method is 'activation_x_weight_norm', and neurons at {silent[0]} have no output "
            f"weights that it knows; it scores {', '.join(_WRITING)}: name these as sites, or take "
            "another method."
        )
    if target != "probability":
        raise InvalidInputError(
            f"target is {target!r} and 'activation_x_weight_norm' differentiates nothing; leave "
            "target out, or take another method."
        )
