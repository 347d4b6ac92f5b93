"""Breakers are named, alone and in a crowd; a run says so; so does one that answers at chance."""

from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_paper import asked, invoke  # noqa: F401  (asked is a fixture)
from test_pipeline import control_of, names_of
from test_smollm2 import cache, gguf  # noqa: F401  (fixtures)

import culnig_tl as ct
from culnig_tl.cli.output import print_run
from culnig_tl.evaluation import Breakers, breakers, chance_warning, compare
from culnig_tl.evaluation.breakers import _needed
from culnig_tl.models import load_model
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.pipeline import culnig, run
from culnig_tl.questions import prepare, questions
from culnig_tl.selection import random_neurons

SITE = "mlp.hook_post"
PAIR = [Neuron(SITE, 0, 5), Neuron(SITE, 1, 7)]
HUGE = Neuron(SITE, 1, 9)
ORDINARY = [Neuron(SITE, layer, index) for layer in range(3) for index in range(20, 26)]
SET = NeuronSet.of([*PAIR, HUGE, *ORDINARY])
TEXTS = ("Which drink?", "tea rice Answer:", "bread soup tea rice drink? Answer:", "A", "Drink?")


@pytest.fixture(scope="module")
def planted(folders) -> Any:
    """Two huge neurons, either of which alone makes the model say " A"; a third does nothing."""
    model: Any = load_model(folders[2], dtype="float64", device="cpu")
    label = model.tokenizer(" A", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        for neuron in (*PAIR, HUGE):
            mlp = model.blocks[neuron.layer].mlp
            mlp.b_in[neuron.index] = 1000.0
            mlp.W_out[neuron.index] = 0 if neuron == HUGE else model.unembed.W_U[:, label]
    return model


@pytest.fixture(scope="module")
def general() -> Any:
    """Questions without a culture; the answer is always " A"."""
    row = {"culture": "", "answer": " A", "options": [" A", " B", " C"]}
    return questions([{**row, "id": f"g{i}", "prompt": text} for i, text in enumerate(TEXTS)])


def mean_probability(model: Any, neurons: list[Neuron]) -> float:
    """Mean P(" A") prompt by prompt, without padding, neurons set to 0 by hooks of our own."""

    def mask(activation, hook, index):
        activation[:, :, index] = 0
        return activation

    hooks = [(f"blocks.{n.layer}.{n.site}", partial(mask, index=n.index)) for n in neurons]
    label = model.tokenizer(" A", add_special_tokens=False)["input_ids"][0]
    likely = []
    for text in TEXTS:
        tokens = model.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            likely.append(float(model(tokens)[0, -1].softmax(-1)[label]))
    return float(np.mean(likely))


def test_the_pair_is_named_in_a_crowd_and_an_idle_huge_neuron_is_not(planted, general):
    result = breakers(planted, general, SET)
    assert set(result.neurons) == set(PAIR)
    assert set(result.candidates) == {*PAIR, HUGE}
    assert result.n_prompts == len(TEXTS)
    fall = 1 - mean_probability(planted, PAIR) / mean_probability(planted, [])
    assert result.fall == pytest.approx(fall, abs=1e-9)
    assert fall > 0.9


@pytest.mark.parametrize("neurons", [[PAIR[0]], [PAIR[1], HUGE], ORDINARY, []])
def test_neurons_without_which_the_model_answers_are_not_named(planted, general, neurons):
    result = breakers(planted, general, NeuronSet.of(neurons))
    assert (len(result.neurons), result.fall, result.warning) == (0, 0.0, "")
    assert set(result.candidates) == {*PAIR, HUGE} & set(neurons)


def test_activity_is_that_of_the_first_position_or_of_the_others(planted, general):
    """Prompt by prompt: mean |activation| over the median of the layer's neurons."""
    result = breakers(planted, general, SET, ratio=0.0, most=len(SET))
    by_position: dict[int, list[list[torch.Tensor]]] = {layer: [[], []] for layer in range(3)}

    def record(activation, hook, layer):
        by_position[layer][0].append(activation[0, :1].abs())
        by_position[layer][1].append(activation[0, 1:].abs())

    hooks = [(f"blocks.{n}.{SITE}", partial(record, layer=n)) for n in range(3)]
    for text in TEXTS:
        tokens = planted.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad(), planted.hooks(fwd_hooks=hooks):
            planted(tokens)
    for site, layer, index, score in result.candidates.to_frame().itertuples(index=False):
        means = [torch.cat(values).mean(0) for values in by_position[layer]]
        expected = max(float(mean[index] / mean.median()) for mean in means)
        assert score == pytest.approx(expected, rel=1e-5), Neuron(site, layer, index)
    assert set(result.candidates) == set(SET)


def test_each_of_several_groups_is_named_and_who_is_not_needed_is_not():
    """One breaks the model by itself, two together, and a fourth does nothing."""
    alone, one, other, idle = (Neuron(SITE, 0, index) for index in range(4))

    def breaks(neurons):
        return alone in neurons or {one, other} <= set(neurons)

    for order in permutations((alone, one, other, idle)):
        assert set(_needed(order, breaks)) == {alone, one, other}
    assert _needed([one, idle], breaks) == []


def test_a_file_brings_it_back(planted, general):
    result = breakers(planted, general, SET)
    again = Breakers.from_json(result.to_json())
    assert again == result
    assert "L0.mlp.hook_post.5 and L1.mlp.hook_post.7: masking" in again.warning


# ---------------------------------------------------------------- a run


@pytest.fixture
def run_with(monkeypatch, rows, general, tmp_path):
    """``run_with(model, neurons)``: a run whose culture-general neurons are these."""

    def start(model, neurons):
        monkeypatch.setattr(run, "select", lambda stage, scores: ({"general": neurons}, {}))
        return culnig(
            model,
            out=tmp_path,
            cultural=rows,
            control=control_of(rows),
            recognition=names_of(rows),
            benchmarks={"tiny": rows, "other": general},
            n_random=1,
            n_cards=0,
            progress=False,
        )

    return start


@pytest.mark.filterwarnings(
    "ignore:Rows that test are among", "ignore:(Letter|Some) questions are at chance"
)
def test_a_run_names_breakers_and_answers_without_them(planted, run_with, general, rows, capsys):
    result = run_with(planted, SET)
    assert set(result.breakers["general"].neurons) == set(PAIR)
    rest = NeuronSet.of([HUGE, *ORDINARY])
    conditions = {
        "original": None,
        "general": SET,
        "general without breakers": rest,
        "random": random_neurons(planted, like=SET, seed=0),
    }
    benchmarks = {"tiny": rows, "other": general}
    table = compare(planted, benchmarks, conditions, progress=False)
    pd.testing.assert_frame_equal(result.table, table)
    warning = result.breakers["general"].warning
    assert result.warnings[0] == f"“general”: {warning}"
    page = result.report().read_text(encoding="utf-8")
    assert page.count(warning) == 1 + len(PAIR)  # above the table, and on either card
    print_run(result)
    assert "L1.mlp.hook_post.7: masking no more" in " ".join(capsys.readouterr().out.split())


@pytest.mark.filterwarnings(
    "ignore:Rows that test are among", "ignore:(Letter|Some) questions are at chance"
)
def test_breakers_are_read_and_not_looked_for_again(planted, run_with, monkeypatch):
    first = run_with(planted, SET)
    monkeypatch.setattr(planted, "forward", lambda *_, **__: pytest.fail("a forward pass"))
    assert run_with(planted, SET).breakers == first.breakers


@pytest.mark.filterwarnings(
    "ignore:Rows that test are among", "ignore:(Letter|Some) questions are at chance"
)
def test_without_breakers_a_run_is_what_it_was(planted, run_with):
    result = run_with(planted, NeuronSet.of(ORDINARY))
    assert set(result.table["condition"]) == {"original", "general", "random"}
    assert not any("breaks" in each for each in result.warnings)


# ---------------------------------------------------------------- chance


def wilson_low(n_right: int, n: int) -> float:
    """The lower end of the Wilson interval, as a textbook has it."""
    z, p = 1.96, n_right / n
    middle = p + z**2 / (2 * n)
    return (middle - z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))) / (1 + z**2 / n)


