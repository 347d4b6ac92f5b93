"""What neurons do on the prompts of each culture, added up batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.errors import InvalidInputError, check_choice, check_kind, check_some
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.logits import last_logits
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import Batch, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import hook_name, layers_of, measure_sites

Quantity = Literal["probability", "mean", "maximum", "last"]
"""An average that is a ranking of its own."""

_ROUNDING = 1e-12
"""Share of the mean square below which a variance is what rounding left of 0."""


@dataclass(frozen=True, repr=False)
class ActivationStatistics:
    """What neurons do on the prompts of each culture, by site, in float64.

    Attributes:
        probability: share of the positions at which the neuron fires.
        mean, deviation: mean activation over positions, and standard deviation.
        maximum: greatest activation of a prompt, averaged over prompts.
        last, last_deviation: mean activation at the last position, and standard deviation.
        cultures: the culture axis, in order of first appearance; rows without culture are ``""``.
        n_positions: number of real positions of each culture.
        n_prompts: number of prompts of each culture.
        n_questions: number of distinct question ids.
        source: sites, fingerprints of model and data.
    """

    probability: Mapping[str, Float[Tensor, "culture layer neuron"]]
    mean: Mapping[str, Float[Tensor, "culture layer neuron"]]
    deviation: Mapping[str, Float[Tensor, "culture layer neuron"]]
    maximum: Mapping[str, Float[Tensor, "culture layer neuron"]]
    last: Mapping[str, Float[Tensor, "culture layer neuron"]]
    last_deviation: Mapping[str, Float[Tensor, "culture layer neuron"]]
    cultures: tuple[str, ...]
    n_positions: tuple[int, ...]
    n_prompts: tuple[int, ...]
    n_questions: int
    source: Mapping[str, Any]

    def __repr__(self) -> str:
        return (
            f"Activations of {self.source['model_name']} at {', '.join(self.sites)}: "
            f"{len(self.cultures)} cultures, {sum(self.n_prompts):,} prompts, "
            f"{sum(self.n_positions):,} positions"
        )

    @property
    def sites(self) -> tuple[str, ...]:
        """The observed sites."""
        return tuple(self.probability)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(layers, neurons per layer) of each site."""
        return {site: (each.shape[1], each.shape[2]) for site, each in self.probability.items()}

    def scores(self, quantity: Quantity) -> NeuronScores:
        """One of the averages as scores, for whatever ranks neurons.

        Raises:
            InvalidInputError: an unknown quantity.

        Example:
            >>> import culnig_tl as ct
            >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
            >>> statistics = activation_statistics(ct.load_model(), rows, progress=False)
            >>> statistics.scores("probability").source["method"]
            'activation_probability'
        """
        check_choice("quantity", quantity, get_args(Quantity))
        return as_scores(self, getattr(self, quantity), method=f"activation_{quantity}")


def activation_statistics(
    model: HookedModel,
    rows: Rows,
    *,
    sites: Sequence[str] = ("mlp.hook_post",),
    token_budget: int = 8192,
    progress: bool | str = True,
) -> ActivationStatistics:
    """What the neurons at ``sites`` do on the prompts of each culture of ``rows``.

    Args:
        model: a model with named hook points.
        rows: questions; those without culture are one group.
        sites: hook points of one layer.
        token_budget: tokens per pass, padding counted. Prepared questions have their own.
        progress: show a progress bar; a text names it.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: no site, rows that cannot be used, logits that are not finite, or a
            prompt that does not fit into memory.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=4)
        >>> statistics = activation_statistics(ct.load_model(), rows, progress=False)
        >>> statistics.probability["mlp.hook_post"].shape[1:]
        torch.Size([4, 512])
    """
    check_some("sites", sites)
    sites = tuple(dict.fromkeys(sites))
    layers_of(model, sites)
    prepared = prepare(model, rows, token_budget=token_budget)
    sums = _Sums(prepared.cultures)
    name = progress if isinstance(progress, str) else "activations"
    run = partial(_moments_of_batch, model, sites, prepared.cultures)
    with tqdm(total=len(prepared), desc=name, unit="question", disable=not progress) as bar:
        for batch, moments in prepared.passes(run):
            sums.add(batch, moments)
            bar.update(len(batch))
    return sums.finish(
        n_questions=len(set(prepared.rows["id"])),
        source={
            "sites": list(sites),
            "model": model_fingerprint(model),
            "model_name": model.cfg.model_name,
            "data": prepared.fingerprint,
        },
    )


def as_scores(
    statistics: ActivationStatistics, values: Mapping[str, Tensor], *, method: str, **source: Any
) -> NeuronScores:
    """Averages as scores, in which every culture weighs the same."""
    return NeuronScores(
        values=dict(values),
        cultures=statistics.cultures,
        n_questions=statistics.n_questions,
        n_prompts=(statistics.n_questions,) * len(statistics.cultures),
        source={
            "method": method,
            **statistics.source,
            "n_prompts": list(statistics.n_prompts),
            "n_positions": list(statistics.n_positions),
            **source,
        },
    )


def check_several_groups(statistics: ActivationStatistics, what: str) -> None:
    check_kind("statistics", statistics, ActivationStatistics, "what activation_statistics gives")
    if len(statistics.cultures) < 2:
        raise InvalidInputError(
            "These statistics are of one group alone "
            f"({', '.join(statistics.cultures) or 'without a culture'}), and {what} compares at "
            "least two; take rows of several cultures, or rank by scores('probability')."
        )


