"""What competes in a league: a way of scoring neurons, and a recipe that selects by the scores.

    recipe         ranked by                                       left out, where they are scored
    "cultural"     S(cultural)                                     nothing
    "published"    S(cultural) - S(control)                        top by country names
    "selective"    shares of the answer, control and general       top by country names
                   questions subtracted (``culture_general``)

Methods of ``attribute`` score with any pool, weight and target; rivals look at activations alone
(``activations``) and know no control but that of a contrast.
"""

import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from culnig_tl.activations import (
    ActivationStatistics,
    activation_statistics,
    cas,
    lape,
    standardised_difference,
)
from culnig_tl.attribution import METHODS, Scoring, Target, attribute_questions, check_target
from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import check_several_cultures, select_general
from culnig_tl.validation.stability import sums_of_parts

Recipe = Literal["cultural", "published", "selective"]
CLAMPED = ("control", "general")
"""Data whose scores are cut at 0."""
_NEEDS: Mapping[Recipe, tuple[str, ...]] = {
    "cultural": ("cultural",),
    "published": ("cultural", "control"),
    "selective": ("cultural", "control", "general"),
}
_CONTRAST = "standardised_difference"
_AMONG_CULTURES = ("lape", "cas")
_RIVALS: Mapping[str, Callable[..., NeuronScores]] = {
    "activation_mean": lambda cultural, _: cultural.scores("mean"),
    "activation_probability": lambda cultural, _: cultural.scores("probability"),
    "lape": lambda cultural, _: lape(cultural).scores,
    "cas": lambda cultural, _: cas(cultural),
    _CONTRAST: standardised_difference,
}
_NO_SHARES = ("gradient", "activation_x_weight_norm")
"""Methods whose scores are in other units than the answer's."""


@dataclass(frozen=True)
class Scorer:
    """A way of scoring neurons.

    Attributes:
        method: of ``attribute``, or a rival: ``"activation_mean"``, ``"activation_probability"``,
            ``"lape"``, ``"cas"``, ``"standardised_difference"``.
        pool, weight, target, steps, path: as in ``attribute``; rivals have none of them.

    Example:
        >>> str(Scorer("relp", pool="sum", weight="none"))
        'relp sum none'
    """

    method: str = "gradient_x_activation"
    pool: Literal["max", "sum", "absmax"] = "max"
    weight: Literal["probability", "none"] = "probability"
    target: Target = "probability"
    steps: int = 20
    path: Literal["joint", "layer"] = "joint"

    def __str__(self) -> str:
        if self.is_rival:
            return self.method
        parts = [self.method, self.pool, self.weight]
        parts += [self.target] * (self.target != "probability")
        parts += [f"{self.steps} steps"] * (self.method == "integrated_gradients")
        return " ".join([*parts, *["by layer"] * (self.path == "layer")])

    @property
    def is_rival(self) -> bool:
        """Whether it looks at activations alone."""
        return self.method in _RIVALS

    def recipes(self, data: Container[str]) -> list[Recipe]:
        """The recipes that can select by these scores of these data, named by their roles."""
        if self.is_rival:
            return ["cultural"]
        is_share = self.target == "probability" and self.method not in _NO_SHARES
        return [
            recipe
            for recipe, needed in _NEEDS.items()
            if all(role in data for role in needed) and (is_share or recipe != "selective")
        ]

    def check(self, data: Mapping[str, PreparedQuestions], sites: Sequence[str]) -> None:
        """Refuse a method that there is not, or that this model, sites or data do not have.

        Raises:
            UnknownNameError, InvalidInputError: as ``attribute`` does, or data that a rival cannot
                compare.
        """
        check_choice("method", self.method, [*METHODS, *_RIVALS])
        cultural = data["cultural"]
        self._scoring(sites, clamp=False).check(cultural.model)
        if self.method in _AMONG_CULTURES:
            check_several_cultures(cultural.cultures)
        if self.method == _CONTRAST and "control" not in data:
            raise InvalidInputError(
                f"{_CONTRAST} contrasts cultural questions with control questions, and there are "
                "none; give data of the role control."
            )
        for each in data.values() if self.target != "probability" else ():
            check_target(self.target, each.batches)

    def _scoring(self, sites: Sequence[str], *, clamp: bool) -> Scoring:
        return Scoring(
            sites=tuple(sites),
            method="gradient_x_activation" if self.is_rival else self.method,
            pool=self.pool,
            weight=self.weight,
            target=self.target,
            steps=self.steps,
            path=self.path,
            clamp=clamp,
        )

    def scores(
        self,
        data: Mapping[str, PreparedQuestions],
        role: str,
        parts: Sequence[Collection[str]],
        sites: Sequence[str],
    ) -> list[NeuronScores]:
        """Scores of a data set, and of those of its questions whose ids each part names.

        Args:
            data: questions by role; a contrast looks at the control as well.
            role: the data set.
            parts: ids.
            sites: hook points.

        Returns:
            Of all questions first; every source names the CPU seconds that all questions cost.
        """
        begun = time.process_time()
        if not self.is_rival:
            scores = self._of_answers(data[role], parts, sites, clamp=role in CLAMPED)
            return _with_seconds(scores, time.process_time() - begun)
        whole = self._of_activations(data, role, None, sites)
        seconds = time.process_time() - begun
        of_parts = [self._of_activations(data, role, ids, sites) for ids in parts]
        return _with_seconds([whole, *of_parts], seconds)

    def _of_answers(
        self,
        prepared: PreparedQuestions,
        parts: Sequence[Collection[str]],
        sites: Sequence[str],
        *,
        clamp: bool,
    ) -> list[NeuronScores]:
        """One pass over the rows; a part is a sum."""
        scoring = self._scoring(sites, clamp=clamp)
        chunks = attribute_questions(
            prepared.model,
            prepared,
            sites=sites,
            method=scoring.method,
            pool=scoring.pool,
            weight=scoring.weight,
            target=scoring.target,
            steps=scoring.steps,
            path=scoring.path,
            clamp=clamp,
            progress=False,
        )
        everything = set(prepared.rows["id"])
        sums = sums_of_parts(chunks, [everything, *parts], prepared.cultures)
        return [each.finish(**scoring.provenance) for each in sums]

    def _of_activations(
        self,
        data: Mapping[str, PreparedQuestions],
        role: str,
        ids: Collection[str] | None,
        sites: Sequence[str],
    ) -> NeuronScores:
        """Scores of the questions with these ids, or of all."""

        def statistics(name: str) -> ActivationStatistics:
            rows = _only(data[name], ids)
            return activation_statistics(rows.model, rows, sites=sites, progress=False)

        contrasted = statistics("control") if self.method == _CONTRAST else None
        return _RIVALS[self.method](statistics(role), contrasted)


