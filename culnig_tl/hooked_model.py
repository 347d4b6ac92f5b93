"""What every function of this package asks of a model, and the one place where it sets hooks on it.

Hooks, frozen weights and replaced ``forward`` methods belong to the model, and so to every thread
that runs it. ``hooked`` hands the model to one thread at a time, which may nest as many blocks as
it likes; others wait, also for a block that is open in a user's own ``with``. Each block removes
its own hooks, by a level that nothing else has: blocks may be left in any order, and in another
thread than they were entered in. Hooks that a user sets stay, and run before those of a block that
is entered later.

A pass of the package's own computes in the model's own type and without dropout, whatever the
caller has around it: ``torch.inference_mode``, ``torch.autocast`` and ``model.train()`` are
suspended for it.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch

from culnig_tl.errors import InvalidInputError, UnknownNameError, check_kind

_LOG = logging.getLogger(__name__)
_SECONDS_UNTIL_A_WARNING = 10


@runtime_checkable
class HookedModel(Protocol):
    """A model with named hook points: HookedTransformer and TransformerBridge both are."""

    cfg: Any
    tokenizer: Any
    hook_dict: Any

    def modules(self) -> Iterator[Any]: ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...

    def __call__(self, tokens: Any, /, *, attention_mask: Any = ...) -> Any: ...


def check_model(model: object) -> None:
    """Refuse what has no named hook points, such as a name or a model of transformers.

    Raises:
        InvalidInputError: with the kind of what was given.
    """
    check_kind("model", model, HookedModel, "a model with hook points, as load_model(name)")


@contextmanager
def hooked(
    model: HookedModel,
    fwd_hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
    *,
    gradients: bool | None = None,
) -> Iterator[HookedModel]:
    """Set hooks on a model inside a ``with`` block; other threads wait until it is left.

    Args:
        model: any model with named hook points.
        fwd_hooks: (name of a hook point, function of its activation and of itself) pairs.
        gradients: whether this is a pass of the package's own that can be differentiated, or one
            that cannot; None leaves how the model computes to the caller.

    Raises:
        UnknownNameError: a hook point that this model does not have.
        InvalidInputError: gradients of weights that were made under ``torch.inference_mode()``, or
            a model that a thread has not given back at its end.

    Example:
        >>> import culnig_tl as ct
        >>> model, shapes = ct.load_model(), []
        >>> def watch(activation, hook):
        ...     shapes.append(tuple(activation.shape))
        >>> with hooked(model, [("blocks.0.mlp.hook_post", watch)]):
        ...     logits = model(torch.tensor([[5, 6, 7]]))
        >>> shapes
        [(1, 3, 512)]
    """
    points = _points(model, [name for name, _ in fwd_hooks])
    level = next(_LEVELS)
    with _turn_of(model), _conditions(model, gradients):
        try:
            for point, (_, hook) in zip(points, fwd_hooks, strict=True):
                point.add_hook(hook, level=level)
            yield model
        finally:
            for point in points:
                point.remove_hooks("fwd", level=level)


_LEVELS = itertools.count(-1, -1)
"""TransformerLens's own blocks have levels from 1 on."""


def _points(model: HookedModel, names: Sequence[str]) -> list[Any]:
    points = model.hook_dict if names else {}  # a bridge gathers them anew each time
    if missing := [name for name in names if name not in points]:
        raise UnknownNameError(
            f"This model has no hook point {missing[0]!r}; it has {len(points)}, which "
            "model.hook_dict names."
        )
    return [points[name] for name in names]


class _Turn:
    """Lets one thread at a time into blocks around a model; it may be inside of several.

    Unlike a ``threading.RLock`` it can be given back by another thread, as happens to a generator
    that is finished elsewhere.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._given_back = threading.Condition()
        self._thread: threading.Thread | None = None
        self._n_blocks = 0

    def __enter__(self) -> None:
        here = threading.current_thread()
        with self._given_back:
            for seconds in itertools.count():
                if self._thread is None or self._thread is here:
                    break
                self._wait(self._thread, here, seconds)
            self._thread = here
            self._n_blocks += 1

    def __exit__(self, *_: object) -> None:
        with self._given_back:
            self._n_blocks -= 1
            if not self._n_blocks:
                self._thread = None
                self._given_back.notify()

    def _wait(self, other: threading.Thread, here: threading.Thread, seconds: int) -> None:
        """One second at most, since a thread that ends notifies nobody."""
        if not other.is_alive():
            raise InvalidInputError(
                f"Thread {other.name!r} has ended inside of a block that sets hooks on "
                f"{self._name}, which still has them; leave each `with scaled_neurons(...)`, or "
                "close the generator that holds it, before its thread ends."
            )
        if seconds == _SECONDS_UNTIL_A_WARNING:
            _LOG.warning(
                "thread %r waits for thread %r, which has set hooks on %s; leave its block first "
                "where that thread waits for this one",
                here.name,
                other.name,
                self._name,
            )
        self._given_back.wait(timeout=1)


_TURNS: WeakKeyDictionary[HookedModel, _Turn] = WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()


def _turn_of(model: HookedModel) -> _Turn:
    with _TURNS_LOCK:
        return _TURNS.setdefault(model, _Turn(model.cfg.model_name))


@contextmanager
def _conditions(model: HookedModel, gradients: bool | None) -> Iterator[None]:
    """How a pass of the package's own computes; None changes nothing."""
    if gradients is None:
        yield
        return
    if gradients:
        _check_differentiable(model)
    hidden: Any = getattr(model, "original_model", None)  # modules that a bridge does not declare
    modules = itertools.chain(model.modules(), () if hidden is None else hidden.modules())
    training = [module for module in modules if module.training]
    with (
        torch.inference_mode(False),  # turns gradients on, so that it comes first
        torch.set_grad_enabled(gradients),
        torch.autocast(torch.device(model.cfg.device).type, enabled=False),
    ):
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


def check_default_device() -> None:
    """Refuse a default device other than the CPU, on which tables of tokens and scores are made.

    Raises:
        InvalidInputError: ``torch.set_default_device`` or ``with torch.device`` names another one.
    """
    device = torch.get_default_device()
    if device.type != "cpu":
        raise InvalidInputError(
            f"torch's default device is {str(device)!r} here, and tables of tokens and scores are "
            "made on the CPU; call torch.set_default_device('cpu'): a model stays where it is, "
            "and load_model(device=...) says where."
        )


def _check_differentiable(model: HookedModel) -> None:
    if any(weight.is_inference() for _, weight in model.named_parameters()):
        raise InvalidInputError(
            f"The weights of {model.cfg.model_name} were made under torch.inference_mode(), and "
            "what is computed of them cannot be differentiated; load the model outside of it."
        )
