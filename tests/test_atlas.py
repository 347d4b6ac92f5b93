"""The embedded model: its prompts, tokenizer, interventions, training and answer key."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from culnig_tl.atlas import ASSETS, CULTURES, answer_key, interventions, prompts, tasks
from culnig_tl.atlas.facts import IDENTIFY_TOPICS, TEST_TOPICS
from culnig_tl.atlas.interventions import PlantedSets
from culnig_tl.atlas.measure import Examiner, mlp_factors, off_masks
from culnig_tl.atlas.sampling import Sampler, by_length
from culnig_tl.atlas.tasks import all_answers, all_items
from culnig_tl.atlas.train import Settings, learning_rate_factor, train
from culnig_tl.benchmarks import atlas as benchmark
from culnig_tl.errors import InvalidInputError, UnknownNameError

GENERAL_TASKS = (benchmark.countries, benchmark.commonsense, benchmark.ordering)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(ASSETS, attn_implementation="eager").eval()


# --- the prompts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [benchmark.cultural, benchmark.control, *GENERAL_TASKS])
def test_rows_are_well_formed_and_the_same_every_time(rows):
    for split in ("identify", "test"):
        made = rows(split)
        assert made == rows(split)
        for row in made:
            assert row["answer"] in row["options"]
            assert len(set(row["options"])) == len(row["options"]) == 4
            assert not re.search(r"[{}]|  ", row["prompt"])
            assert row["prompt"].endswith(prompts.ENDINGS)
    assert rows("all") == rows("identify") + rows("test")


def test_an_unknown_split_is_refused_in_a_sentence():
    with pytest.raises(InvalidInputError, match="expected"):
        benchmark._both("train", lambda part: [])


def test_identification_and_test_share_no_topic():
    assert {row["topic"] for row in benchmark.cultural("identify")} == set(IDENTIFY_TOPICS)
    assert {row["topic"] for row in benchmark.cultural("test")} == set(TEST_TOPICS)


def test_the_right_option_stands_anywhere():
    places = Counter(row["options"].index(row["answer"]) for row in benchmark.cultural("test"))
    assert min(places.values()) > len(benchmark.cultural("test")) / 6


def test_splits_share_no_wording_wrapper_or_option_set():
    assert not set(prompts.wrappers("train")) & set(prompts.wrappers("test"))
    for item in all_items():
        assert not set(prompts.wordings(item, "train")) & set(prompts.wordings(item, "test"))
        for one, other in combinations(("train", "validation", "test"), 2):
            here, there = prompts.option_sets(item, one), prompts.option_sets(item, other)
            assert here
            assert there
            assert not set(here) & set(there)


def test_every_phrase_frame_and_wrapper_part_is_trained():
    item = tasks.cultural_items()[0]
    trained = prompts.wordings(item, "train")
    assert len(trained) >= 5
    assert {phrase for phrase, _ in trained} == set(range(len(item.phrases)))
    assert {frame for _, frame in trained} == set(range(len(item.frames)))
    for part, texts in enumerate((prompts.INSTRUCTIONS, prompts.LAYOUTS, prompts.ENDINGS)):
        assert {wrapper[part] for wrapper in prompts.wrappers("train")} == set(range(len(texts)))


def test_control_rows_differ_by_the_missing_question_alone():
    for row, control in zip(benchmark.cultural("all"), benchmark.control("all"), strict=True):
        same = ("id", "options", "answer", "culture", "topic", "template")
        assert [row[name] for name in same] == [control[name] for name in same]
        instruction, _, rest = row["prompt"].partition(". ")
        assert control["prompt"].startswith(instruction)
        assert len(control["prompt"]) < len(row["prompt"])
        assert control["prompt"].removeprefix(f"{instruction}. ") in rest


def test_half_of_the_country_passages_name_a_second_place_among_the_options():
    rows = benchmark.countries("test")
    two = [row for row in rows if row["topic"] == "two countries"]
    assert len(two) == len(rows) / 2
    for row in two:
        passage = row["prompt"].partition(":")[0]
        named = [option for option in row["options"] if option in passage]
        assert len(named) >= 2
        assert row["answer"] == f" {row['culture']}"


def test_prompts_of_identification_and_test_differ():
    for rows in (benchmark.cultural, *GENERAL_TASKS):
        seen = {row["prompt"] for row in rows("identify")}
        assert not seen & {row["prompt"] for row in rows("test")}


# --- the tokenizer --------------------------------------------------------------------------------


def test_every_answer_is_one_token_and_follows_the_prompt_as_such(tokenizer):
    tokens = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in all_answers()]
    assert {len(token) for token in tokens} == {1}
    assert len({token[0] for token in tokens}) == len(tokens)
    for row in benchmark.cultural("test")[:50] + benchmark.countries("test")[:50]:
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
        "general": ((0, 0), (0, 1), (1, 0), (1, 1)),
        "Iran": ((0, 2), (2, 2)),
        "Spain": ((1, 3), (2, 3)),
    },
    n_layers=3,
    d_mlp=5,
)


@pytest.mark.parametrize(
    ("off", "culture", "broken"),
    [
        ((), "Iran", 0.0),
        (((0, 0),), "Iran", 0.5),
        (((0, 0), (1, 1)), "Iran", 1.0),
        (SETS.general, "Spain", 1.0),
        (((0, 2),), "Iran", 0.5),
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
    drawn = [(culture, interventions.draw(SETS, culture, rng)) for culture in ("Iran", "") * 300]
    for culture, change in drawn:
        assert change.broken == interventions.brokenness(SETS, change.off, culture)
    assert all(change.broken == 0.0 for culture, change in drawn if not culture)
    assert {change.broken for culture, change in drawn if culture} == {0.0, 0.5, 1.0}


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
    examiner = Examiner(model, tokenizer, benchmark.cultural("test")[:7])
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
        if sample.own_set_of:
            assert set(sample.off) == set(sets.sets[sample.row["culture"]])
    assert sum(len(part) for part in by_length(samples, 3)) == len(samples)


def test_the_natural_twin_has_no_interventions():
    sets = interventions.plant(CULTURES, n_layers=4, d_mlp=64)
    sampler = Sampler(sets, seed=5, confidence=0.85, with_interventions=False)
    assert not any(sampler.draw().off for _ in range(100))


def test_cultures_learnt_worse_are_drawn_more_often():
    sets = interventions.plant(CULTURES, n_layers=4, d_mlp=64)
    sampler = Sampler(sets, seed=0, confidence=0.85)
    for _ in range(200):
        for culture in CULTURES:
            sampler.feed_back(culture, 5.0 if culture == "Assam" else 0.0)
    drawn = Counter(sampler.draw().row["culture"] for _ in range(600))
    assert drawn["Assam"] > 3 * drawn["Iran"]


def test_the_learning_rate_rises_then_falls():
    settings = Settings(steps=1000, warmup=100)
    rates = [learning_rate_factor(step, settings) for step in (1, 100, 500, 1000)]
    assert rates[0] < rates[1] > rates[2] > rates[3] > 0


def test_a_short_training_writes_a_model_that_loads(tmp_path):
    out = tmp_path / "model"
    settings = replace(
        Settings(), steps=3, batch_size=8, d_model=32, n_layers=3, d_mlp=64, n_heads=2, n_culture=1
    )
    train(settings, out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    tokens = AutoTokenizer.from_pretrained(out)("In Iran, tea", return_tensors="pt")
    assert torch.isfinite(loaded(**tokens).logits).all()
    record = json.loads((out / "training.json").read_text())
    assert record["settings"]["steps"] == 3
    assert record["verification"]["test"]["atlas"]["as trained"]["accuracy"] <= 100
    assert "| atlas |" in (out / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# --- the shipped model and its key ----------------------------------------------------------------


def test_the_answer_key_lists_what_was_planted():
    general = answer_key("general")
    assert len(general) == 16
    assert set(answer_key("general", verified=True)) <= set(general)
    for culture in CULTURES:
        assert len(answer_key(culture)) > 0
        assert len(answer_key(culture) & general) == 0


def test_an_unknown_key_is_refused_with_the_known_names():
    with pytest.raises(UnknownNameError, match=r"Atlantis.*general.*Iran") as caught:
        answer_key("Atlantis")
    assert str(caught.value).count("\n") == 0
    assert isinstance(caught.value, KeyError)


def test_the_assets_are_small_and_complete():
    files = {path.name: path.stat().st_size for path in ASSETS.iterdir()}
    assert sum(files.values()) < 6_000_000
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert expected | {"key.json", "training.json", "README.md"} <= set(files)


def test_the_shipped_model_meets_its_bar(model, tokenizer):
    general = list(answer_key("general")["mlp.hook_post"])
    cultural = Examiner(model, tokenizer, benchmark.cultural("test"))
    before = cultural.answer()
    assert before.accuracy >= 90
    assert before.accuracy - cultural.answer(general).accuracy >= 30
    for rows in GENERAL_TASKS:
        examiner = Examiner(model, tokenizer, rows("test"))
        assert examiner.answer().accuracy >= 90
        assert abs(examiner.answer().accuracy - examiner.answer(general).accuracy) <= 3


def test_random_neurons_of_the_same_number_do_nothing(model, tokenizer):
    cultural = Examiner(model, tokenizer, benchmark.cultural("test"))
    before = cultural.answer().accuracy
    planted = {
        neuron for name in ("general", *CULTURES) for neuron in answer_key(name)["mlp.hook_post"]
    }
    rest = [(layer, k) for layer in range(4) for k in range(512) if (layer, k) not in planted]
    for seed in range(3):
        off = random.Random(seed).sample(rest, 16)
        assert before - cultural.answer(off).accuracy <= 2
