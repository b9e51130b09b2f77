// The page: what is chosen, and every part of it in agreement with that. Opens one item at a time; nothing else loads.

const MOST_PLAYERS = 36; // in a grid: browsers refuse more than some seventy on one page
const run = JSON.parse(byId("run").textContent);
run.items = (run.items ?? []).map(item => ({ ...item, clips: item.clips ?? [], prompt: String(item.prompt ?? "") }));

const referenceOf = item =>
  item.clips.find(clip => clip.label === run.reference) ??
  item.clips.find(clip => clip.verdict?.word === "reference") ??
  item.clips[0] ??
  null;

const titles = new Map(run.items.flatMap(item => item.clips.map(clip => [clip.label, clip.title || clip.label])));
const referenceLabel = titles.has(run.reference) ? run.reference : (run.items.map(referenceOf).find(Boolean)?.label ?? null);
const judged = new Set(run.items.flatMap(item => item.clips.filter(clip => clip !== referenceOf(item)).map(clip => clip.label)));
const variants = [...titles].filter(([label]) => judged.has(label)).map(([label, title]) => ({ label, title }));
const listed = one => (run.runs ? variants.filter(({ label }) => one.clips.some(clip => clip.label === label)) : variants);
const titleOf = label => titles.get(label) ?? label;

function tone(label) {
  const place = variants.findIndex(variant => variant.label === label);
  return place < 0 ? "tone-ref" : `tone-${place % 7}`;
}

const view = { place: 0, chosen: variants[0]?.label ?? null, mode: "side", pair: false, swapped: false, hidden: new Set() };
let vote = null; // the blind vote while it is on

const clock = new Clock(() => showTime());
const stage = new Stage({
  changed: () => clock.show(stage.shown, fpsOf(item())),
  tapped: () => clock.toggle(),
  zoomed: () => (byId("zoom-value").textContent = `${stage.zoom}×`),
  divided: () => undefined,
  room: roomForStage,
});

// What the window has left: beside a desk for all of the viewer, as the page opens; on a phone for the transport alone.
function roomForStage() {
  if (innerWidth <= 720) return innerHeight - byId("transport").offsetHeight - 64;
  const viewer = byId("viewer");
  const top = vote ? 8 : viewer.offsetTop; // a vote has the window to itself
  return innerHeight - top - (viewer.offsetHeight - byId("stage").offsetHeight) - 16;
}

const item = () => run.items[vote?.trial ? vote.trial.at : view.place];
const fpsOf = one => one?.fps || run.fps || 8;
const shownMode = () => (vote && view.mode === "grid" ? "side" : view.mode);
const say = words => (byId("status").textContent = words);

// ---- what stands on the stage

function part(of, clip, traits = {}) {
  const title = clip.title || clip.label;
  return {
    key: `${run.items.indexOf(of)} ${clip.label}`,
    clip,
    fps: fpsOf(of),
    name: title,
    spoken: `${title}: ${start(of.prompt, 60)}`,
    tone: tone(clip.label),
    ...traits,
  };
}

function ordered(one) {
  const reference = referenceOf(one);
  const rest = variants.map(({ label }) => one.clips.find(clip => clip.label === label)).filter(clip => clip && clip !== reference);
  return [reference, ...rest].filter(Boolean);
}

// The variant shown against the reference: the chosen one, or the first that this item has.
function chosenClip(one) {
  const [, ...rest] = ordered(one);
  return rest.find(clip => clip.label === view.chosen) ?? rest[0] ?? null;
}

function openParts() {
  const one = item();
  const all = ordered(one);
  const pair = [all[0], chosenClip(one)].filter(Boolean);
  const seen = all.filter(clip => !view.hidden.has(clip.label));
  const shown = view.mode !== "side" || view.pair ? pair : seen.length ? seen : all;
  const parts = shown.map(clip => part(one, clip, { badge: badge(clip.verdict) }));
  return view.swapped ? parts.reverse() : parts;
}

function blindParts() {
  const { at } = vote.trial;
  const parts = Object.entries(vote.sides).map(([name, clip]) =>
    part(item(), clip, {
      key: `${at} ${vote.place} ${name}`,
      name,
      spoken: `${name}: ${start(item().prompt, 60)}`,
      tone: "tone-blind",
      masked: true,
    }),
  );
  return view.swapped ? parts.reverse() : parts;
}

