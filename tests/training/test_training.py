"""The recipe: clips, the one-pass autoencoder and a smoke-sized run of every stage."""

import importlib
import subprocess
import sys

import pytest
import torch
import typer
from torch.testing import assert_close

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def studio():
    from training.photographs import load
    from training.studio import Studio

    return Studio(load(stand_in=True))


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
    assert draw(5, studio.shapes).text == "zoom in, an admiral, fog, wide shot"  # for ever
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


def test_an_open_shutter_averages_the_path_and_gentle_starts_keep_its_ends(studio):
    from dataclasses import replace

    from training.clips import draw

    clip = draw(6, studio.shapes, subject=6, move="pan left", light="daylight")
    window = (64, 64, 64)
    plain, blurred, eased = (
        studio.film([c], window=window) for c in (clip, replace(clip, shutter=1.0), replace(clip, ease=1.0))
    )
    assert blurred.diff(dim=-1).abs().mean() < 0.9 * plain.diff(dim=-1).abs().mean()
    still = draw(6, studio.shapes, subject=6, move="static", light="daylight")
    both = studio.film([still, replace(still, shutter=1.0)], frames=2, window=window)
    assert_close(both[0], both[1], atol=1e-4, rtol=1e-4)
    assert_close(eased[:, :, [0, 8, 16]], plain[:, :, [0, 8, 16]], atol=1e-3, rtol=1e-3)
    assert (eased[:, :, 1] - eased[:, :, 0]).abs().mean() < (plain[:, :, 1] - plain[:, :, 0]).abs().mean()


def test_captions_say_what_the_clips_show():
    from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS, understand, words
    from training.clips import draw
    from training.photographs import FRAME, PHOTOGRAPHS

    assert [photograph.subject for photograph in PHOTOGRAPHS] == list(SUBJECTS)
    shapes = [(512, 700)] * len(PHOTOGRAPHS)
    known = set(words())
    for seed in range(200):
        clip = draw(seed, shapes)
        said = understand(clip.text)
        assert (said.subject, said.move) == (PHOTOGRAPHS[clip.subject].subject, clip.move)
        assert (said.light, set(said.free)) == (clip.light, set(clip.free))
        assert ("motion blur" in clip.text or "long exposure" in clip.text) == (clip.shutter > 0)
        assert ("low contrast" in clip.text or "soft light" in clip.text) == (clip.tone < 1)
        assert set(clip.text.replace(",", " , ").replace("-", " - ").split()) <= known
        sharp = draw(seed, shapes, sharp=True, move="static")
        assert 2 <= 2 * sharp.half[0] * 512 / FRAME <= 3
        assert sharp.shutter == 0


def test_photographs_are_free_and_no_other_than_named(tmp_path):
    from shelllcc.guidance.errors import UsageError
    from training.photographs import FREE, NOT_STATED, PHOTOGRAPHS, PUBLIC, load

    assert len(PHOTOGRAPHS) >= 24
    assert {p.licence for p in PHOTOGRAPHS} <= {PUBLIC, FREE, NOT_STATED, "CC0", "CC BY 2.0", "CC BY 4.0"}
    (tmp_path / "face.dat").write_bytes(b"another picture")
    with pytest.raises(UsageError, match=r"face\.dat is not the face\.dat of scipy"):
        load(folder=tmp_path, stand_in=True)


def test_missing_photographs_are_told_in_one_line_with_the_command(tmp_path, monkeypatch, capsys):
    from training import options, photographs

    monkeypatch.setattr(photographs, "_folder", lambda package: tmp_path / "nowhere")
    monkeypatch.setattr(sys, "argv", ["training"])
    with pytest.raises(SystemExit) as stop:
        options.run(lambda: photographs.load(folder=tmp_path))
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert "face.dat" in said
    assert "`make photographs`" in said


def test_a_cache_of_photographs_is_read_and_another_recipes_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    from shelllcc.guidance.errors import UsageError
    from training.photographs import load

    cache = tmp_path / "photographs.safetensors"
    first = load(cache, folder=tmp_path, stand_in=True)
    again = load(cache, folder=tmp_path)  # needs none of them
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    stored = load_file(cache)
    del stored["raccoon"]
    save_file(stored, cache)
    with pytest.raises(UsageError, match="lacks raccoon"):
        load(cache)


def test_the_card_says_what_the_tables_say(root):
    """Where this fails: `python -m training.card`."""
    from training import card

    text = card.CARD.read_text()
    for heading, section in {
        "Parts": card.parts(),
        "What it knows": card.knows(),
        "Sources and licences": card.sources(),
    }.items():
        assert card.with_section(text, heading, section) == text


