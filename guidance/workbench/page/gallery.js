// Several runs on one page: which they are, and whose an item is. A page of one run is its own only one.

const runsOf = run => run.runs ?? [run];
const runOf = (run, item) => run.runs?.[item.run] ?? run;

// What stands beneath a prompt: the seed, if there is one, and of several runs which one.
const beneath = (run, item) => [item.seed === null || item.seed === undefined ? null : `seed ${item.seed}`, run.runs ? runOf(run, item).name : null].filter(Boolean).join(" · ");

// A table whose rows are cards where the window is narrow: cells then say what they are. cells: [[head, words]]
function carded(kind, first, rows) {
  const heads = [el("th", { scope: "col" }, first), ...rows[0].cells.map(([head]) => el("th", { scope: "col", class: "number" }, head))];
  const body = rows.map(({ tone, name, cells }) => el("tr", { class: tone }, el("th", { scope: "row" }, ...name), ...cells.map(([head, words]) => el("td", { class: "number", "data-name": head }, words))));
  return el("table", { class: `carded ${kind}` }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...body));
}

// open(place): shows the first item of a run
function runsTable(run, { open }) {
  const rows = run.runs.map((one, number) => {
    const place = run.items.findIndex(item => item.run === number);
    const name = el("button", { type: "button", class: "link", dir: "auto", on: { click: () => open(place, null) } }, one.name);
    const page = one.page?.url ? el("a", { href: one.page.url, target: "_blank", rel: "noopener", "aria-label": `Page of ${one.name}` }, "its page") : null;
    const kind = el("small", {}, " ", one.title, page ? " · " : null, page);
    const clips = one.missing ? `${one.clips - one.missing} of ${one.clips}` : String(one.clips);
    const cells = [["Model", said(one.model)], ["Bank", said(one.bank)], ["Date", moment(one.created)], ["Prompts", String(one.prompts)], ["Clips", clips]];
    return { name: [name, kind], cells };
  });
  return carded("runs", "Run", rows);
}

function runsSettings(run) {
  return run.runs.flatMap(one => {
    const fit = one.fit ? el("p", {}, "The fit: ", ...prose(one.fit.words)) : null;
    return [el("h3", { dir: "auto" }, one.name), fit, el("dl", { class: "settings" }, ...settingsList(one.settings))].filter(Boolean);
  });
}

// What the runs are and what was voted so far, above everything else; nothing on a page of one run.
function showRuns(run, { open, vote }) {
  byId("runs").hidden = !run.runs;
  if (!run.runs) return;
  byId("runs-table").replaceChildren(runsTable(run, { open }));
  if (!byId("runs-settings").hasChildNodes()) byId("runs-settings").append(...runsSettings(run));
  const words = vote ? resultInWords(vote.total()) : "";
  byId("runs-voted").textContent = words ? `Blind vote: ${words}` : "";
  byId("runs-voted").hidden = !words;
}
