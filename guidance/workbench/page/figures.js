// Verdicts, figures and settings as tables. Knows nothing of players.

const LOOKS = {
  reference: "reference",
  same: "same",
  better: "better",
  worse: "worse",
  "noise alarm": "noise",
  "mean regression alarm": "regression",
};

const FIGURES = {
  balance: ["Balance", "Detail too much (above 0) or too little (below 0) for a clip at its distance. 0 is right."],
  lap_ratio: ["Sharpness", "Variance of the Laplacian over the reference's. Above 1 is sharper; noise raises it too."],
  hf_ratio: ["Fine detail", "Share of energy in high spatial frequencies over the reference's."],
  kurtosis_ratio: ["Edges", "How heavy-tailed the gradients are, over the reference's. Edges and texture raise it, noise lowers it."],
  flat_ratio: ["Flat places", "Roughness of the flattest places over the reference's. Noise shows here first."],
  jitter_ratio: ["Unrest", "Frame-to-frame jitter over the reference's. Above 1 is less calm."],
  contrast_ratio: ["Contrast", "Spread of brightness over the reference's. Averaged-out videos lose it."],
  noise: ["Noise", "Deviation of the noise that the reference has not, in grey levels of 255."],
  spectrum: ["Spectrum", "Mean difference of the logarithmic power spectra. 0 is equal."],
  change: ["Change", "Mean difference of pixels from the reference, of 1."],
  distance: ["Distance", "Median distance of the latents from the bank's anchors, in the directions that guide. Real clips differ by what they show."],
};

const lookOf = word => LOOKS[String(word ?? "").replaceAll("-", " ")] ?? "other";
const figureName = key => FIGURES[key]?.[0] ?? key.replaceAll("_", " ");
const isRatio = key => key.endsWith("_ratio");

function badge(verdict) {
  if (!verdict?.word) return null;
  const look = lookOf(verdict.word);
  return el("span", { class: `badge is-${look}` }, icon(look), el("span", {}, verdict.word));
}

// The keys of all clips' figures, those the page can explain first; a ratio stands for its figure.
function figureKeys(clips) {
  const all = clips.flatMap(clip => Object.keys(clip.figures ?? {}));
  const found = new Set(all.filter(key => !all.includes(`${key}_ratio`)));
  const known = Object.keys(FIGURES).filter(key => found.has(key));
  return [...known, ...[...found].filter(key => !(key in FIGURES)).sort()];
}

function figuresTable(clips, { chosen, tone, choose }) {
  const keys = figureKeys(clips);
  const heads = keys.map(key =>
    el("th", { scope: "col", title: `${key}: ${FIGURES[key]?.[1] ?? "a figure of this run"}` }, figureName(key)),
  );
  const rows = clips.map(clip => figuresRow(clip, keys, { chosen, tone, choose }));
  return el(
    "table",
    { class: "figures" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Variant"), el("th", { scope: "col" }, "Verdict"), ...heads)),
    el("tbody", {}, ...rows),
  );
}

function figuresRow(clip, keys, { chosen, tone, choose }) {
  const title = clip.title || clip.label;
  const settings = Object.entries(clip.settings ?? {}).map(([key, value]) => `${key} ${said(value)}`).join(", ");
  const pick = el("button", { type: "button", class: "link", on: { click: () => choose(clip.label) } }, title);
  return el(
    "tr",
    { class: `${tone(clip.label)}${clip.label === chosen ? " chosen" : ""}` },
    el("th", { scope: "row" }, el("span", { class: "dot" }), pick, settings && settings !== title ? el("small", {}, settings) : null),
    el("td", { class: "why" }, badge(clip.verdict) ?? "–", clip.verdict?.why ? el("p", {}, clip.verdict.why) : null),
    ...keys.map(key => figureCell(key, clip.figures?.[key])),
  );
}

function figureCell(key, value) {
  const cell = el("td", { class: "number" }, isRatio(key) ? ratio(value) : typeof value === "number" ? number(value) : said(value));
  if (!isRatio(key) || typeof value !== "number" || value <= 0) return cell;
  const share = within(-1, Math.log2(value), 1); // the bar ends at half and at twice the reference
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i"));
  bar.firstChild.style.left = `${50 + Math.min(share, 0) * 50}%`;
  bar.firstChild.style.width = `${Math.abs(share) * 50}%`;
  cell.append(bar);
  return cell;
}

function legend(keys) {
  return keys.flatMap(key => [
    el("dt", {}, figureName(key), " ", el("code", {}, key)),
    el("dd", {}, FIGURES[key]?.[1] ?? "A figure of this run; this page has no words for it."),
  ]);
}

function settingsList(settings) {
  return Object.entries(settings ?? {}).map(([key, value]) =>
    el("div", {}, el("dt", {}, key.replaceAll("_", " ")), el("dd", { dir: "auto" }, said(value))),
  );
}

// Items down, variants across; every cell leads to its video.
function matrix(items, variants, { tone, open }) {
  const heads = variants.map(variant => matrixHead(variant, items, tone));
  const rows = items.map((item, place) => matrixRow(item, place, variants, open));
  return el(
    "table",
    { class: "matrix" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Prompt"), ...heads)),
    el("tbody", {}, ...rows),
  );
}

function matrixHead({ label, title }, items, tone) {
  const words = items.map(item => item.clips.find(clip => clip.label === label)?.verdict?.word).filter(Boolean);
  const counts = Object.entries(countOf(words));
  const bar = el("span", { class: "tally-bar", "aria-hidden": "true" });
  for (const [word, count] of counts) {
    const part = el("i", { class: `is-${lookOf(word)}` });
    part.style.flexGrow = String(count);
    bar.append(part);
  }
  const text = counts.map(([word, count]) => `${count} ${word}`).join(", ");
  return el("th", { scope: "col", class: tone(label) }, el("span", { class: "dot" }), el("bdi", {}, title), bar, el("small", {}, text));
}

function countOf(words) {
  const counts = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}

function matrixRow(item, place, variants, open) {
  const title = el("button", { type: "button", class: "link clamp", dir: "auto", on: { click: () => open(place, null) } }, start(item.prompt, 160) || "no prompt");
  const head = el("th", { scope: "row" }, title, el("small", {}, `seed ${said(item.seed)}`));
  return el("tr", { "data-place": place }, head, ...variants.map(variant => matrixCell(item, place, variant, open)));
}

function matrixCell(item, place, { label, title }, open) {
  const clip = item.clips.find(one => one.label === label);
  if (!clip) return el("td", { class: "none" }, "–");
  const { lap_ratio: sharpness, change } = clip.figures ?? {};
  const figures = [typeof sharpness === "number" ? `${ratio(sharpness)} sharp` : null, typeof change === "number" ? `Δ ${number(change)}` : null];
  const cell = el(
    "button",
    { type: "button", class: "cell", "data-label": label, title: clip.verdict?.why ?? title, on: { click: () => open(place, label) } },
    badge(clip.verdict) ?? el("span", { class: "badge is-other" }, title),
    el("small", {}, figures.filter(Boolean).join(" · ")),
  );
  return el("td", {}, cell);
}
