"""Every benchmark loads: the right rows, halves, cultures and labels, from each layout of files."""

import json
import math
import re
from collections import Counter
from functools import cache

import pandas as pd
import pytest
from benchmark_files import (
    BLEND_ROWS,
    PLACES,
    SCALES,
    SHARED,
    blend_rows,
    write_blend,
    write_commonsenseqa,
    write_countryrc,
    write_culturalbench,
    write_mrpc,
    write_normad,
    write_qnli,
    write_survey,
)

from culnig_tl import load_benchmark
from culnig_tl.benchmarks import blend, countryrc, glue, worldvaluesbench
from culnig_tl.benchmarks.cultures import culture_name
from culnig_tl.errors import InvalidInputError, MissingFileError, UnknownNameError
from culnig_tl.questions import FEATURES, Template, control_of


@cache
def read(name, split, folder):
    """A benchmark from files that do not change."""
    return load_benchmark(name, split=split, data_dir=folder)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Folders of small files by benchmark."""
    root = tmp_path_factory.mktemp("benchmarks")
    writers = {
        "blend": write_blend,
        "culturalbench": write_culturalbench,
        "normad": write_normad,
        "commonsenseqa": write_commonsenseqa,
        "glue/QNLI": write_qnli,
        "glue/MRPC": write_mrpc,
        "countryrc": write_countryrc,
        "worldvaluesbench": write_survey,
    }
    return {name: write(root / name) for name, write in writers.items()}


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
    rows = {split: read("blend", split, folder) for split in ("all", "identify", "test")}
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
    rows = read("blend", "all", folder)
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
    rows = read("blend", "test", folder)
    for row in rows.select(range(min(20, len(rows)))).to_list():
        assert row["reply_prefix"] == '{"answer_choice":"'
        assert row["options"] == ["A", "B", "C", "D"]
        assert row["prompt"].endswith("\n\nAnswer:")
        assert row["prompt"].startswith(row["question"] + " Without any explanation")
        assert "?" in row["question"]


def test_blend_control_is_blend_without_its_question(place):
    folder, _ = place("blend")
    for split in ("identify", "test"):
        rows = read("blend", split, folder)
        control = read("blend-control", split, folder)
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
        ({"answer_idx": "E"}, "answer 'E' is not among its options"),
        ({"prompt": "Why?"}, "not hold a question and then 'Without any explanation'"),
        ({"ID": "Xx-01"}, "no topic is known of its question 'Xx-01'"),
    ]:
        with pytest.raises(InvalidInputError, match=f"'Al-en-01_US_3'.*{fault}"):
            spoiled(**changes)


# ---------------------------------------------------------------- the others

N_QUESTIONS = {  # by benchmark: folder, small files, real files
    "culturalbench": ("culturalbench", 5, 1227),
    "normad": ("normad", 6, 1867),
    "commonsenseqa": ("commonsenseqa", 2, 1221),
    "qnli": ("glue/QNLI", 3, 5463),
    "mrpc": ("glue/MRPC", 2, 1725),
    "countryrc": ("countryrc", 2, 50),
}


@pytest.mark.parametrize("name", N_QUESTIONS)
def test_every_question_of_the_file_is_asked_in_four_wordings(place, name):
    folder, small, full = N_QUESTIONS[name]
    path, real = place(folder)
    rows = read(name, "all", path)
    n_countries = 8 if name == "countryrc" else 1
    asked = Counter(zip(rows["id"], rows["culture"], strict=True))
    assert len(set(rows["id"])) == (full if real else small)
    assert len(asked) == n_countries * len(set(rows["id"]))
    assert set(asked.values()) == {4}
    assert len(set(rows["template"])) == 4
    assert set(rows["benchmark"]) == {name}


def told(rows, template, texts):
    """How often each option text is the right one, read back from the prompts."""
    counts = Counter()
    for row in rows.to_list():
        if row["template"] == template:
            found = [text for text in texts if f"{row['answer']}. {text}\n" in row["prompt"]]
            counts.update(found)
    return counts


def test_the_labels_are_those_of_the_files(place):
    def rows(name):
        path, real = place(N_QUESTIONS[name][0])
        return read(name, "all", path), real

    normad, real = rows("normad")
    assert told(normad, "digits-1", ("yes", "no", "neutral")) == (
        {"yes": 943, "no": 875, "neutral": 49} if real else {"yes": 3, "no": 2, "neutral": 1}
    )
    expected = {
        "commonsenseqa": ({"A": 239, "B": 255, "C": 241, "D": 251, "E": 235}, {"A": 1, "E": 1}),
        "qnli": ({"0": 2702, "1": 2761}, {"0": 2, "1": 1}),
        "mrpc": ({"1": 1147, "0": 578}, {"1": 1, "0": 1}),
    }
    for name, (full, small) in expected.items():
        found, real = rows(name)
        kind = "letters" if name == "commonsenseqa" else "values"
        first = [
            answer
            for answer, template in zip(found["answer"], found["template"], strict=True)
            if template == f"{kind}-1"
        ]
        assert Counter(first) == (full if real else small), name


def test_qnli_and_mrpc_are_told_by_letters_as_by_values(place):
    for name, options in (("qnli", glue._QNLI_OPTIONS), ("mrpc", glue._MRPC_OPTIONS)):
        path, _ = place(N_QUESTIONS[name][0])
        rows = read(name, "all", path)
        values = {
            row["id"]: row["answer"] for row in rows.to_list() if row["template"] == "values-1"
        }
        for row in rows.to_list():
            if row["template"].startswith("letters"):
                assert f"{row['answer']}. {options[int(values[row['id']])]}" in row["prompt"]


def test_culturalbench_s_right_answer_stays_right_after_shuffling(place):
    path, real = place("culturalbench")
    frame = pd.read_csv(path / "CulturalBench-Easy.csv", keep_default_na=False, dtype=str)
    rows = read("culturalbench", "all", path)
    right = {
        record["data_idx"]: record[f"prompt_option_{record['answer'].lower()}"]
        for record in frame.to_dict("records")
    }
    if real:
        assert frame["answer"].value_counts().to_dict() == {"A": 658, "B": 254, "C": 189, "D": 126}
        assert len(set(rows["culture"])) == 45
        assert Counter(rows["culture"])["USA"] == 4 * 20
    for row in rows.to_list():
        assert f"\n{row['answer']}. {right[row['id']]}\n" in row["prompt"]
    if real:
        positions = Counter(rows["answer"])
        assert min(positions.values()) > 0.22 * len(rows) / 2


def test_an_option_that_reads_none_stays_an_option(place, tmp_path):
    """Row 221 of the real file: pandas and the hub take its last cell for an empty one."""
    path, real = place("culturalbench")
    number = "221" if real else "2"
    asked = read("culturalbench", "all", path)
    as_null = pd.read_csv(path / "CulturalBench-Easy.csv")
    assert as_null["prompt_option_d"].isna().sum() == 1
    as_null.to_parquet(tmp_path / "0000.parquet")
    from_parquet = load_benchmark("culturalbench", split="all", data_dir=tmp_path)
    assert from_parquet.to_list() == asked.to_list()
    for row in asked.to_list():
        if row["id"] == number:
            assert len(row["options"]) == 4
            assert ". None\n" in row["prompt"]


@pytest.mark.parametrize("name", ["culturalbench", "normad", "countryrc"])
def test_halves_are_disjoint_and_together_the_whole(place, name):
    path, _ = place(N_QUESTIONS[name][0])
    rows = {split: read(name, split, path).to_list() for split in ("all", "identify", "test")}
    keys = {split: {(r["id"], r["culture"]) for r in found} for split, found in rows.items()}
    assert keys["identify"] | keys["test"] == keys["all"]
    assert not keys["identify"] & keys["test"]
    assert len(keys["identify"]) <= len(keys["test"])
    identify = Counter(culture for _, culture in keys["identify"])
    for culture, n in Counter(culture for _, culture in keys["all"]).items():
        labels = 3 if name == "normad" else 1
        assert n // 2 - labels < identify[culture] <= n // 2
    # the first ones of a country identify
    for culture in {row["culture"] for row in rows["test"]}:
        of = [int(key) for key, place_ in keys["identify"] if place_ == culture]
        rest = [int(key) for key, place_ in keys["test"] if place_ == culture]
        assert name == "normad" or not of or max(of) < min(rest)


def test_normad_s_control_has_story_and_options_but_no_country_and_no_culture(place):
    path, real = place("normad")
    rows = read("normad", "all", path).to_list()
    control = read("normad-control", "all", path).to_list()
    spellings = {row["culture"] for row in rows}
    words = re.compile(r"\b(socially|norms?|customs?|culture|cultural|traditional)\b", re.I)
    for row, without in zip(rows, control, strict=True):
        kept = ("id", "culture", "options", "answer", "template")
        assert [row[name] for name in kept] == [without[name] for name in kept]
        assert row["prompt"].splitlines()[-4:] == without["prompt"].splitlines()[-4:]
        assert row["culture"] in row["prompt"]
        assert not words.search(without["prompt"])
        assert row["culture"] not in without["prompt"]
    assert len(spellings) == (75 if real else 1)


def test_the_package_s_own_passages_name_eight_countries_with_and_without_another(tmp_path):
    rows = load_benchmark("countryrc", split="all")
    assert len(set(rows["id"])) == 64
    assert set(rows["culture"]) == set(countryrc.COUNTRIES)
    items = json.loads(countryrc._OWN.read_text(encoding="utf-8"))
    with_another = {item["id"] for item in items if "{country_dummy}" in item["context"]}
    for split in ("identify", "test"):
        ids = set(load_benchmark("countryrc", split=split)["id"])
        assert len(ids) == 32
        assert len(ids & with_another) == 16
    names = (*countryrc.COUNTRIES, *countryrc.OTHERS)
    for row in rows.to_list():
        passage, listed = row["prompt"].split("\n1. " if "1" in row["options"] else "\nA. ")
        assert "{" not in row["prompt"]
        assert f"{row['answer']}. {row['culture']}\n" in row["prompt"]
        shown = [name for name in names if re.search(rf"\b{name}\b", passage)]
        assert len(shown) == 1 + (row["id"] in with_another)
        assert all(
            name in listed or f"{row['options'][0]}. {name}\n" in row["prompt"] for name in shown
        )


# ---------------------------------------------------------------- WorldValuesBench


@pytest.fixture(scope="session", params=PLACES)
def survey(request, tmp_path_factory, written):
    """Made-up respondents: of the real questions where they are there, else of four."""
    if request.param != "shared":
        return written["worldvaluesbench"], SCALES
    metadata = json.loads((SHARED / "worldvaluesbench" / "question_metadata.json").read_text())
    scales = {
        name: (about["answer_scale_min"], about["answer_scale_max"])
        for name, about in metadata.items()
        if about["use_case"] == "value"
    }
    assert len(scales) == 239
    return write_survey(tmp_path_factory.mktemp("survey"), metadata), scales


def test_every_value_question_is_asked_on_its_own_scale(survey):
    folder, scales = survey
    rows = read("worldvaluesbench", "all", folder)
    assert set(rows["id"]) == set(scales)
    assert "Q234A" in scales
    assert set(rows["culture"]) == {"Iran", "UK", "Mexico"}
    assert set(Counter(zip(rows["id"], rows["culture"], strict=True)).values()) == {4}
    for row in rows.to_list():
        low, high = scales[row["id"]]
        assert row["options"] == [str(number) for number in range(low, high + 1)]
        assert f"from {low} to {high}" in row["prompt"]
        assert "digit" not in row["prompt"].split("\n")[-2]
        expected = high if row["culture"] == "Iran" else None
        assert expected is None or row["answer"] == str(expected)
        assert {"UK": "the UK"}.get(row["culture"], row["culture"]) in row["system"]


def test_the_forty_questions_that_diverge_most_identify(survey):
    folder, scales = survey
    halves = {
        split: read("worldvaluesbench", split, folder)
        for split in ("identify", "test", "all")
        if split != "test" or len(scales) > 40
    }
    ids = {
        split: {r["id"] for r in rows.to_list() if r["culture"] == "Iran"}
        for split, rows in halves.items()
    }
    assert len(ids["identify"]) == min(40, len(scales))
    if "test" not in ids:
        return
    assert ids["identify"] | ids["test"] == ids["all"]
    assert not ids["identify"] & ids["test"]
    # Iran says one number only: the longer the scale, the rarer that is in the world
    width = {name: high - low for name, (low, high) in scales.items()}
    assert min(width[name] for name in ids["identify"]) >= max(width[n] for n in ids["test"]) - 1


def test_divergence_is_what_a_plain_sum_says():
    country, world = {1: 3, 2: 1}, {1: 4, 2: 10, 3: 6}
    plain = sum(n / 4 * math.log(n / 4 / (world[k] / 20)) for k, n in country.items())
    found = worldvaluesbench.divergence(pd.Series(country), pd.Series(world))
    assert found == pytest.approx(plain, rel=1e-12)


def test_answers_outside_the_scale_are_reported_and_negative_codes_are_gaps(tmp_path):
    folder = write_survey(tmp_path)
    table = folder / "full_value_qa.tsv"
    lines = table.read_text().splitlines()
    good = load_benchmark("worldvaluesbench", split="all", data_dir=folder).to_list()
    table.write_text("\n".join([*lines[:-1], "89\t-1\t-2\t\t"]) + "\n")
    assert len(load_benchmark("worldvaluesbench", split="all", data_dir=folder)) == len(good)
    for cell in ("5", "2.5", "often"):
        table.write_text("\n".join([*lines[:-1], f"89\t{cell}\t1\t1\t1"]) + "\n")
        with pytest.raises(InvalidInputError, match=rf"Q1: 1 answers .* 1 to 4 .*{cell}"):
            load_benchmark("worldvaluesbench", split="all", data_dir=folder)
    table.write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(
        InvalidInputError, match=r"1 of its 91 rows \(rows 90\) repeat an interview"
    ):
        load_benchmark("worldvaluesbench", split="all", data_dir=folder)


def test_without_the_survey_s_tables_a_sentence_says_what_to_put_there(tmp_path):
    with pytest.raises(MissingFileError, match="may not be passed on"):
        load_benchmark("worldvaluesbench", split="all")
    with pytest.raises(MissingFileError, match=r"0 files question_metadata\.json"):
        load_benchmark("worldvaluesbench", split="all", data_dir=tmp_path)


# ---------------------------------------------------------------- wherever the files are


@pytest.mark.parametrize("name", ["commonsenseqa", "qnli", "mrpc"])
def test_a_task_without_culture_has_no_part_to_identify_with(name, written):
    path = written[N_QUESTIONS[name][0]]
    message = "no culture to identify neurons with"
    with pytest.raises(InvalidInputError, match=message):
        load_benchmark(name, split="identify", data_dir=path)
    with pytest.raises(InvalidInputError, match=message):
        load_benchmark(name, split="test", cultures=["Iran"], data_dir=path)
    test, every = (read(name, split, path).to_list() for split in ("test", "all"))
    assert test == every


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


def test_topics_are_asked_for_by_name_and_an_unknown_one_lists_the_known():
    every = load_benchmark("atlas", split="identify", cultures=["Iran"])
    food = load_benchmark("atlas", split="identify", cultures=["Iran"], topics=["Food"])
    assert food.to_list() == [row for row in every.to_list() if row["topic"] == "Food"]
    assert 0 < len(food) < len(every)
    with pytest.raises(UnknownNameError, match=r"atlas has no topic 'food'; it has .*Food"):
        load_benchmark("atlas", split="identify", topics=["Sport", "food"])
    with pytest.raises(UnknownNameError, match=r"no topic 'Food'; it has none\."):
        load_benchmark("countryrc", split="test", topics=["Food"])


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
    alone = load_benchmark("blend", split="all", data_dir=written["blend"], templates="{prompt}")
    assert alone["template"][0] == "own-1"
    with pytest.raises(InvalidInputError, match="templates is empty; give at least one"):
        load_benchmark("blend", split="all", data_dir=written["blend"], templates=[])


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
