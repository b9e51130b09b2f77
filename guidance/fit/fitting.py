"""A fit: what round trips say of a model and sampler, and how the guide is set against it.

Every clip's drift is written down as it is measured, so that a fit that was killed goes on where it was. Knows nothing
of terminals, nor of who samples.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import OutOfMemoryError, UsageError
from shelllcc.guidance.files import JsonObject, write_json
from shelllcc.guidance.fit.fit import LEAST, UNTOLD, Band, Belongs, Fit
from shelllcc.guidance.fit.judge import BANDS, LIKE, Drift, Estimate, robust, shrunk, slope
from shelllcc.guidance.fit.solve import FIRST, Point, best, solve
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.measures.balance import USUAL
from shelllcc.guidance.versions import versions

if TYPE_CHECKING:
    from shelllcc.guidance.fit.trips import RoundTrips

ROUNDS = 4  # of the solver, each of which samples all clips once
MOST_CALM = 6.0


@dataclass(frozen=True)
class Progress:
    """How far a fit is: clips sampled, of how many, and seconds left, None before it is known."""

    done: int
    total: int
    left: float | None
    stage: str


Report = Callable[[Progress], None]


class Fitting:
    """One fit under way. `state` is the file where drifts are kept until it is done; None keeps none."""

    def __init__(
        self,
        trips: RoundTrips,
        belongs: Belongs,
        *,
        state: Path | None = None,
        on_progress: Report = lambda progress: None,
    ) -> None:
        self.trips, self.belongs, self.state, self.on_progress = trips, belongs, state, on_progress
        self.points: list[tuple[Point, GuideConfig]] = []
        self.seen: list[Drift] = []  # of the clips as they came back unguided, as far as that is known
        self._done, self._total, self._ahead = 0, 0, self.guided
        self._pace: tuple[list[float], list[float]] = ([], [])  # seconds of a clip, unguided and guided
        self._key = _key(trips, belongs)
        self._known = _kept(state, self._key)

    def fit(self) -> Fit:
        """Measure, solve, and say what was found. Raises UsageError where there are too few clips to begin with."""
        everything = range(len(self.trips.takes))
        if len(everything) < LEAST:
            raise UsageError(f"a fit needs {LEAST} captioned clips or more, got {len(everything)}")
        before = self._measured(everything, None, "unguided")
        kept = came_back(before)
        chosen = self._solved(kept, [before[i] for i in kept]) if len(kept) >= LEAST else None
        fit = self._fit(kept, [before[i] for i in kept], chosen)
        if self.state is not None:
            self.state.unlink(missing_ok=True)
        return fit

    @property
    def guided(self) -> int:
        """Trips under a guide that it will take, as far as can be told beforehand."""
        return guided_trips(len(self.trips.takes), excess=self._excess)

    @property
    def _excess(self) -> bool:
        """Whether cfg adds anything to clips."""
        return max(self.belongs.cfg, self.belongs.cfg_2 or 0.0) > 1

    def _solved(self, kept: Sequence[int], before: Sequence[Drift]) -> GuideConfig | None:
        """The guide; None where the best is to do nothing."""
        start = outputs(before)
        wanted = [*(e.mean - shrunk(e) for e in start[:3]), start[3].mean - min(0.0, shrunk(start[3]))]
        if shrunk(start[2]) > 0:  # contrast, and all detail with it, that cfg overdoes
            self.trips.act_early()
        errors, still = [e.error for e in start], [e.mean for e in start]
        self._ahead = guided_trips(len(kept), excess=self._excess)
        calm = {"calm": 0.0, "contrast": 0.0, "usual": 0.0}

        def measure(knobs: tuple[float, ...]) -> tuple[float, ...]:
            config, number = self._config(knobs, calm), len(self.points)
            some = range(0, len(kept), every(number, len(kept), excess=self._excess))
            seen = self._measured([kept[i] for i in some], config, f"guide {number + 1}")
            theirs = [before[i] for i in some]
            pairs = zip(still, outputs(seen), outputs(theirs), strict=True)
            drifts = tuple(mean + now.mean - then.mean for mean, now, then in pairs)
            self.points.append((Point(knobs, drifts), config))
            calm["usual"] = sum(d.excess for d in seen) / len(seen)
            if len(self.points) == len(FIRST):
                calm.update(calmed(theirs, seen, [point for point, _ in self.points], still))
            return drifts

        points = list(solve(measure, still, wanted, errors, rounds=ROUNDS))
        found = best(points, still, wanted, errors)
        return next((config for point, config in self.points if point == found), None)

    def _config(self, knobs: Sequence[float], calm: dict[str, float]) -> GuideConfig:
        coarse, radius, tone, flat = knobs
        values = {"coarse": math.exp(coarse), "radius": math.exp(radius), "tone": tone, "flat": math.exp(flat)} | calm
        return self.trips.guide(**{name: round(value, 4) for name, value in values.items()})

    def _fit(self, kept: Sequence[int], before: Sequence[Drift], config: GuideConfig | None) -> Fit:
        trips, takes = self.trips, self.trips.takes
        after = self._measured(kept, config, "guided") if config else list(before)
        gains = [d.gain + d.excess + USUAL.outward * math.log(max(d.distance, 1e-6)) for d in after]
        expected = round(robust(gains).mean, 4) if kept else GuideConfig.expected
        left_out = [take.caption for index, take in enumerate(takes) if index not in kept]
        latents = takes[0].latents
        return Fit(
            belongs=self.belongs,
            guide=replace(config or trips.guide(), expected=expected),
            bands=tuple(_bands(before, after)),
            clips=tuple(takes[i].caption for i in kept),
            left_out=tuple(left_out),
            seed=trips.seed,
            sigma=round(trips.sigma, 6),
            size=(trips.sampled.width, trips.sampled.height, 4 * (latents.shape[1] - 1) + 1),
            model=trips.sampled.model,
            bank=trips.bank.name,
            versions=versions(),
            transformer=trips.sampled.transformer,
        )

    def _measured(self, clips: Sequence[int], config: GuideConfig | None, stage: str) -> list[Drift]:
        """The drifts of clips under a guide, those that are known from before taken from there."""
        name = json.dumps(config and asdict(config), sort_keys=True)
        known = self._known.setdefault(name, {})
        self._ahead = max(0, self._ahead - len(clips)) if config else self._ahead
        self._total = self._done + len(clips) + self._ahead
        for group in groups(clips, self.trips.together):
            self._measure(group, config, known)
            self._done += len(group)
            if config is None:
                self.seen += [_drift(known[str(index)]) for index in group]
            self._tell(stage)
        return [_drift(known[str(index)]) for index in clips]

    def _measure(self, group: Sequence[int], config: GuideConfig | None, known: dict[str, JsonObject]) -> None:
        """Have the drifts of clips known: sampled together where one is not, in halves where memory is too small."""
        if all(str(index) in known for index in group):
            return
        began = time.monotonic()
        found = self._sampled_together(group, config)
        if found is None:
            self.trips.together = len(group) // 2
            for half in groups(group, self.trips.together):
                self._measure(half, config, known)
            return
        known.update((str(index), asdict(drift)) for index, drift in zip(group, found, strict=True))
        self._pace[config is not None].append((time.monotonic() - began) / len(group))
        if self.state is not None:
            write_json(self.state, {"key": self._key, "drifts": self._known})

    def _sampled_together(self, group: Sequence[int], config: GuideConfig | None) -> list[Drift] | None:
        """The drifts of a group; None where so many clips do not fit into memory at a time."""
        try:
            return self.trips.drifts(group, config)
        except OutOfMemoryError:
            if len(group) == 1:
                raise
        gc.collect()  # what the error's frames held goes before the next try
        return None

    @property
    def overdone(self) -> bool:
        """Whether contrast is too much as far as is known, so that guides will begin early; of few clips cfg tells."""
        contrast = robust([drift.contrast for drift in self.seen])
        return shrunk(contrast) > 0 if math.isfinite(contrast.error) else self._excess and contrast.mean > 0

    def _tell(self, stage: str) -> None:
        self.on_progress(Progress(self._done, max(self._total, self._done), self._left(), stage))

    def _left(self) -> float | None:
        """Seconds left, each further trip as long as those before it; the first one under a guide as its steps say."""
        whole, guided = (statistics.fmean(pace) if pace else None for pace in self._pace)
        if guided is None and whole is not None:
            tail = self.trips.early_tail if self.overdone else self.trips.tail
            guided = whole * max(tail, 1) / (len(self.trips.levels) - 1)
        if guided is None:
            return None
        first = max(0, len(self.trips.takes) - self._done)
        return first * (whole or guided) + (max(self._total, self._done) - self._done - first) * guided


def every(number: int, clips: int, *, excess: bool) -> int:
    """Of every how many clips the guide of that number samples one: of 2 where the response is measured, else of 1.

    What clips answer differs less among them than what they lack. The last of the response tells the excess of all.
    """
    alone = clips <= LEAST or number >= len(FIRST) or (excess and number == len(FIRST) - 1)
    return 1 if alone else 2


def guided_trips(clips: int, *, excess: bool) -> int:
    """Trips under a guide that a fit of so many clips usually takes: those of the response, and of all rounds."""
    response = sum(-(-clips // every(number, clips, excess=excess)) for number in range(len(FIRST)))
    return response + ROUNDS * clips


def groups(clips: Sequence[int], most: int) -> list[Sequence[int]]:
    """The clips in as few groups of `most` at most as there can be, as equal as can be."""
    count = -(-len(clips) // most)
    edges = [len(clips) * index // count for index in range(count + 1)] if count else [0]
    return [clips[begin:end] for begin, end in itertools.pairwise(edges)]


def came_back(drifts: Sequence[Drift]) -> list[int]:
    """The clips that came back as what they were: the others are no pairs, and say nothing of drift."""
    return [index for index, drift in enumerate(drifts) if drift.likeness >= LIKE]


def outputs(drifts: Sequence[Drift]) -> list[Estimate]:
    """Drift of the coarse bands, of the fine ones, of the contrast and of flat places, over clips."""
    return [robust([getattr(drift, name) for drift in drifts]) for name in ("coarse", "fine", "contrast", "flat")]


def calmed(
    before: Sequence[Drift], seen: Sequence[Drift], points: Sequence[Point], still: Sequence[float]
) -> dict[str, float]:
    """How much a clip's own excess, over the usual one, takes back: what of its drift the excess explains.

    `seen` are drifts of the same clips that hold the excess, `points` those of one knob each, `still` those of none.
    """
    excess = [drift.excess for drift in seen]
    response = [(p.drifts[k] - still[k]) / p.knobs[i] for i, (p, k) in enumerate(zip(points, (1, 1, 2), strict=True))]
    fine = shrunk(slope(excess, [drift.fine for drift in before]))
    contrast = shrunk(slope(excess, [drift.contrast for drift in before]))
    both = response[0] + response[1]
    return {
        "calm": min(MOST_CALM, max(0.0, fine / both)) if both > 0.02 else 0.0,
        "contrast": min(MOST_CALM, max(0.0, contrast / response[2])) if response[2] > 0.02 else 0.0,
    }


def _bands(before: Sequence[Drift], after: Sequence[Drift]) -> list[Band]:
    found = []
    for index, name in enumerate((*(f"{band} px" for band in BANDS), "contrast", "flat places")):
        pair = [robust([(*d.bands, d.contrast, d.flat)[index] for d in drifts]) for drifts in (before, after)]
        numbers = [value for e in pair for value in (e.mean, e.error)]
        found.append(Band(name, *(round(value, 4) if math.isfinite(value) else UNTOLD for value in numbers)))
    return found


def _key(trips: RoundTrips, belongs: Belongs) -> str:
    """What drifts depend on beside the guide."""
    digest = hashlib.sha256(json.dumps([belongs.as_dict(), trips.seed, trips.sigma, trips.sampled.negative]).encode())
    digest.update(f"shown {trips.shown}".encode() if trips.shown is not None else b"")
    for take in trips.takes:
        digest.update(take.caption.encode())
        digest.update(take.latents.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _kept(state: Path | None, key: str) -> dict[str, dict[str, JsonObject]]:
    """The drifts that a killed fit left, if they are of this very one."""
    try:
        record = json.loads(state.read_text(encoding="utf-8")) if state else {}
        drifts: dict[str, dict[str, JsonObject]] = record["drifts"] if record.get("key") == key else {}
        for clips in drifts.values():
            for seen in clips.values():
                _drift(seen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return drifts


def _drift(record: JsonObject) -> Drift:
    return Drift(**{**record, "bands": tuple(map(float, record["bands"]))})
