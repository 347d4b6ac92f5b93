"""Would other questions have found the same neurons?

The questions are cut into two halves at random; each half selects for itself. The Jaccard index of
the two sets says how much of the finding is a matter of the questions that were drawn, beside the
index that two random sets of these sizes would have. Prompts of one question (its wordings, and the
same question in other cultures) stay together, and a control question goes where its cultural
question went, so that the halves share no question.

Every row is scored once; a half is a sum. Memory: two score tables (cultures x layers x neurons a
site, float64) per split and data set.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from culnig_tl.attribution import OwnMethod, QuestionScores, Scoring, attribute_questions
from culnig_tl.errors import InvalidInputError, check_number, check_seed
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
    ids = [prepared.rows["id"][:] for prepared in data.values()]
    n_questions = [len(set(each)) for each in ids]
    if min(n_questions) < 2:
        raise InvalidInputError(
            f"There are {splits} splits of {n_questions} questions; give at least two questions in "
            "each data set."
        )
    cuts = [_first_half(ids, np.random.default_rng([seed, split])) for split in range(splits)]
    halves = {
        name: _halves(prepared, cuts, name, progress, {"sites": sites, "method": method})
        for name, prepared in data.items()
    }
    return pd.DataFrame([_agreement(halves, split, select) for split in range(splits)])


def _first_half(ids: Sequence[Iterable[str]], generator: np.random.Generator) -> set[str]:
    """Ids of the first half; ids of a later data set that are new are halved by themselves."""
    first: set[str] = set()
    dealt: set[str] = set()
    for of_data_set in ids:
        new = sorted(set(of_data_set) - dealt)
        dealt.update(new)
        first.update(generator.permutation(new)[: len(new) // 2].tolist())
    return first


def _halves(
    prepared: PreparedQuestions,
    cuts: Sequence[set[str]],
    name: str,
    progress: bool,
    options: dict[str, Any],
) -> list[tuple[NeuronScores, NeuronScores]]:
    """Scores of both halves for every cut, out of one pass over the rows."""
    cultures = prepared.cultures
    sums = [(ScoreAccumulator(cultures), ScoreAccumulator(cultures)) for _ in cuts]
    chunks = attribute_questions(
        prepared.model,
        prepared,
        clamp=name == "control",
        progress=name if progress else False,
        **options,
    )
    for chunk in chunks:
        for first, (one, other) in zip(cuts, sums, strict=True):
            _add(one, chunk, [i for i, name in enumerate(chunk.ids) if name in first])
            _add(other, chunk, [i for i, name in enumerate(chunk.ids) if name not in first])
    return [(first.finish(), second.finish()) for first, second in sums]


def _add(sums: ScoreAccumulator, chunk: QuestionScores, lines: list[int]) -> None:
    sums.update(
        {site: values[lines] for site, values in chunk.values.items()},
        cultures=[chunk.cultures[i] for i in lines],
        ids=[chunk.ids[i] for i in lines],
    )


def _agreement(
    halves: dict[str, list[tuple[NeuronScores, NeuronScores]]],
    split: int,
    select: Callable[..., NeuronSet],
) -> dict[str, Any]:
    one, other = ({name: pairs[split][half] for name, pairs in halves.items()} for half in (0, 1))
    first, second = select(**one), select(**other)
    differences = _differences(one), _differences(other)
    by_chance = len(first) * len(second) / len(differences[0])
    union = len(first) + len(second) - by_chance
    return {
        "first": len(first),
        "second": len(second),
        "shared": len(first & second),
        "jaccard": first.jaccard(second),
        "by_chance": by_chance / union if union else 1.0,
        "rank_correlation": float(differences[0].rank().corr(differences[1].rank())),
    }


def _differences(half: dict[str, NeuronScores]) -> pd.Series:
    """``S(D)`` of every neuron, cultural less control."""
    cultural, control = half["cultural"], half.get("control")
    totals = [
        cultural.total(site) - (control.total(site) if control is not None else 0)
        for site in cultural.sites
    ]
    return pd.Series(torch.cat([total.flatten() for total in totals]).numpy())
