"""Where the records of a benchmark come from: a folder of files, or the hub.

A folder may hold the original files or the hub's own (csv, tsv, json, jsonl, parquet, also
gzip-compressed), in subfolders too: every table that has the wanted columns is taken, in the order
of the paths, and a record that comes twice counts once. Cells are text; an empty one is ``""``.

From the hub, ``datasets`` fetches and caches; no script of a repository is run. Where the exact
commit is known it is pinned, else the repository's main branch is taken; what was read is written
down in ``rows.info.description``.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError

from culnig_tl.errors import InvalidInputError, MissingFileError, first_line
from culnig_tl.questions import Item, Split
from culnig_tl.questions.frames import TABLES, read_table

Columns = Mapping[str, Sequence[str]]
"""Names of ours, each with the names that files give that column."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Hub:
    """A dataset on the hub; ``revision`` None is its main branch."""

    path: str
    config: str | None
    split: str
    revision: str | None = None


@dataclass(frozen=True)
class Records:
    """Records of a benchmark, in order, and a line that says where they were read."""

    rows: list[Record]
    origin: str


@dataclass(frozen=True)
class Loaded:
    """Rows of the question schema, and a line that says where they were read."""

    rows: list[dict[str, Any]]
    origin: str


@dataclass(frozen=True)
class Source:
    """A folder of files, or the hub where ``data_dir`` is None.

    Attributes:
        data_dir: the folder.
        revision: commit, branch or tag on the hub; None takes the pinned one.
    """

    data_dir: Path | None = None
    revision: str | None = None

    def read(self, hub: Hub, columns: Columns, *, key: str, files: str = "") -> Records:
        """The records that have the wanted columns; those with the same ``key`` count once.

        Args:
            hub: where the hub has them.
            columns: what is wanted.
            key: the column of ours by which a record is known.
            files: in a folder, only files whose path within it matches this regular expression.

        Raises:
            MissingFileError: no folder, no table with these columns in it, or a hub out of reach.
            InvalidInputError: a file that cannot be read.
        """
        if self.data_dir is None:
            return _from_hub(hub, columns, self.revision)
        return read_folder(self.data_dir, columns, key=key, files=files)


def half_of_groups(items: Sequence[Item], split: Split, group: Callable[[Item], Any]) -> list[Item]:
    """The first half of every group to identify, rounded down, the rest to test, in their order.

    Example:
        >>> items = [Item(id=name, options=("a", "b"), answer=0) for name in ("1", "2", "3")]
        >>> [item.id for item in half_of_groups(items, "test", lambda item: "one group")]
        ['2', '3']
    """
    if split == "all":
        return list(items)
    sizes = Counter(group(item) for item in items)
    seen: Counter[Any] = Counter()
    kept = []
    for item in items:
        first = seen[group(item)] < sizes[group(item)] // 2
        seen[group(item)] += 1
        if first == (split == "identify"):
            kept.append(item)
    return kept


def parsed_json(cell: Any, name: str) -> Any:
    """What a cell holds that is JSON text in csv files and an object in parquet ones.

    Raises:
        InvalidInputError: text that is no JSON; ``name`` says whose.
    """
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except ValueError as error:
        raise InvalidInputError(f"{name}: {cell!r} is not JSON; get the file anew.") from error


def read_folder(folder: Path, columns: Columns, *, key: str, files: str = "") -> Records:
    """What `Source.read` takes from a folder."""
    found = [
        (path, table)
        for path, frame in _tables(folder, files)
        if (table := _renamed(frame, columns)) is not None
    ]
    if not found:
        wanted = ", ".join(names[0] for names in columns.values())
        raise MissingFileError(
            f"No file in {folder} is a table with the columns {wanted}; give the folder of "
            "this benchmark's files, or leave data_dir out to take the hub's."
        )
    records: dict[str, Record] = {}
    for record in _texts(pd.concat([table for _, table in found], ignore_index=True)):
        records.setdefault(record[key], record)
    names = ", ".join(path.relative_to(folder).as_posix() for path, _ in found)
    return Records(list(records.values()), f"files {names}")


def _from_hub(hub: Hub, columns: Columns, revision: str | None) -> Records:
    revision = revision or hub.revision
    try:
        loaded = load_dataset(hub.path, hub.config, split=hub.split, revision=revision)
    except (DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        remedy = "unset HF_HUB_OFFLINE and " if HF_HUB_OFFLINE else ""
        raise MissingFileError(
            f"{hub.path} could not be loaded from the hub ({first_line(error)}); {remedy}go online "
            "once, so that it is cached, or give data_dir, a folder with its files."
        ) from error
    assert isinstance(loaded, Dataset)
    table = _renamed(pd.DataFrame(loaded.to_list(), dtype=object), columns)
    if table is None:
        raise InvalidInputError(
            f"{hub.path} has the columns {', '.join(loaded.column_names)}, expected "
            f"{', '.join(names[0] for names in columns.values())}; give another revision."
        )
    config = f", {hub.config}" if hub.config else ""
    return Records(_texts(table), f"hub {hub.path}{config} at {_commit(loaded) or revision}")


def checked_folder(folder: Path) -> Path:
    """The folder, if there is one.

    Raises:
        MissingFileError: there is none.
    """
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}; give the folder of this benchmark.")
    return folder


def _tables(folder: Path, files: str) -> list[tuple[Path, pd.DataFrame]]:
    paths = sorted(
        path
        for path in checked_folder(folder).rglob("*")
        if path.name.endswith(TABLES) and re.search(files, path.relative_to(folder).as_posix())
    )
    return [(path, read_table(path)) for path in paths if not _is_object(path)]


def _is_object(path: Path) -> bool:
    """Whether a JSON file holds one object, which is no table."""
    if not path.name.endswith(".json"):
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline().strip()
    return first.startswith("{") and not first.endswith("}")


def _renamed(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame | None:
    """The wanted columns under our names; None if one is missing."""
    theirs = {
        ours: next((name for name in names if name in frame), None)
        for ours, names in columns.items()
    }
    if None in theirs.values() or frame.empty:
        return None
    return pd.DataFrame({ours: frame[name] for ours, name in theirs.items()}, dtype=object)


def _texts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Records whose plain cells are text; lists and objects stay."""
    return [
        {str(name): _text(cell) for name, cell in record.items()}
        for record in table.to_dict("records")
    ]


def _text(cell: Any) -> Any:
    if cell is None or cell is pd.NA or (isinstance(cell, float) and isnan(cell)):
        return ""
    return str(cell) if isinstance(cell, str | int | float) else cell


def _commit(loaded: Dataset) -> str | None:
    """The commit that the hub's files came from, which their addresses name."""
    addresses = " ".join(loaded.info.download_checksums or ())
    found = re.search(r"@([0-9a-f]{40})/", addresses)
    return found.group(1) if found else None
