# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
"""Figures show the numbers they were given, stay small, and touch nothing global."""

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest
import torch

from culnig_tl import figures
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import STAR
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import random_neurons

ODD = "<b>Ü & </script>"
SHAPES = {
    "mlp.hook_post": (48, 15360),
    "attn.hook_q": (48, 5120),
    "attn.hook_k": (48, 1024),
    "attn.hook_v": (48, 1024),
}
LARGEST = 300_000


@pytest.fixture
def effects() -> pd.DataFrame:
    cultures = [ODD, "Iran", "Azerbaijan"]
    return pd.DataFrame(
        [
            {
                "masked": masked,
                "tested": tested,
                "change": -30.0 + 10 * i + j,
                "probability_change": -0.3 + 0.1 * i + 0.01 * j,
                "n_neurons": 5 + i,
                "n_prompts": 36,
            }
            for i, masked in enumerate(reversed(cultures))
            for j, tested in enumerate(cultures)
        ]
    )


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "benchmark": benchmark,
                "condition": condition,
                "n_neurons": 7 * (condition != "original"),
                "n_questions": 40,
                "accuracy": 90.0 - 10 * i - j,
                "accuracy_low": 85.0 - 10 * i - j,
                "accuracy_high": 93.0 - 10 * i - j,
                "probability": 0.9 - 0.1 * i,
                "probability_low": 0.8 - 0.1 * i,
                "probability_high": 0.95 - 0.1 * i,
            }
            for j, benchmark in enumerate(["culture", ODD])
            for i, condition in enumerate(["original", "general", "random"])
        ]
    )


def cells_of(figure) -> dict[str, np.ndarray]:
    """The coloured values of every panel that has any."""
    return {trace.name: np.asarray(trace.z) for trace in figure.data if trace.type == "heatmap"}


def many_neurons(n: int) -> NeuronSet:
    generator = np.random.default_rng(0)
    neurons = {site: set() for site in SHAPES}
    for site, share in zip(SHAPES, (0.94, 0.03, 0.02, 0.01), strict=True):
        n_layers, width = SHAPES[site]
        flat = generator.choice(n_layers * width, int(n * share), replace=False)
        neurons[site] = {divmod(int(index), width) for index in flat}
    return NeuronSet.of(neurons, shapes=SHAPES)


# --- layer_heatmap --------------------------------------------------------------------------------


def test_every_selected_neuron_is_counted_in_its_layer_and_bin():
    neurons = many_neurons(8000)
    counts = cells_of(figures.layer_heatmap(neurons))
    assert sum(np.nansum(z) for z in counts.values()) == len(neurons)
    per_layer = neurons.per_layer()
    for site, z in counts.items():
        np.testing.assert_array_equal(np.nansum(z, axis=1), per_layer[site])


def test_a_bin_names_its_neurons_and_lies_over_them():
    neurons = NeuronSet.of({"s": [(1, 0), (1, 9), (1, 10), (0, 99)]}, shapes={"s": (2, 100)})
    (panel,) = figures.layer_heatmap(neurons, bins=10).data
    assert list(panel.x) == list(range(0, 101, 10))
    assert panel.z[1, 0] == 2
    assert panel.customdata[1, 0] == "0, 9"
    assert panel.customdata[1, 1] == "10"
    assert panel.customdata[0, 9] == "99"
    assert np.isnan(panel.z[0, 0])


def test_a_full_bin_lists_some_neurons_and_counts_the_rest():
    neurons = NeuronSet.of({"s": [(0, i) for i in range(50)]}, shapes={"s": (1, 50)})
    (panel,) = figures.layer_heatmap(neurons, bins=1).data
    assert panel.z.tolist() == [[50]]
    assert panel.customdata[0, 0].endswith("11 and 38 more")


def test_there_is_a_panel_for_every_site_the_set_was_chosen_from():
    neurons = NeuronSet.of({"a": [(0, 1)]}, shapes={"a": (2, 4), "b": (2, 4)})
    figure = figures.layer_heatmap(neurons)
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert list(figure.data[1].text) == ["none selected"]


