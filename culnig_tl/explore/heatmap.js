// Panels of layers by bins of neurons on one scale of colours, with axes, a colour bar and marks.
const GREY = "#7a7a7a", MARGIN = { left: 34, right: 6, top: 6, bottom: 22 };
const FONT = "11px system-ui, 'Segoe UI', 'Liberation Sans', sans-serif";

const colourOf = (colours, share) => {
  const place = Math.min(Math.max(share, 0), 1) * (colours.length - 1), low = Math.floor(place);
  const parts = code => [1, 3, 5].map(at => parseInt(code.slice(at, at + 2), 16));
  const [from, to] = [parts(colours[low]), parts(colours[Math.min(low + 1, colours.length - 1)])];
  const mixed = from.map((part, i) => Math.round(part + (to[i] - part) * (place - low)));
  return `rgba(${mixed}, ${(0.15 + 0.85 * Math.min(share, 1)).toFixed(2)})`;
};

// Low scores are faint. Scores have a long tail: colours go by the square root; what is 0 or below stays blank.
const shareOf = (value, most) => (value > 0 && most > 0 ? Math.sqrt(value / most) : 0);

const shown = value => (value === 0 ? "0" : Number(value.toPrecision(2)).toString());

const geometry = (canvas, panel) => {
  const columns = panel.edges.length - 1, rows = panel.values.length;
  const width = canvas.clientWidth - MARGIN.left - MARGIN.right;
  const height = canvas.clientHeight - MARGIN.top - MARGIN.bottom;
  return { columns, rows, cellWidth: width / columns, cellHeight: height / rows };
};

const draw = (canvas, panel, model) => {
  const ratio = window.devicePixelRatio || 1, most = model.get("most");
  if (!canvas.clientWidth) return;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const { columns, rows, cellWidth, cellHeight } = geometry(canvas, panel);
  const x = bin => MARGIN.left + bin * cellWidth;
  const y = layer => MARGIN.top + (rows - 1 - layer) * cellHeight;
  context.fillStyle = "rgba(128,128,128,.12)";
  context.fillRect(x(0), y(rows - 1), columns * cellWidth, rows * cellHeight);
  const gap = cellWidth > 4 ? 0.5 : 0;
  panel.values.forEach((line, layer) => line.forEach((value, bin) => {
    if (!(value > 0)) return;
    context.fillStyle = colourOf(model.get("colours"), shareOf(value, most));
    context.fillRect(x(bin), y(layer), cellWidth - gap, cellHeight - gap);
  }));
  context.fillStyle = GREY;
  context.font = FONT;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const step = Math.ceil(rows / Math.max(2, Math.floor((rows * cellHeight) / 28)));
  for (let layer = 0; layer < rows; layer += step) {
    context.fillText(`L${layer}`, MARGIN.left - 5, y(layer) + cellHeight / 2);
  }
  context.textBaseline = "top";
  [[0, "left"], [0.5, "center"], [1, "right"]].forEach(([share, align]) => {
    context.textAlign = align;
    const neuron = share === 1 ? panel.edges[columns] - 1 : panel.edges[Math.floor(columns * share)];
    context.fillText(`${neuron}`, x(columns * share), y(-1) + 5);
  });
  const marks = model.get("marks");
  for (const kind of ["found", "marked", "current"]) {
    for (const [site, layer, index] of marks[kind] ?? []) {
      if (site !== panel.site || layer >= rows) continue;
      const bin = Math.max(0, panel.edges.findLastIndex(edge => edge <= index));
      mark(context, kind, x(bin), y(layer), cellWidth, cellHeight);
    }
  }
};

// Each mark is dark with a light rim, so that it is seen on every colour and on both themes.
const mark = (context, kind, left, top, width, height) => {
  const middle = [left + width / 2, top + height / 2];
  const rimmed = (path, inner, outer, thickness) => {
    for (const [style, line] of [[outer, thickness + 2], [inner, thickness]]) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.beginPath();
      path();
      context.stroke();
    }
  };
  if (kind === "found") {
    context.beginPath();
    context.arc(...middle, 2, 0, 2 * Math.PI);
    context.fillStyle = "#111";
    context.strokeStyle = "#fff";
    context.lineWidth = 1;
    context.fill();
    context.stroke();
  } else if (kind === "marked") {
    const size = Math.max(4, Math.min(width, height) / 2 + 1);
    rimmed(() => context.rect(middle[0] - size, middle[1] - size, 2 * size, 2 * size), "#009E73", "#fff", 2);
  } else {
    rimmed(() => context.arc(...middle, 7, 0, 2 * Math.PI), "#111", "#fff", 2);
  }
};

