"""Whether a model with hooks computes what transformers computes, before it is handed out.

Three short prompts of 24 tokens in all are read by both. transformers reads each on its own,
without padding; the model with hooks reads them as one batch, left-padded, all tokens but the last
first and then the last with the key/value cache, as generation does. Compared is, prompt by prompt,

    error = |logits - expected| / |expected|        logits without their mean, which no softmax sees

- **float32, float64**: the error is at most 1e-4. Rounding makes 1e-6, a wrong converter percents.
- **bfloat16, float16**: ``expected`` is what transformers computes of the same weights in float32
  (a module's weights are widened while it runs, so that there is no second copy of the model), and
  the error is at most twice transformers' own in the half type. Two right implementations round at
  other places: over 70 families, both types and several seeds the ratio lies between 0.8 and 1.8,
  so that no right model is refused and a fault of 1.7 times the rounding is seen. The worst quarter
  of a prompt's positions is left out, since rounding may send a token to another expert.
- **finiteness**: where transformers' logits are not finite there is nothing to agree with.
- **causality**: two prompts differ in their last token only; transformers' logits before it must be
  the same. A BERT fails here.
- **the cached step** is a single position per prompt and is allowed five times the error. A model
  that fails here alone is right without its cache, whose faults are of 20 % and more: it is handed
  out, and ``caching.next_logits`` does without.

It costs one forward pass of transformers and one of the model, of 24 and 30 tokens; another one of
transformers in half types, and another one of the model where the cache fails.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from culnig_tl.hooked_model import HookedModel
from culnig_tl.models.caching import next_logits
from culnig_tl.models.checkpoint import one_line

_ROUNDING = 1e-4
_MARGIN = 2.0
_CACHE_MARGIN = 5.0
_TRIMMED = 0.75
# Transformers' own error where a module's weights cannot be widened (state-space models).
_TYPICAL = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
_LONG, _SHORT = 10, 4

Logits = Sequence[Float[Tensor, "_ vocab"]]
"""Of each prompt on its own, without padding."""


@dataclass(frozen=True)
class Expected:
    """What is known of the right logits before anything is built around transformers' modules.

    Attributes:
        tokens: the prompts, left-padded.
        mask: True at their tokens.
        logits: of each prompt, in float32 where the weights are of a half type.
        own_error: of transformers in its half type; 0 in wider ones.
        fault: why no model of these weights can be used, a clause; empty where it can.
    """

    tokens: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    logits: Logits
    own_error: float
    fault: str

    @property
    def limit(self) -> float:
        """The largest error of a model that computes the same."""
        return max(_ROUNDING, _MARGIN * self.own_error)


@dataclass(frozen=True)
class Agreement:
    """How far a model is from what is expected of it.

    Attributes:
        error: of the worst prompt.
        cached_error: of the last position, with the key/value cache; None where there is none that
            can be used.
        caches: whether the cache may be used.
        own_error: of transformers in its half type; 0 in wider ones.
        fault: why this model must not be handed out, a clause; empty where it agrees.
    """

    error: float
    cached_error: float | None
    caches: bool
    own_error: float
    fault: str

    def __str__(self) -> str:
        text = f"checked on 3 short left-padded prompts: logits within {_percent(self.error)}"
        if self.own_error:
            text += f" of float32's, transformers' own rounding being {_percent(self.own_error)}"
        if self.caches:
            return f"{text}, a step with the key/value cache too"
        if self.cached_error is None:
            return f"{text}; it has no key/value cache, so generation reads each text again"
        return (
            f"{text}; with its key/value cache they would be {_percent(self.cached_error)} off, so "
            "generation reads each text again"
        )


def of_transformers(hf_model: PreTrainedModel) -> Expected:
    """What transformers computes of the three prompts.

    Example:
        >>> from transformers import AutoModelForCausalLM
        >>> from culnig_tl.atlas import EMBEDDED
        >>> of_transformers(AutoModelForCausalLM.from_pretrained(EMBEDDED["atlas"])).fault
        ''
    """

    def read(tokens: Tensor) -> Tensor:
        return hf_model(tokens).logits

    embedding: Any = hf_model.get_input_embeddings().weight
    configured = getattr(hf_model.config.get_text_config(), "vocab_size", None)
    n_tokens = min(len(embedding), configured or len(embedding))
    tokens, mask = _prompts(n_tokens, _special_tokens(hf_model), embedding.device)
    try:
        logits = own = _read_alone(read, tokens, mask)
    except Exception as problem:  # whatever a model's own code raises
        fault = f"transformers itself cannot read 10 tokens with it: {one_line(problem)}"
        return Expected(tokens, mask, (), 0.0, fault)
    own_error = 0.0
    if hf_model.dtype in _TYPICAL:
        try:
            with _widened(hf_model):
                logits = _read_alone(read, tokens, mask)
            own_error = max(_distances(own, logits, _TRIMMED))
        except (RuntimeError, TypeError):  # a module that reads another one's weights
            own_error = _TYPICAL[hf_model.dtype]
    fault = _not_usable(own, hf_model.dtype) or _not_causal(logits, type(hf_model).__name__)
    return Expected(tokens, mask, logits, own_error, fault)


def of_itself(model: HookedModel) -> Expected:
    """What a model that transformers does not have computes of each prompt alone."""
    tokens, mask = _prompts(model.cfg.d_vocab, set(), model.cfg.device)
    logits = _read_alone(model, tokens, mask)
    fault = _not_usable(logits, model.cfg.dtype) or _not_causal(logits, "model")
    return Expected(tokens, mask, logits, _TYPICAL.get(model.cfg.dtype, 0.0), fault)


def compare(model: HookedModel, expected: Expected) -> Agreement:
    """How far ``model`` is from what is expected of it."""
    errors, cached_error, caches, fault = [float("nan")], None, False, expected.fault
    try:
        if expected.logits:
            errors, cached_error, caches = _errors(model, expected)
    except Exception as problem:  # whatever a model's own code raises
        fault = fault or f"it cannot read a prompt: {one_line(problem)}"
    error = max(errors)
    if not fault and not error <= expected.limit:
        of_which = " of a left-padded prompt" if max(errors[:2]) <= expected.limit else ""
        fault = f"its logits{of_which} would be {_percent(error)} off those of transformers"
        if expected.own_error:
            fault += f", whose own rounding is {_percent(expected.own_error)}"
    return Agreement(error, cached_error, caches, expected.own_error, fault)


def _errors(model: HookedModel, expected: Expected) -> tuple[list[float], float | None, bool]:
    """Of each prompt; of the step with the cache; and whether the cache may be used.

    The prompts are read once where both errors are small, and again without a cache where not.
    """
    share = _TRIMMED if expected.own_error else 1.0
    cached_error = None
    try:
        logits = _read_with_cache(model, expected)
        errors = _distances(logits, expected.logits, share)
        cached_error = _error_at_the_end(logits, expected.logits)
        if max(errors) <= expected.limit and cached_error <= _CACHE_MARGIN * expected.limit:
            return errors, cached_error, True
    except Exception:  # no cache, or one of another kind
        cached_error = None
    with _exactly():
        batch = model(expected.tokens, attention_mask=expected.mask.long())
    logits = _unpadded(batch, expected.mask)
    return _distances(logits, expected.logits, share), cached_error, False


def _read_alone(
    read: Callable[[Tensor], Tensor], tokens: Int[Tensor, "prompt pos"], mask: Bool[Tensor, "..."]
) -> Logits:
    """The two long prompts, and then the short one without its padding."""
    short = int(mask[-1].sum())
    with _exactly():
        return [*read(tokens[:2]), *read(tokens[2:, -short:])]


def _read_with_cache(model: HookedModel, expected: Expected) -> Logits:
    """The batch: all tokens but the last, then the last."""
    tokens, mask = expected.tokens, expected.mask
    with _exactly():
        first, cache = next_logits(model, tokens[:, :-1], mask[:, :-1])
        last, _ = next_logits(model, tokens[:, -1:], mask, cache)
    return _unpadded(torch.cat([first, last], 1), mask)


def _unpadded(logits: Tensor, mask: Tensor) -> Logits:
    return [line[real] for line, real in zip(logits, mask, strict=True)]


def _distances(logits: Logits, expected: Logits, share: float) -> list[float]:
    """The error of each prompt, of this share of its positions."""
    return [_distance(*pair, share) for pair in zip(logits, expected, strict=True)]


def _error_at_the_end(logits: Logits, expected: Logits) -> float:
    """Of the last position: the better of the two long prompts, since one may be sent to another
    expert, and the short one."""
    first, second, short = (
        _distance(ours[-1:], right[-1:]) for ours, right in zip(logits, expected, strict=True)
    )
    return max(min(first, second), short)


def _distance(logits: Tensor, expected: Tensor, share: float = 1.0) -> float:
    logits, expected = _centred(logits), _centred(expected)
    errors = (logits - expected).square().sum(-1)
    best = errors.argsort()[: max(1, round(share * len(errors)))]
    return float((errors[best].sum() / expected[best].square().sum()).sqrt())


def _centred(logits: Tensor) -> Tensor:
    logits = logits.float()
    return logits - logits.mean(-1, keepdim=True)


def _prompts(
    n_tokens: int, special: set[int], device: torch.device | str
) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
    """Two of 10 tokens that differ in the last, and one of 4; from all over the vocabulary."""
    spread = [index * n_tokens // 29 % n_tokens for index in range(3, 29)]
    ids = [token for token in dict.fromkeys(spread) if token not in special] or [0]
    line = torch.tensor((ids * 2 * _LONG)[: 2 * _LONG])
    tokens = torch.stack([line[:_LONG], line[:_LONG], line[_LONG:]])
    tokens[1, -1] = line[_LONG]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[2, :-_SHORT] = False
    return tokens.masked_fill(~mask, 0).to(device), mask.to(device)


def _special_tokens(hf_model: PreTrainedModel) -> set[int]:
    """Ids that a configuration names: ends, padding, places of images."""
    configs = (hf_model.config, hf_model.config.get_text_config())
    named = [each for config in configs for each in config.to_dict().items()]
    return {
        value
        for name, value in named
        if isinstance(value, int) and name.endswith(("token_id", "token_index"))
    }


def _not_usable(logits: Logits, dtype: torch.dtype) -> str:
    if not all(bool(each.isfinite().all()) for each in logits):
        return f"transformers' own logits are not finite in {str(dtype).removeprefix('torch.')}"
    if not any(bool(_centred(each).any()) for each in logits):
        return "transformers' own logits are the same for every token"
    return ""


def _not_causal(logits: Logits, name: str) -> str:
    change = _distance(logits[1][:-1], logits[0][:-1])
    if change <= _ROUNDING:
        return ""
    return (
        f"a later token changes earlier logits by {_percent(change)}: this {name} is no causal "
        "language model"
    )


def _percent(error: float) -> str:
    return f"{100 * error:.2g} %"


@contextmanager
def _exactly() -> Iterator[None]:
    """No gradients, and products in float32 even where the user allows TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@contextmanager
def _widened(hf_model: PreTrainedModel) -> Iterator[None]:
    """Every module computes in float32; its own weights are copied for as long as it runs."""
    narrow: dict[nn.Module, list[list[Tensor]]] = {}

    def widen(module: nn.Module, *_: object) -> None:
        weights = list(module.parameters(recurse=False))
        narrow.setdefault(module, []).append([weight.data for weight in weights])
        for weight in weights:
            if weight.is_floating_point():
                weight.data = weight.data.float()

    def narrow_again(module: nn.Module, *_: object) -> None:
        if narrow[module]:
            weights = module.parameters(recurse=False)
            for weight, data in zip(weights, narrow[module].pop(), strict=True):
                weight.data = data

    handles = []
    for module in hf_model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_pre_hook(widen))
            handles.append(module.register_forward_hook(narrow_again, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
