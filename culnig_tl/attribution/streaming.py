"""Scores of a data set, a batch at a time: only sums by culture are held, or a chunk of rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.attribution.checkpoint import Checkpoint
from culnig_tl.attribution.memory import Fitting, Scores
from culnig_tl.attribution.methods import (
    FactorPath,
    check_choices,
    check_path,
    gradient_x_activation,
    integrated_gradients,
    layers_of,
)
from culnig_tl.attribution.pooling import Padding, Pool, Weight
from culnig_tl.attribution.preparing import left_after, prepared_from
from culnig_tl.attribution.processes import combined, launched, share
from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.hooks import DEFAULT_SITES, HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import Batch, batches, questions
from culnig_tl.scores import NeuronScores, ScoreAccumulator

Method = Literal["gradient_x_activation", "integrated_gradients"]
_METHODS = {
    "gradient_x_activation": gradient_x_activation,
    "integrated_gradients": integrated_gradients,
}


@dataclass(frozen=True)
class QuestionScores:
    """Scores of consecutive rows: a number a row and neuron.

    Attributes:
        values: scores by site.
        ids: question id of each row.
        cultures: culture of each row.
        rows: index of each row in the data.
    """

    values: Mapping[str, Float[Tensor, "question layer neuron"]]
    ids: tuple[str, ...]
    cultures: tuple[str, ...]
    rows: tuple[int, ...]


def attribute(
    model: HookedModel,
    rows: Dataset | Sequence[Batch],
    *,
    sites: Sequence[str] = DEFAULT_SITES,
    method: Method = "gradient_x_activation",
    steps: int = 20,
    path: FactorPath = "joint",
    pool: Pool = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
    token_budget: int = 8192,
    checkpoint: str | Path | None = None,
    checkpoint_minutes: float = 10.0,
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
        rows: questions, or ready-made batches, which are taken whole. Their cultures are ``""``
            everywhere, for scores of one group without a name, or nowhere.
        sites: hook points of one layer, e.g. ``"mlp.hook_post"``.
        method: how a neuron's share in an answer is estimated.
        steps, path: of integrated gradients, see ``integrated_gradients``.
        pool: how positions become one number; the paper takes the maximum.
        padding: ``"ignore"`` leaves padding out; ``"zero"`` counts it as 0, as the published code
            does.
        clamp: cut negative scores to 0 after weighting, as is done on control questions.
        weight: ``"probability"`` multiplies by ``P(y|x)``.
        token_budget: tokens of one pass, padding counted; larger is faster and needs more memory.
        checkpoint: a file that keeps what is done: the same call goes on from there after a stop,
            to the same bits. It is removed at the end. Each of several processes has its own.
        checkpoint_minutes: least time between two writings of it.
        progress: show a progress bar; a text names it.

    Raises:
        InvalidInputError: no rows, a row without culture among others with, a label that is not
            one token, a prompt that does not fit into context or memory, a score that is not finite
            (the question is named), or a checkpoint of other settings.
        UnknownNameError: a site that this model does not have.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> scores = attribute(ct.load_model(), rows, progress=False)
        >>> scores.values["mlp.hook_post"].shape[1:]
        torch.Size([4, 512])
    """
    options = _options(model, sites, method, steps, path, pool, padding, clamp, weight)
    prepared, cultures, data = prepared_from(model, rows, token_budget)
    source = {"method": method, **options, "model": model_fingerprint(model), "data": data}
    state = launched()
    mine = share(prepared, state) if state else prepared
    kept = _checkpoint(checkpoint, checkpoint_minutes, source, token_budget, state)
    fitting = _fitting(model, method, options, token_budget, mine)
    accumulator, n_done = ScoreAccumulator(cultures), 0
    if kept is not None and (found := kept.read()):
        held, n_done, fitting.token_budget = found
        accumulator = ScoreAccumulator.of(held)
    with tqdm(
        total=sum(map(len, mine)),
        initial=n_done,
        desc=progress if isinstance(progress, str) else "attribution",
        unit="question",
        disable=not progress or (state is not None and not state.is_main_process),
    ) as bar:
        for piece, scores in _scored(left_after(mine, n_done), fitting):
            accumulator.update(scores, cultures=piece.cultures, ids=piece.ids)
            n_done += len(piece)
            bar.update(len(piece))
            if kept is not None and kept.is_due():
                kept.write(accumulator.held(), n_done=n_done, token_budget=fitting.token_budget)
    if state:
        accumulator = ScoreAccumulator.of(combined(accumulator.held(), state))
    if kept is not None:
        kept.remove()
    return accumulator.finish(**source)


