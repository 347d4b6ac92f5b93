"""The judge of every score: what switching off one neuron, and nothing else, really does.

    drop = mean over prompts of  P(y) - P(y, neuron scaled)

Scores estimate this drop; ablations of single neurons do not add up to the ablation of their set.

The rows are run once as they are, which records the residual stream before each layer and what the
attention of the scored layers returns. A neuron changes nothing below itself, so that its pass
begins at its own layer: at a site of the MLP behind that layer's attention, at ``mlp.hook_post``
behind the first half of the MLP too, which is computed once for several neurons. One pass takes as
many neurons as the token budget has room for, each in a copy of the prompts; the last MLP is
computed at the last position, where the answer is read. Nothing is approximated: the answers are
those of ``evaluate`` but for rounding.

What is left are the layers above the neuron, at every position. Where matrix work is the limit, as
on a CPU, a neuron of the first layer costs nearly a whole pass, one of the last layer next to
nothing, and one of any layer less than half on average; copies help where it is not, with few or
short prompts and on a GPU.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.attribution import (
    Residuals,
    StartPoint,
    last_mlp_trimmed,
    recording,
    starting_at,
)
from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.evaluation.answers import check_answerable
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.hooks import check_intervention
from culnig_tl.logits import last_logits
from culnig_tl.neurons import Listed, Neuron, NeuronSet
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare
from culnig_tl.sites import hook_name, site_shape

_COPIES = 8
"""Of each prompt in a pass, if there are as many neurons: what they share costs an eighth then, and
only as many prompts as fit with them are recorded at a time."""


def ablation_effects(
    model: HookedModel,
    rows: Rows,
    neurons: NeuronSet | Listed,
    *,
    factor: float = 0.0,
    token_budget: int = 16384,
    progress: bool = True,
) -> pd.DataFrame:
    """What scaling each neuron alone does to the answers.

    Args:
        model: any model with named hook points.
        rows: questions, or prepared ones.
        neurons: a set, or neurons by value or name; each by itself.
        factor: what the neuron's activation is multiplied by; 0 switches it off.
        token_budget: tokens per pass, padding and copies counted; prepared questions have their
            own.
        progress: show a progress bar.

    Returns:
        One row per neuron in the order of the set: site, layer, neuron, drop (of mean
        ``P(answer)``, positive if the neuron carries the answers), standard_error (of that mean
        over prompts) and accuracy_drop (points).

    Raises:
        InvalidInputError: no neurons, a factor that is no finite number, rows that cannot be used,
            or neurons outside the model; before the model runs.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=16)
        >>> pair = ["L3.mlp.hook_post.17", "L1.mlp.hook_post.5"]
        >>> ablation_effects(ct.load_model(), rows, pair, progress=False)["neuron"].tolist()
        [5, 17]
    """
    neurons = _some(neurons, factor)
    prepared = prepare(model, rows, token_budget=token_budget)
    drops = ablation_drops(prepared, neurons, factor=factor, progress=progress)
    effects = [
        (*neuron, of_neuron.mean(), _standard_error(of_neuron), 100 * lost.mean())
        for neuron, of_neuron, lost in zip(
            neurons, drops.probability.numpy(), drops.correct.numpy(), strict=True
        )
    ]
    columns = ["site", "layer", "neuron", "drop", "standard_error", "accuracy_drop"]
    return pd.DataFrame(effects, columns=columns)


class Drops(NamedTuple):
    """What each row loses while one neuron is scaled; negative where it gains.

    Attributes:
        probability: of the right answer.
        correct: 1 for a right answer that becomes a wrong one, -1 for the reverse, otherwise 0.
    """

    probability: Float[Tensor, "neuron row"]
    correct: Float[Tensor, "neuron row"]


def ablation_drops(
    prepared: PreparedQuestions,
    neurons: NeuronSet | Listed,
    *,
    factor: float = 0.0,
    progress: bool = False,
) -> Drops:
    """What scaling each neuron alone takes from the answer to each row.

    Args:
        prepared: the questions.
        neurons: a set, or neurons by value or name; each by itself.
        factor: what the neuron's activation is multiplied by; 0 switches it off.
        progress: show a progress bar.

    Returns:
        float64 on the CPU, ``[neuron, row]``: neurons in the order of the set, rows in that of the
        questions.

    Raises:
        InvalidInputError: no neurons, a factor that is no finite number, clozes whose options
            cannot be told apart, or neurons outside the model, before the model runs; logits that
            are not finite, or a single prompt that does not fit into memory.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> rows = ct.prepare(model, ct.load_benchmark("atlas", split="test", limit=3))
        >>> ablation_drops(rows, ["L3.mlp.hook_post.17", "L1.attn.hook_v.5"]).probability.shape
        torch.Size([2, 3])
    """
    neurons = _some(neurons, factor)
    check_answerable(prepared, "argmax")
    check_intervention(prepared.model, [neurons], factor)
    with tqdm(total=len(neurons) * len(prepared), unit="answer", disable=not progress) as bar:
        answers = _Ablation(prepared, tuple(neurons), factor, bar).answers()
    before_and_after = (answers.probability, _correct(prepared, answers.tokens))
    return Drops(*(values[:1] - values[1:] for values in before_and_after))


class _Answers(NamedTuple):
    """``P(y)`` and the likeliest token of each prompt, under each of several conditions."""

    probability: Float[Tensor, "condition row"]
    tokens: Int[Tensor, "condition row"]


class _Start(NamedTuple):
    """Where passes begin: a layer, and a point in it."""

    layer: int
    point: StartPoint

    @classmethod
    def of(cls, neuron: Neuron) -> "_Start":
        """The last place that comes before a neuron."""
        if neuron.site == "mlp.hook_post":
            return cls(neuron.layer, "mlp.hook_post")
        return cls(neuron.layer, "mlp" if neuron.site.startswith("mlp.") else "layer")


@dataclass(frozen=True)
class _Ablation:
    """The answers as they are, and under the factor of each neuron.

    Attributes:
        prepared: the questions.
        neurons: each is scaled by itself.
        factor: what it is multiplied by.
        bar: counts answers.
    """

    prepared: PreparedQuestions
    neurons: Sequence[Neuron]
    factor: float
    bar: Any

    @cached_property
    def starts(self) -> Mapping[_Start, Sequence[int]]:
        """Numbers of the neurons whose passes begin at the same place."""
        places: dict[_Start, list[int]] = {}
        for number, neuron in enumerate(self.neurons):
            places.setdefault(_Start.of(neuron), []).append(number)
        return places

    def answers(self) -> _Answers:
        """First as they are, then under each neuron; columns in the order of the rows."""
        shape = (1 + len(self.neurons), len(self.prepared))
        answers = _Answers(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape).long())
        budget, most = self.prepared.budget, max(map(len, self.starts.values()))
        n_done = 0
        for piece, of_piece in budget.passes(self._pieces(most), self._of_piece, n_copies=most):
            for whole, part in zip(answers, of_piece, strict=True):
                whole[:, list(piece.rows)] = part.to(whole)
            n_done += len(piece) * len(self.neurons)
            self.bar.update(n_done - self.bar.n)
        return answers

    def _pieces(self, most: int) -> Iterator[Batch]:
        """Batches cut so that a pass has room for some copies, which share what comes before."""
        for batch in self.prepared.batches:
            n_prompts = self.prepared.token_budget // batch.tokens.shape[1]
            size = max(1, n_prompts // min(_COPIES, most))
            for lines in torch.arange(len(batch)).split(size):
                yield batch.select(lines.tolist())

    def _of_piece(self, piece: Batch) -> _Answers:
        """All answers to some prompts."""
        model = self.prepared.model
        behind = {layer for layer, point in self.starts if point != "layer"}
        with recording(model, behind_attention=behind) as inputs:
            answers = [_read(model, piece, n_copies=1)]
        order = [0]
        for start, numbers in self.starts.items():
            for part in self._passes(piece, numbers):
                answers.append(self._under(piece, inputs, start, part))
                order += [1 + number for number in part]
        probability, tokens = (torch.cat(each) for each in zip(*answers, strict=True))
        places = torch.tensor(order).argsort()
        return _Answers(probability[places], tokens[places])

    def _passes(self, piece: Batch, numbers: Sequence[int]) -> Iterator[Sequence[int]]:
        """As many neurons at a time as the budget has room for copies of the prompts."""
        n_copies = max(1, self.prepared.token_budget // piece.tokens.numel())
        for start in range(0, len(numbers), n_copies):
            yield numbers[start : start + n_copies]

    def _under(
        self, piece: Batch, inputs: Residuals, start: _Start, numbers: Sequence[int]
    ) -> _Answers:
        """The answers while each of these neurons is scaled in a copy of its own."""
        model, n_copies = self.prepared.model, len(numbers)
        point = inputs.point(*start)
        there = 1 if point == "mlp.hook_post" else n_copies
        neurons = [self.neurons[number] for number in numbers]
        fwd_hooks = _scaling(model, neurons, self.factor, n_there=there)
        copies = piece.select([*range(len(piece))] * n_copies)
        started = starting_at(model, start.layer, inputs, n_copies=n_copies, point=point)
        with started, last_mlp_trimmed(model), hooked(model, fwd_hooks):
            answers = _read(model, copies, n_copies=n_copies)
        self.bar.update(len(copies))
        return answers


def _some(neurons: NeuronSet | Listed, factor: float) -> NeuronSet:
    """At least one neuron, and a factor that is a number."""
    neurons = NeuronSet.of(neurons)
    if not len(neurons):
        raise InvalidInputError("There are no neurons to switch off; give at least one.")
    check_number("factor", factor)
    return neurons


def _read(model: HookedModel, batch: Batch, *, n_copies: int) -> _Answers:
    """The answers to copies of the same prompts, one line per copy, on the CPU."""
    with torch.no_grad():
        logits = last_logits(model, batch.tokens, batch.mask, ids=batch.ids).float()
    probability = logits.softmax(-1).gather(1, batch.answers[:, None])[:, 0]
    lines = (n_copies, -1)
    return _Answers(probability.cpu().view(lines), logits.argmax(-1).cpu().view(lines))


def _scaling(
    model: HookedModel, neurons: Sequence[Neuron], factor: float, *, n_there: int
) -> list[tuple[str, Callable[..., Tensor]]]:
    """Hooks of one layer that scale each neuron in the copy of its number; ``n_there`` copies are
    there before them."""
    multipliers: dict[str, Tensor] = {}
    for copy, (site, layer, index) in enumerate(neurons):
        ones = torch.ones(len(neurons), site_shape(model, site)[1])
        multipliers.setdefault(hook_name(site, layer), ones)[copy, index] = factor
    return [
        (name, partial(_scale_copies, multiplier=multiplier, n_there=n_there))
        for name, multiplier in multipliers.items()
    ]


def _scale_copies(
    activation: Tensor, hook: object, *, multiplier: Float[Tensor, "copy neuron"], n_there: int
) -> Tensor:
    copies = activation.unflatten(0, (n_there, -1))
    shaped = multiplier.to(copies).view(len(multiplier), 1, 1, *copies.shape[3:])
    return (copies * shaped).flatten(0, 1)


def _correct(
    prepared: PreparedQuestions, tokens: Int[Tensor, "condition row"]
) -> Float[Tensor, "condition row"]:
    """1 where the likeliest token is the answer, as ``evaluate`` reads it."""
    correct = torch.zeros(tokens.shape, dtype=torch.float64)
    for row, answer in enumerate(prepared.adapted["answer"][:]):
        for token in tokens[:, row].unique().tolist():
            if prepared.answer_text(row, token) == answer:
                correct[tokens[:, row] == token, row] = 1
    return correct


def _standard_error(values: Float[np.ndarray, "row"]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
