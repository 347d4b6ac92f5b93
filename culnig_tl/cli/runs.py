"""The whole method: on the embedded model, or on your own."""

from pathlib import Path
from typing import Annotated

import typer

import culnig_tl as ct
from culnig_tl.cli.options import (
    OUT,
    SITES,
    Backend,
    Device,
    Dtype,
    ModelName,
    Quiet,
    Sites,
    TokenBudget,
    benchmarks_of,
    load,
    plain_errors,
    rows_of,
)
from culnig_tl.cli.output import print_grade, print_run


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """The whole method on the embedded model, whose culture neurons are known.

    Example:  culnig-tl demo
    """
    with plain_errors(resumable=out):
        run = ct.culnig(load("atlas", quiet=quiet), out=out, progress=not quiet)
        print_run(run)
        print_grade(run)
        OUT.print(
            "The culture neurons of the embedded model were planted by training on interventions: "
            "it shows how the method works and lets a finder be graded, and is no evidence about "
            "large models.\n"
        )
        OUT.print(f"Report: {run.report()}", soft_wrap=True)


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
    token_budget: TokenBudget = 8192,
    quiet: Quiet = False,
) -> None:
    """Score, select, mask and compare on your own model and rows; resumable.

    Example:  culnig-tl run my-model --cultural identify.csv --control control.csv
    --recognition countries.csv --benchmark culture=test.csv --benchmark general=qa.csv --out
    runs/mine
    """
    with plain_errors(resumable=out):
        result = ct.culnig(
            load(model, backend=backend, dtype=dtype, device=device, quiet=quiet),
            out=out,
            cultural=rows_of(cultural),
            control=rows_of(control),
            recognition=rows_of(recognition),
            benchmarks=benchmarks_of(benchmark),
            sites=SITES[sites],
            factor=factor,
            n_random=n_random,
            n_cards=cards,
            token_budget=token_budget,
            progress=not quiet,
        )
        print_run(result)
        OUT.print(f"Report: {result.report()}", soft_wrap=True)
