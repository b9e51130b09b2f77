// Where the players stand: side by side, one over the other, or in a grid; zoom, pan and the divider. Knows nothing of
// verdicts or of time.

const ZOOMS = [1, 2, 4];
const GAP = 12;
const CAPTION = 34;
const LEAST = 200; // pixels of height that the stage always takes
const TAP = 4; // pixels that a tap may wander

class Stage {
  #players = new Map();
  #scene = null;
  #pointer = null;
  #shown = [];

  zoom = 1;
  pan = { x: 0, y: 0 };
  divider = 50;
  mode = "side";

  // told: {changed(), tapped(), zoomed(), divided(), room(): pixels of height that the window has for the stage}
  constructor(told) {
    this.told = told;
    this.node = byId("stage");
    this.screens = byId("screens");
    this.handle = byId("divider");
    this.#listen();
    new ResizeObserver(() => this.arrange()).observe(this.node.parentElement);
    addEventListener("resize", () => this.arrange());
  }

  get shown() {
    return this.#shown;
  }

  // Parts are {key, clip, fps, name, spoken, tone, badge, row, column}; players of one scene are kept while it lasts.
  show(scene, mode, parts, heads = []) {
    if (scene !== this.#scene) this.clear();
    this.#scene = scene;
    this.mode = mode;
    this.node.dataset.mode = mode;
    this.#shown = parts.map(part => this.#player(part));
    for (const player of this.#players.values()) player.node.hidden = !this.#shown.includes(player);
    this.screens.querySelectorAll(".head").forEach(head => head.remove());
    this.screens.append(...heads);
    this.#shown.forEach((player, place) => this.#place(player, place));
    this.#name();
    this.arrange();
    this.#look();
  }

  clear() {
    for (const player of this.#players.values()) player.release();
    this.#players.clear();
    this.#shown = [];
    this.screens.replaceChildren();
  }

  zoomOn() {
    const next = ZOOMS[(ZOOMS.indexOf(this.zoom) + 1) % ZOOMS.length];
    const held = this.#pointer ?? { x: 0, y: 0 };
    const spot = { x: (held.x - this.pan.x) / this.zoom, y: (held.y - this.pan.y) / this.zoom };
    this.zoom = next;
    this.panTo(held.x - spot.x * next, held.y - spot.y * next);
  }

  // In shares of a screen's width and height; zero is the middle.
  panTo(x, y) {
    const most = (this.zoom - 1) / 2;
    this.pan = { x: within(-most, x, most), y: within(-most, y, most) };
    this.#look();
    this.told.zoomed();
  }

  panBy(x, y) {
    this.panTo(this.pan.x + x, this.pan.y + y);
  }

  divide(share) {
    this.divider = Math.round(within(0, share, 100) * 10) / 10;
    this.#look();
    this.told.divided();
  }

  amplify(power) {
    this.node.style.setProperty("--amplify", String(2 ** power));
  }

  arrange() {
    const room = this.node.clientWidth;
    const height = Math.max(LEAST, this.told.room());
    const lead = this.#shown.find(player => !player.failed) ?? this.#shown[0];
    if (!lead || room <= 0) return;
    this.node.style.setProperty("--room", `${Math.floor(height)}px`);
    const layout = { side: sideBySide, grid: inGrid }[this.mode] ?? overlaid;
    for (const [name, value] of Object.entries(layout(room, height, lead.aspect, this.#shown))) {
      this.node.style.setProperty(name, value);
    }
  }

  #player(part) {
    if (!this.#players.has(part.key)) {
      const player = new Player(part, () => (this.arrange(), this.told.changed()));
      this.#players.set(part.key, player);
      this.screens.append(player.node);
    }
    return this.#players.get(part.key);
  }

  #place(player, place) {
    const { row, column } = player.part;
    const grid = this.mode === "grid";
    player.node.style.gridRow = grid ? String(row) : "";
    player.node.style.gridColumn = grid ? String(column) : "";
    player.node.style.order = grid ? "" : String(place);
    player.node.classList.toggle("above", !grid && this.mode !== "side" && place === 1);
  }

  #name() {
    const overlay = this.mode === "slider" || this.mode === "difference";
    byId("overlay").hidden = !overlay || this.#shown.length < 2;
    const [left, right] = this.#shown.map(player => player.part.name);
    byId("tag-left").textContent = left ?? "";
    byId("tag-right").textContent = right ?? "";
    this.handle.hidden = this.mode !== "slider";
  }

  #look() {
    const style = this.node.style;
    style.setProperty("--zoom", String(this.zoom));
    style.setProperty("--pan-x", String(this.pan.x));
    style.setProperty("--pan-y", String(this.pan.y));
    style.setProperty("--divider", String(this.divider));
    this.node.classList.toggle("zoomed", this.zoom > 1);
    const [left, right] = this.#shown.map(player => player.part.name);
    this.handle.setAttribute("aria-valuenow", String(Math.round(this.divider)));
    this.handle.setAttribute("aria-valuetext", `${Math.round(this.divider)}% ${left ?? ""}, the rest ${right ?? ""}`);
  }

  #listen() {
    this.handle.addEventListener("keydown", event => this.#divideByKey(event));
    this.node.addEventListener("pointerdown", event => this.#grab(event));
    this.node.addEventListener("pointermove", event => (this.#pointer = this.#spot(event)));
    this.node.addEventListener("pointerleave", () => (this.#pointer = null));
  }

  #divideByKey(event) {
    const steps = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 };
    const ends = { Home: 0, End: 100 };
    const to = event.key in ends ? ends[event.key] : this.divider + steps[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || Number.isNaN(to)) return;
    event.preventDefault();
    event.stopPropagation();
    this.divide(to);
  }

  // The pointer in shares of the screen under it, from its middle; null beside the screens.
  #spot(event) {
    const screen = event.target.closest(".screen") ?? (event.target.closest(".overlay") ? this.screens : null);
    if (!screen) return null;
    const box = screen.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width - 0.5, y: (event.clientY - box.top) / box.height - 0.5, box };
  }

  #grab(event) {
    const spot = this.#spot(event);
    if (event.button !== 0 || !spot) return;
    const onHandle = event.target.closest(".divider") !== null;
    const dividing = this.mode === "slider" && (onHandle || this.zoom === 1);
    const from = { x: event.clientX, y: event.clientY, pan: this.pan };
    const slide = at => this.divide(((at.clientX - spot.box.left) / spot.box.width) * 100);
    let moved = false;
    const move = at => {
      moved ||= Math.hypot(at.clientX - from.x, at.clientY - from.y) > TAP;
      if (dividing) slide(at);
      else if (moved) {
        this.panTo(from.pan.x + (at.clientX - from.x) / spot.box.width, from.pan.y + (at.clientY - from.y) / spot.box.height);
      }
    };
    const drop = at => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", drop);
      removeEventListener("pointercancel", drop);
      this.node.classList.remove("held");
      if (at.type === "pointerup" && !moved && !dividing) this.told.tapped();
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", drop);
    addEventListener("pointercancel", drop);
    this.node.classList.add("held");
    if (dividing && !onHandle) slide(event);
    if (dividing) this.handle.focus({ preventScroll: true });
    if (dividing || this.zoom > 1) event.preventDefault();
  }
}

// As many columns as make the players largest.
function sideBySide(room, height, aspect, players) {
  const widths = players.map((_, place) => {
    const columns = place + 1;
    const rows = Math.ceil(players.length / columns);
    const tall = (height - GAP * (rows - 1)) / rows - CAPTION;
    return Math.min((room - GAP * (columns - 1)) / columns, tall * aspect);
  });
  const width = Math.max(...widths);
  return { "--columns": widths.indexOf(width) + 1, "--width": `${Math.floor(Math.max(width, 90))}px`, "--aspect": aspect };
}

function overlaid(room, height, aspect) {
  return { "--width": `${Math.floor(Math.min(room, (height - CAPTION) * aspect))}px`, "--aspect": aspect };
}

function inGrid(room, height, aspect, players) {
  const columns = Math.max(...players.map(player => player.part.column)) - 1;
  const rows = Math.max(...players.map(player => player.part.row)) - 1;
  const side = room < 600 ? 44 : 76;
  const across = (room - side - 8 * columns) / columns;
  const tall = (height - 30) / Math.min(rows, 3) - 8;
  const width = Math.floor(Math.max(96, Math.min(across, tall * aspect)));
  return { "--columns": columns, "--side": `${side}px`, "--width": `${width}px`, "--aspect": aspect };
}
