"""Masked models where people already evaluate: outside of this package.

| where | what |
|---|---|
| any loop around a plain transformers model | ``scaled_modules``, or ``neurons.to_hooks`` |
| whatever reads a checkpoint: vLLM, llama.cpp, a server | ``bake``: a folder with the mask in it |
| lm-evaluation-harness | ``harness.MaskedLM``, ``harness.evaluate`` |

All three scale the same channels of the same linear layers (``culnig_tl.models.find_places``), and
agree with ``scaled_neurons`` to rounding.
"""

from culnig_tl.export import harness
from culnig_tl.export.baking import bake
from culnig_tl.export.module_hooks import scaled_modules

__all__ = ["bake", "harness", "scaled_modules"]
