"""One pass over questions that sees everything about a few neurons.

The scores of ``attribution`` and the activations come from the same forward and backward pass. How
alike two neurons are is the Pearson correlation of their scores over prompts; it is summed up batch
by batch, so that nothing of size prompts x layers x neurons is ever held. Memory per site: observed
neurons x layers x neurons per layer, in float64.

Where one neuron after the other is looked at, the pass over all neurons is made once:
``KeptScores`` holds every prompt's score of every neuron (prompts x layers x neurons; 64 prompts of
a model of 135M parameters 19 MB, of 8B 0.2 GB), and ``observe_off`` sees one more neuron by a
forward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.hooks import scaled_neurons
from culnig_tl.logits import last_logits
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores, ScoreAccumulator
from culnig_tl.sites import hook_name


@dataclass(frozen=True)
class Observation:
    """What a pass over questions shows of one neuron.

    Attributes:
        activations: its activation at every token of each prompt, in the order of the rows.
        scores: its score on each prompt.
        likeness: correlation of its scores with those of every neuron, by site; NaN where a
            neuron's score never changes.
    """

    activations: tuple[Float[Tensor, "_pos"], ...]
    scores: Float[Tensor, "prompt"]
    likeness: Mapping[str, Float[Tensor, "layer neuron"]]


@dataclass(frozen=True)
class Observations:
    """What a pass over questions shows.

    Attributes:
        neurons: each observed neuron.
        scores: scores of all neurons, as ``attribute`` gives them.
    """

    neurons: Mapping[Neuron, Observation]
    scores: NeuronScores


def observe(
    model: HookedModel,
    rows: Rows,
    neurons: Sequence[Neuron],
    *,
    sites: Sequence[str],
    progress: bool = False,
) -> Observations:
    """Score all neurons at ``sites`` and record ``neurons``, which lie at these sites.

    Args:
        model: a model with named hook points.
        rows: questions.
        neurons: the neurons to record.
        sites: where neurons are scored.
        progress: show a progress bar.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: rows that cannot be used.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> neuron = Neuron("attn.hook_q", 1, 5)
        >>> observations = observe(ct.load_model(), rows, [neuron], sites=["attn.hook_q"])
        >>> len(observations.neurons[neuron].scores)
        4
    """
    prepared = prepare(model, rows)
    record = _Record(neurons, prepared.cultures, n_prompts=len(prepared))
    with tqdm(total=len(prepared), desc="inspection", unit="question", disable=not progress) as bar:
        for batch, (scores, activations) in prepared.passes(
            partial(_scores_and_activations, model, neurons, sites)
        ):
            record.add(batch, scores, activations)
            bar.update(len(batch))
    return record.finish(model=model_fingerprint(model), data=prepared.fingerprint)


@dataclass(frozen=True)
class KeptScores:
    """The score of every neuron on every prompt, gathered once, a few prompts at a time.

    Attributes:
        prepared: the questions.
        by_site: the scores, on the CPU, of the sites that were gathered.
    """

    prepared: PreparedQuestions
    by_site: dict[str, Float[Tensor, "prompt layer neuron"]] = field(default_factory=dict)
    _pieces: dict[str, list[Tensor]] = field(default_factory=dict)

    def gather(self, sites: Sequence[str], *, n_rows: int) -> Iterator[None]:
        """Score ``n_rows`` prompts per step, going on where an earlier call stopped; no step where
        all of ``sites`` are complete.

        Raises:
            UnknownNameError: a site that this model does not have.
        """
        for rows in torch.arange(len(self.prepared)).split(n_rows):
            number = int(rows[0]) // n_rows
            missing = [site for site in sites if len(self._pieces.get(site, ())) <= number]
            if not missing:
                continue
            piece = self.prepared.select(rows.tolist())
            run = partial(gradient_x_activation, self.prepared.model, sites=missing)
            scored: dict[str, Tensor] = {}
            for batch, scores in piece.passes(run):
                for site, values in scores.items():
                    empty = torch.zeros((len(piece), *values.shape[1:]), dtype=values.dtype)
                    scored.setdefault(site, empty)[list(batch.rows)] = values.cpu()
            for site, values in scored.items():
                self._pieces.setdefault(site, []).append(values)
            yield
        for site in sites:
            if site not in self.by_site:
                self.by_site[site] = torch.cat(self._pieces[site])

    def totals(self) -> NeuronScores:
        """The scores of the questions, as ``attribute`` gives them."""
        rows = self.prepared.rows
        accumulator = ScoreAccumulator(self.prepared.cultures)
        accumulator.update(self.by_site, cultures=rows["culture"][:], ids=rows["id"][:])
        return accumulator.finish(
            method="gradient_x_activation",
            model=model_fingerprint(self.prepared.model, thorough=False),
            data=self.prepared.fingerprint,
        )

    def observation(
        self, neuron: Neuron, activations: Sequence[Float[Tensor, "_pos"]]
    ) -> Observation:
        """What ``observe`` would show of a neuron whose activations are known."""
        own = self.by_site[neuron.site][:, neuron.layer, neuron.index]
        likeness = _Likeness()
        likeness.add(own[None], self.by_site)
        alike = {site: values[0] for site, values in likeness.finish().items()}
        return Observation(tuple(activations), own.double(), alike)


def observe_off(
    prepared: PreparedQuestions, neuron: Neuron
) -> tuple[list[Float[Tensor, "_pos"]], pd.DataFrame]:
    """A neuron's activations at every token of each prompt, and the answers while it is off, by one
    forward pass: columns probability (of the right answer) and correct, one row per prompt.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: a neuron outside this model.
    """
    model, activations = prepared.model, [torch.empty(0)] * len(prepared)
    probability, correct = [0.0] * len(prepared), [False] * len(prepared)
    recorded: list[Tensor] = []

    def record(activation: Tensor, hook: object) -> None:
        recorded.append(activation.detach().flatten(2)[:, :, neuron.index].float().cpu())

    def run(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        recorder = [(hook_name(neuron.site, neuron.layer), record)]
        with hooked(model, recorder, gradients=False), scaled_neurons(model, [neuron]):
            logits = last_logits(model, batch.tokens, batch.mask, ids=batch.ids).float()
        right = logits.softmax(-1).gather(1, batch.answers[:, None])[:, 0]
        return recorded.pop(), right.cpu(), logits.argmax(-1).cpu()

    for batch, outcome in prepared.passes(run):
        for row, mask, values, right, token in zip(
            batch.rows, batch.mask.cpu(), *outcome, strict=True
        ):
            activations[row], probability[row] = values[mask], right.item()
            expected = prepared.adapted[row]["answer"]
            correct[row] = prepared.answer_text(row, int(token)) == expected
    return activations, pd.DataFrame({"probability": probability, "correct": correct})


def _scores_and_activations(
    model: HookedModel, neurons: Sequence[Neuron], sites: Sequence[str], batch: Batch
) -> tuple[
    dict[str, Float[Tensor, "batch layer neuron"]], dict[Neuron, Float[Tensor, "batch pos"]]
]:
    """Scores of all neurons at ``sites``, and the activations of some, out of one pass."""
    activations: dict[Neuron, Tensor] = {}

    def record(activation: Tensor, hook: object, *, neuron: Neuron) -> None:
        activations[neuron] = activation.detach().flatten(2)[:, :, neuron.index].float().cpu()

    recorders = [
        (hook_name(neuron.site, neuron.layer), partial(record, neuron=neuron)) for neuron in neurons
    ]
    with hooked(model, recorders):
        return gradient_x_activation(model, batch, sites=sites), activations


class _Record:
    """Takes in batch by batch what ``observe`` returns."""

    def __init__(self, neurons: Sequence[Neuron], cultures: Sequence[str], *, n_prompts: int):
        self._neurons = neurons
        self._activations = {neuron: [torch.empty(0)] * n_prompts for neuron in neurons}
        self._own_scores = torch.zeros(len(neurons), n_prompts, dtype=torch.float64)
        self._totals = ScoreAccumulator(cultures)
        self._likeness = _Likeness()

    def add(
        self,
        batch: Batch,
        scores: Mapping[str, Float[Tensor, "batch layer neuron"]],
        activations: Mapping[Neuron, Float[Tensor, "batch pos"]],
    ) -> None:
        own = torch.stack([scores[site][:, layer, index] for site, layer, index in self._neurons])
        self._own_scores[:, list(batch.rows)] = own.cpu().double()
        self._totals.update(scores, cultures=batch.cultures, ids=batch.ids)
        self._likeness.add(own, scores)
        for neuron, values in activations.items():
            for row, line, mask in zip(batch.rows, values, batch.mask.cpu(), strict=True):
                self._activations[neuron][row] = line[mask]

    def finish(self, **source: str) -> Observations:
        likeness = self._likeness.finish()
        return Observations(
            neurons={
                neuron: Observation(
                    tuple(self._activations[neuron]),
                    self._own_scores[i],
                    {site: values[i] for site, values in likeness.items()},
                )
                for i, neuron in enumerate(self._neurons)
            },
            scores=self._totals.finish(method="gradient_x_activation", **source),
        )


class _Likeness:
    """Pearson correlation of a few neurons' scores with all neurons' scores, batch by batch."""

    def __init__(self) -> None:
        self._own: list[Tensor] = []
        self._sums: dict[str, tuple[Tensor, ...]] = {}

    def add(
        self,
        own: Float[Tensor, "observed batch"],
        scores: Mapping[str, Float[Tensor, "batch layer neuron"]],
    ) -> None:
        exact = torch.float32 if own.device.type == "mps" else torch.float64
        own = own.to(exact)
        self._own.append(own)
        for site, values in scores.items():
            theirs = values.to(exact)
            together = torch.einsum("ob,bln->oln", own, theirs)
            new = (theirs.sum(0), theirs.square().sum(0), together)
            old = self._sums.get(site)
            self._sums[site] = new if old is None else tuple(map(torch.add, old, new))

    def finish(self) -> dict[str, Float[Tensor, "observed layer neuron"]]:
        own = torch.cat(self._own, dim=1)
        n_prompts = own.shape[1]
        mean = own.mean(1)[:, None, None]
        deviation = _deviation(mean, own.square().mean(1)[:, None, None])
        likeness = {}
        for site, (total, squares, products) in self._sums.items():
            their_mean = total / n_prompts
            covariance = products / n_prompts - mean * their_mean
            their_deviation = _deviation(their_mean, squares / n_prompts)
            likeness[site] = (covariance / deviation / their_deviation).cpu()
        return likeness


def _deviation(mean: Tensor, mean_square: Tensor) -> Tensor:
    """Standard deviation; NaN where what is left of a constant is rounding."""
    variance = mean_square - mean.square()
    return torch.where(variance > 1e-9 * mean_square, variance, float("nan")).sqrt()
