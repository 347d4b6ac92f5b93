"""The stages of a run: each keeps what it makes in files, and reads what is there already."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

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
from culnig_tl.files import DamagedFileError, Identity, RunFolder, file_name, read_json
from culnig_tl.hooked_model import HookedModel
from culnig_tl.inspection import NeuronCard, inspect_neurons
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.pipeline.questions import RunQuestions
from culnig_tl.pipeline.settings import Settings
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_specific, random_neurons, select_general

_CARD_PROMPTS = 64
_DOSE_PROMPTS = 24
_BREAKER_PROMPTS = 60
_SEED = 0


@dataclass(frozen=True)
class Stage:
    """What every stage works with.

    Attributes:
        folder: the run's folder.
        model: the model.
        settings: what the results depend on.
        questions: the questions of the run, prepared.
        progress: show progress bars.
    """

    folder: RunFolder
    model: HookedModel
    settings: Settings
    questions: RunQuestions
    progress: bool


def score(stage: Stage) -> dict[str, NeuronScores]:
    """Scores of cultural questions, control, country names and, for some recipes, general ones.

    Raises:
        InvalidInputError: the folder holds scores that this run would not make.
    """
    scores, fingerprint = {}, model_fingerprint(stage.model)
    for role, prepared in stage.questions.data.items():
        path = stage.folder.file(f"scores/{role}.safetensors")
        scoring = Scoring(
            sites=stage.settings.sites,
            method=stage.settings.method,
            clamp=role in ("control", "general"),
        )
        held = _whole_scores(stage.folder, path)
        if held is None:
            stage.folder.lock()
            attribute(
                stage.model,
                prepared,
                sites=scoring.sites,
                method=scoring.method,
                clamp=scoring.clamp,
                checkpoint=path.with_suffix(".checkpoint"),
                out=path,
                progress=role if stage.progress else False,
            )
            held = NeuronScores.load(path)
        scores[role] = held
        origin = {"model": fingerprint, "data": prepared.fingerprint}
        _check_source(path, scores[role].source, {"target": None} | scoring.provenance | origin)
    return scores


def select(
    stage: Stage, scores: Mapping[str, NeuronScores]
) -> tuple[dict[str, NeuronSet], dict[str, NeuronSet]]:
    """Culture-general neurons by rule, the run's own first, and specific ones by culture."""
    settings = stage.settings
    of_paper = (scores["cultural"], scores["control"], scores["recognition"])
    sets = {
        "general": select_general(
            *of_paper,
            scores.get("general"),
            recipe=settings.recipe,
            mlp_top=settings.mlp_top,
            attention_top=settings.attention_top,
            recognition_top=settings.recognition_top,
        )
    }
    if settings.recipe != "published":
        sets["published"] = select_general(
            *of_paper,
            None,
            recipe="published",
            mlp_top=settings.mlp_top,
            recognition_top=settings.recognition_top,
        )
    for name, neurons in sets.items():
        _save(stage.folder, f"neurons/{name}.json", neurons)
    rule = settings.specific_recipe or settings.recipe
    specific = {
        culture: culture_specific(
            *of_paper,
            None if rule == "published" else scores.get("general"),
            culture=culture,
            recipe=rule,
            top=settings.specific_top,
            min_z=settings.min_z,
            recognition_top=settings.recognition_top,
        )
        for culture in scores["cultural"].cultures
        if culture in scores["recognition"].cultures and len(scores["cultural"].cultures) > 1
    }
    for culture, neurons in specific.items():
        _save(stage.folder, f"neurons/specific/{file_name(culture)}.json", neurons)
    return sets, specific


