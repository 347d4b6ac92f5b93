"""The transformers model of a name, without hooks: for what trains or rewrites weights."""

from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from culnig_tl.errors import check_choice
from culnig_tl.models import checkpoint, pretrained
from culnig_tl.models.loading import Dtype


def read_plain(
    name: str | Path = "atlas", *, dtype: Dtype = "float32", **options: Any
) -> tuple[PreTrainedModel, Any]:
    """The transformers model that ``load_model`` would put hooks on, and its tokenizer.

    Args:
        name, options: as in ``load_model``.
        dtype: type of the weights.

    Returns:
        The model, frozen, in evaluation mode and on the CPU, and its tokenizer.

    Raises:
        MissingFileError, InvalidInputError: as ``load_model``.

    Example:
        >>> hf_model, tokenizer = read_plain("atlas")
        >>> type(hf_model).__name__
        'LlamaForCausalLM'
    """
    check_choice("dtype", dtype, get_args(Dtype))
    origin = pretrained.locate(name, options)
    source, options = checkpoint.locate(origin.source, options)
    return checkpoint.read(name, source, getattr(torch, dtype), options)


def outline(model: str | Path | PretrainedConfig, **options: Any) -> PreTrainedModel:
    """A transformers model without its weights: names and shapes only, on the meta device.

    Args:
        model: a name as ``load_model`` takes it, or a configuration of transformers.
        options: as in ``load_model``.

    Raises:
        MissingFileError, InvalidInputError: as ``load_model``.

    Example:
        >>> outline("atlas").get_parameter("model.layers.0.mlp.gate_proj.weight").shape
        torch.Size([512, 128])
    """
    if not isinstance(model, PretrainedConfig):
        origin = pretrained.locate(model, options)
        source, options = checkpoint.locate(origin.source, options)
        model = checkpoint.read_config(model, source, options)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model)
