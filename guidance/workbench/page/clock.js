// Several players on one clock. Knows nothing of what they show or where.
//
// The clock leads and the players are steered after it: a little faster or slower, paused when ahead. It waits for the
// slowest, so that no frame is shown beside one that is more than a frame away. Jumps move all players at once, and
// nothing runs before each of them has arrived.

const STRAYS = 3; // times that astray players are sent again

class Clock {
  #players = [];
  #last = 0;
  #jump = false;
  #awake = false;
  #strays = 0;

  fps = 8;
  time = 0;
  speed = 1;
  loop = true;
  playing = false;
  waiting = false;

  constructor(onBeat) {
    this.onBeat = onBeat;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#players.forEach(player => player.video.pause());
      else this.#leap(this.time);
    });
  }

  get players() {
    return this.#players;
  }

  get #live() {
    return this.#players.filter(player => !player.failed);
  }

  get end() {
    return Math.max(0, ...this.#live.map(player => player.end));
  }

  get frames() {
    return Math.max(1, Math.round(this.end * this.fps));
  }

  get frame() {
    return Math.min(Math.floor(this.time * this.fps + 1e-6), this.frames - 1);
  }

  // Whether players do not go where they are sent: a server that sends no ranges allows no winding.
  get stuck() {
    return this.#strays >= STRAYS;
  }

  // The frame each player is at, by its own time.
  positions() {
    return this.#live.map(player => {
      const last = Math.max(0, Math.round(player.end * this.fps) - 1);
      return Math.min(Math.floor(player.video.currentTime * this.fps + 1e-6), last);
    });
  }

  show(players, fps) {
    for (const player of this.#players) if (!players.includes(player)) player.video.pause();
    this.#players = players;
    this.fps = fps;
    this.#leap(this.playing ? this.time : this.#middle(this.frame));
  }

  play() {
    if (this.playing || !this.#live.length) return;
    if (!this.loop && this.frame >= this.frames - 1) this.#leap(0);
    this.playing = true;
    this.#wake();
  }

  pause() {
    this.playing = false;
    this.goTo(this.frame);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  step(by) {
    this.playing = false;
    const next = this.frame + by;
    this.goTo(this.loop ? (next + this.frames) % this.frames : within(0, next, this.frames - 1));
  }

  goTo(frame) {
    this.#leap(this.#middle(frame));
  }

  // Halfway through a frame no rounding can mistake it for a neighbour.
  #middle(frame) {
    return (frame + 0.5) / this.fps;
  }

  #leap(time) {
    this.time = time;
    this.#jump = true;
    this.#strays = 0;
    this.#wake();
  }

  #wake() {
    if (this.#awake) return;
    this.#awake = true;
    this.#last = performance.now();
    requestAnimationFrame(now => this.#beat(now));
  }

  #beat(now) {
    const passed = within(0, now - this.#last, 100) / 1000;
    this.#last = now;
    const live = this.#live;
    const settled = live.every(player => player.settled);
    const jumping = this.#jump;
    if (jumping) this.#land(live);
    else if (!settled) live.forEach(player => player.video.pause());
    else if (this.playing) this.#run(live, passed);
    else this.#recall(live);
    this.waiting = !settled;
    this.onBeat();
    this.#awake = this.playing || jumping || this.#jump || !settled;
    if (this.#awake) requestAnimationFrame(next => this.#beat(next));
  }

  #land(live) {
    live.forEach(player => player.video.pause());
    if (live.some(player => player.video.seeking)) return;
    for (const player of live) player.video.currentTime = this.#wanted(player);
    this.#jump = false;
  }

  #run(live, passed) {
    if (!live.length) return void (this.playing = false);
    const late = Math.max(...live.map(player => this.#wanted(player) - player.video.currentTime));
    if (late * this.fps < 0.4) this.time += passed * this.speed;
    else if (late * this.fps > 3) return this.#leap(this.time);
    if (this.time >= this.end) return this.#finish();
    live.forEach(player => this.#steer(player));
  }

  #finish() {
    if (this.loop) return this.#leap(0);
    this.playing = false;
    this.goTo(this.frames - 1);
  }

  #wanted(player) {
    return Math.min(this.time, player.last);
  }

  // A paused player that is not where it was sent, as after slow loading, is sent again; a few times, for some cannot go.
  #recall(live) {
    const astray = live.some(player => Math.abs(player.video.currentTime - this.#wanted(player)) * this.fps > 0.5);
    if (!astray || this.#strays >= STRAYS) return;
    this.#strays += 1;
    this.#jump = true;
  }

  #steer(player) {
    const { video } = player;
    const ahead = (video.currentTime - Math.min(this.time, player.end)) * this.fps;
    if (video.ended || ahead > 0.4 || this.time >= player.end) return video.pause();
    if (video.paused && ahead > 0.05) return undefined;
    const rate = this.speed * within(0.75, 1 - 0.5 * ahead, 1.25);
    if (Math.abs(video.playbackRate - rate) > 0.02 * this.speed) video.playbackRate = rate;
    if (video.paused) video.play().catch(refusal => this.#refused(refusal));
    return undefined;
  }

  #refused(refusal) {
    if (refusal.name === "NotAllowedError") this.pause();
  }
}
