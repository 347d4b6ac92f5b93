"""The live inspector: its state without a browser, its widgets without a kernel."""

import asyncio
import re
from base64 import b64decode
from io import BytesIO
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from browser import keep_screenshot
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.evaluation import ablation_drops
from culnig_tl.explore import explore
from culnig_tl.explore import state as state_module
from culnig_tl.explore.score_views import panels
from culnig_tl.explore.widgets import ExplorerView
from culnig_tl.figures import layer_heatmap
from culnig_tl.hooks import scaled_neurons
from culnig_tl.inspection import generate, inspect_neuron, observation
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import prepare
from culnig_tl.questions import prepared as prepared_module
from culnig_tl.scores import NeuronScores

PAIR = NeuronSet.of({"mlp.hook_post": [(0, 3), (2, 60)]})


@pytest.fixture(scope="module")
def scores(loaded, rows):
    return attribute(loaded(), rows, progress=False)


@pytest.fixture(scope="module")
def control(loaded, rows):
    bare = rows.map(lambda row: {**row, "prompt": "Answer:"})
    return attribute(loaded(), bare, clamp=True, progress=False)


@pytest.fixture
def explorer(model, rows, scores, control):
    return explore(model, rows, scores=scores, sets={"pair": PAIR}, control=control)


def chances(model, text, neurons, factor):
    """Next-token probabilities, by the plain call."""
    with scaled_neurons(model, neurons, factor=factor), torch.no_grad():
        return model(torch.tensor([model.tokenizer(text)["input_ids"]]))[0, -1].softmax(-1)


def drops(model, rows, neurons):
    """What each neuron's ablation costs each answer, and the mean of each."""
    probability = ablation_drops(prepare(model, rows), NeuronSet.of(neurons)).probability
    return probability, dict(zip(map(str, NeuronSet.of(neurons)), probability.mean(1), strict=True))


def alpha_of(picture):
    """The opacity of a PNG's pixels, 0 to 255, as Pillow reads them, which captum brings."""
    with Image.open(BytesIO(b64decode(picture))) as image:
        return np.asarray(image)[..., 3].astype(float)


# --- the state ------------------------------------------------------------------------------------


def test_it_opens_on_the_mlp_neuron_of_the_set_that_costs_most(explorer, model, rows):
    _, costs = drops(model, rows, PAIR)
    assert str(explorer.neuron) == max(costs, key=costs.__getitem__)
    assert explorer.text == rows[0]["prompt"]
    assert explorer.answers()["probability"].tolist() == pytest.approx(
        explorer.answers()["scaled"].tolist()
    )


def test_without_a_set_it_opens_on_the_costliest_of_the_best_mlp_neurons(model, rows, scores):
    total = scores.total("mlp.hook_post")
    best = [divmod(place, 64) for place in total.flatten().topk(6).indices.tolist()]
    _, costs = drops(model, rows, {"mlp.hook_post": best})
    explorer = explore(model, rows, scores=scores, sets={"q": NeuronSet.of("L0.attn.hook_q.3")})
    assert str(explorer.neuron) == max(costs, key=costs.__getitem__)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_answers_are_those_of_a_scaled_model(explorer, model, rows, factor):
    explorer.target, explorer.factor = "pair", factor
    answers = explorer.answers()
    ids = [model.tokenizer.convert_tokens_to_ids(f"\u0120{letter}") for letter in "ABC"]
    assert answers["answer"].tolist() == rows[0]["options"]
    for column, by in (("probability", 1.0), ("scaled", factor)):
        expected = chances(model, rows[0]["prompt"], PAIR, by)[ids].tolist()
        assert answers[column].tolist() == pytest.approx(expected, rel=1e-5)
    assert answers["right"].tolist() == [True, False, False]


@pytest.mark.parametrize("layer", [0, 2])
def test_the_first_look_is_an_ablation(explorer, model, rows, layer):
    neuron = Neuron("attn.hook_v", layer, 5)
    explorer.point_at(neuron)
    look = explorer.first_look()
    (probability,), _ = drops(model, rows, [neuron])
    assert sorted(look.frame["drop"]) == pytest.approx(sorted(probability.tolist()), abs=1e-6)
    assert look.mean_drop == pytest.approx(probability.mean().item(), abs=1e-6)
    assert look.place == explorer.scores.rank_of(neuron)
    assert f"ranks {look.place[0]:,} of {look.place[1]:,}" in look.fragment()


