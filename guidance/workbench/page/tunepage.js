// The page of `tune`: a card for each prompt. What is drawn is of search.js.

const told = JSON.parse(byId("run").textContent);

function searchCard(search, place) {
  const title = `prompt-${place}`;
  const figure = el("figure", { class: "bands searched-chart" });
  const draw = () => drawSearch(figure, search, numbered);
  const numbered = search.probes.some(({ why }) => why);
  const parts = search.probes.length
    ? [el("div", { class: "halves" }, figure, el("div", {}, probesTable(search, numbered), ended(search)))]
    : [el("p", { class: "lead" }, "This profile does not say which strengths were tried.")];
  const settings = Object.entries(search.settings ?? {}).map(([key, value]) => el("div", {}, el("dt", {}, key.replaceAll("_", " ")), el("dd", { dir: "auto" }, ...prose(said(value)))));
  const card = el(
    "section",
    { class: "card", "aria-labelledby": title },
    el("div", { class: "card-head" }, el("h2", { id: title, class: "prompt", dir: "auto" }, start(search.prompt, 400) || "no prompt")),
    el("p", { class: "lead" }, el("b", {}, `Strength ${number(search.strength)}`), `, balance ${signed(search.balance)}`, search.chosen ? `: ${search.chosen}.` : "."),
    ...parts,
    el("details", { class: "fold" }, el("summary", {}, `What profile ${search.name} is for`), el("dl", { class: "settings" }, ...settings)),
  );
  if (search.probes.length) new ResizeObserver(draw).observe(card);
  return card;
}

function probesTable({ probes, strength, prompt }, numbered) {
  const heads = [numbered ? "" : null, "Strength", "Balance", "", numbered ? "Tried because" : null, "Clip"];
  const numbers = ["Strength", "Balance"];
  const head = heads.map(words => (words === null ? null : words ? el("th", { scope: "col", class: numbers.includes(words) ? "number" : null }, words) : el("td")));
  const rows = probes.map((probe, order) => {
    const chosen = probe.strength === strength;
    return el(
      "tr",
      { class: chosen ? "chosen" : null },
      numbered ? el("td", { class: "number" }, String(order + 1)) : null,
      el("th", { scope: "row", class: "number" }, fixed(probe.strength, 2)),
      el("td", { class: "number" }, signed(probe.balance)),
      el("td", {}, chosen ? el("b", {}, "chosen") : probe.word),
      numbered ? el("td", { class: "because" }, probe.why) : null,
      el("td", {}, probe.clip ? el("a", { href: probe.clip, "aria-label": `watch the clip of strength ${number(probe.strength)}` }, "watch") : "–"),
    );
  });
  const box = el("div", { class: "scroller", role: "region", tabindex: "0", "aria-label": `Strengths tried for ${start(prompt, 60)}` }, el("table", { class: "probes" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
  watchEdges(box);
  return box;
}

function ended({ ended: why, seeds }) {
  const of = seeds?.length > 1 ? ` Balances are means over seeds ${seeds.join(", ")}.` : "";
  return el("p", { class: "soft after-table" }, why ? `The search ended: ${why}.${of}` : of.trim());
}

document.title = "tune · shelllcc";
const moments = told.searches.map(({ created }) => created).filter(Boolean).sort();
byId("facts").append(...[moments.length ? moment(moments.at(-1)) : null, plural(told.searches.length, "prompt")].filter(Boolean).map(fact => el("span", {}, fact)));
byId("searches").append(...told.searches.map(searchCard));
byId("made").textContent = `Made by shelllcc ${told.version ?? ""}.`;
