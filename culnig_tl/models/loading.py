"""From a name to a model: find the checkpoint, read it whole, choose the backend."""

import logging
import os
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from transformer_lens import HookedTransformer, loading_from_pretrained
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from culnig_tl.atlas import EMBEDDED
from culnig_tl.errors import InvalidInputError, MissingFileError, check_choice, first_line
from culnig_tl.hooks import HookedModel
from culnig_tl.models import bridge, hooked

Backend = Literal["auto", "hooked", "bridge"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]

_LOG = logging.getLogger(__name__)
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# Checkpoints in TransformerLens's own format, which transformers cannot read.
_NATIVE = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")
_ALSO_FOR_THE_TOKENIZER = ("revision", "token", "cache_dir", "subfolder", "trust_remote_code")


def load_model(
    name: str | Path = "atlas",
    *,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: str | None = None,
    **options: Any,
) -> HookedTransformer | TransformerBridge:
    """A frozen model with named hook points; ``model.cfg.loaded_as`` says which backend and why.

    Args:
        name: ``"atlas"`` (the embedded model), a folder in Hugging Face layout, a name on the hub,
            or any name or alias that TransformerLens knows.
        backend: ``"hooked"``, ``"bridge"``, or ``"auto"``: hooked where the architecture can be
            converted and computes what transformers computes, else bridge.
        dtype: type of the weights and activations.
        device: where the model lives; by default a CUDA device if there is one, else the CPU.
        options: for transformers' ``from_pretrained``, e.g. ``revision``. ``device_map`` (many
            devices; instead of ``device``) and ``quantization_config`` (4-bit) need a bridge.

    Raises:
        MissingFileError: no such folder, a folder that cannot be read, weights that are incomplete,
            or a name that the hub and the local cache do not have.
        InvalidInputError: ``backend="hooked"`` for an architecture that cannot be converted,
            float64 on a bridge, an unknown backend, dtype or option.

    Example:
        >>> load_model("atlas").cfg.loaded_as
        'HookedTransformer, which computes what transformers computes of this LlamaForCausalLM'
    """
    check_choice("backend", backend, get_args(Backend))
    check_choice("dtype", dtype, get_args(Dtype))
    source = _source(name)
    _check_options(source, backend, device, options)
    if source.startswith(_NATIVE):
        return _native(source, backend, dtype, device)
    hf_model, tokenizer = _read(name, source, _DTYPES[dtype], options)
    if "device_map" not in options:
        hf_model.to(device or _default_device())  # pyright: ignore[reportArgumentType]
    only_bridge = [option for option in ("device_map", "quantization_config") if option in options]
    model, reason = _with_hooks(hf_model, source, backend, _DTYPES[dtype], only_bridge)
    return _finished(model, str(name) if name in EMBEDDED else Path(source).name, reason, tokenizer)


def _source(name: str | Path) -> str:
    """What transformers is asked for; folders are checked before it sees them."""
    if name in EMBEDDED:
        return str(EMBEDDED[str(name)])
    folder = Path(name)
    looks_like_folder = (
        isinstance(name, Path) or folder.is_dir() or name.startswith((".", "/", "~"))
    )
    if not looks_like_folder:
        return loading_from_pretrained.make_model_alias_map().get(str(name).lower(), str(name))
    if not _is_readable(folder.expanduser() / "config.json"):
        raise MissingFileError(
            f"{folder} is no model folder: it has no config.json that can be read; give a folder "
            "that save_pretrained wrote, with config.json, weights and tokenizer (a LoRA adapter "
            "is merged into its model first)."
        )
    return str(folder.expanduser())


def _is_readable(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.R_OK)
    except PermissionError:
        return False


