"""A loaded model is the one in the folder, frozen and hooked; or a sentence says why not."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from reference import NaiveLlama, PlainTransformers, max_error

from culnig_tl.atlas import rows as atlas
from culnig_tl.errors import CulnigError, InvalidInputError, MissingFileError
from culnig_tl.logits import last_logits
from culnig_tl.models import load_model
from culnig_tl.questions import batches, questions

IDS = [1, 50, 60, 70, 80, 90]


@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_logits_are_those_of_the_folder_on_both_backends(folders, loaded, key_value_heads):
    tokens = torch.tensor([IDS])
    folder = folders[key_value_heads]
    with torch.no_grad():
        naive = NaiveLlama(folder).logits(IDS)
        plain = PlainTransformers(folder, torch.float32).logits(IDS)
        exact = loaded(key_value_heads, "hooked", "float64")(tokens)[0, -1]
        hooked = loaded(key_value_heads, "hooked", "float32")(tokens)[0, -1]
        bridge = loaded(key_value_heads, "bridge", "float32")(tokens)[0, -1]
    assert (exact.dtype, hooked.dtype) == (torch.float64, torch.float32)
    assert max_error(exact, naive) < 1e-9
    # the rounding of float32, in two orders of summing
    assert max_error(hooked, naive) < 1e-4
    assert max_error(hooked, bridge) < 1e-4
    # the same modules in the same order
    assert max_error(bridge, plain) < 1e-6


def test_a_bridge_in_float64_is_refused_in_a_sentence(folders):
    """transformers rounds attention to float32, where the padding mask of float64 is infinite."""
    with pytest.raises(InvalidInputError, match=r"float64.*take dtype='float32'"):
        load_model(folders[2], backend="bridge", dtype="float64")


def test_a_model_is_frozen_and_in_evaluation_mode(loaded):
    for backend in ("hooked", "bridge"):
        model = loaded(2, backend, "float32")
        assert not model.training
        assert not any(module.training for module in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())
        assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_weights_are_raw(folders, loaded):
    """Nothing folded, nothing centred: the hooks see the activations of the published model."""
    weights = NaiveLlama(folders[2]).weights
    model = loaded(2, "hooked", "float64")
    assert torch.equal(model.blocks[0].mlp.W_gate, weights["model.layers.0.mlp.gate_proj.weight"].T)
    assert torch.equal(model.blocks[1].ln1.w, weights["model.layers.1.input_layernorm.weight"])
    assert torch.equal(model.W_E, weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("name", ["my-llama-3", "gemma-2b-it", "llama/gemma", "Qwen3", "mistral"])
def test_a_folder_may_have_any_name(folders, loaded, tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(folders[2], folder)
    found = load_model(folder, backend="hooked")
    expected = loaded(2, "hooked", "float32")
    assert torch.equal(found(torch.tensor([IDS])), expected(torch.tensor([IDS])))


def test_auto_takes_hooked_where_it_can_and_says_so(folders, caplog):
    with caplog.at_level("INFO", logger="culnig_tl"):
        model = load_model(folders[2])
    assert type(model).__name__ == "HookedTransformer"
    assert "HookedTransformer" in caplog.text


# ---------------------------------------------------------------- what cannot be loaded


def test_an_unknown_name_is_a_sentence():
    with pytest.raises(MissingFileError, match=r"'nobody/nothing-7b' could not be loaded.*'atlas'"):
        load_model("nobody/nothing-7b")


@pytest.mark.parametrize("name", ["no such model!", "a/b/c/d", "", " "])
def test_an_impossible_name_is_a_sentence(name):
    with pytest.raises(MissingFileError):
        load_model(name)


def test_a_folder_that_is_no_model_is_a_sentence(tmp_path):
    for given in (tmp_path, str(tmp_path), tmp_path / "absent", "./absent", "~/absent-folder"):
        with pytest.raises(MissingFileError, match=r"no model folder.*config\.json"):
            load_model(given)


def without(folder: Path, tmp_path: Path, *names: str) -> Path:
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    for name in names:
        (copy / name).unlink()
    return copy


def test_a_folder_without_weights_is_a_sentence(folders, tmp_path):
    with pytest.raises(MissingFileError, match="There are no weights in"):
        load_model(without(folders[2], tmp_path, "model.safetensors"))


def test_a_folder_without_a_tokenizer_is_a_sentence(folders, tmp_path):
    folder = without(folders[2], tmp_path, "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(MissingFileError, match="could not be loaded"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", ["", "{", "hello"])
def test_a_folder_with_a_broken_file_is_a_sentence(folders, tmp_path, name, content):
    folder = without(folders[2], tmp_path, name)
    (folder / name).write_text(content)
    with pytest.raises(CulnigError, match=r"could not be loaded|is not JSON"):
        load_model(folder)


def test_weights_cut_short_are_a_sentence(folders, tmp_path):
    folder = without(folders[2], tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MissingFileError, match="could not be loaded"):
        load_model(folder)


def test_an_unknown_architecture_is_a_sentence(folders, tmp_path):
    folder = without(folders[2], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "martian", "architectures": ["MartianForCausalLM"]})
    )
    with pytest.raises((MissingFileError, InvalidInputError)):
        load_model(folder)


def test_a_folder_that_may_not_be_read_is_a_sentence(folders, monkeypatch):
    """Root may read everything, so the refusal of the system is played."""
    stat = os.stat

    def refuse(path, *args, **options):
        if str(path).startswith(str(folders[2])):
            raise PermissionError(13, "Permission denied")
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(MissingFileError):
        load_model(folders[2])


@pytest.mark.parametrize("choice", [{"backend": "hook"}, {"dtype": "int8"}])
@pytest.mark.usefixtures("as_for_a_user")
def test_an_unknown_choice_is_a_sentence(folders, choice):
    ((name, value),) = choice.items()
    with pytest.raises(InvalidInputError, match=f"{name}.*{value}"):
        load_model(folders[2], **choice)


# ---------------------------------------------------------------- the embedded model


def test_the_embedded_model_is_the_same_on_both_backends():
    rows = questions(atlas.cultural("test")[::48])
    hooked, bridge = (load_model("atlas", backend=backend) for backend in ("hooked", "bridge"))
    (batch,) = batches(hooked, rows)
    found = [last_logits(model, batch.tokens, batch.mask) for model in (hooked, bridge)]
    assert max_error(*found) < 1e-4
    assert hooked.cfg.model_name == bridge.cfg.model_name == "atlas"
