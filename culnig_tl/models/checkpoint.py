"""From a name to the transformers model of its checkpoint, read whole, with its tokenizer.

Nothing of a checkpoint is executed: code that comes with it and weights that are pickles are
refused unless the user asks for them in transformers' words (``trust_remote_code=True``,
``use_safetensors=False``); what a folder says of itself is checked before (see ``folder``). A hub
that cannot be reached is asked once, not again for every file.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.utils import get_session
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from culnig_tl.atlas import EMBEDDED
from culnig_tl.errors import CulnigError, InvalidInputError, MissingFileError
from culnig_tl.files import read_json
from culnig_tl.models import folder as model_folder
from culnig_tl.models.library import MODEL_ALIASES

_ALSO_FOR_THE_TOKENIZER = (
    "revision",
    "token",
    "cache_dir",
    "subfolder",
    "trust_remote_code",
    "local_files_only",
    "gguf_file",
)
_PACKS = "support_avx512bf16_for_cpu"  # of bitsandbytes' Linear4bit


def locate(name: str | Path, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What transformers is asked for, and with which options; folders are checked before.

    Raises:
        MissingFileError: no such folder or file, or a folder that cannot be read.
        InvalidInputError: weights that are pickles, a LoRA adapter, or a configuration that sends
            transformers elsewhere.
    """
    path = _expanded(name)
    if name in EMBEDDED:
        return str(EMBEDDED[str(name)]), dict(options)
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
        InvalidInputError: an option that transformers does not know, weights that are pickles, or a
            configuration of another model than the weights.
    """
    every: dict[str, Any] = {"trust_remote_code": False, "attn_implementation": "eager"}
    if "gguf_file" not in options:
        every["use_safetensors"] = True
    if not Path(source).is_dir() and not hub_answers():
        every["local_files_only"] = True
    every |= options
    shared = {key: every[key] for key in _ALSO_FOR_THE_TOKENIZER if key in every}
    try:
        if "gguf_file" not in options:
            _check_before(str(name), source, shared, options)
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        _check_tokenizer(str(name), tokenizer)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, **every, output_loading_info=True
        )
    except CulnigError:
        raise
    except Exception as error:  # a config may have any value, and the code that reads it any fault
        raise _refusal(str(name), source, options, error) from error
    hf_model, report = loaded
    _check_complete(str(name), hf_model, report)
    _keep_differentiable(hf_model)
    return hf_model.eval().requires_grad_(False), tokenizer


def read_config(name: str | Path, source: str, options: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration of a checkpoint, without its weights where it is no GGUF file.

    Raises:
        MissingFileError, InvalidInputError: as ``read``.
    """
    if "gguf_file" in options:
        return read(name, source, torch.float32, options)[0].config
    every: dict[str, Any] = {"trust_remote_code": False}
    if not Path(source).is_dir() and not hub_answers():
        every["local_files_only"] = True
    try:
        return AutoConfig.from_pretrained(source, **every | dict(options))
    except Exception as error:  # as in read
        raise _refusal(str(name), source, options, error) from error


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


def _expanded(name: str | Path) -> Path:
    """A name as the path that it may be."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except (TypeError, OSError, RuntimeError) as error:  # no text, too long, no such user
        raise MissingFileError(
            f"{str(name)[:80]!r} is no name of a model ({one_line(error)}); give 'atlas', "
            "'smollm2', a folder, a .gguf file, or the name of a model on the hub."
        ) from error
    return path


def _check_folder(folder: Path, options: Mapping[str, Any]) -> None:
    if not _is_readable(folder / "config.json"):
        raise MissingFileError(
            f"{folder} is no model folder: it has no config.json that can be read; give a folder "
            "that save_pretrained wrote, with config.json, weights and tokenizer (a LoRA adapter "
            "is merged into its model first), or a .gguf file."
        )
    model_folder.check_config(str(folder), read_json(folder / "config.json"))
    if (folder / "adapter_config.json").exists():
        raise InvalidInputError(
            f"{folder} holds a LoRA adapter (adapter_config.json) beside the model, which would "
            "change it; merge the two by peft's merge_and_unload, or take the adapter's files out."
        )
    model_folder.check_weights(folder, options)


def _check_before(
    name: str, source: str, shared: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """What can be refused before transformers builds a model, from the hub or a folder."""
    if shared["trust_remote_code"]:
        return
    places = {key: value for key, value in shared.items() if key != "trust_remote_code"}
    content, _ = PretrainedConfig.get_config_dict(source, **places)
    model_folder.check_config(name, content)
    config = AutoConfig.from_pretrained(source, **shared)
    if Path(source).is_dir() and options.get("use_safetensors", True):
        weights = model_folder.shapes(Path(source), options)
        model_folder.check_sizes(name, config, weights)


def _refusal(name: str, source: str, options: Mapping[str, Any], error: Exception) -> Exception:
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
        code = model_folder.own_code(Path(source))
        reason = (
            f"it needs code that comes with it{f' ({code})' if code else ''}, which runs only with "
            "trust_remote_code=True in load_model"
        )
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


def _check_tokenizer(name: str, tokenizer: Any) -> None:
    """It reads a text, and its chat templates are texts."""
    if not tokenizer("A question?", add_special_tokens=False)["input_ids"]:
        raise MissingFileError(
            f"The tokenizer of {name!r} has no tokens: it makes nothing of a text; save or "
            "download its tokenizer files again."
        )
    templates = getattr(tokenizer, "chat_template", None) or ""
    listed = templates.values() if isinstance(templates, Mapping) else [templates]
    if not all(isinstance(template, str) for template in listed):
        raise InvalidInputError(
            f"The chat template of {name!r} is {str(templates)[:80]!r}, expected a text; save or "
            "download its tokenizer_config.json again."
        )


def _check_complete(name: str, hf_model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Every weight comes from the files, and no layer of the files is left out."""
    if missing := sorted(report["missing_keys"]):
        raise MissingFileError(
            f"{name!r} is incomplete: {len(missing)} weights are not in its files, e.g. "
            f"{', '.join(missing[:3])}; save or download the model again."
        )
    n_layers = hf_model.config.get_text_config().num_hidden_layers
    modules = dict(hf_model.named_modules())
    unread = [key for key in sorted(report["unexpected_keys"]) if _is_left_out(key, modules)]
    places = {key: model_folder.layer_of(key) for key in unread}
    if beyond := [key for key, place in places.items() if place and place[1] >= n_layers]:
        raise MissingFileError(
            f"{name!r} has a config.json of {n_layers} layers and weights of more, e.g. "
            f"{beyond[0]}; the two are not of the same model."
        )
    if unread:
        raise MissingFileError(
            f"{name!r} has {len(unread)} weights that its config.json leaves out, e.g. "
            f"{', '.join(unread[:3])}; the two are not of the same model."
        )


def _is_left_out(key: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a weight of the files belongs to a layer of this model that has no place for it.

    Buffers that older versions saved, and parts of a larger model, belong to none.
    """
    place = model_folder.layer_of(key)
    stem = place and next((name for name in modules if _is_stem(place[0], name)), None)
    if not place or stem is None:
        return False
    _, number, rest = place
    module, _, kind = rest.rpartition(".")
    owner = modules.get(f"{stem}.{number}.{module}")
    if kind not in ("weight", "bias"):
        return False
    return owner is None or kind in owner._parameters


def _is_stem(listed: str, module: str) -> bool:
    """Whether a list of layers in the files is this module; files may leave its prefix out."""
    return module == listed or module.endswith(f".{listed}")
