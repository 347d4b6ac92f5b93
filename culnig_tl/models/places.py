"""Where the neurons of a site live in a plain transformers model: a module, its side, its channels.

A site is one side of one linear layer in every block:

| site | side | layer |
|---|---|---|
| ``mlp.hook_post`` | input | the MLP's last (``down_proj``) |
| ``mlp.hook_pre`` | output | the gate or, where there is none, the MLP's first |
| ``mlp.hook_pre_linear`` | output | the up-projection beside a gate |
| ``attn.hook_q``, ``hook_k``, ``hook_v`` | output | the projections, before norm and rotation |
| ``attn.hook_z`` | input | the attention's last (``o_proj``) |

What they are called in an architecture, and how fused ones are cut, is read from TransformerLens'
adapter of that architecture. A fused layer's cut is found by letting the adapter cut a matrix whose
entries are the numbers of its own channels. The model is neither changed nor run, and may be on the
meta device.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from culnig_tl.errors import InvalidInputError
from culnig_tl.models.checkpoint import one_line
from culnig_tl.models.library import same_root_logger
from culnig_tl.sites import SITES

Side = Literal["input", "output"]


@dataclass(frozen=True, eq=False)
class Place:
    """Where the neurons of one site and layer are.

    Attributes:
        module: dotted name of the linear layer, for ``hf_model.get_submodule``.
        side: whether the neurons' activations are what the layer takes or what it gives.
        channels: entry of that side's last axis by neuron; a fused layer has others between them.
        axis: the axis of ``module.weight`` that the channels count; a bias belongs to outputs.

    Example:
        >>> Place("model.layers.0.mlp.down_proj", "input", torch.arange(512), axis=1).axis
        1
    """

    module: str
    side: Side
    channels: Int[Tensor, "neuron"]
    axis: int


def find_places(hf_model: nn.Module, sites: Sequence[str]) -> dict[str, tuple[Place, ...]]:
    """The place of every layer's neurons, by site.

    Args:
        hf_model: a decoder-only model of transformers, as transformers made it.
        sites: names of sites.

    Raises:
        InvalidInputError: what is no such model, or a site whose place in it is not known.

    Example:
        >>> from transformers import AutoModelForCausalLM, LlamaConfig
        >>> config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=24,
        ...                      num_hidden_layers=2, num_attention_heads=2)
        >>> with torch.device("meta"):
        ...     hf_model = AutoModelForCausalLM.from_config(config)
        >>> find_places(hf_model, ["mlp.hook_post"])["mlp.hook_post"][1].module
        'model.layers.1.mlp.down_proj'
    """
    config, blocks, n_layers = _adapter(hf_model, sites)
    finder = _Finder(hf_model, blocks, config)
    return {site: tuple(finder.find(site, layer) for layer in range(n_layers)) for site in sites}


@same_root_logger()
def _adapter(hf_model: Any, sites: Sequence[str]) -> tuple[Any, Any, int]:
    """What TransformerLens knows of a model: sizes, components of its blocks and their number."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

    if not isinstance(hf_model, PreTrainedModel):
        raise InvalidInputError(
            f"{type(hf_model).__name__} is no model of transformers; give one that "
            "AutoModelForCausalLM.from_pretrained returned, and scaled_neurons any other."
        )
    family = type(hf_model).__name__
    try:
        config = build_bridge_config_from_hf(hf_model.config, family, family, hf_model.dtype)
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
        blocks: Any = adapter.get_component_mapping()["blocks"]
        layers: Any = hf_model.get_submodule(blocks.name)
        return adapter.cfg, blocks, len(layers)
    except Exception as error:  # an adapter's asserts, attributes, keys
        raise InvalidInputError(
            f"Where {', '.join(sites)} is in a {family} is not known ({one_line(error)}); take a "
            "decoder-only language model that TransformerLens supports."
        ) from error


_PLACES: Mapping[str, tuple[str, tuple[str, ...], Side]] = {
    "mlp.hook_post": ("mlp", ("out",), "input"),
    "mlp.hook_pre": ("mlp", ("gate", "in"), "output"),
    "mlp.hook_pre_linear": ("mlp", ("in",), "output"),
    "attn.hook_q": ("attn", ("q",), "output"),
    "attn.hook_k": ("attn", ("k",), "output"),
    "attn.hook_v": ("attn", ("v",), "output"),
    "attn.hook_z": ("attn", ("o",), "input"),
}
"""Part of a block, its component (the first that there is) and the component's side."""
_NEEDED = {
    "mlp.hook_post": ("in", "out"),
    "mlp.hook_pre": ("in", "out"),
    "mlp.hook_pre_linear": ("gate", "in", "out"),
}
"""Components that tell an MLP from a mixture of experts, whose router is a gate too."""


