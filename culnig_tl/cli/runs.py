"""The whole method on your own model."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import culnig_tl as ct
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
    Sites,
    TemplateName,
    TokenBudget,
    Trust,
    benchmarks_of,
    load,
    plain_errors,
    rows_of,
)
from culnig_tl.cli.output import print_run


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
    factor: Annotated[float, typer.Option(help="0 suppresses, 2 enhances.")] = 0.0,
    n_random: Annotated[int, typer.Option(help="Number of random sets.", min=0)] = 10,
    cards: Annotated[
        int, typer.Option(help="Number of whole neuron cards; 0 leaves them out.", min=0)
    ] = 12,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: Device = None,
    n_ctx: Context = None,
    trust: Trust = False,
    chat: Chat = True,
    template: TemplateName = None,
    token_budget: TokenBudget = 8192,
    quiet: Quiet = False,
) -> None:
    """Score, select, mask and compare on your own model and rows; resumable.

    Example:  culnig-tl run my-model --cultural identify.csv --control control.csv
    --recognition countries.csv --benchmark culture=test.csv --benchmark general=qa.csv --out
    runs/mine
    """
    with plain_errors(resumable=out):
        hooked = load(
            model,
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
            factor=factor,
            n_random=n_random,
            n_cards=cards,
            progress=not quiet,
        )
        print_run(result)
        OUT.print(f"Report: {result.report()}", soft_wrap=True)
