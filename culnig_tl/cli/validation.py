"""Does a finding hold? Every judge of it, on your own model."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from culnig_tl.cli.options import (
    OUT,
    Backend,
    Device,
    Dtype,
    ModelName,
    Quiet,
    TokenBudget,
    benchmarks_of,
    load,
    plain_errors,
    rows_of,
)
from culnig_tl.questions import prepare
from culnig_tl.report import write_validation
from culnig_tl.validation import validate as validated


def validate(
    model: ModelName,
    cultural: Annotated[str, typer.Option(help="Cultural questions that find neurons.")],
    benchmark: Annotated[
        list[str],
        typer.Option(help="NAME=ROWS that test: cultural and general ones; repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the tables; a stopped one is resumed.")],
    control: Annotated[str | None, typer.Option(help="The same without the question.")] = None,
    recognition: Annotated[str | None, typer.Option(help="Country-name control.")] = None,
    general: Annotated[str | None, typer.Option(help="General questions, the same form.")] = None,
    mode: Annotated[
        Literal["argmax", "options", "likelihood"], typer.Option(help="What counts as an answer.")
    ] = "argmax",
    draws: Annotated[int, typer.Option(help="Resamples of the questions.", min=1)] = 100,
    n_random: Annotated[int, typer.Option(help="Random rankings beside curves.", min=1)] = 5,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: Device = None,
    token_budget: TokenBudget = 8192,
    quiet: Quiet = False,
) -> None:
    """The league of methods, faithfulness curves and membership, as tables and a page; resumable.

    Example:  culnig-tl validate atlas --cultural atlas:identify --control atlas-control:identify
    --benchmark culture=atlas:test --benchmark general=atlas-commonsense:test --out runs/valid
    """
    with plain_errors(resumable=out):
        hooked = load(model, backend=backend, dtype=dtype, device=device, quiet=quiet)
        ready = partial(prepare, hooked, token_budget=token_budget)
        given = {
            "cultural": cultural,
            "control": control,
            "recognition": recognition,
            "general": general,
        }
        result = validated(
            hooked,
            {role: ready(rows_of(source)) for role, source in given.items() if source is not None},
            {name: ready(rows) for name, rows in benchmarks_of(benchmark).items()},
            out=out,
            draws=draws,
            n_random=n_random,
            mode=mode,
            progress=not quiet,
        )
        page = write_validation(result, out / "validation.html", model_name=model)
        best = result.league.frame.nlargest(1, "selectivity").iloc[0]
        OUT.print(
            f"{len(result.membership.core())} of {len(result.membership.neurons)} neurons are in "
            f"at least 90 % of {draws} resamples; most selective: {best['scorer']}, "
            f"{best['recipe']}.\nPage: {page}",
            soft_wrap=True,
        )
