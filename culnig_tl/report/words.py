"""What a run found, in plain words."""

import pandas as pd

from culnig_tl.atlas import answer_key
from culnig_tl.evaluation.bootstrap import STAR
from culnig_tl.pipeline import Run
from culnig_tl.report.page import number

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


def summary(run: Run) -> str:
    """Two sentences: what scaling the culture-general neurons did, and whether that is special."""
    return f"{_effect(run)} {_comparison(run)}"


def intervention(run: Run) -> str:
    """What was done to neurons, at the start of a sentence."""
    factor = run.settings["factor"]
    return "Switching off" if factor == 0 else f"Multiplying by {factor:g} the activations of"


def neurons(count: int) -> str:
    """ "1 neuron", "1,024 neurons"."""
    return f"{count:,} neuron" + ("" if count == 1 else "s")


def _effect(run: Run) -> str:
    rows = _first_benchmark(run)
    scored = sum(layers * width for layers, width in run.general.shapes.values())
    share = f" ({100 * len(run.general) / scored:.2g} % of the {scored:,} scored)" if scored else ""
    said = (
        f"{intervention(run)} {neurons(len(run.general))}{share} moves accuracy on "
        f"“{rows['benchmark'].iloc[0]}” from {_percent(rows, 'original')} to "
        f"{_percent(rows, 'general')} %"
    )
    if "random" not in set(rows["condition"]):
        return f"{said}; random neurons were not tried."
    count = run.settings["n_random"]
    sets = "one random set" if count == 1 else f"{_count(count)} random sets"
    return f"{said}; {sets} of the same size move it to {_percent(rows, 'random')} %."


def _comparison(run: Run) -> str:
    rows = _first_benchmark(run)
    p_value = float(_of(rows, "general")["p_value"])
    if pd.isna(p_value):
        verdict = "Whether random neurons would do the same was not measured"
    elif p_value < STAR:
        verdict = f"That is a clearer drop than random neurons cause (p = {p_value:.4f})"
    else:
        verdict = (
            f"That drop is not clearly larger than what random neurons cause (p = {p_value:.2f})"
        )
    first = rows["benchmark"].iloc[0]
    others = run.table[(run.table["condition"] == "general") & (run.table["benchmark"] != first)]
    if others.empty or others["change"].isna().all():
        return f"{verdict}."
    if others["change"].abs().max() < _VISIBLE_POINTS:
        return f"{verdict}; no other benchmark moves."
    most = others.loc[others["change"].abs().idxmax()]
    return (
        f"{verdict}; among the other benchmarks, “{most['benchmark']}” moves most, by "
        f"{number(most['change'], '+.1f')} points."
    )


def _first_benchmark(run: Run) -> pd.DataFrame:
    return run.table[run.table["benchmark"] == run.table["benchmark"].iloc[0]]


def _of(rows: pd.DataFrame, condition: str) -> pd.Series:
    return rows[rows["condition"] == condition].iloc[0]


def _percent(rows: pd.DataFrame, condition: str) -> str:
    return f"{_of(rows, condition)['accuracy']:.1f}"


def _count(count: int) -> str:
    return _COUNTS[count] if count < len(_COUNTS) else str(count)