def test_a_card_is_that_of_inspect_neuron(explorer, model, rows, scores):
    for neuron in ("L0.mlp.hook_post.3", "L1.attn.hook_q.5"):
        card = explorer.look_at(neuron)
        expected = inspect_neuron(model, rows, neuron, scores={"these questions": scores})
        for table in ("ranks", "histogram", "questions", "cultures", "neighbours", "promoted"):
            pd.testing.assert_frame_equal(getattr(card, table), getattr(expected, table))
        assert card.strongest[0].tokens.tokens == expected.strongest[0].tokens.tokens
        assert card.limit == pytest.approx(expected.limit)


def test_all_neurons_are_scored_once_and_the_scoring_goes_on_where_it_stopped(
    explorer, monkeypatch
):
    scored, score = [], observation.gradient_x_activation
    monkeypatch.setattr(
        observation,
        "gradient_x_activation",
        lambda model, batch, **rest: scored.extend(batch.ids) or score(model, batch, **rest),
    )
    explorer._seen._n_rows = 2
    next(explorer.card_steps())
    assert len(scored) == 2
    explorer.look_at("L2.mlp.hook_post.60")
    explorer.look_at("L1.attn.hook_v.5")
    assert sorted(scored) == sorted(explorer.rows.rows["id"])


def test_a_card_is_made_once_and_no_question_is_encoded_again(model, rows, scores, monkeypatch):
    prepared = prepare(model, rows)
    explorer = explore(model, prepared, scores=scores, n_seen=3)
    assert explorer.rows.prompts == tuple(prepared.prompts[row] for row in (0, 2, 4))
    monkeypatch.setattr(prepared_module, "encode", None)
    card = explorer.look_at("L0.mlp.hook_post.3")
    assert explorer.look_at(Neuron("mlp.hook_post", 0, 3)) is card
    assert list(explorer.card_steps()) == []


def test_a_prompt_of_one_s_own_shows_what_rises(explorer, model):
    explorer.read("bread soup")
    explorer.target, explorer.factor = "pair", 0.0
    before, after = (chances(model, "bread soup", PAIR, factor) for factor in (1.0, 0.0))
    assert explorer.answers()["probability"].tolist() == pytest.approx(before.topk(5)[0].tolist())
    assert explorer.text == "bread soup"
    rises, tokens = (after - before).topk(5)
    rising = explorer.rising()
    assert rising["token"].tolist() == [model.tokenizer.decode([token]) for token in tokens]
    measured = rising["scaled"] - rising["probability"]
    assert measured.tolist() == pytest.approx(rises.tolist(), abs=1e-6)
    assert "Tokens that rise" in explorer.answers_html()
    explorer.factor = 1.0
    assert "Tokens that rise" not in explorer.answers_html()


def test_it_writes_on_as_generate_does(explorer, model):
    explorer.read("bread soup")
    explorer.target, explorer.factor = "pair", 0.0
    written = explorer.write_on(max_new_tokens=3)
    expected = generate(model, "bread soup", PAIR, max_new_tokens=3)
    pd.testing.assert_frame_equal(written.frame, expected.frame)


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


@pytest.mark.usefixtures("as_for_a_user")
def test_the_tray_unmarks_one_undoes_and_saves(explorer, model, tmp_path):
    tray = explorer.tray
    with pytest.raises(InvalidInputError, match=r"No neuron is marked; mark at least one"):
        tray.save(tmp_path / "none.json")
    tray.mark("L0.mlp.hook_post.3")
    tray.mark("L1.attn.hook_q.5")
    tray.mark("L1.attn.hook_q.5")
    explorer.unmark("L0.mlp.hook_post.3")
    assert list(map(str, explorer.marked)) == ["L1.attn.hook_q.5"]
    tray.undo()
    assert len(explorer.marked) == 2
    with pytest.raises(InvalidInputError, match=r"The file has no name"):
        tray.save(" ")
    saved = NeuronSet.load(tray.save(tmp_path / "two.json"))
    assert saved == explorer.marked
    assert saved.source["model_name"] == model.cfg.model_name
    with scaled_neurons(model, saved):
        pass  # without the warning that they are another model's
    for _ in range(3):
        tray.undo()
    assert len(explorer.marked) == 0


