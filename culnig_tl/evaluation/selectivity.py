"""Selectivity: how much more ``P(answer)`` falls on cultural questions than on general ones.

    fall        = 1 - mean P(y|x) under a condition / mean P(y|x) of the model as it is
    selectivity = fall on a cultural benchmark - fall on the general benchmarks

Both means are over all prompts of the same questions. *General* benchmarks are those whose rows
have no culture; they are pooled, prompt by prompt, unless the caller names some. A fall is relative
because easy and hard benchmarks then count alike; it is negative where ``P`` rises (factor 2).

Two 95 % intervals stand beside each number (see ``bootstrap``): over questions, and over clusters,
which are relations or categories (column ``topic``; questions without one are clusters of their
own). Cultural and general questions are drawn independently; a condition and the model as it is
answer the same ones. **The interval by clusters is the one to believe**: where relations differ, a
95 % interval of selectivity over questions held the truth in 61 of 100 simulated data sets, one
over clusters in 94 with 40 clusters, 93 with 18, 90 with 9 and 78 with 3 on either side
(tests/test_selectivity.py), and in 92, 91 and 89 with 40, 18 and 9 where five clusters carry most
of ``P``. Percentiles of few clusters are too narrow; tables say so below ``ENOUGH_CLUSTERS``.

Neither interval asks whether other neurons would do the same. That is the rank among layer-matched
random sets: ``p_matched``, (1 + number of sets at least as selective) / (1 + number of sets).
Random sets differ widely (one may cost 45 %), so one or two of them show nothing: below
``ENOUGH_SETS`` = 19 sets p cannot be .05, with ten it cannot be below .09.

Averages hide what cancels (one category rises, another falls): ``general_by_topic`` shows the
categories one by one, and questions about everyday life and about geography are kept apart in
``verdict``, since a set that moves geography alone carries country knowledge, not culture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from culnig_tl.errors import InvalidInputError, check_seed
from culnig_tl.evaluation.bootstrap import (
    Seed,
    cluster_totals,
    interval,
    rank_p_value,
    relative_fall,
    resampled_falls,
)
from culnig_tl.evaluation.summary import (
    LAYER_MATCHED,
    check_probabilities,
    condition_labels,
    random_kinds,
)

EVERYDAY, GEOGRAPHY = "cloze-everyday", "cloze-geography"
"""The benchmarks that ``verdict`` tells apart."""
ENOUGH_SETS = 19
"""Layer-matched sets from which on p can be .05."""
ENOUGH_CLUSTERS = 20
"""Clusters below which intervals by clusters are clearly too narrow."""

MOST_GENERAL_FALL = 0.2
"""A set that takes more from general questions than this is not about culture alone."""

_SELECTIVE = "selective"
_CONDITION = ["condition", "factor"]
_SET = [*_CONDITION, "draw"]
_QUESTION = ["benchmark", "id", "culture", "topic"]
_NEEDED = (*_QUESTION, *_SET, "n_neurons", "probability")


def selectivity(
    answers: pd.DataFrame, *, general: Sequence[str] | None = None, seed: int = 0
) -> pd.DataFrame:
    """How much more each condition lowers ``P(answer)`` on cultural questions than on general ones.

    Args:
        answers: the frame of ``answers_under`` (``run.answers``), with an answer to every question
            under the model as it is and under every condition. Layer-matched sets of
            ``random_neurons``, and conditions whose name begins with ``"layer-matched"``, are what
            the others are held against, each against those of its own factor and number of neurons.
        general: names of the general benchmarks; by default those whose rows have no culture.
        seed: seed of the bootstrap.

    Returns:
        One row per cultural benchmark, condition and factor, the model as it is left out:
        n_neurons, n_sets (several sets are averaged), random (``"random"``, ``"layer-matched"`` or
        ``""``), n_questions, n_clusters,
        n_general_questions, n_general_clusters; fall, general_fall and selectivity, each with the
        ends ``_low`` and ``_high`` of its interval by questions and ``_cluster_low`` and
        ``_cluster_high`` by clusters (NaN for fewer than two); n_matched (layer-matched sets),
        p_matched and beats_matched (more selective than all of them). Falls are 0 to 1.

    Raises:
        InvalidInputError: missing columns, no general or cultural benchmark, no condition without
            neurons, no other condition, or conditions that answer different questions.

    Example:
        >>> answers = pd.DataFrame({"benchmark": ["facts", "facts", "other", "other"],
        ...     "id": ["a", "a", "b", "b"], "culture": ["Iran", "Iran", "", ""], "topic": "",
        ...     "condition": ["original", "mine"] * 2, "factor": [1.0, 0.0] * 2, "draw": 0,
        ...     "n_neurons": [0, 7] * 2, "probability": [0.4, 0.1, 0.5, 0.4]})
        >>> selectivity(answers)[["fall", "general_fall", "selectivity"]].round(2).values.tolist()
        [[0.75, 0.2, 0.55]]
    """
    check_seed(seed)
    cultural, others = _kinds(answers, general)
    measured = _Probabilities.of(answers, [*cultural, *others])
    sets = selectivity_of_sets(answers, general=general)
    elsewhere = measured.falls(measured.rows_of(others), seed=(seed, 1))
    tables = []
    for name in cultural:
        here = measured.falls(measured.rows_of([name]), seed=seed)
        table = measured.conditions.assign(
            benchmark=name,
            n_questions=here.n_questions,
            n_clusters=here.n_clusters,
            n_general_questions=elsewhere.n_questions,
            n_general_clusters=elsewhere.n_clusters,
            **here.columns("fall"),
            **elsewhere.columns("general_fall"),
            **here.minus(elsewhere).columns("selectivity"),
        )
        tables.append(table.join(_ranks(table, sets[sets["benchmark"] == name])))
    return _benchmark_first(pd.concat(tables, ignore_index=True))


def selectivity_of_sets(
    answers: pd.DataFrame, *, general: Sequence[str] | None = None
) -> pd.DataFrame:
    """The selectivity of every single set of neurons, random ones too.

    Args:
        answers: as in ``selectivity``.
        general: as in ``selectivity``.

    Returns:
        One row per cultural benchmark, condition, factor and draw: n_neurons, fall, general_fall
        and selectivity.

    Raises:
        InvalidInputError: as in ``selectivity``.
    """
    cultural, others = _kinds(answers, general)
    measured = _Probabilities.of(answers, [*cultural, *others])
    elsewhere = measured.falls_of_sets(others)
    tables = []
    for name in cultural:
        here = measured.falls_of_sets([name])
        falls = {"fall": here, "general_fall": elsewhere, "selectivity": here - elsewhere}
        tables.append(pd.DataFrame(falls).reset_index().assign(benchmark=name))
    table = pd.concat(tables).merge(measured.conditions.drop(columns="n_sets"), on=_CONDITION)
    return _benchmark_first(table)


def general_by_topic(
    answers: pd.DataFrame, *, general: Sequence[str] | None = None, seed: int = 0
) -> pd.DataFrame:
    """The fall of ``P(answer)`` on each category of the general questions, one by one.

    Args:
        answers: as in ``selectivity``.
        general: as in ``selectivity``; any benchmark may be named, to see its topics.
        seed: seed of the bootstrap.

    Returns:
        One row per general benchmark, topic, condition and factor: n_neurons, n_sets, n_questions,
        fall, and fall_low and fall_high by questions (NaN for one question).

    Raises:
        InvalidInputError: as in ``selectivity``.
    """
    check_seed(seed)
    others = _general_benchmarks(answers, general)
    measured = _Probabilities.of(answers, others)
    tables = []
    for (benchmark, topic), rows in measured.topics():
        falls = measured.falls(rows, seed=seed)
        by_question = {
            name: column for name, column in falls.columns("fall").items() if "cluster" not in name
        }
        tables.append(
            measured.conditions.assign(
                benchmark=benchmark, topic=topic, n_questions=falls.n_questions, **by_question
            )
        )
    return _benchmark_first(pd.concat(tables, ignore_index=True))


def has_selectivity(answers: pd.DataFrame) -> bool:
    """Whether there is something to compare: a cultural and a general benchmark, and conditions
    with and without neurons."""
    if answers.empty:
        return False
    is_general = set(_is_general(answers))
    is_masked = set(answers.groupby(_CONDITION)["n_neurons"].max() > 0)
    return is_general == is_masked == {False, True}


def with_selectivity(table: pd.DataFrame, answers: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The table of ``summarise`` with selectivity, its interval by clusters and its p-value.

    Args:
        table: the table of ``summarise``.
        answers: the answers that it sums up.
        seed: seed of the bootstrap.

    Returns:
        The table with selectivity, selectivity_low, selectivity_high and p_selectivity; NaN where
        there is none.
    """
    names = {
        "selectivity": "selectivity",
        "selectivity_cluster_low": "selectivity_low",
        "selectivity_cluster_high": "selectivity_high",
        "p_matched": "p_selectivity",
    }
    if not has_selectivity(answers):
        return table.assign(**dict.fromkeys(names.values(), float("nan")))
    key = ["benchmark", *_CONDITION]
    columns = selectivity(answers, seed=seed)[[*key, *names]]
    return table.merge(columns.rename(columns=names), on=key, how="left")


