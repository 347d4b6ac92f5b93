"""Scores of a data set, a batch at a time: only sums by culture are held, or a chunk of rows."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from culnig_tl.attribution.processes import combined, launched, share
from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.hooks import DEFAULT_SITES, HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import Batch, batches, fingerprint, questions
from culnig_tl.scores import NeuronScores, ScoreAccumulator

Method = Literal["gradient_x_activation", "integrated_gradients"]
_METHODS = {
    "gradient_x_activation": gradient_x_activation,
    "integrated_gradients": integrated_gradients,
}
_SHOWN = 5


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
    prepared, cultures, data = _prepared(model, rows, token_budget)
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
        for batch in _after(mine, n_done):
            for piece, scores in fitting(batch):
                _check_finite(scores, piece)
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


def _prepared(
    model: HookedModel, rows: Dataset | Sequence[Batch], token_budget: int
) -> tuple[list[Batch], list[str], str]:
    """Batches on the model's device, cultures in order of first appearance, and a fingerprint."""
    if isinstance(rows, Dataset):
        rows = questions(rows)
        _check_cultures(rows["culture"][:], rows["id"][:])
        prepared = batches(model, rows, token_budget=token_budget)
        return prepared, list(dict.fromkeys(rows["culture"])), fingerprint(rows)
    prepared = [_on_device(batch, model.cfg.device) for batch in rows if len(batch)]
    if not prepared:
        raise InvalidInputError("There are no prompts in these batches; give at least one.")
    cultures = [culture for batch in prepared for culture in batch.cultures]
    _check_cultures(cultures, [name for batch in prepared for name in batch.ids])
    return prepared, list(dict.fromkeys(cultures)), _fingerprint(prepared)


def _on_device(batch: Batch, device: Any) -> Batch:
    return replace(
        batch,
        tokens=batch.tokens.to(device),
        mask=batch.mask.to(device),
        answers=batch.answers.to(device),
    )


def _fingerprint(prepared: Sequence[Batch]) -> str:
    """Twelve hexadecimal digits that change with any prompt, label, culture or id."""
    digest = hashlib.sha256()
    for batch in prepared:
        digest.update(repr((batch.tokens.shape, batch.cultures, batch.ids)).encode())
        for tensor in (batch.tokens, batch.mask, batch.answers):
            digest.update(tensor.long().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _check_cultures(cultures: Sequence[str], ids: Sequence[str]) -> None:
    without = [name for name, culture in zip(ids, cultures, strict=True) if not culture]
    if without and len(without) < len(cultures):
        named = ", ".join(map(repr, dict.fromkeys(without[:_SHOWN])))
        raise InvalidInputError(
            f"{len(without)} of {len(cultures)} rows have no culture (questions {named}); give "
            "every row its culture, or leave it empty in all of them."
        )


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


def _after(prepared: Sequence[Batch], n_done: int) -> Iterator[Batch]:
    """What is left of the batches when their first ``n_done`` prompts are done."""
    for batch in prepared:
        if n_done < len(batch):
            yield batch.select(range(n_done, len(batch))) if n_done else batch
        n_done = max(0, n_done - len(batch))


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
    for batch in prepared:
        for piece, scores in fitting(batch):
            _check_finite(scores, piece)
            for site, found in scores.items():
                if site not in values:
                    values[site] = torch.empty((len(part), *found.shape[1:]), dtype=found.dtype)
                values[site][list(piece.rows)] = found.cpu()
    chosen = rows.select(part)
    return QuestionScores(values, tuple(chosen["id"]), tuple(chosen["culture"]), tuple(part))
