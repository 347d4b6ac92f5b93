"""The live inspector's widgets: they call the ``Explorer`` and show what it answers."""

from collections.abc import Callable
from typing import Any

import anywidget
import ipywidgets
import traitlets

from culnig_tl.errors import CulnigError
from culnig_tl.explore.state import Explorer
from culnig_tl.inspection import pages
from culnig_tl.neurons import neuron_id

_ESM = """
function render({ model, el }) {
  for (const { site, values, neurons } of model.get("panels")) {
    const flat = values.flat(), low = Math.min(...flat), high = Math.max(...flat);
    const name = document.createElement("div");
    const what = `${site}: layers (0 lowest) by bins of neurons`;
    name.textContent = what;
    const canvas = document.createElement("canvas");
    const columns = values[0].length, rows = values.length;
    const tall = Math.max(6, Math.min(16, Math.floor(320 / rows)));
    canvas.width = columns * 8; canvas.height = rows * tall;
    canvas.className = "culnig-heatmap"; canvas.dataset.site = site;
    canvas.style.cssText = `cursor:pointer;border:1px solid rgba(128,128,128,.4);
      width:100%;max-width:64rem;height:${canvas.height}px;image-rendering:pixelated`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Scores at ${site} by layer, layer 0 lowest`);
    const pen = canvas.getContext("2d");
    values.forEach((line, layer) => line.forEach((value, bin) => {
      const share = high > low ? (value - low) / (high - low) : 0;
      pen.fillStyle = `rgba(67,147,195,${0.05 + 0.95 * Math.sqrt(share)})`;
      pen.fillRect(bin * 8, (rows - 1 - layer) * tall, 7, tall - 1);
    }));
    const at = event => {
      const box = canvas.getBoundingClientRect();
      const bin = Math.floor((event.clientX - box.left) / box.width * columns);
      const layer = rows - 1 - Math.floor((event.clientY - box.top) / box.height * rows);
      if (!(layer in neurons && bin in neurons[layer])) return null;
      return { picked: [site, layer, neurons[layer][bin]], value: values[layer][bin] };
    };
    canvas.onmousemove = event => {
      const found = at(event);
      if (!found) return;
      const [, layer, neuron] = found.picked;
      name.textContent = `L${layer}.${site}.${neuron} scores ${found.value.toPrecision(3)}`;
    };
    canvas.onmouseleave = () => { name.textContent = what; };
    canvas.onclick = event => {
      const found = at(event);
      if (found) { model.set("picked", found.picked); model.save_changes(); }
    };
    el.append(name, canvas);
  }
}
export default { render };
"""


class Heatmap(anywidget.AnyWidget):
    """Layers by bins of neurons, one canvas a site; a click picks the bin's best neuron."""

    _esm = _ESM
    panels = traitlets.List().tag(sync=True)
    picked = traitlets.List().tag(sync=True)


def view(explorer: Explorer) -> ipywidgets.VBox:
    """Widgets that drive ``explorer``."""
    heatmap = Heatmap(panels=[vars(panel) for panel in explorer.panels()])
    neuron = ipywidgets.Text(explorer.neuron, description="neuron", continuous_update=False)
    mark = ipywidgets.Button(description="Mark it")
    unmark = ipywidgets.Button(description="Unmark all")
    target = ipywidgets.Dropdown(
        options=explorer.targets, value=explorer.target, description="scale"
    )
    factor = ipywidgets.FloatSlider(
        explorer.factor, min=0, max=2, step=0.1, description="factor", continuous_update=False
    )
    prompt = ipywidgets.Textarea(
        explorer.text,
        description="prompt",
        continuous_update=False,
        layout={"width": "100%"},
    )
    answers, card, said = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.Label()

    def after(change: Callable[[Any], object]) -> Callable[[Any], None]:
        """A callback: change the state, then show it; what a user can mend is said."""

        def run(event: Any) -> None:
            said.value = ""
            try:
                change(event)
                card.value = explorer.look_at(explorer.neuron)._repr_html_()
                answers.value = pages.with_style(explorer.answers_html())
            except CulnigError as error:
                said.value = str(error)

        return run

    def set_factor(event: Any) -> None:
        explorer.factor = event["new"]

    def set_target(event: Any) -> None:
        explorer.target = event["new"]

    def pick(event: Any) -> None:
        neuron.value = neuron_id(*event["new"])

    heatmap.observe(pick, "picked")
    neuron.observe(after(lambda event: explorer.look_at(event["new"])), "value")
    factor.observe(after(set_factor), "value")
    target.observe(after(set_target), "value")
    prompt.observe(after(lambda event: explorer.read(event["new"])), "value")
    mark.on_click(after(lambda _: explorer.mark()))
    unmark.on_click(after(lambda _: explorer.unmark()))
    after(lambda _: None)(None)
    chosen = ipywidgets.HBox([neuron, mark, unmark])
    scaled = ipywidgets.HBox([target, factor])
    return ipywidgets.VBox([heatmap, chosen, prompt, scaled, said, answers, card])