def test_a_set_by_hand_needs_no_shapes():
    figure = figures.layer_heatmap(NeuronSet.of({"a": [(3, 17)], "b": [(0, 0)]}))
    assert {name: z.shape for name, z in cells_of(figure).items()} == {
        "a": (4, 18),
        "b": (1, 1),
    }


def test_scores_are_shown_by_the_largest_of_a_bin_and_its_neuron():
    values = torch.randn(3, 5, 70, generator=torch.Generator().manual_seed(0))
    scores = NeuronScores({"a": values}, ("x", "y", "z"), 4, (2, 2, 2), {})
    (panel,) = figures.layer_heatmap(scores, bins=7).data
    total = values.sum(0).numpy()
    np.testing.assert_allclose(panel.z, total.reshape(5, 7, 10).max(-1))
    best = np.asarray(panel.customdata)
    np.testing.assert_array_equal(np.take_along_axis(total, best, axis=1), panel.z)


def test_uneven_bins_hold_every_neuron_once():
    scores = NeuronScores({"a": torch.arange(10.0).reshape(1, 1, 10)}, ("x",), 1, (1,), {})
    (panel,) = figures.layer_heatmap(scores, bins=4).data
    assert panel.x[0] == 0
    assert panel.x[-1] == 10
    assert panel.z.tolist() == [[edge - 1 for edge in panel.x[1:]]]


def test_title_and_colour_bar_say_what_is_shown():
    neurons = NeuronSet.of(
        {"a": [(0, 1), (0, 2)]}, source={"kind": "culture-specific", "culture": ODD}
    )
    figure = figures.layer_heatmap(neurons)
    assert (
        html.unescape(figure.layout.title.text) == f"2 culture-specific neurons of {ODD} by layer"
    )
    assert "<b>" not in figure.layout.title.text
    scores = NeuronScores({"a": torch.ones(2, 3, 4)}, ("x", "y"), 1, (1, 1), {})
    figure = figures.layer_heatmap(scores)
    assert "12 neurons" in figure.layout.title.text
    assert "largest S(D)" in figure.layout.coloraxis.colorbar.title.text


def test_small_scores_are_told_apart_where_one_is_large():
    """Half of the colours go to the lowest quarter of the scale; counts are drawn evenly."""
    scores = NeuronScores({"a": torch.ones(2, 3, 4)}, ("x", "y"), 1, (1, 1), {})
    stops = [stop for stop, _ in figures.layer_heatmap(scores).layout.coloraxis.colorscale]
    assert stops == [0, 1 / 16, 1 / 4, 9 / 16, 1]
    neurons = NeuronSet.of({"a": [(0, 1)]})
    even = [stop for stop, _ in figures.layer_heatmap(neurons).layout.coloraxis.colorscale]
    assert even == [0, 1 / 4, 1 / 2, 3 / 4, 1]


@pytest.mark.parametrize("n", [8087, 15_000, 60_000])
def test_a_large_set_stays_small(n):
    assert len(figures.layer_heatmap(many_neurons(n)).to_json()) < LARGEST


def test_large_scores_stay_small():
    generator = torch.Generator().manual_seed(0)
    values = {site: torch.randn(1, *shape, generator=generator) for site, shape in SHAPES.items()}
    scores = NeuronScores(values, ("x",), 1, (1,), {})
    assert len(figures.layer_heatmap(scores).to_json()) < LARGEST


def test_an_empty_set_is_refused():
    with pytest.raises(InvalidInputError, match=r"^There are no neurons .*; give a set .*\.$"):
        figures.layer_heatmap(NeuronSet.of({}, shapes={"a": (1, 2)}))


def test_no_bins_are_refused():
    with pytest.raises(InvalidInputError, match=r"^bins is 0; give a whole number from 1 up\.$"):
        figures.layer_heatmap(NeuronSet.of({"a": [(0, 0)]}), bins=0)


def test_by_module_every_neuron_is_counted_in_its_layer_and_site():
    neurons = many_neurons(500)
    (panel,) = figures.layer_heatmap(neurons, by="module").data
    assert list(panel.x) == list(SHAPES)
    np.testing.assert_array_equal(np.nan_to_num(panel.z), neurons.per_layer().to_numpy())


