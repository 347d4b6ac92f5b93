"""What a user did wrong, said in one sentence: what was given, what was expected, what to do.

Each class is also the built-in exception a Python user would expect, so ``except ValueError``
works; the common base lets the command line print the sentence instead of a traceback.
"""

from collections.abc import Iterable


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


def first_line(error: Exception) -> str:
    """The first line of an error of another library, cut to what a sentence can hold."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
