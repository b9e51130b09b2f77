"""Fits of the embedded model: round trips, what is kept of a killed one, and what is solved."""

import itertools
import json
import math
from dataclasses import replace

import imageio.v3 as iio
import pytest
import torch

from shelllcc.anchors.choose import load_bank
from shelllcc.guidance.errors import TooLongError, UsageError
from shelllcc.guidance.fit import fitting
from shelllcc.guidance.fit.fit import Belongs
from shelllcc.guidance.fit.fitting import Fitting, calmed, came_back, guided_trips
from shelllcc.guidance.fit.judge import FINE, Drift
from shelllcc.guidance.fit.trips import EARLY, Take, begin_at
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.media.photographs import STILLS
from shelllcc.guidance.wan.banks.encode import encode_frames
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import Start, noise_levels, sample
from shelllcc.guidance.wan.fits import making
from shelllcc.guidance.wan.fits.making import Shape, chosen_takes, cost, make_fit, shape_for
from shelllcc.guidance.wan.fits.trips import Trips
from shelllcc.guidance.wan.model.pipeline import find_model
from shelllcc.guidance.wan.model.presets import PRESETS

SMALL = {"width": 32, "height": 32, "frames": 5, "steps": 6}
BELONGS = Belongs("bank", None, "weights", "UniPC", 6, 1.0, None, 3.0)


@pytest.fixture(scope="module")
def takes(latents):
    return [
        Take("a tabby cat, static shot, daylight", latents(seed, frames=2, height=4, width=4)[0]) for seed in range(4)
    ]


@pytest.fixture
def trips(studio, takes):
    request = Request.resolve(PRESETS["tiny"], prompt="any", **SMALL)
    return Trips(studio, request, load_bank("auto", studio.pipe), takes)


@pytest.fixture
def perfect(studio, takes, monkeypatch):
    """A denoiser that knows the clip: whatever it is shown, it points to it."""
    transformer, current = studio.pipe.transformer, {}

    def forward(hidden_states, timestep, *args, **kwargs):
        sigma = float(timestep.flatten()[0]) / 1000
        return (((hidden_states - current["x0"]) / max(sigma, 1e-6)),)

    monkeypatch.setattr(transformer, "forward", forward)
    current["x0"] = takes[0].latents[None]
    return current


def test_a_perfect_denoiser_brings_every_clip_back_and_the_guide_leaves_it_alone(trips, takes, perfect):
    for number in range(2):
        perfect["x0"] = takes[number].latents[None]
        found = trips.drift(number, None)
        assert max(map(abs, (*found.bands, found.contrast))) < 0.02
        assert found.likeness > 0.999
    perfect["x0"] = takes[0].latents[None]
    trips.takes = [takes[0]] * 4
    trips._prefixes.clear()
    trips._real.clear()
    fit = Fitting(trips, BELONGS).fit()
    assert not fit.guide.acts
    assert "leaves its clips alone" in fit.words()


def test_a_trip_begins_at_the_users_own_schedule_and_goes_down_it(trips, studio):
    levels = noise_levels(studio.pipe, trips.request)
    assert trips.sigma == levels[trips.index]
    assert trips.levels[-1] == pytest.approx(0, abs=1e-6)
    assert begin_at([1.0, 0.97, 0.94, 0.6, 0.0], 0.95) == 2
    assert begin_at([1.0, 0.7, 0.0], 0.95) == 0
    asked = []
    handle = studio.pipe.transformer.register_forward_pre_hook(
        lambda model, args, given: asked.append(float(given["timestep"].flatten()[0])), with_kwargs=True
    )
    trips.drift(0, None)
    handle.remove()
    assert asked == pytest.approx([1000 * level for level in trips.levels[:-1]], abs=1.0)


def test_a_trip_from_the_top_is_the_stock_sampling(studio):
    request = Request.resolve(PRESETS["tiny"], prompt="a tabby cat", **SMALL)
    stock = sample(studio.pipe, request, texts=studio.texts)
    noise = torch.randn((1, 16, 2, 4, 4), generator=torch.Generator().manual_seed(request.seed))
    again = sample(studio.pipe, request, texts=studio.texts, start=Start(noise, 0))
    assert torch.equal(stock.latents, again.latents)
    assert type(studio.pipe.scheduler).set_timesteps.__qualname__.startswith("UniPC")


