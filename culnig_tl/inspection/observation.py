"""One pass over questions that sees everything about a few neurons.

The scores of ``attribution`` and the activations come from the same forward and backward pass. How
alike two neurons are is the Pearson correlation of their scores over prompts; it is summed up batch
by batch, so that nothing of size prompts x layers x neurons is ever held. Memory: observed neurons
x layers x neurons a layer, in float64, a site.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.attribution import gradient_x_activation
from culnig_tl.hooks import HookedModel, hook_name, site_shape
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import Batch, batches, fingerprint
from culnig_tl.scores import NeuronScores, ScoreAccumulator

Located = tuple[str, int, int]
"""(site, layer, neuron)"""


@dataclass(frozen=True)
class Observation:
    """What was seen of one neuron.

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
    """A pass over questions.

    Attributes:
        tokens: token ids of each prompt, in the order of the rows.
        neurons: what was seen of each neuron.
        scores: scores of all neurons, as ``attribute`` gives them.
    """

    tokens: tuple[tuple[int, ...], ...]
    neurons: Mapping[Located, Observation]
    scores: NeuronScores


def observe(
    model: HookedModel,
    rows: Dataset,
    neurons: Sequence[Located],
    *,
    sites: Sequence[str],
    token_budget: int = 8192,
    progress: bool = False,
) -> Observations:
    """Score all neurons at ``sites`` and record ``neurons``, which lie at these sites.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> found = observe(ct.load_model(), rows, [("attn.hook_q", 1, 5)], sites=["attn.hook_q"])
        >>> len(found.neurons["attn.hook_q", 1, 5].scores)
        4
    """
    for site in sites:
        site_shape(model, site)  # its first look runs the model, which no recorder may see
    tokens: list[tuple[int, ...]] = [()] * len(rows)
    seen: dict[Located, list[Tensor]] = {neuron: [torch.empty(0)] * len(rows) for neuron in neurons}
    own_scores = torch.zeros(len(neurons), len(rows), dtype=torch.float64)
    accumulator, likeness = ScoreAccumulator(rows["culture"]), _Likeness()
    with tqdm(total=len(rows), desc="inspection", unit="question", disable=not progress) as bar:
        for batch in batches(model, rows, token_budget=token_budget):
            with model.hooks(fwd_hooks=_recorders(batch, seen)):
                scores = gradient_x_activation(model, batch, sites=sites)
            own = torch.stack([scores[site][:, layer, n] for site, layer, n in neurons])
            own_scores[:, list(batch.rows)] = own.cpu().double()
            accumulator.update(scores, cultures=batch.cultures, ids=batch.ids)
            likeness.update(own, scores)
            for line, row in enumerate(batch.rows):
                tokens[row] = tuple(batch.tokens[line][batch.mask[line]].tolist())
            bar.update(len(batch))
    alike = likeness.finish()
    return Observations(
        tokens=tuple(tokens),
        neurons={
            neuron: Observation(
                tuple(seen[neuron]), own_scores[i], {site: r[i] for site, r in alike.items()}
            )
            for i, neuron in enumerate(neurons)
        },
        scores=accumulator.finish(
            method="gradient_x_activation",
            model=model_fingerprint(model),
            data=fingerprint(rows),
        ),
    )


def _recorders(batch: Batch, seen: Mapping[Located, list[Tensor]]) -> list[tuple[str, object]]:
    """Hooks that write the activations of each neuron at real tokens into ``seen``, by row."""

    def record(activation: Tensor, hook: object, *, neuron: int, into: list[Tensor]) -> None:
        values = activation.detach().flatten(2)[:, :, neuron].float().cpu()
        for line, row in enumerate(batch.rows):
            into[row] = values[line][batch.mask[line].cpu()]

    return [
        (hook_name(site, layer), partial(record, neuron=neuron, into=into))
        for (site, layer, neuron), into in seen.items()
    ]


class _Likeness:
    """Pearson correlation of a few neurons' scores with all neurons' scores, batch by batch."""

    def __init__(self) -> None:
        self._n = 0
        self._own: list[Tensor] = []
        self._sums: dict[str, tuple[Tensor, ...]] = {}

    def update(
        self,
        own: Float[Tensor, "observed batch"],
        scores: Mapping[str, Float[Tensor, "batch layer neuron"]],
    ) -> None:
        exact = torch.float32 if own.device.type == "mps" else torch.float64
        own = own.to(exact)
        self._n += own.shape[1]
        self._own.append(own)
        for site, values in scores.items():
            theirs = values.to(exact)
            together = torch.einsum("ob,bln->oln", own, theirs)
            new = (theirs.sum(0), theirs.square().sum(0), together)
            known = self._sums.get(site)
            self._sums[site] = new if known is None else tuple(map(torch.add, known, new))

    def finish(self) -> dict[str, Float[Tensor, "observed layer neuron"]]:
        own = torch.cat(self._own, dim=1)
        mean = own.mean(1)[:, None, None]
        spread = _spread(mean, own.square().mean(1)[:, None, None])
        found = {}
        for site, (total, squares, products) in self._sums.items():
            their_mean = total / self._n
            together = products / self._n - mean * their_mean
            found[site] = together / spread / _spread(their_mean, squares / self._n)
        return {site: likeness.cpu() for site, likeness in found.items()}


def _spread(mean: Tensor, mean_square: Tensor) -> Tensor:
    """Standard deviation; NaN where what is left of a constant is rounding."""
    variance = mean_square - mean.square()
    return torch.where(variance > 1e-9 * mean_square, variance, float("nan")).sqrt()