@pytest.mark.usefixtures("as_for_a_user")
def test_neurons_are_found_by_name_question_and_answer(explorer, rows, scores):
    assert explorer.search("L1.attn.hook_q.5")["neuron"].tolist() == ["L1.attn.hook_q.5"]
    named = explorer.search("L2.mlp", top=3)
    total = scores.total("mlp.hook_post")[2]
    assert named["neuron"].tolist() == [
        f"L2.mlp.hook_post.{index}" for index in total.topk(3).indices.tolist()
    ]
    text = "rice"
    places = [i for i, row in enumerate(rows) if text in f"{row['prompt']} {row['answer']}".lower()]
    assert len(places) > 1
    found = explorer.search(text.upper(), top=1).iloc[0]
    means = {
        str(Neuron(site, *divmod(place, values.shape[2]))): value
        for site, values in attribute(
            explorer.model, rows.select(places), progress=False
        ).values.items()
        for place, value in enumerate(values.sum(0).flatten().tolist())
    }
    assert found["neuron"] == max(means, key=means.__getitem__)
    assert found["found"] == f"in {len(places)} prompts with 'RICE'"
    with pytest.raises(InvalidInputError, match=r"questions or their answers holds 'xyz'"):
        explorer.search("xyz")
    with pytest.raises(InvalidInputError, match=r"nothing to search for"):
        explorer.search(" ")


@pytest.mark.usefixtures("as_for_a_user")
def test_the_heatmap_shows_scores_without_the_control_or_of_one_culture(
    explorer, model, rows, scores, control
):
    assert explorer.views.names == ("all cultures", "minus control", *scores.cultures)
    culture = scores.cultures[0]
    for name, expected in (
        ("minus control", scores.total("mlp.hook_post") - control.total("mlp.hook_post")),
        (culture, scores.of_culture("mlp.hook_post", culture)),
    ):
        explorer.shown = name
        (panel,) = (each for each in explorer.panels() if each["site"] == "mlp.hook_post")
        assert panel["values"] == expected.float().tolist()
    explorer.shown = "nobody"
    with pytest.raises(UnknownNameError, match=r"no scores named 'nobody'; .*'minus control'"):
        explorer.panels()
    other = NeuronScores({"mlp.hook_post": torch.rand(1, 3, 9)}, ("A",), 1, (1,), {})
    with pytest.raises(InvalidInputError, match=r"The control's scores are of .* \(3, 9\)"):
        explore(model, rows, scores=scores, control=other)


def test_set_tray_and_the_neuron_itself_are_marked(explorer):
    explorer.point_at("L1.attn.hook_v.5")
    explorer.mark()
    assert explorer.marks() == {
        "found": list(PAIR),
        "marked": [Neuron("attn.hook_v", 1, 5)],
        "current": [Neuron("attn.hook_v", 1, 5)],
    }
    explorer.drawn = "none"
    assert explorer.marks()["found"] == []
    explorer.drawn = "nobody"
    with pytest.raises(UnknownNameError, match=r"no neurons named 'nobody'; .*'pair'"):
        explorer.marks()


@pytest.mark.parametrize("width", [1, 63, 64, 65, 100, 1000])
@given(n_layers=st.integers(1, 3), seed=st.integers(0, 9))
def test_heatmap_and_explorer_have_the_same_bins(width, n_layers, seed):
    values = torch.randn(2, n_layers, width, generator=torch.Generator().manual_seed(seed))
    scores = NeuronScores({"a": values}, ("x", "y"), 1, (1, 1), {})
    figure: Any = layer_heatmap(scores)
    (heatmap,) = figure.data
    (panel,) = panels(scores)
    assert panel["neurons"] == np.asarray(heatmap.customdata).tolist()
    assert panel["values"] == np.asarray(heatmap.z).tolist()
    edges = np.asarray(panel["edges"])
    assert edges.tolist() == np.asarray(heatmap.x).tolist()
    assert len(edges) - 1 == len(panel["neurons"][0]) == min(width, 64)
    assert ((edges[:-1] <= panel["neurons"]) & (panel["neurons"] < edges[1:])).all()


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
    with pytest.raises(InvalidInputError, match=r"\b64\b"):
        explorer.look_at("L0.mlp.hook_post.64")
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


def test_the_still_picture_has_a_pixel_a_cell_and_one_scale(explorer, scores):
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", explorer.static_html())
    alphas = [alpha_of(picture) for picture in pictures]
    values = [np.asarray(panel["values"])[::-1] for panel in explorer.panels()]
    assert [each.shape for each in alphas] == [each.shape for each in values]
    assert len(alphas) == len(scores.sites)
    most = max(each.max() for each in values)
    for alpha, of_site in zip(alphas, values, strict=True):
        expected = 230 * np.sqrt(np.clip(of_site / most, 0, 1))
        assert np.abs(alpha - expected).max() <= 0.5, "layer 0 is the lowest row"


def test_with_widgets_the_still_picture_stays_for_readers_without_a_kernel(explorer):
    bundle = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "No widget runs here" in bundle["text/html"]
    assert explorer.first_look().fragment() in bundle["text/html"]


