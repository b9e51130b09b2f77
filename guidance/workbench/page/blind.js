// A blind vote: pairs of the reference and a variant under the names A and B, and what the votes say. Knows nothing of
// the page, which may show several runs: the votes of each are kept under its own name.

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

const NORMAL = 1.959963984540054; // of a standard normal, 95% lie within

// The 95% interval of a share (Wilson 1927), or null where there is no vote.
function wilson(wins, losses) {
  const all = wins + losses;
  if (!all) return null;
  const share = wins / all;
  const square = NORMAL ** 2 / all;
  const middle = (share + square / 2) / (1 + square);
  const reach = (NORMAL * Math.sqrt((share * (1 - share)) / all + square / (4 * all))) / (1 + square);
  return { share, low: Math.max(0, middle - reach), high: Math.min(1, middle + reach) };
}

const shareText = share => `${(100 * share).toFixed(1)}%`;
const rangeOf = ({ low, high }) => `${shareText(low)} to ${shareText(high)}`;
const within95 = interval => (interval ? `${shareText(interval.share)} (${rangeOf(interval)})` : "–");

// Whether 50% lies in the interval, in words; of few votes the interval says more than they can.
function chanceInWords({ interval: { low, high }, chance }) {
  const outside = low > 0.5 || high < 0.5;
  if (!outside) return "Chance is not excluded: 50% lies within the interval";
  if (chance < 0.05) return "Chance is excluded: 50% lies outside the interval";
  return `Chance is not excluded: 50% lies outside the interval, but a coin falls as unevenly in ${shareText(chance)} of so few throws`;
}

// What votes on guided clips beside unguided ones say, as sentences.
function resultInWords({ wins, losses, ties, chance, interval, others }) {
  const sides = wins + losses;
  const words = [];
  if (sides) words.push(`Guided was preferred in ${wins} of ${plural(sides, "vote")} for one side: ${shareText(interval.share)}, 95% interval ${rangeOf(interval)}.`, `${chanceInWords({ interval, chance })}.`);
  if (ties) words.push(`${plural(ties, "vote")} for no difference ${ties === 1 ? "is" : "are"} left out of the share.`);
  if (others) words.push(`${plural(others, "vote")} ${others === 1 ? "is" : "are"} on other pairs than guided beside unguided: the tally by variant has them.`);
  return words.join(" ");
}

const clipsOf = (reference, variant) => `${reference.id} ${variant.id}`;
const isThere = clip => Boolean(clip?.video?.url);
const isGuided = clip => Boolean(clip.trace?.length);

// Of a guided clip beside an unguided one the guided, else null.
const guidedOf = ({ reference, variant }) => (isGuided(reference) === isGuided(variant) ? null : [reference, variant].find(isGuided));

// What a vote is on, as it is remembered; a pair has a place in each run that has it.
const spotOf = ({ run, idx, seed, variant, clips }) => JSON.stringify([run, idx, seed, variant, clips]);
const spotOfPlace = ({ run, item, reference, variant }) => spotOf({ run: run.id, idx: item.idx, seed: item.seed, variant: variant.label, clips: clipsOf(reference, variant) });

const keyOfVotes = id => `shelllcc votes ${id}`; // the same when a page is made anew, and on the page of several runs

function votesKept(id) {
  try {
    const votes = JSON.parse(memory.read(keyOfVotes(id)) ?? "[]");
    return Array.isArray(votes) ? votes.filter(vote => vote && typeof vote === "object").map(vote => ({ ...vote, run: id })) : [];
  } catch {
    return [];
  }
}

// votes: [{vote, place}]; wins are those for the clip that `wanted` gives of a place
function counted(votes, wanted) {
  const wins = votes.filter(({ vote, place }) => vote.choice === wanted(place).label).length;
  const ties = votes.filter(({ vote }) => vote.choice === null).length;
  const losses = votes.length - wins - ties;
  return { wins, losses, ties, chance: signTest(wins, losses), interval: wilson(wins, losses) };
}

