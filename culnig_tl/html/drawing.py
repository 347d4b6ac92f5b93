"""plotly.js within a page: packed to two fifths of its size, unpacked by the browser that opens it.

The page stays one file that asks for nothing. Its head unpacks plotly.js and has what draws a
figure once that is done, ``draw``; where the page is narrow, panels stand one below the other. A
browser that cannot unpack shows ``OLD_BROWSER``.
"""

import gzip
from base64 import b64encode
from functools import cache
from pathlib import Path

from plotly.offline import get_plotlyjs

OLD_BROWSER = (
    '<p class="old-browser">This browser cannot unpack the figures; those of 2023 and later can. '
    "Text and tables are all here.</p>\n"
    "<noscript><p>The figures need JavaScript; text and tables do not.</p></noscript>\n"
)
"""What a page says where its figures cannot be drawn; hidden elsewhere."""


@cache
def plotly_script() -> str:
    """JavaScript for the head of a page with figures, 2 MB.

    Example:
        >>> len(plotly_script()) < 2_000_000
        True
    """
    packed = b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    lines = (Path(__file__).parent / "templates" / "drawing.js").read_text(encoding="utf-8")
    return f"const packedPlotly = '{packed}';\n{lines}"
