"""Every benchmark loads: the right rows, halves, cultures and labels, from each layout of files."""

import json
import math
import re
import sys
from collections import Counter
from dataclasses import replace
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

from culnig_tl import benchmarks, cultures, load_benchmark
from culnig_tl.atlas import CULTURES
from culnig_tl.benchmarks import (
    Benchmark,
    Loaded,
    Measure,
    blend,
    catalogue,
    countryrc,
    glue,
    half_of_groups,
    measure_of,
    register,
    worldvaluesbench,
)
from culnig_tl.cultures import culture_name
from culnig_tl.errors import InvalidInputError, MissingFileError, UnknownNameError
from culnig_tl.questions import FEATURES, Item, Template, control_of, fingerprint, rows_of


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


FOLDERS = {  # of every benchmark with cultures; None needs no files
    **dict.fromkeys(["atlas", "atlas-control", "atlas-countries", "countryrc"]),
    **dict.fromkeys(["blend", "blend-open"], "blend"),
    **{name: name for name in ("culturalbench", "normad", "worldvaluesbench")},
}


def spellings(culture):
    """Every way to write a culture that the vocabulary or a benchmark has."""
    name = culture_name(culture)
    names = {culture, name, *cultures._OTHER_SPELLINGS.get(name, ())}
    texts = {way(text) for text in names for way in (str, str.lower, str.upper, str.title)}
    return texts | {text.replace(" ", "_") for text in texts}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_culture_of_every_benchmark_is_selected_by_every_spelling(
    name, place, written, monkeypatch
):
    folder = FOLDERS[name] and place(FOLDERS[name])[0]
    if name == "worldvaluesbench":  # its real tables may not be passed on
        folder = written[name]
    every = read(name, "all", folder)
    places = {culture: number for number, culture in enumerate(every["culture"])}
    one_each = every.select(sorted(places.values()))
    monkeypatch.setattr(Benchmark, "rows", lambda *_: one_each)
    ways = {culture: sorted(spellings(culture)) for culture in one_each["culture"]}
    keys = [{cultures.culture_key(text) for text in texts} for texts in ways.values()]
    assert all(len(key) == 1 for key in keys)
    assert len(set.union(*keys)) == len(ways)
    for number in range(max(map(len, ways.values()))):
        wanted = [texts[number % len(texts)] for texts in ways.values()][::2]
        selected = load_benchmark(name, split="all", cultures=wanted)
        assert selected["culture"][:] == list(ways)[::2]


def test_the_north_of_nigeria_is_selected_and_spelt_as_the_embedded_model_spells_it():
    rows = load_benchmark("atlas", split="test")
    for spelling in ("Northern Nigeria", "Nigeria", "Northern_Nigeria"):
        selected = load_benchmark("atlas", split="test", cultures=[spelling, "US"])
        wanted = ("USA", "Northern Nigeria")
        assert selected.to_list() == [r for r in rows.to_list() if r["culture"] in wanted]
    with pytest.raises(UnknownNameError, match=r"no culture 'Lagos'; it has USA,.*Northern Nig"):
        load_benchmark("atlas", split="test", cultures=["Lagos", "Nigeria"])


def test_blend_s_own_spellings_select_the_sixteen_cultures_of_the_embedded_model(place):
    own = [
        {"USA": "US", "Nigeria": "Northern_Nigeria"}.get(name, name.replace(" ", "_"))
        for name in cultures.BLEND_CULTURES
    ]
    folder, real = place("blend")
    assert not real or {country for country, _ in blend_pairs(folder)} == set(own)
    rows = load_benchmark("atlas", split="test", cultures=own)
    assert set(rows["culture"]) == set(CULTURES)


def test_kin_are_symmetric_and_found_by_any_spelling():
    for pair in cultures.KIN:
        assert [cultures.kin_of(name) for name in pair] == [{pair[1]}, {pair[0]}]
    assert cultures.kin_of("US") == {"UK"}
    assert cultures.kin_of("Northern_Nigeria") == frozenset()


