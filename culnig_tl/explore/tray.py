"""Neurons put aside by hand: marked and unmarked one by one, each step undone on demand."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from culnig_tl.errors import InvalidInputError
from culnig_tl.neurons import Neuron, NeuronSet


class Tray:
    """Marked neurons, and what was marked before each change.

    Args:
        shapes, source: what a saved set says of where its neurons come from.

    Attributes:
        neurons: the marked neurons, as a set.

    Example:
        >>> tray = Tray()
        >>> tray.mark("L3.mlp.hook_post.17")
        >>> tray.mark("L1.mlp.hook_post.5")
        >>> tray.unmark("L3.mlp.hook_post.17")
        >>> tray.undo()
        >>> len(tray.neurons)
        2
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self._as_set = partial(NeuronSet.of, shapes=shapes, source=source)
        self.neurons: NeuronSet = self._as_set({})
        self._before: list[NeuronSet] = []

    def mark(self, neuron: Neuron | str) -> None:
        """Put a neuron among the marked ones."""
        self._change([*self.neurons, Neuron.of(neuron)])

    def unmark(self, neuron: Neuron | str | None = None) -> None:
        """Take a neuron out; without one, all of them."""
        gone = set(self.neurons) if neuron is None else {Neuron.of(neuron)}
        self._change([each for each in self.neurons if each not in gone])

    def undo(self) -> None:
        """Take the last change back; nothing where there is none."""
        if self._before:
            self.neurons = self._before.pop()

    def save(self, path: str | Path) -> Path:
        """Write the marked neurons as ``NeuronSet.save`` does, for ``NeuronSet.load`` to read.

        Raises:
            InvalidInputError: nothing is marked, or no name of a file is given.
            UnwritableError: the file cannot be written.
        """
        if not len(self.neurons):
            raise InvalidInputError("No neuron is marked; mark at least one before saving.")
        if not str(path).strip():
            raise InvalidInputError("The file has no name; write one such as 'marked.json'.")
        self.neurons.save(path)
        return Path(path)

    def _change(self, neurons: list[Neuron]) -> None:
        changed = self._as_set(neurons)
        if changed != self.neurons:
            self._before.append(self.neurons)
            self.neurons = changed
