// What the guide saw and did over sigma, drawn. Knows nothing of players.

const HEIGHT = 300;
const MARGIN = { top: 30, right: 18, bottom: 44, left: 52 };

const first = value => (Array.isArray(value) ? value[0] : value);

// series: [{title, tone, chosen, trace}]
function drawTrace(figure, series) {
  const drawn = series.map(one => ({ ...one, trace: one.trace.filter(isSeen) })).filter(one => one.trace.length);
  figure.replaceChildren();
  if (!drawn.length) return false;
  const width = Math.max(280, figure.clientWidth || 280);
  const scales = scalesOf(drawn, width);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": inWords(drawn) });
  chart.append(...axes(scales, width), targetLine(drawn, scales), ...drawn.map(one => seriesOf(one, scales)));
  figure.append(chart, keyOf(drawn));
  return true;
}

// Steps in which the guide saw something: where the curve is, the chart is.
const isSeen = step => isNumber(step.sigma) && isNumber(first(step.distance));

function scalesOf(drawn, width) {
  const steps = drawn.flatMap(one => one.trace);
  const sigmas = steps.map(step => step.sigma).filter(isNumber);
  const heights = steps.flatMap(step => [first(step.distance), first(step.aimed), first(step.target)]).filter(isNumber);
  const most = Math.max(...sigmas);
  const span = Math.max(most - Math.min(...sigmas), 1e-6);
  const reach = Math.max(Math.max(...heights) - Math.min(...heights), 0.1);
  const bottom = Math.max(0, Math.min(...heights) - 0.15 * reach);
  const top = Math.max(...heights) + 0.15 * reach;
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  return {
    sigmas: [most, Math.min(...sigmas)],
    heights: [bottom, top],
    x: sigma => MARGIN.left + ((most - sigma) / span) * inner.width,
    y: height => MARGIN.top + ((top - height) / (top - bottom)) * inner.height,
  };
}

function axes({ sigmas, heights: [bottom, top], x, y }, width) {
  const across = ticks(sigmas[1], sigmas[0], width < 500 ? 4 : 8).flatMap(mark => [
    svg("line", { class: "tick", x1: x(mark), x2: x(mark), y1: y(bottom), y2: y(bottom) + 5 }),
    svg("text", { x: x(mark), y: y(bottom) + 18, "text-anchor": "middle" }, String(mark)),
  ]);
  const marks = ticks(bottom, top, 5);
  const up = marks.flatMap(mark => [
    svg("line", { class: "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(mark), y2: y(mark) }),
    svg("text", { x: MARGIN.left - 8, y: y(mark) + 4, "text-anchor": "end" }, mark.toFixed(decimals(marks))),
  ]);
  const floor = svg("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(bottom), y2: y(bottom) });
  const down = svg("text", { class: "axis-name", x: 0, y: 14 }, "distance from the shell's anchors");
  const name = svg("text", { class: "axis-name", x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, "noise level sigma, falling →");
  return [...up, floor, ...across, down, name];
}

// As many as the finest of the marks needs.
const decimals = marks => Math.max(0, ...marks.map(mark => (String(mark).split(".")[1] ?? "").length));

const path = points => points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function pointsOf(trace, key, { x, y }) {
  const told = trace.filter(step => isNumber(step.sigma) && isNumber(first(step[key])));
  return told.map(step => [x(step.sigma), y(first(step[key])), step]);
}

function targetLine(drawn, scales) {
  const longest = drawn.reduce((best, one) => (one.trace.length > best.trace.length ? one : best));
  const points = pointsOf(longest.trace, "target", scales);
  if (!points.length) return svg("g");
  const [from] = points[0];
  const above = Math.min(...points.filter(([x], place) => !place || points[place - 1][0] < from + 70).map(([, y]) => y)); // the words' width
  return svg("g", {}, svg("path", { class: "target", d: path(points) }), svg("text", { class: "on-line", x: from + 4, y: above - 7 }, "real video"));
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
      entry(line("target", "tone-ink"), "real video"),
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

// Why the distance may rise while the guide works: what the fit found, and what real video does.
function whyItMoves(fit, trace) {
  const seen = trace.filter(isSeen);
  if (!seen.length) return "";
  const [one, last] = [seen[0], seen.at(-1)];
  const found = fit?.words ? `the fit found that ${fit.words.split(/[;.]/)[0]}` : null;
  const outward = isNumber(fit?.radius) ? fit.radius > 1 : first(one.aimed) > first(one.distance);
  const guide = outward
    ? `The distance may rise while the guide works, and should: ${found ? `${found}. Detail` : "detail"} that is left out is distance that is missing, so the guide moves clips outward.`
    : `The guide moves clips inward here${found ? `: ${found}` : ", for they have too much detail"}. The distance may rise all the same.`;
  const rises = isNumber(one.target) && isNumber(last.target) && last.target > one.target;
  return rises ? `${guide} Real video's own rises as well, from ${number(one.target)} to ${number(last.target)}, since fine detail comes last.` : guide;
}

const DIFFERENCES = ["gain", "excess"]; // logarithms: 0 is no difference

function stepsTable(trace) {
  const keys = ["sigma", "distance", "target", "aimed", "move", "gain", "excess"].filter(key => trace.some(step => key in step));
  const head = [...keys, "alarm"].map(key => el("th", { scope: "col", class: "number" }, key));
  const tell = (key, value) => (DIFFERENCES.includes(key) ? signed(value) : isNumber(value) ? fixed(value, 3) : "–");
  const rows = trace.map((step, place) =>
    el("tr", {}, el("th", { scope: "row" }, String((step.index ?? place) + 1)), ...keys.map(key => el("td", { class: "number" }, tell(key, first(step[key])))), el("td", {}, step.alarm ?? "–")),
  );
  return el("table", { class: "steps" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "step"), ...head)), el("tbody", {}, ...rows));
}
