"""Fits: the value and its file, the nearest one, what is judged and what is solved."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.fit import shelf
from shelllcc.guidance.fit.fit import Band, Belongs, Fit, read_fit, write_fit
from shelllcc.guidance.fit.judge import BANDS, Estimate, drift, octaves, robust, shrunk, slope
from shelllcc.guidance.fit.solve import HIGH, LOW, best, solve
from shelllcc.guidance.guide.config import GuideConfig

BELONGS = Belongs("bank", "curve", "weights", "UniPCMultistepScheduler", 25, 5.0, None, 3.0)
GUIDE = GuideConfig(toward=0.0, coarse=0.9, radius=0.5, tone=-0.1, calm=1.0, contrast=0.5, usual=0.4)
BANDS_FOUND = (
    *tuple(Band(f"{name} px", 0.24, 0.03, 0.02, 0.02) for name in BANDS),
    Band("contrast", 0.1, 0.02, 0.0, 0.02),
)


@pytest.fixture
def fit():
    return Fit(
        belongs=BELONGS,
        guide=GUIDE,
        bands=BANDS_FOUND,
        clips=("a cat",) * 8,
        left_out=("a shed",),
        seed=0,
        sigma=0.95,
        size=(192, 192, 17),
        model="tiny",
        bank="tiny-wan",
        versions={"torch": "2"},
    )


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    monkeypatch.setattr(shelf, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "fits"


def test_a_fit_is_read_as_it_was_written(fit, tmp_path):
    assert read_fit(write_fit(fit, tmp_path)) == fit


def test_a_torn_or_edited_fit_is_refused_in_one_line(fit, tmp_path):
    path = write_fit(fit, tmp_path)
    whole = path.read_text()
    edited = json.loads(whole)
    edited["guide"]["radius"] = 5.0
    none = {**json.loads(whole), "format": "other"}
    for text in (
        whole[: len(whole) // 2],
        json.dumps(edited),
        json.dumps(none),
        "[]",
        whole.replace("0.24", "0.25", 1),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match="shelllcc fit") as refused:
            read_fit(path)
        assert "\n" not in str(refused.value)


def test_a_fit_with_impossible_knobs_is_refused_though_its_digest_is_right(fit, tmp_path, monkeypatch):
    record = fit.as_dict()
    record["guide"]["radius"] = -1.0
    from shelllcc.guidance.fit import fit as module

    path = tmp_path / "x.json"
    path.write_text(json.dumps(record | {"digest": module._digest(record)}))
    with pytest.raises(UsageError, match="radius must be positive"):
        read_fit(path)


def test_only_a_fit_of_the_same_bank_and_model_is_found(fit, folder):
    shelf.keep(fit)
    assert shelf.find(BELONGS) == shelf.Found(fit, True)
    near = shelf.find(replace(BELONGS, steps=30, cfg=4.0))
    assert near.fit == fit
    assert not near.exact
    assert "25 steps, cfg 5" in near.remark
    for other in ({"bank": "other"}, {"weights": "other"}, {"cfg": 1.0}, {"cfg": 2.0}, {"steps": 4}):
        assert shelf.find(replace(BELONGS, **other)) == shelf.Found(None, False)


def test_the_fit_of_a_sampling_is_never_passed_over_where_it_is_torn_but_another_is(fit, folder):
    path = shelf.keep(fit)
    other = shelf.keep(replace(fit, belongs=replace(BELONGS, steps=24)))
    other.write_text("{")
    assert shelf.find(BELONGS).exact
    path.write_text("{")
    with pytest.raises(UsageError, match="cannot read the fit"):
        shelf.find(BELONGS)


def test_a_fit_under_the_name_of_another_sampling_is_refused(fit, folder):
    path = shelf.keep(fit)
    wanted = replace(BELONGS, steps=26)
    path.rename(path.with_name(f"{wanted.name}.json"))
    with pytest.raises(UsageError, match="something else"):
        shelf.find(wanted)


def test_words_say_what_a_person_understands(fit):
    assert "has 27% too much of the finest detail at these settings; guided, +2%" in fit.words()
    still = replace(fit, guide=GuideConfig(coarse=1.0, radius=1.0, tone=0.0), clips=("a",) * 5)
    assert "leaves its clips alone" in still.words()
    assert "Only 5 clips" in still.words()
    few = replace(still, clips=("a",) * 3, left_out=("b",))
    assert few.words().startswith("3 of 4 clips came back as they were, too few to tell")


def film(seed, gain=1.0, frames=5, side=64):
    """Noise of all scales, uint8 (t, H, W, 3), its detail finer than 4 pixels `gain` times as strong."""
    noise = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.fft2(noise)
    y, x = torch.fft.fftfreq(side), torch.fft.fftfreq(side)
    radius = (y[:, None] ** 2 + x**2).sqrt()
    spectrum = spectrum / (radius + 0.02) ** 2 * torch.where(radius > 0.25, gain, 1.0)
    picture = torch.fft.ifft2(spectrum).real[0, 0]
    base = torch.fft.ifft2(torch.fft.fft2(noise) / (radius + 0.02) ** 2).real
    picture = picture / base.std() * 30 + 128
    return picture.clamp(0, 255).round().byte().numpy()[None, :, :, None].repeat(frames, 0).repeat(3, 3)


def test_a_drift_is_that_of_its_band_and_content_cancels():
    for seed in range(3):
        found = drift(film(seed, 0.7), film(seed))
        assert found.bands[0] == pytest.approx(math.log(0.7), abs=0.05)
        assert np.abs(found.bands[1:]).max() < 0.05
        assert abs(found.contrast) < 0.05
        assert found.likeness > 0.99
        assert drift(film(seed), film(seed)).bands == (0.0,) * len(BANDS)
    assert drift(film(1), film(2)).likeness < 0.5


def test_contrast_is_taken_out_of_the_bands():
    real = film(0)
    paler = (128 + 0.8 * (real.astype(float) - 128)).round().astype("uint8")
    found = drift(paler, real)
    assert found.contrast == pytest.approx(math.log(0.8), abs=0.01)
    assert np.abs(found.bands).max() < 0.03


def test_octaves_follow_an_amplitude():
    video = torch.from_numpy(film(0)[..., 0]).float()[None] / 255
    louder = octaves((video - 0.5) * 2 + 0.5) - octaves(video)
    torch.testing.assert_close(louder, torch.full((1, len(BANDS)), math.log(2)), atol=1e-3, rtol=0)


def test_one_odd_clip_does_not_move_a_robust_mean_and_errors_shrink_with_clips():
    values = torch.randn(16, generator=torch.Generator().manual_seed(0)).mul(0.1).add(0.2).tolist()
    with_odd = robust([*values, 9.0])
    assert with_odd.mean == pytest.approx(robust(values).mean, abs=0.04)
    many = torch.randn(4000, generator=torch.Generator().manual_seed(1)).mul(0.1).tolist()
    assert robust(many).error == pytest.approx(0.1 / 4000**0.5, rel=0.15)
    assert robust([0.1]).error == math.inf


def test_a_drift_within_its_error_is_left_alone_and_a_clear_one_is_not():
    assert shrunk(Estimate(0.03, 0.04)) == 0.0
    assert shrunk(Estimate(-0.3, 0.03)) == pytest.approx(-0.3, rel=0.02)
    assert shrunk(Estimate(0.3, math.inf)) == 0.0


def test_a_slope_and_its_error():
    x = [0.1 * i for i in range(12)]
    noise = torch.randn(12, generator=torch.Generator().manual_seed(0)).mul(0.01).tolist()
    found = slope(x, [0.5 * a + n for a, n in zip(x, noise, strict=True)])
    assert abs(found.mean - 0.5) < 3 * found.error < 0.1
    assert slope([0.2] * 12, noise).error == math.inf


NOTHING = (0.0, 0.0, 0.0, 0.0)


def response(knobs):
    """A model that bends: what is left of drifts under knobs."""
    coarse, radius, tone, flat = knobs
    gain = (0.22 * radius - 0.02 * radius**2) * (1 - 0.2 * flat)
    busier = 0.12 * max(radius, 0) * math.exp(-1.5 * flat) + 0.2 * coarse
    return (
        -0.10 + 0.45 * coarse + 0.05 * radius + 0.05 * tone,
        -0.25 + 0.3 * coarse + gain,
        0.08 + 0.8 * tone + 0.1 * coarse,
        -0.05 + busier,
    )


def solved(error, model=response):
    start, errors = model(NOTHING), (error,) * 4
    wanted = [*(d - shrunk(Estimate(d, error)) for d in start[:3]), max(0.0, start[3])]
    points = list(solve(model, start, wanted, errors))
    return points, best(points, start, wanted, errors)


def test_the_solver_takes_clear_drifts_away_and_keeps_flat_places_flat():
    points, found = solved(0.01)
    assert len(points) <= 7
    before = response(NOTHING)
    assert all(abs(a) < 0.2 * abs(b) + 0.012 for a, b in zip(found.drifts[:3], before[:3], strict=True))
    assert found.drifts[3] < 0.04
    loose = solved(0.01, lambda knobs: (*response(knobs)[:3], -0.2))[1]
    assert response(loose.knobs)[3] > found.drifts[3]  # flat places would have grown busier
    assert (np.array(found.knobs) >= LOW).all()
    assert (np.array(found.knobs) <= HIGH).all()


def test_the_solver_tries_nothing_where_drifts_are_chance():
    points, found = solved(0.3)
    assert points == []
    assert found.knobs == NOTHING


def test_the_worse_a_drift_is_known_the_less_is_done():
    reach = [np.abs(solved(error)[1].knobs).sum() for error in (0.01, 0.06, 0.12)]
    assert reach[0] > reach[1] > reach[2]


def test_a_guide_that_only_harms_is_not_used():
    start, errors = (0.1, 0.1, 0.0, 0.0), (0.01,) * 4
    points = list(solve(lambda knobs: (0.4, 0.4, 0.2, 0.3), start, NOTHING, errors))
    assert points
    assert best(points, start, NOTHING, errors).knobs == NOTHING


def test_flat_places_that_grow_busy_are_told_from_detail():
    real = film(0)
    real[:, :, :24] = 128
    noisy = real.astype(float)
    noisy[:, :, :24] += torch.randn(5, 64, 24, 1, generator=torch.Generator().manual_seed(1)).numpy()
    assert drift(noisy.round().clip(0, 255).astype("uint8"), real).flat > 0.5
    assert drift(real, real).flat == 0