def verdict(frame: pd.DataFrame) -> dict[str, str]:
    """What the selectivity of each condition means, in one plain sentence.

    A condition is selective on a benchmark if the interval by clusters of its selectivity lies
    above 0 and it is more selective than each of at least ``ENOUGH_SETS`` layer-matched sets.
    Selective on questions about everyday life means culture; on geography alone, country knowledge.
    A selective set may still take much from general questions: above ``MOST_GENERAL_FALL`` the
    sentence says that it is not culture alone.

    Args:
        frame: the frame of ``selectivity``.

    Returns:
        A sentence by condition (as ``condition_labels`` has it); random sets, and conditions of
        several sets, have none.

    Example:
        >>> frame = pd.DataFrame({"benchmark": [EVERYDAY, GEOGRAPHY], "condition": "mine",
        ...     "factor": 0.0, "n_sets": 1, "n_matched": 19, "beats_matched": [False, True],
        ...     "fall": [0.3, 0.9], "general_fall": 0.1,
        ...     "selectivity_cluster_low": [-0.1, 0.6], "selectivity_cluster_high": [0.5, 0.9]})
        >>> verdict(frame)["mine"].partition(":")[0]
        'This is country knowledge'
    """
    table = frame.assign(label=condition_labels(frame))
    table = table[(table["n_sets"] == 1) & (random_kinds(table) == "")]
    return {
        str(label): _sentence(rows.to_dict("records"))
        for label, rows in table.groupby("label", sort=False)
    }


