"""Runs on many processes: options, and what starts and joins them."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
import typer
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import culnig_tl as ct
from culnig_tl.attribution import launched
from culnig_tl.cli.options import ERRORS, load, stop_as
from culnig_tl.errors import InvalidInputError
from culnig_tl.pipeline import Engine, OnRay

Processes = Annotated[
    str | None,
    typer.Option(
        help="Do the run in so many processes; auto: one for each GPU. Not needed under torchrun "
        "or srun, which start them."
    ),
]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="local: processes of one launch; ray: workers of a Ray cluster."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Ray: address of a running cluster, or auto; without it one starts here."),
]
GpusPerWorker = Annotated[
    int, typer.Option(help="Ray: GPUs of each worker, for models larger than one.", min=1)
]
DeviceMap = Annotated[
    str | None,
    typer.Option(help="auto: spread the model over the GPUs of its process (needs a bridge)."),
]
_LAST_LINES = 12


def number_of(processes: str | None) -> int | None:
    """The number of processes that was asked for.

    Raises:
        InvalidInputError: neither a number from 1 up nor ``auto``.
    """
    if processes is None:
        return None
    if processes == "auto":
        return max(1, torch.cuda.device_count())
    if not processes.isdecimal() or int(processes) < 1:
        raise InvalidInputError(
            f"--processes is {processes!r}; give a whole number from 1 up, or auto for one process "
            "for each GPU."
        )
    return int(processes)


def launch(processes: str | None, engine: str) -> bool:
    """Do this command in several processes of this machine, if that was asked for.

    Returns:
        Whether it was done; if not, this process is one of several already, or the only one.
    """
    number = number_of(processes)
    if engine == "ray" or number is None or number < 2 or launched() is not None:
        return False
    with TemporaryDirectory() as logs, _quiet():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=number,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(
                log_dir=logs, redirects=dict.fromkeys(range(1, number), Std.ALL)
            ),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "culnig_tl", *sys.argv[1:])
        except SignalException as stop:
            raise stop_as(stop.sigval) from stop
        except ChildFailedError as error:
            _report(error, number, Path(logs))
            raise typer.Exit(2) from error
    return True


def _report(error: ChildFailedError, number: int, logs: Path) -> None:
    """Say which process died, unless the first one has said why itself."""
    rank, failure = error.get_first_failure()
    if rank == 0 and failure.exitcode == 2:
        return
    ended = f"exit status {failure.exitcode}"
    if failure.exitcode < 0:
        ended = signal.Signals(-failure.exitcode).name
    written = [
        line
        for path in sorted(logs.rglob(f"{rank}/std*.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    ERRORS.print(
        f"[red]Error:[/red] process {rank} of {number} ended with {ended}, and the others were "
        "stopped; what is finished is kept, and the same command goes on from there.",
        soft_wrap=True,
        highlight=False,
    )
    for line in written[-_LAST_LINES:]:
        ERRORS.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the launcher's own account of a death."""
    log = logging.getLogger("torch.distributed.elastic")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def loaded(
    name: str,
    *,
    engine: str,
    processes: str | None,
    address: str | None,
    gpus_per_worker: int,
    device_map: str | None,
    quiet: bool,
    **options: Any,
) -> tuple[Any, Engine | None]:
    """The model, and the engine of the run: None for the processes of this launch.

    On a Ray cluster the workers' copies do the work, and this process holds one on the CPU.

    Raises:
        InvalidInputError: options of Ray without it.
    """
    if engine != "ray" and (address is not None or gpus_per_worker != 1):
        raise InvalidInputError(
            "--address and --gpus-per-worker are for a Ray cluster; add --engine ray."
        )
    if device_map is not None:
        options["device_map"] = device_map
    if engine != "ray":
        state = launched()
        if state is not None and options.get("device") is None and device_map is None:
            options["device"] = str(state.device)
        return load(name, quiet=quiet, **options), None
    on_workers = partial(ct.load_model, name, **options)
    here = {option: value for option, value in options.items() if option != "device_map"}
    model = load(name, quiet=quiet, **(here | {"device": "cpu"}))
    return model, OnRay(
        on_workers,
        address=address,
        workers=number_of(None if processes == "auto" else processes),
        gpus_per_worker=gpus_per_worker,
    )


def is_main() -> bool:
    """Whether this process is the one that prints and writes the report."""
    state = launched()
    return state is None or state.is_main_process
