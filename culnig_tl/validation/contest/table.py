"""Which method finds the right neurons? Every way of scoring and selecting, on the same questions.

Three judges, none of which is the score itself:

* **A key**, where there is one: precision and recall of the set, average precision and AUROC of the
  whole ranking.
* **Exact ablation** of single neurons: how the scores of a sample of neurons agree with what
  switching each off alone does to mean ``P(answer)`` (Spearman, Pearson). The sample is the same
  for all: the best of every method, neurons of the next ranks, and random ones. Agreement is of
  scores of cultural questions, whatever the recipe then subtracts.
* **Selectivity on held-out questions** of the set that a recipe selects, at several sizes, beside
  layer-matched random sets: agreement with ablation is not selectivity.

Beside them stand what a method costs, and how far the set depends on the questions: the Jaccard
index of sets found on two halves of the topics, and on whatever else the caller names (another
wording, another type of weights), with the index that chance gives.

Intervals are 95 % bootstrap intervals: of agreement over the neurons of the sample, of selectivity
over clusters of questions. What a league did lies in its folder, file by file, and one that was
stopped goes on from there.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from culnig_tl.errors import check_choice, check_number, check_numbers, check_seed, check_some
from culnig_tl.evaluation import Mode, ablation_drops, check_answerable
from culnig_tl.files import RunFolder
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import location
from culnig_tl.validation.contest.agreement import agreement, sampled
from culnig_tl.validation.contest.entrants import Recipe, Scorer, counted_roles, selected
from culnig_tl.validation.contest.held_out import falls_of_sets, with_selectivity_of
from culnig_tl.validation.contest.scoring import (
    Data,
    Parts,
    Setting,
    able_scorers,
    prepared_by_role,
    scored,
)
from culnig_tl.validation.grading import grade, grade_ranking
from culnig_tl.validation.stability import by_chance


@dataclass(frozen=True)
class League:
    """How every way of finding neurons did.

    Attributes:
        frame: one row per scorer and recipe: method, pool, weight, target, steps, recipe, seconds
            (of CPU, for all scores that it needs); spearman and pearson with exact ablation over
            the sample, each with its interval (``_low``, ``_high``), and spearman_top among its
            own best 20; average_precision, auroc, precision and recall against the key (NaN
            without one); n_neurons and selectivity with its interval by clusters, of the first
            cultural benchmark at the largest size; jaccard of the halves and jaccard_NAME of other
            data, each with the index by_chance that random sets of these sizes have.
        selectivity: the frame of ``ct.selectivity``, with scorer, recipe and top (the share of
            the pool) of each condition; layer-matched sets too.
        ablation: one row per neuron of the sample: drop of mean ``P(answer)``, and its score by
            every scorer.
        scores: by scorer and role.
    """

    frame: pd.DataFrame
    selectivity: pd.DataFrame
    ablation: pd.DataFrame
    scores: Mapping[Scorer, Mapping[str, NeuronScores]]

    def _repr_html_(self) -> str:
        return self.frame.round(3).to_html(index=False)


def league(
    model: HookedModel,
    data: Data,
    *,
    tests: Mapping[str, Rows] | None = None,
    key: NeuronSet | None = None,
    others: Mapping[str, tuple[HookedModel, Data]] | None = None,
    scorers: Sequence[Scorer] | None = None,
    sites: Sequence[str] = ("mlp.hook_post",),
    sizes: Sequence[float] = (0.0025, 0.005, 0.01),
    n_middle: int = 50,
    n_random: int = 50,
    n_matched: int = 5,
    ablation_prompts: int = 64,
    mode: Mode = "argmax",
    token_budget: int = 8192,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> League:
    """Hold every way of finding culture-general neurons against key, ablation and held-out data.

    Args:
        model: a model with named hook points.
        data: questions that find neurons, by role: ``"cultural"``, and for the recipes that need
            them ``"control"``, ``"recognition"`` and ``"general"``.
        tests: held-out questions by name, some with cultures and some without; None leaves
            selectivity out.
        key: the right neurons, where they are known.
        others: by name, a model and data on which every set is found once more.
        scorers: ways of scoring; each competes with every recipe that can use its scores. None
            takes all of ``validation.SCORERS`` that this model, these sites and data allow.
        sites: hook points.
        sizes: shares of the pool to keep; the largest is that of the frame.
        n_middle, n_random: neurons of the sample from the ranks below the best share, and from
            anywhere, beside the best 20 of every scorer.
        n_matched: layer-matched random sets of each size.
        ablation_prompts: cultural prompts that single neurons are switched off on.
        mode: what counts as an answer, as in ``evaluate``.
        token_budget: tokens per pass; prepared questions have their own.
        out: a folder that keeps what is done and lets a league go on; None keeps nothing.
        seed: of the halves, the sample, random sets and intervals.
        progress: show progress bars.

    Raises:
        InvalidInputError: no cultural questions, an unknown role, scorers that this model or these
            sites do not have, numbers out of range, or rows that cannot be used; before any pass.

    Example:
        >>> import culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=32)
        >>> table = league(ct.load_model(), {"cultural": rows}, scorers=[Scorer()], n_random=5,
        ...                n_middle=5, ablation_prompts=8, progress=False).frame
        >>> table[["method", "recipe"]].values.tolist()
        [['gradient_x_activation', 'cultural']]
    """
    _check_numbers(sizes, n_middle, n_random, n_matched, ablation_prompts, seed)
    check_choice("mode", mode, get_args(Mode))
    check_some("sites", sites)
    prepared = prepared_by_role(model, data, token_budget)
    if scorers is not None:
        check_some("scorers", scorers)
    scorers = able_scorers(scorers, prepared, sites)
    tested = {
        name: prepare(model, rows, token_budget=token_budget)
        for name, rows in (tests or {}).items()
    }
    for each in tested.values():
        check_answerable(each, mode)
    others = {
        name: (other, prepared_by_role(other, rows, token_budget))
        for name, (other, rows) in (others or {}).items()
    }
    with ExitStack() as stack:
        path = stack.enter_context(TemporaryDirectory()) if out is None else out
        folder = stack.enter_context(RunFolder(path, {"league": 1, "seed": seed}))
        setting = Setting.of(model, prepared, sites=sites, folder=folder, seed=seed)
        scores = {
            scorer: scored(setting, scorer)
            for scorer in tqdm(scorers, desc="scoring", disable=not progress)
        }
        ablation = _ablation(setting, scores, (n_middle, n_random), ablation_prompts, seed, sizes)
        rows = [
            _row(scorer, recipe, parts, max(sizes), key, ablation, seed)
            for scorer, parts in scores.items()
            for recipe in scorer.recipes(prepared)
        ]
        frame = pd.DataFrame(rows)
        for name, (other, its_data) in others.items():
            its = Setting.of(other, its_data, sites=sites, folder=folder, seed=seed)
            frame = _with_other(frame, name, its, scores, max(sizes), progress)
        falls = pd.DataFrame()
        if tested:
            falls = falls_of_sets(setting, scores, tested, sizes, n_matched, mode, seed, progress)
            frame = with_selectivity_of(frame, falls, max(sizes))
    return League(frame, falls, ablation, {scorer: parts[0] for scorer, parts in scores.items()})


def _check_numbers(
    sizes: Sequence[float], n_middle: int, n_random: int, n_matched: int, prompts: int, seed: int
) -> None:
    check_numbers("sizes", sizes, low=0, high=1, distinct=True)
    for name, number, low in (
        ("n_middle", n_middle, 0),
        ("n_random", n_random, 0),
        ("n_matched", n_matched, 1),
        ("ablation_prompts", prompts, 1),
    ):
        check_number(name, number, low=low, whole=True)
    check_seed(seed)


def _ablation(
    setting: Setting,
    scores: Mapping[Scorer, Parts],
    n_others: tuple[int, int],
    n_prompts: int,
    seed: int,
    sizes: Sequence[float],
) -> pd.DataFrame:
    """The sample with its exact drops and its scores."""
    totals = {scorer: _total(parts[0]["cultural"]) for scorer, parts in scores.items()}
    places = sampled(list(totals.values()), n_others, max(sizes), seed)
    scored_shapes = next(iter(scores.values()))[0]["cultural"].shapes
    shapes = {site: scored_shapes[site] for site in setting.sites}
    neurons = [location(place, shapes) for place in places]
    cultural = setting.data["cultural"]
    order = np.random.default_rng([seed, 1]).permutation(len(cultural))[:n_prompts]
    rows = cultural.select(sorted(order.tolist()))

    def make() -> pd.DataFrame:
        of_set = NeuronSet.of(neurons)
        drops = ablation_drops(rows, of_set).probability.mean(1).tolist()
        by_neuron = dict(zip(of_set, drops, strict=True))
        return pd.DataFrame(
            [(*neuron, by_neuron[neuron]) for neuron in neurons],
            columns=["site", "layer", "neuron", "drop"],
        )

    identity = {
        "model": model_fingerprint(setting.model),
        "rows": rows.fingerprint,
        "neurons": [str(neuron) for neuron in neurons],
    }
    frame = setting.folder.frame("ablation.parquet", identity, make)
    return frame.assign(**{str(scorer): total[places] for scorer, total in totals.items()})


def _total(scores: NeuronScores) -> Float[np.ndarray, "neuron"]:
    return torch.cat([scores.total(site).flatten() for site in scores.sites]).double().numpy()


def _row(
    scorer: Scorer,
    recipe: Recipe,
    parts: Parts,
    top: float,
    key: NeuronSet | None,
    ablation: pd.DataFrame,
    seed: int,
) -> dict[str, Any]:
    """What a scorer and a recipe did, without selectivity."""
    whole, one, other = parts
    neurons = selected(whole, recipe, top)
    name = str(scorer)
    row = {
        "scorer": name,
        **{
            field: getattr(scorer, field) if not scorer.is_rival or field == "method" else ""
            for field in ("method", "pool", "weight", "target")
        },
        "recipe": recipe,
        "seconds": sum(whole[role].source["cpu_seconds"] for role in counted_roles(recipe, whole)),
        **agreement(ablation[name].to_numpy(float), ablation["drop"].to_numpy(float), seed=seed),
        **dict.fromkeys(("average_precision", "auroc", "precision", "recall"), float("nan")),
        "n_neurons": len(neurons),
        **_overlap(selected(one, recipe, top), selected(other, recipe, top), whole["cultural"]),
    }
    if key is not None:
        right = grade(neurons, key)
        ranking = grade_ranking(selected(whole, recipe, 1.0), key)
        row |= {"average_precision": ranking.average_precision, "auroc": ranking.auroc}
        row |= {"precision": right.precision, "recall": right.recall}
    return row


def _overlap(first: NeuronSet, second: NeuronSet, scores: NeuronScores) -> dict[str, float]:
    pool = sum(n_layers * width for n_layers, width in scores.shapes.values())
    return {"jaccard": first.jaccard(second), "by_chance": by_chance(len(first), len(second), pool)}


def _with_other(
    frame: pd.DataFrame,
    name: str,
    setting: Setting,
    scores: Mapping[Scorer, Parts],
    top: float,
    progress: bool,
) -> pd.DataFrame:
    """The frame with the overlap of every set with the one that other data find."""
    columns: dict[str, list[float]] = {f"jaccard_{name}": [], f"by_chance_{name}": []}
    for scorer, parts in tqdm(scores.items(), desc=name, disable=not progress):
        whole = scored(setting, scorer)[0]
        for recipe in scorer.recipes(setting.data):
            mine, its = selected(parts[0], recipe, top), selected(whole, recipe, top)
            overlap = _overlap(mine, its, whole["cultural"])
            for column, value in zip(columns.values(), overlap.values(), strict=True):
                column.append(value)
    return frame.assign(**columns)
