"""The sections of figures, each with a caption and with words for those who cannot see it."""

from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from culnig_tl import figures
from culnig_tl.evaluation import STAR, condition_labels
from culnig_tl.html import figure, number, paragraph, section
from culnig_tl.pipeline import Run
from culnig_tl.report import summary
from culnig_tl.validation import threshold_sweep

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")


def accuracy_bars(run: Run) -> str:
    """Accuracy by benchmark and condition."""
    bars = "; ".join(
        f"{row.benchmark}, {label}: {row.accuracy:.1f} %"
        for label, row in zip(condition_labels(run.table), run.table.itertuples(), strict=True)
    )
    return figure(
        figures.comparison_bars(run.table),
        name="comparison",
        label=f"Bars of accuracy. {bars}.",
        caption="Culture-general neurons should pull down the cultural benchmark and leave the "
        "others where they are; random neurons should do nothing. Lines are 95 % intervals. "
        f"A star: a drop larger than that of random neurons (p < {STAR:g}, paired bootstrap).",
    )


def dose_curves(run: Run) -> str:
    """Accuracy by the factor on the culture-general neurons."""
    if run.doses.empty:
        return ""
    lines = "; ".join(
        f"{benchmark}: "
        + ", ".join(f"{row.accuracy:.1f} % at {row.factor:g}" for row in line.itertuples())
        for benchmark, line in run.doses.groupby("benchmark", sort=False)
    )
    most = int(run.doses["n_questions"].max())
    plot = figures.dose_response(run.doses)
    plot.update_layout(
        title_text="Accuracy by the factor on the culture-general neurons",
        height=430,
        margin_t=110,  # two rows of benchmarks below the title
    )
    _tell_apart(plot)
    return figure(
        plot,
        name="doses",
        label=f"Lines of accuracy by factor. {lines}.",
        caption="The dose is what the activations of the culture-general neurons are multiplied "
        "by. Neurons that carry culture let the cultural benchmark fall steadily from 1 to 0 and "
        f"leave the others where they are. At most {most} questions of each benchmark were asked, "
        "so the bands of 95 % are wide.",
    )


def _tell_apart(plot: go.Figure) -> None:
    """Lines that coincide stay visible: each is thinner than those below it, its marker another."""
    lines: list[Any] = list(plot.select_traces({"mode": "lines+markers"}))
    for i, line in enumerate(lines):
        n_above = len(lines) - 1 - i
        line.update(
            line_width=2 + 1.5 * n_above,
            marker={"size": 7 + 2 * n_above, "symbol": _SYMBOLS[i % len(_SYMBOLS)]},
        )


def neuron_heatmap(run: Run) -> str:
    """Where the culture-general neurons are."""
    if not len(run.general):
        return section("Where the neurons are", paragraph("No culture-general neuron was found."))
    per_layer = run.general.per_layer().sum(axis=1)
    counts = ", ".join(f"layer {layer}: {count}" for layer, count in per_layer.items())
    plot = figure(
        figures.layer_heatmap(run.general),
        name="general-neurons",
        label=f"Heatmap of the culture-general neurons by layer and position. {counts}.",
        caption="Each coloured bin holds selected neurons; point at it to see which. Layer 0 reads "
        "the input. Neighbouring neurons have nothing in common but their numbers.",
    )
    return section("Where the neurons are", plot)


def score_heatmap(run: Run) -> str:
    """The largest cultural score of every bin."""
    cultural = run.scores["cultural"]
    best = cultural.to_frame(top=1).iloc[0]
    return figure(
        figures.layer_heatmap(cultural),
        name="scores",
        label="Heatmap of cultural scores by layer and position. The largest, "
        f"{best['score']:.3g}, is that of neuron {best['neuron']} in layer {best['layer']} at "
        f"{best['site']}.",
        caption="S(D) estimates how much of the right answer's probability a neuron carries on the "
        "cultural questions, before the control questions are subtracted.",
    )


def module_heatmap(run: Run) -> str:
    """Culture-general neurons by layer and module."""
    if not len(run.general):
        return ""
    per_site = run.general.per_layer().sum()
    counts = ", ".join(f"{site}: {count}" for site, count in per_site.items())
    return figure(
        figures.layer_heatmap(run.general, by="module"),
        name="modules",
        label=f"Heatmap of the culture-general neurons by layer and module. {counts}.",
        caption="The same neurons, counted by module.",
    )


