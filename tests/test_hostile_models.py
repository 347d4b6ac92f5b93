"""A model folder from a stranger runs nothing, and one that is damaged is one sentence."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch
from damage import either, typos
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import culnig_tl as ct
from culnig_tl import models
from culnig_tl.errors import CulnigError, InvalidInputError, MissingFileError
from culnig_tl.models import checkpoint
from culnig_tl.models.folder import own_code

TOKENS = torch.tensor([[1, 50, 60, 70, 80, 90]])
MAP = {
    "AutoConfig": "own.Config",
    "AutoModel": "own.LlamaForCausalLM",
    "AutoModelForCausalLM": "own.LlamaForCausalLM",
    "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"],
    "AutoProcessor": "own.Tokenizer",
}
CODE = """
open({!r}, "w").close()
import transformers
from transformers import LlamaConfig, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "own"
class LlamaForCausalLM(transformers.LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
def generate(*args, **options):
    pass
"""


def load_model(*args: Any, **options: Any) -> Any:
    """Without a type: two backends and a configuration of open fields."""
    return models.load_model(*args, **options)


@pytest.fixture
def ran(tmp_path) -> Path:
    """The file that appears where code of a folder is run."""
    return tmp_path / "ran"


@pytest.fixture
def foreign(folders, tmp_path, ran) -> Callable[..., Path]:
    """``foreign(config=, tokenizer=, files=, without=)``: a folder with code that would be run."""

    def make(
        config: Any = None,
        tokenizer: Any = None,
        files: dict[str, Any] | None = None,
        without: tuple[str, ...] = (),
        name: str = "foreign",
    ) -> Path:
        copy = tmp_path / name
        shutil.copytree(folders[2], copy)
        for file, changes in (("config.json", config), ("tokenizer_config.json", tokenizer)):
            before = json.loads((copy / file).read_text())
            (copy / file).write_text(json.dumps({**before, **(changes or {})}))
        for file, content in {"own.py": CODE.format(str(ran)), **(files or {})}.items():
            (copy / file).parent.mkdir(exist_ok=True)
            as_bytes = content if isinstance(content, bytes) else _text(content).encode()
            (copy / file).write_bytes(as_bytes)
        for file in without:
            (copy / file).unlink()
        return copy

    return make


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


class Evil:
    """A pickle of it opens a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


# ---------------------------------------------------------------- code of a folder's own

ASKS_FOR_CODE = {
    "a type of its own": {"config": {"model_type": "own", "auto_map": MAP}},
    "no type": {"config": {"model_type": None, "auto_map": MAP}},
    "of another folder": {
        "config": {"model_type": "own", "auto_map": {"AutoConfig": "a/b--own.C"}}
    },
    "a tokenizer of its own": {"tokenizer": {"auto_map": MAP, "tokenizer_class": "OwnTokenizer"}},
    "the old form": {"tokenizer": {"auto_map": ["own.Tokenizer", None], "tokenizer_class": "Own"}},
}
NEEDS_NONE = {
    "transformers has the class itself": {
        "config": {"auto_map": MAP},
        "tokenizer": {"auto_map": MAP},
    },
    "a processor": {
        "files": {
            "processor_config.json": {"auto_map": MAP, "processor_class": "Own"},
            "preprocessor_config.json": {"auto_map": MAP},
        }
    },
    "generation": {
        "files": {
            "custom_generate/generate.py": CODE.format("generated"),
            "generation_config.json": {"custom_generate": "custom_generate", "max_length": 5},
        }
    },
}


@pytest.mark.parametrize("given", ASKS_FOR_CODE.values(), ids=ASKS_FOR_CODE)
def test_code_of_a_folder_is_refused_by_name(foreign, ran, monkeypatch, given):
    monkeypatch.setattr(sys, "stdin", StringIO("y\n" * 9))
    folder = foreign(**given)
    with pytest.raises(MissingFileError, match=r"code that comes with it \(.*own\.") as refusal:
        load_model(folder)
    assert "runs only with trust_remote_code=True in load_model" in str(refusal.value)
    assert sys.stdin.tell() == 0
    assert not ran.exists()


@pytest.mark.parametrize("given", NEEDS_NONE.values(), ids=NEEDS_NONE)
def test_code_that_is_not_needed_is_not_run(folders, foreign, ran, monkeypatch, given):
    monkeypatch.setattr(sys, "stdin", StringIO("y\n" * 9))
    assert torch.equal(load_model(foreign(**given))(TOKENS), load_model(folders[2])(TOKENS))
    assert not ran.exists()
    assert not Path("generated").exists()


def test_code_runs_if_the_user_asks_for_it_and_nothing_is_read_from_the_keyboard(
    folders, foreign, ran, monkeypatch
):
    """TransformerLens's reader of configurations would ask again."""
    monkeypatch.setattr(sys, "stdin", StringIO("n\n" * 9))
    folder = foreign({"model_type": "own", "auto_map": {**MAP, "AutoTokenizer": None}})
    model = load_model(folder, trust_remote_code=True)
    assert model.cfg.loaded_as.startswith("TransformerBridge, since as a HookedTransformer: The ")
    assert torch.allclose(model(TOKENS), load_model(folders[2])(TOKENS), atol=1e-4)
    assert sys.stdin.tell() == 0
    assert ran.exists()


SCRIPT = """
import sys
from culnig_tl.cli import app
for command in sys.argv[1:]:
    try:
        app(command.split("|"), prog_name="culnig-tl")
    except SystemExit as end:
        print("exit", end.code)
"""


def test_the_command_line_takes_no_yes_from_a_pipe(foreign, tmp_path, ran):
    """Without a choice transformers asks on the keyboard whether to run it, and reads a pipe."""
    for number, contents in enumerate(ASKS_FOR_CODE.values()):
        foreign(**contents, name=f"foreign-{number}")
    foreign(**ASKS_FOR_CODE["a type of its own"], name="NeelNanda")
    (tmp_path / "NeelNanda").rename(tmp_path / "model")
    (tmp_path / "NeelNanda").mkdir()
    (tmp_path / "model").rename(tmp_path / "NeelNanda" / "model")
    names = [f"./foreign-{number}" for number in range(len(ASKS_FOR_CODE))]
    rows = "--cultural|atlas:identify|--control|atlas:identify|--recognition|atlas:identify"
    commands = [f"evaluate|{name}|atlas:test" for name in [*names, "NeelNanda/model"]]
    commands.append(f"score|{names[0]}|atlas:test|--out|scores.safetensors|--trust")
    commands.append(f"run|{names[1]}|{rows}|--benchmark|a=atlas:test|--out|run|--trust")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *commands],
        input="y\n" * 99,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        check=True,
    )
    assert done.stdout.split("\n") == ["exit 2"] * len(commands) + [""]
    assert done.stderr.count("runs only with") == len(commands)
    assert "Traceback" not in done.stderr
    assert not ran.exists()


