"""Stages of a run beside scoring and answers: each keeps what it makes in files, and reads what is
there already."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import FACTORS, Breakers, breakers, dose_response
from culnig_tl.files import (
    FRAME,
    RECORD,
    DamagedFileError,
    Identity,
    RunFolder,
    file_name,
    read_json,
)
from culnig_tl.inspection import Continuations, NeuronCard, inspect_neurons, replies_to
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.pipeline.questions import RunQuestions
from culnig_tl.pipeline.stage import (
    Stage,
    Wanted,
    digest_of,
    digests,
    drawn,
    n_tokens,
    results,
    rows_identity,
)
from culnig_tl.pipeline.work import Piece, Setup
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_specific, select_general

CARD_PROMPTS = 64
DOSE_PROMPTS = 24
REPLIES_PER_CULTURE = 3
REPLY_TOKENS = 12
_BREAKER_PROMPTS = 60


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
        _save(stage, f"neurons/{name}.json", neurons)
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
        _save(stage, f"neurons/specific/{file_name(culture)}.json", neurons)
    return sets, specific


def check_breakers(stage: Stage, sets: Mapping[str, NeuronSet]) -> dict[str, Breakers]:
    """Which neurons of each set break the model, by the name of the set, judged on a draw of the
    first general benchmark; nothing where there is none."""
    general = next(
        ((name, rows) for name, rows in stage.questions.tests.items() if not any(rows.cultures)),
        None,
    )
    if general is None:
        return {}
    test, rows = general
    rows = drawn(rows, _BREAKER_PROMPTS)
    identity = {
        "rows": rows_identity(rows),
        "neurons": digests(sets),
        "mode": stage.settings.mode,
    }
    make = partial(_breakers, test=test, sets=dict(sets))
    wanted = Wanted("breakers.json", identity, make, len(sets) * n_tokens(rows), RECORD)
    (checked,) = results(stage, [wanted], "breakers")
    return {name: Breakers.from_json(each) for name, each in checked.items()}


def _breakers(setup: Setup, *, test: str, sets: Mapping[str, NeuronSet]) -> dict[str, Any]:
    rows, mode = drawn(setup.questions.tests[test], _BREAKER_PROMPTS), setup.settings.mode
    return {
        name: breakers(setup.model, rows, neurons, mode=mode).to_json()
        for name, neurons in sets.items()
    }


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


def look_closer(
    stage: Stage, scores: Mapping[str, NeuronScores], general: NeuronSet, n_cards: int
) -> tuple[dict[str, NeuronCard], pd.DataFrame, Continuations | None]:
    """Whole cards of the best culture-general neurons, dose and response, and what the model
    writes without these neurons; None where no question leaves room for a reply.

    The cost does not grow with the questions of the run: draws of a fixed size are looked at.
    """
    best = [
        Neuron(site, int(layer), int(index))
        for site, layer, index, _ in general.to_frame().head(n_cards).itertuples(index=False)
    ]
    cards = _cards(stage, scores, best)
    draws = _dose_questions(stage.questions)
    identity = {
        "rows": {name: rows_identity(rows) for name, rows in draws.items()},
        "neurons": general.fingerprint,
        "factors": FACTORS,
        "mode": stage.settings.mode,
    }
    cost = len(FACTORS) * sum(map(n_tokens, draws.values()))
    make = partial(_doses, neurons=general)
    wanted = Wanted("answers/doses.parquet", identity, make, cost, FRAME)
    (doses,) = results(stage, [wanted], "doses")
    return cards, doses, _replies(stage, general)


def _doses(setup: Setup, *, neurons: NeuronSet) -> pd.DataFrame:
    return dose_response(
        setup.model,
        _dose_questions(setup.questions),
        neurons,
        factors=FACTORS,
        mode=setup.settings.mode,
        progress=False,
    )


def _dose_questions(questions: RunQuestions) -> dict[str, PreparedQuestions]:
    return {name: drawn(rows, DOSE_PROMPTS) for name, rows in questions.tests.items()}


def _replies(stage: Stage, general: NeuronSet) -> Continuations | None:
    rows, factor = replied_to(stage.questions.culture_test), stage.settings.factor[0]
    if not len(rows):
        return None
    identity = {
        "rows": rows_identity(rows),
        "neurons": general.fingerprint,
        "factor": factor,
        "max_new_tokens": REPLY_TOKENS,
    }
    make = partial(_make_replies, neurons=general)
    wanted = Wanted("answers/replies.parquet", identity, make, 2 * n_tokens(rows), FRAME)
    (frame,) = results(stage, [wanted], "replies")
    return Continuations.of(stage.model, general, factor, frame)


def _make_replies(setup: Setup, *, neurons: NeuronSet) -> pd.DataFrame:
    return replies_to(
        replied_to(setup.questions.culture_test),
        neurons,
        factor=setup.settings.factor[0],
        max_new_tokens=REPLY_TOKENS,
    ).frame


def replied_to(prepared: PreparedQuestions) -> PreparedQuestions:
    """A few questions of each culture that leave room for a reply, culture by culture."""
    room = min(prepared.model.cfg.n_ctx, prepared.token_budget) - REPLY_TOKENS
    fits = [row for row, prompt in enumerate(prepared.prompts) if len(prompt) <= room]
    cultures = prepared.rows["culture"][:]
    return prepared.select(
        [
            row
            for culture in prepared.cultures
            for row in [row for row in fits if cultures[row] == culture][:REPLIES_PER_CULTURE]
        ]
    )


def _cards(
    stage: Stage, scores: Mapping[str, NeuronScores], neurons: Sequence[Neuron]
) -> dict[str, NeuronCard]:
    """Cards by name: read where there are files of them, made together where not."""
    folder = stage.folder
    rows = drawn(stage.questions.data["cultural"], CARD_PROMPTS)
    sources = {name: dict(each.source) for name, each in scores.items()}
    identity = folder.whole(
        {
            "rows": rows_identity(rows),
            "scores": digest_of(sources),
            "sites": stage.settings.sites,
        }
    )
    paths = {str(neuron): folder.file(f"cards/{file_name(str(neuron))}.json") for neuron in neurons}

    def missing() -> list[str]:
        names = [name for name, path in paths.items() if not folder.held(path, identity, _card)]
        if names:
            folder.lock()
        return names

    def piece(names: Sequence[str]) -> Piece:
        def keep(cards: Mapping[str, NeuronCard]) -> None:
            for name, card in cards.items():
                card.save(paths[name], identity=identity)

        make = partial(_make_cards, neurons=NeuronSet.of(names), scores=scores)
        cost = len(names) * n_tokens(rows)
        return Piece(make, cost, keep, lambda: all(paths[name].exists() for name in names))

    names = stage.engine.first(missing)
    hands = [names[first :: stage.engine.n_workers] for first in range(stage.engine.n_workers)]
    stage.run([piece(hand) for hand in hands if hand], "cards")
    return {name: NeuronCard.load(path) for name, path in paths.items()}


def _make_cards(
    setup: Setup, *, neurons: NeuronSet, scores: Mapping[str, NeuronScores]
) -> dict[str, NeuronCard]:
    return inspect_neurons(
        setup.model,
        drawn(setup.questions.data["cultural"], CARD_PROMPTS),
        neurons,
        scores=scores,
        sites=setup.settings.sites,
        progress=False,
    )


def _card(path: Path) -> tuple[NeuronCard, Identity]:
    """A card and what it says that it was made of."""
    return NeuronCard.load(path), read_json(path).get("identity", {})


def save_table(stage: Stage, name: str, frame: pd.DataFrame) -> None:
    """Write a frame as csv, unless the file holds just that."""
    stage.engine.first(lambda: stage.folder.csv(name, frame))


def _save(stage: Stage, name: str, neurons: NeuronSet) -> None:
    """Write a set of neurons, unless the file holds just that."""
    folder = stage.folder
    path = folder.file(name)

    def write() -> None:
        if not path.exists() or not _holds_neurons(folder, path, neurons):
            folder.lock()
            neurons.save(path)

    stage.engine.first(write)


def _holds_neurons(folder: RunFolder, path: Path, neurons: NeuronSet) -> bool:
    try:
        return NeuronSet.load(path) == neurons
    except DamagedFileError:
        folder.set_aside(path)
        return False
    except InvalidInputError:  # of another format: it holds no neurons
        return False
