"""What is measured during training, on rows that are neither trained nor tested.

The cultural rows take the identification topics in held-out wordings, wrappers and option sets; the
test takes the other three topics. The general tasks use one half of the held-out option sets (the
test uses the other), and passages about countries that the test does not use.
"""

import random

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from culnig_tl.atlas import prompts, tasks
from culnig_tl.atlas.facts import IDENTIFY_TOPICS
from culnig_tl.atlas.training.ablation import Answers, Examiner
from culnig_tl.atlas.training.interventions import PlantedSets

ROWS_PER_TASK = 90


def validation_rows() -> dict[str, list[dict]]:
    """The validation rows of each task."""
    rng = random.Random(0)
    general = {
        "countries": tasks.country_items(),
        "commonsense": tasks.commonsense_items(),
        "ordering": tasks.ordering_items(),
        "entailment": tasks.entailment_items(),
    }
    cultural = [item for item in tasks.cultural_items() if item.topic in IDENTIFY_TOPICS]
    sampled = {
        name: rng.sample(items, min(len(items), ROWS_PER_TASK)) for name, items in general.items()
    }
    return {
        name: prompts.fixed_rows(items, 1, "validation")
        for name, items in {"cultural": cultural, **sampled}.items()
    }


class Validation:
    """The validation rows, tokenised once and answered at every call."""

    def __init__(
        self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sets: PlantedSets
    ):
        rows = validation_rows()
        self.sets = sets
        self.examiners = {name: Examiner(model, tokenizer, rows[name]) for name in rows}
        self.own_sets = [sets.sets[row["culture"]] for row in rows["cultural"]]

    def __call__(self) -> dict[str, dict[str, float]]:
        """Accuracy (%) and mean P of each task as trained, and with planted sets off."""
        cultural = self.examiners["cultural"]
        answers = {name: examiner.answer() for name, examiner in self.examiners.items()}
        answers["cultural, general off"] = cultural.answer(self.sets.general)
        answers["cultural, own off"] = cultural.answer(off_by_row=self.own_sets)
        for name in ("countries", "commonsense", "ordering", "entailment"):
            answers[f"{name}, all off"] = self.examiners[name].answer(self.sets.all)
        return {name: rounded(answer) for name, answer in answers.items()}


def rounded(answers: Answers) -> dict[str, float]:
    """Accuracy (%) and mean P, rounded for files."""
    return {
        "accuracy": round(answers.accuracy, 2),
        "mean_probability": round(answers.mean_probability, 4),
    }
