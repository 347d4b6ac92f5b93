"""Breakers: a few neurons of a set that break the model together, whatever it is asked.

A few MLP neurons are hundreds of times more active than their layer, most of them at the first
position alone, where attention sinks live. Some of them hold the model up: without them no answer
is left, cultural or general, so that a set that holds them says nothing about culture. No score of
single neurons sees it, since two of them may break the model only together.

    candidates  the set's ``most`` neurons with mean |activation| above ``ratio`` times the median
                of their layer's active neurons, at the first real position or at the others
    breakers    candidates whose masking, and nothing else, takes at least ``fall`` of mean P(y|x)
                of general questions; those are left out that are not needed for it

In SmolLM2-135M, on 60 general clozes: L2.mlp.hook_post.430 is 1,227 times its layer's median at the
first position (16 times elsewhere), L8.mlp.hook_post.1268 541 times (3). 78 of 46,080 neurons are
above 100 times, 300 above 30. Masked alone the two raise P by 18 % and 11 %, together they take
95 %. One more breaks the model by itself: L0.mlp.hook_post.585 (507 times) takes 93 %. Each of the
12 other most active ones, up to 25,379 times, takes 7 % at most: activity names candidates, masking
judges them. Hence 100, and half of P.

Neurons of ``mlp.hook_pre`` are looked at where their products are, at ``mlp.hook_post``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_choice, check_number
from culnig_tl.evaluation.answers import NOTHING, Mode, answers
from culnig_tl.hooked_model import HookedModel, hooked
from culnig_tl.hooks import check_same_model
from culnig_tl.logits import last_logits
from culnig_tl.neurons import Listed, Neuron, NeuronSet
from culnig_tl.questions import Batch, PreparedQuestions, Rows, prepare
from culnig_tl.sites import hook_name, measure_sites, site_named

_Point = tuple[str, int]
_Breaks = Callable[[Sequence[Neuron]], bool]


@dataclass(frozen=True)
class Breakers:
    """Neurons of a set that break the model, and how far.

    Attributes:
        neurons: the breakers, scored by their activity relative to their layer; empty for none.
        fall: relative fall of mean P(answer) by masking them alone; 0 without breakers.
        n_prompts: number of general prompts.
        candidates: all neurons that stood out, scored alike.

    Example:
        >>> Breakers().warning
        ''
    """

    neurons: NeuronSet = field(default_factory=lambda: NOTHING)
    fall: float = 0.0
    n_prompts: int = 0
    candidates: NeuronSet = field(default_factory=lambda: NOTHING)

    @property
    def warning(self) -> str:
        """What a reader must know of a set with these neurons; "" without breakers."""
        if not len(self.neurons):
            return ""
        named = " and ".join(map(str, self.neurons))
        return (
            f"The model breaks, whatever it is asked, without {named}: masking no more than "
            f"that takes {100 * self.fall:.0f} % of mean P(answer) of {self.n_prompts} general "
            "prompts, so what the set does to answers is no sign of culture; look at what it does "
            "without breakers."
        )

    def to_json(self) -> dict[str, Any]:
        """As a file holds it; ``from_json`` reads it back."""
        return {
            "neurons": _activity(self.neurons),
            "fall": self.fall,
            "n_prompts": self.n_prompts,
            "candidates": _activity(self.candidates),
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Breakers":
        """What ``to_json`` wrote.

        Raises:
            InvalidInputError: something else; what is wrong is named.

        Example:
            >>> Breakers.from_json(Breakers().to_json()) == Breakers()
            True
        """
        names = ["candidates", "fall", "n_prompts", "neurons"]
        if not isinstance(written, Mapping) or sorted(written) != names:
            raise InvalidInputError(
                f"{written!r:.80} is no record of breakers, which has {', '.join(names)}; delete "
                "its file, and it is made anew."
            )
        check_number("fall", written["fall"], low=0.0, high=1.0)
        check_number("n_prompts", written["n_prompts"], low=0, whole=True)
        return cls(
            neurons=_scored(written["neurons"]),
            fall=written["fall"],
            n_prompts=written["n_prompts"],
            candidates=_scored(written["candidates"]),
        )


def breakers(
    model: HookedModel,
    rows: Rows,
    neurons: NeuronSet | Listed,
    *,
    ratio: float = 100.0,
    fall: float = 0.5,
    most: int = 16,
    mode: Mode = "argmax",
    token_budget: int = 8192,
) -> Breakers:
    """The neurons of a set that break the model together, whatever it is asked.

    Takes one forward pass over the rows, two more where neurons stand out, and about one per
    candidate where masking them breaks the model.

    Args:
        model: any model with named hook points.
        rows: general questions, or prepared ones; 60 prompts are enough.
        neurons: the set to check.
        ratio: how many times its layer's median a candidate's mean |activation| is.
        fall: the share of mean P(answer) that masking breakers takes, 0 to 1.
        most: at most so many candidates, the most active ones.
        mode: what P(answer) is the probability of, as in ``evaluate``.
        token_budget: tokens per pass, padding counted; prepared questions have their own.

    Raises:
        UnknownNameError: a site that this model does not have.
        InvalidInputError: a number that is not finite or out of range, rows that cannot be used, or
            a set chosen on a model of other shape.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas-commonsense", split="test", limit=8)
        >>> len(breakers(ct.load_model(), rows, ct.answer_key("general")).neurons)
        0
    """
    check_number("ratio", ratio, low=0.0)
    check_number("fall", fall, low=0.0, high=1.0)
    check_number("most", most, low=1, whole=True)
    check_choice("mode", mode, get_args(Mode))
    neurons = NeuronSet.of(neurons)
    check_same_model(model, neurons)
    prepared = prepare(model, rows, token_budget=token_budget)
    activity = _relative_activity(prepared, neurons)
    above = sorted((each for each in activity if activity[each] > ratio), key=activity.__getitem__)
    candidates = above[-most:]
    fall_of = _falls(prepared, mode)
    breaking = _needed(candidates, lambda some: fall_of(some) >= fall) if candidates else []
    return Breakers(
        neurons=_scored({str(neuron): activity[neuron] for neuron in breaking}),
        fall=fall_of(breaking) if breaking else 0.0,
        n_prompts=len(prepared),
        candidates=_scored({str(neuron): activity[neuron] for neuron in candidates}),
    )


def _needed(candidates: Sequence[Neuron], breaks: _Breaks) -> list[Neuron]:
    """Those of the candidates, least active first, that are needed to break the model; what is
    left of them is judged again, since each of several groups may break it."""
    if not breaks(candidates):
        return []
    needed = list(candidates)
    for candidate in candidates:
        others = [each for each in needed if each != candidate]
        if others and breaks(others):
            needed = others
    left = [each for each in candidates if each not in needed]
    return needed + (_needed(left, breaks) if left else [])


def _falls(prepared: PreparedQuestions, mode: Mode) -> Callable[[Sequence[Neuron]], float]:
    """The relative fall of mean P(answer) by masking neurons, each mask measured once."""

    @cache
    def probability(neurons: frozenset[Neuron]) -> float:
        frame = answers(prepared, NeuronSet.of(neurons), 0.0, mode=mode)
        return float(frame["probability"].mean())

    def fall(neurons: Sequence[Neuron]) -> float:
        before = probability(frozenset())
        return 1 - probability(frozenset(neurons)) / before if before else 0.0

    return fall


def _relative_activity(prepared: PreparedQuestions, neurons: NeuronSet) -> dict[Neuron, float]:
    """Mean |activation| of each neuron over the median of its layer, at the first real position
    or at the others, whichever is larger."""
    places = {neuron: _place(prepared.model, neuron) for neuron in neurons}
    sums: dict[_Point, Tensor] = {}
    record = partial(_summed_activity, prepared.model, list(dict.fromkeys(places.values())))
    for _, recorded in prepared.passes(record) if places else ():
        for point, values in recorded.items():
            sums[point] = sums.get(point, 0) + values
    relative = {point: _over_median(values) for point, values in sums.items()}
    return {neuron: float(relative[point][neuron.index]) for neuron, point in places.items()}


def _place(model: HookedModel, neuron: Neuron) -> _Point:
    """Where a neuron's activity is read."""
    other = site_named(neuron.site).same_neurons_as
    return (other if other in measure_sites(model) else neuron.site, neuron.layer)


