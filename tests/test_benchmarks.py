"""Every benchmark loads: the right rows, halves, cultures and labels, from each layout of files."""

import json
from collections import Counter

import pandas as pd
import pytest
from benchmark_files import BLEND_ROWS, PLACES, SHARED, blend_rows, write_blend

from culnig_tl import load_benchmark
from culnig_tl.benchmarks import blend
from culnig_tl.benchmarks.cultures import culture_name
from culnig_tl.errors import InvalidInputError, MissingFileError, UnknownNameError
from culnig_tl.questions import FEATURES, Template, control_of


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Folders of small files by benchmark."""
    root = tmp_path_factory.mktemp("benchmarks")
    return {"blend": write_blend(root / "blend")}


@pytest.fixture(scope="session", params=PLACES)
def place(request, written):
    """``place(name)``: a folder of that benchmark, and whether it is the real one."""

    def find(name):
        real = request.param == "shared"
        return (SHARED / name if real else written[name]), real

    return find


# ---------------------------------------------------------------- cultures


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (("US", "United States", "united_states_of_america", "USA"), "USA"),
        (("UK", "United Kingdom", "united_kingdom", "Great Britain"), "UK"),
        (("South_Korea", "South Korea", "south_korea"), "South Korea"),
        (("Northern_Nigeria", "Nigeria"), "Nigeria"),
        (("Turkey", "türkiye"), "Turkey"),
        (("bosnia_and_herzegovina", "Bosnia Herzegovina"), "Bosnia and Herzegovina"),
        (("Hong Kong", "hong_kong", "Hong Kong SAR"), "Hong Kong"),
        (("Czech Republic", "Czechia"), "Czech Republic"),
        (("timor-leste",), "Timor-Leste"),
        (("Northern Ireland",), "Northern Ireland"),
        (("West_Java",), "West Java"),
    ],
)
def test_a_culture_has_one_name_in_every_spelling(spellings, name):
    assert {culture_name(spelling) for spelling in spellings} == {name}


def test_cultures_are_asked_for_in_any_spelling_and_an_unknown_one_lists_the_known(written):
    def load(*cultures):
        return load_benchmark(
            "blend", split="all", data_dir=written["blend"], cultures=list(cultures)
        )

    assert load("united_states_of_america").to_list() == load("USA").to_list()
    assert set(load("Northern_Nigeria")["culture"]) == {"Nigeria"}
    with pytest.raises(UnknownNameError, match="no culture 'Atlantis'; it has USA, Nigeria"):
        load("USA", "Atlantis")


# ---------------------------------------------------------------- BLEnD


def test_blend_keeps_five_rows_a_question_and_halves_them_by_topic(place):
    folder, real = place("blend")
    rows = {
        split: load_benchmark("blend", split=split, data_dir=folder)
        for split in ("all", "identify", "test")
    }
    assert rows["all"].features == FEATURES
    pairs = Counter(zip(rows["all"]["culture"], rows["all"]["id"], strict=True))
    assert max(pairs.values()) == 5
    assert set(rows["identify"]["topic"]) <= {"Food", "Work life", "Sport"}
    assert set(rows["test"]["topic"]) <= {"Education", "Family", "Holidays/Celebration/Leisure"}
    sizes = {split: len(found) for split, found in rows.items()}
    answers = Counter(rows["all"]["answer"])
    if real:
        assert len(pairs) == 1852
        assert sizes == {"all": 2774, "identify": 1738, "test": 1036}
        assert len(set(rows["all"]["culture"])) == 16
        assert {"USA", "UK", "Nigeria", "West Java"} <= set(rows["all"]["culture"])
        assert answers == {"A": 666, "B": 694, "C": 689, "D": 725}
    else:
        assert sizes == {"all": 8, "identify": 7, "test": 1}
        assert answers == {"A": 4, "B": 2, "C": 1, "D": 1}


def test_every_row_of_blend_s_file_is_read_once(place):
    """The cap takes rows away afterwards: without it, the file's own count and labels."""
    folder, real = place("blend")
    pair_sizes = blend_pairs(folder) if real else Counter(BLEND_ROWS)
    rows = load_benchmark("blend", split="all", data_dir=folder)
    pairs = Counter(zip(rows["culture"], rows["id"], strict=True))
    assert pairs == {
        (culture_name(country), question): min(n, 5)
        for (country, question), n in pair_sizes.items()
    }
    assert sum(pair_sizes.values()) == (2831 if real else 10)