@pytest.mark.parametrize(
    ("name", "identify", "test"),
    [
        ("atlas", "d6ef04494555", "73c6840d22bc"),
        ("atlas-control", "aaed6973573d", "bec3a141008c"),
        ("atlas-countries", "d6ea06e6652e", "732591930b77"),
        ("atlas-commonsense", "8514f56b2062", "b656129ca275"),
        ("atlas-ordering", "193b698b4e32", "07c32caee468"),
        ("atlas-entailment", "85fe6f27acc0", "f7824286417c"),
        ("atlas-sums", "e630cc57293c", "68fd6ecdcbcf"),
        ("countryrc", "116175768680", "1cdd700b07db"),
    ],
)
def test_the_package_s_own_rows_are_those_that_runs_were_made_with(name, identify, test):
    """A run knows its rows by their fingerprint, so these may not change."""
    splits = {"identify": identify, "test": test}
    assert {split: fingerprint(read(name, split, None)) for split in splits} == splits


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
    sizes = {split: len(part) for split, part in rows.items()}
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
    rows = load_benchmark("blend", split="all", data_dir=tmp_path)
    expected = load_benchmark("blend", split="all", data_dir=written["blend"])
    assert rows.to_list() == expected.to_list()
    assert "0000.parquet" in rows.info.description


def test_blend_reads_json_lines_too(tmp_path, written):
    lines = [json.dumps(row) for row in blend_rows()]
    (tmp_path / "mc_questions_file.json").write_text("\n".join(lines))
    topics = pd.read_csv(written["blend"] / "questions" / "US_questions.csv")
    topics.to_json(tmp_path / "US_questions.json", orient="records")
    rows = load_benchmark("blend", split="all", data_dir=tmp_path)
    expected = load_benchmark("blend", split="all", data_dir=written["blend"])
    assert rows.to_list() == expected.to_list()


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
    wordings = Counter(zip(rows["id"], rows["culture"], strict=True))
    assert len(set(rows["id"])) == (full if real else small)
    assert len(wordings) == n_countries * len(set(rows["id"]))
    assert set(wordings.values()) == {4}
    assert len(set(rows["template"])) == 4
    assert set(rows["benchmark"]) == {name}


def right_options(rows, template, texts):
    """How often each option text is the right one, read back from the prompts."""
    counts = Counter()
    for row in rows.to_list():
        if row["template"] == template:
            right = [text for text in texts if f"{row['answer']}. {text}\n" in row["prompt"]]
            counts.update(right)
    return counts