# --- the widgets ----------------------------------------------------------------------------------


def test_widgets_move_the_state_and_show_it(explorer, tmp_path):
    view = ExplorerView(explorer)
    assert isinstance(view.factor, ipywidgets.FloatSlider)
    assert view.heatmap.most == max(
        max(map(max, panel["values"])) for panel in explorer.panels()
    ), "one scale for all sites"
    view.heatmap.picked = ["attn.hook_v", 1, 5]
    assert view.neuron.value == str(explorer.neuron) == "L1.attn.hook_v.5"
    assert view.heatmap.marks["current"] == [["attn.hook_v", 1, 5]]
    assert "<code>L1.attn.hook_v.5</code>" in view.card.value
    assert view.first_look.value == "", "the card says it too"
    view.mark.click()
    assert view.heatmap.marks["marked"] == [["attn.hook_v", 1, 5]]
    before = view.answers.value
    view.mask.click()
    assert (explorer.target, explorer.factor) == ("marked neurons", 0.0)
    assert view.answers.value != before
    assert explorer.answers_html() in view.answers.value
    view.prompt.value = "bread </script><b>soup"
    assert explorer.text == "bread </script><b>soup"
    view.write.click()
    assert view.replies.value.count('class="tokens"') == 2
    view.prompt.value = ""
    assert "There is no text; write a prompt of at least one word." in view.message.value
    view.shown.value = "minus control"
    assert view.message.value == ""
    assert view.heatmap.panels == explorer.panels()
    view.query.value = "L2.mlp"
    assert str(explorer.neuron) == view.results.value == view.neuron.value
    view.compare.click()
    assert view.comparison.value.count('role="article"') == 2
    view.file.value = str(tmp_path / "marked.json")
    view.save.click()
    assert list(NeuronSet.load(tmp_path / "marked.json")) == list(explorer.marked)
    view.unmark.click()
    assert len(explorer.marked) == 0
    view.undo.click()
    assert len(explorer.marked) == 1
    view.clear.click()
    view.compare.click()
    assert "Mark the neuron to compare with first." in view.message.value


def test_in_a_kernel_the_card_fills_in_while_clicks_are_answered(explorer):
    async def clicks() -> None:
        view = ExplorerView(explorer)
        assert explorer.first_look().fragment() in view.first_look.value, "it does not wait"
        assert view.card.value == ""
        assert "the card is being made" in view.busy.value
        await asyncio.sleep(0)
        view.factor.value = 0.0
        assert "multiplied by 0.0" in view.answers.value
        view.heatmap.picked = ["attn.hook_v", 1, 5]  # the first card is left
        for _ in range(500):
            await asyncio.sleep(0.02)
            if view.card.value:
                break
        assert "<code>L1.attn.hook_v.5</code>" in view.card.value
        assert view.busy.value == ""

    asyncio.run(clicks())


# --- live -----------------------------------------------------------------------------------------


@pytest.mark.browser
def test_in_jupyterlab_slider_set_heatmap_and_prompt_move_what_is_shown(jupyterlab):
    name = jupyterlab.write(
        "explore.ipynb",
        [
            "import culnig_tl as ct\nmodel = ct.load_model()\n"
            "rows = ct.load_benchmark('atlas', split='test', limit=16)",
            "pair = ct.NeuronSet.of({'mlp.hook_post': [(0, 152), (2, 60)]})\n"
            "ct.explore(model, rows, sets={'pair': pair}, progress=False)",
        ],
    )
    with jupyterlab.opened(name) as page:
        cells = page.locator(".answers table >> nth=0 >> td.scaled")
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
        page.get_by_label("scale", exact=True).select_option("pair")
        page.get_by_text("2 neurons (pair) multiplied by 0.0").wait_for()
        canvas = page.locator("canvas.culnig-heatmap").last
        canvas.hover(position={"x": 40, "y": 10})
        pointed = page.get_by_text(re.compile(r"^L3\.attn\.hook_v\.\d+ scores ")).text_content()
        canvas.click(position={"x": 40, "y": 10})
        page.locator("[role=article] code", has_text=pointed.split()[0]).wait_for()
        prompt = page.locator(".widget-textarea textarea")
        prompt.fill("The usual staple food in Iran is")
        prompt.blur()
        page.get_by_text("Tokens that rise").wait_for()
        assert cells.count() == 5
        handles = page.locator(".culnig-map .legend").text_content()
        assert "the best of each cell" in handles
        assert "pair" in handles
        keep_screenshot(page, "explorer")
