"""One prompt, token by token."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.figures.style import axis, colour_bar, label, layout

T = TypeVar("T")

_SPACE = "·"
_LONGEST_TEXT = 10
_ROW_HEIGHT = 34


def token_attribution(
    tokens: Sequence[str],
    values: Float[Tensor, "pos"] | Float[np.ndarray, "pos"],
    *,
    unit: str = "attribution",
    per_row: int = 10,
) -> go.Figure:
    """The tokens of one prompt, written line by line like text and coloured by a value per token.

    Args:
        tokens: the tokens as strings, e.g. ``model.to_str_tokens(prompt)``.
        values: one value per token, e.g. activation x gradient of a neuron at each position.
        unit: what the values are.
        per_row: tokens per line.

    Returns:
        Cells of equal width, red below 0 and blue above, white at 0. Long tokens are cut with an
        ellipsis and letters shrink to their cells (on a phone, take fewer ``per_row``); pointing at
        one shows all of it, its position and its value.

    Raises:
        InvalidInputError: no tokens, not one finite value per token, or a line of no tokens.

    Example:
        >>> token_attribution(["<bos>", " Tea"], np.array([0.0, 0.2])).data[0].z.tolist()
        [[0.0, 0.2]]
    """
    numbers = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    _check_tokens(tokens, numbers, per_row)
    n_columns = min(per_row, len(tokens))
    figure = go.Figure(_cells(tokens, numbers, unit, n_columns))
    starts = range(0, len(tokens), n_columns)
    figure.update_layout(
        layout(f"{len(tokens):,} tokens of a prompt"),
        height=max(150 + _ROW_HEIGHT * len(starts), 260),
    )
    figure.update_xaxes(axis(None), visible=False)
    return figure.update_yaxes(
        axis("position"),
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        tickvals=list(range(len(starts))),
        ticktext=[str(position) for position in starts],
    )


def _check_tokens(tokens: Sequence[str], values: Float[np.ndarray, "pos"], per_row: int) -> None:
    check_number("per_row", per_row, low=1, whole=True)
    if not len(tokens) == len(values) > 0 or not np.isfinite(values).all():
        raise InvalidInputError(
            f"There are {len(tokens)} tokens and {np.isfinite(values).sum()} finite values for "
            "them; give one finite value per token, and at least one token."
        )


def _cells(
    tokens: Sequence[str], values: Float[np.ndarray, "pos"], unit: str, n_columns: int
) -> go.Heatmap:
    """One cell per token, in rows; the last row is filled up with blanks."""
    limit = float(np.abs(values).max()) or 1.0
    return go.Heatmap(
        z=np.array(_in_rows(values.astype(float).tolist(), math.nan, n_columns)),
        text=_in_rows([_short(token) for token in tokens], "", n_columns),
        customdata=_in_rows([label(repr(token)) for token in tokens], "", n_columns),
        texttemplate="%{text}",
        colorscale="RdBu",
        zmin=-limit,
        zmid=0,
        zmax=limit,
        xgap=1,
        ygap=3,
        hoverongaps=False,
        hovertemplate=f"%{{customdata}}<br>{label(unit)} %{{z:.3g}}<extra></extra>",
        colorbar=colour_bar(unit) | {"exponentformat": "power"},
    )


def _short(token: str) -> str:
    """A token that fits its cell; one of white space alone is spelled out."""
    bare = token.strip() or repr(token)[1:-1].replace(" ", _SPACE)
    return label(bare if len(bare) <= _LONGEST_TEXT else f"{bare[: _LONGEST_TEXT - 1]}…")


def _in_rows(cells: Sequence[T], blank: T, n_columns: int) -> list[list[T]]:
    padded = [*cells, *[blank] * (-len(cells) % n_columns)]
    return [padded[start : start + n_columns] for start in range(0, len(padded), n_columns)]