// Seeds down, variants across, of all items with this prompt; or as many as a page can play.
function gridWindow() {
  const { prompt } = item();
  const group = run.items.filter(one => one.prompt === prompt);
  const labels = [...new Set([referenceLabel, ...variants.map(({ label }) => label)])].filter(label => label !== null && !view.hidden.has(label) && group.some(one => one.clips.some(clip => clip.label === label)));
  const most = Math.max(1, Math.floor(MOST_PLAYERS / Math.max(1, labels.length)));
  const from = Math.floor(group.indexOf(item()) / most) * most;
  return { group, labels, from, rows: group.slice(from, from + most) };
}

function showGrid() {
  const { group, labels, from, rows } = gridWindow();
  const heads = labels.map((label, place) => placed(el("div", { class: `head across ${tone(label)}` }, el("span", { class: "dot" }), el("bdi", {}, titleOf(label))), 1, place + 2));
  const parts = rows.flatMap((one, row) =>
    one.clips.filter(clip => labels.includes(clip.label)).map(clip => part(one, clip, { row: row + 2, column: labels.indexOf(clip.label) + 2, spoken: `${titleOf(clip.label)}, ${beneath(run, one)}: ${start(one.prompt, 60)}` })),
  );
  const sides = rows.map((one, row) => {
    const here = one === item();
    const go = el("button", { type: "button", "aria-current": here ? "true" : null, on: { click: () => open(run.items.indexOf(one), null) } }, said(one.seed) === "–" ? null : "seed ", el("b", {}, said(one.seed)), run.runs ? el("small", {}, runOf(run, one).name) : null);
    return placed(el("div", { class: `head down${here ? " here" : ""}` }, go), row + 2, 1);
  });
  stage.show(`grid ${run.items.indexOf(rows[0])} ${labels.join(" ")}`, "grid", parts, [...heads, ...sides]);
  const here = stage.node.querySelector(".head.here");
  if (here) stage.node.scrollTop = within(here.offsetTop + here.offsetHeight - stage.node.clientHeight, stage.node.scrollTop, here.offsetTop);
  note(group.length === 1 ? "This prompt was sampled with one seed." : rows.length < group.length ? `Seeds ${from + 1} to ${from + rows.length} of ${group.length}; the next ones open with their item.` : "");
}

function placed(node, row, column) {
  node.style.gridRow = String(row);
  node.style.gridColumn = String(column);
  return node;
}

function note(words) {
  byId("stage-note").textContent = words;
  byId("stage-note").hidden = !words;
}

function showStage() {
  if (!item()) return;
  const mode = shownMode();
  note("");
  if (mode === "grid") showGrid();
  else if (vote) stage.show(`blind ${vote.place}`, mode, blindParts());
  else stage.show(`item ${view.place}`, mode, openParts());
  if (mode !== "side" && mode !== "grid" && stage.shown.length < 2) note("There is no second video to compare with.");
  clock.show(stage.shown, fpsOf(item()));
  showTools(mode);
}

function showTools(mode) {
  for (const button of byId("modes").children) press(button, button.dataset.mode === mode);
  byId("amplify-box").hidden = mode !== "difference";
  byId("swap").hidden = mode === "grid" || mode === "difference";
  byId("pair").hidden = mode !== "side" || ordered(item()).length < 3;
  press(byId("pair"), view.pair);
  showChips(mode);
  for (const player of stage.shown) player.node.classList.toggle("chosen", mode === "side" && !vote && !view.pair && stage.shown.length > 2 && player.part.clip === chosenClip(item()));
}

