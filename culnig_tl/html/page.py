"""A page of its own: one file that holds its styles and scripts and asks for nothing.

The content security policy forbids every request, and scripts too where the page brings none. A
page reads the same from a disk, in print, and in light and dark surroundings.
"""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from culnig_tl.files import replacing
from culnig_tl.html.components import FRAGMENT_STYLE, fragment, style_sheet

CARD_STYLE = style_sheet("page") + FRAGMENT_STYLE + style_sheet("scroll")
"""Style of a page that holds a fragment and nothing else."""

REPORT_STYLE = style_sheet("report") + style_sheet("scroll")
"""Style of a long page of text, tables and figures."""

_NO_REQUESTS = "default-src 'none'; style-src 'unsafe-inline'"
_OWN_SCRIPTS = "script-src 'unsafe-inline'; img-src data: blob:"


def write_page(
    path: str | Path, *, title: str, body: str, style: str = CARD_STYLE, scripts: Sequence[str] = ()
) -> Path:
    """Write an HTML page around a body, whole or not at all.

    Args:
        path: the file; its folder is made if need be.
        title: plain text.
        body: HTML.
        style: rules of CSS.
        scripts: JavaScript that stands in the head.

    Raises:
        UnwritableError: the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> write_page(f"{tempfile.mkdtemp()}/a.html", title="One & all", body="<p>tea</p>").name
        'a.html'
    """
    page = fragment(
        "page.html",
        policy=Markup("; ".join([_NO_REQUESTS, _OWN_SCRIPTS] if scripts else [_NO_REQUESTS])),
        title=title,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        body=Markup(body),
    )
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return Path(path)
