"""One process at a time in a folder.

The lock is a small file that names its owner (process, host and start), so that it works on any
shared disk. The lock of a process of this host that is gone is taken over.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLock, Timeout

from culnig_tl.errors import InvalidInputError, UnwritableError


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep others from writing what belongs to ``path`` inside a ``with`` block.

    Args:
        path: a folder, or a file; the lock is ``path/.lock`` or ``path.lock``.

    Raises:
        InvalidInputError: another process holds the lock.
        UnwritableError: the lock cannot be written.

    Example:
        >>> import tempfile
        >>> with locked(tempfile.mkdtemp()):
        ...     pass
    """
    path = Path(path)
    lock_path = path / ".lock" if path.is_dir() else path.with_name(path.name + ".lock")
    lock = SoftFileLock(lock_path, timeout=0)
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InvalidInputError(
            f"{path} is being written by {_owner(lock_path)}; wait for it, give another path, or "
            f"delete {lock_path} if that process is no more."
        ) from error
    except OSError as error:
        raise UnwritableError(
            f"{lock_path} cannot be written ({error.strerror}); choose a folder that you may "
            "write to."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _owner(lock_path: Path) -> str:
    """Process, host and age of a lock, as far as it says so."""
    try:
        process, host, *_ = lock_path.read_text(encoding="utf-8", errors="replace").split("\n")
        minutes = (time.time() - lock_path.stat().st_mtime) / 60
    except (OSError, ValueError):  # given back meanwhile, or being written
        return "another process"
    return f"process {process} on {host}, for {minutes:.0f} minutes now"
