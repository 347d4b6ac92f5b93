const plotly = (async packed => {
  const bytes = Uint8Array.from(atob(packed), byte => byte.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  const textContent = await new Response(stream).text();
  document.head.append(Object.assign(document.createElement('script'), {textContent}));
})(packedPlotly);
plotly.catch(() => document.documentElement.classList.add('no-figures'));

const draw = (name, {data, layout}) => plotly.then(() => {
  const place = document.getElementById(name);
  const config = {responsive: true, displaylogo: false};
  if (place.clientWidth >= 560) { return Plotly.newPlot(place, data, layout, config); }
  return Plotly.newPlot(place, data.map(unlabelled), narrowed(layout), config);
}, () => {});

// Points without their names, which stand in the table and come up where one points.
const unlabelled = trace => trace.mode === 'markers+text' ? {...trace, mode: 'markers'} : trace;

// Long titles of axes in lines, and panels that stand side by side one below the other.
const narrowed = layout => {
  const axes = Object.keys(layout).filter(key => /^[xy]axis/.test(key)).map(key => layout[key]);
  for (const {title} of axes) {
    if (title?.text?.length > 36) { title.text = title.text.replace(/(.{20,36}) /g, '$1<br>'); }
  }
  const panels = Object.keys(layout).filter(key => key.startsWith('xaxis') && layout[key].domain)
    .map(key => ({x: layout[key], y: layout[key.replace('x', 'y')]}))
    .sort((a, b) => a.x.domain[0] - b.x.domain[0] || b.y.domain[0] - a.y.domain[0]);
  if (new Set(panels.map(({x}) => x.domain[0])).size < 2) { return layout; }
  const {t, b} = layout.margin, gap = 84, area = layout.height - t - b;
  const heights = panels.map(({y}) => (y.domain[1] - y.domain[0]) * area);
  const whole = heights.reduce((sum, height) => sum + height, gap * (panels.length - 1));
  let top = whole;
  panels.forEach(({x, y}, i) => {
    const [middle, end] = [(x.domain[0] + x.domain[1]) / 2, y.domain[1]];
    for (const note of layout.annotations ?? []) {
      const isTitle = Math.abs(note.x - middle) + Math.abs(note.y - end) < 1e-6;
      if (note.xref === 'paper' && isTitle && !note.moved) {
        Object.assign(note, {x: 0.5, y: top / whole, moved: true});
      }
    }
    Object.assign(x, {domain: [0, 1], showticklabels: true});
    Object.assign(y, {domain: [(top - heights[i]) / whole, top / whole], showticklabels: true});
    top -= heights[i] + gap;
  });
  const legend = layout.legend && {...layout.legend, x: 0, xanchor: 'left', y: 1 + 26 / whole};
  return {...layout, legend, height: whole + t + b};
};
