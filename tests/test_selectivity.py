# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
"""Selectivity is what literal loops say it is; its intervals and p-values keep their promises."""

import html
import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import culnig_tl as ct
from culnig_tl import figures
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import (
    answers_under,
    compare,
    general_by_topic,
    has_selectivity,
    selectivity,
    selectivity_of_sets,
    summarise,
    verdict,
)
from culnig_tl.evaluation.bootstrap import (
    cluster_totals,
    interval,
    rank_p_value,
    relative_fall,
    resampled_means,
)
from culnig_tl.evaluation.verdict import EVERYDAY, GEOGRAPHY
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import questions
from culnig_tl.report.selectivity import selectivity_section

ORIGINAL = ("original", 1.0, 0)


def answers_of(benchmark, probabilities, *, culture="Iran", topics=None, n_neurons=7, wordings=1):
    """Answers to one benchmark: ``P`` of each prompt by (condition, factor, draw)."""
    frames = []
    for (condition, factor, draw), values in probabilities.items():
        n = len(values)
        frames.append(
            pd.DataFrame(
                {
                    "benchmark": benchmark,
                    "id": [f"{benchmark}-{i // wordings:04d}" for i in range(n)],
                    "culture": culture,
                    "topic": topics if topics is not None else "",
                    "condition": condition,
                    "factor": factor,
                    "draw": draw,
                    "n_neurons": 0 if condition == "original" else n_neurons,
                    "correct": np.asarray(values) > 0.5,
                    "probability": np.asarray(values, dtype=float),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def topics_of(n_clusters, size):
    return [f"topic {i // size}" for i in range(n_clusters * size)]


@pytest.fixture
def answers() -> pd.DataFrame:
    """Two cultural and two general benchmarks; one of the latter has two prompts per question and
    three questions without a topic. Two conditions, one of them twice, and three sets."""
    rng = np.random.default_rng(3)
    keys = [
        ("a", 0.0, 0),
        ("a", 2.0, 0),
        ("b", 0.0, 0),
        *(("layer-matched", 0.0, d) for d in (0, 1, 2)),
    ]

    def draw(n):
        original = rng.uniform(0.1, 0.9, n)
        return {ORIGINAL: original} | {key: original * rng.uniform(0.2, 1.1, n) for key in keys}

    return pd.concat(
        [
            answers_of("facts", draw(20), topics=topics_of(5, 4)),
            answers_of("values", draw(6), culture="Spain", topics=topics_of(2, 3)),
            answers_of("sums", draw(9), culture="", topics=topics_of(3, 3)),
            answers_of("words", draw(14), culture="", topics=["one"] * 8 + [""] * 6, wordings=2),
        ],
        ignore_index=True,
    )


def by_name(frame, *names):
    """The rows of a frame as dicts, by some of their columns."""
    rows = frame.to_dict("records")
    return {tuple(row[name] for name in names): row for row in rows}


# ---------------------------------------------------------------- literal loops


def naive_fall(rows, key, benchmarks, weights=None):
    """1 - mean P / mean P of the original, prompt by prompt; weights by (benchmark, topic, id)."""
    sums, counts = defaultdict(float), defaultdict(float)
    for row in rows:
        if row["benchmark"] not in benchmarks:
            continue
        weight = 1.0 if weights is None else weights[row["benchmark"], row["topic"], row["id"]]
        for name in ("original", key):
            is_one = name in (row["condition"], (row["condition"], row["factor"]))
            if is_one or name == (row["condition"], row["factor"], row["draw"]):
                sums[name] += weight * row["probability"]
                counts[name] += weight
    return 1 - (sums[key] / counts[key]) / (sums["original"] / counts["original"])


def naive_draws(rows, key, benchmarks, *, by_cluster, draws=600):
    """Falls when clusters (or questions) are drawn one after the other, each with all it holds."""
    generator = random.Random(1)
    members = defaultdict(set)
    for row in rows:
        if row["benchmark"] in benchmarks:
            question = row["benchmark"], row["topic"], row["id"]
            is_whole = by_cluster and row["topic"]
            members[question[:2] if is_whole else question].add(question)
    falls = []
    for _ in range(draws):
        weights = dict.fromkeys((each for group in members.values() for each in group), 0.0)
        for group in generator.choices(list(members), k=len(members)):
            for question in members[group]:
                weights[question] += 1
        falls.append(naive_fall(rows, key, benchmarks, weights))
    return falls


def percentiles(values):
    ordered = sorted(values)
    return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered))]


