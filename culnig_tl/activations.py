"""Neurons by their activations alone: the rivals of attribution that need no gradient.

Over all real positions of a culture's prompts (padding never counts), ``T_c`` of them,

    p_c   = how often the neuron fires / T_c           activation probability
    mean  = sum of its activation / T_c                and its standard deviation over positions
    max   = mean over prompts of its greatest activation
    last  = mean over prompts of its activation at the last position, and standard deviation

A neuron *fires* where its activation is above 0. At ``mlp.hook_post`` that is asked of the
activation function, as the papers below do: in a gated MLP ``act(gate)`` is above 0 where
``mlp.hook_pre`` is, while the sign of ``act(gate) * up`` says nothing of the kind.

*LAPE* (arXiv 2402.16438; with cultures in the place of languages it is CAPE, arXiv 2508.02241):
``p'_c = p_c / sum of p``, entropy ``H = - sum of p'_c ln p'_c``. Neurons of which no ``p_c`` is
above the 95th percentile of all probabilities are left out; of all neurons, the 1 % of lowest
entropy are taken; each belongs to every culture whose ``p_c`` exceeds that percentile. As scores,

    S_c = p'_c ln(C p'_c),      S(D) = sum over c of S_c = ln C - H,      0 for those left out

so that ranking by ``S(D)`` is ranking by lowest entropy. (The authors' code fills up with left-out
neurons where fewer than 1 % are not, and assigns these to nobody; here they are not taken.)

*CAS* (arXiv 2510.24942, later ConAct; the formula as arXiv 2608.08772 restates it):
``S_c = p_c - the second highest p`` for the culture of the highest, 0 for all others. The paper
takes the best share of the neurons of each culture, as ``culture_specific`` does.

*Standardised difference* (this project's reading of contrasting means, no paper's formula):
``S_c = (mean of cultural - mean of control prompts) / pooled standard deviation``.

All of these are averages, not sums over prompts: ``S(D)`` gives every culture the same weight, and
``n_prompts`` of such scores is the number of questions for each (the source has the real numbers).
They have no sign of right or wrong, and no probability of an answer that they could be a share of:
``recipe="selective"`` refuses them.

Memory: six numbers per culture, layer and neuron, in float64, twice; of a batch, one layer's
activations at a time. CAPE's masks are published as pickles, which this package does not load. What
they hold are lists of indices by culture and layer, and such a list is a set:

>>> indices_by_layer = [[3, 7], [], [1]]
>>> places = [(layer, i) for layer, indices in enumerate(indices_by_layer) for i in indices]
>>> len(NeuronSet.of({"mlp.hook_post": places}))
3
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from culnig_tl.errors import (
    InvalidInputError,
    check_choice,
    check_number,
    check_some,
)
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.logits import last_logits
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import hook_name, layers_of, measure_sites, site_named

Quantity = Literal["probability", "mean", "maximum", "last"]
"""An average that is a ranking of its own."""
Positions = Literal["all", "last"]

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
        return _as_scores(self, getattr(self, quantity), method=f"activation_{quantity}")


@dataclass(frozen=True, repr=False)
class Lape:
    """What LAPE finds.

    Attributes:
        entropy: entropy over cultures in nats, by site; 0 for a neuron that never fires.
        threshold: the activation probability that one culture's must exceed.
        scores: ``p'_c ln(C p'_c)``, whose sum over cultures is ``ln C - entropy``.
        neurons: the neurons of lowest entropy, scored by that sum.
        sets: those of each culture, scored by the culture's part of it; may be empty.
    """

    entropy: Mapping[str, Float[Tensor, "layer neuron"]]
    threshold: float
    scores: NeuronScores
    neurons: NeuronSet
    sets: Mapping[str, NeuronSet]

    def __repr__(self) -> str:
        counts = ", ".join(f"{culture} {len(each)}" for culture, each in self.sets.items())
        return f"{len(self.neurons)} neurons above probability {self.threshold:.3f}: {counts}"


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


def lape(statistics: ActivationStatistics, *, top: float = 0.01, quantile: float = 0.95) -> Lape:
    """The neurons whose activation probability is spread over the fewest cultures.

    Args:
        statistics: of rows of several cultures.
        top: share of all neurons to take, lowest entropy first.
        quantile: share of all probabilities, of any neuron and culture, that a culture's must
            exceed for its neuron to be taken, and to be the culture's.

    Raises:
        InvalidInputError: statistics of one culture alone, or of the same neurons under two names;
            a share outside 0 to 1.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> statistics = activation_statistics(ct.load_model(), rows, progress=False)
        >>> len(lape(statistics).neurons)
        20
    """
    check_number("top", top, low=0, high=1)
    check_number("quantile", quantile, low=0, high=1)
    _check_several_cultures(statistics, "an entropy over cultures")
    _check_distinct_neurons(statistics.sites)
    probability = torch.cat([each.flatten(1) for each in statistics.probability.values()], dim=1)
    least = _order_statistic(probability, quantile)
    share = (probability / probability.sum(0)).nan_to_num(0.0)
    entropy = -torch.xlogy(share, share).sum(0)
    exceeds = probability > least
    parts = torch.xlogy(share, len(share) * share) * exceeds.any(0)
    best = _lowest(entropy, exceeds.any(0), round(entropy.numel() * top))
    settings = {"top": top, "quantile": quantile}
    as_set = partial(_as_set, statistics, **settings)
    return Lape(
        entropy=_by_site(statistics, entropy),
        threshold=least,
        scores=_as_scores(statistics, _by_site(statistics, parts), method="lape", **settings),
        neurons=as_set(best, parts.sum(0)),
        sets={
            culture: as_set(best & exceeds[i], parts[i], culture=culture)
            for i, culture in enumerate(statistics.cultures)
        },
    )


def cas(statistics: ActivationStatistics) -> NeuronScores:
    """By how much a neuron fires more often for its first culture than for its second.

    Raises:
        InvalidInputError: statistics of one culture alone.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> scores = cas(activation_statistics(ct.load_model(), rows, progress=False))
        >>> bool((scores.values["mlp.hook_post"] > 0).sum(0).max() == 1)
        True
    """
    _check_several_cultures(statistics, "a margin over the second culture")
    values = {}
    for site, probability in statistics.probability.items():
        (first, second), (favourite, _) = probability.topk(2, dim=0)
        margin = (first - second)[None]
        values[site] = torch.zeros_like(probability).scatter(0, favourite[None], margin)
    return _as_scores(statistics, values, method="cas")


def standardised_difference(
    cultural: ActivationStatistics,
    control: ActivationStatistics,
    *,
    positions: Positions = "all",
) -> NeuronScores:
    """Mean activation on cultural less that on control prompts, in standard deviations.

    Args:
        cultural: of cultural questions.
        control: of the same cultures, compared culture by culture; or of one group, with which
            every culture is compared.
        positions: whether means are taken over all positions, or over the prompts' last ones.

    Raises:
        InvalidInputError: statistics of different models or sites, other cultures in the control,
            or an unknown choice.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> def statistics(name):
        ...     rows = ct.load_benchmark(name, split="identify", limit=8)
        ...     return activation_statistics(model, rows, progress=False)
        >>> scores = standardised_difference(statistics("atlas"), statistics("atlas-control"))
        >>> scores.source["method"]
        'standardised_difference_all'
    """
    check_choice("positions", positions, get_args(Positions))
    line_of = _matched_cultures(cultural, control)
    values = {}
    for site in cultural.sites:
        n, mean, variance = _spread(cultural, site, positions)
        m, other_mean, other_variance = (
            each[line_of] for each in _spread(control, site, positions)
        )
        pooled = ((n * variance + m * other_variance) / (n + m)).sqrt()
        values[site] = torch.where(pooled == 0, 0.0, (mean - other_mean) / pooled)
    return _as_scores(
        cultural,
        values,
        method=f"standardised_difference_{positions}",
        control_data=control.source["data"],
    )


# ---------------------------------------------------------------- one batch


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


# ---------------------------------------------------------------- from statistics to neurons


def _check_several_cultures(statistics: ActivationStatistics, what: str) -> None:
    if len(statistics.cultures) < 2:
        raise InvalidInputError(
            "These statistics are of one group alone "
            f"({', '.join(statistics.cultures) or 'without a culture'}), and {what} compares at "
            "least two; take rows of several cultures, or rank by scores('probability')."
        )


def _check_distinct_neurons(sites: Sequence[str]) -> None:
    names: dict[str, str] = {}
    for site in map(site_named, sites):
        other = names.setdefault(site.same_neurons_as or site.name, site.name)
        if other != site.name:
            raise InvalidInputError(
                f"These statistics hold the same neurons at {other} and {site.name}, which would "
                "be ranked against themselves; take statistics of one of these sites."
            )


def _order_statistic(probability: Float[Tensor, "culture neuron"], share: float) -> float:
    """The probability that a share of all of them does not exceed."""
    flat = probability.flatten()
    return flat.kthvalue(max(1, round(len(flat) * share))).values.item()


def _lowest(
    entropy: Float[Tensor, "neuron"], eligible: Bool[Tensor, "neuron"], number: int
) -> Bool[Tensor, "neuron"]:
    """Whether a neuron is among the ``number`` eligible ones of lowest entropy; ties in their
    order."""
    best = entropy.where(eligible, float("inf")).argsort(stable=True)[:number]
    return torch.zeros_like(eligible).index_fill(0, best, True) & eligible


def _by_site(statistics: ActivationStatistics, flat: Tensor) -> dict[str, Tensor]:
    """The sites of a flat pool: its last axis becomes layer and neuron again."""
    sizes = [layers * width for layers, width in statistics.shapes.values()]
    parts = flat.split(sizes, dim=-1)
    return {
        site: part.unflatten(-1, shape)
        for (site, shape), part in zip(statistics.shapes.items(), parts, strict=True)
    }


def _as_set(
    statistics: ActivationStatistics,
    members: Bool[Tensor, "neuron"],
    score: Float[Tensor, "neuron"],
    **settings: Any,
) -> NeuronSet:
    scores = _by_site(statistics, score)
    places = {
        site: list(map(tuple, of_site.nonzero().tolist()))
        for site, of_site in _by_site(statistics, members).items()
    }
    return NeuronSet.of(
        {site: listed for site, listed in places.items() if listed},
        scores={
            (site, layer, index): scores[site][layer, index].item()
            for site, listed in places.items()
            for layer, index in listed
        },
        shapes=statistics.shapes,
        source={"kind": "LAPE", **settings, **statistics.source},
    )


def _as_scores(
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


def _matched_cultures(cultural: ActivationStatistics, control: ActivationStatistics) -> list[int]:
    """Index in the control of each cultural one's culture."""
    for name, mine, theirs in (
        ("model", cultural.source["model"], control.source["model"]),
        ("sites", cultural.sites, control.sites),
    ):
        if mine != theirs:
            raise InvalidInputError(
                f"These statistics cannot be compared: {name} is {mine!r} in one and {theirs!r} in "
                "the other; take both on the same model at the same sites."
            )
    if len(control.cultures) == 1:
        return [0] * len(cultural.cultures)
    if different := sorted(set(control.cultures) ^ set(cultural.cultures)):
        raise InvalidInputError(
            "A control is compared culture by culture, and these are not in both: "
            f"{', '.join(different)}; take the control of the same rows, or one group."
        )
    return [control.cultures.index(culture) for culture in cultural.cultures]


def _spread(
    statistics: ActivationStatistics, site: str, positions: Positions
) -> tuple[Tensor, Float[Tensor, "culture layer neuron"], Float[Tensor, "culture layer neuron"]]:
    """Number, mean and variance of the activations that are compared."""
    number, mean, deviation = {
        "all": (statistics.n_positions, statistics.mean, statistics.deviation),
        "last": (statistics.n_prompts, statistics.last, statistics.last_deviation),
    }[positions]
    return torch.tensor(number)[:, None, None], mean[site], deviation[site].square()
