"""Fine-tuning: which weights move, which do not, and that a training is the one that was asked for.

Witnesses: names and rows written out by hand, weights read from the files by safetensors, and a
training loop of a few lines in plain transformers.
"""

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, ROWS, tiny_tokenizer
from datasets import Dataset
from families import FAMILIES, save
from safetensors.torch import load_file
from test_long_runs import run_together
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, Trainer

from culnig_tl.errors import InvalidInputError, UnknownNameError
from culnig_tl.files import DamagedFileError
from culnig_tl.finetuning import (
    FineTuned,
    MovedWeightsError,
    finetune,
    parameter_names,
    protect,
    rank_modules,
    select_modules,
)
from culnig_tl.finetuning.examples import collate, examples_of
from culnig_tl.finetuning.trainer import last_checkpoint
from culnig_tl.models import load_model, outline, read_plain
from culnig_tl.neurons import NeuronSet
from culnig_tl.questions import prepare, questions

FOUR = ("llama", "qwen3", "phi-4", "gemma-3")
WIDTH = 48  # of the MLPs of the tests' families
MODULES = ["L1.mlp", "L0.attn"]
SPLIT = [
    "model.layers.1.mlp.gate_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
]
FUSED = [
    "model.layers.1.mlp.gate_up_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.layers.0.self_attn.qkv_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
]
NAMES = {"llama": SPLIT, "qwen3": SPLIT, "phi-4": FUSED, "gemma-3": SPLIT}
PROTECTED = NeuronSet.of(
    ["L1.mlp.hook_post.7", "L1.mlp.hook_pre.40", "L0.attn.hook_q.3", "L0.attn.hook_v.5"]
)
# Of each weight: its axis, and the rows or columns that the protected neurons own. Phi-3 has 32
# queries, then 16 keys, then values.
SPLIT_ROWS = {
    SPLIT[0]: (0, [7, 40]),
    SPLIT[1]: (0, [7, 40]),
    SPLIT[2]: (1, [7, 40]),
    SPLIT[3]: (0, [3]),
    SPLIT[5]: (0, [5]),
}
FUSED_ROWS = {
    FUSED[0]: (0, [7, 40, WIDTH + 7, WIDTH + 40]),
    FUSED[1]: (1, [7, 40]),
    FUSED[2]: (0, [3, 48 + 5]),
}
OWN_ROWS = {"llama": SPLIT_ROWS, "qwen3": SPLIT_ROWS, "phi-4": FUSED_ROWS, "gemma-3": SPLIT_ROWS}
LONG_STEPS: dict[str, Any] = {"learning_rate": 0.01, "weight_decay": 0.1, "progress": False}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``family(name)``: the folder of a random model, written once."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            save(name, root / name, tiny_tokenizer())
        return root / name

    return folder


@pytest.fixture(scope="module")
def llama(family: Callable[[str], Path]) -> Path:
    return family("llama")


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """Every training ends with a garbage collection, of all that pytest holds: a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something is sent")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, as they lie in its files."""
    return load_file(folder / "model.safetensors")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """-0.0 is not 0.0."""
    pair = [values.contiguous().view(-1).view(torch.uint8) for values in (one, other)]
    return one.dtype == other.dtype and torch.equal(*pair)


def differing(one: Path, other: Path) -> set[str]:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not same_bits(ours[name], theirs[name])}


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize("name", FOUR)
def test_the_weights_of_modules_are_these(name: str, family: Callable[[str], Path]) -> None:
    assert parameter_names(family(name), MODULES) == NAMES[name]
    assert parameter_names(read_plain(family(name))[0], MODULES[:1]) == [
        weight for weight in NAMES[name] if ".mlp." in weight
    ]


