"""The files of a run are never taken for what they are not: names, identity, damage, deletion."""

import json
import os
import shutil
import warnings
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_pipeline import FEW_ROWS, FILES, control_of, files, names_of, run_on

from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.files import RunFolder, file_name, locked, read_json, write_json
from culnig_tl.inspection import NeuronCard
from culnig_tl.neurons import NeuronSet
from culnig_tl.pipeline import measuring

pytestmark = FEW_ROWS

ODD_NAMES = [
    "a×b",
    "axb",
    "..",
    ".",
    "",
    "/",
    "con",
    "A",
    "a",
    "x" * 300,
    "doses.parquet",
    "a/../b",
]


@pytest.fixture
def run_in(model, rows):
    """``run_in(folder, **changes)``: the whole method on the tiny model."""
    return partial(run_on, model, rows)


@pytest.fixture(scope="module")
def finished(loaded, rows, tmp_path_factory):
    """The folder of a run with one card; copy it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_on(loaded(), rows, folder, n_cards=1)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run's folder."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file."""
    return {
        name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns)
        for name in files(folder)
    }


def same(run, other) -> None:
    for name in ("answers", "table", "effects", "doses"):
        pd.testing.assert_frame_equal(getattr(run, name), getattr(other, name))
    assert [card.fragment() for card in run.cards.values()] == [
        card.fragment() for card in other.cards.values()
    ]
    assert run.replies.fragment() == other.replies.fragment()