def test_falls_are_ratios_of_means_over_prompts(answers):
    rows = answers.to_dict("records")
    frame = selectivity(answers)
    assert frame["benchmark"].unique().tolist() == ["facts", "values"]
    assert len(frame) == 2 * 4
    for row in frame.to_dict("records"):
        key = row["condition"], row["factor"]
        fall = naive_fall(rows, key, {row["benchmark"]})
        general = naive_fall(rows, key, {"sums", "words"})
        assert row["fall"] == pytest.approx(fall)
        assert row["general_fall"] == pytest.approx(general)
        assert row["selectivity"] == pytest.approx(fall - general)
    assert frame["n_sets"].tolist() == [1, 1, 1, 3] * 2
    first = frame.to_dict("records")[0]
    assert (first["n_questions"], first["n_clusters"]) == (20, 5)
    assert (first["n_general_questions"], first["n_general_clusters"]) == (16, 7)


@pytest.mark.parametrize(("end", "by_cluster"), [("", False), ("_cluster", True)])
def test_intervals_are_those_of_drawing_one_after_the_other(answers, end, by_cluster):
    rows = answers.to_dict("records")
    found = selectivity(answers).iloc[0]
    here, general = (
        naive_draws(rows, ("a", 0.0), benchmarks, by_cluster=by_cluster)
        for benchmarks in ({"facts"}, {"sums", "words"})
    )
    random.Random(2).shuffle(general)  # drawn independently of the cultural questions
    more = [one - other for one, other in zip(here, general, strict=True)]
    for name, draws in (("fall", here), ("general_fall", general), ("selectivity", more)):
        # 600 draws know a 2.5 % percentile to about a seventh of the standard error
        tolerance = 0.3 * np.std(draws)
        ends = found[f"{name}{end}_low"], found[f"{name}{end}_high"]
        assert ends == pytest.approx(percentiles(draws), abs=float(tolerance)), name


def test_single_sets_and_the_rank_among_them(answers):
    rows = answers.to_dict("records")
    sets = selectivity_of_sets(answers)
    assert len(sets) == 2 * 6
    for row in sets.to_dict("records"):
        key = row["condition"], row["factor"], row["draw"]
        general = naive_fall(rows, key, {"sums", "words"})
        fall = naive_fall(rows, key, {row["benchmark"]})
        assert (row["fall"], row["general_fall"]) == pytest.approx((fall, general))
        assert row["selectivity"] == pytest.approx(fall - general)
    frame = by_name(selectivity(answers), "benchmark", "condition", "factor")
    for benchmark in ("facts", "values"):
        here = sets[(sets["benchmark"] == benchmark) & (sets["condition"] == "layer-matched")]
        for condition in ("a", "b"):
            row = frame[benchmark, condition, 0.0]
            n_as_high = sum(value >= row["selectivity"] for value in here["selectivity"])
            assert row["n_matched"] == 3
            assert row["p_matched"] == (1 + n_as_high) / 4
            assert row["beats_matched"] == (n_as_high == 0)
        for none in (("a", 2.0), ("layer-matched", 0.0)):  # no sets of this factor; the sets
            row = frame[(benchmark, *none)]
            assert (row["n_matched"], row["beats_matched"]) == (0, False)
            assert np.isnan(row["p_matched"])


