"""CircuitsVis's views: drawn from the installed copy, every token exactly, the page left whole."""

import socket
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from browser import keep_screenshot, opened

from culnig_tl.errors import InvalidInputError
from culnig_tl.html import Html
from culnig_tl.html.circuitsvis import (
    attention_heads,
    colored_tokens,
    text_neuron_activations,
    topk_tokens,
)

ODD = [
    "<bos>",
    "a<b",
    " & ",
    "&amp;",
    "</script>",
    "<!--",
    "<script>",
    "]]>",
    "\n",
    "",
    " \u05e9\u05dc\u05d5\u05dd",  # Hebrew
    " \u0633\u0644",  # Arabic, a word in two tokens
    "\u0627\u0645",
    "\u8336",
    "\U0001f375",
    "\u2028",
    "\u3000\u00a0\t",
    "\r\n",
    "e\u0301",
    "'\"`${x}\\",
]
AFTER = '<p id="after">what follows</p>'
TOKENS = "blocks => blocks.map(block => [...block.children].map(token => token.textContent))"
COLOURS = "spans => spans.map(span => getComputedStyle(span).backgroundColor)"


def activations(*shape: int) -> Any:
    return np.random.default_rng(0).uniform(-1.0, 2.0, shape)


def pattern(n_heads: int, n_tokens: int) -> torch.Tensor:
    """Where each token attends: to those up to itself, in random shares."""
    numbers = torch.from_numpy(activations(n_heads, n_tokens, n_tokens))
    later = torch.ones(n_tokens, n_tokens).triu(1).bool()
    return numbers.masked_fill(later, -torch.inf).softmax(-1)


def written(folder: Path, *parts: Html) -> Path:
    """A page of widgets, each followed by text."""
    path = folder / "page.html"
    head = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>tokens</title>'
    style = "<style>:root { color-scheme: light dark } body { font: 15px sans-serif }</style>"
    body = "".join(part._repr_html_() + AFTER for part in parts)
    path.write_text(head + style + body, encoding="utf-8")
    return path