function showChips(mode) {
  const chosen = chosenClip(item())?.label;
  const hiding = (mode === "side" && !view.pair) || mode === "grid";
  const chips = ordered(item()).map(({ label }) => {
    const title = titleOf(label);
    const pick = el("button", { type: "button", class: "pick", "data-label": label, "aria-pressed": String(label === chosen), on: { click: () => choose(label) } }, el("span", { class: "dot" }), el("bdi", {}, title));
    const shown = !view.hidden.has(label);
    const eye = el("button", { type: "button", class: "eye", "aria-pressed": String(shown), "aria-label": `Show ${title}`, title: shown ? `Hide ${title}` : `Show ${title}`, "data-eye": label, on: { click: () => hide(label) } }, icon(shown ? "eye" : "blind"));
    if (label === referenceOf(item()).label) Object.assign(pick, { disabled: true, title: "The others are judged against this one" });
    return el("span", { class: `chip ${tone(label)}${label === chosen ? " on" : ""}${hiding && !shown ? " off" : ""}` }, pick, hiding ? eye : null);
  });
  const box = byId("chips");
  keepFocus(box, () => box.replaceChildren(...chips));
  const on = box.querySelector(".on");
  if (on) box.scrollLeft = on.offsetLeft - (box.clientWidth - on.offsetWidth) / 2;
}

// Rebuilt buttons do not drop the reader who was on one of them.
function keepFocus(box, rebuild) {
  const held = box.contains(document.activeElement) ? document.activeElement.dataset : null;
  rebuild();
  if (held?.label) box.querySelector(`[data-label="${CSS.escape(held.label)}"]`)?.focus();
  if (held?.eye) box.querySelector(`[data-eye="${CSS.escape(held.eye)}"]`)?.focus();
}

// ---- choices

function open(place, label) {
  const jumped = place !== view.place;
  view.place = within(0, place, run.items.length - 1);
  if (label && judged.has(label)) view.chosen = label;
  if (jumped) clock.time = 0;
  showItem();
  if (document.activeElement?.closest("#overview")) byId("viewer").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
}

function choose(label) {
  if (!ordered(item()).slice(1).some(clip => clip.label === label)) return;
  view.chosen = label;
  view.hidden.delete(label);
  showItem();
}

function chooseBy(by) {
  const rest = ordered(item()).slice(1);
  if (!rest.length) return;
  const here = rest.indexOf(chosenClip(item()));
  choose(rest[(here + by + rest.length) % rest.length].label);
}

function hide(label) {
  if (view.hidden.has(label)) view.hidden.delete(label);
  else view.hidden.add(label);
  showStage();
}

function setMode(mode) {
  if (!item() || (vote && mode === "grid")) return;
  view.mode = mode;
  showStage();
  remember();
}

function swap() {
  view.swapped = !view.swapped;
  showStage();
}

function itemBy(by) {
  if (vote) {
    vote.goToItem(by);
    showTrial();
  } else if (view.place + by in run.items) {
    open(view.place + by, null);
  }
}

function variantBy(by) {
  if (!vote) return chooseBy(by);
  vote.goTo(vote.place + by);
  return showTrial();
}

// ---- an item in words and numbers

function showItem() {
  const one = item();
  if (!one) return;
  showPrompt(one);
  showStage();
  showFigures(one);
  showTrace(one);
  showFiles(one);
  markMatrix();
  const clip = chosenClip(one);
  say(`Item ${view.place + 1} of ${run.items.length}.${clip ? ` ${titleOf(clip.label)}: ${clip.verdict?.word ?? "not judged"}. ${clip.verdict?.why ?? ""}` : ""}`);
  remember();
}

function showPrompt(one) {
  const title = byId("item-title");
  title.textContent = one.prompt || "no prompt";
  title.classList.remove("whole");
  byId("prompt-more").setAttribute("aria-expanded", "false");
  byId("prompt-more").textContent = "Show the whole prompt";
  byId("prompt-more").hidden = title.scrollHeight <= title.clientHeight + 2;
  byId("item-seed").textContent = beneath(run, one);
  const place = run.items.indexOf(one);
  byId("item-count").textContent = `${place + 1} / ${run.items.length}`;
  byId("item-back").disabled = place === 0;
  byId("item-on").disabled = place === run.items.length - 1;
}

function showFigures(one) {
  const clips = ordered(one);
  byId("figures").replaceChildren(figuresTable(clips, { chosen: chosenClip(one)?.label, tone, choose }));
  byId("figures-note").textContent = clips.length > 1 ? `Judged against ${titleOf(clips[0].label)}. Bars end at half and at twice its value.` : "";
  byId("legend").replaceChildren(...legend(figureKeys(clips)));
}

