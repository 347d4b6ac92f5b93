"""Do contents share neurons, and can neurons improve answers? The tables of docs/contents.md.

    python tests/benchmarks/improve.py embedded [--out docs/contents.md] [--folder build/improve]
    python tests/benchmarks/improve.py real     [--out docs/contents.md] [--folder build/improve]
    python tests/benchmarks/improve.py norms --data FOLDER [--model smollm2] [--out ...] [...]

*embedded*: the embedded model and its own tasks as contents. *real*: the real model, everyday facts
and geography as two contents, found on half of the relations in the first wording, tested on the
other half in the second, with general questions beside; docs/real-model.md says which relations.
*norms*: knowledge (CulturalBench) against norms (NormAd), with CommonsenseQA beside, all of them
multiple choice, from the folders culturalbench, normad and commonsenseqa of ``--data``; values are
not among them, since answers to the World Values Survey may not be passed on. Answers and scores
lie in ``--folder``, and what was stopped goes on from there.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import real_model
import results
import torch
from datasets import Dataset

import culnig_tl as ct
from culnig_tl.files import RunFolder
from culnig_tl.models import model_fingerprint
from culnig_tl.validation import (
    Contents,
    compare_contents,
    conditional_use,
    culture_probe,
    tune_factors,
)
from culnig_tl.validation.contest import keep_answers

TASKS = ("atlas", "atlas-commonsense", "atlas-ordering", "atlas-entailment")
N_ROWS, N_TESTED = 96, 96
N_FOUND, N_TESTED_REAL = 96, 96
WAYS: Sequence[tuple[Any, Any, Sequence[float]]] = (
    ("set", "probability", (0.0, 0.5, 1.5, 2.0, 3.0)),
    ("set", "accuracy", (0.0, 0.5, 1.5, 2.0, 3.0)),
    ("layer", "probability", (0.5, 2.0)),
)
"""Ways to search factors: one for what, by what, and which are tried besides 1."""


@dataclass(frozen=True)
class Study:
    """What both models need.

    Attributes:
        name: of the model.
        model: the model.
        data: by content, what finds its set, by role.
        tests: held-out questions by name.
        cultural: the content whose set is tried for improvement.
        general: general questions of the identification half.
        options: of ``compare_contents``.
        mode: what counts as an answer.
        token_budget: tokens per pass.
    """

    name: str
    model: Any
    data: Mapping[str, Mapping[str, Dataset]]
    tests: Mapping[str, Dataset]
    cultural: str
    general: Dataset
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: Any = "argmax"
    token_budget: int = 8192


def embedded() -> Study:
    """The embedded model's tasks, each a content."""
    draw = ct.load_benchmark
    found = {name: draw(name, split="identify", limit=N_ROWS) for name in TASKS}
    data: dict[str, dict[str, Dataset]] = {name: {"cultural": rows} for name, rows in found.items()}
    data["atlas"]["control"] = draw("atlas-control", split="identify", limit=N_ROWS)
    general = [row for name in TASKS[1:] for row in found[name].to_list()[: N_ROWS // 3]]
    return Study(
        "The embedded model",
        ct.load_model(),
        data,
        {name: draw(name, split="test", limit=N_TESTED) for name in TASKS},
        "atlas",
        ct.questions(general),
        {"select": partial(ct.culture_general, attention_top=0.0), "draws": 100, "n_random": 19},
    )


def real(folder: Path) -> Study:
    """Everyday facts and geography on the real model."""
    real_model.cached(folder / "known.parquet", real_model.known_topics)
    halves = {
        name: real_model.halves(folder, name, 0)
        for name in (*real_model.CULTURAL, real_model.GENERAL)
    }
    found = {name: drawn(rows, N_FOUND) for name, (rows, _) in halves.items()}
    general = found[real_model.GENERAL]
    data = {
        name: {
            "cultural": found[name],
            "control": ct.control_of(found[name]),
            "recognition": ct.load_benchmark("cloze-countries", split="identify", per_culture=2),
            "general": general,
        }
        for name in real_model.CULTURAL
    }
    select = partial(ct.culture_general, recipe="selective", attention_top=0.0)
    return Study(
        "The real model",
        real_model.model(),
        data,
        {name: drawn(rows, N_TESTED_REAL) for name, (_, rows) in halves.items()},
        "cloze-everyday",
        general,
        {
            "select": select,
            "draws": 50,
            "n_random": 5,
            "method": "relp",
            "pool": "sum",
            "weight": "none",
        },
        mode="options",
        token_budget=1024,
    )


def norms(model: str, folder: Path) -> Study:
    """Knowledge and norms, each as its benchmark asks for it."""

    def draw(name: str, split: Any) -> Dataset:
        path = folder / name.removesuffix("-control")
        return ct.load_benchmark(name, split=split, data_dir=path, limit=N_FOUND)

    found, test = ct.split(draw("commonsenseqa", "test"), by="id", seed=0)
    contents = ("culturalbench", "normad")
    return Study(
        "Knowledge and norms",
        ct.load_model(model),
        {
            name: {
                "cultural": draw(name, "identify"),
                "control": draw(f"{name}-control", "identify"),
            }
            for name in contents
        },
        {**{name: draw(name, "test") for name in contents}, "commonsenseqa": test},
        contents[0],
        found,
        {"select": partial(ct.culture_general, attention_top=0.0), "draws": 50, "n_random": 5},
        token_budget=2048,
    )


def drawn(rows: Dataset, number: int) -> Dataset:
    """So many of the rows, in their order."""
    places = np.random.default_rng(0).permutation(len(rows))[:number]
    return rows.select(sorted(places.tolist()))


def report(study: Study, folder: Path, command: str, *, improve: bool = True) -> str:
    """The section of a model."""
    torch.set_num_threads(1)
    where = folder / command.split()[0]
    with quiet(), RunFolder(where, {"model": model_fingerprint(study.model)}) as held:
        tests = {
            name: ct.prepare(study.model, rows, token_budget=study.token_budget)
            for name, rows in study.tests.items()
        }
        contents = compare_contents(
            study.model,
            study.data,
            tests,
            mode=study.mode,
            token_budget=study.token_budget,
            keep=keep_answers(held, study.model, tests, study.mode),
            **study.options,
        )
        for name, frame in {"overlap": contents.overlap, "effects": contents.effects}.items():
            held.csv(f"{name}.csv", frame)
        improved = improvements(study, contents, tests, held) if improve else {}
        for name, frame in improved.items():
            held.csv(f"{name}.csv", frame)
        cultural = study.data[study.cultural]["cultural"]
        lines = [
            f"# {study.name}",
            "",
            f"`python tests/benchmarks/improve.py {command}`; MLP neurons, the best 1 % of each "
            f"content; {len(cultural)} prompts of a content find, other questions test. Seed 0.",
            "",
            *overlap_lines(contents, study.options["draws"]),
            *effect_lines(contents, study.options["n_random"]),
            *(improved_lines(study, improved) if improve else accuracy_lines(study, tests)),
        ]
    return "\n".join(lines)


@contextmanager
def quiet() -> Any:
    """Without the warning, draw after draw, that a control scores higher than its questions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The control scores higher")
        yield


def improvements(
    study: Study, contents: Contents, tests: Mapping[str, ct.PreparedQuestions], held: RunFolder
) -> dict[str, pd.DataFrame]:
    """Factors searched in every way and their effects, and a factor used where a probe says so."""
    neurons = contents.sets[study.cultural]
    cultural = ct.prepare(
        study.model, study.data[study.cultural]["cultural"], token_budget=study.token_budget
    )
    identity = {
        "neurons": neurons.fingerprint,
        "rows": cultural.fingerprint,
        "tests": {name: each.fingerprint for name, each in tests.items()},
        "mode": study.mode,
    }
    effects = []
    for by, criterion, grid in WAYS:
        search = partial(
            tuned_effects,
            study,
            neurons,
            cultural,
            tests,
            by=by,
            criterion=criterion,
            factors=grid,
        )
        name = f"tuned-{by}-{criterion}.parquet"
        effects.append(held.frame(name, identity | {"factors": grid}, search))
    probe = culture_probe(study.model, cultural, study.general, token_budget=study.token_budget)
    use = conditional_use(study.model, neurons, tests, probe, factor=2.0, mode=study.mode)
    return {
        "tuned": pd.concat(effects),
        "conditional": use.effects,
        "probe": use.probe.assign(
            layer=probe.layer, left_out=probe.left_out, balanced=use.accuracy
        ),
    }


def tuned_effects(
    study: Study,
    neurons: ct.NeuronSet,
    cultural: ct.PreparedQuestions,
    tests: Mapping[str, ct.PreparedQuestions],
    *,
    by: Any,
    criterion: Any,
    factors: Sequence[float],
) -> pd.DataFrame:
    """Effects of the factors that one way of searching finds, with its verdict."""
    tuned = tune_factors(
        study.model,
        neurons,
        cultural,
        tests,
        factors=factors,
        by=by,
        criterion=criterion,
        mode=study.mode,
    )
    return tuned.effects.assign(
        by=by, criterion=criterion, factors=named(tuned.factors, by), verdict=tuned.verdict
    )


def named(factors: Mapping[int, float], by: str) -> str:
    """Factors in a cell of a table."""
    if by == "set":
        return f"{next(iter(factors.values())):g}"
    counts = pd.Series(factors).value_counts().sort_index(ascending=False)
    return ", ".join(f"{factor:g} in {n}" for factor, n in counts.items()) + " layers"


def overlap_lines(contents: Contents, draws: int) -> list[str]:
    """What sets share."""
    body = [
        [
            f"{row['first']}, {row['second']}",
            f"{row['n_first']}, {row['n_second']}",
            str(row["shared"]),
            f"{row['jaccard']:.2f} [{row['jaccard_low']:.2f}, {row['jaccard_high']:.2f}]",
            f"{row['by_chance']:.3f}",
            f"{row['p_value']:.1g}",
            f"{row['halves']:.2f}",
            f"{row['own_halves']:.2f}",
        ]
        for row in contents.overlap.to_dict("records")
    ]
    head = ["contents", "neurons", "shared", "Jaccard", "chance", "p", "halves", "own halves"]
    return [
        "## Overlap",
        "",
        f"Jaccard index with its interval over {draws} resamples of the questions; chance: as many "
        "neurons in each layer; halves: a half of one content's topics with the other half of the "
        "other's; own halves: the two halves of one content.",
        "",
        *table(head, body, n_text=1),
        "",
    ]


def effect_lines(contents: Contents, n_random: int) -> list[str]:
    """What each set does to every content."""
    tested = contents.effects.drop_duplicates("tested").to_dict("records")
    units = ", ".join(f"{row['tested']} {row['n_units']}" for row in tested)
    body = [
        [
            row["masked"],
            row["tested"],
            f"{100 * row['fall']:.0f} [{100 * row['fall_low']:.0f}, {100 * row['fall_high']:.0f}]",
            f"{100 * row['random_fall']:.0f}",
            f"{row['p_value']:.2f}",
            (
                ""
                if np.isnan(row["less_than_own"])
                else f"{100 * row['less_than_own']:.0f} [{100 * row['less_than_own_low']:.0f}, "
                f"{100 * row['less_than_own_high']:.0f}]"
            ),
            f"{row['change']:+.1f}",
        ]
        for row in contents.effects.to_dict("records")
    ]
    head = [
        "set switched off",
        "tested on",
        "P falls, %",
        "random",
        "p",
        "less than own",
        "accuracy",
    ]
    return [
        "## Cross-effects",
        "",
        "Fall of mean P(answer) on held-out questions with its 95 % interval, that of "
        f"{n_random} layer-matched random sets and the rank among them; less than own: the fall "
        "under the tested content's own set less this one, in points; accuracy in points. "
        f"Intervals are over topics, and too narrow where there are few: {units}.",
        "",
        *table(head, body, n_text=2),
        "",
    ]


def accuracy_lines(study: Study, tests: Mapping[str, ct.PreparedQuestions]) -> list[str]:
    """How often the model as it is answers right."""
    body = []
    for name, each in tests.items():
        correct = ct.evaluate(study.model, each, mode=study.mode)["correct"]
        chance = np.mean([1 / len(options) for options in each.rows["options"]])
        spread = 196 * correct.std() / np.sqrt(len(correct))
        body.append([name, f"{100 * correct.mean():.0f} +- {spread:.0f}", f"{100 * chance:.0f}"])
    return [
        "## Accuracy",
        "",
        "Of the model as it is, in %, with the half width of its 95 % interval.",
        "",
        *table(["tested on", "accuracy", "chance"], body, n_text=1),
    ]


def improved_lines(study: Study, improved: Mapping[str, pd.DataFrame]) -> list[str]:
    """Factors, and their use where a probe says so."""
    tuned, use, probe = (improved[name] for name in ("tuned", "conditional", "probe"))
    body = [
        [row["by"], row["criterion"], row["factors"], row["benchmark"], *changes(row)]
        for row in tuned.to_dict("records")
    ]
    verdicts = [
        f"- one factor per {row['by']}, by {row['criterion']}: {row['verdict']}"
        for row in tuned.drop_duplicates(["by", "criterion"]).to_dict("records")
    ]
    conditional = [
        [row["benchmark"], row["use"], f"{100 * row['scaled']:.0f}", *changes(row)]
        for row in use.to_dict("records")
    ]
    readings = "; ".join(
        f"{row['benchmark']} {100 * row['accuracy']:.0f} %" for row in probe.to_dict("records")
    )
    first = probe.iloc[0]
    head = ["one factor per", "searched by", "factors", "tested on", "P changes, %", "accuracy"]
    return [
        "## Improve",
        "",
        f"The set of {study.cultural}, factors searched on the questions that found it; held-out "
        "changes with 95 % intervals over topics.",
        "",
        *table(head, body, n_text=4),
        "",
        *verdicts,
        "",
        "## Conditional use",
        "",
        f"Factor 2 in every prompt, or only where a ridge probe before layer {first['layer']} says "
        f"that the prompt is cultural. The probe is right on {readings} of the held-out prompts "
        f"(both kinds alike {100 * first['balanced']:.0f} %; {100 * first['left_out']:.0f} % on "
        "topics that were left out one by one as it was trained, in the same wordings).",
        "",
        *table(
            ["tested on", "factor used", "prompts scaled, %", "P changes, %", "accuracy"],
            conditional,
            n_text=2,
        ),
    ]


def changes(row: Mapping[Any, Any]) -> tuple[str, str]:
    """Change of P in %, accuracy before and its change in points, with intervals."""
    gain, low, high = (100 * row[f"gain{end}"] for end in ("", "_low", "_high"))
    points, least, most = (row[f"change{end}"] for end in ("", "_low", "_high"))
    return (
        f"{gain:+.0f} [{low:+.0f}, {high:+.0f}]",
        f"{row['accuracy_before']:.1f}; {points:+.1f} [{least:+.1f}, {most:+.1f}]",
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, n_text: int) -> list[str]:
    """Markdown; the first columns are text."""
    rule = ["---"] * n_text + ["---:"] * (len(head) - n_text)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def main() -> None:
    """One section."""
    parser = results.parser(__doc__)
    parser.add_argument("which", choices=("embedded", "real", "norms"))
    parser.add_argument("--folder", type=Path, default=Path("build/improve"))
    parser.add_argument("--data", type=Path, help="norms: the folder of the benchmarks' folders")
    parser.add_argument("--model", default="smollm2", help="norms: name or folder of the model")
    arguments = parser.parse_args()
    if arguments.which == "norms":
        if arguments.data is None:
            parser.error("norms needs --data, a folder with culturalbench, normad, commonsenseqa")
        study = norms(arguments.model, arguments.data)
        command = f"norms --data FOLDER --model {arguments.model}"
    else:
        study = embedded() if arguments.which == "embedded" else real(arguments.folder)
        command = arguments.which
    section = report(study, arguments.folder, command, improve=arguments.which != "norms")
    results.show(section, arguments.out)


if __name__ == "__main__":
    main()
