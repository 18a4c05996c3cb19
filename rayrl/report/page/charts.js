// Curves: raw values faint, smoothed values strong, the spread of seeds as a band, names written at the ends of the lines.

const FAMILY_COLORS = ["blue", "orange", "green", "violet", "red", "grey"];
const DASHES = ["solid", "dot", "dash", "dashdot", "longdash"];

function layout(extra = {}) {
  const axis = { gridcolor: color("faint"), linecolor: color("line"), zeroline: false, tickfont: { size: 11, color: color("dim") }, automargin: true };
  const { xaxis, yaxis, ...rest } = extra;
  return {
    margin: { l: 8, r: 10, t: 6, b: 26 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: color("ink") },
    hovermode: "x unified", hoverlabel: { bgcolor: color("paper"), bordercolor: color("line"), font: { size: 12, color: color("ink") } },
    xaxis: { ...axis, showgrid: false, showline: true, ticks: "outside", ticklen: 3, tickcolor: color("line"), nticks: 6, ...xaxis },
    yaxis: { ...axis, nticks: 5, ...yaxis }, ...rest,
  };
}

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };

/** Plotly is large and takes a second to begin; texts, tables and trajectories are there before. No chart is drawn until `drawCharts()`. */
let drawCharts;
const plotlyIsThere = new Promise(resolve => { drawCharts = resolve; });

function loadPlotly() {
  return new Promise((resolve, reject) => document.head.append(
    el("script", { src: "/plotly.js", onload: resolve, onerror: () => reject(new Error("/plotly.js cannot be loaded")) })));
}

/** Draws when it comes near the window, and again in other colours. ``build`` gives [traces, layout]. */
function plot(node, build) {
  let seen = false;
  const draw = () => { if (seen) plotlyIsThere.then(() => Plotly.react(node, ...build(), CONFIG)); };
  new IntersectionObserver((entries, observer) => {
    if (entries.some(e => e.isIntersecting)) { observer.disconnect(); seen = true; draw(); }
  }, { rootMargin: "400px" }).observe(node);
  themed.push(draw);
  return draw;
}

function card(title, note, wide = false) {
  const node = el("div", { className: "plot" });
  const outer = el("figure", { className: "chart" + (wide ? " wide tall" : ""), style: { margin: 0 } },
    el("figcaption", { className: "title" }, title, el("span", {}, note || "\u00a0")), node);
  return [outer, node];
}

