"""Fine-tune chosen modules, and see at once what it did to culture and to everything else."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from culnig_tl.cli.options import (
    OUT,
    ModelName,
    Quiet,
    TokenBudget,
    benchmarks_of,
    neurons_of,
    plain_errors,
    rows_of,
)
from culnig_tl.finetuning import Arm, FineTuningStudy, finetuning_study


def finetune(
    model: ModelName,
    task: Annotated[str, typer.Option(help="Questions to train on.")],
    task_test: Annotated[str, typer.Option(help="Other questions of the task.")],
    neurons: Annotated[str, typer.Option(help="Culture neurons: a file, or names with commas.")],
    benchmark: Annotated[
        list[str],
        typer.Option(help="NAME=ROWS to measure before and after; repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the study; a stopped one is resumed.")],
    arm: Annotated[
        list[str] | None,
        typer.Option(help="top, bottom (default), random, all, protect, protect all; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings per arm.", min=1)] = 1,
    share: Annotated[float, typer.Option(help="Budget, of all parameters.", min=0, max=1)] = 0.10,
    kind: Annotated[Literal["mlp", "attn", "both"], typer.Option(help="Kind of modules.")] = "mlp",
    method: Annotated[
        Literal["direct", "lora"], typer.Option(help="The weights themselves, or LoRA, merged.")
    ] = "direct",
    learning_rate: Annotated[float, typer.Option(help="Constant.")] = 3e-5,
    epochs: Annotated[float, typer.Option(help="Times that all rows are read.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Rows per pass.", min=1)] = 4,
    accumulation: Annotated[int, typer.Option(help="Passes per step.", min=1)] = 4,
    mode: Annotated[
        Literal["argmax", "options", "likelihood"], typer.Option(help="What counts as an answer.")
    ] = "argmax",
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the models, in OUT/models/ARM-SEED.")
    ] = True,
    token_budget: TokenBudget = 8192,
    quiet: Quiet = False,
) -> None:
    """Fine-tune the modules with fewest culture neurons (or others), with answers before and after;
    resumable.

    Example:  culnig-tl finetune atlas --task atlas-sums:identify --task-test atlas-sums:test
    --neurons neurons.json --benchmark culture=atlas:test --arm bottom --arm top --out runs/tuned
    """
    with plain_errors(resumable=out):
        study = finetuning_study(
            model,
            rows_of(task),
            rows_of(task_test),
            neurons=neurons_of(neurons),
            benchmarks=benchmarks_of(benchmark),
            out=out,
            arms=cast(list[Arm], arm or ["bottom"]),
            seeds=range(seeds),
            share=share,
            kind=kind,
            method=method,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            accumulation=accumulation,
            mode=mode,
            token_budget=token_budget,
            keep=keep,
            progress=not quiet,
        )
        _print(study)
        models = f"Models: {out / 'models'}. " if keep else ""
        OUT.print(f"{models}Tables: {out}", soft_wrap=True)


def _print(study: FineTuningStudy) -> None:
    """Before, after and change of every benchmark, one row per arm."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(
        ("benchmark", "arm", "before, %", "after, %", "change, points", "P(answer)")
    ):
        table.add_column(heading, justify="right" if number > 1 else "left", no_wrap=True)
    for row in study.frame.to_dict("records"):
        table.add_row(
            str(row["benchmark"]),
            str(row["arm"]),
            f"{row['accuracy_before']:.1f}",
            f"{row['accuracy_after']:.1f}",
            f"{row['change']:+.1f} \\[{row['change_low']:+.1f}, {row['change_high']:+.1f}]",
            f"{row['probability_change']:+.3f}",
        )
    OUT.print(table)
    OUT.print(
        "[dim]In brackets, 95 % intervals over questions and seeds. P(answer): change of its "
        "mean.[/dim]\n"
    )
