"""Is it culture? The study of docs/real-model.md on a real pretrained model.

    python tests/benchmarks/real_model.py [--out docs/real-model.md] [--folder build/real]

The protocol stands in docs/real-model.md and was written before the first run. Each split and each
set of neurons is a piece of work of its own, shared among as many processes as there are cores, one
thread each; what is done lies in ``--folder``, and a study that was stopped goes on from there.
"""

import argparse
import os
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import results
import torch
from datasets import Dataset
from tqdm.auto import tqdm

import culnig_tl as ct
from culnig_tl.evaluation import LAYER_MATCHED, answers
from culnig_tl.files import replacing

SITES = ct.DEFAULT_SITES
N_SPLITS, N_MATCHED, N_RANDOM = 3, 19, 10
SIZES = (0.0025, 0.005)
KNOWN = 0.4
"""Least accuracy of the model as it is on a relation or category; chance is .25."""
CULTURAL = ("cloze-everyday", "cloze-geography")
GENERAL = "cloze-general"
SPECIFIC = "specific"
Piece = tuple[int, str, int]
"""Split, condition, draw."""


@cache
def model() -> Any:
    """The model, loaded once per process, which computes on one thread."""
    torch.set_num_threads(1)
    return ct.load_model("smollm2")


def main() -> None:
    """Choose relations, find neurons on one half, test them on the other, print the tables."""
    arguments = _parser().parse_args()
    folder = arguments.folder
    known = cached(folder / "known.parquet", known_topics)
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        list(
            pool.map(
                find, *zip(*((folder, split) for split in range(arguments.splits)), strict=True)
            )
        )
        pieces = [piece for split in range(arguments.splits) for piece in pieces_of(folder, split)]
        pieces += specific_pieces(folder)
        futures = [pool.submit(measure, folder, piece) for piece in pieces]
        for future in tqdm(futures, desc="sets of neurons"):
            future.result()
    results.show(report(folder, known, pieces, arguments.splits), arguments.out)


def known_topics() -> pd.DataFrame:
    """Accuracy of the model as it is, on every relation and category in the first wording."""
    frames = []
    for name in (*CULTURAL, GENERAL):
        rows = wording(ct.load_benchmark(name, split="all"), 1)
        answered = ct.evaluate(model(), rows, mode="options", token_budget=2048)
        by_topic = answered.groupby("topic", sort=False)[["correct", "probability"]].mean()
        frames.append(by_topic.reset_index().assign(benchmark=name))
    return pd.concat(frames, ignore_index=True)


def find(folder: Path, split: int) -> None:
    """Score the identification half of a split, and select by every rule."""
    data = {name: halves(folder, name, split)[0] for name in (*CULTURAL, GENERAL)}
    cultural = ct.questions(data[CULTURAL[0]].to_list() + data[CULTURAL[1]].to_list())
    countries = ct.load_benchmark("cloze-countries", split="identify", per_culture=8, seed=split)
    scored = {
        "cultural": (cultural, False),
        "control": (ct.control_of(cultural), True),
        "recognition": (countries, False),
        "general": (data[GENERAL], True),
    }
    scores = {}
    for role, (rows, clamp) in scored.items():
        path = folder / f"split-{split}" / f"{role}.safetensors"
        if not path.exists():
            prepared = ct.prepare(model(), rows, token_budget=1024)
            ct.attribute(model(), prepared, sites=SITES, clamp=clamp, progress=False).save(path)
        scores[role] = ct.NeuronScores.load(path)
    for name, neurons in rules(**scores).items():
        neurons.save(folder / f"split-{split}" / "neurons" / f"{name}.json")
    for culture in scores["cultural"].cultures if split == 0 else ():
        own = ct.culture_specific(**scores, culture=culture, recipe="selective")
        own.save(folder / f"split-{split}" / SPECIFIC / f"{culture}.json")


