"""A factor for cultural prompts only: a linear probe reads off whether a prompt is one.

Scaling neurons in every prompt costs the prompts that they were not meant for. So a probe is
trained on the residual stream before one layer, at the last position of the model as it is, to tell
cultural questions from general ones; a prompt is answered under the factor if the probe says that
it is cultural, and by the model as it is if not.

The probe is ridge regression in closed form. With features ``x`` standardised to ``z``, ``y`` = 1
for cultural and -1 for general prompts, and prompts weighted so that both kinds count alike,

    minimise  sum of v (y - z w)^2 + lambda |w|^2,     cultural where z w > 0

in its dual form, which costs the cube of the number of prompts, not of the width; lambda is that of
a grid with the least error on topics left out one by one (questions, where a kind has no two
topics), which the dual form gives without fitting again. That error is still one of the same
wordings: it says little of prompts that are written otherwise.

A probe that tells two benchmarks apart may read how they ask, not what about: its accuracy counts
on held-out questions in other words, and on general questions that are asked in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from culnig_tl.errors import (
    InvalidInputError,
    check_by_name,
    check_choice,
    check_number,
    check_seed,
)
from culnig_tl.evaluation import Mode, answers, check_answerable
from culnig_tl.hooked_model import HookedModel, check_model, hooked
from culnig_tl.hooks import check_intervention, check_same_model
from culnig_tl.logits import last_logits
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare
from culnig_tl.sites import hook_name
from culnig_tl.validation.changes import paired_change

_RIDGES = 10.0 ** np.arange(-4, 3)
"""Grid of lambda, as shares of the mean squared length of a prompt's features."""


@dataclass(frozen=True, eq=False)
class CultureProbe:
    """A linear reading of the residual stream: is this prompt cultural?

    Attributes:
        layer: the residual stream is that before this layer.
        weights, bias: of the residual stream as it is; above 0 means cultural.
        ridge: the lambda that was chosen, as a share.
        left_out: share of the prompts it was trained on that it gets right when trained without
            their topics, both kinds counted alike, 0 to 1.
    """

    layer: int
    weights: Float[np.ndarray, "d_model"]
    bias: float
    ridge: float
    left_out: float

    def scores(self, prepared: PreparedQuestions) -> Float[np.ndarray, "row"]:
        """How cultural each prompt reads; above 0 means that it is."""
        return last_residuals(prepared, self.layer) @ self.weights + self.bias


@dataclass(frozen=True)
class ConditionalUse:
    """What a factor does to every prompt, and to those alone that a probe calls cultural.

    Attributes:
        effects: one row per benchmark and use (``"always"``, ``"conditional"``): benchmark, use,
            is_cultural, scaled (share of the prompts that were answered under the factor),
            n_prompts, n_units, probability_before, probability, gain and change with their 95 %
            intervals, as ``TunedFactors.effects``.
        probe: one row per benchmark: benchmark, is_cultural, n_prompts and accuracy of the probe
            (share of its prompts, 0 to 1).
    """

    effects: pd.DataFrame
    probe: pd.DataFrame

    @property
    def accuracy(self) -> float:
        """The probe's, cultural and general benchmarks counted alike; NaN without one of them."""
        by_kind = self.probe.groupby("is_cultural")["accuracy"].mean()
        return float(by_kind.mean()) if len(by_kind) == 2 else float("nan")


