"""Factors and probes: a planted weakness is mended, chance is not, and all is recounted."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError
from culnig_tl.hooks import scaled_neurons
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import prepare
from culnig_tl.validation import (
    TunedFactors,
    conditional_use,
    culture_probe,
    scaled_layers,
    tune_factors,
)
from culnig_tl.validation.conditional import _dual, fitted_probe, last_residuals

pytestmark = pytest.mark.filterwarnings(
    "ignore:Rows that test are among the rows that found", "ignore:Letter questions are at chance"
)
NEURONS = NeuronSet.of({"mlp.hook_post": [(0, 3), (0, 9), (1, 5), (2, 7), (2, 8)]})
GRID = (0.0, 0.5, 2.0, 4.0)


@pytest.fixture(scope="module")
def atlas():
    return ct.load_model()


@pytest.fixture(scope="module")
def tests():
    names = {"culture": "atlas", "general": "atlas-commonsense"}
    return {ours: ct.load_benchmark(name, split="test", limit=24) for ours, name in names.items()}


@pytest.fixture(scope="module")
def found():
    return ct.load_benchmark("atlas", split="identify", limit=32)


# --- factors --------------------------------------------------------------------------------------


def means(model, rows, neurons=None, factor=1.0):
    frame = ct.evaluate(model, rows, neurons=neurons, factor=factor)
    return {"probability": frame["probability"].mean(), "accuracy": 100 * frame["correct"].mean()}


@pytest.mark.parametrize("criterion", ["probability", "accuracy"])
def test_one_factor_is_the_best_of_single_evaluations(model, rows, criterion):
    tuned = tune_factors(
        model, NEURONS, rows, {"one": rows}, factors=GRID, criterion=criterion, progress=False
    )
    tried = {factor: means(model, rows, NEURONS, factor) for factor in (1.0, *GRID)}
    best = max(tried, key=lambda factor: tried[factor][criterion])
    assert tuned.factors == dict.fromkeys((0, 1, 2), best)
    assert tuned.search["factor"].tolist() == list(tried)
    for measure in ("probability", "accuracy"):
        expected = [each[measure] for each in tried.values()]
        assert tuned.search[measure].tolist() == pytest.approx(expected)
    row, before = tuned.effects.iloc[0], means(model, rows)
    assert row["gain"] == pytest.approx(
        tried[best]["probability"] / before["probability"] - 1, abs=1e-12
    )
    assert row["change"] == pytest.approx(tried[best]["accuracy"] - before["accuracy"])


def test_factors_by_layer_are_found_from_below(model, rows):
    tuned = tune_factors(
        model, NEURONS, rows, {"one": rows}, factors=GRID, by="layer", progress=False
    )
    held: dict[int, float] = {}
    for layer in (0, 1, 2):
        values = {}
        for factor in (1.0, *GRID):
            with scaled_layers(model, NEURONS, held | {layer: factor}):
                values[factor] = ct.evaluate(model, rows)["probability"].mean()
        held[layer] = max(values, key=lambda factor: values[factor])
    assert tuned.factors == held
    assert len(set(held.values())) > 1
    assert len(tuned.search) == 1 + 3 * len(GRID)


def test_each_layer_has_its_factor(model, rows, n_hooks):
    with scaled_layers(model, NEURONS, {0: 0.5, 2: 3.0}):
        ours = ct.evaluate(model, rows)["probability"]
    low, high = (
        NeuronSet.of([neuron for neuron in NEURONS if neuron.layer == layer]) for layer in (0, 2)
    )
    with scaled_neurons(model, low, factor=0.5), scaled_neurons(model, high, factor=3.0):
        theirs = ct.evaluate(model, rows)["probability"]
    assert ours.tolist() == theirs.tolist()
    assert ours.tolist() != ct.evaluate(model, rows)["probability"].tolist()
    assert n_hooks(model) == 0


def test_a_planted_weakness_is_mended_on_held_out_questions(atlas, found, tests):
    """The planted neurons at a quarter: factor 4 makes the model what it was."""
    key = ct.answer_key("general")
    whole = means(atlas, tests["culture"])
    with scaled_neurons(atlas, key, factor=0.25):
        tuned = tune_factors(atlas, key, found, tests, factors=(2.0, 4.0), progress=False)
        random = ct.random_neurons(atlas, like=key, seed=0)
        chance = tune_factors(
            atlas, random, found, tests, factors=(2.0,), criterion="accuracy", progress=False
        )
    assert set(tuned.factors.values()) == {4.0}
    row: Any = tuned.effects.set_index("benchmark").loc["culture"]
    assert row["probability"] == pytest.approx(whole["probability"], abs=1e-5)
    assert row["change_low"] > 0
    assert tuned.is_gain
    assert tuned.verdict.startswith("Probability rises on held-out cultural questions. “culture”")
    assert not chance.is_gain
    assert chance.verdict.startswith("Nothing is gained")


def tuned_by_hand(criterion: Any = "probability", factor=2.0, n_units=30, **rows):
    """Factors with effects of which only the ends of the intervals are said."""
    effects = [
        {"benchmark": name, "is_cultural": name != "general", "n_units": n_units}
        | {"gain": gain[0], "gain_low": gain[0], "gain_high": gain[1]}
        | {"change": change[0], "change_low": change[0], "change_high": change[1]}
        for name, (gain, change) in rows.items()
    ]
    return TunedFactors({0: factor}, criterion, pd.DataFrame(), pd.DataFrame(effects))


def test_a_verdict_says_what_is_gained_and_what_it_costs():
    up, level, down = (0.1, 0.3), (-0.1, 0.1), (-0.3, -0.1)
    gained = tuned_by_hand(culture=(up, up), general=(level, level))
    assert (gained.is_gain, "costs" in gained.verdict) == (True, False)
    only_p = tuned_by_hand(culture=(up, level), general=(level, down))
    assert "rises on held-out cultural questions, but accuracy does not." in only_p.verdict
    assert only_p.verdict.endswith("It costs general.")
    by_accuracy = tuned_by_hand("accuracy", culture=(up, level))
    assert not by_accuracy.is_gain
    assert by_accuracy.verdict.startswith("Nothing is gained on held-out questions: accuracy does")
    few = tuned_by_hand(n_units=3, culture=(up, up))
    assert few.verdict.endswith("Intervals over 3 topics are too narrow.")
    same = tuned_by_hand(factor=1.0, culture=(up, up))
    assert "no factor does better than 1" in same.verdict


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"neurons": NeuronSet.of({})}, "no neurons to scale"),
        ({"factors": []}, "factors is"),
        ({"factors": [2.0, 2.0]}, "each of them once"),
        ({"factors": [float("inf")]}, "factor is inf|factors is inf"),
        ({"by": "neuron"}, "by is 'neuron'"),
        ({"criterion": "rank"}, "criterion is 'rank'"),
        ({"mode": "best"}, "mode is 'best'"),
        ({"seed": -1}, "seed is -1"),
        ({"tests": {}}, "tests is {}"),
        ({"neurons": NeuronSet.of("L9.mlp.hook_post.0")}, "outside this model"),
    ],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_what_cannot_be_searched_is_refused_before_a_pass(model, rows, passes, changes, sentence):
    given: dict[str, Any] = {"neurons": NEURONS, "rows": rows, "tests": {"one": rows}, **changes}
    with pytest.raises(InvalidInputError, match=sentence):
        tune_factors(model, given.pop("neurons"), **given, progress=False)
    assert passes == []


# --- the probe ------------------------------------------------------------------------------------


def test_residuals_are_those_of_transformers(either, folders, rows):
    """In the order of the rows, at the last position, whatever the padding."""
    twin = AutoModelForCausalLM.from_pretrained(folders[2])
    prepared = prepare(either, rows, token_budget=40)
    for layer in range(3):
        ours = last_residuals(prepared, layer)
        for of_row, ids in zip(ours, prepared.prompts, strict=True):
            inputs = twin.dummy_inputs["input_ids"].new_tensor([list(ids)])
            states = twin(inputs, output_hidden_states=True).hidden_states[layer]
            np.testing.assert_allclose(of_row, states[0, -1].detach().numpy(), atol=1e-4)


def test_the_dual_form_is_ridge_regression_and_leaves_groups_out():
    """Against the normal equations, solved anew without each group."""
    generator = np.random.default_rng(0)
    rows, wanted = generator.normal(size=(12, 30)), generator.normal(size=12)
    groups = [np.array(each) for each in ([0, 4, 5], [1], [2, 3, 6, 7, 8], [9, 10, 11])]
    values, vectors = np.linalg.eigh(rows @ rows.T)
    for ridge in (0.1, 10.0):
        coefficients, errors = _dual(values, vectors, wanted, ridge, groups)

        def solved(kept, ridge=ridge):
            of = rows[kept]
            return np.linalg.solve(of.T @ of + ridge * np.eye(30), of.T @ wanted[kept])

        np.testing.assert_allclose(coefficients @ rows, solved(np.arange(12)), atol=1e-8)
        for group in groups:
            kept = np.setdiff1d(np.arange(12), group)
            expected = wanted[group] - rows[group] @ solved(kept)
            np.testing.assert_allclose(errors[group], expected, atol=1e-8)


def synthetic(generator, n, shift):
    """Prompts of two kinds, unequal in number, that differ in one direction of forty."""
    is_cultural = generator.random(n) < 0.25
    features = generator.normal(size=(n, 40)) * np.linspace(0.1, 10, 40)
    features[:, 7] += np.where(is_cultural, shift, -shift) * np.linspace(0.1, 10, 40)[7]
    return features + 3.0, is_cultural


def test_a_planted_direction_is_read_on_other_prompts():
    generator = np.random.default_rng(1)
    features, is_cultural = synthetic(generator, 120, 2.0)
    probe = fitted_probe(features, is_cultural, list(map(str, range(120))), layer=1)
    others, truth = synthetic(generator, 400, 2.0)
    says = others @ probe.weights + probe.bias > 0
    accuracy = [(says == truth)[truth == kind].mean() for kind in (True, False)]
    assert min(accuracy) > 0.85
    assert probe.left_out == pytest.approx(np.mean(accuracy), abs=0.08)


def test_without_a_difference_a_probe_is_at_chance():
    """Of 20 data sets, both kinds alike, on prompts left out and on others."""
    generator = np.random.default_rng(2)
    left_out, others = [], []
    for _ in range(20):
        features, is_cultural = synthetic(generator, 80, 0.0)
        probe = fitted_probe(features, is_cultural, list(map(str, range(80))), layer=1)
        fresh, truth = synthetic(generator, 200, 0.0)
        says = fresh @ probe.weights + probe.bias > 0
        left_out.append(probe.left_out)
        others.append(np.mean([(says == truth)[truth == kind].mean() for kind in (True, False)]))
    assert np.mean(others) == pytest.approx(0.5, abs=0.03)
    assert np.mean(left_out) == pytest.approx(0.5, abs=0.06)


# --- conditional use ------------------------------------------------------------------------------


def test_a_prompt_is_scaled_where_the_probe_says_so(atlas, found, tests):
    key = ct.answer_key("general")
    general = ct.load_benchmark("atlas-commonsense", split="identify", limit=32)
    probe = culture_probe(atlas, found, general)
    use = conditional_use(atlas, key, tests, probe, factor=0.0)
    effects: Any = use.effects.set_index(["benchmark", "use"])
    for name, rows in tests.items():
        says = probe.scores(prepare(atlas, rows)) > 0
        each = [
            ct.evaluate(atlas, [row], neurons=key if said else None)["probability"][0]
            for row, said in zip(rows.to_list(), says, strict=True)
        ]
        row = effects.loc[(name, "conditional")]
        assert row["probability"] == pytest.approx(np.mean(each), abs=1e-6)
        assert row["scaled"] == pytest.approx(says.mean())
        always = ct.evaluate(atlas, rows, neurons=key)["probability"].mean()
        assert effects.loc[(name, "always"), "probability"] == pytest.approx(always)
    assert 0 < effects.loc[("culture", "conditional"), "scaled"] < 1
    accuracy: Any = use.probe.set_index("benchmark")["accuracy"]
    assert accuracy["culture"] == effects.loc[("culture", "conditional"), "scaled"]
    assert accuracy["general"] == 1 - effects.loc[("general", "conditional"), "scaled"]
    assert use.accuracy == pytest.approx(accuracy.mean())


@pytest.mark.usefixtures("as_for_a_user")
def test_what_cannot_be_read_or_used_is_refused(atlas, model, found, rows, tests, passes):
    layers: list[Any] = [-1, atlas.cfg.n_layers, 1.5]
    for layer in layers:
        with pytest.raises(InvalidInputError, match=rf"layer is {layer}"):
            culture_probe(atlas, found, found, layer=layer)
    with pytest.raises(InvalidInputError, match="1 cultural and 32 general prompts"):
        culture_probe(atlas, found.select([0]), found)
    assert passes == []
    probe = culture_probe(atlas, found, found)
    passes.clear()
    for changes in ({"factor": float("nan")}, {"mode": "best"}, {"seed": -1}, {"tests": {}}):
        with pytest.raises(InvalidInputError, match=next(iter(changes))):
            conditional_use(atlas, NEURONS, **{"tests": tests, "probe": probe, **changes})
    with pytest.raises(InvalidInputError, match="reads 128 numbers before layer 2, and the model"):
        conditional_use(model, NEURONS, {"one": rows}, probe)
    assert passes == []
