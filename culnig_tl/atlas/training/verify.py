"""Verify the answer key by exact ablation, and measure everything that the model card states.

    python -m culnig_tl.atlas.training.verify    # print the figures of the shipped model

With ``--write`` it also writes key.json, training.json and the card.

*The key.* Each planted neuron is switched off alone; its effect is the mean drop of P(answer) on
the identification rows (a culture's neurons: on that culture's rows). A neuron is verified when the
drop exceeds .005. *The figures* are taken on the test rows: topics, wordings, wrappers and option
sets that no search for neurons is given and the training has not seen together. What the library's
own method recovers of the key is graded in `recovery`. A natural twin has no key: there is only its
accuracy, and what masking the selected neurons does.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from culnig_tl.atlas import ASSETS, TASK_ROWS
from culnig_tl.atlas.training import card
from culnig_tl.atlas.training.ablation import Answers, Examiner
from culnig_tl.atlas.training.interventions import GENERAL, MlpNeuron, PlantedSets
from culnig_tl.atlas.training.recovery import recovery_figures
from culnig_tl.atlas.training.validation import rounded
from culnig_tl.cultures import kin_of
from culnig_tl.files import read_json, replacing, write_json

VERIFIED_ABOVE = 0.005
N_RANDOM_SETS = 10
DOSES = (1, 2, 4, 8, 12, 16)
_UNTRAINED = ("atlas-control", "atlas-sums")  # no task, and one that it was not trained on
TASKS = {name: rows for name, rows in TASK_ROWS.items() if name not in _UNTRAINED}
"""The tasks that are tested; a control has no right answer to lose."""


@dataclass(frozen=True)
class Exam:
    """Rows and the examiner that answers them."""

    rows: list[dict]
    examiner: Examiner

    @property
    def cultures(self) -> list[str]:
        return [row["culture"] for row in self.rows]


def verify(assets: Path = ASSETS, *, write: bool = False) -> dict:
    """Measure the model in a folder; with `write`, store verified key, figures and card there."""
    model = AutoModelForCausalLM.from_pretrained(assets, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(assets)
    tests = {name: _exam(model, tokenizer, rows("test")) for name, rows in TASKS.items()}
    if not (assets / "key.json").exists():
        figures, key = twin_figures(assets, tests), None
    else:
        identify = _exam(model, tokenizer, TASKS["atlas"]("identify"))
        figures, key = planted_figures(assets, identify, tests)
    if write:
        record = {**read_json(assets / "training.json"), "verification": figures}
        write_json(assets / "training.json", record)
        if key is not None:
            write_json(assets / "key.json", key)
        write_card(assets)
    return figures


def planted_figures(assets: Path, identify: Exam, tests: dict[str, Exam]) -> tuple[dict, dict]:
    """The figures of a model with planted sets, and its verified key."""
    key = read_json(assets / "key.json")
    sets = read_sets(key)
    effects = {name: single_effects(identify, sets, name) for name in tqdm(sets.sets, desc="key")}
    key = verified_key(key, effects)
    unplanted = random.Random(0).sample(sets.rest, 3 * len(sets.general))
    exact = dict(zip(sets.general, effects[GENERAL], strict=True))
    exact |= zip(unplanted, ablation_effects(identify.examiner, unplanted), strict=True)
    figures = {
        "test": test_table(tests, sets),
        "own_sets": own_set_effects(tests["atlas"], sets),
        "dose_response": dose_curve(tests["atlas"], sets),
        "causal": {name: len(entry["verified"]) for name, entry in key["sets"].items()},
        "finder": recovery_figures(assets, list(tests), key, exact),
    }
    return figures, key


def twin_figures(assets: Path, tests: dict[str, Exam]) -> dict:
    """The figures of a model in which nothing is planted."""
    return {
        "test": {
            name: {"as trained": rounded(exam.examiner.answer())} for name, exam in tests.items()
        },
        "finder": recovery_figures(assets, list(tests)),
    }


def write_card(assets: Path) -> None:
    """Write the model card of a folder out of what is recorded there."""
    with replacing(assets / "README.md") as part:
        part.write_text(card.model_card(assets), encoding="utf-8")


# --- the key --------------------------------------------------------------------------------------


def read_sets(key: dict) -> PlantedSets:
    """The planted sets of an answer key."""
    sets = {
        name: tuple((layer, k) for layer, k in entry["planted"])
        for name, entry in key["sets"].items()
    }
    return PlantedSets(sets, *key["shape"])


def single_effects(exam: Exam, sets: PlantedSets, name: str) -> list[float]:
    """Mean drop of P(answer) with each neuron of a set off alone, on the rows it is for."""
    keep = [name in (GENERAL, culture) for culture in exam.cultures]
    return ablation_effects(exam.examiner.only(keep), sets.sets[name])


def ablation_effects(examiner: Examiner, neurons: Sequence[MlpNeuron]) -> list[float]:
    """Mean drop of P(answer) with each of these neurons off alone."""
    before = examiner.answer().probability
    return [(before - examiner.answer([one]).probability).mean().item() for one in neurons]


def verified_key(key: dict, effects: dict[str, list[float]]) -> dict:
    """The key with effects, and the neurons whose effect counts."""
    sets = {}
    for name, drops in effects.items():
        planted = key["sets"][name]["planted"]
        sets[name] = {
            "planted": planted,
            "verified": [
                n for n, effect in zip(planted, drops, strict=True) if effect > VERIFIED_ABOVE
            ],
            "effects": [round(effect, 5) for effect in drops],
        }
    return {**key, "sets": sets}


# --- the figures ----------------------------------------------------------------------------------


def test_table(tests: dict[str, Exam], sets: PlantedSets) -> dict[str, dict[str, dict]]:
    """Accuracy and mean P of each test as trained, with planted and with random sets off."""
    table: dict[str, dict] = {}
    for name, exam in tqdm(tests.items(), desc="test rows"):
        original = exam.examiner.answer()
        table[name] = {
            "as trained": rounded(original),
            "general set off": rounded(exam.examiner.answer(sets.general)),
            "every planted set off": rounded(exam.examiner.answer(sets.all)),
            "random sets off": random_sets(exam, sets, original),
        }
        if name == "atlas":
            own = [sets.sets[culture] for culture in exam.cultures]
            table[name]["own set off"] = rounded(exam.examiner.answer(off_by_row=own))
    return table


def random_sets(exam: Exam, sets: PlantedSets, original: Answers) -> dict[str, float]:
    """Ten sets as large as the general one, of neurons that are in no planted set."""
    drawn = [
        random.Random(seed).sample(sets.rest, len(sets.general)) for seed in range(N_RANDOM_SETS)
    ]
    answers = [exam.examiner.answer(neurons) for neurons in drawn]
    accuracies = [answer.accuracy for answer in answers]
    return {
        "accuracy": round(sum(accuracies) / len(accuracies), 2),
        "mean_probability": round(sum(a.mean_probability for a in answers) / len(answers), 4),
        "largest_drop": round(original.accuracy - min(accuracies), 2),
    }


def own_set_effects(exam: Exam, sets: PlantedSets) -> dict[str, dict[str, float | None]]:
    """Points of accuracy that each culture's set costs it, its kin and unrelated cultures."""
    original = exam.examiner.answer()
    effects = {}
    for culture in tqdm(sets.cultures, desc="own sets"):
        answers = exam.examiner.answer(sets.sets[culture])
        kin = kin_of(culture)
        effects[culture] = {
            "own": _drop(original, answers, [name == culture for name in exam.cultures]),
            "kin": _drop(original, answers, [name in kin for name in exam.cultures])
            if kin
            else None,
            "unrelated": _drop(
                original, answers, [name != culture and name not in kin for name in exam.cultures]
            ),
        }
    return effects


