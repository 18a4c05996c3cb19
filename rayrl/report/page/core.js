// Small things that everything else stands on. Nothing here or elsewhere turns data into markup: nodes get text, never HTML.

/** An element with properties and children; strings become text nodes. */
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(node.style, value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

const byId = id => document.getElementById(id);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/** The data block of the page: base64 of gzip of JSON. */
async function readData() {
  const stream = new Blob([bytesOf(byId("data").textContent.trim())]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** A typed column as page.py writes it: in base64, or as a place in the ``payload`` that came with it. */
function typed([kind, where, count], payload) {
  const Kind = { f4: Float32Array, i4: Int32Array, u1: Uint8Array }[kind];
  return payload ? new Kind(payload.buffer, payload.start + where, count) : new Kind(bytesOf(where).buffer);
}

/** Columns of the local server (`packed` in page.py). */
function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true), head = new Uint8Array(buffer, 4, length);
  return { ...JSON.parse(new TextDecoder().decode(head)), payload: { buffer, start: 4 + length } };
}

function short(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  const size = Math.abs(x);
  if (size !== 0 && size < 1e-3) return x.toExponential(1).replace("-", "−");
  for (const [limit, divisor, suffix] of [[1e3, 1, ""], [1e6, 1e3, "k"], [1e9, 1e6, "M"], [Infinity, 1e9, "G"]])
    if (size < limit) return String(Number((x / divisor).toPrecision(3))).replace("-", "−") + suffix;
}

const signed = x => (x > 0 ? "+" : "") + short(x);

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

const themed = [];  // what must be drawn again in other colours

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  themed.forEach(redraw => redraw());
}

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let own = null;
  try { own = localStorage.getItem("rayrl-theme"); } catch { /* a file without storage */ }
  setTheme(own ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => own ?? setTheme(dark.matches ? "dark" : "light"));
  const toggle = () => {
    own = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("rayrl-theme", own); } catch { /* the same */ }
    setTheme(own);
  };
  byId("theme").addEventListener("click", toggle);
  return toggle;
}
