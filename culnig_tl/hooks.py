"""The one intervention: a factor that multiplies neurons at hook points.

A *site* is the hook point of one module in every layer (``mlp.hook_post`` stands for
``blocks.0.mlp.hook_post``, ``blocks.1.mlp.hook_post``, ...); a *neuron* is one entry of its last
axis (attention hooks are flattened head-major, ``neuron = head * d_head + index``). For a neuron
with activation ``a`` the intervention is

    a  ->  factor * a        factor 0 suppresses, 1 keeps, 2 enhances

at every position, or at the last one. The model changes only inside the ``with`` block.

Published sites (arXiv 2510.08284) and ours: ``mlp.gate_proj`` is ``mlp.hook_pre``; the default
preset takes ``mlp.hook_post``, the input of ``down_proj``, instead. With SiLU or GELU and no bias,
setting either to zero is the same intervention; doubling them is not.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal, Protocol, get_args, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from culnig_tl.errors import InvalidInputError, UnknownNameError, check_choice
from culnig_tl.neurons import NeuronSet

MLP_SITES = ("mlp.hook_post", "mlp.hook_pre", "mlp.hook_pre_linear")
ATTENTION_SITES = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
DEFAULT_SITES = ("mlp.hook_post", *ATTENTION_SITES)
PAPER_SITES = ("mlp.hook_pre", *ATTENTION_SITES)

Positions = Literal["all", "last"]


@runtime_checkable
class HookedModel(Protocol):
    """A model with named hook points: HookedTransformer and TransformerBridge both are."""

    cfg: Any
    tokenizer: Any
    hook_dict: Any

    def hooks(self, fwd_hooks: list[Any] = ...) -> AbstractContextManager[Any]: ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...

    def __call__(self, tokens: Any, /, *, attention_mask: Any = ...) -> Any: ...


def site_shape(model: HookedModel, site: str) -> tuple[int, int]:
    """Number of layers and of neurons a layer at ``site``.

    Raises:
        UnknownNameError: the site is unknown, or this model has no such neurons.
        InvalidInputError: a bridge in compatibility mode.

    Example:
        >>> import culnig_tl as ct
        >>> site_shape(ct.load_model(), "mlp.hook_post")
        (4, 512)
    """
    if getattr(model, "compatibility_mode", False):
        raise InvalidInputError(
            "This TransformerBridge is in compatibility mode, in which gradients of left-padded "
            "prompts are NaN; take the model that load_model returns as it is."
        )
    shapes = _site_shapes(model)
    if site not in shapes:
        named = hook_name(site, 0) in model.hook_dict
        raise UnknownNameError(
            f"{site!r} is not a site of this model"
            f"{' (its hook point of that name sees no such neurons)' if named else ''}; "
            f"it has {', '.join(shapes) or 'none'}."
        )
    return shapes[site]


def hook_name(site: str, layer: int) -> str:
    """Full name of the hook point of ``site`` in ``layer``."""
    return f"blocks.{layer}.{site}"


@contextmanager
def scaled_neurons(
    model: HookedModel,
    neurons: NeuronSet,
    *,
    factor: float = 0.0,
    positions: Positions = "all",
) -> Iterator[HookedModel]:
    """Multiply the activations of ``neurons`` by ``factor`` inside a ``with`` block.

    Args:
        model: any model with named hook points.
        neurons: the neurons, by site.
        factor: 0 suppresses, 1 keeps, 2 enhances; any number is allowed.
        positions: every position, or only the last one.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: a layer or neuron outside the model.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> neurons = ct.NeuronSet.of({"mlp.hook_post": [(1, 17)]})
        >>> with scaled_neurons(model, neurons, factor=0.0):
        ...     logits = model("What is the usual staple food?")
    """
    check_choice("positions", positions, get_args(Positions))
    fwd_hooks = [
        (hook_name(site, layer), partial(_scale, multiplier=multiplier, positions=positions))
        for site in neurons.sites
        for layer, multiplier in _multipliers(model, neurons, site, factor).items()
    ]
    with model.hooks(fwd_hooks=fwd_hooks):
        yield model


def last_logits(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last position of left-padded prompts; only that position is unembedded."""
    # no earlier: transformers' GPT-2 asks for every position up to its last norm
    with model.hooks(fwd_hooks=[("unembed.hook_in", _keep_last_position)]):
        return model(tokens, attention_mask=mask.long())[:, -1]


