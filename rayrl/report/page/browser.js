// The trajectory browser: filter, sort and walk through up to some hundred thousand rows, which live in typed columns.

const ROW = 46;

/** All runs' columns as one table. */
function mergeTables(tables) {
  const n = tables.reduce((sum, t) => sum + t.n, 0);
  const join = (Type, of) => { const out = new Type(n); let at = 0; for (const t of tables) { const part = of(t); if (part) out.set(part, at); else if (Type === Float32Array) out.fill(NaN, at, at + t.n); at += t.n; } return out; };
  const table = { n, run: join(Uint8Array, t => typed(t.run, t.payload)), row: join(Int32Array, t => typed(t.row, t.payload)), components: {}, texts: {} };
  for (const name of ["step", "version", "ordinal", "sample", "staleness", "length"]) table[name] = join(Int32Array, t => typed(t.numbers[name], t.payload));
  for (const name of ["reward", "advantage", "gap"]) table[name] = join(Float32Array, t => typed(t.numbers[name], t.payload));
  table.kept = join(Uint8Array, t => typed(t.numbers.kept, t.payload));
  for (const name of new Set(tables.flatMap(t => Object.keys(t.components))))
    table.components[name] = join(Float32Array, t => (t.components[name] ? typed(t.components[name], t.payload) : null));
  for (const name of ["task", "finish", "reason", "prompt"]) {
    const labels = [], known = new Map();
    const codes = join(Int32Array, t => {
      const own = t.texts[name].labels.map(label => { if (!known.has(label)) { known.set(label, labels.length); labels.push(label); } return known.get(label); });
      return typed(t.texts[name].codes, t.payload).map(code => (code < 0 ? -1 : own[code]));
    });
    table.texts[name] = { codes, labels };
  }
  return table;
}

class Browser {
  /** ``details(i)`` and ``search(text)`` are promises: of a trajectory's detail, and of the rows whose texts hold a text. */
  constructor(table, runs, details, search) {
    Object.assign(this, { table, runs, details, search, open: -1, orders: new Map(), found: null, ask: 0 });
    this.list = byId("list"); this.rows = byId("rows"); this.detail = byId("detail");
    this.natural = new Int32Array(table.n).map((_, i) => i);
    this.buildFilters();
    this.list.addEventListener("scroll", () => this.paint());
    this.filter();
    if (this.view.length) {
      const first = this.firstTelling();
      this.list.scrollTop = Math.max(0, first * ROW - this.list.clientHeight / 2);
      this.show(this.view[first]);
    }
    else this.detail.append(el("p", { className: "empty" }, table.n ? "Nothing matches." : "No trajectories."));
  }

  /** Something worth a first look: a late group whose rewards differ. */
  firstTelling() {
    const { reward, ordinal } = this.table, differs = (i, j) => ordinal[i] === ordinal[j] && Math.abs(reward[i] - reward[j]) > 0;
    for (let v = this.view.length - 1; v > 0; v--) if (differs(this.view[v], this.view[v - 1])) return v;
    return 0;
  }

  columns() {
    const t = this.table, named = { step: t.step, reward: t.reward, advantage: t.advantage, length: t.length, staleness: t.staleness, "log-prob gap": t.gap };
    return { ...named, ...Object.fromEntries(Object.entries(t.components).map(([name, values]) => ["· " + name, values])) };
  }

