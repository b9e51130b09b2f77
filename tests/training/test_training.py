"""The recipe: clips, the one-pass autoencoder and a smoke-sized run of every stage."""

import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def studio():
    from training.clips import Studio
    from training.photographs import load

    return Studio(load())


def small_vae():
    from diffusers import AutoencoderKLWan

    from training.vae import CONFIG

    torch.manual_seed(0)
    vae = AutoencoderKLWan(**CONFIG | {"base_dim": 16, "decoder_base_dim": 16}).eval()
    with torch.no_grad():
        for p in vae.parameters():
            if p.numel() == p.shape[0]:  # biases and gains must be seen, too
                p.add_(0.1 * torch.randn_like(p))
    return vae


@torch.no_grad()
def test_one_pass_equals_the_stock_autoencoder():
    from training import whole_clip

    vae = small_vae()
    video = torch.rand(2, 3, 17, 32, 48) * 2 - 1
    stock = vae.encode(video).latent_dist
    mean, logvar = whole_clip.encode(vae, video)
    assert_close(mean, stock.mean, atol=1e-5, rtol=1e-4)
    assert_close(logvar, stock.logvar, atol=1e-5, rtol=1e-4)
    assert_close(whole_clip.decode(vae, mean).clamp(-1, 1), vae.decode(mean).sample, atol=1e-5, rtol=1e-4)


def test_a_clip_follows_from_its_seed_and_moves_as_it_says(studio):
    from training.clips import draw

    assert draw(5, studio.shapes) == draw(5, studio.shapes)
    for move, axis, sign in (("pan left", 0, -1), ("pan right", 0, 1), ("tilt up", 1, -1), ("tilt down", 1, 1)):
        start, end = draw(6, studio.shapes, move=move).centre
        assert (end[axis] - start[axis]) * sign > 0
        assert end[1 - axis] == start[1 - axis]
    assert draw(7, studio.shapes, move="zoom in").half[0] > draw(7, studio.shapes, move="zoom in").half[1]


def test_a_window_is_a_part_of_the_whole_frame(studio):
    clips = studio.draw([11, 12])
    whole, part = studio.film(clips, frames=5), studio.film(clips, frames=5, window=(32, 64, 48))
    assert whole.shape == (2, 3, 5, 192, 192)
    assert_close(part, whole[..., 32:80, 64:112], atol=2e-3, rtol=1e-3)


def test_newton_schulz_makes_singular_values_near_one():
    from training.optim import orthogonalise

    x = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(x))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_the_recipe_runs_resumes_and_loads_as_a_stock_pipeline(root, tmp_path):
    def step(*words):
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    step("training.vae", "--smoke", "--steps", 2, "--out", tmp_path / "vae")
    assert "vae step 4 " in step("training.vae", "--smoke", "--steps", 4, "--out", tmp_path / "vae")
    step("training.vae", "--smoke", "--decoder-only", "--start", tmp_path / "vae/vae", "--out", tmp_path / "decoder")
    step("training.transformer", "--smoke", "--vae", tmp_path / "vae/vae", "--out", tmp_path / "transformer")
    step(
        "training.export",
        tmp_path / "tiny",
        "--vae",
        tmp_path / "decoder/vae",
        "--transformer",
        tmp_path / "transformer",
    )
    step("training.bank", tmp_path / "bank.safetensors", "--model", tmp_path / "tiny", "--clips", 4, "--held-out", 2,
         "--anchors", 4)  # fmt: skip

    from diffusers import WanPipeline

    from shelllcc import GuideConfig, ShellGuide, guided, load_bank

    pipe = WanPipeline.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    bank = load_bank(tmp_path / "bank.safetensors", pipe)
    with guided(pipe, ShellGuide(bank, GuideConfig(window=(0.0, 1.0)))) as guide:
        frames = pipe("a cat", height=64, width=64, num_frames=5, num_inference_steps=2, output_type="np").frames
    assert frames.shape == (1, 5, 64, 64, 3)
    assert [step.index for step in guide.trace] == [0]  # the last step is left alone