class Balanced(HTMLParser):
    """Fails on an element that is not closed, or closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.scripts += tag == "script"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


WIDGETS: dict[str, Callable[[], Html]] = {
    "colored_tokens": lambda: colored_tokens(ODD, activations(len(ODD))),
    "text_neuron_activations": lambda: text_neuron_activations(ODD, activations(len(ODD), 2, 3)),
    "topk_tokens": lambda: topk_tokens([ODD], [activations(2, len(ODD), 3)]),
    "attention_heads": lambda: attention_heads(pattern(2, len(ODD)), ODD, ["<L0.H0>", "L0.H1"]),
}
every = pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS.keys())


# --- the HTML -------------------------------------------------------------------------------------


@every
def test_every_element_is_closed_and_no_token_ends_the_script(make):
    parser = Balanced()
    parser.feed(make().source)
    parser.close()
    assert parser.open == []
    assert parser.scripts == 1
    _, _, script = make().source.partition("<script>")
    assert script.count("</") == 2, "the ends of script and block"
    assert "<!--" not in script
    assert script.isascii()


@every
def test_nothing_asks_a_network_and_no_python_of_circuitsvis_runs(make, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", pytest.fail)
    monkeypatch.setattr(socket.socket, "connect", pytest.fail)
    for name in [name for name in sys.modules if name.split(".")[0] == "circuitsvis"]:
        monkeypatch.delitem(sys.modules, name)
    source = make()._repr_html_()
    assert not any(name.split(".")[0] == "circuitsvis" for name in sys.modules)
    assert "http" not in source


@every
def test_the_same_input_gives_the_same_html_and_a_short_name(make):
    assert make() == make()
    assert repr(make()) == "Html()"
    assert len(make().source) < 500_000


def test_tensors_arrays_and_lists_are_the_same():
    values = torch.tensor([0.5, -0.25], dtype=torch.bfloat16, requires_grad=True)
    shown = colored_tokens(["a", "b"], values)
    assert shown == colored_tokens(["a", "b"], np.array([0.5, -0.25]))
    assert shown == colored_tokens(["a", "b"], [0.5, -0.25])


# --- what cannot be shown -------------------------------------------------------------------------

GRID = activations(2, 3, 4)


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: colored_tokens(["a"], [1.0, 2.0]), "There are 1 tokens and numbers of shape .2,"),
        (lambda: colored_tokens([], []), r"shape \(0,\); give at least one token"),
        (
            lambda: colored_tokens(["a"], np.ones((1, 1))),
            r"shape \(1, 1\); give one axis each for .tokens",
        ),
        (lambda: colored_tokens(["a"], [float("nan")]), "1 of 1 numbers are not finite"),
        (lambda: text_neuron_activations(["a", "b"], GRID[0]), "one axis each for .tokens layers"),
        (lambda: text_neuron_activations(["a"], GRID), r"1 tokens .* \(2, 3, 4\); .* as axis 0"),
        (lambda: text_neuron_activations([["a", "b"]], []), "1 prompts and 0 arrays; give one"),
        (lambda: text_neuron_activations([], []), "0 prompts and 0 arrays"),
        (
            lambda: text_neuron_activations([["a", "b"]] * 2, [GRID, GRID[:, :1]]),
            r"\(1, 4\), \(3, 4\); give all prompts the same layers",
        ),
        (
            lambda: text_neuron_activations(["a", "b"], GRID, first_dimension_labels=["L0"]),
            "first_dimension_labels has 1 names for 3",
        ),
        (lambda: topk_tokens([["a", "b"]], [GRID]), r"2 tokens .* as many tokens as axis 1"),
        (lambda: topk_tokens([["a"] * 3], [GRID], max_k=0), "max_k is 0; give a whole number"),
        (
            lambda: topk_tokens([["a"] * 3], [GRID], sample_labels=["one", "two"]),
            "sample_labels has 2 names for 1",
        ),
        (lambda: attention_heads(GRID[0], ["a"] * 3), r"shape \(3, 4\); give one axis each for"),
        (lambda: attention_heads(GRID, ["a"] * 3), r"3 tokens .* as many tokens as axis 2 is long"),
        (
            lambda: attention_heads(np.ones((1, 2, 2)), ["a", "b"], ["one", "two"]),
            "attention_head_names has 2 names for 1",
        ),
        (
            lambda: attention_heads(np.ones((1, 2, 2)), ["a", "b"], mask_upper_tri=cast("bool", 1)),
            "mask_upper_tri is 1",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


# --- in a real browser ----------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_every_token_exactly_and_what_follows(tmp_path, scheme):
    several = text_neuron_activations(
        [ODD, ODD[:5]], [activations(len(ODD), 2, 3), activations(5, 2, 3)]
    )
    path = written(tmp_path, *(make() for make in WIDGETS.values()), several)
    with opened(path, scheme) as page:
        page.locator(".colored-tokens").nth(3).wait_for()
        page.locator("table").wait_for()
        assert page.locator(".colored-tokens").evaluate_all(TOKENS) == [ODD, ODD, ODD, ODD[:5]]
        assert set(page.locator("td > span").all_text_contents()) <= set(ODD)
        assert page.locator("#after").all_text_contents() == ["what follows"] * 5
        assert all(after.is_visible() for after in page.locator("#after").all())
        ids = page.locator("[data-component]").evaluate_all("all => all.map(one => one.id)")
        assert len(set(ids)) == 5
        assert_heads_are_seen(page)
        keep_screenshot(page, f"circuitsvis_{scheme}")


def assert_heads_are_seen(page: Any) -> None:
    """Each head's name and pattern are drawn, and the one that is pointed at is large."""
    assert page.locator("h4").all_text_contents() == ["<L0.H0>", "L0.H1"]
    assert page.locator("h2").text_content() == "<L0.H0>"
    canvases = page.locator("[data-component] canvas")
    assert canvases.count() == 3
    painted = canvases.evaluate_all(
        "all => all.map(one => new Set(new Uint32Array(one.getContext('2d')"
        ".getImageData(0, 0, one.width, one.height).data.buffer)).size)"
    )
    assert min(painted) > 20, "shares of attention differ in colour"
    page.locator("h4").nth(1).hover()
    assert page.locator("h2").text_content() == "L0.H1"


def test_white_space_of_tokens_is_seen_in_patterns():
    source = attention_heads(pattern(1, 3), [" a", "a", "\n"]).source
    assert '"\\u2423a", "a", "\\u23ce"' in source


