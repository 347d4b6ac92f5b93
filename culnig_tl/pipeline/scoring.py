"""The first stage: scores, summed on one process or on many."""

from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from culnig_tl.attribution import (
    Scoring,
    attribute,
    partial_sums,
    read_sums,
    scores_of_sums,
    write_sums,
)
from culnig_tl.errors import InvalidInputError
from culnig_tl.files import DamagedFileError, Identity, Kind, RunFolder
from culnig_tl.models import model_fingerprint
from culnig_tl.pipeline.settings import Settings
from culnig_tl.pipeline.stage import Stage, Wanted, n_tokens, results
from culnig_tl.pipeline.work import Setup
from culnig_tl.scores import NeuronScores, ScoreSums

_PARTS = 32


def score(stage: Stage) -> dict[str, NeuronScores]:
    """Scores of cultural questions, control, country names and, for some recipes, general ones.

    Raises:
        InvalidInputError: the folder holds scores that this run would not make.
    """
    folder, fingerprint = stage.folder, model_fingerprint(stage.model)
    paths = {role: folder.file(f"scores/{role}.safetensors") for role in stage.questions.data}

    def missing() -> list[str]:
        roles = [role for role, path in paths.items() if _whole_scores(folder, path) is None]
        if roles:
            folder.lock()
        return roles

    roles = stage.engine.first(missing)
    share = _by_pieces if stage.engine.scores_by_pieces else _at_once
    share(stage, {role: paths[role] for role in roles})
    scores = {role: NeuronScores.load(path) for role, path in paths.items()}
    for role, prepared in stage.questions.data.items():
        origin = {"model": fingerprint, "data": prepared.fingerprint}
        wanted = {"target": None} | _scoring(stage.settings, role).provenance | origin
        _check_source(paths[role], scores[role].source, wanted)
    return scores


def _at_once(stage: Stage, paths: Mapping[str, Path]) -> None:
    """Score by ``attribute``, which shares the prompts among processes that were launched
    together."""
    for role, path in paths.items():
        scoring = _scoring(stage.settings, role)
        attribute(
            stage.model,
            stage.questions.data[role],
            sites=scoring.sites,
            method=scoring.method,
            clamp=scoring.clamp,
            checkpoint=path.with_suffix(".checkpoint"),
            out=path,
            progress=role if stage.progress else False,
        )


def _by_pieces(stage: Stage, paths: Mapping[str, Path]) -> None:
    """Score parts of the batches wherever; sums are added in the order of the parts."""
    wanted = {role: _parts(stage, role) for role in paths}
    sums = iter(results(stage, [part for parts in wanted.values() for part in parts], "scores"))
    for role, path in paths.items():
        scoring, of_role = _scoring(stage.settings, role), islice(sums, len(wanted[role]))
        scores = scores_of_sums(stage.model, stage.questions.data[role], of_role, scoring)
        scores.save(path)
        for part in wanted[role]:
            stage.folder.discard(part.name)


def _parts(stage: Stage, role: str) -> list[Wanted[ScoreSums]]:
    """The sums of parts of the batches, whose number depends on the questions alone."""
    prepared, scoring = stage.questions.data[role], _scoring(stage.settings, role)
    n_parts = min(_PARTS, len(prepared.batches))
    identity = {"data": prepared.fingerprint, "scoring": scoring.provenance, "parts": n_parts}
    return [
        Wanted(
            f"scores/{role}.part{part}",
            identity | {"part": part},
            partial(_sums, role=role, part=part, n_parts=n_parts),
            n_tokens(prepared) // n_parts,
            _SUMS,
        )
        for part in range(n_parts)
    ]


def _read(path: Path) -> tuple[ScoreSums, Any]:
    sums, header = read_sums(path)
    return sums, header["settings"]


def _write(path: Path, sums: ScoreSums, identity: Identity) -> None:
    write_sums(path, sums, identity, n_done=sum(sums.n_prompts), token_budget=1)


_SUMS = Kind(_read, _write)


def _sums(setup: Setup, *, role: str, part: int, n_parts: int) -> ScoreSums:
    rows, scoring = setup.questions.data[role], _scoring(setup.settings, role)
    return partial_sums(setup.model, rows, part, n_parts=n_parts, scoring=scoring)


def _scoring(settings: Settings, role: str) -> Scoring:
    return Scoring(
        sites=settings.sites, method=settings.method, clamp=role in ("control", "general")
    )


def _whole_scores(folder: RunFolder, path: Path) -> NeuronScores | None:
    """The scores that are there, which the user may have made; damaged ones are set aside."""
    try:
        return NeuronScores.load(path) if path.exists() else None
    except DamagedFileError:
        folder.set_aside(path)
        return None


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
