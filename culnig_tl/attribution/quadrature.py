"""At which factors a path from 0 to 1 is differentiated, and with which weights.

    midpoint    (j + 1/2) / steps, equal weights
    geometric   two Gauss-Legendre nodes on each of steps / 2 panels: one from 0 to s; most of the
                others in equal ratios from s to k; a quarter of all in equal ratios from k to 1

Where a norm follows a site, it undoes the factor: the layer writes the same at 1 and at 1/8, and
the whole change of the answer lies where the scaled activation is as small as the norm's epsilon.
Equally spaced factors miss it: at the MLP output of a small Gemma 3 the sums of 60 midpoints are
100 % off, those of 60 geometric nodes less than 0.1 %.

How far down a factor is undone is measured, since no list of module names would be complete:
queries and keys, sandwich norms, norms inside an MLP, norms that are no module. Every layer reads
its own recorded input while the site in it is multiplied by 0, by 1, by 1/2, by 1/4, ...; a factor
is undone where what the layer writes is three times nearer to that of factor 1 than to that of
factor 0. A norm follows where some layer undoes 1/8. With the smallest factor that each layer
undoes, ``s`` is a 32nd of the least of them and ``k`` eight times the greatest, at most 1.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.sites import SITES, hook_name

Nodes = Literal["auto", "midpoint", "geometric"]

_FACTORS = (0.0, *(2.0**-power for power in range(25)))
_BEHIND_A_NORM = 1 / 8
_N_TOKENS = 8


class Quadrature(NamedTuple):
    """Factors of a path, and their weights, whose mean is 1."""

    factors: Float[Tensor, "step"]
    weights: Float[Tensor, "step"]

    def passes(self, n: int) -> list["Quadrature"]:
        """The same in at most ``n`` parts."""
        parts = zip(self.factors.chunk(n), self.weights.chunk(n), strict=True)
        return [Quadrature(*part) for part in parts]


def quadrature(model: HookedModel, site: str, steps: int, nodes: Nodes) -> Quadrature:
    """The factors of a site's path; ``"auto"`` takes geometric ones where a norm follows.

    Example:
        >>> import culnig_tl as ct
        >>> quadrature(ct.load_model(), "attn.hook_q", 2, "auto").factors.tolist()
        [0.25, 0.75]
    """
    if is_geometric(model, site, nodes):
        least, greatest = undone_factors(model, site)
        return geometric(steps, least / 32, min(1.0, 8 * greatest))
    return midpoints(steps)


def is_geometric(model: HookedModel, site: str, nodes: Nodes) -> bool:
    """Whether the factors of a site's path crowd towards 0."""
    return nodes == "geometric" or (nodes == "auto" and norm_follows(model, site))


def midpoints(steps: int) -> Quadrature:
    """The midpoints of ``steps`` equal intervals from 0 to 1.

    Example:
        >>> midpoints(4).factors.tolist()
        [0.125, 0.375, 0.625, 0.875]
    """
    factors = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    return Quadrature(factors, torch.ones_like(factors))


