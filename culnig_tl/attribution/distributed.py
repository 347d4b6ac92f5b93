"""Questions shared among processes, and their sums put together, by accelerate.

Active only where torchrun, ``accelerate launch`` or ``srun`` started several processes. Prompts are
dealt out one by one, none twice and none made up, so shares differ by one prompt at most; every
process holds the whole model and ends with the same scores.
"""

import atexit
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from itertools import cycle
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, patch_environment, reduce
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Batch
from culnig_tl.scores import ScoreSums

_LONGEST_PIECE = timedelta(days=7)
"""How long a process waits for the others."""
_FIRST_PORT, _N_PORTS = 20000, 10000


def launched() -> PartialState | None:
    """This process among those that were launched together, or None where it is the only one.

    ``state.device`` is this process's own device, to load the model on; ``state.is_main_process``
    is true of the one that should write and show.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    by_torchrun = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    by_srun = {} if together or by_torchrun else of_slurm(os.environ)
    if not (together or by_torchrun or by_srun):
        return None
    with patch_environment(**by_srun) if by_srun else nullcontext():
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_LONGEST_PIECE)
    if not together:  # left open, its threads now and then abort the process as it ends
        atexit.register(state.destroy_process_group)
    return state if state.num_processes > 1 else None


def of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that torchrun would have set, where ``srun`` started several tasks; else none.

    A batch script is not a task of its own job, and a step of one task is alone. Tasks meet at
    MASTER_ADDR and MASTER_PORT if these are set, else at the first host of the step, on a port that
    follows from the job's number.

    Raises:
        InvalidInputError: the hosts are given in a form that names no first one.

    Example:
        >>> of_slurm({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1",
        ...           "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "gpu[03-04,9]"})["MASTER_ADDR"]
        'gpu03'
    """
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "SLURM_PROCID" not in environment:
        return {}
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or _first_host(environment),
        "MASTER_PORT": environment.get("MASTER_PORT")
        or str(_FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % _N_PORTS),
    }


def _first_host(environment: Mapping[str, str]) -> str:
    """The first of hosts as SLURM lists them: ``a1``, ``a1,b2`` or ``a[01-04,7],b``."""
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\])?(?:,|$)", hosts)
    if match is None:
        raise InvalidInputError(
            f"srun started several processes on the hosts {hosts!r}, of which no first one can be "
            "read; set MASTER_ADDR to the name of the host of task 0."
        )
    return match[1] + (match[2] or "")


def require_single_process() -> None:
    """Refuse to do in each of several processes what one of them should do.

    Raises:
        InvalidInputError: several processes were launched together.
    """
    state = launched()
    if state is not None:
        raise InvalidInputError(
            f"Each of {state.num_processes} processes would do this and write the same files: "
            "processes share scoring, whole runs and a training (culnig-tl score, run and paper; "
            "ct.attribute, ct.culnig and ct.finetune), nothing else; start this in one process."
        )


def own_path(path: str | Path, state: PartialState | None) -> Path:
    """A file of this process alone: the path, numbered where there are several processes."""
    return Path(path) if state is None else Path(f"{path}.{state.process_index}")


def share(batches: Sequence[Batch], state: PartialState) -> list[Batch]:
    """This process's prompts: every ``num_processes``-th, with the padding of their batch.

    Raises:
        InvalidInputError: fewer prompts than processes.
    """
    n_prompts = sum(map(len, batches))
    if n_prompts < state.num_processes:
        raise InvalidInputError(
            f"{state.num_processes} processes share {n_prompts} prompts; start at most as many "
            "processes as there are prompts."
        )
    turn = cycle(range(state.num_processes))
    lines = [
        [line for line in range(len(batch)) if next(turn) == state.process_index]
        for batch in batches
    ]
    return [batch.select(own) for batch, own in zip(batches, lines, strict=True) if own]


def combined(held: ScoreSums, state: PartialState) -> ScoreSums:
    """The sums of all processes, the same on each of them."""
    return ScoreSums(
        sums={site: _summed(values, state) for site, values in held.sums.items()},
        cultures=held.cultures,
        n_prompts=tuple(_summed(torch.tensor(held.n_prompts), state).tolist()),
        ids=tuple(dict.fromkeys(gather_object(list(held.ids)))),
        dtype=held.dtype,
        gaps={site: _summed(values, state) for site, values in held.gaps.items()},
        moments=_summed(held.moments, state),
    )


def _summed(values: Tensor, state: PartialState) -> Tensor:
    total = reduce(values.to(state.device), "sum")
    assert isinstance(total, Tensor)  # reduce also takes nested lists
    return total.cpu()
