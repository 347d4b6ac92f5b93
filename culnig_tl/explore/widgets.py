"""The live inspector's controls: they call the ``Explorer`` and show what it answers.

A click is answered at once (place, ablation on a few prompts, answers); the card fills in behind a
spinner, a few prompts at a time. In a kernel these steps are a task of its event loop, so that the
next click or move of the slider is answered in between; where no loop runs, they are taken at once.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ipywidgets

from culnig_tl.errors import CulnigError
from culnig_tl.explore.canvas import Heatmap
from culnig_tl.explore.score_views import ALL, MINUS_CONTROL
from culnig_tl.explore.state import MARKED, NO_SET, Explorer
from culnig_tl.html import fragment, with_style
from culnig_tl.neurons import Neuron

_NO_RESULTS = "\N{EM DASH}"
_PANE = {"max_height": "75vh", "overflow": "auto", "display": "block", "width": "100%"}


class ExplorerView(ipywidgets.VBox):
    """Heatmap and controls of an ``Explorer``, which stay where they are, over a pane that scrolls:
    answers, replies, neuron, comparison."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._task: asyncio.Task[None] | None = None
        self._make_controls()
        self.message, self.busy = ipywidgets.HTML(), ipywidgets.HTML()
        self.answers, self.replies = ipywidgets.HTML(), ipywidgets.HTML()
        self.first_look, self.card = ipywidgets.HTML(), ipywidgets.HTML()
        self.comparison = ipywidgets.HTML()
        shown = [self.answers, self.replies, self.first_look, self.busy, self.comparison, self.card]
        pane = ipywidgets.Box(shown, layout=_PANE)
        pane.add_class("culnig-pane")
        rows = [
            [self.shown, self.drawn, self.query, self.results],
            [self.neuron, self.mark, self.tray, self.unmark, self.undo, self.clear],
            [self.target, self.factor, self.mask, self.write, self.compare],
            [self.file, self.save],
        ]
        above, *below = [ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows]
        super().__init__([above, self.heatmap, *below, self.prompt, self.message, pane])
        self._connect()
        self._show_heatmap()
        self._show_tray()
        self._show_neuron()

    def _make_controls(self) -> None:
        explorer = self.explorer
        self.heatmap = Heatmap()
        self.shown = _menu("scores", explorer.views.names, explorer.shown)
        self.drawn = _menu("set drawn", (NO_SET, *explorer.sets), explorer.drawn)
        self.query = _text(ipywidgets.Text, "search", "", placeholder="name, question or answer")
        self.results = _menu("found", (_NO_RESULTS,), _NO_RESULTS, width="26rem")
        self.neuron = _text(ipywidgets.Text, "neuron", str(explorer.neuron))
        self.tray = _menu("marked", (), None)
        self.mark, self.unmark = _button("Mark"), _button("Unmark")
        self.undo, self.clear = _button("Undo"), _button("Unmark all")
        self.target = _menu("scale", explorer.targets, explorer.target)
        self.factor = ipywidgets.FloatSlider(
            explorer.factor, min=0, max=2, step=0.1, description="factor", continuous_update=False
        )
        self.mask = _button("Mask the marked")
        self.write = _button("Write on")
        self.compare = _button("Compare with marked")
        self.file = _text(ipywidgets.Text, "file", "marked.json")
        self.save = _button("Save the marked")
        self.prompt = _text(ipywidgets.Textarea, "prompt", explorer.text, width="100%")

    def _connect(self) -> None:
        explorer = self.explorer
        self.heatmap.observe(self._pick, "picked")
        self._on_value(self.shown, partial(setattr, explorer, "shown"), self._show_heatmap)
        self._on_value(self.drawn, partial(setattr, explorer, "drawn"), self._show_marks)
        self._on_value(self.query, self._search)
        self._on_value(self.results, self._take_result)
        self._on_value(self.neuron, explorer.point_at, self._show_neuron)
        self._on_value(self.prompt, explorer.read, self._show_answers)
        self._on_value(self.target, partial(setattr, explorer, "target"), self._show_answers)
        self._on_value(self.factor, partial(setattr, explorer, "factor"), self._show_answers)
        self._on_click(self.mark, explorer.mark, self._show_tray)
        self._on_click(self.unmark, self._unmark, self._show_tray)
        self._on_click(self.clear, explorer.unmark, self._show_tray)
        self._on_click(self.undo, explorer.tray.undo, self._show_tray)
        self._on_click(self.mask, self._mask)
        self._on_click(self.save, self._save)
        self._on_click(self.write, self._write_on)
        self._on_click(self.compare, self._compare_cards)

    def _on_value(
        self, control: Any, change: Callable[[Any], object], *shows: Callable[[], object]
    ) -> None:
        control.observe(lambda event: self._apply(partial(change, event["new"]), *shows), "value")

    def _on_click(self, button: Any, *changes: Callable[[], object]) -> None:
        button.on_click(lambda _: self._apply(*changes))

    def _apply(self, *changes: Callable[[], object]) -> None:
        """Change the state and show it; a mistake of the user's becomes the message."""
        self._say("")
        try:
            for change in changes:
                change()
        except CulnigError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self.message.value = with_style(fragment("message.html", text=text)) if text else ""

    # --- what is shown

    def _show_heatmap(self) -> None:
        unit = "S(D)" if self.explorer.shown in (ALL, MINUS_CONTROL) else "S_c(D)"
        self.heatmap.show(self.explorer.panels(), f"{unit}, {self.explorer.shown}")
        self._show_marks()

    def _show_marks(self) -> None:
        self.heatmap.show_marks(self.explorer.marks(), self.explorer.drawn)

    def _show_tray(self) -> None:
        names = [str(neuron) for neuron in self.explorer.marked]
        self.tray.options = names
        if names:
            self.tray.value = names[-1]
        self._show_marks()
        if self.explorer.target == MARKED:
            self._show_answers()

    def _show_answers(self) -> None:
        self.replies.value = ""
        self.answers.value = with_style(self.explorer.answers_html())

    def _show_neuron(self) -> None:
        """What is known at once, then the card."""
        self._show_marks()
        self._show_answers()
        self.first_look.value = with_style(self.explorer.first_look().fragment())
        self.card.value = self.comparison.value = ""
        self._run("the card is being made", self.explorer.card_steps(), self._show_card)

    def _show_card(self) -> None:
        """The card, which says what the first look said, and more."""
        self.card.value = self.explorer.look_at(self.explorer.neuron)._repr_html_()
        self.first_look.value = ""

    # --- what buttons do

    def _pick(self, event: Any) -> None:
        self.neuron.value = str(Neuron.of(event["new"]))

    def _search(self, text: str) -> None:
        self._spin(f"searching for {text!r}")
        try:
            found = self.explorer.search(text)
        finally:
            self.busy.value = ""
        listed = [
            (f"{row['neuron']} · {row['score']:.3g} · {row['found']}", row["neuron"])
            for row in found.to_dict("records")
        ]
        self.results.options = [(_NO_RESULTS, _NO_RESULTS), *listed]
        self.results.value = listed[0][1]

    def _take_result(self, name: str) -> None:
        if name != _NO_RESULTS:
            self.neuron.value = name

    def _unmark(self) -> None:
        if self.tray.value is not None:
            self.explorer.unmark(self.tray.value)

    def _mask(self) -> None:
        """Switch the marked neurons off, by the same controls as a user would."""
        self.target.value, self.factor.value = MARKED, 0.0

    def _save(self) -> None:
        path = self.explorer.tray.save(self.file.value)
        self._say(f"Saved {len(self.explorer.marked)} as {path}; NeuronSet.load reads it.")

    def _write_on(self) -> None:
        self._spin("the model is writing")
        try:
            self.replies.value = self.explorer.write_on()._repr_html_()
        finally:
            self.busy.value = ""

    def _compare_cards(self) -> None:
        """The card that is looked at beside that of the marked neuron in the menu."""
        if self.tray.value is None:
            self._say("Mark the neuron to compare with first.")
            return
        pair = (self.explorer.neuron, Neuron.of(self.tray.value))
        steps = self.explorer.card_steps(*pair)
        self._run("two cards are being made", steps, partial(self._show_comparison, *pair))

    def _show_comparison(self, first: Neuron, second: Neuron) -> None:
        self.card.value = self.first_look.value = ""
        self.comparison.value = with_style(self.explorer.comparison_html(first, second))

    # --- what takes longer

    def _spin(self, text: str) -> None:
        self.busy.value = with_style(fragment("busy.html", text=text))

    def _run(self, text: str, steps: Iterator[None], finish: Callable[[], None]) -> None:
        """Take steps, then show what they made; what was begun before is left."""
        if self._task is not None:
            self._task.cancel()
        self._spin(text)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for _ in steps:
                pass
            self._finish(finish)
            return
        self._task = loop.create_task(self._take(steps, finish))

    async def _take(self, steps: Iterator[None], finish: Callable[[], None]) -> None:
        try:
            for _ in steps:
                await asyncio.sleep(0.01)  # clicks are answered here
            self._finish(finish)
        except CulnigError as error:
            self.busy.value = ""
            self._say(str(error))

    def _finish(self, finish: Callable[[], None]) -> None:
        finish()
        self.busy.value = ""


def _text(kind: Any, description: str, value: str, *, placeholder: str = "", **layout: str) -> Any:
    """A field of text that answers once it is left, not at every key."""
    return kind(
        value,
        description=description,
        placeholder=placeholder,
        continuous_update=False,
        layout=layout,
    )


def _menu(description: str, options: Any, value: Any, **layout: str) -> Any:
    return ipywidgets.Dropdown(options=options, value=value, description=description, layout=layout)


def _button(description: str) -> Any:
    return ipywidgets.Button(description=description, layout={"width": "auto"})
