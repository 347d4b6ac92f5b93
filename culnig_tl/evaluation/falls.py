"""How far ``P(answer)`` falls under each condition, with what resampling makes of it.

    fall = 1 - mean P(y|x) under a condition / mean P(y|x) of the model as it is

over all prompts of the same questions; drawn by questions, and by clusters of them (topics). What
``selectivity`` compares.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation.bootstrap import (
    Seed,
    cluster_totals,
    interval,
    relative_fall,
    resampled_falls,
)
from culnig_tl.evaluation.summary import random_kinds

CONDITION = ["condition", "factor"]
"""Columns that name a condition of answers."""
SET = [*CONDITION, "draw"]
"""Columns that name a set of neurons."""
QUESTION = ["benchmark", "id", "culture", "topic"]
"""Columns that name a question."""


@dataclass(frozen=True)
class Falls:
    """One number per condition, with what it is in each draw of questions and of clusters."""

    value: Float[np.ndarray, "condition"]
    by_question: Float[np.ndarray, "draw condition"]
    by_cluster: Float[np.ndarray, "draw condition"]
    n_questions: int
    n_clusters: int

    def minus(self, other: "Falls") -> "Falls":
        """The difference, draw by draw; its numbers of questions and clusters are of the first."""
        return Falls(
            self.value - other.value,
            self.by_question - other.by_question,
            self.by_cluster - other.by_cluster,
            self.n_questions,
            self.n_clusters,
        )

    def columns(self, name: str) -> dict[str, Float[np.ndarray, "condition"]]:
        """The number and both intervals."""
        low, high = interval(self.by_question)
        cluster_low, cluster_high = interval(self.by_cluster)
        return {
            name: self.value,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_cluster_low": cluster_low,
            f"{name}_cluster_high": cluster_high,
        }


@dataclass(frozen=True)
class Probabilities:
    """``P(answer)`` of each question under each set of neurons, summed over its prompts.

    Attributes:
        totals: one row per question, one column per condition, factor and draw.
        original: name and factor of the condition without neurons.
        conditions: the others: condition, factor, n_neurons and n_sets.
    """

    totals: pd.DataFrame
    original: tuple[str, float]
    conditions: pd.DataFrame

    @classmethod
    def of(cls, answers: pd.DataFrame, benchmarks: Sequence[str]) -> "Probabilities":
        """Those of some benchmarks.

        Raises:
            InvalidInputError: no condition with or without neurons, or different questions.
        """
        answers = answers[answers["benchmark"].isin(benchmarks)]
        answers = answers.astype({"culture": object, "topic": object, "factor": float})
        answers = answers.fillna({"culture": "", "topic": ""})  # an empty text in a csv file
        totals, n_prompts = (
            answers.pivot_table(index=QUESTION, columns=SET, values="probability", aggfunc=how)
            for how in ("sum", "count")
        )
        if not _all_answered(n_prompts):
            raise InvalidInputError(
                "The conditions answer different questions; evaluate all of them, with every set, "
                "on the same rows of every benchmark."
            )
        kinds = answers.assign(random=random_kinds(answers))
        conditions = kinds.groupby(CONDITION, sort=False, as_index=False).agg(
            n_neurons=("n_neurons", "max"), n_sets=("draw", "nunique"), random=("random", "first")
        )
        without = conditions[conditions["n_neurons"] == 0]
        if without.empty or len(conditions) == 1:
            raise InvalidInputError(
                f"The conditions are {', '.join(conditions['condition'])}; give one without "
                "neurons, the model as it is, and one with neurons."
            )
        first = without.iloc[0]
        others = conditions.drop(index=without.index[0]).reset_index(drop=True)
        return cls(totals, (first["condition"], first["factor"]), others)

    @property
    def _questions(self) -> pd.DataFrame:
        """Benchmark, id, culture and topic of each question."""
        return self.totals.index.to_frame(index=False)

    def rows_of(self, benchmarks: Sequence[str]) -> Bool[np.ndarray, "question"]:
        """Which questions are those of some benchmarks."""
        return self._questions["benchmark"].isin(benchmarks).to_numpy()

    def topics(self) -> Iterator[tuple[tuple[str, str], Bool[np.ndarray, "question"]]]:
        """Each benchmark and topic, with its questions."""
        questions = self._questions
        for benchmark, topic in questions[["benchmark", "topic"]].drop_duplicates().to_numpy():
            is_one = (questions["benchmark"] == benchmark) & (questions["topic"] == topic)
            yield (benchmark, topic), is_one.to_numpy()

    def falls(self, rows: Bool[np.ndarray, "question"], *, seed: Seed) -> Falls:
        """The falls on some questions; several sets of a condition are averaged."""
        means = self.totals[rows].T.groupby(level=CONDITION).mean().T
        keys = [self.original, *self.conditions[CONDITION].itertuples(index=False, name=None)]
        totals = means[keys].to_numpy(dtype=float)
        clusters = cluster_totals(totals, _clusters(self._questions[rows]))
        return Falls(
            value=relative_fall(totals[:, 1:].sum(axis=0), totals[:, :1].sum(axis=0)),
            by_question=_draws(totals, seed),
            by_cluster=_draws(clusters, seed),
            n_questions=len(totals),
            n_clusters=len(clusters),
        )

    def falls_of_sets(self, benchmarks: Sequence[str]) -> pd.Series:
        """The fall on some benchmarks, pooled, by condition, factor and draw."""
        totals = self.totals[self.rows_of(benchmarks)]
        names = totals.columns.to_frame()[CONDITION].itertuples(index=False, name=None)
        is_original = np.array([name == self.original for name in names])
        sets = totals.loc[:, ~is_original]
        before = totals.loc[:, is_original].to_numpy(dtype=float).mean(axis=1)
        same_questions = (sets.notna().to_numpy() * before[:, None]).sum(axis=0)
        return pd.Series(
            relative_fall(sets.sum().to_numpy(dtype=float), same_questions), sets.columns
        )


def _all_answered(n_prompts: pd.DataFrame) -> bool:
    """Whether every condition answers every question with the same prompts: each set does, or sets
    that share the questions do together."""
    numbers = n_prompts.to_numpy()
    alike = np.isnan(numbers) | (numbers == np.nanmax(numbers, axis=1, keepdims=True))
    whole = n_prompts.notna().T.groupby(level=CONDITION).any().to_numpy()
    return bool(alike.all() and whole.all())


def _clusters(questions: pd.DataFrame) -> Int[np.ndarray, "question"]:
    """The number of each question's cluster: its topic in its benchmark, or itself without one."""
    alone = np.where(questions["topic"] == "", np.arange(len(questions)), -1)
    labels = questions.assign(alone=alone).groupby(["benchmark", "topic", "alone"], sort=True)
    return labels.ngroup().to_numpy()


def _draws(
    totals: Float[np.ndarray, "unit condition"], seed: Seed
) -> Float[np.ndarray, "draw others"]:
    """Falls in each draw against the first column; NaN where one unit leaves nothing to draw."""
    draws = resampled_falls(totals[:, 1:], totals[:, 0], seed=seed)
    return draws if len(totals) > 1 else np.full_like(draws, np.nan)
