"""Doses and thresholds: the frames agree with single evaluations and selections."""

import inspect
from dataclasses import replace

import pandas as pd
import pytest
import torch

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import dose_response, evaluate
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific, usual_attention_top
from culnig_tl.validation import sensitivity, threshold_sweep

CULTURES = ("A", "B", "C")
NEURONS = NeuronSet.of({"mlp.hook_post": [(0, 3), (1, 5), (2, 7)]})


def scores(seed: int) -> NeuronScores:
    generator = torch.Generator().manual_seed(seed)
    values = {
        "mlp.hook_post": torch.rand(3, 3, 64, generator=generator),
        "attn.hook_q": torch.rand(3, 3, 32, generator=generator),
    }
    return NeuronScores(values, CULTURES, 4, (2, 2, 2), {})


# --- dose_response --------------------------------------------------------------------------------


def test_each_dose_is_an_evaluation_at_that_factor(model, rows):
    doses = dose_response(
        model,
        {"one": rows, "two": rows.select(range(3))},
        NEURONS,
        factors=[0.0, 2.0],
        random=[NeuronSet.of({"mlp.hook_post": [(0, 1)]})],
        progress=False,
    )
    assert len(doses) == 2 * 2 * 2
    for factor in (0.0, 2.0):
        at = (doses["factor"] == factor) & (doses["benchmark"] == "one")
        line = doses[at & (doses["condition"] == "neurons")].iloc[0]
        answers = evaluate(model, rows, neurons=NEURONS, factor=factor)
        units = answers.groupby(["id", "culture"])[["correct", "probability"]].mean().mean()
        assert line["accuracy"] == pytest.approx(100 * units["correct"])
        assert line["probability"] == pytest.approx(units["probability"])
        assert line["probability_low"] <= line["probability"] <= line["probability_high"]


def test_factor_one_is_the_model_as_it_is(model, rows):
    (line,) = dose_response(model, {"one": rows}, NEURONS, factors=[1.0], progress=False).to_dict(
        "records"
    )
    original = evaluate(model, rows).groupby(["id", "culture"])["probability"].mean().mean()
    assert line["probability"] == pytest.approx(original)
    assert (line["condition"], line["n_neurons"]) == ("neurons", 3)


@pytest.mark.parametrize(("neurons", "factors"), [(NeuronSet.of({}), [0.0]), (NEURONS, [])])
def test_no_neurons_and_no_factors_are_refused(model, rows, neurons, factors):
    with pytest.raises(InvalidInputError, match="at least one"):
        dose_response(model, {"one": rows}, neurons, factors=factors, progress=False)


# --- threshold_sweep ------------------------------------------------------------------------------


def test_defaults_are_those_of_the_selections():
    for select, published in (
        (culture_general, sensitivity._GENERAL),
        (culture_specific, sensitivity._SPECIFIC),
    ):
        parameters = inspect.signature(select).parameters
        own = {name: parameters[name].default for name in published}
        if select is culture_general:
            assert own["attention_top"] is None  # the recipe's
            own["attention_top"] = usual_attention_top("published")
        assert published == own


def test_each_step_is_a_selection_with_one_threshold_moved():
    given = [scores(seed) for seed in range(3)]
    thresholds = {"mlp_top": 0.1, "attention_top": 0.05, "recognition_top": 0.1}
    sweep = threshold_sweep(
        *given, t=[0.05, 0.1, 0.2], r=[0.0, 0.1], thresholds=thresholds, progress=False
    )
    usual = culture_general(*given, **thresholds)
    assert len(usual) > 5
    moved = [
        thresholds | {"mlp_top": 0.05, "attention_top": 0.025},
        thresholds,
        thresholds | {"mlp_top": 0.2, "attention_top": 0.1},
        thresholds | {"recognition_top": 0.0},
        thresholds,
    ]
    expected = [culture_general(*given, **each) for each in moved]
    assert sweep["n_neurons"].tolist() == [len(each) for each in expected]
    assert sweep["jaccard"].tolist() == [usual.jaccard(each) for each in expected]
    assert sweep["threshold"].tolist() == ["t"] * 3 + ["r"] * 2
    assert sweep["default"].tolist() == [0.1] * 5


def test_a_culture_has_z_and_without_recognition_there_is_no_r():
    given = [scores(seed) for seed in range(2)]
    sweep = threshold_sweep(*given, culture="B", thresholds={"top": 0.2}, progress=False)
    assert list(sweep["threshold"].unique()) == ["t", "z"]
    strict = sweep[sweep["threshold"] == "z"].set_index("value")["n_neurons"]
    assert strict.is_monotonic_decreasing
    assert strict[1.5] < strict[0.0]
    expected = culture_specific(*given, culture="B", top=0.2, min_z=1.5)
    assert strict[1.5] == len(expected)


def test_a_contrast_is_swept_for_a_culture_alone():
    source = {"weight": "probability", "mean_probability": [[0.5, 0.25]] * 3}
    given = replace(scores(0), source=source)
    sweep = threshold_sweep(given, recipe="contrast", culture="B", t=[0.01, 1.0], progress=False)
    own = culture_specific(given, culture="B", recipe="contrast", top=1.0)
    all_kept = sweep[(sweep["threshold"] == "t") & (sweep["value"] == 1.0)]
    assert all_kept["n_neurons"].tolist() == [len(own)]
    assert len(own) > 5
    with pytest.raises(InvalidInputError, match=r"recipe is 'contrast', .* culture is None"):
        threshold_sweep(given, recipe="contrast", progress=False)


def test_effects_are_evaluations_of_each_set(model, rows):
    sweep = threshold_sweep(
        scores(0),
        t=[0.05, 0.1],
        model=model,
        benchmarks={"one": rows, "two": rows.select([0])},
        progress=False,
    )
    assert sweep["benchmark"].tolist() == ["one", "two"] * 2
    neurons = culture_general(scores(0), mlp_top=0.1, attention_top=0.02)
    answers = evaluate(model, rows, neurons=neurons)
    line = sweep[(sweep["value"] == 0.1) & (sweep["benchmark"] == "one")].iloc[0]
    assert line["n_neurons"] == len(neurons)
    assert line["accuracy"] == pytest.approx(100 * answers["correct"].mean())
    assert line["probability"] == pytest.approx(answers["probability"].mean())
    assert isinstance(sweep, pd.DataFrame)


def test_half_a_measurement_and_unknown_thresholds_are_refused(model, rows):
    with pytest.raises(InvalidInputError, match=r"^model was given without benchmarks"):
        threshold_sweep(scores(0), model=model, progress=False)
    with pytest.raises(InvalidInputError, match=r"^benchmarks was given without model"):
        threshold_sweep(scores(0), benchmarks={"one": rows}, progress=False)
    with pytest.raises(InvalidInputError, match=r"no threshold top here; .* mlp_top"):
        threshold_sweep(scores(0), thresholds={"top": 0.1}, progress=False)
