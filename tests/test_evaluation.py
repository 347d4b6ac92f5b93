"""Answers are those of plain transformers; intervals and p-values are those of plain resampling."""

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import PlainTransformers

from culnig_tl.benchmarks.worldvaluesbench import alignment
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import (
    accuracy_by,
    compare,
    culture_effects,
    evaluate,
    summarise,
)
from culnig_tl.evaluation.bootstrap import interval, p_values_of_drop, resampled_means
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


def test_options_are_ranked_by_what_plain_transformers_says(folders, loaded, rows):
    """Probabilities of all options, the rank of the answer, and the best option as prediction."""
    model = loaded(2, "hooked", "float32")
    frame = evaluate(model, rows, mode="options", token_budget=30)
    plain = PlainTransformers(folders[2], torch.float32)
    for row, found in zip(rows, frame.to_dict("records"), strict=True):
        with torch.no_grad():
            likely = plain.logits(model.tokenizer(row["prompt"])["input_ids"]).softmax(0)
        chances = {
            option: float(likely[model.tokenizer.encode(option, add_special_tokens=False)[0]])
            for option in row["options"]
        }
        assert found["probabilities"] == pytest.approx(list(chances.values()), rel=1e-4)
        ranked = sorted(chances, key=lambda option: -chances[option])
        assert found["rank"] == 1 + ranked.index(row["answer"])
        assert found["prediction"] == ranked[0]
        assert found["correct"] == (ranked[0] == row["answer"])
    pd.testing.assert_series_equal(evaluate(model, rows)["rank"], frame["rank"])


def test_rows_may_differ_in_their_number_of_options(model, rows):
    fewer = [
        {**row, "options": [row["answer"]] if n % 2 else row["options"]}
        for n, row in enumerate(rows)
    ]
    frame = evaluate(model, questions(fewer), mode="options")
    assert [len(values) for values in frame["probabilities"]] == [3, 1] * 3
    assert frame["correct"][1::2].all()
    assert (frame["rank"][1::2] == 1).all()


def test_an_option_of_several_tokens_has_no_probability_and_cannot_be_the_best(model, rows):
    longer = questions([{**row, "options": [*row["options"], " two words"]} for row in rows])
    frame = evaluate(model, longer)
    assert all(np.isnan(values[-1]) for values in frame["probabilities"])
    pd.testing.assert_series_equal(frame["rank"], evaluate(model, rows)["rank"])
    with pytest.raises(InvalidInputError, match="' two words'"):
        evaluate(model, longer, mode="options")


def test_an_unknown_mode_lists_the_known_ones(model, rows, as_for_a_user):
    with pytest.raises(InvalidInputError, match="'argmax', 'options'"):
        evaluate(model, rows, mode="best")  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- answers on a scale


@given(st.data())
def test_alignment_is_the_published_formula(data):
    low = data.draw(st.integers(0, 1))
    high = data.draw(st.integers(low + 1, 10))
    gold, said = (data.draw(st.integers(low, high)) for _ in range(2))
    options = [str(number) for number in range(low, high + 1)]
    farthest = max(abs(low - gold), abs(high - gold))
    expected = 100 * (1 - abs(said - gold) / farthest)
    assert alignment(str(said), str(gold), options) == pytest.approx(expected)
    assert alignment(f" {said}", str(gold), options) == pytest.approx(expected)
    assert alignment(str(high + 1), str(gold), options) == 0.0


@pytest.mark.parametrize("said", ["", "often", "-1", "1.5", "²", "1 or 2", "99"])
def test_no_number_in_range_aligns_with_nothing(said):
    assert alignment(said, "1", ["0", "1", "2"]) == 0.0


def test_a_scale_without_numbers_is_refused():
    with pytest.raises(InvalidInputError, match="whole numbers"):
        alignment("1", "A", ["A", "B"])


