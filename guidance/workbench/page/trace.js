// What the guide saw and did over sigma, drawn. Knows nothing of players.

const HEIGHT = 300;
const MARGIN = { top: 14, right: 18, bottom: 40, left: 48 };

const first = value => (Array.isArray(value) ? value[0] : value);
const isNumber = value => typeof value === "number";

// series: [{title, tone, chosen, trace}]
function drawTrace(figure, series) {
  const drawn = series.filter(one => one.trace.some(step => isNumber(step.sigma)));
  figure.replaceChildren();
  if (!drawn.length) return false;
  const width = Math.max(280, figure.clientWidth || 280);
  const scales = scalesOf(drawn, width);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": inWords(drawn) });
  chart.append(...axes(scales, width), targetLine(drawn, scales), ...drawn.map(one => seriesOf(one, scales)));
  figure.append(chart, keyOf(drawn));
  return true;
}

function scalesOf(drawn, width) {
  const steps = drawn.flatMap(one => one.trace);
  const sigmas = steps.map(step => step.sigma).filter(isNumber);
  const heights = steps.flatMap(step => [first(step.distance), first(step.aimed), first(step.target)]).filter(isNumber);
  const most = Math.max(...sigmas);
  const span = Math.max(most - Math.min(...sigmas), 1e-6);
  const top = Math.max(...heights, 0.1) * 1.06;
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  return {
    sigmas: [most, Math.min(...sigmas)],
    top,
    x: sigma => MARGIN.left + ((most - sigma) / span) * inner.width,
    y: height => MARGIN.top + (1 - height / top) * inner.height,
  };
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

function axes({ sigmas, top, x, y }, width) {
  const across = ticks(sigmas[1], sigmas[0], width < 500 ? 4 : 8).flatMap(mark => [
    svg("line", { class: "tick", x1: x(mark), x2: x(mark), y1: y(0), y2: y(0) + 5 }),
    svg("text", { x: x(mark), y: y(0) + 18, "text-anchor": "middle" }, String(mark)),
  ]);
  const up = ticks(0, top, 5).flatMap(mark => [
    svg("line", { class: mark === 0 ? "axis" : "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(mark), y2: y(mark) }),
    svg("text", { x: MARGIN.left - 8, y: y(mark) + 4, "text-anchor": "end" }, String(mark)),
  ]);
  const name = svg("text", { class: "axis-name", x: width - MARGIN.right, y: HEIGHT - 6, "text-anchor": "end" }, "sigma, falling →");
  return [...up, ...across, name];
}

const path = points => points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function pointsOf(trace, key, { x, y }) {
  const told = trace.filter(step => isNumber(step.sigma) && isNumber(first(step[key])));
  return told.map(step => [x(step.sigma), y(first(step[key])), step]);
}

function targetLine(drawn, scales) {
  const longest = drawn.reduce((best, one) => (one.trace.length > best.trace.length ? one : best));
  return svg("path", { class: "target", d: path(pointsOf(longest.trace, "target", scales)) });
}

function seriesOf({ title, tone, chosen, trace }, scales) {
  const group = svg("g", { class: `series ${tone}${chosen ? " chosen" : ""}` });
  group.append(svg("path", { class: "aimed", d: path(pointsOf(trace, "aimed", scales)) }));
  const seen = pointsOf(trace, "distance", scales);
  group.append(svg("path", { class: "distance", d: path(seen) }));
  for (const [cx, cy, step] of seen) {
    const words = `${title}, sigma ${number(step.sigma)}: distance ${number(first(step.distance))}, aimed ${number(first(step.aimed))}`;
    const alarm = step.alarm ? `, ${step.alarm} alarm` : "";
    group.append(svg("circle", { class: step.alarm ? "alarm" : "point", cx, cy, r: step.alarm ? 6 : 3 }, svg("title", {}, words + alarm)));
  }
  return group;
}

function keyOf(drawn) {
  const line = (kind, tone) => {
    const sample = svg("svg", { class: `series ${tone}`, width: 28, height: 10, "aria-hidden": "true" });
    sample.append(svg("path", { class: kind, d: "M1 5H27" }));
    return sample;
  };
  const entry = (sample, words) => el("li", {}, sample, el("bdi", {}, words));
  return el(
    "figcaption",
    {},
    el(
      "ul",
      { class: "key" },
      ...drawn.map(({ title, tone }) => entry(line("distance", tone), title)),
      entry(line("distance", "tone-ink"), "distance"),
      entry(line("aimed", "tone-ink"), "aimed at"),
      entry(line("target", "tone-ink"), "real videos"),
    ),
  );
}

function inWords(drawn) {
  const ends = (trace, key) => {
    const told = trace.map(step => first(step[key])).filter(isNumber);
    return told.length ? `${number(told[0])} to ${number(told.at(-1))}` : "not told";
  };
  const lines = drawn.map(({ title, trace }) => {
    const alarms = trace.filter(step => step.alarm).length;
    return `${title}: distance ${ends(trace, "distance")}, aimed at ${ends(trace, "aimed")}${alarms ? `, ${plural(alarms, "alarm")}` : ""}`;
  });
  return `Line chart of the shell distance over falling sigma. ${lines.join(". ")}.`;
}

function stepsTable(trace) {
  const keys = ["sigma", "distance", "target", "aimed", "move", "gain", "excess"].filter(key => trace.some(step => key in step));
  const head = [...keys, "alarm"].map(key => el("th", { scope: "col" }, key));
  const rows = trace.map((step, place) =>
    el("tr", {}, el("th", { scope: "row" }, String((step.index ?? place) + 1)), ...keys.map(key => el("td", { class: "number" }, number(first(step[key])))), el("td", {}, step.alarm ?? "–")),
  );
  return el("table", { class: "steps" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "step"), ...head)), el("tbody", {}, ...rows));
}