def test_the_card_names_author_licence_and_changes_of_all_that_asks_for_it(root):
    from training.card import CARD, LICENCES, with_section
    from training.photographs import PHOTOGRAPHS

    text = CARD.read_text()
    assert {p.licence for p in PHOTOGRAPHS} <= set(LICENCES)
    for photograph in PHOTOGRAPHS:
        [row] = [line for line in text.splitlines() if f"`{photograph.file}`" in line and known(photograph) in line]
        assert photograph.author in row
        if photograph.licence.startswith("CC"):
            assert f"[{photograph.licence}](https://creativecommons.org/" in row
    assert "Changes made" in text
    assert not [p.licence for p in PHOTOGRAPHS if "SA" in p.licence]
    with pytest.raises(ValueError, match="no section Nothing"):
        with_section(text, "Nothing", "")


def known(photograph):
    from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS

    return f"| {SUBJECTS[photograph.subject][0]} |"


def test_losses_of_detail_gain_nothing_by_a_checkerboard():
    from training import detail

    video = detail.low_pass(detail.low_pass(torch.rand(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0))))
    smooth = detail.low_pass(detail.low_pass(video))
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    checked = smooth + 0.02 * (-1.0) ** (x + y)
    weigh = lambda made: 0.05 * detail.texture_loss(made, video) + detail.alternation_loss(made, video)  # noqa: E731
    for amplitude in (0.002, 0.005, 0.01, 0.02):
        assert weigh(smooth + amplitude * (-1.0) ** (x + y)) > 0.98 * weigh(smooth)
    assert detail.alternation_loss(checked, video) > 0.01
    assert detail.alternation_loss(smooth, video) < 0.001
    assert detail.checkerboard(checked) > 100 * detail.checkerboard(smooth)
    for pattern, band in (((-1.0) ** (x + y), 0), ((-1.0) ** x, 1), ((-1.0) ** y, 2)):
        strengths = [v.abs().mean() for v in detail.alternation(pattern.expand(1, 1, 1, 64, 64))]
        assert_close(torch.stack(strengths), torch.eye(3)[band])


def test_stripes_of_one_phase_are_told_from_texture_and_cost_more_than_they_gain():
    from training import detail

    video = torch.rand(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    texture = detail.low_pass(video)
    x = torch.arange(64)
    for pattern in ((-1.0) ** x[None], (-1.0) ** x[:, None]):
        woven = texture + 0.02 * pattern
        assert detail.stripes(woven) > 20 > 4 > detail.stripes(texture)
        assert detail.checkerboard(woven) < 1.1 * detail.checkerboard(texture)  # which never saw them
        blocks = detail.phases(woven - texture)[1].view(3, -1).abs().mean(1)
        assert_close(blocks.max(), torch.tensor(0.02), atol=1e-4, rtol=0)
        assert (blocks > 1e-4).sum() == 1
        lack = detail.low_pass(texture)
        for amplitude in (0.005, 0.01, 0.02):
            made = lack + amplitude * pattern
            assert detail.phase_loss(made, texture) > detail.phase_loss(lack, texture) + 0.2 * amplitude
            assert detail.texture_loss(made, texture) > 0.98 * detail.texture_loss(lack, texture)
    other = torch.rand(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(1))
    assert detail.phase_loss(other, video) < 0.15 * (other - video).abs().mean()


@torch.no_grad()
def test_unfolded_pixels_and_frames_start_alike():
    from training import whole_clip
    from training.vae import start_alike

    vae = small_vae()
    start_alike(vae)
    video = whole_clip.decode(vae, torch.randn(1, 16, 2, 3, 3))
    assert_close(video[..., 0::2, 0::2], video[..., 1::2, 1::2])
    before = torch.randn(1, vae.decoder.up_blocks[0].upsampler.time_conv.in_channels, 3, 4, 4)
    after = whole_clip._upsample(vae.decoder.up_blocks[0].upsampler, before)
    assert_close(after[:, :, 1::2], after[:, :, 2::2])


def test_the_critic_pulls_as_hard_as_it_is_told():
    from training.critic import Critic, balance, critic_loss, maker_loss

    torch.manual_seed(0)
    critic, real = Critic(8), torch.rand(1, 3, 5, 32, 32)
    weight = torch.ones(3, 1, 1, 1, requires_grad=True)
    made = real.lerp(real.mean(), 0.5) * weight
    assert_close(critic_loss(critic(real), critic(real)), torch.tensor(2.0).log())
    reference, other = (made - real).square().mean(), maker_loss(critic(real), critic(made))
    factor = balance(reference, other, weight)
    pulls = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (reference, factor * other)]
    assert_close(pulls[0], pulls[1], rtol=1e-3, atol=1e-6)