def test_kernels_of_the_hub_are_refused(foreign):
    for key in ("attn_implementation", "_attn_implementation", "_experts_implementation"):
        folder = foreign({key: "nobody/kernel"}, name=key)
        with pytest.raises(InvalidInputError, match="asks for the code of 'nobody/kernel'"):
            load_model(folder)


def test_a_folder_that_asks_for_no_code_names_none(folders):
    assert own_code(folders[2]) == ""


# ---------------------------------------------------------------- chat templates

ATTACKS = {
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "'__class__' of 'str' object is unsafe",
    "{{ cycler.__init__.__globals__.os.system('x') }}": "'__init__' of 'type' object is unsafe",
    "{{ messages.append(1) }}": "'append' of 'list' object is unsafe",
    "{% include '/etc/passwd' %}": "no loader",
    "{% for i in range(10**9) %}x{% endfor %}": "Range too big",
    "{{ 'a' * 10**13 }}": "MemoryError",
    "{% break %}": "outside loop",
}


@pytest.mark.parametrize("template", ATTACKS)
def test_a_chat_template_reaches_nothing(foreign, template):
    model = load_model(foreign(tokenizer={"chat_template": template}))
    row = {"id": "q", "prompt": "Which drink?", "options": [" A", " B"], "answer": " A"}
    with pytest.raises(InvalidInputError, match="chat template cannot be given") as refusal:
        ct.prepare(model, ct.questions_from_frame(_frame(row)))
    assert ATTACKS[template] in str(refusal.value)


