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
from collections.abc import Mapping, Sequence
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

    def read(self, hub: Hub, columns: Columns, *, key: str) -> Records:
        """The records that have the wanted columns; those with the same ``key`` count once.

        Raises:
            MissingFileError: no folder, no table with these columns in it, or a hub out of reach.
            InvalidInputError: a file that cannot be read.
        """
        if self.data_dir is None:
            return _from_hub(hub, columns, self.revision)
        return _from_folder(self.data_dir, columns, key)


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


def _from_folder(folder: Path, columns: Columns, key: str) -> Records:
    found = [
        (path, table)
        for path, frame in _tables(folder)
        if (table := _renamed(frame, columns)) is not None
    ]
    if not found:
        wanted = ", ".join(names[0] for names in columns.values())
        raise MissingFileError(
            f"No file in {folder} is a table with the columns {wanted}; give the folder of "
            "this benchmark's files, or leave data_dir out to take the hub's."
        )
    frame = pd.concat([table for _, table in found], ignore_index=True)
    names = ", ".join(str(path.relative_to(folder)) for path, _ in found)
    return Records(_texts(frame.drop_duplicates(key)), f"files {names}")


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


def _tables(folder: Path) -> list[tuple[Path, pd.DataFrame]]:
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}; give the folder of this benchmark.")
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(TABLES))
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
    if None in theirs.values():
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
