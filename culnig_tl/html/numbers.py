"""The one way to print a number on a page."""

import math
import re

MINUS = "\N{MINUS SIGN}"
NO_NUMBER = "\N{EN DASH}"
_SIGN_OF_ZERO = re.compile(r"^[+-](?=[0.,]+(?:e|%|$))", re.IGNORECASE)


def number(value: float | int, form: str = ".3g") -> str:
    """A number with a true minus sign, or a dash where there is none; zero has no sign.

    Args:
        value: any number; NaN is printed as a dash.
        form: a format specification as in ``format``.

    Example:
        >>> number(-0.25, ".2f"), number(-1e-9, "+.2f"), number(float("nan"))
        ('\u22120.25', '0.00', '\u2013')
    """
    if math.isnan(value):
        return NO_NUMBER
    text = format(value, form)
    return _SIGN_OF_ZERO.sub("", text).replace("-", MINUS)


def fall(value: float, form: str = ".4f") -> str:
    """What something loses, in words whose sign reads at once.

    Args:
        value: what is lost; below 0 it is gained.
        form: a format specification as in ``format``.

    Example:
        >>> fall(0.46, ".2f"), fall(-0.01, ".2f"), fall(-1e-9, ".2f"), fall(float("nan"))
        ('falls by 0.46', 'rises by 0.01', 'stays', '\u2013')
    """
    size = number(abs(value), form)
    if size in (NO_NUMBER, number(0.0, form)):
        return NO_NUMBER if math.isnan(value) else "stays"
    return f"{'falls' if value > 0 else 'rises'} by {size}"
