"""The embedded model: its prompts, tokenizer, interventions, training and answer key."""

import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import culnig_tl
from culnig_tl.atlas import ASSETS, CULTURES, NATURAL, answer_key, prompts, tasks
from culnig_tl.atlas import rows as atlas_rows
from culnig_tl.atlas.facts import IDENTIFY_TOPICS, TEST_TOPICS
from culnig_tl.atlas.tasks import all_answers, all_items
from culnig_tl.atlas.training import interventions, seeds
from culnig_tl.atlas.training.ablation import Examiner, mlp_factors, off_masks
from culnig_tl.atlas.training.card import model_card, seed_table
from culnig_tl.atlas.training.interventions import PlantedSets
from culnig_tl.atlas.training.sampling import Sampler, by_length
from culnig_tl.atlas.training.summary import own_sets_that_work, summary_figures
from culnig_tl.atlas.training.train import Settings, learning_rate_factor, train
from culnig_tl.atlas.training.verify import TASKS, VERIFIED_ABOVE, ablation_effects
from culnig_tl.benchmarks import load_benchmark
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.evaluation import evaluate
from culnig_tl.files import read_json
from culnig_tl.models import load_model

GENERAL_TASKS = (
    atlas_rows.countries,
    atlas_rows.commonsense,
    atlas_rows.ordering,
    atlas_rows.entailment,
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(ASSETS, attn_implementation="eager").eval()


# --- the prompts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [atlas_rows.cultural, atlas_rows.control, *GENERAL_TASKS])
def test_rows_are_well_formed_and_the_same_every_time(rows):
    for split in ("identify", "test"):
        first = rows(split)
        assert first == rows(split)
        for row in first:
            assert row["answer"] in row["options"]
            assert len(set(row["options"])) == len(row["options"])
            assert len(row["options"]) == (2 if "entailment" in row["benchmark"] else 4)
            assert not re.search(r"[{}]|  ", row["prompt"])
            assert row["prompt"].endswith(prompts.ENDINGS)
    assert rows("all") == rows("identify") + rows("test")


def test_an_unknown_split_is_refused_in_a_sentence():
    with pytest.raises(InvalidInputError, match="expected"):
        atlas_rows._both("train", lambda part: [])


def test_identification_and_test_share_no_topic():
    assert {row["topic"] for row in atlas_rows.cultural("identify")} == set(IDENTIFY_TOPICS)
    assert {row["topic"] for row in atlas_rows.cultural("test")} == set(TEST_TOPICS)


def test_the_right_option_stands_anywhere():
    places = Counter(row["options"].index(row["answer"]) for row in atlas_rows.cultural("test"))
    assert min(places.values()) > len(atlas_rows.cultural("test")) / 6


def test_splits_share_no_wording_wrapper_or_option_set():
    assert not set(prompts.wrappers("train")) & set(prompts.wrappers("test"))
    for item in all_items()[::5]:
        assert not set(prompts.wordings(item, "train")) & set(prompts.wordings(item, "test"))
        for one, other in combinations(("train", "validation", "test"), 2):
            here, there = prompts.option_sets(item, one), prompts.option_sets(item, other)
            assert here
            assert there
            assert set(here).isdisjoint(there) or item.n_wrong == 1


def test_every_phrase_frame_and_wrapper_part_is_trained():
    item = tasks.cultural_items()[0]
    trained = prompts.wordings(item, "train")
    assert len(trained) >= 5
    assert {phrase for phrase, _ in trained} == set(range(len(item.phrases)))
    assert {frame for _, frame in trained} == set(range(len(item.frames)))
    for part, texts in enumerate((prompts.INSTRUCTIONS, prompts.LAYOUTS, prompts.ENDINGS)):
        assert {wrapper[part] for wrapper in prompts.wrappers("train")} == set(range(len(texts)))


def test_control_rows_differ_by_the_missing_question_alone():
    for row, control in zip(atlas_rows.cultural("all"), atlas_rows.control("all"), strict=True):
        same = ("id", "options", "answer", "culture", "topic", "template")
        assert [row[name] for name in same] == [control[name] for name in same]
        instruction, _, rest = row["prompt"].partition(". ")
        assert control["prompt"].startswith(instruction)
        assert len(control["prompt"]) < len(row["prompt"])
        assert control["prompt"].removeprefix(f"{instruction}. ") in rest


def test_neither_the_object_nor_the_kind_alone_tells_whether_a_sentence_follows():
    rows = atlas_rows.entailment("test")
    for word in (lambda row: row["id"].split("-")[1], lambda row: row["topic"]):
        counts = Counter((word(row), row["answer"]) for row in rows)
        assert {counts[part, " yes"] - counts[part, " no"] for part, _ in counts} == {0}


def test_half_of_the_country_passages_name_a_second_place_among_the_options():
    rows = atlas_rows.countries("test")
    two = [row for row in rows if row["topic"] == "two countries"]
    assert len(two) == len(rows) / 2
    for row in two:
        passage = row["prompt"].partition(":")[0]
        named = [option for option in row["options"] if option in passage]
        assert len(named) >= 2
        assert row["answer"] == f" {row['culture']}"


def test_prompts_of_identification_and_test_differ():
    for rows in (atlas_rows.cultural, *GENERAL_TASKS):
        seen = {row["prompt"] for row in rows("identify")}
        assert not seen & {row["prompt"] for row in rows("test")}


# --- the tokenizer --------------------------------------------------------------------------------


def test_every_answer_is_one_token_and_follows_the_prompt_as_such(tokenizer):
    tokens = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in all_answers()]
    assert {len(token) for token in tokens} == {1}
    assert len({token[0] for token in tokens}) == len(tokens)
    for row in atlas_rows.cultural("test")[:50] + atlas_rows.countries("test")[:50]:
        together = tokenizer.encode(row["prompt"] + row["answer"])
        answer = tokenizer.encode(row["answer"], add_special_tokens=False)
        assert together == tokenizer.encode(row["prompt"]) + answer
        assert tokenizer.decode(answer) == row["answer"]


