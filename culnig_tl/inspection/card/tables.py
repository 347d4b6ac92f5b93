"""The tables of a card, out of what was seen."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from culnig_tl.hooks import ATTENTION_SITES, MLP_SITES, HookedModel
from culnig_tl.inspection.observation import Located, Observation
from culnig_tl.neurons import neuron_id
from culnig_tl.scores import NeuronScores

_BINS = 41


def one_a_question(table: pd.DataFrame, column: str, *, ascending: bool) -> list[int]:
    """Rows in the order of ``column``, only the first of each question and culture."""
    ordered = table.sort_values(column, ascending=ascending, kind="stable")
    return ordered.index[~ordered.duplicated(["id", "culture"])].tolist()


def ranks_of(neuron: Located, scores: Mapping[str, NeuronScores]) -> pd.DataFrame:
    """Place among the neurons of the same pool; equal scores share the better rank."""
    site, layer, index = neuron
    found = []
    for name, given in scores.items():
        pool = [site] if site in MLP_SITES else [s for s in given.sites if s in ATTENTION_SITES]
        totals = torch.cat([given.total(s).flatten() for s in pool])
        value = given.total(site)[layer, index]
        rank = int((totals > value).sum()) + 1
        found.append((name, float(value), rank, len(totals), rank / len(totals)))
    return pd.DataFrame(found, columns=["scores", "value", "rank", "pool", "share"])


def histogram_of(activations: Float[np.ndarray, "_pos"]) -> pd.DataFrame:
    counts, edges = np.histogram(activations, bins=_BINS)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "tokens": counts})


def means_by(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means over the prompts of each culture or topic, largest drop first."""
    table = table.assign(accuracy_drop=100.0 * table["correct"] - 100.0 * table["correct_off"])
    groups = table.groupby(column, sort=False)
    means = groups[["highest", "score", "drop", "accuracy_drop"]].mean()
    means.insert(0, "prompts", groups.size())
    return means.sort_values("drop", ascending=False, kind="stable").reset_index()


def written_by(
    model: HookedModel, effects: Float[torch.Tensor, "vocab"], top: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    order = effects.argsort(descending=True, stable=True)
    return _named(model, effects, order[:top]), _named(model, effects, order.flip(0)[:top])


def _named(model: HookedModel, effects: torch.Tensor, chosen: torch.Tensor) -> pd.DataFrame:
    tokens = [model.tokenizer.decode([token]) for token in chosen.tolist()]
    return pd.DataFrame({"token": tokens, "effect": effects[chosen].tolist()})


def nothing_written() -> pd.DataFrame:
    return pd.DataFrame({"token": [], "effect": []})


def neighbours_of(
    neuron: Located, mine: Observation, scores: NeuronScores, top: int
) -> pd.DataFrame:
    """The neurons whose scores go most with this one's; none where its own never change."""
    found = []
    for site, likeness in mine.likeness.items():
        flat = likeness.nan_to_num(nan=float("-inf")).flatten()
        for place in flat.argsort(descending=True, stable=True)[: top + 1].tolist():
            layer, index = divmod(place, likeness.shape[1])
            if (site, layer, index) != neuron and flat[place].isfinite():
                score = float(scores.total(site)[layer, index])
                found.append((neuron_id(site, layer, index), float(flat[place]), score))
    frame = pd.DataFrame(found, columns=["neuron", "correlation", "score"])
    return frame.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)[:top]
