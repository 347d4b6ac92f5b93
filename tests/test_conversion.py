"""What becomes a HookedTransformer, what must not, and how its weights lie in memory.

The models are random and made here; ../shared/data is not needed.
"""

import ast
import importlib.metadata
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformer_lens
from families import save
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from reference import PlainTransformers, max_error, norm_error
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from culnig_tl import models
from culnig_tl.errors import InvalidInputError, MissingFileError
from culnig_tl.models import conversion, model_fingerprint
from culnig_tl.sites import site_shape

# peft asks transformers 5 for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOKENS = torch.tensor([[1, 50, 60, 70, 80, 90, 100, 110, 120, 130]])


def load_model(*args: Any, **options: Any) -> Any:
    """Without a type: two backends and a configuration of open fields."""
    return models.load_model(*args, **options)


@pytest.fixture
def saved(tmp_path, make_tokenizer):
    """``saved(family)`` or ``saved(config)``: a folder with a random model."""

    def make(which):
        folder = tmp_path / "model"
        if isinstance(which, str):
            save(which, folder, make_tokenizer())
            return folder
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = LlamaForCausalLM(which)
            for weight in model.parameters():
                torch.nn.init.normal_(weight, std=0.2)
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return folder

    return make


def small_llama(**more) -> LlamaConfig:
    sizes = {"vocab_size": 310, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return LlamaConfig(
        **sizes, num_attention_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=0, **more
    )


# ---------------------------------------------------------------- what cannot be converted


def test_biases_that_a_converter_drops_make_it_a_bridge(saved):
    """TransformerLens says that Llama has no biases; this one has. Only its logits tell."""
    folder = saved(small_llama(attention_bias=True))
    model = load_model(folder)
    assert type(model).__name__ == "TransformerBridge"
    assert "logits would be" in model.cfg.loaded_as
    with pytest.raises(InvalidInputError, match=r"logits would be .* % off.*backend='bridge'"):
        load_model(folder, backend="hooked")


@pytest.mark.parametrize("kind", ["yarn", "dynamic"])
def test_positions_that_cannot_be_converted_make_it_a_bridge(saved, kind):
    """Their effect on a short prompt is too small for logits to tell."""
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    rope["original_max_position_embeddings"] = 512
    folder = saved(small_llama(rope_parameters=rope, max_position_embeddings=2048))
    model = load_model(folder)
    assert type(model).__name__ == "TransformerBridge"
    assert f"rope of type '{kind}' in LlamaForCausalLM" in model.cfg.loaded_as
    with pytest.raises(InvalidInputError, match=f"{kind}.*backend='bridge'"):
        load_model(folder, backend="hooked")


def test_an_architecture_without_a_converter_is_a_bridge_or_refused(saved):
    folder = saved("qwen3-moe")
    model = load_model(folder)
    assert type(model).__name__ == "TransformerBridge"
    assert "Qwen3MoeForCausalLM is not currently supported" in model.cfg.loaded_as
    with pytest.raises(InvalidInputError, match="load it with backend='bridge'"):
        load_model(folder, backend="hooked")


@pytest.mark.parametrize(
    ("family", "forgotten"),
    [("falcon3", "_left_out"), ("gemma-3", "_positions"), ("gemma-2", "_sliding")],
)
def test_whatever_is_forgotten_is_noticed(saved, monkeypatch, family, forgotten):
    """The check compares logits on enough tokens to tell a window or a base from another."""
    monkeypatch.setattr(conversion, forgotten, lambda *args: {})
    assert type(load_model(saved(family))).__name__ == "TransformerBridge"


def test_the_choice_and_its_reason_are_logged_and_kept(saved, caplog):
    folder = saved(small_llama())
    with caplog.at_level("INFO", logger="culnig_tl"):
        loaded = [load_model(folder, backend=backend) for backend in ("auto", "bridge")]
    for model, reason in zip(
        loaded,
        (
            "HookedTransformer, which computes what transformers computes of this LlamaForCausalLM",
            "TransformerBridge, as asked for",
        ),
        strict=True,
    ):
        assert model.cfg.loaded_as.startswith(f"{reason} (checked on 3 short left-padded prompts: ")
        assert model.cfg.loaded_as.endswith(" %, a step with the key/value cache too)")
        assert f"model: {model.cfg.loaded_as}" in caplog.text


# ---------------------------------------------------------------- TransformerLens 4


@pytest.fixture
def four(monkeypatch):
    """TransformerLens without the names that 4.0 removed."""
    for name in ("HookedTransformer", "HookedTransformerConfig", "loading_from_pretrained"):
        monkeypatch.delattr(transformer_lens, name)
        monkeypatch.setitem(sys.modules, f"transformer_lens.{name}", None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.3.0")


@pytest.mark.usefixtures("four")
def test_transformer_lens_4_has_bridges_only(folders, loaded):
    expected = loaded(2, "bridge", "float32")(TOKENS)
    reason = "TransformerLens 4.3.0 has no HookedTransformer; 3.9 has it"
    model = load_model(folders[2])
    assert model.cfg.loaded_as.startswith(
        f"TransformerBridge, since as a HookedTransformer: {reason}"
    )
    assert torch.equal(model(TOKENS), expected)
    with pytest.raises(InvalidInputError, match=rf"{reason}\); load it with backend='bridge'"):
        load_model(folders[2], backend="hooked")
    with pytest.raises(MissingFileError, match=reason):
        load_model("gelu-1l", use_safetensors=False)


def test_what_transformer_lens_4_removed_is_imported_where_it_is_needed():
    """At the head of a module stand only names that both versions have."""
    both = {
        "transformer_lens.model_bridge",
        "transformer_lens.model_bridge.sources._bridge_builder",
        "transformer_lens.supported_models",
    }
    for path in Path(models.__file__).parents[1].rglob("*.py"):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                assert not statement.module.startswith("transformer_lens") or (
                    statement.module in both
                ), path


# ---------------------------------------------------------------- checkpoints of other origins


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_a_merged_lora_checkpoint_is_itself(folders, tmp_path, make_tokenizer, backend):
    base = AutoModelForCausalLM.from_pretrained(folders[2], attn_implementation="eager")
    before = PlainTransformers(folders[2], torch.float32).logits(TOKENS[0].tolist()).detach()
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    tuned: Any = get_peft_model(base, config)
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    make_tokenizer().save_pretrained(tmp_path / "merged")
    found = load_model(tmp_path / "merged", backend=backend)(TOKENS)[0, -1]
    assert norm_error(found, merged(TOKENS).logits[0, -1].detach()) < 1e-5
    assert norm_error(found, before) > 0.01


@pytest.mark.parametrize(
    ("asked", "family", "repository"),
    [
        ("pythia-70m", "pythia", "EleutherAI/pythia-70m"),  # an alias of TransformerLens
        ("google/gemma-2-2b", "gemma-2", "google/gemma-2-2b"),  # of other sizes than this one
        ("tiiuae/Falcon3-10B-Instruct", "falcon3", "tiiuae/Falcon3-10B-Instruct"),  # unknown to it
    ],
)
def test_a_name_on_the_hub_is_read_from_its_checkpoint(
    saved, tmp_path, monkeypatch, asked, family, repository
):
    """Never from TransformerLens's tables by name; here out of a local cache of the hub."""
    snapshot = tmp_path / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / "0"
    shutil.copytree(saved(family), snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = load_model(asked)
    assert type(model).__name__ == "HookedTransformer"
    assert model.cfg.model_name == repository.split("/")[1]
    assert site_shape(model, "mlp.hook_post") == (2, 48)
    assert torch.equal(model(TOKENS), load_model(tmp_path / "model")(TOKENS))


def test_a_name_in_the_format_of_transformer_lens_needs_that_backend():
    with pytest.raises(InvalidInputError, match=r"own format.*backend='hooked'"):
        load_model("gelu-1l", backend="bridge")
    with pytest.raises(MissingFileError, match=r"'NeelNanda/GELU_1L512W_C4_Code' could not be"):
        load_model("gelu-1l", use_safetensors=False)


def test_a_name_in_the_format_of_transformer_lens_is_a_pickle():
    with pytest.raises(InvalidInputError, match=r"are pickles in.*pass use_safetensors=False"):
        load_model("gelu-1l")


# ---------------------------------------------------------------- options


def test_weights_spread_by_a_device_map_make_it_a_bridge(folders):
    model = load_model(folders[2], device_map={"": "cpu"})
    assert type(model).__name__ == "TransformerBridge"
    assert model.cfg.loaded_as.startswith("TransformerBridge, for device_map (checked on")
    expected = load_model(folders[2], backend="bridge")(TOKENS)
    assert max_error(model(TOKENS), expected) < 1e-6


def test_four_bits_are_left_to_transformers(folders):
    """bitsandbytes is no dependency; that it is asked for shows that the option arrives."""
    with pytest.raises(MissingFileError, match="bitsandbytes"):
        load_model(folders[2], quantization_config=BitsAndBytesConfig(load_in_4bit=True))


@pytest.mark.parametrize("option", [{"device_map": "cpu"}, {"quantization_config": None}])
def test_an_option_of_bridges_is_refused_for_hooked(folders, option):
    with pytest.raises(InvalidInputError, match=f"{next(iter(option))}.*backend='bridge'"):
        load_model(folders[2], backend="hooked", **option)


def test_a_device_and_a_device_map_are_one_too_many(folders):
    with pytest.raises(InvalidInputError, match="give one of them"):
        load_model(folders[2], device="cpu", device_map="cpu")


def test_weights_left_on_disk_are_refused(folders, tmp_path):
    spread = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu"}
    spread |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    with pytest.raises(InvalidInputError, match=r"spread over cpu, disk.*device_map"):
        load_model(folders[2], device_map=spread, offload_folder=tmp_path / "offload")


def test_an_option_that_transformers_does_not_know_is_a_sentence(folders):
    with pytest.raises(InvalidInputError, match=r"number_of_wings.*from_pretrained"):
        load_model(folders[2], number_of_wings=2)


def test_a_checkpoint_with_a_weight_missing_is_refused(folders, tmp_path):
    """transformers would draw the missing weight at random."""
    folder = tmp_path / "half"
    shutil.copytree(folders[2], folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingFileError, match=r"incomplete: 1 weights.*layers\.1\.mlp\.up_proj"):
        load_model(folder)


# ---------------------------------------------------------------- how weights lie in memory


@pytest.mark.parametrize("family", ["llama-3.1", "phi-4", "gemma-3", "pythia", "gpt2", "mixtral"])
def test_no_weight_is_copied_in_a_forward_pass(saved, family):
    """Every matrix product of the pass, and so the backward pass, reads a parameter itself."""
    model = load_model(saved(family), backend="hooked")
    owned = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen = []

    class Products(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear:
                seen.append(args[1].untyped_storage().data_ptr() in owned)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Products():
        model(TOKENS)
    assert len(seen) >= 4 * model.cfg.n_layers + 1
    assert all(seen)


@pytest.mark.parametrize("family", ["llama-3.1", "phi-4", "pythia", "gpt2"])
def test_the_layout_changes_no_bit(saved, family):
    model = load_model(saved(family), backend="hooked")
    found, fingerprint = model(TOKENS), model_fingerprint(model)
    for weight in model.parameters():
        weight.data = weight.data.contiguous()  # as TransformerLens keeps them
    assert torch.equal(model(TOKENS), found)
    assert model_fingerprint(model) == fingerprint


def test_a_state_dict_can_be_saved_and_loaded_elsewhere(saved):
    model = load_model(saved("phi-4"), backend="hooked")
    assert isinstance(model, HookedTransformer)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = HookedTransformer(model.cfg, move_to_device=False)
    other.load_state_dict(torch.load(file))
    assert all(weight.is_contiguous() for weight in other.parameters())
    assert torch.equal(other(TOKENS), model(TOKENS))
    other.tokenizer = model.tokenizer  # the fingerprint is of both
    assert model_fingerprint(other) == model_fingerprint(model)


@pytest.mark.parametrize("family", ["llama-3.1", "gemma-3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_converted_too(saved, family, dtype):
    folder = saved(family)
    model, exact = load_model(folder, dtype=dtype), load_model(folder)
    assert type(model).__name__ == "HookedTransformer"
    assert {str(weight.dtype) for weight in model.parameters()} == {f"torch.{dtype}"}
    # eight bits of mantissa, a dozen layers of rounding
    assert 1e-5 < norm_error(model(TOKENS).float(), exact(TOKENS)) < 0.05
