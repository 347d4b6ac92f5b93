"""The live inspector: its state without a browser, its widgets without a kernel."""

import re
from typing import Any

import ipywidgets
import numpy as np
import pytest
import torch
from browser import keep_screenshot
from hypothesis import given
from hypothesis import strategies as st

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.explore import explore
from culnig_tl.explore import state as state_module
from culnig_tl.explore.canvas import Heatmap
from culnig_tl.explore.widgets import ExplorerView
from culnig_tl.figures import layer_heatmap
from culnig_tl.hooks import scaled_neurons
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import prepare
from culnig_tl.questions import prepared as prepared_module
from culnig_tl.scores import NeuronScores

PAIR = NeuronSet.of({"mlp.hook_post": [(0, 3), (2, 60)]})


@pytest.fixture(scope="module")
def scores(loaded, rows):
    return attribute(loaded(), rows, progress=False)


@pytest.fixture
def explorer(model, rows, scores):
    return explore(model, rows, scores=scores, sets={"pair": PAIR})


@pytest.fixture(scope="module")
def still_explorer(loaded, rows, scores):
    """One explorer for many examples."""
    return explore(loaded(), rows, scores=scores)


def chances(model, text, neurons, factor):
    """Next-token probabilities, by the plain call."""
    with scaled_neurons(model, neurons, factor=factor), torch.no_grad():
        return model(torch.tensor([model.tokenizer(text)["input_ids"]]))[0, -1].softmax(-1)


# --- the state ------------------------------------------------------------------------------------


def test_it_begins_with_the_best_neuron_and_the_first_question(explorer, scores, rows):
    best = scores.to_frame(top=1).iloc[0]
    assert str(explorer.neuron) == f"L{best['layer']}.{best['site']}.{best['neuron']}"
    assert explorer.text == rows[0]["prompt"]
    assert explorer.answers()["probability"].tolist() == explorer.answers()["scaled"].tolist()


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_answers_are_those_of_a_scaled_model(explorer, model, rows, factor):
    explorer.target, explorer.factor = "pair", factor
    answers = explorer.answers()
    ids = [model.tokenizer.convert_tokens_to_ids(f"\u0120{letter}") for letter in "ABC"]
    assert answers["answer"].tolist() == rows[0]["options"]
    for column, by in (("probability", 1.0), ("scaled", factor)):
        expected = chances(model, rows[0]["prompt"], PAIR, by)[ids].tolist()
        assert answers[column].tolist() == pytest.approx(expected, rel=1e-6)
    assert answers["right"].tolist() == [True, False, False]


def test_a_prompt_of_one_s_own_is_read(explorer, model):
    explorer.read("bread soup")
    expected = chances(model, "bread soup", PAIR, 1.0).topk(5)[0]
    assert explorer.answers()["probability"].tolist() == pytest.approx(expected.tolist())
    assert explorer.text == "bread soup"


def test_neurons_are_marked_and_scaled_together(explorer):
    for neuron in ("L0.mlp.hook_post.3", Neuron("attn.hook_q", 1, 5)):
        explorer.look_at(neuron)
        explorer.mark()
    explorer.target = "marked neurons"
    assert set(explorer.scaled()) == {("mlp.hook_post", 0, 3), ("attn.hook_q", 1, 5)}
    explorer.unmark()
    assert len(explorer.scaled()) == 0
    explorer.target = "this neuron"
    assert set(explorer.scaled()) == {("attn.hook_q", 1, 5)}


def test_a_cell_shows_the_best_neuron_of_its_bin(explorer, scores):
    for panel in explorer.panels():
        total = scores.total(panel["site"]).float()
        for layer, (values, neurons) in enumerate(
            zip(panel["values"], panel["neurons"], strict=True)
        ):
            assert total[layer, neurons].tolist() == values
            assert max(values) == total[layer].max().item()
            assert neurons == sorted(neurons)
    sites = [panel["site"] for panel in explorer.panels()]
    assert [trace.name for trace in explorer.heatmap().data] == sites


@pytest.mark.parametrize("width", [1, 63, 64, 65, 100, 1000])
@given(n_layers=st.integers(1, 3), seed=st.integers(0, 9))
def test_heatmap_and_explorer_have_the_same_bins(width, still_explorer, n_layers, seed):
    values = torch.randn(2, n_layers, width, generator=torch.Generator().manual_seed(seed))
    still_explorer.scores = NeuronScores({"a": values}, ("x", "y"), 1, (1, 1), {})
    figure: Any = layer_heatmap(still_explorer.scores)
    (heatmap,) = figure.data
    (panel,) = still_explorer.panels()
    assert panel["neurons"] == np.asarray(heatmap.customdata).tolist()
    assert panel["values"] == np.asarray(heatmap.z).tolist()
    edges = np.asarray(heatmap.x)
    assert len(edges) - 1 == len(panel["neurons"][0]) == min(width, 64)
    assert ((edges[:-1] <= panel["neurons"]) & (panel["neurons"] < edges[1:])).all()


def test_a_card_is_made_once_and_no_question_is_encoded_again(model, rows, scores, monkeypatch):
    prepared = prepare(model, rows)
    explorer = explore(model, prepared, scores=scores, n_seen=3)
    assert explorer.rows.prompts == tuple(prepared.prompts[row] for row in (0, 2, 4))
    monkeypatch.setattr(prepared_module, "encode", None)
    card = explorer.look_at("L0.mlp.hook_post.3")
    assert explorer.look_at(Neuron("mlp.hook_post", 0, 3)) is card


