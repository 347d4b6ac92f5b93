"""An error is a sentence, and the built-in exception that a Python user would expect."""

import pytest

from culnig_tl import errors


@pytest.mark.parametrize(
    ("kind", "built_in"),
    [
        (errors.InvalidInputError, ValueError),
        (errors.UnknownNameError, KeyError),
        (errors.MissingFileError, FileNotFoundError),
        (errors.UnwritableError, OSError),
    ],
)
def test_an_error_reads_as_its_sentence_and_is_a_built_in_one(kind, built_in):
    error = kind("There are no rows; give at least one question.")
    assert str(error) == "There are no rows; give at least one question."
    assert isinstance(error, errors.CulnigError)
    assert isinstance(error, built_in)


def test_an_error_without_a_sentence_is_empty():
    assert str(errors.UnknownNameError()) == ""
