"""Does fine-tuning where culture lives cost culture? The studies of docs/finetuning.md.

    python tests/benchmarks/finetuning.py embedded [--out docs/finetuning.md] [--folder FOLDER]
    python tests/benchmarks/finetuning.py real     [--out docs/finetuning.md] [--folder FOLDER]
    python tests/benchmarks/finetuning.py choose | choose-real

*embedded*: the embedded model learns sums, five arms and five seeds. *real*: smollm2 learns which
word does not belong with the others, four arms and three seeds. The protocol stands in
docs/finetuning.md, with what of it was fixed beforehand. *choose* prints what the learning rates
were chosen by: how well the task is learnt, on validation rows, and nothing else. Each seed is a
piece of work of its own, shared among as many processes as there are cores, one thread each; what
is done lies in ``--folder``, and a study that was stopped goes on from there.
"""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import real_model
import results
import torch
from datasets import Dataset

import culnig_tl as ct
from culnig_tl.atlas import prompts
from culnig_tl.atlas.tasks import sum_items
from culnig_tl.finetuning import (
    Arm,
    FineTuningStudy,
    finetune,
    finetuning_study,
    rank_modules,
    select_modules,
)

SITES = ("mlp.hook_post",)
GENERAL = ("atlas-commonsense", "atlas-ordering", "atlas-entailment")
EMBEDDED: dict[str, Any] = {
    "learning_rate": 1e-3,
    "epochs": 2,
    "batch_size": 16,
    "accumulation": 1,
}
REAL: dict[str, Any] = {"learning_rate": 3e-4, "epochs": 1, "batch_size": 16, "accumulation": 1}
RATES = {"choose": (5e-4, 1e-3, 2e-3, 4e-3), "choose-real": (1e-4, 3e-4)}
SEEDS, SEEDS_REAL = range(5), range(3)
ARMS_REAL: tuple[tuple[Arm, ...], ...] = (("top", "bottom"), ("random", "protect"))
"""Two pieces of work per seed, so that two cores have as much to do."""
N_TESTED, N_TESTED_REAL = 96, 64
N_TASK_REAL, N_TEST_REAL = 320, 96


# ---------------------------------------------------------------- embedded


def embedded(folder: Path, seed: int) -> FineTuningStudy:
    """One seed of the embedded study, every arm."""
    torch.set_num_threads(1)
    path = folder / "embedded" / "neurons.json"
    draw = partial(ct.load_benchmark, split="test", limit=N_TESTED)
    return finetuning_study(
        "atlas",
        ct.load_benchmark("atlas-sums", split="identify"),
        ct.load_benchmark("atlas-sums", split="test"),
        neurons=ct.NeuronSet.load(path),
        benchmarks={
            "culture": draw("atlas", limit=2 * N_TESTED),
            **{name.removeprefix("atlas-"): draw(name) for name in GENERAL},
        },
        seeds=[seed],
        find=found if seed == SEEDS[0] else None,
        out=folder / "embedded" / f"seed-{seed}",
        progress=False,
        **EMBEDDED,
    )


def found(model: Any) -> ct.NeuronSet:
    """Culture-general neurons of an embedded model."""
    draw = partial(ct.load_benchmark, split="identify")
    return ct.culture_general(
        *(
            ct.attribute(model, rows, sites=SITES, clamp=clamp, progress=False)
            for rows, clamp in (
                (draw("atlas", limit=192), False),
                (draw("atlas-control", limit=192), True),
                (draw("atlas-countries", per_culture=4), False),
            )
        )
    )


def embedded_report(folder: Path, processes: int) -> str:
    """The section of the embedded model."""
    path = folder / "embedded" / "neurons.json"
    if not path.exists():
        found(ct.load_model()).save(path)
    study, seconds = in_processes(partial(embedded, folder), SEEDS, processes)
    neurons = ct.NeuronSet.load(path)
    key = ct.answer_key("general")
    return "\n".join(
        [
            "# The embedded model",
            "",
            "`make finetuning` or `python tests/benchmarks/finetuning.py embedded`; "
            f"{len(neurons)} culture-general neurons found, {len(neurons & key)} of them among the "
            f"{len(key)} planted ones; {len(SEEDS)} seeds, {seconds:.0f} seconds on {processes} "
            "processes of one thread.",
            "",
            *sections(study, rank_modules(neurons, "atlas"), "embedded"),
        ]
    )


# ---------------------------------------------------------------- real

