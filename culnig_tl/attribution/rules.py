"""Other backward passes: the answers stay what they are, and gradients follow rules.

A gradient says what an infinitely small change does. Where something saturates or repairs itself
(a norm, a softmax, a gate) that is far from what switching a neuron off does, and these rules
replace the part that misleads:

| rule | forward (unchanged) | gradient |
|---|---|---|
| norm | ``x / scale(x)`` | ``scale`` is a constant |
| identity | ``act(pre)`` | ``act(pre) / pre`` is a constant |
| half | ``act(pre) * linear`` | each factor gets half |
| frozen attention | ``pattern(q, k) v`` | ``pattern`` is a constant |
| softened attention | ``softmax(scores)`` | ``p (g - sum p g)`` with ``p = softmax(scores / 2)`` |
| shares of attention | ``pattern(q, k) v`` | v gets half, q and k a quarter each |

*RelP* (arXiv 2508.21258) is norm, identity and half: layer-wise relevance propagation, of which
gradient x activation is then the relevance; a variant freezes attention. Its authors note that LRP
is patented and free of charge for personal and scientific use only. *GIM* (arXiv 2505.17630) is
norm, half, softened attention and its shares.

The rules are hooks, at hook points that a HookedTransformer has. A bridge computes norms and
attention inside the wrapped model, where no hook changes a gradient; there they are refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.hooked_model import HookedModel
from culnig_tl.sites import hook_name

Hook = tuple[str, Callable[..., Tensor | None]]
_TEMPERATURE = 2.0
_SHARES = {"attn.hook_q": 0.25, "attn.hook_k": 0.25, "attn.hook_v": 0.5}
_SMALLEST = 1e-6  # what stands in for a pre-activation of 0


@dataclass(frozen=True)
class Rules:
    """What a backward pass does otherwise.

    Attributes:
        identity: activation functions are constants times their input.
        attention: ``"gradient"`` as it is, ``"frozen"`` patterns, or ``"softened"``, in shares.
    """

    identity: bool
    attention: Literal["gradient", "frozen", "softened"] = "gradient"

    def check(self, model: HookedModel, method: str) -> None:
        """Refuse a model whose hook points do not carry the gradient.

        Raises:
            InvalidInputError: a bridge, or MLPs without hook points of their own.
        """
        if hasattr(model, "original_model") or hook_name("mlp.hook_pre", 0) not in model.hook_dict:
            raise InvalidInputError(
                f"method is {method!r}, whose rules stand at hook points of a HookedTransformer "
                "that this model does not have; load it with backend='hooked', or take another "
                "method."
            )

    def hooks(self, model: HookedModel) -> tuple[list[Hook], list[Hook]]:
        """Hooks that stand before those that score, and hooks that stand after them: scores are of
        what the latter pass on."""
        before: list[Hook] = [(name, _frozen) for name in model.hook_dict if _is_scale(name)]
        after: list[Hook] = []
        for layer in range(model.cfg.n_layers):
            of_layer = _LayerRules(model, layer)
            before += of_layer.hooks_before(self)
            after += of_layer.hooks_after(self)
        return before, after


RULES: dict[str, Rules] = {
    "relp": Rules(identity=True),
    "relp_frozen_attention": Rules(identity=True, attention="frozen"),
    "gim": Rules(identity=False, attention="softened"),
}
"""The rules of each method, by its name."""


class _LayerRules:
    """The rules of one layer, which need what its other hook points have just seen."""

    def __init__(self, model: Any, layer: int) -> None:
        self._mlp = model.blocks[layer].mlp
        self._is_gated = hook_name("mlp.hook_pre_linear", layer) in model.hook_dict
        self._layer = layer
        self._inputs: dict[str, Tensor] = {}

    def hooks_before(self, rules: Rules) -> list[Hook]:
        """What the layer hands on with another gradient."""
        at: dict[str, list[Callable[..., Tensor]]] = {
            "mlp.hook_post": [self._straight] * rules.identity + [_half] * self._is_gated,
            "attn.hook_pattern": {
                "gradient": [],
                "frozen": [_frozen],
                "softened": [self._softened],
            }[rules.attention],
        }
        return self._named(at)

    def hooks_after(self, rules: Rules) -> list[Hook]:
        """What is remembered for that, and the shares of queries, keys and values."""
        inputs = ("mlp.hook_pre", "mlp.hook_pre_linear", "attn.hook_attn_scores")
        at: dict[str, list[Callable[..., Tensor | None]]] = {
            site: [partial(self._record, site=site)]
            for site in inputs
            if self._is_gated or site != "mlp.hook_pre_linear"
        }
        if rules.attention == "softened":
            at |= {site: [partial(_share, share=share)] for site, share in _SHARES.items()}
        return self._named(at)

    def _named(self, at: Mapping[str, Sequence[Callable[..., Any]]]) -> list[Hook]:
        return [
            (hook_name(site, self._layer), hook) for site, hooks in at.items() for hook in hooks
        ]

    def _record(self, activation: Tensor, hook: object, *, site: str) -> None:
        self._inputs[site] = activation

    def _straight(self, post: Tensor, hook: object) -> Tensor:
        pre = self._inputs["mlp.hook_pre"]
        activated = self._mlp.act_fn(pre.detach())
        nonzero = torch.where(pre == 0, _SMALLEST, pre.detach())
        straight = pre * (activated / nonzero)
        return _with_gradient(
            post, straight * self._inputs["mlp.hook_pre_linear"] if self._is_gated else straight
        )

    def _softened(self, pattern: Tensor, hook: object) -> Tensor:
        return _Softened.apply(self._inputs["attn.hook_attn_scores"], pattern.detach())


class _Softened(torch.autograd.Function):
    """A pattern whose gradient is that of a softmax at a higher temperature."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, pattern: Tensor) -> Tensor:
        ctx.save_for_backward(scores)
        return pattern.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        soft = (scores / _TEMPERATURE).softmax(-1).nan_to_num()  # of padding, which attends nowhere
        (gradient,) = gradients
        return soft * (gradient - (soft * gradient).sum(-1, keepdim=True)), None


def _with_gradient(value: Tensor, proxy: Tensor) -> Tensor:
    """A tensor with the value of one and the gradient of the other."""
    return value.detach() + (proxy - proxy.detach())


def _frozen(activation: Tensor, hook: object) -> Tensor:
    return activation.detach()


def _half(activation: Tensor, hook: object) -> Tensor:
    return _share(activation, hook, share=0.5)


def _share(activation: Tensor, hook: object, *, share: float) -> Tensor:
    return _with_gradient(activation, share * activation)


def _is_scale(name: str) -> bool:
    return name.endswith(".hook_scale")
