"""The heatmap that takes clicks: one canvas per site, layers by bins of neurons."""

import anywidget
import traitlets

_ESM = """
function render({ model, el }) {
  for (const { site, values, neurons } of model.get("panels")) {
    const flat = values.flat(), low = Math.min(...flat), high = Math.max(...flat);
    const caption = document.createElement("div");
    const title = `${site}: layers (0 lowest) by bins of neurons`;
    caption.textContent = title;
    const canvas = document.createElement("canvas");
    const columns = values[0].length, rows = values.length;
    const rowHeight = Math.max(6, Math.min(16, Math.floor(320 / rows)));
    canvas.width = columns * 8; canvas.height = rows * rowHeight;
    canvas.className = "culnig-heatmap"; canvas.dataset.site = site;
    canvas.style.cssText = `cursor:pointer;border:1px solid rgba(128,128,128,.4);
      width:100%;max-width:64rem;height:${canvas.height}px;image-rendering:pixelated`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Scores at ${site} by layer, layer 0 lowest`);
    const context = canvas.getContext("2d");
    values.forEach((line, layer) => line.forEach((value, bin) => {
      const share = high > low ? (value - low) / (high - low) : 0;
      context.fillStyle = `rgba(67,147,195,${0.05 + 0.95 * Math.sqrt(share)})`;
      context.fillRect(bin * 8, (rows - 1 - layer) * rowHeight, 7, rowHeight - 1);
    }));
    const cellAt = event => {
      const box = canvas.getBoundingClientRect();
      const bin = Math.floor((event.clientX - box.left) / box.width * columns);
      const layer = rows - 1 - Math.floor((event.clientY - box.top) / box.height * rows);
      if (!(layer in neurons && bin in neurons[layer])) return null;
      return { neuron: [site, layer, neurons[layer][bin]], value: values[layer][bin] };
    };
    canvas.onmousemove = event => {
      const cell = cellAt(event);
      if (!cell) return;
      const [, layer, index] = cell.neuron;
      caption.textContent = `L${layer}.${site}.${index} scores ${cell.value.toPrecision(3)}`;
    };
    canvas.onmouseleave = () => { caption.textContent = title; };
    canvas.onclick = event => {
      const cell = cellAt(event);
      if (cell) { model.set("picked", cell.neuron); model.save_changes(); }
    };
    el.append(caption, canvas);
  }
}
export default { render };
"""


class Heatmap(anywidget.AnyWidget):
    """Layers by bins of neurons; a click picks the bin's best neuron.

    Attributes:
        panels: what is drawn, as ``Explorer.panels`` gives it.
        picked: site, layer and index of the neuron that was clicked last.
    """

    _esm = _ESM
    panels = traitlets.List().tag(sync=True)
    picked = traitlets.List().tag(sync=True)
