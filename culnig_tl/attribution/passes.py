"""One forward and one backward pass that yields ``a * dP / d(factor * a)`` at every hook point.

The graph begins at the first activation that is scored: nothing below it is differentiated, and
no parameter is. A pass can start from a layer's residual stream, so that the layers below are not
run again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.hooks import HookedModel, hook_name, last_logits
from culnig_tl.questions import Batch

Take = Callable[[str, int, Tensor], None]
"""(site, layer, product [batch pos neuron]): what is done with a product; it may overwrite it."""


def answer_probability(model: HookedModel, batch: Batch) -> Float[Tensor, "batch"]:
    """``P(y|x)`` of every prompt of a batch, in float32 (float64 in a float64 model)."""
    logits = last_logits(model, batch.tokens, batch.mask)
    exact = torch.promote_types(logits.dtype, torch.float32)
    answers = batch.answers.to(logits.device)
    return logits.to(exact).softmax(-1).gather(1, answers[:, None])[:, 0]


def factor_gradients(
    model: HookedModel,
    batch: Batch,
    layers: Mapping[str, Iterable[int]],
    take: Take,
    *,
    factor: Float[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch"]:
    """Hand ``a * dP / d(factor * a)`` of every hook point to ``take``; return ``P`` of each prompt.

    Args:
        model: a model with named hook points.
        batch: the prompts.
        layers: what is scored, and scaled: layers by site.
        take: called in the backward pass, from the last layer to the first.
        factor: what each prompt's activations there are multiplied by; 1 without it.
    """
    leaves: list[Tensor] = []

    def watch(activation: Tensor, hook: object, *, site: str, layer: int) -> Tensor:
        if not activation.requires_grad:  # nothing scored lies below
            leaves.append(activation.detach().requires_grad_())
            activation = leaves[-1]
        scaled = _scaled(activation, factor)
        scaled.register_hook(partial(multiply, activation.detach(), site, layer))
        return scaled

    def multiply(activation: Tensor, site: str, layer: int, gradient: Tensor) -> None:
        exact = torch.promote_types(gradient.dtype, torch.float32)
        take(site, layer, (activation.to(exact) * gradient).flatten(2))

    fwd_hooks = [
        (hook_name(site, layer), partial(watch, site=site, layer=layer))
        for site, scored in layers.items()
        for layer in scored
    ]
    with _frozen(model), torch.enable_grad(), model.hooks(fwd_hooks=fwd_hooks):
        probability = answer_probability(model, batch)
        torch.autograd.grad(probability.sum(), leaves)
    return probability.detach()


@dataclass(frozen=True)
class Residuals:
    """What is needed to start at any layer.

    Attributes:
        streams: the residual stream before each layer, ``[batch pos d_model]``.
        tails: what each block returns besides the residual stream; None where that is all.
    """

    streams: Sequence[Tensor]
    tails: Sequence[tuple[Any, ...] | None]


def residuals(model: HookedModel, batch: Batch) -> tuple[Float[Tensor, "batch"], Residuals]:
    """``P(y|x)`` of every prompt, and what is needed to start at any layer, by one forward pass."""
    streams: list[Tensor] = []
    tails: list[tuple[Any, ...] | None] = []

    def keep_stream(residual: Tensor, hook: object) -> None:
        streams.append(residual)

    def keep_tail(block: object, inputs: object, output: Any) -> None:
        tails.append(output[1:] if isinstance(output, tuple) else None)

    fwd_hooks = [
        (hook_name("hook_resid_pre", layer), keep_stream) for layer in range(model.cfg.n_layers)
    ]
    with ExitStack() as handles, torch.no_grad(), model.hooks(fwd_hooks=fwd_hooks):
        for block in _blocks(model):
            handles.callback(block.register_forward_hook(keep_tail).remove)
        probability = answer_probability(model, batch)
    return probability, Residuals(streams, tails)


@contextmanager
def starting_at(
    model: HookedModel, layer: int, known: Residuals, n_copies: int
) -> Iterator[HookedModel]:
    """Inside, blocks below ``layer`` do nothing and ``layer`` reads its residual stream, repeated
    for ``n_copies`` of the prompts one after the other."""

    def skipped(*inputs: Any, tail: tuple[Any, ...] | None, **options: Any) -> Any:
        residual = inputs[0] if inputs else options["hidden_states"]
        return residual if tail is None else (residual, *tail)

    def read(residual: Tensor, hook: object) -> Tensor:
        return known.streams[layer].repeat(n_copies, 1, 1)

    below = _blocks(model)[:layer]
    try:
        for block, tail in zip(below, known.tails, strict=False):
            vars(block)["forward"] = partial(skipped, tail=tail)
        with model.hooks(fwd_hooks=[(hook_name("hook_resid_pre", layer), read)]):
            yield model
    finally:
        for block in below:
            vars(block).pop("forward", None)


def _blocks(model: Any) -> list[torch.nn.Module]:
    """The layers' modules; a bridge has them without declaring them."""
    return list(model.blocks)


@contextmanager
def _frozen(model: HookedModel) -> Iterator[None]:
    """No parameter asks for a gradient: none is computed, and nothing is kept to compute it."""
    trainable = [weight for _, weight in model.named_parameters() if weight.requires_grad]
    try:
        for weight in trainable:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in trainable:
            weight.requires_grad_(True)


def _scaled(activation: Tensor, factor: Tensor | None) -> Tensor:
    """A tensor of our own: what a backend hands out need not lie on the path to the logits."""
    if factor is None:
        return activation.view_as(activation)
    return activation * factor.to(activation).view(-1, *[1] * (activation.ndim - 1))
