"""A baked checkpoint is the model under hooks, and no other byte of it has changed."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny_llama, tiny_tokenizer
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import culnig_tl as ct
from culnig_tl.errors import InvalidInputError, MissingFileError, UnwritableError
from culnig_tl.export import baking
from culnig_tl.files import DamagedFileError, read_record
from culnig_tl.models import find_places, outline
from culnig_tl.neurons import NeuronSet

NAMES = ("llama", "qwen3", "phi-4", "gemma-3", "gpt2", "pythia", "llama-biases", "llama-tied")
SINGLE = 1e-5  # float32 rounding, of logits between 1 and 100


def prompt() -> Tensor:
    return torch.arange(3, 15)[None] * 17 % 300


def plain(folder: Path) -> Any:
    hf_model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return hf_model.eval().requires_grad_(False)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    made = model(prompt())
    made = getattr(made, "logits", made)
    return made - made.mean(-1, keepdim=True)


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


def weights(folder: Path) -> dict[str, Tensor]:
    return {
        key: tensor
        for path in folder.glob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


def changed(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> set[str]:
    """Keys of the tensors that differ in any bit."""
    assert first.keys() == second.keys()
    return {
        key
        for key, tensor in first.items()
        if tensor.dtype != second[key].dtype
        or not torch.equal(tensor.view(torch.uint8), second[key].view(torch.uint8))
    }


def some_of(folder: Path, sites: Any) -> NeuronSet:
    """Every third neuron of every layer."""
    places = find_places(outline(folder), sites)
    return NeuronSet.of(
        {
            site: [
                (layer, index)
                for layer, place in enumerate(of_site)
                for index in range(0, len(place.channels), 3)
            ]
            for site, of_site in places.items()
        }
    )


# ---------------------------------------------------------------- the theorem


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [0.0, 2.5])
def test_a_baked_model_is_the_model_under_hooks(
    name: str, factor: float, folder_of: Any, tmp_path: Path
) -> None:
    """At every site, normalised queries and gates among them, at any factor."""
    folder, hf_model = folder_of(name), plain(folder_of(name))
    neurons = some_of(folder, FAMILIES[name].sites)
    baked = plain(ct.bake(folder, neurons, tmp_path / "out", factor=factor))
    with neurons.to_hooks(hf_model, factor):
        expected = logits(hf_model)
    assert distance(logits(baked), expected) < SINGLE
    assert distance(expected, logits(hf_model)) > 1e-3


@pytest.mark.parametrize("name", ["phi-4", "gpt2"])
def test_a_baked_folder_loads(name: str, folder_of: Any, tmp_path: Path) -> None:
    """As any other, on both backends, with its tokenizer."""
    neurons = some_of(folder_of(name), FAMILIES[name].sites)
    out = ct.bake(folder_of(name), neurons, tmp_path / "out")
    backends: Any = FAMILIES[name].backends
    for backend in backends:
        model: Any = ct.load_model(folder_of(name), backend=backend, device="cpu")
        baked: Any = ct.load_model(out, backend=backend, device="cpu")
        with ct.scaled_neurons(model, neurons):
            assert distance(logits(baked), logits(model)) < SINGLE
        assert baked.tokenizer.encode("Which drink?") == model.tokenizer.encode("Which drink?")


@settings(max_examples=8)
@given(data=st.data(), factor=st.sampled_from([0.0, 0.5, 2.0, -1.0, 1.7]))
def test_baking_hooks_and_scaled_neurons_agree(
    data: Any, factor: float, folder_of: Any, tmp_path_factory: Any
) -> None:
    """For any set of any sites."""
    folder = folder_of("llama-biases")
    places = find_places(outline(folder), FAMILIES["llama-biases"].sites)
    all_of_them = [
        (site, layer, index)
        for site, of_site in places.items()
        for layer, place in enumerate(of_site)
        for index in range(len(place.channels))
    ]
    neurons = NeuronSet.of(data.draw(st.lists(st.sampled_from(all_of_them), min_size=1)))
    hf_model, model = models(folder)
    out = ct.bake(folder, neurons, tmp_path_factory.mktemp("baked") / "out", factor=factor)
    baked = logits(plain(out))
    with neurons.to_hooks(hf_model, factor):
        assert distance(logits(hf_model), baked) < SINGLE
    with ct.scaled_neurons(model, neurons, factor=factor):
        assert distance(logits(model), baked) < SINGLE


@cache
def models(folder: Path) -> tuple[Any, Any]:
    return plain(folder), ct.load_model(folder, device="cpu")


# ---------------------------------------------------------------- what stands in the folder


def test_only_the_scaled_columns_and_rows_change(folder_of: Any, tmp_path: Path) -> None:
    folder = folder_of("llama-biases")
    neurons = NeuronSet.of(["L1.mlp.hook_post.7", "L0.attn.hook_k.9", "L0.mlp.hook_pre.3"])
    out = ct.bake(folder, neurons, tmp_path / "out", factor=-0.5)
    before, after = weights(folder), weights(out)
    down, key, gate = (
        "model.layers.1.mlp.down_proj",
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.mlp.gate_proj",
    )
    rows = {f"{key}.weight": 9, f"{key}.bias": 9, f"{gate}.weight": 3, f"{gate}.bias": 3}
    assert changed(before, after) == {f"{down}.weight", *rows}
    before[f"{down}.weight"][:, 7] *= -0.5
    for name, row in rows.items():
        before[name][row] *= -0.5
    assert changed(before, after) == set()


def test_other_files_are_copied_and_other_weights_left_out(folder_of: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in folder_of("llama").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "templates").mkdir()
    (folder / "templates" / "short.jinja").write_text("short")
    (folder / "original").mkdir()
    for name in ("original/consolidated.00.pth", "pytorch_model.bin", "consolidated.safetensors"):
        (folder / name).write_bytes(b"not scaled")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    out = ct.bake(folder, "L0.mlp.hook_post.1", tmp_path / "out")
    copied = {path.name for path in out.iterdir()} - {"model.safetensors", baking.RECORD}
    assert copied == {path.name for path in folder_of("llama").iterdir()} - {
        "model.safetensors"
    } | {
        "chat_template.jinja",
        "templates",
    }
    for name in copied - {"templates"}:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert (out / "templates" / "short.jinja").read_text() == "short"


def test_a_folder_in_many_files(folder_of: Any, tmp_path: Path) -> None:
    """Files without a scaled tensor are byte for byte those that were there."""
    plain(folder_of("llama")).save_pretrained(tmp_path / "many", max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path / "many")
    out = ct.bake(tmp_path / "many", "L1.mlp.hook_post.1", tmp_path / "out")
    files = sorted(path.name for path in out.glob("*.safetensors*"))
    assert files == sorted(path.name for path in (tmp_path / "many").glob("*.safetensors*"))
    differ = [
        name
        for name in files
        if (out / name).read_bytes() != (tmp_path / "many" / name).read_bytes()
    ]
    assert len(files) > 4
    assert len(differ) == 1
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert differ == [index["model.layers.1.mlp.down_proj.weight"]]
    assert plain(out).model.layers[1].mlp.down_proj.weight[:, 1].abs().max() == 0


@pytest.mark.parametrize("renaming", [("transformer.", ""), ("transformer.h", "h")])
def test_keys_may_lack_the_prefix(
    renaming: tuple[str, str], folder_of: Any, tmp_path: Path
) -> None:
    """As those of the published GPT-2 do."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in folder_of("gpt2").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    renamed = {key.replace(*renaming): each for key, each in weights(folder).items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    neurons = some_of(folder, FAMILIES["gpt2"].sites)
    out = ct.bake(folder, neurons, tmp_path / "out", factor=2.5)
    hf_model = plain(folder_of("gpt2"))
    with neurons.to_hooks(hf_model, 2.5):
        assert distance(logits(plain(out)), logits(hf_model)) < SINGLE


