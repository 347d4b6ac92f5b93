"""CulturalBench-Hard, INCLUDE, Global-MMLU-Lite: rows, halves, cultures, and what is measured."""

import json
import math
from collections import Counter
from functools import partial
from typing import Any

import pandas as pd
import pytest
from benchmark_files import (
    HARD_TRUTHS,
    culturalbench_hard_rows,
    global_mmlu_lite_rows,
    include_rows,
    write_csv,
    write_culturalbench_hard,
    write_global_mmlu_lite,
    write_include,
)
from datasets import Dataset

import culnig_tl as ct
from culnig_tl.benchmarks import benchmark, judged_together, measure_of
from culnig_tl.benchmarks.exams import LANGUAGES
from culnig_tl.cultures import culture_name
from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.questions import control_of

HARD = "culturalbench-hard"
SENSITIVE, AGNOSTIC = "global-mmlu-lite-sensitive", "global-mmlu-lite-agnostic"
load_all = partial(ct.load_benchmark, split="all")


@pytest.fixture(scope="module")
def files_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("new")
    return {
        HARD: write_culturalbench_hard(root / "culturalbench"),
        "include": write_include(root / "include"),
        "lite": write_global_mmlu_lite(root / "global-mmlu-lite"),
    }


def judgements(rows):
    """Rows by question and wording."""
    groups = {}
    for row in rows.to_list():
        groups.setdefault((row["id"], row["culture"], row["template"]), []).append(row)
    return groups


# ---------------------------------------------------------------- CulturalBench-Hard


def test_each_suggestion_is_judged_in_four_wordings_with_the_file_s_truth(files_of):
    rows = load_all(HARD, data_dir=files_of[HARD])
    groups = judgements(rows)
    assert len(rows) == 3 * 4 * 4
    assert {len(group) for group in groups.values()} == {4}
    assert {(name, culture) for name, culture, _ in groups} == {
        ("0", "Spain"),
        ("1", "UK"),
        ("2", "Spain"),
    }
    for (name, _, template), group in groups.items():
        truths = ["01"[truth == "T"] for truth in HARD_TRUTHS[int(name)]]
        if template.startswith("values"):
            assert [row["answer"] for row in group] == truths
            assert all(row["options"] == ["0", "1"] for row in group)
        for row, truth in zip(group, truths, strict=True):
            right = "The suggestion is " + ("right." if truth == "1" else "wrong.")
            assert template == "values-1" or f"{row['answer']}. {right}" in row["prompt"]
    dishes = [row["prompt"].split("Suggestion: ")[1].split("\n")[0] for row in rows.to_list()]
    assert dishes[:12] == [str(row["prompt_option"]) for row in culturalbench_hard_rows()]
    assert dishes.count("None") == 4


