"""Files are written whole or not at all: into ``NAME.part`` first, renamed when complete."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR
from os import strerror
from pathlib import Path
from typing import Any

from culnig_tl.errors import InvalidInputError, MissingFileError, UnwritableError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield ``path.part`` to write into; rename it to ``path`` on success, delete it on any
    failure.

    Raises:
        UnwritableError: the folder cannot be made or written.

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
    except OSError as error:
        raise UnwritableError(
            f"{path} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from error
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: the file is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}; check the path.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"{path} is not JSON ({error}); write the file anew.") from error
