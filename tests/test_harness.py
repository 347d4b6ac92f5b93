"""lm-evaluation-harness asks a masked model what plain transformers computes of it.

Its tasks here are files of the test's own, and the witness is a plain transformers model with a
hook written down here.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import save_tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl.cli import app
from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.export import harness
from culnig_tl.neurons import NeuronSet

pytest.importorskip("lm_eval")

QUESTIONS = [
    {"question": "Which drink?", "options": ["tea", "rice bread", "soup tea rice"], "gold": 0},
    {"question": "Drink? tea", "options": ["A", "B C", "tea tea"], "gold": 2},
    {"question": "bread soup tea", "options": ["rice", "A B", "C"], "gold": 1},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}} Answer:"
doc_to_target: {target}
{more}
"""
CHOICE = """
doc_to_choice: options
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITTEN = """
generation_kwargs: {until: ["@"], max_gen_toks: 5, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
MASK = {0: [1, 2, 3, 5, 8, 13, 21, 34, 55], 2: list(range(0, 64, 2))}
NEURONS = NeuronSet.of({"mlp.hook_post": [(n, i) for n, those in MASK.items() for i in those]})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, its questions and two tasks; data sets are cached in it too."""
    root = tmp_path_factory.mktemp("harness")
    save_tiny_llama(root / "model")
    file = root / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in QUESTIONS))
    (root / "tasks").mkdir()
    kinds = {
        "drinks": ("multiple_choice", "gold", CHOICE),
        "written": ("generate_until", '"{{options[gold]}}"', WRITTEN),
    }
    for name, (kind, target, more) in kinds.items():
        text = TASK.format(name=name, file=file, kind=kind, target=target, more=more)
        (root / "tasks" / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", root / "cache")
        yield root


@pytest.fixture(scope="module")
def hf_model(place: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(place / "model").eval()


@pytest.fixture(scope="module")
def tokenizer(place: Path) -> Any:
    return AutoTokenizer.from_pretrained(place / "model")


@pytest.fixture(scope="module")
def masked(place: Path) -> Any:
    return harness.MaskedLM(place / "model", NEURONS, 0.0)


@contextmanager
def mask(hf_model: Any, factor: float) -> Iterator[None]:
    """The same neurons, by nothing but torch."""

    def scale(module: Any, inputs: Any, *, indices: list[int]) -> Any:
        scaled = inputs[0].clone()
        scaled[..., indices] *= factor
        return (scaled,)

    handles = [
        hf_model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(
            partial(scale, indices=indices)
        )
        for layer, indices in MASK.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def log_likelihoods(hf_model: Any, tokenizer: Any) -> np.ndarray:
    """log P(option | question), one row per question, prompt by prompt."""
    table = []
    for row in QUESTIONS:
        prompt = tokenizer.encode(f"{row['question']} Answer:")
        table.append([])
        for option in row["options"]:
            tokens = tokenizer.encode(f"{row['question']} Answer: {option}")
            assert tokens[: len(prompt)] == prompt
            log_p = hf_model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            positions = range(len(prompt) - 1, len(tokens) - 1)
            table[-1].append(sum(log_p[at, tokens[at + 1]].item() for at in positions))
    return np.array(table)


def asked(lm: Any, place: Path, task: str) -> dict[str, Any]:
    """What the harness itself makes of a model of its own class."""
    manager = harness._task_manager([task], place / "tasks")
    return harness._harness().simple_evaluate(
        lm, tasks=[task], task_manager=manager, log_samples=True
    )


def responses(results: dict[str, Any], task: str) -> list[Any]:
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [[each[0] for each in sample["resps"]] for sample in samples]


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_log_likelihoods_are_those_of_plain_transformers(
    factor: float, place: Path, hf_model: Any, tokenizer: Any, masked: Any
) -> None:
    results = asked(masked.with_neurons(NEURONS, factor), place, "drinks")
    ours = np.array([[each[0] for each in row] for row in responses(results, "drinks")], float)
    with mask(hf_model, factor):
        expected = log_likelihoods(hf_model, tokenizer)
    assert ours == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected - log_likelihoods(hf_model, tokenizer)).max() > 0.1


def test_log_likelihoods_are_those_of_our_own_evaluation(place: Path, masked: Any) -> None:
    rows = [
        {
            "id": str(number),
            "culture": "any",
            "prompt": f"{row['question']} Answer:",
            "options": row["options"],
            "answer": row["options"][row["gold"]],
            "label_kind": "first token",
        }
        for number, row in enumerate(QUESTIONS)
    ]
    model = ct.load_model(place / "model", device="cpu")
    frame = ct.evaluate(model, rows, neurons=NEURONS, mode="likelihood")
    ours = np.log(np.array(frame["probabilities"].tolist()))
    results = asked(masked, place, "drinks")
    theirs = [[each[0] for each in row] for row in responses(results, "drinks")]
    assert ours == pytest.approx(np.array(theirs, float), abs=1e-5)
    assert frame["correct"].mean() == results["results"]["drinks"]["acc,none"]


def test_what_is_generated_is_masked_at_every_step(
    place: Path, hf_model: Any, tokenizer: Any, masked: Any
) -> None:
    def greedy() -> list[str]:
        texts = []
        for row in QUESTIONS:
            tokens = torch.tensor([tokenizer.encode(f"{row['question']} Answer:")])
            start = tokens.shape[1]
            for _ in range(5):
                with torch.no_grad():
                    best = hf_model(tokens).logits[:, -1:].argmax(-1)
                tokens = torch.cat([tokens, best], 1)
            texts.append(tokenizer.decode(tokens[0, start:], skip_special_tokens=True))
        return texts

    said = [row[0] for row in responses(asked(masked, place, "written"), "written")]
    with mask(hf_model, 0.0):
        assert said == greedy()
    assert said != greedy()


def test_the_table_holds_every_set(place: Path, hf_model: Any, tokenizer: Any) -> None:
    """Accuracy as a loop over the options has it, of the model as it is, masked, and random."""
    other = NeuronSet.of({"mlp.hook_post": [(1, i) for i in range(41)]})
    frame = harness.evaluate(
        hf_model, ["drinks"], NEURONS, random=[NEURONS, other], include_path=place / "tasks",
        tokenizer=tokenizer, batch_size=2,
    )  # fmt: skip
    gold = [row["gold"] for row in QUESTIONS]
    accuracy = frame[frame["metric"] == "acc"].set_index(["condition", "draw"])
    assert list(accuracy.index) == [("original", 0), ("masked", 0), ("random", 0), ("random", 1)]
    plain = log_likelihoods(hf_model, tokenizer).argmax(1)
    assert accuracy["value"]["original", 0] == np.mean(plain == gold)
    with mask(hf_model, 0.0):
        scaled = log_likelihoods(hf_model, tokenizer).argmax(1)
    assert accuracy["value"]["masked", 0] == np.mean(scaled == gold)
    assert accuracy["value"]["random", 0] == accuracy["value"]["masked", 0]
    assert accuracy["factor"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert accuracy["n_neurons"].tolist() == [0, 41, 41, 41]
    assert accuracy["n_questions"].tolist() == [3, 3, 3, 3]
    assert not any(module._forward_pre_hooks for module in hf_model.modules())


def test_the_comparison_is_of_changes() -> None:
    row = {"task": "t", "metric": "acc", "filter": "none", "draw": 0}
    values = [("original", 0, 0.5), ("masked", 0, 0.2), ("random", 0, 0.4), ("random", 1, 0.6)]
    frame = pd.DataFrame([{**row, "condition": c, "draw": d, "value": v} for c, d, v in values])
    (line,) = harness.comparison(frame).to_dict("records")
    assert line["change"] == pytest.approx(-0.3)
    assert line["random_change"] == pytest.approx(0.0)
    assert line["random_sd"] == pytest.approx(np.std([-0.1, 0.1], ddof=1))


def test_sets_share_one_model(masked: Any) -> None:
    other = masked.with_neurons("L0.attn.hook_q.1", 2.0)
    assert other.model is masked.model
    assert (masked._factor, len(masked._scaled)) == (0.0, 2)
    assert (other._factor, len(other._scaled)) == (2.0, 1)


def test_what_is_wrong_is_said_before_the_first_pass(place: Path, masked: Any, model: Any) -> None:
    ask = partial(harness.evaluate, masked, ["drinks"], include_path=place / "tasks")
    with pytest.raises(InvalidInputError, match="outside this model"):
        ask("L9.mlp.hook_post.1")
    with pytest.raises(InvalidInputError, match="factor is nan"):
        ask(NEURONS, factor=float("nan"))
    with pytest.raises(InvalidInputError, match="options dtype are for loading"):
        ask(NEURONS, dtype="float32")
    with pytest.raises(InvalidInputError, match="model is a HookedTransformer; give a name"):
        harness.MaskedLM(model, NEURONS)


@pytest.mark.slow
def test_a_task_that_is_not_there(masked: Any) -> None:
    with pytest.raises(UnknownNameError, match="'no-such-task' is no task of the harness"):
        harness.evaluate(masked, ["no-such-task"], NEURONS)


def test_without_the_harness_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(harness, "_harness", harness._harness.__wrapped__)
    monkeypatch.setattr(harness, "_masked_lm", harness._masked_lm.__wrapped__)
    with pytest.raises(InvalidInputError, match=r"pip install 'culnig-tl\[harness\]'"):
        _ = harness.MaskedLM
    with pytest.raises(InvalidInputError, match=r"pip install 'culnig-tl\[harness\]'"):
        harness.evaluate("atlas", ["drinks"], NEURONS)
    with pytest.raises(AttributeError, match="has no attribute 'Masked'"):
        _ = harness.Masked


def test_the_command_prints_one_table(place: Path, tmp_path: Path) -> None:
    NEURONS.save(tmp_path / "general.json")
    command = [
        *("harness", "--model", str(place / "model"), "--tasks", "drinks", "--factor", "0"),
        *("--neurons", str(tmp_path / "general.json"), "--random", "2", "--device", "cpu"),
        *("--include-path", str(place / "tasks"), "--out", str(tmp_path / "all.csv"), "--quiet"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "41 neurons, multiplied by 0 (masked)" in result.output
    for text in ("drinks", "acc_norm", "original", "change", "±"):
        assert text in result.output
    table = pd.read_csv(tmp_path / "all.csv")
    assert table["condition"].value_counts().to_dict() == {"original": 2, "masked": 2, "random": 4}


def test_the_command_refuses_in_a_sentence(place: Path) -> None:
    command = [
        *("harness", "--model", str(place / "model"), "--tasks", "drinks", "--device", "cpu"),
        *("--neurons", "L9.mlp.hook_post.1", "--include-path", str(place / "tasks")),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "outside this model" in " ".join(result.output.split())
