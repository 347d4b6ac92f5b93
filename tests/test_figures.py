# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
"""Figures show the numbers they were given, stay small, and touch nothing global."""

import html

import numpy as np
import pandas as pd
import plotly.io
import pytest
import torch

from culnig_tl import figures
from culnig_tl.errors import InvalidInputError
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores

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


def drawn(figure) -> dict[str, np.ndarray]:
    """The coloured values of every panel that has any."""
    return {trace.name: np.asarray(trace.z) for trace in figure.data if trace.type == "heatmap"}


def many_neurons(n: int) -> NeuronSet:
    generator = np.random.default_rng(0)
    chosen = {site: set() for site in SHAPES}
    for site, share in zip(SHAPES, (0.94, 0.03, 0.02, 0.01), strict=True):
        n_layers, width = SHAPES[site]
        flat = generator.choice(n_layers * width, int(n * share), replace=False)
        chosen[site] = {divmod(int(index), width) for index in flat}
    return NeuronSet.of(chosen, shapes=SHAPES)


# --- layer_heatmap --------------------------------------------------------------------------------


def test_every_selected_neuron_is_counted_in_its_layer_and_bin():
    neurons = many_neurons(8000)
    counts = drawn(figures.layer_heatmap(neurons))
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
    assert {name: z.shape for name, z in drawn(figure).items()} == {"a": (4, 18), "b": (1, 1)}


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
    with pytest.raises(InvalidInputError, match=r"^bins is 0; give .* at least 1\.$"):
        figures.layer_heatmap(NeuronSet.of({"a": [(0, 0)]}), bins=0)


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
    assert [(s.x0, s.y0) for s in figure.layout.shapes] == [(-0.5, -0.5), (0.5, 0.5), (1.5, 1.5)]
    assert panel.colorbar.title.text == "accuracy change, points"
    other = figures.culture_matrix(effects, value="probability_change").data[0]
    assert other.colorbar.title.text == "mean P(answer) change"


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
@pytest.mark.usefixtures("as_for_a_user")
def test_matrix_refuses_what_it_cannot_draw(effects):
    with pytest.raises(InvalidInputError, match=r"lacks tested, n_prompts; it has masked"):
        figures.culture_matrix(effects.drop(columns=["tested", "n_prompts"]))
    with pytest.raises(InvalidInputError, match=r"^This frame has no rows; give .*\.$"):
        figures.culture_matrix(effects.iloc[:0])
    with pytest.raises(InvalidInputError, match=r"more than once; give one row a pair"):
        figures.culture_matrix(pd.concat([effects, effects]))
    with pytest.raises(InvalidInputError, match=r"^value is 'size'; give one of change, prob"):
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


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.usefixtures("as_for_a_user")
def test_bars_refuse_what_they_cannot_draw(table):
    with pytest.raises(InvalidInputError, match=r"lacks accuracy_low; it has benchmark"):
        figures.comparison_bars(table.drop(columns="accuracy_low"))
    with pytest.raises(InvalidInputError, match=r"lacks benchmark.*; it has no columns"):
        figures.comparison_bars(pd.DataFrame())
    with pytest.raises(InvalidInputError, match=r"^value is 'f1'"):
        figures.comparison_bars(table, value="f1")


# --- all of them ----------------------------------------------------------------------------------


def test_nothing_global_changes_and_nothing_is_shown(effects, table, monkeypatch):
    shown = []
    monkeypatch.setattr(plotly.io, "show", lambda *_, **__: shown.append(1))
    before = plotly.io.templates.default, plotly.io.renderers.default
    made = [
        figures.layer_heatmap(NeuronSet.of({"a": [(0, 1)]})),
        figures.culture_matrix(effects),
        figures.comparison_bars(table),
    ]
    assert (plotly.io.templates.default, plotly.io.renderers.default) == before
    assert not shown
    for figure in made:
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.width is None