def test_benchmarks_of_any_name_keep_their_answers_apart(run_in, rows, tmp_path):
    """Each benchmark has other rows, so that one's answers are not another's."""
    benchmarks = {
        name: rows.select([number % 6, (number + 1 + number // 6) % 6])
        for number, name in enumerate(ODD_NAMES)
    }
    out = tmp_path / "inside" / "run"
    first = run_in(out, benchmarks=benchmarks)
    again = run_in(out, benchmarks=benchmarks)
    pd.testing.assert_frame_equal(first.answers, again.answers)
    for name, questions in benchmarks.items():
        of_name = again.answers[again.answers["benchmark"] == name]
        original = of_name[of_name["condition"] == "original"]
        assert original["id"].tolist() == questions["id"][:]
        assert original["answer"].tolist() == questions["answer"][:]
    assert len([path for path in (out / "answers").iterdir() if path.is_dir()]) == len(ODD_NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["run"]


def test_on_a_disk_that_tells_no_case_what_a_file_says_keeps_benchmarks_apart(
    run_in, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(measuring, "file_name", lambda name: file_name(name).lower())
    benchmarks = {"A": rows.select([0, 1]), "a": rows.select([2, 3])}
    run = run_in(tmp_path, benchmarks=benchmarks)
    with pytest.warns(
        UserWarning, match=r"original-0.parquet was not made by this run \(other row"
    ):
        again = run_in(tmp_path, benchmarks=benchmarks)
    for name, questions in benchmarks.items():
        for each in (run, again):
            of_name = each.answers[each.answers["benchmark"] == name]
            assert of_name["answer"].unique().tolist() == list(
                dict.fromkeys(questions["answer"][:])
            )


def test_cultures_of_any_name_have_a_file_of_their_own(run_in, rows, tmp_path):
    for number in range(0, len(ODD_NAMES), 2):
        one, other = (name or "no name" for name in ODD_NAMES[number : number + 2])
        called = {"A": one, "B": other, "C": "C"}
        renamed = rows.map(lambda row, called=called: {**row, "culture": called[row["culture"]]})
        folder = tmp_path / str(number)
        names = renamed.select([i for i, name in enumerate(renamed["culture"]) if name != "C"])
        run = run_in(
            folder,
            cultural=renamed,
            control=control_of(renamed),
            recognition=names.map(lambda row: {**row, "prompt": row["culture"][:9] + " Answer:"}),
            benchmarks={"tiny": renamed},
        )
        stored = {path.name: path for path in (folder / "neurons" / "specific").iterdir()}
        assert set(stored) == {f"{file_name(name)}.json" for name in (one, other)}
        for name in (one, other):
            assert NeuronSet.load(stored[f"{file_name(name)}.json"]) == run.specific[name]


def test_factors_that_print_alike_are_conditions_of_their_own(run_in, tmp_path):
    factors = [0.0, 2.0000001, 2.0000002]
    first, again = (run_in(tmp_path, factor=factors) for _ in range(2))
    pd.testing.assert_frame_equal(first.answers, again.answers)
    general = again.answers[again.answers["condition"] == "general"]
    probability = general.groupby("factor")["probability"].mean()
    assert probability.index.tolist() == factors
    assert probability.nunique() == 3
    table = again.table[again.table["condition"] == "general"]
    assert table["factor"].tolist() == factors * 2
    report = again.report().read_text(encoding="utf-8")
    assert "general ×2.0000001" in report
    assert "general ×2.0000002" in report


@pytest.mark.parametrize(
    "changes",
    [
        {"factor": 2.0},
        {"mode": "options"},
        {"mlp_top": 0.2},
        {"min_z": 0.1, "specific_top": 0.3},
        {"n_random": 1},
        {"token_budget": 30},
    ],
)
def test_without_its_settings_a_folder_is_never_taken_for_another_run(
    run_in, copied, tmp_path, changes
):
    """The old answers, effects, doses and cards are not reported as the new ones."""
    (copied / "settings.json").unlink()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*was not made by this run", category=UserWarning
        )
        again = run_in(copied, n_cards=1, **changes)
    same(again, run_in(tmp_path / "anew", n_cards=1, **changes))
    assert (copied / "settings.json").is_file()
    same(again, run_in(copied, n_cards=1, **changes))


def test_without_its_settings_other_benchmarks_are_answered_anew(run_in, rows, copied, tmp_path):
    (copied / "settings.json").unlink()
    benchmarks = {"tiny": rows.select(range(3)), "half": rows}
    with pytest.warns(
        UserWarning, match=r"original-0.parquet was not made by this run \(other row"
    ):
        again = run_in(copied, n_cards=1, benchmarks=benchmarks)
    same(again, run_in(tmp_path / "anew", n_cards=1, benchmarks=benchmarks))


def test_answers_of_another_model_are_never_taken(loaded, rows, copied):
    """Scores would be refused by what they say themselves; here they are gone too."""
    (copied / "settings.json").unlink()
    shutil.rmtree(copied / "scores")
    with pytest.warns(UserWarning, match=r"was not made by this run \(other model"):
        run = run_on(loaded(4), rows, copied, n_cards=1)
    same(run, run_on(loaded(4), rows, copied.parent / "anew", n_cards=1))


def test_what_something_else_made_is_said_once_with_the_reason(run_in, copied):
    (copied / "settings.json").unlink()
    with pytest.warns(UserWarning, match="was not made by this run") as seen:
        run_in(copied, n_cards=1, factor=0.5)
    sentences = [str(each.message) for each in seen if "not made by" in str(each.message)]
    assert sentences == [
        f"{copied / 'answers/tiny/general-0.parquet'} was not made by this run (other factor); it "
        "is made again, and so is every other file here that was not."
    ]


def unsigned(folder: Path) -> None:
    """A folder as it was before its files said what made them."""
    for path in folder.rglob("*.parquet"):
        pd.read_parquet(path).to_parquet(path)
        assert b"culnig_tl" not in pq.read_schema(path).metadata
    for path in (folder / "settings.json", *folder.glob("cards/*.json")):
        header = (
            ("identity", "checksum") if path.parent.name == "cards" else ("version", "checksum")
        )
        stored = {name: each for name, each in read_json(path).items() if name not in header}
        if path.name == "settings.json":
            del stored["format"]
        write_json(path, stored)


def test_answers_of_before_files_said_what_made_them_are_made_again(run_in, passes, copied):
    before = run_in(copied, n_cards=1)
    unsigned(copied)
    for path in copied.glob("cards/*.json"):
        path.unlink()
    passes.clear()
    with pytest.warns(
        UserWarning, match=r"not made by this run \(it does not say by what\)"
    ) as seen:
        again = run_in(copied, n_cards=1)
    assert sum("not made by" in str(each.message) for each in seen) == 1
    assert len(passes) > 0
    same(again, before)
    passes.clear()
    same(run_in(copied, n_cards=1), before)
    assert passes == []


def test_an_older_folder_of_other_settings_is_refused_as_such(run_in, copied):
    unsigned(copied)
    with pytest.raises(
        InvalidInputError, match=r"a run of an earlier version, with other.*\(mode\)"
    ):
        run_in(copied, mode="options")


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(2048)),
}
MADE_AGAIN = [
    "answers/tiny/general-0.parquet",
    "answers_of_cultures/specific/A.parquet",
    "answers/doses.parquet",
    "answers/replies.parquet",
    "scores/control.safetensors",
]


@pytest.mark.parametrize("name", MADE_AGAIN)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_set_aside_and_made_again(run_in, copied, name, damage):
    before = run_in(copied, n_cards=1)
    path = copied / name
    DAMAGES[damage](path)
    damaged = path.read_bytes()
    with pytest.warns(UserWarning, match="is damaged") as seen:
        again = run_in(copied, n_cards=1)
    assert [str(each.message) for each in seen if "is damaged" in str(each.message)] == [
        f"{path} is damaged; it is made again, and kept as {path.name}.damaged."
    ]
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    same(again, before)
    same(run_in(copied, n_cards=1), before)


def test_scores_that_are_none_are_the_users_own_and_stay(run_in, copied):
    path = copied / "scores" / "control.safetensors"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(InvalidInputError, match=r"control\.safetensors is no .*scores"):
        run_in(copied, n_cards=1)
    assert path.read_bytes() == bytes(range(256)) * 8


def test_no_flipped_bit_in_a_table_changes_what_is_read(tmp_path):
    """Where a bit is of no consequence, it is read as it was; else it is noticed and made again."""
    frame = pd.DataFrame({"id": ["q1", "q2"], "correct": [True, False], "probability": [0.1, 0.2]})
    frame["probabilities"] = [[0.1, 0.9], [0.5, 0.2, 0.3]]
    path, identity, n_made = tmp_path / "x.parquet", {"factor": 0.0}, []

    def make() -> pd.DataFrame:
        n_made.append(1)
        return frame

    def read() -> pd.DataFrame:
        with RunFolder(tmp_path, {"model": "a"}) as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(is damaged|not made by)")
            return folder.frame(path.name, identity, make)

    expected = read()
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :]
        )
        pd.testing.assert_frame_equal(read(), expected)
    assert len(whole) / 7 / 2 < len(n_made) < len(whole) / 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1, 2]", "is no record of a run's settings; delete it and start the run again"),
        ("null", "is no record of a run's settings"),
        ("3", "is no record of a run's settings"),
        ("{}", "is no record of a run's settings"),
        ('{"sites": 3}', "is no record of a run's settings"),
        ("{", "is no record of a run's settings"),
        ("[" * 100_000, "is no record of a run's settings"),
        ("", "was damaged or changed by hand; delete it and start the run again"),
        ('{"format": "culnig_tl.run", "vers', "was damaged or changed by hand"),
        ('{"format": "culnig_tl.run", "version": 9}', "version 9, and this version of culnig"),
        ('{"format": "culnig_tl.run", "version": "x"}', "version 'x', and this version"),
        ('{"format": "culnig_tl.run", "version": 1}', "was damaged or changed by hand"),
        ('{"data": null}', "a run of an earlier version, with other settings"),
    ],
)
def test_settings_that_are_none_are_a_sentence(run_in, copied, text, sentence):
    (copied / "settings.json").write_text(text, encoding="utf-8")
    before = content(copied)
    with pytest.raises(InvalidInputError, match="settings") as raised:
        run_in(copied, n_cards=1)
    assert sentence in str(raised.value)
    assert content(copied) == before


