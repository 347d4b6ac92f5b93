"""The tables of a card: what makes them, and what a file of them must hold."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.inspection.observation import Observations
from culnig_tl.neurons import Neuron
from culnig_tl.scores import NeuronScores
from culnig_tl.sites import SITES

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

GLOSSARY = {
    "S(D)": "Score on all questions: how much of the right answer's probability the neuron is "
    "estimated to carry",
    "score": "How much of this answer's probability the neuron is estimated to carry",
    "mean score": "Mean of the prompts' scores",
    "rank": "Place among all neurons ranked together, 1 for the highest S(D)",
    "top": "Rank as a share of all neurons ranked together",
    "P(answer)": "Probability of the right answer after the prompt, 0 to 1",
    "mean peak": "Mean over prompts of the neuron's highest activation at a text token",
    "effect": "What one unit of activation adds to the logit of the token",
    "first-order estimate": "What P(answer) would lose if it went on as steeply as near the "
    "neuron's activation",
    "correlation": "1: the scores of both neurons rise and fall together; 0: unrelated",
}
"""What a card says of each symbol to whoever points at it."""

_MEMBERSHIP = ["site", "layer", "neuron", "membership"]
_KINDS = {"text": str, "label": str, "number": (int, float), "flag": bool}
_NEVER_EMPTY = ("ranks", "questions", "cultures")


def plain_name(neuron: Neuron) -> str:
    """A neuron's name in words; a site that nobody described has that of its hook point.

    Example:
        >>> plain_name(Neuron.parse("L0.mlp.hook_post.152"))
        'MLP output, layer 0, neuron 152'
    """
    site = SITES[neuron.site].plain_name if neuron.site in SITES else neuron.site
    return f"{site}, layer {neuron.layer}, neuron {neuron.index}"


def fragments_of_words(tokens: Sequence[str]) -> frozenset[str]:
    """Tokens that begin inside a word: without the space that others of the list begin with.

    Letters alone begin a word of their own where no token of the list has a space, as with
    tokenizers that mark words otherwise.

    Example:
        >>> sorted(fragments_of_words([" capitals", "ocaust", "attle", "5", " is"]))
        ['attle', 'ocaust']
    """
    if not any(token.startswith(" ") for token in tokens):
        return frozenset()
    return frozenset(token for token in tokens if token[:1].islower() or "\ufffd" in token)


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


def share_of_resamples(neuron: Neuron, membership: pd.DataFrame) -> float | None:
    """In what share of resamples of the questions a neuron is in a set, 0 to 1.

    Args:
        neuron: the neuron.
        membership: the frame of ``ct.membership``, which ``culnig-tl validate`` writes as
            membership.csv: site, layer, neuron, membership.

    Returns:
        0 for a neuron that no resample selected; None at a site of which none selected any, as it
        may not have been looked at.

    Example:
        >>> frame = pd.DataFrame([("mlp.hook_post", 0, 5, 0.93)],
        ...     columns=["site", "layer", "neuron", "membership"])
        >>> [share_of_resamples(Neuron.of(name), frame)
        ...  for name in ("L0.mlp.hook_post.5", "L1.mlp.hook_post.5", "L0.attn.hook_q.5")]
        [0.93, 0.0, None]
    """
    at_site = membership[membership["site"] == neuron.site]
    if at_site.empty:
        return None
    own = at_site[(at_site["layer"] == neuron.layer) & (at_site["neuron"] == neuron.index)]
    return float(own["membership"].sum())


def membership_sentence(share: float) -> str:
    """What a card says of it.

    Example:
        >>> membership_sentence(0.93)
        'It is in the set in 93 % of resamples of the questions.'
    """
    return f"It is in the set in {100 * share:.0f} % of resamples of the questions."


def check_membership(membership: pd.DataFrame) -> None:
    """Refuse a frame that ``ct.membership`` does not give.

    Raises:
        InvalidInputError: a missing column, a neuron given twice, or numbers that are no place of a
            neuron or no share.
    """
    if missing := [name for name in _MEMBERSHIP if name not in membership]:
        raise InvalidInputError(
            f"The frame of membership has no column {', '.join(missing)}; give the frame of "
            "ct.membership, or membership.csv of culnig-tl validate."
        )
    if membership.duplicated(_MEMBERSHIP[:3]).any():
        raise InvalidInputError(
            "The frame of membership has a neuron twice; give the frame of one call of "
            "ct.membership."
        )
    for name in ("layer", "neuron"):
        for value in membership[name].tolist():
            check_number(f"{name} of membership", value, low=0, whole=True)
    for share in membership["membership"].tolist():
        check_number("membership", share, low=0, high=1)


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