def attribute_questions(
    model: HookedModel,
    rows: Dataset,
    *,
    chunk: int = 64,
    sites: Sequence[str] = DEFAULT_SITES,
    method: Method = "gradient_x_activation",
    steps: int = 20,
    path: FactorPath = "joint",
    pool: Pool = "max",
    padding: Padding = "ignore",
    clamp: bool = False,
    weight: Weight = "probability",
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
    options = _options(model, sites, method, steps, path, pool, padding, clamp, weight)
    if chunk < 1:
        raise InvalidInputError(f"chunk is {chunk}; take at least 1 row at a time.")
    rows = questions(rows)
    fitting = _fitting(model, method, options, token_budget, [])
    chunks = [range(len(rows))[start : start + chunk] for start in range(0, len(rows), chunk)]
    prepared = [batches(model, rows.select(part), token_budget=token_budget) for part in chunks]
    name = progress if isinstance(progress, str) else "attribution"
    return (
        _question_scores(rows, part, of_chunk, fitting)
        for part, of_chunk in zip(
            tqdm(chunks, desc=name, unit="chunk", disable=not progress), prepared, strict=True
        )
    )


def _options(
    model: HookedModel,
    sites: Sequence[str],
    method: Method,
    steps: int,
    path: FactorPath,
    pool: Pool,
    padding: Padding,
    clamp: bool,
    weight: Weight,
) -> dict[str, Any]:
    """Checked arguments of the method's function."""
    check_choice("method", method, _METHODS)
    check_choices(pool, padding, weight)
    layers_of(model, sites)
    if pool is None:
        raise InvalidInputError(
            "pool is None, which keeps every position, and questions differ in length; choose a "
            "pool, or call gradient_x_activation or integrated_gradients on a batch."
        )
    options = {"sites": list(sites), "pool": pool, "padding": padding} | {
        "clamp": clamp,
        "weight": weight,
    }
    if method == "integrated_gradients":
        check_path(steps, path)
        options |= {"steps": steps, "path": path}
    return options


def _fitting(
    model: HookedModel,
    method: Method,
    options: Mapping[str, Any],
    token_budget: int,
    whole: Sequence[Batch],
) -> Fitting:
    """Scores batches with ``method``; those that are ``whole`` are not cut to the budget."""
    budget = max([token_budget, *(batch.tokens.numel() for batch in whole)])
    if method == "gradient_x_activation":
        return Fitting(
            lambda batch, _: gradient_x_activation(model, batch, **options), token_budget=budget
        )
    return Fitting(
        lambda batch, tokens: integrated_gradients(model, batch, token_budget=tokens, **options),
        token_budget=budget,
        n_copies=options["steps"],
    )


def _checkpoint(
    path: str | Path | None,
    minutes: float,
    source: Mapping[str, Any],
    token_budget: int,
    state: Any,
) -> Checkpoint | None:
    """The file of this process; None where no checkpoint is asked for."""
    if path is None:
        return None
    n_processes = state.num_processes if state else 1
    settings = {
        **source,
        "token_budget": token_budget,
        "processes": n_processes,
        "torch": str(torch.__version__),
    }
    own = f"{path}.{state.process_index}" if state else path
    return Checkpoint(own, settings, minutes=minutes)


def _scored(prepared: Iterable[Batch], fitting: Fitting) -> Iterator[tuple[Batch, Scores]]:
    """Each piece of the batches with its scores, which are finite."""
    for batch in prepared:
        for piece, scores in fitting(batch):
            _check_finite(scores, piece)
            yield piece, scores


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


def _question_scores(
    rows: Dataset, part: range, prepared: Sequence[Batch], fitting: Fitting
) -> QuestionScores:
    values: dict[str, Tensor] = {}
    for piece, scores in _scored(prepared, fitting):
        for site, found in scores.items():
            if site not in values:
                values[site] = torch.empty((len(part), *found.shape[1:]), dtype=found.dtype)
            values[site][list(piece.rows)] = found.cpu()
    chosen = rows.select(part)
    return QuestionScores(values, tuple(chosen["id"]), tuple(chosen["culture"]), tuple(part))