@pytest.mark.parametrize("name", [*FOUR, "llama-tied", "gpt2"])
def test_a_ranking_counts_neurons_and_parameters(name: str, family: Callable[[str], Path]) -> None:
    folder = family(name)
    same_twice = ["L1.mlp.hook_post.7", "L1.mlp.hook_pre.7", "L1.mlp.hook_post.9"]
    neurons = NeuronSet.of([*same_twice, "L0.attn.hook_q.3", "L0.attn.hook_k.3"])
    ranking = rank_modules(neurons, folder)
    plain = read_plain(folder)[0]
    assert ranking.attrs["parameters"] == plain.num_parameters()
    by_name = ranking.set_index("module")
    assert by_name["neurons"].to_dict() == {"L1.mlp": 2, "L0.attn": 2, "L0.mlp": 0, "L1.attn": 0}
    assert by_name["density"]["L1.mlp"] == 1000 * 2 / WIDTH
    for module, n_parameters in by_name["parameters"].items():
        names = parameter_names(folder, [str(module)])
        assert n_parameters == sum(plain.get_parameter(each).numel() for each in names)
    for backend in FAMILIES[name].backends:
        loaded = rank_modules(neurons, load_model(folder, backend=backend))  # pyright: ignore
        assert loaded.equals(ranking)
        assert loaded.attrs == ranking.attrs


def test_seven_layers_of_the_papers_model_are_a_tenth_of_it() -> None:
    config = Gemma3TextConfig(  # gemma-3-12b-it
        vocab_size=262208,
        hidden_size=3840,
        intermediate_size=15360,
        num_hidden_layers=48,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
    )
    neurons = NeuronSet.of(
        [f"L{layer}.mlp.hook_pre.{n}" for layer in range(48) for n in range(layer)]
    )
    ranking = rank_modules(neurons, outline(config))
    top = select_modules(ranking)
    assert top == [f"L{layer}.mlp" for layer in range(47, 40, -1)]
    assert select_modules(ranking, which="bottom") == [f"L{layer}.mlp" for layer in range(7)]
    assert len(parameter_names(outline(config), top)) == 21


def test_a_selection_keeps_to_its_budget_and_order(llama: Path) -> None:
    ranking = rank_modules(NeuronSet.of("L1.mlp.hook_post.7"), llama)
    everything = ["L1.mlp", "L0.mlp", "L0.attn", "L1.attn"]
    assert select_modules(ranking, kind="both", share=1.0) == everything
    assert select_modules(ranking, kind="both", which="bottom", share=1.0) == [
        *everything[1:],
        everything[0],
    ]
    assert select_modules(ranking, share=0.0) == ["L1.mlp"]
    drawn = [select_modules(ranking, which="random", seed=seed)[0] for seed in range(20)]
    assert set(drawn) == {"L0.mlp", "L1.mlp"}
    assert drawn == [select_modules(ranking, which="random", seed=seed)[0] for seed in range(20)]


# ---------------------------------------------------------------- what moves


@pytest.mark.parametrize("method", ["direct", "lora"])
@pytest.mark.parametrize("name", FOUR)
def test_exactly_the_chosen_weights_move_and_protected_neurons_do_not(
    name: str, method: Any, family: Callable[[str], Path], rows: Dataset, tmp_path: Path
) -> None:
    source, out = family(name), tmp_path / "out"
    tuned = finetune(
        source, rows, MODULES, out=out, protect=PROTECTED, method=method, max_steps=3, **LONG_STEPS
    )
    assert set(tuned.parameters) == set(NAMES[name])
    assert differing(source, out) == set(NAMES[name])
    before, after = weights(source), weights(out)
    for weight in NAMES[name]:
        axis, own = OWN_ROWS[name].get(weight, (0, []))
        has_moved = (before[weight] != after[weight]).any(1 - axis)
        assert (
            sorted(set(range(len(has_moved))) - set(has_moved.nonzero().flatten().tolist())) == own
        )
        for channel in own:
            was, now = (each[weight].select(axis, channel) for each in (before, after))
            assert same_bits(was, now)
    assert torch.isfinite(load_model(out)(torch.tensor([[5, 6, 7]]))).all()