def test_by_module_scores_are_the_largest_with_its_neuron():
    generator = torch.Generator().manual_seed(0)
    values = {site: torch.randn(2, 3, 20, generator=generator) for site in ("a", "b")}
    scores = NeuronScores(values, ("x", "y"), 4, (2, 2), {})
    (panel,) = figures.layer_heatmap(scores, by="module").data
    for column, site in enumerate(values):
        total = values[site].sum(0)
        for layer in range(3):
            best = int(total[layer].argmax())
            assert panel.z[layer, column] == total[layer, best]
            assert panel.customdata[layer, column] == f"L{layer}.{site}.{best}"


def test_by_culture_scores_are_the_largest_over_sites():
    generator = torch.Generator().manual_seed(0)
    values = {site: torch.randn(2, 3, 20, generator=generator) for site in ("a", "b")}
    scores = NeuronScores(values, (ODD, "y"), 4, (2, 2), {})
    (panel,) = figures.layer_heatmap(scores, by="culture").data
    assert html.unescape(panel.x[0]) == ODD
    for culture in range(2):
        for layer in range(3):
            best = max(
                (float(values[site][culture, layer, neuron]), f"L{layer}.{site}.{neuron}")
                for site in values
                for neuron in range(20)
            )
            assert (panel.z[layer, culture], panel.customdata[layer, culture]) == best


def test_by_culture_sets_are_counted_over_sites():
    sets = {
        "x": NeuronSet.of({"a": [(0, 1), (2, 5)], "b": [(2, 0)]}),
        "y": NeuronSet.of({}, shapes={"a": (4, 9)}),
    }
    (panel,) = figures.layer_heatmap(sets, by="culture").data
    assert np.nan_to_num(panel.z).tolist() == [[1, 0], [0, 0], [2, 0], [0, 0]]
    assert panel.customdata[2, 0] == "L2.a.5, L2.b.0"


@pytest.mark.usefixtures("as_for_a_user")
def test_data_that_cannot_be_shown_that_way_are_refused():
    one = NeuronSet.of({"a": [(0, 0)]})
    with pytest.raises(InvalidInputError, match=r"^by is 'culture', and the data are one set;"):
        figures.layer_heatmap(one, by="culture")
    with pytest.raises(InvalidInputError, match=r"^by is 'module', and the data are 2 sets;"):
        figures.layer_heatmap({"x": one, "y": one}, by="module")
    with pytest.raises(InvalidInputError, match=r"^by is 'head'; choose one of 'neuron'"):
        figures.layer_heatmap(one, by="head")


@pytest.mark.parametrize("by", ["module", "culture"])
def test_large_scores_by_column_stay_small(by):
    values = {site: torch.rand(16, 48, 512) for site in SHAPES}
    scores = NeuronScores(values, tuple("abcdefghijklmnop"), 1, (1,) * 16, {})
    assert len(figures.layer_heatmap(scores, by=by).to_json()) < LARGEST


# --- culture_matrix -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["change", "probability_change"])
def test_matrix_cells_are_the_frame(effects, value):
    (panel,) = figures.culture_matrix(effects, value=value).data
    names = [[html.unescape(name) for name in axis] for axis in (panel.y, panel.x)]
    assert names[0] == names[1] == [ODD, "Iran", "Azerbaijan"]
    for row in effects.to_dict("records"):
        at = names[0].index(row["masked"]), names[1].index(row["tested"])
        assert panel.z[at] == row[value]
        fields = ("change", "probability_change", "n_neurons", "n_prompts")
        assert panel.customdata[at[0]][at[1]] == [row[name] for name in fields]


