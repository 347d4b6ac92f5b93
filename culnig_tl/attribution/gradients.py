"""One forward and one backward pass that yields ``a * dT / d(factor * a)`` at every hook point; the
target ``T`` is ``P(y|x)``, or another number per prompt (see ``targets``).

The graph begins at the first activation that is scored: nothing below it is differentiated, and
no parameter is. Products are reduced inside the backward pass, from the last layer to the first, so
that no tensor of layer x batch x pos x neuron is ever held. A pass can start from a layer's
residual stream, so that the layers below are not run again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution.rules import Rules
from culnig_tl.attribution.targets import Answer, Target, read_answer
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.questions import Batch
from culnig_tl.sites import hook_name

HookPoint = tuple[str, int]
"""(site, layer)"""
Reduce = Callable[[HookPoint, Tensor], Tensor]
"""(hook point, product [batch pos neuron]) -> what is kept of it; it may overwrite the product."""


def factor_gradients(
    model: HookedModel,
    batch: Batch,
    layers: Mapping[str, Iterable[int]],
    reduce: Reduce,
    *,
    factor: Float[Tensor, "batch"] | None = None,
    weight: Float[Tensor, "batch"] | None = None,
    target: Target = "probability",
    rules: Rules | None = None,
) -> tuple[Answer, dict[HookPoint, Tensor]]:
    """The answer to each prompt, and ``a * dT / d(factor * a)`` of every hook point, reduced.

    Args:
        model: a model with named hook points.
        batch: the prompts.
        layers: what is scored, and scaled: layers by site.
        reduce: what is kept of each product.
        factor: what each prompt's activations there are multiplied by; 1 without it.
        weight: what each prompt's products are multiplied by; 1 without it.
        target: what is differentiated.
        rules: what the backward pass does otherwise.
    """
    leaves: list[Tensor] = []
    reduced: dict[HookPoint, Tensor] = {}
    watched: dict[HookPoint, Tensor] = {}

    def watch(activation: Tensor, hook: object, *, point: HookPoint) -> Tensor:
        if not activation.requires_grad:  # nothing scored lies below
            leaves.append(activation.detach().requires_grad_())
            activation = leaves[-1]
        scaled = _scaled(activation, factor)
        if rules is not None:
            watched[point] = activation.detach()
        scaled.register_hook(partial(multiply, activation.detach(), point))
        return scaled

    def multiply(activation: Tensor, point: HookPoint, gradient: Tensor) -> None:
        exact = torch.promote_types(gradient.dtype, torch.float32)
        reduced[point] = reduce(point, (activation.to(exact) * gradient).flatten(2))

    fwd_hooks: list[tuple[str, Callable[..., Any]]] = [
        (hook_name(site, layer), partial(watch, point=(site, layer)))
        for site, scored in layers.items()
        for layer in scored
    ]
    if rules is not None:
        before, after = rules.hooks(model)
        fwd_hooks = [*before, *fwd_hooks, *after]
    with hooked(model, fwd_hooks, gradients=True), _frozen(model):
        answer = read_answer(model, batch, target)
        outer = torch.ones_like(answer.value) if weight is None else weight.to(answer.value)
        torch.autograd.grad(answer.value, leaves, outer, allow_unused=rules is not None)
    for point in watched.keys() - reduced.keys():  # where rules let no gradient pass
        multiply(watched[point], point, torch.zeros_like(watched[point]))
    return Answer(answer.probability.detach(), answer.value.detach()), reduced


def suppressed_answer(
    model: HookedModel, batch: Batch, layers: Mapping[str, Iterable[int]], *, target: Target
) -> Answer:
    """The answer to each prompt while the activations at ``layers`` are multiplied by 0."""
    fwd_hooks = [
        (hook_name(site, layer), _suppress) for site, scored in layers.items() for layer in scored
    ]
    with hooked(model, fwd_hooks, gradients=False):
        return read_answer(model, batch, target)


@dataclass(frozen=True)
class Residuals:
    """What is needed to start at any layer.

    Attributes:
        streams: the residual stream before each layer, ``[batch pos d_model]``.
        tails: what each block returns besides the residual stream; None where that is all.
    """

    streams: Sequence[Tensor]
    tails: Sequence[tuple[Any, ...] | None]


def residuals(
    model: HookedModel, batch: Batch, target: Target = "probability"
) -> tuple[Answer, Residuals]:
    """The answer to each prompt, and what is needed to start at any layer, by one forward pass."""
    streams: list[Tensor] = []
    tails: list[tuple[Any, ...] | None] = []

    def keep_stream(residual: Tensor, hook: object) -> None:
        streams.append(residual)

    def keep_tail(block: object, inputs: object, output: Any) -> None:
        tails.append(output[1:] if isinstance(output, tuple) else None)

    fwd_hooks = [
        (hook_name("hook_resid_pre", layer), keep_stream) for layer in range(model.cfg.n_layers)
    ]
    with hooked(model, fwd_hooks, gradients=False), ExitStack() as handles:
        for block in _blocks(model):
            handles.callback(block.register_forward_hook(keep_tail).remove)
        answer = read_answer(model, batch, target)
    return answer, Residuals(streams, tails)


@contextmanager
def starting_at(
    model: HookedModel, layer: int, inputs: Residuals, *, n_copies: int
) -> Iterator[HookedModel]:
    """Run the model from ``layer`` on, reading its recorded input, repeated ``n_copies`` times.

    Inside, each block below is replaced by one that hands its input on, and the hook before
    ``layer`` puts the recorded residual stream in its place.
    """
    below = list(zip(_blocks(model)[:layer], inputs.tails, strict=False))
    stream = inputs.streams[layer].repeat(n_copies, 1, 1)
    with hooked(model, [(hook_name("hook_resid_pre", layer), lambda *_, **__: stream)]):
        try:
            for block, tail in below:
                vars(block)["forward"] = partial(_hand_on, tail=tail)
            yield model
        finally:
            for block, _ in below:
                vars(block).pop("forward", None)


def _hand_on(*inputs: Any, tail: tuple[Any, ...] | None, **options: Any) -> Any:
    """A block that does nothing, with the form of output that its caller expects."""
    residual = inputs[0] if inputs else options["hidden_states"]
    return residual if tail is None else (residual, *tail)


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


def _suppress(activation: Tensor, hook: object) -> Tensor:
    return activation * 0


def _scaled(activation: Tensor, factor: Tensor | None) -> Tensor:
    """A tensor of our own: what a backend hands out need not lie on the path to the logits."""
    if factor is None:
        return activation.view_as(activation)
    copy = factor.to(activation, copy=True)  # what inference mode made cannot be differentiated
    return activation * copy.view(-1, *[1] * (activation.ndim - 1))