def culture_probe(
    model: HookedModel,
    cultural: Rows,
    general: Rows,
    *,
    layer: int | None = None,
    token_budget: int = 8192,
) -> CultureProbe:
    """Train a linear probe that tells cultural prompts from general ones.

    Args:
        model: any model with named hook points.
        cultural, general: questions of the identification half, asked alike as far as may be.
        layer: read the residual stream before this layer; None takes the middle one.
        token_budget: tokens per pass; prepared questions have their own.

    Raises:
        InvalidInputError: a layer that the model does not have, or rows that cannot be used, fewer
            than two of a kind among them.

    Example:
        >>> import culnig_tl as ct
        >>> names = ("atlas", "atlas-commonsense")
        >>> rows = [ct.load_benchmark(name, split="identify", limit=16) for name in names]
        >>> culture_probe(ct.load_model(), *rows).left_out
        1.0
    """
    check_model(model)
    at: int = model.cfg.n_layers // 2 if layer is None else layer
    check_number("layer", at, low=0, high=model.cfg.n_layers - 1, whole=True)
    kinds = [prepare(model, rows, token_budget=token_budget) for rows in (cultural, general)]
    if min(map(len, kinds)) < 2:
        raise InvalidInputError(
            f"There are {len(kinds[0])} cultural and {len(kinds[1])} general prompts; give at "
            "least two of each, and rather some dozens."
        )
    features = np.concatenate([last_residuals(each, at) for each in kinds])
    is_cultural = np.repeat([True, False], [len(each) for each in kinds])
    groups = [group for prepared in kinds for group in _groups(prepared)]
    return fitted_probe(features, is_cultural, groups, layer=at)


def _groups(prepared: PreparedQuestions) -> list[str]:
    """What is left out together with each prompt: its topic, or its question."""
    topics = prepared.rows["topic"][:]
    return topics if len(set(topics)) > 1 else prepared.rows["id"][:]


def fitted_probe(
    features: Float[np.ndarray, "row d_model"],
    is_cultural: Bool[np.ndarray, "row"],
    groups: Sequence[str],
    *,
    layer: int,
) -> CultureProbe:
    """The probe of some residual streams (see the module).

    Args:
        features: one residual stream per prompt.
        is_cultural: which prompts are.
        groups: the topic of each.
        layer: where they were read.

    Example:
        >>> features = np.array([[1.0, 5.0], [2.0, 4.0], [-1.0, 5.0], [-2.0, 4.0]])
        >>> is_cultural = np.array([True, True, False, False])
        >>> probe = fitted_probe(features, is_cultural, ["a", "b", "c", "d"], layer=1)
        >>> (features @ probe.weights + probe.bias > 0).tolist()
        [True, True, False, False]
    """
    shares = np.where(is_cultural, 0.5 / is_cultural.sum(), 0.5 / (~is_cultural).sum())
    mean = shares @ features
    deviation = np.sqrt(shares @ np.square(features - mean))
    scale = np.where(deviation > 0, deviation, 1.0)
    root = np.sqrt(shares)
    rows = (features - mean) / scale * root[:, None]
    wanted = np.where(is_cultural, 1.0, -1.0) * root
    values, vectors = np.linalg.eigh(rows @ rows.T)
    length = values.sum()
    members = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    fits = [_dual(values, vectors, wanted, ridge * length, members) for ridge in _RIDGES]
    best = int(np.argmin([np.square(errors).sum() for _, errors in fits]))
    coefficients, errors = fits[best]
    weights = coefficients @ rows / scale
    right = (wanted - errors) * wanted > 0
    return CultureProbe(
        layer=layer,
        weights=weights,
        bias=float(-mean @ weights),
        ridge=float(_RIDGES[best]),
        left_out=float(shares @ right),
    )


def _dual(
    values: Float[np.ndarray, "row"],
    vectors: Float[np.ndarray, "row row"],
    wanted: Float[np.ndarray, "row"],
    ridge: float,
    groups: Sequence[Int[np.ndarray, "_member"]],
) -> tuple[Float[np.ndarray, "row"], Float[np.ndarray, "row"]]:
    """Coefficients of the rows, and each row's error when the other groups alone are fitted."""
    inverse = vectors / (values.clip(min=0) + ridge) @ vectors.T
    coefficients = inverse @ wanted
    errors = np.empty_like(coefficients)
    for rows in groups:
        errors[rows] = np.linalg.solve(inverse[np.ix_(rows, rows)], coefficients[rows])
    return coefficients, errors


