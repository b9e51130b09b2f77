// The page of a fit. What is drawn is of fit.js.

const fit = JSON.parse(byId("run").textContent);

const KNOBS = {
  radius: "Distances in the finest directions are multiplied by it. Above 1 detail is put in, below 1 it is taken back.",
  coarse: "The same in the coarsest directions.",
  tone: "Logarithm of what the spread of brightness and colour is multiplied by.",
  calm: "How much the guide holds back where cfg made a clip lie farther out than usual.",
  contrast: "How much the spread of brightness and colour shrinks with what cfg added.",
  usual: "What cfg adds as a rule, at which the knobs hold as they are.",
  window: "The noise levels between which the guide acts.",
  flat: "How much more than usual a patch must hold to count as texture.",
};
const SIGNED = ["tone", "usual"];

function knobText(name, value) {
  if (Array.isArray(value)) return value.map(number).join(" to ");
  return SIGNED.includes(name) ? signed(value) : fixed(value, 3);
}

function drifts() {
  const cell = words => el("td", { class: "number" }, words);
  const error = value => (isTold(value) ? `± ${percentOf(value).toFixed(1)}%` : "not told");
  const rows = fit.bands.map(band =>
    el("tr", {}, el("th", { scope: "row" }, band.name), cell(percent(band.before)), cell(error(band.before_error)), cell(percent(band.after)), cell(error(band.after_error))),
  );
  const heads = ["unguided", "error", "guided", "error"].map(words => el("th", { scope: "col", class: "number" }, words));
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Detail of"), ...heads)), el("tbody", {}, ...rows));
}

function pair(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, value));
}

function belongs() {
  const { steps, cfg, cfg_2: second, shift, scheduler, sigmas } = fit.belongs;
  const [width, height, frames] = fit.size;
  const facts = { model: fit.model, bank: fit.bank, scheduler, steps, cfg, "second cfg": second, shift, sigmas: sigmas?.map(sigma => fixed(sigma, 3)).join(", "), "clips of": `${width}x${height}, ${frames} frames`, "noised to sigma": fixed(fit.sigma, 3), "first seed": fit.seed, file: fit.path };
  return Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => pair(name, said(value)));
}

const { steps, cfg } = fit.belongs;
document.title = `fit of ${fit.model} · shelllcc`;
byId("facts").append(...[fit.model, `bank ${fit.bank}`, plural(steps, "step"), `cfg ${cfg}`, `${fit.clips.length} of ${plural(fit.clips.length + fit.left_out.length, "clip")} came back`].map(fact => el("span", {}, fact)));
byId("words").append(...prose(sentence(fit.words)));
byId("table").append(drifts());
byId("guide").append(...Object.entries(KNOBS).filter(([name]) => name in fit.guide).flatMap(([name, words]) => [el("dt", {}, name, " ", el("b", { class: "number" }, knobText(name, fit.guide[name]))), el("dd", {}, words)]));
byId("belongs").append(...belongs());
byId("clips-note").textContent = "Only clips that come back as they were can tell of drift.";
byId("clips").append(...fit.clips.map(caption => el("li", {}, caption)));
byId("left").append(...fit.left_out.map(caption => el("li", {}, caption)));
byId("left-title").hidden = !fit.left_out.length;
byId("made").textContent = `Made by shelllcc ${fit.version ?? ""}.`;
new ResizeObserver(() => drawBands(byId("bands"), fit.bands)).observe(byId("words"));
watchEdges(byId("table"));
