"""Means of ``a * dT / d(factor * a)`` over the factors of a path: integrated gradients.

A path scales all layers of a site together, or one layer. Its factors are copies of each prompt, as
many in one pass as the token budget allows; a weight of the quadrature is the weight of a copy in
the one backward pass of all of them. The products of all copies are summed where they arise, on a
CPU one copy after the other, and pooled when the last of them is there. One more forward pass, at
factor 0, tells what they miss.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.attribution.completeness import Gaps, gap_of, sum_of_products
from culnig_tl.attribution.gradients import (
    HookPoint,
    factor_gradients,
    residuals,
    starting_at,
    suppressed_answer,
)
from culnig_tl.attribution.pooling import Reduction, Scores, pooler, products, weighted
from culnig_tl.attribution.quadrature import Nodes, Quadrature, quadrature
from culnig_tl.attribution.targets import Answer, Target, read_answer
from culnig_tl.errors import check_choice, check_number
from culnig_tl.hooked_model import HookedModel
from culnig_tl.questions import Batch
from culnig_tl.sites import layers_of

FactorPath = Literal["joint", "layer"]
Pooling = Callable[[Tensor], Tensor]
Start = Callable[[int], AbstractContextManager[Any]]
"""Number of copies of each prompt -> inside, the model starts from what was recorded."""


class Scored(NamedTuple):
    """Scores of a batch by site, ``P(y|x)`` of its prompts, and what integrated gradients miss
    along each of their paths."""

    scores: Scores
    probability: Float[Tensor, "batch"]
    gaps: Gaps


@dataclass(frozen=True)
class Paths:
    """Along which factors which layers are scaled.

    Attributes:
        layers: the layers of each site.
        path: all layers of a site together, or one at a time.
        steps: number of factors of a path.
        rules: the factors of each site's paths.
    """

    layers: Mapping[str, range]
    path: FactorPath
    steps: int
    rules: Mapping[str, Quadrature]

    @classmethod
    def of(
        cls, model: HookedModel, sites: Sequence[str], *, steps: int, path: FactorPath, nodes: Nodes
    ) -> "Paths":
        """The paths of each site on this model.

        Raises:
            UnknownNameError: a site that this model does not have.
            InvalidInputError: no site, no step, or an unknown choice.
        """
        check_path(steps, path, nodes)
        layers = layers_of(model, sites)
        rules = {site: quadrature(model, site, steps, nodes) for site in layers}
        return cls(layers, path, steps, rules)

    def groups(self, site: str) -> list[Sequence[int]]:
        """The layers of a site that are scaled together."""
        if self.path == "joint":
            return [self.layers[site]]
        return [[layer] for layer in self.layers[site]]


def integrate(
    model: HookedModel,
    batch: Batch,
    paths: Paths,
    reduction: Reduction,
    target: Target,
    token_budget: int,
) -> Scored:
    """Integrated gradients of a batch, and what they miss along each path."""
    n_rows = max(1, token_budget // batch.tokens.shape[1])
    parts = [
        _integrated_part(
            model, batch.select(lines.tolist()), paths, reduction, target, n_rows=n_rows
        )
        for lines in torch.arange(len(batch)).split(max(1, n_rows // paths.steps))
    ]
    scores, probability, gaps = zip(*parts, strict=True)
    return Scored(_joined(scores), torch.cat(probability), _joined(gaps))


def check_path(steps: int, path: FactorPath, nodes: Nodes) -> None:
    """Refuse a path of no step, or an unknown one, in a sentence."""
    check_choice("path", path, get_args(FactorPath))
    check_choice("nodes", nodes, get_args(Nodes))
    check_number("steps", steps, low=1, whole=True)


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {site: torch.cat([part[site] for part in parts]) for site in parts[0]}


def _integrated_part(
    model: HookedModel,
    batch: Batch,
    paths: Paths,
    reduction: Reduction,
    target: Target,
    *,
    n_rows: int,
) -> Scored:
    """Integrated gradients of prompts whose factors take passes of ``n_rows`` rows."""
    answer, start = _starts(model, batch, paths.path, target)
    pooled = pooler(batch.mask, reduction.pool, reduction.padding)
    n_passes = ceil(paths.steps * len(batch) / n_rows)
    integral = _Integral(model, batch, answer, target, pooled, n_passes)
    means: dict[HookPoint, Tensor] = {}
    gaps: Gaps = {}
    for site, rule in paths.rules.items():
        of_paths = [
            integral.along({site: group}, rule, partial(start, group[0]))
            for group in paths.groups(site)
        ]
        gaps[site] = torch.stack([gap for _, gap in of_paths], dim=1)
        for pooled_means, _ in of_paths:
            means |= pooled_means
    sites = tuple(paths.rules)
    scores = weighted(means, answer.probability, sites, reduction.weight, reduction.clamp)
    return Scored(scores, answer.probability, gaps)


def _starts(
    model: HookedModel, batch: Batch, path: FactorPath, target: Target
) -> tuple[Answer, Callable[[int, int], AbstractContextManager[Any]]]:
    """The answers, and what starts a pass at a layer: by layer those below are not run again."""
    if path == "joint":
        with torch.no_grad():
            return read_answer(model, batch, target), lambda layer, n_copies: nullcontext()
    answer, inputs = residuals(model, batch, target)
    return answer, lambda layer, n_copies: starting_at(model, layer, inputs, n_copies=n_copies)


@dataclass(frozen=True)
class _Integral:
    """Means of ``a * dT / d(factor * a)`` over the factors of a path.

    Attributes:
        model, batch, target: what is differentiated.
        answer: the answers as they are, at factor 1.
        pooled: what becomes of each mean.
        n_passes: over how many passes the factors are spread.
    """

    model: HookedModel
    batch: Batch
    answer: Answer
    target: Target
    pooled: Pooling
    n_passes: int

    def along(
        self, layers: Mapping[str, Sequence[int]], rule: Quadrature, start: Start
    ) -> tuple[dict[HookPoint, Tensor], Tensor]:
        """Pooled means by hook point, and the gap of each prompt."""
        sums: dict[HookPoint, Tensor] = {}
        totals: list[Tensor] = []

        def finish(total: Tensor) -> Tensor:
            total.div_(len(rule.factors))
            totals.append(sum_of_products(total, self.batch.mask))
            return self.pooled(total)

        *earlier, last = rule.passes(self.n_passes)
        for part in earlier:
            sums = self._add(sums, layers, part, start, None)
        sums = self._add(sums, layers, last, start, finish)
        with start(1):
            without = suppressed_answer(self.model, self.batch, layers, target=self.target)
        return sums, gap_of(totals, self.answer.value, without.value)

    def _add(
        self,
        sums: dict[HookPoint, Tensor],
        layers: Mapping[str, Sequence[int]],
        rule: Quadrature,
        start: Start,
        finish: Pooling | None,
    ) -> dict[HookPoint, Tensor]:
        """The sums with those of one more pass, which takes these factors."""
        n_prompts, n_copies = len(self.batch), len(rule.factors)
        with start(n_copies):
            return factor_gradients(
                self.model,
                self.batch.select([*range(n_prompts)] * n_copies),
                layers,
                partial(_summed, sums, n_copies, finish),
                factor=rule.factors.repeat_interleave(n_prompts),
                weight=rule.weights.repeat_interleave(n_prompts),
                target=self.target,
            )[1]


def _summed(
    earlier: dict[HookPoint, Tensor],
    n_copies: int,
    finish: Pooling | None,
    point: HookPoint,
    activation: Tensor,
    gradient: Tensor,
) -> Tensor:
    """Sum over the copies of each prompt and over earlier passes, finished in the last one."""
    n_parts = n_copies if activation.device.type == "cpu" else 1
    total: Any = earlier.pop(point, 0.0)
    for part in zip(activation.chunk(n_parts), gradient.chunk(n_parts), strict=True):
        total += products(*part).unflatten(0, (n_copies // n_parts, -1)).sum(0)
    return finish(total) if finish else total
