// Frames of an environment agent: the screen, what the game said, what a judge thought of it, what it was worth.

/** A character map in its colours; runs of one colour are one node. */
function screenNodes(text, colors) {
  const nodes = [];
  let run = "", last = "", at = 0;
  const flush = () => { if (run) nodes.push(el("span", { className: "c" + last }, run)); run = ""; };
  for (const character of text) {
    if (character === "\n") { run += "\n"; continue; }
    const now = colors ? colors[at] : "7";
    at++;
    if (now !== last) { flush(); last = now; }
    run += character;
  }
  flush();
  return nodes;
}

function drawPlayer(run, place) {
  const names = [...new Set(run.excerpts.flatMap(e => Object.keys(e.told)))];
  const select = el("select", { "aria-label": "excerpt", onchange: () => choose(select.selectedIndex) }, ...run.excerpts.map(e => el("option", {}, `step ${e.step}, environment ${e.env}`)));
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
    slider.max = excerpt.actions.length - 1;
    let before = null;
    messages.replaceChildren(...excerpt.messages.flatMap((text, t) => {
      if (!text || text === before) return [];
      before = text;
      const label = excerpt.labels[t];
      return [el("button", { type: "button", className: "message", onclick: () => show(t) }, el("span", { className: "dim n" }, String(t)), el("span", { className: "mono" }, text),
        el("span", { className: "n" }, label === null || label === undefined ? "" : short(label)))];
    }));
    show(0);
  }

  function show(t) {
    frame = clamp(t, 0, excerpt.actions.length - 1);
    slider.value = frame;
    screen.hidden = !excerpt.screens;
    if (excerpt.screens) screen.replaceChildren(...screenNodes(excerpt.screens[frame], excerpt.colors?.[frame]));
    said.textContent = excerpt.messages[frame] || "(silence)";
    const label = excerpt.labels[frame];
    facts.replaceChildren(fact("frame", String(frame)), fact("action", String(excerpt.actions[frame])), fact("extrinsic", signed(excerpt.rewards[frame])),
      ...names.filter(n => excerpt.told[n]).map(n => fact(n, signed(excerpt.told[n][frame]))),
      fact("label", label === null || label === undefined ? "none" : short(label)), fact("seen this episode", `${excerpt.sightings[frame]}×`),
      ...(excerpt.ends.includes(frame) ? [fact("", "the episode ended here")] : []));
    redraw();
  }

  function toggle() {
    if (timer) { clearInterval(timer); timer = null; } else timer = setInterval(() => { if (frame >= excerpt.actions.length - 1) toggle(); else show(frame + 1); }, 250);
    play.textContent = timer ? "pause" : "play";
  }

  place.append(el("div", { className: "zoom" }, select, play, slider), el("div", { className: "player" }, el("div", {}, screen, said, facts, chart), messages));
  select.selectedIndex = Math.max(0, run.excerpts.length - 2);
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
