"""What a run will take, before it starts: questions, tokens, time and memory.

Tokens are counted in the very batches of the run. Time is measured on batches of two sizes, scored
and answered twice each after a pass to warm up: a line through both sizes gives what a pass costs
and what a token does, the faster and the slower of each two the range. Cards and doses are counted
in the same passes, of which those that explain a card cost twice what scoring does (measured, not
derived); the report's seconds are those that it took to write. Memory is

    what the process holds already + what the largest batch takes + score tables

where the second is what autograd saves for one prompt of the longest length, times the number of
prompts; on a CPU, where a pass takes more than it saves and malloc keeps it, at least what the
process grew by as the larger batch was measured, in proportion to tokens. The tables hold float64
sums by culture. On an accelerator what is held is the weights, and what a framework reserves is not
in it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import psutil
import torch
from jaxtyping import Float

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.errors import check_by_name, check_number
from culnig_tl.evaluation import FACTORS
from culnig_tl.hooked_model import HookedModel
from culnig_tl.logits import last_logits
from culnig_tl.pipeline.stage import drawn
from culnig_tl.pipeline.stages import CARD_PROMPTS, DOSE_PROMPTS, REPLY_TOKENS, replied_to
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare
from culnig_tl.sites import DEFAULT_SITES, site_shape

_SIZES = (4, 24)
"""Prompts of the batches that are measured."""
_REPORT = 6.0
"""Seconds that a report takes, on a core of a server of 2021."""
_EXPLAINED = 12
"""Prompts of a card that are explained token by token, with a backward pass."""
_EXPLAINING = 2.0
"""What explaining a prompt costs, over scoring it."""
_TIMES = ["seconds", "seconds_low", "seconds_high"]


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        stages: one row per data set: stage (``"score"``, ``"answer"``, ``"cultures"``, ``"cards"``,
            ``"doses"``, ``"replies"``, ``"report"``), data, questions, prompts, tokens (padding
            counted), longest (prompt), passes, seconds, and their range seconds_low and
            seconds_high.
        weights: bytes of the model.
        held: bytes that the process holds already; on an accelerator, the weights.
        batch: bytes that scoring the largest batch takes.
        tables: bytes of the score tables.
    """

    stages: pd.DataFrame
    weights: int
    held: int
    batch: int
    tables: int

    @property
    def seconds(self) -> float:
        """Estimated time of the whole run."""
        return float(self.stages["seconds"].sum())

    @property
    def range(self) -> tuple[float, float]:
        """The same by the faster and by the slower of the measured passes."""
        low, high = self.stages[["seconds_low", "seconds_high"]].sum()
        return float(low), float(high)

    @property
    def peak(self) -> int:
        """Estimated memory in bytes."""
        return self.held + self.batch + self.tables

    def with_sets(self, n_sets: int) -> "Plan":
        """The same where each benchmark is answered so many times."""
        is_answer = self.stages["stage"] == "answer"
        stages = self.stages.copy()
        share = n_sets / stages.loc[is_answer, "passes"]
        stages.loc[is_answer, _TIMES] = stages.loc[is_answer, _TIMES].mul(share, axis=0)
        stages.loc[is_answer, "passes"] = n_sets
        return Plan(stages, self.weights, self.held, self.batch, self.tables)


@dataclass(frozen=True)
class _Cost:
    """Seconds of a pass and of a token in it: middle, low and high."""

    of_pass: Float[np.ndarray, "three"]
    of_token: Float[np.ndarray, "three"]

    def of(self, n_passes: int, n_tokens: int) -> dict[str, float]:
        seconds = n_passes * self.of_pass + n_tokens * self.of_token
        return dict(zip(_TIMES, seconds.tolist(), strict=True))

    def plus(self, other: "_Cost", times: float) -> "_Cost":
        """This and some of another."""
        return _Cost(self.of_pass + times * other.of_pass, self.of_token + times * other.of_token)


