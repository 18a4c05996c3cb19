// One trajectory: what was asked, what was written token by token, what each token was worth, who said so, and its relatives.

const COLORINGS = ["advantage", "log-prob gap", "surprise", "weight version", "reward"];
let coloring = 0;

const VERSION_TINTS = ["blue", "orange", "violet", "green"];

/** For every token of the sequence the place among action tokens, or -1. */
function actionPlaces(d) {
  const places = new Int32Array(d.tokens.length).fill(-1);
  let next = 0;
  for (let i = 0; i < d.acts.length; i += 2) for (let t = d.acts[i]; t < d.acts[i + 1]; t++) places[t] = next++;
  return places;
}

const at = (values, place) => (Array.isArray(values) ? values[place] : values) ?? null;

function versionAt(d, token) {
  for (let i = 0; i < d.spans.length; i += 3) if (token >= d.spans[i + 1] && token < d.spans[i + 2]) return d.spans[i];
  return null;
}

/** The reward of a token: of its turn where a component scores turns, else of the whole trajectory. */
function rewardAt(d, token) {
  const stepped = d.rewards.find(r => r.step_values && r.step_values.length);
  if (stepped) {
    const turn = d.turns.findIndex((_, i) => i % 2 === 0 && token >= d.turns[i] && token < d.turns[i + 1]);
    return stepped.step_values[Math.max(0, turn / 2)] ?? null;
  }
  return d.reward;
}

/** [value of a token, colour of a value, legend] of the present colouring. */
function shading(d, places) {
  const gaps = d.behavior.map((b, i) => (d.learner.length ? Math.abs(d.learner[i] - b) : null));
  const largest = values => Math.max(1e-9, ...values.filter(v => v !== null).map(Math.abs));
  const diverging = scale => v => `rgba(var(--${v >= 0 ? "blue" : "orange"}-rgb), ${(0.06 + 0.5 * Math.min(1, Math.abs(v) / scale)).toFixed(3)})`;
  switch (COLORINGS[coloring]) {
    case "advantage": {
      const scale = Math.max(1, largest([d.advantages].flat()));
      return [t => at(d.advantages, places[t]), diverging(scale), `blue: better than expected, orange: worse (full at ±${short(scale)})`];
    }
    case "log-prob gap": {
      const scale = Math.max(1e-3, largest(gaps));
      return [t => gaps[places[t]], v => `rgba(var(--violet-rgb), ${(0.55 * Math.min(1, v / scale)).toFixed(3)})`, `|learner − engine|, full at ${short(scale)} nats; largest ${short(largest(gaps))}`];
    }
    case "surprise":
      return [t => -d.behavior[places[t]], v => `rgba(var(--violet-rgb), ${(0.55 * Math.min(1, v / 3)).toFixed(3)})`, "−log-prob when it was sampled, full at 3 nats"];
    case "weight version": {
      const versions = [...new Set(d.spans.filter((_, i) => i % 3 === 0))];
      return [t => versionAt(d, t), v => `rgba(var(--${VERSION_TINTS[versions.indexOf(v) % VERSION_TINTS.length]}-rgb), .22)`, `sampled under version${versions.length > 1 ? "s" : ""} ${versions.join(", ")}`];
    }
    default: {
      const scale = Math.max(1, Math.abs(d.reward ?? 0));
      return [t => rewardAt(d, t), diverging(scale), d.rewards.some(r => r.step_values?.length) ? "reward of the turn" : "reward of the whole trajectory"];
    }
  }
}

function tokenBlock(d) {
  const places = actionPlaces(d), [value, tint, legend] = shading(d, places);
  const readout = el("div", { className: "readout" }, legend);
  const block = el("div", { className: "text tokens" });
  const known = [d.advantages].flat().length || d.behavior.length;
  let context = "";
  const flush = () => { if (context) block.append(el("span", { className: "context" }, context)); context = ""; };
  d.tokens.forEach((token, t) => {
    const place = places[t];
    if (place < 0) { context += token; return; }
    flush();
    const v = known ? value(t) : null;
    const node = el("span", { className: "token", style: v === null || Number.isNaN(v) ? {} : { background: tint(v) } }, token === "" ? "∅" : token.replace(/\n/g, "⏎\n"));
    node.dataset.t = t;
    block.append(node);
  });
  flush();
  block.addEventListener("mouseover", event => {
    const t = event.target.dataset?.t;
    if (t === undefined) return;
    const p = places[t], learner = d.learner[p];
    readout.textContent = `token ${t} · log-prob ${short(d.behavior[p])}` + (learner !== undefined ? ` · learner ${short(learner)}` : "")
      + (at(d.advantages, p) !== null ? ` · advantage ${signed(at(d.advantages, p))}` : "") + ` · weights ${versionAt(d, t) ?? "?"}`;
  });
  block.addEventListener("mouseleave", () => { readout.textContent = legend; });
  return [block, readout];
}

function fact(name, value) { return el("span", {}, el("i", {}, name), " ", el("b", {}, value)); }

