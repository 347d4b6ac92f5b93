"""The stages of a run: each keeps what it makes in files, and reads what is there already."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from culnig_tl.attribution import Scoring, attribute
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import (
    FACTORS,
    LAYER_MATCHED,
    Breakers,
    Condition,
    answers_under,
    breakers,
    culture_effects,
    dose_response,
)
from culnig_tl.files import read_json, replacing, write_json
from culnig_tl.hooked_model import HookedModel
from culnig_tl.inspection import NeuronCard, inspect_neurons
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.pipeline.questions import RunQuestions
from culnig_tl.pipeline.settings import Settings
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific, random_neurons

_CARD_PROMPTS = 96
_DOSE_PROMPTS = 48
_BREAKER_PROMPTS = 60
_SEED = 0


@dataclass(frozen=True)
class Stage:
    """What every stage works with.

    Attributes:
        out: the run's folder.
        model: the model.
        settings: what the results depend on.
        questions: the questions of the run, prepared.
        progress: show progress bars.
    """

    out: Path
    model: HookedModel
    settings: Settings
    questions: RunQuestions
    progress: bool


def score(stage: Stage) -> dict[str, NeuronScores]:
    """Scores of cultural questions, control, country names and, for some recipes, general ones.

    Raises:
        InvalidInputError: the folder holds scores that this run would not make.
    """
    scores = {}
    for role, prepared in stage.questions.data.items():
        path = stage.out / "scores" / f"{role}.safetensors"
        scoring = Scoring(
            sites=stage.settings.sites,
            method=stage.settings.method,
            clamp=role in ("control", "general"),
        )
        if not path.exists():
            attribute(
                stage.model,
                prepared,
                sites=scoring.sites,
                method=scoring.method,
                clamp=scoring.clamp,
                checkpoint=path.with_suffix(".checkpoint"),
                progress=role if stage.progress else False,
            ).save(path)
        scores[role] = NeuronScores.load(path)
        origin = {"model": model_fingerprint(stage.model), "data": prepared.fingerprint}
        _check_source(path, scores[role].source, {"target": None} | scoring.provenance | origin)
    return scores


def select(
    stage: Stage, scores: Mapping[str, NeuronScores]
) -> tuple[dict[str, NeuronSet], dict[str, NeuronSet]]:
    """Culture-general neurons by rule, the run's own first, and specific ones by culture."""
    settings, folder = stage.settings, stage.out / "neurons"
    of_paper = (scores["cultural"], scores["control"], scores["recognition"])
    sets = {
        "general": culture_general(
            *of_paper,
            scores.get("general"),
            recipe=settings.recipe,
            mlp_top=settings.mlp_top,
            attention_top=settings.attention_top,
            recognition_top=settings.recognition_top,
        )
    }
    if settings.recipe != "published":
        sets["published"] = culture_general(
            *of_paper, mlp_top=settings.mlp_top, recognition_top=settings.recognition_top
        )
    for name, neurons in sets.items():
        neurons.save(folder / f"{name}.json")
    specific = {
        culture: culture_specific(
            *of_paper,
            scores.get("general"),
            culture=culture,
            recipe=settings.recipe,
            top=settings.specific_top,
            min_z=settings.min_z,
            recognition_top=settings.recognition_top,
        )
        for culture in scores["cultural"].cultures
        if culture in scores["recognition"].cultures
    }
    for culture, neurons in specific.items():
        neurons.save(folder / "specific" / f"{file_name(culture)}.json")
    return sets, specific


def check_breakers(stage: Stage, sets: Mapping[str, NeuronSet]) -> dict[str, Breakers]:
    """Which neurons of each set break the model, by the name of the set, judged on a draw of the
    first general benchmark; nothing where there is none."""
    general = next(
        (rows for rows in stage.questions.tests.values() if not any(rows.cultures)), None
    )
    if general is None:
        return {}
    path = stage.out / "breakers.json"
    if not path.exists():
        rows, mode = _drawn(general, _BREAKER_PROMPTS), stage.settings.mode
        checked = {
            name: breakers(stage.model, rows, neurons, mode=mode) for name, neurons in sets.items()
        }
        write_json(path, {name: each.to_json() for name, each in checked.items()})
    return {name: Breakers.from_json(each) for name, each in read_json(path).items()}


def with_unbroken(
    sets: Mapping[str, NeuronSet], checked: Mapping[str, Breakers]
) -> dict[str, NeuronSet]:
    """The sets, and beside those with breakers the rest of them: "general without breakers"."""
    rests = {
        f"{name} without breakers": sets[name] - each.neurons
        for name, each in checked.items()
        if len(each.neurons)
    }
    return {**sets, **{name: rest for name, rest in rests.items() if len(rest)}}


