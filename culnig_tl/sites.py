"""Sites: the hook points whose entries are called neurons, and all that is known about each.

A *site* is the hook point of one module in every layer: ``mlp.hook_post`` stands for
``blocks.0.mlp.hook_post``, ``blocks.1.mlp.hook_post``, ...; a neuron is one entry of its last axis
(attention hooks are flattened head-major, ``neuron = head * d_head + index``).

| site | plain name | published name | output direction |
|---|---|---|---|
| ``mlp.hook_post`` (default) | MLP output | (input of down_proj) | ``W_out[n]`` |
| ``mlp.hook_pre`` | MLP gate | mlp.gate_proj | ``W_out[n]``, size set by act and up |
| ``mlp.hook_pre_linear`` | MLP up-projection | mlp.up_proj | ``W_out[n]``, size set by the gate |
| ``attn.hook_q``, ``attn.hook_k`` | q, k | self_attn.q_proj, k_proj | none: they steer |
| ``attn.hook_v`` | v | self_attn.v_proj | ``W_O`` summed over the heads that read it |

Published sites are those of arXiv 2510.08284. With SiLU or GELU and no bias, setting ``hook_pre``
or ``hook_post`` to zero is the same intervention; doubling them is not.

A model may name a hook point that sees no such neurons: some hook points of a bridge are never
called, some see a tensor that nothing goes on to use, and those of a mixture of experts see the
residual stream; latent attention has its queries by head, then position, which is no neuron's
axis. ``measure_sites`` therefore runs a prompt of a few tokens, once per model, and keeps
what it finds; ``prepare`` takes this step before any pass, and ``site_shape`` looks it up.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, UnknownNameError, check_kind
from culnig_tl.hooked_model import HookedModel, check_model, hooked

PoolName = Literal["mlp", "attention"]
Direction = Callable[[Any, int, int], tuple[Float[Tensor, "d_model"] | None, str]]
"""(model, layer, neuron) -> output direction, and a sentence on what it is or why there is none."""


@dataclass(frozen=True)
class Site:
    """Everything that is known about a hook point of one module in every layer.

    Attributes:
        name: the hook point within a layer; attributions, sets and files are keyed by it.
        pool: ranked together with the other sites of this pool.
        plain_name: what a page calls it.
        width: number of neurons per layer, from ``model.cfg``.
        output_direction: what one unit of a neuron's activation adds to the residual stream.
        module: the module's name in the authors' code; None where they have none.
        same_neurons_as: the site whose neurons these are under another name.
        selectable: whether selection may take its neurons.

    Example:
        >>> SITES["mlp.hook_post"].plain_name
        'MLP output'
    """

    name: str
    pool: PoolName
    plain_name: str
    width: Callable[[Any], int]
    output_direction: Direction
    module: str | None = None
    same_neurons_as: str | None = None
    selectable: bool = True


def no_direction(reason: str) -> Direction:
    """For neurons that write nothing into the residual stream themselves.

    Example:
        >>> no_direction("a query steers where its head attends")(None, 0, 5)
        (None, 'No direct output direction: a query steers where its head attends.')
    """
    return lambda model, layer, neuron: (None, f"No direct output direction: {reason}.")


def _mlp_direction(note: str) -> Direction:
    return lambda model, layer, neuron: (model.blocks[layer].mlp.W_out[neuron], note)


def _value_direction(model: Any, layer: int, neuron: int) -> tuple[Tensor, str]:
    """The sum of ``W_O`` over the heads that read a value: what is added where all of them attend
    to that position only."""
    head, index = divmod(neuron, model.cfg.d_head)
    n_readers = model.cfg.n_heads * model.cfg.d_head // _key_value_width(model.cfg)
    heads = range(head * n_readers, (head + 1) * n_readers)
    names = f"head {heads[0]}" if n_readers == 1 else f"heads {heads[0]} to {heads[-1]}, summed"
    weights = model.blocks[layer].attn.W_O[heads.start : heads.stop, index]
    return weights.sum(0), f"W_O of {names}."


def _mlp_width(config: Any) -> int:
    return config.d_mlp


def _query_width(config: Any) -> int:
    return config.n_heads * config.d_head


def _key_value_width(config: Any) -> int:
    return (getattr(config, "n_key_value_heads", None) or config.n_heads) * config.d_head


SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site(
            "mlp.hook_post",
            "mlp",
            "MLP output",
            _mlp_width,
            _mlp_direction("W_out of this neuron."),
        ),
        Site(
            "mlp.hook_pre",
            "mlp",
            "MLP gate",
            _mlp_width,
            _mlp_direction(
                "W_out of this neuron; its activation function and up-projection set the size."
            ),
            module="mlp.gate_proj",
            same_neurons_as="mlp.hook_post",
        ),
        Site(
            "mlp.hook_pre_linear",
            "mlp",
            "MLP up-projection",
            _mlp_width,
            _mlp_direction("W_out of this neuron; its gate sets sign and size."),
            module="mlp.up_proj",
            same_neurons_as="mlp.hook_post",
            selectable=False,
        ),
        Site(
            "attn.hook_q",
            "attention",
            "q",
            _query_width,
            no_direction("a query steers where its head attends"),
            module="self_attn.q_proj",
        ),
        Site(
            "attn.hook_k",
            "attention",
            "k",
            _key_value_width,
            no_direction("a key steers which positions are attended to"),
            module="self_attn.k_proj",
        ),
        Site(
            "attn.hook_v",
            "attention",
            "v",
            _key_value_width,
            _value_direction,
            module="self_attn.v_proj",
        ),
    )
}
"""Every known site by name; ``register`` adds to it."""

_ATTENTION = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
DEFAULT_SITES = ("mlp.hook_post", *_ATTENTION)
PAPER_SITES = ("mlp.hook_pre", *_ATTENTION)


def register(site: Site) -> Site:
    """Make a site known under its name: from then on every function takes it.

    Raises:
        InvalidInputError: another site has this name.

    Example:
        >>> register(SITES["attn.hook_q"]).name
        'attn.hook_q'
    """
    if SITES.setdefault(site.name, site) != site:
        raise InvalidInputError(
            f"There is another site {site.name!r} already; give yours the name of its own hook "
            "point."
        )
    return site


def site_named(name: str) -> Site:
    """The site of a name.

    Raises:
        UnknownNameError: there is none.

    Example:
        >>> site_named("attn.hook_v").plain_name
        'v'
    """
    if name not in SITES:
        raise UnknownNameError(
            f"{name!r} is not a known site; the known ones are {', '.join(SITES)}. A hook point of "
            "your own becomes one by culnig_tl.sites.register(Site(...))."
        )
    return SITES[name]


def hook_name(site: str, layer: int) -> str:
    """Full name of the hook point of ``site`` in ``layer``."""
    return f"blocks.{layer}.{site}"


def site_shape(model: HookedModel, site: str) -> tuple[int, int]:
    """Number of layers and of neurons per layer at ``site``.

    Raises:
        UnknownNameError: the site is unknown, or this model has no such neurons.
        InvalidInputError: a bridge in compatibility mode.

    Example:
        >>> import culnig_tl as ct
        >>> site_shape(ct.load_model(), "mlp.hook_post")
        (4, 512)
    """
    shapes = measure_sites(model)
    check_kind("a site", site, str, "its name, e.g. 'mlp.hook_post'")
    if site not in shapes:
        raise UnknownNameError(
            f"{site!r} is not a site of this model{_why_not(model, site)}; "
            f"it has {', '.join(shapes) or 'none'}."
        )
    return shapes[site]


def _why_not(model: HookedModel, site: str) -> str:
    n_experts = getattr(model.cfg, "num_experts", 0)
    if n_experts and site in SITES and SITES[site].pool == "mlp":
        return f" (its MLPs are mixtures of {n_experts} experts, whose neurons are no site)"
    is_named = hook_name(site, 0) in model.hook_dict
    return " (its hook point of that name sees no such neurons)" if is_named else ""


def layers_of(model: HookedModel, sites: Sequence[str]) -> dict[str, range]:
    """All layers of each site.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: no site.
    """
    check_kind("sites", sites, Sequence, "a list of sites, e.g. ['mlp.hook_post']")
    if not sites:
        raise InvalidInputError("There is no site to score; name at least one, e.g. mlp.hook_post.")
    return {site: range(site_shape(model, site)[0]) for site in sites}


def measure_sites(model: HookedModel) -> dict[str, tuple[int, int]]:
    """Layers and neurons per layer of every known site that this model truly has.

    Runs the model on a prompt of a few tokens the first time, and again once sites were registered.

    Raises:
        InvalidInputError: a bridge in compatibility mode.

    Example:
        >>> import culnig_tl as ct
        >>> measure_sites(ct.load_model())["attn.hook_k"]
        (4, 128)
    """
    check_model(model)
    if getattr(model, "compatibility_mode", False):
        raise InvalidInputError(
            "This TransformerBridge is in compatibility mode, in which gradients of left-padded "
            "prompts are NaN; take the model that load_model returns as it is."
        )
    candidates, shapes = _MEASURED.get(model, ((), {}))
    if candidates != tuple(SITES):
        shapes = {
            name: (model.cfg.n_layers, SITES[name].width(model.cfg))
            for name, activations in _used_activations(model).items()
            if _are_neurons(activations, SITES[name], model.cfg)
        }
        _MEASURED[model] = tuple(SITES), shapes
    return shapes


_MEASURED: WeakKeyDictionary[HookedModel, tuple[tuple[str, ...], dict[str, tuple[int, int]]]] = (
    WeakKeyDictionary()
)


def _are_neurons(activations: Sequence[Tensor], site: Site, config: Any) -> bool:
    """Whether every layer has an activation there, by position, of the site's width."""
    shapes = [(*each.shape[:2], each.shape[2:].numel()) for each in activations]
    return shapes == [(1, _n_tokens(config), site.width(config))] * config.n_layers


