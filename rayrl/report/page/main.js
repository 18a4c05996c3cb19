// Puts the page together.

/** The run's trajectories: inside a report, behind the local server otherwise. */
async function trajectories(data) {
  if (!data.live) {
    const table = mergeTables(data.index), key = i => `${table.run[i]}/${table.row[i]}`;
    const details = async i => data.details[key(i)];
    const search = async text => {
      const found = new Set(), wanted = text.toLowerCase();
      for (let i = 0; i < table.n; i++) { const d = data.details[key(i)]; if ((d.prompt + "\n" + d.text + "\n" + d.id).toLowerCase().includes(wanted)) found.add(i); }
      return found;
    };
    return { table, details, search };
  }
  const table = mergeTables([unpacked(await (await askedIndex).arrayBuffer())]), cache = new Map();
  const details = i => {
    if (!cache.has(i)) cache.set(i, fetch(`/api/trajectory?row=${table.row[i]}`).then(r => (r.ok ? r.json() : null)));
    return cache.get(i);
  };
  const search = async text => {
    const answer = await fetch(`/api/search?text=${encodeURIComponent(text)}`);
    return answer.ok ? new Set(typed((await answer.json()).rows)) : null;
  };
  return { table, details, search };
}

function watchSettings() {
  const only = byId("changed"), wanted = byId("find-setting");
  const apply = () => {
    for (const row of document.querySelectorAll(".config tr"))
      row.hidden = (only.checked && row.dataset.origin === "default") || !row.textContent.toLowerCase().includes(wanted.value.toLowerCase());
  };
  only.addEventListener("change", apply);
  wanted.addEventListener("input", apply);
  apply();
}

async function start() {
  const toggleTheme = startTheme();
  for (const bar of document.querySelectorAll(".bar i")) bar.style.width = 100 * Number(bar.dataset.share) + "%";
  watchSettings();
  const data = await readData();
  drawCurves(data);
  drawTrust(data);
  drawTimelines(data);
  drawMemory(data);
  drawPlayers(data);
  const { table, details, search } = await trajectories(data);
  const browser = new Browser(table, data.runs, details, search);
  window.rayrl = { browser };
  document.addEventListener("keydown", event => {
    if (event.target.matches("input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = event.key === "d" ? toggleTheme : event.key.startsWith("Arrow") && !byId("list").contains(document.activeElement) ? null : browser.onKey(event.key);
    if (act) { event.preventDefault(); act(); }
  });
  performance.mark("listed");
  if (data.live) await loadPlotly();
  drawCharts();
  document.documentElement.dataset.ready = "true";
}

start();
