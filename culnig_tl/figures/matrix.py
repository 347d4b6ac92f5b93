"""Cultures by cultures."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from culnig_tl.cultures import KIN
from culnig_tl.errors import InvalidInputError
from culnig_tl.figures.style import (
    Measure,
    axis,
    check_columns,
    colour_bar,
    get_measure,
    labels,
    layout,
)

_EFFECTS = ("change", "probability_change", "n_neurons", "n_prompts")
_CHANGES = {
    "change": Measure("accuracy change, points", "Accuracy", ".0f"),
    "probability_change": Measure("mean P(answer) change", "Mean P(answer)", ".2f"),
}
_LEAST_LIMIT = {"change": 1.0, "probability_change": 0.01}
_CULTURES_WITH_VALUES = 20
_OWN_LINE = {"color": "#E69F00", "width": 2.5}
_KIN_LINE = {"color": "#7a7a7a", "width": 1.5}
_X_TITLE = "culture tested (orange: the masked one itself; grey: its kin)"


def culture_matrix(
    effects: pd.DataFrame,
    *,
    value: Literal["change", "probability_change"] = "change",
    kin: Iterable[Collection[str]] = KIN,
) -> go.Figure:
    """What masking each culture's neurons does to every culture.

    Args:
        effects: the frame of ``evaluation.culture_effects``, one row per pair of cultures.
        value: ``"change"`` (accuracy, points) or ``"probability_change"`` (mean ``P(answer)``,
            -1 to 1).
        kin: groups of cultures that belong together; by default pairs of BLEnD's cultures, those
            that the embedded model knows.

    Returns:
        Masked cultures as rows, tested cultures as columns, in the order of ``tested`` but with kin
        next to each other. A culture's effect on itself is outlined, and kin have a thinner outline
        around them. Red is a drop.

    Raises:
        InvalidInputError: missing columns, no rows, a pair given twice, or another ``value``.

    Example:
        >>> effects = pd.DataFrame({"masked": ["Iran"], "tested": ["Iran"], "change": [-25.0],
        ...     "probability_change": [-0.2], "n_neurons": [8], "n_prompts": [36]})
        >>> culture_matrix(effects).data[0].z.tolist()
        [[-25.0]]
    """
    measure = get_measure(value, _CHANGES)
    check_columns(effects, ("masked", "tested", *_EFFECTS), "evaluation.culture_effects")
    _check_pairs(effects)
    groups = [set(group) for group in kin]
    tested = _kin_together(effects["tested"].unique(), groups)
    masked = sorted(effects["masked"].unique(), key=lambda culture: _place(culture, tested))
    figure = go.Figure(_heatmap(effects, masked, tested, value))
    figure.update_layout(
        layout(f"{measure.title}: what masking a culture's neurons does to each culture"),
        height=170 + 27 * max(len(masked), 7),
        shapes=[
            *_outlines(tested, masked, groups, _KIN_LINE),
            *_outlines(tested, masked, [{culture} for culture in masked], _OWN_LINE),
        ],
    )
    figure.update_xaxes(axis(_X_TITLE), type="category", tickangle=-40, showgrid=False)
    return figure.update_yaxes(
        axis("culture masked"), type="category", autorange="reversed", showgrid=False
    )


def _check_pairs(effects: pd.DataFrame) -> None:
    twice = effects[effects.duplicated(["masked", "tested"])]
    if not twice.empty:
        masked, tested = twice.iloc[0][["masked", "tested"]]
        raise InvalidInputError(
            f"The effect of masking {masked!r} on {tested!r} is given more than once; give one row "
            "per pair of cultures."
        )


def _heatmap(
    effects: pd.DataFrame, masked: Sequence[str], tested: Sequence[str], value: str
) -> go.Heatmap:
    """The coloured cells; a value is written into each where there is room and a change."""
    fields = _fields(effects, masked, tested)
    changes = fields[..., _EFFECTS.index(value)]
    limit = max(np.nanmax(np.abs(changes), initial=0.0), _LEAST_LIMIT[value])
    has_values = limit > _LEAST_LIMIT[value] and len(tested) <= _CULTURES_WITH_VALUES
    return go.Heatmap(
        x=labels(tested),
        y=labels(masked),
        z=changes,
        customdata=fields.tolist(),
        colorscale="RdBu",
        zmin=-limit,
        zmax=limit,
        zmid=0,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        texttemplate=f"%{{z:{_CHANGES[value].number_format}}}" if has_values else None,
        hovertemplate=(
            "masked: %{y} (%{customdata[2]:.0f} neurons)<br>"
            "tested: %{x} (%{customdata[3]:.0f} prompts)<br>"
            "accuracy %{customdata[0]:+.1f} points<br>"
            "mean P(answer) %{customdata[1]:+.4f}<extra></extra>"
        ),
        colorbar=colour_bar(_CHANGES[value].unit),
    )


def _fields(
    effects: pd.DataFrame, masked: Sequence[str], tested: Sequence[str]
) -> Float[np.ndarray, "masked tested field"]:
    """Every field of every pair, NaN where a pair is not given."""
    grids = [
        effects.pivot_table(index="masked", columns="tested", values=field, sort=False)
        .reindex(index=list(masked), columns=list(tested))
        .to_numpy(float)
        for field in _EFFECTS
    ]
    return np.stack(grids, axis=-1)


def _kin_together(cultures: Iterable[str], kin: Sequence[Set[str]]) -> list[str]:
    """The cultures in their order, but each group where its first culture stands."""
    ordered: dict[str, None] = {}
    cultures = list(cultures)
    for culture in cultures:
        group = next((group for group in kin if culture in group), {culture})
        ordered |= dict.fromkeys(each for each in cultures if each in group)
    return list(ordered)


def _outlines(
    tested: Sequence[str],
    masked: Sequence[str],
    groups: Iterable[Set[str]],
    line: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """A frame around the cells of each group's cultures among themselves, if there are any."""
    for group in groups:
        columns = [i for i, culture in enumerate(tested) if culture in group]
        rows = [i for i, culture in enumerate(masked) if culture in group]
        if columns and rows:
            corners = {"x0": min(columns) - 0.5, "x1": max(columns) + 0.5}
            corners |= {"y0": min(rows) - 0.5, "y1": max(rows) + 0.5}
            yield {"type": "rect", **corners, "line": dict(line)}


def _place(culture: str, order: Sequence[str]) -> int:
    return order.index(culture) if culture in order else len(order)
