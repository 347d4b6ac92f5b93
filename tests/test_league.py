"""The league: its judges on data with a known answer, and its rows against the calls they name."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

import culnig_tl as ct
from culnig_tl.errors import CulnigError
from culnig_tl.evaluation import Condition, answers_under
from culnig_tl.validation import Scorer, compare_halves, grade_ranking
from culnig_tl.validation.contest import SCORERS, selected
from culnig_tl.validation.contest.agreement import agreement, sampled

GENERAL = ("atlas-commonsense", "atlas-ordering")
ENTRANTS = (
    Scorer(),
    Scorer("relp", pool="sum", weight="none"),
    Scorer("gradient", weight="none"),
    Scorer("lape"),
    Scorer("standardised_difference"),
)
OPTIONS: dict[str, Any] = {
    "sizes": (0.005, 0.02),
    "n_middle": 10,
    "n_random": 10,
    "n_matched": 2,
    "ablation_prompts": 8,
    "progress": False,
}


@pytest.fixture(scope="module")
def model():
    return ct.load_model()


@pytest.fixture(scope="module")
def data():
    general = [
        row
        for name in GENERAL
        for row in ct.load_benchmark(name, split="identify", limit=12).to_list()
    ]
    return {
        "cultural": ct.load_benchmark("atlas", split="identify", limit=48),
        "control": ct.load_benchmark("atlas-control", split="identify", limit=48),
        "recognition": ct.load_benchmark("atlas-countries", split="identify", limit=32),
        "general": ct.questions(general),
    }


@pytest.fixture(scope="module")
def tests():
    names = ("atlas", *GENERAL)
    return {name: ct.load_benchmark(name, split="test", limit=16) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("league")


@pytest.fixture(scope="module")
def league(model, data, tests, folder):
    return ct.league(
        model,
        data,
        tests=tests,
        key=ct.answer_key("general"),
        others={"again": (model, data)},
        scorers=ENTRANTS,
        out=folder,
        **OPTIONS,
    )


def row_of(league, method, recipe):
    frame = league.frame
    return frame[(frame["method"] == method) & (frame["recipe"] == recipe)].iloc[0]


def test_every_scorer_competes_with_the_recipes_that_can_use_it(league):
    assert list(zip(league.frame["method"], league.frame["recipe"], strict=True)) == [
        *(("gradient_x_activation", recipe) for recipe in ("cultural", "published", "selective")),
        *(("relp", recipe) for recipe in ("cultural", "published", "selective")),
        *(("gradient", recipe) for recipe in ("cultural", "published")),
        *(("lape", "cultural"), ("standardised_difference", "cultural")),
    ]


def test_the_papers_row_is_what_the_public_calls_give(league, model, data):
    sites = ("mlp.hook_post",)
    scores: dict[str, Any] = {
        role: ct.attribute(
            model, rows, sites=sites, clamp=role in ("control", "general"), progress=False
        )
        for role, rows in data.items()
    }
    published = ct.culture_general(
        scores["cultural"], scores["control"], scores["recognition"], mlp_top=0.02
    )
    grade = ct.grade(published, ct.answer_key("general"))
    ranking = ct.grade_scores(scores["cultural"], ct.answer_key("general"))
    row = row_of(league, "gradient_x_activation", "published")
    assert row["n_neurons"] == len(published)
    assert (row["precision"], row["recall"]) == (grade.precision, grade.recall)
    plain = row_of(league, "gradient_x_activation", "cultural")
    assert plain["average_precision"] == pytest.approx(ranking.average_precision)
    assert plain["auroc"] == pytest.approx(ranking.auroc)
    selective = ct.culture_general(**scores, recipe="selective", mlp_top=0.02)
    assert row_of(league, "gradient_x_activation", "selective")["n_neurons"] == len(selective)
    name = str(Scorer())
    total = scores["cultural"].total("mlp.hook_post")
    for neuron in league.ablation.to_dict("records")[:20]:
        assert neuron[name] == pytest.approx(total[neuron["layer"], neuron["neuron"]].item())


def test_drops_are_those_of_ablation_effects(league, model, data):
    order = np.random.default_rng([0, 1]).permutation(48)[:8]
    rows = data["cultural"].select(sorted(order.tolist()))
    best = league.ablation.nlargest(3, "drop")
    names = [f"L{layer}.{site}.{n}" for site, layer, n in best.iloc[:, :3].to_numpy()]
    effects = ct.ablation_effects(model, rows, names, progress=False).sort_values("drop")
    assert effects["drop"].to_numpy() == pytest.approx(best["drop"].to_numpy()[::-1], abs=1e-6)


def test_selectivity_is_that_of_the_selected_sets(league, model, data, tests):
    scores = {
        role: ct.attribute(model, data[role], sites=["mlp.hook_post"], progress=False)
        for role in ("cultural",)
    }
    neurons = selected(scores, "cultural", 0.02)
    prepared = {name: ct.prepare(model, rows) for name, rows in tests.items()}
    conditions = [Condition("original"), Condition("mine", (neurons,), 0.0)]
    expected = ct.selectivity(answers_under(prepared, conditions)).iloc[0]
    row = row_of(league, "gradient_x_activation", "cultural")
    assert row["selectivity"] == pytest.approx(expected["selectivity"])
    assert row["fall"] == pytest.approx(expected["fall"])
    sizes = league.selectivity.groupby(["scorer", "recipe"])["top"].apply(sorted)
    assert all(each == [0.005, 0.02] for each in sizes)


def test_the_same_data_again_find_the_same_set(league):
    assert (league.frame["jaccard_again"] == 1.0).all()
    assert (league.frame["by_chance_again"] < 0.05).all()


def test_a_stopped_league_goes_on_to_the_same_table(league, model, data, tests, folder):
    def again(**options):
        return ct.league(
            model,
            data,
            tests=tests,
            key=ct.answer_key("general"),
            others={"again": (model, data)},
            scorers=ENTRANTS,
            out=folder,
            **OPTIONS | options,
        )

    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    pd.testing.assert_frame_equal(again().frame, league.frame)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == files
    gone = [*sorted(folder.rglob("*.parquet"))[:3], next(folder.rglob("general-1.safetensors"))]
    for path in gone:
        path.unlink()
    rest = [name for name in league.frame if name != "seconds"]
    pd.testing.assert_frame_equal(again().frame[rest], league.frame[rest])


def test_data_that_share_a_role_are_scored_once_each(model, data, tmp_path, monkeypatch):
    """The halves depend on all roles: what two data have in common is scored for both, and kept."""
    other = data | {"cultural": ct.load_benchmark("atlas", split="test", limit=48)}
    options = {"scorers": [Scorer()], "others": {"other": (model, other)}, "out": tmp_path}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = ct.league(model, data, **options, **OPTIONS)
        monkeypatch.setattr(Scorer, "scores", pytest.fail)
        again = ct.league(model, data, **options, **OPTIONS)
    pd.testing.assert_frame_equal(first.frame, again.frame)


def test_agreement_is_found_where_it_is_and_not_where_it_is_not():
    generator = np.random.default_rng(0)
    drops = generator.normal(size=200)
    assert agreement(drops, drops)["spearman"] == pytest.approx(1)
    assert agreement(-drops, drops)["pearson"] == pytest.approx(-1)
    assert abs(agreement(generator.normal(size=200), drops)["spearman"]) < 0.2
    assert np.isnan(agreement(np.zeros(200), drops)["pearson"])


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_intervals_of_agreement_hold_the_truth_in_95_percent(correlation, monkeypatch):
    """Of Pearson's and Spearman's correlation of normal variables, within three standard errors of
    500 draws (.01 each)."""
    monkeypatch.setattr("culnig_tl.validation.contest.agreement._DRAWS", 300)
    generator = np.random.default_rng(1)
    truth = {"pearson": correlation, "spearman": 6 / np.pi * np.arcsin(correlation / 2)}
    held = dict.fromkeys(truth, 0)
    for draw in range(500):
        one, noise = generator.normal(size=(2, 200))
        other = correlation * one + np.sqrt(1 - correlation**2) * noise
        found = agreement(one, other, seed=draw)
        for name, value in truth.items():
            held[name] += found[f"{name}_low"] <= value <= found[f"{name}_high"]
    assert all(0.92 <= number / 500 <= 0.98 for number in held.values()), held


def test_the_sample_has_the_best_of_every_scorer():
    totals = [np.arange(1000.0), -np.arange(1000.0), np.sin(np.arange(1000.0))]
    places = sampled(totals, (30, 40), 0.01, 0)
    assert set(range(980, 1000)) | set(range(20)) <= set(places)
    assert set(np.argsort(-totals[2])[:20].tolist()) <= set(places)
    assert len(places) > 100
    assert places == sorted(set(places))
    assert places == sampled(totals, (30, 40), 0.01, 0)


def test_a_ranking_is_graded_by_its_scores():
    names = [f"L0.mlp.hook_post.{i}" for i in range(4)]
    scores = {("mlp.hook_post", 0, i): float(i) for i in range(4)}
    ranking = ct.NeuronSet.of(names, scores=scores, shapes={"mlp.hook_post": (1, 10)})
    best = ct.NeuronSet.of(names[3:])
    assert grade_ranking(ranking, best).average_precision == 1.0
    assert grade_ranking(ranking, best).auroc == 1.0
    worst = ct.NeuronSet.of(["L0.mlp.hook_post.9"])
    assert grade_ranking(ranking, worst).auroc == pytest.approx(2.5 / 9)


def test_saved_halves_are_compared_without_a_model(model, data):
    one: Any
    other: Any
    one, other = (
        {"cultural": ct.attribute(model, half, progress=False)}
        for half in ct.split(data["cultural"], by="id")
    )
    row = compare_halves(one, other)
    assert row["shared"] == len(ct.culture_general(**one) & ct.culture_general(**other))
    assert compare_halves(one, one)["jaccard"] == 1.0
    with pytest.raises(CulnigError, match="cultural"):
        compare_halves({}, one)


def test_the_figure_names_what_nothing_beats(league):
    traces: Any = ct.figures.league(league.frame).data
    points = sum(len(trace.x) for trace in traces)
    assert points == len(league.frame)
    named = {text for trace in traces for text in trace.text if text}
    frame = league.frame.dropna(subset=["spearman"])
    most = frame.loc[frame["selectivity"].idxmax(), "scorer"]
    assert {most, str(Scorer())} <= named


def test_default_scorers_differ_and_the_first_is_the_papers():
    assert str(SCORERS[0]) == "gradient_x_activation max probability"
    assert len({str(scorer) for scorer in SCORERS}) == len(SCORERS)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scorers": [Scorer("lasso")]}, "method.*lasso"),
        ({"sizes": (0.5, 2.0)}, "sizes"),
        ({"sizes": ()}, "sizes"),
        ({"n_random": -1}, "n_random"),
        ({"n_matched": 0}, "n_matched"),
        ({"ablation_prompts": 0}, "ablation_prompts"),
        ({"seed": -1}, "seed"),
        ({"sites": ("mlp.hook_pots",)}, "mlp.hook_pots"),
    ],
)
def test_what_cannot_be_is_refused_before_any_pass(model, data, change, sentence, monkeypatch):
    def no_pass(*_, **__):
        raise AssertionError("the model ran")

    monkeypatch.setattr("culnig_tl.validation.contest.entrants.Scorer.scores", no_pass)
    with pytest.raises(CulnigError, match=sentence):
        ct.league(model, data, **{"scorers": ENTRANTS, **OPTIONS, **change})


def test_the_usual_scorers_that_cannot_score_are_left_out_and_named(loaded, rows):
    """On a bridge, of one culture, without control questions."""
    one_culture = rows.map(lambda row: {"culture": "A"})
    with pytest.warns(UserWarning, match=r"left out .*relp.*gim.*lape.*cas.*standardised") as said:
        frame = ct.league(
            loaded(2, "bridge", "float32"), {"cultural": one_culture}, **OPTIONS
        ).frame
    assert len(said.list) == 1
    assert {"gradient_x_activation", "gradient", "activation_mean"} <= set(frame["method"])
    assert not {"relp", "gim", "lape", "cas", "standardised_difference"} & set(frame["method"])
    assert set(frame["recipe"]) == {"cultural"}


def test_scorers_that_were_given_are_refused_instead(loaded, rows):
    with pytest.raises(CulnigError, match=r"relp.*HookedTransformer"):
        ct.league(
            loaded(2, "bridge", "float32"), {"cultural": rows}, scorers=[Scorer("relp")], **OPTIONS
        )
    contrast = [Scorer("standardised_difference")]
    with pytest.raises(CulnigError, match="contrasts cultural questions with control"):
        ct.league(loaded(), {"cultural": rows}, scorers=contrast, **OPTIONS)


def test_country_names_are_not_needed_and_sizes_come_in_any_order(model, data):
    options = {**OPTIONS, "sizes": (0.02, 0.005)}
    some = {role: data[role] for role in ("cultural", "control")}
    frame = ct.league(model, some, scorers=[Scorer()], **options).frame
    scores = {
        role: ct.attribute(
            model, rows, sites=["mlp.hook_post"], clamp=role == "control", progress=False
        )
        for role, rows in some.items()
    }
    published = ct.culture_general(scores["cultural"], scores["control"], mlp_top=0.02)
    assert frame["recipe"].tolist() == ["cultural", "published"]
    assert frame["n_neurons"].tolist()[1] == len(published)


def test_data_need_a_role_and_culture(model, data):
    with pytest.raises(CulnigError, match="cultural"):
        ct.league(model, {"control": data["control"]}, **OPTIONS)
    with pytest.raises(CulnigError, match="culture_test"):
        ct.league(model, {**data, "culture_test": data["general"]}, **OPTIONS)
