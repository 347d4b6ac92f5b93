"""Where the records of a benchmark come from: a folder of files, or the hub.

A folder may hold the original files or the hub's own (csv, tsv, json, jsonl, parquet, also
gzip-compressed), in subfolders too: every table that has the wanted columns is taken, in the order
of the paths.

From the hub, ``datasets`` fetches and caches; no script of a repository is run. Where the exact
commit is known it is pinned, else the repository's main branch is taken; what was read is written
down in ``rows.info.description``.
"""

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError

from culnig_tl.benchmarks.records import Records, records
from culnig_tl.errors import InvalidInputError, MissingFileError, first_line
from culnig_tl.questions import TABLES, loads_once, read_table

Columns = Mapping[str, Sequence[str]]
"""Names of ours, each with the names that files give that column."""


@dataclass(frozen=True)
class Hub:
    """A dataset on the hub; ``revision`` None is its main branch."""

    path: str
    config: str | None
    split: str
    revision: str | None = None


@dataclass(frozen=True)
class Loaded:
    """Rows of the question schema, and a line that says where they were read, if anywhere."""

    rows: list[dict[str, Any]]
    origin: str = ""


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
        """The records that have the wanted columns.

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
            return _from_hub(hub, columns, key, self.revision)
        return read_folder(self.data_dir, columns, key=key, files=files)


def read_folder(folder: Path, columns: Columns, *, key: str, files: str = "") -> Records:
    """What `Source.read` takes from a folder."""
    tables = [
        (path.relative_to(folder).as_posix(), read_table(path))
        for path in sorted(checked_folder(folder).rglob("*"))
        if path.is_file()
        and path.name.endswith(TABLES)
        and re.search(files, path.relative_to(folder).as_posix())
        and not _is_object(path)
    ]
    whole = [(name, frame) for name, frame in tables if len(frame) and not _missing(frame, columns)]
    if not whole:
        raise MissingFileError(
            f"No file in {folder} is a table with the columns {_listed(columns)}"
            f"{_nearest(tables, columns)}; give the folder of this benchmark's files, or leave "
            "data_dir out to take the hub's."
        )
    rows = [
        record
        for name, frame in whole
        for record in records(_renamed(frame, columns, name), key=key, name=name)
    ]
    return Records(rows, f"files {', '.join(name for name, _ in whole)}")


def _from_hub(hub: Hub, columns: Columns, key: str, revision: str | None) -> Records:
    revision = revision or hub.revision
    try:
        dataset = load_dataset(hub.path, hub.config, split=hub.split, revision=revision)
    except (DatasetsError, HfHubHTTPError, OSError, ValueError) as error:
        remedy = "unset HF_HUB_OFFLINE and " if HF_HUB_OFFLINE else ""
        raise MissingFileError(
            f"{hub.path} could not be loaded from the hub ({first_line(error)}); {remedy}go online "
            "once, so that it is cached, or give data_dir, a folder with its files."
        ) from error
    assert isinstance(dataset, Dataset)
    table = pd.DataFrame(dataset.to_list(), columns=dataset.column_names, dtype=object)
    if missing := _missing(table, columns):
        raise InvalidInputError(
            f"{hub.path} has the columns {', '.join(dataset.column_names)} and no "
            f"{', '.join(missing)}; give another revision."
        )
    name = f"{hub.path}, {hub.config}" if hub.config else hub.path
    rows = records(_renamed(table, columns, name), key=key, name=name)
    return Records(rows, f"hub {name} at {_commit(dataset) or revision}")


def checked_folder(folder: Path) -> Path:
    """The folder, if there is one.

    Raises:
        MissingFileError: there is none.
    """
    if folder.is_file():
        raise MissingFileError(f"{folder} is a file; give the folder of this benchmark.")
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}; give the folder of this benchmark.")
    return folder


def _is_object(path: Path) -> bool:
    """Whether a JSON file holds one object over several lines, which is no table.

    Raises:
        InvalidInputError: a file that is no JSON, or a record in which a key comes twice.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("json", "jsonl"):
        return False
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            text = str(file.read())
        first = text.partition("\n")[0].rstrip()
        is_object = kind == "json" and first.startswith("{") and not first.endswith("}")
        if is_object:
            json.loads(text)
        else:
            in_lines = kind == "jsonl" or first.startswith("{")
            for part in text.split("\n") if in_lines else [text]:
                loads_once(part if part.strip() else "null")
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise InvalidInputError(
            f"{path} cannot be read as {kind} ({first_line(error)}); write the file anew."
        ) from error
    return is_object


def _missing(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """Wanted columns that a table lacks, each by the first of its names."""
    return [names[0] for names in columns.values() if not any(name in frame for name in names)]


def _listed(columns: Columns) -> str:
    return ", ".join(names[0] for names in columns.values())


def _nearest(tables: Sequence[tuple[str, pd.DataFrame]], columns: Columns) -> str:
    """What keeps the table that comes nearest from being one; "" if none comes near."""
    lacking = [(name, _missing(frame, columns)) for name, frame in tables]
    name, missing = min(lacking, key=lambda pair: len(pair[1]), default=("", list(columns)))
    if len(missing) == len(columns):
        return ""
    return f" ({name} has no {', '.join(missing) if missing else 'rows'})"


def _renamed(frame: pd.DataFrame, columns: Columns, table: str) -> pd.DataFrame:
    """The wanted columns under our names.

    Raises:
        InvalidInputError: a column that comes twice; pandas calls its second ``name.1``.
    """
    theirs = {
        ours: next(name for name in names if name in frame) for ours, names in columns.items()
    }
    names = list(frame.columns)
    twice = [name for name in theirs.values() if names.count(name) > 1 or f"{name}.1" in names]
    if twice:
        raise InvalidInputError(
            f"{table} has the column {', '.join(twice)} twice; get the file anew."
        )
    return pd.DataFrame({ours: frame[name] for ours, name in theirs.items()}, dtype=object)


def _commit(dataset: Dataset) -> str | None:
    """The commit that the hub's files came from, which their addresses name."""
    addresses = " ".join(dataset.info.download_checksums or ())
    commit = re.search(r"@([0-9a-f]{40})/", addresses)
    return commit.group(1) if commit else None