def test_csv_parquet_and_json_give_the_same_judgements(files_of, tmp_path):
    expected = load_all(HARD, data_dir=files_of[HARD]).to_list()
    table = pd.read_csv(files_of[HARD] / "CulturalBench-Hard.csv")
    assert table["prompt_option"].isna().sum() == 1
    assert table["answer"].dtype == bool
    for name in ("parquet", "json"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "parquet":
            table.to_parquet(folder / "0000.parquet")
        else:
            (folder / "rows.json").write_text(json.dumps(culturalbench_hard_rows()))
        assert load_all(HARD, data_dir=folder).to_list() == expected


def test_halves_hold_whole_questions_of_each_country(files_of):
    halves = {
        split: Counter(ct.load_benchmark(HARD, split=split, data_dir=files_of[HARD])["id"])
        for split in ("identify", "test", "all")
    }
    assert halves["identify"] == {"0": 16}
    assert halves["test"] == {"1": 16, "2": 16}
    assert halves["all"] == halves["identify"] + halves["test"]


def test_the_easy_and_the_hard_file_lie_in_one_folder(files_of, tmp_path):
    write_culturalbench_hard(tmp_path)
    easy = [f"prompt_option_{letter}" for letter in "abcd"]
    row = {"data_idx": 0, "question_idx": 0, "prompt_question": "Why?", "country": "Spain"}
    write_csv(tmp_path / "Easy.csv", [row | dict.fromkeys(easy, "So.") | {"answer": "A"}])
    assert benchmark(HARD).folder == benchmark("culturalbench").name
    assert len(load_all("culturalbench", data_dir=tmp_path)) == 4
    expected = load_all(HARD, data_dir=files_of[HARD]).to_list()
    assert load_all(HARD, data_dir=tmp_path).to_list() == expected


@pytest.mark.parametrize(("limit", "per_culture", "n_rows"), [(11, None, 8), (None, 9, 16)])
def test_draws_take_whole_questions_and_the_same_of_the_control(
    files_of, limit, per_culture, n_rows
):
    drawn = partial(load_all, data_dir=files_of[HARD], limit=limit, per_culture=per_culture, seed=1)
    rows = drawn(HARD)
    assert len(rows) == n_rows
    assert {len(group) for group in judgements(rows).values()} == {4}
    assert set(rows["culture"]) == {"Spain", "UK"}
    assert drawn(f"{HARD}-control").to_list() == control_of(rows).to_list()


def test_fewer_rows_than_a_question_has_are_a_sentence(files_of):
    with pytest.raises(InvalidInputError, match="limit is 3; give a whole number from 4 up"):
        load_all(HARD, data_dir=files_of[HARD], limit=3)
    with pytest.raises(InvalidInputError, match="per_culture is 3; give a whole number from 4 up"):
        load_all(HARD, data_dir=files_of[HARD], per_culture=3)


def test_the_control_keeps_the_suggestion_and_loses_the_question(files_of):
    for row in load_all(f"{HARD}-control", data_dir=files_of[HARD]).to_list():
        assert "common at table" not in row["prompt"]
        assert row["question"] == ""
        assert "Suggestion: " in row["prompt"]
    assert measure_of(f"{HARD}-control") is None


def replies(rows, said):
    """The columns of ``_measures`` for replies in the rows' own labels."""
    measure = measure_of(HARD)
    assert measure is not None
    scores = [measure.score(said(row), row["answer"], row["options"]) for row in rows]
    return {"measure": [measure.name] * len(rows), measure.name: scores}


def test_a_question_counts_only_if_all_four_judgements_are_right(files_of):
    rows = load_all(HARD, data_dir=files_of[HARD]).to_list()
    perfect, same = replies(rows, lambda row: row["answer"]), replies(rows, lambda _: "1")
    assert judged_together(rows, perfect) == perfect
    assert set(judged_together(rows, same)["all four right"]) == {0.0}
    assert set(same["all four right"]) == {0.0, 100.0}
    wrong_once = {**perfect, "all four right": [0.0, *perfect["all four right"][1:]]}
    scores = judged_together(rows, wrong_once)["all four right"]
    assert scores == [0.0] * 4 + [100.0] * 44
    assert wrong_once["all four right"][1] == 100.0


def test_a_question_of_which_some_judgements_are_missing_has_no_score(files_of):
    rows = load_all(HARD, data_dir=files_of[HARD]).to_list()[1:8]
    scores = judged_together(rows, replies(rows, lambda row: row["answer"]))["all four right"]
    assert [math.isnan(score) for score in scores] == [True] * 3 + [False] * 4


def test_other_benchmarks_are_measured_row_by_row():
    rows = [{"benchmark": name, "id": "q", "culture": "", "template": ""} for name in ("own", HARD)]
    columns = {"alignment": [50.0, math.nan], "all four right": [math.nan, 100.0]}
    scores = judged_together([rows[0]] * 2, columns)
    assert scores["alignment"][0] == 50.0
    assert scores["all four right"][1] == 100.0
    assert math.isnan(judged_together(rows, columns)["all four right"][1])  # one of four


def test_a_model_s_table_has_the_share_of_questions_that_are_right_throughout(model, files_of):
    rows = load_all(HARD, data_dir=files_of[HARD], templates="{candidate}")
    said = ct.evaluate(model, rows, mode="options")["prediction"].tolist()
    other = {"0": "1", "1": "0"}
    records = rows.to_list()
    for number, (row, reply) in enumerate(zip(records, said, strict=True)):
        row["answer"] = other[reply.strip()] if number in (4, 8, 9) else reply.strip()
    frame = ct.evaluate(model, records, mode="options")
    assert frame["correct"].tolist() == [n not in (4, 8, 9) for n in range(12)]
    assert frame["all four right"].tolist() == [100.0] * 4 + [0.0] * 8
    table = ct.accuracy_by(frame, "benchmark")
    assert table["measure"].tolist() == ["all four right"]
    assert table["n_questions"].tolist() == [3]
    assert table["accuracy"].item() == pytest.approx(100 / 3)
    part = ct.accuracy_by(ct.evaluate(model, records[:5], mode="options"), "benchmark")
    assert part["measure"].tolist() == ["accuracy"]
    assert part["accuracy"].item() == pytest.approx(100 / 2)  # mean of 4 of 4 and 0 of 1


@pytest.mark.parametrize(
    ("row", "changes", "fault"),
    [
        (5, {"answer": "yes"}, r"row 5 \('5'\): answer is 'yes', expected TRUE or FALSE"),
        (5, {"answer": None}, r"answer is '', expected TRUE or FALSE"),
        (5, {"prompt_option": " "}, r"row 5 \('5'\): prompt_option is empty"),
        (5, {"prompt_option": ["tea"]}, r"prompt_option holds \['tea'\], not text"),
        (5, {"country": "364"}, r"country is '364', which names none"),
        (5, {"country": "Spain"}, r"1 of 3 questions have not 4 judgements .*question_idx 1\)"),
        (5, {"prompt_question": "Why?"}, r"of one text and one country \(question_idx 1\)"),
        (5, {"question_idx": 2}, r"2 of 3 questions have not 4 .*\(question_idx 1, 2\)"),
    ],
)
def test_a_damaged_judgement_is_named(tmp_path, row, changes, fault):
    rows = culturalbench_hard_rows()
    rows[row] |= changes
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(InvalidInputError, match=fault):
        load_all(HARD, data_dir=tmp_path)


def test_a_file_that_breaks_off_within_a_question_is_a_sentence(tmp_path):
    write_csv(tmp_path / "rows.csv", culturalbench_hard_rows()[:-1])
    with pytest.raises(InvalidInputError, match=r"\(question_idx 2\); get the file anew"):
        load_all(HARD, data_dir=tmp_path)


# ---------------------------------------------------------------- INCLUDE


def test_include_asks_regional_questions_by_country_and_agnostic_ones_without(files_of):
    regional = load_all("include", data_dir=files_of["include"])
    agnostic = load_all("include-agnostic", data_dir=files_of["include"])
    assert Counter(regional["culture"]) == {"Poland": 8, "Iran": 4, "": 4}
    assert set(agnostic["culture"]) == {""}
    assert (len(regional), len(agnostic)) == (16, 8)
    assert set(regional["topic"]) == {"Law", "Sociology"}
    texts: dict[Any, Any] = {
        row["question"]: row for rows in include_rows().values() for row in rows
    }
    for row in [*regional.to_list(), *agnostic.to_list()]:
        (asked,) = [text for text in texts if text in row["prompt"]]
        assert (texts[asked]["regional_feature"] == "agnostic") == (
            row["benchmark"] == "include-agnostic"
        )
        right = texts[asked][f"option_{'abcd'[texts[asked]['answer']]}"]
        assert f"\n{row['answer']}. {right}\n" in row["prompt"]
        assert row["answer"] == row["options"][texts[asked]["answer"]]  # in the exam's order


def test_include_s_halves_leave_rows_without_country_to_the_test(files_of):
    halves = {
        split: Counter(
            ct.load_benchmark("include", split=split, data_dir=files_of["include"])["culture"]
        )
        for split in ("identify", "test")
    }
    assert halves == {"identify": {"Poland": 4}, "test": {"Poland": 4, "Iran": 4, "": 4}}
    with pytest.raises(InvalidInputError, match="include-agnostic has no culture to identify"):
        ct.load_benchmark("include-agnostic", split="identify", data_dir=files_of["include"])


def test_include_s_ids_come_from_the_cells_whatever_the_file(files_of, tmp_path):
    expected = load_all("include", data_dir=files_of["include"])
    ids = set(expected["id"])
    assert len(ids) == 4
    assert all(len(name) == 12 for name in ids)
    rows = [row for each in include_rows().values() for row in each]
    write_csv(tmp_path / "include.csv", [*rows, rows[0]])  # a row that comes twice counts once
    again = load_all("include", data_dir=tmp_path)
    assert set(again["id"]) == ids
    assert len(again) == len(expected)
    (tmp_path / "include.csv").unlink()
    other = [{**rows[0], "option_d": "another"}, rows[0]]  # one question text, two questions
    (tmp_path / "include.jsonl").write_text("\n".join(map(json.dumps, other)))
    assert len(set(load_all("include", data_dir=tmp_path)["id"])) == 2


def test_include_reads_all_languages_of_the_hub_at_one_commit(files_of, monkeypatch):
    calls = []

    def load_dataset(path, config, *, split, revision):
        calls.append((path, config, split, revision))
        rows = include_rows().get(config)
        return Dataset.from_list(rows or [{**include_rows()["Polish"][0], "language": config}])

    monkeypatch.setattr("culnig_tl.benchmarks.loading.load_dataset", load_dataset)
    rows = load_all("include")
    assert [config for _, config, _, _ in calls] == list(LANGUAGES)
    assert len(set(LANGUAGES)) == 44
    revision = "d2e1f6015f67a43c02a9a68db98e2298e2d6a660"
    assert {(path, split, commit) for path, _, split, commit in calls} == {
        ("CohereLabs/include-base-44", "test", revision)
    }
    assert rows.info.description == (
        f"include, all: hub CohereLabs/include-base-44, Albanian at {revision} and 43 other "
        "languages"
    )
    assert len(set(rows["id"])) == 42 + 4
    expected = load_all("include", data_dir=files_of["include"])
    assert set(expected["id"]) <= set(rows["id"])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"answer": 4}, r"answer is '4', expected one of 0, 1, 2, 3"),
        ({"answer": "01"}, r"answer is '01', expected one of"),
        ({"option_b": ""}, r"option B is empty"),
        ({"country": "51"}, r"country is '51', which names none"),
        ({"country": ["Poland"]}, r"country holds \['Poland'\], not text"),
        ({"subject": {"a": 1}}, r"subject holds \{'a': 1\}, not text"),
    ],
)
def test_a_damaged_exam_question_is_named(tmp_path, changes, fault):
    rows = include_rows()["Polish"]
    rows[1] |= changes
    (tmp_path / "Polish.json").write_text(json.dumps(rows))
    for name in ("include", "include-agnostic"):
        with pytest.raises(InvalidInputError, match=rf"1 of 3 rows.* Polish\.json, row 1.*{fault}"):
            load_all(name, data_dir=tmp_path)


