"""The one intervention on a plain transformers model, by hooks on its own linear layers.

    a  ->  factor * a        at every position, for the neurons of a set

A neuron's activation is one channel of what a linear layer takes or gives (see ``find_places``), so
that a pre-hook or a hook on that layer multiplies it where ``scaled_neurons`` does on a model with
hook points. Works wherever the layers themselves are called: ``generate``, gradients, a model
spread over devices. Blocks may be nested, factors then multiply, and an exception leaves no hook
behind. Unlike a model with hook points, a plain one makes no other thread wait.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.models import Place, find_places
from culnig_tl.neurons import Listed, NeuronSet


@dataclass(frozen=True, eq=False)
class ScaledChannels:
    """Neurons of one site and layer, as channels of a linear layer.

    Attributes:
        place: where all neurons of the site and layer are.
        channels: those of the set's neurons.
    """

    place: Place
    channels: Int[Tensor, "neuron"]


@contextmanager
def scaled_modules(
    hf_model: PreTrainedModel, neurons: NeuronSet | Listed, *, factor: float = 0.0
) -> Iterator[PreTrainedModel]:
    """Multiply the activations of ``neurons`` by ``factor`` inside a ``with`` block.

    Args:
        hf_model: a decoder-only model of transformers, as transformers made it.
        neurons: a set, or neurons by value or name.
        factor: 0 suppresses, 1 keeps, 2 enhances; any finite number is allowed.

    Raises:
        InvalidInputError: a site whose place in this model is not known, a neuron outside the
            model, a set chosen on a model of other shape, or a factor that is no finite number of
            the model's type.

    Example:
        >>> from transformers import AutoModelForCausalLM
        >>> from culnig_tl.atlas import EMBEDDED
        >>> hf_model = AutoModelForCausalLM.from_pretrained(EMBEDDED["atlas"])
        >>> with scaled_modules(hf_model, "L1.mlp.hook_post.17", factor=0.0):
        ...     logits = hf_model(torch.tensor([[5, 6, 7]])).logits
    """
    check_factor(factor, hf_model)
    with hooks_on(hf_model, channels_of(hf_model, neurons), factor):
        yield hf_model


def channels_of(
    hf_model: PreTrainedModel, neurons: NeuronSet | Listed
) -> tuple[ScaledChannels, ...]:
    """Where the neurons of a set are in a model, one entry per site and layer.

    Raises:
        InvalidInputError: a site whose place in this model is not known, a neuron outside the
            model, or a set chosen on a model of other shape.

    Example:
        >>> from culnig_tl.atlas import EMBEDDED
        >>> from transformers import AutoModelForCausalLM
        >>> hf_model = AutoModelForCausalLM.from_pretrained(EMBEDDED["atlas"])
        >>> channels_of(hf_model, "L1.mlp.hook_post.17")[0].place.module
        'model.layers.1.mlp.down_proj'
    """
    neurons = NeuronSet.of(neurons)
    places = find_places(hf_model, neurons.sites)
    return tuple(
        ScaledChannels(places[site][layer], places[site][layer].channels[indices])
        for site in neurons.sites
        for layer, indices in _by_layer(neurons, site, places[site]).items()
    )


@contextmanager
def hooks_on(
    hf_model: PreTrainedModel, scaled: Iterable[ScaledChannels], factor: float
) -> Iterator[None]:
    """Inside, these channels are multiplied."""
    with ExitStack() as stack:
        for each in scaled:
            module: nn.Module = hf_model.get_submodule(each.place.module)
            if each.place.side == "input":
                scale = partial(_scale_input, channels=each.channels, factor=factor)
                handle = module.register_forward_pre_hook(scale)
            else:
                scale = partial(_scale_output, channels=each.channels, factor=factor)
                handle = module.register_forward_hook(scale)
            stack.callback(handle.remove)
        yield


def check_factor(factor: float, hf_model: PreTrainedModel) -> None:
    """Refuse a factor that is no finite number of the model's type."""
    check_number("factor", factor)
    most = torch.finfo(hf_model.dtype).max
    check_number("factor", factor, low=-most, high=most)


def _by_layer(neurons: NeuronSet, site: str, places: Sequence[Place]) -> dict[int, list[int]]:
    shape = (len(places), len(places[0].channels))
    if neurons.shapes.get(site, shape) != shape:
        theirs, ours = ("{} layers of {}".format(*each) for each in (neurons.shapes[site], shape))
        raise InvalidInputError(
            f"These neurons were chosen on another model, with {theirs} neurons at {site}; this "
            f"one has {ours}. Select neurons on this model."
        )
    by_layer: dict[int, list[int]] = {}
    for layer, index in neurons[site]:
        if not (0 <= layer < shape[0] and 0 <= index < shape[1]):
            raise InvalidInputError(
                f"Neuron {index} of layer {layer} at {site} is outside this model, which has "
                f"{shape[0]} layers of {shape[1]} neurons there; use neurons selected on this "
                "model."
            )
        by_layer.setdefault(layer, []).append(index)
    return by_layer


def _scale_input(
    module: nn.Module, inputs: tuple[Any, ...], *, channels: Tensor, factor: float
) -> tuple[Any, ...]:
    return (_scaled(inputs[0], channels, factor), *inputs[1:])


def _scale_output(
    module: nn.Module, inputs: Any, output: Tensor, *, channels: Tensor, factor: float
) -> Tensor:
    return _scaled(output, channels, factor)


def _scaled(
    activation: Float[Tensor, "*batch channel"], channels: Int[Tensor, "neuron"], factor: float
) -> Float[Tensor, "*batch channel"]:
    multiplier = activation.new_ones(activation.shape[-1])
    multiplier[channels.to(activation.device)] = factor
    return activation * multiplier
