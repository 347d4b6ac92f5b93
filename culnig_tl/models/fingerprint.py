"""A model in sixteen digits, by which a stopped run and a saved score recognise their model.

    xxh3_128 of every weight, buffer and setting, the tokenizer and the chat template

Every byte of every weight is read, at the speed of memory. Weights are read in the order in which
their forward pass does, which is how ``load_model`` lays them out (see ``conversion``); those that
lie otherwise are put into that order a piece at a time, so that the layout plays no part, and
neither do the device, the model's name and how it was loaded. Settings are those of the
configuration, of the one that a bridge wraps, and the decimal numbers that modules hold (such as
the epsilon of a norm).

Rotary tables that a pass computes anew (``dynamic``, ``longrope``) are left out: their settings
stand for them.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from xxhash import xxh3_128

from culnig_tl.hooked_model import HookedModel, check_model
from culnig_tl.models.conversion import axes_as_read

_PIECE = 2**22  # bytes that are laid out anew, or fetched from a device, at a time
_WITHOUT_EFFECT = {
    *("device", "n_devices", "dtype", "torch_dtype", "n_params", "seed", "trust_remote_code"),
    *("model_name", "tokenizer_name", "architectures", "transformers_version"),
    *("init_mode", "init_weights", "initializer_range", "use_cache", "caches", "loaded_as"),
    *("from_checkpoint", "checkpoint_index", "checkpoint_label_type", "checkpoint_value"),
}
"""Settings that no result depends on; those of transformers that begin with _ are others."""

_LATEST: WeakKeyDictionary[HookedModel, tuple[list[tuple[int, int]], str]] = WeakKeyDictionary()


def model_fingerprint(model: HookedModel, *, thorough: bool = True) -> str:
    """Sixteen hexadecimal digits that change with any bit of a model, its settings or tokenizer.

    Args:
        model: any model with named parameters.
        thorough: whether everything is read again; without, a repeated call looks only at what
            torch knows of each weight (where it lies, and how often it was written in place, but
            for writing through ``weight.data``), which costs less than a millisecond.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> before = model_fingerprint(model)
        >>> model.W_E.data[5, 0] += 1.0
        >>> before == model_fingerprint(model)
        False
    """
    check_model(model)
    places = [(weight.data_ptr(), _times_written(weight)) for _, weight in model.named_parameters()]
    latest = _LATEST.get(model)
    if thorough or latest is None or latest[0] != places:
        latest = _LATEST[model] = places, _digits(model)
    return latest[1]


def _times_written(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _digits(model: HookedModel) -> str:
    digest, orders = xxh3_128(), axes_as_read(model)
    for name, weight in model.named_parameters():
        axes = orders.get(name.rpartition(".")[2], ())
        is_matrix = len(axes) == weight.ndim
        _read(digest, name, weight.detach().permute(axes) if is_matrix else weight.detach())
    for module in model.modules():
        digest.update(_text(_decimals(module)))
        for name, values in _buffers(module):
            _read(digest, name, values)
    wrapped = getattr(getattr(model, "original_model", None), "config", None)
    settings = [vars(model.cfg), wrapped.to_dict() if wrapped is not None else {}]
    digest.update(_text([_with_effect(each) for each in settings]))
    digest.update(_tokenizer_text(model.tokenizer))
    return digest.hexdigest()[:16]


def _read(digest: xxh3_128, name: str, values: Tensor) -> None:
    digest.update(_text([name, str(values.dtype), tuple(values.shape)]))
    for dense in _dense_pieces(values):
        for piece in dense.view(-1).view(torch.uint8).split(_PIECE):
            digest.update(piece.cpu().numpy().data)


def _dense_pieces(values: Tensor) -> Iterator[Tensor]:
    """The values in order, in pieces without gaps.

    Where another axis than the first is outermost in memory, slabs are packed as they lie, then
    turned: ten times as fast as what torch does with strides.
    """
    if values.is_contiguous():
        yield values
    elif values.ndim > 2 and values.stride(0) == max(values.stride()):
        for part in values:
            yield from _dense_pieces(part)
    else:
        row_bytes = values[0].numel() * values.element_size()
        for slab in values.split(max(1, _PIECE // row_bytes)):
            packed = slab.movedim(0, -1).contiguous()
            yield packed.view(-1, len(slab)).t().contiguous()


def _decimals(module: Any) -> list[tuple[str, float]]:
    """Names and values of the decimal numbers that a module holds."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if type(value) is float and not name.startswith("_")
    ]


def _buffers(module: Any) -> list[tuple[str, Tensor]]:
    kind = str(getattr(module, "rope_type", ""))
    of_layer = getattr(getattr(module, "cfg", None), "use_dynamic_ntk_rope", False)
    is_computed_anew = of_layer or "dynamic" in kind or "longrope" in kind
    return [] if is_computed_anew else list(module.named_buffers(recurse=False))


def _with_effect(settings: Any) -> Any:
    """Settings, and settings within them, without those that no result depends on."""
    if not isinstance(settings, Mapping):
        return settings
    return {
        str(name): _with_effect(value)
        for name, value in settings.items()
        if name not in _WITHOUT_EFFECT and not str(name).startswith("_")
    }


def _tokenizer_text(tokenizer: Any) -> bytes:
    """All that a tokenizer is, without the padding and truncation that calls set."""
    if tokenizer is None:
        return b""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content = _text(tokenizer.get_vocab())
    else:
        written = backend.to_str()
        content = written[written.index('"added_tokens"') :].encode()
    special = tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)
    return _text(special) + content


def _text(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, default=_name).encode()


def _name(value: Any) -> str:
    """What has no place in JSON: a function by its name, anything else as it prints."""
    return getattr(value, "__qualname__", None) or str(value)
