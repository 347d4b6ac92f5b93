"""Cards as HTML: templates that escape whatever is put into them, a style, a page of its own.

Nothing here holds a script or asks for anything: a card reads the same in a notebook, in a report,
on a page of its own and in print. Colours are translucent or those of the surroundings, so that
light and dark pages both serve.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from culnig_tl.files import replacing
from culnig_tl.inspection.tokens import as_html, colour

_MINUS = "\N{MINUS SIGN}"
_HEIGHT = 64.0


def fragment(template: str, **content: Any) -> str:
    """A template of this folder, filled; every value is escaped."""
    return _environment().get_template(template).render(content)


def with_style(body: str) -> str:
    """A fragment that brings its own style along."""
    return f"<style>{STYLE}</style>\n{body}"


def write(path: str | Path, *, title: str, body: str) -> Path:
    """Write a page of its own around a fragment, whole or not at all."""
    with replacing(path) as part:
        page = fragment("page.html", title=title, body=Markup(body), style=Markup(STYLE))
        part.write_text(page, encoding="utf-8")
    return Path(path)


def number(value: float, form: str = ".3g") -> str:
    """A number with a true minus sign, or a dash where there is none; zero has no sign.

    Example:
        >>> number(-0.25, ".2f"), number(-1e-9, "+.2f"), number(float("nan"))
        ('\u22120.25', '0.00', '\u2013')
    """
    if np.isnan(value):
        return "\N{EN DASH}"
    text = format(value, form)
    return (text if float(text) else text.lstrip("+-")).replace("-", _MINUS)


def named(name: str) -> str:
    """A culture's or topic's name; the empty one is said in words."""
    return name or "(none named)"


def moves(drop: float) -> str:
    """What a drop does, as a verb."""
    return "lowers" if drop >= 0 else "raises"


def bars(histogram: pd.DataFrame) -> list[tuple[float, float]]:
    """(top, height) of each bar of a histogram, on a scale of logarithms of counts."""
    counts = np.log1p(histogram["tokens"].to_numpy(dtype=float))
    heights = _HEIGHT * counts / max(counts.max(), 1e-9)
    return [(_HEIGHT - height, height) for height in heights.tolist()]


def zero(histogram: pd.DataFrame) -> float | None:
    """Where 0 lies between the ends of a histogram, 0 to 1; None outside."""
    low, high = histogram["low"].iloc[0], histogram["high"].iloc[-1]
    return float(-low / (high - low)) if low < 0 < high else None


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("culnig_tl.inspection"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "named": named, "text": as_html}
    environment.globals |= {"colour": colour, "bars": bars, "zero": zero}
    return environment


STYLE = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
