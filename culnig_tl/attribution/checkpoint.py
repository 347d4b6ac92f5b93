"""What a long run has summed so far, on disk: a run that was killed goes on from there.

A checkpoint is a safetensors file of the sums in full precision, with a header that says how many
prompts they hold and with which settings, and a checksum. It is written whole or not at all, and a
run that goes on from it ends bit by bit like one that was not stopped. One that was damaged can be
made again: it is set aside, and the run starts from the beginning.
"""

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.files import DamagedFileError, Format, read_tensors, set_aside, write_tensors
from culnig_tl.scores import ScoreSums

_FORMAT = Format(
    "culnig_tl.checkpoint",
    1,
    noun="checkpoint",
    writer="attribute(..., checkpoint=path)",
    remedy="give another path, or delete it to start from the beginning",
)
_GAPS = "gaps of "
_MOMENTS = "moments of probability"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Checkpoint:
    """A file that is written every few minutes and removed at the end.

    Args:
        path: the file.
        settings: everything that the sums depend on, as JSON holds it.
        minutes: least time between two writings.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], *, minutes: float) -> None:
        self._path = Path(path)
        self._settings = json.loads(json.dumps(settings))
        self._seconds = 60 * minutes
        self._written = time.monotonic()

    def read(self) -> tuple[ScoreSums, int, int] | None:
        """Sums, number of prompts in them and token budget; None where there is no file yet, or
        none that is as it was written.

        Raises:
            InvalidInputError: the file is of other settings (named), or no checkpoint.

        Warns:
            UserWarning: a damaged file; it is set aside.
        """
        if not self._path.exists():
            return None
        try:
            sums, header = read_sums(self._path)
        except DamagedFileError:
            warnings.warn(
                f"{self._path} is damaged and is kept as {set_aside(self._path).name}; scoring "
                "starts from the beginning.",
                UserWarning,
                stacklevel=5,
            )
            return None
        self._check(header["settings"])
        return sums, header["n_done"], header["token_budget"]

    def is_due(self) -> bool:
        """Whether enough time has passed since the last writing."""
        return time.monotonic() - self._written >= self._seconds

    def write(self, held: ScoreSums, *, n_done: int, token_budget: int) -> None:
        """Put the state of a run on disk.

        Raises:
            UnwritableError: the folder cannot be written.
        """
        write_sums(self._path, held, self._settings, n_done=n_done, token_budget=token_budget)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the file, if there is one."""
        if self._path.exists():  # its folder may be no folder
            self._path.unlink()

    def _check(self, there: Mapping[str, Any]) -> None:
        names = sorted(self._settings.keys() | there.keys())
        different = [name for name in names if there.get(name) != self._settings.get(name)]
        if different:
            raise InvalidInputError(
                f"{self._path} is the checkpoint of a run with other settings "
                f"({', '.join(different)}); give another path, or delete it to start from the "
                "beginning."
            )


def write_sums(
    path: Path, held: ScoreSums, settings: Mapping[str, Any], *, n_done: int, token_budget: int
) -> None:
    """Put sums on disk, with what they depend on.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    header = {
        "settings": dict(settings),
        "sites": list(held.sums),
        "gaps": list(held.gaps),
        "cultures": held.cultures,
        "n_prompts": held.n_prompts,
        "ids": held.ids,
        "dtype": str(held.dtype).removeprefix("torch."),
        "n_done": n_done,
        "token_budget": token_budget,
    }
    tensors = dict(held.sums)
    tensors |= {_GAPS + site: values for site, values in held.gaps.items()}
    tensors[_MOMENTS] = held.moments
    write_tensors(path, _FORMAT, tensors, header)


def read_sums(path: Path) -> tuple[ScoreSums, dict[str, Any]]:
    """The sums of a file, and its header.

    Raises:
        DamagedFileError: the file is not as it was written.
        InvalidInputError: it holds something else.
    """
    tensors, header = read_tensors(path, _FORMAT)
    _FORMAT.check_fields(
        path,
        header,
        settings=dict,
        sites=list,
        gaps=list,
        cultures=list,
        n_prompts=list,
        ids=list,
        dtype=str,
        n_done=int,
        token_budget=int,
    )
    try:
        return _sums(tensors, header), header
    except (KeyError, TypeError, InvalidInputError) as error:
        raise _FORMAT.unusable(path, error) from error


def _sums(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> ScoreSums:
    """What the tensors and the header of a checkpoint hold."""
    sums = {site: tensors[site] for site in header["sites"]}
    gaps = {site: tensors[_GAPS + site] for site in header["gaps"]}
    n_cultures, moments = len(header["cultures"]), tensors[_MOMENTS]
    for name in ("n_done", "token_budget"):
        check_number(name, header[name], low=1, whole=True)
    for number in header["n_prompts"]:
        check_number("n_prompts", number, low=0, whole=True)
    texts = {each for each in (*header["cultures"], *header["ids"]) if isinstance(each, str)}
    axes = {len(header["n_prompts"]), len(moments), *map(len, sums.values())}
    is_whole = texts == {*header["cultures"], *header["ids"]} and header["dtype"] in _DTYPES
    if axes != {n_cultures} or not is_whole or len(tensors) != len(sums) + len(gaps) + 1:
        raise InvalidInputError("its parts do not fit together")
    return ScoreSums(
        sums=sums,
        cultures=tuple(header["cultures"]),
        n_prompts=tuple(header["n_prompts"]),
        ids=tuple(header["ids"]),
        dtype=_DTYPES[header["dtype"]],
        gaps=gaps,
        moments=moments,
    )