def answer(stage: Stage, sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """Answers of every benchmark under every condition, each set kept in a file of its own."""
    first_factor = stage.settings.factor[0]

    def keep(
        benchmark: str, condition: Condition, draw: int, make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        is_first = condition.factor == first_factor or condition.name == "original"
        name = condition.name if is_first else f"{condition.name} ×{condition.factor:g}"
        folder = stage.out / "answers" / file_name(benchmark)
        return cached_frame(folder / f"{file_name(name)}-{draw}.parquet", make)

    return answers_under(
        stage.questions.tests,
        _conditions(stage, sets),
        mode=stage.settings.mode,
        progress="answers" if stage.progress else False,
        keep=keep,
    )


def measure_cultures(stage: Stage, specific: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """What scaling each culture's neurons does to every culture."""
    make = partial(
        culture_effects,
        stage.model,
        stage.questions.culture_test,
        specific,
        factor=stage.settings.factor[0],
        mode=stage.settings.mode,
        progress=stage.progress,
    )
    return cached_frame(stage.out / "answers" / "culture_effects.parquet", make)


def look_closer(
    stage: Stage, scores: Mapping[str, NeuronScores], general: NeuronSet, n_cards: int
) -> tuple[dict[str, NeuronCard], pd.DataFrame]:
    """Whole cards of the best culture-general neurons, and dose and response.

    The cost does not grow with the questions of the run: draws of a fixed size are looked at.
    """
    best = [
        Neuron(site, int(layer), int(index))
        for site, layer, index, _ in general.to_frame().head(n_cards).itertuples(index=False)
    ]
    cards = _cards(stage, scores, best)
    draws = {name: _drawn(rows, _DOSE_PROMPTS) for name, rows in stage.questions.tests.items()}
    make = partial(
        dose_response,
        stage.model,
        draws,
        general,
        factors=FACTORS,
        mode=stage.settings.mode,
        progress=stage.progress,
    )
    return cards, cached_frame(stage.out / "answers" / "doses.parquet", make)


def cached_frame(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The frame at ``path``, made and written there first if need be."""
    if not path.exists():
        frame = make()
        with replacing(path) as part:
            frame.to_parquet(part)
    return pd.read_parquet(path)


def file_name(name: str) -> str:
    """A name of anything as a name of a file."""
    return quote(name.replace("×", "x"), safe=" ")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as csv, whole or not at all."""
    with replacing(path) as part:
        frame.to_csv(part, index=False)


def _conditions(stage: Stage, selected: Mapping[str, NeuronSet]) -> list[Condition]:
    """The model as it is, and every kind of set at every factor."""
    general = selected["general"]
    random, matched = (
        tuple(
            random_neurons(stage.model, like=general, seed=seed, layer_matched=layer_matched)
            for seed in range(number)
        )
        for number, layer_matched in (
            (stage.settings.n_random, False),
            (stage.settings.n_layer_matched, True),
        )
    )
    sets = {name: (neurons,) for name, neurons in selected.items()}
    sets |= {"random": random, LAYER_MATCHED: matched}
    return [
        Condition("original"),
        *(
            Condition(name, neurons, factor)
            for factor in stage.settings.factor
            for name, neurons in sets.items()
            if neurons
        ),
    ]


def _cards(
    stage: Stage, scores: Mapping[str, NeuronScores], neurons: Sequence[Neuron]
) -> dict[str, NeuronCard]:
    """Cards by name: read where there are files of them, made together where not."""
    paths = {neuron: stage.out / "cards" / f"{file_name(str(neuron))}.json" for neuron in neurons}
    missing = [neuron for neuron, path in paths.items() if not path.exists()]
    if missing:
        cards = inspect_neurons(
            stage.model,
            _drawn(stage.questions.data["cultural"], _CARD_PROMPTS),
            NeuronSet.of(missing),
            scores=scores,
            sites=stage.settings.sites,
            progress=stage.progress,
        )
        for neuron in missing:
            cards[str(neuron)].save(paths[neuron])
    return {str(neuron): NeuronCard.load(path) for neuron, path in paths.items()}


def _drawn(prepared: PreparedQuestions, number: int) -> PreparedQuestions:
    """At most so many of the questions, drawn and kept in their order."""
    if len(prepared) <= number:
        return prepared
    rows = np.random.default_rng(_SEED).permutation(len(prepared))[:number]
    return prepared.select(sorted(rows.tolist()))


def _check_source(path: Path, source: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [
        f"{key} is {source.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if source.get(key) != value
    ]
    if different:
        raise InvalidInputError(
            f"{path} holds other scores than this run would make ({', '.join(different)}); make "
            "them of the same rows, model, type of weights and sites, clamped on control and "
            "general questions only, or delete the file."
        )
