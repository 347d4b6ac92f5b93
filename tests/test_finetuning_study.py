"""The study of fine-tuning: its arms, its tables against plain loops, its figure and its command.

Witnesses: weights read by safetensors, activations by forward hooks of torch, means by hand, and a
simulation for the intervals.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl.atlas import ASSETS
from culnig_tl.cli import app
from culnig_tl.errors import InvalidInputError
from culnig_tl.figures import trade_off
from culnig_tl.finetuning import FineTuningStudy, finetuning_study
from culnig_tl.finetuning.changes import change_table, difference_table
from culnig_tl.finetuning.drift import drift
from culnig_tl.finetuning.pieces import TASK

NEURONS = ct.NeuronSet.of(["L1.mlp.hook_post.3", "L1.mlp.hook_post.8", "L2.mlp.hook_post.5"])
TRAINING: dict[str, Any] = {
    "learning_rate": 1e-2,
    "batch_size": 8,
    "accumulation": 1,
    "progress": False,
}
ARMS = ("top", "bottom", "protect")
PARTS = ("gate_proj", "up_proj", "down_proj")


def rows(name: str, split: Any, limit: int) -> Any:
    return ct.load_benchmark(name, split=split, limit=limit)


def study_in(out: Path, **options: Any) -> FineTuningStudy:
    given: dict[str, Any] = {
        "neurons": NEURONS,
        "benchmarks": {
            "culture": rows("atlas", "test", 6),
            "general": rows("atlas-ordering", "test", 5),
        },
        "arms": ARMS,
        "seeds": [0],
        "out": out,
    }
    task = (rows("atlas-sums", "identify", 24), rows("atlas-sums", "test", 7))
    return finetuning_study("atlas", *task, **(given | TRAINING | options))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(out):
    return study_in(out, keep=True)


# ---------------------------------------------------------------- the embedded model's own task


def test_the_embedded_model_cannot_add():
    """It is near chance on sums, whether any token or only the options may be the answer."""
    test = rows("atlas-sums", "test", 60)
    for mode in ("argmax", "options"):
        assert ct.evaluate(ct.load_model(), test, mode=mode)["correct"].mean() < 0.25


def test_sums_are_right_and_the_halves_share_no_prompt():
    names: Any = ("identify", "test")
    halves: list[Any] = [ct.load_benchmark("atlas-sums", split=name) for name in names]
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    numbers += ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"]
    for row in (*halves[0], *halves[1]):
        _, start, side, count = row["id"].split("-")
        step = (1 if side == "more" else -1) * (numbers.index(count) + 1)
        assert row["answer"] == f" {numbers[numbers.index(start) + step]}"
        assert row["culture"] == ""
    assert not set(halves[0]["prompt"]) & set(halves[1]["prompt"])
    assert {row["template"] for row in halves[0]}.isdisjoint(halves[1]["template"])


# ---------------------------------------------------------------- arms


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def moved(folder: Path) -> set[str]:
    """Names of the weights that are not those of the embedded model."""
    before, after = weights(ASSETS), weights(folder)
    return {name for name in before if not torch.equal(before[name], after[name])}


def mlp(layer: int) -> set[str]:
    return {f"model.layers.{layer}.mlp.{part}.weight" for part in PARTS}


@pytest.mark.parametrize(("arm", "layer"), [("top", 1), ("bottom", 0), ("protect", 1)])
def test_an_arm_trains_its_modules_alone(study, out, arm, layer):
    assert moved(out / "models" / f"{arm}-0") == mlp(layer)
    assert study.runs.set_index("arm")["modules"][arm] == f"L{layer}.mlp"


def test_protect_differs_from_top_in_the_neurons_that_it_holds(study, out):
    before, after = weights(ASSETS), weights(out / "models" / "protect-0")
    for name in mlp(1):
        change = (after[name] - before[name]).abs().sum(0 if "down" in name else 1)
        assert set((change == 0).nonzero().flatten().tolist()) == {3, 8}


def test_all_moves_everything_and_random_draws_its_modules_by_the_seed(tmp_path):
    drawn = study_in(tmp_path, arms=["random", "all"], seeds=[0, 1], keep=True)
    modules = drawn.runs.set_index(["arm", "seed"])["modules"]
    assert len(set(modules["random"])) > 1
    assert set(modules["all"]) == {"all"}
    assert len(moved(tmp_path / "models" / "all-0")) == len(weights(ASSETS))
    assert (drawn.frame["n_seeds"] == 2).all()


# ---------------------------------------------------------------- what is measured


def test_answers_are_those_of_the_fine_tuned_folder(study, out):
    model = ct.load_model(out / "models" / "top-0")
    alone = ct.evaluate(model, rows("atlas", "test", 6))
    ours = study.answers.query("arm == 'top' and benchmark == 'culture'")
    assert ours["probability"].to_numpy() == pytest.approx(alone["probability"].to_numpy())
    line = study.frame.query("arm == 'top' and benchmark == 'culture'").iloc[0]
    before = ct.evaluate(ct.load_model(), rows("atlas", "test", 6))
    for measure, change, scale, column in (
        ("accuracy", "change", 100, "correct"),
        ("probability", "probability_change", 1, "probability"),
    ):
        by_question = [
            each.groupby(["id", "culture"])[column].mean().mean() for each in (before, alone)
        ]
        assert line[f"{measure}_before"] == pytest.approx(scale * by_question[0])
        assert line[change] == pytest.approx(scale * (by_question[1] - by_question[0]))


def test_drift_is_that_of_plain_weights_and_plain_hooks(study, out):
    folder, prompts = out / "models" / "top-0", rows("atlas", "test", 6)
    frame = drift("atlas", folder, neurons=NEURONS, rows=prompts).set_index(["layer", "neuron"])
    before, after = weights(ASSETS), weights(folder)
    for layer, neuron in ((1, 3), (1, 500), (2, 5)):
        pairs = []
        for each in (before, after):
            gate, up, down = (each[f"model.layers.{layer}.mlp.{part}.weight"] for part in PARTS)
            pairs.append(torch.cat([gate[neuron], up[neuron], down[:, neuron]]).double())
        ratio = ((pairs[1] - pairs[0]).norm() / pairs[0].norm()).item()
        assert frame.loc[(layer, neuron), "weight_change"] == pytest.approx(ratio, rel=1e-5)
    assert frame["weight_change"].drop(index=1, level=0).eq(0).all()
    assert frame[frame["in_set"]].index.tolist() == [(1, 3), (1, 8), (2, 5)]
    sizes = torch.zeros(2, 4, 512, dtype=torch.double)
    old, new = (activations(each, prompts["prompt"]) for each in (ASSETS, folder))
    for one, other in zip(old, new, strict=True):
        sizes += torch.stack([(other - one).abs().sum(1), one.abs().sum(1)])
    expected = (sizes[0] / sizes[1]).flatten().numpy()
    assert frame["activation_change"].to_numpy() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def activations(folder: Path, prompts: list[str]) -> list[torch.Tensor]:
    """What each MLP's last layer reads, prompt by prompt, without our hooks."""
    model, tokenizer = (
        each.from_pretrained(folder) for each in (AutoModelForCausalLM, AutoTokenizer)
    )
    seen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    whole = []
    for prompt in prompts:
        seen.clear()
        with torch.no_grad():
            model(**tokenizer(prompt, return_tensors="pt"))
        whole.append(torch.stack(seen).double())
    return whole


