"""Would other questions have found the same neurons?

The questions are cut into two halves at random; each half selects for itself. The Jaccard index of
the two sets says how much of the finding is a matter of the questions that were drawn, beside the
index that two random sets of these sizes would have. Prompts of one question (its wordings, and the
same question in other cultures) stay together, and a control question goes where its cultural
question went, so that the halves share no question.

Every row is scored once; a half is a sum. Memory: two score tables (cultures x layers x neurons a
site, float64) per split and data set.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from culnig_tl.attribution import OwnMethod, QuestionScores, Scoring, attribute_questions
from culnig_tl.errors import InvalidInputError, check_choice, check_number, check_seed
from culnig_tl.hooked_model import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores, ScoreAccumulator
from culnig_tl.selection import culture_general
from culnig_tl.sites import DEFAULT_SITES

_ROLES = ("cultural", "control", "recognition")


def split_half(
    model: HookedModel,
    cultural: Rows,
    control: Rows | None = None,
    recognition: Rows | None = None,
    *,
    select: Callable[..., NeuronSet] = culture_general,
    splits: int = 5,
    seed: int = 0,
    sites: Sequence[str] = DEFAULT_SITES,
    method: str | OwnMethod = "gradient_x_activation",
    token_budget: int = 8192,
    progress: bool = True,
) -> pd.DataFrame:
    """Agreement of the sets that two halves of the questions select.

    Args:
        model: a model with named hook points.
        cultural, control, recognition: questions, as for ``culture_general``; scores of the control
            are clamped.
        select: makes a set of the scores of a half; for one culture
            ``partial(culture_specific, culture="Iran")``.
        splits: how many times the questions are cut.
        seed: seed of the cuts.
        sites, method, token_budget, progress: as in ``attribute``.

    Returns:
        One row a split: first, second (sizes of the two sets), shared, jaccard (0 to 1),
        by_chance (the same of two random sets of these sizes, with the number that they share
        on average) and rank_correlation (Spearman's, of ``S(D)``, cultural less control, over all
        neurons; -1 to 1).

    Raises:
        InvalidInputError: fewer than two questions in a data set, numbers that are no whole numbers
            from 1 (a seed: from 0) up, an unknown method, or rows that cannot be used.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> halves = split_half(ct.load_model(), rows, splits=2, progress=False)
        >>> (halves["jaccard"] > halves["by_chance"]).all()
        np.True_
    """
    check_number("splits", splits, low=1, whole=True)
    check_seed(seed)
    Scoring(sites=tuple(sites), method=method).check(model)
    data = {
        name: prepare(model, rows, token_budget=token_budget)
        for name, rows in zip(_ROLES, (cultural, control, recognition), strict=True)
        if rows is not None
    }
    ids = [[(name, "") for name in prepared.rows["id"]] for prepared in data.values()]
    n_questions = [len(set(each)) for each in ids]
    if min(n_questions) < 2:
        raise InvalidInputError(
            f"There are {splits} splits of {n_questions} questions; give at least two questions in "
            "each data set."
        )
    cuts = [first_half(ids, np.random.default_rng([seed, split])) for split in range(splits)]
    halves = {
        name: _halves(prepared, cuts, name, progress, {"sites": sites, "method": method})
        for name, prepared in data.items()
    }
    return pd.DataFrame(
        [
            compare_halves(*(_of_split(halves, split, half) for half in (0, 1)), select=select)
            for split in range(splits)
        ]
    )


def compare_halves(
    first: Mapping[str, NeuronScores],
    second: Mapping[str, NeuronScores],
    *,
    select: Callable[..., NeuronSet] = culture_general,
) -> dict[str, Any]:
    """Agreement of the sets that two saved sets of scores select; one row of ``split_half``.

    Args:
        first, second: scores by role (``"cultural"``, ``"control"``, ``"recognition"``,
            ``"general"``), of the same model and sites.
        select: as in ``split_half``.

    Raises:
        InvalidInputError: no cultural scores, or scores that ``select`` refuses.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> halves = ct.split(rows, by="id")
        >>> def scores(half):
        ...     return {"cultural": ct.attribute(ct.load_model(), half, progress=False)}
        >>> compare_halves(*map(scores, halves))["first"]
        23
    """
    for half in (first, second):
        check_choice("scores without a role", "cultural", list(half))
    one, other = select(**first), select(**second)
    differences = _differences(first), _differences(second)
    return {
        "first": len(one),
        "second": len(other),
        "shared": len(one & other),
        "jaccard": one.jaccard(other),
        "by_chance": by_chance(len(one), len(other), len(differences[0])),
        "rank_correlation": float(differences[0].rank().corr(differences[1].rank())),
    }


def first_half(
    pairs: Sequence[Iterable[tuple[str, str]]], generator: np.random.Generator
) -> set[str]:
    """Ids of the first half.

    Args:
        pairs: (id, topic) of each row, by data set. Where a data set has several topics, topics are
            halved and take their ids along, else ids; ids of an earlier data set keep their half.
        generator: deals them.

    Example:
        >>> rows = [("a", "food"), ("b", "food"), ("c", "sport"), ("d", "sport")]
        >>> sorted(first_half([rows], np.random.default_rng(0))) in (["a", "b"], ["c", "d"])
        True
    """
    first: set[str] = set()
    dealt: set[str] = set()
    for of_data_set in pairs:
        topic_of = {name: topic for name, topic in of_data_set if name not in dealt}
        dealt.update(topic_of)
        has_topics = len(set(topic_of.values())) > 1
        group_of = topic_of if has_topics else {name: name for name in topic_of}
        groups = sorted(set(group_of.values()))
        taken = set(generator.permutation(groups)[: len(groups) // 2].tolist())
        first.update(name for name, group in group_of.items() if group in taken)
    return first


def by_chance(first: int, second: int, pool: int) -> float:
    """Jaccard index of two random sets of these sizes, with the number that they share on average.

    Example:
        >>> by_chance(10, 10, 100)
        0.05263157894736842
    """
    shared = first * second / pool
    union = first + second - shared
    return shared / union if union else 1.0


def _halves(
    prepared: PreparedQuestions,
    cuts: Sequence[set[str]],
    name: str,
    progress: bool,
    options: dict[str, Any],
) -> list[tuple[NeuronScores, NeuronScores]]:
    """Scores of both halves for every cut, out of one pass over the rows."""
    ids = set(prepared.rows["id"])
    chunks = attribute_questions(
        prepared.model,
        prepared,
        clamp=name == "control",
        progress=name if progress else False,
        **options,
    )
    parts = [part for first in cuts for part in (first, ids - first)]
    sums = iter(sums_of_parts(chunks, parts, prepared.cultures))
    return [(first.finish(), second.finish()) for first, second in zip(sums, sums, strict=True)]


def sums_of_parts(
    chunks: Iterable[QuestionScores], parts: Sequence[Collection[str]], cultures: Sequence[str]
) -> list[ScoreAccumulator]:
    """Sums of scores over the questions whose ids each part names, out of one pass.

    Args:
        chunks: of ``attribute_questions``.
        parts: ids; a question may be in several.
        cultures: the culture axis of all.
    """
    sums = [ScoreAccumulator(cultures) for _ in parts]
    for chunk in chunks:
        for ids, of_part in zip(parts, sums, strict=True):
            lines = [line for line, name in enumerate(chunk.ids) if name in ids]
            of_part.update(
                {site: values[lines] for site, values in chunk.values.items()},
                cultures=[chunk.cultures[line] for line in lines],
                ids=[chunk.ids[line] for line in lines],
                probability=chunk.probability[lines],
            )
    return sums


def _of_split(
    halves: Mapping[str, Sequence[tuple[NeuronScores, NeuronScores]]], split: int, half: int
) -> dict[str, NeuronScores]:
    return {name: pairs[split][half] for name, pairs in halves.items()}


def _differences(half: Mapping[str, NeuronScores]) -> pd.Series:
    """``S(D)`` of every neuron, cultural less control."""
    cultural, control = half["cultural"], half.get("control")
    totals = [
        cultural.total(site) - (control.total(site) if control is not None else 0)
        for site in cultural.sites
    ]
    return pd.Series(torch.cat([total.flatten() for total in totals]).numpy())
