// Drift by band, before and after a fit, as bars with their errors. Knows nothing of videos.

const ROW = 40;
const PLOT = { left: 92, right: 64, top: 6, bottom: 40 };

const percentOf = drift => 100 * Math.expm1(drift); // of an amplitude, of the logarithm that a fit holds
const percent = drift => `${drift < 0 ? "−" : "+"}${Math.abs(percentOf(drift)).toFixed(1)}%`;
const isTold = error => isNumber(error) && error < 9; // fits write 9 for an error that nothing tells

// bands: [{name, before, before_error, after, after_error}], drifts as logarithms of amplitudes. False where there is none.
function drawBands(figure, bands) {
  const told = (bands ?? []).filter(band => isNumber(band.before) && isNumber(band.after));
  figure.replaceChildren();
  if (!told.length) return false;
  const width = Math.max(280, Math.min(figure.clientWidth || 280, 900));
  const height = ROW * told.length + PLOT.top + PLOT.bottom;
  const x = scaleOf(told, width);
  const words = told.map(band => `${band.name}: ${percent(band.before)} unguided, ${percent(band.after)} guided`).join("; ");
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `Bar chart of drift from real video. ${words}.` });
  chart.append(...driftAxis(x, width, height));
  told.forEach((band, row) => chart.append(...bandRows(band, PLOT.top + ROW * row, x, width)));
  figure.append(chart, el("figcaption", {}, el("ul", { class: "key" }, keyEntry("before", "unguided"), keyEntry("after", "guided"), el("li", {}, "thin lines: one standard error"))));
  return true;
}

function scaleOf(bands, width) {
  const ends = bands.flatMap(({ before, before_error, after, after_error }) =>
    [[before, before_error], [after, after_error]].flatMap(([drift, error]) => (isTold(error) ? [drift - error, drift + error] : [drift])),
  );
  const low = Math.min(-5, ...ends.map(percentOf));
  const high = Math.max(5, ...ends.map(percentOf));
  const room = width - PLOT.left - PLOT.right;
  const at = value => PLOT.left + ((value - low) / (high - low)) * room;
  return Object.assign(drift => at(percentOf(drift)), { at, low, high });
}

function driftAxis(x, width, height) {
  const bottom = height - PLOT.bottom;
  const lines = ticks(x.low, x.high, width < 500 ? 3 : 6).flatMap(mark => [
    svg("line", { class: mark === 0 ? "axis nought" : "rule", x1: x.at(mark), x2: x.at(mark), y1: 0, y2: bottom + 4 }),
    svg("text", { x: x.at(mark), y: bottom + 18, "text-anchor": "middle" }, mark === 0 ? "real" : `${signed(mark, 0)}%`),
  ]);
  return [...lines, svg("text", { class: "axis-name", x: width - PLOT.right, y: height - 4, "text-anchor": "end" }, "amplitude beside real video's")];
}

function bandRows(band, top, x, width) {
  const bar = (drift, error, y, kind) => {
    const parts = [svg("rect", { class: kind, x: Math.min(x(drift), x.at(0)), y, width: Math.max(1, Math.abs(x(drift) - x.at(0))), height: 10 })];
    if (isTold(error)) {
      const [from, to, middle] = [x(drift - error), x(drift + error), y + 5];
      parts.push(svg("path", { class: "error", d: `M${from} ${middle}H${to}M${from} ${middle - 3}v6M${to} ${middle - 3}v6` }));
    }
    return [...parts, svg("text", { x: width, y: y + 9, "text-anchor": "end" }, percent(drift))];
  };
  return [
    svg("text", { x: PLOT.left - 10, y: top + 22, "text-anchor": "end" }, band.name),
    ...bar(band.before, band.before_error, top + 5, "before"),
    ...bar(band.after, band.after_error, top + 19, "after"),
  ];
}

function keyEntry(kind, words) {
  const sample = svg("svg", { width: 28, height: 10, "aria-hidden": "true" });
  sample.append(svg("rect", { class: kind, x: 0, y: 0, width: 28, height: 10 }));
  return el("li", {}, sample, words);
}
