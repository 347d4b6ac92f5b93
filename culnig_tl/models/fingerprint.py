"""A model in twelve digits, by which a stopped run and a saved score know their model again."""

import hashlib

import torch

from culnig_tl.hooks import HookedModel

_SAMPLED_WEIGHTS = 256
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def model_fingerprint(model: HookedModel) -> str:
    """Twelve hexadecimal digits that change with any weight.

    Of every parameter: name, shape, a sample of its values and the sum of its bits as integers,
    which is exact in any order and on any device. How a weight lies in memory plays no part.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLED_WEIGHTS)].float().cpu().numpy()
        bits = flat.view(_BITS[flat.element_size()]).sum(dtype=torch.int64).item()
        digest.update(f"{name}{tuple(weight.shape)}{bits}".encode() + sample.tobytes())
    return digest.hexdigest()[:12]