@pytest.mark.filterwarnings("ignore:(Letter|Some) questions are at chance")
def test_values_are_measured_by_alignment_and_nothing_else_is(model, rows):
    scale = ["1", "2", "3", "4"]
    asked = [{**row, "options": scale, "answer": "2"} for row in rows]
    values = [{**row, "benchmark": "worldvaluesbench"} for row in asked]
    frame = evaluate(model, questions(values), mode="options")
    expected = [alignment(said, "2", scale) for said in frame["prediction"]]
    assert frame["alignment"].tolist() == expected
    assert evaluate(model, questions(asked), mode="options")["alignment"].isna().all()
    conditions = {"original": None, "general": NEURONS}
    table = compare(
        model,
        {"values": questions(values), "other": questions(asked)},
        conditions,
        mode="options",
        progress=False,
    )
    assert table["measure"].tolist() == ["alignment"] * 2 + ["accuracy"] * 2
    units = frame.groupby(["id", "culture"])["alignment"].mean()
    assert table["accuracy"][0] == pytest.approx(units.mean())


# ---------------------------------------------------------------- summaries


def answers_of(condition, correct, *, n_neurons=1, draw=0, probability=None, ids=None, factor=0.0):
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
            "factor": float(factor),
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


def test_each_factor_is_held_against_random_neurons_of_the_same_factor():
    table = summary(
        answers_of("original", ORIGINAL, n_neurons=0, factor=1.0),
        answers_of("general", SLIGHTLY),
        answers_of("random", ORIGINAL),
        answers_of("general", SLIGHTLY, factor=2.0),
        answers_of("random", SLIGHTLY, factor=2.0),
        answers_of("layer-matched", CLEARLY, factor=2.0),
    ).set_index("factor", append=True)
    assert table.index.get_level_values("factor").tolist() == [1.0, 0.0, 0.0, 2.0, 2.0, 2.0]
    assert table.loc[("general", 0.0), "p_value"] < 0.5
    assert table.loc[("general", 2.0), "p_value"] > 0.99
    assert np.isnan(table.loc[("general", 0.0), "p_layer_matched"])
    assert table.loc[("general", 2.0), "p_layer_matched"] > 0.99
    for key in (("random", 0.0), ("random", 2.0), ("layer-matched", 2.0)):
        assert np.isnan(table.loc[key, "p_value"])


def test_a_condition_may_have_any_name_and_its_factor_is_a_column():
    """Names that look like several conditions or factors stay one each."""
    names = ["general ×2", "random", "a ×2 ×3", "", "original"]
    table = summary(
        answers_of("as it is", ORIGINAL, n_neurons=0, factor=1.0),
        *(answers_of(name, SLIGHTLY, factor=0.5) for name in names),
    )
    assert table.index.tolist() == ["as it is", *names]
    assert table["factor"].tolist() == [1.0, *[0.5] * 5]
    assert table["p_value"].isna().tolist() == [True, False, True, False, False, False]


def test_the_rank_among_random_sets_is_a_permutation_p_value():
    sets = [answers_of("random", [True] * k + [False] * (60 - k), draw=k) for k in range(30, 39)]
    for correct, as_low in ((20, 0), (34, 5), (60, 9)):
        general = answers_of("general", [True] * correct + [False] * (60 - correct))
        table = summary(general, *sets)
        assert table.loc["general", "p_sets"] == pytest.approx((1 + as_low) / (1 + len(sets)))


def test_the_interval_of_a_change_is_that_of_the_paired_differences():
    table = summary(answers_of("original", ORIGINAL, n_neurons=0), answers_of("general", CLEARLY))
    found = table.loc["general"].to_dict()
    differences = [100.0 * (a - b) for a, b in zip(CLEARLY, ORIGINAL, strict=True)]
    low, high = reference.bootstrap_interval(differences, draws=2000, seed=1)
    assert (found["change_low"], found["change_high"]) == pytest.approx((low, high), abs=1.7)
    assert found["change"] == pytest.approx(np.mean(differences))
    original = table.loc["original"].to_dict()
    assert (original["change_low"], original["change_high"]) == (0.0, 0.0)


