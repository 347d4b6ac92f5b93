"""Files are written whole or not at all, recognised when read back, and of one owner at a time."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import SoftFileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from culnig_tl.errors import InvalidInputError, MissingFileError, UnwritableError
from culnig_tl.files import (
    DamagedFileError,
    Format,
    file_name,
    locked,
    read_frame,
    read_json,
    read_record,
    read_tensors,
    replacing,
    set_aside,
    write_frame,
    write_json,
    write_record,
    write_tensors,
)

FORM = Format("test.thing", 2, noun="thing", writer="write_thing")


def test_json_comes_back_as_it_went(tmp_path):
    content = {"culture": "Türkiye", "neurons": [[3, 17]], "share": 0.01}
    write_json(tmp_path / "new" / "folder" / "x.json", content)
    assert read_json(tmp_path / "new" / "folder" / "x.json") == content


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_failure_in_the_middle_keeps_the_old_file_and_leaves_no_part(tmp_path, stop):
    path = tmp_path / "scores.json"
    write_json(path, "old")

    def stopped():
        with replacing(path) as part:
            part.write_text('"half of the n')
            raise stop

    with pytest.raises(stop):
        stopped()
    assert read_json(path) == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]


def test_what_json_cannot_hold_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_part_left_by_a_killed_process_is_no_obstacle(tmp_path):
    (tmp_path / "x.json.part").write_text("half")
    write_json(tmp_path / "x.json", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_file_in_the_way_of_the_folder_is_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("I am a file")
    with pytest.raises(UnwritableError, match=r"cannot be written.*choose a folder"):
        write_json(tmp_path / "runs" / "x.json", 1)


def test_a_folder_in_the_way_of_the_file_is_a_sentence_and_leaves_no_part(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UnwritableError, match="cannot be written"):
        write_json(tmp_path / "x.json", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_no_file_and_no_json_are_sentences(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InvalidInputError, match="is not JSON"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="is not JSON"):
        read_json(tmp_path / "x.json")


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", 1)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_json, lambda path: read_tensors(path, FORM)):
        with pytest.raises(MissingFileError, match=r"cannot be read \(Permission denied\); ask"):
            read(tmp_path / "x.json")


def test_half_a_pair_of_utf_16_comes_back(tmp_path):
    write_json(tmp_path / "x.json", {"culture": "T\ud800", "other": "ü"})
    assert read_json(tmp_path / "x.json") == {"culture": "T\ud800", "other": "ü"}
    assert "ü" in (tmp_path / "x.json").read_text(encoding="utf-8")


# ---------------------------------------------------------------- names


@given(st.text(max_size=200), st.text(max_size=200))
def test_different_names_get_different_files(one, other):
    for name in (one, other):
        assert re.fullmatch(r"[A-Za-z0-9_%. -]{1,120}", file_name(name))
        assert file_name(name) not in (".", "..")
        assert not file_name(name).endswith((".", " "))
    assert (file_name(one) == file_name(other)) == (one == other)


def test_a_cut_name_is_nobody_elses():
    """A per cent sign is %25: a digest that begins with 25 is what another name could end in."""
    cut = next(
        cut
        for cut in (file_name(f"{'a' * 200}{number}") for number in range(10_000))
        if cut.split("%")[-1].startswith("25")
    )
    assert len(cut) < 120
    other = file_name("a" * 80 + "%" + cut.split("%")[-1][2:])
    assert (other, cut.count("%")) == (cut.replace("%%", "%"), 2)


def test_a_file_that_cannot_be_used_is_set_aside(tmp_path):
    (tmp_path / "x.json").write_text("damaged")
    assert set_aside(tmp_path / "x.json") == tmp_path / "x.json.damaged"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json.damaged"]
    with pytest.raises(UnwritableError, match=r"damaged and cannot be set aside \(No such file"):
        set_aside(tmp_path / "x.json")


# ---------------------------------------------------------------- records


FRAME = pd.DataFrame(
    {
        "id": ["q1", None, "Türkiye"],
        "p": [0.1, np.nan, np.inf],
        "right": [True, False, True],
        "rank": np.array([1, 2, 3], dtype="int32"),
        "when": pd.to_datetime(["2026-01-01", "2026-01-02", "NaT"]),
        "kind": pd.Categorical(["a", "b", "a"]),
        "labels": [["A", "B"], [], None],
    },
    index=pd.Index([3, 1, 2], name="row"),
)


def test_records_of_every_kind_come_back_as_they_went(tmp_path):
    content, identity = {"a": [1, 2.5, None], "b": {"ü": "x"}}, {"rows": "r", "factor": 0.5}
    write_record(tmp_path / "r.json", FORM, content, identity=identity)
    assert read_record(tmp_path / "r.json", FORM) == (content, identity)
    write_record(tmp_path / "r.json", FORM, content)
    assert read_record(tmp_path / "r.json", FORM) == (content, {})
    write_frame(tmp_path / "f.parquet", FORM, FRAME, identity=identity)
    frame, of = read_frame(tmp_path / "f.parquet", FORM)
    pd.testing.assert_frame_equal(frame.drop(columns="labels"), FRAME.drop(columns="labels"))
    assert of == identity
    tensors = {
        "half": torch.randn(2, 3).to(torch.bfloat16),
        "turned": torch.randn(3, 2).T,
        "none": torch.zeros(0, 2),
        "one": torch.tensor(1.5, dtype=torch.float64),
    }
    write_tensors(tmp_path / "t.safetensors", FORM, tensors, {"of": (1, 2)})
    back, header = read_tensors(tmp_path / "t.safetensors", FORM)
    assert header == {"of": [1, 2]}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("rows", [0, 5000])
def test_frames_of_any_length_come_back(tmp_path, rows):
    frame = FRAME.drop(columns=["when", "kind"]).iloc[np.arange(rows) % 3].reset_index(drop=True)
    write_frame(tmp_path / "f.parquet", FORM, frame, identity={})
    back, _ = read_frame(tmp_path / "f.parquet", FORM)
    assert len(back) == rows
    pd.testing.assert_frame_equal(back.drop(columns="labels"), frame.drop(columns="labels"))


def write_any(path: Path, kind: str) -> None:
    if kind == "record":
        write_record(path, FORM, {"a": 1.5}, identity={"factor": 0.0})
    elif kind == "tensors":
        write_tensors(path, FORM, {"a": torch.ones(3)}, {"b": 1})
    else:
        write_frame(path, FORM, FRAME, identity={"factor": 0.0})


READ = {"record": read_record, "tensors": read_tensors, "frame": read_frame}


@pytest.mark.parametrize("kind", READ)
def test_a_file_cut_short_is_damaged_and_another_is_left_alone(tmp_path, kind):
    path = tmp_path / "thing"
    write_any(path, kind)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] if kind != "frame" else whole[20:])
    with pytest.raises(DamagedFileError, match=r"is a thing that can no longer be read .*anew"):
        READ[kind](path, FORM)
    for left_by_a_power_cut in (b"", bytes(512)):
        path.write_bytes(left_by_a_power_cut)
        with pytest.raises(DamagedFileError, match="can no longer be read"):
            READ[kind](path, FORM)
    for other in (b"hello", bytes([255]) * 4096, b"[" * 100_000):
        path.write_bytes(other)
        with pytest.raises(InvalidInputError, match="is no thing; give a file that") as refusal:
            READ[kind](path, FORM)
        assert not isinstance(refusal.value, DamagedFileError)
    with pytest.raises(MissingFileError, match="There is no file"):
        READ[kind](tmp_path / "none", FORM)
    with pytest.raises(MissingFileError, match="There is no file"):
        READ[kind](tmp_path, FORM)


@pytest.mark.parametrize("kind", READ)
def test_another_format_and_a_newer_version_are_refused(tmp_path, kind):
    path = tmp_path / "thing"
    write_any(path, kind)
    with pytest.raises(InvalidInputError, match="is no other; give a file that write_other wrote"):
        READ[kind](path, Format("test.other", 1, noun="other", writer="write_other"))
    with pytest.raises(InvalidInputError, match=r"is a thing of version 2, .* up to 1; install a"):
        READ[kind](path, Format("test.thing", 1, noun="thing", writer="write_thing"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"a": 2.5}, r"its checksum differs\); write it anew\."),
        ({"identity": {"factor": 1.0}}, "its checksum differs"),
        ({"checksum": "0"}, "its checksum differs"),
        ({"checksum": None}, "its checksum differs"),
        ({"checksum": ...}, "its checksum differs"),
        ({"version": True}, "of version True"),
        ({"version": "2"}, "of version '2'"),
        ({"version": 0}, "of version 0"),
        ({"version": -1}, "of version -1"),
        ({"version": 2.0}, "of version 2.0"),
        ({"version": 1}, "its checksum differs"),
        ({"format": ["test.thing"]}, "is no thing"),
        ({"identity": [1]}, "whose identity is"),
    ],
)
def test_a_changed_record_is_refused(tmp_path, change, sentence):
    path = tmp_path / "r.json"
    write_any(path, "record")
    content = json.loads(path.read_text()) | change
    write_json(path, {name: value for name, value in content.items() if value is not ...})
    with pytest.raises(InvalidInputError, match=sentence):
        read_record(path, FORM)


@pytest.mark.parametrize("header", [5, None, [1], "x", True, json.loads("[" * 500 + "]" * 500)])
def test_headers_that_are_no_object_are_refused(tmp_path, header):
    write_json(tmp_path / "r.json", header)
    with pytest.raises(InvalidInputError, match="is no thing"):
        read_record(tmp_path / "r.json", FORM)
    save_file({"a": torch.ones(1)}, tmp_path / "t", metadata={"culnig_tl": json.dumps(header)})
    with pytest.raises(InvalidInputError, match="is no thing"):
        read_tensors(tmp_path / "t", FORM)


def test_tensors_that_were_exchanged_or_relabelled_are_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, FORM, {"a": torch.zeros(2), "b": torch.ones(2)}, {})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for change in (
        {"a": tensors["b"], "b": tensors["a"]},
        {"a": tensors["a"].view(torch.int32)},
        {"a": tensors["a"].view(1, 2)},
        {"c": torch.zeros(1)},
    ):
        save_file({**tensors, **change}, path, metadata=metadata)
        with pytest.raises(DamagedFileError, match="its checksum differs"):
            read_tensors(path, FORM)
    save_file(tensors, path, metadata=metadata)
    assert sorted(read_tensors(path, FORM)[0]) == ["a", "b"]


def test_an_older_version_is_read_without_its_checksum(tmp_path):
    form = Format("test.thing", 2, noun="thing", writer="write_thing", checked_from=2)
    for version, is_read in ((1, True), (2, False)):
        write_json(tmp_path / "r.json", {"format": "test.thing", "version": version, "a": 1})
        if is_read:
            assert read_record(tmp_path / "r.json", form) == ({"a": 1}, {})
        else:
            with pytest.raises(DamagedFileError):
                read_record(tmp_path / "r.json", form)


def test_fields_are_named_that_are_missing_wrong_or_too_many(tmp_path):
    path = tmp_path / "x"
    FORM.check_fields(path, {"a": 1, "b": None}, a=(int, float), b=type(None))
    for content, sentence in (
        ({}, "is a thing whose a is missing"),
        ({"a": True}, "whose a is True"),
        ({"a": "1"}, "whose a is '1'"),
        ({"a": 1, "c": 2}, "with a field 'c', which it cannot have; its fields are a"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            FORM.check_fields(path, content, a=int)


# ---------------------------------------------------------------- locks


HOLD = """
import sys, time
from culnig_tl.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    """Also when it was killed and left its lock behind."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        who = f"written by process {other.pid} on {re.escape(socket.gethostname())}, for 0 min"
        with pytest.raises(InvalidInputError, match=who), locked(tmp_path):
            pass
        other.kill()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_ones_own_is_not_held_twice(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(InvalidInputError, match=f"process {os.getpid()} on"),
        locked(tmp_path),
    ):
        pass


def test_the_lock_of_another_machine_is_respected(tmp_path):
    """Nobody here knows whether a process there still runs."""
    file = tmp_path / "scores.safetensors"
    lock = tmp_path / "scores.safetensors.lock"
    with SoftFileLock(lock):
        text = lock.read_text()
    lock.write_text(text.replace(socket.gethostname(), "elsewhere").replace(str(os.getpid()), "7"))
    with (
        pytest.raises(InvalidInputError, match=r"process 7 on elsewhere.* delete .*\.lock if that"),
        locked(file),
    ):
        pass
    lock.unlink()
    with locked(file):
        pass


def test_a_lock_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UnwritableError, match=r"cannot be written.*choose a folder"),
        locked(tmp_path / "file" / "x.json"),
    ):
        pass
