// Verdicts by prompt and seed; figures and settings as tables. Knows nothing of players.

const LOOKS = {
  reference: "reference",
  same: "same",
  better: "better",
  worse: "worse",
  "noise alarm": "noise",
  "mean regression alarm": "regression",
};

const FORMATS = { ratio, signed, grey: value => fixed(value, 1), plain: value => fixed(value, 3) };

const FIGURES = {
  balance: ["Balance", "Detail too much (above 0) or too little (below 0) for a clip at its distance. 0 is right.", "signed"],
  lap_ratio: ["Sharpness", "Variance of the Laplacian over the reference's. Above 1 is sharper; noise raises it too.", "ratio"],
  hf_ratio: ["Fine detail", "Share of energy in high spatial frequencies over the reference's.", "ratio"],
  kurtosis_ratio: ["Edges", "How heavy-tailed the gradients are, over the reference's. Edges and texture raise it, noise lowers it.", "ratio"],
  flat_ratio: ["Flat places", "Roughness of the flattest places over the reference's. Noise shows here first.", "ratio"],
  jitter_ratio: ["Unrest", "Frame-to-frame jitter over the reference's. Above 1 is less calm.", "ratio"],
  contrast_ratio: ["Contrast", "Spread of brightness over the reference's. Averaged-out videos lose it.", "ratio"],
  noise: ["Noise", "Deviation of the noise that the reference has not, in grey levels of 255.", "grey"],
  spectrum: ["Spectrum", "Mean difference of the logarithmic power spectra. 0 is equal.", "signed"],
  change: ["Change", "Mean difference of pixels from the reference, of 1.", "plain"],
  distance: ["Distance", "Median distance of the latents from the bank's anchors, in the directions that guide. Real clips differ by what they show.", "plain"],
};

const lookOf = word => LOOKS[String(word ?? "").replaceAll("-", " ")] ?? "other";
const figureName = key => FIGURES[key]?.[0] ?? key.replaceAll("_", " ");
const isRatio = key => key.endsWith("_ratio");
const figureText = (key, value) => (isNumber(value) ? (FORMATS[FIGURES[key]?.[2] ?? (isRatio(key) ? "ratio" : "")] ?? number)(value) : said(value));

function badge(verdict) {
  if (!verdict?.word) return null;
  const look = lookOf(verdict.word);
  return el("span", { class: `badge is-${look}`, title: verdict.word }, icon(look), el("span", {}, verdict.word));
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
    el("th", { scope: "col", class: "number", title: `${key}: ${FIGURES[key]?.[1] ?? "a figure of this run"}` }, figureName(key)),
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
    el("td", { class: "why" }, badge(clip.verdict) ?? "–", clip.verdict?.why ? el("p", {}, ...prose(clip.verdict.why)) : null),
    ...keys.map(key => figureCell(key, clip.figures?.[key])),
  );
}

function figureCell(key, value) {
  const cell = el("td", { class: "number", "data-figure": key, "data-name": figureName(key) }, figureText(key, value));
  if (!isRatio(key) || !isNumber(value) || value <= 0) return cell;
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
    el("div", {}, el("dt", {}, key.replaceAll("_", " ")), el("dd", { dir: "auto" }, ...prose(said(value)))),
  );
}

// Prompts with their seeds beneath, a cell for each variant; every cell leads to its video.
function verdictList(items, variants, { tone, open, under, listed }) {
  const groups = Map.groupBy(
    items.map((item, place) => ({ item, place })),
    ({ item }) => item.prompt,
  );
  const several = variants.length > 1;
  const list = [...groups].map(([prompt, members]) =>
    el(
      "li",
      { class: "group" },
      el("h3", { class: "clamp", dir: "auto" }, start(prompt, 160) || "no prompt"),
      ...members.map(({ item, place }) => seedRow(item, place, listed(item), { tone, open, under, several })),
    ),
  );
  return [items.length > 1 ? tallies(items, variants, tone) : null, el("ol", { class: several ? "verdicts several" : "verdicts" }, ...list)].filter(Boolean);
}

function tallies(items, variants, tone) {
  return el("ul", { class: "tallies" }, ...variants.map(variant => tallyOf(variant, items, tone)));
}

function tallyOf({ label, title }, items, tone) {
  const words = items.map(item => item.clips.find(clip => clip.label === label)?.verdict?.word).filter(Boolean);
  const counts = Object.entries(countOf(words));
  const bar = el("span", { class: "tally-bar", "aria-hidden": "true" });
  for (const [word, count] of counts) {
    const part = el("i", { class: `is-${lookOf(word)}` });
    part.style.flexGrow = String(count);
    bar.append(part);
  }
  const text = counts.map(([word, count]) => `${count} ${word}`).join(", ");
  return el("li", { class: tone(label) }, el("span", { class: "dot" }), el("bdi", {}, title), el("small", {}, text), bar);
}

function countOf(words) {
  const counts = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  return counts;
}

function seedRow(item, place, variants, { tone, open, under, several }) {
  const name = under(item) || "clips";
  const pick = el("button", { type: "button", class: "link", on: { click: () => open(place, null) } }, name);
  const cells = variants.map(variant => verdictCell(item, place, variant, { tone, open, several }));
  return el("div", { class: "seed", role: "group", "aria-label": name, "data-place": place }, pick, el("div", { class: "cells" }, ...cells), el("p", { class: "why", hidden: true }));
}

function verdictCell(item, place, { label, title }, { tone, open, several }) {
  const clip = item.clips.find(one => one.label === label);
  if (!clip) return el("span", { class: "cell none" }, `${title}: none`);
  const { lap_ratio: sharpness, change } = clip.figures ?? {};
  const figures = [isNumber(sharpness) ? `${ratio(sharpness)} sharp` : null, isNumber(change) ? `change ${figureText("change", change)}` : null];
  return el(
    "button",
    { type: "button", class: "cell", "data-label": label, title, on: { click: () => open(place, label) } },
    several ? el("span", { class: `whose ${tone(label)}` }, el("span", { class: "dot" }), el("bdi", {}, title)) : null,
    badge(clip.verdict) ?? el("span", { class: "badge is-other" }, title),
    el("small", {}, ...figures.filter(Boolean).map(words => el("span", {}, words))),
  );
}
