"""What a neuron writes: the tokens that its output direction promotes and demotes.

A neuron's *output direction* ``d`` is what one unit of its activation adds to the residual stream:
``W_out[n]`` at ``mlp.hook_post``; at ``attn.hook_v`` the sum of ``W_O`` over the heads that read
the value (several under grouped-query attention), which is what is added where all of them attend
to that position only. At ``mlp.hook_pre`` and ``mlp.hook_pre_linear`` it is ``W_out[n]`` too, but
how far and with which sign depends on the other one. Queries and keys steer attention and write
nothing themselves.

    effect on logits = (d * w) @ W_U

with ``w`` the weights of the final norm (LayerNorm: ``d`` minus its mean): the change of each logit
where the residual stream has a root mean square of 1. The norm's division by that size depends on
the prompt and only scales all effects; later layers that read what the neuron writes are not seen.
Norms after a block (Gemma) are folded in the same way.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.hooks import HookedModel, site_shape

_MLP_NOTES = {
    "mlp.hook_post": "W_out of this neuron.",
    "mlp.hook_pre": "W_out of this neuron; its activation function and up-projection set the size.",
    "mlp.hook_pre_linear": "W_out of this neuron; its gate sets sign and size.",
}
_STEERING = {
    "attn.hook_q": "a query steers where its head attends",
    "attn.hook_k": "a key steers which positions are attended to",
}


def output_direction(
    model: HookedModel, *, site: str, layer: int, neuron: int
) -> tuple[Float[Tensor, "d_model"] | None, str]:
    """The output direction, and a sentence on what it is (or why there is none).

    Example:
        >>> import culnig_tl as ct
        >>> output_direction(ct.load_model(), site="attn.hook_q", layer=0, neuron=5)
        (None, 'No direct output direction: a query steers where its head attends.')
    """
    if site in _STEERING:
        return None, f"No direct output direction: {_STEERING[site]}."
    block: Any = model.blocks[layer]  # pyright: ignore[reportAttributeAccessIssue]
    if site in _MLP_NOTES:
        return block.mlp.W_out[neuron], _MLP_NOTES[site]
    head, index = divmod(neuron, model.cfg.d_head)
    shared = model.cfg.n_heads * model.cfg.d_head // site_shape(model, site)[1]
    heads = range(head * shared, (head + 1) * shared)
    named = f"head {heads[0]}" if shared == 1 else f"heads {heads[0]} to {heads[-1]}, summed"
    return block.attn.W_O[heads.start : heads.stop, index].sum(0), f"W_O of {named}."


def logit_effects(
    model: HookedModel, direction: Float[Tensor, "d_model"], *, site: str, layer: int
) -> Float[Tensor, "vocab"]:
    """Effect of one unit along ``direction`` on each logit, as stated above, in float32.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> where = {"site": "mlp.hook_post", "layer": 3}
        >>> direction, _ = output_direction(model, neuron=17, **where)
        >>> logit_effects(model, direction, **where).shape == (model.cfg.d_vocab,)
        True
    """
    parts: Any = model
    post_norm = getattr(parts.blocks[layer], "ln2_post" if "mlp" in site else "ln1_post", None)
    for norm in filter(None, (post_norm, parts.ln_final)):
        direction = _through_norm(model, norm, direction)
    origin = torch.zeros_like(direction)
    logits = parts.unembed(torch.stack([direction, origin])[None])[0].float()
    return logits[0] - logits[1]


def _through_norm(
    model: HookedModel, norm: Any, direction: Float[Tensor, "d_model"]
) -> Float[Tensor, "d_model"]:
    """The linear part of a norm: centred (LayerNorm) and times its weights, not divided."""
    if str(model.cfg.normalization_type).startswith("LN"):
        direction = direction - direction.mean()
    size = direction.float().square().mean().sqrt().to(direction)
    if size == 0:
        return direction
    unit = direction / size  # of root mean square 1, which the norm leaves as it is
    written = norm(torch.stack([unit, torch.zeros_like(unit)])[None])[0]
    return (written[0] - written[1]) * size
