"""What the library's own method recovers of an embedded model's key, graded against it.

The method is the default preset: scores on the identification rows, `culture_general` and, for each
culture, `culture_specific`; then the selected neurons switched off on the test rows.

*Correlation.* A score estimates what switching a neuron off alone would cost. Both are taken for
the planted general neurons and for three times as many drawn from outside the planted sets; the
exact cost is the mean drop of P(answer) on the identification rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from culnig_tl.atlas.key import planted_set
from culnig_tl.atlas.training.interventions import GENERAL, MlpNeuron
from culnig_tl.attribution import attribute
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.cultures import kin_of
from culnig_tl.evaluation import culture_effects, evaluate
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import load_model
from culnig_tl.neurons import NeuronSet
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific
from culnig_tl.validation import grade, grade_scores

SITE = "mlp.hook_post"


def recovery_figures(
    folder: Path,
    tests: Sequence[str],
    key: Mapping[str, Any] | None = None,
    exact: Mapping[MlpNeuron, float] | None = None,
) -> dict:
    """What is selected and what masking it does; with a verified `key`, how much of it that is.

    `exact` holds the cost of switching off single neurons, to correlate with their scores.
    """
    model = load_model(folder)
    scores, control, recognition = identification_scores(model)
    general = culture_general(scores, control, recognition)
    figures = {"found": sizes_by_site(general), "masking": masking(model, tests, general)}
    if key is not None:
        unfiltered = culture_general(scores, control)
        figures |= {
            "grades": grades(scores, control, general, key),
            "grades without exclusion": grades(scores, control, unfiltered, key),
            "excluded": excluded(general, unfiltered, key),
        }
        if any(entry["verified"] for name, entry in key["sets"].items() if name != GENERAL):
            figures["specific"] = specific(model, scores, control, recognition, key)
    if exact is not None:
        figures["correlation"] = correlation(scores, exact)
    return figures


def identification_scores(
    model: HookedModel,
) -> tuple[NeuronScores, NeuronScores, NeuronScores]:
    """Scores of the identification rows: cultural, control and country names."""
    cultural, control, countries = (
        attribute(model, load_benchmark(name, split="identify"), clamp=name == "atlas-control")
        for name in ("atlas", "atlas-control", "atlas-countries")
    )
    return cultural, control, countries


def sizes_by_site(neurons: NeuronSet) -> dict[str, int]:
    """How many neurons a set has at each site."""
    return {site: len(neurons[site]) for site in neurons.sites}


def masking(
    model: HookedModel, tests: Sequence[str], selected: NeuronSet
) -> dict[str, dict[str, float]]:
    """Accuracy (%) of each test as trained and with the selected neurons off."""
    table = {}
    for name in tests:
        rows = load_benchmark(name, split="test")
        before, after = (
            round(100 * evaluate(model, rows, neurons=neurons)["correct"].mean(), 2)
            for neurons in (None, selected)
        )
        table[name] = {"as trained": before, "found off": after}
    return table


def grades(
    scores: NeuronScores, control: NeuronScores, selected: NeuronSet, key: Mapping[str, Any]
) -> dict[str, dict[str, int | float]]:
    """Agreement with the planted and with the verified general set."""
    table = {}
    for name in ("planted", "verified"):
        true = planted_set(key, GENERAL, verified=name == "verified")
        if len(true):
            ranking = grade_scores(scores, true, control=control)
            figures = {**asdict(grade(selected, true)), **asdict(ranking)}
            table[name] = {figure: round(value, 4) for figure, value in figures.items()}
    return table


def specific(
    model: HookedModel,
    scores: NeuronScores,
    control: NeuronScores,
    recognition: NeuronScores,
    key: Mapping[str, Any],
) -> dict[str, int | float]:
    """Every culture's set: its agreement with the verified key, and what masking it costs.

    Means over the cultures; costs in points of accuracy on the test rows.
    """
    sets = {
        culture: culture_specific(scores, control, recognition, culture=culture)
        for culture in scores.cultures
    }
    keys = {culture: planted_set(key, culture, verified=True) for culture in sets}
    graded = pd.DataFrame(
        asdict(grade(sets[culture], true))
        | asdict(grade_scores(scores, true, control=control, culture=culture))
        for culture, true in keys.items()
        if len(true)
    )
    effects = culture_effects(model, load_benchmark("atlas", split="test"), sets, progress=False)
    cost = {(row["masked"], row["tested"]): -row["change"] for row in effects.to_dict("records")}
    figures = {name: graded[name].mean() for name in ("precision", "recall", "auroc")}
    figures["own"] = sum(cost[culture, culture] for culture in sets) / len(sets)
    unrelated = [(one, other) for one, other in permutations(sets, 2) if other not in kin_of(one)]
    figures["unrelated"] = sum(cost[pair] for pair in unrelated) / len(unrelated)
    return {
        "cultures": len(sets),
        "with a verified neuron": int((graded["recall"] > 0).sum()),
        **{name: round(float(value), 3) for name, value in figures.items()},
    }


def excluded(selected: NeuronSet, unfiltered: NeuronSet, key: Mapping[str, Any]) -> dict[str, int]:
    """How many neurons the recognition exclusion removes, and how many of them were planted."""
    removed = unfiltered - selected
    return {
        "neurons": len(removed),
        "planted general": len(removed & planted_set(key, GENERAL)),
        "planted": sum(len(removed & planted_set(key, name)) for name in key["sets"]),
    }


def correlation(scores: NeuronScores, exact: Mapping[MlpNeuron, float]) -> dict[str, int | float]:
    """Of scores with the exact cost of switching off each of these neurons alone."""
    total = scores.total(SITE)
    pairs = pd.DataFrame(
        {"score": [total[neuron].item() for neuron in exact], "exact": list(exact.values())}
    )
    pearson, spearman = (frame["score"].corr(frame["exact"]) for frame in (pairs, pairs.rank()))
    return {"neurons": len(pairs), "pearson": round(pearson, 3), "spearman": round(spearman, 3)}
