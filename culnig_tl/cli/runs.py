"""The whole method on your own model."""

from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import culnig_tl as ct
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
    Chat,
    Context,
    Device,
    Dtype,
    ModelName,
    Quiet,
    RandomDesign,
    Sites,
    SpecificRecipe,
    TemplateName,
    TokenBudget,
    Trust,
    benchmarks_of,
    plain_errors,
    rows_of,
)
from culnig_tl.cli.output import print_run
from culnig_tl.inspection import check_membership
from culnig_tl.questions import read_table


def run(
    model: ModelName,
    cultural: Annotated[str, typer.Option(help="Cultural questions to identify with.")],
    control: Annotated[str, typer.Option(help="The same rows without the question.")],
    recognition: Annotated[str, typer.Option(help="Country-name control.")],
    benchmark: Annotated[
        list[str],
        typer.Option(help="NAME=ROWS to measure with, e.g. culture=test.csv; repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; a stopped run is resumed.")],
    sites: Sites = "default",
    specific_recipe: SpecificRecipe = "published",
    factor: Annotated[float, typer.Option(help="0 suppresses, 2 enhances.")] = 0.0,
    n_random: Annotated[int, typer.Option(help="Number of random sets.", min=0)] = 10,
    random_design: RandomDesign = "full",
    cards: Annotated[
        int, typer.Option(help="Number of whole neuron cards; 0 leaves them out.", min=0)
    ] = 12,
    membership: Annotated[
        Path | None,
        typer.Option(help="membership.csv of culnig-tl validate, for the report's cards."),
    ] = None,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: Device = None,
    n_ctx: Context = None,
    trust: Trust = False,
    chat: Chat = True,
    template: TemplateName = None,
    token_budget: TokenBudget = 8192,
    processes: Processes = None,
    engine: EngineName = "local",
    address: Address = None,
    gpus_per_worker: GpusPerWorker = 1,
    device_map: DeviceMap = None,
    quiet: Quiet = False,
) -> None:
    """Score, select, mask and compare on your own model and rows; resumable, in one process or in
    many.

    Example:  culnig-tl run my-model --cultural identify.csv --control control.csv
    --recognition countries.csv --benchmark culture=test.csv --benchmark general=qa.csv --out
    runs/mine
    """
    with plain_errors(resumable=out, shared=True):
        if launch(processes, engine):
            return
        sure = None if membership is None else _membership_of(membership)
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
        ready = partial(ct.prepare, hooked, chat=chat, template=template, token_budget=token_budget)
        result = ct.culnig(
            hooked,
            out=out,
            cultural=ready(rows_of(cultural)),
            control=ready(rows_of(control)),
            recognition=ready(rows_of(recognition)),
            benchmarks={name: ready(rows) for name, rows in benchmarks_of(benchmark).items()},
            sites=SITES[sites],
            specific_recipe=specific_recipe,
            factor=factor,
            n_random=n_random,
            random_design=random_design,
            n_cards=cards,
            engine=workers,
            progress=not quiet,
        )
        if not is_main():
            return
        print_run(result)
        OUT.print(f"Report: {result.report(membership=sure)}", soft_wrap=True)


def _membership_of(path: Path) -> pd.DataFrame:
    """The frame of a file, whose cells are text."""
    frame = read_table(path)
    numbers = [name for name in ("layer", "neuron", "membership") if name in frame]
    frame[numbers] = frame[numbers].apply(pd.to_numeric, errors="coerce")
    check_membership(frame)
    return frame
