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

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from culnig_tl.errors import (
    check_by_name,
    check_choice,
    check_number,
    check_numbers,
    check_seed,
    check_some,
)
from culnig_tl.evaluation import (
    LAYER_MATCHED,
    Condition,
    Keep,
    Mode,
    ablation_drops,
    answers_under,
    check_answerable,
    selectivity,
)
from culnig_tl.files import RunFolder, file_name
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import Neuron, NeuronSet
from culnig_tl.questions import PreparedQuestions, Rows, prepare
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import random_neurons
from culnig_tl.validation.agreement import agreement, sampled
from culnig_tl.validation.entrants import SCORERS, Recipe, Scorer, selected
from culnig_tl.validation.grading import grade, grade_ranking
from culnig_tl.validation.stability import by_chance, first_half

ROLES = ("cultural", "control", "recognition", "general")
Data = Mapping[str, Rows]


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


@dataclass(frozen=True)
class _Setting:
    """What all entrants share."""

    model: HookedModel
    data: Mapping[str, PreparedQuestions]
    halves: tuple[set[str], set[str]]
    sites: tuple[str, ...]
    folder: RunFolder


def league(
    model: HookedModel,
    data: Data,
    *,
    tests: Mapping[str, Rows] | None = None,
    key: NeuronSet | None = None,
    others: Mapping[str, tuple[HookedModel, Data]] | None = None,
    scorers: Sequence[Scorer] = SCORERS,
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
        scorers: ways of scoring; each competes with every recipe that can use its scores.
        sites: hook points.
        sizes: shares of the pool to keep, the largest last.
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
    check_some("scorers", scorers)
    for scorer in scorers:
        scorer.check(model, sites)
    prepared = _prepared(model, data, token_budget)
    tested = {
        name: prepare(model, rows, token_budget=token_budget)
        for name, rows in (tests or {}).items()
    }
    for each in tested.values():
        check_answerable(each, mode)
    others = {
        name: (other, _prepared(other, rows, token_budget))
        for name, (other, rows) in (others or {}).items()
    }
    with ExitStack() as stack:
        path = stack.enter_context(TemporaryDirectory()) if out is None else out
        folder = stack.enter_context(RunFolder(path, {"league": 1, "seed": seed}))
        setting = _Setting(model, prepared, _halves(prepared, seed), tuple(sites), folder)
        scores = {
            scorer: _scored(setting, scorer)
            for scorer in tqdm(scorers, desc="scoring", disable=not progress)
        }
        ablation = _ablation(setting, scores, (n_middle, n_random), ablation_prompts, seed, sizes)
        rows = [
            _row(scorer, recipe, parts, sizes[-1], key, ablation, seed)
            for scorer, parts in scores.items()
            for recipe in _recipes(scorer, prepared)
        ]
        frame = pd.DataFrame(rows)
        for name, (other, its_data) in others.items():
            its = _Setting(other, its_data, _halves(its_data, seed), tuple(sites), folder)
            frame = _with_other(frame, name, its, scores, sizes[-1], progress)
        falls = pd.DataFrame()
        if tested:
            falls = _falls(setting, scores, tested, sizes, n_matched, mode, seed, progress)
            frame = _with_selectivity(frame, falls, sizes[-1])
    return League(frame, falls, ablation, {scorer: parts[0] for scorer, parts in scores.items()})


def check_data(data: Data) -> None:
    """Refuse data without cultural questions, or of a role that there is not.

    Raises:
        InvalidInputError, UnknownNameError: naming the role.
    """
    check_by_name("data", data)
    for role in data:
        check_choice("role", role, ROLES)
    check_choice("data without a role", "cultural", list(data))


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


def _prepared(model: HookedModel, data: Data, token_budget: int) -> dict[str, PreparedQuestions]:
    check_data(data)
    return {role: prepare(model, rows, token_budget=token_budget) for role, rows in data.items()}


def _halves(data: Mapping[str, PreparedQuestions], seed: int) -> tuple[set[str], set[str]]:
    """Ids of two halves, by topic where there are several."""
    pairs = [
        list(zip(each.rows["id"][:], each.rows["topic"][:], strict=True)) for each in data.values()
    ]
    first = first_half(pairs, np.random.default_rng(seed))
    return first, {name for of_role in pairs for name, _ in of_role} - first


def _recipes(scorer: Scorer, data: Mapping[str, PreparedQuestions]) -> list[Recipe]:
    """The recipes that these scores and data serve."""
    return [
        recipe for recipe in scorer.recipes if all(role in data for role in scorer.roles(recipe))
    ]


# ---------------------------------------------------------------- scores

Parts = list[dict[str, NeuronScores]]
"""Scores by role: of all questions, of one half and of the other."""


def _scored(setting: _Setting, scorer: Scorer) -> Parts:
    """Scores of every role that some recipe needs, kept in files."""
    recipes = _recipes(scorer, setting.data)
    roles = dict.fromkeys(role for recipe in recipes for role in scorer.roles(recipe))
    by_role = {role: _scored_role(setting, scorer, role) for role in roles}
    return [{role: parts[part] for role, parts in by_role.items()} for part in range(3)]


def _scored_role(setting: _Setting, scorer: Scorer, role: str) -> list[NeuronScores]:
    fingerprint = model_fingerprint(setting.model)
    identity = setting.folder.whole(
        {
            "model": fingerprint,
            "data": {name: each.fingerprint for name, each in setting.data.items()},
            "scorer": str(scorer),
            "sites": setting.sites,
        }
    )
    stem = f"scores/{fingerprint[:8]}-{setting.data[role].fingerprint[:8]}/{file_name(str(scorer))}"
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


# ---------------------------------------------------------------- ablation


def _ablation(
    setting: _Setting,
    scores: Mapping[Scorer, Parts],
    n_others: tuple[int, int],
    n_prompts: int,
    seed: int,
    sizes: Sequence[float],
) -> pd.DataFrame:
    """The sample with its exact drops and its scores."""
    totals = {scorer: _total(parts[0]["cultural"]) for scorer, parts in scores.items()}
    places = sampled(list(totals.values()), n_others, max(sizes), seed)
    scored = next(iter(scores.values()))[0]["cultural"]
    shapes = [(site, *scored.shapes[site]) for site in setting.sites]
    neurons = [_neuron_at(place, shapes) for place in places]
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


def _neuron_at(place: int, shapes: Sequence[tuple[str, int, int]]) -> Neuron:
    for site, n_layers, width in shapes:
        if place < n_layers * width:
            return Neuron(site, *divmod(place, width))
        place -= n_layers * width
    raise AssertionError("an index beyond the pool")


# ---------------------------------------------------------------- rows


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
        "seconds": sum(whole[role].source["cpu_seconds"] for role in scorer.roles(recipe)),
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
    setting: _Setting,
    scores: Mapping[Scorer, Parts],
    top: float,
    progress: bool,
) -> pd.DataFrame:
    """The frame with the overlap of every set with the one that other data find."""
    columns: dict[str, list[float]] = {f"jaccard_{name}": [], f"by_chance_{name}": []}
    for scorer, parts in tqdm(scores.items(), desc=name, disable=not progress):
        whole = _scored(setting, scorer)[0]
        for recipe in _recipes(scorer, setting.data):
            mine, its = selected(parts[0], recipe, top), selected(whole, recipe, top)
            overlap = _overlap(mine, its, whole["cultural"])
            for column, value in zip(columns.values(), overlap.values(), strict=True):
                column.append(value)
    return frame.assign(**columns)