def test_an_exam_without_subject_or_country_is_a_question_all_the_same(tmp_path):
    rows = [{**row, "subject": None, "country": None} for row in include_rows()["Polish"]]
    pd.DataFrame(rows).to_parquet(tmp_path / "test.parquet")
    loaded = load_all("include", data_dir=tmp_path)
    assert (set(loaded["topic"]), set(loaded["culture"]), len(loaded)) == ({""}, {""}, 8)


# ---------------------------------------------------------------- Global-MMLU-Lite


def test_sensitive_questions_have_the_country_that_most_annotators_named(files_of):
    rows = load_all(SENSITIVE, data_dir=files_of["lite"], templates="{question} {options}")
    assert rows["culture"][:] == ["USA", "Italy", "USA", "", "France"]
    assert rows["answer"][:] == ["A", "B", "C", "D", "A"]
    assert rows["id"][:] == [f"world_religions/test/{n}" for n in range(5)]
    assert set(rows["topic"]) == {"world_religions"}
    agnostic = load_all(AGNOSTIC, data_dir=files_of["lite"], templates="{question} {options}")
    assert agnostic["id"][:] == ["world_religions/test/5", "world_religions/test/6"]
    assert set(agnostic["culture"]) == {""}
    assert set(agnostic["topic"]) == {"anatomy"}