def _sentence(rows: Sequence[Mapping[Any, Any]]) -> str:
    """The verdict on one condition; everyday life and geography alone count where they are."""
    by_name = {row["benchmark"]: row for row in rows}
    general_fall = rows[0]["general_fall"]
    more = ", but not that alone" if general_fall > MOST_GENERAL_FALL else ""
    if EVERYDAY in by_name:
        rows = [by_name[name] for name in (EVERYDAY, GEOGRAPHY) if name in by_name]
        start = _kind(*map(_status, rows), more=more)
    else:
        statuses = {row["benchmark"]: _status(row) for row in rows}
        parts = [
            f"{status} on {name}{more if status == _SELECTIVE else ''}"
            for name, status in statuses.items()
        ]
        start = "; ".join([f"{parts[0][0].upper()}{parts[0][1:]}", *parts[1:]])
    falls = [
        *((row["fall"], row["benchmark"]) for row in rows),
        (general_fall, "general questions"),
    ]
    return f"{start}: P(answer) {_moves(falls)}."


def _kind(everyday: str, geography: str = "", *, more: str) -> str:
    """What being selective on either means; ``more`` says that it is not all."""
    if everyday == _SELECTIVE:
        return f"This is culture{more}"
    unclear = [status for status in (everyday, geography) if status.startswith("too few")]
    if unclear:
        return f"There are {unclear[0]}"
    if geography == _SELECTIVE:
        return f"This is country knowledge{more}"
    return f"This is {everyday}"


def _status(row: Mapping[Any, Any]) -> str:
    """Whether a condition is selective on a benchmark, or why that cannot be said."""
    if np.isnan(row["selectivity_cluster_low"]):
        return "too few clusters to say"
    if row["selectivity_cluster_high"] < 0:
        return "no selective fall"
    if row["selectivity_cluster_low"] <= 0:
        return "not selective"
    if row["n_matched"] < ENOUGH_SETS:
        return f"too few sets to say ({row['n_matched']} layer-matched, {ENOUGH_SETS} needed)"
    return _SELECTIVE if row["beats_matched"] else "not selective (random sets do as much)"


