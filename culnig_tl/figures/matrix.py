"""Cultures by cultures."""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from culnig_tl.atlas.facts import KIN
from culnig_tl.errors import InvalidInputError
from culnig_tl.figures.style import all_shown, axis, check_columns, colour_bar, known, layout

_EFFECTS = ("change", "probability_change", "n_neurons", "n_prompts")
_CHANGES = {
    "change": ("accuracy change, points", "Accuracy", ".0f", 1.0),
    "probability_change": ("mean P(answer) change", "Mean P(answer)", ".2f", 0.01),
}
_VALUES_SHOWN_UP_TO = 20
_OWN = {"color": "#E69F00", "width": 2.5}
_KIN = {"color": "#7a7a7a", "width": 1.5}
_TESTED = "culture tested (orange: the masked one itself; grey: its kin)"


def culture_matrix(
    effects: pd.DataFrame,
    *,
    value: Literal["change", "probability_change"] = "change",
    kin: Iterable[Collection[str]] = KIN,
) -> go.Figure:
    """What masking each culture's neurons does to every culture.

    Args:
        effects: the frame of ``evaluation.culture_effects``, one row a pair of cultures.
        value: ``"change"`` (accuracy, points) or ``"probability_change"`` (mean ``P(answer)``,
            -1 to 1).
        kin: groups of cultures that belong together; by default those of the embedded model, which
            are pairs of BLEnD's cultures.

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
    unit, measure, number, least = _CHANGES[known(value, _CHANGES)]
    check_columns(effects, ("masked", "tested", *_EFFECTS), "evaluation.culture_effects")
    _check_pairs(effects)
    groups = [set(group) for group in kin]
    tested = _kin_together(effects["tested"].unique(), groups)
    masked = sorted(effects["masked"].unique(), key=lambda culture: _place(culture, tested))
    fields = _fields(effects, masked, tested)
    cells = fields[..., _EFFECTS.index(value)]
    limit = max(np.nanmax(np.abs(cells), initial=0.0), least)
    legible = limit > least and len(tested) <= _VALUES_SHOWN_UP_TO
    figure = go.Figure(
        go.Heatmap(
            x=all_shown(tested),
            y=all_shown(masked),
            z=cells,
            customdata=fields.tolist(),
            colorscale="RdBu",
            zmin=-limit,
            zmax=limit,
            zmid=0,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            texttemplate=f"%{{z:{number}}}" if legible else None,
            hovertemplate=(
                "masked: %{y} (%{customdata[2]:.0f} neurons)<br>"
                "tested: %{x} (%{customdata[3]:.0f} prompts)<br>"
                "accuracy %{customdata[0]:+.1f} points<br>"
                "mean P(answer) %{customdata[1]:+.4f}<extra></extra>"
            ),
            colorbar=colour_bar(unit),
        )
    )
    figure.update_layout(
        layout(f"{measure}: what masking a culture's neurons does to each culture"),
        height=170 + 27 * max(len(masked), 7),
        shapes=[
            outline
            for group, line in [*((kin, _KIN) for kin in groups), *(({c}, _OWN) for c in masked)]
            for outline in _outline(tested, masked, group, line)
        ],
    )
    figure.update_xaxes(axis(_TESTED), type="category", tickangle=-40, showgrid=False)
    return figure.update_yaxes(
        axis("culture masked"), type="category", autorange="reversed", showgrid=False
    )


def _check_pairs(effects: pd.DataFrame) -> None:
    twice = effects[effects.duplicated(["masked", "tested"])]
    if not twice.empty:
        masked, tested = twice.iloc[0][["masked", "tested"]]
        raise InvalidInputError(
            f"The effect of masking {masked!r} on {tested!r} is given more than once; give one row "
            "a pair of cultures."
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


def _outline(
    tested: Sequence[str], masked: Sequence[str], group: Set[str], line: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A frame around the cells of a group's cultures among themselves, if there are any."""
    columns = [i for i, culture in enumerate(tested) if culture in group]
    rows = [i for i, culture in enumerate(masked) if culture in group]
    if not columns or not rows:
        return []
    corners = {"x0": min(columns) - 0.5, "x1": max(columns) + 0.5}
    corners |= {"y0": min(rows) - 0.5, "y1": max(rows) + 0.5}
    return [{"type": "rect", **corners, "line": dict(line)}]


def _place(culture: str, order: Sequence[str]) -> int:
    return order.index(culture) if culture in order else len(order)
