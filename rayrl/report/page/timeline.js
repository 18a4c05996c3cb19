// Roles on one time axis, with a zoom to single steps.

const ACTIVITY_COLORS = { generate: "blue", learn: "orange", score: "green", weights: "violet", evaluate: "grey", save: "red", reference: "red" };

function timelineTraces(line) {
  const traces = new Map();
  for (const [role, activity, start, end] of line.bars) {
    const waits = activity.startsWith("wait");
    if (!traces.has(activity)) traces.set(activity, { x: [], y: [], text: [], name: activity, mode: "lines", type: "scatter", hoverinfo: "text", connectgaps: false,
      line: { width: waits ? 3 : 13, color: color(waits ? "line" : ACTIVITY_COLORS[activity] ?? "grey") } });
    const trace = traces.get(activity), text = `${activity} ${(end - start).toFixed(3)} s`;
    trace.x.push(start, (start + end) / 2, end, null);
    trace.y.push(role, role, role, null);
    trace.text.push(text, text, text, "");
  }
  return [...traces.values()];
}

function drawTimelines(data) {
  for (const run of data.runs) {
    const line = run.timeline;
    if (!line.bars.length) continue;
    const node = el("div", { className: "plot", style: { height: 46 + 30 * line.roles.length + "px" } });
    const end = Math.max(...line.bars.map(bar => bar[3]));
    const marks = run.events.filter(e => ["saved", "replaced", "failed", "interrupted", "resumed"].includes(e[2])).map(e => [e[0] - line.origin, e[2]]);
    plot(node, () => [timelineTraces(line), layout({ hovermode: "closest", dragmode: "zoom",
      xaxis: { range: [0, end], title: { text: "seconds", font: { size: 11, color: color("dim") } } },
      yaxis: { tickvals: line.roles.map((_, i) => i), ticktext: line.roles.map(clip), range: [line.roles.length - 0.4, -0.6], fixedrange: true, showgrid: false, nticks: undefined },
      shapes: marks.map(([x, kind]) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { width: 1, dash: "dot", color: color(kind === "saved" || kind === "resumed" ? "grey" : "red") } })) })]);
    const ends = line.steps, zoom = (a, b) => Plotly.relayout(node, { "xaxis.range": [a, b] });
    const toStep = i => { if (ends[i]) { const from = i ? ends[i - 1][1] : 0, margin = 0.03 * (ends[i][1] - from); zoom(from - margin, ends[i][1] + margin); number.value = ends[i][0]; } };
    const lengths = ends.map(([, t], i) => (i > 1 ? t - ends[i - 1][1] : 0)), slowest = lengths.indexOf(Math.max(...lengths));
    const number = el("input", { type: "number", placeholder: "step", "aria-label": "zoom to step", onchange: () => toStep(ends.findIndex(([s]) => s === Number(number.value))) });
    const activities = [...new Set(line.bars.map(bar => bar[1]))].filter(a => !a.startsWith("wait"));
    byId("timelines").append(
      el("h3", {}, data.runs.length > 1 ? `Timeline of ${run.name}` : "Timeline"),
      el("div", { className: "zoom" }, el("button", { type: "button", onclick: () => zoom(0, end) }, "whole run"),
        ...(ends.length > 2 ? [el("button", { type: "button", onclick: () => toStep(slowest) }, "slowest step"), el("button", { type: "button", onclick: () => toStep(ends.length - 2) }, "a late step"), number] : []),
        el("span", { className: "dim" }, "or drag over it")),
      el("div", { className: "legend" }, ...activities.map(a => el("span", {}, el("i", { style: { background: `var(--${ACTIVITY_COLORS[a] ?? "grey"})` } }), a)),
        el("span", {}, el("i", { style: { background: "var(--line)", height: ".2rem", verticalAlign: "3px" } }), "driver waits")),
      node);
  }
}
