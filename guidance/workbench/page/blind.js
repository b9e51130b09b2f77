// A blind vote: pairs of the reference and a variant under the names A and B. Knows nothing of the page.

const coin = () => crypto.getRandomValues(new Uint8Array(1))[0] % 2 === 1;

function shuffled(values) {
  const deck = [...values];
  for (let last = deck.length - 1; last > 0; last -= 1) {
    const drawn = crypto.getRandomValues(new Uint32Array(1))[0] % (last + 1);
    [deck[last], deck[drawn]] = [deck[drawn], deck[last]];
  }
  return deck;
}

// The exact two-sided sign test: how often a fair coin falls at least as unevenly.
function signTest(wins, losses) {
  const all = wins + losses;
  const most = Math.max(wins, losses);
  let chance = 0;
  let ways = 0.5 ** all;
  for (let heads = 0; heads <= all; heads += 1) {
    if (heads >= most) chance += ways;
    ways *= (all - heads) / (heads + 1);
  }
  return Math.min(1, 2 * chance);
}

const clipsOf = (reference, variant) => `${reference.id} ${variant.id}`;

function isOn(vote, { item, reference, variant }) {
  const same = vote.idx === item.idx && vote.seed === item.seed && vote.variant === variant.label;
  return same && vote.clips === clipsOf(reference, variant);
}

class Vote {
  #began = performance.now();
  #others; // votes of this run on clips that are not on the page

  // referenceOf(item): the clip the others are judged against, or null; order: the variants' labels
  constructor(run, referenceOf, order) {
    this.run = run;
    this.order = order;
    this.place = 0;
    this.key = `shelllcc votes ${run.id}`; // the same when the page is made anew
    this.all = run.items.flatMap((item, at) => {
      const reference = referenceOf(item);
      const others = reference ? item.clips.filter(clip => clip !== reference) : [];
      return shuffled(others).map(variant => ({ at, item, reference, variant, swapped: coin() }));
    });
    this.trials = this.all;
    const known = this.#remembered();
    this.votes = known.filter(vote => this.all.some(trial => isOn(vote, trial)));
    this.#others = known.filter(vote => !this.votes.includes(vote));
  }

  get trial() {
    return this.trials[this.place] ?? null;
  }

  get done() {
    return this.trials.filter(trial => this.voteOn(trial)).length;
  }

  // Clips by the names that they go under.
  get sides() {
    const { reference, variant, swapped } = this.trial;
    return swapped ? { A: variant, B: reference } : { A: reference, B: variant };
  }

  // One variant alone, or null for each in turn.
  judge(label) {
    this.trials = label ? this.all.filter(trial => trial.variant.label === label) : this.all;
    this.goTo(Math.max(0, this.trials.findIndex(trial => !this.voteOn(trial))));
  }

  goTo(place) {
    this.place = within(0, place, Math.max(0, this.trials.length - 1));
    this.#began = performance.now();
  }

  goToItem(by) {
    const here = this.trial?.at;
    const others = by > 0 ? this.trials.findIndex(trial => trial.at > here) : this.trials.findLastIndex(trial => trial.at < here);
    if (others < 0) return;
    this.goTo(this.trials.findIndex(trial => trial.at === this.trials[others].at));
  }

  voteOn(trial) {
    return this.votes.find(vote => isOn(vote, trial));
  }

  // side: "A", "B" or null for no difference. True while pairs are left; the next of them is then on.
  cast(side) {
    const { item, reference, variant } = this.trial;
    const vote = {
      idx: item.idx,
      prompt: item.prompt,
      seed: item.seed,
      reference: reference.label,
      variant: variant.label,
      clips: clipsOf(reference, variant),
      left: this.sides.A.label,
      choice: side ? this.sides[side].label : null,
      seconds: Math.round((performance.now() - this.#began) / 100) / 10,
    };
    this.votes = [...this.votes.filter(other => other !== this.voteOn(this.trial)), vote];
    memory.write(this.key, JSON.stringify([...this.#others, ...this.votes]));
    const left = this.trials.map((trial, place) => place).filter(place => !this.voteOn(this.trials[place]));
    if (!left.length) return false;
    this.goTo(left.find(place => place > this.place) ?? left[0]);
    return true;
  }

  forget() {
    this.votes = [];
    memory.write(this.key, this.#others.length ? JSON.stringify(this.#others) : null);
    this.goTo(0);
  }

  // [{label, wins, losses, ties, chance}] of the variants that were voted on.
  tally() {
    const labels = this.order.filter(label => this.votes.some(vote => vote.variant === label));
    return labels.map(label => {
      const cast = this.votes.filter(vote => vote.variant === label);
      const wins = cast.filter(vote => vote.choice === label).length;
      const ties = cast.filter(vote => vote.choice === null).length;
      const losses = cast.length - wins - ties;
      return { label, wins, losses, ties, chance: signTest(wins, losses) };
    });
  }

  record() {
    return { title: this.run.title, run: this.run.id, created: this.run.created, votes: this.votes };
  }

  #remembered() {
    try {
      const votes = JSON.parse(memory.read(this.key) ?? "[]");
      return Array.isArray(votes) ? votes.filter(vote => vote && typeof vote === "object") : [];
    } catch {
      return [];
    }
  }
}