const STYLE = `
.culnig-pane .widget-html-content { min-width: 0; }
.culnig-map { font: ${FONT}; color: ${GREY}; max-width: 84rem; }
.culnig-map .panels { display: grid; gap: 6px 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); }
.culnig-map canvas { display: block; width: 100%; cursor: pointer; }
.culnig-map .said { min-height: 1.4em; font-size: 12px; overflow-wrap: anywhere; }
.culnig-map .legend { display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: center; }
.culnig-map .legend span { display: inline-flex; align-items: center; gap: 5px; }
.culnig-map .bar { width: 150px; height: 10px; border: 1px solid rgba(128,128,128,.35); }
.culnig-map .dot, .culnig-map .ring, .culnig-map .square { box-sizing: border-box; display: inline-block; }
.culnig-map .dot { width: 6px; height: 6px; border-radius: 50%; background: #111; border: 1px solid #fff; }
.culnig-map .ring { width: 14px; height: 14px; border-radius: 50%; border: 2px solid #111; outline: 1px solid #fff; }
.culnig-map .square { width: 11px; height: 11px; border: 2px solid #009E73; outline: 1px solid #fff; }`;

const element = (name, className, text = "") =>
  Object.assign(document.createElement(name), { className, textContent: text });

const legend = model => {
  const place = element("div", "legend"), bar = element("i", "bar");
  const stops = Array.from({ length: 9 }, (_, i) => colourOf(model.get("colours"), Math.sqrt(i / 8)));
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const scale = element("span", "scale");
  scale.append("0", bar, `${shown(model.get("most"))} ${model.get("unit")}, the best of each cell`);
  place.append(scale);
  for (const [shape, text] of [["dot", model.get("drawn")], ["square", "marked"], ["ring", "looked at"]]) {
    if (shape === "dot" && !(model.get("marks").found ?? []).length) continue;
    const entry = element("span", "");
    entry.append(element("i", shape), text);
    place.append(entry);
  }
  return place;
};

const PROMPT = "Point at a cell for its best neuron, click to look at it.";

function render({ model, el }) {
  const root = element("div", "culnig-map"), style = document.createElement("style");
  style.textContent = STYLE;
  el.append(style, root);
  let canvases = [];
  const redraw = () => canvases.forEach(([canvas, panel]) => draw(canvas, panel, model));
  const rebuild = () => {
    const panels = element("div", "panels"), said = element("div", "said", PROMPT);
    canvases = model.get("panels").map(panel => {
      const whole = element("div", ""), canvas = element("canvas", "culnig-heatmap");
      canvas.dataset.site = panel.site;
      const tallest = el.clientWidth && el.clientWidth < 420 ? 150 : 290;
      canvas.style.height = `${Math.max(90, Math.min(9 * panel.values.length, tallest)) + 28}px`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Scores at ${panel.site} by layer, layer 0 lowest`);
      whole.append(element("div", "", panel.name), canvas);
      panels.append(whole);
      const cellAt = event => {
        const box = canvas.getBoundingClientRect(), { rows, cellWidth, cellHeight } = geometry(canvas, panel);
        const bin = Math.floor((event.clientX - box.left - MARGIN.left) / cellWidth);
        const layer = rows - 1 - Math.floor((event.clientY - box.top - MARGIN.top) / cellHeight);
        const index = panel.neurons[layer]?.[bin];
        return index === undefined ? null : { layer, index, value: panel.values[layer][bin] };
      };
      canvas.onmousemove = event => {
        const cell = cellAt(event);
        said.textContent = cell
          ? `L${cell.layer}.${panel.site}.${cell.index} scores ${cell.value.toPrecision(3)}` : PROMPT;
      };
      canvas.onmouseleave = () => { said.textContent = PROMPT; };
      canvas.onclick = event => {
        const cell = cellAt(event);
        if (!cell) return;
        model.set("picked", [panel.site, cell.layer, cell.index]);
        model.save_changes();
      };
      return [canvas, panel];
    });
    root.replaceChildren(said, panels, legend(model));
    requestAnimationFrame(redraw);
  };
  const remark = () => { root.lastChild?.replaceWith(legend(model)); redraw(); };
  model.on("change:panels", rebuild);
  model.on("change:marks", remark);
  const watch = new ResizeObserver(redraw);
  watch.observe(root);
  rebuild();
  return () => { watch.disconnect(); model.off("change:panels", rebuild); model.off("change:marks", remark); };
}
export default { render };
