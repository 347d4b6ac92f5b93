"""A checkpoint that cannot be used is one sentence, whatever is wrong with it; none runs code.

Checkpoints of models, and those of a scoring run, which can be made again.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import torch
from conftest import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import culnig_tl as ct
from culnig_tl import models
from culnig_tl.attribution.long_run import LongRun
from culnig_tl.errors import CulnigError, InvalidInputError, MissingFileError
from culnig_tl.files import Format, read_tensors, write_tensors
from culnig_tl.models import checkpoint, model_fingerprint

TOKENS = torch.tensor([[1, 50, 60, 70, 80, 90]])


def load_model(*args: Any, **options: Any) -> Any:
    """Without a type: two backends and a configuration of open fields."""
    return models.load_model(*args, **options)


@pytest.fixture
def changed(folders, tmp_path):
    """``changed(config={...}, files={...})``: a copy of a model folder with other contents."""

    def make(config=None, files=None) -> Path:
        copy = tmp_path / "changed"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folders[2], copy)
        before = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**before, **(config or {})}))
        for name, content in (files or {}).items():
            (copy / name).write_text(content)
        return copy

    return make


# ---------------------------------------------------------------- configurations


NUMBERS = [0, -1, 1, 2, 3, 7, 10**9, 1e-30, float("nan"), float("inf")]
OTHERS = ["", "x", None, True, [], {}, [1, 2]]
FIELDS = [
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "pad_token_id",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "vocab_size",
]


@pytest.fixture(scope="module")
def damaged(folders, tmp_path_factory):
    """The same for many examples of one property: only config.json changes."""
    copy = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(folders[2], copy)
    before = json.loads((copy / "config.json").read_text())

    def write(**changes) -> Path:
        (copy / "config.json").write_text(json.dumps({**before, **changes}))
        return copy

    return write


@settings(max_examples=60)
@given(field=st.sampled_from(FIELDS), value=st.sampled_from(NUMBERS + OTHERS))
def test_any_value_of_a_configuration_makes_a_model_or_a_sentence(damaged, field, value):
    sentence = ""
    try:
        assert load_model(damaged(**{field: value}))(TOKENS).isfinite().all()
    except CulnigError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert len(sentence) < 600


def test_other_sizes_than_those_of_the_weights_are_a_sentence(changed):
    with pytest.raises(MissingFileError, match="weights have other shapes than its config"):
        load_model(changed(config={"intermediate_size": 7}))


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_fewer_layers_than_the_weights_are_a_sentence(changed, n_layers):
    """transformers would leave the others out, and what is left answers."""
    with pytest.raises(MissingFileError, match=f"config.json of {n_layers} layers and weights of"):
        load_model(changed(config={"num_hidden_layers": n_layers}))


@pytest.mark.parametrize("eps", [-1.0, float("nan")])
def test_logits_that_are_not_finite_are_a_sentence(changed, eps):
    with pytest.raises(
        InvalidInputError, match=r"own logits are not finite in float32.*trust=True"
    ):
        load_model(changed(config={"rms_norm_eps": eps}))


def test_logits_that_are_all_the_same_are_a_sentence(changed):
    with pytest.raises(InvalidInputError, match="own logits are the same for every token"):
        load_model(changed(config={"rms_norm_eps": float("inf")}))


def test_an_encoder_and_decoder_is_a_sentence(changed):
    with pytest.raises(MissingFileError, match="not one of a decoder-only language model"):
        load_model(changed(config={"model_type": "t5", "architectures": ["T5Model"]}))


def test_a_generation_config_may_name_any_ends(changed):
    for ends, expected in ((7, [2, 7]), ([7, 9], [2, 7, 9]), ("x", [2]), ([], [2]), (None, [2])):
        config = {"generation_config.json": json.dumps({"eos_token_id": ends})}
        assert load_model(changed(files=config)).cfg.end_tokens == expected


# ---------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"model": {}}'])
def test_a_tokenizer_file_without_a_tokenizer_is_a_sentence(changed, content):
    with pytest.raises(MissingFileError, match="could not be loaded"):
        load_model(changed(files={"tokenizer.json": content}))


def test_a_tokenizer_without_tokens_is_a_sentence(folders, changed):
    tokenizer = json.loads((folders[2] / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {}, "merges": []}
    with pytest.raises(MissingFileError, match="has no tokens"):
        load_model(changed(files={"tokenizer.json": json.dumps(tokenizer)}))


# ---------------------------------------------------------------- code and pickles


@pytest.fixture
def pickled(folders, changed):
    folder = changed()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickles_are_refused_with_how_to_convert_them(pickled):
    with pytest.raises(InvalidInputError, match=r"pytorch_model\.bin.*save_pretrained") as refusal:
        load_model(pickled)
    eval(str(refusal.value).split("once: ")[1].split("; or")[0])  # what it says works
    assert (pickled / "model.safetensors").is_file()
    assert model_fingerprint(load_model(pickled))


def test_pickles_are_read_if_asked_for(folders, pickled):
    assert torch.equal(
        load_model(pickled, use_safetensors=False)(TOKENS), load_model(folders[2])(TOKENS)
    )


def test_code_of_a_checkpoint_is_not_run(changed, tmp_path):
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()"
    places = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    folder = changed({"model_type": "own", "auto_map": places}, {"own.py": code})
    with pytest.raises(MissingFileError, match="only with trust_remote_code=True"):
        load_model(folder)
    assert not ran.exists()
    with pytest.raises(MissingFileError):  # the code defines no model
        load_model(folder, trust_remote_code=True)
    assert ran.exists()


# ---------------------------------------------------------------- the hub


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, caplog):
    """transformers asks six times for each of several files, and says so in 40 lines."""
    requests = []

    class Broken:
        def head(self, address, **options):
            requests.append(address)
            raise OSError("Name or service not known")

    monkeypatch.setattr(checkpoint.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(checkpoint, "get_session", Broken)
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(MissingFileError, match=r"cannot be reached and the local cache does not"),
    ):
        load_model("nobody/nothing-7b")
    assert requests == [checkpoint.constants.ENDPOINT]
    assert "Retrying" not in caplog.text


# ---------------------------------------------------------------- devices and options


@pytest.mark.parametrize("device", ["tpu", "", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_a_sentence(folders, device):
    with pytest.raises(InvalidInputError, match=f"device is '{device}', which cannot be used here"):
        load_model(folders[2], device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_a_sentence(folders):
    with pytest.raises(InvalidInputError, match=r"device is 'cuda'.*take 'cpu'"):
        load_model(folders[2], device="cuda")


def test_the_old_name_of_dtype_is_a_sentence(folders):
    with pytest.raises(InvalidInputError, match="torch_dtype is dtype here"):
        load_model(folders[2], torch_dtype="float16")


# ---------------------------------------------------------------- 4 bits


class Packing(torch.nn.Linear):
    """bitsandbytes' 4-bit layer on a CPU with AVX-512 BF16: its first pass without gradients puts
    the weights into the order of a kernel that has no backward pass, and there they stay."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = linear.weight
        self.support_avx512bf16_for_cpu, self.is_packed = True, False

    def forward(self, input):  # noqa: A002
        self.is_packed |= self.support_avx512bf16_for_cpu and not input.requires_grad
        output = super().forward(input)
        return output.detach() if self.is_packed else output