def test_drift_of_a_study_tells_trained_from_others(study):
    table = study.drift.set_index(["arm", "trained", "in_set"])
    assert table.loc[("top", True, True), "n_neurons"] == 2
    assert table.loc[("top", False, True), "weight_change"] == 0
    assert table.loc[("protect", True, True), "weight_change"] == 0
    assert table.loc[("protect", True, False), "weight_change"] > 0
    assert table.loc[("top", False, False), "activation_change"] > 0


def test_the_set_found_afterwards_is_compared(tmp_path):
    half = ct.NeuronSet.of(["L1.mlp.hook_post.3", "L0.mlp.hook_post.1"])
    found = study_in(tmp_path, arms=["top"], find=lambda model: half)
    assert found.runs["jaccard"].tolist() == [0.25]


# ---------------------------------------------------------------- intervals


def simulated(n_seeds: int, n_units: int, effect: float, generator) -> pd.DataFrame:
    """Answers whose change differs by question and by seed."""
    of_units = generator.normal(0, 0.1, n_units)
    frames = [pd.DataFrame({"arm": "before", "seed": 0, "probability": np.zeros(n_units)})]
    for seed in range(n_seeds):
        values = effect + of_units + generator.normal(0, 0.05)
        frames.append(pd.DataFrame({"arm": "top", "seed": seed, "probability": values}))
    ids = [f"q{number}" for number in range(n_units)] * (n_seeds + 1)
    whole = pd.concat(frames, ignore_index=True)
    return whole.assign(benchmark="facts", id=ids, culture="Iran", correct=False)