  buildFilters() {
    const again = () => this.filter(), option = text => el("option", {}, text);
    const select = (name, labels) => labels.length > 1 ? el("label", {}, name, this[name] = el("select", { name, onchange: again }, option("all"), ...labels.map(option))) : null;
    const t = this.table;
    this.text = el("input", { type: "search", placeholder: "text", name: "text", oninput: () => this.searchText() });
    this.field = el("select", { name: "field", "aria-label": "which number", onchange: again }, ...Object.keys(this.columns()).map(option));
    this.low = el("input", { type: "number", step: "any", placeholder: "from", name: "low", "aria-label": "from", oninput: again });
    this.high = el("input", { type: "number", step: "any", placeholder: "to", name: "high", "aria-label": "to", oninput: again });
    this.stepLow = el("input", { type: "number", placeholder: "from", name: "step-low", "aria-label": "from step", oninput: again });
    this.stepHigh = el("input", { type: "number", placeholder: "to", name: "step-high", "aria-label": "to step", oninput: again });
    this.sort = el("select", { name: "sort", onchange: again }, ...Object.keys(this.columns()).flatMap(name => [option(name + " ↑"), option(name + " ↓")]));
    this.field.selectedIndex = 1;
    const status = ["trained on", "not trained on", ...t.texts.reason.labels.map(reason => "· " + reason)];
    const anyDropped = t.kept.some(k => !k);
    byId("filters").append(...[
      el("label", {}, "text contains", this.text), select("run", this.runs.map(run => run.name)), select("task", t.texts.task.labels), select("finish", t.texts.finish.labels),
      anyDropped ? select("status", status) : null,
      el("label", {}, "step", el("span", { className: "range" }, this.stepLow, this.stepHigh)), el("label", {}, "number", this.field), el("label", {}, "between", el("span", { className: "range" }, this.low, this.high)),
      el("label", {}, "sort by", this.sort),
      el("button", { type: "button", name: "clear", onclick: () => this.clear() }, "clear")].filter(Boolean));
  }

  clear() {
    for (const input of byId("filters").querySelectorAll("input")) input.value = "";
    for (const name of ["run", "task", "finish", "status"]) if (this[name]) this[name].selectedIndex = 0;
    this.found = null;
    this.filter();
  }

  async searchText() {
    const ask = ++this.ask, text = this.text.value;
    const found = text ? await this.search(text) : null;
    if (ask !== this.ask) return;  // a later question is under way
    this.found = found;
    this.filter();
  }

  /** Rows in the order of the sort, computed once per sort. */
  order() {
    const name = this.sort.value;
    if (!this.orders.has(name)) {
      const values = this.columns()[name.slice(0, -2)], down = name.endsWith("↓") ? -1 : 1;
      const key = i => (Number.isNaN(values[i]) ? Infinity : down * values[i]);
      this.orders.set(name, name === "step ↑" ? this.natural : Int32Array.from(this.natural).sort((a, b) => key(a) - key(b) || a - b));
    }
    return this.orders.get(name);
  }

  filter() {
    const began = performance.now(), t = this.table, chosen = name => (this[name] ? this[name].selectedIndex - 1 : -1);
    const run = chosen("run"), task = chosen("task"), finish = chosen("finish"), status = chosen("status");
    const limit = (input, otherwise) => (input.value === "" ? otherwise : Number(input.value));
    const low = limit(this.low, -Infinity), high = limit(this.high, Infinity), bounded = low > -Infinity || high < Infinity;
    const stepLow = limit(this.stepLow, -Infinity), stepHigh = limit(this.stepHigh, Infinity), values = this.columns()[this.field.value];
    const { texts: { task: { codes: tasks }, finish: { codes: finishes }, reason: { codes: reasons } }, found } = { ...t, found: this.found };
    const view = new Int32Array(t.n);
    let n = 0;
    for (const i of this.order()) {
      if (run >= 0 && t.run[i] !== run) continue;
      if (task >= 0 && tasks[i] !== task) continue;
      if (finish >= 0 && finishes[i] !== finish) continue;
      if (status === 0 && !t.kept[i] || status === 1 && t.kept[i] || status > 1 && reasons[i] !== status - 2) continue;
      if (t.step[i] < stepLow || t.step[i] > stepHigh) continue;
      if (bounded && !(values[i] >= low && values[i] <= high)) continue;
      if (found && !found.has(i)) continue;
      view[n++] = i;
    }
    this.view = view.subarray(0, n);
    this.rows.style.height = n * ROW + "px";
    this.list.scrollTop = 0;
    this.paint();
    const total = this.runs.reduce((sum, r) => sum + r.total, 0);
    byId("shown").textContent = (n === t.n ? "" : `${n.toLocaleString("en")} of `) + `${t.n.toLocaleString("en")} trajectories` + (t.n < total ? `, sampled from ${total.toLocaleString("en")} (all of them: rayrl view)` : "");
    this.took = performance.now() - began;
  }