def _summed_activity(
    model: HookedModel, points: Sequence[_Point], batch: Batch
) -> dict[_Point, Float[Tensor, "2 neuron"]]:
    """Sums of |activation| at the first real positions and at all others, by hook point."""
    first = batch.mask & (batch.mask.cumsum(1) == 1)
    sums: dict[_Point, Tensor] = {}

    def record(activation: Tensor, hook: object, *, point: _Point) -> None:
        sums[point] = torch.stack(
            [_sum(activation, where) for where in (first, batch.mask & ~first)]
        )

    fwd_hooks = [(hook_name(*point), partial(record, point=point)) for point in points]
    with hooked(model, fwd_hooks, gradients=False):
        last_logits(model, batch.tokens, batch.mask, ids=batch.ids)
    return sums


def _sum(activation: Tensor, where: Bool[Tensor, "batch pos"]) -> Float[Tensor, "neuron"]:
    return activation.flatten(2)[where.to(activation.device)].abs().float().sum(0).cpu()


def _over_median(sums: Float[Tensor, "2 neuron"]) -> Float[Tensor, "neuron"]:
    """The larger of both sums over the median of the active neurons; a ReLU leaves half at 0."""
    medians = sums.where(sums > 0, float("nan")).nanmedian(dim=1, keepdim=True).values
    return (sums / medians).nan_to_num(0.0).amax(0)


def _activity(neurons: NeuronSet) -> dict[str, float]:
    frame = neurons.to_frame()
    places = frame[["site", "layer", "neuron"]].itertuples(index=False, name=None)
    return {
        str(Neuron.of(place)): score for place, score in zip(places, frame["score"], strict=True)
    }


def _scored(activity: Any) -> NeuronSet:
    """The neurons of activities by name, as ``_activity`` gives them."""
    if not isinstance(activity, Mapping):
        raise InvalidInputError(
            f"{activity!r:.80} holds no neurons of breakers by name; delete its file, and it is "
            "made anew."
        )
    for name, value in activity.items():
        check_number(f"the activity of {name}", value, low=0.0)
    return NeuronSet.of(
        list(activity), scores={Neuron.parse(name): value for name, value in activity.items()}
    )
