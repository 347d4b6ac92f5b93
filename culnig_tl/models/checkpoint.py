"""From a name to the transformers model of its checkpoint, read whole, with its tokenizer.

Nothing of a checkpoint is executed: code that comes with it and weights that are pickles are
refused unless the user asks for them in transformers' words (``trust_remote_code=True``,
``use_safetensors=False``). A hub that cannot be reached is asked once, not again for every file.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.utils import get_session
from transformer_lens.supported_models import MODEL_ALIASES
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from culnig_tl.atlas import EMBEDDED
from culnig_tl.errors import InvalidInputError, MissingFileError

_ALSO_FOR_THE_TOKENIZER = (
    "revision",
    "token",
    "cache_dir",
    "subfolder",
    "trust_remote_code",
    "local_files_only",
    "gguf_file",
)
_PICKLES = ("*.bin", "*.pt", "*.pth")
_PACKS = "support_avx512bf16_for_cpu"  # of bitsandbytes' Linear4bit


def locate(name: str | Path, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What transformers is asked for, and with which options; folders are checked before.

    Raises:
        MissingFileError: no such folder or file, or a folder that cannot be read.
        InvalidInputError: weights that are pickles.
    """
    if name in EMBEDDED:
        return str(EMBEDDED[str(name)]), dict(options)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and "gguf_file" not in options:
        if not _is_readable(path):
            raise MissingFileError(f"There is no file {path} that can be read.")
        return str(path.parent), {**options, "gguf_file": path.name}
    if not (isinstance(name, Path) or path.is_dir() or name.startswith((".", "/", "~"))):
        return _ALIASES.get(str(name).lower(), str(name)), dict(options)
    if "gguf_file" not in options:
        _check_folder(path, options)
    return str(path), dict(options)


def read(
    name: str | Path, source: str, dtype: torch.dtype, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, Any]:
    """The transformers model, frozen, every weight out of the checkpoint, and its tokenizer.

    Raises:
        MissingFileError: a checkpoint that cannot be found, or read, or is incomplete.
        InvalidInputError: an option that transformers does not know, or weights that are pickles.
    """
    every: dict[str, Any] = {"trust_remote_code": False, "attn_implementation": "eager"}
    if "gguf_file" not in options:
        every["use_safetensors"] = True
    if not Path(source).is_dir() and not hub_answers():
        every["local_files_only"] = True
    every |= options
    shared = {key: every[key] for key in _ALSO_FOR_THE_TOKENIZER if key in every}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, **every, output_loading_info=True
        )
    except Exception as error:  # a config may have any value, and the code that reads it any fault
        raise _refusal(str(name), options, error) from error
    hf_model, report = loaded
    _check_complete(str(name), hf_model, report)
    if not tokenizer("A question?", add_special_tokens=False)["input_ids"]:
        raise MissingFileError(
            f"The tokenizer of {str(name)!r} has no tokens: it makes nothing of a text; save or "
            "download its tokenizer files again."
        )
    _keep_differentiable(hf_model)
    return hf_model.eval().requires_grad_(False), tokenizer


def hub_answers() -> bool:
    """Whether the hub can be asked; a single request, which is not repeated."""
    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # of whichever client serves this version of the hub's library
        return False
    return True


def one_line(error: Exception) -> str:
    """What another library reason, in one line that a sentence can hold."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    text = f"unknown value {text}" if isinstance(error, KeyError) else text
    return text if len(text) <= 200 else f"{text[:200]}..."


_ALIASES = {
    alias.lower(): official for official, aliases in MODEL_ALIASES.items() for alias in aliases
}


def _is_readable(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.R_OK)
    except PermissionError:
        return False


def _check_folder(folder: Path, options: Mapping[str, Any]) -> None:
    if not _is_readable(folder / "config.json"):
        raise MissingFileError(
            f"{folder} is no model folder: it has no config.json that can be read; give a folder "
            "that save_pretrained wrote, with config.json, weights and tokenizer (a LoRA adapter "
            "is merged into its model first), or a .gguf file."
        )
    pickles = [path.name for pattern in _PICKLES for path in folder.glob(pattern)]
    if pickles and not any(folder.glob("*.safetensors")) and options.get("use_safetensors", True):
        raise InvalidInputError(
            f"The weights in {folder} are pickles ({sorted(pickles)[0]}), which can run code when "
            "they are read. If you trust them, convert them once: "
            f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, use_safetensors=False)"
            f".save_pretrained({str(folder)!r}); or pass use_safetensors=False here."
        )


def _refusal(name: str, options: Mapping[str, Any], error: Exception) -> Exception:
    """The sentence for what transformers raised."""
    reason = one_line(error)
    if isinstance(error, TypeError) and "unexpected keyword" in reason:
        return InvalidInputError(
            f"{name!r} cannot be loaded with {', '.join(options)} ({reason}); give options that "
            "transformers' from_pretrained takes."
        )
    if "gguf_file" in options and isinstance(error, ImportError):
        return InvalidInputError(
            f"{name!r} is a GGUF file, which the package gguf reads; install it by "
            "pip install 'culnig-tl[gguf]'."
        )
    if "trust_remote_code" in str(error):
        reason = "it needs code that comes with it, which runs only with trust_remote_code=True"
    elif "ignore_mismatched_sizes" in reason:
        reason = "its weights have other shapes than its config.json says"
    elif "Unrecognized configuration class" in reason:
        reason = "its configuration is not one of a decoder-only language model"
    elif reason.startswith("We couldn't connect"):
        reason = f"{constants.ENDPOINT} cannot be reached and the local cache does not have it"
    elif "model.safetensors" in reason:
        reason += "; weights that are pickles are read with use_safetensors=False"
    return MissingFileError(
        f"{name!r} could not be loaded ({reason}); give 'atlas', 'smollm2', a folder with "
        "config.json, weights and tokenizer, a .gguf file, or the name of a model on the hub."
    )


def _keep_differentiable(hf_model: PreTrainedModel) -> None:
    """No 4-bit weights in the order of a CPU kernel that has no backward pass.

    With the first pass without gradients, bitsandbytes' layers put them into that order for good
    where the CPU has AVX-512 BF16.
    """
    for module in hf_model.modules():
        if _PACKS in vars(module):
            vars(module)[_PACKS] = False


def _check_complete(name: str, hf_model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Every weight comes from the files, and no layer of the files is left out."""
    if missing := sorted(report["missing_keys"]):
        raise MissingFileError(
            f"{name!r} is incomplete: {len(missing)} weights are not in its files, e.g. "
            f"{missing[0]}; save or download the model again."
        )
    n_layers = hf_model.config.get_text_config().num_hidden_layers
    layers = re.compile(r"(?:layers|h|blocks)\.(\d+)\.")
    beyond = [
        key
        for key in sorted(report["unexpected_keys"])
        if (match := layers.search(key)) and int(match[1]) >= n_layers
    ]
    if beyond:
        raise MissingFileError(
            f"{name!r} has a config.json of {n_layers} layers and weights of more, e.g. "
            f"{beyond[0]}; the two are not of the same model."
        )
