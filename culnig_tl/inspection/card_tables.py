"""The tables of a card: what makes them, and what a file of them must hold."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.errors import InvalidInputError
from culnig_tl.inspection.observation import Observations
from culnig_tl.neurons import Neuron
from culnig_tl.scores import NeuronScores

_BINS = 41
_MEANS = {
    "prompts": "number",
    "highest": "number",
    "score": "number",
    "drop": "number",
    "accuracy_drop": "number",
}

COLUMNS: dict[str, dict[str, str]] = {
    "ranks": {
        "scores": "text",
        "value": "number",
        "rank": "number",
        "pool": "number",
        "share": "number",
    },
    "histogram": {"low": "number", "high": "number", "tokens": "number"},
    "questions": {
        **dict.fromkeys(("id", "culture", "topic", "template", "answer"), "label"),
        **dict.fromkeys(("highest", "lowest", "score"), "number"),
        **dict.fromkeys(("probability", "probability_off", "drop"), "number"),
        **dict.fromkeys(("correct", "correct_off"), "flag"),
    },
    "cultures": {"culture": "label", **_MEANS},
    "topics": {"topic": "label", **_MEANS},
    "promoted": {"token": "text", "effect": "number"},
    "demoted": {"token": "text", "effect": "number"},
    "neighbours": {"neuron": "text", "correlation": "number", "score": "number"},
}
"""Columns of each table of a card, and what is in them; a label is a text that may be missing."""

_KINDS = {"text": str, "label": str, "number": (int, float), "flag": bool}
_NEVER_EMPTY = ("ranks", "questions", "cultures")


def rank_table(neuron: Neuron, scores: Mapping[str, NeuronScores]) -> pd.DataFrame:
    """Place of a neuron in each of some scores (see ``NeuronScores.rank_of``)."""
    rows = []
    for name, ranking in scores.items():
        value = float(ranking.total(neuron.site)[neuron.layer, neuron.index])
        rank, pool = ranking.rank_of(neuron)
        rows.append((name, value, rank, pool, rank / pool))
    return pd.DataFrame(rows, columns=["scores", "value", "rank", "pool", "share"])


def histogram(activations: Float[np.ndarray, "_pos"]) -> pd.DataFrame:
    """Number of tokens in equal intervals of activation: columns low, high, tokens."""
    counts, edges = np.histogram(activations, bins=_BINS)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "tokens": counts})


def first_per_question(questions: pd.DataFrame, column: str, *, ascending: bool) -> list[int]:
    """Rows in the order of ``column``, only the first of each question and culture."""
    ordered = questions.sort_values(column, ascending=ascending, kind="stable")
    return ordered.index[~ordered.duplicated(["id", "culture"])].tolist()


def means_by(questions: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means over the prompts of each culture or topic, largest drop first."""
    accuracy_drop = 100.0 * questions["correct"] - 100.0 * questions["correct_off"]
    groups = questions.assign(accuracy_drop=accuracy_drop).groupby(column, sort=False)
    means = groups[["highest", "score", "drop", "accuracy_drop"]].mean()
    means.insert(0, "prompts", groups.size())
    return means.sort_values("drop", ascending=False, kind="stable").reset_index()


def neighbour_table(neuron: Neuron, observations: Observations, top: int) -> pd.DataFrame:
    """The neurons whose scores go most with this one's; none where its own never change."""
    rows = []
    for site, likeness in observations.neurons[neuron].likeness.items():
        flat = likeness.nan_to_num(nan=float("-inf")).flatten()
        for place in flat.argsort(descending=True, stable=True)[: top + 1].tolist():
            other = Neuron(site, *divmod(place, likeness.shape[1]))
            if other != neuron and flat[place].isfinite():
                score = float(observations.scores.total(site)[other.layer, other.index])
                rows.append((str(other), float(flat[place]), score))
    frame = pd.DataFrame(rows, columns=["neuron", "correlation", "score"])
    return frame.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)[:top]


def table_from_json(name: str, stored: Mapping[str, Any]) -> pd.DataFrame:
    """The table that a file holds under ``name`` as columns and rows.

    Raises:
        InvalidInputError: other columns, cells of another kind, or no rows where some are needed.
    """
    columns, rows = COLUMNS[name], stored["data"]
    if stored["columns"] != list(columns) or (not rows and name in _NEVER_EMPTY):
        raise InvalidInputError(
            f"{name} has {len(rows)} rows of {stored['columns']!r:.80}; it needs some of "
            f"{', '.join(columns)}"
        )
    for column, cells in zip(columns, zip(*rows, strict=True), strict=bool(rows)):
        check_cells(f"{name}, {column}", columns[column], cells)
    return pd.DataFrame(rows, columns=list(columns))


def check_cells(name: str, kind: str, cells: Iterable[Any]) -> None:
    """Refuse what is no text, label, number or flag (see ``COLUMNS``).

    Raises:
        InvalidInputError: with the first of them.
    """
    for cell in cells:
        is_bool, is_missing = isinstance(cell, bool), cell is None or cell != cell
        is_right = isinstance(cell, _KINDS[kind]) and is_bool == (kind == "flag")
        if not (is_right or (kind == "label" and is_missing)):
            raise InvalidInputError(f"{name} has {cell!r:.40}, which is no {kind}")