def _moments_of_batch(
    model: HookedModel, sites: Sequence[str], cultures: Sequence[str], batch: Batch
) -> dict[str, Float[Tensor, "moment culture layer neuron"]]:
    """Sums over the prompts of each culture, of what ``_count`` and ``_moments`` give."""
    groups = torch.tensor([[name == each for name in batch.cultures] for each in cultures])
    groups = groups.to(batch.mask.device, _exact(batch.mask))
    moments: dict[tuple[str, int], Tensor] = {}
    counts: dict[tuple[str, int], Tensor] = {}

    def sum_up(activation: Tensor, hook: object, *, place: tuple[str, int]) -> None:
        of_prompts = _moments(activation.flatten(2), batch.mask)
        moments[place] = torch.einsum("cb,mbn->mcn", groups, of_prompts)

    def count(activation: Tensor, hook: object, *, place: tuple[str, int]) -> None:
        fires = (activation.flatten(2) > 0) & batch.mask[:, :, None]
        counts[place] = groups @ fires.sum(1).to(groups)

    layers = layers_of(model, sites)
    recorders: list[Any] = []
    for place in [(site, layer) for site in sites for layer in layers[site]]:
        site, layer = place
        recorders.append((hook_name(site, layer), partial(sum_up, place=place)))
        fired_at = hook_name(_fires_at(model, site), layer)
        recorders.append((fired_at, partial(count, place=place)))
    with hooked(model, recorders, gradients=False):
        last_logits(model, batch.tokens, batch.mask, ids=batch.ids)
    whole = {place: torch.cat([counts[place][None], each]) for place, each in moments.items()}
    return {
        site: torch.stack([whole[site, layer] for layer in layers[site]], dim=2) for site in sites
    }


def _fires_at(model: HookedModel, site: str) -> str:
    """The site whose sign says whether a neuron fires."""
    is_output = site == "mlp.hook_post"
    return "mlp.hook_pre" if is_output and "mlp.hook_pre" in measure_sites(model) else site


def _moments(
    activation: Float[Tensor, "batch pos neuron"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "moment batch neuron"]:
    """Of each prompt: sum and sum of squares over positions, maximum, last and its square."""
    exact, real = activation.to(_exact(mask)), mask[:, :, None]
    zeroed = exact.where(real, 0.0)
    last = exact[:, -1]
    maximum = exact.where(real, float("-inf")).amax(1)
    return torch.stack([zeroed.sum(1), zeroed.square().sum(1), maximum, last, last.square()])


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


class _Sums:
    """Takes in batch by batch what ``activation_statistics`` returns."""

    def __init__(self, cultures: Sequence[str]) -> None:
        self._cultures = tuple(cultures)
        self._n_positions = dict.fromkeys(self._cultures, 0)
        self._n_prompts = dict.fromkeys(self._cultures, 0)
        self._moments: dict[str, Tensor] = {}

    def add(
        self,
        batch: Batch,
        moments: Mapping[str, Float[Tensor, "moment culture layer neuron"]],
    ) -> None:
        for culture, length in zip(batch.cultures, batch.mask.sum(1).tolist(), strict=True):
            self._n_positions[culture] += length
            self._n_prompts[culture] += 1
        for site, of_batch in moments.items():
            held = self._moments.get(site)
            self._moments[site] = of_batch if held is None else held.add_(of_batch)

    def finish(self, *, n_questions: int, source: Mapping[str, Any]) -> ActivationStatistics:
        n_positions, n_prompts = (
            tuple(counted.values()) for counted in (self._n_positions, self._n_prompts)
        )
        averages: dict[str, dict[str, Tensor]] = {}
        for site, moments in self._moments.items():
            averages[site] = _averages(moments.cpu().double(), n_positions, n_prompts)
        by_name = {
            name: {site: of_site[name] for site, of_site in averages.items()}
            for name in next(iter(averages.values()))
        }
        return ActivationStatistics(
            **by_name,
            cultures=self._cultures,
            n_positions=n_positions,
            n_prompts=n_prompts,
            n_questions=n_questions,
            source=source,
        )


def _averages(
    moments: Float[Tensor, "moment culture layer neuron"],
    n_positions: Sequence[int],
    n_prompts: Sequence[int],
) -> dict[str, Float[Tensor, "culture layer neuron"]]:
    """The averages of one site, by name."""
    positions, prompts = (torch.tensor(n)[:, None, None] for n in (n_positions, n_prompts))
    fires, total, squares, maximum, last_total, last_squares = moments.unbind()
    mean, last = total / positions, last_total / prompts
    return {
        "probability": fires / positions,
        "mean": mean,
        "deviation": _deviation(mean, squares / positions),
        "maximum": maximum / prompts,
        "last": last,
        "last_deviation": _deviation(last, last_squares / prompts),
    }


def _deviation(
    mean: Float[Tensor, "culture layer neuron"], mean_square: Float[Tensor, "culture layer neuron"]
) -> Float[Tensor, "culture layer neuron"]:
    """Population standard deviation; 0 where what is left of a constant is rounding."""
    variance = mean_square - mean.square()
    return variance.where(variance > _ROUNDING * mean_square, 0.0).sqrt()
