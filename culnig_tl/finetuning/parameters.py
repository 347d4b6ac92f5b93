"""The modules of a model and their weight matrices, by the names that transformers gives them.

A *module* is the MLP (``L3.mlp``) or the attention (``L3.attn``) of one layer. Its weights are the
matrices of its linear layers:

| module | weights | its neurons |
|---|---|---|
| MLP | gate, up and down projection, or the first and the last where there is no gate | d_mlp |
| attention | query, key, value and output projection | queries, keys and values |

A fused layer (Phi-3's ``gate_up_proj``, ``qkv_proj``) belongs to its module as a whole. Biases and
norms are left out: the paper updates projections. Which layers these are is read from
TransformerLens' adapters (see ``models/places.py``); experts are no module.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError, UnknownNameError, check_some
from culnig_tl.models import Place, find_places, outline

Kind = Literal["mlp", "attn"]

SITES_OF: dict[Kind, tuple[str, ...]] = {
    "mlp": ("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"),
    "attn": ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z"),
}
_GATED_ALONE = "mlp.hook_pre_linear"


@dataclass(frozen=True)
class Module:
    """One layer's MLP or attention.

    Attributes:
        layer: counted from 0.
        kind: ``"mlp"`` or ``"attn"``.
        neurons: how many neurons it has.
        parameters: how many numbers its weight matrices hold.
        weights: names of these matrices in transformers, in the order in which they are used; none
            of a HookedTransformer, which calls them otherwise.

    Example:
        >>> Module(3, "mlp", neurons=512, parameters=196608).name
        'L3.mlp'
    """

    layer: int
    kind: Kind
    neurons: int
    parameters: int
    weights: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``"L3.mlp"``."""
        return f"L{self.layer}.{self.kind}"


def modules_of(
    hf_model: PreTrainedModel, kinds: Collection[Kind] = ("mlp", "attn")
) -> list[Module]:
    """The modules of a transformers model, layer by layer, MLP first.

    Args:
        hf_model: the model, with its weights or without.
        kinds: which ones.

    Raises:
        InvalidInputError: a model whose linear layers are not known, such as a mixture of experts.

    Example:
        >>> from culnig_tl.models import outline
        >>> [module.name for module in modules_of(outline("atlas"))][:3]
        ['L0.mlp', 'L0.attn', 'L1.mlp']
    """
    present: list[Kind] = [kind for kind in SITES_OF if kind in kinds]
    by_kind: dict[Kind, dict[str, tuple[Place, ...]]] = {
        kind: known_places(hf_model, SITES_OF[kind]) for kind in present
    }
    n_layers = max(len(layers) for places in by_kind.values() for layers in places.values())
    return [
        _module(hf_model, layer, kind, {site: layers[layer] for site, layers in places.items()})
        for layer in range(n_layers)
        for kind, places in by_kind.items()
    ]


def parameter_names(model: PreTrainedModel | str | Path, modules: Sequence[str]) -> list[str]:
    """The weight matrices of modules, as transformers names them.

    Args:
        model: a transformers model, or a name or folder as ``load_model`` takes it; weights are
            not read.
        modules: names such as ``"L3.mlp"`` and ``"L3.attn"``, as ``select_modules`` gives them.

    Returns:
        Names of parameters, in the order of ``modules``. A fused matrix is named once.

    Raises:
        UnknownNameError: a module that this model does not have.
        InvalidInputError: a model whose linear layers are not known, such as a mixture of experts.

    Example:
        >>> parameter_names("atlas", ["L3.mlp"])[0]
        'model.layers.3.mlp.gate_proj.weight'
    """
    check_some("modules", modules)
    hf_model = model if isinstance(model, PreTrainedModel) else outline(model)
    kinds = {name.rpartition(".")[2] for name in modules}
    named_kinds: list[Kind] = [kind for kind in SITES_OF if kind in kinds]
    by_name = (
        {module.name: module for module in modules_of(hf_model, named_kinds)} if named_kinds else {}
    )
    for name in modules:
        if name not in by_name:
            deepest = len(by_name) // max(len(named_kinds), 1) - 1
            ending = f"L0 to L{deepest}" if by_name else "layers counted from 0"
            raise UnknownNameError(
                f"{name!r} is no module of this model; write layer and part as in 'L0.mlp' or "
                f"'L0.attn' ({ending})."
            )
    return list(dict.fromkeys(weight for name in modules for weight in by_name[name].weights))


def known_places(hf_model: PreTrainedModel, sites: Sequence[str]) -> dict[str, tuple[Place, ...]]:
    """The places of sites; an MLP without a gate has no up-projection beside it.

    Raises:
        InvalidInputError: the place of another site is not known.
    """
    places = find_places(hf_model, [site for site in sites if site != _GATED_ALONE])
    if _GATED_ALONE in sites:
        try:
            places |= find_places(hf_model, [_GATED_ALONE])
        except InvalidInputError:  # there is no gate
            return places
    return {site: places[site] for site in sites}


def _module(hf_model: PreTrainedModel, layer: int, kind: Kind, places: dict[str, Place]) -> Module:
    weights = tuple(dict.fromkeys(f"{place.module}.weight" for place in places.values()))
    counted = ["mlp.hook_post"] if kind == "mlp" else list(SITES_OF["attn"][:3])
    return Module(
        layer=layer,
        kind=kind,
        neurons=sum(len(places[site].channels) for site in counted),
        parameters=sum(hf_model.get_parameter(name).numel() for name in weights),
        weights=weights,
    )