def test_matrix_is_centred_on_zero_and_its_diagonal_outlined(effects):
    figure = figures.culture_matrix(effects)
    (panel,) = figure.data
    assert panel.zmid == 0
    assert -panel.zmin == panel.zmax == effects["change"].abs().max()
    corners = [(s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes]
    kin, *own = corners
    assert kin == (0.5, 2.5, 0.5, 2.5)  # Iran and Azerbaijan
    assert own == [(i - 0.5, i + 0.5, i - 0.5, i + 0.5) for i in range(3)]
    assert panel.colorbar.title.text == "accuracy change, points"
    other = figures.culture_matrix(effects, value="probability_change").data[0]
    assert other.colorbar.title.text == "mean P(answer) change"


def test_kin_stand_next_to_each_other(effects):
    (panel,) = figures.culture_matrix(effects, kin=[("Azerbaijan", ODD)]).data
    assert [html.unescape(name) for name in panel.x] == [ODD, "Azerbaijan", "Iran"]
    assert list(panel.y) == list(panel.x)
    assert panel.z[0, 1] == effects.set_index(["masked", "tested"])["change"][ODD, "Azerbaijan"]


def test_matrix_escapes_names(effects):
    (panel,) = figures.culture_matrix(effects).data
    assert panel.x[0] == "&lt;b&gt;Ü &amp; &lt;/script&gt;"


def test_a_pair_that_was_not_tested_stays_blank(effects):
    (panel,) = figures.culture_matrix(effects.iloc[1:]).data
    assert np.isnan(panel.z).sum() == 1


def test_no_effect_anywhere_is_drawn(effects):
    (panel,) = figures.culture_matrix(effects.assign(change=0.0)).data
    assert panel.zmax > 0


@pytest.mark.usefixtures("as_for_a_user")
def test_matrix_refuses_what_it_cannot_draw(effects):
    with pytest.raises(InvalidInputError, match=r"lacks tested, n_prompts; it has masked"):
        figures.culture_matrix(effects.drop(columns=["tested", "n_prompts"]))
    with pytest.raises(InvalidInputError, match=r"^This frame has no rows; give .*\.$"):
        figures.culture_matrix(effects.iloc[:0])
    with pytest.raises(InvalidInputError, match=r"more than once; give one row per pair"):
        figures.culture_matrix(pd.concat([effects, effects]))
    with pytest.raises(InvalidInputError, match=r"^value is 'size'; choose one of 'change', 'prob"):
        figures.culture_matrix(effects, value="size")


# --- comparison_bars ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["accuracy", "probability"])
def test_bars_are_the_table(table, value):
    figure = figures.comparison_bars(table, value=value)
    assert [bar.name for bar in figure.data] == ["original", "general", "random"]
    for bar in figure.data:
        rows = table[table["condition"] == bar.name]
        assert [html.unescape(name) for name in bar.x] == list(rows["benchmark"])
        np.testing.assert_array_equal(bar.y, rows[value])
        np.testing.assert_allclose(bar.y + bar.error_y.array, rows[f"{value}_high"])
        np.testing.assert_allclose(bar.y - bar.error_y.arrayminus, rows[f"{value}_low"])


def test_a_star_stands_above_a_drop_that_beats_random_neurons(table):
    """Where accuracy has p < 0.05, and with the bars of its condition."""
    tested = table.assign(p_value=float("nan"))
    general = tested["condition"] == "general"
    p_values = [STAR - 1e-3, STAR]  # of the two benchmarks
    tested.loc[general, "p_value"] = p_values
    figure = figures.comparison_bars(tested)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    (stars,) = (trace for trace in figure.data if trace.type == "scatter")
    first = tested[general].iloc[0]
    assert [html.unescape(name) for name in stars.x] == [first["benchmark"]]
    assert stars.y.tolist() == [first["accuracy_high"]]
    assert (stars.text, stars.mode) == ("*", "text")
    (above,) = (bar for bar in bars if bar.offsetgroup == stars.offsetgroup)
    assert (above.name, above.legendgroup) == ("general", stars.legendgroup)
    title = html.unescape(figure.layout.title.text)
    assert title.endswith("*: p < 0.05 against random neurons")
    p_texts = [data[4] for bar in bars for data in bar.customdata]
    assert p_texts.count("<br>p = 0.049 against random neurons") == 1
    assert len([text for text in p_texts if text]) == general.sum()
    for other in (tested.assign(p_value=0.06), table):
        assert all(trace.type == "bar" for trace in figures.comparison_bars(other).data)
    probability = figures.comparison_bars(tested, value="probability")
    assert all(trace.type == "bar" for trace in probability.data)  # p is of accuracy


def test_a_condition_under_two_factors_has_two_bars(table):
    twice = table.assign(factor=0.0)
    twice = pd.concat([twice, twice[twice["condition"] != "original"].assign(factor=2.0)])
    names = [bar.name for bar in figures.comparison_bars(twice).data]
    assert names == ["original", "general", "random", "general ×2", "random ×2"]


def test_tables_put_together_are_drawn_as_one(table):
    """Their row numbers repeat."""
    together = pd.concat([table, table.assign(benchmark="another")])
    assert [len(bar.x) for bar in figures.comparison_bars(together).data] == [4, 4, 4]


@pytest.mark.usefixtures("as_for_a_user")
def test_bars_refuse_what_they_cannot_draw(table):
    with pytest.raises(InvalidInputError, match=r"lacks accuracy_low; it has benchmark"):
        figures.comparison_bars(table.drop(columns="accuracy_low"))
    with pytest.raises(InvalidInputError, match=r"lacks benchmark.*; it has no columns"):
        figures.comparison_bars(pd.DataFrame())
    with pytest.raises(InvalidInputError, match=r"^value is 'f1'"):
        figures.comparison_bars(table, value="f1")


# --- layer_profile --------------------------------------------------------------------------------


def test_profile_lines_are_shares_of_each_set():
    sets = {
        ODD: NeuronSet.of({"a": [(0, 1), (0, 2), (2, 0)], "b": [(2, 1)]}),
        "y": many_neurons(99),
    }
    band, *lines = figures.layer_profile(sets).data
    assert band.fill == "toself"  # of the set that knows its shapes
    assert html.unescape(lines[0].name) == f"{ODD} (4)"
    assert lines[0].y.tolist() == [50, 0, 50]
    assert lines[1].y.sum() == pytest.approx(100)


def test_the_band_holds_random_sets_as_often_as_it_says(model):
    general = NeuronSet.of(
        {"mlp.hook_post": [(0, i) for i in range(40)]},
        shapes={"mlp.hook_post": (3, 64), "attn.hook_q": (3, 32)},
    )
    band, _ = figures.layer_profile(general).data
    high, low = np.split(np.asarray(band.y), 2)
    low = low[::-1]
    random_sets = [random_neurons(model, like=general, seed=seed) for seed in range(200)]
    shares = np.array([100 * each.per_layer().sum(axis=1).to_numpy() / 40 for each in random_sets])
    inside = ((low <= shares) & (shares <= high)).mean()
    assert 0.93 <= inside <= 0.995  # counts are whole, so an interval holds somewhat more than 95 %
    assert (low > 0).all()
    assert (high < 60).all()


def test_a_set_by_hand_has_no_band_and_an_empty_one_is_refused():
    assert len(figures.layer_profile(NeuronSet.of({"a": [(3, 17)]})).data) == 1
    with pytest.raises(InvalidInputError, match=r"x 1, y 0\); give at least one set"):
        figures.layer_profile({"x": NeuronSet.of({"a": [(0, 0)]}), "y": NeuronSet.of({})})
    with pytest.raises(InvalidInputError, match="no sets"):
        figures.layer_profile({})


# --- dose_response and threshold_sweep ------------------------------------------------------------


@pytest.fixture
def doses() -> pd.DataFrame:
    rows = [
        {
            "benchmark": benchmark,
            "condition": condition,
            "factor": factor,
            "n_neurons": 7,
            "n_questions": 40,
            "accuracy": 50.0 + 20 * factor + i,
            "accuracy_low": 45.0 + 20 * factor,
            "accuracy_high": 56.0 + 20 * factor,
        }
        for benchmark in ("culture", ODD)
        for i, condition in enumerate(("neurons", "random"))
        for factor in (2.0, 0.0, 1.0)
    ]
    return pd.DataFrame(rows)


def test_dose_lines_are_the_frame_in_order_of_the_factor(doses):
    figure = figures.dose_response(doses)
    lines = [trace for trace in figure.data if trace.fill is None and trace.x[0] is not None]
    assert [html.unescape(line.name) for line in lines] == ["culture", "culture", ODD, ODD]
    for line, (_, rows) in zip(
        lines, doses.groupby(["benchmark", "condition"], sort=False), strict=True
    ):
        expected = rows.sort_values("factor")
        np.testing.assert_array_equal(line.x, expected["factor"])
        np.testing.assert_array_equal(line.y, expected["accuracy"])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert bands[0].y.tolist() == [56, 76, 96, 85, 65, 45]
    assert sum(bool(line.showlegend) for line in lines) == 2
    assert figure.data[-1].name == "random"
    with pytest.raises(InvalidInputError, match=r"lacks probability.*evaluation\.dose_response"):
        figures.dose_response(doses, value="probability")


@pytest.fixture
def sweep() -> pd.DataFrame:
    rows = [
        (name, value, 0.01, n, jaccard, benchmark, accuracy)
        for name in ("t", "r")
        for value, n, jaccard in ((0.02, 20, 0.5), (0.01, 10, 1.0))
        for benchmark, accuracy in (("culture", 40.0 + n), (ODD, 90.0))
    ]
    columns = ["threshold", "value", "default", "n_neurons", "jaccard", "benchmark", "accuracy"]
    return pd.DataFrame(rows, columns=columns)


def test_sweep_panels_are_the_frame(sweep):
    figure = figures.threshold_sweep(sweep)
    traces = {(t.xaxis, t.yaxis, html.unescape(t.name)): t for t in figure.data}
    assert len(traces) == 2 * (1 + 1 + 2)
    assert traces["x", "y", ""].y.tolist() == [10, 20]
    assert traces["x3", "y3", ""].y.tolist() == [1, 0.5]
    assert traces["x5", "y5", "culture"].y.tolist() == [50, 60]
    assert traces["x6", "y6", ODD].y.tolist() == [90, 90]
    for trace in traces.values():
        assert list(trace.x) == ["0.01", "0.02"]
        assert trace.marker.size[0] > trace.marker.size[1]
    plain = figures.threshold_sweep(sweep.drop(columns=["benchmark", "accuracy"]))
    assert len(plain.data) == 4


# --- score_distribution, overlap_matrix, token_attribution ----------------------------------------


def test_every_neuron_is_in_a_bar_and_every_given_one_too():
    values = {"a": torch.randn(2, 3, 50), ODD: torch.zeros(2, 3, 4)}
    scores = NeuronScores(values, ("x", "y"), 4, (2, 2), {})
    best = int(values["a"].sum(0).flatten().argmax())
    neurons = NeuronSet.of({"a": [divmod(best, 50), (0, 0)]})
    everywhere, given, odd, none = figures.score_distribution(scores, neurons=neurons, bins=9).data
    assert everywhere.y.sum() == 150
    assert odd.y.sum() == 12
    assert (given.y <= everywhere.y).all()
    assert (given.y.sum(), given.y[-1] >= 1, none.y.sum()) == (2, True, 0)
    with pytest.raises(InvalidInputError, match=r"^L0\.a\.50 was not scored"):
        figures.score_distribution(scores, neurons=NeuronSet.of({"a": [(0, 50)]}))
    with pytest.raises(InvalidInputError, match=r"^bins is 0"):
        figures.score_distribution(scores, bins=0)


def test_overlaps_are_jaccard_and_a_set_against_itself_is_blank():
    sets = {ODD: many_neurons(50), "y": NeuronSet.of({}), "z": many_neurons(60)}
    (panel,) = figures.overlap_matrix(sets).data
    assert [html.unescape(name) for name in panel.x] == list(sets)
    for i, one in enumerate(sets.values()):
        for j, other in enumerate(sets.values()):
            shared = len(set(one) & set(other))
            assert panel.customdata[i][j] == [shared, len(one), len(other)]
            union = len(set(one) | set(other))
            assert np.isnan(panel.z[i, j]) if i == j else panel.z[i, j] == shared / union
    assert panel.zmax == np.nanmax(panel.z)
    with pytest.raises(InvalidInputError, match=r"^There is nothing to compare with 1 set"):
        figures.overlap_matrix({"x": many_neurons(5)})


TOKENS = ["<bos>", "a<b", ODD, "%{z}", "\n", " ", "خوش", "文化", " tea", "internationalisation"]


def test_tokens_are_written_in_rows_and_centred_on_zero():
    values = torch.linspace(-2, 1, len(TOKENS))
    (panel,) = figures.token_attribution(TOKENS, values, per_row=4).data
    assert panel.z.shape == (3, 4)
    np.testing.assert_array_equal(panel.z.ravel()[: len(TOKENS)].astype(np.float32), values)
    assert np.isnan(panel.z.ravel()[len(TOKENS) :]).all()
    assert (panel.zmin, panel.zmid, panel.zmax) == (-2, 0, 2)
    cell_texts = [html.unescape(cell) for row in panel.text for cell in row][: len(TOKENS)]
    assert cell_texts[4:] == [r"\n", "·", "خوش", "文化", "tea", "internati…"]
    whole = [html.unescape(cell) for row in panel.customdata for cell in row][: len(TOKENS)]
    assert whole == [repr(token) for token in TOKENS]
    assert not any("<" in cell for row in panel.text for cell in row)


def test_a_long_prompt_is_drawn_and_silence_has_a_scale():
    figure = figures.token_attribution(["tea"] * 2000, np.zeros(2000))
    assert figure.data[0].zmax == 1
    assert len(figure.to_json()) < LARGEST


@pytest.mark.parametrize(
    ("tokens", "values"), [([], []), (["a"], [1.0, 2.0]), (["a"], [float("nan")])]
)
def test_tokens_without_values_are_refused(tokens, values):
    with pytest.raises(InvalidInputError, match="give one finite value per token"):
        figures.token_attribution(tokens, np.array(values))
    with pytest.raises(InvalidInputError, match=r"^per_row is 0"):
        figures.token_attribution(["a"], np.ones(1), per_row=0)


# --- a figure from outside ------------------------------------------------------------------------


def neurons_per_site(neurons: NeuronSet) -> go.Figure:
    """How many neurons a set has at each site."""
    counts = neurons.per_layer().sum()
    bars = go.Bar(x=figures.style.labels(counts.index), y=counts)
    figure = go.Figure(bars, figures.style.layout("Neurons per <site>"))
    figure.update_xaxes(figures.style.axis(None), type="category")
    return figure.update_yaxes(figures.style.axis("neurons"))


def test_a_figure_from_outside_has_the_look_of_the_others():
    neurons = many_neurons(500)
    own, ours = neurons_per_site(neurons), figures.layer_profile(neurons)
    assert own.data[0].y.sum() == len(neurons)
    assert own.layout.title.text == "Neurons per &lt;site&gt;"
    assert own.layout.font == ours.layout.font
    assert own.layout.paper_bgcolor == ours.layout.paper_bgcolor
    assert own.layout.yaxis.gridcolor == ours.layout.yaxis.gridcolor


# --- all of them ----------------------------------------------------------------------------------


def test_nothing_global_changes_and_nothing_is_shown(effects, table, doses, sweep, monkeypatch):
    calls = []
    monkeypatch.setattr(plotly.io, "show", lambda *_, **__: calls.append(1))
    before = plotly.io.templates.default, plotly.io.renderers.default
    all_figures = [
        figures.layer_heatmap(NeuronSet.of({"a": [(0, 1)]})),
        figures.culture_matrix(effects),
        figures.comparison_bars(table),
        figures.layer_profile(many_neurons(9)),
        figures.dose_response(doses),
        figures.threshold_sweep(sweep),
        figures.score_distribution(NeuronScores({"a": torch.rand(1, 2, 3)}, ("x",), 1, (1,), {})),
        figures.overlap_matrix({"x": many_neurons(9), "y": many_neurons(8)}),
        figures.token_attribution(["a"], np.ones(1)),
    ]
    assert len({type(figure) for figure in all_figures}) == 1
    assert (plotly.io.templates.default, plotly.io.renderers.default) == before
    assert not calls
    for figure in all_figures:
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.width is None
