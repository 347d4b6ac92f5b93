"""Checks of lessons 1, 3, 4 and 5: sets of neurons, and what they cost."""

from collections.abc import Mapping
from functools import reduce
from operator import and_, or_
from typing import Any

import pandas as pd
import torch

from culnig_tl.attribution import attribute
from culnig_tl.hooked_model import HookedModel
from culnig_tl.lessons.verdict import (
    Verdict,
    WrongKindError,
    entries,
    exercise,
    first_of,
    near,
    neuron_set,
    number,
    right,
    tensor,
)
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import Rows
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general

MLP = "mlp.hook_post"


@exercise
def check_came_in(came_in: Any, scores: NeuronScores, general: NeuronSet) -> Verdict:
    """Lesson 1: neurons that the controls keep out."""
    given, without = neuron_set(came_in), culture_general(scores)
    if given == without - general:
        return right(
            f"{len(given)} of {len(without)} neurons stand there for the format of a question or "
            "the name of a country."
        )
    mistakes = [
        (given == without, "That is the whole selection without controls: take `general` out."),
        (given == general - without, "Those went out; the other way round, they come in."),
        (given == without & general, "Those are in both; `-` takes one set out of another."),
    ]
    return first_of(mistakes, "Select with `scores` alone, then subtract `general`.")


@exercise
def check_cost(cost: Any, table: pd.DataFrame) -> Verdict:
    """Lesson 1: points that the mask costs cultural questions beyond random neurons."""
    value, change = number(cost), table.set_index(["benchmark", "condition"])["change"]
    own, by_chance = change["culture", "general"], change["culture", "random"]
    others = {
        name: change[name, "random"] - change[name, "general"]
        for name in table["benchmark"].unique()
    }
    if near(value, by_chance - own):
        return right(f"{value:.1f} points of accuracy that random neurons do not cost.")
    mistakes = [
        (near(value, own - by_chance), "The sign: what is lost is a positive cost."),
        (near(abs(value), abs(own)), "Any mask may cost something: compare with `random`."),
        *((near(value, other), f"That is the cost to {name!r}.") for name, other in others.items()),
    ]
    return first_of(mistakes, "The change under `random` minus the change under `general`.")


@exercise
def check_precision(precision: Any, general: NeuronSet, key: NeuronSet) -> Verdict:
    """Lesson 1: the share of the MLP neurons in a set that are in the key."""
    value, mlp = number(precision), set(general[MLP])
    n_planted = len(mlp & set(key[MLP]))
    if near(value, n_planted / len(mlp)):
        return right(f"{n_planted} of the {len(mlp)} MLP neurons were planted.")
    mistakes = [
        (near(value, n_planted / len(key[MLP])), "That is recall: divide by what was found."),
        (
            near(value, n_planted / len(general)),
            "Only MLP neurons were planted: count those of `general[...]` alone.",
        ),
        (near(value, 100 * n_planted / len(mlp)), "That is in percent; 1 is all of them."),
        (near(value, n_planted), "That is how many; divide by how many there are."),
    ]
    return first_of(mistakes, "Planted ones among the MLP neurons of the set, over all of those.")


@exercise
def check_difference(
    difference: Any, scores: NeuronScores, control_scores: NeuronScores
) -> Verdict:
    """Lesson 3: what neurons are ranked by, at the MLP site; a tensor ``[layer, neuron]``."""
    cultural, control = scores.total(MLP).cpu().float(), control_scores.total(MLP).cpu().float()
    given = tensor(difference, tuple(cultural.shape))

    def is_close(other: torch.Tensor) -> bool:
        return torch.allclose(given, other, rtol=1e-3, atol=1e-5)

    if is_close(cultural - control):
        return right("What scores as much without the question is at 0.")
    mistakes = [
        (is_close(cultural), "The control is not subtracted."),
        (is_close(control - cultural), "The other way round: cultural less control."),
        (is_close((cultural - control).abs()), "Without abs(): below 0, format is all it does."),
        (is_close(cultural / control), "A difference, not a ratio: near 0 a ratio is anything."),
    ]
    return first_of(mistakes, "`total(site)` of each, one minus the other.")


@exercise
def check_parts(parts: Any, general: NeuronSet) -> Verdict:
    """Lesson 3: a set cut in two, MLP and attention."""
    given = {name: neuron_set(part) for name, part in entries(parts, ("MLP", "attention")).items()}
    mlp = NeuronSet.of({MLP: general[MLP]})
    if given["MLP"] == mlp and given["attention"] == general - mlp:
        return right(f"{len(mlp)} MLP neurons and {len(general - mlp)} of attention.")
    mistakes = [
        (given["attention"] == mlp, "The two are swapped."),
        (given["MLP"] == mlp, "The attention neurons are what is left without the MLP ones."),
        (
            bool(given["MLP"] - general or given["attention"] - general),
            "There are neurons in it that are not in `general`.",
        ),
    ]
    return first_of(mistakes, "NeuronSet.of({site: general[site]}) cuts by site.")


@exercise
def check_format_neurons(
    by_format: Any, control_scores: NeuronScores, general: NeuronSet
) -> Verdict:
    """Lesson 3: neurons that rank highest where there is no question, without those selected."""
    given, top = neuron_set(by_format), culture_general(control_scores)
    if given == top - general:
        return right(f"{len(given)} neurons that read options and write labels for every task.")
    mistakes = [
        (given == top, "`general` is still in it."),
        (given == general - top, "The other way round: take `general` out of the control's."),
    ]
    return first_of(mistakes, "Select from the control's scores alone, then take `general` out.")


