"""Records: files of ours, which say what they are, what made them, and by a checksum that they are
as they were written.

| kind | holds | where the rest stands |
|---|---|---|
| record | JSON | under ``format``, ``version``, ``identity``, ``checksum`` beside the content |
| tensors | safetensors | in the metadata of the header |
| frame | parquet | in the metadata of the schema |

The checksum is the SHA-256 of everything else that is read back, so whatever changes a result is
noticed. A file that cannot be read is one of ours, and damaged, where the name of its format still
stands at its beginning or its end, or where a power cut left nothing but zeros; anything else is
somebody's own and is to be left alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from culnig_tl.errors import InvalidInputError, MissingFileError, UnwritableError
from culnig_tl.files.writing import opened, read_json, replacing, write_json

_KEY = "culnig_tl"
_HEADER = ("format", "version", "identity", "checksum")
_END_BYTES = 2**16  # in which the name of a format stands

Kinds = type | tuple[type, ...]


class DamagedFileError(InvalidInputError):
    """A file of ours that is not as it was written."""


@dataclass(frozen=True)
class Format:
    """What a kind of file is.

    Attributes:
        name: as it stands in the file.
        version: the one that is written; older ones are read too.
        noun: what a sentence calls such a file: "set of neurons".
        writer: the function that writes it.
        checked_from: the first version whose files must hold a checksum; one that is there must be
            right in any version.
        is_editable: whether a file is used without its checksum, as one written by hand is.
        remedy: what to do about a file that is none of these.
    """

    name: str
    version: int
    noun: str
    writer: str
    checked_from: int = 1
    is_editable: bool = False
    remedy: str = "give a file that {writer} wrote"

    def check(self, path: Path, header: Any, checksum: str) -> None:
        """Refuse a header that is not this format's, is newer, or has another checksum.

        Raises:
            InvalidInputError: another format, or a newer version.
            DamagedFileError: another checksum.
        """
        if not isinstance(header, Mapping) or header.get("format") != self.name:
            raise self._other(path)
        version = header.get("version")
        if type(version) is not int or not 1 <= version <= self.version:
            raise InvalidInputError(
                f"{path} is a {self.noun} of version {version!r:.20}, and this version of "
                f"culnig_tl reads up to {self.version}; install a newer one, or {self._remedy}."
            )
        self.check_fields(path, {"identity": header.get("identity", {})}, identity=dict)
        may_miss = self.is_editable or version < self.checked_from
        if header.get("checksum", checksum if may_miss else None) != checksum:
            own = ', or delete its line "checksum" if the change is your own'
            raise DamagedFileError(
                f"{path} was changed after {self.writer} wrote it (its checksum differs); write "
                f"it anew{own if self.is_editable else ''}."
            )

    def check_fields(self, path: Path, content: Mapping[str, Any], **kinds: Kinds) -> None:
        """Refuse content with other fields than these, or with one of another kind.

        Raises:
            InvalidInputError: the field is named.
        """
        for name in content.keys() - kinds.keys():
            raise InvalidInputError(
                f"{path} is a {self.noun} with a field {name!r:.40}, which it cannot have; its "
                f"fields are {', '.join(kinds)}."
            )
        for name, kind in kinds.items():
            allowed = kind if isinstance(kind, tuple) else (kind,)
            if name not in content or type(content[name]) not in allowed:
                there = f"{content[name]!r:.40}" if name in content else "missing"
                raise InvalidInputError(
                    f"{path} is a {self.noun} whose {name} is {there}; {self._remedy}."
                )

    def unusable(self, path: Path, error: Exception) -> InvalidInputError:
        """The error to raise for a file whose fields are all there and do not fit together."""
        reason = str(error) if isinstance(error, InvalidInputError) else repr(error)
        return InvalidInputError(
            f"{path} is a {self.noun} that cannot be used ({reason:.300}); {self._remedy}."
        )

    def unreadable(self, path: Path, error: Exception) -> InvalidInputError:
        """The error to raise for a file that is damaged, or something else altogether."""
        with opened(path) as file:
            start = file.read(_END_BYTES)
            file.seek(max(0, path.stat().st_size - _END_BYTES))
            ends = start + file.read()
        if ends.strip(b"\0") and self.name.encode() not in ends:
            return self._other(path)
        return DamagedFileError(
            f"{path} is a {self.noun} that can no longer be read ({type(error).__name__}); write "
            f"it anew with {self.writer}."
        )

    def _other(self, path: Path) -> InvalidInputError:
        return InvalidInputError(f"{path} is no {self.noun}; {self._remedy}.")

    @property
    def _remedy(self) -> str:
        return self.remedy.format(writer=self.writer)


def write_record(
    path: str | Path,
    form: Format,
    content: Mapping[str, Any],
    *,
    identity: Mapping[str, Any] | None = None,
) -> None:
    """Write JSON content with its format, identity and checksum, whole or not at all.

    Args:
        path: the file.
        form: its format.
        content: what it holds, by names other than those of the header.
        identity: what made it.

    Raises:
        UnwritableError: the file cannot be written.
    """
    made_by = {} if identity is None else {"identity": dict(identity)}
    record = {"format": form.name, "version": form.version, **made_by, **content}
    write_json(path, {**record, "checksum": _digest_of_json(record)})


def read_record(path: str | Path, form: Format) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content and identity of a file that ``write_record`` wrote.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: something else, or of a newer version.
        DamagedFileError: it is no JSON, or was changed after it was written.
    """
    path = Path(path)
    try:
        record = read_json(path)
        checksum = _digest_of_json(record)
    except (InvalidInputError, RecursionError) as error:
        raise form.unreadable(path, error) from error
    form.check(path, record, checksum)
    content = {name: value for name, value in record.items() if name not in _HEADER}
    return content, record.get("identity", {})