def test_the_pair_differs_in_nothing_but_culture(files_of):
    sensitive, agnostic = (
        load_all(name, data_dir=files_of["lite"]) for name in (SENSITIVE, AGNOSTIC)
    )
    assert sorted(set(sensitive["template"])) == sorted(set(agnostic["template"]))
    assert benchmark(SENSITIVE).templates == benchmark(AGNOSTIC).templates
    assert benchmark(SENSITIVE).folder == benchmark(AGNOSTIC).folder
    assert (benchmark(SENSITIVE).uses, benchmark(AGNOSTIC).uses) == (("cultural",), ("general",))
    ids = [set(rows["id"]) for rows in (sensitive, agnostic)]
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == len(global_mmlu_lite_rows())


def test_what_identifies_has_a_country_in_every_row(files_of):
    rows = {
        split: ct.load_benchmark(SENSITIVE, split=split, data_dir=files_of["lite"])
        for split in ("identify", "test")
    }
    assert set(rows["identify"]["culture"]) == {"USA"}
    assert Counter(rows["test"]["culture"]) == {"USA": 4, "Italy": 4, "France": 4, "": 4}
    assert not set(rows["identify"]["id"]) & set(rows["test"]["id"])


def test_the_english_questions_of_the_hub_are_read_at_one_commit(monkeypatch):
    calls = []

    def load_dataset(path, config, *, split, revision):
        calls.append((path, config, split, revision))
        return Dataset.from_list(global_mmlu_lite_rows())

    monkeypatch.setattr("culnig_tl.benchmarks.loading.load_dataset", load_dataset)
    assert len(set(load_all(AGNOSTIC)["id"])) == 2
    revision = "36c2fd756f19ccf13a9a96c8e53ccecc02192b8b"
    assert calls == [("CohereLabs/Global-MMLU-Lite", "en", "test", revision)]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"cultural_sensitivity_label": "-"}, "is '-', expected one of CS, CA"),
        ({"answer": "E"}, "its answer 'E' is not among its options"),
        ({"option_d": None}, "option D is empty"),
        ({"country": {"a": 1}}, r"country holds \{'a': 1\}, not text"),
    ],
)
def test_a_damaged_question_of_the_pair_is_named(tmp_path, changes, fault):
    rows = global_mmlu_lite_rows()
    rows[2] |= changes
    (tmp_path / "test.json").write_text(json.dumps(rows))
    for name in (SENSITIVE, AGNOSTIC):
        with pytest.raises(InvalidInputError, match=rf"test\.json, row 2 \('world_.*{fault}"):
            load_all(name, data_dir=tmp_path)


