"""The heatmap that takes clicks: one panel per site, layers by bins of neurons, on one scale.

It is drawn by ``heatmap.js`` on canvases that follow the width of the cell; colours are those of
the figures.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from culnig_tl.figures.style import AMOUNT_COLOURS
from culnig_tl.neurons import Neuron


class Heatmap(anywidget.AnyWidget):
    """Layers by bins of neurons; a click picks the bin's best neuron.

    Attributes:
        panels: what is drawn, as ``Explorer.panels`` gives it.
        most: the score that has the last colour, in every panel.
        unit: what the scores are, for the colour bar.
        colours: the scale, from 0 on.
        marks: neurons that are marked, by kind: found, marked, current.
        drawn: the name of the set that was found.
        picked: site, layer and index of the neuron that was clicked last.
    """

    _esm = (Path(__file__).parent / "heatmap.js").read_text(encoding="utf-8")
    panels = traitlets.List().tag(sync=True)
    most = traitlets.Float().tag(sync=True)
    unit = traitlets.Unicode().tag(sync=True)
    colours = traitlets.List(list(AMOUNT_COLOURS)).tag(sync=True)
    marks = traitlets.Dict().tag(sync=True)
    drawn = traitlets.Unicode().tag(sync=True)
    picked = traitlets.List().tag(sync=True)

    def show(self, panels: list[dict[str, Any]], unit: str) -> None:
        """Draw other scores."""
        self.unit = unit
        self.most = max(max(map(max, panel["values"])) for panel in panels)
        self.panels = panels

    def show_marks(self, marks: Mapping[str, Iterable[Neuron]], drawn: str) -> None:
        """Mark other neurons."""
        self.drawn = drawn
        self.marks = {kind: [list(neuron) for neuron in neurons] for kind, neurons in marks.items()}
