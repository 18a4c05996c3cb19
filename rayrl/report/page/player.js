// Frames of an environment agent: the screen, what the game said, what a judge thought of it, what it was worth.

/** The screen at a frame: lines of text and lines of colours. A film holds only the lines that changed. */
function screenAt(film, frame) {
  const lines = [], colors = [];
  for (let t = 0; t <= frame; t++) for (let i = 0; i < film[t].length; i += 3) { lines[film[t][i]] = film[t][i + 1]; colors[film[t][i]] = film[t][i + 2]; }
  return [lines, colors];
}

/** Its characters in their colours; neighbours of one colour are one node. */
function screenNodes([lines, colors]) {
  const nodes = [];
  lines.forEach((line, row) => {
    for (let from = 0, to = 0; to <= line.length; to++)
      if (to === line.length || colors[row][to] !== colors[row][from]) { nodes.push(el("span", { className: "c" + colors[row][from] }, line.slice(from, to))); from = to; }
    nodes.push("\n");
  });
  return nodes;
}

function drawPlayer(run, place) {
  const names = [...new Set(run.excerpts.flatMap(e => Object.keys(e.told)))];
  const select = el("select", { "aria-label": "excerpt", onchange: () => choose(select.selectedIndex) }, ...run.excerpts.map(e => el("option", {}, e.watched ? `step ${e.step}: an episode (${e.actions.length} frames)` : `step ${e.step}: trained on, environment ${e.env}`)));
  const slider = el("input", { type: "range", min: 0, step: 1, "aria-label": "frame", oninput: () => show(Number(slider.value)) });
  const play = el("button", { type: "button", onclick: () => toggle() }, "play");
  const screen = el("pre", { className: "screen" }), facts = el("div", { className: "facts-line" }), said = el("p", { className: "said-now mono" });
  const messages = el("div", { className: "messages" }), chart = el("div", { className: "plot" });
  let excerpt, frame = 0, timer = null;

  const redraw = plot(chart, () => [
    [["extrinsic", excerpt.rewards, "grey"], ...names.filter(n => excerpt.told[n]).map((n, i) => [n, excerpt.told[n], ["blue", "violet", "green"][i % 3]])].map(([name, y, tint]) =>
      ({ x: y.map((_, i) => i), y, name: clip(name), mode: "lines", line: { shape: "hvh", width: 2, color: color(tint) }, hovertemplate: "%{y:.3~g}" })),
    layout({ showlegend: true, legend: { orientation: "h", y: 1.2, font: { size: 11 } }, margin: { l: 8, r: 10, t: 24, b: 26 },
      shapes: [{ type: "line", x0: frame, x1: frame, yref: "paper", y0: 0, y1: 1, line: { width: 1.5, color: color("orange") } }] })]);

  function choose(i) {
    excerpt = run.excerpts[i];
    player.classList.toggle("wide", Boolean(excerpt.screens) && excerpt.screens[0].some(part => part.length > 40));
    slider.max = excerpt.actions.length - 1;
    let before = null;
    messages.replaceChildren(...excerpt.messages.flatMap((text, t) => {
      if (!text || text === before) return [];
      before = text;
      const label = excerpt.labels[t];
      return [el("button", { type: "button", className: "message", onclick: () => show(t), value: t }, el("span", { className: "dim n" }, String(t)), el("span", { className: "mono" }, text),
        el("span", { className: "n" }, label === null || label === undefined ? "" : short(label)))];
    }));
    show(0);
  }

  function show(t) {
    frame = clamp(t, 0, excerpt.actions.length - 1);
    slider.value = frame;
    screen.hidden = !excerpt.screens;
    if (excerpt.screens) screen.replaceChildren(...screenNodes(screenAt(excerpt.screens, frame)));
    let now = null;
    for (const message of messages.children) { message.classList.remove("now"); if (Number(message.value) <= frame) now = message; }
    if (now) { now.classList.add("now"); messages.scrollTop = now.offsetTop - messages.clientHeight / 2; }
    said.textContent = excerpt.messages[frame] || "(silence)";
    const label = excerpt.labels[frame];
    facts.replaceChildren(fact("frame", String(frame)), fact("action", String(excerpt.actions[frame])), fact("extrinsic", signed(excerpt.rewards[frame])),
      ...names.filter(n => excerpt.told[n]).map(n => fact(n, signed(excerpt.told[n][frame]))),
      fact("label", label === null || label === undefined ? "none" : short(label)), fact("seen this episode", `${excerpt.sightings[frame]}×`),
      ...(excerpt.ends.includes(frame) ? [fact("", "the episode ended here")] : []));
    redraw();
  }

  function onKey(event) {
    if (event.target !== player || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], jump = { Home: 0, End: Infinity }[event.key];
    if (by) show(frame + by * (event.shiftKey ? 10 : 1));
    else if (jump !== undefined) show(jump);
    else if (event.key === " ") toggle();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function toggle() {
    if (timer) { clearInterval(timer); timer = null; } else timer = setInterval(() => { if (frame >= excerpt.actions.length - 1) toggle(); else show(frame + 1); }, excerpt.watched ? 120 : 250);
    play.textContent = timer ? "pause" : "play";
  }

  const player = el("div", { className: "player", tabIndex: 0, role: "group", "aria-label": `episodes of ${run.name}`, onkeydown: onKey }, el("div", {}, screen, said, facts, chart), messages);
  place.append(el("div", { className: "zoom" }, select, play, slider, el("span", { className: "dim keys" }, el("kbd", {}, "←"), " ", el("kbd", {}, "→"), " frames, with shift 10 · ", el("kbd", {}, "space"), " play")), player);
  select.selectedIndex = run.excerpts.at(-1).watched ? run.excerpts.length - 1 : Math.max(0, run.excerpts.length - 2);
  choose(select.selectedIndex);
}

function drawPlayers(data) {
  for (const run of data.runs) {
    if (!run.excerpts.length) continue;
    const place = byId("episodes");
    place.hidden = false;
    if (data.runs.length > 1) place.append(el("h3", {}, run.name));
    drawPlayer(run, place);
  }
}
