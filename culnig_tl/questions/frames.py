"""Rows from a DataFrame or a file of one's own."""

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset

from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.questions.schema import FEATURES, questions

TABLES = (".csv", ".csv.gz", ".tsv", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet")
"""Endings of the files that hold tables."""


def questions_from_frame(
    source: pd.DataFrame | str | Path, *, columns: Mapping[str, str] | None = None
) -> Dataset:
    """Rows from a DataFrame or a ``.csv``, ``.json``, ``.jsonl`` or ``.parquet`` file.

    Args:
        source: the frame or the file. In a CSV the column ``options`` holds a JSON list, e.g.
            ``["A", "B"]``.
        columns: names of the schema, each with the name of your column; the others keep theirs.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: another kind of file, a column that is not there, or rows that cannot be
            used (all of them named by number).

    Example:
        >>> frame = pd.DataFrame({"id": ["q1"], "prompt": ["A or B? Answer:"],
        ...                       "options": [[" A", " B"]], "answer": [" A"]})
        >>> questions_from_frame(frame)["answer"][0]
        ' A'
    """
    frame = source if isinstance(source, pd.DataFrame) else read_table(Path(source))
    frame = _renamed(frame, columns or {})
    if not isinstance(source, pd.DataFrame) and "options" in frame:
        frame["options"] = [_parsed_options(cell) for cell in frame["options"]]
    return questions(frame)


def _renamed(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    if unknown := [name for name in columns if name not in FEATURES]:
        raise InvalidInputError(
            f"columns names {', '.join(unknown)}, which the schema does not have; its columns are "
            f"{', '.join(FEATURES)}."
        )
    if missing := [theirs for theirs in columns.values() if theirs not in frame]:
        raise InvalidInputError(
            f"There is no column {', '.join(missing)}; the table has "
            f"{', '.join(map(str, frame.columns))}."
        )
    kept = frame.drop(columns=[name for name in columns if name in frame])
    return kept.assign(**{ours: frame[theirs] for ours, theirs in columns.items()})


def read_table(path: Path) -> pd.DataFrame:
    """A file of one of the kinds in ``TABLES``; cells of text files are text, never numbers.

    Tab-separated files are read without quoting, as GLUE's and the World Values Survey's are
    written; a byte-order mark is left out.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: another kind of file, or one that cannot be read.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}; give a csv, json, jsonl or parquet file.")
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if not path.name.endswith(TABLES):
        raise InvalidInputError(
            f"{path.name} ends in {path.suffix!r}; "
            f"rows are read from {', '.join(TABLES[:-1])} or {TABLES[-1]}."
        )
    try:
        return _READERS[kind](path)
    except (ValueError, OSError, EOFError) as error:
        raise InvalidInputError(
            f"{path} cannot be read as {kind} ({error}); write the file anew."
        ) from error


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, dtype=str, encoding="utf-8-sig")


def _read_tsv(path: Path) -> pd.DataFrame:
    return pd.read_csv(
        path,
        sep="\t",
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
        dtype=str,
        encoding="utf-8-sig",
    )


def _read_json(path: Path) -> pd.DataFrame:
    text = _text_of(path)
    if text[:1] == "{" and text.partition("\n")[0].rstrip().endswith("}"):
        return _read_json_lines(path)
    return pd.DataFrame(json.loads(text), dtype=object)


def _read_json_lines(path: Path) -> pd.DataFrame:
    lines = _text_of(path).split("\n")
    return pd.DataFrame([json.loads(line) for line in lines if line.strip()], dtype=object)


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "json": _read_json,
    "jsonl": _read_json_lines,
    "parquet": pd.read_parquet,
}


def _parsed_options(cell: Any) -> Any:
    """The list in a text cell; what is no JSON stays as it is, for the check to name its row."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        return cell
