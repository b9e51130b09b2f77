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

// One format: three decimals, whole numbers as they are; a difference has its sign, and a minus as wide as a plus.
const isNumber = value => typeof value === "number";
const fixed = (value, digits) => (Math.abs(value) >= 1e6 ? value.toExponential(1) : value.toFixed(digits)).replace("-", "−");
const number = value => (isNumber(value) ? fixed(value, Number.isInteger(value) ? 0 : 3) : "–");
const signed = (value, digits = 3) => (isNumber(value) ? `${value < 0 ? "−" : "+"}${fixed(Math.abs(value), digits)}` : "–");
const ratio = value => (isNumber(value) ? `${fixed(value, 2)}×` : "–");

const sentence = text => (text ? text[0].toUpperCase() + text.slice(1) : "");

// A sentence whose flags stay in one piece, and whose `commands` look like such.
const prose = text =>
  String(text ?? "")
    .replace(/(?<=^|[\s(])-(?=[\d.])/g, "−")
    .split(/(`[^`]+`|(?<![\w-])--[a-z][\w-]*)/)
    .map(part => {
      if (part.startsWith("--")) return el("span", { class: "flag" }, part);
      return part.length > 2 && part.startsWith("`") ? el("code", {}, ...prose(part.slice(1, -1))) : part;
    });

// Keeps `data-more` of a box that scrolls: the sides on which there is more than it shows.
function watchEdges(box) {
  const look = () => {
    const { scrollLeft, scrollTop, clientWidth, clientHeight, scrollWidth, scrollHeight } = box;
    const more = {
      left: scrollLeft > 1,
      right: scrollLeft + clientWidth < scrollWidth - 1,
      up: scrollTop > 1,
      down: scrollTop + clientHeight < scrollHeight - 1,
    };
    box.dataset.more = Object.keys(more).filter(side => more[side]).join(" ");
  };
  const sizes = new ResizeObserver(look);
  const watch = () => {
    for (const child of [box, ...box.children]) sizes.observe(child);
    look();
  };
  new MutationObserver(watch).observe(box, { childList: true });
  box.addEventListener("scroll", look, { passive: true });
  watch();
}

// About `count` round numbers from low to high.
function ticks(low, high, count) {
  const rough = Math.max(high - low, 1e-9) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(times => times * power).find(one => one >= rough);
  const marks = [];
  for (let mark = Math.ceil(low / step - 1e-9) * step; mark <= high + 1e-9; mark += step) marks.push(Number(mark.toPrecision(6)));
  return marks;
}

// A moment as ISO 8601 has it, for people.
function moment(text) {
  const made = new Date(text ?? "");
  return Number.isNaN(made.getTime()) ? said(text) : made.toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
}

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