def test_a_set_of_another_size_is_not_layer_matched(answers):
    larger = answers["n_neurons"].where(answers["condition"] != "b", 9)
    frame = selectivity(answers.assign(n_neurons=larger))
    assert frame.loc[frame["condition"] == "b", "n_matched"].to_list() == [0, 0]
    assert frame.loc[frame["condition"] == "a", "n_matched"].to_list() == [3, 0, 3, 0]


def test_general_categories_one_by_one(answers):
    rows = answers.to_dict("records")
    frame = general_by_topic(answers)
    pairs = frame[["benchmark", "topic"]].drop_duplicates().to_numpy().tolist()
    assert len(pairs) == 5
    assert frame["n_questions"].tolist() == [3] * 12 + [4] * 4 + [3] * 4
    for row in frame.to_dict("records"):
        kept = [each for each in rows if each["topic"] == row["topic"]]
        fall = naive_fall(kept, (row["condition"], row["factor"]), {row["benchmark"]})
        assert row["fall"] == pytest.approx(fall)
        assert row["fall_low"] < row["fall"] < row["fall_high"]
    alone = answers[(answers["benchmark"] != "sums") | (answers["id"] == "sums-0000")]
    one = general_by_topic(alone, general=["sums"])
    assert one["n_questions"].tolist() == [1] * 4
    assert one[["fall_low", "fall_high"]].isna().to_numpy().all()
    assert general_by_topic(answers, general=["facts"])["topic"].nunique() == 5


def test_general_benchmarks_may_be_named(answers):
    rows = answers.to_dict("records")
    frame = selectivity(answers, general=["sums"])
    assert frame["benchmark"].unique().tolist() == ["facts", "values"]
    assert frame["general_fall"][0] == pytest.approx(naive_fall(rows, ("a", 0.0), {"sums"}))
    against = selectivity(answers, general=["values"])
    assert against["benchmark"].unique().tolist() == ["facts"]


def test_a_file_of_answers_is_as_good(answers, tmp_path):
    answers.to_csv(tmp_path / "answers.csv", index=False)
    read = pd.read_csv(tmp_path / "answers.csv")
    pd.testing.assert_frame_equal(selectivity(read), selectivity(answers))
    no_topics = selectivity(read.assign(topic=float("nan")))
    assert no_topics["n_clusters"].tolist() == no_topics["n_questions"].tolist()


