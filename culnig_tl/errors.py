"""What a user did wrong, said in one sentence: what was given, what was expected, what to do.

Each class is also the built-in exception a Python user would expect, so ``except ValueError``
works; the common base lets the command line print the sentence instead of a traceback.
"""

import sys
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Rational, Real
from types import UnionType
from typing import Any

_MOST = sys.float_info.max
"""The largest finite number."""


class CulnigError(Exception):
    """Base of every error that the user of this package can mend."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InvalidInputError(CulnigError, ValueError):
    """A value, a row or a combination of arguments that cannot be used."""


class UnknownNameError(CulnigError, KeyError):
    """A name that is not among the known ones; the message lists them."""


class MissingFileError(CulnigError, FileNotFoundError):
    """A file, folder or model that is not there or cannot be read."""


class UnwritableError(CulnigError, OSError):
    """A place on disk that cannot be written."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is not one of the ``choices``.

    Raises:
        InvalidInputError: with the argument's name, the value and the choices.
    """
    choices = tuple(choices)
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise InvalidInputError(f"{name} is {value!r}; choose one of {listed}.")


def check_number(
    name: str,
    value: Any,
    *,
    low: float | int = -_MOST,
    high: float | int = _MOST,
    whole: bool = False,
) -> None:
    """Refuse what is no finite number from ``low`` to ``high``; True and False are no numbers.

    Raises:
        InvalidInputError: with the argument's name, the value and the numbers that it may be.

    Example:
        >>> check_number("factor", float("nan"))
        Traceback (most recent call last):
        ...
        culnig_tl.errors.InvalidInputError: factor is nan; give a finite number.
    """
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    exact: Any = value if isinstance(value, Rational) or not is_number else float(value)
    if not (is_number and low <= exact <= high):
        kind = "whole number" if whole else "finite number"
        raise InvalidInputError(f"{name} is {_cut(value)}; give a {kind}{_bounds(low, high)}.")


def check_numbers(
    name: str,
    values: Any,
    *,
    low: float | int = -_MOST,
    high: float | int = _MOST,
    distinct: bool = False,
) -> None:
    """Refuse what is no list of finite numbers from ``low`` to ``high``, or an empty one.

    Raises:
        InvalidInputError: with the argument's name and what was given.

    Example:
        >>> check_numbers("factors", [0.0, -0.0], distinct=True)
        Traceback (most recent call last):
        ...
        culnig_tl.errors.InvalidInputError: factors is [0.0, -0.0]; ...
    """
    check_some(name, values)
    for value in values:
        check_number(name, value, low=low, high=high)
    if distinct and len(set(values)) < len(values):
        raise InvalidInputError(
            f"{name} is {_cut(values)}; give at least one, and each of them once."
        )


def check_seed(value: Any) -> None:
    """Refuse what no generator of random numbers begins with.

    Raises:
        InvalidInputError: what is no whole number from 0 to 2^63 - 1.
    """
    check_number("seed", value, low=0, high=2**63 - 1, whole=True)


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        InvalidInputError: with the argument's name and the value.
    """
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} is {_cut(value)}; give True or False.")


def check_some(name: str, values: Any) -> None:
    """Refuse what is no list, or an empty one; a text is no list.

    Raises:
        InvalidInputError: with the argument's name and what was given.
    """
    is_list = isinstance(values, Collection) and not isinstance(values, str | bytes)
    if not is_list or not len(values):
        raise InvalidInputError(
            f"{name} is {_cut(values)}; give a list of at least one, and each of them once."
        )


def check_kind(name: str, value: object, kind: type | UnionType, give: str) -> None:
    """Refuse a value of another kind.

    Args:
        name: of the argument.
        value: what was given.
        kind: what it should be.
        give: what to give, for the sentence.

    Raises:
        InvalidInputError: with the argument's name and the kind of the value.

    Example:
        >>> check_kind("texts", 5, list, "a list of texts")
        Traceback (most recent call last):
        ...
        culnig_tl.errors.InvalidInputError: texts is of type int; give a list of texts.
    """
    if not isinstance(value, kind):
        raise InvalidInputError(f"{name} is of type {type(value).__name__}; give {give}.")


def check_by_name(name: str, values: Any) -> None:
    """Refuse what is no mapping by names, or an empty one.

    Raises:
        InvalidInputError: with the argument's name and what was given.
    """
    if not isinstance(values, Mapping) or not values or not all(map(_is_text, values)):
        raise InvalidInputError(
            f"{name} is {_cut(values)}; give at least one entry, each by its name as in "
            "{'culture': rows}."
        )


def first_line(error: Exception) -> str:
    """The first line of an error of another library, cut to what a sentence can hold."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _cut(value: object) -> str:
    """A value as it stands in a sentence, cut to 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _bounds(low: float | int, high: float | int) -> str:
    """ " between 0 and 1", " from 1 up"; "" for any number."""
    if high < _MOST:
        return f" between {low:g} and {high:g}"
    return "" if low == -_MOST else f" from {low:g} up"