@pytest.mark.parametrize("method", ["direct", "lora"])
def test_in_bfloat16_the_others_keep_their_bits(
    method: Any, llama: Path, rows: Dataset, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    for each in read_plain(llama, dtype="bfloat16"):
        each.save_pretrained(half)
    out = tmp_path / "out"
    options: dict[str, Any] = {"method": method, "dtype": "bfloat16", "max_steps": 2, **LONG_STEPS}
    finetune(half, rows, ["L1.mlp"], out=out, protect=PROTECTED, **options)
    assert differing(half, out) == set(SPLIT[:3])
    before, after = weights(half), weights(out)
    assert {values.dtype for values in after.values()} == {torch.bfloat16}
    assert torch.equal(before[SPLIT[0]][[7, 40]], after[SPLIT[0]][[7, 40]])


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_without_modules_everything_moves(
    name: str, family: Callable[[str], Path], rows: Dataset, tmp_path: Path
) -> None:
    tuned = finetune(family(name), rows, out=tmp_path / "out", max_steps=2, **LONG_STEPS)
    assert differing(family(name), tuned.folder) == set(weights(family(name)))
    assert ("lm_head.weight" in tuned.parameters) == (name == "llama")


def test_a_weight_that_moved_by_our_fault_is_noticed(
    llama: Path, rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.training_step

    def clumsy(self: Any, model: Any, *args: Any, **options: Any) -> Any:
        model.model.norm.weight.data[0] *= -1  # by one bit
        return step(self, model, *args, **options)

    monkeypatch.setattr(Trainer, "training_step", clumsy)
    with pytest.raises(MovedWeightsError, match=r"1 of .*the first is model\.norm\.weight"):
        finetune(
            llama, rows, MODULES, out=tmp_path / "out", max_steps=1, accumulation=1, progress=False
        )
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the training that was asked for


def plain_training(folder: Path, names: list[str], *, n_steps: int) -> tuple[Any, list[float]]:
    """All rows in every step, each read on its own; AdamW, gradients clipped to norm 1."""
    hf_model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokenizer, losses = AutoTokenizer.from_pretrained(folder), []
    trained = [hf_model.requires_grad_(False).get_parameter(name) for name in names]
    for weight in trained:
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.1)
    for _ in range(n_steps):
        optimizer.zero_grad()
        nats = []
        for row in ROWS:
            tokens = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
            (answer,) = tokenizer.encode(row["answer"], add_special_tokens=False)
            nats.append(-hf_model(tokens).logits[0, -1].log_softmax(-1)[answer])
        loss = torch.stack(nats).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return hf_model, losses


def test_a_training_is_that_of_a_plain_loop_over_answers(
    llama: Path, rows: Dataset, tmp_path: Path
) -> None:
    """In float32 sums of another order differ by 1e-6 of a loss of 5; a step of Adam is 1e-3."""
    tuned = finetune(
        llama,
        rows,
        MODULES,
        out=tmp_path / "out",
        batch_size=2,
        accumulation=3,
        epochs=4,
        learning_rate=1e-3,
        weight_decay=0.1,
        progress=False,
    )
    hf_model, losses = plain_training(llama, SPLIT, n_steps=4)
    assert tuned.history["step"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(tuned.history["loss"], losses, rtol=1e-4)
    assert losses[0] - losses[-1] > 0.01
    after = weights(tuned.folder)
    for name in SPLIT:
        torch.testing.assert_close(after[name], hf_model.get_parameter(name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["direct", "lora"])
def test_what_is_written_is_what_was_trained(
    method: Any, llama: Path, rows: Dataset, tmp_path: Path
) -> None:
    """The loss of the second step is that of the model that one step alone leaves in a folder."""
    options: dict[str, Any] = {"batch_size": 6, "accumulation": 1, "protect": PROTECTED}
    options |= {"method": method, **LONG_STEPS}
    once = finetune(llama, rows, MODULES, out=tmp_path / "once", max_steps=1, **options)
    twice = finetune(llama, rows, MODULES, out=tmp_path / "twice", max_steps=2, **options)
    examples = examples_of(load_model(llama), rows)
    with torch.no_grad():
        loss = read_plain(once.folder)[0](**collate([examples[row] for row in range(6)])).loss
    assert loss.item() == pytest.approx(twice.history["loss"][1], rel=1e-5)
    assert twice.history["loss"][0] != pytest.approx(twice.history["loss"][1], rel=1e-5)


def test_steps_smaller_than_bfloat16_add_up(llama: Path, rows: Dataset, tmp_path: Path) -> None:
    """From 1/16 on its numbers are 2^-11 apart: a step of 1e-4 alone is rounded away."""
    options: dict[str, Any] = {"dtype": "bfloat16", "batch_size": 6, "accumulation": 1}
    options |= {"epochs": 20, "learning_rate": 1e-4, "progress": False, "checkpoint_every": None}
    finetune(llama, rows, ["L1.mlp"], out=tmp_path / "out", **options)
    before, after = weights(llama)[SPLIT[0]].bfloat16(), weights(tmp_path / "out")[SPLIT[0]]
    assert (before != after)[before.abs() > 1 / 16].float().mean() > 0.5


def test_a_prompt_is_that_of_evaluation_and_a_cloze_is_learnt_whole(llama: Path) -> None:
    model: Any = load_model(llama)
    cloze = {"id": "c", "prompt": "Which drink", "options": ["tea soup", "tea rice"]}
    rows = questions([{**cloze, "answer": "tea rice", "label_kind": "first token"}])
    examples = examples_of(model, rows)
    prepared = prepare(model, rows, shared_tokens="keep")
    prompt, answer = examples[0]
    assert prompt == prepared.prompts[0]
    assert model.tokenizer.decode(answer) == " tea rice"
    assert len(answer) > 1
    batch = collate([examples[0], ((5,), (6,))])
    assert batch["labels"][0].tolist() == [-100] * len(prompt) + list(answer)
    assert batch["attention_mask"].sum(1).tolist() == [len(prompt) + len(answer), 2]


def test_prepared_questions_keep_their_template(llama: Path, rows: Dataset) -> None:
    model = load_model(llama)
    given = prepare(load_model(llama), rows, chat=False)
    assert examples_of(model, given).prompts == given.prompts
    assert examples_of(model, given).fingerprint == given.fingerprint


def test_a_model_in_memory_is_trained_as_its_folder_is(
    llama: Path, rows: Dataset, tmp_path: Path, killed: Callable[[int], None]
) -> None:
    options: dict[str, Any] = {"max_steps": 1, **LONG_STEPS}
    pair = read_plain(llama)
    finetune(llama, rows, MODULES, out=tmp_path / "a", **options)
    finetune(pair, rows, MODULES, out=tmp_path / "b", **options)
    assert differing(tmp_path / "a", tmp_path / "b") == set()
    killed(1)
    finetune(pair, rows, MODULES, out=tmp_path / "b", **options)  # is there
    assert all(torch.equal(pair[0].get_parameter(name), it) for name, it in weights(llama).items())


@pytest.mark.usefixtures("as_for_a_user")  # beartype draws which entries it checks
def test_the_seed_alone_decides(llama: Path, rows: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 1, "accumulation": 1, "max_steps": 3, **LONG_STEPS}

    def states() -> tuple[Any, ...]:
        of_numpy: Any = np.random.get_state()  # noqa: NPY002
        return random.getstate(), of_numpy[1].tolist(), torch.get_rng_state().tolist()

    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(out) + seed)
        before, environment = states(), dict(os.environ)
        finetune(llama, rows, MODULES, out=tmp_path / out, seed=seed, method="lora", **options)
        assert states() == before
        assert dict(os.environ) == environment
    assert differing(tmp_path / "a", tmp_path / "b") == set()
    assert differing(tmp_path / "a", tmp_path / "c") == set(SPLIT)
    assert "wandb" not in sys.modules


# ---------------------------------------------------------------- stopped, reopened, stopped early


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``killed(n)``: the next training ends in its n-th pass."""
    step = Trainer.training_step

    def arm(n_passes: int) -> None:
        left = [n_passes]

        def mortal(self: Any, *args: Any, **options: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                monkeypatch.setattr(Trainer, "training_step", step)
                raise KeyboardInterrupt
            return step(self, *args, **options)

        monkeypatch.setattr(Trainer, "training_step", mortal)

    return arm


@pytest.mark.parametrize(
    ("method", "dtype"), [("direct", "float32"), ("direct", "bfloat16"), ("lora", "float32")]
)
def test_a_killed_training_goes_on_to_the_same_weights(
    method: Any,
    dtype: Any,
    llama: Path,
    rows: Dataset,
    tmp_path: Path,
    killed: Callable[[int], None],
) -> None:
    options: dict[str, Any] = {"batch_size": 1, "accumulation": 2, "epochs": 2, "method": method}
    options |= {"checkpoint_every": 1, "protect": PROTECTED, "dtype": dtype, **LONG_STEPS}
    whole = finetune(llama, rows, MODULES, out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    for n_passes, n_steps in ((4, 1), (8, 4)):  # the second resumes after step 1 or, see below, 0
        killed(n_passes)
        with pytest.raises(KeyboardInterrupt):
            finetune(llama, rows, MODULES, out=out, **options)
        assert not out.exists()
        latest = last_checkpoint(tmp_path / "killed.training")
        assert latest is not None
        assert latest.endswith(f"checkpoint-{n_steps}")
        cut_off = tmp_path / "killed.training" / "checkpoint-5"
        cut_off.mkdir()
        (cut_off / "trainer_state.json").write_text('{"global_step": 5')
    tuned = finetune(llama, rows, MODULES, out=out, **options)
    assert differing(tmp_path / "whole", out) == set()
    assert tuned.history.equals(whole.history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


KILLED = """
import json, os, signal, sys
from transformers import Trainer
import culnig_tl as ct

steps, step = [], Trainer.training_step
def killed(self, *args, **options):
    steps.append(1)
    if len(steps) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args, **options)
Trainer.training_step = killed
folder, rows, modules, out, options = json.loads(sys.argv[1])
ct.finetune(folder, rows, modules, out=out, **options)
"""


def test_a_training_that_was_killed_asks_nobody_and_goes_on_to_the_same_weights(
    llama: Path, rows: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"batch_size": 1, "accumulation": 2, "epochs": 2}
    options |= {"checkpoint_every": 1, **LONG_STEPS}
    finetune(llama, rows, MODULES, out=tmp_path / "whole", **options)
    out = tmp_path / "killed"
    given = [str(llama), rows.to_list(), list(MODULES), str(out), options]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(given)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert last_checkpoint(tmp_path / "killed.training") is not None
    finetune(llama, rows, MODULES, out=out, **options)
    assert differing(tmp_path / "whole", out) == set()


TOGETHER = """
import json, sys
import culnig_tl as ct

folder, rows, modules, out, options = json.loads(sys.argv[1])
neurons = ct.NeuronSet.of(options.pop("protect"))
tuned = ct.finetune(folder, rows, modules, out=out, protect=neurons, **options)
assert tuned.settings["processes"] == 2
try:
    ct.finetuning_study(folder, rows, rows, neurons=neurons, benchmarks={"a": rows}, out="study")
except ct.errors.InvalidInputError as error:
    assert "Each of 2 processes would do this" in str(error)
else:
    raise SystemExit("a study ran in each of two processes")
"""


def test_two_processes_train_as_one_does_with_batches_twice_as_large(
    llama: Path, rows: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"accumulation": 1, "epochs": 2, "checkpoint_every": 1, **LONG_STEPS}
    finetune(llama, rows, MODULES, out=tmp_path / "one", batch_size=2, protect=PROTECTED, **options)
    shared = {**options, "batch_size": 1, "protect": [str(neuron) for neuron in PROTECTED]}
    given = [str(llama), rows.to_list(), list(MODULES), str(tmp_path / "two"), shared]
    script = tmp_path / "script.py"
    script.write_text(TOGETHER)
    done = run_together(2, script, json.dumps(given))
    assert done.returncode == 0, done.stderr
    one, two, before = (weights(each) for each in (tmp_path / "one", tmp_path / "two", llama))
    assert one.keys() == two.keys()
    for name, weight in two.items():
        torch.testing.assert_close(weight, one[name], rtol=1e-4, atol=1e-5)
        if name not in SPLIT:
            assert torch.equal(weight, before[name])
    assert not torch.equal(two[SPLIT[0]], before[SPLIT[0]])
    for name, (axis, places) in SPLIT_ROWS.items():
        held = (each.index_select(axis, torch.tensor(places)) for each in (two[name], before[name]))
        assert torch.equal(*held)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "script.py", "two"]


def test_a_finished_training_is_opened_and_another_one_refused(
    llama: Path, rows: Dataset, tmp_path: Path, killed: Callable[[int], None]
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"max_steps": 1, **LONG_STEPS}
    tuned = finetune(llama, rows, MODULES, out=out, **options)
    killed(1)
    again = finetune(llama, rows, MODULES[::-1], out=out, checkpoint_every=None, **options)
    assert isinstance(again, FineTuned)
    assert again.history.equals(tuned.history)
    assert (again.settings, again.parameters) == (tuned.settings, tuned.parameters)
    for change in ({"seed": 1}, {"protect": PROTECTED}, {"method": "lora"}, {"weight_decay": 0.2}):
        changed: dict[str, Any] = options | change
        with pytest.raises(InvalidInputError, match=f"other .*{next(iter(change))}"):
            finetune(llama, rows, MODULES, out=out, **changed)
    with pytest.raises(InvalidInputError, match="other rows "):
        finetune(llama, rows.select([0, 1]), MODULES, out=out, **options)
    with pytest.raises(KeyboardInterrupt):
        finetune(llama, rows, MODULES, out=tmp_path / "new", **options)
    with pytest.raises(InvalidInputError, match=r"new\.training holds a training with other seed"):
        finetune(llama, rows, MODULES, out=tmp_path / "new", seed=1, **options)
    record = out / "finetuning.json"
    record.write_text(record.read_text().replace('"seconds": ', '"seconds": 1'))
    with pytest.raises(DamagedFileError, match="changed"):
        finetune(llama, rows, MODULES, out=out, **options)
    with pytest.raises(InvalidInputError, match="no model that finetune wrote"):
        finetune(llama, rows, MODULES, out=llama, **options)


def test_it_stops_early_and_keeps_the_best_weights(
    llama: Path, rows: Dataset, tmp_path: Path, killed: Callable[[int], None]
) -> None:
    others = [{**row, "options": LABELS} for row in ROWS]
    for row in others:
        row["answer"] = LABELS[LABELS.index(row["answer"]) - 1]
    options: dict[str, Any] = {"batch_size": 6, "accumulation": 1, "epochs": 40, "early_stop": 2}
    options |= {"validation": others, "checkpoint_every": 1, **LONG_STEPS}
    tuned = finetune(llama, rows, MODULES, out=tmp_path / "out", **options)
    measured = tuned.history["validation_loss"]
    assert len(tuned.history) < 40
    assert measured.idxmin() == len(measured) - 3
    batch = collate([examples_of(load_model(llama), others)[row] for row in range(len(ROWS))])
    with torch.no_grad():
        loss = read_plain(tuned.folder)[0](**batch).loss.item()
    assert loss == pytest.approx(measured.min(), rel=1e-5)
    killed(len(measured) - 1)
    with pytest.raises(KeyboardInterrupt):
        finetune(llama, rows, MODULES, out=tmp_path / "again", **options)
    again = finetune(llama, rows, MODULES, out=tmp_path / "again", **options)
    assert again.history.equals(tuned.history)
    assert differing(tuned.folder, again.folder) == set()


# ---------------------------------------------------------------- protect


def own_loop(hf_model: Any, *, n_steps: int = 3) -> None:
    """Anybody's loop, with everything that moves a weight without a gradient."""
    optimizer = torch.optim.SGD(hf_model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(n_steps):
        optimizer.zero_grad()
        hf_model(torch.tensor([[5, 6, 7]])).logits.square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", [*FOUR, "llama-biases", "gpt2"])
def test_protected_neurons_stay_in_anybodys_loop(name: str, family: Callable[[str], Path]) -> None:
    hf_model = read_plain(family(name))[0].requires_grad_()
    with protect(hf_model, PROTECTED) as protection:
        own_loop(hf_model)
    before = weights(family(name))
    prefix = "" if name != "gpt2" else "transformer."
    stored = {each.removeprefix(prefix): values for each, values in before.items()}
    for held in protection.held:
        was = stored[held.name.removeprefix(prefix)].index_select(held.axis, held.index)
        assert same_bits(was, held.weight.detach().index_select(held.axis, held.index))
        assert not torch.equal(stored[held.name.removeprefix(prefix)], held.weight)
        gradient = held.weight.grad
        assert gradient is not None
        assert gradient.any()
        assert not gradient.index_select(held.axis, held.index).any()
    own: dict[str, tuple[int, list[int]]] = {}
    for held in protection.held:
        _, channels = own.setdefault(held.name, (held.axis, []))
        channels += held.index.tolist()
    assert name not in FOUR or own == OWN_ROWS[name]
    step = hf_model.get_parameter(protection.held[0].name)
    own_loop(hf_model, n_steps=1)  # outside it moves again
    assert not protection.held[0].is_as_it_was()
    assert not step._backward_hooks


def test_a_protection_notices_what_it_could_not_prevent(llama: Path) -> None:
    hf_model = read_plain(llama)[0].requires_grad_()
    gate = hf_model.get_parameter(SPLIT[0])
    moved = pytest.raises(MovedWeightsError, match=r"1 of 5 weights .*gate_proj")
    with moved, protect(hf_model, PROTECTED):
        gate.data[7, 0] += 1
    with pytest.raises(ZeroDivisionError), protect(hf_model, PROTECTED):
        gate.data[7, 0] += 1 // 0
    assert not gate._backward_hooks


# ---------------------------------------------------------------- refused before the first pass


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"modules": ["L9.mlp"]}, UnknownNameError, r"'L9.mlp' is no module .*\(L0 to L1\)"),
        ({"modules": ["mlp"]}, UnknownNameError, "'mlp' is no module"),
        ({"modules": []}, InvalidInputError, "modules is .*at least one"),
        ({"method": "full"}, InvalidInputError, "method is 'full'"),
        ({"dtype": "float16"}, InvalidInputError, "dtype is 'float16'"),
        ({"learning_rate": -1.0}, InvalidInputError, "learning_rate is -1"),
        ({"epochs": 0}, InvalidInputError, "epochs is 0"),
        ({"batch_size": 0}, InvalidInputError, "batch_size is 0"),
        ({"max_steps": 0}, InvalidInputError, "max_steps is 0"),
        ({"early_stop": 1}, InvalidInputError, "early_stop is 1 and there are no validation rows"),
        ({"protect": NeuronSet.of("L1.mlp.hook_post.48")}, InvalidInputError, "no neuron of this"),
        ({"learning_rate": 1e30, "max_steps": 9}, InvalidInputError, "loss is .* no finite number"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
@pytest.mark.usefixtures("as_for_a_user")
def test_what_cannot_be_trained_is_a_sentence(
    change: dict[str, Any],
    error: type[Exception],
    sentence: str,
    llama: Path,
    rows: Dataset,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=sentence):
        finetune(
            llama,
            rows,
            **{"modules": MODULES, "out": tmp_path / "out", "progress": False} | change,
        )
    assert not (tmp_path / "out").exists()


def test_experts_are_no_module(family: Callable[[str], Path]) -> None:
    with pytest.raises(InvalidInputError, match="is not known"):
        parameter_names(family("mixtral"), ["L0.mlp"])
    with pytest.raises(InvalidInputError, match="in no module of this model"):
        rank_modules(NeuronSet.of("L2.mlp.hook_post.0"), family("llama"))