# ---------------------------------------------------------------- selectivity


def _falls(
    setting: _Setting,
    scores: Mapping[Scorer, Parts],
    tests: Mapping[str, PreparedQuestions],
    sizes: Sequence[float],
    n_matched: int,
    mode: Mode,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """Selectivity of every set, and of layer-matched ones to the first entrant's."""
    sets: dict[str, tuple[NeuronSet, ...]] = {}
    entrants: list[dict[str, Any]] = []
    for top, (scorer, parts) in product(sizes, scores.items()):
        for recipe in _recipes(scorer, setting.data):
            name = f"{scorer}, {recipe}, {top:.2%}"
            sets[name] = (selected(parts[0], recipe, top),)
            entrants.append(
                {"condition": name, "scorer": str(scorer), "recipe": recipe, "top": top}
            )
    first = next(iter(scores.items()))
    for top in sizes:
        name, like = f"{LAYER_MATCHED} {top:.2%}", selected(first[1][0], "cultural", top)
        sets[name] = tuple(
            random_neurons(setting.model, like=like, seed=seed + draw, layer_matched=True)
            for draw in range(n_matched)
        )
        entrants.append({"condition": name, "scorer": LAYER_MATCHED, "recipe": "", "top": top})
    conditions = [
        Condition("original"),
        *(Condition(name, each, 0.0) for name, each in sets.items() if len(each[0])),
    ]
    answers = answers_under(
        tests,
        conditions,
        mode=mode,
        progress="held-out" if progress else False,
        keep=keep_answers(setting.folder, setting.model, tests, mode),
    )
    return pd.DataFrame(entrants).merge(selectivity(answers, seed=seed), on="condition")


def keep_answers(
    folder: RunFolder, model: HookedModel, tests: Mapping[str, PreparedQuestions], mode: Mode
) -> Keep:
    """What keeps the answers of every set in a folder; equal sets have one file."""
    fingerprint = model_fingerprint(model)

    def keep(
        benchmark: str, condition: Condition, draw: int, make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        names = [f"{condition.factor!r}", *sorted(map(str, condition.sets[draw]))]
        digest = sha256(" ".join(names).encode()).hexdigest()[:32]
        identity = {
            "model": fingerprint,
            "rows": tests[benchmark].fingerprint,
            "neurons": digest,
            "mode": mode,
        }
        name = f"answers/{file_name(benchmark)}/{digest}.parquet"
        return folder.frame(name, identity, make)

    return keep


def _with_selectivity(frame: pd.DataFrame, falls: pd.DataFrame, top: float) -> pd.DataFrame:
    """The frame with the selectivity on the first cultural benchmark at the largest size."""
    here = falls[(falls["benchmark"] == falls["benchmark"].iloc[0]) & (falls["top"] == top)]
    names = {
        "fall": "fall",
        "general_fall": "general_fall",
        "selectivity": "selectivity",
        "selectivity_cluster_low": "selectivity_low",
        "selectivity_cluster_high": "selectivity_high",
    }
    columns = here[["scorer", "recipe", *names]].rename(columns=names)
    return frame.merge(columns, on=["scorer", "recipe"], how="left")
