"""From one number per token to one number per question: the largest, the sum, the mean or the last.

Prompts are padded on the left, so only the first positions of a batch hold padding; the rest of a
product is never masked, which is most of the time that masking would take.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Pool = Literal["max", "absmax", "sum", "mean", "last"]
"""``absmax`` is the product of largest size, with its sign."""
Padding = Literal["ignore", "zero"]
Weight = Literal["probability", "none"]
Scores = dict[str, Float[Tensor, "batch layer *pos neuron"]]
Pooler = Callable[..., Tensor]
"""(product [batch pos neuron], rows=slice(None)) -> [batch neuron], of these rows of the batch."""

_CACHED_VALUES = 2**17  # half a megabyte of float32: what a core writes stays in its cache


@dataclass(frozen=True)
class Reduction:
    """How products at many positions become one score per question; see ``attribute``."""

    pool: Pool | None
    padding: Padding
    clamp: bool
    weight: Weight


def products(
    activation: Float[Tensor, "batch pos ..."], gradient: Float[Tensor, "batch pos ..."]
) -> Float[Tensor, "batch pos neuron"]:
    """Gradient x activation, in float32 at least."""
    exact = torch.promote_types(gradient.dtype, torch.float32)
    return (activation.to(exact) * gradient).flatten(2)


def pooled_products(
    pooled: Pooler, activation: Float[Tensor, "batch pos ..."], gradient: Tensor
) -> Float[Tensor, "batch *pos neuron"]:
    """Pooled gradient x activation, on a CPU a few prompts at a time: to write a product into fresh
    memory, and read it again, takes longer than to compute it."""
    n_rows = len(activation)
    if activation.device.type == "cpu":
        n_rows = max(1, _CACHED_VALUES * torch.get_num_threads() // activation[0].numel())
    parts = [slice(first, first + n_rows) for first in range(0, len(activation), n_rows)]
    return torch.cat([pooled(products(activation[at], gradient[at]), at) for at in parts])


def pooler(mask: Bool[Tensor, "batch pos"], pool: Pool | None, padding: Padding) -> Pooler:
    """What turns ``[batch pos neuron]`` into ``[batch neuron]``, overwriting the padding in place.

    Without a ``pool`` positions are kept, with 0 at padding.
    """
    n_padded = int((~mask).sum(1).max())
    absent = ~mask[:, :n_padded, None]
    filler = float("-inf") if (pool, padding) == ("max", "ignore") else 0.0
    counted = mask if padding == "ignore" else torch.ones_like(mask)
    n_positions = counted.sum(1)[:, None]

    def reduce(
        product: Float[Tensor, "batch pos neuron"], rows: slice = slice(None)
    ) -> Float[Tensor, "batch *pos neuron"]:
        product[:, :n_padded].masked_fill_(absent[rows], filler)
        match pool:
            case "max":
                return product.amax(1)
            case "absmax":
                return product.gather(1, product.abs().argmax(1, keepdim=True)).squeeze(1)
            case "sum":
                return product.sum(1)
            case "mean":
                return product.sum(1) / n_positions[rows]
            case "last":
                return product[:, -1].clone()
            case None:
                return product

    return reduce


def weighted(
    reduced: Mapping[tuple[str, int], Tensor],
    probability: Float[Tensor, "batch"],
    sites: Sequence[str],
    weight: Weight,
    clamp: bool,
) -> Scores:
    """Scores by site out of reduced products by (site, layer): multiplied by ``P(y|x)`` and cut at
    0 where that is asked."""
    scores = {}
    for site in sites:
        layers = sorted(layer for name, layer in reduced if name == site)
        stacked = [reduced[site, layer].to(probability.device) for layer in layers]
        values = torch.stack(stacked, dim=1)
        if weight == "probability":
            values *= probability.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
        scores[site] = values.clamp_(min=0) if clamp else values
    return scores
