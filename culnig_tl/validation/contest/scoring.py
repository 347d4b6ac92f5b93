"""What all entrants of a league share, and their scores, kept in files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from culnig_tl.errors import CulnigError, InvalidInputError, check_by_name, check_choice
from culnig_tl.evaluation import warn
from culnig_tl.files import RunFolder, file_name
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.validation.contest.entrants import SCORERS, Scorer, counted_roles
from culnig_tl.validation.stability import first_half

ROLES = ("cultural", "control", "recognition", "general")
Data = Mapping[str, Rows]
Parts = list[dict[str, NeuronScores]]
"""Scores by role: of all questions, of one half and of the other."""


@dataclass(frozen=True)
class Setting:
    """What all entrants share."""

    model: HookedModel
    data: Mapping[str, PreparedQuestions]
    halves: tuple[set[str], set[str]]
    sites: tuple[str, ...]
    folder: RunFolder

    @classmethod
    def of(
        cls,
        model: HookedModel,
        data: Mapping[str, PreparedQuestions],
        *,
        sites: Sequence[str],
        folder: RunFolder,
        seed: int,
    ) -> "Setting":
        """With two halves of the questions, by topic where there are several."""
        pairs = [
            list(zip(each.rows["id"][:], each.rows["topic"][:], strict=True))
            for each in data.values()
        ]
        first = first_half(pairs, np.random.default_rng(seed))
        second = {name for of_role in pairs for name, _ in of_role} - first
        return cls(model, data, (first, second), tuple(sites), folder)

    @property
    def name(self) -> str:
        """Of the folder of its scores; halves depend on the data of all roles."""
        data = " ".join(f"{role} {each.fingerprint}" for role, each in self.data.items())
        return f"{model_fingerprint(self.model)[:8]}-{sha256(data.encode()).hexdigest()[:8]}"


def check_data(data: Data) -> None:
    """Refuse data without cultural questions, or of a role that there is not.

    Raises:
        InvalidInputError, UnknownNameError: naming the role.
    """
    check_by_name("data", data)
    for role in data:
        check_choice("role", role, ROLES)
    check_choice("data without a role", "cultural", list(data))


def prepared_by_role(
    model: HookedModel, data: Data, token_budget: int
) -> dict[str, PreparedQuestions]:
    """The questions of every role, prepared."""
    check_data(data)
    return {role: prepare(model, rows, token_budget=token_budget) for role, rows in data.items()}


def able_scorers(
    scorers: Sequence[Scorer] | None, data: Mapping[str, PreparedQuestions], sites: Sequence[str]
) -> list[Scorer]:
    """The scorers given, which must all be able to score; or those of the usual ones that are.

    Raises:
        UnknownNameError, InvalidInputError: one that was given cannot score, or no usual one can.

    Warns:
        UserWarning: usual ones that are left out, and why the first of them is.
    """
    if scorers is not None:
        for scorer in scorers:
            scorer.check(data, sites)
        return list(scorers)
    reason_of = {scorer: _reason(scorer, data, sites) for scorer in SCORERS}
    able = [scorer for scorer, reason in reason_of.items() if not reason]
    reasons = {str(scorer): reason for scorer, reason in reason_of.items() if reason}
    if not able:
        raise InvalidInputError(f"No way of scoring works here: {next(iter(reasons.values()))}")
    if reasons:
        warn(
            f"{len(reasons)} of {len(SCORERS)} ways of scoring are left out "
            f"({', '.join(reasons)}), the first because: {next(iter(reasons.values()))}"
        )
    return able


def _reason(scorer: Scorer, data: Mapping[str, PreparedQuestions], sites: Sequence[str]) -> str:
    """Why a scorer cannot score; nothing where it can."""
    try:
        scorer.check(data, sites)
    except CulnigError as error:
        return str(error)
    return ""


def scored(setting: Setting, scorer: Scorer) -> Parts:
    """Scores of every role that some recipe needs, kept in files."""
    recipes = scorer.recipes(setting.data)
    roles = dict.fromkeys(
        role for recipe in recipes for role in counted_roles(recipe, setting.data)
    )
    by_role = {role: _scored_role(setting, scorer, role) for role in roles}
    return [{role: parts[part] for role, parts in by_role.items()} for part in range(3)]


def _scored_role(setting: Setting, scorer: Scorer, role: str) -> list[NeuronScores]:
    identity = setting.folder.whole(
        {
            "model": model_fingerprint(setting.model),
            "data": {name: each.fingerprint for name, each in setting.data.items()},
            "scorer": str(scorer),
            "sites": setting.sites,
        }
    )
    stem = f"scores/{setting.name}/{file_name(str(scorer))}"
    paths = [setting.folder.file(f"{stem}/{role}-{part}.safetensors") for part in range(3)]
    held = [setting.folder.held(path, identity, _scores_of_file) for path in paths]
    if None not in held:
        return [each for each in held if each is not None]
    setting.folder.lock()
    parts = scorer.scores(setting.data, role, setting.halves, setting.sites)
    for path, scores in zip(paths, parts, strict=True):
        replace(scores, source={**scores.source, "identity": identity}).save(path)
    return parts


def _scores_of_file(path: Path) -> tuple[NeuronScores, Any]:
    scores = NeuronScores.load(path)
    return scores, scores.source.get("identity", {})
