"""What a run shows, in answers to three questions; and what several parts of the page say of it."""

from pathlib import Path

import pandas as pd

from culnig_tl.atlas import answer_key
from culnig_tl.evaluation import STAR, verdict
from culnig_tl.html import fall, number
from culnig_tl.neurons import Neuron
from culnig_tl.pipeline import Run
from culnig_tl.sites import SITES

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_VISIBLE = 0.05
"""Points of accuracy, and percent of P(answer), that a sentence calls a move."""
_OWN_NAMES = {"atlas": "the embedded model (atlas)", "smollm2": "SmolLM2-135M-Instruct"}


def is_embedded(run: Run) -> bool:
    """Whether the run is one of the embedded model, whose culture neurons are known."""
    shapes = answer_key("general").shapes
    mlp_shapes = [shape for site, shape in run.general.shapes.items() if site.startswith("mlp.")]
    return run.settings["model"]["name"] == "atlas" and mlp_shapes == list(shapes.values())


def model_name(run: Run) -> str:
    """The model's name, as a reader knows it."""
    name = str(run.settings["model"]["name"])
    return name if name == "atlas" and not is_embedded(run) else own_name(name)


def own_name(name: str) -> str:
    """The name of a model by what it was loaded as; of a folder, its last part.

    Example:
        >>> own_name("smollm2"), own_name("./runs/sft"), own_name("org/model")
        ('SmolLM2-135M-Instruct', 'sft', 'org/model')
    """
    return Path(name).name if name.startswith((".", "/", "~")) else _OWN_NAMES.get(name, name)


def three_answers(run: Run, selective: pd.DataFrame | None) -> dict[str, str]:
    """What was found, whether it is cultural, whether it can be believed.

    Args:
        run: a finished run.
        selective: the frame of ``selectivity``; None where it was not measured.

    Returns:
        The answers by question, out of the run's own tables.
    """
    return {
        "What was found?": _found(run),
        "Is it cultural?": _without_selectivity(run) if selective is None else _cultural(selective),
        "Can it be believed?": f"{_against_random(run)}{_what_limits(run)}",
    }


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


def _found(run: Run) -> str:
    """How many neurons, of how many, and where."""
    n_scored = sum(layers * width for layers, width in run.general.shapes.values())
    of_scored = f" of the {n_scored:,} scored" if n_scored else ""
    if not len(run.general):
        return f"None{of_scored or ' of the neurons'} is culture-general."
    counts = run.general.per_layer()
    sites = ", ".join(
        f"{count:.0f} at {SITES[str(site)].plain_name if site in SITES else site}"
        for site, count in counts.sum().items()
        if count
    )
    share = f" ({100 * len(run.general) / n_scored:.2g} %{of_scored})" if n_scored else ""
    per_layer = counts.sum(axis=1)
    return (
        f"{count_of_neurons(len(run.general))}{share} that score highest on cultural questions, "
        f"less their control: {sites}; most of them, {per_layer.max():.0f}, in layer "
        f"{per_layer.idxmax()}."
    )


def _cultural(selective: pd.DataFrame) -> str:
    """The selectivity of the culture-general neurons, and what it means."""
    rows = selective[selective["condition"] == "general"]
    rows = rows[rows["factor"] == rows["factor"].iloc[0]]
    ends = ("", "_cluster_low", "_cluster_high")
    value, low, high = (number(100 * rows[f"selectivity{end}"].iloc[0], ".0f") for end in ends)
    (meaning,) = verdict(rows).values()
    return (
        f"Selectivity, how much further P(answer) falls than on general questions, is {value} "
        f"points [{low}, {high}] on “{rows['benchmark'].iloc[0]}”. {meaning}"
    )


def _without_selectivity(run: Run) -> str:
    """What other benchmarks say where no general questions were asked."""
    rows = _first_benchmark(run)
    return (
        f"Not measured, for want of general questions. {intervention(run)} them moves accuracy on "
        f"“{rows['benchmark'].iloc[0]}” from {_percent(rows, 'original')} to "
        f"{_percent(rows, 'general')} %{_on_others(run)}."
    )


def _on_others(run: Run) -> str:
    """The other benchmark that moves most: in accuracy or, if none does, in P(answer)."""
    table = _first_factor(run.table)
    table = table[table["benchmark"] != table["benchmark"].iloc[0]].set_index("benchmark")
    others = table[table["condition"] == "general"]
    if others.empty or others["change"].isna().all():
        return ""
    points, name = others["change"], others["change"].abs().idxmax()
    if abs(points[name]) >= _VISIBLE:
        return (
            f"; among the other benchmarks, “{name}” moves most, by "
            f"{number(points[name], '+.1f')} points"
        )
    before = table[table["condition"] == "original"]
    percent = 100 * (1 - others["probability"] / before["probability"])
    name = percent.abs().idxmax()
    if abs(percent[name]) < _VISIBLE:
        return "; on the other benchmarks neither accuracy nor P(answer) moves"
    return (
        "; on the other benchmarks accuracy stays, and P(answer) moves most on "
        f"“{name}”, where it {fall(percent[name], '.1f')} %"
    )


def _against_random(run: Run) -> str:
    """What the same intervention does to P(answer) and accuracy, here and on random neurons."""
    rows = _first_benchmark(run)
    if "random" not in set(rows["condition"]):
        return "Random neurons were not tried, so others might do the same."
    n_random = run.settings["n_random"]
    sets = "one random set" if n_random == 1 else f"{_in_words(n_random)} random sets"
    own = _row(rows, "general")
    of_p = own.get("p_probability", float("nan"))
    return (
        f"P(answer) on “{rows['benchmark'].iloc[0]}” {_fall(rows, 'general')}, and with {sets} of "
        f"the same size it {_fall(rows, 'random')}: {_judgement(-_loss(rows, 'general'), of_p)}. "
        f"Accuracy goes from {_percent(rows, 'original')} to {_percent(rows, 'general')} %, with "
        f"random neurons to {_percent(rows, 'random')} %: "
        f"{_judgement(own['change'], own['p_value'])}."
    )


def _judgement(change: float, p_value: float) -> str:
    """Whether something drops further than with random neurons; what does not drop is no drop."""
    if pd.isna(p_value):
        return "whether that is more than chance was not measured"
    if change > -_VISIBLE:
        return f"no drop (p = {p_value:.2f})"
    if p_value < STAR:
        return f"a clearer drop than random neurons cause (p = {p_value:.4f})"
    return f"a drop no clearer than random neurons cause (p = {p_value:.2f})"


def _what_limits(run: Run) -> str:
    """How many warnings there are, for they stand right below."""
    count = len(run.warnings)
    if not count:
        return ""
    warnings = "warning" if count == 1 else f"{_in_words(count)} warnings"
    return f" Read the {warnings} below first."


def _loss(rows: pd.DataFrame, condition: str) -> float:
    """How far mean P(answer) falls, in % of that of the model as it is."""
    before, after = (_row(rows, name)["probability"] for name in ("original", condition))
    return 100 * (1 - after / before)


def _fall(rows: pd.DataFrame, condition: str) -> str:
    loss = _loss(rows, condition)
    return fall(loss, ".0f") + (" %" if abs(loss) >= 0.5 else "")


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
