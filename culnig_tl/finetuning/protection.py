"""Neurons whose own weights stay as they are while the rest of their modules is trained.

A neuron's own weights are what makes it, and what it makes:

| neuron of | stays |
|---|---|
| ``mlp.hook_post``, ``hook_pre``, ``hook_pre_linear`` | its rows of gate and up, column of down |
| ``attn.hook_q``, ``hook_k``, ``hook_v`` | its row of the query, key or value projection |

with the entry of a bias where there is one; in a fused layer these are the rows of that part. Their
gradient is 0, and after every step of any optimizer they are written back, since weight decay and
momentum move what has no gradient. What other neurons share with them (norms, the embedding, the
output projection of an attention) is not protected.

LoRA adds ``B A`` to a matrix: rows of ``B`` and columns of ``A`` are held at 0 instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedModel

from culnig_tl.errors import CulnigError, InvalidInputError
from culnig_tl.finetuning.parameters import SITES_OF, known_places
from culnig_tl.models import Place
from culnig_tl.neurons import Listed, NeuronSet
from culnig_tl.sites import SITES

Owned = tuple[Place, Tensor]
"""A linear layer's place, and the channels of it that are some neurons' own."""


class MovedWeightsError(CulnigError, RuntimeError):
    """Weights that were to stay as they are have other bits."""


@dataclass(frozen=True, eq=False)
class Held:
    """Entries of one weight along one axis, and the values that they keep.

    Attributes:
        name: of the weight, as transformers names it.
        weight: the weight itself.
        axis: which axis ``index`` counts.
        index: the rows or columns that stay.
        values: what they hold.
    """

    name: str
    weight: nn.Parameter
    axis: int
    index: Int[Tensor, "neuron"]
    values: Shaped[Tensor, "..."]

    @classmethod
    def of(cls, name: str, weight: nn.Parameter, axis: int, index: Tensor) -> "Held":
        """These entries, with the values that they have now."""
        index = index.to(weight.device)
        return cls(name, weight, axis, index, weight.detach().index_select(axis, index))

    def is_as_it_was(self) -> bool:
        """Whether every bit is the same."""
        now = self.weight.detach().index_select(self.axis, self.index.to(self.weight.device))
        return torch.equal(as_bytes(now), as_bytes(self.values.to(now.device)))

    def write_back(self) -> None:
        """Give the entries their values again."""
        place = self.weight.device
        with torch.no_grad():
            self.weight.index_copy_(self.axis, self.index.to(place), self.values.to(place))

    def without_gradient(self, gradient: Tensor) -> Tensor:
        """A gradient of the weight that leaves the entries alone."""
        return gradient.index_fill(self.axis, self.index.to(gradient.device), 0)


@dataclass(frozen=True, eq=False)
class Protection:
    """Inside ``with``, no optimizer moves these entries; leaving it without an error checks them.

    Attributes:
        held: the entries, weight by weight.
    """

    held: tuple[Held, ...]
    _handles: list[Any] = field(default_factory=list, repr=False)

    def __enter__(self) -> "Protection":
        for each in self.held:
            if each.weight.requires_grad:
                self._handles.append(each.weight.register_hook(each.without_gradient))
        self._handles.append(register_optimizer_step_post_hook(self._after_step))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        if kind is None:
            self.check()

    def restore(self) -> None:
        """Write every entry back, bit for bit."""
        for each in self.held:
            each.write_back()

    def check(self) -> None:
        """Refuse entries that are not as they were.

        Raises:
            MovedWeightsError: some have moved; they are counted.
        """
        moved = [each.name for each in self.held if not each.is_as_it_was()]
        if moved:
            raise MovedWeightsError(
                f"Protected rows or columns of {len(moved)} of {len(self.held)} weights have moved "
                f"(the first is {moved[0]}): something other than an optimizer of torch wrote "
                "them; call restore() after it."
            )

    def _after_step(self, *_: object) -> None:
        self.restore()


def protect(model: PreTrainedModel, neurons: NeuronSet | Listed) -> Protection:
    """Hold these neurons' own weights while a transformers model is trained inside ``with``.

    Args:
        model: the model, as transformers made it; what is to be trained of it requires gradients.
        neurons: the neurons to protect, in any form that ``NeuronSet.of`` takes.

    Returns:
        A context: inside it gradients of these rows and columns are 0 and every optimizer's step
        is followed by writing them back; leaving it checks that no bit has moved.

    Raises:
        InvalidInputError: neurons that this model does not have, or whose place is not known.
        MovedWeightsError: on leaving, if something else than an optimizer moved them.

    Example:
        >>> from culnig_tl.models import read_plain
        >>> model, tokenizer = read_plain("atlas")
        >>> down = model.model.layers[3].mlp.down_proj.weight.requires_grad_()
        >>> before = down.detach().clone()
        >>> with protect(model, "L3.mlp.hook_post.17"):
        ...     optimizer = torch.optim.AdamW([down], lr=0.1, weight_decay=0.1)
        ...     model(torch.tensor([[5, 6, 7]])).logits.square().mean().backward()
        ...     optimizer.step()
        >>> (down == before).all(0).nonzero().tolist()
        [[17]]
    """
    return Protection(
        tuple(
            Held.of(name, weight, axis, index)
            for place, index in places_of(model, NeuronSet.of(neurons))
            for name, weight, axis in _weights_of(model, place)
        )
    )


def protect_adapter(hf_model: PreTrainedModel, places: Sequence[Owned]) -> Protection:
    """The same for LoRA: what it adds to these rows and columns is 0, and stays 0.

    Args:
        hf_model: the transformers model whose layers peft has wrapped.
        places: what ``places_of`` said of it before.
    """
    held = []
    for place, index in places:
        layer: Any = hf_model.get_submodule(place.module)
        if hasattr(layer, "lora_A"):
            part, axis = ("lora_B", 0) if place.side == "output" else ("lora_A", 1)
            weight = getattr(layer, part)["default"].weight
            with torch.no_grad():
                weight.index_fill_(axis, index.to(weight.device), 0)
            held.append(Held.of(f"{place.module}.{part}", weight, axis, index))
    return Protection(tuple(held))


def places_of(hf_model: PreTrainedModel, neurons: NeuronSet) -> list[Owned]:
    """The linear layers of a plain transformers model with the channels that neurons own there.

    Raises:
        InvalidInputError: neurons that this model does not have, or whose place is not known.
    """
    owned = []
    for sites, indices in _by_layer(neurons).items():
        places = known_places(hf_model, sites)
        for layer, index in indices.items():
            for site, of_layers in places.items():
                _check_index(site, layer, max(index), of_layers)
                place = of_layers[layer]
                owned.append((place, place.channels[sorted(index)]))
    return owned


def _by_layer(neurons: NeuronSet) -> dict[tuple[str, ...], dict[int, set[int]]]:
    """Numbers of neurons by the sites that share them, and by layer."""
    grouped: dict[tuple[str, ...], dict[int, set[int]]] = {}
    for neuron in neurons:
        is_mlp = neuron.site in SITES and SITES[neuron.site].pool == "mlp"
        sites = SITES_OF["mlp"] if is_mlp else (neuron.site,)
        grouped.setdefault(sites, {}).setdefault(neuron.layer, set()).add(neuron.index)
    return grouped


def _check_index(site: str, layer: int, index: int, of_layers: Sequence[Place]) -> None:
    width = len(of_layers[0].channels)
    if layer >= len(of_layers) or index >= width:
        raise InvalidInputError(
            f"L{layer}.{site}.{index} is no neuron of this model, which has {len(of_layers)} "
            f"layers of {width} neurons there; give neurons that were found in this model."
        )


def _weights_of(hf_model: PreTrainedModel, place: Place) -> Iterator[tuple[str, Any, int]]:
    """Name, weight and axis of what a place's channels count; a bias belongs to outputs."""
    layer: Any = hf_model.get_submodule(place.module)
    yield f"{place.module}.weight", layer.weight, place.axis
    if place.side == "output" and layer.bias is not None:
        yield f"{place.module}.bias", layer.bias, 0


def as_bytes(values: Tensor) -> Tensor:
    """The bytes of values: -0.0 is not 0.0, and NaN is NaN."""
    return values.contiguous().view(-1).view(torch.uint8)
