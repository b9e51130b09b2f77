"""Motion blur: the measure against a box that is known, the captions and real clips, and the bench at a toy size."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from benchmarks import motion_blur
from benchmarks.captions import captions
from shelllcc.guidance.measures import metrics
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS, caption, understand
from training.studio import Studio


@pytest.fixture(scope="module")
def texture():
    return torch.rand(256, 512, generator=torch.Generator().manual_seed(0))


def pan(texture, *, speed, opened, frames=5, side=224):
    """A pan of `speed` pixels a frame, the light of `opened` unit moves gathered in each: (1, t, side, side)."""
    shown = [
        torch.stack([texture[:side, speed * i + j : speed * i + j + side] for j in range(opened)]).mean(0)
        for i in range(frames)
    ]
    return torch.stack(shown)[None]


@pytest.mark.parametrize("opened", [2, 3, 5])
def test_a_shutters_box_divides_the_ratio_by_its_width_in_white_texture(texture, opened):
    """Of a box of n pixels: gradients along telescope to 2 / n^2 of the variance, those across to 2 / n."""
    sharp, blurred = (metrics.pan_sharpness(pan(texture, speed=5, opened=n)) for n in (1, opened))
    assert_close(sharp, torch.ones(1), atol=0.03, rtol=0)
    assert_close(sharp / blurred, torch.tensor([float(opened)]), atol=0, rtol=0.05)


def test_blur_across_raises_the_ratio_and_blur_in_all_directions_or_less_contrast_leaves_it(texture):
    sharp = pan(texture, speed=3, opened=1)
    smooth = torch.nn.functional.avg_pool2d(sharp, 3, stride=1)
    assert_close(metrics.pan_sharpness(smooth), torch.ones(1), atol=0.06, rtol=0)
    assert_close(metrics.pan_sharpness(0.4 * sharp + 0.3), metrics.pan_sharpness(sharp), atol=1e-4, rtol=0)
    blurred = pan(texture, speed=3, opened=3)
    assert_close(metrics.pan_sharpness(blurred.mT), 1 / metrics.pan_sharpness(blurred))


def test_pans_are_of_held_out_subjects_and_lights_and_no_caption_was_tuned_on():
    words = motion_blur.pans(64)
    assert [(w.subject, w.light) for w in words] == [(w.subject, w.light) for w in captions(64, "held-out")]
    assert {w.move for w in words} == {"pan left", "pan right"}
    assert len({(w.subject, w.move, w.light) for w in words}) == 64
    tuned = {(w.subject, w.move, w.light) for w in captions(64, "tuning")}
    assert not tuned & {(w.subject, w.move, w.light) for w in words}
    assert understand(caption(*words[0]._replace(free=("blur",)))).free == ("blur",)


def test_a_real_pan_is_blurred_by_its_shutter_and_by_nothing_else():
    noise = torch.rand(3, 600, 800, generator=torch.Generator().manual_seed(0))
    studio = Studio([noise] * len(SUBJECTS))
    clips = motion_blur.blurred_clips(studio, motion_blur.pans(2))
    assert all(clip.shutter >= 0.6 and clip.free == ("blur",) and clip.tone == 1 for clip in clips)
    sharp, blurred = (
        motion_blur.log_sharpness(motion_blur.real_frames(studio, some, frames=9, side=96))
        for some in ([replace(clip, shutter=0.0) for clip in clips], clips)
    )
    assert sharp.abs().max() < 0.1
    assert (blurred - sharp).max() < -0.1


def test_guidance_may_not_lead_away_from_what_was_asked():
    spread = torch.linspace(-0.1, 0.1, 16)
    real = {"real, sharp": spread, "real, blurred": spread.flip(0) - 0.8}

    def held(asked, unguided, guided, spread=spread):
        name = f"cfg 1, asked {asked}"
        found = real | {f"{name}, unguided": unguided + spread, f"{name}, guided": guided + 0.9 * spread}
        return [gate.held for gate in motion_blur.check(found)]

    assert held("sharp", -0.3, -0.1) == [True, True]
    assert held("sharp", -0.3, -0.5) == [True, False]
    assert held("sharp", -0.1, 0.3) == [True, False]
    assert held("blurred", -0.5, -0.7) == [True, True]
    assert held("blurred", -0.7, -0.2) == [True, False]
    assert held("sharp", -0.3, -0.301) == [True, True]  # what chance explains
    found = {"real, sharp": spread, "real, blurred": spread.flip(0)}
    assert [gate.held for gate in motion_blur.check(found)] == [False]


def test_the_table_pairs_what_shares_a_caption_and_a_noise():
    spread = torch.linspace(-0.2, 0.2, 16)
    found = {"real, sharp": spread, "real, blurred": spread - 0.8}
    for asked, level in (("sharp", -0.2), ("blurred", -0.6)):
        found[f"cfg 1, asked {asked}, unguided"] = 3 * spread + level
        found[f"cfg 1, asked {asked}, guided"] = 3 * spread + level + 0.1
    rows = motion_blur.table(found)
    ours, real = rows["cfg 1, asked blurred, guided"], rows["real, blurred"]
    error = float(2 * spread.std() / 4)
    assert (ours.to_sharp.value, ours.to_sharp.error) == pytest.approx((-0.5, error))
    assert (ours.percent, real.percent) == pytest.approx((62.5, 100))
    assert (ours.guided.value, ours.guided.error, ours.asked.value) == pytest.approx((0.1, 0, -0.4), abs=1e-6)
    assert (real.guided, rows["real, sharp"].asked) == (None, None)
    assert real.asked.value == pytest.approx(-0.8)


def test_the_bench_runs_at_a_toy_size_and_keeps_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    motion_blur.main(count=2, batch=2, smoke=True)
    record = json.loads((tmp_path / "runs/motion_blur.json").read_text())
    arms = [f"cfg 1, asked {asked}, {guided}" for asked in ("sharp", "blurred") for guided in ("unguided", "guided")]
    assert list(record["rows"]) == ["real, sharp", "real, blurred", *arms]
    assert record["rows"]["real, sharp"]["to_sharp"] == {"value": 0, "error": 0}
    assert record["rows"]["real, blurred"]["percent"] == pytest.approx(100)
    assert len(record["gates"]) == 3
    assert len(capsys.readouterr().out.splitlines()) == 1 + 6 + 3