def test_an_average_survives_a_checkpoint():
    from training.run import Average

    parameter = torch.nn.Parameter(torch.randn(50))
    average = Average([parameter], 0.99)
    parameter.data.add_(0.01 * torch.randn(50))
    average.update(1000)
    kept, again = average.shadow[0].clone(), Average([parameter], 0.99)
    again.restore(average.state())
    assert_close(again.shadow[0], kept, atol=1e-5, rtol=0)


def test_newton_schulz_makes_singular_values_near_one():
    from training.optim import orthogonalise

    x = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(x))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_the_recipe_runs_resumes_and_loads_as_a_stock_pipeline(root, forked, tmp_path, monkeypatch):
    from training import reel
    from training.studio import Studio

    monkeypatch.setattr(reel, "FRAME", 96)  # clips of a quarter of the pixels, in every fork
    monkeypatch.setitem(Studio.film.__kwdefaults__, "size", 96)
    shell = forked(root, said=tmp_path / "said")

    def step(module, *words):
        main = importlib.import_module(module).main
        done = shell.run(list(map(str, words)), before=lambda: typer.run(main))  # which ends the process
        assert done.code == 0, done.err[-2000:]
        return done.out

    step("training.vae", "--smoke", "--steps", 2, "--out", tmp_path / "vae")
    assert "vae step 4 " in step("training.vae", "--smoke", "--steps", 4, "--out", tmp_path / "vae")
    step("training.vae", "--smoke", "--decoder-only", "--critic", 0.2, "--start", tmp_path / "vae/vae", "--out",
         tmp_path / "decoder")  # fmt: skip
    step("training.transformer", "--smoke", "--vae", tmp_path / "vae/vae", "--out", tmp_path / "transformer")
    words = ["--vae", tmp_path / "decoder/vae", "--transformer", tmp_path / "transformer"]
    module = [sys.executable, "-m", "training.export"]  # one in a process of its own, as the recipe is typed
    done = subprocess.run([*module, tmp_path / "tiny", *words], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    step("training.bank", tmp_path / "bank.safetensors", "--model", tmp_path / "tiny", "--clips", 4, "--held-out", 2,
         "--anchors", 4, "--smoke")  # fmt: skip

    from diffusers import WanPipeline

    from shelllcc import GuideConfig, ShellGuide, guided, load_bank

    pipe = WanPipeline.from_pretrained(tmp_path / "tiny", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    bank = load_bank(tmp_path / "bank.safetensors", pipe)
    with guided(pipe, ShellGuide(bank, GuideConfig(window=(0.0, 1.0)))) as guide:
        frames = pipe("a cat", height=64, width=64, num_frames=5, num_inference_steps=2, output_type="np").frames
    assert frames.shape == (1, 5, 64, 64, 3)
    assert [step.index for step in guide.trace] == [0]  # the last step is left alone


def test_a_step_follows_the_clipped_slope_and_none_where_there_is_none():
    from training.run import Descent, Team

    torch.manual_seed(0)
    matrix, row, unused = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((32, 24), (24,), (3,)))
    goal = torch.randn(32, 24)
    kept = unused.detach().clone()
    descent = Descent(
        [("body", matrix), ("bias", row), ("unused", unused)],
        lambda phase: {"total": ((matrix + row - goal).square().mean() + (phase or 0)) * 100},
        lr=0.05,
        team=Team(),
    )
    losses = [float(descent.step(1.0)["total"])]
    assert_close(descent.gradient.norm(), torch.tensor(1.0), atol=1e-3, rtol=0)
    losses += [float(descent.step(rate)["total"]) for rate in [1.0] * 200 + [0.0]]
    before = matrix.detach().clone()
    assert float(descent.step(0.0, 1)["total"]) == pytest.approx(losses[-1] + 100, rel=1e-5)
    assert losses[-1] < 0.2 * losses[0]
    assert_close(matrix.detach(), before)
    assert_close(unused.detach(), kept * (1 - 0.05 * 0.01) ** 201)  # but for the decay


def test_a_reel_is_cut_at_one_place_and_renewed_from_its_oldest(studio):
    from training.reel import AT_ONCE, Reel

    reel = Reel(studio, AT_ONCE + 4, 2, 0.0, "0")
    first = reel.clips.clone()
    parts = reel.cut(3, 184)
    assert parts.shape == (3, 3, 2, 184, 184)
    whole = first.unfold(-2, 184, 1).unfold(-2, 184, 1)  # every part of every clip
    found = [(whole[:, 0, 0] == ((p[0, 0] + 1) * 127.5).round().byte()).flatten(-2).all(-1).nonzero() for p in parts]
    places = [{tuple(at.tolist()[1:]) for at in f} for f in found]
    assert set.intersection(*places)
    for _ in range(4):
        reel.renew(AT_ONCE / 4)
    changed = (reel.clips != first).flatten(1).any(1)
    assert changed.sum() >= AT_ONCE - 1
    assert not changed.all()
