"""What a long run has summed so far, on disk: a run that was killed goes on from there.

A checkpoint is a safetensors file of the sums in full precision, with a header that says how many
prompts they hold and with which settings. It is written whole or not at all, and a run that goes on
from it ends bit by bit like one that was not stopped.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from culnig_tl.errors import InvalidInputError
from culnig_tl.files import replacing
from culnig_tl.scores import ScoreSums

_FORMAT = "culnig_tl.checkpoint"
_GAPS = "gaps of "
_MOMENTS = "moments of probability"


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
        """Sums, number of prompts in them and token budget; None where there is no file yet.

        Raises:
            InvalidInputError: the file is of other settings (named), or no checkpoint.
        """
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[_FORMAT])
                sums = {site: file.get_tensor(site) for site in header["sites"]}
                gaps = {site: file.get_tensor(_GAPS + site) for site in header["gaps"]}
                moments = file.get_tensor(_MOMENTS)
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise InvalidInputError(
                f"{self._path} is no checkpoint that can be read; give another path, or delete it "
                "to start from the beginning."
            ) from error
        self._check(header["settings"])
        held = ScoreSums(
            sums=sums,
            cultures=tuple(header["cultures"]),
            n_prompts=tuple(header["n_prompts"]),
            ids=tuple(header["ids"]),
            dtype=getattr(torch, header["dtype"]),
            gaps=gaps,
            moments=moments,
        )
        return held, header["n_done"], header["token_budget"]

    def is_due(self) -> bool:
        """Whether enough time has passed since the last writing."""
        return time.monotonic() - self._written >= self._seconds

    def write(self, held: ScoreSums, *, n_done: int, token_budget: int) -> None:
        """Put the state of a run on disk.

        Raises:
            UnwritableError: the folder cannot be written.
        """
        header = {
            "settings": self._settings,
            "sites": list(held.sums),
            "gaps": list(held.gaps),
            "cultures": held.cultures,
            "n_prompts": held.n_prompts,
            "ids": held.ids,
            "dtype": str(held.dtype).removeprefix("torch."),
            "n_done": n_done,
            "token_budget": token_budget,
        }
        tensors = {site: values.contiguous().cpu() for site, values in held.sums.items()}
        tensors |= {_GAPS + site: values for site, values in held.gaps.items()}
        tensors[_MOMENTS] = held.moments
        with replacing(self._path) as part:
            save_file(tensors, part, metadata={_FORMAT: json.dumps(header)})
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
