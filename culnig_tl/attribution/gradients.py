"""One forward and one backward pass that yields ``a`` and ``dT / d(factor * a)`` at every hook
point; the target ``T`` is ``P(y|x)``, or another number per prompt (see ``targets``).

The graph begins at the first activation that is scored: nothing below it is differentiated, and
no parameter is. Both are reduced inside the backward pass, from the last layer to the first, so
that no tensor of layer x batch x pos x neuron is ever held. A pass can start from a layer's
residual stream, so that the layers below are not run again.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution.rules import Rules
from culnig_tl.attribution.targets import Answer, Target, read_answer
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.questions import Batch
from culnig_tl.sites import hook_name, measure_sites

HookPoint = tuple[str, int]
"""(site, layer)"""
StartPoint = Literal["layer", "mlp", "mlp.hook_post"]
"""Where in a layer a pass starts: before it, behind its attention, or at ``mlp.hook_post``, where a
hook has to make the copies: what comes before is computed once for all of them."""
Reduce = Callable[[HookPoint, Tensor, Tensor], Tensor]
"""(hook point, activation, gradient) -> what is kept of them; both are [batch pos ...] with neurons
last, in the model's type."""


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
    """The answer to each prompt, and what is kept of ``a`` and ``dT / d(factor * a)`` at every hook
    point.

    Args:
        model: a model with named hook points.
        batch: the prompts.
        layers: what is scored, and scaled: layers by site.
        reduce: what is kept.
        factor: what each prompt's activations there are multiplied by; 1 without it.
        weight: what each prompt's gradients are multiplied by; 1 without it.
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
        scaled.register_hook(partial(keep, activation.detach(), point))
        return scaled

    def keep(activation: Tensor, point: HookPoint, gradient: Tensor) -> None:
        reduced[point] = reduce(point, activation, gradient)

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
        keep(watched[point], point, torch.zeros_like(watched[point]))
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
        attention: what the attention of some layers returns, to start behind it.
        mlps: layers whose MLP ran as a module, to start inside it; a bridge may run its parts only.
    """

    streams: Sequence[Tensor]
    tails: Sequence[tuple[Any, ...] | None]
    attention: Mapping[int, Any] = field(default_factory=dict)
    mlps: Collection[int] = ()

    def point(self, layer: int, wanted: StartPoint) -> StartPoint:
        """Where in a layer a pass can start: ``wanted``, or the point before it."""
        return "mlp" if wanted == "mlp.hook_post" and layer not in self.mlps else wanted


def residuals(
    model: HookedModel, batch: Batch, target: Target = "probability"
) -> tuple[Answer, Residuals]:
    """The answer to each prompt, and what is needed to start at any layer, by one forward pass."""
    with recording(model) as inputs:
        return read_answer(model, batch, target), inputs


@contextmanager
def recording(model: HookedModel, *, behind_attention: Collection[int] = ()) -> Iterator[Residuals]:
    """Inside, a forward pass without gradients records what is needed to start at any layer.

    Args:
        model: a model with named hook points.
        behind_attention: layers that are to be started behind their attention.
    """
    streams: list[Tensor] = []
    tails: list[tuple[Any, ...] | None] = []
    attention: dict[int, Any] = {}
    mlps: set[int] = set()

    def keep_stream(residual: Tensor, hook: object) -> None:
        streams.append(residual)

    def keep_tail(block: object, inputs: object, output: Any) -> None:
        tails.append(output[1:] if isinstance(output, tuple) else None)

    def keep_attention(module: object, inputs: object, output: Any, *, layer: int) -> None:
        attention[layer] = output

    def note_mlp(*_: object, layer: int) -> None:
        mlps.add(layer)

    fwd_hooks = [
        (hook_name("hook_resid_pre", layer), keep_stream) for layer in range(model.cfg.n_layers)
    ]
    with hooked(model, fwd_hooks, gradients=False), ExitStack() as handles:
        for layer, block in enumerate(_blocks(model)):
            handles.callback(block.register_forward_hook(keep_tail).remove)
            for name, keep in (("attn", keep_attention), ("mlp", note_mlp)):
                if layer in behind_attention and hasattr(block, name):
                    handle = getattr(block, name).register_forward_hook(partial(keep, layer=layer))
                    handles.callback(handle.remove)
        yield Residuals(streams, tails, attention, mlps)


@contextmanager
def starting_at(
    model: HookedModel,
    layer: int,
    inputs: Residuals,
    *,
    n_copies: int,
    point: StartPoint = "layer",
) -> Iterator[HookedModel]:
    """Run the model from ``layer`` on, reading its recorded input, repeated ``n_copies`` times.

    Inside, each block below is replaced by one that hands its input on, and the hook before
    ``layer`` puts the recorded residual stream in its place. At a later point the layer's
    attention, where it was recorded, is replaced by what it returned.
    """
    blocks, stream = _blocks(model), inputs.streams[layer]
    forwards: dict[torch.nn.Module, Callable[..., Any]] = {
        block: partial(_hand_on, tail=tail)
        for block, tail in zip(blocks[:layer], inputs.tails, strict=False)
    }
    if point != "layer" and layer in inputs.attention:
        output = _repeated(inputs.attention[layer], n_copies)
        forwards[blocks[layer].attn] = lambda *_, **__: output
    if point == "mlp.hook_post":
        mlp = blocks[layer].mlp
        forwards[mlp] = partial(_of_first, mlp.forward, len(stream))
    copies = stream.repeat(n_copies, 1, 1)
    with (
        hooked(model, [(hook_name("hook_resid_pre", layer), lambda *_, **__: copies)]),
        _replaced(forwards),
    ):
        yield model


@contextmanager
def last_mlp_trimmed(model: HookedModel) -> Iterator[HookedModel]:
    """Inside, the last MLP is computed at the last position, which alone is read.

    Mixtures of experts, and blocks without an MLP, are left as they are.
    """
    forwards: dict[torch.nn.Module, Callable[..., Any]] = {}
    if "mlp.hook_post" in measure_sites(model):
        mlp = _blocks(model)[-1].mlp
        forwards[mlp] = partial(_at_last_position, mlp.forward)
    with hooked(model), _replaced(forwards):
        yield model


@contextmanager
def _replaced(forwards: Mapping[torch.nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, these modules compute something else."""
    earlier = [(module, vars(module).get("forward")) for module in forwards]
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, forward in earlier:
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def _repeated(output: Any, n_copies: int) -> Any:
    """What an attention returned, for copies of its prompts; only the first of several is read."""
    if isinstance(output, tuple):
        return (_repeated(output[0], n_copies), *output[1:])
    return output.repeat(n_copies, 1, 1)


def _at_last_position(forward: Callable[..., Any], whole: Tensor, *inputs: Any) -> Tensor:
    """What an MLP makes of the last position; zeros, or what it adds to, stand at the others."""
    output = forward(whole[:, -1:], *inputs)
    return F.pad(output, (0, 0, whole.shape[1] - output.shape[1], 0))


def _of_first(forward: Callable[..., Any], n_prompts: int, whole: Tensor, *inputs: Any) -> Tensor:
    return forward(whole[:n_prompts], *inputs)


def _hand_on(*inputs: Any, tail: tuple[Any, ...] | None, **options: Any) -> Any:
    """A block that does nothing, with the form of output that its caller expects."""
    residual = inputs[0] if inputs else options["hidden_states"]
    return residual if tail is None else (residual, *tail)


def _blocks(model: Any) -> list[Any]:
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
