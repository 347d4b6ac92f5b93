"""Random sets that share the questions: what intervals and p-values promise in that design."""

import numpy as np
import pandas as pd
import pytest

from culnig_tl.evaluation import selectivity, selectivity_of_sets, summarise
from culnig_tl.evaluation.bootstrap import interval, p_values_of_drop, resampled_means

N_SETS = 10
N_QUESTIONS = 300
N_DATA_SETS = 500
SHARE = np.arange(N_QUESTIONS) % N_SETS
"""Which set answers a question."""


def drawn(generator, effects, difficulty):
    """Answers of each data set: a question's chance is its own and the effect of its set."""
    chance = np.clip(difficulty + effects, 0, 1)
    return (generator.random(chance.shape) < chance).astype(float)


def test_an_interval_holds_the_mean_over_the_sets_in_95_of_100_data_sets():
    """The truth is the mean accuracy of all questions of the world under these ten sets, which
    differ by some points; accuracy and its change against the model as it is."""
    generator = np.random.default_rng(11)
    effects = generator.normal(-0.05, 0.04, size=N_SETS)
    difficulty = generator.uniform(0.3, 0.8, size=(N_QUESTIONS, N_DATA_SETS))
    as_it_is = drawn(generator, 0.0, difficulty)
    shared = drawn(generator, effects[SHARE][:, None], difficulty)
    for values, truth in ((shared, 0.55 + effects.mean()), (shared - as_it_is, effects.mean())):
        low, high = interval(resampled_means(values))
        assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.02)


def test_p_values_are_uniform_where_the_sets_do_as_much():
    generator = np.random.default_rng(12)
    difficulty = generator.uniform(0.1, 0.9, size=(N_QUESTIONS, N_DATA_SETS))
    found, shared = (drawn(generator, 0.0, difficulty) for _ in range(2))
    p_values = np.sort(p_values_of_drop(resampled_means(found), resampled_means(shared)))
    expected = (np.arange(N_DATA_SETS) + 0.5) / N_DATA_SETS
    assert np.abs(p_values - expected).max() < 1.63 / np.sqrt(N_DATA_SETS)


def frame(benchmark, condition, correct, *, draw=0, rows=None, culture="Iran"):
    """Answers as ``answers_under`` gives them."""
    rows = np.arange(len(correct)) if rows is None else rows
    return pd.DataFrame(
        {
            "benchmark": benchmark,
            "id": [f"q{row:03}" for row in rows],
            "culture": culture,
            "topic": [f"t{row % 7}" for row in rows],
            "condition": condition,
            "factor": 1.0 if condition == "original" else 0.0,
            "draw": draw,
            "n_neurons": 0 if condition == "original" else 5,
            "random": {"random": "random", "layer-matched": "layer-matched"}.get(condition, ""),
            "correct": correct.astype(bool),
            "probability": 0.1 + 0.8 * correct,
            "measure": "accuracy",
        }
    )


def answered(benchmark, original, general, by_set, *, shared, kind="random", culture="Iran"):
    """All conditions on one benchmark; each set answers all questions, or its share."""
    sets = [
        frame(
            benchmark,
            kind,
            values[draw == SHARE] if shared else values,
            draw=draw,
            rows=np.flatnonzero(draw == SHARE) if shared else None,
            culture=culture,
        )
        for draw, values in enumerate(by_set)
    ]
    plain = {"original": original, "general": general}
    return pd.concat(
        [*(frame(benchmark, name, v, culture=culture) for name, v in plain.items()), *sets],
        ignore_index=True,
    )


def test_sets_that_answer_alike_give_the_table_of_the_full_design():
    generator = np.random.default_rng(13)
    original, general, random = (
        drawn(generator, e, np.full(N_QUESTIONS, 0.8)) for e in (0, -0.4, 0)
    )
    full, split = (
        summarise(answered("a", original, general, [random] * N_SETS, shared=shared))
        for shared in (False, True)
    )
    is_random = split["condition"] == "random"
    assert split.loc[is_random, "accuracy_sd_of_draws"].isna().all()
    apart = ["accuracy_sd_of_draws", "p_sets", "p_probability_sets"]
    pd.testing.assert_frame_equal(full.drop(columns=apart), split.drop(columns=apart))
    assert split["p_sets"].tolist()[1] == pytest.approx(1 / 11)
    assert split["p_probability_sets"].tolist()[1] == pytest.approx(1 / 11)


def test_selectivity_of_shared_questions_is_that_of_each_sets_own():
    generator = np.random.default_rng(14)
    data = []
    for benchmark, culture in (("facts", "Iran"), ("other", "")):
        original, general, *by_set = (
            drawn(generator, 0.0, np.full(N_QUESTIONS, chance))
            for chance in (0.9, 0.5, *[0.85] * N_SETS)
        )
        data.append(
            answered(
                benchmark,
                original,
                general,
                by_set,
                shared=True,
                kind="layer-matched",
                culture=culture,
            )
        )
    answers = pd.concat(data, ignore_index=True)
    of_sets = selectivity_of_sets(answers).set_index(["condition", "draw"])
    for draw in range(N_SETS):
        fall = {}
        for benchmark in ("facts", "other"):
            here = answers[answers["benchmark"] == benchmark]
            own = here[(here["condition"] == "layer-matched") & (here["draw"] == draw)]
            before = here[(here["condition"] == "original") & here["id"].isin(own["id"])]
            fall[benchmark] = 1 - own["probability"].sum() / before["probability"].sum()
        found = of_sets.loc[("layer-matched", draw)]
        assert found["fall"] == pytest.approx(fall["facts"])
        assert found["selectivity"] == pytest.approx(fall["facts"] - fall["other"])
    table = selectivity(answers).set_index("condition")
    assert table.loc["general", "n_matched"] == N_SETS
    own = table.loc["general", "selectivity"]
    at_least = (of_sets.loc["layer-matched", "selectivity"] >= own).sum()
    assert table.loc["general", "p_matched"] == pytest.approx((1 + at_least) / 11)
    missing = answers.drop(index=answers.index[-1])  # a question that no set answers
    with pytest.raises(ValueError, match="The conditions answer different questions"):
        selectivity(missing)


def test_the_rank_among_shared_sets_errs_on_the_safe_side():
    """A condition that is one more random set: small p-values are no more frequent than they say.
    Sets differ by four points, questions by much more."""
    generator = np.random.default_rng(15)
    p_values = []
    for _ in range(80):
        difficulty = generator.uniform(0.3, 0.8, size=N_QUESTIONS)
        effects = generator.normal(-0.05, 0.04, size=N_SETS + 1)
        original, general, *by_set = (drawn(generator, e, difficulty) for e in (0, *effects))
        table = summarise(answered("a", original, general, by_set, shared=True))
        p_values.append(table.set_index("condition").loc["general", "p_sets"])
    # a binomial of 80 tries at 1/11 has a standard deviation of .032
    assert np.mean(np.array(p_values) <= 1 / 11 + 1e-9) <= 1 / 11 + 2 * 0.032
