"""What a check says of an answer: not yet, right, or wrong, and why.

A check never raises for an answer, so that a lesson runs from top to bottom with its exercises
unsolved. ``...`` stands where an answer is to be put.
"""

import html
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from numbers import Real
from typing import Any, Concatenate, Literal, ParamSpec, SupportsFloat

import torch
from torch import Tensor

from culnig_tl.errors import InvalidInputError
from culnig_tl.neurons import Neuron, NeuronSet

State = Literal["not yet", "right", "wrong"]
P = ParamSpec("P")
_COLOURS: Mapping[State, str] = {"not yet": "#8a8a8a", "right": "#2e9e5b", "wrong": "#d9534f"}


@dataclass(frozen=True, repr=False)
class Verdict:
    """What is said of an answer; it shows itself in Jupyter.

    Attributes:
        state: whether there is an answer, and whether it is right.
        why: one or two sentences to the student.

    Example:
        >>> Verdict("right", "As many were kept as dropped.")
        Right. As many were kept as dropped.
    """

    state: State
    why: str

    def __repr__(self) -> str:
        return f"{self.state.capitalize()}. {self.why}"

    def _repr_html_(self) -> str:
        return (
            f'<p style="border-left:4px solid {_COLOURS[self.state]};padding:.2em .7em;margin:0">'
            f"<b>{self.state.capitalize()}.</b> {html.escape(self.why)}</p>"
        )


class WrongKindError(InvalidInputError):
    """An answer that is not the kind of thing that was asked for; ``exercise`` says so."""


def exercise(
    check: Callable[Concatenate[Any, P], Verdict],
) -> Callable[Concatenate[Any, P], Verdict]:
    """A check that says "not yet" to ``...``, and what was expected to an answer of another kind.

    Example:
        >>> @exercise
        ... def check_two(answer):
        ...     return right("It is.") if number(answer) == 2 else wrong("It is 2.")
        >>> check_two(...), check_two("two")
        (Not yet. Put your answer in place of ... and run this cell again., Wrong. ...)
    """

    @wraps(check)
    def checked(answer: Any, /, *context: P.args, **options: P.kwargs) -> Verdict:
        if _is_open(answer):
            return Verdict("not yet", "Put your answer in place of ... and run this cell again.")
        try:
            return check(answer, *context, **options)
        except WrongKindError as error:
            return wrong(str(error))

    return checked


def right(why: str) -> Verdict:
    """The answer is right; what it shows.

    Example:
        >>> right("So it is.").state
        'right'
    """
    return Verdict("right", why)


def wrong(why: str) -> Verdict:
    """The answer is wrong; what it is instead, or where to look.

    Example:
        >>> wrong("That is the sum.").state
        'wrong'
    """
    return Verdict("wrong", why)


def first_of(mistakes: Iterable[tuple[bool, str]], otherwise: str) -> Verdict:
    """Wrong, for the first reason that holds.

    Args:
        mistakes: whether the answer is this known mistake, and what to say of it.
        otherwise: what to say where it is none of them.

    Example:
        >>> first_of([(False, "That is the sum."), (True, "The sign is wrong.")], "Try again.")
        Wrong. The sign is wrong.
    """
    return wrong(next((why for holds, why in mistakes if holds), otherwise))


def number(answer: Any) -> float:
    """An answer as a number; a tensor of one value is one.

    Raises:
        WrongKindError: it is none, or not finite.

    Example:
        >>> number(torch.tensor([2.0]))
        2.0
    """
    value = answer.item() if isinstance(answer, Tensor) and answer.numel() == 1 else answer
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise WrongKindError(f"A single finite number is asked for; this is {_shown(answer)}.")
    return float(value)


def near(one: SupportsFloat, other: SupportsFloat) -> bool:
    """Whether two numbers agree to a hundredth, or to 5e-4 where they are small.

    Example:
        >>> near(0.502, 0.5), near(0.52, 0.5)
        (True, False)
    """
    return math.isclose(float(one), float(other), rel_tol=0.01, abs_tol=5e-4)


def tensor(answer: Any, shape: tuple[int, ...]) -> Tensor:
    """An answer as a tensor of a shape, axes of length 1 left out.

    Raises:
        WrongKindError: it is no tensor, or has another shape.

    Example:
        >>> tensor(torch.ones(1, 3), (3,)).shape
        torch.Size([3])
    """
    if not isinstance(answer, Tensor):
        raise WrongKindError(f"A tensor is asked for; this is {_shown(answer)}.")
    value = answer.detach().float().cpu()
    if value.squeeze().shape != torch.Size(shape):
        raise WrongKindError(
            f"A tensor of shape {list(shape)} is asked for; this one has {list(answer.shape)}."
        )
    return value.squeeze()


def neuron_set(answer: Any) -> NeuronSet:
    """An answer as a set of neurons.

    Raises:
        WrongKindError: it is none.

    Example:
        >>> len(neuron_set(NeuronSet.of("L3.mlp.hook_post.17")))
        1
    """
    if not isinstance(answer, NeuronSet):
        raise WrongKindError(f"A NeuronSet is asked for; this is {_shown(answer)}.")
    return answer


def neuron(answer: Any) -> Neuron:
    """An answer as a neuron, given by name or value.

    Raises:
        WrongKindError: it is none.

    Example:
        >>> neuron("L3.mlp.hook_post.17").layer
        3
    """
    try:
        return Neuron.of(answer)
    except InvalidInputError as error:
        raise WrongKindError(str(error)) from None


def entries(answer: Any, names: Iterable[str]) -> dict[str, Any]:
    """An answer as a dict with these keys, no other.

    Raises:
        WrongKindError: it is no dict, or has other keys.

    Example:
        >>> entries({"low": 1}, ["low"])
        {'low': 1}
    """
    names = list(names)
    if not isinstance(answer, Mapping) or set(answer) != set(names):
        raise WrongKindError(
            f"A dict with the keys {', '.join(map(repr, names))} is asked for; this is "
            f"{_shown(answer)}."
        )
    return dict(answer)


def _is_open(answer: Any) -> bool:
    """Whether an answer, or a part of it, is still ``...``."""
    if isinstance(answer, Mapping):
        return any(value is Ellipsis for value in answer.values())
    return answer is Ellipsis or (isinstance(answer, tuple) and any(p is Ellipsis for p in answer))


def _shown(answer: Any) -> str:
    text = " ".join(repr(answer).split())
    return f"{type(answer).__name__} {text if len(text) <= 60 else f'{text[:57]}...'}"
