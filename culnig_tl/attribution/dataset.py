"""Scores of a data set, a batch at a time: only sums by culture are held, or a chunk of rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.attribution.completeness import warn_if_incomplete
from culnig_tl.attribution.integration import FactorPath, Paths, Scored, check_path, integrate
from culnig_tl.attribution.long_run import LongRun
from culnig_tl.attribution.methods import (
    METHODS,
    OwnMethod,
    check_method,
    check_pooling,
    method_name,
    scored_by,
)
from culnig_tl.attribution.pooling import Padding, Pool, Reduction, Scores, Weight
from culnig_tl.attribution.quadrature import Nodes, is_geometric
from culnig_tl.attribution.targets import Target, check_target
from culnig_tl.attribution.workload import Workload
from culnig_tl.errors import (
    InvalidInputError,
    check_choice,
    check_number,
    check_some,
)
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import Batch, PreparedQuestions, Rows, TokenBudget, prepare
from culnig_tl.scores import (
    NeuronScores,
    ScoreAccumulator,
    ScoreSums,
    add_gaps,
    completeness_of,
)
from culnig_tl.sites import DEFAULT_SITES, layers_of


@dataclass(frozen=True)
class Scoring:
    """How questions are scored: the arguments of ``attribute`` that a score depends on."""

    sites: Sequence[str] = DEFAULT_SITES
    method: str | OwnMethod = "gradient_x_activation"
    steps: int = 20
    path: FactorPath = "joint"
    pool: Pool = "max"
    padding: Padding = "ignore"
    clamp: bool = False
    weight: Weight = "probability"
    target: Target = "probability"
    nodes: Nodes = "auto"

    def check(self, model: HookedModel) -> None:
        """Refuse what cannot be computed on this model, before anything is.

        Raises:
            InvalidInputError: an unknown choice, no site, no pool, a ``clamp`` that is neither True
                nor False, or steps that are no whole number from 1 up.
            UnknownNameError: a site that this model does not have.
        """
        check_some("sites", self.sites)
        if not callable(self.method):
            check_choice("method", self.method, METHODS)
        check_path(self.steps, self.path, self.nodes)
        check_pooling(self.pool, self.padding, self.clamp, self.weight)
        check_target(self.target, [])
        layers_of(model, self.sites)
        if self.pool is None:
            raise InvalidInputError(
                "pool is None, which keeps every position, and questions differ in length; choose "
                "a pool, or call gradient_x_activation or integrated_gradients on a batch."
            )
        check_method(model, self.method, self.sites, self.target)

    @property
    def provenance(self) -> dict[str, Any]:
        """What scores say of how they were made."""
        return {
            "method": method_name(self.method),
            "sites": list(self.sites),
            "pool": self.pool,
            "padding": self.padding,
            "clamp": self.clamp,
            "weight": self.weight,
            **({"target": self.target} if self.target != "probability" else {}),
            **({"steps": self.steps, "path": self.path} if self._integrates else {}),
        }

    def geometric_sites(self, model: HookedModel) -> list[str]:
        """The sites whose paths crowd towards factor 0 on this model."""
        return [
            site
            for site in self.sites
            if self._integrates and is_geometric(model, site, self.nodes)
        ]

    def passes(
        self, model: HookedModel, batches: Sequence[Batch] | Iterator[Batch], budget: TokenBudget
    ) -> Iterator[tuple[Batch, Scored]]:
        """Each piece of the batches with its scores, which are finite."""
        n_copies = self.steps if self._integrates else 1
        run = self._run(model, budget)
        for piece, scored in budget.passes(batches, run, n_copies=n_copies):
            _check_finite(scored.scores, piece)
            yield piece, scored

    def warn(self, model: HookedModel, completeness: Mapping[str, Sequence[float]]) -> None:
        """Say where integrated gradients do not add up."""
        warn_if_incomplete(
            completeness,
            steps=self.steps,
            geometric_sites=self.geometric_sites(model),
            is_half=model.cfg.dtype in (torch.float16, torch.bfloat16),
        )

    def _run(self, model: HookedModel, budget: TokenBudget) -> Callable[[Batch], Scored]:
        """What scores a batch."""
        reduction = Reduction(self.pool, self.padding, self.clamp, self.weight)
        if self._integrates:
            paths = Paths.of(model, self.sites, steps=self.steps, path=self.path, nodes=self.nodes)
            return lambda piece: integrate(
                model, piece, paths, reduction, self.target, budget.tokens
            )
        if callable(self.method):
            method = self.method
            return lambda piece: scored_by(method, model, piece, self.sites, reduction)
        score = METHODS[self.method]
        return lambda piece: score(model, piece, self.sites, reduction, self.target)

    @property
    def _integrates(self) -> bool:
        return self.method == "integrated_gradients"


@dataclass(frozen=True)
class QuestionScores:
    """Scores of consecutive rows: one number per row and neuron.

    Attributes:
        values: scores by site.
        ids: question id of each row.
        cultures: culture of each row.
        rows: index of each row in the data.
        probability: ``P(y|x)`` of each row.
        gaps: of integrated gradients, the error and the change of each row on each path, by site
            (see ``attribution.completeness``); empty for other methods.
    """

    values: Mapping[str, Float[Tensor, "question layer neuron"]]
    ids: tuple[str, ...]
    cultures: tuple[str, ...]
    rows: tuple[int, ...]
    probability: Float[Tensor, "question"]
    gaps: Mapping[str, Float[Tensor, "question path 2"]] = field(default_factory=dict)


def attribute(
    model: HookedModel,
    rows: Rows | Sequence[Batch],
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    method: str | OwnMethod = "gradient_x_activation",
    steps: int = 20,
    path: FactorPath = "joint",
    nodes: Nodes = "auto",
    pool: Pool = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
    target: Target = "probability",
    token_budget: int = 8192,
    checkpoint: str | Path | None = None,
    checkpoint_minutes: float = 10.0,
    out: str | Path | None = None,
    progress: bool | str = True,
) -> NeuronScores:
    """Scores ``S_c(D)`` of every neuron at ``sites`` for every culture of ``rows``.

    Where memory runs out, the token budget is halved, which is logged, and the run goes on.

    Several processes share the questions when ``torchrun --nproc_per_node N script.py`` started
    them, on one machine or many; each holds the whole model, and all return the same scores. (With
    ``accelerate launch`` that takes ``--multi_gpu``: ``--cpu --num_processes N`` starts a single
    process and does not say so.)

    Args:
        model: a model with named hook points; its parameters are frozen meanwhile.
        rows: questions, prepared ones, or ready-made batches, which are taken whole. Their cultures
            are ``""`` everywhere, for scores of one group without a name, or nowhere.
        sites: hook points of one layer, e.g. ``"mlp.hook_post"``.
        method: how a neuron's share in an answer is estimated: ``"gradient_x_activation"``;
            ``"integrated_gradients"``; ``"relp"``, ``"relp_frozen_attention"`` and ``"gim"``, by
            other backward passes (see ``attribution.rules``); ``"atp_star"``, with the softmax of
            queries and keys recomputed (see ``attribution.attention``); ``"gradient"`` alone;
            ``"activation_x_weight_norm"``, for sites that write, without a target; or a function
            of your own (see ``attribution.methods``).
        steps, path, nodes: of integrated gradients, see ``integrated_gradients``.
        pool: how positions become one number; the paper takes the maximum.
        padding: ``"ignore"`` leaves padding out; ``"zero"`` counts it as 0, as the published code
            does.
        clamp: cut negative scores to 0 after weighting, as is done on control questions.
        weight: ``"probability"`` multiplies by ``P(y|x)``.
        target: what a score is a share of: ``"probability"`` of the right label, its logarithm
            (``"log_probability"``), or ``"logit_difference"``, its logit minus the mean logit of
            the row's other options.
        token_budget: tokens per pass, padding counted; larger is faster and needs more memory.
            Prepared questions have their own.
        checkpoint: a file that keeps what is done: the same call goes on from there after a stop,
            to the same bits. It is written after the first batch, every few minutes and when the
            run is stopped, and removed at the end. Each of several processes has its own.
        checkpoint_minutes: least time between two writings of it.
        out: a file to save the scores in, by one of the processes, before the checkpoint is
            removed.
        progress: show a progress bar; a text names it.

    Raises:
        InvalidInputError: no rows, a row without culture among others with, a label that is not
            one token, a prompt that does not fit into context or memory, a score that is not finite
            (the question is named), a target that a row does not have, a method that is not made
            for this model, these sites or a target, or a checkpoint of other settings.
        UnknownNameError: a site that this model does not have.

    Warns:
        UserWarning: integrated gradients that do not add up (see ``NeuronScores.completeness``).

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> scores = attribute(ct.load_model(), rows, progress=False)
        >>> scores.values["mlp.hook_post"].shape[1:]
        torch.Size([4, 512])
    """
    scoring = Scoring(sites, method, steps, path, pool, padding, clamp, weight, target, nodes)
    scoring.check(model)
    check_number("token_budget", token_budget, low=1, whole=True)
    check_number("checkpoint_minutes", checkpoint_minutes, low=0.0)
    work = Workload.of(model, rows, token_budget)
    check_target(target, work.batches)
    source = _source(model, work, scoring)
    with LongRun(
        work,
        source,
        checkpoint=checkpoint,
        checkpoint_minutes=checkpoint_minutes,
        out=out,
        progress=progress,
    ) as run:
        for piece, scored in scoring.passes(model, run.remaining, work.budget):
            run.add(piece, scored)
        scores = run.finish(**source, model_name=model.cfg.model_name)
    if run.is_main:
        scoring.warn(model, scores.source.get("completeness", {}))
    return scores


def partial_sums(
    model: HookedModel, rows: Rows, part: int, *, n_parts: int, scoring: Scoring
) -> ScoreSums:
    """The sums of one of ``n_parts`` parts of the batches, for whoever adds the parts up.

    Args:
        model: a model with named hook points.
        rows: all the questions.
        part: which part, from 0.
        n_parts: at most the number of batches.
        scoring: how they are scored.
    """
    work = Workload.of(model, rows, 8192)
    first, after = (len(work.batches) * number // n_parts for number in (part, part + 1))
    sums = ScoreAccumulator(work.cultures)
    for piece, scored in scoring.passes(model, work.batches[first:after], work.budget):
        sums.update(
            scored.scores,
            cultures=piece.cultures,
            ids=piece.ids,
            gaps=scored.gaps,
            probability=scored.probability,
        )
    return sums.held()


def scores_of_sums(
    model: HookedModel, rows: Rows, parts: Iterable[ScoreSums], scoring: Scoring
) -> NeuronScores:
    """What ``attribute`` returns, from the sums of all parts, added in their order.

    Warns:
        UserWarning: as ``attribute``.
    """
    first, *others = parts
    sums = ScoreAccumulator.of(first)
    for other in others:
        sums.join(other)
    work = Workload.of(model, rows, 8192)
    scores = sums.finish(**_source(model, work, scoring), model_name=model.cfg.model_name)
    scoring.warn(model, scores.source.get("completeness", {}))
    return scores


def _source(model: HookedModel, work: Workload, scoring: Scoring) -> dict[str, Any]:
    """What scores say of how they were made, and of what."""
    source = scoring.provenance | {"model": model_fingerprint(model), "data": work.fingerprint}
    geometric_sites = scoring.geometric_sites(model)
    return source | ({"geometric_sites": geometric_sites} if geometric_sites else {})


def attribute_questions(
    model: HookedModel,
    rows: Rows,
    *,
    chunk: int = 64,
    sites: Sequence[str] = DEFAULT_SITES,
    method: str | OwnMethod = "gradient_x_activation",
    steps: int = 20,
    path: FactorPath = "joint",
    nodes: Nodes = "auto",
    pool: Pool = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
    target: Target = "probability",
    token_budget: int = 8192,
    progress: bool | str = True,
) -> Iterator[QuestionScores]:
    """Scores of every neuron on every row, ``chunk`` rows at a time, in the order of ``rows``.

    For what needs more than sums: stability over halves of the data, bootstrap over questions. The
    sum of a culture's rows over ``N(D)`` is what ``attribute`` returns. A chunk of 64 rows of an 8B
    model takes 170 MB; other arguments as in ``attribute``. For ready-made batches call
    ``gradient_x_activation`` or ``integrated_gradients`` on each.

    Raises:
        InvalidInputError, UnknownNameError: as ``attribute``, before the first chunk where the rows
            or the arguments are at fault.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=6)
        >>> chunks = attribute_questions(ct.load_model(), rows, chunk=4, progress=False)
        >>> [tuple(scores.values["mlp.hook_post"].shape) for scores in chunks]
        [(4, 4, 512), (2, 4, 512)]
    """
    scoring = Scoring(sites, method, steps, path, pool, padding, clamp, weight, target, nodes)
    scoring.check(model)
    check_number("chunk", chunk, low=1, whole=True)
    prepared = prepare(model, rows, token_budget=token_budget)
    everything = range(len(prepared))
    chunks = [everything[start : start + chunk] for start in everything[::chunk]]
    check_target(target, prepared.batches)
    name = progress if isinstance(progress, str) else "attribution"
    bar = tqdm(chunks, desc=name, unit="chunk", disable=not progress)
    return _scored_chunks(scoring, prepared, bar)


def _scored_chunks(
    scoring: Scoring, prepared: PreparedQuestions, chunks: Iterable[range]
) -> Iterator[QuestionScores]:
    gaps: dict[str, Tensor] = {}
    for part in chunks:
        scores = _question_scores(scoring, prepared.select(part), part)
        add_gaps(gaps, scores.gaps)
        yield scores
    scoring.warn(prepared.model, completeness_of(gaps))


def _question_scores(scoring: Scoring, prepared: PreparedQuestions, part: range) -> QuestionScores:
    values: dict[str, Tensor] = {}
    gaps: dict[str, Tensor] = {}
    probability = torch.zeros(len(part))
    for piece, scored in scoring.passes(prepared.model, prepared.batches, prepared.budget):
        _put(values, scored.scores, piece.rows, len(part))
        _put(gaps, scored.gaps, piece.rows, len(part))
        probability[list(piece.rows)] = scored.probability.float().cpu()
    ids, cultures = (tuple(prepared.rows[name]) for name in ("id", "culture"))
    return QuestionScores(values, ids, cultures, tuple(part), probability, gaps)


def _put(
    whole: dict[str, Tensor], of_piece: Mapping[str, Tensor], rows: Sequence[int], n_rows: int
) -> None:
    """Write a piece's rows to where they belong."""
    for site, values in of_piece.items():
        if site not in whole:
            whole[site] = torch.empty((n_rows, *values.shape[1:]), dtype=values.dtype)
        whole[site][list(rows)] = values.cpu()


def _check_finite(scores: Scores, batch: Batch) -> None:
    for site, values in scores.items():
        if values.isfinite().all():
            continue
        broken = (~values.isfinite()).flatten(1).any(1)
        first = batch.ids[int(broken.nonzero()[0])]
        raise InvalidInputError(
            f"Question {first!r} has a score at {site} that is not a finite number; check the "
            "model's weights for NaN, or load it in float32 instead of float16."
        )
