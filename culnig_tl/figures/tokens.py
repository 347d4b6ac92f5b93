"""One prompt, token by token."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.figures.style import axis, colour_bar, layout, shown

_SPACE = "·"
_LONGEST = 10
_ROW = 34


def token_attribution(
    tokens: Sequence[str],
    values: Float[Tensor, "pos"] | Float[np.ndarray, "pos"],
    *,
    unit: str = "attribution",
    per_row: int = 10,
) -> go.Figure:
    """What each token of one prompt adds, written like text: line by line, coloured by value.

    Args:
        tokens: the tokens as strings, e.g. ``model.to_str_tokens(prompt)``.
        values: a value a token, e.g. activation x gradient of a neuron at each position.
        unit: what the values are.
        per_row: tokens a line.

    Returns:
        Cells of equal width, red below 0 and blue above, white at 0. Long tokens are cut with an
        ellipsis; pointing at one shows all of it, its position and its value.

    Raises:
        InvalidInputError: no tokens, not one finite value a token, or a line of no tokens.

    Example:
        >>> token_attribution(["<bos>", " Tea"], np.array([0.0, 0.2])).data[0].z.tolist()
        [[0.0, 0.2]]
    """
    numbers = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    _check_tokens(tokens, numbers, per_row)
    columns = min(per_row, len(tokens))
    n_rows = math.ceil(len(tokens) / columns)
    padding = n_rows * columns - len(tokens)
    grid = np.append(numbers.astype(float), [math.nan] * padding).reshape(n_rows, columns)
    limit = float(np.abs(numbers).max()) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            text=_in_rows([_short(token) for token in tokens], padding, columns),
            customdata=_in_rows([shown(repr(token)) for token in tokens], padding, columns),
            texttemplate="%{text}",
            textfont_size=11,
            colorscale="RdBu",
            zmin=-limit,
            zmid=0,
            zmax=limit,
            xgap=1,
            ygap=3,
            hoverongaps=False,
            hovertemplate=(f"%{{customdata}}<br>{shown(unit)} %{{z:.3g}}<extra></extra>"),
            colorbar=colour_bar(unit) | {"exponentformat": "power"},
        )
    )
    figure.update_layout(
        layout(f"{len(tokens):,} tokens of a prompt"), height=max(150 + _ROW * n_rows, 260)
    )
    figure.update_xaxes(axis(None), visible=False)
    first = [columns * row for row in range(n_rows)]
    return figure.update_yaxes(
        axis("position"),
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        tickvals=list(range(n_rows)),
        ticktext=[str(position) for position in first],
    )


def _check_tokens(tokens: Sequence[str], values: Float[np.ndarray, "pos"], per_row: int) -> None:
    if per_row < 1:
        raise InvalidInputError(f"per_row is {per_row}; give the tokens of a line, at least 1.")
    if not len(tokens) == len(values) > 0 or not np.isfinite(values).all():
        raise InvalidInputError(
            f"There are {len(tokens)} tokens and {np.isfinite(values).sum()} finite values for "
            "them; give one finite value a token, and at least one token."
        )


def _short(token: str) -> str:
    """A token that fits its cell; one of white space alone is spelled out."""
    bare = token.strip() or repr(token)[1:-1].replace(" ", _SPACE)
    return shown(bare if len(bare) <= _LONGEST else f"{bare[: _LONGEST - 1]}…")


def _in_rows(cells: Sequence[str], padding: int, columns: int) -> list[list[str]]:
    padded = [*cells, *[""] * padding]
    return [padded[at : at + columns] for at in range(0, len(padded), columns)]