def test_accuracy_by_culture_is_the_mean_of_its_questions(model, rows):
    frame = evaluate(model, rows, mode="options")
    found = accuracy_by(frame, "culture").set_index("culture")
    assert found.index.tolist() == ["B", "A", "C"]
    assert found["n_prompts"].tolist() == [2, 3, 1]
    assert found["n_questions"].tolist() == [2, 2, 1]
    for culture, accuracy in found["accuracy"].items():
        units = frame[frame["culture"] == culture].groupby("id")["correct"].mean()
        assert accuracy == pytest.approx(100 * units.mean())
    both = accuracy_by(frame, ["culture", "topic"])
    assert len(both) == 4
    with pytest.raises(InvalidInputError, match="no column nonsense"):
        accuracy_by(frame, "nonsense")


# ---------------------------------------------------------------- what the bootstrap promises


def test_an_interval_holds_the_true_mean_in_95_of_100_data_sets():
    """500 data sets of 200 questions each, whose true accuracy is 70 % and whose true mean
    probability is 1/3."""
    generator = np.random.default_rng(5)  # not the seed of the draws themselves
    correct = (generator.random((200, 500)) < 0.7).astype(float)
    probability = generator.beta(1, 2, size=(200, 500))
    for values, truth in ((correct, 0.7), (probability, 1 / 3)):
        low, high = interval(resampled_means(values))
        # 500 data sets know 95 % to about one percent
        assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("n_sets", [1, 10])
def test_p_values_are_uniform_where_there_is_no_difference(n_sets):
    """Two conditions with the same chance on each of 1,000 questions, easy and hard ones: a
    p-value below any level is as frequent as that level."""
    generator = np.random.default_rng(n_sets)
    n, n_trials = 1000, 500
    difficulty = generator.random((n, n_trials))  # of a question, the same for both
    answers = [(generator.random((n, n_trials)) < difficulty).astype(float) for _ in range(2)]
    for _ in range(n_sets - 1):
        answers[1] += generator.random((n, n_trials)) < difficulty
    p_values = p_values_of_drop(resampled_means(answers[0]), resampled_means(answers[1] / n_sets))
    # Kolmogorov's 1 % level for 500 values is 1.63 / sqrt(500)
    ordered = np.sort(p_values)
    expected = (np.arange(n_trials) + 0.5) / n_trials
    assert np.abs(ordered - expected).max() < 1.63 / np.sqrt(n_trials)
    # a binomial of 500 tries at 5 % has a standard deviation of one percent
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.025)


# ---------------------------------------------------------------- whole tables


@pytest.mark.filterwarnings("ignore:(Letter|Some) questions are at chance")
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


@pytest.mark.filterwarnings("ignore:(Letter|Some) questions are at chance")
def test_conditions_may_have_factors_of_their_own(model, rows):
    table = compare(
        model,
        {"tiny": rows},
        {"original": None, "off": NEURONS, "twice": NEURONS},
        factor={"twice": 2.0},
        progress=False,
    ).set_index("condition")
    assert table["factor"].tolist() == [1.0, 0.0, 2.0]
    for name, factor in (("off", 0.0), ("twice", 2.0)):
        frame = evaluate(model, rows, neurons=NEURONS, factor=factor)
        units = frame.groupby(["id", "culture"])["probability"].mean()
        assert table.loc[name, "probability"] == pytest.approx(units.mean())
    with pytest.raises(InvalidInputError, match="factor for half"):
        compare(model, {"tiny": rows}, {"original": None}, factor={"half": 0.5})
    with pytest.raises(InvalidInputError, match=r"benchmarks is \{\}; give at least one entry"):
        compare(model, {}, {"original": None})


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
