"""Rows from a DataFrame or a file of one's own."""

import codecs
import csv
import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset

from culnig_tl.errors import InvalidInputError, MissingFileError, check_kind, first_line
from culnig_tl.questions.given import check_columns, column_names
from culnig_tl.questions.prompts import Template
from culnig_tl.questions.schema import (
    FEATURES,
    loads_once,
    questions,
    ranges,
)
from culnig_tl.questions.tables import OPTION_COLUMNS, rows_of_table

TABLES = (".csv", ".csv.gz", ".tsv", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet")
"""Endings of the files that hold tables."""

_BYTE_ORDER_MARKS = {  # UTF-32's begins like UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SAMPLE_OF_BYTES = 4096


def questions_from_frame(
    source: pd.DataFrame | str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    templates: Template | str | Sequence[Template | str] | None = None,
) -> Dataset:
    """Rows from a DataFrame or a ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` or ``.parquet`` file.

    A table with a column ``prompt`` holds rows of the schema. A table without one holds questions,
    and prompts are made of them: ``question``, the options (``options``, or one column an option,
    ``option_a``, ``option_b``, ...) and ``answer``, the right option's letter, its number from 1 or
    its text; ``tables`` says more.

    Args:
        source: the frame or the file. In a CSV the column ``options`` holds a JSON list, e.g.
            ``["A", "B"]``.
        columns: names of the schema, or ``option_a``, ``option_b``, ..., each with the name of your
            column; the others keep theirs.
        templates: wordings for questions, in place of the four of ``tables.TEMPLATES``; columns of
            the table can be their fields. A text is a template of letters, or of digits where it
            lists ``1. {option_a}``.

    Returns:
        Finished prompts as they are; questions once in every wording, their options shuffled.

    Raises:
        MissingFileError: there is no such file.
        UnknownNameError: a template asks for a column that is not there.
        InvalidInputError: another kind of file, a column that is not there, templates for finished
            prompts, or rows that cannot be used (all of them named by number, from 0).

    Example:
        >>> frame = pd.DataFrame({"id": ["q1"], "prompt": ["A or B? Answer:"],
        ...                       "options": [[" A", " B"]], "answer": [" A"]})
        >>> questions_from_frame(frame)["answer"][0]
        ' A'
        >>> frame = pd.DataFrame({"question": ["Which is a drink?"], "A": ["rice"], "B": ["tea"],
        ...                       "answer": ["tea"]})
        >>> rows = questions_from_frame(frame, columns={"option_a": "A", "option_b": "B"})
        >>> print(rows["prompt"][1], rows["answer"][1])
        Which is a drink?
        <BLANKLINE>
        A. rice
        B. tea
        <BLANKLINE>
        Which of them is right? Write its letter only.
        Answer: B
    """
    check_kind("source", source, pd.DataFrame | str | Path, "a DataFrame, or the path of a file")
    frame = source if isinstance(source, pd.DataFrame) else read_table(Path(source))
    frame = _renamed(frame, columns or {})
    if not isinstance(source, pd.DataFrame) and "options" in frame:
        parsed = [_parsed_options(cell) for cell in frame["options"]]
        frame["options"] = pd.Series(parsed, index=frame.index, dtype=object)
    if "prompt" not in frame:
        return questions(rows_of_table(frame, templates=templates))
    if templates is not None:
        raise InvalidInputError(
            "The table has a column prompt, so its prompts are finished; leave templates out, or "
            "the column."
        )
    return questions(frame)


def _renamed(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    check_columns(frame)
    if unknown := [name for name in columns if name not in (*FEATURES, *OPTION_COLUMNS)]:
        raise InvalidInputError(
            f"columns names {', '.join(map(repr, unknown))}, which the schema does not have; its "
            f"columns are {', '.join(FEATURES)}, and {', '.join(OPTION_COLUMNS[:2])}, ... "
            "where each option has one."
        )
    if missing := [theirs for theirs in columns.values() if theirs not in frame]:
        raise InvalidInputError(
            f"There is no column {', '.join(map(repr, missing))}; the table has "
            f"{column_names(frame)}."
        )
    others = frame.drop(columns=[name for name in columns if name in frame])
    return others.assign(**{ours: frame[theirs] for ours, theirs in columns.items()})


def read_table(path: Path) -> pd.DataFrame:
    """A file of one of the kinds in ``TABLES``; cells of text files are text, never numbers.

    Tab-separated files are read without quoting, as GLUE's and the World Values Survey's are
    written. Text is UTF-8; a byte-order mark is left out.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: another kind of file, one that cannot be read, or text in another
            encoding, which is named.
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
        if kind != "parquet":
            _check_encoding(path)
        return _READERS[kind](path)
    except InvalidInputError:
        raise
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise _not_utf8(path, "cp1252", f"not UTF-8 (byte {byte:#04x}), probably cp1252") from error
    except Exception as error:  # whatever pandas and pyarrow make of a damaged file
        raise InvalidInputError(
            f"{path} cannot be read as {kind} ({first_line(error)}); write the file anew."
        ) from error


def _check_encoding(path: Path) -> None:
    """Refuse text in UTF-16 or UTF-32, which reads as text with zeros in between, or not at all."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        sample = file.read(_SAMPLE_OF_BYTES)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if sample.startswith(mark):
            raise _not_utf8(path, encoding, encoding)
    if 4 * sample.count(b"\0") > len(sample):  # every second byte of English
        encoding = "UTF-16-BE" if sample.startswith(b"\0") else "UTF-16-LE"
        raise _not_utf8(path, encoding, f"probably {encoding}")


def _not_utf8(path: Path, encoding: str, description: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path} holds text that is {description}, expected UTF-8; save it as UTF-8 (Excel: 'CSV "
        f"UTF-8'), or read it with pandas and encoding={encoding.lower()!r} and give the frame."
    )


def _read_csv(path: Path) -> pd.DataFrame:
    return _text_table(path)


def _read_tsv(path: Path) -> pd.DataFrame:
    return _text_table(path, sep="\t", quoting=csv.QUOTE_NONE)


def _text_table(path: Path, **options: Any) -> pd.DataFrame:
    """Cells as they are written, under the names of the first line; columns without name are left
    out.

    The first line is read as the others are: pandas renames names that repeat, and takes the first
    cells of longer rows for an index.
    """
    lines = pd.read_csv(
        path, header=None, keep_default_na=False, dtype=str, encoding="utf-8-sig", **options
    )
    lines = lines.loc[:, lines.iloc[0] != ""]
    return lines.iloc[1:].reset_index(drop=True).set_axis(lines.iloc[0].to_list(), axis=1)


def _read_json(path: Path) -> pd.DataFrame:
    text = _text_of(path)
    if text[:1] == "{" and text.partition("\n")[0].rstrip().endswith("}"):
        return _read_json_lines(path)
    content = loads_once(text)
    return pd.DataFrame(_objects(content) if isinstance(content, list) else content, dtype=object)


def _read_json_lines(path: Path) -> pd.DataFrame:
    lines = _text_of(path).split("\n")
    records = _objects([loads_once(line) for line in lines if line.strip()])
    return pd.DataFrame(records, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    """As objects, so that text which is none shows here and not where a cell is first read."""
    return pd.read_parquet(path).astype(object)


def _objects(records: list[Any]) -> list[dict[str, Any]]:
    if strange := [number for number, row in enumerate(records) if not isinstance(row, dict)]:
        raise ValueError(f"rows {ranges(strange)} are not objects")
    return records


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "json": _read_json,
    "jsonl": _read_json_lines,
    "parquet": _read_parquet,
}


def _parsed_options(cell: Any) -> Any:
    """The list in a text cell; what is no JSON stays as it is, for the check to name its row."""
    if not isinstance(cell, str):
        return cell
    try:
        return loads_once(cell)
    except (ValueError, RecursionError):
        return cell
