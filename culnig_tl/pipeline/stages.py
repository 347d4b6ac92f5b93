"""The stages that take long: each keeps what it makes in files, and reads what is there already."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm

from culnig_tl.attribution import attribute
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import Mode
from culnig_tl.evaluation.answers import NOTHING, answers, labelled
from culnig_tl.evaluation.summary import BETWEEN, LAYER_MATCHED
from culnig_tl.files import replacing
from culnig_tl.hooks import HookedModel
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, batches, for_model
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import random_neurons

_SCORED: dict[str, Any] = {
    "method": "gradient_x_activation",
    "pool": "max",
    "padding": "ignore",
    "weight": "probability",
}


def scores_of(
    folder: Path,
    model: HookedModel,
    data: Mapping[str, Dataset],
    settings: Mapping[str, Any],
    token_budget: int,
    progress: bool,
) -> dict[str, NeuronScores]:
    """Scores of each data set, read where they are kept and made where they are not.

    Raises:
        InvalidInputError: scores are kept there that this run would not make.
    """
    found = {}
    for name, rows in data.items():
        path = folder / f"{name}.safetensors"
        options = {**_SCORED, "sites": settings["sites"], "clamp": name == "control"}
        if not path.exists():
            attribute(
                model,
                rows,
                **options,
                token_budget=token_budget,
                checkpoint=folder / f"{name}.checkpoint",
                progress=name if progress else False,
            ).save(path)
        found[name] = NeuronScores.load(path)
        known = {"model": settings["model"]["fingerprint"], "data": settings["data"][name]}
        _check_source(path, found[name].source, {**options, **known})
    return found


def _check_source(path: Path, source: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [
        f"{key} is {source.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if source.get(key) != value
    ]
    if different:
        raise InvalidInputError(
            f"{path} holds other scores than this run would make ({', '.join(different)}); make "
            "them of the same rows, model, type of weights and sites, clamped on the control only, "
            "or delete the file."
        )


def conditions_of(
    model: HookedModel,
    general: NeuronSet,
    factors: Sequence[float],
    n_random: int,
    n_layer_matched: int,
) -> dict[str, tuple[Sequence[NeuronSet], float]]:
    """The sets of each condition and what they are scaled by."""
    random, matched = (
        [
            random_neurons(model, like=general, seed=seed, layer_matched=layer_matched)
            for seed in range(number)
        ]
        for number, layer_matched in ((n_random, False), (n_layer_matched, True))
    )
    sets = {"general": [general], "random": random, LAYER_MATCHED: matched}
    conditions: dict[str, tuple[Sequence[NeuronSet], float]] = {"original": ([NOTHING], 1.0)}
    for factor in factors:
        ending = "" if factor == factors[0] else f"{BETWEEN}{factor:g}"
        conditions |= {f"{name}{ending}": (each, factor) for name, each in sets.items() if each}
    return conditions


def answers_of(
    folder: Path,
    model: HookedModel,
    benchmarks: Mapping[str, Dataset],
    conditions: Mapping[str, tuple[Sequence[NeuronSet], float]],
    mode: Mode,
    token_budget: int,
    progress: bool,
) -> pd.DataFrame:
    """Answers of every benchmark under every condition, each set kept in a file of its own."""
    frames = []
    n_sets = sum(len(sets) for sets, _ in conditions.values())
    with tqdm(total=n_sets * len(benchmarks), desc="answers", disable=not progress) as bar:
        for benchmark, rows in benchmarks.items():
            asked = cache(partial(_asked, model, rows, token_budget))
            for condition, (sets, factor) in conditions.items():
                for draw, neurons in enumerate(sets):
                    make = partial(_answers_of_set, model, asked, neurons, factor, mode)
                    path = folder / file_name(benchmark) / f"{file_name(condition)}-{draw}.parquet"
                    label = {"condition": condition, "draw": draw, "neurons": neurons}
                    frames.append(labelled(kept(path, make), benchmark, factor=factor, **label))
                    bar.update()
    return pd.concat(frames, ignore_index=True)


def _asked(model: HookedModel, rows: Dataset, token_budget: int) -> tuple[Dataset, list[Batch]]:
    """Rows as the model is asked, and their batches: made once for all conditions."""
    rows = for_model(rows, model)
    return rows, batches(model, rows, token_budget=token_budget)


def _answers_of_set(
    model: HookedModel,
    asked: Callable[[], tuple[Dataset, list[Batch]]],
    neurons: NeuronSet,
    factor: float,
    mode: Mode,
) -> pd.DataFrame:
    return answers(model, *asked(), neurons, factor, mode=mode)


def kept(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The frame at ``path``, made and written there first if need be."""
    if not path.exists():
        frame = make()
        with replacing(path) as part:
            frame.to_parquet(part)
    return pd.read_parquet(path)


def file_name(name: str) -> str:
    """A name of anything as a name of a file."""
    return quote(name.replace("×", "x"), safe=" ")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    with replacing(path) as part:
        frame.to_csv(part, index=False)
