"""The live inspector's controls: they call the ``Explorer`` and show what it answers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets

from culnig_tl.errors import CulnigError
from culnig_tl.explore.canvas import Heatmap
from culnig_tl.explore.state import Explorer
from culnig_tl.html import with_style
from culnig_tl.neurons import Neuron


class ExplorerView(ipywidgets.VBox):
    """Heatmap, controls, answers and card of an ``Explorer``, each under its name."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.heatmap = Heatmap(panels=explorer.panels())
        self.neuron = _text(ipywidgets.Text, "neuron", str(explorer.neuron))
        self.mark = ipywidgets.Button(description="Mark it")
        self.unmark = ipywidgets.Button(description="Unmark all")
        self.prompt = _text(ipywidgets.Textarea, "prompt", explorer.text, width="100%")
        self.target = ipywidgets.Dropdown(
            options=explorer.targets, value=explorer.target, description="scale"
        )
        self.factor = ipywidgets.FloatSlider(
            explorer.factor, min=0, max=2, step=0.1, description="factor", continuous_update=False
        )
        self.message = ipywidgets.Label()
        self.answers, self.card = ipywidgets.HTML(), ipywidgets.HTML()
        looking = ipywidgets.HBox([self.neuron, self.mark, self.unmark])
        scaling = ipywidgets.HBox([self.target, self.factor])
        outputs = [self.message, self.answers, self.card]
        super().__init__([self.heatmap, looking, self.prompt, scaling, *outputs])
        self._connect()
        self._apply(lambda: None)

    def _connect(self) -> None:
        explorer = self.explorer
        self.heatmap.observe(self._pick, "picked")
        self._on_value(self.neuron, explorer.look_at)
        self._on_value(self.prompt, explorer.read)
        self._on_value(self.target, partial(setattr, explorer, "target"))
        self._on_value(self.factor, partial(setattr, explorer, "factor"))
        self.mark.on_click(lambda _: self._apply(explorer.mark))
        self.unmark.on_click(lambda _: self._apply(explorer.unmark))

    def _on_value(self, control: ipywidgets.Widget, change: Callable[[Any], object]) -> None:
        control.observe(lambda event: self._apply(partial(change, event["new"])), "value")

    def _pick(self, event: Any) -> None:
        self.neuron.value = str(Neuron.of(event["new"]))

    def _apply(self, change: Callable[[], object]) -> None:
        """Change the state, then show it; a mistake of the user's becomes the message."""
        self.message.value = ""
        try:
            change()
            self.card.value = self.explorer.look_at(self.explorer.neuron)._repr_html_()
            self.answers.value = with_style(self.explorer.answers_html())
        except CulnigError as error:
            self.message.value = str(error)


def _text(kind: Any, description: str, value: str, **layout: str) -> Any:
    """A field of text that answers once it is left, not at every key."""
    return kind(value, description=description, continuous_update=False, layout=layout)