def rules(
    cultural: ct.NeuronScores,
    control: ct.NeuronScores,
    recognition: ct.NeuronScores,
    general: ct.NeuronScores,
) -> dict[str, ct.NeuronSet]:
    """Every set of neurons that is tested."""
    controls = (control, recognition)
    sets = {
        "published": ct.culture_general(cultural, *controls),
        "selective": ct.culture_general(cultural, *controls, general, recipe="selective"),
    }
    steps: dict[str, dict[str, Any]] = {
        "no control": {"control": None, "recognition": recognition, "general": general},
        "no country names": {"control": control, "recognition": None, "general": general},
        "no shares": {"control": control, "recognition": recognition, "general": general}
        | {"normalise": "none"},
        "no general": {"control": control, "recognition": recognition, "recipe": "published"}
        | {"attention_top": 0.0},
        "with attention": {"control": control, "recognition": recognition, "general": general}
        | {"attention_top": 0.002},
    }
    for name, arguments in steps.items():
        sets[name] = ct.culture_general(cultural, **{"recipe": "selective", **arguments})
    for size in SIZES:
        sets[f"selective {size:.2%}"] = ct.culture_general(
            cultural, *controls, general, recipe="selective", mlp_top=size
        )
        sets[f"published {size:.2%}"] = ct.culture_general(
            cultural, *controls, mlp_top=size, attention_top=size / 5
        )
    return sets


def pieces_of(folder: Path, split: int) -> Iterator[Piece]:
    """Every set of neurons of a split: of all rules on the first, of the two on the others."""
    names = sorted(path.stem for path in (folder / f"split-{split}" / "neurons").glob("*.json"))
    names = [*names, "selective x2", "published x2"] if split == 0 else ["selective", "published"]
    for name in ("original", *names):
        yield split, name, 0
    for name, number in ((LAYER_MATCHED, N_MATCHED), ("random", 0 if split else N_RANDOM)):
        for draw in range(number):
            yield split, name, draw


def specific_pieces(folder: Path) -> list[Piece]:
    """The culture-specific neurons of every country, on the first split."""
    names = sorted(path.stem for path in (folder / "split-0" / SPECIFIC).glob("*.json"))
    return [(0, f"{SPECIFIC} {name}", 0) for name in names]


def measure(folder: Path, piece: Piece) -> None:
    """Answers of the tested half of a split with one set of neurons scaled."""
    split, name, draw = piece
    cached(answers_path(folder, piece), lambda: answered(folder, split, name, draw))


def answered(folder: Path, split: int, name: str, draw: int) -> pd.DataFrame:
    """The answers to every benchmark, one below the other."""
    neurons, factor = neurons_of(folder, split, name, draw)
    frames = [
        answers(prepared, neurons, factor, mode="options").assign(benchmark=benchmark)
        for benchmark, prepared in tests(folder, split).items()
    ]
    frame = pd.concat(frames, ignore_index=True).drop(columns="probabilities")
    return frame.assign(condition=name, draw=draw, n_neurons=len(neurons), factor=factor)


def neurons_of(folder: Path, split: int, name: str, draw: int) -> tuple[ct.NeuronSet, float]:
    """The neurons of a condition, and what they are multiplied by."""
    if name == "original":
        return ct.NeuronSet.of({}), 1.0
    sets = folder / f"split-{split}" / "neurons"
    if name.startswith(SPECIFIC):
        own = folder / f"split-{split}" / SPECIFIC / f"{name.removeprefix(f'{SPECIFIC} ')}.json"
        return ct.NeuronSet.load(own), 0.0
    if name in (LAYER_MATCHED, "random"):
        like = ct.NeuronSet.load(sets / "selective.json")
        matched = name == LAYER_MATCHED
        return ct.random_neurons(model(), like=like, seed=draw, layer_matched=matched), 0.0
    return ct.NeuronSet.load(sets / f"{name.removesuffix(' x2')}.json"), 2.0 * name.endswith(" x2")


@cache
def tests(folder: Path, split: int) -> dict[str, ct.PreparedQuestions]:
    """The tested half of a split, in the second wording."""
    return {
        name: ct.prepare(model(), halves(folder, name, split)[1], token_budget=2048)
        for name in (*CULTURAL, GENERAL)
    }


def halves(folder: Path, name: str, split: int, *, found_in: int = 1) -> tuple[Dataset, Dataset]:
    """Rows to find neurons with, in the first wording, and rows of other relations or categories to
    test them with, in the second; ``found_in`` has the former in another."""
    known = pd.read_parquet(folder / "known.parquet")
    topics = set(known.loc[known["correct"] >= KNOWN, "topic"])
    rows = only(ct.load_benchmark(name, split="all"), "topic", topics)
    found, tested = ct.split(rows, by="topic", seed=split)
    return wording(found, found_in), wording(tested, 2)


