"""The heatmap as still pictures, for where no widget runs: a pixel per cell, written as PNG.

Pictures and no styled elements: 64 bins of 30 layers in a style keep JupyterLab busy for minutes.
"""

import zlib
from base64 import b64encode
from collections.abc import Sequence
from struct import pack
from typing import Any

import numpy as np
from jaxtyping import Float

from culnig_tl.html import fragment, number

_BLUE = (67, 147, 195)  # as of positive numbers in cards
_STRONGEST = 230


def still_heatmap(panels: Sequence[dict[str, Any]]) -> str:
    """Panels as ``score_views.panels`` gives them as a piece of HTML, on one scale."""
    arrays = [np.asarray(panel["values"]) for panel in panels]
    most = max(float(values.max()) for values in arrays)
    pictures = [
        {"name": panel["name"], "site": panel["site"], "png": png(values[::-1], most)}
        for panel, values in zip(panels, arrays, strict=True)
    ]
    return fragment("panels.html", pictures=pictures, most=number(most))


def png(values: Float[np.ndarray, "row column"], most: float) -> str:
    """A picture of a pixel per value, in base64: clear at 0 and below, blue at ``most``.

    Example:
        >>> png(np.array([[0.0, 1.0]]), 1.0)[:11]
        'iVBORw0KGgo'
    """
    shares = np.clip(values / most, 0, 1) if most > 0 else np.zeros_like(values)
    pixels = np.empty((*values.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _BLUE
    pixels[..., 3] = np.round(_STRONGEST * np.sqrt(shares))
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # 0: a line without a filter
    height, width = values.shape
    header = pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)).decode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))
