"""Questions shared among processes, and their sums put together, by accelerate.

Active only where torchrun or ``accelerate launch`` started several processes. Prompts are dealt out
one by one, none twice and none made up, so shares differ by one prompt at most; every process holds
the whole model and ends with the same scores.
"""

import atexit
import os
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.questions import Batch
from culnig_tl.scores import ScoreSums


def launched() -> PartialState | None:
    """This process among those that were launched together, or None where it is the only one.

    ``state.device`` is this process's own device, to load the model on; ``state.is_main_process``
    is true of the one that should write and show.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not together and not ({"RANK", "WORLD_SIZE"} <= os.environ.keys()):
        return None
    state = PartialState(cpu=not torch.cuda.is_available())
    if not together:  # left open, its threads now and then abort the process as it ends
        atexit.register(state.destroy_process_group)
    return state if state.num_processes > 1 else None


def require_single_process() -> None:
    """Refuse to do in each of several processes what one of them should do.

    Raises:
        InvalidInputError: several processes were launched together.
    """
    state = launched()
    if state is not None:
        raise InvalidInputError(
            f"Each of {state.num_processes} processes would do this and write the same files: only "
            "scoring is shared among processes, so score under torchrun first (culnig-tl score "
            "MODEL ROWS --out RUN/scores/cultural.safetensors; likewise recognition, and control "
            "with --clamp) and start this alone; a run takes the scores that lie in its folder."
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
