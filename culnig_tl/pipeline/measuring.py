"""The stage of answers: every benchmark under every condition, and every culture's neurons."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from culnig_tl.evaluation import (
    LAYER_MATCHED,
    Condition,
    Measurement,
    check_conditions,
    effects_of,
    measurements,
)
from culnig_tl.files import FRAME, file_name
from culnig_tl.neurons import NeuronSet
from culnig_tl.pipeline.questions import RunQuestions
from culnig_tl.pipeline.stage import Stage, Wanted, n_tokens, results, rows_identity
from culnig_tl.pipeline.work import Setup
from culnig_tl.questions import PreparedQuestions
from culnig_tl.selection import random_neurons

SLICE = 1_000_000
"""Tokens of a benchmark from which on it is answered in slices."""
_CULTURES = "culture x culture"


@dataclass(frozen=True)
class _Answers:
    """What one set answers: the files of it, and the numbers of the rows in each."""

    files: list[Wanted[pd.DataFrame]]
    rows: list[tuple[int, ...]]

    def joined(self, frames: Iterator[pd.DataFrame]) -> pd.DataFrame:
        """The answers in the order of the rows."""
        parts = [next(frames) for _ in self.files]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort([row for rows in self.rows for row in rows], kind="stable")
        return pd.concat(parts, ignore_index=True).iloc[order].reset_index(drop=True)


def measure(
    stage: Stage, sets: Mapping[str, NeuronSet], specific: Mapping[str, NeuronSet]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers of every benchmark under every condition (see ``answers_under``), and what scaling
    each culture's neurons does to every culture (see ``culture_effects``)."""
    settings, tests = stage.settings, stage.questions.tests
    conditions = _conditions(stage, sets)
    check_conditions(tests, conditions, settings.mode)
    pieces = measurements(tests, conditions, design=settings.random_design)
    wanted = [
        _answers(
            stage,
            piece,
            f"answers/{_folder_name(piece.benchmark)}/{_stem(stage, piece)}",
            test=piece.benchmark,
        )
        for piece in pieces
    ]
    wanted += [
        _answers(
            stage,
            Measurement(_CULTURES, Condition(culture, (neurons,), settings.factor[0]), 0),
            f"answers_of_cultures/specific/{file_name(culture)}",
            test=None,
        )
        for culture, neurons in specific.items()
    ]
    has_original = stage.questions.test_of_cultures is not None  # it is the first of all pieces
    if specific and not has_original:
        original = Measurement(_CULTURES, Condition("original"), 0)
        wanted.append(_answers(stage, original, "answers_of_cultures/original", test=None))
    frames = iter(results(stage, [file for each in wanted for file in each.files], "answers"))
    answered = [each.joined(frames) for each in wanted]
    labelled = [piece.labelled(frame) for piece, frame in zip(pieces, answered, strict=False)]
    effects = pd.DataFrame()
    if specific:
        masked = dict(zip(specific, answered[len(pieces) :], strict=False))
        effects = effects_of(answered[0 if has_original else -1], masked, specific)
    return pd.concat(labelled, ignore_index=True), effects


def _answers(stage: Stage, piece: Measurement, stem: str, *, test: str | None) -> _Answers:
    """The files of one set's answers, whose names begin with a stem."""
    prepared, condition = _questions(stage.questions, test), piece.condition
    slices, files = _slices(prepared, piece.rows), []
    for number, rows in enumerate(slices):
        part = prepared if rows is None else prepared.select(rows)
        identity = {
            "rows": rows_identity(part),
            "neurons": piece.neurons.fingerprint,
            "factor": condition.factor,
            "mode": stage.settings.mode,
        }
        alone = Condition(condition.name, (piece.neurons,), condition.factor)
        make = partial(_answer, piece=Measurement(piece.benchmark, alone, 0, rows), test=test)
        name = f"{stem}.parquet" if len(slices) == 1 else f"{stem}.{number}.parquet"
        files.append(Wanted(name, identity, make, n_tokens(part), FRAME))
    return _Answers(files, [rows or () for rows in slices])


def _answer(setup: Setup, *, piece: Measurement, test: str | None) -> pd.DataFrame:
    return piece.answers(_questions(setup.questions, test), setup.settings.mode)


def _questions(questions: RunQuestions, test: str | None) -> PreparedQuestions:
    """The questions of a benchmark, or those of the culture x culture effects."""
    return questions.culture_test if test is None else questions.tests[test]


def _slices(
    prepared: PreparedQuestions, rows: tuple[int, ...] | None
) -> list[tuple[int, ...] | None]:
    """Rows in parts of at most ``SLICE`` tokens, those of a question together; None for all."""
    chosen = range(len(prepared)) if rows is None else rows
    lengths = [len(prepared.prompts[row]) for row in chosen]
    if sum(lengths) <= SLICE:
        return [rows]
    ids, cultures = prepared.rows["id"][:], prepared.rows["culture"][:]
    of_question: dict[tuple[str, str], list[int]] = {}
    for row in chosen:
        of_question.setdefault((cultures[row], ids[row]), []).append(row)
    slices, filled = [[]], 0
    for question in of_question.values():
        cost = sum(len(prepared.prompts[row]) for row in question)
        if slices[-1] and filled + cost > SLICE:
            slices.append([])
            filled = 0
        slices[-1] += question
        filled += cost
    return [tuple(sorted(part)) for part in slices]


def _stem(stage: Stage, piece: Measurement) -> str:
    """The name of a set's file, which says the factor where it is not the first."""
    condition = piece.condition
    is_first = condition.factor == stage.settings.factor[0] or condition.name == "original"
    factor = "" if is_first else f"@{condition.factor!r}"
    return f"{file_name(condition.name)}{factor}-{piece.draw}"


def _folder_name(benchmark: str) -> str:
    """The folder of a benchmark's answers; no full stop, as the files beside it have one."""
    return file_name(benchmark).replace(".", "%2E")


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