def _moves(falls: Sequence[tuple[float, str]]) -> str:
    """ "falls by 70 % on one, by 20 % on another and rises by 5 % on a third"."""
    parts, before = [], ""
    for fall, where in falls:
        verb = "rises " if fall <= -0.005 else "falls "
        parts.append(f"{'' if verb == before else verb}by {abs(100 * fall):.0f} % on {where}")
        before = verb
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _kinds(answers: pd.DataFrame, general: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Names of the cultural benchmarks and of the general ones, in the order of the answers."""
    others = _general_benchmarks(answers, general)
    is_general = _is_general(answers)
    cultural = [name for name in is_general.index[~is_general] if name not in others]
    if not cultural:
        raise InvalidInputError(
            f"All benchmarks are general ones ({', '.join(others)}); give one whose rows have a "
            "culture as well."
        )
    return cultural, others


def _general_benchmarks(answers: pd.DataFrame, general: Sequence[str] | None) -> list[str]:
    """The benchmarks that ``general`` names, or those without a culture."""
    if missing := [name for name in _NEEDED if name not in answers]:
        raise InvalidInputError(
            f"These answers have no column {', '.join(missing)}; give those of several conditions "
            "(run.answers, or evaluation.answers_under)."
        )
    check_probabilities(answers)
    is_general = _is_general(answers)
    others = list(is_general.index[is_general]) if general is None else list(general)
    names = ", ".join(is_general.index)
    if unnames := [name for name in others if name not in is_general]:
        raise InvalidInputError(
            f"general names {', '.join(unnames)}, but the benchmarks are {names}."
        )
    if not others:
        raise InvalidInputError(
            f"There is no general benchmark among {names}; give one whose rows have an empty "
            "culture, or name some in general."
        )
    return others


def _is_general(answers: pd.DataFrame) -> pd.Series:
    """Whether no row of a benchmark has a culture, by benchmark."""
    no_culture = answers["culture"].isna() | (answers["culture"] == "")
    return no_culture.groupby(answers["benchmark"], sort=False).all()


@dataclass(frozen=True)
class _Falls:
    """One number per condition, with what it is in each draw of questions and of clusters."""

    value: Float[np.ndarray, "condition"]
    by_question: Float[np.ndarray, "draw condition"]
    by_cluster: Float[np.ndarray, "draw condition"]
    n_questions: int
    n_clusters: int

    def minus(self, other: "_Falls") -> "_Falls":
        """The difference, draw by draw; its numbers of questions and clusters are of the first."""
        return _Falls(
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
class _Probabilities:
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
    def of(cls, answers: pd.DataFrame, benchmarks: Sequence[str]) -> "_Probabilities":
        """Those of some benchmarks.

        Raises:
            InvalidInputError: no condition with or without neurons, or different questions.
        """
        answers = answers[answers["benchmark"].isin(benchmarks)]
        answers = answers.astype({"culture": object, "topic": object, "factor": float})
        answers = answers.fillna({"culture": "", "topic": ""})  # an empty text in a csv file
        totals, n_prompts = (
            answers.pivot_table(index=_QUESTION, columns=_SET, values="probability", aggfunc=how)
            for how in ("sum", "count")
        )
        if (n_prompts.to_numpy() != n_prompts.to_numpy()[:, :1]).any():
            raise InvalidInputError(
                "The conditions answer different questions; evaluate all of them, with every set, "
                "on the same rows of every benchmark."
            )
        kinds = answers.assign(random=random_kinds(answers))
        conditions = kinds.groupby(_CONDITION, sort=False, as_index=False).agg(
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

    def falls(self, rows: Bool[np.ndarray, "question"], *, seed: Seed) -> _Falls:
        """The falls on some questions; several sets of a condition are averaged."""
        means = self.totals[rows].T.groupby(level=_CONDITION).mean().T
        keys = [self.original, *self.conditions[_CONDITION].itertuples(index=False, name=None)]
        totals = means[keys].to_numpy(dtype=float)
        clusters = cluster_totals(totals, _clusters(self._questions[rows]))
        return _Falls(
            value=relative_fall(totals[:, 1:].sum(axis=0), totals[:, :1].sum(axis=0)),
            by_question=_draws(totals, seed),
            by_cluster=_draws(clusters, seed),
            n_questions=len(totals),
            n_clusters=len(clusters),
        )

    def falls_of_sets(self, benchmarks: Sequence[str]) -> pd.Series:
        """The fall on some benchmarks, pooled, by condition, factor and draw."""
        sums = self.totals[self.rows_of(benchmarks)].sum()
        names = sums.index.to_frame()[_CONDITION].itertuples(index=False, name=None)
        is_original = np.array([name == self.original for name in names])
        original = sums[is_original].to_numpy(dtype=float).mean(keepdims=True)
        sets = sums[~is_original]
        return pd.Series(relative_fall(sets.to_numpy(dtype=float), original), sets.index)


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


def _ranks(table: pd.DataFrame, sets: pd.DataFrame) -> pd.DataFrame:
    """The rank of each condition of a benchmark among its layer-matched sets."""
    is_matched = sets["random"] == LAYER_MATCHED
    ranks = []
    for row in table.to_dict("records"):
        alike = (sets["factor"] == row["factor"]) & (sets["n_neurons"] == row["n_neurons"])
        values = sets.loc[is_matched & alike, "selectivity"].to_numpy(dtype=float)
        if row["n_sets"] > 1 or row["random"] == LAYER_MATCHED:
            values = values[:0]
        p_value = rank_p_value(row["selectivity"], values) if len(values) else float("nan")
        beats = len(values) > 0 and row["selectivity"] > values.max()
        ranks.append((len(values), p_value, bool(beats)))
    names = ["n_matched", "p_matched", "beats_matched"]
    return pd.DataFrame(ranks, columns=pd.Index(names), index=table.index)


def _benchmark_first(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns that name what is measured in front."""
    first = [name for name in ("benchmark", "topic") if name in table]
    return table[[*first, *(name for name in table if name not in first)]]