  paint() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 4), last = Math.min(this.view.length, first + Math.ceil(this.list.clientHeight / ROW) + 8);
    const nodes = [];
    for (let v = first; v < last; v++) nodes.push(this.rowNode(this.view[v], v));
    this.rows.replaceChildren(...nodes);
  }

  rowNode(i, v) {
    const t = this.table, reason = t.kept[i] ? "" : t.texts.reason.labels[t.texts.reason.codes[i]] ?? "left out", finish = t.texts.finish.labels[t.texts.finish.codes[i]] ?? "";
    const prompt = t.texts.prompt.labels[t.texts.prompt.codes[i]] ?? "";
    return el("div", { className: "row" + (i === this.open ? " open" : "") + (reason ? " dropped" : ""), role: "option", style: { top: v * ROW + "px" }, onclick: () => this.show(i) },
      el("span", { className: "value " + moodOf(t.advantage[i]) }, verdict(t.reward[i])), el("span", { className: "what mono" }, prompt.replace(/\s+/g, " ")),
      el("span", { className: "facts" }, `step ${t.step[i]}`, el("br"), reason || `${t.length[i]} tokens${finish && finish !== "stop" ? " · " + finish : ""}`));
  }

  /** Rows of the same run for which ``same`` holds. */
  rowsWhere(i, same) {
    const t = this.table, found = [];
    for (let j = 0; j < t.n; j++) if (t.run[j] === t.run[i] && same(j)) found.push(j);
    return found;
  }

  group(i) { const t = this.table; return this.rowsWhere(i, j => t.ordinal[j] === t.ordinal[i] && t.step[j] === t.step[i]); }

  samePrompt(i) {
    const t = this.table, code = t.texts.prompt.codes[i];
    const rows = code < 0 ? [] : this.rowsWhere(i, j => t.texts.prompt.codes[j] === code), byOrdinal = new Map();
    for (const j of rows) if (!byOrdinal.has(t.ordinal[j]) || j === i) byOrdinal.set(t.ordinal[j], j);  // one of each time it was asked
    return [...byOrdinal.values()].slice(0, 30);
  }

  async show(i) {
    this.open = i;
    this.paint();
    const fetch = async rows => Promise.all(rows.map(async j => [j, await this.details(j)]));
    const d = await this.details(i);
    if (this.open !== i) return;
    if (!d) { this.detail.replaceChildren(el("p", { className: "empty" }, "This trajectory cannot be read.")); return; }
    const relatives = { group: (await fetch(this.group(i))).filter(([, o]) => o), same: (await fetch(this.samePrompt(i))).filter(([, o]) => o) };
    if (this.open === i) { this.current = d; showTrajectory(this.detail, d, i, relatives, j => this.show(j)); }
  }

  /** Moves by so many rows of the list. */
  move(by) {
    if (!this.view.length) return;
    const v = clamp(this.view.indexOf(this.open) + by, 0, this.view.length - 1), top = v * ROW;
    if (top < this.list.scrollTop || top + ROW > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top - this.list.clientHeight / 2;
    this.show(this.view[v]);
  }

  moveInGroup(by) {
    if (this.open < 0) return;
    const group = this.group(this.open), v = group.indexOf(this.open) + by;
    if (v >= 0 && v < group.length) this.show(group[v]);
  }

  onKey(key) {
    const acts = { j: () => this.move(1), ArrowDown: () => this.move(1), k: () => this.move(-1), ArrowUp: () => this.move(-1), h: () => this.moveInGroup(-1), ArrowLeft: () => this.moveInGroup(-1),
      l: () => this.moveInGroup(1), ArrowRight: () => this.moveInGroup(1), c: () => { coloring = (coloring + 1) % COLORINGS.length; if (this.open >= 0) this.show(this.open); },
      y: () => { const button = this.detail.querySelector("button"); if (this.current && button) copyId(this.current, button); }, "/": () => this.text.focus() };
    return acts[key];
  }
}