class _Finder:
    """Looks places up in one model; a cut is made once for all layers of the same shape."""

    def __init__(self, hf_model: nn.Module, blocks: Any, config: Any) -> None:
        self._model = hf_model
        self._blocks = blocks
        self._config = config
        self._cuts: dict[tuple[str, int, int], tuple[Tensor, ...]] = {}

    def find(self, site: str, layer: int) -> Place:
        family = type(self._model).__name__
        try:
            place = self._place(site, layer)
        except Exception as error:  # an adapter's asserts, attributes, shapes
            raise self._unknown(site, layer, one_line(error)) from error
        expected = self._width(site, layer)
        if len(place.channels) != expected:
            reason = f"{place.module} of this {family} has {len(place.channels)} channels there, "
            raise self._unknown(site, layer, f"{reason}expected {expected}")
        return place

    def _place(self, site: str, layer: int) -> Place:
        part, components, side = _PLACES[site]
        owner = self._blocks.submodules[part]
        needed = _NEEDED.get(site, components[-1:])
        if not owner.submodules.keys() >= set(needed):
            raise ValueError(f"its {type(owner).__name__} has no layer of its own for it")
        component = next(name for name in components if name in owner.submodules)
        name = ".".join(filter(None, (self._blocks.name, str(layer), owner.name)))
        fused, number = self._fused(owner, component)
        module = f"{name}.{fused or owner.submodules[component].name}"
        linear = self._linear(module)
        axis = int(isinstance(linear, Conv1D) == (side == "output"))
        if fused:
            return Place(module, side, self._cut(owner, name, fused)[number], axis)
        return Place(module, side, torch.arange(_size(linear, side), device="cpu"), axis)

    def _linear(self, name: str) -> Any:
        linear = self._model.get_submodule(name)
        if not isinstance(linear, nn.Linear | Conv1D):
            raise TypeError(f"{name} is a {type(linear).__name__}, no linear layer")
        return linear

    def _fused(self, owner: Any, component: str) -> tuple[str, int]:
        """The fused layer that a component is cut from, as which part; "" for a layer alone."""
        if component in ("q", "k", "v") and hasattr(owner, "split_qkv_matrix"):
            return owner.submodules["qkv"].name, "qkv".index(component)
        if component in ("gate", "in") and hasattr(owner, "split_gate_up_matrix"):
            return owner.fused_attr, ("gate", "in").index(component)
        return "", 0

    def _cut(self, owner: Any, name: str, fused: str) -> tuple[Tensor, ...]:
        """Channels of each part of a fused layer."""
        module, linear = self._model.get_submodule(name), self._linear(f"{name}.{fused}")
        key = (fused, _size(linear, "output"), _size(linear, "input"))
        if key not in self._cuts:
            cut = getattr(owner, "split_qkv_matrix", None) or owner.split_gate_up_matrix
            numbered = _with_module(module, fused, _numbered(linear))
            with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
                self._cuts[key] = tuple(part.weight[:, 0].long() for part in cut(numbered))
        return self._cuts[key]

    def _width(self, site: str, layer: int) -> int:
        """Neurons that the site has if the layer is what the table above says."""
        if site.startswith("mlp."):
            return len(self._place("mlp.hook_post", layer).channels)
        of_queries = site in ("attn.hook_q", "attn.hook_z")
        return SITES["attn.hook_q" if of_queries else site].width(self._config)

    def _unknown(self, site: str, layer: int, reason: str) -> InvalidInputError:
        family = type(self._model).__name__
        known = f"places of {', '.join(_PLACES)} are known" if site not in _PLACES else reason
        return InvalidInputError(
            f"Where {site} of layer {layer} is in a {family} is not known ({known}); leave these "
            "neurons out, or load the model by load_model and take scaled_neurons."
        )


def _size(linear: Any, side: Side) -> int:
    """Channels of one side; the weights of a quantised layer have other shapes."""
    if isinstance(linear, Conv1D):
        return linear.nx if side == "input" else linear.nf
    return linear.in_features if side == "input" else linear.out_features


def _numbered(linear: Any) -> Any:
    """A copy of a linear layer whose weights are the numbers of the outputs that they make."""
    n_inputs, n_outputs = _size(linear, "input"), _size(linear, "output")
    numbers = torch.arange(n_outputs, dtype=torch.float32, device="cpu")
    weights = numbers.expand(n_inputs, n_outputs)
    weights = weights if isinstance(linear, Conv1D) else weights.T
    shell = copy.copy(linear)
    shell._parameters = {
        "weight": nn.Parameter(weights, requires_grad=False),
        "bias": None if linear.bias is None else nn.Parameter(numbers, requires_grad=False),
    }
    return shell


def _with_module(module: nn.Module, name: str, replacement: nn.Module) -> nn.Module:
    """A copy of a module, all of it shared but for one module within."""
    shell = copy.copy(module)
    shell._modules = {**module._modules, name: replacement}
    return shell
