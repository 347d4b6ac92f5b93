"""One pass over questions that sees everything about a few neurons.

The scores of ``attribution`` and the activations come from the same forward and backward pass. How
alike two neurons are is the Pearson correlation of their scores over prompts; it is summed up batch
by batch, so that nothing of size prompts x layers x neurons is ever held. Memory per site: observed
neurons x layers x neurons per layer, in float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron
from culnig_tl.questions import Batch, Rows, prepare
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
