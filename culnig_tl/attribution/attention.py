"""AtP*: what a query or a key does through a softmax, which may be saturated (arXiv 2403.00745).

A softmax that has all but decided hardly answers to an infinitely small change, and its gradient
misses what setting a query's neuron to zero does. So the pattern ``p`` is recomputed, as it is
without one neuron of one head at one position, and only what follows it is linear:

    query i    drop = sum over k of dT/dp[i,k] (p[i,k] - p'[i,k]),      p'[i] = softmax(scores'[i])
    key k      drop = sum over i of dT/dp[i,:] . (p[i,:] - p'[i,:])
                    = sum over i of (p[i,k] - p'[i,k]) (dT/dp[i,k] - mean[i,k])

with ``mean[i,k]`` the mean of ``dT/dp[i]`` over all keys but ``k``, weighted by ``p``: a key's own
share of the attention changes, and the others keep their proportions. A key is shared by all heads
that read it (grouped-query attention), whose drops add up. The sign is that of ``a * dT/da``, which
the drop equals where the softmax is nearly linear; at values and in MLPs the estimate is
``a * dT/da`` itself.

Departures from the paper: there a whole query of a head is exchanged for that of another prompt,
here one of its entries for 0. GradDrop, its second correction, is left out: it averages the sizes
of estimates whose gradients leave one layer out each, and sizes have no sign. As there, a key
changes at one position at a time: where a neuron is 0 in all keys of a prompt, as under
``scaled_neurons``, what it added to all scores of a query alike cancels, and the drops of single
positions do not add up to the drop of all together.

Scores change by ``scores(q', k) - scores(q, k)``, so that whatever is added to scores later (masks
of positions to come, of padding and beyond a window, biases of distance) need not be known.
Between hook point and scores lie norms of single heads, clipping and rotary embedding; models that
do something else there are refused. Memory: one neuron of every head at a time, as a few tensors
``[batch head pos pos]``; a layer costs ``d_head`` times its scores.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from culnig_tl.attribution.gradients import HookPoint, factor_gradients
from culnig_tl.attribution.integration import Scored
from culnig_tl.attribution.pooling import Reduction, pooler, products, weighted
from culnig_tl.attribution.targets import Target
from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.questions import Batch
from culnig_tl.sites import hook_name, layers_of, site_shape

_NORMS = {"attn.hook_q": "q_norm", "attn.hook_k": "k_norm"}
"""The sites that steer attention, and the attributes that hold their norms."""
_PATTERN = "attn.hook_pattern"
Pattern = Float[Tensor, "batch head query key"]


def scored_atp_star(
    model: HookedModel,
    batch: Batch,
    sites: Sequence[str],
    reduction: Reduction,
    target: Target,
) -> Scored:
    """Scores of a batch by AtP*, and the probability of each answer."""
    layers = layers_of(model, sites)
    steering = [site for site in _NORMS if site in layers]
    at = {site: layers[site] for site in layers if site not in steering}
    if steering:
        at[_PATTERN] = layers[steering[0]]
    pooled = pooler(batch.mask, reduction.pool, reduction.padding)
    heads = _Heads(model, batch.mask, steering)
    with hooked(model, heads.hooks()):
        answer, reduced = factor_gradients(
            model, batch, at, lambda *values: pooled(heads(*values)), target=target
        )
    widths = [site_shape(model, site)[1] for site in steering]
    for layer in at.get(_PATTERN, ()):
        parts = reduced.pop((_PATTERN, layer)).split(widths, dim=-1)
        reduced |= {(site, layer): part for site, part in zip(steering, parts, strict=True)}
    scores = weighted(reduced, answer.probability, sites, reduction.weight, reduction.clamp)
    return Scored(scores, answer.probability, {})


def check_attention(model: Any, sites: Sequence[str]) -> None:
    """Refuse queries and keys of a model whose patterns cannot be recomputed.

    Raises:
        InvalidInputError: a bridge, attention sinks, or something between hook points and scores
            that is not done here.
    """
    if not any(site in _NORMS for site in sites):
        return
    if hasattr(model, "original_model"):
        raise InvalidInputError(
            "method is 'atp_star', which recomputes attention by modules of a HookedTransformer "
            "that this model does not have; load it with backend='hooked', leave attn.hook_q and "
            "attn.hook_k out of sites, or take another method."
        )
    reasons = {
        "attention sinks": model.cfg.use_attention_sinks,
        "norms over all heads of a query together": any(map(_is_normed_whole, model.blocks)),
        "queries scaled by the length of a prompt": model.cfg.use_logn_attn,
    }
    if reason := next((name for name, is_so in reasons.items() if is_so), ""):
        raise InvalidInputError(
            f"method is 'atp_star', and this model has {reason}, with which attention is not "
            "recomputed here; leave attn.hook_q and attn.hook_k out of sites, or take another "
            "method."
        )


def _is_normed_whole(block: Any) -> bool:
    return block.attn.q_norm is not None and not block.attn.cfg.use_qk_norm


class _Heads:
    """Products of all hook points; those of queries and keys, side by side, are a pattern's."""

    def __init__(
        self, model: Any, mask: Bool[Tensor, "batch pos"], steering: Sequence[str]
    ) -> None:
        self._blocks = model.blocks if steering else ()
        self._mask = mask
        self._steering = steering
        self._activations: dict[HookPoint, Tensor] = {}

    def hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """What records queries and keys, also where only one of them is scored."""
        points = [(site, layer) for site in _NORMS for layer in range(len(self._blocks))]
        return [(hook_name(*point), partial(self._record, point=point)) for point in points]

    def __call__(self, point: HookPoint, activation: Tensor, gradient: Tensor) -> Tensor:
        site, layer = point
        if site != _PATTERN:
            return products(activation, gradient)
        exact = torch.promote_types(gradient.dtype, torch.float32)
        activation, gradient = activation.to(exact), gradient.to(exact)
        vectors = {site: self._activations.pop((site, layer)).to(exact) for site in _NORMS}
        scores = _Scores(self._blocks[layer].attn, vectors, self._mask)
        drops = {"attn.hook_q": query_drop, "attn.hook_k": key_drop}
        parts = [_drops(scores, site, drops[site](activation, gradient)) for site in self._steering]
        return torch.cat(parts, dim=-1).flatten(2)

    def _record(self, activation: Tensor, hook: object, *, point: HookPoint) -> None:
        self._activations[point] = activation.detach()


