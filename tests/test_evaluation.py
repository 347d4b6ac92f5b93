"""Answers are those of plain transformers; intervals and p-values are those of plain resampling."""

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from reference import PlainTransformers

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import compare, culture_effects, evaluate, summarise
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import questions

NEURONS = NeuronSet.of(
    {"mlp.hook_post": [(0, k) for k in range(0, 64, 2)], "attn.hook_v": [(1, 3)]}
)


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
@pytest.mark.parametrize(("neurons", "factor"), [(None, 0.0), (NEURONS, 0.0), (NEURONS, 2.0)])
def test_answers_equal_plain_transformers(folders, loaded, rows, backend, neurons, factor):
    model = loaded(2, backend, "float32")
    frame = evaluate(model, rows, neurons=neurons, factor=factor, token_budget=30)
    plain = PlainTransformers(folders[2], torch.float32)
    change = reference.suppressed(list(neurons or ()), factor)
    for row, found in zip(rows, frame.to_dict("records"), strict=True):
        ids = model.tokenizer(row["prompt"])["input_ids"]
        (label,) = model.tokenizer.encode(row["answer"], add_special_tokens=False)
        with torch.no_grad():
            probabilities = plain.logits(ids, change).softmax(0)
        assert found["prediction"] == model.tokenizer.decode([int(probabilities.argmax())])
        assert found["correct"] == (int(probabilities.argmax()) == label)
        # float32: rounding of logits of size 10 is 1e-6, and P moves by as much of itself
        assert found["probability"] == pytest.approx(float(probabilities[label]), rel=1e-4)
        for name in ("id", "culture", "topic", "template", "benchmark", "answer"):
            assert found[name] == row[name]


def test_a_model_is_right_about_what_it_says(model, rows):
    """Asked for its arg-max tokens, every answer is correct and likelier than any label."""
    said = evaluate(model, rows)["prediction"]
    asked = questions(
        [
            {**row, "options": [label], "answer": label}
            for row, label in zip(rows, said, strict=True)
        ]
    )
    frame = evaluate(model, asked)
    assert frame["correct"].all()
    assert (frame["probability"] >= evaluate(model, rows)["probability"]).all()


def test_evaluation_leaves_no_hook(loaded, rows, n_hooks):
    for backend in ("hooked", "bridge"):
        model = loaded(2, backend, "float32")
        before = n_hooks(model)
        evaluate(model, rows, neurons=NEURONS)
        assert n_hooks(model) == before


# ---------------------------------------------------------------- summaries


def answers_of(condition, correct, *, n_neurons=1, draw=0, probability=None, ids=None):
    """One prompt a question."""
    n = len(correct)
    return pd.DataFrame(
        {
            "id": ids or [f"q{i:03d}" for i in range(n)],
            "culture": "A",
            "benchmark": "b",
            "condition": condition,
            "draw": draw,
            "n_neurons": n_neurons,
            "correct": np.asarray(correct, dtype=bool),
            "probability": np.asarray(correct if probability is None else probability, dtype=float),
        }
    )


def summary(*frames, **options):
    return summarise(pd.concat(frames, ignore_index=True), **options).set_index("condition")


ORIGINAL = [True] * 45 + [False] * 15
SLIGHTLY = [True] * 44 + [False] * 16
CLEARLY = [True] * 20 + [False] * 40


def test_accuracy_is_a_mean_in_percent_and_change_is_in_points():
    table = summary(
        answers_of("original", ORIGINAL, n_neurons=0), answers_of("general", CLEARLY, n_neurons=9)
    )
    assert table.loc["original", "accuracy"] == pytest.approx(75.0)
    assert table.loc["general", "accuracy"] == pytest.approx(100 * 20 / 60)
    assert table.loc["general", "change"] == pytest.approx(100 * 20 / 60 - 75.0)
    assert table.loc["original", "change"] == 0.0
    assert table["n_questions"].tolist() == [60, 60]
    assert table["n_neurons"].tolist() == [0, 9]


def test_the_interval_is_that_of_resampling_one_question_after_the_other():
    generator = np.random.default_rng(0)
    probability = generator.random(60)
    table = summary(answers_of("original", ORIGINAL, probability=probability, n_neurons=0))
    found = table.loc["original"]
    low, high = reference.bootstrap_interval([100.0 * c for c in ORIGINAL], draws=2000, seed=1)
    # 2,000 draws know a 2.5 % percentile to about a tenth of the standard error of 5.6 points;
    # an accuracy of 60 questions moves in steps of 1.7 points
    assert found["accuracy_low"] == pytest.approx(low, abs=1.7)
    assert found["accuracy_high"] == pytest.approx(high, abs=1.7)
    error = probability.std() / np.sqrt(60)
    assert found["probability_low"] == pytest.approx(
        probability.mean() - 1.96 * error, abs=0.2 * error
    )
    assert found["probability_high"] == pytest.approx(
        probability.mean() + 1.96 * error, abs=0.2 * error
    )


def test_prompts_of_one_question_are_drawn_together():
    """Four copies of every prompt are no more evidence than one."""
    single = answers_of("original", ORIGINAL, n_neurons=0)
    once, often = summary(single), summary(*[single] * 4)
    assert often.loc["original", "n_questions"] == 60
    for name in ("accuracy", "accuracy_low", "accuracy_high"):
        assert once.loc["original", name] == pytest.approx(often.loc["original", name])


