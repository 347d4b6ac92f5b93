"""The tables of a card."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from culnig_tl.inspection.observation import Observations
from culnig_tl.neurons import Neuron
from culnig_tl.scores import NeuronScores

_BINS = 41


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
