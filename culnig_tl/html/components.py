"""The parts of pages as HTML text: fragments out of templates, sections, tables, figures.

Everything that is put in as text is escaped here. A *fragment* (a card, a view) holds no script and
brings its style along in a notebook; its colours are translucent or those of the surroundings, so
that it reads on light and dark pages and in print. Sections, tables and figures are the parts of a
report; figures need ``plotly_script`` in the page's head.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape, unescape
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from pandas.api.types import is_numeric_dtype

from culnig_tl.html.numbers import MINUS, NO_NUMBER, fall, number
from culnig_tl.html.tokens import as_html, colour

_HISTOGRAM_HEIGHT = 64.0
_TITLE_HEIGHT = 30


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to an element of the page.

    Attributes:
        text: what the cell says.
        to: id of the element.
    """

    text: str
    to: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Term:
    """A cell of a table that says what it means to whoever points at it.

    Attributes:
        text: what the cell says.
        meaning: plain text.
    """

    text: str
    meaning: str

    def __str__(self) -> str:
        return self.text


Cell = str | int | Link | Term
Row = Sequence[Cell]


def style_sheet(name: str) -> str:
    """The rules of one of this package's style sheets."""
    path = Path(__file__).parent / "templates" / f"{name}.css"
    return path.read_text(encoding="utf-8")


FRAGMENT_STYLE = style_sheet("fragment")
"""Style of fragments; it touches nothing else on a page."""


def fragment(template: str, **content: Any) -> str:
    """A template of this package, filled; every value is escaped."""
    return _environment().get_template(template).render(content)


def with_style(body: str) -> str:
    """A fragment that brings its own style along, as a notebook needs it."""
    return f"<style>{FRAGMENT_STYLE}</style>\n{body}"


def described_table(sentence: str, frame: pd.DataFrame, *, lines: int = 20) -> str:
    """A sentence with a table below it, for a notebook.

    Args:
        sentence: what the table holds.
        frame: the table; numbers stand at the right.
        lines: rows that are shown; of the others their number is said.

    Example:
        >>> "and 1 more" in described_table("Two.", pd.DataFrame({"n": [1, 2]}), lines=1)
        True
    """
    return with_style(
        fragment(
            "described_table.html",
            sentence=sentence,
            columns=list(frame.columns),
            numeric={name: is_numeric_dtype(frame[name]) for name in frame},
            rows=frame.head(lines).to_dict("records"),
            n_more=max(0, len(frame) - lines),
        )
    )


def named(name: str) -> str:
    """The name of a culture or topic; the empty one is said in words."""
    return name or "(none named)"


def section(heading: str, *parts: str) -> str:
    """A section of parts that are HTML already; ``with_contents`` lists it."""
    name = "-".join(re.findall(r"\w+", heading.lower()))
    return (
        f'<section id="section-{name}">\n<h2>{escape(heading)}</h2>\n<a class="up" '
        f'href="#contents">\N{UPWARDS ARROW} contents</a>\n{"".join(parts)}</section>\n'
    )


def with_contents(sections: str) -> str:
    """Sections after a list of links to them and a field that searches them and their cards.

    Example:
        >>> '<a href="#section-the-end">The end</a>' in with_contents(section("The end"))
        True
    """
    headings = re.findall(r'<section id="([^"]+)">\n<h2>(.*?)</h2>', sections)
    links = [{"name": name, "heading": unescape(heading)} for name, heading in headings]
    return fragment("contents.html", links=links) + sections


def paragraph(text: str, *, style: str = "") -> str:
    """A paragraph of plain text, of a class of the style sheet."""
    return f"<p{_attribute('class', style)}>{escape(text)}</p>\n"


def opening(title: str, answers: Mapping[str, str]) -> str:
    """What a page begins with: its title, and answers in a sentence or two by their questions."""
    lines = "".join(
        f'<p class="lead"><strong>{escape(question)}</strong> {escape(answer)}</p>\n'
        for question, answer in answers.items()
    )
    return f"<header>\n<h1>{escape(title)}</h1>\n{lines}</header>\n"


def folded(summary: str, body: str) -> str:
    """Parts of a page that are shown on a click on their summary."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def style(rules: str) -> str:
    """A style sheet within a page."""
    return f"<style>{rules}</style>\n"


def script(lines: str) -> str:
    """A script of this package's own within a page."""
    return f"<script>{lines}</script>\n"


def code(text: str) -> str:
    """Lines of code."""
    return f"<pre><code>{escape(text)}</code></pre>\n"


def table(header: Sequence[str | Term], rows: Sequence[Row], *, caption: str = "") -> str:
    """A table whose first column names each row; rows of one name stand together.

    Example:
        >>> "<th scope=\\"row\\">Iran</th>" in table(("Culture", "Neurons"), [("Iran", 3)])
        True
    """
    groups: dict[str, list[Row]] = {}
    for first, *rest in rows:
        groups.setdefault(str(first), []).append(rest)
    return grouped_table(header, groups, caption=caption)