def test_one_id_in_two_cultures_is_two_questions():
    here = answers_of("original", ORIGINAL, n_neurons=0)
    table = summary(here, here.assign(culture="B"))
    assert table.loc["original", "n_questions"] == 120


def test_a_clear_drop_beats_random_and_no_drop_does_not():
    table = summary(
        answers_of("original", ORIGINAL, n_neurons=0),
        answers_of("clear", CLEARLY),
        answers_of("same", SLIGHTLY),
        answers_of("better", [True] * 60),
        answers_of("random", SLIGHTLY),
    )
    assert table.loc["clear", "p_value"] < 0.001
    assert table.loc["same", "p_value"] > 0.99
    assert table.loc["better", "p_value"] > 0.99
    assert np.isnan(table.loc["random", "p_value"])
    assert np.isnan(table.loc["original", "p_value"])


def test_the_p_value_pairs_questions():
    """Worse on three questions of 200 and better on none: the questions in common cancel, so that
    only a draw without any of the three (a chance of about e^-3) is no drop."""
    generator = np.random.default_rng(1)
    reference_answers = generator.random(200) < 0.5
    reference_answers[:3] = True
    worse = reference_answers.copy()
    worse[:3] = False
    table = summary(answers_of("worse", worse), answers_of("random", reference_answers))
    # 2,000 draws know 0.05 to about 0.005; unpaired, the value would be near 0.4
    assert table.loc["worse", "p_value"] == pytest.approx(np.exp(-3), abs=0.02)


def test_without_a_reference_there_is_no_p_value():
    assert summary(answers_of("general", CLEARLY))["p_value"].isna().all()


def test_random_sets_are_averaged():
    table = summary(
        answers_of("original", ORIGINAL, n_neurons=0),
        answers_of("random", CLEARLY, draw=0, n_neurons=5),
        answers_of("random", ORIGINAL, draw=1, n_neurons=5),
    )
    by_draw = [100 * 20 / 60, 75.0]
    assert table.loc["random", "accuracy"] == pytest.approx(np.mean(by_draw))
    assert table.loc["random", "accuracy_sd_of_draws"] == pytest.approx(np.std(by_draw, ddof=1))
    assert table.loc["random", "n_questions"] == 60


def test_the_same_answers_give_the_same_summary():
    frames = [answers_of("original", ORIGINAL, n_neurons=0), answers_of("random", CLEARLY)]
    pd.testing.assert_frame_equal(summary(*frames), summary(*frames))


def test_conditions_on_different_questions_are_not_compared():
    first = answers_of("general", ORIGINAL)
    with pytest.raises(InvalidInputError, match="same rows"):
        summary(first, answers_of("random", ORIGINAL[:-1]))
    others = [f"other {i:03d}" for i in range(60)]
    with pytest.raises(InvalidInputError, match="same rows"):
        summary(first, answers_of("random", ORIGINAL, ids=others))


# ---------------------------------------------------------------- whole tables


def test_compare_holds_the_means_of_evaluate(model, rows):
    random_sets = [NeuronSet.of({"mlp.hook_post": [(layer, 3)]}) for layer in range(3)]
    table = compare(
        model,
        {"tiny": rows, "half": rows.select(range(3))},
        {"original": None, "general": NEURONS, "random": random_sets},
        progress=False,
    )
    assert table["benchmark"].unique().tolist() == ["tiny", "half"]
    found = {(row["benchmark"], row["condition"]): row for row in table.to_dict("records")}
    for benchmark, asked in (("tiny", rows), ("half", rows.select(range(3)))):
        for condition, sets in (
            ("original", [None]),
            ("general", [NEURONS]),
            ("random", random_sets),
        ):
            # prompts of one question and culture are averaged first
            frames = [evaluate(model, asked, neurons=neurons) for neurons in sets]
            units = pd.concat(frames).groupby(["id", "culture"])[["correct", "probability"]].mean()
            row = found[benchmark, condition]
            assert row["accuracy"] == pytest.approx(100 * units["correct"].mean())
            assert row["probability"] == pytest.approx(units["probability"].mean())
            assert row["n_neurons"] == len(sets[0] or ())


def test_culture_effects_equal_direct_evaluation(model, rows):
    sets = {"A": NEURONS, "C": NeuronSet.of({"attn.hook_q": [(0, k) for k in range(32)]})}
    effects = culture_effects(model, rows, sets, progress=False)
    assert len(effects) == len(sets) * 3
    before = evaluate(model, rows)
    for effect in effects.to_dict("records"):
        after = evaluate(model, rows, neurons=sets[effect["masked"]])
        tested = before["culture"] == effect["tested"]
        points = 100 * (after["correct"][tested].mean() - before["correct"][tested].mean())
        shift = after["probability"][tested].mean() - before["probability"][tested].mean()
        assert effect["change"] == pytest.approx(points)
        assert effect["probability_change"] == pytest.approx(shift)
        assert effect["n_neurons"] == len(sets[effect["masked"]])
        assert effect["n_prompts"] == int(tested.sum())
