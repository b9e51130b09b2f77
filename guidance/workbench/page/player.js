// One clip as a player: a video that says who it is and what it cannot do. Knows nothing of other players.

class Player {
  failed = false;
  #blob = null;

  // part: {clip, fps, name, spoken, tone, badge}
  constructor(part, onChange) {
    this.part = part;
    this.onChange = onChange;
    this.video = el("video", { preload: "auto", playsinline: true, tabindex: "-1", "aria-label": part.spoken });
    this.video.muted = true;
    this.video.disablePictureInPicture = true;
    this.video.disableRemotePlayback = true;
    this.fault = el("p", { class: "fault", hidden: true });
    this.screen = el("div", { class: "screen" }, this.video, this.fault);
    this.caption = el("figcaption", {}, el("span", { class: "dot" }), el("bdi", {}, part.name), part.badge ?? null);
    this.node = el("figure", { class: `player ${part.tone}` }, this.screen, this.caption);
    this.video.addEventListener("loadedmetadata", () => this.onChange());
    this.video.addEventListener("error", () => this.#fail());
    this.#load();
  }

  get settled() {
    return this.video.readyState >= 2 && !this.video.seeking;
  }

  get end() {
    const { duration } = this.video;
    return Number.isFinite(duration) && duration > 0 ? duration : (this.part.clip.frames ?? 1) / this.part.fps;
  }

  // Halfway through the last frame: where a player waits whose clip is over.
  get last() {
    return Math.max(0, this.end - 0.5 / this.part.fps);
  }

  get aspect() {
    const { width, height } = this.part.clip;
    if (this.video.videoWidth) return this.video.videoWidth / this.video.videoHeight;
    return width > 0 && height > 0 ? width / height : 16 / 9;
  }

  release() {
    this.node.remove();
    this.onChange = () => undefined;
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    if (this.#blob) URL.revokeObjectURL(this.#blob);
  }

  #load() {
    const url = this.part.clip.video?.url;
    if (!url) return this.#fail();
    this.#blob = url.startsWith("data:") ? unpacked(url) : null;
    this.video.src = this.#blob ?? url;
    return undefined;
  }

  #fail() {
    if (!this.video.getAttribute("src") && this.part.clip.video?.url) return;
    this.failed = true;
    this.video.hidden = true;
    this.fault.hidden = false;
    this.fault.textContent = this.part.masked ? "cannot play this clip" : `cannot play ${this.part.clip.video?.name || "this clip"}`;
    this.onChange();
  }
}

// A blob of a data: URI: browsers seek in it as in a file.
function unpacked(uri) {
  const comma = uri.indexOf(",");
  const letters = atob(uri.slice(comma + 1));
  const bytes = Uint8Array.from(letters, letter => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: uri.slice(5, uri.indexOf(";")) }));
}
