"""Contents: overlap against all possible sets, planted sharing, and effects answered one by one."""

from itertools import chain, combinations, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reference import bootstrap_interval

import culnig_tl as ct
from culnig_tl import figures
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import prepare
from culnig_tl.validation import compare_contents, contents
from culnig_tl.validation.changes import paired_change
from culnig_tl.validation.overlap import overlap_table, shared_by_chance

SITE = "mlp.hook_post"
LAYERS, WIDTH = 2, 60
N_PLANTED, N_QUESTIONS, N_DRAWS = 12, 40, 30


def set_of(places, shape=(LAYERS, WIDTH)):
    return NeuronSet.of({SITE: places}, shapes={SITE: shape})


# --- overlap --------------------------------------------------------------------------------------


def every_set(counts, width):
    """Every set with so many neurons in each layer."""
    layers = [
        [[(layer, index) for index in chosen] for chosen in combinations(range(width), count)]
        for layer, count in enumerate(counts)
    ]
    return [set(chain.from_iterable(parts)) for parts in product(*layers)]


@pytest.mark.parametrize("counts", [((2, 1), (1, 3)), ((3, 0), (2, 2)), ((1, 1), (4, 4))])
def test_chance_is_that_of_all_sets_with_as_many_in_each_layer(counts):
    mine, theirs = (every_set(each, 4) for each in counts)
    first = mine[0]
    shared = [len(first & other) for other in theirs]
    for other in theirs:
        expected, p_value = shared_by_chance(set_of(first, (2, 4)), set_of(other, (2, 4)))
        assert expected == pytest.approx(np.mean(shared))
        assert p_value == pytest.approx(np.mean([n >= len(first & other) for n in shared]))