def blend_pairs(folder):
    frame = pd.read_csv(folder / "derived" / "blend_mcq_16_countries.csv.gz")
    answers = frame["answer_idx"].value_counts().to_dict()
    assert answers == {"A": 676, "B": 706, "C": 705, "D": 744}
    return Counter(zip(frame["country"], frame["ID"], strict=True))


def test_blend_asks_in_its_own_words_and_the_reply_begins_as_json(place):
    folder, _ = place("blend")
    rows = load_benchmark("blend", split="test", data_dir=folder)
    for row in rows.select(range(min(20, len(rows)))).to_list():
        assert row["reply_prefix"] == '{"answer_choice":"'
        assert row["options"] == ["A", "B", "C", "D"]
        assert row["prompt"].endswith("\n\nAnswer:")
        assert row["prompt"].startswith(row["question"] + " Without any explanation")
        assert "?" in row["question"]


def test_blend_control_is_blend_without_its_question(place):
    folder, _ = place("blend")
    for split in ("identify", "test"):
        rows = load_benchmark("blend", split=split, data_dir=folder)
        control = load_benchmark("blend-control", split=split, data_dir=folder)
        assert control.to_list() == control_of(rows).to_list()
        for row, without in zip(rows.to_list(), control.to_list(), strict=True):
            assert row["prompt"] == f"{row['question']} {without['prompt']}"
            changed = {name for name in FEATURES if row[name] != without[name]}
            assert changed == {"prompt", "question", "benchmark"}
        assert set(control["benchmark"]) == {"blend-control"}


@pytest.mark.parametrize("template", blend.TEMPLATES, ids=lambda template: template.name)
def test_this_project_s_wordings_of_blend_hold_question_and_options(written, template):
    own = load_benchmark("blend", split="all", data_dir=written["blend"])
    rows = load_benchmark("blend", split="all", data_dir=written["blend"], templates=[template])
    control = control_of(rows)
    for row, before, without in zip(*(r.to_list() for r in (rows, own, control)), strict=True):
        assert (row["options"], row["answer"]) == (before["options"], before["answer"])
        assert before["question"] in row["prompt"]
        assert before["question"] not in without["prompt"]
        options = before["prompt"].partition("\n\n")[2].partition("\n\n")[0]
        assert options in row["prompt"]
        assert options in without["prompt"]
        assert row["reply_prefix"] == blend.REPLY_PREFIX


