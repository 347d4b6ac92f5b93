"""A file is written whole or not at all."""

import pytest

from culnig_tl.errors import InvalidInputError, MissingFileError, UnwritableError
from culnig_tl.files import read_json, replacing, write_json


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
