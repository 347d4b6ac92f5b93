"""Figures as files for a paper: white ground, dark letters that print, in the width of a column.

A figure of this package is drawn for a notebook: clear ground, mid-grey text. For print it is laid
out anew in fewer pixels and scaled to the width on paper, so that letters of 12 pixels come out at
7 to 8 points. Plotly's Kaleido draws it with a Chrome or Chromium of this machine, offline
(MathJax, which it would fetch, is off).
"""

import json
import textwrap
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import plotly.graph_objects as go

from culnig_tl.errors import InvalidInputError, check_choice, first_line
from culnig_tl.figures.style import TEXT
from culnig_tl.files import replacing

Format = Literal["pdf", "svg", "png"]
Width = Literal["column", "page"]


class _Paper(NamedTuple):
    """A width: millimetres on paper, and the pixels that a figure is laid out in."""

    millimetres: float
    pixels: int


_PAPER: dict[Width, _Paper] = {"column": _Paper(84.0, 420), "page": _Paper(174.0, 760)}
_INK, _FONT = "#222222", "Helvetica, Arial, Liberation Sans, sans-serif"
_CSS_PIXELS_PER_MM = 96 / 25.4
_PNG_PIXELS_PER_MM = 300 / 25.4
_HEIGHT = 450
_LETTERS_PER_PIXEL = 1 / 8  # of a title of 15 pixels
_LINE = 19
_MARGIN = 90


def save_figure(figure: go.Figure, path: str | Path, *, width: Width = "column") -> Path:
    """Write a figure for print: white ground, dark letters, as wide as a column or a page.

    Args:
        figure: any Plotly figure; it is not changed.
        path: a name ending in .pdf, .svg (both scale freely) or .png (300 dots per inch).
        width: "column", 84 mm, or "page", 174 mm, which figures of several panels need.

    Raises:
        InvalidInputError: another ending, another width, or Kaleido (extra ``export``) or a Chrome
            for it is missing.
        UnwritableError: the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> import culnig_tl as ct
        >>> profile = ct.figures.layer_profile(ct.answer_key("general"))
        >>> ct.save_figure(profile, f"{tempfile.mkdtemp()}/profile.svg").name
        'profile.svg'
    """
    check_choice("width", width, get_args(Width))
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in get_args(Format):
        raise InvalidInputError(
            f"{Path(path).name!r} has no ending of an image; figures are saved as .pdf, .svg or "
            ".png, such as 'figure.pdf'."
        )
    paper = _PAPER[width]
    per_mm = _PNG_PIXELS_PER_MM if form == "png" else _CSS_PIXELS_PER_MM
    image = _drawn(
        for_print(figure, width=paper.pixels), form, scale=paper.millimetres * per_mm / paper.pixels
    )
    with replacing(path) as part:
        part.write_bytes(image)
    return Path(path)


def for_print(figure: go.Figure, *, width: int) -> go.Figure:
    """The figure as it is printed: its own data, dark on white, ``width`` pixels wide.

    Example:
        >>> for_print(go.Figure(), width=400).layout.paper_bgcolor
        'white'
    """
    printed = go.Figure(json.loads((figure.to_json() or "{}").replace(TEXT, _INK)))
    printed.update_layout(
        width=width,
        height=printed.layout.height or _HEIGHT,
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": _FONT, "color": _INK},
    )
    title = printed.layout.title.text
    lines = textwrap.wrap(title or "", int((width - _MARGIN) * _LETTERS_PER_PIXEL))
    if len(lines) > 1:
        added = _LINE * (len(lines) - 1)
        printed.update_layout(
            title_text="<br>".join(lines),
            height=printed.layout.height + added,
            margin_t=(printed.layout.margin.t or 80) + added,
        )
    return printed


def _drawn(figure: go.Figure, form: str, *, scale: float) -> bytes:
    """The bytes of the image, drawn by a browser without a network."""
    try:
        import kaleido
        from kaleido.errors import ChromeNotFoundError
    except ImportError as error:
        raise InvalidInputError(
            "Figures are saved by Kaleido, which is not installed; pip install 'culnig-tl[export]'."
        ) from error
    size: dict[str, Any] = {"width": figure.layout.width, "height": figure.layout.height}
    try:
        return kaleido.calc_fig_sync(
            figure.to_plotly_json(),
            opts=size | {"format": form, "scale": scale},
            kopts={"mathjax": False},
        )
    except ChromeNotFoundError as error:
        raise InvalidInputError(
            "Kaleido draws figures with Chrome or Chromium and finds none "
            f"({first_line(error)}); install one, or name it in the environment variable "
            "BROWSER_PATH."
        ) from error