def test_blend_reads_the_layout_of_the_hub(tmp_path, written):
    """Parquet files of both configs, as the hub serves them."""
    for folder, frame in {
        "multiple-choice-questions/test": pd.DataFrame(blend_rows()),
        "short-answer-questions/US": pd.read_csv(
            written["blend"] / "questions" / "US_questions.csv", index_col=0
        ),
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        frame.to_parquet(tmp_path / folder / "0000.parquet")
    found = load_benchmark("blend", split="all", data_dir=tmp_path)
    expected = load_benchmark("blend", split="all", data_dir=written["blend"])
    assert found.to_list() == expected.to_list()
    assert "0000.parquet" in found.info.description


def test_blend_reads_json_lines_too(tmp_path, written):
    lines = [json.dumps(row) for row in blend_rows()]
    (tmp_path / "mc_questions_file.json").write_text("\n".join(lines))
    topics = pd.read_csv(written["blend"] / "questions" / "US_questions.csv")
    topics.to_json(tmp_path / "US_questions.json", orient="records")
    found = load_benchmark("blend", split="all", data_dir=tmp_path)
    expected = load_benchmark("blend", split="all", data_dir=written["blend"])
    assert found.to_list() == expected.to_list()


def test_a_blend_row_that_cannot_be_used_is_named(tmp_path, written):
    def spoiled(**changes):
        rows = blend_rows()
        rows[3] |= changes
        pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
        pd.read_csv(written["blend"] / "questions" / "US_questions.csv").to_csv(
            tmp_path / "topics.csv", index=False
        )
        return load_benchmark("blend", split="all", data_dir=tmp_path)

    assert len(spoiled()) == 8
    for changes, fault in [
        ({"choices": "{"}, "is not JSON"),
        ({"answer_idx": "E"}, "answer 'E' is not among its choices"),
        ({"prompt": "Why?"}, "does not hold 'Without any explanation'"),
        ({"ID": "Xx-01"}, "no topic is known of its question 'Xx-01'"),
    ]:
        with pytest.raises(InvalidInputError, match=f"'Al-en-01_US_3'.*{fault}"):
            spoiled(**changes)


# ---------------------------------------------------------------- wherever the files are


def test_without_the_hub_a_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr("culnig_tl.benchmarks.sources.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingFileError, match="unset HF_HUB_OFFLINE and go online once") as caught:
        load_benchmark("blend", split="test")
    assert "data_dir" in str(caught.value)


def test_a_folder_that_is_not_there_or_holds_something_else_is_a_sentence(tmp_path):
    with pytest.raises(MissingFileError, match="There is no folder"):
        load_benchmark("blend", split="test", data_dir=tmp_path / "nowhere")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MissingFileError, match=r"No file in .* columns MCQID, ID, country, prompt"):
        load_benchmark("blend", split="test", data_dir=tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(InvalidInputError, match=r"broken\.parquet cannot be read as parquet"):
        load_benchmark("blend", split="test", data_dir=tmp_path)


def test_a_template_that_asks_for_an_unknown_field_lists_the_known(written):
    with pytest.raises(UnknownNameError, match=r"asks for 'passage'; these .* have .*question"):
        load_benchmark(
            "blend", split="all", data_dir=written["blend"], templates=[Template("{passage}")]
        )


def test_a_text_serves_as_a_template_of_letters_or_digits(written):
    letters, digits = (
        load_benchmark("blend", split="all", data_dir=written["blend"], templates=[text])
        for text in ("{question} A. {option_a} B. {option_b}", "{question} 1. {option_a}")
    )
    assert letters["options"][0] == ["A", "B", "C", "D"]
    assert digits["options"][0] == ["1", "2", "3", "4"]
    assert letters["template"][0] == "own-1"


def test_the_embedded_benchmark_takes_no_files_and_no_wordings():
    with pytest.raises(InvalidInputError, match="leave data_dir, revision and templates out"):
        load_benchmark("atlas", split="test", templates=["{question}"])


@pytest.mark.parametrize("split", ["train", "", None])
@pytest.mark.usefixtures("as_for_a_user")
def test_an_unknown_split_is_a_sentence(split):
    with pytest.raises(InvalidInputError, match="choose one of 'identify', 'test', 'all'"):
        load_benchmark("atlas", split=split)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_a_sentence(limit):
    with pytest.raises(InvalidInputError, match=f"limit is {limit}"):
        load_benchmark("atlas", split="test", limit=limit)


def test_the_same_limit_and_seed_draw_the_same_rows_of_a_set_and_its_control(written):
    def drawn(name, seed):
        rows = load_benchmark(
            name, split="all", data_dir=written["blend"], limit=4, seed=seed
        ).to_list()
        return [(row["culture"], row["id"], row["answer"]) for row in rows]

    assert len(drawn("blend", 1)) == 4
    assert drawn("blend", 1) == drawn("blend-control", 1)
    assert any(drawn("blend", 1) != drawn("blend", seed) for seed in (2, 3, 4))
