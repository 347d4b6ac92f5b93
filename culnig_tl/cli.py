"""The same jobs from a shell: ``culnig-tl demo | score | select | evaluate | run``.

Each command is one call of the library; ``culnig-tl COMMAND --help`` shows examples. A user's
mistake prints one sentence and exits with 2; ctrl-C prints what is kept and exits with 130.
"""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer
from datasets import Dataset
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import culnig_tl as ct
from culnig_tl.errors import CulnigError, InvalidInputError
from culnig_tl.files import replacing
from culnig_tl.questions import Split

app = typer.Typer(
    help="Find, switch off and show the culture neurons of a language model (CULNIG).",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
_OUT = Console()
_ERRORS = Console(stderr=True)

ModelName = Annotated[
    str, typer.Argument(help="'atlas' (embedded), a folder in Hugging Face layout, or a hub name.")
]
Rows = Annotated[
    str,
    typer.Argument(
        help="A csv, json, jsonl or parquet file of questions, or NAME:SPLIT, e.g. atlas:test."
    ),
]
Backend = Annotated[
    Literal["auto", "hooked", "bridge"], typer.Option(help="TransformerLens backend.")
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", "float64"], typer.Option(help="Type of the weights.")
]
Device = Annotated[
    str | None, typer.Option(help="E.g. cpu or cuda; by default CUDA if there is one.")
]
Sites = Annotated[
    Literal["default", "paper"],
    typer.Option(help="default: mlp.hook_post, q, k, v; paper: mlp.hook_pre, q, k, v."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
TokenBudget = Annotated[int, typer.Option(help="Tokens a batch; smaller needs less memory.")]
_SITES = {"default": ct.DEFAULT_SITES, "paper": ct.PAPER_SITES}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """The whole method on the embedded model, whose culture neurons are known.

    Example:  culnig-tl demo
    """
    with _plain_errors(kept=out):
        run = ct.culnig(ct.load_model("atlas"), out=out, progress=not quiet)
        _show(run)
        _show_grade(run)
        _OUT.print(
            "The culture neurons of the embedded model were planted by training on interventions: "
            "it shows how the method works and lets a finder be graded, and is no evidence about "
            "large models.\n"
        )
        _OUT.print(f"Report: {run.report()}", soft_wrap=True)


@app.command()
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
    with _plain_errors(kept=out):
        result = ct.culnig(
            ct.load_model(model, backend=backend, dtype=dtype, device=device),
            out=out,
            cultural=_rows(cultural),
            control=_rows(control),
            recognition=_rows(recognition),
            benchmarks=_benchmarks(benchmark),
            sites=_SITES[sites],
            factor=factor,
            n_random=n_random,
            token_budget=token_budget,
            progress=not quiet,
        )
        _show(result)
        _OUT.print(f"Report: {result.report()}", soft_wrap=True)


@app.command()
def score(
    model: ModelName,
    rows: Rows,
    out: Annotated[Path, typer.Option(help="Where to write the scores (.safetensors).")],
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Cut negative scores to 0: for control questions.")
    ] = False,
    sites: Sites = "default",
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: Device = None,
    token_budget: TokenBudget = 8192,
    quiet: Quiet = False,
) -> None:
    """Score every neuron of a model on your rows.

    Example:  culnig-tl score atlas atlas:identify --out cultural.safetensors
    """
    with _plain_errors():
        scores = ct.attribute(
            ct.load_model(model, backend=backend, dtype=dtype, device=device),
            _rows(rows),
            sites=_SITES[sites],
            clamp=clamp,
            token_budget=token_budget,
            progress=not quiet,
        )
        scores.save(out)
        _OUT.print(
            f"{out}: {len(scores.cultures)} cultures, {scores.n_questions} questions, "
            f"{', '.join(scores.sites)}",
            soft_wrap=True,
        )


@app.command()
def select(
    cultural: Annotated[Path, typer.Option(help="Scores of the cultural questions.")],
    out: Annotated[Path, typer.Option(help="Where to write the neurons (.json).")],
    control: Annotated[Path | None, typer.Option(help="Scores of the control.")] = None,
    recognition: Annotated[Path | None, typer.Option(help="Scores of the country names.")] = None,
    culture: Annotated[
        str | None, typer.Option(help="Neurons of this culture; without it, culture-general ones.")
    ] = None,
    mlp_top: Annotated[float, typer.Option(help="General: share of MLP neurons.")] = 0.01,
    attention_top: Annotated[float, typer.Option(help="General: share of q, k, v.")] = 0.002,
    top: Annotated[float, typer.Option(help="Specific: share of all neurons.")] = 0.003,
    min_z: Annotated[float, typer.Option(help="Specific: least z-score.")] = 0.5,
    recognition_top: Annotated[float, typer.Option(help="Share to drop by country names.")] = 0.01,
) -> None:
    """Select culture-general neurons, or those of one culture, from scores.

    Example:  culnig-tl select --cultural cultural.safetensors --control control.safetensors
    --out general.json
    """
    with _plain_errors():
        scores = (
            ct.NeuronScores.load(cultural),
            ct.NeuronScores.load(control) if control is not None else None,
            ct.NeuronScores.load(recognition) if recognition is not None else None,
        )
        if culture is None:
            neurons = ct.culture_general(
                *scores,
                mlp_top=mlp_top,
                attention_top=attention_top,
                recognition_top=recognition_top,
            )
        else:
            neurons = ct.culture_specific(
                *scores, culture=culture, top=top, recognition_top=recognition_top, min_z=min_z
            )
        neurons.save(out)
        _OUT.print(f"{out}: {len(neurons)} neurons", soft_wrap=True)


@app.command()
def evaluate(
    model: ModelName,
    rows: Rows,
    neurons: Annotated[
        Path | None, typer.Option(help="Neurons to scale (.json); without it, the model as it is.")
    ] = None,
    factor: Annotated[float, typer.Option(help="0 suppresses, 2 enhances.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Where to write the answers (.csv).")] = None,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: Device = None,
    token_budget: TokenBudget = 16384,
    quiet: Quiet = False,
) -> None:
    """Accuracy and mean P(answer) on your rows, with neurons scaled or not.

    Example:  culnig-tl evaluate atlas atlas:test --neurons general.json --factor 0
    """
    with _plain_errors():
        answers = ct.evaluate(
            ct.load_model(model, backend=backend, dtype=dtype, device=device),
            _rows(rows),
            neurons=ct.NeuronSet.load(neurons) if neurons is not None else None,
            factor=factor,
            token_budget=token_budget,
            progress=not quiet,
        )
        if out is not None:
            with replacing(out) as part:
                answers.to_csv(part, index=False)
        _OUT.print(
            f"accuracy {100 * answers['correct'].mean():.1f} %, mean P(answer) "
            f"{answers['probability'].mean():.3f}, {len(answers)} prompts"
        )


@contextmanager
def _plain_errors(kept: Path | None = None) -> Iterator[None]:
    """A user's mistake becomes one sentence; ctrl-C says what is kept."""
    try:
        yield
    except CulnigError as error:
        _ERRORS.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interrupt:
        resume = (
            f"; what is finished is kept in {kept}, the same command goes on from there"
            if kept
            else ""
        )
        _ERRORS.print(f"Stopped{escape(resume)}.", soft_wrap=True, highlight=False)
        raise typer.Exit(130) from interrupt


def _rows(source: str) -> Dataset:
    """Rows of a file, or of a benchmark given as NAME:SPLIT."""
    name, separator, split = source.rpartition(":")
    if not separator or Path(source).exists():
        return ct.questions_from_frame(source)
    if split not in ("identify", "test", "all"):
        raise InvalidInputError(
            f"{source!r} is neither a file nor NAME:SPLIT; the splits are identify, test and all."
        )
    chosen: Split = split  # pyright: ignore[reportAssignmentType]
    return ct.load_benchmark(name, split=chosen)


def _benchmarks(named: list[str]) -> dict[str, Dataset]:
    pairs = [text.partition("=") for text in named]
    if broken := [
        text for text, (_, equals, source) in zip(named, pairs, strict=True) if not source
    ]:
        raise InvalidInputError(
            f"--benchmark {broken[0]!r} has no name; write NAME=ROWS, e.g. culture=test.csv."
        )
    return {name: _rows(source) for name, _, source in pairs}


def _show(run: ct.Run) -> None:
    """The table of a run: accuracy and mean P(answer), a row a benchmark and condition."""
    factor, n_random = run.settings["factor"], run.settings["n_random"]
    titles = {"original": "original", "general": "scaled", "random": "random"}
    _OUT.print(
        f"\n{len(run.general)} culture-general neurons, multiplied by {factor:g} (scaled), and "
        f"{n_random} random sets of as many (random)."
    )
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("benchmark", "neurons"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("accuracy, %", "change", "p", "mean P(answer)"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for benchmark, rows in run.table.groupby("benchmark", sort=False):
        for number, row in enumerate(rows.to_dict("records")):
            shown.add_row(
                "" if number else str(benchmark),
                titles[row["condition"]],
                _interval(row, "accuracy", ".1f"),
                "" if row["condition"] == "original" else f"{row['change']:+.1f}",
                "" if pd.isna(row["p_value"]) else f"{row['p_value']:.2g}".removeprefix("0"),
                _interval(row, "probability", ".3f"),
                end_section=number == len(rows) - 1,
            )
    _OUT.print(shown)
    _OUT.print(
        "[dim]In brackets, 95 % bootstrap intervals over questions. p: paired bootstrap, that "
        "accuracy drops no more than with random sets.[/dim]\n"
    )


def _interval(row: Mapping[Hashable, Any], measure: str, digits: str) -> str:
    """A value with its interval; probabilities without their leading zero, to fit 80 columns."""
    value, low, high = (
        f"{row[measure + end]:{digits}}".removeprefix("0") for end in ("", "_low", "_high")
    )
    return f"{value} \\[{low},{high}]"


def _show_grade(run: ct.Run) -> None:
    """How the found culture-general neurons agree with the embedded model's answer key."""
    ranked = ct.grade_scores(
        run.scores["cultural"], ct.answer_key("general"), control=run.scores["control"]
    )
    shown = Table(
        title="MLP neurons found, against the answer key", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in ("key", "neurons", "found", "precision", "recall", "F1"):
        shown.add_column(heading, justify="right")
    for name, verified in (("planted", False), ("verified by ablation", True)):
        result = ct.grade(run.general, ct.answer_key("general", verified=verified))
        shown.add_row(
            name,
            str(result.n_key),
            str(result.n_found),
            *(f"{value:.2f}" for value in (result.precision, result.recall, result.f1)),
        )
    _OUT.print(shown)
    _OUT.print(
        f"Ranking by score against the planted key: AUROC {ranked.auroc:.3f}, "
        f"average precision {ranked.average_precision:.3f}"
    )