def wording(rows: Dataset, number: int) -> Dataset:
    """The rows in one of the two wordings."""
    return only(rows, "template", {f"wording-{number}"})


def only(rows: Dataset, column: str, values: Container[str]) -> Dataset:
    """The rows that have one of some values."""
    return rows.select([row for row, value in enumerate(rows[column]) if value in values])


def answers_path(folder: Path, piece: Piece) -> Path:
    """Where the answers of a piece lie."""
    split, name, draw = piece
    return folder / f"split-{split}" / "answers" / f"{name}-{draw}.parquet"


def cached(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The frame at a path, made first where it is not there."""
    if not path.exists():
        frame = make()
        with replacing(path) as part:
            frame.to_parquet(part)
    return pd.read_parquet(path)


def report(folder: Path, known: pd.DataFrame, pieces: Sequence[Piece], n_splits: int) -> str:
    """The tables as a section of docs/real-model.md."""
    lines = [
        "# Results",
        "",
        f"`make real` ({N_MATCHED} layer-matched sets, {N_RANDOM} random).",
        "",
    ]
    lines += known_lines(known)
    for split in range(n_splits):
        names = [p for p in pieces if p[0] == split and not p[1].startswith(SPECIFIC)]
        frames = [pd.read_parquet(answers_path(folder, piece)) for piece in names]
        everything = pd.concat(frames, ignore_index=True)
        table = ct.selectivity(everything)
        lines += ["", f"## Split {split}", "", ct.tables.to_markdown(table)]
        lines += [f"- *{name}*: {said}" for name, said in ct.evaluation.verdict(table).items()]
        lines += ["", accuracy_table(everything)]
    lines += ["", "## Neurons of one country (split 0)", "", *specific_lines(folder)]
    return "\n".join(lines)


def specific_lines(folder: Path) -> list[str]:
    """How far each country's neurons take down its own answers, and those of the others."""
    original = cultural_fall(folder, (0, "original", 0), None)
    lines = [
        "Relative fall of mean P(answer), everyday and geography together: on the country's own "
        "questions, and the mean over the other countries.",
        "",
        "| country | neurons | own | others |",
        "|---|---:|---:|---:|",
    ]
    more = 0
    for piece in specific_pieces(folder):
        falls = cultural_fall(folder, piece, original)
        culture = piece[1].removeprefix(f"{SPECIFIC} ")
        own, others = falls[culture], falls.drop(culture).mean()
        more += own > others
        n_neurons = len(neurons_of(folder, *piece)[0])
        lines.append(f"| {culture} | {n_neurons} | {100 * own:.0f} % | {100 * others:.0f} % |")
    return [*lines, "", f"Own falls further than the others' mean for {more} of {len(lines) - 4}."]


def cultural_fall(folder: Path, piece: Piece, original: pd.Series | None) -> pd.Series:
    """Mean P(answer) of each country; with those of the model as it is, its relative fall."""
    frame = pd.read_parquet(answers_path(folder, piece))
    means = frame[frame["culture"] != ""].groupby("culture")["probability"].mean()
    return means if original is None else 1 - means / original


def known_lines(known: pd.DataFrame) -> list[str]:
    """How many relations and categories the model knows, and how well."""
    lines = []
    for name, rows in known.groupby("benchmark", sort=False):
        kept = rows[rows["correct"] >= KNOWN]
        lines.append(
            f"- {name}: {100 * rows['correct'].mean():.1f} % right, chance 25 %; {len(kept)} of "
            f"{len(rows)} topics at {100 * KNOWN:.0f} % or more are used: "
            f"{', '.join(sorted(kept['topic']))}."
        )
    return lines


def accuracy_table(everything: pd.DataFrame) -> str:
    """Accuracy of every condition on every benchmark, sets averaged."""
    key = ["condition", "factor", "benchmark"]
    wide = 100 * everything.groupby(key, sort=False)["correct"].mean().unstack()  # noqa: PD010
    header = ["accuracy, %", *wide.columns]
    body = [
        [f"{name}", *(f"{value:.1f}" for value in row)]
        for (name, _), row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    rows = [header, ["---", *["---:"] * len(wide.columns)], *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = results.parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/real"))
    parser.add_argument("--splits", type=int, default=N_SPLITS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    return parser


if __name__ == "__main__":
    main()
