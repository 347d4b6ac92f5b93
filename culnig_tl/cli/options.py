"""What the commands share: options, where they print, and what becomes of a mistake."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from errno import EDQUOT, EFBIG, ENOSPC
from glob import escape as escape_glob
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, cast

import typer
from datasets import Dataset
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging as transformers_logging

import culnig_tl as ct
from culnig_tl.attribution import METHODS, require_single_process
from culnig_tl.errors import CulnigError, InvalidInputError, UnwritableError
from culnig_tl.files import locked
from culnig_tl.questions import Split

OUT = Console()
ERRORS = Console(stderr=True)

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
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Take a model whose logits are not those of transformers, with a warning."
    ),
]
Context = Annotated[
    int | None,
    typer.Option("--n-ctx", help="Longest prompt in tokens, instead of the model's own limit."),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat/--no-chat", help="--no-chat: plain text on a model that has a chat template."
    ),
]
TemplateName = Annotated[
    str | None,
    typer.Option("--template", help="Name of the chat template, where the model has several."),
]
Sites = Annotated[
    Literal["default", "paper"],
    typer.Option(help="default: mlp.hook_post, q, k, v; paper: mlp.hook_pre, q, k, v."),
]
Method = Annotated[
    str,
    typer.Option(help=f"How a neuron's share in an answer is estimated: {', '.join(METHODS)}."),
]
SpecificRecipe = Annotated[
    Literal["published", "contrast"],
    typer.Option(
        help="Neurons of one culture by the paper's rule, or by contrast with all other cultures."
    ),
]
RandomDesign = Annotated[
    Literal["full", "split"],
    typer.Option(
        help="split: the random sets share the questions, so that ten cost one evaluation."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
TokenBudget = Annotated[int, typer.Option(help="Tokens per pass; smaller needs less memory.")]
_FULL = (ENOSPC, EDQUOT, EFBIG)
_AGAIN = 0.05  # seconds
SITES = {"default": ct.DEFAULT_SITES, "paper": ct.PAPER_SITES}


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send, as an exception that lets a run keep what is done."""


def stop_as(number: int) -> KeyboardInterrupt:
    """The exception that a signal raises here."""
    return _Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def plain_errors(resumable: Path | None = None, *, shared: bool = False) -> Iterator[None]:
    """A user's mistake becomes one sentence; ctrl-C and SIGTERM say where a run can be resumed.

    What several processes do not share (``shared``) is refused in all but a single one.
    """
    try:
        with _stoppable():
            if not shared:
                require_single_process()
            yield
    except CulnigError as error:
        _print_error(str(error))
        raise typer.Exit(2) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _print_error(f"There is no room left on a disk ({error}); free some and start again.")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as stop:
        ERRORS.print(_what_is_kept(resumable), soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(143 if isinstance(stop, _Terminated) else 130) from stop


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM raises, inside a ``with`` block, and so does each stop that Python swallows.

    Where a signal comes as an object is being deleted, Python prints the exception and goes on; it
    is then sent again.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    def send_again(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            report(unraisable)
            return
        is_terminated = isinstance(unraisable.exc_value, _Terminated)
        number = signal.SIGTERM if is_terminated else signal.SIGINT
        threading.Timer(_AGAIN, signal.raise_signal, [number]).start()

    before, report = signal.signal(signal.SIGTERM, terminate), sys.unraisablehook
    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = report
        signal.signal(signal.SIGTERM, before)


def _print_error(sentence: str) -> None:
    ERRORS.print(f"[red]Error:[/red] {escape(sentence)}", soft_wrap=True, highlight=False)


def _what_is_kept(resumable: Path | None) -> str:
    """What a stopped command says: that it goes on from a file or folder, if that is there."""
    if resumable is None:
        return "Stopped."
    numbered = resumable.parent.glob(f"{escape_glob(resumable.name)}.[0-9]*")
    if not resumable.exists() and not any(numbered):
        return "Stopped before anything was finished; nothing is kept."
    return f"Stopped; what is finished is kept in {resumable}, the same command goes on from there."


@contextmanager
def reserved(out: Path | None, *, overwrite: bool = True) -> Iterator[None]:
    """Make sure, before anything is computed, that a file can be written, by this process alone.

    Raises:
        UnwritableError: it is a folder, or in one that cannot be written.
        InvalidInputError: it is there already, or another process is about to write it.
    """
    if out is None:
        yield
        return
    if out.is_dir():
        raise UnwritableError(f"{out} is a folder; give the name of a file in it.")
    if out.exists() and not overwrite:
        raise InvalidInputError(
            f"{out} is there already; give another name, or --force to write over it."
        )
    with locked(out):
        yield


def load(name: str, *, quiet: bool, **options: Any) -> Any:
    """The model; ``quiet`` hides the progress bars of transformers while it loads."""
    with _without_bars() if quiet else nullcontext():
        return ct.load_model(name, **options)


@contextmanager
def _without_bars() -> Iterator[None]:
    were_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            transformers_logging.enable_progress_bar()


def rows_of(source: str) -> Dataset:
    """Rows of a file, or of a benchmark given as NAME:SPLIT."""
    name, separator, split = source.rpartition(":")
    if not separator or Path(source).exists():
        return ct.questions_from_frame(source)
    if split not in ("identify", "test", "all"):
        raise InvalidInputError(
            f"{source!r} is neither a file nor NAME:SPLIT; the splits are identify, test and all."
        )
    return ct.load_benchmark(name, split=cast(Split, split))


def neurons_of(source: str) -> ct.NeuronSet:
    """Neurons of a file, or by their names."""
    if source.endswith(".json") or Path(source).exists():
        return ct.NeuronSet.load(source)
    return ct.NeuronSet.of([name.strip() for name in source.split(",")])


def benchmarks_of(named: list[str]) -> dict[str, Dataset]:
    pairs = [text.partition("=") for text in named]
    if broken := [
        text for text, (_, equals, source) in zip(named, pairs, strict=True) if not source
    ]:
        raise InvalidInputError(
            f"--benchmark {broken[0]!r} has no name; write NAME=ROWS, e.g. culture=test.csv."
        )
    return {name: rows_of(source) for name, _, source in pairs}