def _frame(row: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([row])


@pytest.mark.parametrize("template", [7, {"default": 7}])
def test_a_chat_template_that_is_no_text_is_a_sentence(foreign, template):
    with pytest.raises(InvalidInputError, match=r"chat template of .* expected a text"):
        load_model(foreign(tokenizer={"chat_template": template}))


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("pytorch_model.bin", "save_pretrained"),
        ("model.pt", "weights_only=True"),
        ("model.ckpt", "weights_only=True"),
        ("consolidated.00.pth", "weights_only=True"),
        ("model.pkl", "weights_only=True"),
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
    ],
)
def test_weights_that_are_no_safetensors_are_refused(foreign, ran, name, remedy):
    folder = foreign(files={name: pickle.dumps(Evil(ran))}, without=("model.safetensors",))
    with pytest.raises(InvalidInputError, match=rf"{name}.*convert them once.*{remedy}"):
        load_model(folder)
    assert not ran.exists()


def test_what_a_pickle_is_converted_by_works(foreign, folders):
    folder = foreign(without=("model.safetensors",))
    torch.save(load_file(folders[2] / "model.safetensors"), folder / "model.pt")
    with pytest.raises(InvalidInputError) as refusal:
        load_model(folder)
    command = str(refusal.value).split("convert them once: ")[1].removesuffix(".")
    eval(command, {"safetensors": safetensors, "torch": torch})
    assert torch.equal(load_model(folder)(TOKENS), load_model(folders[2])(TOKENS))


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", ".metadata", "scheduler.pt", "vocab.pkl"]
)
def test_pickles_beside_the_weights_are_left_alone(foreign, folders, ran, name):
    folder = foreign(files={name: pickle.dumps(Evil(ran))})
    assert torch.equal(load_model(folder)(TOKENS), load_model(folders[2])(TOKENS))
    assert not ran.exists()


def test_a_pickle_under_another_name_is_a_sentence(foreign, ran):
    folder = foreign(files={"model.safetensors": pickle.dumps(Evil(ran))})
    with pytest.raises(MissingFileError, match="header"):
        load_model(folder)
    named = foreign(
        {"transformers_weights": "adapter_model.bin"},
        files={"adapter_model.bin": pickle.dumps(Evil(ran))},
        name="named",
    )
    with pytest.raises(InvalidInputError, match=r"'adapter_model\.bin' as its weights"):
        load_model(named)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("place", "error", "sentence"),
    [
        ("../foreign-2/model.safetensors", InvalidInputError, "safetensors files beside it"),
        ("/etc/model.safetensors", InvalidInputError, "safetensors files beside it"),
        ("..\\model.safetensors", InvalidInputError, "safetensors files beside it"),
        ("model.bin", InvalidInputError, "safetensors files beside it"),
        (7, InvalidInputError, "names '7' as a file"),
        ("absent.safetensors", MissingFileError, r"1 of 1 files of weights are not there"),
    ],
)
def test_an_index_names_files_of_the_folder(foreign, folders, place, error, sentence):
    index = {"metadata": {}, "weight_map": dict.fromkeys(_weights(folders[2]), place)}
    folder = foreign(files={"model.safetensors.index.json": index}, without=("model.safetensors",))
    with pytest.raises(error, match=sentence):
        load_model(folder)


@pytest.mark.parametrize("index", ["{", [1], {}, {"weight_map": 7}, {"weight_map": {}}])
def test_an_index_that_is_none_is_a_sentence(foreign, index):
    folder = foreign(files={"model.safetensors.index.json": index}, without=("model.safetensors",))
    with pytest.raises(InvalidInputError, match=r"has no weight_map|is not JSON"):
        load_model(folder)