def test_intervals_hold_the_true_change_as_often_as_they_say():
    """Ten seeds and forty questions, both drawn anew 60 times: some 95 %, never below 80 %."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        line = change_table(simulated(10, 40, -0.2, generator)).iloc[0]
        held += line["probability_change_low"] <= -0.2 <= line["probability_change_high"]
    assert 48 <= held < 60


def test_intervals_are_wider_than_over_questions_alone():
    answers = simulated(6, 400, 0.0, np.random.default_rng(1))
    line = change_table(answers).iloc[0]
    by_unit = answers[answers["arm"] == "top"].groupby("id")["probability"].mean()
    of_questions = 2 * 1.96 * by_unit.std() / np.sqrt(len(by_unit))
    width = line["probability_change_high"] - line["probability_change_low"]
    assert width > 1.5 * of_questions


def test_what_arms_share_cancels_in_their_difference():
    answers = simulated(4, 30, 0.0, np.random.default_rng(2))
    twin = answers[answers["arm"] == "top"].assign(arm="bottom")
    twin["probability"] -= 0.25
    line = difference_table(pd.concat([answers, twin]))
    ends = line[["probability_change", "probability_change_low", "probability_change_high"]]
    assert ends.to_numpy().tolist() == [pytest.approx([0.25] * 3)]


# ---------------------------------------------------------------- the folder


def test_a_study_goes_on_from_its_folder(study, out, monkeypatch):
    monkeypatch.setattr("culnig_tl.finetuning.pieces.finetune", None)  # must not be called
    again = study_in(out, keep=True)
    pd.testing.assert_frame_equal(again.answers, study.answers)
    pd.testing.assert_frame_equal(again.drift, study.drift)
    assert pd.read_csv(out / "changes.csv")["arm"].tolist() == study.frame["arm"].tolist()


def test_models_are_deleted_unless_they_are_to_be_kept(tmp_path, study, out):
    alone = study_in(tmp_path, arms=["bottom"])
    assert not list((tmp_path / "models").iterdir())
    kept = study.answers.query("arm == 'bottom'")["probability"].to_numpy()
    assert (alone.answers.query("arm == 'bottom'")["probability"].to_numpy() == kept).all()


def test_studies_of_other_seeds_are_joined(study, tmp_path):
    other = study_in(tmp_path, arms=["top"], seeds=[1])
    whole = FineTuningStudy.joined([study, other])
    assert whole.frame.query("arm == 'top'")["n_seeds"].unique().tolist() == [2]
    assert (whole.answers["arm"] == "before").sum() == (study.answers["arm"] == "before").sum()
    changed = FineTuningStudy(other.answers.assign(correct=True), other.runs, other.drift)
    with pytest.raises(InvalidInputError, match="began from different answers"):
        FineTuningStudy.joined([study, changed])


@pytest.mark.usefixtures("as_for_a_user")  # beartype would refuse some of these itself
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"arms": ["middle"]}, "arm is 'middle'; choose one of 'top'"),
        ({"arms": []}, "arms is .*; give a list of at least one"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]; give each of them once"),
        ({"benchmarks": {TASK: rows("atlas", "test", 2)}}, "which a study calls its own"),
        ({"share": 2}, "share is 2; give a finite number between 0 and 1"),
    ],
)
def test_values_are_refused_before_anything_is_trained(tmp_path, options, sentence):
    with pytest.raises(InvalidInputError, match=sentence):
        study_in(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_test_of_trained_prompts_is_refused(tmp_path):
    task = rows("atlas-sums", "identify", 6)
    with pytest.raises(InvalidInputError, match="3 of 3 prompts that test the task are among the"):
        finetuning_study(
            "atlas",
            task,
            task.select(range(3)),
            neurons=NEURONS,
            benchmarks={"culture": rows("atlas", "test", 3)},
            out=tmp_path / "study",
        )


# ---------------------------------------------------------------- figure and command


def test_arrows_go_from_nothing_to_what_the_table_says(study):
    figure = study.figure(value="probability")
    arrows = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert len(arrows) == 2 * len(ARMS)
    table = study.frame.set_index(["benchmark", "arm"])["probability_change"]
    for name, trace in zip(["culture"] * 3 + ["general"] * 3, arrows, strict=True):
        assert trace.x == (0.0, pytest.approx(100 * table[TASK, trace.name]))
        assert trace.y == (0.0, pytest.approx(100 * table[name, trace.name]))


def test_a_figure_needs_the_task(study):
    without = study.frame[study.frame["benchmark"] != TASK]
    with pytest.raises(InvalidInputError, match="no rows"):
        trade_off(without)


def test_the_command_prints_what_the_study_says(tmp_path):
    NEURONS.save(tmp_path / "neurons.json")
    for name, each in {
        "task": rows("atlas-sums", "identify", 8),
        "test": rows("atlas-sums", "test", 3),
        "facts": rows("atlas", "test", 3),
    }.items():
        each.to_json(tmp_path / f"{name}.jsonl")
    out = tmp_path / "tuned"
    command = ["finetune", "atlas", "--task", str(tmp_path / "task.jsonl"), "--quiet"]
    command += ["--task-test", str(tmp_path / "test.jsonl"), "--out", str(out)]
    command += ["--neurons", str(tmp_path / "neurons.json")]
    result = CliRunner().invoke(app, [*command, "--benchmark", f"facts={tmp_path}/facts.jsonl"])
    assert result.exit_code == 0, result.output
    assert "bottom" in result.output
    assert ct.load_model(out / "models" / "bottom-0").cfg.n_layers == 4
    result = CliRunner().invoke(app, [*command, "--benchmark", "facts"])
    assert result.exit_code == 2
    assert "has no name" in result.output