KINDS = {
    "animals": "dog horse sheep rabbit lion tiger cow wolf bear goat mouse elephant",
    "fruits": "apple banana cherry grape lemon mango orange peach pear plum fig melon",
    "tools": "hammer saw drill wrench shovel axe rake chisel spade pliers",
    "colours": "red blue green yellow purple brown black white pink grey",
    "clothes": "shirt coat hat glove scarf sock skirt belt jacket dress boot",
    "metals": "iron gold silver copper zinc lead nickel steel bronze brass",
    "instruments": "piano violin guitar flute drum trumpet harp cello clarinet",
    "furniture": "chair table desk sofa bed shelf bench cabinet stool wardrobe",
    "vehicles": "car bus train bicycle truck tram boat ship plane van",
    "parts of the body": "hand foot nose ear knee elbow finger shoulder neck back",
}
"""Everyday words by kind; the first five kinds are trained on, the others test."""
ODD_EXAMPLE = (
    "Of rain, snow, wind and bread, the one that does not belong with the others is bread."
)


def odd_ones(part: str, number: int) -> Dataset:
    """Clozes that end with the one of four words that does not belong with the others."""
    kinds = list(KINDS)[: len(KINDS) // 2] if part != "test" else list(KINDS)[len(KINDS) // 2 :]
    generator = random.Random(part)
    drawn: dict[str, dict[str, Any]] = {}
    while len(drawn) < number:
        row = _odd_one(generator, kinds)
        drawn.setdefault(row["prompt"], {"id": f"{part}-{len(drawn)}", **row})
    return ct.questions(drawn.values())


def _odd_one(generator: random.Random, kinds: Sequence[str]) -> dict[str, Any]:
    while True:
        kind, other = generator.sample(kinds, 2)
        odd = generator.choice(KINDS[other].split())
        words = [*generator.sample(KINDS[kind].split(), 3), odd]
        if len({word[:3] for word in words}) == len(words):
            break
    generator.shuffle(words)
    return {
        "prompt": f"Of {', '.join(words[:-1])} and {words[-1]}, the one that does not belong with "
        "the others is",
        "options": words,
        "answer": odd,
        "topic": f"{kind} and {other}",
        "benchmark": "odd ones",
        "system": ODD_EXAMPLE,
        "label_kind": "first token",
    }


def real(folder: Path, piece: tuple[int, tuple[Arm, ...]]) -> FineTuningStudy:
    """Some arms of one seed of the study of smollm2."""
    torch.set_num_threads(1)
    seed, arms = piece
    tests = {
        name.removeprefix("cloze-"): real_model.halves(folder / "real", name, 0)[1]
        for name in (*real_model.CULTURAL, real_model.GENERAL)
    }
    return finetuning_study(
        "smollm2",
        odd_ones("train", N_TASK_REAL),
        odd_ones("test", N_TEST_REAL),
        neurons=ct.NeuronSet.load(folder / "real" / "neurons.json"),
        benchmarks={name: drawn(rows, N_TESTED_REAL) for name, rows in tests.items()},
        arms=arms,
        seeds=[seed],
        mode="options",
        token_budget=1024,
        out=folder / "real" / f"seed-{seed}" / arms[0],
        progress=False,
        **REAL,
    )


def drawn(rows: Dataset, number: int) -> Dataset:
    """So many of the rows, in their order."""
    places = random.Random(0).sample(range(len(rows)), min(number, len(rows)))
    return rows.select(sorted(places))


def found_real(folder: Path) -> ct.NeuronSet:
    """Culture-general neurons of smollm2 by the selective recipe, on half of the relations."""
    model = real_model.model()
    real_model.cached(folder / "known.parquet", real_model.known_topics)
    halves = {
        name: real_model.halves(folder, name, 0)[0]
        for name in (*real_model.CULTURAL, real_model.GENERAL)
    }
    rows = [row for name in real_model.CULTURAL for row in halves[name].to_list()]
    cultural = drawn(ct.questions(rows), N_TESTED)
    general = drawn(halves[real_model.GENERAL], N_TESTED * 2 // 3)
    countries = ct.load_benchmark("cloze-countries", split="identify", per_culture=2)
    scores = [
        ct.attribute(
            model,
            ct.prepare(model, each, token_budget=1024),
            sites=SITES,
            method="relp",
            pool="sum",
            weight="none",
            clamp=clamp,
            progress=False,
        )
        for each, clamp in (
            (cultural, False),
            (ct.control_of(cultural), True),
            (countries, False),
            (general, True),
        )
    ]
    return ct.culture_general(*scores, recipe="selective")


def real_report(folder: Path, processes: int) -> str:
    """The section of the real model."""
    path = folder / "real" / "neurons.json"
    if not path.exists():
        found_real(folder / "real").save(path)
    study, seconds = in_processes(
        partial(real, folder), list(product(SEEDS_REAL, ARMS_REAL)), processes
    )
    neurons = ct.NeuronSet.load(path)
    return "\n".join(
        [
            "# The real model",
            "",
            "`make finetuning` or `python tests/benchmarks/finetuning.py real`; smollm2, "
            f"{len(neurons)} culture-general neurons (RelP, sum, no weight, selective); "
            f"{N_TASK_REAL} rows to learn from, {N_TEST_REAL} of other kinds of words to test; "
            f"{len(SEEDS_REAL)} seeds, {seconds:.0f} seconds on {processes} processes of one "
            "thread.",
            "",
            *sections(study, rank_modules(neurons, "smollm2"), "real"),
        ]
    )


# ---------------------------------------------------------------- both


def in_processes(
    study: Callable[[Any], FineTuningStudy], pieces: Sequence[Any], processes: int
) -> tuple[FineTuningStudy, float]:
    """All pieces of a study as one, and the seconds that they took."""
    start = time.perf_counter()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        studies = list(pool.map(study, pieces))
    return FineTuningStudy.joined(studies), time.perf_counter() - start


def sections(study: FineTuningStudy, ranking: pd.DataFrame, name: str) -> list[str]:
    """Every table of a study."""
    mlps = ranking[ranking["kind"] == "mlp"].sort_values("layer")
    counts = ", ".join(f"{row.module} {row.neurons}" for row in mlps.itertuples())
    total = ranking.attrs["parameters"]
    chosen = select_modules(ranking)
    share = mlps.set_index("module")["parameters"][chosen].sum() / total
    return [
        f"Culture neurons by module: {counts}. An arm trains {len(chosen)} of {len(mlps)} MLPs, "
        f"{100 * share:.1f} % of {total:,} parameters.",
        "",
        *runs_table(study.runs),
        "",
        f"## Accuracy ({name})",
        "",
        "Before, after; change in points [95 % interval over questions and seeds].",
        "",
        *change_lines(study.frame, "accuracy", "change", 1.0, ".1f"),
        "",
        f"## Mean P(answer) ({name})",
        "",
        "In hundredths.",
        "",
        *change_lines(study.frame, "probability", "probability_change", 100.0, ".1f"),
        "",
        f"## Arms against each other ({name})",
        "",
        "By how much more the first changes: points of accuracy; hundredths of P(answer).",
        "",
        *difference_lines(study.differences),
        "",
        f"## Neurons ({name})",
        "",
        "Relative change of the neurons' own weights; of their activations on cultural prompts.",
        "",
        *drift_lines(study.drift),
    ]


def runs_table(runs: pd.DataFrame) -> list[str]:
    """What was trained, and how it went."""
    body = []
    for arm, rows in runs.groupby("arm", sort=False):
        modules = "; ".join(dict.fromkeys(rows["modules"]))
        found_again = rows["jaccard"].astype(float).mean()
        body.append(
            [
                str(arm),
                modules,
                f"{rows['loss'].mean():.2f}",
                f"{rows['seconds'].mean():.0f}",
                "" if pd.isna(found_again) else f"{found_again:.2f}",
            ]
        )
    head = ["arm", "modules", "loss at the end", "seconds", "Jaccard of the set found after"]
    return table(head, body, n_text=2)


def change_lines(
    frame: pd.DataFrame, measure: str, change: str, scale: float, form: str
) -> list[str]:
    """One row per arm, one column per benchmark."""
    names = list(frame["benchmark"].unique())
    body = []
    for arm, rows in frame.groupby("arm", sort=False):
        by_name = rows.set_index("benchmark").to_dict("index")
        cells = []
        for name in names:
            row = by_name[name]
            before, after, *ends = (
                scale * row[key]
                for key in (
                    f"{measure}_before",
                    f"{measure}_after",
                    change,
                    f"{change}_low",
                    f"{change}_high",
                )
            )
            cells.append(f"{before:{form}}, {after:{form}}; {interval(ends, form)}")
        body.append([str(arm), *cells])
    return table(["arm", *names], body, n_text=1)


def difference_lines(differences: pd.DataFrame) -> list[str]:
    """One row per pair of arms, one column per benchmark."""
    names = list(differences["benchmark"].unique())
    body = []
    for (arm, other), rows in differences.groupby(["arm", "against"], sort=False):
        by_name: Mapping[Any, Any] = rows.set_index("benchmark").to_dict("index")
        cells = [_difference(by_name[name]) for name in names]
        body.append([f"{arm} - {other}", *cells])
    return table(["arms", *names], body, n_text=1)


def _difference(row: Mapping[Any, float]) -> str:
    """Points of accuracy; hundredths of P(answer)."""
    parts = (("change", 1.0), ("probability_change", 100.0))
    ends = ("", "_low", "_high")
    return "; ".join(
        interval([scale * row[f"{key}{end}"] for end in ends], ".1f") for key, scale in parts
    )


def drift_lines(drift: pd.DataFrame) -> list[str]:
    """Means over the seeds, by arm and group of neurons."""
    body = []
    for (arm, trained, in_set), rows in drift.groupby(["arm", "trained", "in_set"], sort=False):
        body.append(
            [
                str(arm),
                "trained" if trained else "not trained",
                "culture" if in_set else "others",
                f"{rows['n_neurons'].mean():.0f}",
                f"{100 * rows['weight_change'].mean():.1f} %",
                f"{100 * rows['activation_change'].mean():.0f} %",
            ]
        )
    return table(["arm", "module", "neurons", "number", "weights", "activations"], body, n_text=3)


def interval(ends: Sequence[float], form: str) -> str:
    """A change with its interval."""
    value, low, high = ends
    return f"{value:+{form}} [{low:+{form}}, {high:+{form}}]"


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, n_text: int) -> list[str]:
    """Markdown; the first columns are text."""
    rule = ["---"] * n_text + ["---:"] * (len(head) - n_text)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


# ---------------------------------------------------------------- learning rates


def choose(folder: Path, processes: int) -> str:
    """How well each learning rate learns sums, on validation rows: all parameters, and each MLP."""
    rows = ct.load_benchmark("atlas-sums", split="identify")
    held_out = ct.questions(prompts.fixed_rows(sum_items(), 1, "validation"))
    modules = [None, *([f"L{layer}.mlp"] for layer in range(4))]
    return _learnt("atlas", rows, held_out, RATES["choose"], modules, EMBEDDED, mode="argmax")


def choose_real(folder: Path, processes: int) -> str:
    """The same of smollm2: five MLPs drawn with a seed that the study does not use."""
    torch.set_num_threads(processes)
    every = rank_modules(ct.NeuronSet.of({}), "smollm2")
    modules = [select_modules(every, which="random", seed=99)]
    rows, held_out = odd_ones("train", N_TASK_REAL), odd_ones("validation", N_TEST_REAL)
    return _learnt("smollm2", rows, held_out, RATES["choose-real"], modules, REAL, mode="options")


def _learnt(
    model: str,
    rows: Dataset,
    held_out: Dataset,
    rates: Sequence[float],
    modules: Sequence[Sequence[str] | None],
    settings: Mapping[str, Any],
    *,
    mode: Any,
) -> str:
    lines = []
    for rate in rates:
        right = []
        for each in modules:
            with TemporaryDirectory() as folder:
                tuned = finetune(
                    model,
                    rows,
                    each,
                    out=Path(folder) / "tuned",
                    seed=99,
                    progress=False,
                    **{**settings, "learning_rate": rate},
                )
                loaded = ct.load_model(tuned.folder)
                right.append(ct.evaluate(loaded, held_out, mode=mode)["correct"].mean())
        cells = ", ".join(f"{100 * each:.1f}" for each in right)
        lines.append(f"{rate:g}: {100 * sum(right) / len(right):.1f} % right ({cells})")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """One section."""
    parser = results.parser(__doc__)
    makers = {
        "embedded": embedded_report,
        "real": real_report,
        "choose": choose,
        "choose-real": choose_real,
    }
    parser.add_argument("which", choices=list(makers))
    parser.add_argument("--folder", type=Path, default=Path("build/finetuning"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    section = makers[arguments.which](arguments.folder, arguments.processes)
    results.show(section, arguments.out if not arguments.which.startswith("choose") else None)


if __name__ == "__main__":
    main()
