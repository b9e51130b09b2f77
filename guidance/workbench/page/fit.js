// What the fit found, in a sentence and as bars: a drift before and after, with its error. Knows nothing of videos.

const BAR = { height: 22, label: 96, most: 0.4 };

// fit: {words, bands: [{name, before, before_error, after, after_error}]}, drifts as logarithms of amplitudes
function drawFit(figure, fit) {
  figure.replaceChildren();
  figure.hidden = !fit;
  if (!fit) return;
  const bands = fit.bands.filter(band => isNumber(band.before) && isNumber(band.after));
  const width = 460;
  const height = BAR.height * bands.length + 18;
  const reach = Math.min(BAR.most, Math.max(0.1, ...bands.flatMap(band => [Math.abs(band.before) + band.before_error, Math.abs(band.after) + band.after_error])));
  const middle = BAR.label + (width - BAR.label) / 2;
  const x = drift => middle + (within(-reach, drift, reach) / reach) * ((width - BAR.label) / 2 - 6);
  const percent = drift => `${drift < 0 ? "−" : "+"}${Math.abs(Math.round(100 * Math.expm1(drift)))}%`;
  const words = bands.map(band => `${band.name}: ${percent(band.before)} unguided, ${percent(band.after)} guided`).join("; ");
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words });
  bands.forEach((band, row) => {
    const y = BAR.height * row;
    const bar = (drift, error, top, kind) => [
      svg("rect", { class: kind, x: Math.min(x(drift), middle), y: top, width: Math.abs(x(drift) - middle), height: 6 }),
      svg("line", { class: "error", x1: x(drift - error), x2: x(drift + error), y1: top + 3, y2: top + 3 }),
    ];
    chart.append(svg("text", { x: BAR.label - 8, y: y + 14, "text-anchor": "end" }, band.name));
    chart.append(...bar(band.before, band.before_error, y + 3, "before"), ...bar(band.after, band.after_error, y + 11, "after"));
  });
  chart.append(svg("line", { class: "axis", x1: middle, x2: middle, y1: 0, y2: height - 16 }));
  chart.append(svg("text", { class: "axis-name", x: middle, y: height - 3, "text-anchor": "middle" }, "real video; left less, right more: grey unguided, green guided"));
  figure.append(el("p", {}, `The fit: ${fit.words}`), chart);
}