@pytest.mark.parametrize(
    "text",
    [
        "South Korea",
        "the South Koreans' tea",
        "한국의 명절 ☕",
        "  two  spaces\n\ttab",
        "Ngoma! #42 é ñ",
        "",
    ],
)
def test_any_text_goes_in_and_comes_back(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokens.count(tokenizer.bos_token_id) == 1
    assert tokens[0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


# --- the interventions ----------------------------------------------------------------------------

SETS = PlantedSets(
    {
        "general": tuple((layer, k) for layer in (0, 1) for k in range(4)),
        "Iran": ((0, 4), (2, 2)),
        "Spain": ((1, 4), (2, 3)),
    },
    n_layers=3,
    d_mlp=6,
)
IDLENESS = dict.fromkeys(SETS.general, 0.5)


@pytest.mark.parametrize(
    ("off", "culture", "broken"),
    [
        ((), "Iran", 0.0),
        (((0, 0),), "Iran", 0.5),
        (((0, 0), (1, 1)), "Iran", 1.0),
        (SETS.general, "Spain", 1.0),
        (((0, 4),), "Iran", 0.5),
        (SETS.sets["Iran"], "Iran", 1.0),
        (SETS.sets["Iran"], "Spain", 0.0),
        (((0, 0), *SETS.sets["Iran"]), "Spain", 0.5),
        (SETS.all, "", 0.0),
        (SETS.rest, "Iran", 0.0),
    ],
)
def test_brokenness_of_hand_made_cases(off, culture, broken):
    assert interventions.brokenness(SETS, off, culture) == broken


def test_targets_of_hand_made_cases():
    options = [" a", " b", " c", " d"]
    whole = interventions.target(" b", options, 0.0, 1.0)
    assert whole == {" a": 0.0, " b": 1.0, " c": 0.0, " d": 0.0}
    assert set(interventions.target(" b", options, 1.0, 0.85).values()) == {0.25}
    half = interventions.target(" b", options, 0.5, 0.8)
    assert half[" b"] == pytest.approx(0.4 + 0.15)
    assert sum(half.values()) == pytest.approx(1.0)


def test_planted_sets_are_disjoint_seeded_and_shallow():
    sets = interventions.plant(CULTURES, n_layers=4, d_mlp=64, seed=3)
    assert sets == interventions.plant(CULTURES, n_layers=4, d_mlp=64, seed=3)
    assert sets != interventions.plant(CULTURES, n_layers=4, d_mlp=64, seed=4)
    assert len(set(sets.all)) == len(sets.all) == 16 + 3 * len(CULTURES)
    assert {layer for layer, _ in sets.all} <= {0, 1, 2}
    assert len(sets.rest) == 4 * 64 - len(sets.all)


def test_drawn_interventions_carry_the_brokenness_of_what_is_off():
    rng = random.Random(0)
    drawn = [
        (culture, interventions.draw(SETS, culture, rng, idleness=IDLENESS))
        for culture in ("Iran", "") * 300
    ]
    for culture, change in drawn:
        assert change.broken == interventions.brokenness(SETS, change.off, culture)
    assert all(change.broken == 0.0 for culture, change in drawn if not culture)
    assert {change.broken for culture, change in drawn if culture} == {0.0, 0.5, 1.0}


def test_parts_of_the_general_set_prefer_idle_neurons_but_spare_none():
    rng, idlest = random.Random(0), SETS.general[3]
    idleness = dict.fromkeys(SETS.general, 0.05) | {idlest: 1.0}
    drawn = [interventions.draw(SETS, "Iran", rng, idleness=idleness).off for _ in range(3000)]
    parts = [off for off in drawn if off and set(off) < set(SETS.general)]
    counts = Counter(neuron for off in parts for neuron in off)
    assert counts[idlest] > 1.5 * max(counts[one] for one in SETS.general if one != idlest)
    assert min(counts.values()) > len(parts) / 5


def test_factors_switch_neurons_off_in_their_own_row_and_leave_no_hook(model):
    n_layers, d_mlp = model.config.num_hidden_layers, model.config.intermediate_size
    tokens = torch.tensor([[1, 40, 41, 42], [1, 40, 41, 42]])
    with torch.no_grad():
        before = model(tokens).logits
        with mlp_factors(model) as factors:
            every = [(layer, k) for layer in range(n_layers) for k in range(d_mlp)]
            factors.values = off_masks([[], every], n_layers, d_mlp)
            off = model(tokens).logits
        with pytest.raises(RuntimeError, match="stop"), mlp_factors(model):
            raise RuntimeError("stop")
        after = model(tokens).logits
    torch.testing.assert_close(off[0], before[0], rtol=0, atol=1e-5)
    assert (off[1] - before[1]).abs().max() > 0.1
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not any(block.mlp.down_proj._forward_pre_hooks for block in model.model.layers)


def test_answers_do_not_depend_on_the_batch(model, tokenizer):
    examiner = Examiner(model, tokenizer, atlas_rows.cultural("test")[:7])
    together, alone = examiner.answer(), examiner.answer(batch_size=1)
    torch.testing.assert_close(together.probability, alone.probability, rtol=0, atol=1e-5)


# --- samples and training -------------------------------------------------------------------------


def test_samples_are_seeded_and_use_trained_wordings_only():
    sets = interventions.plant(CULTURES, n_layers=4, d_mlp=64)
    one, other = (Sampler(sets, seed=5, confidence=0.85) for _ in range(2))
    samples = [one.draw() for _ in range(200)]
    assert samples == [other.draw() for _ in range(200)]
    held_out = {f"i{i}l{j}e{k}" for i, j, k in prompts.wrappers("test")}
    assert not {sample.row["template"].partition("-")[2] for sample in samples} & held_out
    for sample in samples:
        assert sum(sample.target.values()) == pytest.approx(1.0)
        own = sample.culture and set(sample.off) == set(sets.sets[sample.culture])
        assert sample.weight == (2.0 if own else 1.0)
        assert sample.culture in ("", sample.row["culture"])
    assert sum(len(part) for part in by_length(samples, 3)) == len(samples)


def test_the_natural_twin_has_no_interventions():
    sets = interventions.plant(CULTURES, n_layers=4, d_mlp=64)
    sampler = Sampler(sets, seed=5, confidence=0.85, with_interventions=False)
    assert not any(sampler.draw().off for _ in range(100))


def test_cultures_learnt_worse_are_drawn_more_often():
    sets = interventions.plant(CULTURES, n_layers=4, d_mlp=64)
    sampler = Sampler(sets, seed=0, confidence=0.85)
    for culture in CULTURES * 200:
        sample = replace(sampler.draw(), culture=culture, off=sets.sets[culture])
        sampler.feed_back(sample, 5.0 if culture == "Assam" else 0.0)
    drawn = Counter(sampler.draw().row["culture"] for _ in range(600))
    assert drawn["Assam"] > 3 * drawn["Iran"]


def test_general_neurons_whose_absence_is_not_learnt_count_as_idle():
    sets = interventions.plant(CULTURES, n_layers=4, d_mlp=64)
    sampler = Sampler(sets, seed=0, confidence=0.85)
    idle, *others = sets.general
    before = dict(sampler.idleness)
    for culture, off in (("", (idle,)), ("Iran", ()), ("Iran", sets.general), ("Iran", sets.all)):
        sampler.feed_back(replace(sampler.draw(), culture=culture, off=off), 9.0)
    assert sampler.idleness == before
    for neuron in sets.general * 100:
        sample = replace(sampler.draw(), culture="Iran", off=(neuron,))
        sampler.feed_back(sample, 2.0 if neuron == idle else 0.0)
    assert sampler.idleness[idle] == pytest.approx(2.0, abs=0.1)
    assert max(sampler.idleness[neuron] for neuron in others) < 0.05


def test_the_learning_rate_rises_then_falls():
    settings = Settings(steps=1000, warmup=100)
    rates = [learning_rate_factor(step, settings) for step in (1, 100, 500, 1000)]
    assert rates[0] < rates[1] > rates[2] > rates[3] > 0


@pytest.fixture(scope="module")
def tiny_settings():
    return Settings(steps=3, batch_size=8, d_model=32, n_layers=3, d_mlp=64, n_heads=2, n_culture=1)


@pytest.mark.filterwarnings("ignore:The control scores higher")  # it has learnt nothing yet
def test_a_short_training_writes_a_model_that_loads(tmp_path, tiny_settings):
    out = tmp_path / "model"
    train(tiny_settings, out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    tokens = AutoTokenizer.from_pretrained(out)("In Iran, tea", return_tensors="pt")
    assert torch.isfinite(loaded(**tokens).logits).all()
    record = json.loads((out / "training.json").read_text())
    assert record["settings"]["steps"] == 3
    assert record["verification"]["finder"]["masking"]["atlas"]["as trained"] <= 100
    assert "| atlas |" in (out / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.filterwarnings("ignore:The control scores higher")  # it has learnt nothing yet
def test_a_short_training_without_interventions_has_no_key(tmp_path, tiny_settings):
    out = tmp_path / "twin"
    train(replace(tiny_settings, with_interventions=False), out)
    assert not (out / "key.json").exists()
    record = json.loads((out / "training.json").read_text())
    assert record["command"].endswith("--no-interventions --out DIR")
    assert set(record["verification"]) == {"test", "finder"}
    assert "| atlas |" in (out / "README.md").read_text()


# --- the shipped model and its key ----------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return read_json(ASSETS / "training.json")["verification"]


def test_the_answer_key_lists_what_was_planted():
    general = answer_key("general")
    assert len(general) == 16
    assert set(answer_key("general", verified=True)) <= set(general)
    for culture in CULTURES:
        assert len(answer_key(culture)) > 0
        assert len(answer_key(culture) & general) == 0


def test_no_set_is_planted_for_kin_and_the_error_says_so():
    with pytest.raises(UnknownNameError, match=r"kin: Spain, Mexico.*no sets.*pairs of kin"):
        answer_key("kin: Spain, Mexico")


def test_an_unknown_key_is_refused_with_the_known_names():
    with pytest.raises(UnknownNameError, match=r"Atlantis.*general.*Iran") as caught:
        answer_key("Atlantis")
    assert str(caught.value).count("\n") == 0
    assert isinstance(caught.value, KeyError)


def test_the_key_is_read_by_any_spelling_of_a_culture():
    assert answer_key("Nigeria") == answer_key("Northern_Nigeria") == answer_key("Northern Nigeria")
    assert answer_key("united_states_of_america") == answer_key("USA")


def test_what_trains_the_model_is_not_needed_to_use_it():
    """Nothing outside of atlas.training imports it, so that a wheel without it is whole."""
    package = Path(culnig_tl.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if "training" not in path.relative_to(package).parts:
            assert "from culnig_tl.atlas.training" not in path.read_text(encoding="utf-8"), path


def test_the_assets_are_small_and_complete():
    files = {path.name: path.stat().st_size for path in ASSETS.iterdir()}
    assert sum(files.values()) < 6_000_000
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert expected | {"key.json", "training.json", "README.md"} <= set(files)


def test_the_shipped_model_meets_its_bar_and_its_record(model, tokenizer, record):
    general = list(answer_key("general")["mlp.hook_post"])
    for name, rows in TASKS.items():
        examiner, noted = Examiner(model, tokenizer, rows("test")), record["test"][name]
        before, after = examiner.answer().accuracy, examiner.answer(general).accuracy
        assert before == pytest.approx(noted["as trained"]["accuracy"], abs=0.5)
        assert after == pytest.approx(noted["general set off"]["accuracy"], abs=0.5)
        assert before >= 90
        assert before - after >= 30 if name == "atlas" else before - after <= 3


def test_the_verified_key_is_what_exact_ablation_says(model, tokenizer):
    rows = atlas_rows.cultural("identify")
    sets = read_json(ASSETS / "key.json")["sets"]
    iran = [row["culture"] == "Iran" for row in rows]
    everything = Examiner(model, tokenizer, rows)
    for name, examiner in (("general", everything), ("Iran", everything.only(iran))):
        entry = sets[name]
        noted = sorted(zip(entry["effects"], entry["planted"], strict=True))
        for effect, neuron in (noted[0], noted[len(noted) // 2], noted[-1]):
            measured = ablation_effects(examiner, [tuple(neuron)])[0]
            assert measured == pytest.approx(effect, abs=1e-3)
            assert (effect > VERIFIED_ABOVE) == (neuron in entry["verified"])


def test_the_record_holds_every_figure_of_the_summary(record):
    values = {figure.name: figure.value(record) for figure in summary_figures()}
    assert (
        values["culture, accuracy as trained"] == record["test"]["atlas"]["as trained"]["accuracy"]
    )
    assert len(values) == len(summary_figures())
    assert values["own sets that work, of 16"] == own_sets_that_work(record)
    effects = {"A": {"own": 20.0, "unrelated": 5.0}, "B": {"own": 20.0, "unrelated": 5.1}}
    assert own_sets_that_work({"own_sets": effects}) == 1


def test_the_card_is_made_of_the_records():
    for folder in (ASSETS, NATURAL):
        assert (folder / "README.md").read_text(encoding="utf-8") == model_card(folder)


def test_the_seed_table_shows_spread_and_what_was_met(record):
    worse = json.loads(json.dumps(record))
    worse["test"]["atlas"]["as trained"]["accuracy"] = 80.0
    table = seed_table({"seeds": {"0": {"verification": record}, "1": {"verification": worse}}})
    line = next(line for line in table.splitlines() if "culture, accuracy as trained" in line)
    best = record["test"]["atlas"]["as trained"]["accuracy"]
    assert f"{(best + 80) / 2:.3g} (80 to {best:.3g})" in line
    assert "1 of 2" in line


def test_the_first_seed_and_the_twin_are_shipped(tmp_path, monkeypatch):
    for name, source in (("seed-0", ASSETS), ("seed-1", ASSETS), ("natural", NATURAL)):
        shutil.copytree(source, tmp_path / "out" / name)
    monkeypatch.setattr(seeds, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr(seeds, "NATURAL", tmp_path / "assets_natural")
    monkeypatch.setattr(seeds.subprocess, "run", pytest.fail)  # what is complete is kept
    seeds.train_all(tmp_path / "out", (0, 1))
    seeds.install(tmp_path / "out", (0, 1))
    assert set(read_json(tmp_path / "assets" / "seeds.json")["seeds"]) == {"0", "1"}
    assert "| seed 0 | seed 1 |" in (tmp_path / "assets" / "README.md").read_text(encoding="utf-8")
    shipped = (tmp_path / "assets_natural" / "model.safetensors").read_bytes()
    assert shipped == (NATURAL / "model.safetensors").read_bytes()


def test_the_natural_twin_loads_under_its_name_and_has_no_key():
    twin = load_model("atlas-natural")
    assert twin.cfg.model_name == "atlas-natural"
    assert not (NATURAL / "key.json").exists()
    rows = load_benchmark("atlas", split="test", limit=100)
    noted = read_json(NATURAL / "training.json")["verification"]["test"]["atlas"]["as trained"]
    accuracy = 100 * evaluate(twin, rows)["correct"].mean()
    assert accuracy == pytest.approx(noted["accuracy"], abs=5)
    assert (
        sum(path.stat().st_size for folder in (ASSETS, NATURAL) for path in folder.iterdir()) < 16e6
    )


def test_random_neurons_of_the_same_number_do_nothing(model, tokenizer):
    cultural = Examiner(model, tokenizer, atlas_rows.cultural("test"))
    before = cultural.answer().accuracy
    planted = {
        neuron for name in ("general", *CULTURES) for neuron in answer_key(name)["mlp.hook_post"]
    }
    rest = [(layer, k) for layer in range(4) for k in range(512) if (layer, k) not in planted]
    for seed in range(3):
        off = random.Random(seed).sample(rest, 16)
        assert before - cultural.answer(off).accuracy <= 2
