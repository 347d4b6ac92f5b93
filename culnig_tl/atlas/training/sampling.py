"""The stream of training samples: which task, which item, which intervention, which target.

Cultures are learnt unevenly, and so are their own sets. Half of the cultural samples therefore
choose their culture by the square of the running loss of the samples in which its whole own set is
off, and these samples count twice. General neurons are learnt unevenly too: those whose loss stays
high when they are off seem idle, and are switched off more often.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from culnig_tl.atlas import prompts, tasks
from culnig_tl.atlas.training import interventions
from culnig_tl.atlas.training.interventions import Intervention, PlantedSets

MIX = {
    "cultural": 0.57,
    "countries": 0.08,
    "commonsense": 0.12,
    "ordering": 0.06,
    "entailment": 0.12,
    "control": 0.05,
}
"""Shares of the tasks; control prompts have no question, and a guess is right for them."""


@dataclass(frozen=True)
class Sample:
    """A row, what is switched off while it is answered, and the probabilities to train towards."""

    row: dict
    off: tuple[interventions.MlpNeuron, ...]
    target: dict[str, float]
    weight: float
    culture: str
    """The culture that the question is about; "" for a general task or without a question."""


class Sampler:
    """Draws samples; `feed_back` tells it what has been learnt of the planted sets."""

    def __init__(
        self, sets: PlantedSets, *, seed: int, confidence: float, with_interventions: bool = True
    ):
        self.sets = sets
        self.confidence = confidence
        self.with_interventions = with_interventions
        self.rng = random.Random(seed)
        self.own_set_loss = dict.fromkeys(sets.cultures, 1.0)
        self.idleness = dict.fromkeys(sets.general, 0.5)
        self.items = {
            "cultural": tasks.cultural_items(),
            "countries": tasks.country_items(),
            "commonsense": tasks.commonsense_items(),
            "ordering": tasks.ordering_items(),
            "entailment": tasks.entailment_items(),
        }
        self.by_culture = {
            culture: [item for item in self.items["cultural"] if item.culture == culture]
            for culture in sets.cultures
        }

    def draw(self) -> Sample:
        """One sample of the mix."""
        task = self.rng.choices(list(MIX), list(MIX.values()))[0]
        if task == "control":
            return self._control_sample()
        item = self._cultural_item() if task == "cultural" else self.rng.choice(self.items[task])
        row = prompts.draw_row(item, self.rng, "train")
        about = item.culture if task == "cultural" else ""
        intervention = self._intervention(about)
        weight = 2.0 if about and set(intervention.off) == set(self.sets.sets[about]) else 1.0
        target = self._target(row, intervention.broken)
        return Sample(row, intervention.off, target, weight, about)

    def feed_back(self, sample: Sample, loss: float) -> None:
        """Average a sample's loss into its culture's, or into that of the general neurons off."""
        if not sample.culture or not sample.off:
            return
        off = set(sample.off)
        if off == set(self.sets.sets[sample.culture]):
            self.own_set_loss[sample.culture] += 0.05 * (loss - self.own_set_loss[sample.culture])
        elif off < set(self.sets.general):
            for neuron in off:
                self.idleness[neuron] += 0.03 * (loss - self.idleness[neuron])

    def _control_sample(self) -> Sample:
        pool = self.items[self.rng.choice(("cultural", "cultural", "commonsense"))]
        row = prompts.draw_row(self.rng.choice(pool), self.rng, "train", with_question=False)
        return Sample(row, self._intervention("").off, self._target(row, 1.0), 1.0, "")

    def _cultural_item(self) -> prompts.TaskItem:
        if not self.with_interventions or self.rng.random() < 0.5:
            return self.rng.choice(self.items["cultural"])
        weights = [(loss + 0.1) ** 2 for loss in self.own_set_loss.values()]
        culture = self.rng.choices(list(self.own_set_loss), weights)[0]
        return self.rng.choice(self.by_culture[culture])

    def _intervention(self, culture: str) -> Intervention:
        if not self.with_interventions:
            return Intervention()
        return interventions.draw(self.sets, culture, self.rng, idleness=self.idleness)

    def _target(self, row: dict, broken: float) -> dict[str, float]:
        return interventions.target(row["answer"], row["options"], broken, self.confidence)


def by_length(samples: Sequence[Sample], n_parts: int) -> list[list[Sample]]:
    """The samples in `n_parts` parts of similar prompt length, so that little is padded."""
    ordered = sorted(samples, key=lambda sample: len(sample.row["prompt"]))
    size = -(-len(ordered) // n_parts)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]