@exercise
def check_z_score(
    z: Any,
    scores: NeuronScores,
    control_scores: NeuronScores,
    neuron: Neuron | str,
    culture: str,
) -> Verdict:
    """Lesson 4: how far one culture stands out among all for a neuron, in standard deviations."""
    value, (site, layer, index) = number(z), Neuron.of(neuron)
    cultural = scores.values[site][:, layer, index].double()
    difference = cultural - control_scores.values[site][:, layer, index].double()
    place = scores.cultures.index(culture)

    def z_of(values: torch.Tensor, *, ddof: int = 0) -> float:
        return ((values[place] - values.mean()) / values.std(correction=ddof)).item()

    if near(value, z_of(difference)):
        return right(f"{culture} lies {value:.2f} deviations from the mean; the limit is 0.5.")
    mistakes = [
        (
            near(value, z_of(difference, ddof=1)),
            "The cultures are all there are: the population's deviation (correction=0).",
        ),
        (near(value, z_of(cultural)), "Of the difference to the control, not of the score."),
        (
            near(value, (difference[place] - difference.mean()).item()),
            "Divide by the standard deviation over cultures.",
        ),
        (
            near(value, (difference[place] / difference.std(correction=0)).item()),
            "Subtract the mean over cultures first.",
        ),
    ]
    return first_of(mistakes, "(own - mean over cultures) / deviation over cultures.")


@exercise
def check_worst_neighbour(pair: Any, effects: pd.DataFrame) -> Verdict:
    """Lesson 4: whose mask costs which *other* culture most, ``(masked, tested)``."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise WrongKindError("A pair is asked for: (masked, tested), two names of cultures.")
    others = effects[effects["masked"] != effects["tested"]]
    pairs = list(zip(others["masked"], others["tested"], strict=True))
    by_probability = others["probability_change"].to_numpy()
    worst = pairs[by_probability.argmin()]
    if pair == worst:
        return right(f"{worst[0]}'s neurons cost {worst[1]} more than any other's cost another.")
    mistakes = [
        (pair[0] == pair[1], "That is a culture's own mask; another's is asked for."),
        (pair == worst[::-1], "The two are swapped: masked first, tested second."),
        (pair == pairs[by_probability.argmax()], "That one gains: a loss is below 0."),
        (
            pair == pairs[others["change"].to_numpy().argmin()],
            "That is by accuracy; take probability_change.",
        ),
    ]
    return first_of(mistakes, "Leave out the diagonal, and take the lowest probability_change.")


@exercise
def check_union(union: Any, specific: Mapping[str, NeuronSet]) -> Verdict:
    """Lesson 4: all culture-specific sets together."""
    given, sets = neuron_set(union), list(specific.values())
    n_listed = sum(map(len, sets))
    if given == reduce(or_, sets):
        return right(f"{len(given)} neurons; added up, the sets hold {n_listed}: some are shared.")
    mistakes = [
        (given == reduce(and_, sets), "That is what all share (&); | takes what any has."),
        (given in sets, "That is one culture's set."),
        (bool(given - reduce(or_, sets)), "There are neurons in it that no culture's set holds."),
    ]
    return first_of(mistakes, "Some culture's neurons are missing: | over all of them.")


@exercise
def check_carriers(carriers: Any, model: HookedModel, food: Rows, food_control: Rows) -> Verdict:
    """Lesson 5: the neurons selected from rows of one culture and topic."""
    given = neuron_set(carriers)
    scores = attribute(model, food, progress=False)
    expected = culture_general(scores, attribute(model, food_control, clamp=True, progress=False))
    if given == expected:
        return right(f"{len(given)} neurons; each is an estimate until it is ablated.")
    mistakes = [
        (given == culture_general(scores), "The control is not subtracted."),
        (
            given == culture_general(scores, attribute(model, food_control, progress=False)),
            "The control is to be clamped: below 0 it would add to the cultural score.",
        ),
    ]
    return first_of(mistakes, "Score both with ct.attribute, the control clamped, and select.")


@exercise
def check_share_of_one(share: Any, cultures: pd.DataFrame) -> Verdict:
    """Lesson 5: how much of a neuron's drop falls on the one culture that loses most.

    Args:
        share: 0 to 1.
        cultures: a card's table: prompts and drop (mean over prompts) of each culture.
    """
    value, lost = number(share), (cultures["drop"] * cultures["prompts"]).clip(lower=0)
    expected = lost.max() / lost.sum()
    if near(value, expected):
        even = 1 / len(cultures)
        return right(f"{expected:.0%} falls on one culture; spread evenly it would be {even:.0%}.")
    mistakes = [
        (near(value, 100 * expected), "That is in percent; 1 is all of it."),
        (near(value, cultures["drop"].max()), "That is the drop itself: divide by all drops."),
        (
            near(value, cultures["drop"].max() / cultures["drop"].mean()),
            "Divide by the sum over cultures, not by their mean.",
        ),
    ]
    return first_of(
        mistakes, "drop x prompts of each culture, gains at 0; the largest over their sum."
    )
