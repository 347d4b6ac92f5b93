"""The real model of the lessons' last sections, or one sentence where it is not installed."""

from typing import Any

from culnig_tl.errors import MissingFileError
from culnig_tl.models import load_model


class LeftOutError(MissingFileError):
    """The real model is not installed; in Jupyter the sentence stands without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def real_model() -> Any:
    """SmolLM2-135M-Instruct out of its wheel, with hooks.

    Raises:
        LeftOutError: its wheel is not installed and the hub cannot be reached.

    Example:
        >>> from unittest.mock import patch
        >>> with patch(f"{__name__}.load_model", side_effect=MissingFileError("Run pip.")):
        ...     real_model()
        Traceback (most recent call last):
        ...
        culnig_tl.lessons.real.LeftOutError: This section is left out: Run pip.
    """
    try:
        return load_model("smollm2")
    except MissingFileError as error:
        raise LeftOutError(f"This section is left out: {error}") from None