def write_tensors(
    path: str | Path, form: Format, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON header as safetensors, with a checksum, whole or not at all.

    Raises:
        UnwritableError: the file cannot be written.
    """
    tensors = {name: values.detach().contiguous().cpu() for name, values in tensors.items()}
    header = {"format": form.name, "version": form.version, **header}
    metadata = {_KEY: json.dumps({**header, "checksum": _digest_of_tensors(tensors, header)})}
    with replacing(path) as part:
        try:
            save_file(tensors, part, metadata=metadata)
        except SafetensorError as error:
            raise UnwritableError(
                f"{path} cannot be written ({error}); free some space, or choose another folder."
            ) from error


def read_tensors(path: str | Path, form: Format) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and header of a file that ``write_tensors`` wrote.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: something else, or of a newer version.
        DamagedFileError: it cannot be read, or was changed after it was written.
    """
    path = Path(path)
    opened(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            names = file.keys()  # safe_open is no dict: it cannot be iterated
            tensors = {name: file.get_tensor(name) for name in names}
        checksum = _digest_of_tensors(tensors, header)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise form.unreadable(path, error) from error
    form.check(path, header, checksum)
    content = {name: value for name, value in header.items() if name not in _HEADER}
    return tensors, content


def write_frame(
    path: str | Path, form: Format, frame: pd.DataFrame, *, identity: Mapping[str, Any]
) -> None:
    """Write a frame as parquet with its identity and checksum, whole or not at all.

    Raises:
        UnwritableError: the file cannot be written.
    """
    table = pa.Table.from_pandas(frame)
    header = {"format": form.name, "version": form.version, "identity": dict(identity)}
    metadata = {_KEY: json.dumps({**header, "checksum": _digest_of_table(table, header)})}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with replacing(path) as part:
        pq.write_table(table, part)


def read_frame(path: str | Path, form: Format) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Frame and identity of a file that ``write_frame`` wrote.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: something else, or of a newer version.
        DamagedFileError: it cannot be read, or was changed after it was written.
    """
    path = Path(path)
    try:
        with opened(path) as file:
            table = pq.ParquetFile(file).read()
        header = json.loads((table.schema.metadata or {}).get(_KEY.encode(), b"{}"))
        checksum = _digest_of_table(table, header)
    except MissingFileError:
        raise
    except Exception as error:  # whatever a reader of parquet says to a damaged file
        raise form.unreadable(path, error) from error
    form.check(path, header, checksum)
    return table.to_pandas(), header.get("identity", {})


def _digest_of_json(record: Any) -> str:
    """SHA-256 of JSON content without its checksum, whatever the order of its names."""
    if isinstance(record, Mapping):
        record = {name: value for name, value in record.items() if name != "checksum"}
    text = json.dumps(json.loads(json.dumps(record)), sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _digest_of_tensors(tensors: Mapping[str, Tensor], header: Any) -> str:
    digest = sha256(_digest_of_json(header).encode())
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(json.dumps([name, str(values.dtype), tuple(values.shape)]).encode())
        digest.update(values.contiguous().view(-1).view(uint8).numpy().data)
    return digest.hexdigest()


def _digest_of_table(table: pa.Table, header: Any) -> str:
    """Of the values, and of what pandas keeps beside them: its index and types."""
    digest = sha256(_digest_of_json(header).encode())
    digest.update((table.schema.metadata or {}).get(b"pandas", b""))
    for name, column in zip(table.column_names, table.columns, strict=True):
        is_plain = pa.types.is_primitive(column.type) and not column.null_count
        values = column.to_numpy() if is_plain else column.to_pylist()
        kind = str(values.dtype) if is_plain else "listed"
        digest.update(json.dumps([name, kind, len(column)]).encode())
        digest.update(values.tobytes() if is_plain else json.dumps(values, default=str).encode())
    return digest.hexdigest()