def test_the_text_model_of_a_multimodal_one(folder_of: Any, tmp_path: Path) -> None:
    """The layers of its image model have the same names."""
    folder = folder_of("gemma-3-multimodal")
    out = ct.bake(folder, "L0.attn.hook_q.1", tmp_path / "out")
    (key,) = changed(weights(folder), weights(out))
    assert "language_model" in key
    assert key.endswith("layers.0.self_attn.q_proj.weight")


def test_half_types_round_once(folder_of: Any, tmp_path: Path) -> None:
    plain(folder_of("llama")).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tiny_tokenizer().save_pretrained(tmp_path / "half")
    out = ct.bake(tmp_path / "half", "L0.mlp.hook_post.1", tmp_path / "out", factor=0.3)
    key = "model.layers.0.mlp.down_proj.weight"
    before, after = weights(tmp_path / "half")[key][:, 1], weights(out)[key][:, 1]
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, (before.double() * 0.3).bfloat16())


def test_the_record_says_what_was_baked(folder_of: Any, tmp_path: Path) -> None:
    neurons = NeuronSet.of(["L0.mlp.hook_post.1"], source={"kind": "culture-general"})
    first = ct.bake(folder_of("llama"), neurons, tmp_path / "first", factor=0.5)
    second = ct.bake(first, "L1.attn.hook_v.2", tmp_path / "second")
    content, _ = read_record(second / baking.RECORD, baking.FORMAT)
    assert (content["neurons"], content["factor"]) == ({"attn.hook_v": [[1, 2]]}, 0.0)
    before = content["baked_before"]
    assert (before["neurons"], before["factor"]) == ({"mlp.hook_post": [[0, 1]]}, 0.5)
    assert before["selection"] == {"kind": "culture-general"}
    assert content["source_files"].keys() == before["source_files"].keys() == {"model.safetensors"}
    assert content["source_files"] != before["source_files"]
    text = (second / baking.RECORD).read_text().replace('"factor": 0.0', '"factor": 2.0')
    (second / baking.RECORD).write_text(text)
    with pytest.raises(DamagedFileError):
        read_record(second / baking.RECORD, baking.FORMAT)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "neurons", "sentence"),
    [
        ("mixtral", "L0.mlp.hook_post.1", "mlp.hook_post .* MixtralForCausalLM is not known"),
        ("falcon-7b", "L0.mlp.hook_post.1", "is a FalconLinear, which computes something else"),
        ("llama", "L0.mlp.hook_post.48", "Neuron 48 .* outside this model"),
    ],
)
def test_what_cannot_be_baked_is_refused(
    name: str, neurons: str, sentence: str, folder_of: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        ct.bake(folder_of(name), neurons, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_shared_weights_are_refused(
    folder_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_model = outline(folder_of("llama"))
    layers: Any = hf_model.get_submodule("model.layers")
    layers[1].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
    monkeypatch.setattr(baking, "outline", lambda _: hf_model)
    ct.bake(folder_of("llama"), "L0.mlp.hook_pre.1", tmp_path / "gate")
    with pytest.raises(InvalidInputError, match=r"layers\.0\.mlp\S+ and \S+layers\.1\.mlp.* one"):
        ct.bake(folder_of("llama"), "L0.mlp.hook_post.1", tmp_path / "out")


def edited(folder: Path, copy: Path, **settings: Any) -> Path:
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | settings))
    return copy


def test_quantised_weights_are_refused(folder_of: Any, tmp_path: Path) -> None:
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    folder = edited(folder_of("llama"), tmp_path / "4bit", quantization_config=config)
    with pytest.raises(InvalidInputError, match="are quantised"):
        ct.bake(folder, "L0.mlp.hook_post.1", tmp_path / "out")


def test_a_configuration_of_other_sizes_is_refused(folder_of: Any, tmp_path: Path) -> None:
    folder = edited(folder_of("llama"), tmp_path / "other", intermediate_size=40)
    with pytest.raises(InvalidInputError, match=r"\[32, 48\] in the files and \[32, 40\]"):
        ct.bake(folder, "L0.mlp.hook_post.1", tmp_path / "out")


def test_a_damaged_or_incomplete_folder_is_refused(folder_of: Any, tmp_path: Path) -> None:
    folder = edited(folder_of("llama"), tmp_path / "damaged")
    tensors = weights(folder)
    del tensors["model.layers.0.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"0\.mlp\.down_proj\.weight does not stand once"):
        ct.bake(folder, "L0.mlp.hook_post.1", tmp_path / "out")
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidInputError, match="no safetensors file that can be read"):
        ct.bake(folder, "L0.mlp.hook_post.1", tmp_path / "out")


def test_more_than_a_type_can_hold_is_refused(folder_of: Any, tmp_path: Path) -> None:
    hf_model = plain(folder_of("llama")).half()
    hf_model.model.layers[0].mlp.down_proj.weight[0, 1] = 2.0
    hf_model.save_pretrained(tmp_path / "half")
    for factor, sentence in ((65504.0, r"down_proj\.weight times 65504 is"), (7e4, "factor is")):
        with pytest.raises(InvalidInputError, match=sentence):
            ct.bake(tmp_path / "half", "L0.mlp.hook_post.1", tmp_path / "out", factor=factor)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(folder_of: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="is there already"):
        ct.bake(folder_of("llama"), "L0.mlp.hook_post.1", tmp_path)
    with pytest.raises(MissingFileError, match="some/model is no folder"):
        ct.bake("some/model", "L0.mlp.hook_post.1", tmp_path / "out")


def test_a_failure_leaves_nothing(
    folder_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baking, "save_file", full)
    with pytest.raises(UnwritableError, match="No space left on device"):
        ct.bake(folder_of("llama"), "L0.mlp.hook_post.1", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_source_is_never_written(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ct.bake(folder, "L0.mlp.hook_post.1", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
