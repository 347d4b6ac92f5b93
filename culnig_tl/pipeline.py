"""The whole method in one call: score, select, mask, compare; resumable.

Stages, in order, each a file that is written whole or not at all:

| stage | file |
|---|---|
| settings, with fingerprints of model and data | settings.json |
| scores of cultural questions, control and country names | scores/*.safetensors |
| culture-general and culture-specific neurons | neurons/general.json, neurons/specific/*.json |
| answers, one file a benchmark, condition and set | answers/BENCHMARK/CONDITION-SET.parquet |
| accuracy and mean P(answer) by benchmark and condition | table.csv |
| culture x culture effects of the specific neurons | culture_effects.csv |

Conditions: ``original``, ``general`` (culture-general neurons scaled), ``random`` and, where asked
for, ``layer-matched`` (random sets of the same number, the latter layer by layer); further factors
give ``general ×2``, ``random ×2`` and so on.

A run that was stopped goes on where it was when it is called again with the same settings; other
settings in the same folder are an error, never a mixture.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm

from culnig_tl.attribution import attribute
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import InvalidInputError
from culnig_tl.evaluation import Mode, culture_effects, summarise
from culnig_tl.evaluation.answers import NOTHING, answers, labelled
from culnig_tl.evaluation.summary import BETWEEN, LAYER_MATCHED
from culnig_tl.files import read_json, replacing, write_json
from culnig_tl.hooks import DEFAULT_SITES, HookedModel
from culnig_tl.inspection import NeuronCard
from culnig_tl.models import model_fingerprint
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import Batch, batches, fingerprint, for_model, questions
from culnig_tl.scores import NeuronScores
from culnig_tl.selection import culture_general, culture_specific, random_neurons


@dataclass(frozen=True)
class Run:
    """What a run found, and where it is kept.

    Attributes:
        out: the folder.
        settings: everything that the result depends on.
        scores: ``cultural``, ``control`` and ``recognition`` scores.
        general: culture-general neurons.
        specific: culture-specific neurons by culture.
        answers: one row a prompt and condition.
        table: accuracy and mean P(answer) by benchmark and condition (see ``summarise``).
        effects: culture x culture effects of the specific neurons (see ``culture_effects``).
    """

    out: Path
    settings: Mapping[str, Any]
    scores: Mapping[str, NeuronScores]
    general: NeuronSet
    specific: Mapping[str, NeuronSet]
    answers: pd.DataFrame
    table: pd.DataFrame
    effects: pd.DataFrame

    def report(
        self, path: str | Path | None = None, *, cards: Mapping[str, NeuronCard] | None = None
    ) -> Path:
        """Write one offline HTML page (``report.html`` in the run's folder by default).

        ``cards``, as ``inspect_neurons`` gives them, tell the whole story of their neurons.
        """
        from culnig_tl.report import write_report

        path = Path(path) if path is not None else self.out / "report.html"
        return write_report(self, path, cards=cards)


def culnig(
    model: HookedModel,
    *,
    out: str | Path,
    cultural: Dataset | None = None,
    control: Dataset | None = None,
    recognition: Dataset | None = None,
    benchmarks: Mapping[str, Dataset] | None = None,
    culture_test: Dataset | None = None,
    sites: Sequence[str] = DEFAULT_SITES,
    mlp_top: float = 0.01,
    attention_top: float = 0.002,
    recognition_top: float = 0.01,
    specific_top: float = 0.003,
    min_z: float = 0.5,
    factor: float | Sequence[float] = 0.0,
    n_random: int = 10,
    n_layer_matched: int = 0,
    mode: Mode = "argmax",
    token_budget: int = 8192,
    progress: bool = True,
) -> Run:
    """Find culture neurons, switch them off, and measure what that does.

    Args:
        model: a frozen model with named hook points.
        out: the run's folder; a stopped run with the same settings is resumed.
        cultural: questions to identify with; by default the embedded model's, and so for the
            others.
        control: the same rows without the question.
        recognition: the country-name control.
        benchmarks: questions to measure with, by name.
        culture_test: questions for the culture x culture effects; by default the first benchmark.
        sites: hook points to score.
        mlp_top, attention_top, recognition_top: shares of ``culture_general``.
        specific_top, min_z: share and z-score of ``culture_specific``.
        factor: what selected neurons are multiplied by; 0 suppresses. Of several factors the first
            is that of the culture x culture effects and of the report's text.
        n_random: number of random sets.
        n_layer_matched: number of random sets with as many neurons in each layer.
        mode: what counts as an answer, as in ``evaluate``.
        token_budget: tokens a batch, padding counted.
        progress: show progress bars.

    Raises:
        InvalidInputError: rows that cannot be used, or a folder with a run of other settings.
        UnwritableError: the folder cannot be written.

    Example:
        >>> import tempfile, culnig_tl as ct
        >>> rows = ct.load_benchmark("atlas", split="identify", limit=64)
        >>> run = culnig(ct.load_model(), out=tempfile.mkdtemp(), cultural=rows, control=rows,
        ...              benchmarks={"culture": rows}, n_random=1, progress=False)
        >>> run.table["condition"].tolist()
        ['original', 'general', 'random']
    """
    out = Path(out)
    data = {
        "cultural": _or_atlas(cultural, "atlas"),
        "control": _or_atlas(control, "atlas-control"),
        "recognition": _or_atlas(recognition, "atlas-countries"),
    }
    tests = {name: questions(rows) for name, rows in (benchmarks or atlas_benchmarks()).items()}
    culture_test = questions(culture_test) if culture_test else next(iter(tests.values()))
    factors = [float(each) for each in (factor if isinstance(factor, Sequence) else [factor])]
    if not factors or len(set(factors)) < len(factors):
        raise InvalidInputError(
            f"The factors are {factors}; give at least one, and each of them once."
        )
    general_shares = {"mlp_top": mlp_top, "attention_top": attention_top}
    specific_shares = {"top": specific_top, "min_z": min_z}
    settings = {
        "sites": list(sites),
        "general": general_shares,
        "specific": specific_shares,
        "recognition_top": recognition_top,
        "factor": factors[0],
        "more_factors": factors[1:],
        "n_random": n_random,
        "n_layer_matched": n_layer_matched,
        "mode": mode,
        "model": {"name": model.cfg.model_name, "fingerprint": model_fingerprint(model)},
        "data": {name: fingerprint(rows) for name, rows in data.items()},
        "benchmarks": {name: fingerprint(rows) for name, rows in tests.items()},
        "culture_test": fingerprint(culture_test),
        "versions": _versions(),
    }
    _claim(out, settings)

    scores = _scores(out / "scores", model, data, sites, token_budget, progress)
    general = culture_general(*scores.values(), **general_shares, recognition_top=recognition_top)
    general.save(out / "neurons" / "general.json")
    specific = {
        culture: culture_specific(
            *scores.values(), culture=culture, **specific_shares, recognition_top=recognition_top
        )
        for culture in scores["cultural"].cultures
        if culture in scores["recognition"].cultures
    }
    for culture, neurons in specific.items():
        neurons.save(out / "neurons" / "specific" / f"{_file_name(culture)}.json")

    conditions = _conditions(model, general, factors, n_random, n_layer_matched)
    found = _answers(out / "answers", model, tests, conditions, mode, token_budget, progress)
    effects = _kept(
        out / "answers" / "culture_effects.parquet",
        lambda: culture_effects(
            model, culture_test, specific, factor=factors[0], mode=mode, progress=progress
        ),
    )
    table = summarise(found)
    _write_csv(out / "table.csv", table)
    _write_csv(out / "culture_effects.csv", effects)
    return Run(out, settings, scores, general, specific, found, table, effects)


def atlas_benchmarks() -> dict[str, Dataset]:
    """The embedded model's test questions, none of them used for identification, by name.

    Example:
        >>> list(atlas_benchmarks())[0]
        'culture'
    """
    names = {
        "culture": "atlas",
        "country names": "atlas-countries",
        "common sense": "atlas-commonsense",
        "ordering": "atlas-ordering",
        "entailment": "atlas-entailment",
    }
    return {shown: load_benchmark(name, split="test") for shown, name in names.items()}


def _or_atlas(rows: Dataset | None, name: str) -> Dataset:
    return load_benchmark(name, split="identify") if rows is None else questions(rows)


def _versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("culnig_tl", "torch", "transformer_lens", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of a run with these settings, or go on with the one that is there."""
    path = out / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    there = read_json(path)
    different = [name for name in settings if there.get(name) != settings[name]]
    if different:
        raise InvalidInputError(
            f"{out} holds a run with other settings ({', '.join(different)}); give another folder, "
            "or delete this one to run it again."
        )


def _scores(
    folder: Path,
    model: HookedModel,
    data: Mapping[str, Dataset],
    sites: Sequence[str],
    token_budget: int,
    progress: bool,
) -> dict[str, NeuronScores]:
    """Scores of each data set, read where they are kept and made where they are not."""
    found = {}
    for name, rows in data.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            attribute(
                model,
                rows,
                sites=sites,
                clamp=name == "control",
                token_budget=token_budget,
                checkpoint=folder / f"{name}.checkpoint",
                progress=name if progress else False,
            ).save(path)
        found[name] = NeuronScores.load(path)
    return found


def _conditions(
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


def _answers(
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
                    path = (
                        folder / _file_name(benchmark) / f"{_file_name(condition)}-{draw}.parquet"
                    )
                    label = {"condition": condition, "draw": draw, "neurons": neurons}
                    frames.append(labelled(_kept(path, make), benchmark, factor=factor, **label))
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


def _kept(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The frame at ``path``, made and written there first if need be."""
    if not path.exists():
        frame = make()
        with replacing(path) as part:
            frame.to_parquet(part)
    return pd.read_parquet(path)


def _file_name(name: str) -> str:
    """A name of anything as a name of a file."""
    return quote(name.replace("×", "x"), safe=" ")


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with replacing(path) as part:
        frame.to_csv(part, index=False)
