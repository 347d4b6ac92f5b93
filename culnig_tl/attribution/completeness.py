"""Completeness: whether integrated gradients add up to what suppression changes.

Along a path from factor 0 to factor 1 the scores of all neurons that are scaled, unpooled and
unweighted, add up to ``T(1) - T(0)``, where ``T`` is the target at that factor; what is missing is
the error of the quadrature, and of rounding. Each path has a *gap* per question,

    error = |sum over neurons and positions of IG - (T(1) - T(0))|      change = |T(1) - T(0)|

for one more forward pass, at factor 0. Of a data set the figure is the sum of errors over the sum
of changes, so that questions which the site hardly touches do not decide. A figure per site on the
joint path, per site and layer by layer; ``NeuronScores.completeness`` is the worst.

What more steps do not mend is rounding, or a jump: in a mixture of experts a factor changes which
experts a token is sent to.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Gaps = dict[str, Float[Tensor, "batch path 2"]]
"""Error and change of each prompt on each path of a site."""

LIMIT = 0.05
"""Above it a warning says so."""


def sum_of_products(
    products: Float[Tensor, "batch pos neuron"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch"]:
    """The sum over neurons and real positions, in float64 where the device has it."""
    exact = torch.float32 if products.device.type == "mps" else torch.float64
    by_position = products.sum(2, dtype=exact)
    return by_position.masked_fill(~mask.to(products.device), 0.0).sum(1)


def gap_of(
    totals: Sequence[Float[Tensor, "batch"]],
    full: Float[Tensor, "batch"],
    suppressed: Float[Tensor, "batch"],
) -> Float[Tensor, "batch 2"]:
    """Error and change of one path.

    Example:
        >>> gap_of([torch.tensor([0.5])], torch.tensor([0.75]), torch.tensor([0.5])).tolist()
        [[0.25, 0.25]]
    """
    change = full.cpu().double() - suppressed.cpu().double()
    error = sum(total.cpu().double() for total in totals) - change
    return torch.stack([error.abs(), change.abs()], dim=1)


def warn_if_incomplete(
    completeness: Mapping[str, Sequence[float]],
    *,
    steps: int,
    geometric_sites: Sequence[str],
    is_half: bool,
) -> None:
    """Say where integrated gradients do not add up, and what helps.

    Args:
        completeness: the figure of each path, by site.
        steps: of each path.
        geometric_sites: the sites whose factors crowd towards 0 already.
        is_half: whether the model computes in half precision.

    Warns:
        UserWarning: a figure above 5 %.
    """
    failing = {site: figures for site, figures in completeness.items() if max(figures) > LIMIT}
    if not failing:
        return
    is_midpoint = any(site not in geometric_sites for site in failing)
    helps = ["nodes='geometric'"] * is_midpoint + [f"more steps than {steps}"]
    if is_half:
        helps.append("a model in float32, which resolves smaller changes")
    named = ", ".join(_named(site, figures) for site, figures in failing.items())
    warnings.warn(
        f"Integrated gradients do not add up to what suppression changes: they are off by {named}. "
        f"Do not rely on these scores; what helps: {' or '.join(helps)}.",
        UserWarning,
        stacklevel=4,
    )


def _named(site: str, figures: Sequence[float]) -> str:
    """The worst path of a site, with its figure."""
    worst = max(range(len(figures)), key=lambda path: figures[path])
    layer = f"layer {worst}" if len(figures) > 1 else "all layers together"
    return f"{100 * figures[worst]:.1f} % at {site} ({layer})"
