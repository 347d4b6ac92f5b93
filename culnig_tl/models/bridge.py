"""A TransformerBridge around a transformers model, with nothing else touched.

``TransformerBridge.boot_transformers`` looks for the image processor of a multimodal model and,
where torchvision is missing, installs it into the user's environment. The bridge is therefore built
by the function below that one, which takes a model and loads nothing.
"""

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError


def build(hf_model: PreTrainedModel, name: str, dtype: torch.dtype) -> TransformerBridge:
    """A bridge around ``hf_model``, wherever its weights are, without a tokenizer.

    Raises:
        InvalidInputError: float64, weights that were left on disk or in main memory, or an
            architecture without an adapter.
    """
    if dtype == torch.float64:
        raise InvalidInputError(
            f"{name} cannot run in float64 as a TransformerBridge, whose attention is float32; "
            "take dtype='float32', or backend='hooked' where the architecture allows it."
        )
    places = set(map(str, getattr(hf_model, "hf_device_map", {}).values()))
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise InvalidInputError(
            f"{name} was spread over {', '.join(sorted(places))}, and a TransformerBridge reads "
            "weights where they lie; give a device_map of accelerators only, or of 'cpu' only."
        )
    try:
        return build_bridge_from_module(
            hf_model,
            type(hf_model).__name__,
            hf_config=hf_model.config,
            dtype=dtype,
            device=hf_model.get_input_embeddings().weight.device,
            model_name=name,
        )
    except (NotImplementedError, ValueError, KeyError, AttributeError) as error:
        raise InvalidInputError(
            f"TransformerLens has no bridge for {name}, a {type(hf_model).__name__} ({error}); "
            "load a decoder-only language model."
        ) from error