def test_two_languages_in_one_folder_are_reported(files_of, tmp_path):
    for language, question in (("de", "Welche?"), ("en", "Which?")):
        (tmp_path / language).mkdir()
        rows = [{**row, "question": question} for row in global_mmlu_lite_rows()]
        (tmp_path / language / "test.json").write_text(json.dumps(rows))
    with pytest.raises(InvalidInputError, match=r"en/test\.json, row 0 .* differs from that of de"):
        load_all(SENSITIVE, data_dir=tmp_path)


def test_a_folder_of_other_splits_alone_is_a_sentence(files_of, tmp_path):
    (tmp_path / "dev-0.json").write_text(json.dumps(global_mmlu_lite_rows()))
    with pytest.raises(MissingFileError, match=r"table with the columns sample_id, cultural_sens"):
        load_all(SENSITIVE, data_dir=tmp_path)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Republic of Korea", "South Korea"),
        ("Islamic_Republic_of_Iran", "Iran"),
        ("RUSSIAN FEDERATION", "Russia"),
        ("Viet Nam", "Vietnam"),
        ("republic of north macedonia", "North Macedonia"),
        ("north macedonia", "North Macedonia"),
    ],
)
def test_official_names_of_countries_are_those_of_this_package(spelling, name):
    assert culture_name(spelling) == name


@pytest.mark.parametrize(
    ("name", "folder", "cultures"),
    [
        (HARD, HARD, ["Great Britain"]),
        ("include", "include", ["islamic republic of iran"]),
        (SENSITIVE, "lite", ["us"]),
    ],
)
def test_cultures_are_selected_in_any_spelling(files_of, name, folder, cultures):
    rows = load_all(name, data_dir=files_of[folder], cultures=cultures)
    assert set(rows["culture"]) == {culture_name(cultures[0])}


@pytest.mark.parametrize("name", [HARD, "include", SENSITIVE])
def test_a_control_leaves_the_question_out_and_nothing_else(files_of, name):
    folder = files_of["lite" if name == SENSITIVE else name]
    rows, control = (load_all(each, data_dir=folder) for each in (name, f"{name}-control"))
    assert control.to_list() == control_of(rows).to_list()
    for row, without in zip(rows.to_list(), control.to_list(), strict=True):
        assert (row["options"], row["answer"]) == (without["options"], without["answer"])
        assert row["question"].strip() in row["prompt"]
        assert row["question"].strip() not in without["prompt"]


@pytest.mark.parametrize("name", [HARD, "include", "include-agnostic", SENSITIVE, AGNOSTIC])
def test_licences_are_those_of_the_data_and_name_the_paper(name):
    licence = benchmark(name).licence
    paper = {HARD: "2410.02677", "include": "2411.19799", "include-agnostic": "2411.19799"}
    assert licence.startswith("CC-BY-4.0" if name == HARD else "Apache-2.0")
    assert paper.get(name, "2412.03304") in licence