@pytest.mark.parametrize("scheduler", ["UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_replayed_prefix_gives_the_same_drift(trips, studio, monkeypatch, scheduler):
    import diffusers

    flow = {} if "Euler" in scheduler else {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    monkeypatch.setattr(studio.pipe, "scheduler", getattr(diffusers, scheduler)(**flow))
    trips = Trips(studio, trips.request, trips.bank, trips.takes)
    guide = trips.guide(radius=2.0)
    alone = trips.drift(1, guide)
    other = Trips(studio, trips.request, trips.bank, trips.takes)
    other.drift(1, None)
    assert other.drift(1, guide) == alone
    calls = other._prefixes[1].calls
    assert calls[0].replayed == 0
    assert calls[1].replayed == len(other.levels) - 1 - other.tail > 0


def test_guided_trips_differ_as_the_guide_says(trips):
    finer, smoother = (trips.drift(0, trips.guide(radius=r, coarse=c)) for r, c in ((4.0, 1.5), (0.4, 0.7)))
    assert finer.fine + finer.coarse > smoother.fine + smoother.coarse
    assert finer.gain > 0 > smoother.gain


class Killed(BaseException):
    pass


def test_a_killed_fit_goes_on_where_it_was_and_ends_as_an_unbroken_one(trips, tmp_path, monkeypatch):
    counted = []
    drift = trips.drift

    def counting(number, config):
        counted.append((number, config))
        if len(counted) == 7:
            raise Killed
        return drift(number, config)

    def like(number, config):  # clips that return, with a drift that is none of chance
        bend = 0.0 if config is None else math.log(config.radius) * 0.2
        return Drift((-0.2 + bend,) * 4, 0.0, 0.0, 0.9)

    whole = Fitting(trips, BELONGS, state=None)
    monkeypatch.setattr(trips, "drift", like)
    expected = whole.fit()
    drift = like
    state = tmp_path / "state.json"
    monkeypatch.setattr(trips, "drift", counting)
    with pytest.raises(Killed):
        Fitting(trips, BELONGS, state=state).fit()
    assert state.exists()
    first = list(counted[:-1])
    assert Fitting(trips, BELONGS, state=state).fit() == expected
    assert not state.exists()
    assert len({json.dumps([n, str(c)]) for n, c in counted}) == len(counted) - 1  # the one that was interrupted
    assert not set(map(str, first)) & set(map(str, counted[7:]))


def test_what_was_kept_of_another_fit_is_not_used(trips, tmp_path, monkeypatch):
    state = tmp_path / "state.json"
    monkeypatch.setattr(trips, "drift", lambda number, config: Drift((0.0,) * 4, 0.0, 0.0, 0.9))
    Fitting(trips, BELONGS, state=state)._measured(range(4), None, "unguided")
    other = replace(BELONGS, cfg=2.0)
    assert Fitting(trips, BELONGS, state=state)._known
    assert not Fitting(trips, other, state=state)._known
    state.write_text(state.read_text()[:-40])
    assert not Fitting(trips, BELONGS, state=state)._known


def test_clips_that_come_back_as_something_else_are_left_out(trips, monkeypatch):
    seen = [Drift((0.3,) * 4, 0.0, 0.0, 0.1), *[Drift((-0.1,) * 4, 0.0, 0.0, 0.9)] * 3]
    assert came_back(seen) == [1, 2, 3]
    monkeypatch.setattr(trips, "drift", lambda number, config: seen[number])
    fit = Fitting(trips, BELONGS).fit()
    assert not fit.guide.acts
    assert len(fit.clips) == 3
    assert len(fit.left_out) == 1
    assert "3 of 4 clips came back as they were, too few" in fit.words()
    trips.takes = trips.takes[:3]
    with pytest.raises(UsageError, match="4 captioned clips or more, got 3"):
        Fitting(trips, BELONGS).fit()


@pytest.mark.parametrize(("contrast", "window"), [(0.15, (0.0, EARLY)), (-0.15, (0.0, 0.5)), (0.0, (0.0, 0.5))])
def test_what_a_model_overdoes_is_taken_away_early_and_what_it_lacks_is_put_in_late(
    contrast, window, studio, takes, monkeypatch
):
    request = Request.resolve(PRESETS["tiny"], prompt="any", **SMALL | {"steps": 25})
    trips = Trips(studio, request, load_bank("auto", studio.pipe), takes)

    def drift(number, config):
        tone = config.tone if config else 0.0
        return Drift((0.0, -0.1, 0.0, 0.0), contrast + 0.25 * tone + 0.002 * number, 0.0, 0.9)

    monkeypatch.setattr(trips, "drift", drift)
    guide = Fitting(trips, BELONGS).fit().guide
    assert guide.window == window
    assert guide.dose / window[1] == pytest.approx(GuideConfig.dose / GuideConfig.window[1])  # each step goes as far
    assert guide.tone * contrast <= 0


def test_few_steps_have_no_earlier_ones_to_add(few):
    window, dose = few.window, few.dose
    few.act_early()
    assert (few.window, few.dose) == (window, dose)


def test_flat_places_may_grow_by_what_they_clearly_lack_and_no_more(trips, monkeypatch):
    def limit(*flats):
        seen = [Drift((0.0, -0.1, 0.0, 0.0), 0.0, flat, 0.9) for flat in flats]
        monkeypatch.setattr(trips, "drift", lambda number, config: seen[number])
        asked = []
        monkeypatch.setattr(fitting, "solve", lambda measure, start, wanted, errors, rounds: asked.append(wanted) or ())
        Fitting(trips, BELONGS).fit()
        return asked[0][-1]

    assert limit(0.1, 0.11, 0.1, 0.11) == pytest.approx(0.105, abs=0.01)  # busier than real ones already
    assert limit(-0.2, -0.21, -0.2, -0.21) == pytest.approx(0.0, abs=0.01)
    assert limit(-0.1, 0.1, -0.12, 0.06) < 0.0  # within its error: as it is


@pytest.mark.parametrize(("cfg", "response"), [(1.0, [4, 4, 4]), (3.0, [4, 4, 8])])
def test_half_of_the_clips_tell_the_response_and_what_they_lack_is_not_taken_for_all(trips, monkeypatch, cfg, response):
    """What clips answer is the same for all, what they lack is not: drifts of a few are those of all, as answered."""
    asked, seen = [], []
    trips.takes = trips.takes * 2

    def drift(number, config):
        asked.append((number, config))
        lack, radius = -0.4 if number % 2 else -0.1, config.radius if config else 1.0
        return Drift((0.0, 0.0, lack + 0.1 * math.log(radius), lack + 0.1 * math.log(radius)), 0.0, 0.0, 0.9)

    def solving(measure, start, wanted, errors, rounds):
        for radius in (0.5, 0.6, 0.7, 1.0):
            seen.append(measure((0.1, radius, 0.1, 0.0))[0] - start[0])
        return ()

    monkeypatch.setattr(trips, "drift", drift)
    monkeypatch.setattr(fitting, "solve", solving)
    Fitting(trips, replace(BELONGS, cfg=cfg)).fit()
    passes = [len(list(group)) for _, group in itertools.groupby(asked, key=lambda call: call[1])]
    assert passes == [8, *response, 8]
    assert seen == pytest.approx([0.05, 0.06, 0.07, 0.1], abs=1e-4)
    assert guided_trips(8, excess=cfg > 1) == sum(response) + 4 * 8


def test_a_clips_own_excess_counts_as_far_as_it_explains_its_drift():
    from shelllcc.guidance.fit.solve import Point

    knobs = ((0.2, 0, 0, 0), (0, 0.5, 0, 0), (0, 0, 0.1, 0))
    points = [Point(k, d) for k, d in zip(knobs, ((0.1, 0.1, 0, 0), (0, 0.1, 0, 0), (0, 0, 0.1, 0)), strict=True)]
    excess = [0.1 * i for i in range(8)]
    seen = [Drift((0.0,) * 4, 0.0, 0.0, 0.9, excess=e) for e in excess]
    follows = [Drift((0.7 * e + 0.001 * (-1) ** i,) * 4, 0.5 * e, 0.0, 0.9) for i, e in enumerate(excess)]
    found = calmed(follows, seen, points, (0.0,) * 4)
    assert found["calm"] == pytest.approx(0.7 / (0.5 + 0.2), rel=0.05)
    assert found["contrast"] == pytest.approx(0.5, rel=0.05)
    chance = [Drift((0.3 * (-1) ** (i // 2),) * 4, 0.0, 0.0, 0.9) for i in range(8)]
    assert calmed(chance, seen, points, (0.0,) * 4) == {"calm": 0.0, "contrast": 0.0}


def test_the_cost_is_that_of_the_steps_that_are_sampled_and_the_clips_that_are_decoded(trips, studio, monkeypatch):
    counted = {"steps": 0, "decoded": 0}
    trips.takes = trips.takes[:1]
    trips._prefixes.clear()
    decode, vae = studio.pipe.vae.decode, studio.pipe.vae

    def decoding(*args, **kwargs):
        counted["decoded"] += 1
        return decode(*args, **kwargs)

    monkeypatch.setattr(vae, "decode", decoding)
    guided = guided_trips(1, excess=False)
    for number in range(1 + guided):
        trips.drift(0, trips.guide(radius=1.5 + number / 10) if number else None)
    counted["steps"] = sum(calls.computed for calls in trips._prefixes[0].calls)

    class Watch:
        step, decoding = 1.0, 1000.0

    assert cost(trips, Watch(), guided=guided) == counted["steps"] + 1000 * counted["decoded"]


def test_a_fit_that_takes_too_long_is_told_so_after_one_clip_and_goes_on_later(trips, studio, monkeypatch, tmp_path):
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    monkeypatch.setattr(
        Trips, "drift", lambda self, number, config: seen.append(number) or Drift((0.0,) * 4, 0, 0, 0.9)
    )
    monkeypatch.setattr(making, "cost", lambda trips, watch, **call: 500.0)
    monkeypatch.setattr(making.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(making._Watch, "steps", [1.0], raising=False)
    monkeypatch.setattr(making._Watch, "__init__", lambda self: None)
    seen, told = [], []
    request = Request.resolve(PRESETS["tiny"], prompt="any", **SMALL)
    with pytest.raises(TooLongError, match=r"8\.3 minutes here, more than the 3\.0"):
        make_fit(studio, request, trips.bank, clips=4, most=180.0, on_cost=told.append)
    assert (told, seen) == ([500.0], [0])
    fit = make_fit(studio, request, trips.bank, clips=4)
    assert seen == [0, 1, 2, 3]
    assert not fit.guide.acts
    assert [path.name for path in (tmp_path / "fits").rglob("*.json")] == [f"{fit.belongs.name}.json"]


def test_clips_suit_the_model_and_the_device(trips):
    tiny, request = find_model(None), Request.resolve(PRESETS["tiny"], prompt="any")
    assert shape_for(tiny, request, "cpu") == Shape(192, 17, 8)
    assert shape_for(tiny, request, "cuda") == Shape(192, 17, 24)
    full = Request.resolve(PRESETS["wan-official"], prompt="any")
    wide = replace(tiny, transformer=tiny.transformer | {"num_attention_heads": 12, "attention_head_dim": 128})
    assert shape_for(wide, full, "cuda", 32) == Shape(256, 17, 32)
    assert shape_for(wide, full, "cuda", 32, {"frames"}) == Shape(256, 81, 32)
    assert shape_for(wide, full, "cuda", None, {"width"}) == Shape(720, 17, 16)
    large = replace(wide, transformer=wide.transformer | {"num_attention_heads": 40})
    assert [shape_for(large, full, device).clips for device in ("cuda", "cpu")] == [16, 8]
    captions = [{take.caption.partition(",")[0] for take in chosen_takes(Shape(256, 17, 16), m)} for m in (tiny, wide)]
    assert "a tabby cat" in captions[0]
    assert len(captions[0]) == len(captions[1]) == 16
    assert len({take.caption for take in chosen_takes(Shape(256, 17, 40), wide)}) == 40


@pytest.mark.parametrize("kind", ["anchors", "manifold"])
def test_a_guide_fitted_to_a_perfect_denoiser_leaves_real_latents_as_they_are(trips, studio, perfect, shared, kind):
    from safetensors.torch import load_file

    from shelllcc.anchors.manifold import import_checkpoint

    [latents, *_] = load_file(shared / "data" / "wan21_latents.safetensors").values()
    clip = latents.float().reshape(-1, *latents.shape[-4:])[0][:, :2, :12, :12].contiguous()
    bank = trips.bank
    if kind == "manifold":
        bank = import_checkpoint(shared / "golden" / "reference_checkpoint.pth", model="wan2.1", vae="0" * 16)
    perfect["x0"] = clip[None]
    fit = Fitting(Trips(studio, trips.request, bank, [Take("a clip", clip)] * 4), BELONGS).fit()
    guide = ShellGuide(bank, fit.guide)
    guide.begin(trips.levels)
    steps = [guide.step_at(index) for index in range(len(trips.levels) - 1)]
    moves = [guide.move(clip[None], sigma, share=share) for sigma, share in steps]
    assert float(sum(moves).norm()) <= 0.03 * float(clip.norm())
    harsh = ShellGuide(bank, replace(fit.guide, radius=3.0))
    assert float(harsh.move(clip[None], 0.3, share=0.3).norm()) > 0.03 * float(clip.norm())  # the bank does act


FOUR = (1.0, 0.9375, 0.8333, 0.625)


@pytest.fixture(params=["euler", "lcm"])
def few(request, studio, takes):
    """Round trips of a student of four steps."""
    asked = Request.resolve(PRESETS["lightx2v-4step"], prompt="any", **SMALL | {"steps": None}, scheduler=request.param)
    return Trips(studio, asked, load_bank("auto", studio.pipe), takes)


def test_a_trip_that_shows_a_part_judges_the_part(few, studio):
    short = Trips(studio, few.request, few.bank, few.takes, shown=1)
    assert short.real(0).shape[0] == 1
    assert (short.real(0) == few.real(0)[:1]).all()
    back = [trips._sample(0, None) for trips in (short, few)]
    assert (back[0].frames == back[1].frames[:1]).all()
    assert torch.equal(back[0].latents, back[1].latents)
    assert short.drift(0, short.guide(radius=2.0)).likeness != few.drift(0, few.guide(radius=2.0)).likeness


def test_a_trip_of_few_steps_goes_through_the_students_own(few, studio):
    assert few.levels == pytest.approx([*FOUR[1:], 0.0], abs=1e-6)
    assert (few.window, few.last) == ((0.0, pytest.approx(0.625)), True)
    assert few.tail == 0
    asked = []
    handle = studio.pipe.transformer.register_forward_pre_hook(
        lambda model, args, given: asked.append(float(given["timestep"].flatten()[0])), with_kwargs=True
    )
    few.drift(0, None)
    few.drift(0, few.guide(radius=2.0))
    handle.remove()
    assert asked == pytest.approx(2 * [1000 * level for level in FOUR[1:]])
    assert few._prefixes[0].calls[1].computed == 0  # the guide acts on what was said already: another costs decoding


@pytest.fixture
def harsh(few, studio, monkeypatch):
    """Trips of a student that gives every clip, one of four photographs, too much fine detail."""
    real, sharp, current = [], [], {}
    for name in ("cat", "gravel", "coffee", "spices"):
        picture = torch.from_numpy(iio.imread(STILLS / f"{name}.webp")[100:148, 100:148, :3]).permute(2, 0, 1).float()
        detail = picture - torch.nn.functional.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)
        for found, gain in ((real, 0.0), (sharp, 0.35)):
            frames = (picture + gain * detail).clamp(0, 255).byte().permute(1, 2, 0)[None].repeat(5, 1, 1, 1)
            found.append(Take(name, encode_frames(studio.pipe.vae, frames.numpy()).cpu()))

    def forward(hidden_states, timestep, *args, **kwargs):
        return ((hidden_states - current["x0"]) / (float(timestep.flatten()[0]) / 1000),)

    bare = few._sample

    def shown(number, guide):
        current["x0"] = sharp[number].latents[None]
        return bare(number, guide)

    monkeypatch.setattr(studio.pipe.transformer, "forward", forward)
    monkeypatch.setattr(few, "_sample", shown)
    few.takes = real
    return few


@pytest.mark.parametrize("few", ["euler"], indirect=True)
def test_a_fit_of_few_steps_calms_a_harsh_student_in_its_last_step(harsh):
    fit = Fitting(harsh, replace(BELONGS, steps=4, sigmas=FOUR)).fit()
    assert fit.guide.acts
    assert (fit.guide.last, fit.guide.by_sigma) == (True, True)
    before, after = (sum(getattr(band, when) for band in fit.bands[FINE]) / 2 for when in ("before", "after"))
    assert before > 0.1
    assert abs(after) < 0.4 * before


def test_a_fit_belongs_to_the_levels_that_it_was_made_for():
    own = replace(BELONGS, sigmas=FOUR, steps=4, shift=1.0)
    assert own.name != replace(own, sigmas=(1.0, 0.9, 0.8, 0.6)).name
    assert own.distance(own) == 0
    assert 0 < own.distance(replace(own, sigmas=FOUR[:3], steps=3)) < 1
    assert own.distance(replace(own, sigmas=(), shift=3.5)) == math.inf
    assert BELONGS.name == "c932d47b799064f7"  # as it was before there were levels
    assert "sigmas" not in BELONGS.as_dict()