def test_layers_that_pack_their_weights_can_be_scored_after_answers(folders, rows, monkeypatch):
    plain = load_model(folders[2], backend="bridge")
    expected = ct.attribute(plain, rows, progress=False)
    loading = checkpoint.AutoModelForCausalLM.from_pretrained

    def in_four_bits(*args, **options):
        hf_model, report = cast("Any", loading(*args, **options))
        for block in hf_model.model.layers:
            for part in (block.self_attn, block.mlp):
                for name, layer in list(part.named_children()):
                    if isinstance(layer, torch.nn.Linear):
                        setattr(part, name, Packing(layer))
        return hf_model, report

    monkeypatch.setattr(checkpoint.AutoModelForCausalLM, "from_pretrained", in_four_bits)
    model = load_model(folders[2], backend="bridge")
    answers = ct.evaluate(model, rows)
    scores = ct.attribute(model, rows, progress=False)
    assert all(torch.equal(scores.total(site), expected.total(site)) for site in expected.sites)
    pd.testing.assert_frame_equal(answers, ct.evaluate(plain, rows))


# ---------------------------------------------------------------- GGUF


def test_a_gguf_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(MissingFileError, match=r"no file .*model\.gguf"):
        load_model(tmp_path / "model.gguf")


def test_without_the_package_a_gguf_file_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    def refuse(*args, **options):
        raise ImportError("Please install torch and gguf>=0.10.0 to load a GGUF checkpoint")

    monkeypatch.setattr(checkpoint.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(InvalidInputError, match=r"pip install 'culnig-tl\[gguf\]'"):
        load_model(tmp_path / "model.gguf")


def test_a_gguf_file_is_the_model_it_was_made_of(folders, tmp_path):
    pytest.importorskip("gguf")
    write_gguf(folders[2], tmp_path / "tiny.gguf")
    expected = load_model(folders[2])
    for model in (
        load_model(tmp_path / "tiny.gguf"),
        load_model(tmp_path, gguf_file="tiny.gguf"),
        load_model(str(tmp_path / "tiny.gguf"), backend="bridge"),
    ):
        assert model.cfg.model_name == "tiny"
        assert model.cfg.n_ctx == 64
        assert torch.allclose(model(TOKENS), expected(TOKENS), atol=1e-4)
        text = "Which drink? tea"
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == expected.tokenizer(text, add_special_tokens=False)["input_ids"]


_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(folder: Path, out: Path) -> None:
    """As llama.cpp's converter writes a Llama: other names, and rotary pairs side by side."""
    from gguf import GGUFWriter  # pyright: ignore[reportMissingImports]

    config = AutoModelForCausalLM.from_pretrained(folder).config
    writer = GGUFWriter(out, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = tiny_tokenizer().get_vocab()
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    writer.add_token_types([3 if token < 3 else 1 for token in range(len(vocabulary))])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, weight in load_file(folder / "model.safetensors").items():
        *place, part = name.removeprefix("model.").removesuffix(".weight").split(".", 2)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if n_heads := heads.get(part.rpartition(".")[2]):
            paired = weight.view(n_heads, 2, -1, weight.shape[1]).transpose(1, 2)
        else:
            paired = weight
        prefix = f"blk.{place[1]}." if place else ""
        tensor = paired.reshape(weight.shape).contiguous().numpy()
        writer.add_tensor(f"{prefix}{_GGUF_NAMES[part]}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---------------------------------------------------------------- checkpoints of a scoring run


class StoppedError(Exception):
    """What ends a run halfway."""


@pytest.fixture
def halfway(folders, rows, tmp_path, monkeypatch):
    """Model and file of a run that was stopped after some of its questions."""
    model, path = load_model(folders[2]), tmp_path / "run.checkpoint"
    with monkeypatch.context() as patched:
        add, n_added = LongRun.add, []

        def stop_at_the_third(run, piece, scored):
            n_added.append(len(piece))
            if len(n_added) == 3:
                raise StoppedError
            add(run, piece, scored)

        patched.setattr(LongRun, "add", stop_at_the_third)
        with pytest.raises(StoppedError):
            ct.attribute(model, rows, checkpoint=path, token_budget=16, progress=False)
    return model, path


def scored(model, rows, path, **options):
    return ct.attribute(
        model, rows, checkpoint=path, token_budget=16, progress=False, **options
    ).values


def equal(one, other) -> bool:
    return all(torch.equal(one[site], other[site]) for site in other)


def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_anew(halfway, rows):
    model, path = halfway
    expected = ct.attribute(model, rows, token_budget=16, progress=False).values
    whole = path.read_bytes()
    for damaged in (
        whole[:-5] + bytes([whole[-5] ^ 16]) + whole[-4:],
        whole.replace(b"n_done", b"n_dune"),
        whole[: len(whole) // 2],
        b"",
    ):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"is damaged and is kept as run\.checkpoint\.damaged"):
            assert equal(scored(model, rows, path), expected)
        aside = path.with_name("run.checkpoint.damaged")
        assert (aside.read_bytes(), path.exists()) == (damaged, False)
    path.write_bytes(whole)
    assert equal(scored(model, rows, path), expected)


def test_a_checkpoint_of_another_model_or_of_other_settings_is_refused(halfway, folders, rows):
    model, path = halfway
    whole = path.read_bytes()
    for other, options, named in (
        (load_model(folders[4]), {}, "model"),
        (model, {"clamp": True}, "clamp"),
        (model, {"sites": ["mlp.hook_post"]}, "sites"),
    ):
        with pytest.raises(InvalidInputError, match=rf"with other settings \({named}\); give"):
            scored(other, rows, path, **options)
    model.cfg.eps = 1e-3
    with pytest.raises(InvalidInputError, match=r"other settings \(model\)"):
        scored(model, rows, path)
    assert path.read_bytes() == whole


def test_a_file_that_is_no_checkpoint_stays_as_it_is(halfway, rows, tmp_path):
    model, path = halfway
    scores = tmp_path / "scores.safetensors"
    ct.attribute(model, rows, progress=False).save(scores)
    for content in (b"my notes", b'{"format": "mine"}', scores.read_bytes(), bytes([7]) * 999):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match=r"is no checkpoint; give another path, or del"):
            scored(model, rows, path)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sites": ...}, "whose sites is missing"),
        ({"n_done": "4"}, "whose n_done is '4'"),
        ({"n_done": -4}, "n_done is -4"),
        ({"token_budget": 0}, "token_budget is 0"),
        ({"dtype": "nn"}, "do not fit together"),
        ({"cultures": [1, 2, 3]}, "do not fit together"),
        ({"cultures": ["B"]}, "do not fit together"),
        ({"n_prompts": [1, 1, -1]}, "n_prompts is -1"),
        ({"ids": [["q1"]]}, "cannot be used"),
        ({"sites": []}, "do not fit together"),
        ({"sites": ["mlp.hook_x"]}, "cannot be used"),
        ({"settings": None}, "whose settings is None"),
        ({"more": 1}, "with a field 'more'"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(halfway, rows, change, sentence):
    model, path = halfway
    form = Format("culnig_tl.checkpoint", 1, noun="checkpoint", writer="attribute")
    tensors, header = read_tensors(path, form)
    tensors = {name: values.clone() for name, values in tensors.items()}
    header = {name: value for name, value in (header | change).items() if value is not ...}
    write_tensors(path, form, tensors, header)
    with pytest.raises(InvalidInputError, match=sentence) as refusal:
        scored(model, rows, path)
    assert ("more" in change) != ("give another path, or delete it" in str(refusal.value))