def _only(prepared: PreparedQuestions, ids: Collection[str] | None) -> PreparedQuestions:
    """The questions with some ids; all of them without."""
    if ids is None:
        return prepared
    return prepared.select([line for line, name in enumerate(prepared.rows["id"]) if name in ids])


def _with_seconds(scores: Sequence[NeuronScores], seconds: float) -> list[NeuronScores]:
    return [replace(each, source={**each.source, "cpu_seconds": seconds}) for each in scores]


SCORERS: tuple[Scorer, ...] = (
    Scorer(),
    *(Scorer(pool=pool) for pool in ("sum", "absmax")),
    Scorer(weight="none"),
    Scorer(pool="sum", weight="none"),
    *(
        Scorer(pool="sum", weight="none", target=target)
        for target in ("log_probability", "logit_difference")
    ),
    Scorer("integrated_gradients", steps=8),
    Scorer("integrated_gradients", pool="sum", weight="none", steps=8),
    Scorer("relp"),
    *(
        Scorer(method, pool="sum", weight="none")
        for method in ("relp", "relp_frozen_attention", "gim")
    ),
    *(Scorer(method, weight="none") for method in _NO_SHARES),
    *(Scorer(method) for method in _RIVALS),
)
"""What competes unless the caller says otherwise; the first is the paper's."""


def counted_roles(recipe: Recipe, data: Container[str]) -> list[str]:
    """The roles whose scores count in a recipe: what it needs, and country names where they are.

    Example:
        >>> counted_roles("published", {"cultural", "control", "recognition"})
        ['cultural', 'control', 'recognition']
    """
    names = ["recognition"] if recipe != "cultural" and "recognition" in data else []
    return [*_NEEDS[recipe], *names]


def selected(
    scores: Mapping[str, NeuronScores], recipe: Recipe, top: float, *, names_dropped: bool = True
) -> NeuronSet:
    """The best share of each pool by a recipe.

    Args:
        scores: by role.
        recipe: which of them count, and how.
        top: share of the MLP pool and of the attention pool to keep.
        names_dropped: leave out the top by country names, where the recipe does.
    """
    roles = [
        role for role in counted_roles(recipe, scores) if role != "recognition" or names_dropped
    ]
    counted = {role: scores[role] for role in roles}
    return select_general(
        counted["cultural"],
        counted.get("control"),
        counted.get("recognition"),
        counted.get("general"),
        recipe="selective" if recipe == "selective" else "published",
        mlp_top=top,
        attention_top=top,
    )