def test_settings_that_were_changed_by_hand_are_refused(run_in, copied):
    path = copied / "settings.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"n_random": 2', '"n_random": 1'))
    with pytest.raises(InvalidInputError, match="was damaged or changed by hand; delete it"):
        run_in(copied, n_cards=1, n_random=1)
    path.unlink()
    assert run_in(copied, n_cards=1, n_random=1).settings["n_random"] == 1


def test_settings_stay_readable_and_say_what_they_are(finished):
    stored = json.loads((finished / "settings.json").read_text(encoding="utf-8"))
    assert (stored["format"], stored["version"]) == ("culnig_tl.run", 1)
    assert len(stored["checksum"]) == 64
    assert stored["factor"] == 0.0
    assert stored["data"].keys() == {"cultural", "control", "recognition"}


def test_a_finished_run_opens_without_a_write(run_in, copied, passes, monkeypatch):
    before = content(copied)

    def refused(*arguments, **options):
        raise AssertionError("written")

    passes.clear()
    for name in ("replace", "mkdir", "rename", "unlink"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr("culnig_tl.files.folder.locked", refused)
    run = run_in(copied, n_cards=1)
    monkeypatch.undo()
    assert passes == []
    assert content(copied) == before
    assert len(run.cards) == 1
    assert run.report(copied.parent / "report.html").is_file()


def test_a_finished_run_opens_while_another_process_holds_the_folder(run_in, copied):
    before = run_in(copied, n_cards=1)
    with locked(copied):
        same(run_in(copied, n_cards=1), before)
        with pytest.raises(InvalidInputError, match="is being written by process"):
            run_in(copied, n_cards=2)


def test_only_tables_that_differ_are_written_again(run_in, copied):
    before = content(copied)
    (copied / "table.csv").write_text("benchmark\n", encoding="utf-8")
    (copied / "culture_effects.csv").unlink()
    (copied / "neurons" / "general.json").write_text("{}", encoding="utf-8")
    run_in(copied, n_cards=1)
    after = content(copied)
    written = {name for name in after if after[name] != before[name]}
    assert written == {"table.csv", "culture_effects.csv", "neurons/general.json"}
    assert {name: each[0] for name, each in after.items()} == {
        name: each[0] for name, each in before.items()
    }


def test_more_cards_later_leave_those_that_are_there(run_in, copied):
    (card,) = (copied / "cards").iterdir()
    before = card.read_bytes(), card.stat().st_mtime_ns
    assert len(run_in(copied, n_cards=3).cards) == 3
    assert (card.read_bytes(), card.stat().st_mtime_ns) == before


def test_cards_of_other_questions_are_made_again(run_in, rows, copied, tmp_path):
    """A folder whose scores and settings are gone, and whose cultural questions are others."""
    (copied / "settings.json").unlink()
    shutil.rmtree(copied / "scores")
    fewer = rows.select([0, 1, 2, 3, 5])
    changes = {"cultural": fewer, "control": control_of(fewer), "recognition": names_of(fewer)}
    with pytest.warns(UserWarning, match="was not made by this run"):
        again = run_in(copied, n_cards=2, **changes)
    same(again, run_in(tmp_path / "anew", n_cards=2, **changes))


@pytest.mark.parametrize("when", ["scores/control.safetensors", "answers/half/original-0.parquet"])
def test_a_folder_that_is_deleted_meanwhile_does_not_end_well(run_in, tmp_path, monkeypatch, when):
    out, replace = tmp_path / "run", os.replace

    def deleting(source, target):
        replace(source, target)
        if str(target).endswith(when):
            monkeypatch.undo()
            shutil.rmtree(out)
            if when.startswith("scores"):  # which is read back at once
                Path(target).parent.mkdir(parents=True)

    monkeypatch.setattr(os, "replace", deleting)
    with pytest.raises(MissingFileError, match=r"There is no file|files of this run are gone from"):
        run_in(out)
    again = run_in(out)
    assert files(out) == FILES
    assert again.settings["n_random"] == 2


def test_files_that_are_deleted_meanwhile_are_counted(tmp_path):
    with RunFolder(tmp_path, {"model": "a"}) as folder:
        folder.csv("table.csv", pd.DataFrame({"a": [1]}))
        folder.csv("doses.csv", pd.DataFrame({"a": [1]}))
        (tmp_path / "doses.csv").unlink()
        with pytest.raises(MissingFileError, match=r"1 of 2 files.*\(the first is doses.csv\)"):
            folder.check_complete()


def test_a_card_says_what_it_was_made_of(finished):
    (path,) = (finished / "cards").iterdir()
    identity = read_json(path)["identity"]
    assert identity.keys() == {"model", "dtype", "versions", "rows", "scores", "sites"}
    assert NeuronCard.load(path).id in path.name
