"""What a run will take, before it starts: questions, tokens, time and memory.

Tokens are counted in the very batches of the run. Time is that of one small batch, scored and
answered once to warm up and once by the clock, times the tokens of the run; an accelerator does
better on the run's larger batches, so there it is an upper estimate. Memory is

    weights + what the largest batch keeps for its backward pass + score tables

where the second is counted on one prompt of the longest length (every tensor that autograd saves)
and grows with the number of prompts, and the tables hold float64 sums by culture. What a framework
reserves beyond that is not in it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.errors import check_by_name, check_number
from culnig_tl.hooked_model import HookedModel
from culnig_tl.logits import last_logits
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare
from culnig_tl.sites import DEFAULT_SITES, site_shape

_SMALL_BATCH = 4


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        stages: one row per data set: stage (``"score"``, ``"answer"``, ``"cultures"``), data,
            questions, prompts, tokens (padding counted), longest (prompt), passes, seconds.
        weights: bytes of the model.
        batch: bytes that the largest batch keeps for its backward pass.
        tables: bytes of the score tables.
    """

    stages: pd.DataFrame
    weights: int
    batch: int
    tables: int

    @property
    def seconds(self) -> float:
        """Estimated time of the whole run."""
        return float(self.stages["seconds"].sum())

    @property
    def peak(self) -> int:
        """Estimated memory in bytes."""
        return self.weights + self.batch + self.tables


def estimate(
    model: HookedModel,
    data: Mapping[str, Rows],
    benchmarks: Mapping[str, Rows],
    *,
    n_sets: int = 12,
    sites: Sequence[str] = DEFAULT_SITES,
    token_budget: int = 8192,
) -> Plan:
    """What ``culnig`` will take with these questions.

    Args:
        model: a frozen model with named hook points.
        data: questions to score, by name.
        benchmarks: questions to answer, by name; the first one also for the culture x culture
            effects.
        n_sets: how many times a benchmark is answered: once as the model is, and once per set of
            neurons and factor.
        sites: hook points to score.
        token_budget: tokens per pass, padding counted.

    Raises:
        InvalidInputError: no data or benchmarks, numbers that are no whole numbers from 1 up, or
            rows that cannot be used.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=8)
        >>> plan = estimate(ct.load_model(), {"cultural": rows}, {"culture": rows}, n_sets=3)
        >>> plan.stages["passes"].tolist()[:2]
        [1, 3]
    """
    check_by_name("data", data)
    check_by_name("benchmarks", benchmarks)
    check_number("n_sets", n_sets, low=1, whole=True)
    scored, answered = (
        {name: prepare(model, rows, token_budget=token_budget) for name, rows in named.items()}
        for named in (data, benchmarks)
    )
    to_score = [batch for prepared in scored.values() for batch in prepared.batches]
    to_answer = [batch for prepared in answered.values() for batch in prepared.batches]
    small = _middle(to_score + to_answer)
    score = _seconds_per_token(lambda: gradient_x_activation(model, small, sites=sites), small)
    answer = _seconds_per_token(lambda: _answer(model, small), small)
    cultures = list(dict.fromkeys(c for rows in scored.values() for c in rows.cultures))
    first = next(iter(answered))
    stages = [
        *(_stage("score", name, rows, 1, score) for name, rows in scored.items()),
        *(_stage("answer", name, rows, n_sets, answer) for name, rows in answered.items()),
        _stage("cultures", first, answered[first], 1 + len(cultures), answer),
    ]
    n_neurons = sum(layers * width for layers, width in (site_shape(model, s) for s in sites))
    largest = max(to_score, key=lambda batch: batch.tokens.numel())
    return Plan(
        stages=pd.DataFrame(stages),
        weights=sum(
            weight.numel() * weight.element_size() for _, weight in model.named_parameters()
        ),
        batch=_saved_bytes(model, largest, sites) * len(largest),
        tables=n_neurons * (8 * len(cultures) + 4 * len(largest)),
    )


def _stage(
    stage: str, name: str, prepared: PreparedQuestions, passes: int, seconds: float
) -> dict[str, object]:
    rows = prepared.rows
    tokens = sum(batch.tokens.numel() for batch in prepared.batches)
    return {
        "stage": stage,
        "data": name,
        "questions": len(set(zip(rows["id"], rows["culture"], strict=True))),
        "prompts": len(rows),
        "tokens": tokens,
        "longest": max(batch.tokens.shape[1] for batch in prepared.batches),
        "passes": passes,
        "seconds": passes * tokens * seconds,
    }


def _middle(batches: Sequence[Batch]) -> Batch:
    """A few prompts of the batch of middle length."""
    ordered = sorted(batches, key=lambda batch: batch.tokens.shape[1])
    middle = ordered[len(ordered) // 2]
    return middle.select(range(min(_SMALL_BATCH, len(middle))))


def _answer(model: HookedModel, batch: Batch) -> None:
    with torch.no_grad():
        last_logits(model, batch.tokens, batch.mask)


def _seconds_per_token(call: Callable[[], object], batch: Batch) -> float:
    call()
    _wait(batch)
    start = time.perf_counter()
    call()
    _wait(batch)
    return (time.perf_counter() - start) / batch.tokens.numel()


def _wait(batch: Batch) -> None:
    """Until the device has done what it was asked to."""
    if batch.tokens.device.type == "cuda":
        torch.cuda.synchronize(batch.tokens.device)


def _saved_bytes(model: HookedModel, batch: Batch, sites: Sequence[str]) -> int:
    """Bytes that autograd saves for the longest prompt of a batch, each storage counted once."""
    weights = {weight.untyped_storage().data_ptr() for _, weight in model.named_parameters()}
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        gradient_x_activation(model, batch.select([0]), sites=sites)
    return sum(saved.values())
