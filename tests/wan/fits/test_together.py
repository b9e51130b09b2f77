"""Clips of a fit that are sampled together: each as alone, also where some are known or memory does not suffice."""

import json
from dataclasses import astuple, replace
from types import SimpleNamespace

import pytest
import torch

from shelllcc.anchors.choose import load_bank
from shelllcc.guidance.errors import OutOfMemoryError, VideoError
from shelllcc.guidance.fit.fit import Belongs
from shelllcc.guidance.fit.fitting import Fitting, groups
from shelllcc.guidance.fit.judge import Drift
from shelllcc.guidance.fit.solve import FIRST, Point
from shelllcc.guidance.fit.trips import Take
from shelllcc.guidance.media import photographs
from shelllcc.guidance.wan.banks.start import films
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.fits import making
from shelllcc.guidance.wan.fits import trips as trips_of
from shelllcc.guidance.wan.fits.making import make_fit
from shelllcc.guidance.wan.fits.trips import MOST_TOGETHER, Trips
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.presets import PRESETS

SMALL = {"width": 32, "height": 32, "frames": 5, "steps": 5}
BELONGS = Belongs("bank", None, "weights", "UniPC", 6, 1.0, None, 3.0)


@pytest.fixture(scope="module")
def bank(pipe):
    return load_bank("auto", pipe)


@pytest.fixture(scope="module")
def takes(latents):
    words = ("a tabby cat, static shot", "gravel, pan left", "a raccoon, zoom in", "grass, roll", "a flower, tilt up")
    return [Take(text, latents(seed, frames=2, height=4, width=4)[0]) for seed, text in enumerate(words)]


@pytest.fixture
def trips(studio, bank, takes):
    request = Request.resolve(PRESETS["tiny"], prompt="any", **SMALL)
    return lambda together=4, **changed: Trips(studio, request.changed(**changed), bank, takes, together=together)