def test_it_is_one_line_of_text(explorer, model):
    explorer.look_at("L0.mlp.hook_post.3")
    explorer.mark()
    assert repr(explorer) == (
        f"Explorer of {model.cfg.model_name}: looking at L0.mlp.hook_post.3, 1 neuron marked, "
        "factor 1, 6 questions"
    )
    explorer.unmark()
    explorer.factor = 0.5
    assert "0 neurons marked, factor 0.5," in repr(explorer)


@pytest.mark.usefixtures("as_for_a_user")
def test_what_cannot_be_explored_is_a_sentence(explorer, model, rows, scores):
    before = explorer.neuron
    with pytest.raises(InvalidInputError, match=r"'nonsense' is no neuron; write layer, site"):
        explorer.look_at("nonsense")
    with pytest.raises(UnknownNameError, match=r"'mlp.x' is not a site of this model"):
        explorer.look_at("L0.mlp.x.3")
    assert explorer.neuron == before
    explorer.target = "nobody"
    with pytest.raises(UnknownNameError, match=r"no neurons named 'nobody'; .*'pair'"):
        explorer.answers()
    with pytest.raises(InvalidInputError, match=r"n_seen is 0; give a whole number from 1"):
        explore(model, rows, scores=scores, n_seen=0)


def test_without_widgets_a_still_picture_says_so(explorer, monkeypatch):
    monkeypatch.setattr(state_module, "find_spec", lambda name: None)
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "No widget runs here" in bundle["text/html"]
    assert explorer.look_at(explorer.neuron).fragment() in bundle["text/html"]
    assert explorer.answers_html() in bundle["text/html"]
    assert bundle["text/html"] == explorer._repr_html_()
    assert bundle["text/plain"] == repr(explorer)


def test_the_still_picture_has_a_row_a_layer_and_a_colour_a_bin(explorer, scores):
    still = explorer.static_html()
    rows = re.findall(r'<div style="background:linear-gradient\(to right, (.*)\)"></div>', still)
    expected = [line for panel in explorer.panels() for line in panel["values"][::-1]]
    assert len(rows) == len(expected) == 3 * len(scores.sites)
    for row, line in zip(rows, expected, strict=True):
        assert row.count("rgba") == len(line)
    most = explorer.panels()[0]["values"]
    strongest = max(range(3), key=lambda layer: max(most[layer]))
    assert "rgba(67,147,195,0.62)" in rows[2 - strongest], "layer 0 is the lowest row"


def test_with_widgets_the_still_picture_stays_for_readers_without_a_kernel(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "No widget runs here" in bundle["text/html"]


# --- the widgets ----------------------------------------------------------------------------------


def test_widgets_move_the_state_and_show_it(explorer):
    view = ExplorerView(explorer)
    heatmap, looking, prompt, scaling, message, answers, card = view.children
    neuron, mark, unmark = looking.children
    target, factor = scaling.children
    assert isinstance(heatmap, Heatmap)
    assert isinstance(factor, ipywidgets.FloatSlider)
    heatmap.picked = ["attn.hook_v", 1, 5]
    assert neuron.value == str(explorer.neuron) == "L1.attn.hook_v.5"
    assert "<code>L1.attn.hook_v.5</code>" in card.value
    mark.click()
    target.value = "marked neurons"
    before = answers.value
    factor.value = 0.0
    assert explorer.factor == 0.0
    assert answers.value != before
    assert explorer.answers_html() in answers.value
    prompt.value = "bread </script><b>soup"
    assert explorer.text == "bread </script><b>soup"
    prompt.value = ""
    assert message.value == "There is no text; write a prompt of at least one word."
    neuron.value = "L1.attn.hook_v.6"
    assert message.value == ""
    unmark.click()
    assert len(explorer.marked) == 0


# --- live -----------------------------------------------------------------------------------------


@pytest.mark.browser
def test_in_jupyterlab_slider_set_heatmap_and_prompt_move_what_is_shown(jupyterlab):
    name = jupyterlab.write(
        "explore.ipynb",
        [
            "import culnig_tl as ct\nmodel = ct.load_model()\n"
            "rows = ct.load_benchmark('atlas', split='test', limit=16)",
            "pair = ct.NeuronSet.of({'mlp.hook_post': [(0, 3), (2, 60)]})\n"
            "ct.explore(model, rows, sets={'pair': pair}, progress=False)",
        ],
    )
    with jupyterlab.opened(name) as page:
        cells = page.locator(".answers td.scaled")
        cells.first.wait_for()
        before = cells.all_text_contents()
        assert len(before) == 4
        assert page.get_by_text("Flattening the indices").count() == 0, "progress=False holds"
        page.locator(".noUi-handle").first.focus()
        page.keyboard.press("Home")
        page.wait_for_function(
            "before => [...document.querySelectorAll('.answers td.scaled')]"
            ".map(cell => cell.textContent).join() !== before",
            arg=",".join(before),
        )
        assert "multiplied by 0.0" in page.locator(".answers").first.text_content()
        page.locator(".widget-dropdown select").select_option("pair")
        page.get_by_text("2 neurons (pair) multiplied by 0.0").wait_for()
        canvas = page.locator("canvas.culnig-heatmap").last
        canvas.hover(position={"x": 12, "y": 8})
        pointed = page.get_by_text(re.compile(r"^L3\.attn\.hook_v\.\d+ scores ")).text_content()
        canvas.click(position={"x": 12, "y": 8})
        page.locator(".culnig code", has_text=pointed.split()[0]).wait_for()
        prompt = page.locator(".widget-textarea textarea")
        prompt.fill("The usual staple food in Iran is")
        prompt.blur()
        page.wait_for_function("document.querySelectorAll('.answers td.scaled').length === 5")
        keep_screenshot(page, "explorer")