@pytest.mark.browser
def test_pointing_at_a_token_shows_its_text_and_number(tmp_path):
    with opened(written(tmp_path, colored_tokens(ODD, np.linspace(-1, 1, len(ODD))))) as page:
        for place in (0, 1, ODD.index("&amp;"), ODD.index("</script>")):
            page.locator(".colored-tokens > span").nth(place).hover()
            page.locator(".colored-tokens strong").wait_for()
            shown = page.locator(".colored-tokens > div").inner_text()
            assert shown.split("\n") == [ODD[place], f"{np.linspace(-1, 1, len(ODD))[place]:.4g}"]


@pytest.mark.browser
def test_colours_go_from_one_end_over_white_to_the_other(tmp_path):
    shown = colored_tokens(["a", "b", "c", "d"], [-2.0, 0.0, 1.0, 2.0])
    nothing = colored_tokens(["a"], [0.0])
    with opened(written(tmp_path, shown, nothing)) as page:
        page.locator(".colored-tokens").nth(1).wait_for()
        low, white, half, high, zero = page.locator(".colored-tokens > span > span").evaluate_all(
            COLOURS
        )
        assert (low, high) == ("rgb(214, 96, 77)", "rgb(67, 147, 195)")
        assert white == zero == "rgb(255, 255, 255)"
        assert half not in {white, high}


@pytest.mark.browser
def test_menus_choose_layer_and_neuron_by_name(tmp_path):
    tokens, values = ["a", "b"], np.zeros((2, 2, 2))
    values[0, 1, 1] = 5.0
    shown = text_neuron_activations(
        tokens, values, first_dimension_labels=["L0", "<L1>"], second_dimension_labels=["x", "y"]
    )
    with opened(written(tmp_path, shown)) as page:
        spans = page.locator(".colored-tokens > span > span")
        spans.first.wait_for()
        assert spans.first.evaluate("span => getComputedStyle(span).color") == page.evaluate(
            "getComputedStyle(document.body).color"
        ), "a neuron that is 0 everywhere has no colour, and its text is seen"
        page.locator("select").nth(0).select_option(label="<L1>")
        page.locator("select").nth(1).select_option(label="y")
        assert spans.evaluate_all(COLOURS) == ["rgb(0, 0, 255)", "rgb(255, 255, 255)"]


@pytest.mark.browser
def test_top_and_bottom_tokens_are_those_of_each_neuron(tmp_path):
    tokens = [f"t{i}" for i in range(6)]
    values = [activations(2, 6, 3), activations(2, 6, 3) / 9]
    with opened(written(tmp_path, topk_tokens([tokens, tokens], values, max_k=2))) as page:
        page.locator("table").wait_for()
        cells = page.locator("tbody tr").evaluate_all(
            "all => all.map(row => [...row.querySelectorAll('td > span')].map(c => c.textContent))"
        )
        order = values[0][0].argsort(axis=0)[::-1]
        expected = [[tokens[i] for i in order[place]] for place in (0, 1, -2, -1)]
        assert [row for row in cells if row] == expected
        painted = page.locator("tbody td:has(> span)").evaluate_all(COLOURS)
        assert len(set(painted)) > 3, "activations above 1 differ in colour"
        assert painted.count("rgb(0, 0, 255)") <= 1, "only the largest of all is darkest"


@pytest.mark.browser
def test_a_browser_shows_2000_tokens_exactly(tmp_path):
    tokens = [*ODD, *(f" tea{i}" for i in range(2000 - len(ODD)))]
    with opened(written(tmp_path, colored_tokens(tokens, activations(2000)))) as page:
        page.locator(".colored-tokens").wait_for()
        assert page.locator(".colored-tokens").evaluate_all(TOKENS) == [tokens]
        assert page.locator(".colored-tokens").evaluate_all("all => all[0].textContent") == (
            "".join(tokens)
        )


@pytest.mark.browser
def test_in_jupyterlab_one_result_is_drawn_in_every_cell_that_shows_it(jupyterlab):
    make = (
        "import culnig_tl as ct\n"
        "shown = ct.circuitsvis.colored_tokens(['<bos>', 'a<b'], [0.5, -1.0])\n"
        "shown"
    )
    with jupyterlab.opened(jupyterlab.write("circuitsvis.ipynb", [make, "shown"])) as page:
        page.locator(".colored-tokens").nth(1).wait_for()
        assert page.locator(".colored-tokens").evaluate_all(TOKENS) == [["<bos>", "a<b"]] * 2
        keep_screenshot(page, "circuitsvis_jupyterlab")
