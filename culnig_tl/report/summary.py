"""What a run shows, in two sentences; and what several parts of the page say of it."""

import pandas as pd

from culnig_tl.atlas import answer_key
from culnig_tl.evaluation import STAR
from culnig_tl.html import number
from culnig_tl.neurons import Neuron
from culnig_tl.pipeline import Run

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_VISIBLE_POINTS = 0.05


def is_embedded(run: Run) -> bool:
    """Whether the run is one of the embedded model, whose culture neurons are known."""
    shapes = answer_key("general").shapes
    mlp_shapes = [shape for site, shape in run.general.shapes.items() if site.startswith("mlp.")]
    return run.settings["model"]["name"] == "atlas" and mlp_shapes == list(shapes.values())


def model_name(run: Run) -> str:
    """The model's name, as a reader knows it."""
    return "the embedded model (atlas)" if is_embedded(run) else str(run.settings["model"]["name"])


def two_sentences(run: Run) -> str:
    """What scaling the culture-general neurons did, and whether that is special."""
    return f"{_effect(run)} {_comparison(run)}"


def intervention(run: Run) -> str:
    """What was done to neurons, at the start of a sentence."""
    factor = run.settings["factor"]
    return "Switching off" if factor == 0 else f"Multiplying by {factor:g} the activations of"


def best_neurons(run: Run, most: int) -> list[tuple[Neuron, float]]:
    """The culture-general neurons with the highest scores and these, best first."""
    best = run.general.to_frame().head(most).itertuples(index=False, name=None)
    return [(Neuron(site, layer, index), score) for site, layer, index, score in best]


def count_of_neurons(count: int) -> str:
    """ "1 neuron", "1,024 neurons"."""
    return f"{count:,} neuron" + ("" if count == 1 else "s")


def _effect(run: Run) -> str:
    rows = _first_benchmark(run)
    sentence = (
        f"{intervention(run)} {count_of_neurons(len(run.general))}{_share_of_scored(run)} moves "
        f"accuracy on “{rows['benchmark'].iloc[0]}” from {_percent(rows, 'original')} to "
        f"{_percent(rows, 'general')} %"
    )
    if "random" not in set(rows["condition"]):
        return f"{sentence}; random neurons were not tried."
    n_random = run.settings["n_random"]
    is_one = n_random == 1
    sets = "one random set" if is_one else f"{_in_words(n_random)} random sets"
    moves = "moves" if is_one else "move"
    return f"{sentence}; {sets} of the same size {moves} it to {_percent(rows, 'random')} %."


def _share_of_scored(run: Run) -> str:
    """The size of the set against what was scored, in brackets; nothing where that is unknown."""
    n_scored = sum(layers * width for layers, width in run.general.shapes.values())
    if not n_scored:
        return ""
    return f" ({100 * len(run.general) / n_scored:.2g} % of the {n_scored:,} scored)"


def _comparison(run: Run) -> str:
    rows = _first_benchmark(run)
    verdict = _verdict(float(_row(rows, "general")["p_value"]))
    table = _first_factor(run.table)
    is_other = table["benchmark"] != rows["benchmark"].iloc[0]
    others = table[is_other & (table["condition"] == "general")]
    if others.empty or others["change"].isna().all():
        return f"{verdict}."
    if others["change"].abs().max() < _VISIBLE_POINTS:
        return f"{verdict}; no other benchmark moves."
    most = others.loc[others["change"].abs().idxmax()]
    return (
        f"{verdict}; among the other benchmarks, “{most['benchmark']}” moves most, by "
        f"{number(most['change'], '+.1f')} points."
    )


def _verdict(p_value: float) -> str:
    """Whether a drop is more than random neurons cause."""
    if pd.isna(p_value):
        return "Whether random neurons would do the same was not measured"
    if p_value < STAR:
        return f"That is a clearer drop than random neurons cause (p = {p_value:.4f})"
    return f"That drop is not clearly larger than what random neurons cause (p = {p_value:.2f})"


def _first_benchmark(run: Run) -> pd.DataFrame:
    table = _first_factor(run.table)
    return table[table["benchmark"] == table["benchmark"].iloc[0]]


def _first_factor(table: pd.DataFrame) -> pd.DataFrame:
    """One row per benchmark and condition: that of the first of several factors."""
    return table.drop_duplicates(["benchmark", "condition"])


def _row(rows: pd.DataFrame, condition: str) -> pd.Series:
    return rows[rows["condition"] == condition].iloc[0]


def _percent(rows: pd.DataFrame, condition: str) -> str:
    return f"{_row(rows, condition)['accuracy']:.1f}"


def _in_words(count: int) -> str:
    return _COUNTS[count] if count < len(_COUNTS) else str(count)