@pytest.mark.parametrize("scheduler", ["unipc", "euler", "lcm"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_clip_in_company_comes_back_as_it_does_alone(trips, studio, scheduler, cfg):
    alone, ours = trips(1, cfg=cfg, scheduler=scheduler), trips(cfg=cfg, scheduler=scheduler)
    guide = ours.guide(radius=2.0, coarse=1.2, calm=1.0, tone=-0.1)
    asked = []
    handle = studio.pipe.transformer.register_forward_pre_hook(
        lambda model, args, given: asked.append(len(given["hidden_states"])), with_kwargs=True
    )
    found = [ours.drifts([0, 1, 2], config) for config in (None, guide)]
    found.append(ours.drifts([2, 0], guide))  # in other company, what the guide leaves as it was is replayed
    handle.remove()
    assert set(asked) == {3, 2}
    for number, drift in enumerate(found[1]):
        expected = alone.drift(number, guide)
        assert flat(drift) == pytest.approx(flat(expected), abs=2e-3)
        assert flat(found[0][number]) == pytest.approx(flat(alone.drift(number, None)), abs=2e-3)
    assert flat(found[2][0]) == pytest.approx(flat(found[1][2]), abs=2e-3)
    assert len({drift.excess for drift in found[1]}) == (3 if cfg > 1 else 1)  # each of its own
    calls = ours._prefixes[2].calls
    assert [each.replayed for each in calls] == [0, calls[0].computed - tailed(ours, cfg), calls[1].replayed]


def flat(drift):
    return [*drift.bands, *astuple(drift)[1:]]


def tailed(trips, cfg):
    return trips.tail * (2 if cfg > 1 else 1)


def test_a_clip_draws_its_own_noise_in_every_step_whoever_is_beside_it(trips):
    ours = trips(scheduler="lcm")
    first, again, other = (ours.drifts(numbers, None) for numbers in ([0, 1], [1, 0], [1, 2]))
    assert flat(first[1]) == pytest.approx(flat(again[0]), abs=2e-3)
    assert flat(first[1]) == pytest.approx(flat(other[0]), abs=2e-3)
    assert flat(first[0]) != pytest.approx(flat(other[1]), abs=2e-3)


def drifting(number, config):
    """Clips that return, with a drift that is none of chance."""
    bend = 0.0 if config is None else 0.2 * torch.tensor(config.radius).log().item()
    return Drift((-0.2 + bend + 0.001 * number,) * 4, 0.0, 0.0, 0.9)


class Killed(BaseException):
    pass


@pytest.fixture
def calls(monkeypatch):
    """What `drifts` is asked for, each call answered by `drifting`, one of more than `most` clips by lack of memory."""
    seen = SimpleNamespace(asked=[], most=100, killed=None)

    def drifts(self, numbers, config):
        if len(seen.asked) == seen.killed:
            raise Killed
        if len(numbers) > seen.most:
            raise OutOfMemoryError("sampling")
        seen.asked.append((tuple(numbers), str(config)))
        return [drifting(number, config) for number in numbers]

    monkeypatch.setattr(Trips, "drifts", drifts)
    return seen


def test_a_killed_fit_samples_no_group_twice_and_ends_as_an_unbroken_one(trips, calls, tmp_path):
    expected, whole = Fitting(trips(3), BELONGS).fit(), list(calls.asked)
    assert {numbers for numbers, _ in whole} == {(0, 1), (2, 3, 4), (0, 2, 4)}  # the last tell the response
    calls.asked.clear()
    calls.killed = 3
    with pytest.raises(Killed):
        Fitting(trips(3), BELONGS, state=tmp_path / "state.json").fit()
    calls.killed = None
    assert Fitting(trips(3), BELONGS, state=tmp_path / "state.json").fit() == expected
    assert calls.asked == whole


def test_a_group_of_which_one_clip_is_unknown_is_sampled_whole(trips, calls, tmp_path):
    state = tmp_path / "state.json"
    fitting = Fitting(trips(3), BELONGS, state=state)
    fitting._measured(range(5), None, "unguided")
    record = json.loads(state.read_text())
    del record["drifts"]["null"]["3"]
    state.write_text(json.dumps(record))
    calls.asked.clear()
    Fitting(trips(3), BELONGS, state=state)._measured(range(5), None, "unguided")
    assert calls.asked == [((2, 3, 4), "None")]


def test_a_group_that_does_not_fit_into_memory_is_halved_and_so_are_later_ones(trips, calls):
    calls.most = 2
    ours = trips(5)
    assert Fitting(ours, BELONGS).fit().guide.acts
    assert [numbers for numbers, _ in calls.asked[:5]] == [(0,), (1, 2), (3, 4), (0,), (2, 4)]
    assert ours.together == 2
    calls.most = 0
    with pytest.raises(OutOfMemoryError):
        Fitting(trips(5), BELONGS).fit()


def test_groups_are_few_and_as_equal_as_can_be():
    assert [list(group) for group in groups(range(10), 8)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert [len(group) for group in groups([1, 3, 5, 7, 9, 11, 13], 3)] == [2, 2, 3]
    assert groups([4], 8) == [[4]]
    assert groups([], 8) == []


def test_how_many_go_together_is_said_by_the_plan_of_memory(studio, bank, takes, monkeypatch):
    request = Request.resolve(PRESETS["tiny"], prompt="any", **SMALL)

    def fitting(room=80e9, **changed):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room, room))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        facts = dict(model=studio.model, loading=Loading(), device="cuda", pipe=studio.pipe, ranks=studio.ranks)
        return trips_of.batch_for(SimpleNamespace(**facts | changed), request)

    assert fitting(device="cpu") == 1
    assert fitting() == MOST_TOGETHER
    assert fitting(1.0) == 1
    some = [fitting(room * 1e6) for room in range(60, 140, 1)]
    assert some == sorted(some)
    assert len(set(some)) > 3
    assert fitting(loading=Loading(cache="first-block")) == 1
    image = studio.model.transformer | {"in_channels": 36}
    assert fitting(model=replace(studio.model, transformer=image)) == 1


class Clock:
    """Time that passes as work says."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(
    ("together", "cfg", "contrast", "clips"), [(1, 1.0, -0.1, 8), (4, 1.0, -0.1, 4), (4, 3.0, 0.1, 8)]
)
def test_the_estimate_after_the_first_call_is_what_a_fit_of_the_usual_passes_takes(
    studio, bank, monkeypatch, tmp_path, together, cfg, contrast, clips
):
    """By the clock of a machine on which a step takes 5 seconds and 1 a clip, and decoding a clip takes 3."""
    clock, told, left = Clock(), [], []
    vae, decode = studio.pipe.vae, studio.pipe.vae.decode

    def calling(hidden_states, *args, **kwargs):
        clock.now += 5 + len(hidden_states)
        return (hidden_states.clone(),)

    def decoding(latents, *args, **kwargs):
        clock.now += 3 * len(latents)
        return decode(latents, *args, **kwargs)

    def solving(measure, still, wanted, errors, *, rounds):
        for number in range(1, 1 + len(FIRST) + rounds):
            knobs = (0.1, 0.1 + 0.01 * number, 0.1, 0.0)
            yield Point(knobs, measure(knobs))

    def judged(self, number, back, trace):
        self.real(number)
        return Drift((-0.2,) * 4, contrast + 0.001 * number, 0.0, 0.9)

    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    monkeypatch.setattr(making, "time", clock)
    monkeypatch.setattr("shelllcc.guidance.fit.fitting.time", clock)
    monkeypatch.setattr("shelllcc.guidance.fit.fitting.solve", solving)
    monkeypatch.setattr(Trips, "_judged", judged)
    monkeypatch.setattr(trips_of, "batch_for", lambda studio, request: together)
    monkeypatch.setattr(studio.pipe.transformer, "forward", calling)
    monkeypatch.setattr(vae, "decode", decoding)
    request = Request.resolve(PRESETS["tiny"], prompt="any", **SMALL | {"steps": 10}, cfg=cfg)

    def on_progress(progress):
        left.append((clock.now, progress.left))

    make_fit(studio, request, bank, clips=clips, on_cost=told.append, on_progress=on_progress)
    assert told[0] == pytest.approx(clock.now, rel=0.15)
    tails = left[len(left) // 2 :]
    assert [at + rest for at, rest in tails] == pytest.approx([clock.now] * len(tails), rel=0.15)


def test_clips_are_filmed_ahead_as_they_are_one_by_one():
    some = photographs.some(32, 5, known=True)
    before = torch.get_num_threads()
    ahead = films(some, 32, frames=5, threads=2)
    first = next(ahead)
    assert torch.get_num_threads() == before
    for take, frames in zip(some, [first, *ahead], strict=True):
        assert (frames == photographs.film(take, 32, frames=5)).all()
    assert torch.get_num_threads() == before
    broken = films([replace(some[0], photograph=replace(some[0].photograph, name="none")), *some], 32)
    with pytest.raises(VideoError, match="install shelllcc anew"):
        next(broken)