def dose_curve(exam: Exam, sets: PlantedSets) -> list[dict[str, int | float]]:
    """Accuracy and mean P with 1, 2, 4 ... random general neurons off, mean of five draws."""
    curve = []
    for dose in (dose for dose in DOSES if dose <= len(sets.general)):
        drawn = [random.Random(seed).sample(sets.general, dose) for seed in range(5)]
        answers = [exam.examiner.answer(neurons) for neurons in drawn]
        accuracy = sum(answer.accuracy for answer in answers) / len(answers)
        probability = sum(answer.mean_probability for answer in answers) / len(answers)
        curve.append(
            {"off": dose, "accuracy": round(accuracy, 2), "mean_probability": round(probability, 4)}
        )
    return curve


def _exam(model, tokenizer, rows: list[dict]) -> Exam:
    return Exam(rows, Examiner(model, tokenizer, rows))


def _drop(before: Answers, after: Answers, keep: Sequence[bool]) -> float:
    return round(before.where(keep).accuracy - after.where(keep).accuracy, 2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Verify the embedded model and its answer key.")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of the model")
    parser.add_argument("--write", action="store_true", help="store key, figures and card there")
    arguments = parser.parse_args()
    Console().print(card.figures(verify(arguments.assets, write=arguments.write)), soft_wrap=True)


if __name__ == "__main__":
    main()