def last_residuals(prepared: PreparedQuestions, layer: int) -> Float[np.ndarray, "row d_model"]:
    """The residual stream before a layer at the last position of each prompt.

    Args:
        prepared: the questions.
        layer: counted from 0.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="test", limit=3)
        >>> last_residuals(ct.prepare(ct.load_model(), rows), 2).shape
        (3, 128)
    """
    streams: list[Tensor | None] = [None] * len(prepared)
    for batch, stream in prepared.passes(partial(_last_stream, prepared.model, layer)):
        for row, of_row in zip(batch.rows, stream, strict=True):
            streams[row] = of_row
    return torch.stack([each for each in streams if each is not None]).numpy()


def _last_stream(model: HookedModel, layer: int, batch: Batch) -> Float[Tensor, "batch d_model"]:
    kept: list[Tensor] = []

    def keep(residual: Tensor, hook: object) -> None:
        kept.append(residual[:, -1].double().cpu())

    with hooked(model, [(hook_name("hook_resid_pre", layer), keep)], gradients=False):
        last_logits(model, batch.tokens, batch.mask, ids=batch.ids)
    return kept[0]


def conditional_use(
    model: HookedModel,
    neurons: NeuronSet,
    tests: Mapping[str, Rows],
    probe: CultureProbe,
    *,
    factor: float = 2.0,
    mode: Mode = "argmax",
    token_budget: int = 16384,
    seed: int = 0,
) -> ConditionalUse:
    """What a factor does to held-out questions, always and only where a probe says "cultural".

    Args:
        model: any model with named hook points.
        neurons: the set.
        tests: held-out questions by name, cultural and general.
        probe: trained on other questions.
        factor: what activations are multiplied by.
        mode: what counts as an answer, as in ``evaluate``.
        token_budget: tokens per pass; prepared questions have their own.
        seed: seed of the bootstrap.

    Raises:
        InvalidInputError: no tests, a factor that is no finite number, rows that cannot be used, a
            probe of another model, or neurons outside the model; before any pass.

    Example:
        >>> import culnig_tl as ct
        >>> names = ("atlas", "atlas-commonsense")
        >>> found, tests = ({name: ct.load_benchmark(name, split=split, limit=8) for name in names}
        ...                 for split in ("identify", "test"))
        >>> probe = culture_probe(ct.load_model(), *found.values())
        >>> use = conditional_use(ct.load_model(), ct.answer_key("general"), tests, probe)
        >>> use.effects["use"].tolist()
        ['always', 'conditional', 'always', 'conditional']
    """
    check_by_name("tests", tests)
    check_choice("mode", mode, get_args(Mode))
    check_seed(seed)
    check_same_model(model, neurons)
    check_intervention(model, [neurons], factor)
    if len(probe.weights) != model.cfg.d_model or probe.layer >= model.cfg.n_layers:
        raise InvalidInputError(
            f"This probe reads {len(probe.weights)} numbers before layer {probe.layer}, and the "
            f"model has {model.cfg.n_layers} layers of {model.cfg.d_model}; train one on this "
            "model."
        )
    prepared = {
        name: prepare(model, each, token_budget=token_budget) for name, each in tests.items()
    }
    for each in prepared.values():
        check_answerable(each, mode)
    effects, readings = [], []
    for name, each in prepared.items():
        is_cultural, says = any(each.cultures), probe.scores(each) > 0
        before, always = answers(each, mode=mode), answers(each, neurons, factor, mode=mode)
        conditional = always.where(pd.Series(says), before).astype(before.dtypes)
        for use, after, scaled in (
            ("always", always, 1.0),
            ("conditional", conditional, float(says.mean())),
        ):
            change = paired_change(before, after, seed=seed).columns()
            row = {"benchmark": name, "use": use, "is_cultural": is_cultural, "scaled": scaled}
            effects.append(row | change)
        reading = {"benchmark": name, "is_cultural": is_cultural, "n_prompts": len(each)}
        readings.append(reading | {"accuracy": float((says == is_cultural).mean())})
    return ConditionalUse(pd.DataFrame(effects), pd.DataFrame(readings))
