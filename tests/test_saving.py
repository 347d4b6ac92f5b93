"""Figures saved for print: sizes on paper, dark on white, letters as text, and no network."""

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

import culnig_tl as ct
from culnig_tl.figures.saving import for_print

pytestmark = [
    pytest.mark.browser,
    # the browser's pipe may close while its reader still waits
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

POINTS_PER_MM = 72 / 25.4


@pytest.fixture(scope="module")
def figure() -> go.Figure:
    return ct.figures.layer_profile(ct.answer_key("general"))


@pytest.mark.parametrize(("width", "millimetres"), [("column", 84), ("page", 174)])
def test_a_pdf_is_as_wide_as_a_column_or_a_page(figure, width, millimetres, tmp_path) -> None:
    pdf = ct.save_figure(figure, tmp_path / "figure.pdf", width=width).read_bytes()
    box = re.search(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", pdf)
    assert box is not None
    assert float(box[1]) == pytest.approx(millimetres * POINTS_PER_MM, abs=1.5)
    assert pdf.startswith(b"%PDF")
    assert b"/Font" in pdf  # letters are letters, not paths


def test_a_png_has_300_dots_per_inch(figure, tmp_path) -> None:
    png = ct.save_figure(figure, tmp_path / "figure.png").read_bytes()
    assert struct.unpack(">I", png[16:20])[0] == pytest.approx(84 / 25.4 * 300, abs=1)


def test_the_page_asks_for_nothing(figure, tmp_path, monkeypatch) -> None:
    import kaleido

    asked = []

    def keep(*_: object, kopts: dict[str, Any], **__: object) -> bytes:
        asked.append(kaleido.PageGenerator(**kopts).generate_index())
        return b"<svg/>"

    monkeypatch.setattr(kaleido, "calc_fig_sync", keep)
    ct.save_figure(figure, tmp_path / "figure.svg")
    assert len(asked) == 1
    assert "http" not in asked[0]
    assert "plotly.min.js" in asked[0]


def test_the_printed_figure_is_dark_on_white_and_the_given_one_stays() -> None:
    figure = ct.figures.layer_profile(ct.answer_key("general"))
    before = figure.to_json()
    printed = for_print(figure, width=400)
    assert figure.to_json() == before
    assert printed.layout.paper_bgcolor == printed.layout.plot_bgcolor == "white"
    assert ct.figures.style.TEXT not in (printed.to_json() or "")
    drawn, given = (json.loads(each.to_json() or "") for each in (printed, figure))
    assert [trace["y"] for trace in drawn["data"]] == [trace["y"] for trace in given["data"]]


def test_a_long_title_is_broken_and_given_room() -> None:
    figure = go.Figure(layout={"title": {"text": "word " * 30}, "height": 300})
    printed = for_print(figure, width=400)
    n_lines = printed.layout.title.text.count("<br>") + 1
    assert n_lines > 3
    assert max(map(len, printed.layout.title.text.split("<br>"))) <= 40
    assert printed.layout.height > 300 + 15 * (n_lines - 1)


@pytest.mark.parametrize("name", ["figure", "figure.eps", "figure.pdf.zip"])
def test_another_ending_is_refused(figure, name, tmp_path) -> None:
    with pytest.raises(ct.CulnigError, match=r"\.pdf, \.svg or \.png"):
        ct.save_figure(figure, tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_without_kaleido_a_sentence_says_so(figure, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(ct.CulnigError, match=r"pip install 'culnig-tl\[export\]'"):
        ct.save_figure(figure, tmp_path / "figure.pdf")
    assert not any(tmp_path.iterdir())


def test_without_a_browser_a_sentence_says_so(figure, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    with pytest.raises(ct.CulnigError, match="Chrome or Chromium"):
        ct.save_figure(figure, tmp_path / "figure.pdf")
    assert not any(tmp_path.iterdir())
