"""What a score is a share of: a number per prompt, read from the logits ``z`` at its last position.

    probability        P(y|x), the softmax over the whole vocabulary at the right label's token y
    log_probability    log P(y|x)
    logit_difference   z[y] - mean of z[o] over the row's other options o

All are taken in float32 (float64 in a float64 model). ``probability`` is the paper's. Its gradient
is ``P`` times that of ``log_probability``, so that the paper's score, which is weighted by ``P``,
falls with the square of ``P`` on hard questions; ``log_probability`` with ``weight="none"`` does
not fall at all. ``logit_difference`` leaves out whatever raises all options alike (the answer
format), and every token that is no option.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from culnig_tl.errors import InvalidInputError, check_choice
from culnig_tl.hooked_model import HookedModel
from culnig_tl.logits import last_logits
from culnig_tl.questions import Batch

Target = Literal["probability", "log_probability", "logit_difference"]


class Answer(NamedTuple):
    """What a forward pass says of the right label of each prompt.

    Attributes:
        probability: ``P(y|x)``.
        value: the target, which is the probability unless another one was asked for.
    """

    probability: Float[Tensor, "batch"]
    value: Float[Tensor, "batch"]


def answer_probability(model: HookedModel, batch: Batch) -> Float[Tensor, "batch"]:
    """``P(y|x)`` of every prompt of a batch, in float32 (float64 in a float64 model)."""
    return read_answer(model, batch).probability


def read_answer(model: HookedModel, batch: Batch, target: Target = "probability") -> Answer:
    """``P(y|x)`` and the target of every prompt of a batch, by one forward pass."""
    logits = last_logits(model, batch.tokens, batch.mask, ids=batch.ids)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    answers = batch.answers.to(logits.device, copy=True)[:, None]  # out of inference mode
    probability = logits.softmax(-1).gather(1, answers)[:, 0]
    match target:
        case "probability":
            return Answer(probability, probability)
        case "log_probability":
            return Answer(probability, logits.log_softmax(-1).gather(1, answers)[:, 0])
        case "logit_difference":
            return Answer(probability, logits.gather(1, answers)[:, 0] - _others(logits, batch))


def check_target(target: Target, batches: Iterable[Batch]) -> None:
    """Refuse an unknown target, or one that these prompts do not have.

    Raises:
        InvalidInputError: an unknown target, or a logit difference without the token of every
            option.
    """
    check_choice("target", target, get_args(Target))
    if target == "logit_difference":
        for batch in batches:
            _check_options(batch)


def _check_options(batch: Batch) -> None:
    if batch.options is None:
        raise InvalidInputError(
            "target is 'logit_difference' and these batches do not say which tokens their options "
            "are; give rows or prepared questions, or batches with options."
        )
    others = (batch.options >= 0) & (batch.options != batch.answers[:, None])
    without = (~others.any(1)).nonzero()[:, 0].tolist()
    if without:
        raise InvalidInputError(
            f"target is 'logit_difference' and {len(without)} prompts (e.g. of question "
            f"{batch.ids[without[0]]!r}) have options that are not one token each, or a single "
            "option; label the options by letters or digits, or take 'log_probability'."
        )


def _others(logits: Float[Tensor, "batch vocab"], batch: Batch) -> Float[Tensor, "batch"]:
    """Mean logit of the options that are not the right one."""
    assert batch.options is not None  # check_target has seen to it
    options = batch.options.to(logits.device, copy=True)
    answers = batch.answers.to(logits.device)
    others = (options >= 0) & (options != answers[:, None])
    of_options = logits.gather(1, options.clamp(min=0))
    return of_options.where(others, 0.0).sum(1) / others.sum(1)
