"""What every function of this package asks of a model: named hook points, a tokenizer, a config."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class HookedModel(Protocol):
    """A model with named hook points: HookedTransformer and TransformerBridge both are."""

    cfg: Any
    tokenizer: Any
    hook_dict: Any

    def hooks(self, fwd_hooks: list[Any] = ...) -> AbstractContextManager[Any]: ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...

    def __call__(self, tokens: Any, /, *, attention_mask: Any = ...) -> Any: ...