def check_breakers(stage: Stage, sets: Mapping[str, NeuronSet]) -> dict[str, Breakers]:
    """Which neurons of each set break the model, by the name of the set, judged on a draw of the
    first general benchmark; nothing where there is none."""
    general = next(
        (rows for rows in stage.questions.tests.values() if not any(rows.cultures)), None
    )
    if general is None:
        return {}
    rows, mode = _drawn(general, _BREAKER_PROMPTS), stage.settings.mode

    def make() -> dict[str, Any]:
        return {
            name: breakers(stage.model, rows, neurons, mode=mode).to_json()
            for name, neurons in sets.items()
        }

    identity = {"rows": _rows(rows), "neurons": _digests(sets), "mode": mode}
    checked = stage.folder.record("breakers.json", identity, make)
    return {name: Breakers.from_json(each) for name, each in checked.items()}


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
    tests, mode = stage.questions.tests, stage.settings.mode

    def keep(
        benchmark: str, condition: Condition, draw: int, make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        is_first = condition.factor == stage.settings.factor[0] or condition.name == "original"
        factor = "" if is_first else f"@{condition.factor!r}"
        name = f"{file_name(condition.name)}{factor}-{draw}.parquet"
        identity = {
            "rows": _rows(tests[benchmark]),
            "neurons": condition.sets[draw].fingerprint,
            "factor": condition.factor,
            "mode": mode,
        }
        return stage.folder.frame(f"answers/{_folder_name(benchmark)}/{name}", identity, make)

    return answers_under(
        tests,
        _conditions(stage, sets),
        mode=mode,
        progress="answers" if stage.progress else False,
        keep=keep,
    )


def measure_cultures(stage: Stage, specific: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """What scaling each culture's neurons does to every culture."""
    rows, factor, mode = stage.questions.culture_test, stage.settings.factor[0], stage.settings.mode
    make = partial(
        culture_effects,
        stage.model,
        rows,
        specific,
        factor=factor,
        mode=mode,
        progress=stage.progress,
    )
    identity = {
        "rows": _rows(rows),
        "neurons": _digests(specific),
        "factor": factor,
        "mode": mode,
    }
    return stage.folder.frame("answers/culture_effects.parquet", identity, make)


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
    identity = {
        "rows": {name: _rows(rows) for name, rows in draws.items()},
        "neurons": general.fingerprint,
        "factors": FACTORS,
        "mode": stage.settings.mode,
    }
    return cards, stage.folder.frame("answers/doses.parquet", identity, make)


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
    rows, sites = _drawn(stage.questions.data["cultural"], _CARD_PROMPTS), stage.settings.sites
    sources = {name: dict(each.source) for name, each in scores.items()}
    identity = stage.folder.whole(
        {"rows": _rows(rows), "scores": _digest_of(sources), "sites": sites}
    )
    paths = {
        neuron: stage.folder.file(f"cards/{file_name(str(neuron))}.json") for neuron in neurons
    }
    held = {neuron: stage.folder.held(path, identity, _card) for neuron, path in paths.items()}
    if missing := [neuron for neuron, card in held.items() if card is None]:
        stage.folder.lock()
        cards = inspect_neurons(
            stage.model,
            rows,
            NeuronSet.of(missing),
            scores=scores,
            sites=sites,
            progress=stage.progress,
        )
        for neuron in missing:
            cards[str(neuron)].save(paths[neuron], identity=identity)
    return {
        str(neuron): NeuronCard.load(paths[neuron]) if card is None else card
        for neuron, card in held.items()
    }


def _card(path: Path) -> tuple[NeuronCard, Identity]:
    """A card and what it says that it was made of."""
    return NeuronCard.load(path), read_json(path).get("identity", {})


def _save(folder: RunFolder, name: str, neurons: NeuronSet) -> None:
    """Write a set of neurons, unless the file holds just that."""
    path = folder.file(name)
    if not path.exists() or not _holds_neurons(folder, path, neurons):
        folder.lock()
        neurons.save(path)


def _holds_neurons(folder: RunFolder, path: Path, neurons: NeuronSet) -> bool:
    try:
        return NeuronSet.load(path) == neurons
    except DamagedFileError:
        folder.set_aside(path)
        return False
    except InvalidInputError:  # of another format: it holds no neurons
        return False


def _whole_scores(folder: RunFolder, path: Path) -> NeuronScores | None:
    """The scores that are there, which the user may have made; damaged ones are set aside."""
    try:
        return NeuronScores.load(path) if path.exists() else None
    except DamagedFileError:
        folder.set_aside(path)
        return None


def _folder_name(benchmark: str) -> str:
    """The folder of a benchmark's answers; no full stop, as the files beside it have one."""
    return file_name(benchmark).replace(".", "%2E")


def _rows(prepared: PreparedQuestions) -> dict[str, Any]:
    """What identifies questions: rows, how they are rendered, and the date in the prompts."""
    return {"fingerprint": prepared.fingerprint, "date": prepared.date}


def _digests(sets: Mapping[str, NeuronSet]) -> dict[str, str]:
    return {name: neurons.fingerprint for name, neurons in sets.items()}


def _digest_of(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


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