def test_what_cannot_be_measured_is_refused(answers):
    for frame, options, sentence in (
        (answers.drop(columns="topic"), {}, "no column topic"),
        (answers[answers["culture"] != ""], {}, "no general benchmark among facts, values;"),
        (answers[answers["culture"] == ""], {}, r"All benchmarks are general ones \(sums, words\)"),
        (answers, {"general": ["sum"]}, "general names sum, but the benchmarks are facts, values,"),
        (answers[answers["condition"] != "original"], {}, "a, a, b, layer-matched; give one with"),
        (answers[answers["condition"] == "original"], {}, "The conditions are original; give"),
        (answers.iloc[:-1], {}, "answer different questions"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            selectivity(frame, **options)
    assert has_selectivity(answers)
    assert not has_selectivity(pd.DataFrame())
    assert not has_selectivity(answers[answers["culture"] != ""])
    assert not has_selectivity(answers[answers["condition"] != "original"])


# ---------------------------------------------------------------- what the intervals promise


def simulated(seed, *, n_clusters, n_data_sets, size=8, falls=0.5):
    """``P`` of the model as it is and under a condition: [cluster question data-set], twice.

    A cluster has its own level of P and its own fall, as a relation has; the mean fall is true.
    """
    rng = np.random.default_rng(seed)
    of_cluster, of_question = (n_clusters, 1, n_data_sets), (n_clusters, size, n_data_sets)
    original = np.exp(0.3 * rng.standard_normal(of_cluster)) * rng.gamma(2, 0.05, of_question)
    noise = rng.standard_normal(of_cluster) + 0.5 * rng.standard_normal(of_question)
    share = 1 / (1 + np.exp(-noise))  # its mean is 1/2, whatever P was
    return original, original * (1 - 2 * falls * share)


def coverage(seed, *, n_clusters, n_data_sets=2000, by_cluster=True):
    """How often the interval of selectivity holds the truth, of data sets with as many clusters of
    cultural questions as of general ones."""
    draws = []
    for stream, falls in ((0, 0.5), (1, 0.2)):
        original, condition = simulated(
            (seed, stream), n_clusters=n_clusters, n_data_sets=n_data_sets, falls=falls
        )
        values = np.concatenate([original, condition], axis=2).reshape(-1, 2 * n_data_sets)
        if by_cluster:
            clusters = np.repeat(np.arange(n_clusters), original.shape[1])
            values = cluster_totals(values, clusters)
        before, after = np.split(resampled_means(values, seed=(seed, stream)), 2, axis=1)
        draws.append(relative_fall(after, before))
    low, high = interval(draws[0] - draws[1])
    return np.mean((low <= 0.3) & (high >= 0.3))


def test_the_interval_by_clusters_holds_the_truth_in_95_of_100_data_sets():
    # 2,000 data sets know 95 % to about half a percent; percentiles miss a little more often
    assert coverage(1, n_clusters=40) == pytest.approx(0.95, abs=0.02)


def test_the_interval_by_questions_does_not():
    assert coverage(1, n_clusters=40, n_data_sets=500, by_cluster=False) < 0.7


@pytest.mark.parametrize(("n_clusters", "expected"), [(18, 0.93), (9, 0.90), (3, 0.78)])
def test_few_clusters_make_it_too_narrow_by_as_much_as_the_docstring_says(n_clusters, expected):
    assert coverage(2, n_clusters=n_clusters) == pytest.approx(expected, abs=0.02)


def planted(seed, *, cultural, general, n_sets=0):
    """Answers of 24 relations of cultural questions and 20 categories of general ones."""

    def probabilities(stream, n_clusters, fall):
        original, condition = simulated(
            (seed, stream), n_clusters=n_clusters, n_data_sets=1, falls=fall
        )
        before, after = original.ravel(), condition.ravel()
        rng = np.random.default_rng((seed, stream, 1))
        sets = {
            ("layer-matched", 0.0, draw): before * rng.uniform(0.8, 1.1) for draw in range(n_sets)
        }
        return {ORIGINAL: before, ("mine", 0.0, 0): after} | sets

    return pd.concat(
        [
            answers_of("facts", probabilities(0, 24, cultural), topics=topics_of(24, 8)),
            answers_of("other", probabilities(1, 20, general), topics=topics_of(20, 8), culture=""),
        ],
        ignore_index=True,
    )


def test_a_planted_fall_is_found_and_a_fall_of_everything_is_no_selectivity():
    row = selectivity(planted(0, cultural=0.7, general=0.1, n_sets=19)).iloc[0]
    for name, truth in (("fall", 0.7), ("general_fall", 0.1), ("selectivity", 0.6)):
        assert row[f"{name}_cluster_low"] < truth < row[f"{name}_cluster_high"]
    assert row["selectivity_cluster_low"] > 0.3
    assert (row["p_matched"], row["beats_matched"]) == (1 / 20, True)
    same = selectivity(planted(1, cultural=0.6, general=0.6)).iloc[0]
    assert same["fall_cluster_low"] > 0.4
    assert same["selectivity_cluster_low"] < 0 < same["selectivity_cluster_high"]


def test_cultural_and_general_questions_are_drawn_independently(answers):
    """The same questions on either side: drawn together, their difference would never move."""
    facts = answers[answers["benchmark"] == "facts"]
    twin = facts.assign(benchmark="twin", culture="")
    row = selectivity(pd.concat([facts, twin], ignore_index=True)).iloc[0]
    for end in ("", "_cluster"):
        widths = [
            row[f"{name}{end}_high"] - row[f"{name}{end}_low"] for name in ("fall", "selectivity")
        ]
        # independent draws of equal spread: wider by the square root of 2
        assert widths[1] == pytest.approx(2**0.5 * widths[0], rel=0.15)


def test_the_rank_is_uniform_where_the_condition_is_one_more_set():
    """100 benchmarks, on each of which 20 sets do as well as chance has it; one is "mine"."""
    rng = np.random.default_rng(0)
    keys = [("mine", 0.0, 0), *(("layer-matched", 0.0, draw) for draw in range(19))]
    tables = [
        answers_of(
            f"b{i:03d}", {ORIGINAL: [0.5, 0.4]} | {key: rng.uniform(0, 0.5, 2) for key in keys}
        )
        for i in range(100)
    ]
    flat = answers_of("general", {key: [0.5, 0.4] for key in (ORIGINAL, *keys)}, culture="")
    frame = selectivity(pd.concat([*tables, flat], ignore_index=True))
    ranks = np.rint(20 * frame.loc[frame["condition"] == "mine", "p_matched"]).astype(int)
    assert ranks.between(1, 20).all()
    # Kolmogorov's 1 % level for 100 values is 1.63 / sqrt(100)
    shares = np.array([(ranks <= rank).mean() for rank in range(1, 21)])
    assert np.abs(shares - np.arange(1, 21) / 20).max() < 1.63 / np.sqrt(100)
    assert rank_p_value(9.0, np.zeros(19)) == 1 / 20
    assert rank_p_value(9.0, np.zeros(10)) == pytest.approx(0.0909, abs=1e-4)
    assert rank_p_value(0.0, np.zeros(10)) == 1.0  # sets that do as much count against it


# ---------------------------------------------------------------- the verdict


def measured(benchmark, *, low, n_matched=19, beats=True, condition="mine", fall=0.7, factor=0.0):
    """One row of the frame of ``selectivity``, as far as ``verdict`` reads it."""
    return {
        "benchmark": benchmark,
        "condition": condition,
        "factor": factor,
        "n_sets": 1,
        "fall": fall,
        "general_fall": 0.12,
        "selectivity_cluster_low": low,
        "selectivity_cluster_high": low + 0.5,
        "n_matched": n_matched,
        "beats_matched": beats,
    }


@pytest.mark.parametrize(
    ("everyday", "geography", "beginning"),
    [
        ({"low": 0.2}, {"low": -0.1}, "This is culture: P(answer) falls by 70 % on cloze-everyday"),
        ({"low": 0.2}, {"low": 0.2}, "This is culture:"),
        ({"low": -0.1}, {"low": 0.3}, "This is country knowledge:"),
        ({"low": 0.1, "beats": False}, {"low": 0.3}, "This is country knowledge:"),
        ({"low": -0.1}, {"low": 0.0}, "This is not selective:"),
        ({"low": 0.1, "beats": False}, {"low": -0.4}, "This is not selective (random sets do as"),
        ({"low": 0.2, "n_matched": 18}, {"low": 0.3}, "There are too few sets to say (18 layer-"),
        ({"low": -0.1}, {"low": 0.3, "n_matched": 10}, "There are too few sets to say (10 layer-"),
        ({"low": -0.9}, {"low": -0.4}, "This is no selective fall:"),
        ({"low": np.nan}, {"low": -0.1}, "There are too few clusters to say:"),
    ],
)
def test_everyday_life_and_geography_are_told_apart(everyday, geography, beginning):
    n_matched = {"n_matched": min(each.get("n_matched", 19) for each in (everyday, geography))}
    rows = [
        measured(GEOGRAPHY, fall=-0.56, **geography | n_matched),
        measured(EVERYDAY, **everyday | n_matched),
        measured("atlas", low=0.9),  # another cultural benchmark decides nothing
    ]
    (sentence,) = verdict(pd.DataFrame(rows)).values()
    assert sentence.startswith(beginning)
    assert sentence.endswith(
        "P(answer) falls by 70 % on cloze-everyday, rises by 56 % on cloze-geography and falls by "
        "12 % on general questions."
    )
    alone = verdict(pd.DataFrame([measured(EVERYDAY, low=0.2)]))
    rows = [{**row, "general_fall": 0.62} for row in rows]
    also_general = "This is culture, but not that alone: P"
    (with_general,) = verdict(pd.DataFrame(rows)).values()
    assert with_general.startswith(also_general) == beginning.startswith("This is culture")
    assert ("not that alone" in with_general) == sentence.startswith(
        ("This is culture", "This is country")
    )
    assert alone["mine"].startswith(
        "This is culture: P(answer) falls by 70 % on cloze-everyday and"
    )


def test_other_benchmarks_have_a_verdict_each():
    rows = [
        measured("blend", low=0.1),
        measured("normad", low=-0.1, fall=0.004),
        measured("blend", low=-0.1, factor=2.0, n_matched=0),
        measured("blend", low=0.1, condition="layer-matched"),
        {**measured("blend", low=0.1, condition="random"), "n_sets": 10},
    ]
    assert verdict(pd.DataFrame(rows)) == {
        "mine": "Selective on blend; not selective on normad: P(answer) falls by 70 % on blend, by "
        "0 % on normad and by 12 % on general questions.",
        "mine ×2": "Not selective on blend: P(answer) falls by 70 % on blend and by 12 % on "
        "general questions.",
    }
    rows = [{**measured("blend", low=0.1), "general_fall": 0.62}, measured("normad", low=-0.1)]
    assert verdict(pd.DataFrame(rows))["mine"].startswith(
        "Selective on blend, but not that alone; not selective on normad: P(answer) falls by 70 %"
    )


# ---------------------------------------------------------------- summaries and whole tables


def test_a_summary_has_the_fall_of_each_benchmark(answers):
    rows = answers.to_dict("records")
    table = summarise(answers)
    for row in table[table["condition"] != "original"].to_dict("records"):
        fall = naive_fall(rows, (row["condition"], row["factor"]), {row["benchmark"]})
        assert row["fall"] == pytest.approx(fall)
    both = table.merge(selectivity(answers), on=["benchmark", "condition", "factor"])
    assert len(both) == 8
    for name in ("fall", "fall_low", "fall_high"):
        np.testing.assert_allclose(both[f"{name}_x"], both[f"{name}_y"])
    original = table.loc[table["condition"] == "original", ["fall", "fall_low", "fall_high"]]
    assert (original.to_numpy() == 0).all()
    without = summarise(answers[answers["condition"] != "original"])
    assert without[["fall", "fall_low", "fall_high"]].isna().to_numpy().all()


def test_p_values_of_probability_are_those_of_accuracy_where_the_two_are_the_same(answers):
    frame = answers.replace({"condition": {"b": "random"}})
    same = summarise(frame.assign(probability=100.0 * frame["correct"]))
    pairs = {
        "p_value": "p_probability",
        "p_layer_matched": "p_probability_layer_matched",
        "p_sets": "p_probability_sets",
    }
    for name, of_probability in pairs.items():
        assert same[name].notna().sum() >= 4
        np.testing.assert_array_equal(same[name], same[of_probability])
    # accuracy stays, P falls on every question: only the p-values of P see it
    n = 40
    blind = summarise(
        answers_of(
            "facts",
            {
                ORIGINAL: np.full(n, 0.9),
                ("mine", 0.0, 0): np.full(n, 0.6),
                **{("random", 0.0, draw): np.full(n, 0.9 - 0.01 * draw) for draw in range(9)},
            },
        )
    )
    mine = by_name(blind, "condition")["mine",]
    assert (mine["p_value"], mine["p_sets"]) == (1.0, 1.0)
    assert np.isnan([mine["p_layer_matched"], mine["p_probability_layer_matched"]]).all()
    assert mine["p_probability"] < 0.001
    assert mine["p_probability_sets"] == 1 / 10


@pytest.mark.filterwarnings("ignore:(Letter|Some) questions are at chance")
def test_compare_has_selectivity_where_there_is_a_general_benchmark(model, rows):
    mine = NeuronSet.of({"mlp.hook_post": [(0, k) for k in range(0, 64, 2)]})
    sets = [NeuronSet.of({"mlp.hook_post": [(1, k) for k in range(d, 64, 2)]}) for d in (0, 1)]
    conditions = {"original": None, "mine": mine, "layer-matched": sets}
    plain = questions([{**row, "culture": ""} for row in rows])
    table = compare(model, {"facts": rows, "plain": plain}, conditions, progress=False)
    prepared = {"facts": ct.prepare(model, rows), "plain": ct.prepare(model, plain)}
    listed = [ct.Condition.of(name, each) for name, each in conditions.items()]
    expected = by_name(ct.selectivity(answers_under(prepared, listed)), "condition")["mine",]
    found = by_name(table, "benchmark", "condition")
    row = found["facts", "mine"]
    assert row["selectivity"] == pytest.approx(row["fall"] - found["plain", "mine"]["fall"])
    assert row["selectivity_low"] == expected["selectivity_cluster_low"]
    assert row["selectivity_high"] == expected["selectivity_cluster_high"]
    assert row["p_selectivity"] == expected["p_matched"]
    names = ["selectivity", "selectivity_low", "selectivity_high", "p_selectivity"]
    for key in (("plain", "mine"), ("plain", "layer-matched"), ("facts", "original")):
        assert np.isnan([found[key][name] for name in names]).all()
    for fewer, some in (
        ({"facts": rows}, conditions),
        ({"facts": rows, "plain": plain}, {"mine": mine}),
    ):
        assert compare(model, fewer, some, progress=False)[names].isna().to_numpy().all()


def test_the_table_prints_percents_points_and_stars():
    frame = selectivity(planted(0, cultural=0.7, general=0.1, n_sets=19))
    row = frame.iloc[0]
    wide = ct.tables.selectivity_table(frame)
    assert list(wide) == [
        *("condition", "neurons", "P falls, facts", "P falls, general", "selectivity, facts")
    ]
    cells = [
        "{:.0f} [{:.0f}, {:.0f}]".format(
            *(100 * row[f"{name}{end}"] for end in ("", "_cluster_low", "_cluster_high"))
        )
        for name in ("fall", "general_fall", "selectivity")
    ]
    assert wide.iloc[0].tolist() == ["mine", "7", *cells[:2], f"{cells[2]}*"]
    markdown = ct.tables.to_markdown(frame).splitlines()
    assert markdown[2] == f"| mine | 7 | {cells[0]} | {cells[1]} | {cells[2]}* |"
    assert markdown[-1].endswith("*: more than each of 19 layer-matched random sets.")
    assert "too narrow" not in markdown[-1]
    latex = ct.tables.to_latex(frame)
    assert f"mine & 7 & {cells[0]} & {cells[1]} & {cells[2]}* \\" in latex
    assert r"in \% of that" in latex
    assert ct.tables.selectivity_table(frame, digits=1)["P falls, facts"][0].startswith(
        f"{100 * row['fall']:.1f} ["
    )
    with pytest.raises(InvalidInputError, match=r"no column n_sets.*; give a table of ct\.select"):
        ct.tables.selectivity_table(frame.drop(columns="n_sets"))


@pytest.mark.parametrize(
    ("n_sets", "note"),
    [
        (10, "No star without 19 layer-matched random sets: with 10 p cannot fall below 0.091."),
        (0, "No star without 19 layer-matched random sets: there is none."),
    ],
)
def test_the_table_says_when_sets_or_clusters_are_too_few(n_sets, note):
    frame = selectivity(planted(0, cultural=0.7, general=0.1, n_sets=n_sets))
    text = ct.tables.to_markdown(frame.assign(n_clusters=9))
    assert "*" not in text
    assert text.strip().endswith(f"which are too narrow for so few (facts 9). {note}")
    one = frame.assign(fall_cluster_low=float("nan"), fall=-0.001)
    assert ct.tables.selectivity_table(one)["P falls, facts"][0] == "0"


# ---------------------------------------------------------------- figure and report


def test_the_figure_holds_the_frame_the_sets_and_a_diagonal(answers):
    frame, sets = selectivity(answers), selectivity_of_sets(answers)
    figure = figures.selectivity(frame, sets=sets)
    crosses = [trace for trace in figure.data if trace.error_x.array is not None]
    drawn = frame[frame["condition"] != "layer-matched"]
    assert [cross.name for cross in crosses] == ["a", "a ×2", "b"] * 2
    for cross, row in zip(crosses, drawn.to_dict("records"), strict=True):
        for at, error, name in (
            (cross.x, cross.error_x, "general_fall"),
            (cross.y, cross.error_y, "fall"),
        ):
            ends = at[0] - error.arrayminus[0], at[0], at[0] + error.array[0]
            expected = (row[f"{name}_cluster_low"], row[name], row[f"{name}_cluster_high"])
            assert ends == pytest.approx([100 * value for value in expected])
    grey = [trace for trace in figure.data if trace.name == "layer-matched"]
    for trace, benchmark in zip(grey, ("facts", "values"), strict=True):
        here = sets[(sets["benchmark"] == benchmark) & (sets["condition"] == "layer-matched")]
        np.testing.assert_allclose(trace.y, 100 * here["fall"])
        np.testing.assert_allclose(trace.x, 100 * here["general_fall"])
    (diagonal, _) = [trace for trace in figure.data if trace.mode == "lines"]
    assert diagonal.x == diagonal.y
    assert sum(bool(trace.showlegend) for trace in figure.data) == 4
    titles = [each.text for each in figure.layout.annotations]
    assert titles == ["facts", "values"]
    assert len(list(figures.selectivity(frame).data)) == 2 * (1 + 4)
    odd = figures.selectivity(frame.replace({"benchmark": {"facts": "<b>"}}))
    assert html.unescape(odd.layout.annotations[0].text) == "<b>"
    with pytest.raises(InvalidInputError, match=r"lacks general_fall; .*ct\.selectivity"):
        figures.selectivity(frame.drop(columns="general_fall"))


@pytest.mark.filterwarnings("ignore:The control scores higher")
def test_the_report_shows_table_figure_and_categories_or_nothing(answers, tmp_path):
    rows = ct.load_benchmark("atlas", split="identify", cultures=["Iran", "Spain"], limit=32)
    run = ct.culnig(
        ct.load_model(),
        out=tmp_path,
        cultural=rows,
        control=rows,
        recognition=rows,
        benchmarks={
            "culture": ct.load_benchmark("atlas", split="test", limit=12),
            "ordering": ct.load_benchmark("atlas-ordering", split="test", limit=12),
        },
        n_random=1,
        n_layer_matched=2,
        n_cards=0,
        progress=False,
    )
    text = selectivity_section(run)
    frame = selectivity(run.answers)
    assert "<h2>Is it culture?</h2>" in text
    assert html.escape(verdict(frame)["general"]) in text
    assert "layer-matched</th>" in text
    assert "with 2 p cannot fall below 0.33" in text
    assert 'id="selectivity"' in text
    for topic in general_by_topic(run.answers)["topic"].unique():
        assert f"ordering: {topic}</th>" in text
    without = run.answers[run.answers["benchmark"] == "culture"]
    assert selectivity_section(replace(run, answers=without)) == ""
    assert selectivity_section(replace(run, answers=pd.DataFrame())) == ""