def geometric(steps: int, start: float, knee: float) -> Quadrature:
    """Gauss-Legendre nodes on panels from 0 to ``start``, on to ``knee`` and on to 1; the first of
    an odd number of steps is a midpoint.

    Example:
        >>> [round(factor, 4) for factor in geometric(5, 0.01, 1.0).factors.tolist()]
        [0.005, 0.029, 0.081, 0.2902, 0.8098]
    """
    ends = _ends((steps + 1) // 2, start, knee)
    half, middle = ends.diff() / 2, (ends[1:] + ends[:-1]) / 2
    offset = half / 3**0.5
    factors = torch.stack([middle - offset, middle + offset], dim=1).flatten()
    weights = half.repeat_interleave(2)
    if steps % 2:
        factors, weights = factors[1:], weights[1:]
        factors[0], weights[0] = middle[0], 2 * half[0]
    return Quadrature(factors, weights * steps)


def norm_follows(model: HookedModel, site: str) -> bool:
    """Whether, in some layer, a norm undoes a factor on the activations at ``site``.

    Example:
        >>> import culnig_tl as ct
        >>> norm_follows(ct.load_model(), "mlp.hook_post")
        False
    """
    return undone_factors(model, site)[0] <= _BEHIND_A_NORM


def undone_factors(model: HookedModel, site: str) -> tuple[float, float]:
    """The smallest power of 2 that can multiply the activations at ``site`` and leave what a layer
    writes much as it is: the least and the greatest of all layers, 1 for no such factor.

    Runs the model twice on eight tokens the first time that it is asked about a site.

    Example:
        >>> import culnig_tl as ct
        >>> undone_factors(ct.load_model(), "attn.hook_v")
        (1.0, 1.0)
    """
    measured = _MEASURED.setdefault(model, {})
    if site not in measured:
        least, greatest = _measured(model, site)
        other = SITES[site].same_neurons_as if site in SITES else None
        if other in SITES:  # what follows those neurons under their other name follows these
            least = min(least, undone_factors(model, other)[0])
        measured[site] = least, greatest
    return measured[site]


_MEASURED: WeakKeyDictionary[HookedModel, dict[str, tuple[float, float]]] = WeakKeyDictionary()


def _ends(n_panels: int, start: float, knee: float) -> Float[Tensor, "end"]:
    """0, then the end of each panel."""
    n_upper = n_panels // 4 if knee < 1 else 0
    n_lower = n_panels - n_upper
    lower = torch.arange(n_lower - 1, -1, -1, dtype=torch.float64) / max(1, n_lower - 1)
    upper = torch.arange(n_upper - 1, -1, -1, dtype=torch.float64) / max(1, n_upper)
    top = knee if n_upper else 1.0
    return torch.cat([lower.new_zeros(1), top * (start / top) ** lower, knee**upper])


def _measured(model: HookedModel, site: str) -> tuple[float, float]:
    layers = range(model.cfg.n_layers)
    before, at, after = (
        [hook_name(name, layer) for layer in layers]
        for name in ("hook_resid_pre", site, "hook_resid_post")
    )
    if not all(name in model.hook_dict for name in (*before, *at, *after)):
        return 1.0, 1.0
    streams = _recorded(model, before, [])
    fwd_hooks = [
        *((name, partial(_replace, stream=stream)) for name, stream in streams.items()),
        *((name, _scale_copies) for name in at),
    ]
    smallest = [_smallest_undone(each) for each in _recorded(model, after, fwd_hooks).values()]
    return min(smallest), max(smallest)


def _recorded(
    model: HookedModel, names: Sequence[str], fwd_hooks: Sequence[tuple[str, Any]]
) -> dict[str, Tensor]:
    """Activations at hook points, of a copy of eight tokens for each factor."""
    activations: dict[str, Tensor] = {}

    def record(activation: Tensor, hook: object, *, name: str) -> None:
        activations[name] = activation

    tokens = torch.arange(_N_TOKENS, device=model.cfg.device).repeat(len(_FACTORS), 1)
    watching = [(name, partial(record, name=name)) for name in names]
    with hooked(model, [*fwd_hooks, *watching], gradients=False):
        model(tokens, attention_mask=torch.ones_like(tokens))
    return activations


def _replace(activation: Tensor, hook: object, *, stream: Tensor) -> Tensor:
    return stream


def _scale_copies(activation: Tensor, hook: object) -> Tensor:
    factors = torch.tensor(_FACTORS, dtype=activation.dtype, device=activation.device)
    return activation * factors.view(-1, *[1] * (activation.ndim - 1))


def _smallest_undone(stream: Float[Tensor, "factor pos d_model"]) -> float:
    """Of what a layer writes at each of the factors; the first position attends to itself only."""
    suppressed, unscaled, *scaled = stream[:, 1:].float()
    undone = [3 * (each - unscaled).norm() < (each - suppressed).norm() for each in scaled]
    return _FACTORS[1 + [*undone, False].index(False)]