function showTrace(one) {
  const chosen = chosenClip(one);
  const told = ordered(one).filter(clip => clip.trace?.length);
  byId("traced").hidden = !told.length;
  const series = told.map(clip => ({ title: titleOf(clip.label), tone: tone(clip.label), chosen: clip === chosen, trace: clip.trace }));
  drawTrace(byId("trace"), series);
  byId("trace-why").replaceChildren(...prose(whyItMoves(run.fit, (told.includes(chosen) ? chosen : told[0])?.trace ?? [])));
  const stepped = told.includes(chosen) ? chosen : told[0];
  byId("steps").replaceChildren(stepped ? stepsTable(stepped.trace) : "");
}

function showFiles(one) {
  const files = [["Side-by-side video", one.side_by_side], ["Montage", one.montage], ["Trace plot", one.trace_plot], ...ordered(one).map(clip => [titleOf(clip.label), clip.video])];
  const links = files.filter(([, file]) => file?.url && !file.url.startsWith("data:"));
  byId("links").replaceChildren(...links.map(([words, file]) => el("a", { href: file.url, target: "_blank", rel: "noopener" }, words)));
  const { montage } = one;
  byId("montage").replaceChildren(montage?.url ? el("img", { src: montage.url, loading: "lazy", alt: `Frames of all variants beside each other: ${start(one.prompt, 60)}` }) : "");
}

function markMatrix() {
  const chosen = chosenClip(item())?.label;
  for (const row of byId("matrix").querySelectorAll(".seed")) {
    const here = Number(row.dataset.place) === view.place;
    row.classList.toggle("here", here);
    row.querySelector("button").setAttribute("aria-current", String(here));
    const why = here ? chosenClip(item())?.verdict?.why : null;
    row.querySelector(".why").replaceChildren(...prose(why));
    row.querySelector(".why").hidden = !why;
    for (const cell of row.querySelectorAll(".cell")) cell.classList.toggle("on", here && cell.dataset.label === chosen);
    if (here) bringInto(byId("matrix"), row);
  }
}

