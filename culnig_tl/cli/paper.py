"""The paper in one command."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from datasets import Dataset
from rich.box import SIMPLE_HEAD
from rich.table import Table

import culnig_tl as ct
from culnig_tl.benchmarks import PAPER_BENCHMARKS, paper_rows
from culnig_tl.cli.engines import (
    Address,
    DeviceMap,
    EngineName,
    GpusPerWorker,
    Processes,
    is_main,
    launch,
    loaded,
)
from culnig_tl.cli.options import (
    OUT,
    SITES,
    Backend,
    Context,
    Device,
    Dtype,
    Quiet,
    Sites,
    TokenBudget,
    Trust,
    plain_errors,
)
from culnig_tl.cli.output import print_warnings
from culnig_tl.errors import UnknownNameError
from culnig_tl.evaluation import Design, Mode, asks_for_letters, chance_warning
from culnig_tl.files import replacing
from culnig_tl.hooked_model import HookedModel
from culnig_tl.pipeline import Plan

_FACTORS = (0.0, 2.0)
_SAMPLE = 24
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def paper(
    model: Annotated[str, typer.Option(help="A hub name or a folder in Hugging Face layout.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; a stopped run is resumed.")],
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with a subfolder for each benchmark; else from the hub."),
    ] = None,
    benchmarks: Annotated[
        str, typer.Option(help="Benchmarks to test on, separated by commas.")
    ] = ",".join(PAPER_BENCHMARKS),
    limit: Annotated[
        int | None, typer.Option(help="At most so many prompts of each set: a small sample.", min=1)
    ] = None,
    n_random: Annotated[int, typer.Option(help="Number of random sets of each kind.", min=1)] = 10,
    layer_matched: Annotated[
        bool, typer.Option(help="Also random sets with as many neurons in each layer.")
    ] = True,
    random_design: Annotated[
        Design | None,
        typer.Option(
            help="split: the random sets share the questions, so that ten cost one evaluation (the "
            "default with --limit); full: as published.",
        ),
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="argmax (published): the likeliest token; options: of the options.")
    ] = "argmax",
    sites: Sites = "paper",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run would take.")
    ] = False,
    backend: Backend = "auto",
    dtype: Dtype = "bfloat16",
    device: Device = None,
    n_ctx: Context = None,
    trust: Trust = False,
    token_budget: TokenBudget = 8192,
    processes: Processes = None,
    engine: EngineName = "local",
    address: Address = None,
    gpus_per_worker: GpusPerWorker = 1,
    device_map: DeviceMap = None,
    quiet: Quiet = False,
) -> None:
    """The paper's experiment: neurons found on BLEnD, suppressed and doubled, on all benchmarks.

    Weights are bfloat16 and MLP neurons those of gate_proj, as published. Says first what it will
    take; writes table.csv, table.md, table.tex and report.html.

    Example:  culnig-tl paper --model google/gemma-3-12b-it --out runs/gemma --dry-run
    """
    with plain_errors(resumable=None if dry_run else out, shared=True):
        if not dry_run and launch(processes, engine):
            return
        names = [name.strip() for name in benchmarks.split(",") if name.strip()]
        data, tests = paper_rows(names, data_dir=data_dir, limit=limit)
        hooked, workers = loaded(
            model,
            engine=engine,
            processes=processes,
            address=address,
            gpus_per_worker=gpus_per_worker,
            device_map=device_map,
            backend=backend,
            dtype=dtype,
            device=device,
            n_ctx=n_ctx,
            trust=trust,
            quiet=quiet,
        )
        n_matched = n_random if layer_matched else 0
        design = random_design or ("full" if limit is None else "split")
        n_sets = {
            "full": 1 + len(_FACTORS) * (1 + n_random + n_matched),
            "split": 1 + len(_FACTORS) * (2 + layer_matched),
        }
        plan = ct.estimate(
            hooked,
            data,
            tests,
            n_sets=n_sets[design],
            sites=SITES[sites],
            token_budget=token_budget,
        )
        if is_main():
            _print_plan(plan, {name: plan.with_sets(n) for name, n in n_sets.items()}, design)
            print_warnings(filter(None, [_chance_of_letters(hooked, tests, mode)]))
        if dry_run:
            return
        run = ct.culnig(
            hooked,
            out=out,
            cultural=data["cultural"],
            control=data["control"],
            recognition=data["recognition"],
            benchmarks=tests,
            sites=SITES[sites],
            factor=_FACTORS,
            n_random=n_random,
            n_layer_matched=n_matched,
            random_design=design,
            mode=mode,
            token_budget=token_budget,
            engine=workers,
            progress=not quiet,
        )
        if not is_main():
            return
        _write_tables(run, model)
        print_warnings(run.warnings)
        OUT.print(f"Report: {run.report()}", soft_wrap=True)


def _chance_of_letters(model: HookedModel, tests: Mapping[str, Dataset], mode: Mode) -> str:
    """Whether letter questions are at chance, by a small sample of each benchmark; "" if not."""
    samples = {
        name: ct.prepare(model, rows.shuffle(seed=0).select(range(min(_SAMPLE, len(rows)))))
        for name, rows in tests.items()
    }
    letters = {name: sample for name, sample in samples.items() if asks_for_letters(sample)}
    correct = {
        name: ct.evaluate(model, each, mode=mode)["correct"] for name, each in letters.items()
    }
    return chance_warning(letters, correct)


def _print_plan(plan: Plan, by_design: Mapping[str, Plan], design: str) -> None:
    table = Table(box=SIMPLE_HEAD, padding=0)  # its eight columns fit into 80 characters
    for heading in ("stage", "data"):
        table.add_column(heading, overflow="fold")
    for heading in ("questions", "prompts", "tokens", "longest", "passes", "time"):
        table.add_column(heading, justify="right", overflow="fold")
    for row in plan.stages.to_dict("records"):
        counts = (f"{row[n]:,}" for n in ("questions", "prompts", "tokens", "longest", "passes"))
        table.add_row(row["stage"], row["data"], *counts, _duration(row["seconds"]))
    OUT.print(table)
    low, high = map(_duration, plan.range)
    (other,) = by_design.keys() - {design}
    OUT.print(
        f"About {_duration(plan.seconds)} ({low} to {high}, as passes over two small batches "
        f"took) in one process, and {plan.peak / 1e9:.2g} GB of memory "
        f"({plan.weights / 1e9:.2g} weights, {plan.batch / 1e9:.2g} the largest batch, "
        f"{plan.tables / 1e9:.2g} score tables; the process holds {plan.held / 1e9:.2g}). With "
        f"--random-design {other}: about {_duration(by_design[other].seconds)}.",
        soft_wrap=True,
        highlight=False,
    )


def _duration(seconds: float) -> str:
    size, unit = next(((s, u) for s, u in _UNITS if seconds >= s), _UNITS[-1])
    return f"{seconds / size:.1f} {unit}"


def _write_tables(run: ct.Run, model: str) -> None:
    """The paper's table in the terminal and in files, with the published rows where there are."""
    try:
        table = ct.tables.published(model, run.table)
    except UnknownNameError:
        table = run.table  # nothing was published about this model
    texts = {"table.md": ct.tables.to_markdown(table), "table.tex": ct.tables.to_latex(table)}
    for name, text in texts.items():
        with replacing(run.out / name) as part:
            part.write_text(text, encoding="utf-8")
    wide = ct.tables.paper_table(table)
    for part in _fitting(wide, OUT.width):
        printed = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, heading in enumerate(part.columns):
            printed.add_column(heading, justify="right" if number else "left", overflow="fold")
        for line in part.to_numpy().tolist():
            printed.add_row(*line)
        OUT.print(printed)
    OUT.print(ct.tables.to_markdown(table).strip().splitlines()[-1], style="dim", highlight=False)


def _fitting(wide: pd.DataFrame, width: int) -> Iterator[pd.DataFrame]:
    """The paper's table in parts as wide as the terminal, each with the conditions before it."""
    takes = {name: max(len(name), *wide[name].str.len()) + 2 for name in wide.columns}
    always, names = list(wide.columns[:2]), []
    for name in wide.columns[2:]:
        if names and sum(takes[each] for each in (*always, *names, name)) >= width:
            yield wide[[*always, *names]]
            names = []
        names.append(name)
    yield wide[[*always, *names]]