def estimate(
    model: HookedModel,
    data: Mapping[str, Rows],
    benchmarks: Mapping[str, Rows],
    *,
    n_sets: int = 12,
    n_cards: int = 12,
    sites: Sequence[str] = DEFAULT_SITES,
    token_budget: int = 8192,
) -> Plan:
    """What ``culnig`` will take with these questions, and its report.

    Args:
        model: a frozen model with named hook points.
        data: questions to score, by name.
        benchmarks: questions to answer, by name; the first one also for the culture x culture
            effects.
        n_sets: how many times a benchmark is answered: once as the model is, and once per set of
            neurons and factor; of random sets that share the questions, once for all of a factor.
        n_cards: cards of neurons, which come with the doses; 0 for neither.
        sites: hook points to score.
        token_budget: tokens per pass, padding counted.

    Raises:
        InvalidInputError: no data or benchmarks, numbers that are no whole numbers from 1 up
            (cards: from 0), or rows that cannot be used.

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
    check_number("n_cards", n_cards, low=0, whole=True)
    scored, answered = (
        {name: prepare(model, rows, token_budget=token_budget) for name, rows in named.items()}
        for named in (data, benchmarks)
    )
    to_score = [batch for prepared in scored.values() for batch in prepared.batches]
    to_answer = [batch for prepared in answered.values() for batch in prepared.batches]
    middle = _middle(to_score + to_answer)
    weights = sum(weight.numel() * weight.element_size() for _, weight in model.named_parameters())
    on_cpu = torch.device(model.cfg.device or "cpu").type == "cpu"
    held = _resident() if on_cpu else weights
    score = _cost(lambda batch: gradient_x_activation(model, batch, sites=sites), middle)
    grown = _resident() - held if on_cpu else 0
    answer = _cost(lambda batch: _answer(model, batch), middle)
    cultures = list(dict.fromkeys(c for rows in scored.values() for c in rows.cultures))
    first, cultural = next(iter(answered)), next(iter(scored))
    stages: list[dict[str, object]] = [
        *(_stage("score", name, rows, 1, score) for name, rows in scored.items()),
        *(_stage("answer", name, rows, n_sets, answer) for name, rows in answered.items()),
        _stage("cultures", first, answered[first], len(cultures), answer),
    ]
    if n_cards:
        looked_at = drawn(scored[cultural], CARD_PROMPTS)
        explained = _EXPLAINING * n_cards * min(1.0, _EXPLAINED / len(looked_at))
        card = answer.plus(answer, float(n_cards)).plus(score, explained)
        stages.append(_stage("cards", cultural, looked_at, 1, score.plus(card, 1.0)))
        stages += [
            _stage("doses", name, drawn(rows, DOSE_PROMPTS), len(FACTORS), answer)
            for name, rows in answered.items()
        ]
        if len(replied := replied_to(answered[first])):
            step = answer.of_token * len(replied) / sum(map(len, replied.prompts))
            reply = answer.plus(_Cost(answer.of_pass, step), float(REPLY_TOKENS))
            stages.append(_stage("replies", first, replied, 2, reply))
    stages.append({"stage": "report", "data": "", **dict.fromkeys(_TIMES, _REPORT)})
    n_neurons = sum(layers * width for layers, width in (site_shape(model, s) for s in sites))
    largest = max(to_score, key=lambda batch: batch.tokens.numel())
    n_measured = _part(middle, _SIZES[1]).tokens.numel()
    counts = ["questions", "prompts", "tokens", "longest", "passes"]
    table = pd.DataFrame(stages)
    return Plan(
        stages=table.fillna(dict.fromkeys(counts, 0)).astype(dict.fromkeys(counts, int)),
        weights=weights,
        held=held,
        batch=max(
            _saved_bytes(model, largest, sites) * len(largest),
            grown * largest.tokens.numel() // n_measured,
        ),
        tables=n_neurons * (8 * len(cultures) + 4 * len(largest)),
    )


def _stage(
    stage: str, name: str, prepared: PreparedQuestions, passes: int, cost: _Cost
) -> dict[str, object]:
    rows, batches = prepared.rows, prepared.batches
    tokens = sum(batch.tokens.numel() for batch in batches)
    return {
        "stage": stage,
        "data": name,
        "questions": len(set(zip(rows["id"], rows["culture"], strict=True))),
        "prompts": len(rows),
        "tokens": tokens,
        "longest": max(batch.tokens.shape[1] for batch in batches),
        "passes": passes,
        **cost.of(passes * len(batches), passes * tokens),
    }


def _middle(batches: Sequence[Batch]) -> Batch:
    """The batch of middle length."""
    ordered = sorted(batches, key=lambda batch: batch.tokens.shape[1])
    return ordered[len(ordered) // 2]


def _answer(model: HookedModel, batch: Batch) -> None:
    with torch.no_grad():
        last_logits(model, batch.tokens, batch.mask)


def _cost(run: Callable[[Batch], object], batch: Batch) -> _Cost:
    """What a pass and a token cost, by batches of two sizes; by tokens alone where there is one, or
    where the line through both makes no sense."""
    small, large = (_part(batch, size) for size in _SIZES)
    n_small, n_large = small.tokens.numel(), large.tokens.numel()
    of_small, of_large = _seconds(run, small), _seconds(run, large)
    of_token = of_large / n_large
    if n_large > n_small:
        slope = (of_large - of_small) / (n_large - n_small)
        of_pass = of_small - slope * n_small
        if (slope > 0).all() and (of_pass > 0).all():
            return _Cost(of_pass, slope)
    return _Cost(np.zeros(3), of_token)


def _part(batch: Batch, size: int) -> Batch:
    """The first prompts of a batch."""
    return batch.select(range(min(size, len(batch))))


def _resident() -> int:
    """Bytes that this process holds."""
    return psutil.Process().memory_info().rss


def _seconds(run: Callable[[Batch], object], batch: Batch) -> Float[np.ndarray, "three"]:
    """The mean, the shorter and the longer of two times, after a pass to warm up."""
    run(batch)
    _wait(batch)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run(batch)
        _wait(batch)
        times.append(time.perf_counter() - start)
    return np.array([sum(times) / 2, min(times), max(times)])


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