// Scrolls the box alone, never the page.
function bringInto(box, row) {
  if (row.offsetTop < box.scrollTop) box.scrollTop = row.offsetTop;
  else if (row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = row.offsetTop + row.offsetHeight - box.clientHeight;
}

// ---- the clock's face

let drawnTime = "";

function showTime() {
  const { frame, frames, playing, waiting, stuck } = clock;
  const face = [frame, frames, playing, waiting, stuck].join();
  if (face === drawnTime) return;
  drawnTime = face;
  byId("scrub").max = String(frames - 1);
  byId("scrub").value = String(frame);
  byId("scrub").style.setProperty("--done", String(frames > 1 ? frame / (frames - 1) : 0));
  byId("scrub").setAttribute("aria-valuetext", `frame ${frame + 1} of ${frames}`);
  byId("frame").textContent = `${String(frame + 1).padStart(String(frames).length, "\u2007")} / ${frames}`;
  byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  byId("play-icon").setAttribute("href", playing ? "#i-pause" : "#i-play");
  byId("stage").classList.toggle("waiting", waiting);
  if (stuck) note("This server does not let videos be wound; open the page as a file.");
}

function setSpeed(speed) {
  clock.speed = speed;
  for (const button of byId("speeds").children) press(button, Number(button.dataset.speed) === speed);
}

// ---- the blind vote

const newVote = () => new Vote(run, referenceOf, variants.map(({ label }) => label));

function setBlind(on) {
  if (on === Boolean(vote) || !item()) return;
  vote = on ? newVote() : null;
  if (vote && !vote.all.length) {
    vote = null;
    return void say("A blind vote needs a reference and a variant.");
  }
  document.body.classList.toggle("blind", on);
  press(byId("blind"), on);
  byId("ballot").hidden = !on;
  view.swapped = false;
  clock.time = 0;
  showRuns(run, { open, vote: on ? null : newVote() });
  if (!on) return showItem();
  byId("ballot-scope").value = "";
  vote.judge(null);
  showTrial();
  if (vote.votes.length) say(`${plural(vote.votes.length, "vote")} kept from before.`);
  return byId("viewer").scrollIntoView({ behavior: "auto" });
}

function showTrial() {
  view.swapped = false;
  clock.time = 0;
  showPrompt(item());
  showStage();
  showBallot();
  remember();
}

function showBallot() {
  const cast = vote.voteOn(vote.trial);
  const words = `Pair ${vote.place + 1} of ${vote.trials.length}, ${vote.done} voted`;
  byId("ballot-progress").textContent = words;
  const { A, B } = vote.sides;
  press(byId("vote-a"), cast?.choice === A.label);
  press(byId("vote-b"), cast?.choice === B.label);
  press(byId("vote-none"), cast?.choice === null);
  say(words);
}

function castVote(side) {
  if (!vote) return;
  if (vote.cast(side)) return showTrial();
  showBallot();
  return showTally();
}

function showTally() {
  const rows = vote.tally();
  byId("tally-words").replaceChildren(...(rows.length ? tallyWords() : ["There are no votes yet."]));
  const ofRuns = run.runs ? vote.tallyOfRuns() : [];
  byId("tally-table").replaceChildren(...(rows.length ? [tallyTable("Variant", rows), ofRuns.length ? tallyTable("Run", ofRuns) : ""] : []));
  byId("tally-list").replaceChildren(rows.length ? votesTable(vote.votes) : "");
  if (!byId("tally").open) byId("tally").showModal();
}

function tallyWords() {
  const how = "Intervals are Wilson's, of 95%, and take every vote by itself. Chance is how often a fair coin would fall as unevenly (exact sign test). Votes for no difference are in neither.";
  return [`${plural(vote.votes.length, "vote")} on ${plural(vote.all.length, "pair")}. ${resultInWords(vote.total())} `, el("span", { class: "soft" }, how)];
}

// Of variants beside their references, or of runs: what is guided beside what is not.
function tallyTable(of, rows) {
  const ofRuns = of === "Run";
  const cells = ({ wins, losses, ties, chance, interval }) => [
    [ofRuns ? "Guided better" : "Better", String(wins)],
    [ofRuns ? "Unguided better" : "Reference better", String(losses)],
    ["No difference", String(ties)],
    ["Preferred", within95(interval)],
    ["Chance", interval ? number(chance) : "–"],
  ];
  return carded("tallied", of, rows.map(row => ({ tone: ofRuns ? null : tone(row.label), name: ofRuns ? [row.label] : [el("span", { class: "dot" }), titleOf(row.label)], cells: cells(row) })));
}

function votesTable(votes) {
  const heads = ["Prompt", "Seed", "A was", "B was", "Better"].map(words => el("th", { scope: "col" }, words));
  const body = votes.map(({ run: id, prompt, seed, reference, variant, left, choice }) => {
    const { name } = runsOf(run).find(one => one.id === id) ?? run;
    const right = left === reference ? variant : reference;
    const better = choice === null ? "no difference" : titleOf(choice);
    return el("tr", {}, el("th", { scope: "row", dir: "auto" }, start(String(prompt), 60), name ? el("small", {}, name) : null), ...[said(seed), titleOf(left), titleOf(right), better].map(words => el("td", {}, words)));
  });
  return el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...body));
}

