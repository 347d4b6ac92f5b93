"""Which method finds the right neurons? The league of docs/league.md.

    python tests/benchmarks/league.py embedded [--out docs/league.md] [--folder build/league]
    python tests/benchmarks/league.py real     [--out docs/league.md] [--folder build/league]
    python tests/benchmarks/league.py confirm  [--out docs/league.md] [--folder build/league]
    python tests/benchmarks/league.py stable   [--out docs/league.md] [--folder build/league]

*embedded*: three seeds of the embedded model, against their keys, and its natural twin, which has
none; ``make atlas-seeds`` trains seeds 1 and 2 into ``build/atlas``, and what is not there is left
out and said. *real*: the real model, on half of the relations in the first wording, tested on the
other half in the second; ``docs/real-model.md`` says which relations. *confirm*: the leaders of
that league and the paper's scores on two other halves of the relations. *stable*: the sets of the
leaders found once more, in another wording and by weights in bfloat16; integrated gradients by
layer compete here. What is done lies in ``--folder``, and a league that was stopped goes on from
there.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import real_model
import results
import torch
from datasets import Dataset

import culnig_tl as ct
from culnig_tl.atlas import EMBEDDED
from culnig_tl.atlas.key import planted_set
from culnig_tl.files import file_name, read_json, write_csv
from culnig_tl.validation import SCORERS, League, Scorer

GENERAL = ("atlas-commonsense", "atlas-ordering", "atlas-entailment")
FOLDERS = {
    "seed 0": EMBEDDED["atlas"],
    "seed 1": Path("build/atlas/seed-1"),
    "seed 2": Path("build/atlas/seed-2"),
    "natural twin": EMBEDDED["atlas-natural"],
}
EMBEDDED_SCORERS = [
    scorer
    for scorer in SCORERS
    if not (scorer.method == "integrated_gradients" and scorer.pool == "max")
]
"""Integrated gradients cost as much as all others together: once."""
N_ROWS, N_TESTED = 96, 48
N_FOUND = 96
N_TESTED_REAL = {"cloze-everyday": 64, "cloze-geography": 32, "cloze-general": 64}


# ---------------------------------------------------------------- embedded


def embedded(folder: Path, name: str) -> League:
    """The league of one embedded model."""
    torch.set_num_threads(1)
    path = FOLDERS[name]
    model = ct.load_model(path)
    key = path / "key.json"
    return ct.league(
        model,
        atlas_rows("identify", N_ROWS),
        tests=atlas_tests(),
        key=planted_set(read_json(key), "general") if key.exists() else None,
        others=(
            {"wording": (model, atlas_rows("identify", N_ROWS, wording=1))}
            if name == "seed 0"
            else None
        ),
        scorers=EMBEDDED_SCORERS,
        ablation_prompts=32,
        out=folder / name,
        progress=False,
    )


def attention(folder: Path) -> pd.DataFrame:
    """Agreement with ablation at queries and keys, where AtP* differs."""
    torch.set_num_threads(1)
    scorers = [
        Scorer(method, pool="sum", weight="none", steps=8)
        for method in ("gradient_x_activation", "atp_star", "integrated_gradients", "gim", "relp")
    ]
    frames = []
    for site in ("attn.hook_q", "attn.hook_k"):
        table = ct.league(
            ct.load_model(),
            {"cultural": atlas_rows("identify", N_ROWS)["cultural"]},
            scorers=scorers,
            sites=[site],
            out=folder / site,
            progress=False,
        ).frame
        frames.append(table.assign(site=site))
    return pd.concat(frames)


def atlas_rows(split: Any, limit: int, *, wording: int = 0) -> dict[str, Dataset]:
    """The rows of every role; of another wording, the same questions asked otherwise."""
    draw = partial(ct.load_benchmark, split=split, seed=wording)
    general = [row for name in GENERAL for row in draw(name, limit=limit // 4).to_list()]
    return {
        "cultural": draw("atlas", limit=limit),
        "control": draw("atlas-control", limit=limit),
        "recognition": draw("atlas-countries"),
        "general": ct.questions(general),
    }


def atlas_tests() -> dict[str, Dataset]:
    """Held-out questions."""
    draw = partial(ct.load_benchmark, split="test")
    return {
        "atlas": draw("atlas", limit=N_TESTED),
        **{name: draw(name, limit=N_TESTED // 3) for name in GENERAL},
    }


def embedded_report(folder: Path, processes: int) -> str:
    """The section of the embedded models."""
    missing = [name for name, path in FOLDERS.items() if not path.is_dir()]
    names = [name for name in FOLDERS if name not in missing]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        of_attention = pool.submit(attention, folder / "attention")
        leagues = dict(zip(names, pool.map(partial(embedded, folder), names), strict=True))
    lines = [
        "# The embedded model",
        "",
        f"`make league` or `python tests/benchmarks/league.py embedded`; {', '.join(names)}"
        + (f" (not trained here: {', '.join(missing)})" if missing else "")
        + f". MLP neurons; {N_ROWS} cultural and {N_ROWS} control prompts, "
        f"{3 * (N_ROWS // 4)} general ones and the country names find, other questions test.",
    ]
    with_key = {name: each for name, each in leagues.items() if name != "natural twin"}
    lines += ["", "## Against the key", "", *key_table(with_key)]
    lines += ["", "## Against exact ablation", "", *agreement_table(leagues)]
    lines += ["", "## Selectivity, stability, cost", "", *selectivity_table(leagues)]
    lines += ["", "## Queries and keys", "", *attention_table(of_attention.result())]
    return "\n".join(lines)


def key_table(leagues: Mapping[str, League]) -> list[str]:
    """Average precision, AUROC, precision and recall, one column a seed."""
    frames = pd.concat(each.frame.assign(model=name) for name, each in leagues.items())
    lines = ["Average precision / AUROC of the ranking; precision / recall of the best 1 %.", ""]
    body = []
    for (scorer, recipe), rows in frames.groupby(["scorer", "recipe"], sort=False):
        cells = [
            f"{row.average_precision:.2f} / {row.auroc:.3f}; {row.precision:.2f} / {row.recall:.2f}"
            for row in rows.itertuples()
        ]
        body.append([scorer, recipe, *cells, f"{rows['average_precision'].mean():.2f}"])
    return [*lines, *table(["scorer", "recipe", *leagues, "mean AP"], body, n_text=2)]


def agreement_table(leagues: Mapping[str, League]) -> list[str]:
    """Spearman and Pearson with exact ablation, one column a model."""
    n_neurons = ", ".join(f"{name}: {len(each.ablation)}" for name, each in leagues.items())
    lines = [
        "Spearman [95 % interval over the neurons] / Pearson; among its own best 20. Neurons "
        f"switched off one by one: {n_neurons}.",
        "",
    ]
    frames = pd.concat(each.frame.assign(model=name) for name, each in leagues.items())
    body = []
    for scorer, rows in frames[frames["recipe"] == "cultural"].groupby("scorer", sort=False):
        cells = [
            f"{row.spearman:.2f} [{row.spearman_low:.2f}, {row.spearman_high:.2f}] / "
            f"{row.pearson:.2f}; {row.spearman_top:.2f}"
            for row in rows.itertuples()
        ]
        body.append([scorer, *cells])
    return [*lines, *table(["scorer", *leagues], body, n_text=1)]


def selectivity_table(leagues: Mapping[str, League]) -> list[str]:
    """Falls of P, halves and seconds, means over the models."""
    frames = pd.concat(each.frame for each in leagues.values())
    means = frames.groupby(["scorer", "recipe"], sort=False).mean(numeric_only=True)
    lines = [
        "Means over the models: fall of P(answer) on held-out cultural and general questions with "
        "the best 1 % switched off; Jaccard index of halves of the topics and, of seed 0, of "
        "another draw of questions, wordings and options (by chance); CPU seconds.",
        "",
    ]
    body = [
        [
            *(str(part) for part in name),
            f"{100 * row['fall']:.0f} %",
            f"{100 * row['general_fall']:.0f} %",
            f"{row['jaccard']:.2f}",
            f"{row['jaccard_wording']:.2f} ({row['by_chance_wording']:.2f})",
            f"{row['seconds']:.1f}",
        ]
        for name, row in zip(means.index, means.to_dict("records"), strict=True)
    ]
    head = ["scorer", "recipe", "culture", "general", "halves", "wording", "seconds"]
    return [*lines, *table(head, body, n_text=2)]


def attention_table(frame: pd.DataFrame) -> list[str]:
    """Agreement at queries and keys."""
    body = [
        [row.site, row.scorer, f"{row.spearman:.2f}", f"{row.pearson:.2f}", f"{row.seconds:.1f}"]
        for row in frame.itertuples()
    ]
    return table(["site", "scorer", "Spearman", "Pearson", "seconds"], body, n_text=2)


# ---------------------------------------------------------------- real


def real(
    folder: Path,
    *,
    split: int = 0,
    scorers: Sequence[Scorer] = SCORERS,
    ablation_prompts: int = 32,
    sizes: Sequence[float] = (0.0025, 0.005, 0.01),
) -> League:
    """The league of the real model."""
    real_model.cached(folder / "known.parquet", real_model.known_topics)
    tests = {
        name: drawn(real_model.halves(folder, name, split)[1], number)
        for name, number in N_TESTED_REAL.items()
    }
    return ct.league(
        real_model.model(),
        real_rows(folder, split),
        tests=tests,
        scorers=[replace(scorer, steps=4) for scorer in scorers],
        sizes=sizes,
        mode="options",
        token_budget=1024,
        n_middle=40,
        n_random=30,
        ablation_prompts=ablation_prompts,
        out=folder / (f"real-{split}" if split else "real"),
    )


def real_rows(folder: Path, split: int, wording: int = 1) -> dict[str, Dataset]:
    """The rows of every role, of one half of the relations that the model knows."""
    found = {
        name: real_model.halves(folder, name, split, found_in=wording)[0]
        for name in (*real_model.CULTURAL, real_model.GENERAL)
    }
    rows = [row for name in real_model.CULTURAL for row in found[name].to_list()]
    cultural = drawn(ct.questions(rows), N_FOUND)
    return {
        "cultural": cultural,
        "control": ct.control_of(cultural),
        "recognition": ct.load_benchmark("cloze-countries", split="identify", per_culture=2),
        "general": drawn(found[real_model.GENERAL], N_FOUND * 2 // 3),
    }


def drawn(rows: Dataset, number: int) -> Dataset:
    """So many of the rows, in their order."""
    places = np.random.default_rng(0).permutation(len(rows))[:number]
    return rows.select(sorted(places.tolist()))


def real_report(folder: Path, threads: int) -> str:
    """The section of the real model."""
    real_model.model()  # which computes on one thread
    torch.set_num_threads(threads)
    whole = real(folder)
    write_csv(folder / "real.csv", whole.frame)
    sizes = sorted(whole.selectivity["top"].unique())
    names = list(whole.selectivity["benchmark"].unique())
    lines = [
        "# The real model",
        "",
        "`make league` or `python tests/benchmarks/league.py real`; smollm2, MLP neurons, split 0 "
        f"of the relations: {N_FOUND} cultural prompts (and as many controls) in the first "
        f"wording find, {', '.join(f'{n} of {name}' for name, n in N_TESTED_REAL.items())} of "
        f"other relations in the second test. {len(whole.ablation)} neurons switched off one by "
        "one on 32 of the prompts that find. Seed 0.",
        "",
        "## Against exact ablation",
        "",
        *agreement_table({"smollm2": whole}),
        "",
        "## Selectivity",
        "",
        f"Fall of P(answer), {' / '.join(name.removeprefix('cloze-') for name in names)} / general,"
        " in %, with the best share of the MLP neurons switched off; at the largest share "
        "selectivity on everyday questions with its 95 % interval by relations and categories.",
        "",
        *real_table(whole, sizes),
        "",
        "## Stability and cost",
        "",
        *cost_table(whole),
    ]
    return "\n".join(lines)


def real_table(whole: League, sizes: Sequence[float]) -> list[str]:
    """Falls at every size."""
    body = []
    for (scorer, recipe), rows in whole.selectivity.groupby(["scorer", "recipe"], sort=False):
        cells = []
        for top in sizes:
            here = rows[rows["top"] == top]
            falls = [*here["fall"], *here["general_fall"][:1]]
            cells.append(" / ".join(f"{100 * fall:.0f}" for fall in falls))
        everyday = rows[rows["top"] == sizes[-1]].iloc[0]
        low, high = everyday["selectivity_cluster_low"], everyday["selectivity_cluster_high"]
        cells.append(f"{100 * everyday['selectivity']:.0f} [{100 * low:.0f}, {100 * high:.0f}]")
        body.append([str(scorer), str(recipe), *cells])
    head = ["scorer", "recipe", *(f"{size:.2%}" for size in sizes), "selectivity"]
    return table(head, body, n_text=2)


def cost_table(whole: League) -> list[str]:
    """Jaccard index of the halves, and CPU seconds."""
    lines = ["Jaccard index of the best 1 % on two halves of the relations (by chance).", ""]
    body = [
        [
            row.scorer,
            row.recipe,
            f"{row.jaccard:.2f} ({row.by_chance:.2f})",
            f"{row.seconds:.0f}",
        ]
        for row in whole.frame.itertuples()
    ]
    return [*lines, *table(["scorer", "recipe", "halves", "CPU seconds"], body, n_text=2)]


LEADERS = (
    Scorer(),
    *(
        Scorer(method, pool="sum", weight="none")
        for method in ("gradient_x_activation", "relp", "relp_frozen_attention", "gim")
    ),
)
OTHER_SPLITS = (1, 2)


def leaders(folder: Path, split: int) -> League:
    """The leaders on another split of the relations."""
    real_model.model()
    return real(folder, split=split, scorers=LEADERS, ablation_prompts=4, sizes=(0.01,))


def confirmation(folder: Path, processes: int) -> str:
    """The section of the other splits."""
    real_model.cached(folder / "known.parquet", real_model.known_topics)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        leagues = list(pool.map(partial(leaders, folder), OTHER_SPLITS))
    body = []
    for key, _ in leagues[0].selectivity.groupby(["scorer", "recipe"], sort=False):
        cells = []
        for each in leagues:
            rows = each.selectivity
            rows = rows[(rows["scorer"] == key[0]) & (rows["recipe"] == key[1])]
            falls = " / ".join(
                f"{100 * fall:.0f}" for fall in (*rows["fall"], *rows["general_fall"][:1])
            )
            low, high = (rows.iloc[0][f"selectivity_cluster_{end}"] for end in ("low", "high"))
            cells.append(
                f"{falls}; {100 * rows.iloc[0]['selectivity']:.0f} "
                f"[{100 * low:.0f}, {100 * high:.0f}]"
            )
        body.append([*map(str, key), *cells])
    lines = [
        "# The leaders on other relations",
        "",
        "`python tests/benchmarks/league.py confirm`; smollm2, as above, on the two other splits "
        "of the relations, the best 1 %: fall of P(answer), everyday / geography / general, in %; "
        "selectivity on everyday questions with its 95 % interval.",
        "",
        *table(["scorer", "recipe", *(f"split {n}" for n in OTHER_SPLITS)], body, n_text=2),
    ]
    return "\n".join(lines)


INTEGRATED = tuple(
    Scorer("integrated_gradients", pool="sum", weight="none", steps=8, path=path)
    for path in ("joint", "layer")
)


def stable_embedded(folder: Path) -> pd.DataFrame:
    """The leaders and integrated gradients on seed 0, its sets found once more."""
    torch.set_num_threads(1)
    model, path = ct.load_model(), FOLDERS["seed 0"]
    rows = atlas_rows("identify", N_ROWS)
    return ct.league(
        model,
        rows,
        key=planted_set(read_json(path / "key.json"), "general"),
        others={
            "wording": (model, atlas_rows("identify", N_ROWS, wording=1)),
            "bfloat16": (ct.load_model(dtype="bfloat16"), rows),
        },
        scorers=[*LEADERS, *INTEGRATED],
        ablation_prompts=32,
        out=folder / "stable-embedded",
        progress=False,
    ).frame


def stable_real(folder: Path, scorer: Scorer) -> pd.DataFrame:
    """One of the leaders on the real model, its sets found once more."""
    model = real_model.model()
    data, worded = (real_rows(folder, 0, wording) for wording in (1, 2))
    return ct.league(
        model,
        data,
        others={"wording": (model, worded), "bfloat16": (half_model(), data)},
        scorers=[scorer],
        token_budget=1024,
        n_middle=0,
        n_random=0,
        ablation_prompts=1,
        out=folder / "stable-real" / file_name(str(scorer)),
        progress=False,
    ).frame


@cache
def half_model() -> Any:
    """The real model in bfloat16, loaded once per process."""
    return ct.load_model("smollm2", dtype="bfloat16")


def stability(folder: Path, processes: int) -> str:
    """The section of sets that are found once more."""
    real_model.cached(folder / "known.parquet", real_model.known_topics)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        of_embedded = pool.submit(stable_embedded, folder)
        of_real = pd.concat(pool.map(partial(stable_real, folder), LEADERS))
        embedded_frame = of_embedded.result()
    found_again = ("", "_wording", "_bfloat16")

    def overlaps(row: Mapping[Any, Any]) -> list[str]:
        return [f"{row[f'jaccard{x}']:.2f} ({row[f'by_chance{x}']:.3f})" for x in found_again]

    head = ["scorer", "recipe", "halves", "wording", "bfloat16"]
    real_body = [
        [row["scorer"], row["recipe"], *overlaps(row)] for row in of_real.to_dict("records")
    ]
    body = [
        [
            *(row["scorer"], row["recipe"], *overlaps(row)),
            f"{row['average_precision']:.2f}",
            f"{row['spearman']:.2f} [{row['spearman_low']:.2f}, {row['spearman_high']:.2f}]",
            f"{row['seconds']:.1f}",
        ]
        for row in embedded_frame.to_dict("records")
    ]
    lines = [
        "# Sets found once more",
        "",
        "`python tests/benchmarks/league.py stable`; Jaccard index (by chance) of the best 1 % "
        "with what is found on the other half of the topics, in another wording, and by the same "
        "weights in bfloat16. Seed 0.",
        "",
        f"smollm2, split 0 of the relations, {N_FOUND} cultural prompts; the other wording is the "
        "second, of the same relations:",
        "",
        *table(head, real_body, n_text=2),
        "",
        f"The embedded model, seed 0, {N_ROWS} cultural prompts; another wording is another draw "
        "of questions, wordings and options; average precision against the key, Spearman with "
        "exact ablation, CPU seconds:",
        "",
        *table([*head, "AP", "Spearman", "seconds"], body, n_text=2),
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------- both


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, n_text: int) -> list[str]:
    """Markdown; the first columns are text."""
    rule = ["---"] * n_text + ["---:"] * (len(head) - n_text)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def main() -> None:
    """One section."""
    parser = results.parser(__doc__)
    parser.add_argument("which", choices=("embedded", "real", "confirm", "stable"))
    parser.add_argument("--folder", type=Path, default=Path("build/league"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    makers = {
        "embedded": embedded_report,
        "real": real_report,
        "confirm": confirmation,
        "stable": stability,
    }
    results.show(makers[arguments.which](arguments.folder, arguments.processes), arguments.out)


if __name__ == "__main__":
    main()
