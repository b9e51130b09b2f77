"""The preview: the map of latents to colours, the x0 of a step, and a picture that is there while a clip is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from shelllcc.anchors.fingerprints import WAN21_VAE
from shelllcc.guidance.media.photographs import film, takes
from shelllcc.guidance.wan.banks.encode import encode_frames
from shelllcc.guidance.wan.clips import preview
from shelllcc.guidance.wan.clips.preview import WAN21_BIAS, colour_map, colours_of, x0_between
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import sample
from shelllcc.guidance.wan.model.presets import PRESETS

CAT = "a tabby cat, zoom in, daylight"
SMALL = {"width": 32, "height": 32, "frames": 5}


def test_wan21_has_comfyui_s_map_and_no_photograph_is_encoded():
    class Config:
        config = WAN21_VAE

    found = colour_map(Config())
    assert found.shape == (2, 17, 3)
    grey = colours_of(torch.zeros(16, 1, 1, 1), found)[0, 0, 0]
    np.testing.assert_array_equal(grey, np.round((np.array(WAN21_BIAS) + 1) * 127.5))


def test_the_map_of_another_vae_shows_clips_of_photographs_that_it_was_not_made_of(pipe):
    """Beside the colours that the clip has under each voxel: what is left is a fifth of how they differ, or less, in
    the first latent frame and in later ones, which a causal VAE codes in another way."""
    left = []
    with torch.no_grad():
        found = colour_map(pipe.vae)
    for take in takes(128, moves=1)[1::3][:5]:
        clip = film(take, 128, frames=9)
        shown = torch.from_numpy(colours_of(encode_frames(pipe.vae, clip), found)).float() / 255
        frames = torch.from_numpy(clip).float().permute(0, 3, 1, 2) / 255
        under = functional.avg_pool2d(frames, 8).permute(0, 2, 3, 1)
        truth = torch.stack([under[0], under[1:5].mean(0), under[5:9].mean(0)])
        spread = (truth - truth.mean((1, 2), keepdim=True)).square().mean((1, 2, 3))
        left.append((shown - truth).square().mean((1, 2, 3)) / spread)
    assert torch.stack(left).median(0).values.tolist() == pytest.approx([0, 0, 0], abs=0.2)


def test_x0_between_is_that_of_a_step_along_a_straight_flow():
    x0, noise = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    at = {sigma: (1 - sigma) * x0 + sigma * noise for sigma in (0.8, 0.5, 0.0)}
    torch.testing.assert_close(x0_between(at[0.8], at[0.5], 0.8, 0.5), x0)
    torch.testing.assert_close(x0_between(at[0.5], at[0.0], 0.5, 0.0), x0)


def test_x0_is_heard_of_each_step_but_the_first_and_changes_nothing(pipe):
    request = Request.resolve(PRESETS["tiny"], prompt=CAT, steps=4, **SMALL)
    heard = []
    clip = sample(pipe, request, on_x0=heard.append)
    assert len(heard) == 3
    torch.testing.assert_close(heard[-1], clip.latents[0])
    apart = [(x0 - clip.latents[0]).square().mean().item() for x0 in heard]
    assert apart == sorted(apart, reverse=True)
    np.testing.assert_array_equal(clip.frames, sample(pipe, request).frames)


def test_the_picture_is_there_while_the_clip_is_made(shelllcc, tmp_path, monkeypatch):
    seen, write = [], preview.write_png
    monkeypatch.setattr(preview, "write_png", lambda path, image: (write(path, image), seen.append(path.exists())))
    words = ["-p", CAT, "--size", "32x32", "--frames", "5", "--steps", "3"]
    code, _, err = shelllcc("generate", *words, "-o", "a.mp4", "--preview", "now.png")
    assert code == 0, err
    assert seen == [True, True]
    with Image.open(tmp_path / "now.png") as image:
        assert image.size == (256, 128)
    code, _, err = shelllcc("generate", *words, "--preview", "now.gif")
    assert code == 2
    assert ".png" in err


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_step_that_goes_nowhere_shows_what_is_there(level):
    latents = torch.randn(1, 2, 1, 2, 2)
    torch.testing.assert_close(x0_between(latents, latents, 0.5, level), latents)