function saveVotes() {
  const url = URL.createObjectURL(new Blob([JSON.stringify(vote.record(), null, 2), "\n"], { type: "application/json" }));
  el("a", { href: url, download: "votes.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  say(`${plural(vote.votes.length, "vote")} saved as votes.json.`);
}

// ---- keys

const KEYS = [
  ["Space", "Play or pause"],
  ["A D", "One frame back, one on"],
  ["← →", "Previous, next variant"],
  ["↑ ↓", "Previous, next item"],
  ["S", "Swap the sides; with the divider at an edge, flicker between the two"],
  ["0", "Difference view, and back"],
  ["Z", "Zoom 1×, 2×, 4× about the pointer"],
  ["Shift ← ↑ ↓ →", "Move the zoomed picture"],
  ["B", "Blind vote, and back"],
  ["1 2 3", "Vote: A is better, B is better, no difference"],
  ["?", "These keys"],
];

const HELD = {
  a: () => clock.step(-1),
  d: () => clock.step(1),
};

const ONCE = {
  " ": () => clock.toggle(),
  s: swap,
  z: () => stage.zoomOn(),
  0: () => setMode(view.mode === "difference" ? "side" : "difference"),
  b: () => setBlind(!vote),
  "?": () => byId("help").showModal(),
  1: () => castVote("A"),
  2: () => castVote("B"),
  3: () => castVote(null),
};

const ARROWS = {
  ArrowLeft: () => variantBy(-1),
  ArrowRight: () => variantBy(1),
  ArrowUp: () => itemBy(-1),
  ArrowDown: () => itemBy(1),
};

const PANS = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
let byPointer = false; // whether the focus was put where it is by a pointer

const isTyping = node => node.closest("textarea, select, [contenteditable], input:not([type=range])") !== null;
const isPressed = node => node.closest("button, summary, a") !== null;

// What a key would do here; a focused control keeps the keys that are its own.
function actionOf(event) {
  const { key, target, shiftKey } = event;
  const letter = key.length === 1 ? key.toLowerCase() : key;
  if (document.querySelector("dialog[open]") || isTyping(target)) return null;
  if (shiftKey && key in PANS) return stage.zoom > 1 ? () => stage.panBy(...PANS[key]) : null;
  if (key in ARROWS) {
    const own = target.matches("input") || (target.closest(".scroller") !== null && !isPressed(target));
    return own || (event.repeat && vote) ? null : ARROWS[key];
  }
  if (letter in HELD) return HELD[letter];
  if (event.repeat || (key === " " && isPressed(target) && !byPointer)) return null;
  return ONCE[letter] ?? null;
}

let eaten = false; // Firefox presses a focused button when Space comes up

function onKeyDown(event) {
  if (event.key === "Tab") byPointer = false;
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !(event.target instanceof Element)) return;
  const action = item() || event.key === "?" ? actionOf(event) : null;
  if (!action) return;
  eaten = event.key === " ";
  event.preventDefault();
  action();
}

function onKeyUp(event) {
  if (event.key !== " " || !eaten) return;
  eaten = false;
  event.preventDefault();
}

// ---- the place in the address

function remember() {
  const clip = item() ? chosenClip(item()) : null;
  const place = vote ? "#" : `#${[view.place + 1, clip?.label ?? "", view.mode].map(encodeURIComponent).join("/")}`;
  try {
    history.replaceState(null, "", place);
  } catch {
    return;
  }
}

function recallPlace() {
  const [place, label, mode] = location.hash.slice(1).split("/").map(word => {
    try {
      return decodeURIComponent(word);
    } catch {
      return "";
    }
  });
  if (Number(place) - 1 in run.items) view.place = Number(place) - 1;
  if (variants.some(variant => variant.label === label)) view.chosen = label;
  if (["side", "slider", "difference", "grid"].includes(mode)) view.mode = mode;
}

// ---- the page as it opens

function showRun() {
  document.title = `${run.title ?? "run"} · shelllcc`;
  byId("title").textContent = run.title ?? "";
  const facts = [run.runs ? plural(run.runs.length, "run") : moment(run.created), plural(run.items.length, "item"), plural(titles.size, "variant"), referenceLabel === null || (run.runs && !run.reference) ? null : `judged against ${titleOf(referenceLabel)}`];
  byId("facts").replaceChildren(...facts.filter(fact => fact && fact !== "–").map((fact, place) => el("span", { class: place > 1 ? "open-only" : null }, fact)));
  byId("made").textContent = `Made by shelllcc ${run.version ?? ""}.`;
  showRuns(run, { open, vote: newVote() });
  byId("fitted").hidden = !run.fit;
  byId("fitted-words").replaceChildren(...prose(sentence(run.fit?.words)));
  const settings = settingsList(run.settings);
  byId("settings").hidden = !settings.length;
  byId("settings-list").replaceChildren(...settings);
  byId("matrix").replaceChildren(...verdictList(run.items, variants, { tone, open, under: one => beneath(run, one), listed }));
  byId("overview-note").textContent = variants.length ? "Sharpness over the reference's, and the mean change of a pixel, of 1." : "";
  byId("ballot-scope").append(el("option", { value: "" }, "every variant in turn"), ...variants.map(({ label, title }) => el("option", { value: label }, title)));
  byId("ballot-scope-label").hidden = variants.length < 2;
  byId("help-list").append(...KEYS.flatMap(([keys, words]) => [el("dt", {}, ...keys.split(" ").map(key => el("kbd", {}, key))), el("dd", {}, words)]));
  const none = !run.items.length;
  byId("empty").hidden = !none;
  byId("blind").disabled = !run.items.some(one => one.clips.length > 1);
  for (const section of ["viewer", "overview", "judged", "traced", "files"]) byId(section).hidden = none;
}

function listen() {
  const clicks = {
    blind: () => setBlind(!vote),
    keys: () => byId("help").showModal(),
    "help-close": () => byId("help").close(),
    "item-back": () => itemBy(-1),
    "item-on": () => itemBy(1),
    pair: () => ((view.pair = !view.pair), showStage()),
    swap,
    zoom: () => stage.zoomOn(),
    play: () => clock.toggle(),
    "step-back": () => clock.step(-1),
    "step-on": () => clock.step(1),
    loop: () => ((clock.loop = !clock.loop), press(byId("loop"), clock.loop)),
    "vote-a": () => castVote("A"),
    "vote-b": () => castVote("B"),
    "vote-none": () => castVote(null),
    "tally-open": showTally,
    "tally-save": saveVotes,
    "votes-save": saveVotes,
    "tally-continue": () => byId("tally").close(),
    "tally-clear": () => (vote.forget(), byId("tally").close(), showTrial()),
    "tally-leave": () => (byId("tally").close(), setBlind(false)),
    "blind-leave": () => setBlind(false),
    "prompt-more": unfoldPrompt,
  };
  for (const [id, clicked] of Object.entries(clicks)) byId(id).addEventListener("click", clicked);
  for (const button of byId("modes").children) button.addEventListener("click", () => setMode(button.dataset.mode));
  for (const button of byId("speeds").children) button.addEventListener("click", () => setSpeed(Number(button.dataset.speed)));
  byId("scrub").addEventListener("input", event => clock.goTo(Number(event.target.value)));
  byId("amplify").addEventListener("input", () => setAmplify());
  byId("ballot-scope").addEventListener("change", event => (vote.judge(event.target.value || null), showTrial()));
  addEventListener("keydown", onKeyDown);
  addEventListener("keyup", onKeyUp);
  addEventListener("pointerdown", () => (byPointer = true), true);
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - drawn) > 1 && item() && !vote) {
      showTrace(item());
      drawBands(byId("fitted-bands"), run.fit?.bands);
    }
    drawn = entry.contentRect.width;
  }).observe(byId("judged"));
  for (const box of [byId("stage"), byId("chips"), ...document.querySelectorAll(".scroller")]) watchEdges(box);
}

function setAmplify() {
  const power = Number(byId("amplify").value);
  byId("amplify-value").textContent = `${2 ** power}×`;
  stage.amplify(power);
}

function unfoldPrompt() {
  const whole = byId("item-title").classList.toggle("whole");
  byId("prompt-more").setAttribute("aria-expanded", String(whole));
  byId("prompt-more").textContent = whole ? "Show less" : "Show the whole prompt";
}

showRun();
recallPlace();
listen();
setSpeed(1);
byId("amplify").value = "2";
setAmplify();
showTime();
showItem();
if (item() && !calm.matches) clock.play();

// For tests and scripts: what the page shows, read only.
window.shelllcc = Object.freeze({
  frames: () => clock.positions(),
  state: () => ({
    ...view,
    hidden: [...view.hidden],
    mode: shownMode(),
    playing: clock.playing,
    waiting: clock.waiting,
    frame: clock.frame,
    frameCount: clock.frames,
    time: clock.time,
    speed: clock.speed,
    loop: clock.loop,
    zoom: stage.zoom,
    pan: { ...stage.pan },
    divider: stage.divider,
    shown: stage.shown.map(player => player.part.clip.label),
    blind: vote !== null,
    votes: vote?.votes ?? null,
  }),
});