// The pairs of all runs; where two runs have the same two clips, one pair with two places. Missing clips are in none.
function trialsOf(run, referenceOf) {
  const known = new Map();
  return run.items.flatMap((item, at) => {
    const reference = referenceOf(item);
    const others = isThere(reference) ? item.clips.filter(clip => clip !== reference && isThere(clip)) : [];
    return shuffled(others).flatMap(variant => {
      const place = { run: runOf(run, item), item, reference, variant };
      const clips = clipsOf(reference, variant);
      const twin = known.get(clips)?.find(trial => trial.places.every(other => other.run !== place.run));
      if (twin) {
        twin.places.push(place);
        return [];
      }
      const trial = { at, ...place, places: [place], swapped: coin() };
      known.set(clips, [...(known.get(clips) ?? []), trial]);
      return [trial];
    });
  });
}

class Vote {
  #began = performance.now();
  #kept = new Map(); // all votes of each run, those too on clips that are not on the page
  #spots = new Map(); // trial and place by what a vote there is remembered as
  #voted = new Map(); // of each trial that was voted on {trial, vote, place}

  // referenceOf(item): the clip the others are judged against, or null; order: the variants' labels
  constructor(run, referenceOf, order) {
    this.run = run;
    this.order = order;
    this.place = 0;
    this.all = trialsOf(run, referenceOf);
    this.trials = this.all;
    for (const trial of this.all) for (const place of trial.places) this.#spots.set(spotOfPlace(place), { trial, place });
    for (const { id } of runsOf(run)) this.#kept.set(id, votesKept(id));
    this.#count();
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
    return this.#voted.get(trial)?.vote;
  }

  // side: "A", "B" or null for no difference. True while pairs are left; the next of them is then on.
  cast(side) {
    const { run, item, reference, variant, places } = this.trial;
    const vote = {
      run: run.id,
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
    for (const place of places) this.#keep(place.run.id, votes => votes.filter(other => this.#trialOf(other) !== this.trial));
    this.#keep(run.id, votes => [...votes, vote]);
    this.#count();
    const left = this.trials.map((trial, place) => place).filter(place => !this.voteOn(this.trials[place]));
    if (!left.length) return false;
    this.goTo(left.find(place => place > this.place) ?? left[0]);
    return true;
  }

  forget() {
    for (const { id } of runsOf(this.run)) this.#keep(id, votes => votes.filter(vote => !this.#trialOf(vote)));
    this.#count();
    this.goTo(0);
  }

  // [{label, wins, losses, ties, chance, interval}] of the variants that were voted on.
  tally() {
    const told = this.order.map(label => ({ label, votes: this.#among(({ trial }) => trial.variant.label === label) }));
    return told.filter(({ votes }) => votes.length).map(({ label, votes }) => ({ label, ...counted(votes, place => place.variant) }));
  }

  // The same of every run, for guided clips beside unguided ones.
  tallyOfRuns() {
    const told = runsOf(this.run).map(run => ({ label: run.name, votes: this.#among(({ place }) => place.run === run && guidedOf(place)) }));
    return told.filter(({ votes }) => votes.length).map(({ label, votes }) => ({ label, ...counted(votes, guidedOf) }));
  }

  // All votes on a guided clip beside an unguided one, and how many are on `others`.
  total() {
    const votes = this.#among(({ place }) => guidedOf(place));
    return { ...counted(votes, guidedOf), others: this.votes.length - votes.length };
  }

  record() {
    return { title: this.run.title, run: this.run.id, created: this.run.created, votes: this.votes };
  }

  #count() {
    this.#voted.clear();
    for (const vote of [...this.#kept.values()].flat()) {
      const spot = this.#spots.get(spotOf(vote));
      if (spot && !this.#voted.has(spot.trial)) this.#voted.set(spot.trial, { ...spot, vote });
    }
    this.votes = this.#among(() => true).map(({ vote }) => vote);
  }

  #among(chosen) {
    return [...this.#voted.values()].filter(chosen);
  }

  #trialOf(vote) {
    return this.#spots.get(spotOf(vote))?.trial;
  }

  #keep(id, change) {
    const votes = change(this.#kept.get(id));
    this.#kept.set(id, votes);
    memory.write(keyOfVotes(id), votes.length ? JSON.stringify(votes) : null);
  }
}