def _site_shapes(model: HookedModel) -> dict[str, tuple[int, int]]:
    """Layers and neurons of every site that this model truly has; found once a model."""
    if model not in _KNOWN_SHAPES:
        shapes = {}
        for site, activations in _dry_run(model).items():
            width = _configured_width(model.cfg, site)
            widths = [activation.shape[2:].numel() for activation in activations]
            if widths == [width] * model.cfg.n_layers:
                shapes[site] = (model.cfg.n_layers, width)
        _KNOWN_SHAPES[model] = shapes
    return _KNOWN_SHAPES[model]


_KNOWN_SHAPES: WeakKeyDictionary[HookedModel, dict[str, tuple[int, int]]] = WeakKeyDictionary()


def _configured_width(config: Any, site: str) -> int:
    if site in MLP_SITES:
        return config.d_mlp
    key_value_heads = getattr(config, "n_key_value_heads", None) or config.n_heads
    return (config.n_heads if site == "attn.hook_q" else key_value_heads) * config.d_head


def _dry_run(model: HookedModel) -> dict[str, list[Tensor]]:
    """The activations of every layer at every site, of a prompt of two tokens.

    Only those that the answer depends on: some hook points of a bridge are named and never called,
    some see a tensor that nothing goes on to use, and those of a mixture of experts see the
    residual stream under the name of an MLP's neurons.
    """
    seen: dict[str, list[Tensor]] = {site: [] for site in MLP_SITES + ATTENTION_SITES}

    def watch(activation: Tensor, hook: object, *, site: str) -> Tensor:
        seen[site].append(activation.view_as(activation))
        return seen[site][-1]

    def start_of_graph(residual: Tensor, hook: object) -> Tensor:
        return residual.detach().requires_grad_()

    fwd_hooks: list[Any] = [(hook_name("hook_resid_pre", 0), start_of_graph)]
    for site, layer in itertools.product(seen, range(model.cfg.n_layers)):
        if hook_name(site, layer) in model.hook_dict:
            fwd_hooks.append((hook_name(site, layer), partial(watch, site=site)))
    tokens = torch.zeros((1, 2), dtype=torch.long, device=model.cfg.device)
    with torch.enable_grad(), model.hooks(fwd_hooks=fwd_hooks):
        logits = model(tokens, attention_mask=torch.ones_like(tokens))
        activations = [each for layers in seen.values() for each in layers]
        gradients = torch.autograd.grad(logits[:, -1].sum(), activations, allow_unused=True)
    pairs = zip(activations, gradients, strict=True)
    used = {id(activation) for activation, gradient in pairs if gradient is not None}
    return {site: [each for each in layers if id(each) in used] for site, layers in seen.items()}


def _multipliers(
    model: HookedModel, neurons: NeuronSet, site: str, factor: float
) -> dict[int, Float[Tensor, "neuron"]]:
    n_layers, width = site_shape(model, site)
    multipliers: dict[int, Tensor] = {}
    for layer, neuron in neurons[site]:
        if layer >= n_layers or neuron >= width:
            raise InvalidInputError(
                f"Neuron {neuron} of layer {layer} at {site} is outside this model, which has "
                f"{n_layers} layers of {width} neurons there; use neurons selected on this model."
            )
        if layer not in multipliers:
            multipliers[layer] = torch.ones(width, device=model.cfg.device, dtype=model.cfg.dtype)
        multipliers[layer][neuron] = factor
    return multipliers


def _scale(activation: Tensor, hook: object, *, multiplier: Tensor, positions: Positions) -> Tensor:
    shaped = multiplier.to(activation).view(activation.shape[2:])
    if positions == "all":
        return activation * shaped
    return torch.cat([activation[:, :-1], activation[:, -1:] * shaped], dim=1)


def _keep_last_position(residual: Tensor, hook: object) -> Tensor:
    return residual[:, -1:]
