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
categories one by one, and ``verdict`` keeps everyday life and geography apart.
"""

from collections.abc import Sequence

import pandas as pd

from culnig_tl.errors import InvalidInputError, check_kind, check_seed
from culnig_tl.evaluation.bootstrap import rank_p_value
from culnig_tl.evaluation.falls import CONDITION, QUESTION, SET, Probabilities
from culnig_tl.evaluation.summary import LAYER_MATCHED, check_probabilities

ENOUGH_SETS = 19
"""Layer-matched sets from which on p can be .05."""
ENOUGH_CLUSTERS = 20
"""Clusters below which intervals by clusters are clearly too narrow."""

_NEEDED = (*QUESTION, *SET, "n_neurons", "probability")


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
    measured = Probabilities.of(answers, [*cultural, *others])
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
    measured = Probabilities.of(answers, [*cultural, *others])
    elsewhere = measured.falls_of_sets(others)
    tables = []
    for name in cultural:
        here = measured.falls_of_sets([name])
        falls = {"fall": here, "general_fall": elsewhere, "selectivity": here - elsewhere}
        tables.append(pd.DataFrame(falls).reset_index().assign(benchmark=name))
    table = pd.concat(tables).merge(measured.conditions.drop(columns="n_sets"), on=CONDITION)
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
    measured = Probabilities.of(answers, others)
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
    is_masked = set(answers.groupby(CONDITION)["n_neurons"].max() > 0)
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
    key = ["benchmark", *CONDITION]
    columns = selectivity(answers, seed=seed)[[*key, *names]]
    return table.merge(columns.rename(columns=names), on=key, how="left")


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
    check_kind("answers", answers, pd.DataFrame, "the frame of several conditions' answers")
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
