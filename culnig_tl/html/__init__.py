"""The kit for pages: whatever this package shows as HTML is made of it.

| module | what it has |
|---|---|
| ``numbers`` | the one way to print a number |
| ``tokens`` | a prompt's tokens, coloured by one number each |
| ``components`` | fragments out of templates; sections, tables and figures of a report |
| ``drawing`` | plotly.js within a page, packed |
| ``page`` | the page around them, written whole, which asks no network for anything |
| ``circuitsvis`` | CircuitsVis's views, drawn from the installed copy |

The kit knows nothing of neurons, cards or runs.
"""

from culnig_tl.html import circuitsvis
from culnig_tl.html.components import (
    FRAGMENT_STYLE,
    Link,
    Row,
    Term,
    code,
    described_table,
    figure,
    folded,
    fragment,
    grouped_table,
    named,
    opening,
    paragraph,
    script,
    section,
    style,
    table,
    with_contents,
    with_style,
)
from culnig_tl.html.drawing import OLD_BROWSER, plotly_script
from culnig_tl.html.numbers import MINUS, NO_NUMBER, fall, number
from culnig_tl.html.page import CARD_STYLE, REPORT_STYLE, write_page
from culnig_tl.html.tokens import ColouredTokens, Html, as_html, colour, token_texts

__all__ = [
    "CARD_STYLE",
    "FRAGMENT_STYLE",
    "MINUS",
    "NO_NUMBER",
    "OLD_BROWSER",
    "REPORT_STYLE",
    "ColouredTokens",
    "Html",
    "Link",
    "Row",
    "Term",
    "as_html",
    "circuitsvis",
    "code",
    "colour",
    "described_table",
    "fall",
    "figure",
    "folded",
    "fragment",
    "grouped_table",
    "named",
    "number",
    "opening",
    "paragraph",
    "plotly_script",
    "script",
    "section",
    "style",
    "table",
    "token_texts",
    "with_contents",
    "with_style",
    "write_page",
]
