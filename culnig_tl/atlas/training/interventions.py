r"""Planting culture neurons: what is switched off for a training sample, and its target then.

In interchange-intervention training (Geiger et al. 2022, arXiv 2112.00826; InterpBench, Gupta et
al. 2024, arXiv 2407.14494) a network is trained not only on inputs but on interventions with a
prescribed outcome. Here an intervention multiplies some activations at ``mlp.hook_post`` (the input
of ``mlp.down_proj``) by 0. A set of *general* neurons is planted, needed by every culture, and a
small set *per culture*, needed by that culture alone. How broken a cultural sample of culture c is:

.. math::  broken = \max( \min(1, 4 f_{general}),\; f_c )

with f the fraction of a set that is off. The target puts `1 - broken` on the right answer and
`broken` uniformly on the options shown. Samples of general tasks are never broken, whatever is off;
switching off neurons outside the planted sets breaks nothing.

The ramp matters. When sets are only switched as a whole, one neuron becomes the switch and the
others go idle; with a target for every part of the set, each neuron has to carry its share. It is
steep, so that any quarter of the general set breaks the answer, and the quarter that is switched
off is mostly the idlest one (see `sampling`): a model whose work rests on a few neurons then pays
for it again and again.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

GENERAL = "general"
RAMP = 4
"""The answer is a guess once one in `RAMP` general neurons is off."""

MlpNeuron = tuple[int, int]
"""(layer, neuron) of an MLP."""


@dataclass(frozen=True)
class PlantedSets:
    """The neurons of each set by name ("general" and the cultures), and the shape of the MLPs."""

    sets: dict[str, tuple[MlpNeuron, ...]]
    n_layers: int
    d_mlp: int

    @property
    def general(self) -> tuple[MlpNeuron, ...]:
        return self.sets[GENERAL]

    @property
    def cultures(self) -> tuple[str, ...]:
        return tuple(name for name in self.sets if name != GENERAL)

    @property
    def all(self) -> tuple[MlpNeuron, ...]:
        return tuple(neuron for neurons in self.sets.values() for neuron in neurons)

    @property
    def rest(self) -> tuple[MlpNeuron, ...]:
        """Every MLP neuron that is in no set."""
        planted = set(self.all)
        pool = ((layer, k) for layer in range(self.n_layers) for k in range(self.d_mlp))
        return tuple(neuron for neuron in pool if neuron not in planted)


@dataclass(frozen=True)
class Intervention:
    """What is off for one sample, and how broken its answer has to be (0: whole, 1: a guess)."""

    off: tuple[MlpNeuron, ...] = ()
    broken: float = 0.0


def plant(
    cultures: Sequence[str],
    *,
    n_layers: int,
    d_mlp: int,
    n_general: int = 16,
    n_culture: int = 3,
    layers: Sequence[int] = (0, 1, 2),
    seed: int = 0,
) -> PlantedSets:
    """Draw disjoint sets among the MLP neurons of `layers`, before training."""
    pool = [(layer, k) for layer in layers for k in range(d_mlp)]
    random.Random(seed).shuffle(pool)
    sizes = {GENERAL: n_general, **dict.fromkeys(cultures, n_culture)}
    sets, start = {}, 0
    for name, size in sizes.items():
        sets[name] = tuple(sorted(pool[start : start + size]))
        start += size
    return PlantedSets(sets, n_layers, d_mlp)


def brokenness(sets: PlantedSets, off: Collection[MlpNeuron], culture: str) -> float:
    """How broken the answer about `culture` is with the neurons `off`; "" is a general task."""
    if not culture:
        return 0.0
    off = set(off)
    general = _fraction(off, sets.general)
    return max(min(1.0, RAMP * general), _fraction(off, sets.sets[culture]))


def target(
    answer: str, options: Sequence[str], broken: float, confidence: float
) -> dict[str, float]:
    """The probability of each option to train towards.

    `confidence` < 1 leaves a little to the wrong options even when nothing is off: a saturated
    probability has no gradient, and scores by gradient would see nothing.
    """
    certain = (1.0 - broken) * confidence
    guess = (1.0 - certain) / len(options)
    return {option: guess + (certain if option == answer else 0.0) for option in options}


def draw(
    sets: PlantedSets,
    culture: str,
    rng: random.Random,
    *,
    idleness: Mapping[MlpNeuron, float],
    share: float = 0.65,
) -> Intervention:
    """A random intervention for one sample; a `share` of the samples has something switched off.

    For a general task (`culture` is "") the own set is that of a culture drawn at random.
    `idleness` says how little each general neuron seems to matter.
    """
    if rng.random() >= share:
        return Intervention()
    own = culture or rng.choice(sets.cultures)
    kinds, weights = ("general", "all", "own", "other", "rest"), (0.33, 0.04, 0.36, 0.11, 0.16)
    kind = rng.choices(kinds, weights)[0]
    if kind == "general":
        off = _whole_or_part_of_general(sets.general, rng, idleness)
    elif kind == "all":
        off = sets.all
    elif kind == "own":
        off = _whole_or_part(sets.sets[own], rng, whole=0.6)
    elif kind == "other":
        off = sets.sets[rng.choice([name for name in sets.cultures if name != own])]
    else:
        sizes = (len(sets.sets[own]), len(sets.general), len(sets.all), 2 * len(sets.all))
        off = rng.sample(sets.rest, min(rng.choice(sizes), len(sets.rest)))
    return Intervention(tuple(off), brokenness(sets, off, culture))


def _whole_or_part_of_general(
    neurons: Sequence[MlpNeuron], rng: random.Random, idleness: Mapping[MlpNeuron, float]
) -> Sequence[MlpNeuron]:
    """All (1 in 5), or a part: half of the time of any size, else the least that breaks the answer;
    3 in 5 parts prefer idle neurons, by the square of their idleness."""
    if rng.random() < 0.2:
        return neurons
    least = max(1, len(neurons) // RAMP)
    size = rng.randrange(1, len(neurons)) if rng.random() < 0.5 else least
    if rng.random() < 0.4:
        return rng.sample(neurons, size)
    waits = {neuron: rng.expovariate((idleness[neuron] + 0.02) ** 2) for neuron in neurons}
    return sorted(neurons, key=waits.__getitem__)[:size]


def _fraction(off: Collection[MlpNeuron], neurons: Sequence[MlpNeuron]) -> float:
    return sum(neuron in off for neuron in neurons) / len(neurons)


def _whole_or_part(
    neurons: Sequence[MlpNeuron], rng: random.Random, *, whole: float
) -> Sequence[MlpNeuron]:
    if rng.random() < whole or len(neurons) == 1:
        return neurons
    return rng.sample(neurons, rng.randrange(1, len(neurons)))
