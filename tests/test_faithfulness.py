# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
"""Curves and areas say what was planted, what masking does, and nothing where there is nothing."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from culnig_tl import figures
from culnig_tl.atlas import answer_key
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import ablation_effects, compare, evaluate
from culnig_tl.hooks import scaled_neurons
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import prepare
from culnig_tl.selection import random_neurons
from culnig_tl.validation import faithfulness, first_order
from culnig_tl.validation.faithfulness import area_between

SITE = "mlp.hook_post"
MEASURES = ("accuracy", "probability", "fall")
CURVE = ["curve", "ranking", "benchmark"]


@pytest.fixture(scope="module")
def atlas():
    return load_model()


@pytest.fixture(scope="module")
def key():
    return answer_key("general")


@pytest.fixture(scope="module")
def tests(atlas):
    names = {"culture": "atlas", "facts": "atlas-commonsense"}
    return {
        ours: prepare(atlas, load_benchmark(name, split="test", limit=16))
        for ours, name in names.items()
    }


@pytest.fixture(scope="module")
def curves(atlas, tests, key):
    return faithfulness(atlas, tests, {"planted": key}, sizes=[8, 16], progress=False)


def points(frame, curve, benchmark):
    """The points of one curve by number of neurons."""
    is_curve = (frame["curve"] == curve) & (frame["benchmark"] == benchmark)
    return frame[is_curve].set_index("n_neurons")


def area(curves, curve, benchmark):
    is_curve = (curves.areas["curve"] == curve) & (curves.areas["benchmark"] == benchmark)
    (row,) = curves.areas[is_curve].to_dict("records")
    return row


def every_neuron(model):
    """All MLP neurons, those of low layers and numbers ranked first."""
    n_layers, width = model.cfg.n_layers, model.cfg.d_mlp
    places = [(SITE, layer, index) for layer in range(n_layers) for index in range(width)]
    scores = {place: -float(number) for number, place in enumerate(places)}
    return NeuronSet.of(places, scores=scores, shapes={SITE: (n_layers, width)})


# --- what was planted -----------------------------------------------------------------------------


def test_the_key_takes_culture_away_before_random_rankings_do(curves):
    culture = points(curves.frame, "deletion", "culture").loc[[8, 16]]
    assert (culture["fall_low"] > culture["random_fall_high"]).all()
    assert (points(curves.frame, "deletion", "facts")["fall"].abs() < 0.02).all()
    of_culture, of_facts = (area(curves, "deletion", name) for name in ("culture", "facts"))
    assert of_culture["area_low"] > 0.2
    assert of_culture["p_value"] == pytest.approx(1 / 6)
    assert (of_culture["n_random"], of_culture["n_questions"]) == (5, 16)
    assert -0.02 < of_facts["area_low"] < of_facts["area_high"] < 0.02


def test_the_key_alone_keeps_more_than_random_rankings_do(curves):
    kept = points(curves.frame, "insertion", "culture").loc[[8, 16]]
    assert (kept["probability_low"] > kept["random_probability_high"]).all()
    assert area(curves, "insertion", "culture")["area_low"] > 0.02


def test_the_key_with_half_of_the_model_keeps_culture(atlas, tests, key):
    half = random_neurons(atlas, like=every_neuron(atlas).top(1024), seed=3) - key
    scores = dict.fromkeys(half, 1.0) | dict.fromkeys(key, 2.0)
    ranking = NeuronSet.of(list(scores), scores=scores, shapes=key.shapes)
    curves = faithfulness(
        atlas, tests, {"key": ranking}, sizes=[len(ranking)], n_random=3, progress=False
    )
    kept = points(curves.frame, "insertion", "culture").loc[len(ranking)]
    assert kept["probability"] > kept["random_probability_high"] + 0.1
    assert (
        area(curves, "insertion", "facts")["area"]
        < 0.1
        < area(curves, "insertion", "culture")["area"]
    )


# --- what masking does ----------------------------------------------------------------------------


def test_points_are_the_numbers_of_compare_to_the_bit(atlas, tests, key, curves):
    best = key.top(8)
    table = compare(
        atlas,
        tests,
        {
            "original": None,
            "deletion": best,
            "insertion": every_neuron(atlas) - best,
            "random": [
                random_neurons(atlas, like=best, seed=seed, layer_matched=True) for seed in range(5)
            ],
        },
        progress=False,
    ).set_index(["condition", "benchmark"])
    for curve in ("deletion", "insertion"):
        for benchmark in tests:
            point = points(curves.frame, curve, benchmark).loc[8]
            for name in (f"{each}{end}" for each in MEASURES for end in ("", "_low", "_high")):
                assert point[name] == table.loc[(curve, benchmark), name]
    for benchmark in tests:
        point = points(curves.frame, "deletion", benchmark).loc[8]
        for name in MEASURES:
            mean = table.loc[("random", benchmark), name]
            assert point[f"random_{name}"] == pytest.approx(mean, rel=1e-12)


def test_the_ends_are_the_model_as_it_is_and_the_whole_pool_off(atlas, tests):
    ranking = every_neuron(atlas)
    rows = {"culture": tests["culture"]}
    curves = faithfulness(
        atlas, rows, {"all": ranking}, sizes=[len(ranking)], n_random=1, progress=False
    )
    original, none = (
        evaluate(atlas, rows["culture"], neurons=neurons)["probability"].to_numpy().mean()
        for neurons in (None, ranking)
    )
    deletion, insertion = (points(curves.frame, c, "culture") for c in ("deletion", "insertion"))
    for name in ("probability", "random_probability"):
        assert deletion[name].tolist() == insertion[name].tolist()[::-1] == [original, none]
    assert (curves.areas["area"] == 0).all()


def test_random_rankings_hold_their_smaller_sets_and_match_layers(atlas, tests, key):
    conditions = {}

    def keep(benchmark, condition, draw, make):
        conditions[condition.name] = condition
        return make()

    faithfulness(
        atlas,
        {"culture": tests["culture"].select(range(2))},
        {"planted": key},
        sizes=[4, 8],
        n_random=2,
        seed=5,
        keep=keep,
        progress=False,
    )
    for number in (1, 2):
        few, more = (
            conditions[f"'planted', random {number}: {size} off"].sets[0] for size in (4, 8)
        )
        assert set(few) < set(more)
        assert (more.per_layer() == key.top(8).per_layer()).all(axis=None)
        kept = conditions[f"'planted', random {number}: 8 kept"].sets[0]
        assert set(kept) == set(every_neuron(atlas)) - set(more)
    first, second = (conditions[f"'planted', random {n}: 8 off"].sets[0] for n in (1, 2))
    assert set(first) != set(second)


def test_answers_may_be_kept(atlas, tests, key):
    kept = {}

    def keep(benchmark, condition, draw, make):
        name = (benchmark, condition.name, draw)
        if name not in kept:
            kept[name] = make()
        return kept[name]

    rows = {"culture": tests["culture"].select(range(3))}
    options = {"sizes": [1, 4], "n_random": 2, "keep": keep, "progress": False}
    first = faithfulness(atlas, rows, {"planted": key}, **options)
    n_conditions = len(kept)
    again = faithfulness(atlas, rows, {"planted": key}, **options)
    assert n_conditions == len(kept) == 2 + 2 * 2 * 3
    pd.testing.assert_frame_equal(first.frame, again.frame)
    pd.testing.assert_frame_equal(first.areas, again.areas)


def test_usual_sizes_end_with_the_shortest_ranking(atlas, tests, key):
    rows = {"culture": tests["culture"].select(range(2))}
    rankings = {"planted": key, "shorter": key.top(12)}
    curves = faithfulness(atlas, rows, rankings, n_random=1, progress=False)
    for _, curve in curves.frame.groupby(CURVE):
        assert curve["n_neurons"].tolist() == [0, 1, 2, 5, 10, 12]
    assert curves.frame["ranking"].unique().tolist() == ["planted", "shorter"]


# --- the area -------------------------------------------------------------------------------------


def test_the_area_is_a_mean_over_the_logarithm_of_sizes():
    generator = np.random.default_rng(0)
    sizes, totals = [1, 3, 10, 50], generator.uniform(size=(7, 4, 4))
    original = generator.uniform(1, 2, size=7)
    falls = 1 - totals.sum(0) / original.sum()
    gaps = falls[0] - falls[1:].mean(0)
    integral = sum(
        (gaps[i] + gaps[i + 1]) / 2 * (math.log(sizes[i + 1]) - math.log(sizes[i]))
        for i in range(3)
    )
    result = area_between(totals, original, sizes)
    assert result["area"] == pytest.approx(integral / math.log(50))
    assert area_between(totals, original, sizes, sign=-1)["area"] == pytest.approx(-result["area"])
    alone = area_between(totals[:, :, :1], original, [7])
    assert alone["area"] == pytest.approx(gaps[0])


def null_draws(n_draws, n_random, *, of_sets, of_questions):
    """Areas of a ranking that is one more random one, of questions that were drawn at random."""
    generator = np.random.default_rng(4)
    for _ in range(n_draws):
        shape = (60, 1 + n_random, 3)
        totals = 0.5 + of_questions * generator.normal(size=shape)
        totals += of_sets * generator.normal(size=(1, *shape[1:2], 1))
        yield area_between(totals, np.ones(60), [1, 5, 20])


def test_an_interval_covers_nothing_where_there_is_nothing():
    draws = list(null_draws(500, 8, of_sets=0.0, of_questions=0.2))
    covered = np.mean([each["area_low"] <= 0 <= each["area_high"] for each in draws])
    assert 0.93 <= covered <= 0.97
    assert np.mean([each["area"] for each in draws]) == pytest.approx(0, abs=0.002)


def test_p_values_of_random_rankings_are_uniform():
    draws = null_draws(500, 9, of_sets=0.1, of_questions=0.1)
    p_values = np.array([each["p_value"] for each in draws])
    shares = np.array([np.isclose(p_values, k / 10).mean() for k in range(1, 11)])
    assert shares.sum() == pytest.approx(1)
    assert 500 * ((shares - 0.1) ** 2 / 0.1).sum() < 21.7  # chi-squared, 9 degrees: 1 %


# --- first order ----------------------------------------------------------------------------------


@pytest.fixture
def strongest(model, rows):
    """Neurons of the tiny model that move its answers, so that rounding of P does not count."""
    effects = ablation_effects(model, rows, every_neuron(model), factor=0.5, progress=False)
    order = effects["drop"].abs().sort_values(ascending=False).index[:6]
    return NeuronSet.from_frame(effects.loc[order])


def test_first_order_becomes_exact_as_the_factor_tends_to_one(model, rows, strongest):
    drops = first_order(model, rows, strongest, factors=[0.99, 0.9, 0.5], progress=False)
    errors = {
        factor: of_factor["ratio"].sub(1).abs().max()
        for factor, of_factor in drops.frame.groupby("factor")
    }
    assert errors[0.99] < 0.03
    assert errors[0.99] < errors[0.9] < errors[0.5]
    close, *_ = drops.together.to_dict("records")
    assert close["ratio"] == pytest.approx(1, abs=0.03)
    assert close["pearson"] > 0.999


def test_predictions_are_derivatives_and_drops_are_real(model, rows, strongest):
    drops = first_order(model, rows, strongest, factors=[0.0, 1.5], progress=False)
    prepared = prepare(model, rows)

    def mean_probability(neurons, factor):
        with torch.no_grad(), scaled_neurons(model, neurons, factor=factor):
            likely = [
                model(batch.tokens[line][batch.mask[line]][None])[0, -1]
                .softmax(-1)[batch.answers[line]]
                .item()
                for batch in prepared.batches
                for line in range(len(batch))
            ]
        return sum(likely) / len(likely)

    original, step = mean_probability(strongest, 1.0), 1e-5
    for row in drops.frame.to_dict("records"):
        neuron = (row["site"], row["layer"], row["neuron"])
        ends = (mean_probability([neuron], 1 + each) for each in (step, -step))
        slope = (next(ends) - next(ends)) / (2 * step)
        assert row["predicted"] == pytest.approx((1 - row["factor"]) * slope, rel=1e-4)
        real = original - mean_probability([neuron], row["factor"])
        assert row["real"] == pytest.approx(real, abs=1e-6)
        assert row["ratio"] == row["real"] / row["predicted"]
    for row in drops.together.to_dict("records"):
        of_factor = drops.frame[drops.frame["factor"] == row["factor"]]
        assert row["real"] == pytest.approx(
            original - mean_probability(strongest, row["factor"]), abs=1e-6
        )
        assert row["predicted"] == pytest.approx(of_factor["predicted"].sum())
        assert row["sum_of_real"] == pytest.approx(of_factor["real"].sum())
        assert row["pearson"] == pytest.approx(
            np.corrcoef(*of_factor[["predicted", "real"]].T.to_numpy())[0, 1]
        )


def test_one_neuron_has_no_correlation(atlas, tests):
    one = "L3.mlp.hook_post.17"
    drops = first_order(atlas, tests["culture"], one, factors=[0.0], progress=False)
    (row,) = drops.together.to_dict("records")
    assert math.isnan(row["pearson"])
    assert math.isnan(row["spearman"])
    assert row["sum_of_real"] == pytest.approx(row["real"], abs=1e-6)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sizes": [4, 17]}, r"sizes go up to 17, and ranking 'planted' has 16 neurons; give"),
        ({"sizes": [2.5]}, r"sizes is 2\.5; give a whole number from 1 up"),
        ({"sizes": [0, 2]}, r"sizes is 0; give a finite number from 1 up"),
        ({"sizes": [2, 2]}, r"sizes is \[2, 2\]; give at least one, and each of them once"),
        ({"sizes": []}, r"sizes is \[\]; give a list of at least one"),
        ({"n_random": 0}, r"n_random is 0; give a whole number from 1 up"),
        ({"seed": -1}, r"seed is -1; give a whole number"),
        ({"mode": "guess"}, r"mode is 'guess'; choose one of"),
        ({"benchmarks": {}}, r"benchmarks is {}; give at least one entry"),
        ({"rankings": {}}, r"rankings is {}; give at least one entry"),
        ({"rankings": {"none": NeuronSet.of({})}}, r"Ranking 'none' is 0 neurons; give a set"),
        (
            {"rankings": {"mine": NeuronSet.of("L3.mlp.hook_post.17")}},
            r"0 of the 1 neurons of ranking 'mine' have a score; give a set with a score for each",
        ),
        (
            {
                "rankings": {
                    "mine": NeuronSet.of("L9.attn.hook_q.1", scores={("attn.hook_q", 9, 1): 1.0})
                }
            },
            r"1 neurons cannot be drawn from layer 9 of attn\.hook_q",
        ),
        (
            {
                "rankings": {
                    "post": NeuronSet.of("L1.mlp.hook_post.1", scores={(SITE, 1, 1): 1.0}),
                    "pre": NeuronSet.of("L1.mlp.hook_pre.1", scores={("mlp.hook_pre", 1, 1): 1.0}),
                }
            },
            r"name the same neurons at mlp\.hook_post and at mlp\.hook_pre",
        ),
    ],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_what_makes_no_curve_is_refused(monkeypatch, atlas, tests, key, change, sentence):
    monkeypatch.setattr(type(atlas), "forward", None)
    given = {"benchmarks": tests, "rankings": {"planted": key}, "progress": False} | change
    with pytest.raises(InvalidInputError, match=sentence):
        faithfulness(atlas, **given)


@pytest.mark.parametrize(
    ("neurons", "factors", "sentence"),
    [
        ([], [0.0], "There are no neurons to scale; give at least one"),
        ("L3.mlp.hook_post.17", [0.5, 1.0], r"factors is \[0\.5, 1\.0\], and 1 changes nothing"),
        ("L3.mlp.hook_post.17", [float("nan")], "factors is nan; give a finite number"),
        ("L3.mlp.hook_post.17", [], r"factors is \[\]; give a list of at least one"),
        ("L3.mlp.hook_post.512", [0.0], "Neuron 512 of layer 3 at mlp.hook_post is outside"),
    ],
)
@pytest.mark.usefixtures("as_for_a_user")
def test_what_has_no_first_order_is_refused(monkeypatch, atlas, tests, neurons, factors, sentence):
    monkeypatch.setattr(type(atlas), "forward", None)
    with pytest.raises(InvalidInputError, match=sentence):
        first_order(atlas, tests["culture"], neurons, factors=factors, progress=False)


# --- figures --------------------------------------------------------------------------------------


def test_the_figure_shows_the_curves(curves):
    figure = figures.faithfulness(curves.frame)
    titles = [each.text for each in figure.layout.annotations[:4]]
    assert titles[0] == "culture: best neurons switched off"
    assert titles[3] == "facts: all others switched off"
    lines = [trace for trace in figure.data if trace.name == "planted"]
    assert [line.showlegend for line in lines] == [True, False, False, False]
    point = points(curves.frame, "deletion", "culture").loc[[8, 16]]
    assert lines[0].x.tolist() == [8, 16]
    np.testing.assert_allclose(lines[0].y, 100 * point["fall"])
    np.testing.assert_allclose(lines[0].error_y.array, 100 * (point["fall_high"] - point["fall"]))
    band, mean = figure.data[:2]
    ends = [point["random_fall_high"], point["random_fall_low"][::-1]]
    np.testing.assert_allclose(band.y, 100 * np.concatenate(ends))
    np.testing.assert_allclose(mean.y, 100 * point["random_fall"])
    assert figure.layout.xaxis.type == "log"
    assert len(figure.to_json()) < 30_000


@pytest.mark.parametrize("value", ["accuracy", "probability"])
def test_the_figure_shows_other_measures(curves, value):
    figure = figures.faithfulness(curves.frame, value=value)
    point = points(curves.frame, "insertion", "facts").loc[[8, 16]]
    np.testing.assert_allclose(figure.data[-1].y, point[value])


def test_the_figure_of_first_order_shows_each_neuron_on_its_side_of_the_line(atlas, tests, key):
    drops = first_order(atlas, tests["culture"], key.top(5), factors=[0.9, 0.0], progress=False)
    figure = figures.first_order(drops.frame, together=drops.together)
    of_zero = drops.frame[drops.frame["factor"] == 0.0]
    line, dots = figure.data[2:]
    assert line.x == line.y
    np.testing.assert_array_equal(dots.x, of_zero["predicted"])
    np.testing.assert_array_equal(dots.y, of_zero["real"])
    assert dots.text[0] == f"L{of_zero['layer'].iloc[0]}.{SITE}.{of_zero['neuron'].iloc[0]}"
    whole = drops.together.set_index("factor")["real"].loc[0.0]
    assert figure.layout.annotations[1].text.endswith(f"{whole:.2g} real")
    assert figures.first_order(drops.frame).layout.annotations[0].text == "× 0.9"


@pytest.mark.usefixtures("as_for_a_user")
def test_figures_refuse_other_frames(curves):
    with pytest.raises(
        InvalidInputError, match=r"lacks curve.*the frame of validation\.faithfulness"
    ):
        figures.faithfulness(curves.areas.drop(columns="curve"))
    with pytest.raises(InvalidInputError, match="value is 'rank'; choose one of"):
        figures.faithfulness(curves.frame, value="rank")
    with pytest.raises(InvalidInputError, match=r"the frame of validation\.first_order"):
        figures.first_order(curves.frame)
