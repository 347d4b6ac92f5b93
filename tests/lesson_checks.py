"""What each lesson must have shown, read from its variables after its last cell.

``check(stem, globals())`` runs in the kernel that has executed the lesson, so that its cells hold
no test. A number here is what the embedded model is known to do, with room for other machines.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

import culnig_tl as ct

MLP = "mlp.hook_post"


def check(stem: str, names: Mapping[str, Any]) -> None:
    """Assert what the lesson of this name teaches.

    Args:
        stem: of the notebook's file.
        names: its variables.
    """
    CHECKS[stem](SimpleNamespace(**names))


def primer(lesson: Any) -> None:
    assert lesson.halfway[-1] == lesson.probabilities[lesson.answer].item()
    assert lesson.halfway[0] < 0.01 < lesson.halfway[-1]
    by_factor = lesson.doses.set_index("factor")["probability"]
    assert abs(by_factor[1] - lesson.p.item()) < 1e-5
    assert abs(by_factor[2] - lesson.doubled) < 1e-5
    assert by_factor[0] < 0.5 * by_factor[1], "this neuron carries the answer"
    assert abs(by_factor[2] - by_factor[1]) < 0.05, "and is saturated"
    estimate = (lesson.activation * lesson.gradient).sum().item()
    assert 0 < estimate < 0.1 * (by_factor[1] - by_factor[0]), "so that the slope misses it"
    options = {"sites": [MLP], "pool": "sum", "weight": "none"}
    shares = ct.gradient_x_activation(lesson.model, lesson.batch, **options)[MLP]
    assert abs(estimate - shares[0, lesson.neuron.layer, lesson.neuron.index].item()) < 1e-4


def quickstart(lesson: Any) -> None:
    again = ct.evaluate(lesson.model, lesson.one, neurons=lesson.general, factor=0.0)
    assert lesson.masked.equals(again)
    change = lesson.table.set_index(["benchmark", "condition"])["change"].sort_index()
    cost = change["culture", "random"] - change["culture", "general"]
    assert cost > 20, "masking costs the cultural questions dearly"
    assert change.drop("culture")[:, "general"].mean() > -cost / 3, "other tasks much less"
    grade = ct.grade(lesson.general, ct.answer_key("general"))
    assert grade.recall > 0.25, "far more of the planted neurons than chance finds"


def how_attribution_works(lesson: Any) -> None:
    layer, by_hand = lesson.layer, lesson.by_hand
    assert torch.allclose(lesson.shares[layer], by_hand, atol=1e-4)
    slope = by_hand[lesson.strongest].item()
    assert abs(lesson.slope - slope) < 0.05 * abs(slope) + 1e-3
    assert abs(lesson.integrated[layer].sum().item() - lesson.difference) < 0.02, "completeness"
    assert len(lesson.caught) == 1, "twenty steps on the joint path are too few"
    assert lesson.scores.completeness < 0.05, "three times the steps add up"
    assert lesson.error.max().min() > 0.001, "neither estimate is the ablation"
    assert abs(lesson.together - lesson.judged["drop"].sum()) > 0.001
    saturated, drop = lesson.saturated, lesson.effect["drop"].item()
    assert drop > 0.5
    assert 0 < lesson.slopes[0, saturated.layer, saturated.index].item() < 0.02 * drop
    by_factor = lesson.curve.set_index("factor")["probability"]
    assert by_factor[2] - by_factor[0.5] < 0.05 < by_factor[0.5] - by_factor[0.2], "saturated"


def culture_general_neurons(lesson: Any) -> None:
    assert len(lesson.candidates) == len(lesson.less_control)
    assert len(lesson.general - lesson.less_control) == 0, "the last step only drops neurons"
    change = lesson.table.set_index(["benchmark", "condition"])["change"].sort_index()
    cost = change["culture", "random"] - change["culture", "general"]
    matched = change["culture", "layer-matched"] - change["culture", "general"]
    assert cost > 20
    assert matched > 15, "more than any random neurons"
    assert change.drop("culture")[:, "general"].mean() > -cost / 3, "and specific to culture"


def culture_specific_and_kin(lesson: Any) -> None:
    assert len(lesson.iran - lesson.without_z) == 0, "the z-score only drops neurons"
    assert len(lesson.iran & lesson.general) <= len(lesson.without_z & lesson.general)
    assert lesson.groups["own culture"] < lesson.groups["others"] - 0.05, "a dark diagonal"
    assert lesson.of_own.mean() < len(lesson.scores.cultures) / 2 - 1, "better than even"
    assert lesson.ranking.auroc > 0.95
    assert lesson.found_wider.recall >= lesson.found.recall, "more places lose nothing"


def inspect_a_neuron(lesson: Any) -> None:
    best = tuple(lesson.best[name] for name in ("site", "layer", "neuron"))
    assert best in lesson.general, "it has passed the control of country names"
    assert lesson.ablated["drop"].iloc[0] == lesson.ablated["drop"].max() > 0.005
    card, suspect = lesson.card, lesson.suspect_card
    assert card.ranks.set_index("scores").loc["cultural", "share"] < 0.02
    assert abs(card.questions["drop"].mean() - lesson.ablated["drop"].iloc[0]) < 1e-4
    lost = [
        (each.cultures["drop"] * each.cultures["prompts"]).clip(lower=0) for each in (card, suspect)
    ]
    of_one = [losses.max() / losses.sum() for losses in lost]
    assert of_one[0] < 0.3 < 0.5 < of_one[1], "the suspect is one culture's, the best is not"
    assert lesson.path.stat().st_size > 0
    assert lesson.strongest.question["highest"] == card.questions["highest"].max()
    assert lesson.view.probability_off < lesson.view.probability


def how_sure_are_we(lesson: Any) -> None:
    at_default = lesson.sweep[lesson.sweep["value"] == lesson.sweep["default"]]
    assert (at_default["jaccard"] == 1).all()
    assert lesson.table.set_index("condition").loc["general", "p_value"] < 0.05
    assert lesson.halves["jaccard"].mean() > 10 * lesson.halves["by_chance"].mean()
    assert lesson.by_method["integrated gradients, joint"].completeness < 0.05
    assert min(grade.auroc for grade in lesson.grades.values()) > 0.7
    assert lesson.agreement.drop("drop").max() > 0.3, "scores foretell ablations, roughly"
    assert lesson.planted.precision > 0.2
    assert lesson.planted.recall > 0.25
    assert lesson.as_they_are["natural"] > 0.5, "the twin knows the answers too"
    assert lesson.as_they_are["planted"] > lesson.masked["planted"]
    assert abs(lesson.together - lesson.single["drop"].sum()) > 1e-4


def your_model_your_questions(lesson: Any) -> None:
    assert lesson.rows["options"][0] == [" rice", " bread"]
    assert lesson.rows["question"][0] not in lesson.my_control["prompt"][0]
    assert len(lesson.answers) == len(lesson.rows)
    assert len(lesson.plain) == 2 * 4, "each question in four wordings"
    assert f"\n{lesson.plain['answer'][0]}. rice\n" in lesson.plain["prompt"][0]
    assert lesson.plan.peak > lesson.plan.weights > 0
    change = lesson.run.table.set_index(["benchmark", "condition"])["change"]
    assert change["culture", "general"] < change["culture", "random"] - 10
    assert lesson.again.table.equals(lesson.run.table), "the second call only reads"
    assert lesson.back.jaccard(lesson.run.general) == 1.0
    assert lesson.report.stat().st_size < 8_000_000


def finetune_without_forgetting(lesson: Any) -> None:
    assert lesson.before["culture"] > 0.9, "it knows cultures"
    assert lesson.before["sums"] < 0.5, "and cannot add"
    assert not set(lesson.top) & set(lesson.bottom)
    assert set(lesson.tuned["top"].parameters) == set(ct.parameter_names("atlas", lesson.top))
    culture = lesson.after.loc["culture"]
    assert culture["bottom"] > culture["top"] + 0.1
    writing = [each.W_out for each in (lesson.models["protect"], lesson.model)]
    for neuron in lesson.general:
        ours, theirs = (each[neuron.layer, neuron.index] for each in writing)
        assert torch.equal(ours, theirs), "a protected neuron writes what it wrote"
    assert lesson.compared.pairs.loc[0, "jaccard"] < lesson.compared.pairs.loc[1, "jaccard"]


CHECKS: Mapping[str, Callable[[Any], None]] = {
    "00_primer": primer,
    "01_quickstart": quickstart,
    "02_how_attribution_works": how_attribution_works,
    "03_culture_general_neurons": culture_general_neurons,
    "04_culture_specific_and_kin": culture_specific_and_kin,
    "05_inspect_a_neuron": inspect_a_neuron,
    "06_how_sure_are_we": how_sure_are_we,
    "07_your_model_your_questions": your_model_your_questions,
    "08_finetune_without_forgetting": finetune_without_forgetting,
}