def layer_profile(run: Run) -> str:
    """The share of the culture-general neurons in each layer, beside random sets."""
    if not len(run.general):
        return ""
    counts = run.general.per_layer().sum(axis=1)
    most = int(counts.to_numpy().argmax())
    return figure(
        figures.layer_profile({"culture-general": run.general}),
        name="depth",
        label=f"Line of the share of culture-general neurons by layer. Layer {most} has most, "
        f"{counts.iloc[most]} of {len(run.general)}.",
        caption="Above the band, a layer holds more of them than random sets of the same size do.",
    )


def score_histograms(run: Run) -> str:
    """Cultural scores of all neurons and of the culture-general ones."""
    return figure(
        figures.score_distribution(run.scores["cultural"], neurons=run.general),
        name="distribution",
        label="Histograms of cultural scores at each site, with "
        f"{summary.count_of_neurons(len(run.general))} that are culture-general picked out.",
        caption="Counts are on a logarithmic scale: most neurons score next to nothing.",
    )


def threshold_curves(run: Run) -> str:
    """How much the culture-general set hangs on its thresholds."""
    thresholds = {**run.settings["general"], "recognition_top": run.settings["recognition_top"]}
    recipe = run.settings.get("recipe", "published")
    scores = run.scores
    sweep = threshold_sweep(
        scores["cultural"],
        scores["control"],
        scores["recognition"],
        scores.get("general"),
        recipe=recipe,
        thresholds=thresholds,
        progress=False,
    )
    points = "; ".join(
        f"{row.threshold} = {row.value:g}: {row.n_neurons} neurons, Jaccard {row.jaccard:.2f}"
        for row in sweep.itertuples()
    )
    return figure(
        figures.threshold_sweep(sweep),
        name="thresholds",
        label=f"Size and overlap of the set at other thresholds. {points}.",
        caption="One threshold moves, the other stays; the large point is this run's. Jaccard is "
        "the overlap with this run's set: 1 is the same set.",
    )


def overlap_matrix(run: Run) -> str:
    """What the sets of neurons share."""
    if not run.specific:
        return ""
    sets = {"culture-general": run.general, **run.specific}
    return figure(
        figures.overlap_matrix(sets),
        name="overlaps",
        label=f"Matrix of the Jaccard index of every two of {len(sets)} sets of neurons.",
        caption="How many neurons the sets of two cultures share, as a part of all neurons of the "
        "two.",
    )


def culture_matrices(run: Run) -> str:
    """What the neurons of each culture do to every culture."""
    heading = "Cultures against cultures"
    if run.effects.empty:
        return section(heading, paragraph("No culture-specific neurons were tested."))
    measures: tuple[tuple[Literal["change", "probability_change"], str, str], ...] = (
        (
            "change",
            "accuracy change in points",
            f"{summary.intervention(run)} the neurons found for one culture (row) changes accuracy "
            "on every culture (column). Red is a drop. A culture's effect on itself is outlined; "
            "that on its kin is too, more thinly.",
        ),
        (
            "probability_change",
            "change of the mean probability of the answer",
            "The same for the mean probability of the right answer, which moves before accuracy "
            "does.",
        ),
    )
    plots = [
        figure(
            figures.culture_matrix(run.effects, value=value),
            name=f"cultures-{value.replace('_', '-')}",
            label=f"Matrix of cultures, {unit}. {_own_and_others(run.effects, value)}",
            caption=caption,
        )
        for value, unit, caption in measures
    ]
    return section(heading, *plots)


def _own_and_others(effects: pd.DataFrame, value: str) -> str:
    """What the neurons of a culture do to its own questions and to those of others, on average."""
    form = "+.1f" if value == "change" else "+.3f"
    own = effects["masked"] == effects["tested"]
    return (
        f"On average a culture's neurons change their own culture by "
        f"{number(effects.loc[own, value].mean(), form)} and the others by "
        f"{number(effects.loc[~own, value].mean(), form)}."
    )
