"""HTML: the page around the parts, tables and figures. Whatever is shown is escaped here."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs


@dataclass(frozen=True)
class Link:
    """A cell that leads to an element of the page."""

    text: str
    to: str

    def __str__(self) -> str:
        return self.text


Cell = str | int | Link
Row = Sequence[Cell]

MINUS = "\N{MINUS SIGN}"
NO_NUMBER = "\N{EN DASH}"

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
_CONFIG = {"responsive": True, "displaylogo": False}
_STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --soft: #59636e; --line: #d4d9df;
  --page: #ffffff; --band: #f3f5f7; --mark: #b45f06; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #a3adb8; --line: #3a424c;
  --page: #14181d; --band: #1f252c; --mark: #f0a040; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem;
  border-top: 1px solid var(--line); }
p { max-width: 44rem; overflow-wrap: anywhere; }
.lead { font-size: 1.15rem; }
aside { border-left: 4px solid var(--mark); background: var(--band); padding: 0.1rem 1.1rem;
  margin: 1.25rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--soft); padding-top: 0.4rem; }
th, td { padding: 0.28rem 0.6rem; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; overflow-wrap: break-word; max-width: 16rem; }
.number { text-align: right; }
td.number { white-space: nowrap; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figcaption { color: var(--soft); max-width: 44rem; font-size: 0.95rem; }
.plot { width: 100%; min-width: 38rem; }
pre { background: var(--band); padding: 0.9rem 1.1rem; overflow-x: auto; font-size: 0.9rem; }
.plot :is(text[class$="title"], [class$="tick"] text, .cbtitle text, .cbaxis text, .legendtext,
  .annotation-text, .textpoint text) { fill: var(--ink) !important; }
a { color: inherit; }
h3 { font-size: 1.1rem; margin: 0.4rem 0; overflow-wrap: anywhere; }
.neuron { display: none; border: 1px solid var(--line); padding: 0.6rem 1.1rem 1rem;
  overflow-x: auto; }
.neuron:target, .neurons:not(:has(:target)) .neuron:first-child { display: block; }
.neuron > .scroll { display: inline-block; max-width: 100%; vertical-align: top;
  margin-right: 2.5rem; }
.neuron h2 { border: 0; padding: 0; }
#cell { min-height: 1.5em; }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #333; --line: #999; --page: #fff;
    --band: #f3f3f3; --mark: #333; }
  body { font-size: 10pt; }
  table { font-size: 8.5pt; }
  th, td { padding: 0.2rem 0.4rem; }
  td.number { white-space: normal; }
  main { max-width: none; padding: 0; }
  figure, tr, aside, pre { break-inside: avoid; }
  h2 { break-after: avoid; }
  .scroll, figure, .neuron { overflow: visible; }
  pre { white-space: pre-wrap; }
  .plot { zoom: 0.72; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .modebar { display: none !important; }
  .plot > .plot-container { break-inside: avoid; }
}
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A page in English of parts that are HTML already."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<main>
<noscript><p>The figures need JavaScript; text and tables do not.</p></noscript>
{"".join(parts)}
</main>
</body>
</html>
"""


def section(heading: str, *parts: str) -> str:
    """A section of parts that are HTML already."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{''.join(parts)}</section>\n"


def paragraph(text: str, *, style: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_attribute('class', style)}>{escape(text)}</p>\n"


def style(rules: str) -> str:
    """A style sheet."""
    return f"<style>{rules}</style>\n"


def script(lines: str) -> str:
    """A script of this package's own."""
    return f"<script>{lines}</script>\n"


def code(text: str) -> str:
    """Lines of code."""
    return f"<pre><code>{escape(text)}</code></pre>\n"


def table(header: Sequence[str], groups: Mapping[str, Sequence[Row]], *, caption: str = "") -> str:
    """A table whose first column names groups of rows.

    Args:
        header: a name for every column, the groups' first.
        groups: the rows of each group, without the first column.
        caption: what the columns mean.
    """
    columns = [[row[i] for rows in groups.values() for row in rows] for i in range(len(header) - 1)]
    numeric = [False, *(all(map(_is_number, column)) for column in columns)]
    head = "".join(
        f'<th scope="col"{_number_class(right)}>{escape(name)}</th>'
        for name, right in zip(header, numeric, strict=True)
    )
    body = "".join(_group(name, rows, numeric[1:]) for name, rows in groups.items() if rows)
    return (
        f'<div class="scroll"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n{body}</table></div>\n"
    )


def plain_table(header: Sequence[str], rows: Sequence[Row], *, caption: str = "") -> str:
    """A table whose first column names each row."""
    return table(header, {str(first): [rest] for first, *rest in rows}, caption=caption)


def figure(plot: go.Figure, *, name: str, says: str, caption: str) -> str:
    """A figure.

    Args:
        plot: the figure.
        name: its id on the page.
        says: what it shows, for those who cannot see it.
        caption: how to read it.
    """
    return (
        f'<figure>\n<div id="{escape(name)}" class="plot" role="img" aria-label="{escape(says)}">'
        f"</div>\n<figcaption>{escape(caption)}</figcaption>\n"
        f"<script>Plotly.newPlot({json.dumps(name)}, "
        f"Object.assign({_json(plot)}, {{config: {json.dumps(_CONFIG)}}}));</script>\n</figure>\n"
    )


def number(value: float, form: str) -> str:
    """A number with a true minus sign, or a dash where there is none."""
    return NO_NUMBER if math.isnan(value) else format(value, form).replace("-", MINUS)


def _json(plot: go.Figure) -> str:
    """The figure's JSON, without anything that ends a script."""
    return (plot.to_json() or "").replace("<", "\\u003c").replace(">", "\\u003e")


def _group(name: str, rows: Sequence[Row], numeric: Sequence[bool]) -> str:
    lines = []
    for i, row in enumerate(rows):
        scope, span = ("row", "") if len(rows) == 1 else ("rowgroup", f' rowspan="{len(rows)}"')
        first = f'<th scope="{scope}"{span}>{escape(name)}</th>' if i == 0 else ""
        cells = "".join(
            f"<td{_number_class(right)}>{_shown(cell)}</td>"
            for cell, right in zip(row, numeric, strict=True)
        )
        lines.append(f"<tr>{first}{cells}</tr>\n")
    return f"<tbody>\n{''.join(lines)}</tbody>\n"


def _shown(cell: Cell) -> str:
    text = escape(str(cell))
    return f'<a href="#{escape(cell.to)}">{text}</a>' if isinstance(cell, Link) else text


def _number_class(right: bool) -> str:
    return _attribute("class", "number" if right else "")


def _attribute(name: str, value: str) -> str:
    return f' {name}="{escape(value)}"' if value else ""


def _is_number(cell: Cell) -> bool:
    text = str(cell)
    return isinstance(cell, int) or text[:1].isdigit() or text[:1] in (MINUS, "+", NO_NUMBER)
