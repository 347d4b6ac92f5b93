"""The whole method at once: on a real pretrained model, then on the embedded one, whose culture
neurons are known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from datasets import Dataset

import culnig_tl as ct
from culnig_tl.cli.options import OUT, Quiet, load, plain_errors
from culnig_tl.cli.output import print_grade, print_run, print_selectivity
from culnig_tl.questions import Split

_CULTURES = (
    *("China", "South Korea", "Indonesia", "Iran"),
    *("Ethiopia", "Greece", "France", "Mexico"),
)
_N_GENERAL = 110
_WORDINGS: Mapping[Split, str] = {"identify": "wording-1", "test": "wording-2"}
"""What tests is another half of the relations in another wording."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run on the embedded model.")] = Path(
        "runs/demo"
    ),
    real: Annotated[Path, typer.Option(help="Folder of the run on the real model.")] = Path(
        "runs/real"
    ),
    only: Annotated[
        Literal["both", "real", "embedded"], typer.Option(help="Which of the two models.")
    ] = "both",
    quiet: Quiet = False,
) -> None:
    """The whole method on a real model and on the embedded one, whose culture neurons are known.

    Example:  culnig-tl demo
    """
    if only != "embedded":
        with plain_errors(resumable=real):
            _real(real, is_needed=only == "real", quiet=quiet)
    if only != "real":
        with plain_errors(resumable=out):
            _embedded(out, quiet=quiet)


def _real(out: Path, *, is_needed: bool, quiet: bool) -> None:
    """Half of the relations find neurons, the other half and general questions test them."""
    try:
        model = load("smollm2", quiet=quiet)
    except ct.errors.MissingFileError as error:
        if is_needed:
            raise
        OUT.print(f"The real model is left out: {error}", soft_wrap=True)
        return
    OUT.print(f"[bold]A real pretrained model[/bold]: {model.cfg.loaded_as}", soft_wrap=True)
    run = ct.culnig(
        model,
        out=out,
        **real_questions(),
        recipe="selective",
        mode="options",
        n_random=1,
        n_layer_matched=2,
        n_cards=3,
        token_budget=1024,
        progress=not quiet,
    )
    print_run(run)
    print_selectivity(run)
    OUT.print(f"Report: {run.report()}\n", soft_wrap=True)


def real_questions() -> dict[str, Any]:
    """The rows of the run on the real model: a quarter of the cloze benchmarks."""
    rows = {
        (name, split): _worded(
            ct.load_benchmark(f"cloze-{name}", split=split, cultures=_CULTURES), wording
        )
        for name in ("everyday", "geography")
        for split, wording in _WORDINGS.items()
    }
    general = {
        split: ct.load_benchmark("cloze-general", split=split, limit=_N_GENERAL)
        for split in _WORDINGS
    }
    cultural = ct.questions(
        rows["everyday", "identify"].to_list() + rows["geography", "identify"].to_list()
    )
    return {
        "cultural": cultural,
        "control": ct.control_of(cultural),
        "recognition": ct.load_benchmark(
            "cloze-countries", split="identify", cultures=_CULTURES, per_culture=8
        ),
        "general": general["identify"],
        "benchmarks": {
            "cloze-everyday": rows["everyday", "test"],
            "cloze-geography": rows["geography", "test"],
            "cloze-general": general["test"],
        },
        "culture_test": ct.load_benchmark("cloze", split="test", cultures=_CULTURES, limit=32),
    }


def _worded(rows: Dataset, wording: str) -> Dataset:
    return rows.select([row for row, name in enumerate(rows["template"]) if name == wording])


def _embedded(out: Path, *, quiet: bool) -> None:
    run = ct.culnig(load("atlas", quiet=quiet), out=out, n_cards=6, progress=not quiet)
    OUT.print("[bold]The embedded model[/bold], whose culture neurons are known.")
    print_run(run)
    print_grade(run)
    OUT.print(
        "The culture neurons of the embedded model were planted by training on interventions: "
        "it shows how the method works and lets a finder be graded, and is no evidence about "
        "large models.\n"
    )
    OUT.print(f"Report: {run.report()}", soft_wrap=True)
