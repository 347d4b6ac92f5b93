"""Load a frozen model with hook points, from the package, a folder or the hub.

Two backends of TransformerLens serve: ``HookedTransformer`` (default; every architecture it can
convert, from hub names and from local Hugging Face folders alike) and ``TransformerBridge`` (the
Hugging Face modules themselves with hooks around them). Weights are raw: nothing is folded or
centred, so that activations are those of the published model. Parameters are frozen and the model
is in evaluation mode; attribution differentiates activations, never weights.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from transformer_lens import HookedTransformer, loading_from_pretrained
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from culnig_tl.atlas import EMBEDDED
from culnig_tl.errors import InvalidInputError, MissingFileError, check_choice
from culnig_tl.hooks import HookedModel

Backend = Literal["auto", "hooked", "bridge"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]

_LOG = logging.getLogger(__name__)
_SAMPLED_WEIGHTS = 256
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load_model(
    name: str | Path = "atlas",
    *,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: str | None = None,
) -> HookedTransformer | TransformerBridge:
    """A frozen model with named hook points.

    Args:
        name: ``"atlas"`` (the embedded model), a folder in Hugging Face layout, or a hub name.
        backend: ``"hooked"``, ``"bridge"``, or ``"auto"``: hooked where TransformerLens can convert
            the architecture, else bridge; the choice and its reason are logged.
        dtype: type of the weights and activations.
        device: where the model lives; by default a CUDA device if there is one, else the CPU.

    Raises:
        MissingFileError: no such folder, a folder that cannot be read, or a name that the hub and
            the local cache do not have.
        InvalidInputError: ``backend="hooked"`` for an architecture that cannot be converted,
            float64 on a bridge, or an unknown backend or dtype.

    Example:
        >>> load_model("atlas").cfg.n_layers
        4
    """
    check_choice("backend", backend, get_args(Backend))
    check_choice("dtype", dtype, get_args(Dtype))
    source = _source(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        hf_model = AutoModelForCausalLM.from_pretrained(
            source, dtype=_DTYPES[dtype], attn_implementation="eager"
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingFileError(
            f"{str(name)!r} could not be loaded ({_first_line(error)}); give 'atlas', a folder "
            "with config.json, weights and tokenizer, or the name of a model on the hub."
        ) from error
    model = _with_hooks(hf_model, tokenizer, source, backend, device, _DTYPES[dtype])
    model.cfg.model_name = str(name) if name in EMBEDDED else Path(source).name
    _read_as_transformers(model, AutoTokenizer.from_pretrained(source))
    return model.eval().requires_grad_(False)


def model_fingerprint(model: HookedModel) -> str:
    """Twelve hexadecimal digits that change with any weight.

    Of every parameter: name, shape, a sample of its values and the sum of its bits as integers,
    which is exact in any order and on any device.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLED_WEIGHTS)].float().cpu().numpy()
        bits = flat.view(_BITS[flat.element_size()]).sum(dtype=torch.int64).item()
        digest.update(f"{name}{tuple(weight.shape)}{bits}".encode() + sample.tobytes())
    return digest.hexdigest()[:12]


def _source(name: str | Path) -> str:
    """What transformers is asked for; folders are checked before it sees them."""
    if name in EMBEDDED:
        return str(EMBEDDED[str(name)])
    folder = Path(name)
    looks_like_folder = (
        isinstance(name, Path) or folder.is_dir() or name.startswith((".", "/", "~"))
    )
    if looks_like_folder and not _is_readable(folder.expanduser() / "config.json"):
        raise MissingFileError(
            f"{folder} is no model folder: it has no config.json that can be read; give a folder "
            "that save_pretrained wrote, with config.json, weights and tokenizer."
        )
    return str(folder.expanduser()) if looks_like_folder else str(name)


def _is_readable(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.R_OK)
    except PermissionError:
        return False


def _with_hooks(
    hf_model: PreTrainedModel,
    tokenizer: Any,
    source: str,
    backend: Backend,
    device: str,
    dtype: torch.dtype,
) -> HookedTransformer | TransformerBridge:
    if backend == "bridge":
        return _bridge(hf_model, tokenizer, source, device, dtype)
    try:
        model = _hooked(hf_model, tokenizer, source, device, dtype)
    except (NotImplementedError, ValueError, AttributeError, KeyError) as error:
        if backend == "hooked":
            raise InvalidInputError(
                f"{source} cannot become a HookedTransformer ({_first_line(error)}); "
                "load it with backend='bridge'."
            ) from error
        _LOG.info(
            "%s: TransformerBridge, since HookedTransformer says: %s", source, _first_line(error)
        )
        return _bridge(hf_model, tokenizer, source, device, dtype)
    _LOG.info("%s: HookedTransformer, which can convert it", source)
    return model


def _hooked(
    hf_model: PreTrainedModel, tokenizer: Any, source: str, device: str, dtype: torch.dtype
) -> HookedTransformer:
    """A HookedTransformer with the weights of ``hf_model``.

    TransformerLens guesses an architecture from the words in a folder's path ("llama", "gemma"), so
    it is shown a copy of the configuration in a folder with a neutral name.
    """
    with tempfile.TemporaryDirectory(prefix="model-") as neutral, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        if (Path(source) / "config.json").is_file():
            shutil.copy(Path(source) / "config.json", neutral)
            known_as = neutral
        else:
            known_as = loading_from_pretrained.get_official_model_name(source)
        config = loading_from_pretrained.get_pretrained_model_config(
            known_as, hf_cfg=hf_model.config.to_dict(), device=device, dtype=dtype
        )
        weights = loading_from_pretrained.get_pretrained_state_dict(
            known_as, config, hf_model, dtype=dtype
        )
        model = HookedTransformer(config, tokenizer, move_to_device=False)
    model.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model.move_model_modules_to_device()
    return model


def _bridge(
    hf_model: PreTrainedModel, tokenizer: Any, source: str, device: str, dtype: torch.dtype
) -> TransformerBridge:
    """A bridge around ``hf_model``; transformers takes norms and attention in float32 at most."""
    if dtype == torch.float64:
        raise InvalidInputError(
            f"{source} cannot run in float64 as a TransformerBridge, whose attention is float32; "
            "take dtype='float32', or backend='hooked' where the architecture allows it."
        )
    return TransformerBridge.boot_transformers(
        source,
        hf_model=hf_model.to(device),  # pyright: ignore[reportArgumentType]
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
    )


def _read_as_transformers(model: HookedModel, tokenizer: Any) -> None:
    """Text becomes the tokens that transformers makes of it; TransformerLens would add a BOS.

    The tokenizer is a fresh one: a bridge changes the one that it is given.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(model, TransformerBridge):
        model._tokenizer = tokenizer  # the setter would wire in a BOS again
    else:
        model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = len(tokenizer.encode("")) > 0
    model.cfg.default_prepend_bos = model.cfg.tokenizer_prepends_bos


def _first_line(error: Exception) -> str:
    """The first line of an error of another library, cut to what a sentence can hold."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
