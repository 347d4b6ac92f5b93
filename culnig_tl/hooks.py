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

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal, Protocol, get_args, runtime_checkable

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
        UnknownNameError: the site is unknown, or this model has no such hook point.

    Example:
        >>> import culnig_tl as ct
        >>> site_shape(ct.load_model(), "mlp.hook_post")
        (4, 512)
    """
    present = [known for known in MLP_SITES + ATTENTION_SITES if _has_site(model, known)]
    if site not in present:
        raise UnknownNameError(
            f"{site!r} is not a site of this model; it has {', '.join(present) or 'none'}."
        )
    config = model.cfg
    if site in MLP_SITES:
        return config.n_layers, config.d_mlp
    key_value_heads = getattr(config, "n_key_value_heads", None) or config.n_heads
    heads = config.n_heads if site == "attn.hook_q" else key_value_heads
    return config.n_layers, heads * config.d_head


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
    last_block = hook_name("hook_resid_post", model.cfg.n_layers - 1)
    with model.hooks(fwd_hooks=[(last_block, _keep_last_position)]):
        return model(tokens, attention_mask=mask.long())[:, -1]


def _has_site(model: HookedModel, site: str) -> bool:
    return hook_name(site, 0) in model.hook_dict


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
