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
from dataclasses import dataclass, replace

import pandas as pd
import torch
from datasets import Dataset

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.hooks import DEFAULT_SITES, HookedModel, last_logits, site_shape
from culnig_tl.questions import Batch, batches, questions

_SMALL_BATCH = 4


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        stages: one row a data set: stage (``"score"``, ``"answer"``, ``"cultures"``), data,
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
    data: Mapping[str, Dataset],
    benchmarks: Mapping[str, Dataset],
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
        n_sets: how many times a benchmark is answered: once as the model is, and once a set of
            neurons and factor.
        sites: hook points to score.
        token_budget: tokens a batch, padding counted.

    Raises:
        InvalidInputError: rows that cannot be used.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=8)
        >>> plan = estimate(ct.load_model(), {"cultural": rows}, {"culture": rows}, n_sets=3)
        >>> plan.stages["passes"].tolist()[:2]
        [1, 3]
    """
    prepared = {
        name: batches(model, questions(rows), token_budget=token_budget)
        for name, rows in {**_named("score", data), **_named("answer", benchmarks)}.items()
    }
    everything = [batch for each in prepared.values() for batch in each]
    small = _middle(everything)
    score = _seconds_a_token(lambda: gradient_x_activation(model, small, sites=sites), small)
    answer = _seconds_a_token(lambda: _answered(model, small), small)
    cultures = list(dict.fromkeys(c for rows in data.values() for c in rows["culture"]))
    first = next(iter(benchmarks))
    stages = [
        *(
            _stage("score", name, rows, prepared["score", name], 1, score)
            for name, rows in data.items()
        ),
        *(
            _stage("answer", name, rows, prepared["answer", name], n_sets, answer)
            for name, rows in benchmarks.items()
        ),
        _stage(
            "cultures",
            first,
            benchmarks[first],
            prepared["answer", first],
            1 + len(cultures),
            answer,
        ),
    ]
    n_neurons = sum(layers * width for layers, width in (site_shape(model, s) for s in sites))
    largest = max(
        (b for name, each in prepared.items() if name[0] == "score" for b in each),
        key=lambda batch: batch.tokens.numel(),
    )
    return Plan(
        stages=pd.DataFrame(stages),
        weights=sum(
            weight.numel() * weight.element_size() for _, weight in model.named_parameters()
        ),
        batch=_saved_bytes(model, largest, sites) * len(largest),
        tables=n_neurons * (8 * len(cultures) + 4 * len(largest)),
    )


def _named(stage: str, rows: Mapping[str, Dataset]) -> dict[tuple[str, str], Dataset]:
    return {(stage, name): each for name, each in rows.items()}


def _stage(
    stage: str, name: str, rows: Dataset, prepared: Sequence[Batch], passes: int, seconds: float
) -> dict[str, object]:
    tokens = sum(batch.tokens.numel() for batch in prepared)
    return {
        "stage": stage,
        "data": name,
        "questions": len(set(zip(rows["id"], rows["culture"], strict=True))),
        "prompts": len(rows),
        "tokens": tokens,
        "longest": max(batch.tokens.shape[1] for batch in prepared),
        "passes": passes,
        "seconds": passes * tokens * seconds,
    }


def _middle(prepared: Sequence[Batch]) -> Batch:
    """A few prompts of the batch of middle length."""
    ordered = sorted(prepared, key=lambda batch: batch.tokens.shape[1])
    return _first(ordered[len(ordered) // 2], _SMALL_BATCH)


def _first(batch: Batch, n_prompts: int) -> Batch:
    return replace(
        batch,
        tokens=batch.tokens[:n_prompts],
        mask=batch.mask[:n_prompts],
        answers=batch.answers[:n_prompts],
        cultures=batch.cultures[:n_prompts],
        ids=batch.ids[:n_prompts],
        rows=batch.rows[:n_prompts],
    )


def _answered(model: HookedModel, batch: Batch) -> None:
    with torch.no_grad():
        last_logits(model, batch.tokens, batch.mask)


def _seconds_a_token(call: Callable[[], object], batch: Batch) -> float:
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
        gradient_x_activation(model, _first(batch, 1), sites=sites)
    return sum(saved.values())
