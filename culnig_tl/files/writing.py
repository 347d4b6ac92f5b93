"""Files are written whole or not at all: into ``NAME.part`` first, renamed when complete."""

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR
from hashlib import sha256
from os import strerror
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
from pandas.api.types import is_numeric_dtype

from culnig_tl.errors import InvalidInputError, MissingFileError, UnwritableError

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LONGEST_NAME = 120  # file systems allow 255 bytes, of which ours takes suffixes and ".part"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield ``path.part`` to write into; rename it to ``path`` on success, delete it on any
    failure.

    Raises:
        UnwritableError: the folder cannot be made or written, or the disk is full.

    Example:
        >>> import tempfile
        >>> with replacing(Path(tempfile.mkdtemp()) / "note.txt") as part:
        ...     _ = part.write_text("whole")
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, strerror(EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        try:
            yield part
            _flush(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, UnwritableError | MissingFileError):
            raise
        raise UnwritableError(
            f"{path} cannot be written ({error.strerror or error}); free some space, or choose a "
            "folder that you may write to."
        ) from error


def _flush(path: Path) -> None:
    """Have the disk hold what was written: a full one may say so only now."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_name(name: str) -> str:
    """A name of anything as a name of a file; different names get different files.

    Letters, digits, space, ``-`` and ``_`` stay as they are, and so does a full stop within; the
    bytes of others become ``%XX``. What is too long for a file system is cut and numbered by its
    digest.

    Example:
        >>> file_name("South Korea"), file_name(".."), file_name("a×b")
        ('South Korea', '%2E%2E', 'a%C3%97b')
    """
    plain = r"[A-Za-z0-9_-]|(?<=[A-Za-z0-9_-])[. ](?=[A-Za-z0-9_-])"
    parts = re.split(f"({plain})", name)
    encoded = "".join(
        part if number % 2 else "".join(f"%{byte:02X}" for byte in _bytes(part))
        for number, part in enumerate(parts)
    )
    if len(encoded) <= _LONGEST_NAME and encoded:
        return encoded
    return f"{encoded[:80]}%%{sha256(_bytes(name)).hexdigest()[:32]}"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def set_aside(path: str | Path) -> Path:
    """Rename a file that cannot be used to ``NAME.damaged``, and say where it is now.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".damaged")
    try:
        path.replace(aside)
    except OSError as error:
        raise UnwritableError(
            f"{path} is damaged and cannot be set aside ({error.strerror}); delete it, or choose a "
            "folder that you may write to."
        ) from error
    return aside


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a frame as csv, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(csv_text(frame).encode())


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as ``write_csv`` writes it.

    Python's writer does not quote a carriage return, which readers take for the end of a line.
    """
    safe = spreadsheet_safe(frame)
    text = safe.to_csv(index=False, lineterminator="\n")
    if "\r" not in text:
        return text
    return safe.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame for a csv file, whose texts no spreadsheet takes for formulas.

    A spreadsheet runs what begins with ``= + - @``, a tab or a line break; an apostrophe before it
    makes it text (OWASP, "CSV injection"). Numbers stay numbers.

    Example:
        >>> frame = pd.DataFrame({"culture": ["=1+1", "Iran"], "change": [-2.5, 1]})
        >>> spreadsheet_safe(frame).to_numpy().tolist()
        [["'=1+1", -2.5], ['Iran', 1.0]]
    """
    safe = frame.copy()
    for name, cells in frame.items():
        if not is_numeric_dtype(cells):
            safe[name] = cells.map(_without_formula)
    return safe.rename(columns=_without_formula)


def _without_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    with replacing(path) as part:
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        part.write_bytes(text.encode(errors="backslashreplace"))  # half a pair of UTF-16


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        MissingFileError: there is no such file, or none that may be read.
        InvalidInputError: the file is not JSON.
    """
    with opened(path) as file:
        content = file.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not JSON ({error}); write the file anew.") from error


def opened(path: str | Path) -> BinaryIO:
    """A file, open for reading.

    Raises:
        MissingFileError: there is no such file, or none that may be read.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}; check the path.")
    try:
        return path.open("rb")
    except OSError as error:
        raise MissingFileError(
            f"{path} cannot be read ({error.strerror}); ask its owner for the right to read it, or "
            "give another file."
        ) from error
