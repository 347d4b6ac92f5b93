"""The folder of a run: each file says what made it, and serves a run that would make the same.

What something else made is made again; what is damaged is set aside first; a warning names it. The
first thing that is written locks the folder for this process, so that a finished run opens without
any writing.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from culnig_tl.errors import InvalidInputError, MissingFileError, UnwritableError
from culnig_tl.files.locks import locked
from culnig_tl.files.records import (
    DamagedFileError,
    Format,
    read_frame,
    read_record,
    write_frame,
    write_record,
)
from culnig_tl.files.writing import csv_text, set_aside, write_csv

T = TypeVar("T")
Identity = Mapping[str, Any]

_FRAME = Format("culnig_tl.frame", 1, noun="table of a run", writer="ct.culnig")
_RECORD = Format("culnig_tl.record", 1, noun="record of a run", writer="ct.culnig")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How a file is read and written.

    Attributes:
        read: gives content and identity of a file.
        write: writes a file of a content and an identity.
    """

    read: Callable[[Path], tuple[T, Any]]
    write: Callable[[Path, T, Identity], object]


FRAME: Kind[pd.DataFrame] = Kind(
    partial(read_frame, form=_FRAME),
    lambda path, frame, identity: write_frame(path, _FRAME, frame, identity=identity),
)
RECORD: Kind[dict[str, Any]] = Kind(
    partial(read_record, form=_RECORD),
    lambda path, record, identity: write_record(path, _RECORD, record, identity=identity),
)


class RunFolder:
    """A folder that the stages of a run read and write, as a context.

    Args:
        path: the folder; it is made when something is written.
        identity: what every file depends on: model and versions.

    Example:
        >>> import tempfile
        >>> with RunFolder(tempfile.mkdtemp(), {"model": "a"}) as folder:
        ...     folder.record("sum.json", {"of": [1, 2]}, lambda: {"sum": 1 + 2})
        {'sum': 3}
    """

    def __init__(self, path: str | Path, identity: Identity) -> None:
        self.path = Path(path)
        self._identity = dict(identity)
        self._locks = ExitStack()
        self._is_locked = self._has_warned = False
        self._in_use: dict[Path, None] = {}

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._locks.close()

    def lock(self) -> None:
        """Keep other processes from writing here until the run ends.

        Raises:
            InvalidInputError: another process writes here.
            UnwritableError: the folder cannot be written.
        """
        if self._is_locked:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableError(
                f"{self.path} cannot be written ({error.strerror}); give a folder that you may "
                "write to."
            ) from error
        self._locks.enter_context(locked(self.path))
        self._is_locked = True

    def file(self, name: str) -> Path:
        """The path of a file of this run."""
        path = self.path / name
        self._in_use[path] = None
        return path

    def frame(
        self, name: str, identity: Identity, make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        """The frame of a file, made and written there first if need be.

        Args:
            name: the file, as a path within the folder.
            identity: what it depends on, besides what every file does.
            make: makes it.
        """
        return self.stored(name, identity, FRAME, make)

    def record(
        self, name: str, identity: Identity, make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The JSON content of a file, made and written there first if need be."""
        return self.stored(name, identity, RECORD, make)

    def stored(self, name: str, identity: Identity, kind: Kind[T], make: Callable[[], T]) -> T:
        """What a file holds, made and written there first where there is none, or not the one of
        this run.

        Args:
            name: the file, as a path within the folder.
            identity: what it depends on, besides what every file does.
            kind: how it is read and written.
            make: makes it.
        """
        path, whole = self.file(name), self.whole(identity)
        if (held := self.held(path, whole, kind.read)) is not None:
            return held
        self.lock()
        kind.write(path, make(), whole)
        return kind.read(path)[0]

    def whole(self, identity: Identity) -> dict[str, Any]:
        """An identity with what every file depends on, as JSON holds it."""
        return json.loads(json.dumps({**self._identity, **identity}))

    def held(
        self, path: Path, identity: Identity, read: Callable[[Path], tuple[T, Any]]
    ) -> T | None:
        """What a file holds that is whole and was made of what this run would make it of; else
        None."""
        if not path.exists():
            return None
        try:
            content, recorded = read(path)
        except DamagedFileError:
            self.set_aside(path)
            return None
        except InvalidInputError:  # written before files said what made them
            self._warn_of_other(path, {}, identity)
            return None
        if recorded == identity:
            return content
        self._warn_of_other(path, recorded, identity)
        return None

    def set_aside(self, path: Path) -> None:
        """Rename a damaged file, and say so."""
        self.lock()
        warnings.warn(
            f"{path} is damaged; it is made again, and kept as {set_aside(path).name}.",
            UserWarning,
            stacklevel=3,
        )

    def csv(self, name: str, frame: pd.DataFrame) -> None:
        """Write a frame as csv, unless the file holds just that."""
        path = self.file(name)
        if not path.is_file() or path.read_bytes() != csv_text(frame).encode():
            self.lock()
            write_csv(path, frame)

    def discard(self, name: str) -> None:
        """Delete a file that has served its purpose."""
        self.file(name).unlink()
        del self._in_use[self.path / name]

    def check_complete(self) -> None:
        """Refuse to end as if nothing had happened where files were deleted meanwhile.

        Raises:
            MissingFileError: files of the run are gone; they are counted.
        """
        gone = [path for path in self._in_use if not path.exists()]
        if gone:
            raise MissingFileError(
                f"{len(gone)} of {len(self._in_use)} files of this run are gone from {self.path} "
                f"(the first is {gone[0].name}): something deleted them while it ran; start it "
                "again, and they are made anew."
            )

    def _warn_of_other(self, path: Path, recorded: Any, identity: Identity) -> None:
        """Say once per run that a file was made by something else."""
        if self._has_warned:
            return
        self._has_warned = True
        there = recorded if isinstance(recorded, Mapping) else {}
        different = [name for name, value in identity.items() if there.get(name) != value]
        reason = f"other {', '.join(different)}" if there else "it does not say by what"
        warnings.warn(
            f"{path} was not made by this run ({reason}); it is made again, and so is every other "
            "file here that was not.",
            UserWarning,
            stacklevel=3,
        )
