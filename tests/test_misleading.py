"""What makes numbers misleading is said: once as a warning, and in a run's table and report."""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import culnig_tl as ct
from culnig_tl.benchmarks.sample import drawn
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import control_exceeds, few_questions, no_general, one_culture, summarise
from culnig_tl.evaluation.trust import rows_in_common, same_rows
from culnig_tl.html import paragraph

SHARED_ROWS = "Rows that test are among the rows that found the neurons"
SAME_ROWS = "The neurons were found on"
CHANCE = "questions are at chance"
CONTROL = "The control scores higher than the cultural questions"
FEW = "Fewer than 50 questions show little"
NO_GENERAL = "No general benchmark is measured"
ONE_CULTURE = "The cultural questions are of one culture"


def warned(call, *arguments, **options) -> tuple[Any, list[str]]:
    """What a call returns, and the sentences that it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*arguments, **options)
    return result, [str(each.message) for each in caught if each.category is UserWarning]


def scores_of(values: torch.Tensor, cultures=("A", "B")) -> ct.NeuronScores:
    return ct.NeuronScores({"mlp.hook_post": values}, tuple(cultures), 1, (1,) * len(cultures), {})


@pytest.fixture(scope="module")
def atlas():
    return ct.load_model()


@pytest.fixture(scope="module")
def identify():
    return ct.load_benchmark("atlas", split="identify", per_culture=2)


@pytest.fixture(scope="module")
def control():
    return ct.load_benchmark("atlas-control", split="identify", per_culture=2)


@pytest.fixture(scope="module")
def start(atlas, identify, control, tmp_path_factory):
    """``start(**changes)``: a run of few questions in a folder of its own, and what it warns of."""

    def run(**changes) -> tuple[ct.Run, list[str]]:
        options = {
            "cultural": identify,
            "control": control,
            "recognition": ct.load_benchmark("atlas-countries", split="identify", per_culture=1),
            "benchmarks": {
                "culture": ct.load_benchmark("atlas", split="test", per_culture=4),
                "common sense": ct.load_benchmark("atlas-commonsense", split="test", limit=60),
            },
            "n_random": 0,
            "n_cards": 0,
            "progress": False,
            **changes,
        }
        return warned(ct.culnig, atlas, out=tmp_path_factory.mktemp("run"), **options)

    return run


# ---------------------------------------------------------------- a run


def test_a_run_of_halves_and_of_enough_questions_warns_of_nothing(start):
    run, sentences = start()
    assert sentences == []
    assert run.warnings == ()
    assert "\n" not in repr(run)
    assert "Warning" not in run._repr_html_()


def test_a_run_that_tests_what_found_says_so_once_and_in_table_and_report(start, identify):
    other = ct.load_benchmark("atlas", split="test", per_culture=4)
    mixed = ct.questions([*identify.to_list()[:3], *other.to_list()])
    run, sentences = start(benchmarks={"culture": identify, "mixed": mixed, "other": other})
    (shared,) = [each for each in run.warnings if each.startswith(SHARED_ROWS)]
    assert sentences == [shared]
    assert f"(culture: 32 of 32; mixed: 3 of {len(mixed)}; the same prompt" in shared
    small = next(each for each in run.warnings if each.startswith(FEW))
    assert "culture has 32; intervals" in small
    assert any(each.startswith(NO_GENERAL) for each in run.warnings)
    page = run.report().read_text(encoding="utf-8")
    first_screen = page[: page.index("<h2>")]
    for each in run.warnings:
        assert f"Warning: {each}" in repr(run)
        assert paragraph(f"Warning: {each}") in run._repr_html_()
        assert paragraph(f"Warning: {each}") in first_screen


def test_the_same_question_in_another_wording_is_one_that_found(atlas, identify):
    reworded = ct.questions(
        [{**row, "prompt": f"Quiz. {row['prompt']}"} for row in identify.to_list()[:2]]
    )
    cultural = ct.prepare(atlas, identify)
    assert "quiz: 2 of 2" in rows_in_common(cultural, {"quiz": ct.prepare(atlas, reworded)})


def test_the_embedded_halves_share_no_row(atlas):
    for name in ("atlas", "cloze-everyday"):
        found, tests = (
            ct.load_benchmark(name, split=split, limit=300) for split in ("identify", "test")
        )
        prepared = [ct.prepare(atlas, rows, shared_tokens="keep") for rows in (found, tests)]
        assert rows_in_common(prepared[0], {name: prepared[1]}) == ""


def test_a_culture_test_of_its_own_and_a_control_that_asks_are_looked_at_too(start, identify):
    run, sentences = start(culture_test=identify, control=identify)
    shared, control = sentences
    assert "(culture x culture: 32 of 32; the same" in shared
    assert control.startswith(CONTROL)
    assert run.warnings == (shared, control)


def test_a_run_of_one_culture_has_no_specific_neurons_and_says_why(start, identify, control):
    iran = [rows.filter(lambda row: row["culture"] == "Iran") for rows in (identify, control)]
    run, _ = start(cultural=iran[0], control=iran[1])
    assert run.specific == {}
    assert run.effects.empty
    assert [each for each in run.warnings if ONE_CULTURE in each] == [one_culture(["Iran"])]
    assert "of one culture (Iran), so there are no" in one_culture(["Iran"])
    assert "Culture-specific neurons" not in run.report().read_text(encoding="utf-8")


def test_a_run_of_a_model_that_guesses_says_so_once(model, rows, tmp_path):
    run, sentences = warned(
        ct.culnig,
        model,
        out=tmp_path,
        cultural=rows,
        control=rows.map(lambda row: {**row, "prompt": "Answer:"}),
        recognition=rows,
        benchmarks={"b": rows.map(lambda row: {**row, "id": "t", "prompt": "tea soup rice"})},
        n_random=1,
        n_cards=0,
        progress=False,
    )
    assert [CHANCE in each for each in sentences].count(True) == 1
    assert [CHANCE in each for each in run.warnings].count(True) == 1


# ---------------------------------------------------------------- calls by hand


@pytest.fixture(scope="module")
def found(atlas, identify, control):
    scores = [
        ct.attribute(atlas, rows, clamp=clamp, progress=False)
        for rows, clamp in ((identify, False), (control, True))
    ]
    return ct.culture_general(*scores)


def test_neurons_are_not_tested_by_the_rows_that_found_them(atlas, found, identify):
    _, sentences = warned(ct.evaluate, atlas, identify, neurons=found)
    assert len(sentences) == 1
    assert sentences[0].startswith(f"{SAME_ROWS} these rows, so what they do")
    conditions = {"original": None, "found": found, "random": ct.random_neurons(atlas, like=found)}
    others = ct.load_benchmark("atlas", split="test", per_culture=2)
    tests = {"mine": identify, "other": others, "again": identify}
    _, sentences = warned(ct.compare, atlas, tests, conditions, progress=False)
    assert len(sentences) == 1
    assert sentences[0].startswith(f"{SAME_ROWS} mine and again, so")


def test_neurons_of_other_rows_and_random_ones_are_tested_without_a_word(atlas, found, identify):
    others = ct.load_benchmark("atlas", split="test", per_culture=2)
    alike = ct.random_neurons(atlas, like=found)
    for rows, neurons in ((others, found), (identify, alike), (identify, None)):
        assert warned(ct.evaluate, atlas, rows, neurons=neurons)[1] == []


def test_compare_says_once_that_the_model_guesses(model, rows):
    conditions = {"original": None, "mine": ct.NeuronSet.of("L1.mlp.hook_post.5")}
    tests = {"one": rows, "two": rows}
    _, sentences = warned(ct.compare, model, tests, conditions, progress=False)
    assert len(sentences) == 1
    assert "Letter questions are at chance" in sentences[0]
    assert "one: " in sentences[0]
    assert "two: " in sentences[0]
    without = {"mine": conditions["mine"]}
    assert warned(ct.compare, model, tests, without, progress=False)[1] == []


# ---------------------------------------------------------------- sentence by sentence


def test_a_control_exceeds_by_the_sum_over_all_neurons():
    low, high = torch.full((2, 3, 4), 0.5), torch.full((2, 3, 4), 0.5)
    high[:, 0] = 1.0
    sentence = control_exceeds(scores_of(low), scores_of(high))
    assert "(sums over all neurons 16 and 12; in 1 of 3 layers of the sites)" in sentence
    assert control_exceeds(scores_of(high), scores_of(low)) == ""
    assert control_exceeds(scores_of(low), scores_of(low)) == ""
    assert control_exceeds(scores_of(low), None) == ""
    with pytest.warns(UserWarning, match=CONTROL):
        ct.culture_general(scores_of(low), scores_of(high))


@pytest.mark.parametrize(("n", "is_few"), [(49, True), (50, False)])
def test_fewer_than_fifty_questions_are_few_and_wordings_do_not_count(atlas, n, is_few):
    rows = ct.load_benchmark("atlas-ordering", split="test")  # in two wordings
    ids = list(dict.fromkeys(rows["id"]))[:n]
    prepared = ct.prepare(atlas, rows.filter(lambda row: row["id"] in ids))
    assert len(prepared) > n
    assert few_questions({"order": prepared}) == (
        ""
        if not is_few
        else f"{FEW}: order has 49; intervals are wide there, and a drop that is not clear is no "
        "sign that there is none."
    )


def test_a_benchmark_without_a_culture_is_general(atlas):
    culture, general = (
        ct.prepare(atlas, ct.load_benchmark(name, split="test", limit=4))
        for name in ("atlas", "atlas-ordering")
    )
    assert no_general({"a": culture, "b": general}) == ""
    assert no_general({"a": culture}).startswith(NO_GENERAL)


def test_a_set_by_hand_was_found_nowhere(atlas, identify):
    prepared = ct.prepare(atlas, identify)
    assert same_rows([ct.answer_key("general")], {"a": prepared}) == ""
    assert same_rows([], {"a": prepared}) == ""


@pytest.mark.parametrize("cultures", [("Iran",), ("",)])
def test_one_culture_cannot_be_told_from_others(cultures):
    scores = scores_of(torch.rand(1, 3, 4), cultures)
    with pytest.raises(
        InvalidInputError, match=r"one culture alone .* a z-score compares at least"
    ):
        ct.culture_specific(scores, culture=cultures[0])


# ---------------------------------------------------------------- cultures in turn


CULTURES = st.lists(st.sampled_from(["", "A", "B", "C", "D"]), min_size=1, max_size=40)


def rows_of(cultures):
    return ct.questions(
        [
            {"id": f"q{n}", "prompt": "?", "options": [" A"], "answer": " A", "culture": culture}
            for n, culture in enumerate(cultures)
        ]
    )


@given(CULTURES, st.integers(1, 45), st.integers(0, 5))
def test_a_limit_takes_cultures_in_turn(cultures, limit, seed):
    rows = rows_of(cultures)
    some = drawn(rows, limit, seed)
    assert len(some) == min(limit, len(rows))
    numbers = [int(name[1:]) for name in some["id"]]
    assert numbers == sorted(set(numbers))
    there, taken = Counter(cultures), Counter(some["culture"])
    most = max(taken.values())
    assert all(taken[culture] >= min(there[culture], most - 1) for culture in there)
    assert drawn(rows, limit, seed)["id"][:] == some["id"][:]


@given(CULTURES, st.integers(1, 45), st.integers(0, 5))
def test_a_draw_that_was_balanced_by_chance_is_still_drawn(cultures, limit, seed):
    """Rows of one culture, or of none, are drawn as they were before cultures took turns."""
    rows = rows_of(cultures)
    places = np.random.default_rng(seed).permutation(len(rows))[:limit].tolist()
    plain = rows.select(sorted(places)) if limit < len(rows) else rows
    taken = Counter(plain["culture"])
    there = Counter(cultures)
    if all(taken[each] >= min(there[each], max(taken.values()) - 1) for each in there):
        assert drawn(rows, limit, seed)["id"][:] == plain["id"][:]


def test_twelve_rows_of_three_cultures_are_four_of_each():
    for seed in range(5):
        some = ct.load_benchmark(
            "atlas", split="test", cultures=["Iran", "Spain", "UK"], limit=12, seed=seed
        )
        assert set(Counter(some["culture"]).values()) == {4}
    each = ct.load_benchmark("atlas", split="test", cultures=["Iran", "UK"], per_culture=4, limit=6)
    assert set(Counter(each["culture"]).values()) == {3}


# ---------------------------------------------------------------- p-values by what sets are


def answers_of(condition, n_right, *, draw=0, n_neurons=5, factor=0.0, random=None):
    frame = pd.DataFrame(
        {
            "id": [f"q{n:02d}" for n in range(40)],
            "culture": "A",
            "benchmark": "b",
            "condition": condition,
            "draw": draw,
            "n_neurons": n_neurons,
            "factor": factor,
            "correct": np.arange(40) < n_right,
            "probability": np.where(np.arange(40) < n_right, 0.9, 0.1),
        }
    )
    return frame if random is None else frame.assign(random=random)


def p_values(*frames, **options) -> dict[tuple[str, float], dict[str, float]]:
    """The p-values by condition and factor."""
    table = summarise(pd.concat(frames, ignore_index=True), **options)
    return {
        (row["condition"], row["factor"]): {
            str(name): value for name, value in row.items() if str(name).startswith("p_")
        }
        for row in table.to_dict("records")
    }


def test_random_sets_say_what_they_are_whatever_their_condition_is_called():
    frames = [
        answers_of("original", 36, n_neurons=0, factor=1.0, random=""),
        answers_of("mine", 12, random=""),
        *(answers_of("chance sets", 30 + n, draw=n, random="random") for n in range(3)),
        answers_of("by layer", 31, random="layer-matched"),
    ]
    names = {"chance sets": "random", "by layer": "layer-matched"}
    table = p_values(*frames)
    named = p_values(
        *(frame.drop(columns="random").replace({"condition": names}) for frame in frames)
    )
    assert table["mine", 0.0]["p_value"] < 0.01
    assert table["mine", 0.0]["p_sets"] == 1 / 4
    assert not any(map(np.isnan, table["mine", 0.0].values()))
    assert table["mine", 0.0] == named["mine", 0.0]
    for key in (("chance sets", 0.0), ("by layer", 0.0), ("original", 1.0)):
        assert all(map(np.isnan, table[key].values()))


def test_several_random_conditions_go_with_theirs_by_factor_and_number():
    table = p_values(
        answers_of("original", 36, n_neurons=0, factor=1.0, random=""),
        *(
            frame
            for factor, worse in ((0.0, 12), (2.0, 34))
            for frame in (
                answers_of("large", 12, n_neurons=50, factor=factor, random=""),
                answers_of("small", 12, n_neurons=5, factor=factor, random=""),
                answers_of("of large", worse, n_neurons=50, factor=factor, random="random"),
                answers_of("of small", 30, n_neurons=5, factor=factor, random="random"),
            )
        ),
    )
    assert table["large", 0.0]["p_value"] > 0.99  # its own random sets do as much
    for key in (("large", 2.0), ("small", 0.0), ("small", 2.0)):
        assert table[key]["p_value"] < 0.01
    for key in (("of large", 0.0), ("of small", 2.0)):
        assert np.isnan(table[key]["p_value"])


def test_a_reference_by_name_takes_the_place_of_random_sets():
    frames = [
        answers_of("original", 36, n_neurons=0, factor=1.0),
        answers_of("mine", 20),
        answers_of("theirs", 20),
        answers_of("random", 34),
    ]
    assert p_values(*frames)["mine", 0.0]["p_value"] < 0.01
    table = p_values(*frames, reference="theirs")
    assert table["mine", 0.0]["p_value"] > 0.99
    assert table["random", 0.0]["p_value"] > 0.99
    assert np.isnan(table["theirs", 0.0]["p_value"])
    with pytest.raises(InvalidInputError, match="reference is 'nobody'; choose one of 'original'"):
        p_values(*frames, reference="nobody")


@pytest.mark.filterwarnings("ignore:Letter questions are at chance")
def test_compare_knows_random_neurons_by_their_source(model, rows):
    mine = ct.NeuronSet.of({"mlp.hook_post": [(0, n) for n in range(20)]})
    plain, matched = (
        [ct.random_neurons(model, like=mine, seed=n, layer_matched=layered) for n in range(2)]
        for layered in (False, True)
    )
    tables = [
        ct.compare(
            model,
            {"b": rows},
            {"original": None, "mine": mine, names[0]: plain, names[1]: matched},
            progress=False,
        )
        for names in (("any", "like it"), ("random", "layer-matched"))
    ]
    names = ["p_value", "p_layer_matched", "p_sets", "p_probability"]
    for table in tables:
        is_mine = table["condition"] == "mine"
        assert table.loc[is_mine, names].notna().to_numpy().all()
        assert table.loc[~is_mine, names].isna().to_numpy().all()
        assert table.loc[is_mine, names].equals(tables[0].loc[is_mine, names])


def test_layer_matched_sets_of_any_name_rank_selectivity():
    def frame(condition, values, **options):
        return [
            answers_of(condition, n_right, **options).assign(
                benchmark=benchmark, culture=culture, topic=""
            )
            for benchmark, culture, n_right in zip("ab", ("A", ""), values, strict=True)
        ]

    answers = pd.concat(
        [
            *frame("original", (36, 36), n_neurons=0, factor=1.0, random=""),
            *frame("mine", (10, 34), random=""),
            *frame("sets", (30, 32), draw=0, random="layer-matched"),
            *frame("sets", (20, 34), draw=1, random="layer-matched"),
        ],
        ignore_index=True,
    )
    mine, sets = ct.selectivity(answers).to_dict("records")
    assert (mine["condition"], mine["random"]) == ("mine", "")
    assert (mine["n_matched"], mine["p_matched"]) == (2, 1 / 3)
    assert (sets["condition"], sets["random"]) == ("sets", "layer-matched")
    assert np.isnan(sets["p_matched"])
