"""What competes in a league: a way of scoring neurons, and a recipe that selects by the scores.

    recipe         ranked by                                       left out
    "cultural"     S(cultural)                                     nothing
    "published"    S(cultural) - S(control)                        top by country names
    "selective"    shares of the answer, control and general       top by country names
                   questions subtracted (``culture_general``)

Methods of ``attribute`` score with any pool, weight and target; rivals look at activations alone
(``activations``) and know no control but that of a contrast.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from culnig_tl.activations import (
    ActivationStatistics,
    activation_statistics,
    cas,
    lape,
    standardised_difference,
)
from culnig_tl.attribution import METHODS, Scoring, Target, attribute_questions
from culnig_tl.errors import check_choice
from culnig_tl.hooked_model import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions
from culnig_tl.scores import NeuronScores, ScoreAccumulator
from culnig_tl.selection import select_general

Recipe = Literal["cultural", "published", "selective"]
CLAMPED = ("control", "general")
"""Data whose scores are cut at 0."""
_NEEDS: Mapping[Recipe, tuple[str, ...]] = {
    "cultural": ("cultural",),
    "published": ("cultural", "control", "recognition"),
    "selective": ("cultural", "control", "recognition", "general"),
}
_RIVALS: Mapping[str, Callable[..., NeuronScores]] = {
    "activation_mean": lambda cultural, _: cultural.scores("mean"),
    "activation_probability": lambda cultural, _: cultural.scores("probability"),
    "lape": lambda cultural, _: lape(cultural).scores,
    "cas": lambda cultural, _: cas(cultural),
    "standardised_difference": standardised_difference,
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

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes that can select by these scores."""
        if self.is_rival:
            return ("cultural",)
        is_share = self.target == "probability" and self.method not in _NO_SHARES
        return get_args(Recipe) if is_share else ("cultural", "published")

    def roles(self, recipe: Recipe) -> tuple[str, ...]:
        """The data that a recipe needs scores of."""
        return _NEEDS[recipe]

    def check(self, model: HookedModel, sites: Sequence[str]) -> None:
        """Refuse a method that there is not, or that this model or these sites do not have.

        Raises:
            UnknownNameError, InvalidInputError: as ``attribute`` does.
        """
        check_choice("method", self.method, [*METHODS, *_RIVALS])
        self._scoring(sites, clamp=False).check(model)

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
            Of all questions first; their source names the CPU seconds that all of them together
            cost.
        """
        begun = time.process_time()
        if self.is_rival:
            scores = self._of_activations(data, role, parts, sites)
        else:
            scores = self._of_answers(data[role], parts, sites, clamp=role in CLAMPED)
        seconds = time.process_time() - begun
        return [replace(each, source={**each.source, "cpu_seconds": seconds}) for each in scores]

    def _of_answers(
        self,
        prepared: PreparedQuestions,
        parts: Sequence[Collection[str]],
        sites: Sequence[str],
        *,
        clamp: bool,
    ) -> list[NeuronScores]:
        """One pass over the rows; a part is a sum."""
        sums = [ScoreAccumulator(prepared.cultures) for _ in (None, *parts)]
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
        for chunk in chunks:
            for ids, each in zip((None, *parts), sums, strict=True):
                lines = [i for i, name in enumerate(chunk.ids) if ids is None or name in ids]
                each.update(
                    {site: values[lines] for site, values in chunk.values.items()},
                    cultures=[chunk.cultures[line] for line in lines],
                    ids=[chunk.ids[line] for line in lines],
                    probability=chunk.probability[lines],
                )
        return [each.finish(**scoring.provenance) for each in sums]

    def _of_activations(
        self,
        data: Mapping[str, PreparedQuestions],
        role: str,
        parts: Sequence[Collection[str]],
        sites: Sequence[str],
    ) -> list[NeuronScores]:
        def statistics(name: str, ids: Collection[str] | None) -> ActivationStatistics:
            prepared = data[name]
            if ids is not None:
                names = prepared.rows["id"][:]
                prepared = prepared.select([i for i, each in enumerate(names) if each in ids])
            return activation_statistics(prepared.model, prepared, sites=sites, progress=False)

        is_contrast = self.method == "standardised_difference"
        return [
            _RIVALS[self.method](
                statistics(role, ids), statistics("control", ids) if is_contrast else None
            )
            for ids in (None, *parts)
        ]


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
    names = ("control", *(("recognition",) if names_dropped else ()), "general")
    counted = {role: scores[role] for role in names if role in _NEEDS[recipe]}
    return select_general(
        scores["cultural"],
        counted.get("control"),
        counted.get("recognition"),
        counted.get("general"),
        recipe="selective" if recipe == "selective" else "published",
        mlp_top=top,
        attention_top=top,
    )