class _Scores:
    """Attention scores of one layer, before anything is added to them."""

    def __init__(
        self, attention: Any, vectors: dict[str, Tensor], mask: Bool[Tensor, "batch pos"]
    ) -> None:
        self._attention = attention
        self._mask = mask.long()
        self.vectors = vectors
        self._turned = {site: self._turn(site, vector) for site, vector in vectors.items()}
        self._scores = attention.calculate_attention_scores(*self._turned.values())

    def change(self, site: str, index: int) -> Pattern:
        """What is added to the scores where entry ``index`` of every head is 0: of each query, or
        of each key, at its own position alone."""
        without = self.vectors[site].clone()
        without[..., index] = 0
        turned = self._turned | {site: self._turn(site, without)}
        return self._attention.calculate_attention_scores(*turned.values()) - self._scores

    def _turn(self, site: str, vectors: Tensor) -> Tensor:
        """Queries or keys as their products give the scores."""
        config = self._attention.cfg
        norm = getattr(self._attention, _NORMS[site])
        if norm is not None:
            weight = norm.w.to(vectors)
            vectors = F.rms_norm(vectors, weight.shape, weight, norm.eps)
        if config.clip_qkv is not None:
            vectors = vectors.clamp(-config.clip_qkv, config.clip_qkv)
        if config.positional_embedding_type == "rotary":
            vectors = self._attention.apply_rotary(vectors, 0, self._mask.to(vectors.device))
        return vectors


def _drops(
    scores: _Scores, site: str, drop: Callable[[Tensor], Tensor]
) -> Float[Tensor, "batch pos neuron"]:
    """The drop of the target by each neuron, summed over the heads that read it."""
    n_heads, d_head = scores.vectors[site].shape[2:]
    by_head = torch.stack([drop(scores.change(site, index)) for index in range(d_head)], dim=-1)
    return by_head.unflatten(1, (n_heads, -1)).sum(2).transpose(1, 2).flatten(2)


def query_drop(pattern: Pattern, gradient: Pattern) -> Callable[[Pattern], Tensor]:
    """A change of the scores -> the drop of the target, ``[batch head query]``, where the scores of
    one query change and those of others do not.

    Example:
        >>> pattern, gradient = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0]]]])
        >>> drop = query_drop(pattern, gradient)
        >>> drop(torch.tensor([[[[-100.0, 0.0]]]]))
        tensor([[[0.5000]]])
    """
    log = pattern.log()
    before = log.softmax(-1)

    def drop(change: Tensor) -> Tensor:
        lost = (before - (log + change).softmax(-1)).nan_to_num()  # padding attends nowhere
        return (lost * gradient).sum(-1)

    return drop


def key_drop(pattern: Pattern, gradient: Pattern) -> Callable[[Pattern], Tensor]:
    """A change of the scores -> the drop of the target, ``[batch head key]``, where the scores of
    one key change, from all queries, and those of others do not.

    Example:
        >>> pattern, gradient = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[1.0, 0.0]]]])
        >>> drop = key_drop(pattern, gradient)
        >>> drop(torch.tensor([[[[-100.0, 0.0]]]]))
        tensor([[[0.5000, 0.0000]]])
    """
    others = 1 - torch.eye(pattern.shape[-1], dtype=pattern.dtype, device=pattern.device)
    rest = pattern @ others  # 1 - pattern would lose what a saturated softmax leaves to others
    mean = ((pattern * gradient) @ others / rest).nan_to_num()
    log_odds = pattern.log() - rest.log()

    def drop(change: Tensor) -> Tensor:
        lost = (log_odds.sigmoid() - (log_odds + change).sigmoid()).nan_to_num()
        return (lost * (gradient - mean)).sum(2)

    return drop
