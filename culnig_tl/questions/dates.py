"""The date in a chat template, which is always the same.

Some templates write today's date, so that the scores of the same questions would change overnight.
They take it from ``date_string``, which is given to them, or from ``strftime_now``, a clock that
transformers offers. transformers takes no other function in its place, so the template gets a macro
of that name.
"""

from datetime import datetime

DATE = "26 Jul 2024"
"""The date that templates write in place of today's."""

_MOMENT = datetime(2024, 7, 26)
_NAMES = {"a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "h": "Jul", "p": "AM"}
_COMPOSED = {
    "c": "Fri Jul 26 00:00:00 2024",
    "D": "07/26/24",
    "e": "26",
    "F": "2024-07-26",
    "R": "00:00",
    "T": "00:00:00",
    "x": "07/26/24",
    "X": "00:00:00",
}
_WITHOUT_ZERO = {"-d": "26", "-m": "7", "-y": "24", "-j": "208", "-H": "0", "-I": "12", "-M": "0"}


def prompt_date(source: str | None) -> str:
    """The date that a template writes in place of today's; ``""`` where it writes none.

    Example:
        >>> prompt_date("Today is {{ strftime_now('%d %b %Y') }}."), prompt_date(None)
        ('26 Jul 2024', '')
    """
    names = ("date_string", "strftime_now")
    return DATE if source and any(name in source for name in names) else ""


def with_fixed_date(source: str) -> str:
    """A chat template whose ``strftime_now`` writes ``DATE``, at midnight.

    Example:
        >>> with_fixed_date("{{ messages }}")
        '{{ messages }}'
    """
    if "strftime_now" not in source:
        return source
    # Jinja drops the line break after the macro, so the template's own text stays as it is.
    return "{% macro strftime_now(format) %}{{ format" + _filters() + " }}{% endmacro %}\n" + source


def _filters() -> str:
    """What turns a format of ``strftime`` into text, in Jinja."""
    codes = {code: _MOMENT.strftime(f"%{code}") for code in "dfGHIjmMSuUVwWyY"}
    codes |= _NAMES | _COMPOSED | _WITHOUT_ZERO | {"z": "", "Z": ""}
    return "".join(f" | replace('%{code}', '{text}')" for code, text in codes.items())
