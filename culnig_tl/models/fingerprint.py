"""A model in twelve digits, by which a stopped run and a saved score recognise their model.

The digits are computed anew only when a weight has changed. Changes are seen in two ways: torch
counts those made in place and knows where a weight lies, which costs nothing to ask; and the sum of
a weight's memory as 64-bit words, which reads every weight once (about 0.1 s per GB on one core),
sees also what was written through ``weight.data``, which torch does not count.
"""

import hashlib
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from culnig_tl.hooked_model import HookedModel

_SAMPLED_WEIGHTS = 256
_WORDS = 2**16  # summed at a time, so that they stay in the processor's cache
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LATEST: WeakKeyDictionary[HookedModel, tuple[list[tuple[int, ...]], str]] = WeakKeyDictionary()


def model_fingerprint(model: HookedModel, *, thorough: bool = True) -> str:
    """Twelve hexadecimal digits that change with any weight.

    Of every parameter: name, shape, a sample of its values and the sum of its bits as integers,
    which is exact in any order and on any device. How a weight lies in memory plays no part.

    Args:
        model: any model with named parameters.
        thorough: whether weights are read again to notice what was written through
            ``weight.data``; without, repeated calls cost less than a millisecond.

    Example:
        >>> import culnig_tl as ct
        >>> model = ct.load_model()
        >>> before = model_fingerprint(model)
        >>> model.W_E.data[5, 0] += 1.0
        >>> before == model_fingerprint(model)
        False
    """
    weights = [(name, weight.detach()) for name, weight in model.named_parameters()]
    state = [(weight.data_ptr(), weight._version) for _, weight in weights]
    latest = _LATEST.get(model)
    if latest and not thorough and [each[:2] for each in latest[0]] == state:
        return latest[1]
    sums = [_sum_of_words(weight) for _, weight in weights]
    state = [(*place, total) for place, total in zip(state, sums, strict=True)]
    if not latest or latest[0] != state:
        latest = _LATEST[model] = state, _digits(weights)
    return latest[1]


def _digits(weights: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, weight in weights:
        places = torch.arange(0, weight.numel(), max(1, weight.numel() // _SAMPLED_WEIGHTS))
        sample = weight[torch.unravel_index(places, weight.shape)] if weight.ndim else weight
        digest.update(f"{name}{tuple(weight.shape)}{_sum_of_bits(weight)}".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _sum_of_bits(weight: Tensor) -> int:
    """The sum of all values, read as integers of their width; exact, and modulo 2 to the 64."""
    values = _in_memory(weight).view(_BITS[weight.element_size()])
    if values.device.type != "cpu":
        return int(values.sum(dtype=torch.int64))
    total = sum(int(part.to(torch.int64).sum()) for part in values.split(_WORDS))
    return (total + 2**63) % 2**64 - 2**63


def _sum_of_words(weight: Tensor) -> int:
    """The same of 64 bits at a time, whatever the width: as fast as memory is read."""
    memory = _in_memory(weight).view(torch.uint8)
    whole = len(memory) - len(memory) % 8
    if memory.storage_offset() % 8:
        memory = memory.clone()
    words = memory[:whole].view(torch.int64).sum()
    return int(words) + int(memory[whole:].sum(dtype=torch.int64))


def _in_memory(weight: Tensor) -> Tensor:
    """All values in one row, in the order in which they lie in memory where they lie densely."""
    axes = sorted(range(weight.ndim), key=lambda axis: -weight.stride(axis))
    return weight.permute(axes).reshape(-1)