def test_weights_in_several_files_are_read(foreign, folders):
    weights = _weights(folders[2])
    folder = foreign(without=("model.safetensors",))
    places = {}
    for number, (name, weight) in enumerate(weights.items()):
        places[name] = f"part-{number}.safetensors"
        save_file({name: weight}, folder / places[name], {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load_model(folder)(TOKENS), load_model(folders[2])(TOKENS))
    (folder / "part-3.safetensors").unlink()
    with pytest.raises(MissingFileError, match=rf"1 of {len(weights)} files .*part-3"):
        load_model(folder)


def test_an_adapter_beside_the_model_is_refused(foreign, ran):
    adapter = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "nobody/nothing"}
    files = {"adapter_config.json": adapter, "adapter_model.bin": pickle.dumps(Evil(ran))}
    with pytest.raises(InvalidInputError, match=r"LoRA adapter.*merge_and_unload"):
        load_model(foreign(files=files))
    assert not ran.exists()


# ---------------------------------------------------------------- weights and configuration


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def with_weights(foreign) -> Callable[..., Path]:
    """``with_weights(more, without)``: a folder with more weights, and without some."""

    def make(more: dict[str, tuple[int, ...]] | None = None, without: tuple[str, ...] = ()) -> Path:
        folder = foreign()
        weights = {name: w for name, w in _weights(folder).items() if name not in without}
        weights |= {name: torch.ones(shape) for name, shape in (more or {}).items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def test_weights_that_are_missing_are_named(with_weights):
    missing = tuple(f"model.layers.1.mlp.{part}_proj.weight" for part in ("down", "gate", "up"))
    folder = with_weights(without=(*missing, "model.norm.weight"))
    with pytest.raises(MissingFileError) as refusal:
        load_model(folder)
    assert f"4 weights are not in its files, e.g. {', '.join(missing)}; save" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.bias", (32,)),
        ("model.layers.2.self_attn.q_norm.weight", (8,)),
        ("layers.1.mlp.router.weight", (8, 32)),
    ],
)
def test_weights_that_the_configuration_leaves_out_are_named(with_weights, name, shape):
    """transformers leaves them out without a word, and what is left answers."""
    with pytest.raises(MissingFileError, match=rf"has 1 weights .*leaves out, e\.g\. {name};"):
        load_model(with_weights({name: shape}))


def test_buffers_and_parts_of_a_larger_model_may_be_in_the_files(with_weights, folders):
    folder = with_weights(
        {
            "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
            "model.layers.0.self_attn.masked_bias": (1,),
            "model.layers.1.mlp.bias": (1, 4, 4),
            "vision_tower.encoder.layers.7.mlp.fc1.weight": (4, 4),
            "score.weight": (2, 32),
        }
    )
    assert torch.equal(load_model(folder)(TOKENS), load_model(folders[2])(TOKENS))