def planted_sets(planted, seed):
    """Sets of all questions, of resamples and of halves: the best by noisy scores of questions.

    Each question shows half of the planted neurons, among noise.
    """
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(N_QUESTIONS, LAYERS * WIDTH))
    scores[:, planted] += generator.random((N_QUESTIONS, len(planted))) < 0.5
    resamples = generator.multinomial(N_QUESTIONS, np.full(N_QUESTIONS, 1 / N_QUESTIONS), N_DRAWS)
    firsts = [generator.permutation(N_QUESTIONS) < N_QUESTIONS // 2 for _ in range(4)]
    halves = [half for first in firsts for half in (first, ~first)]
    weights = [np.ones(N_QUESTIONS), *resamples, *halves]
    return [
        set_of([divmod(int(n), WIDTH) for n in (-(each @ scores)).argsort()[: len(planted)]])
        for each in weights
    ]


def test_the_same_neurons_found_on_other_questions_share_as_halves_of_one_content_do():
    """Neither set is sure: their Jaccard index is far from 1, but so is that of their halves."""
    planted = np.arange(0, 5 * N_PLANTED, 5)
    sets = {"knowledge": planted_sets(planted, 0), "norms": planted_sets(planted, 1)}
    (row,) = overlap_table(sets, N_DRAWS).to_dict("records")
    assert row["jaccard"] < 0.8
    assert row["halves"] == pytest.approx(row["own_halves"], abs=0.08)
    assert row["halves"] > 2 * row["by_chance"]
    assert row["p_value"] < 1e-4


def test_other_neurons_share_what_chance_gives_however_sure_they_are():
    planted = np.arange(0, 5 * N_PLANTED, 5)
    sets = {"knowledge": planted_sets(planted, 0), "values": planted_sets(planted + 2, 1)}
    (row,) = overlap_table(sets, N_DRAWS).to_dict("records")
    assert row["p_value"] > 0.05
    assert row["halves"] < 0.1
    assert row["own_halves"] > 3 * row["halves"]
    assert row["jaccard_low"] <= row["jaccard"] <= row["jaccard_high"]


def test_an_overlap_is_its_definition_written_out():
    sets = {name: planted_sets(np.arange(N_PLANTED), seed) for seed, name in enumerate("ab")}
    (row,) = overlap_table(sets, N_DRAWS).to_dict("records")
    a, b = ([set(each) for each in sets[name]] for name in "ab")

    def jaccard(one, other):
        return len(one & other) / len(one | other)

    assert (row["n_first"], row["n_second"]) == (N_PLANTED, N_PLANTED)
    assert row["shared"] == len(a[0] & b[0])
    assert row["jaccard"] == pytest.approx(jaccard(a[0], b[0]))
    drawn = [jaccard(a[n], b[n]) for n in range(1, 1 + N_DRAWS)]
    assert [row["jaccard_low"], row["jaccard_high"]] == pytest.approx(
        np.percentile(drawn, [2.5, 97.5])
    )
    pairs = range(1 + N_DRAWS, 1 + N_DRAWS + 8, 2)
    crossed = [jaccard(a[n + i], b[n + 1 - i]) for n in pairs for i in (0, 1)]
    own = [jaccard(of[n], of[n + 1]) for of in (a, b) for n in pairs]
    assert row["halves"] == pytest.approx(np.mean(crossed))
    assert row["own_halves"] == pytest.approx(np.mean(own))


# --- changes --------------------------------------------------------------------------------------


def answers(generator, n_topics=6, n_each=4, **columns):
    n = n_topics * n_each
    frame = {
        "id": [f"q{i}" for i in range(n)],
        "culture": "Iran",
        "topic": [f"topic {i // n_each}" for i in range(n)],
        "probability": generator.random(n),
        "correct": generator.random(n) < 0.5,
    }
    return pd.DataFrame(frame | columns)


def test_a_change_is_that_of_means_and_topics_are_drawn_whole():
    generator = np.random.default_rng(0)
    before = answers(generator)
    topic = before["topic"].str[-1].astype(int)
    after = before.assign(probability=before["probability"] * (1 + topic / 10), correct=topic < 3)
    change = paired_change(before, after)
    assert change.n_units == 6
    assert change.gain == pytest.approx(
        after["probability"].sum() / before["probability"].sum() - 1
    )
    difference = after["correct"].astype(float) - before["correct"]
    assert change.change == pytest.approx(100 * difference.mean())
    low, high = bootstrap_interval(
        (100 * difference.groupby(topic).mean()).tolist(), draws=2000, seed=0
    )
    columns = change.columns()
    assert columns["change_low"] == pytest.approx(low, abs=5)  # one prompt is 4.2 points
    assert columns["change_high"] == pytest.approx(high, abs=5)
    assert columns["accuracy"] - columns["accuracy_before"] == pytest.approx(change.change)


def test_without_several_topics_questions_are_drawn_with_their_prompts():
    before = answers(np.random.default_rng(0), topic="", id=[f"q{i // 2}" for i in range(24)])
    assert paired_change(before, before).n_units == 12
    assert paired_change(before, before).columns()["gain_high"] == 0
    alone = before.assign(id="one")
    assert np.isnan(paired_change(alone, alone).columns()["gain_low"])


def test_intervals_of_a_gain_hold_it_as_often_as_they_say():
    """200 data sets of 25 topics, whose gains are drawn around 20 %: 95 % up to 3 standard errors
    of the count, and up to what percentiles of 25 units are too narrow."""
    generator, held = np.random.default_rng(5), 0
    for _ in range(200):
        before = answers(generator, 25, 2, probability=0.2 + 0.1 * generator.random(50))
        gains = np.repeat(generator.normal(0.2, 0.3, 25), 2)
        change = paired_change(
            before, before.assign(probability=before["probability"] * (1 + gains))
        )
        columns = change.columns()
        held += columns["gain_low"] <= 0.2 <= columns["gain_high"]
    assert 0.88 <= held / 200 <= 0.99


# --- the whole ------------------------------------------------------------------------------------

NAMES = ("ordering", "commonsense")
OPTIONS: dict[str, Any] = {"draws": 4, "n_random": 2, "progress": False}


@pytest.fixture(scope="module")
def atlas():
    return ct.load_model()


def drawn(split, limit):
    return {name: ct.load_benchmark(f"atlas-{name}", split=split, limit=limit) for name in NAMES}


@pytest.fixture(scope="module")
def data():
    found = drawn("identify", 24)
    general = ct.load_benchmark("atlas-entailment", split="identify", limit=12)
    return {name: {"cultural": rows, "general": general} for name, rows in found.items()}


@pytest.fixture(scope="module")
def tests():
    return drawn("test", 12) | {"culture": ct.load_benchmark("atlas", split="test", limit=12)}


def select(cultural, general):
    return ct.culture_general(cultural, general=general, recipe="selective", attention_top=0.0)


@pytest.fixture(scope="module")
def compared(atlas, data, tests):
    return compare_contents(atlas, data, tests, select=select, **OPTIONS)


def score(model, rows, **options):
    return ct.attribute(model, rows, sites=[SITE], progress=False, **options)


def test_a_content_finds_what_its_scores_select(atlas, data, compared):
    for name, roles in data.items():
        general = score(atlas, roles["general"], clamp=True)
        assert set(compared.sets[name]) == set(select(score(atlas, roles["cultural"]), general))
    row = compared.overlap.iloc[0]
    assert (row["first"], row["second"]) == NAMES
    assert row["jaccard"] == compared.sets["ordering"].jaccard(compared.sets["commonsense"])


def test_halves_select_from_their_own_questions(atlas, data):
    """Topics stay together, and what two contents share goes the same way in both."""
    found = {
        name: {role: prepare(atlas, rows) for role, rows in roles.items()}
        for name, roles in data.items()
    }
    weights = contents._weights(found, 4, 0)
    options = {"sites": (SITE,), "method": "gradient_x_activation", "pool": "max"}
    sets = contents._selected(found, select, 4, 0, False, options)
    assert torch.equal(weights["ordering", "general"], weights["commonsense", "general"])
    for name, roles in data.items():
        first, second = weights[name, "cultural"][5:7].bool()
        assert torch.equal(first, ~second)
        halves = []
        for half, of_general in ((first, 5), (second, 6)):
            rows, general = (
                of_role.select(torch.nonzero(kept).flatten().tolist())
                for of_role, kept in (
                    (roles["cultural"], half),
                    (roles["general"], weights[name, "general"][of_general].bool()),
                )
            )
            halves.append(set(rows["topic"]))
            expected = select(score(atlas, rows), score(atlas, general, clamp=True))
            assert set(sets[name][of_general]) == set(expected)
        assert len(halves[0] & halves[1]) == 0


def test_effects_are_answers_with_a_set_switched_off(atlas, tests, compared):
    effects = compared.effects.set_index(["masked", "tested"])
    assert list(effects.index) == list(product(NAMES, tests))

    def probability(name, neurons=None):
        return ct.evaluate(atlas, tests[name], neurons=neurons)

    for masked, tested in effects.index:
        row = effects.loc[(masked, tested)]
        before, after = probability(tested), probability(tested, compared.sets[masked])
        change = after["probability"].mean() - before["probability"].mean()
        assert row["probability_change"] == pytest.approx(change)
        assert row["fall"] == pytest.approx(-change / before["probability"].mean())
        assert row["change"] == pytest.approx(
            100 * (after["correct"].mean() - before["correct"].mean())
        )
        has_other_set = tested in NAMES and masked != tested
        assert np.isnan(row["less_than_own"]) != has_other_set
        if has_other_set:
            own = effects.loc[(tested, tested), "fall"]
            assert row["less_than_own"] == pytest.approx(own - row["fall"])
    assert set(effects["p_value"]) <= {1 / 3, 2 / 3, 1.0}


def test_shared_data_are_scored_once(atlas, data, monkeypatch):
    scored = []
    scores_by_draw = contents.scores_by_draw

    def counted(prepared, weights, **options):
        scored.append((prepared.fingerprint, options["clamp"]))
        return scores_by_draw(prepared, weights, **options)

    monkeypatch.setattr(contents, "scores_by_draw", counted)
    few = {"test": ct.load_benchmark("atlas-ordering", split="test", limit=2)}
    compare_contents(atlas, data, few, select=select, **{**OPTIONS, "draws": 1, "n_random": 1})
    assert len(scored) == len(set(scored)) == 3


def test_figures_take_sets_and_effects(compared):
    overlap: Any = figures.overlap_matrix(compared.sets)
    assert overlap.data[0].z.shape == (2, 2)
    matrix: Any = figures.culture_matrix(compared.effects, value="probability_change", kin=())
    assert matrix.data[0].z.shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"draws": 0}, InvalidInputError, "draws is 0"),
        ({"n_random": 0}, InvalidInputError, "n_random is 0"),
        ({"seed": -1}, InvalidInputError, "seed is -1"),
        ({"mode": "best"}, InvalidInputError, "mode is 'best'"),
        ({"factor": float("nan")}, InvalidInputError, "factor is nan"),
        ({"pool": "most"}, InvalidInputError, "pool is 'most'"),
        ({"method": "mine"}, InvalidInputError, "method is 'mine'"),
        ({"sites": ["mlp.nothing"]}, UnknownNameError, "mlp.nothing"),
        ({"tests": {}}, InvalidInputError, "tests is {}"),
    ],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_what_cannot_be_compared_is_refused(atlas, data, tests, changes, error, sentence):
    given = {"tests": tests, **OPTIONS, **changes}
    with pytest.raises(error, match=sentence):
        compare_contents(atlas, data, **given)


@pytest.mark.usefixtures("as_for_a_user")
def test_one_content_and_a_role_that_there_is_not_are_refused(atlas, data, tests):
    first = data["ordering"]
    with pytest.raises(InvalidInputError, match="with 1 content; give the questions of at least"):
        compare_contents(atlas, {"one": first}, tests, **OPTIONS)
    with pytest.raises(InvalidInputError, match="role is 'other'"):
        compare_contents(atlas, {"a": first, "b": {"other": first["cultural"]}}, tests, **OPTIONS)

    def nothing(**_):
        return NeuronSet.of({})

    with pytest.raises(InvalidInputError, match="Nothing is selected on ordering, commonsense"):
        compare_contents(atlas, data, tests, select=nothing, **{**OPTIONS, "draws": 1})