def _n_tokens(config: Any) -> int:
    """Length of the prompt: no number of heads, so that no axis of heads is taken for it."""
    heads = {config.n_heads, getattr(config, "n_key_value_heads", None)}
    return next(n for n in (2, 3, 4) if n not in heads)


def _used_activations(model: HookedModel) -> dict[str, list[Tensor]]:
    """Activations of every layer at every site that the logits of a few tokens depend on."""
    activations: dict[str, list[Tensor]] = {site: [] for site in SITES}

    def watch(activation: Tensor, hook: object, *, site: str) -> Tensor:
        activations[site].append(activation.view_as(activation))
        return activations[site][-1]

    def start_graph(residual: Tensor, hook: object) -> Tensor:
        return residual.detach().requires_grad_()

    fwd_hooks: list[Any] = [(hook_name("hook_resid_pre", 0), start_graph)]
    for site, layer in itertools.product(SITES, range(model.cfg.n_layers)):
        if hook_name(site, layer) in model.hook_dict:
            fwd_hooks.append((hook_name(site, layer), partial(watch, site=site)))
    tokens = torch.zeros((1, _n_tokens(model.cfg)), dtype=torch.long, device=model.cfg.device)
    with hooked(model, fwd_hooks, gradients=True):
        logits = model(tokens, attention_mask=torch.ones_like(tokens))
        everything = [each for layers in activations.values() for each in layers]
        everything = [each for each in everything if each.requires_grad]
        if not everything:  # a state-space model
            return {site: [] for site in SITES}
        gradients = torch.autograd.grad(logits[:, -1].sum(), everything, allow_unused=True)
    pairs = zip(everything, gradients, strict=True)
    used = {id(activation) for activation, gradient in pairs if gradient is not None}
    return {
        site: [each for each in layers if id(each) in used] for site, layers in activations.items()
    }