@pytest.mark.parametrize("n_layers", [4, 10**9])
def test_more_layers_than_the_weights_are_a_sentence_before_they_are_built(
    foreign, monkeypatch, n_layers
):
    monkeypatch.setattr(checkpoint.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(MissingFileError, match=rf"of {n_layers} layers and weights of 3;"):
        load_model(foreign({"num_hidden_layers": n_layers}))


@pytest.mark.parametrize("size", [10**6, 10**9, 10**15])
@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size", "head_dim"])
def test_a_size_that_no_weight_has_is_a_sentence_before_memory_is_taken(
    foreign, monkeypatch, field, size
):
    monkeypatch.setattr(checkpoint.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(InvalidInputError, match=f"with {field} .*is larger than 65536"):
        load_model(foreign({field: size, "num_attention_heads": 1, "num_key_value_heads": 1}))


@pytest.mark.parametrize(
    "config", [[1, 2], "null", "7", "[" * 10**5, b"\xff\xfe\x00", '{"model_type": "llama"']
)
def test_a_configuration_that_is_no_object_is_a_sentence(foreign, config):
    with pytest.raises(InvalidInputError, match=r"expected an object|is not JSON"):
        load_model(foreign(files={"config.json": config}))


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize("name", [None, 5, b"x", ["a"], "x" * 5000, "~nobody-of-this-name/model"])
def test_what_is_no_name_is_a_sentence(name):
    with pytest.raises(MissingFileError, match="is no name of a model") as refusal:
        load_model(name)
    assert len(str(refusal.value)) < 500


def test_more_positions_than_any_model_has_are_not_believed(foreign):
    assert load_model(foreign({"max_position_embeddings": 10**9})).cfg.n_ctx == 2048


def test_a_token_without_an_embedding_is_a_sentence_before_the_pass(foreign, folders):
    content = json.loads((folders[2] / "tokenizer.json").read_text())
    drink = next(token for token in content["model"]["vocab"] if token.endswith("drink"))
    content["model"]["vocab"][drink] = 5000
    model = load_model(foreign(files={"tokenizer.json": content}))
    row = {"id": "q", "prompt": "Which drink?", "options": [" A", " B"], "answer": " A"}
    with pytest.raises(InvalidInputError, match=r"5000.*tokenizer"):
        ct.prepare(model, ct.questions_from_frame(_frame(row)))


def test_a_published_pickle_is_read_only_if_asked_for():
    with pytest.raises(InvalidInputError, match="pass use_safetensors=False"):
        load_model("NeelNanda/SoLU_1L512W_C4_Code")


# ---------------------------------------------------------------- any damage

MORE = (
    *("auto_map", "quantization_config", "text_config", "rope_scaling", "layer_types", "dtype"),
    *("sliding_window", "num_local_experts", "tokenizer_class", "chat_template", "is_decoder"),
    *("added_tokens_decoder", "extra_special_tokens", "_attn_implementation", "attribute_map"),
    *(
        "transformers_weights",
        "sub_configs",
        "id2label",
        "init_inputs",
        "pruned_heads",
        "use_cache",
    ),
)
FILES = ("config.json", "tokenizer_config.json", "generation_config.json")


@pytest.fixture(scope="module")
def damaged(folders, tmp_path_factory) -> SimpleNamespace:
    """A folder whose files are exchanged, and what they were."""
    copy = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(folders[2], copy)
    return SimpleNamespace(folder=copy, whole={p.name: p.read_bytes() for p in copy.iterdir()})


def outcome(
    damaged: SimpleNamespace, name: str, content: bytes, load: Callable[[Path], Any]
) -> str:
    """ "" where the folder loads with this file in it, else the sentence; all else is raised."""
    (damaged.folder / name).write_bytes(content)
    sentence = ""
    try:
        load(damaged.folder)
    except CulnigError as error:
        sentence = str(error)
    finally:
        (damaged.folder / name).write_bytes(damaged.whole[name])
    assert "\n" not in sentence
    assert len(sentence) < 700
    return sentence


@pytest.fixture(scope="module")
def without_weights(damaged):
    """``load(folder)``: all that is read and checked before the weights."""
    options = {"trust_remote_code": False}
    hf_model, _ = checkpoint.read("whole", str(damaged.folder), torch.float32, options)
    report = {"missing_keys": [], "unexpected_keys": []}

    def from_pretrained(*args: Any, **options: Any) -> Any:
        return hf_model, report

    def load(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint.AutoModelForCausalLM, "from_pretrained", from_pretrained)
            source, options = checkpoint.locate(folder, {})
            checkpoint.read(folder, source, torch.float32, options)

    return load


@settings(max_examples=100)
@given(random=st.randoms(use_true_random=True))
def test_any_damage_to_a_configuration_is_a_sentence_or_none(damaged, without_weights, random):
    for number in range(20):
        name = FILES[number % 2]
        outcome(damaged, name, either(random, damaged.whole[name], more=MORE), without_weights)


@settings(max_examples=60)
@given(random=st.randoms(use_true_random=True))
def test_any_damage_to_a_folder_is_a_sentence_or_a_model_that_answers(damaged, random):
    name = random.choice([*FILES, "tokenizer.json", "model.safetensors"])
    content = damaged.whole[name]
    if name == "model.safetensors":
        damage = typos(random, content[:3000]) + content[3000:]
    else:
        damage = either(random, content, more=MORE)

    def answers(folder: Path) -> None:
        model = load_model(folder)
        assert model(TOKENS).isfinite().all()
        model.tokenizer("Which drink?")

    outcome(damaged, name, damage, answers)
