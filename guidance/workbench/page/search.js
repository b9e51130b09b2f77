// Where a search for a strength went, drawn: the balance of each strength that was tried. Knows nothing of pages.

const CHART = { height: 300, top: 30, right: 22, bottom: 44, left: 58 };

// probes: [{strength, balance, alarm}] as they were tried; bracket: [low, up] or null; chosen: a strength
function drawSearch(figure, { probes, bracket, strength, prompt }, numbered) {
  figure.replaceChildren();
  const width = Math.max(280, Math.min(figure.clientWidth || 280, 900));
  const scales = searchScales(probes, width);
  const told = probes.map(probe => `${number(probe.strength)}: ${signed(probe.balance)}${probe.alarm ? ", alarm" : ""}`).join("; ");
  const chart = svg("svg", { viewBox: `0 0 ${width} ${CHART.height}`, width, height: CHART.height, role: "img", "aria-label": `Line chart of the balance over strength, for ${start(prompt, 60)}. ${told}.` });
  if (bracket) chart.append(bracketOf(bracket, scales));
  chart.append(...searchAxes(scales, width));
  const line = [...probes].sort((one, other) => one.strength - other.strength);
  chart.append(svg("path", { class: "searched", d: line.map(({ strength: x, balance: y }, place) => `${place ? "L" : "M"}${scales.x(x)} ${scales.y(y)}`).join("") }));
  probes.forEach((probe, order) => chart.append(...probeMark(probe, order, scales, { chosen: probe.strength === strength, numbered })));
  figure.append(chart, searchKey(probes, bracket));
}

function searchScales(probes, width) {
  const balances = probes.map(({ balance }) => balance);
  const reach = Math.max(Math.max(0, ...balances) - Math.min(0, ...balances), 0.02);
  const [bottom, top] = [Math.min(0, ...balances) - 0.2 * reach, Math.max(0, ...balances) + 0.2 * reach];
  const most = Math.max(1, ...probes.map(({ strength }) => strength));
  const room = { width: width - CHART.left - CHART.right, height: CHART.height - CHART.top - CHART.bottom };
  return {
    bottom,
    top,
    most,
    x: strength => CHART.left + (strength / most) * room.width,
    y: balance => CHART.top + ((top - balance) / (top - bottom)) * room.height,
  };
}

function bracketOf([low, up], { x }) {
  return svg("rect", { class: "bracket", x: x(low), y: CHART.top, width: x(up) - x(low), height: CHART.height - CHART.top - CHART.bottom });
}

function searchAxes({ bottom, top, most, x, y }, width) {
  const end = width - CHART.right;
  const floor = CHART.height - CHART.bottom;
  const marks = ticks(bottom, top, 5);
  const digits = Math.max(2, ...marks.map(mark => (String(mark).split(".")[1] ?? "").length));
  const up = marks.flatMap(mark => [
    svg("line", { class: mark === 0 ? "axis nought" : "rule", x1: CHART.left, x2: end, y1: y(mark), y2: y(mark) }),
    svg("text", { x: CHART.left - 8, y: y(mark) + 4, "text-anchor": "end" }, mark === 0 ? "right" : signed(mark, digits)),
  ]);
  const across = ticks(0, most, width < 500 ? 4 : 8).flatMap(mark => [
    svg("line", { class: "tick", x1: x(mark), x2: x(mark), y1: floor, y2: floor + 5 }),
    svg("text", { x: x(mark), y: floor + 18, "text-anchor": "middle" }, String(mark)),
  ]);
  return [
    ...up,
    ...across,
    svg("text", { class: "axis-name", x: 0, y: 14 }, "balance: detail too much above, too little below"),
    svg("text", { class: "axis-name", x: end, y: CHART.height - 4, "text-anchor": "end" }, "strength"),
  ];
}

function probeMark(probe, order, { x, y }, { chosen, numbered }) {
  const [cx, cy] = [x(probe.strength), y(probe.balance)];
  const kind = `probe${probe.alarm ? " alarmed" : ""}${chosen ? " chosen" : ""}`;
  const dot = svg("circle", { class: kind, cx, cy, r: chosen ? 8 : 5.5 }, svg("title", {}, `strength ${number(probe.strength)}: balance ${signed(probe.balance)}`));
  return [dot, numbered ? svg("text", { class: "on-line", x: cx, y: cy - 13, "text-anchor": "middle" }, String(order + 1)) : null].filter(Boolean);
}

function searchKey(probes, bracket) {
  const sample = (kind, r) => svg("svg", { width: 20, height: 20, viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("circle", { class: kind, cx: 10, cy: 10, r }));
  const shade = svg("svg", { width: 20, height: 20, viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("rect", { class: "bracket", y: 4, width: 20, height: 12 }));
  const entries = [
    el("li", {}, sample("probe", 5.5), "tried, in the order of the numbers"),
    el("li", {}, sample("probe chosen", 8), "chosen"),
    probes.some(({ alarm }) => alarm) ? el("li", {}, sample("probe alarmed", 5.5), "with an alarm") : null,
    bracket ? el("li", {}, shade, "bracket: the balance changes its sign in it") : null,
  ];
  return el("figcaption", {}, el("ul", { class: "key" }, ...entries.filter(Boolean)));
}
