// Elements, icons, words and numbers. Text enters the page as text, never as markup. Knows nothing of runs.

const byId = id => document.getElementById(id);
const SVG = byId("icons").namespaceURI;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function dress(node, traits, children) {
  for (const [name, value] of Object.entries(traits)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, heard] of Object.entries(value)) node.addEventListener(event, heard);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

const el = (tag, traits = {}, ...children) => dress(document.createElement(tag), traits, children);
const svg = (tag, traits = {}, ...children) => dress(document.createElementNS(SVG, tag), traits, children);
const icon = name => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
const within = (low, value, high) => Math.min(Math.max(value, low), high);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function start(text, most) {
  const letters = Array.from(String(text).slice(0, 2 * most));
  return letters.length > most || text.length > 2 * most ? letters.slice(0, most).join("") + "…" : String(text);
}

// Three digits, and no more of them than a reader can use.
function number(value) {
  if (typeof value !== "number") return "–";
  const size = Math.abs(Number(value.toPrecision(3)));
  if (size === 0) return "0";
  if (size < 0.0005 || size >= 1e6) return value.toExponential(1);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 4);
}

const ratio = value => (typeof value === "number" ? `${number(value)}×` : "–");

function said(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// What a browser refuses to keep, for a page opened from a file, is forgotten without a word.
const memory = {
  read(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  write(key, value) {
    try {
      if (value === null) localStorage.removeItem(key);
      else localStorage.setItem(key, value);
    } catch {
      return;
    }
  },
};