def _check_options(
    source: str, backend: Backend, device: str | None, options: dict[str, Any]
) -> None:
    if "device_map" in options and device is not None:
        raise InvalidInputError(
            f"device is {device!r} and device_map is {options['device_map']!r}; give one of them."
        )
    for option in ("device_map", "quantization_config"):
        if option in options and backend == "hooked":
            raise InvalidInputError(
                f"{option} is for a TransformerBridge and backend is 'hooked' for {source}; take "
                "backend='bridge'."
            )


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _read(
    name: str | Path, source: str, dtype: torch.dtype, options: dict[str, Any]
) -> tuple[PreTrainedModel, Any]:
    """The transformers model, frozen, every weight out of the checkpoint, and its tokenizer."""
    shared = {key: options[key] for key in _ALSO_FOR_THE_TOKENIZER if key in options}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **shared)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            **{"attn_implementation": "eager", **options},
            output_loading_info=True,
        )
    except TypeError as error:
        raise InvalidInputError(
            f"{str(name)!r} cannot be loaded with {', '.join(options)} ({first_line(error)}); "
            "give options that transformers' from_pretrained takes."
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise MissingFileError(
            f"{str(name)!r} could not be loaded ({first_line(error)}); give 'atlas', a folder "
            "with config.json, weights and tokenizer, or the name of a model on the hub."
        ) from error
    hf_model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise MissingFileError(
            f"{str(name)!r} is incomplete: {len(missing)} weights are not in its files, e.g. "
            f"{missing[0]}; save or download the model again."
        )
    return hf_model.eval().requires_grad_(False), tokenizer


def _with_hooks(
    hf_model: PreTrainedModel,
    source: str,
    backend: Backend,
    dtype: torch.dtype,
    only_bridge: list[str],
) -> tuple[HookedTransformer | TransformerBridge, str]:
    """The model on its backend, and why on that one."""
    architecture = type(hf_model).__name__
    reason = "TransformerBridge, as asked for"
    if backend == "auto" and only_bridge:
        reason = f"TransformerBridge, for {' and '.join(only_bridge)}"
    elif backend != "bridge":
        try:
            model = hooked.convert(hf_model, device=str(hf_model.device), dtype=dtype)
        except hooked.ConversionError as error:
            if backend == "hooked":
                raise InvalidInputError(
                    f"{source} cannot become a HookedTransformer ({first_line(error)}); "
                    "load it with backend='bridge'."
                ) from error
            reason = f"TransformerBridge, since as a HookedTransformer: {first_line(error)}"
        else:
            return model, (
                "HookedTransformer, which computes what transformers computes of this "
                f"{architecture}"
            )
    return bridge.build(hf_model, source, dtype), reason


def _native(
    source: str, backend: Backend, dtype: Dtype, device: str | None
) -> HookedTransformer | TransformerBridge:
    """A model that was published in TransformerLens's format; its tokenizer is another one's."""
    if backend == "bridge":
        raise InvalidInputError(
            f"{source} is stored in TransformerLens's own format, which a TransformerBridge cannot "
            "read; load it with backend='hooked'."
        )
    try:
        model = HookedTransformer.from_pretrained_no_processing(
            source, dtype=_DTYPES[dtype], device=device or _default_device()
        )
    except OSError as error:
        raise MissingFileError(
            f"{source!r} could not be loaded ({first_line(error)}); give the name of a model that "
            "the hub or the local cache has."
        ) from error
    reason = "HookedTransformer, whose own format this model is stored in"
    return _finished(model, Path(source).name, reason, model.tokenizer)


def _finished(
    model: HookedTransformer | TransformerBridge, name: str, reason: str, tokenizer: Any
) -> HookedTransformer | TransformerBridge:
    """The model named, frozen, and reading text as transformers does."""
    _LOG.info("%s: %s", name, reason)
    config: Any = model.cfg
    config.model_name, config.loaded_as = name, reason
    _read_as_transformers(model, tokenizer)
    return model.eval().requires_grad_(False)


def _read_as_transformers(model: HookedModel, tokenizer: Any) -> None:
    """Text becomes the tokens that transformers makes of it; TransformerLens would add a BOS.

    Neither backend was given the tokenizer before: each would have changed it or loaded another.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(model, TransformerBridge):
        model._tokenizer = tokenizer  # the setter would wire in a BOS again
    else:
        model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = len(tokenizer.encode("")) > 0
    model.cfg.default_prepend_bos = model.cfg.tokenizer_prepends_bos
