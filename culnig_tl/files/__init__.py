"""Files: written whole or not at all, recognised when read back, and of one owner at a time.

Four modules: ``writing`` (names, atomic writes, plain JSON), ``records`` (files of ours, with a
checksum and what made them), ``locks`` (one process per folder) and ``folder`` (files that are made
once, and made again where something else made them).
"""

from culnig_tl.files.folder import FRAME, RECORD, Identity, Kind, RunFolder
from culnig_tl.files.locks import locked
from culnig_tl.files.records import (
    DamagedFileError,
    Format,
    read_frame,
    read_record,
    read_tensors,
    write_frame,
    write_record,
    write_tensors,
)
from culnig_tl.files.writing import (
    csv_text,
    file_name,
    opened,
    read_json,
    replacing,
    set_aside,
    spreadsheet_safe,
    write_csv,
    write_json,
)

__all__ = [
    "FRAME",
    "RECORD",
    "DamagedFileError",
    "Format",
    "Identity",
    "Kind",
    "RunFolder",
    "csv_text",
    "file_name",
    "locked",
    "opened",
    "read_frame",
    "read_json",
    "read_record",
    "read_tensors",
    "replacing",
    "set_aside",
    "spreadsheet_safe",
    "write_csv",
    "write_frame",
    "write_json",
    "write_record",
    "write_tensors",
]