function lineage(d) {
  const versions = [];
  for (let i = 0; i < d.spans.length; i += 3) versions.push(`${d.spans[i]} (tokens ${d.spans[i + 1]}–${d.spans[i + 2]})`);
  const rows = d.rewards.map(r => el("tr", {},
    el("td", {}, r.component), el("td", { className: "n" }, r.value === undefined || r.value === null ? r.status : short(r.value)),
    el("td", {}, r.producer || "unnamed", r.producer_version ? el("span", { className: "dim", title: "prompt template / question, or version" }, " " + r.producer_version) : null),
    el("td", { className: "n dim" }, r.latency_s ? short(1000 * r.latency_s) + " ms" : ""), el("td", { className: "n dim" }, r.cost_usd ? "$" + r.cost_usd.toPrecision(2) : ""),
    el("td", { className: "bad" }, r.error ?? "")));
  const answers = d.rewards.filter(r => r.answer).map(r => el("div", {}, el("h4", {}, `${r.component}: what ${r.producer || "it"} answered`), el("pre", { className: "text" }, r.answer)));
  const judged = (d.judged ?? []).map(j => el("details", { className: "judged" },
    el("summary", {}, `${j.model}: `, el("b", {}, j.verdict), j.other ? el("span", { className: "mono" }, " " + j.other.replace(/\s+/g, " ").slice(0, 80)) : null, j.cost_usd ? ` · $${j.cost_usd.toPrecision(2)}` : ""),
    el("pre", { className: "text" }, j.answer)));
  return [el("div", { className: "facts-line" }, fact("weights", versions.join(", ") || "unknown"), fact("trained as version", d.version ?? "–"), fact("status", d.kept ? "trained on" : `not trained on: ${d.reason || "unknown"}`)),
    rows.length ? el("div", { className: "scroll" }, el("table", {}, el("tbody", {}, ...rows))) : el("p", { className: "quiet" }, "No reward records."), ...answers,
    ...(judged.length ? [el("h4", {}, "What a judge said of this text"), ...judged] : [])];
}


/** Class of a number: better or worse than expected. */
const moodOf = advantage => (advantage > 1e-6 ? "up" : advantage < -1e-6 ? "down" : "");

function verdict(value) { return value === null || Number.isNaN(value) ? "–" : short(value); }

/** ``relatives``: {group: [[row, detail]], same: [[row, detail]]}; ``open(row)`` shows another one. */
function showTrajectory(place, d, row, relatives, open) {
  const copy = el("button", { type: "button", title: "copy the id (y)", onclick: () => copyId(d, copy) }, d.id);
  const select = el("select", { "aria-label": "colour tokens by", onchange: () => { coloring = select.selectedIndex; showTrajectory(place, d, row, relatives, open); } },
    ...COLORINGS.map((name, i) => el("option", { selected: i === coloring }, name)));
  const [block, readout] = tokenBlock(d);
  const cards = relatives.group.map(([other, o]) => el("button", { type: "button", className: "card" + (other === row ? " open" : ""), onclick: () => open(other) },
    el("b", { className: moodOf(o.advantage) }, verdict(o.reward)), el("span", { className: "dim" }, ` · ${o.behavior.length} tokens${o.kept ? "" : " · " + (o.reason || "left out")}`), el("pre", {}, o.text || "(nothing)")));
  const same = relatives.same.map(([other, o]) => el("tr", { onclick: () => open(other), style: { cursor: "pointer" } },
    el("td", { className: "n dim" }, `step ${o.step}`), el("td", { className: "n" }, el("b", { className: moodOf(o.advantage) }, verdict(o.reward))), el("td", { className: "mono" }, o.text)));
  const scroll = place.scrollTop;
  place.replaceChildren(
    el("div", { className: "facts-line" }, el("span", {}, copy), fact("step", d.step), fact("reward", verdict(d.reward)), fact("advantage", d.advantage === null ? "–" : signed(d.advantage)),
      fact("tokens", d.behavior.length), fact("stale", d.staleness ?? "–"), fact("ended by", d.finish), fact("task", d.task)),
    el("h4", {}, "Prompt"), el("pre", { className: "text" }, d.prompt || "(none)"),
    ...(d.truth === null || d.truth === undefined ? [] : [el("p", { className: "quiet" }, "expected: ", el("b", {}, d.truth))]),
    el("h4", {}, "Written, coloured by", select), block, readout,
    el("h4", {}, "Who rewarded it"), ...lineage(d),
    ...(cards.length > 1 ? [el("h4", {}, `Its group of ${cards.length}`), el("div", { className: "group" }, ...cards)] : []),
    ...(same.length > 1 ? [el("h4", {}, "The same prompt over training"), el("div", { className: "scroll" }, el("table", {}, el("tbody", {}, ...same)))] : []),
    ...(d.metadata ? [el("h4", {}, "Metadata"), el("pre", { className: "text" }, typeof d.metadata === "string" ? d.metadata : JSON.stringify(d.metadata, null, 1))] : []));
  place.scrollTop = scroll;
}

function copyId(d, button) {
  const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = d.id; }, 900); };
  if (navigator.clipboard?.writeText) navigator.clipboard.writeText(d.id).then(done, () => selectText(button));
  else selectText(button);
}

/** Where nothing may be copied for the reader, at least it is marked. */
function selectText(node) { getSelection().selectAllChildren(node); }