def test_the_labels_are_those_of_the_files(place):
    def rows(name):
        path, real = place(N_QUESTIONS[name][0])
        return read(name, "all", path), real

    normad, real = rows("normad")
    assert right_options(normad, "digits-1", ("yes", "no", "neutral")) == (
        {"yes": 943, "no": 875, "neutral": 49} if real else {"yes": 3, "no": 2, "neutral": 1}
    )
    expected = {
        "commonsenseqa": ({"A": 239, "B": 255, "C": 241, "D": 251, "E": 235}, {"A": 1, "E": 1}),
        "qnli": ({"0": 2702, "1": 2761}, {"0": 2, "1": 1}),
        "mrpc": ({"1": 1147, "0": 578}, {"1": 1, "0": 1}),
    }
    for name, (full, small) in expected.items():
        dataset, real = rows(name)
        kind = "letters" if name == "commonsenseqa" else "values"
        first = [
            answer
            for answer, template in zip(dataset["answer"], dataset["template"], strict=True)
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
    rows = read("culturalbench", "all", path)
    as_null = pd.read_csv(path / "CulturalBench-Easy.csv")
    assert as_null["prompt_option_d"].isna().sum() == 1
    as_null.to_parquet(tmp_path / "0000.parquet")
    from_parquet = load_benchmark("culturalbench", split="all", data_dir=tmp_path)
    assert from_parquet.to_list() == rows.to_list()
    for row in rows.to_list():
        if row["id"] == number:
            assert len(row["options"]) == 4
            assert ". None\n" in row["prompt"]


@pytest.mark.parametrize("name", ["culturalbench", "normad", "countryrc"])
def test_halves_are_disjoint_and_together_the_whole(place, name):
    path, _ = place(N_QUESTIONS[name][0])
    rows = {split: read(name, split, path).to_list() for split in ("all", "identify", "test")}
    keys = {split: {(r["id"], r["culture"]) for r in part} for split, part in rows.items()}
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
        same = ("id", "culture", "options", "answer", "template")
        assert [row[name] for name in same] == [without[name] for name in same]
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
        named = [name for name in names if re.search(rf"\b{name}\b", passage)]
        assert len(named) == 1 + (row["id"] in with_another)
        assert all(
            name in listed or f"{row['options'][0]}. {name}\n" in row["prompt"] for name in named
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
    divergence = worldvaluesbench.divergence(pd.Series(country), pd.Series(world))
    assert divergence == pytest.approx(plain, rel=1e-12)


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
    monkeypatch.setattr("culnig_tl.benchmarks.loading.HF_HUB_OFFLINE", True)
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


# ---------------------------------------------------------------- so many of each culture


def test_so_many_rows_of_each_culture_are_drawn_with_the_seed():
    every = load_benchmark("atlas", split="test")
    some = load_benchmark("atlas", split="test", per_culture=3, seed=1)
    assert Counter(some["culture"]) == dict.fromkeys(CULTURES, 3)
    order = {json.dumps(row): number for number, row in enumerate(every.to_list())}
    numbers = [order[json.dumps(row)] for row in some.to_list()]
    assert numbers == sorted(numbers)
    again, other = (
        load_benchmark("atlas", split="test", per_culture=3, seed=seed).to_list() for seed in (1, 2)
    )
    assert some.to_list() == again != other
    assert load_benchmark("atlas", split="test", per_culture=1000).to_list() == every.to_list()


def test_a_culture_s_draw_depends_on_no_other_culture_and_not_on_the_question():
    def drawn(name, **options):
        rows = load_benchmark(name, split="test", per_culture=4, seed=2, **options).to_list()
        return [(row["culture"], row["id"], row["answer"], row["template"]) for row in rows]

    alone, every = drawn("atlas", cultures=["Iran"]), drawn("atlas")
    assert alone == [row for row in every if row[0] == "Iran"]
    assert drawn("atlas-control") == every


def test_a_limit_counts_what_is_left_of_each_culture():
    some = load_benchmark("atlas", split="test", per_culture=2, limit=5, seed=3).to_list()
    each = load_benchmark("atlas", split="test", per_culture=2, seed=3).to_list()
    assert len(some) == 5
    assert [row for row in each if row in some] == some


@pytest.mark.parametrize("number", [0, -3])
def test_so_many_of_each_culture_below_one_is_a_sentence(number):
    sentence = f"per_culture is {number}; give a whole number from 1 up"
    with pytest.raises(InvalidInputError, match=sentence):
        load_benchmark("atlas", split="test", per_culture=number)


# ---------------------------------------------------------------- a benchmark as a value


def closeness(prediction, answer, options):
    """The same first letter is half of the way."""
    return 100.0 if prediction == answer else 50.0 if prediction[:1] == answer[:1] else 0.0


def load_drinks(split, source, templates):
    items = [
        Item(
            id=f"{time}-{place}",
            culture=place,
            options=("coffee", "tea", "milk"),
            answer=number % 3,
            fields={"question": f"What do people drink at {time} in {place}?"},
        )
        for time in ("noon", "night")
        for number, place in enumerate(("Iran", "USA", "Northern Nigeria"))
    ]
    half = half_of_groups(items, split, lambda item: item.culture)
    return Loaded(rows_of(half, templates, benchmark="drinks"), "questions written here")


DRINKS = Benchmark(
    "drinks",
    load_drinks,
    templates=(Template("{question}\n{options}\nAnswer:", name="plain"),),
    measure=Measure("closeness", closeness),
    licence="CC0-1.0",
)


@pytest.fixture
def session():
    """What is registered in a test is unknown after it."""
    before = dict(catalogue._benchmarks())
    yield
    catalogue._benchmarks().clear()
    catalogue._benchmarks().update(before)


@pytest.mark.usefixtures("session")
def test_a_benchmark_of_one_s_own_is_loaded_as_a_value_and_then_by_its_name():
    assert measure_of("drinks") is None
    with pytest.raises(UnknownNameError, match="no benchmark 'drinks'; the known ones are atlas"):
        load_benchmark("drinks", split="test")
    rows = load_benchmark(DRINKS, split="identify")
    assert load_benchmark("drinks", split="identify").to_list() == rows.to_list()
    assert rows.features == FEATURES
    assert rows["id"][:] == ["noon-Iran", "noon-USA", "noon-Northern Nigeria"]
    assert rows.info.description == "drinks, identify: questions written here"
    assert rows.info.license == "CC0-1.0"
    assert benchmarks.benchmark("drinks") is DRINKS
    assert benchmarks.benchmark_names()[-1] == "drinks"
    some = load_benchmark(DRINKS, split="all", cultures=["us", "Nigeria"], per_culture=1)
    assert some["culture"][:] == ["USA", "Northern Nigeria"]
    own = load_benchmark(DRINKS, split="test", templates="{question} {option_a}?", limit=1)
    assert own["template"][:] == ["own-1"]


@pytest.mark.usefixtures("session")
def test_a_measure_of_one_s_own_is_looked_up_by_the_rows_of_its_benchmark():
    rows = load_benchmark(DRINKS, split="test")
    (name,) = set(rows["benchmark"])
    measure = measure_of(name)
    assert measure is not None
    assert measure.name == "closeness"
    assert measure.score("tea", "toast", ["tea", "toast"]) == 50
    without = load_benchmark(DRINKS.control(), split="test")
    assert without.to_list() == control_of(rows).to_list()
    assert set(without["benchmark"]) == {"drinks-control"}
    assert measure_of("drinks-control") is None


@pytest.mark.usefixtures("session")
def test_a_name_belongs_to_one_benchmark():
    register(DRINKS)
    assert register(DRINKS) is DRINKS
    for name in ("drinks", "blend", "atlas-control"):
        with pytest.raises(InvalidInputError, match=f"another benchmark called {name!r}; give"):
            load_benchmark(Benchmark(name, lambda *_: Loaded([])), split="test")
    assert benchmarks.benchmark("drinks") is DRINKS


@pytest.mark.usefixtures("session")
def test_a_notebook_may_define_its_benchmark_anew():
    def define():
        def load(split, source, templates):
            return load_drinks(split, source, templates)

        load.__module__ = "__main__"
        return replace(DRINKS, load=load)

    first, second = define(), define()
    register(first)
    assert register(second) is second
    assert benchmarks.benchmark("drinks") is second
    with pytest.raises(InvalidInputError, match="another benchmark called 'drinks'"):
        register(DRINKS)


@pytest.mark.usefixtures("session")
def test_a_benchmark_of_one_s_own_takes_what_it_says_and_no_more(tmp_path):
    misnamed = replace(DRINKS, name="beverages")
    with pytest.raises(InvalidInputError, match=r"beverages have 'drinks' .* write 'beverages'"):
        load_benchmark(misnamed, split="all")

    def load(split, source, templates):
        assert source.data_dir == tmp_path
        return load_drinks(split, source, DRINKS.templates)

    finished = replace(DRINKS, load=load, templates=(), has_culture=False)
    assert len(load_benchmark(finished, split="all", data_dir=tmp_path)) == 6
    with pytest.raises(InvalidInputError, match="comes in its own wordings; leave templates out"):
        load_benchmark(finished, split="all", data_dir=tmp_path, templates="{question}")
    with pytest.raises(InvalidInputError, match="no culture to identify neurons with"):
        load_benchmark(finished, data_dir=tmp_path, split="identify")
    with pytest.raises(InvalidInputError, match="no culture to identify neurons with"):
        load_benchmark(finished, data_dir=tmp_path, split="all", cultures=["Iran"])


def test_one_new_module_adds_a_benchmark(tmp_path, monkeypatch):
    (tmp_path / "proverbs.py").write_text(
        "from culnig_tl.benchmarks.definition import Benchmark\n"
        "from culnig_tl.benchmarks.loading import Loaded\n"
        "PROVERBS = Benchmark('proverbs', lambda split, source, templates: Loaded([]))\n"
        "CONTROL = PROVERBS.control()\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
        catalogue._benchmarks.cache_clear()
        assert {"proverbs", "proverbs-control", "blend"} <= set(benchmarks.benchmark_names())
        with pytest.raises(InvalidInputError, match="no rows"):
            load_benchmark("proverbs", split="test")
    del sys.modules["culnig_tl.benchmarks.proverbs"]
    catalogue._benchmarks.cache_clear()
    assert "proverbs" not in benchmarks.benchmark_names()


def test_every_benchmark_says_what_it_is():
    values = [benchmarks.benchmark(name) for name in benchmarks.benchmark_names()]
    assert len(values) == 35
    for value in values:
        assert value.licence, value.name
        assert value.templates or value.packaged, value.name
        assert set(value.uses) <= {"cultural", "control", "recognition", "general", "open"}
        assert ("control" in value.uses) == value.name.endswith("-control"), value.name
    measured = [value.name for value in values if value.measure]
    assert measured == ["culturalbench-hard", "worldvaluesbench"]


def test_alignment_is_the_measure_of_worldvaluesbench():
    measure = measure_of("worldvaluesbench")
    assert measure is not None
    scale = [str(number) for number in range(1, 11)]
    assert measure.name == "alignment"
    assert measure.score("4", "4", scale) == 100
    assert measure.score("10", "4", scale) == 0
    assert measure.score("1", "4", scale) == 50
    assert measure.score("eleven", "4", scale) == 0
