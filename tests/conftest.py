"""Tiny random models with their tokenizer, and a handful of questions of unequal length.

Importing this module also has beartype check every shape that the package's signatures promise.
"""

import gc
import os
import signal
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

install_import_hook("culnig_tl", "beartype.beartype")

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_files import SHARED
from datasets import Dataset
from families import save
from hypothesis import settings
from jupyter_session import JupyterLab, jupyter_lab
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from culnig_tl.models import load_model
from culnig_tl.questions import questions

# No deadline: the machine may be busy. The same examples every time, and no database in the tree.
settings.register_profile("tests", max_examples=50, deadline=None, derandomize=True, database=None)
settings.load_profile("tests")
torch.set_num_threads(1)  # the tensors are tiny: a second thread only waits for the first

LABELS = [" A", " B", " C"]
ROWS = [
    # In order of rows the cultures are B, A, C; in order of length, longest first, C, A, B.
    {"id": "q1", "culture": "B", "answer": " A", "prompt": "Which drink?", "topic": "food"},
    {"id": "q2", "culture": "A", "answer": " B", "prompt": "Which drink? Answer:"},
    {"id": "q1", "culture": "A", "answer": " C", "prompt": "Which drink? tea rice Answer:"},
    {"id": "q3", "culture": "C", "answer": " B", "prompt": "bread soup tea rice drink? Answer:"},
    {"id": "q2", "culture": "A", "answer": " A", "prompt": "Drink? tea", "template": "short"},
    {"id": "q4", "culture": "B", "answer": " C", "prompt": "A", "benchmark": "tiny"},
]


def tiny_tokenizer(*, writes_bos: bool = True, chat_template: str | None = None) -> Any:
    """A byte-level BPE with a few words; every label is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "Which drink? tea rice bread soup Answer: A B C tea rice bread soup A B C"
    tokenizer.train_from_iterator([words] * 5, trainer)
    if writes_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if chat_template is not None:
        fast.chat_template = chat_template
    return fast


def save_tiny_llama(
    folder: Path,
    *,
    key_value_heads: int = 2,
    tokenizer: Any = None,
    initializer_range: float = 0.3,
) -> Path:
    """A random Llama whose weights are large enough for its answers to differ."""
    tokenizer = tokenizer or tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=64,
        initializer_range=initializer_range,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(key_value_heads)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say so where the benchmarks' own files were not there to be tested with."""
    if not SHARED.is_dir():
        terminalreporter.write_line(
            f"{SHARED} is not there: benchmarks were tested on the small files of benchmark_files "
            "alone, which have the same columns."
        )


def pytest_collection_finish() -> None:
    """Leave the libraries to themselves when memory is looked through, which takes seconds."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Have SIGINT arrive, although a shell's background job, and all that it starts, ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Model folders by number of key-value heads: 2 is grouped-query attention, 4 is not."""
    root = tmp_path_factory.mktemp("models")
    return {n: save_tiny_llama(root / f"kv{n}", key_value_heads=n) for n in (2, 4)}


@pytest.fixture(scope="session")
def loaded(folders: dict[int, Path]) -> Callable[..., Any]:
    """``loaded(key_value_heads, backend, dtype)``: a model, made once. Leave it as you found it."""

    @cache
    def load(key_value_heads: int = 2, backend: Any = "hooked", dtype: Any = "float64") -> Any:
        return load_model(folders[key_value_heads], backend=backend, dtype=dtype, device="cpu")

    return load


@pytest.fixture
def model(loaded: Callable[..., Any]) -> Any:
    """The grouped-query model as a HookedTransformer in float64."""
    return loaded()


@pytest.fixture
def passes(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the forward passes of the model."""
    calls: list[int] = []
    forward = type(model).forward

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(1)
        return forward(self, *args, **options)

    monkeypatch.setattr(type(model), "forward", counted)
    return calls


@pytest.fixture(params=[("hooked", "float64"), ("bridge", "float32")], ids=["hooked", "bridge"])
def either(request: pytest.FixtureRequest, loaded: Callable[..., Any]) -> Any:
    """The grouped-query model on both backends; a bridge has no float64."""
    return loaded(2, *request.param)


@pytest.fixture(scope="session")
def rows() -> Dataset:
    """Six prompts of four questions and three cultures."""
    return questions([{**row, "options": LABELS} for row in ROWS])


@pytest.fixture(scope="session")
def n_hooks() -> Callable[[Any], int]:
    """``n_hooks(model)``: hooks of any kind on any hook point."""

    def count(model: Any) -> int:
        points = {id(point): point for point in model.hook_dict.values()}.values()
        return sum(
            len(point.fwd_hooks)
            + len(point.bwd_hooks)
            + len(point._forward_hooks)
            + len(point._backward_hooks)
            for point in points
        )

    return count


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Path]:
    """``make_llama(folder, key_value_heads=, tokenizer=, initializer_range=)`` writes a model."""
    return save_tiny_llama


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """``make_tokenizer(writes_bos=, chat_template=)``: a tiny tokenizer."""
    return tiny_tokenizer


@pytest.fixture
def run_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """``run_benchmark(script, *options)``: what a benchmark prints, in this process."""

    def printed(script: str, *options: object) -> str:
        monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        import_module(script.removesuffix(".py")).main()
        return capsys.readouterr().out

    return printed


@pytest.fixture
def as_for_a_user() -> Iterator[None]:
    """Without beartype, as a user calls the package: its own checks are all there is."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """A running JupyterLab; see ``jupyter_session``."""
    with jupyter_lab(tmp_path_factory.mktemp("jupyterlab")) as lab:
        yield lab


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small random model of a family (see ``families``), written once."""
    root = tmp_path_factory.mktemp("families")

    @cache
    def written(family: str) -> Path:
        save(family, root / family, tiny_tokenizer())
        return root / family

    return written