/** Exponential moving average with bias correction; gaps stay gaps. */
function smooth(values, weight) {
  let sum = 0, norm = 0;
  return values.map(v => {
    if (v === null || Number.isNaN(v)) return null;
    sum = weight * sum + (1 - weight) * v; norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** Mean, lowest and highest of several [steps, values] on the union of their steps. */
function spread(lines) {
  const at = new Map();
  for (const [steps, values] of lines) steps.forEach((s, i) => {
    if (values[i] === null) return;
    if (!at.has(s)) at.set(s, []);
    at.get(s).push(values[i]);
  });
  const steps = [...at.keys()].sort((a, b) => a - b);
  const all = steps.map(s => at.get(s));
  return { steps, mean: all.map(v => v.reduce((a, b) => a + b) / v.length), low: all.map(v => Math.min(...v)), high: all.map(v => Math.max(...v)) };
}

function rgba(name, alpha) { return `rgba(${color(name + "-rgb") || "128,128,128"}, ${alpha})`; }

/** Families of runs: those that differ in the seed alone. */
function familiesOf(runs) {
  const found = new Map();
  runs.forEach(run => found.set(run.family, [...(found.get(run.family) ?? []), run]));
  return [...found.values()].map((members, i) => ({ members, color: FAMILY_COLORS[i % FAMILY_COLORS.length],
    name: members.length > 1 ? `${members[0].group} × ${members.length}` : members[0].name }));
}

function curveTraces(chart, families, smoothing) {
  const traces = [], ends = [];
  const single = families.length === 1;
  families.forEach((family, f) => chart.lines.forEach(([key, label], k) => {
    const lines = family.members.map(run => run.series[key]).filter(Boolean);
    if (!lines.length) return;
    const name = single ? FAMILY_COLORS[k % FAMILY_COLORS.length] : family.color;
    const dash = single ? "solid" : DASHES[k % DASHES.length];
    const few = Math.max(...lines.map(([steps]) => steps.length)) <= 12;
    const weight = few ? 0 : smoothing;
    const smoothed = lines.map(([steps, values]) => [steps, smooth(values, weight)]);
    const { steps, mean, low, high } = lines.length > 1 ? spread(smoothed) : { steps: smoothed[0][0], mean: smoothed[0][1] };
    const text = single || (label && chart.lines.length > 1) ? label : family.name;  // colours tell families apart, dashes the lines of one
    if (low) traces.push(
      { x: steps, y: low, mode: "lines", line: { width: 0 }, hoverinfo: "skip" },
      { x: steps, y: high, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: rgba(name, 0.16), hoverinfo: "skip" });
    else if (weight > 0) traces.push({ x: lines[0][0], y: lines[0][1], mode: "lines", line: { width: 1, color: rgba(name, 0.28) }, hoverinfo: "skip" });
    traces.push({ x: steps, y: mean, mode: few ? "lines+markers" : "lines", name: clip(text || chart.title), line: { width: 2, color: color(name), dash }, marker: { size: 5 },
      hovertemplate: "%{y:" + (chart.unit === "share" ? ".1%" : ".4~g") + "}" });
    let last = mean.length - 1;
    while (last > 0 && mean[last] === null) last--;
    ends.push({ x: steps[last], y: mean[last], text, color: color(name) });
  }));
  return [traces, ends];
}

const PLOT_PX = 165, LABEL_PX = 12;

/** Names at the right ends of the lines, pushed apart as far as none covers another. */
function endLabels(ends, traces, chart) {
  const named = ends.filter(end => end.text && end.y !== null && (!chart.log || end.y > 0));
  if (ends.length < 2 || !named.length) return [];
  const scale = y => (chart.log ? Math.log10(y) : y);
  const all = traces.flatMap(t => t.y).filter(v => v !== null && !Number.isNaN(v) && (!chart.log || v > 0)).map(scale);
  const low = chart.unit === "share" ? 0 : Math.min(...all), px = PLOT_PX / (Math.max(...all) - low || 1);
  named.sort((a, b) => a.y - b.y);
  let below = -Infinity;
  return named.map(end => {
    const own = (scale(end.y) - low) * px, place = Math.max(own, below + LABEL_PX);
    below = place;
    return { x: 1, xref: "paper", xanchor: "left", xshift: 4, y: scale(end.y), yref: "y", yshift: place - own, text: clip(end.text), showarrow: false, font: { size: 11, color: end.color } };
  });
}

const clip = text => (text.length > 24 ? text.slice(0, 23) + "…" : text).replace(/[<>&]/g, c => ({ "<": "‹", ">": "›", "&": "＆" })[c]);

/** Plain numbers where they are readable, thousands with a suffix, tiny ones with an exponent. */
function scaleOf(traces, chart) {
  if (chart.unit === "share") return { tickformat: ".0%", rangemode: "tozero" };
  const largest = Math.max(0, ...traces.flatMap(t => t.y).filter(v => v !== null).map(Math.abs));
  return { tickformat: largest >= 1000 ? "~s" : largest < 1e-3 ? ".1e" : ".4~g" };
}

/** A logarithmic axis only where the values need one. */
function spansDecades(chart, runs) {
  const values = runs.flatMap(run => chart.lines.flatMap(([key]) => run.series[key]?.[1] ?? [])).filter(v => v > 0);
  return values.length > 0 && Math.max(...values) > 100 * Math.min(...values);
}

const isZero = (chart, runs) => runs.every(run => chart.lines.every(([key]) => (run.series[key]?.[1] ?? []).every(v => !v)));

function curve(chart, families, smoothing) {
  const [outer, node] = card(chart.title, [chart.unit === "share" ? "" : chart.unit, chart.note].filter(Boolean).join(", "));
  const draw = plot(node, () => {
    const [traces, ends] = curveTraces(chart, families, smoothing());
    const annotations = endLabels(ends, traces, chart);
    const room = annotations.length ? 12 + 6.2 * Math.max(...annotations.map(a => a.text.length)) : 10;
    const yaxis = { ...scaleOf(traces, chart), ...(chart.log ? { type: "log", tickformat: ".0e", nticks: 4 } : {}) };
    return [traces, layout({ annotations, margin: { l: 8, r: room, t: 6, b: 26 }, xaxis: { tickformat: "d" }, yaxis })];
  });
  return [outer, draw];
}

function drawCurves(data) {
  const families = familiesOf(data.runs), slider = byId("smoothing"), redraw = [];
  for (const place of document.querySelectorAll("[data-section]")) {
    const charts = data.charts.filter(c => c.section === place.dataset.section), silent = charts.filter(c => isZero(c, data.runs));
    if (silent.length) place.after(el("p", { className: "quiet" }, "Zero throughout: " + silent.map(c => c.title.toLowerCase()).join(", ") + "."));
    for (const chart of charts.filter(c => !silent.includes(c))) {
      chart.log &&= spansDecades(chart, data.runs);
      const [outer, draw] = curve(chart, families, () => Number(slider.value));
      place.append(outer);
      redraw.push(draw);
    }
  }
  slider.addEventListener("input", () => redraw.forEach(draw => draw()));
  if (families.length > 1) document.querySelector("#learning .head").after(el("div", { className: "legend" },
    ...families.map(f => el("span", {}, el("i", { style: { background: `var(--${f.color})` } }), f.name))));
}

/** Length against reward, early samples pale and late ones strong; and the reward beside the held-out accuracy. */
function drawTrust(data) {
  const place = byId("trust"), families = familiesOf(data.runs);
  if (data.runs.some(run => run.trust.length.length)) {
    const [outer, node] = card("Length against reward", "one dot per sample; late steps are darker");
    plot(node, () => [data.runs.map((run, i) => ({ x: run.trust.length, y: run.trust.reward.map((r, j) => r + 0.02 * (((j * 7919) % 13) / 13 - 0.5)), mode: "markers", name: clip(run.name),
      marker: { size: 5, opacity: 0.55, color: data.runs.length > 1 ? color(FAMILY_COLORS[i % FAMILY_COLORS.length]) : run.trust.step,
        colorscale: [[0, rgba("blue", 0.15)], [1, color("blue")]] },
      hovertemplate: "%{x} tokens, reward %{y:.3~g}<extra></extra>" })),
    layout({ hovermode: "closest", xaxis: { title: { text: "tokens", font: { size: 11, color: color("dim") } } }, yaxis: { title: { text: "reward", font: { size: 11, color: color("dim") } } } })]);
    place.append(outer);
  }
  if (data.runs.some(run => run.series["eval/accuracy"] && run.series["reward/mean"])) {
    const chart = { title: "Proxy against gold", unit: "", note: "reward trained on, held-out accuracy", lines: [["reward/mean", "reward"], ["eval/accuracy", "held-out"]] };
    place.append(curve(chart, families, () => Number(byId("smoothing").value))[0]);
  }
}

function drawMemory(data) {
  for (const run of data.runs) {
    const keys = Object.keys(run.series).filter(key => key.startsWith("memory/") || key === "store/used_bytes").sort();
    if (!keys.length) continue;
    const scaled = { ...run, series: Object.fromEntries(keys.map(key => [key, [run.series[key][0], run.series[key][1].map(b => b / 2 ** 30)]])) };
    const lines = keys.map(key => [key, key === "store/used_bytes" ? "object store" : key.slice("memory/".length).replace(/_bytes$/, "")]);
    byId("memory").append(curve({ title: data.runs.length > 1 ? run.name : "Resident memory by role", unit: "GiB", note: "", lines }, familiesOf([scaled]), () => 0)[0]);
  }
}
