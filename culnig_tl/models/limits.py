"""How long a model's prompts may be, where its replies end, how many tokens and experts it has.

Configurations keep them under many names: read here from wherever a model has them.
"""

from typing import Any

from transformers import PreTrainedModel

from culnig_tl.errors import InvalidInputError, check_number
from culnig_tl.positions import is_dynamic

# In this order: the first that a configuration has.
_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",  # MPT
    "max_sequence_length",
    "seq_length",  # BLOOM
    "context_length",  # RWKV
    "n_ctx",
)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_UNKNOWN_CONTEXT = 2048
_LARGEST = 10**7  # tokenizers without a limit say 1e30, and no model has more positions


def context_length(hf_model: PreTrainedModel, tokenizer: Any, wanted: int | None) -> int:
    """The most tokens of a prompt: the configuration's or, where it keeps none, the tokenizer's.

    Args:
        hf_model: the transformers model.
        tokenizer: its tokenizer.
        wanted: what the user wants instead; None for the model's own.

    Raises:
        InvalidInputError: more than the model has positions for.
    """
    own = _own_context(hf_model)
    if own is None:
        limit = getattr(tokenizer, "model_max_length", None) or _UNKNOWN_CONTEXT
        own = int(limit) if limit < _LARGEST else _UNKNOWN_CONTEXT
        return within(wanted, own, computed=True)
    longest = within(wanted, own, computed=_computes_positions(hf_model))
    if longest > own and is_dynamic(hf_model):
        raise InvalidInputError(
            f"n_ctx is {longest} and beyond {own} positions this model rotates by angles that "
            f"depend on what it has read before (dynamic); take at most {own}."
        )
    return longest


def within(wanted: int | None, own: int, *, computed: bool) -> int:
    """The context length that is wanted, if a model has it.

    Args:
        wanted: None for the model's own.
        own: the model's own.
        computed: whether positions are computed, so that there may be more of them.

    Raises:
        InvalidInputError: less than 1, or more than a table of positions has.

    Example:
        >>> within(512, 2048, computed=False)
        512
    """
    if wanted is None:
        return own
    check_number("n_ctx", wanted, low=1, whole=True)
    if wanted > own and not computed:
        raise InvalidInputError(
            f"n_ctx is {wanted} and this model has a table of {own} positions; take at most {own}."
        )
    return wanted


def end_tokens(hf_model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Tokens that end a reply: those of the generation config, of the config and of the tokenizer,
    each of which may be one, several or none."""
    generation = getattr(hf_model, "generation_config", None)
    text = hf_model.config.get_text_config()
    places = (generation, hf_model.config, text, tokenizer)
    ends = [getattr(place, "eos_token_id", None) for place in places]
    lists = [each if isinstance(each, list) else [each] for each in ends]
    return sorted({token for each in lists for token in each if type(token) is int})


def n_tokens(hf_model: PreTrainedModel) -> int:
    """Logits of a position: rows of the unembedding, which may be more than the tokenizer has."""
    head: Any = hf_model.get_output_embeddings() or hf_model.get_input_embeddings()
    return int(getattr(head, "out_features", 0) or len(head.weight))


def n_experts(hf_model: PreTrainedModel) -> int:
    """Experts of a layer; 0 where the MLPs are no mixture."""
    text = hf_model.config.get_text_config()
    counts = [getattr(text, name, None) for name in _EXPERTS]
    return next((count for count in counts if isinstance(count, int) and count > 1), 0)


def _own_context(hf_model: PreTrainedModel) -> int | None:
    for config in (hf_model.config.get_text_config(), hf_model.config):
        for name in _CONTEXT:
            value = getattr(config, name, None)
            if type(value) is int and 0 < value <= _LARGEST:
                return value
    return None


def _computes_positions(hf_model: PreTrainedModel) -> bool:
    """Whether a position is computed, by rotation, where others look it up in a table."""
    return any("RotaryEmbedding" in type(module).__name__ for module in hf_model.modules())
