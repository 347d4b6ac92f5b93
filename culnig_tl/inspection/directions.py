"""What a neuron writes: the tokens that its output direction promotes and demotes.

A neuron's *output direction* ``d`` is what one unit of its activation adds to the residual stream;
its site knows it (``Site.output_direction``). At ``mlp.hook_post`` it is ``W_out[n]``; at
``attn.hook_v`` the sum of ``W_O`` over the heads that read the value (several under grouped-query
attention), which is what is added where all of them attend to that position only. At
``mlp.hook_pre`` and ``mlp.hook_pre_linear`` it is ``W_out[n]`` too, but how far and with which sign
depends on the other one. Queries and keys steer attention and write nothing themselves.

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

from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.neurons import Neuron
from culnig_tl.sites import site_named

_NORM_AFTER = {"mlp": "ln2_post", "attention": "ln1_post"}


def output_direction(
    model: HookedModel, neuron: Neuron | str
) -> tuple[Float[Tensor, "d_model"] | None, str]:
    """The output direction, and a sentence on what it is (or why there is none).

    Raises:
        UnknownNameError: a site that nobody knows.

    Example:
        >>> import culnig_tl as ct
        >>> output_direction(ct.load_model(), "L0.attn.hook_q.5")
        (None, 'No direct output direction: a query steers where its head attends.')
    """
    site, layer, index = Neuron.of(neuron)
    return site_named(site).output_direction(model, layer, index)


def logit_effects(
    model: HookedModel, direction: Float[Tensor, "d_model"], *, site: str, layer: int
) -> Float[Tensor, "vocab"]:
    """Effect of one unit along ``direction`` on each logit, as stated above, in float32.

    Args:
        model: a model with named hook points.
        direction: what is added to the residual stream.
        site, layer: where it is written, as far as a norm follows there.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> direction, _ = output_direction(model, "L3.mlp.hook_post.17")
        >>> effects = logit_effects(model, direction, site="mlp.hook_post", layer=3)
        >>> effects.shape == (model.cfg.d_vocab,)
        True
    """
    parts: Any = model
    post_norm = getattr(parts.blocks[layer], _NORM_AFTER[site_named(site).pool], None)
    with hooked(model, gradients=False):
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
