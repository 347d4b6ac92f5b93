"""Selectivity of every set on held-out questions, its answers kept in files."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from culnig_tl.evaluation import (
    LAYER_MATCHED,
    Condition,
    Keep,
    Mode,
    answers_under,
    selectivity,
)
from culnig_tl.files import RunFolder, file_name
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import PreparedQuestions
from culnig_tl.selection import random_neurons
from culnig_tl.validation.contest.entrants import Scorer, selected
from culnig_tl.validation.contest.scoring import Parts, Setting


def falls_of_sets(
    setting: Setting,
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
        for recipe in scorer.recipes(setting.data):
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
        neurons = condition.sets[draw].fingerprint
        identity = {
            "model": fingerprint,
            "rows": tests[benchmark].fingerprint,
            "neurons": neurons,
            "factor": condition.factor,
            "mode": mode,
        }
        name = f"answers/{file_name(benchmark)}/{neurons}@{condition.factor!r}.parquet"
        return folder.frame(name, identity, make)

    return keep


def with_selectivity_of(frame: pd.DataFrame, falls: pd.DataFrame, top: float) -> pd.DataFrame:
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