def grouped_table(
    header: Sequence[str | Term], groups: Mapping[str, Sequence[Row]], *, caption: str = ""
) -> str:
    """A table whose first column names groups of rows.

    Args:
        header: one name per column, the groups' first.
        groups: the rows of each group, without the first column.
        caption: what the columns mean.
    """
    columns = [[row[i] for rows in groups.values() for row in rows] for i in range(len(header) - 1)]
    numeric = [False, *(all(map(_is_number, column)) for column in columns)]
    head = "".join(
        f'<th scope="col"{_number_class(is_numeric)}>{_cell(name)}</th>'
        for name, is_numeric in zip(header, numeric, strict=True)
    )
    body = "".join(_group(name, rows, numeric[1:]) for name, rows in groups.items() if rows)
    return (
        f'<div class="scroll" tabindex="0"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n{body}</table></div>\n"
    )


def figure(plot: go.Figure, *, name: str, label: str, caption: str) -> str:
    """A figure that plotly.js draws, on a page whose head has ``plotly_script``.

    Args:
        plot: the figure.
        name: its id on the page.
        label: what it shows, for those who cannot see it.
        caption: how to read it.
    """
    drawn = json.loads(plot.to_json() or "")
    title = _taken_title(drawn["layout"])
    content = _in_script(json.dumps(drawn, separators=(",", ":")))
    return (
        f"<figure>\n{f'<h3>{escape(title)}</h3>' if title else ''}\n"
        f'<div id="{escape(name)}" class="plot" role="img" aria-label="{escape(label)}">'
        f"</div>\n<figcaption>{escape(caption)}</figcaption>\n"
        f"<script>draw({_in_script(json.dumps(name))}, {content});"
        "</script>\n</figure>\n"
    )


def _taken_title(layout: dict[str, Any]) -> str:
    """The title of a figure, which it has no longer: above it, it breaks into lines."""
    title = unescape(layout.get("title", {}).pop("text", "")).replace("<br>", " ")
    if title:
        layout["height"] -= _TITLE_HEIGHT
        layout["margin"]["t"] -= _TITLE_HEIGHT
    return title


def _in_script(content: str) -> str:
    """JSON without anything that ends a script."""
    return content.replace("<", "\\u003c").replace(">", "\\u003e")


def _group(name: str, rows: Sequence[Row], numeric: Sequence[bool]) -> str:
    """The rows of a group, its name beside the first of them."""
    scope, span = ("row", "") if len(rows) == 1 else ("rowgroup", f' rowspan="{len(rows)}"')
    first = f'<th scope="{scope}"{span}>{escape(name)}</th>'
    lines = [f"<tr>{'' if i else first}{_cells(row, numeric)}</tr>\n" for i, row in enumerate(rows)]
    return f"<tbody>\n{''.join(lines)}</tbody>\n"


def _cells(row: Row, numeric: Sequence[bool]) -> str:
    return "".join(
        f"<td{_number_class(is_numeric)}>{_cell(cell)}</td>"
        for cell, is_numeric in zip(row, numeric, strict=True)
    )


def _cell(cell: Cell) -> str:
    text = escape(str(cell))
    if isinstance(cell, Term):
        return f'<abbr title="{escape(cell.meaning)}">{text}</abbr>'
    return f'<a href="#{escape(cell.to)}">{text}</a>' if isinstance(cell, Link) else text


def _number_class(is_numeric: bool) -> str:
    return _attribute("class", "number" if is_numeric else "")


def _attribute(name: str, value: str) -> str:
    return f' {name}="{escape(value)}"' if value else ""


def _is_number(cell: Cell) -> bool:
    text = str(cell)
    return isinstance(cell, int) or text[:1].isdigit() or text[:1] in (MINUS, "+", NO_NUMBER)


def _number_cell(value: float | int) -> str:
    """A number of a table whose columns nobody formatted: counts whole, others with 3 digits."""
    return number(value, ",d" if isinstance(value, Integral) else ".3g")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("culnig_tl.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "fall": fall,
        "cell": _number_cell,
        "named": named,
        "text": as_html,
    }
    environment.globals |= {"colour": colour, "bars": _bars, "zero": _place_of_zero}
    return environment


def _bars(histogram: pd.DataFrame) -> list[tuple[float, float]]:
    """(top, height) of each bar of a histogram, on a scale of logarithms of counts."""
    counts = np.log1p(histogram["tokens"].to_numpy(dtype=float))
    heights = _HISTOGRAM_HEIGHT * counts / max(counts.max(), 1e-9)
    return [(_HISTOGRAM_HEIGHT - height, height) for height in heights.tolist()]


def _place_of_zero(histogram: pd.DataFrame) -> float | None:
    """Where 0 lies between the ends of a histogram, 0 to 1; None outside."""
    low, high = histogram["low"].iloc[0], histogram["high"].iloc[-1]
    return float(-low / (high - low)) if low < 0 < high else None
