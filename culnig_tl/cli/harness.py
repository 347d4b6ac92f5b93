"""Tasks of lm-evaluation-harness, for a model as it is, masked, and with random sets masked."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

import culnig_tl as ct
from culnig_tl.cli.options import (
    OUT,
    Device,
    Dtype,
    Quiet,
    load,
    neurons_of,
    plain_errors,
    reserved,
)
from culnig_tl.errors import check_number
from culnig_tl.export import harness as lm_harness
from culnig_tl.files import write_csv


def harness(
    model: Annotated[str, typer.Option(help="A folder in Hugging Face layout, or a hub name.")],
    tasks: Annotated[str, typer.Option(help="Tasks or groups of the harness, by commas.")],
    neurons: Annotated[
        str,
        typer.Option(
            help="Neurons to scale: a file (.json), or names (L0.mlp.hook_post.152), by commas."
        ),
    ],
    factor: Annotated[float, typer.Option(help="0 suppresses, 2 enhances.")] = 0.0,
    random: Annotated[int, typer.Option(help="Random sets of as many neurons.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write all results (.csv).")] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="A folder with task files (.yaml) of your own.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before each question.")] = None,
    limit: Annotated[
        float | None, typer.Option(help="Questions per task, or their share if below 1.")
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Prompts per pass, or auto.")] = "1",
    chat: Annotated[bool, typer.Option("--chat", help="Use the model's chat template.")] = False,
    dtype: Dtype = "float32",
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Tasks of lm-evaluation-harness: the model as it is, masked, and with random sets masked.

    Example:  culnig-tl harness --model my-model --tasks blimp,hellaswag --neurons general.json
    --factor 0 --random 3
    """
    with plain_errors(), reserved(out):
        check_number("factor", factor)
        selected = neurons_of(neurons)
        place = {} if device is None else {"device": device}
        results = lm_harness.evaluate(
            model,
            [name.strip() for name in tasks.split(",")],
            selected,
            factor=factor,
            random=_drawn(model, selected, random, dtype=dtype, quiet=quiet),
            include_path=include_path,
            num_fewshot=num_fewshot,
            limit=limit,
            chat=chat,
            batch_size=batch_size,
            dtype=dtype,
            **place,
        )
        if out is not None:
            write_csv(out, results)
        _print(results, n_neurons=len(selected), factor=factor, n_random=random)


def _drawn(
    name: str, neurons: ct.NeuronSet, n_random: int, *, dtype: str, quiet: bool
) -> list[ct.NeuronSet]:
    """Random sets, as `random_neurons` draws them; it needs a model with hook points."""
    if not n_random:
        return []
    hooked = load(name, dtype=dtype, device="cpu", quiet=quiet)
    return [ct.random_neurons(hooked, like=neurons, seed=seed) for seed in range(n_random)]


def _print(results: pd.DataFrame, *, n_neurons: int, factor: float, n_random: int) -> None:
    OUT.print(f"\n{n_neurons} neurons, multiplied by {factor:g} (masked).")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    comparison = lm_harness.comparison(results)
    for number, heading in enumerate(_HEADINGS[: 6 + (n_random > 0)]):
        table.add_column(heading, justify="right" if number > 2 else "left", no_wrap=True)
    for row in comparison.to_dict("records"):
        cells = [f"{row['original']:.4f}", f"{row['masked']:.4f}", f"{row['change']:+.4f}"]
        if n_random:
            spread = "" if pd.isna(row["random_sd"]) else f" ± {row['random_sd']:.4f}"
            cells.append(f"{row['random_change']:+.4f}{spread}")
        table.add_row(row["task"], row["metric"], row["filter"], *cells)
    OUT.print(table)


_HEADINGS = ("task", "metric", "filter", "original", "masked", "change", "random sets' change")