def test_accuracy_is_at_chance_where_its_interval_holds_chance(model, rows):
    prepared = prepare(model, [{**row, "id": f"{i}"} for i in range(4) for row in rows.to_list()])
    assert len(prepared) == 24
    for n_right in range(25):
        correct = pd.Series([True] * n_right + [False] * (24 - n_right))
        warning = chance_warning({"tiny": prepared}, {"tiny": correct})
        assert bool(warning) == (wilson_low(n_right, 24) <= 1 / 3), n_right
        assert warning.startswith("Letter questions are at chance for this model ") or (not warning)


def test_questions_that_are_no_letters_have_no_advice(model, rows):
    worded = rows.map(lambda row: {**row, "options": [" tea", " rice"], "answer": " tea"})
    prepared = prepare(model, worded)
    warning = chance_warning({"words": prepared}, {"words": pd.Series([False] * 6)})
    assert "(words: 0 % of 6 prompts, chance 50 %)" in warning
    assert "cloze" not in warning


def test_paper_says_before_it_starts_that_letters_are_at_chance(asked, folders, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    benchmarks = ("--benchmarks", "blend,mrpc", "--dry-run")
    code, shown = invoke("--model", folders[2], "--out", out, *benchmarks)
    assert code == 0, shown
    assert "Letter questions are at chance for this model" in shown
    assert "(blend: " in shown
    assert "ct.load_benchmark('cloze')" in " ".join(shown.split())


# ---------------------------------------------------------------- the real model


def test_the_real_model_has_a_pair(cache, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    model = load_model("smollm2")
    rows = ct.load_benchmark("cloze-general", split="test", limit=12)
    prepared = prepare(model, rows, token_budget=2048)
    pair = NeuronSet.of(["L2.mlp.hook_post.430", "L8.mlp.hook_post.1268"])
    like = NeuronSet.of({SITE: [(0, index) for index in range(300)]})
    others = random_neurons(model, like=like, seed=0)
    assert not set(others) & set(pair)
    assert set(breakers(model, prepared, others | pair).neurons) == set(pair)
    assert len(breakers(model, prepared, others).neurons) == 0
