"""The one intervention: a factor that multiplies neurons at hook points.

For a neuron with activation ``a`` (see ``sites``) the intervention is

    a  ->  factor * a        factor 0 suppresses, 1 keeps, 2 enhances

at every position, or at the last one. The model changes only inside the ``with`` block; meanwhile
other threads that scale, score or ask it wait (see ``hooked_model``). A plain ``model(tokens)`` in
another thread does not wait, and sees the hooks.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_choice, check_kind, check_number
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Listed, Neuron, NeuronSet
from culnig_tl.sites import hook_name, site_shape

Positions = Literal["all", "last"]


@contextmanager
def scaled_neurons(
    model: HookedModel,
    neurons: NeuronSet | Listed,
    *,
    factor: float = 0.0,
    positions: Positions = "all",
) -> Iterator[HookedModel]:
    """Multiply the activations of ``neurons`` by ``factor`` inside a ``with`` block.

    Args:
        model: any model with named hook points.
        neurons: a set, or neurons by value or name.
        factor: 0 suppresses, 1 keeps, 2 enhances; any finite number is allowed.
        positions: every position, or only the last one.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: a neuron outside the model, a set chosen on a model of other shape, or a
            factor that is no finite number of the model's type.

    Warns:
        UserWarning: a set chosen on another model of the same shape.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> with scaled_neurons(model, "L1.mlp.hook_post.17", factor=0.0):
        ...     logits = model("What is the usual staple food?")
    """
    check_choice("positions", positions, get_args(Positions))
    neurons = NeuronSet.of(neurons)
    check_same_model(model, neurons)
    check_intervention(model, [neurons], factor)
    fwd_hooks = [
        (hook_name(site, layer), partial(_scale, multiplier=multiplier, positions=positions))
        for site in neurons.sites
        for layer, multiplier in _multipliers(model, neurons, site, factor).items()
    ]
    with hooked(model, fwd_hooks):
        yield model


def check_intervention(model: HookedModel, sets: Iterable[NeuronSet], factor: float) -> None:
    """Refuse neurons outside this model, and a factor that its activations cannot hold.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: such a neuron or factor.

    Example:
        >>> import culnig_tl as ct
        >>> check_intervention(ct.load_model(), [ct.answer_key("general")], 0.5)
    """
    check_number("factor", factor)
    most = torch.finfo(model.cfg.dtype).max
    check_number("factor", factor, low=-most, high=most)
    for neurons in sets:
        check_kind("a set", neurons, NeuronSet, "a NeuronSet, as NeuronSet.of(...)")
        for site in neurons.sites:
            n_layers, width = site_shape(model, site)
            for layer, neuron in neurons[site]:
                if type(layer) is not int or type(neuron) is not int:  # of a set made by hand
                    Neuron.of((site, layer, neuron))
                if not (0 <= layer < n_layers and 0 <= neuron < width):
                    raise InvalidInputError(
                        f"Neuron {neuron} of layer {layer} at {site} is outside this model, which "
                        f"has {n_layers} layers of {width} neurons there; use neurons selected on "
                        "this model."
                    )


def check_same_model(model: HookedModel, neurons: NeuronSet) -> None:
    """Refuse a set that was chosen on a model of another shape; warn if only the weights differ.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: another shape.
    """
    for site in neurons.sites:
        shape = site_shape(model, site)
        if neurons.shapes.get(site, shape) != shape:
            theirs, ours = (
                "{} layers of {}".format(*each) for each in (neurons.shapes[site], shape)
            )
            raise InvalidInputError(
                f"These neurons were chosen on another model, with {theirs} neurons at {site}; "
                f"this one has {ours}. Select neurons on this model."
            )
    origin = neurons.source.get("model")
    if origin is not None and len(neurons) and origin != model_fingerprint(model, thorough=False):
        name = neurons.source.get("model_name", "another model")
        warnings.warn(
            f"These neurons were chosen on {name} with other weights, settings or tokenizer "
            f"than {model.cfg.model_name} has here; a neuron's number means something else there.",
            UserWarning,
            stacklevel=4,
        )


def _multipliers(
    model: HookedModel, neurons: NeuronSet, site: str, factor: float
) -> dict[int, Float[Tensor, "neuron"]]:
    _, width = site_shape(model, site)
    by_layer: dict[int, list[int]] = {}
    for layer, neuron in neurons[site]:
        by_layer.setdefault(layer, []).append(neuron)
    multipliers: dict[int, Tensor] = {}
    for layer, indices in by_layer.items():
        multipliers[layer] = torch.ones(width, device=model.cfg.device, dtype=model.cfg.dtype)
        multipliers[layer][indices] = factor
    return multipliers


def _scale(activation: Tensor, hook: object, *, multiplier: Tensor, positions: Positions) -> Tensor:
    shaped = multiplier.to(activation).view(activation.shape[2:])
    if positions == "all":
        return activation * shaped
    return torch.cat([activation[:, :-1], activation[:, -1:] * shaped], dim=1)
