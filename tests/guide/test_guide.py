"""The guide: its knobs, its trace and its independence of the batch."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.trace import Step
from shelllcc.guidance.measures import balance
from shelllcc.guidance.measures.balance import BalanceConfig

BUSY = dict(radius=3.4, calm=3.8, toward=1.0, coarse=1.0, tone=0.0, contrast=1.5, flat=1.0, by_sigma=False, first=False)


def config(**knobs):
    """A guide in which every knob has something to say."""
    return GuideConfig(**BUSY | knobs)


@pytest.mark.parametrize(
    "knobs",
    [
        {"strength": -0.1},
        {"strength": 11.0},
        {"strength": float("nan")},
        {"window": (0.5, 0.5)},
        {"window": (-0.1, 1.0)},
        {"radius": 0.0},
        {"radius": float("inf")},
        {"trust": -1.0},
        {"calm": -1.0},
        {"share": 0.0},
        {"share": 1.0},
        {"dose": 0.0},
        {"edge": -1e-3},
        {"contrast": float("nan")},
        {"colours": -1},
        {"colours": 2.5},
        {"fine": 0.0},
        {"fine": 1.1},
        {"least": 1.1},
        {"most": 0.9},
        {"most": float("inf")},
        {"gate": 0.0},
    ],
)
def test_knobs_are_checked(knobs):
    with pytest.raises(UsageError):
        GuideConfig(**knobs)


def test_guiding_brings_the_distance_nearer_to_the_target(bank, latents):
    for factor in (0.6, 1.5):  # too smooth, too harsh
        x0 = latents(30) * factor
        guide = ShellGuide(bank, config(radius=1.0, trust=10.0))
        before = bank.shell.residuals(x0)[1].median()
        after = bank.shell.residuals(x0 + guide.move(x0, 0.3, share=0.5))[1].median()
        target = guide.trace[0].target
        assert abs(after - target) < abs(before - target)


def test_radius_is_a_sharpness_knob(bank, latents):
    x0 = latents(31)
    moved = [x0 + ShellGuide(bank, config(radius=r)).move(x0, 0.3, share=0.3) for r in (0.8, 1.5, 3.0)]
    distances = [float(bank.shell.residuals(m)[1].median()) for m in moved]
    assert distances == sorted(distances)


def test_what_cfg_adds_calms_the_guide(bank, latents):
    x0 = latents(32)
    guides = [ShellGuide(bank, config()) for _ in range(3)]
    befores = (None, x0 / 1.05, x0 / 1.2)
    moved = [x0 + g.move(x0, 0.4, share=0.3, conditional=c) for g, c in zip(guides, befores, strict=True)]
    distances = [float(bank.shell.residuals(m)[1].median()) for m in moved]
    assert distances == sorted(distances, reverse=True)
    assert guides[0].trace[0].excess == [0.0]
    guides[2].move(x0, 0.3, share=0.3, conditional=x0)
    assert guides[2].trace[1].excess == guides[2].trace[0].excess  # read once, where the window opens


def test_brightness_and_colour_keep_their_place_and_lose_what_cfg_added(bank, latents):
    x0 = latents(36)
    colours = bank.shell.leading(bank.guided).colours(directions=3)

    def of_colours(move):
        return torch.einsum("cd,bdthw->bcthw", colours, move)

    move = ShellGuide(bank, config()).move(x0, 0.4, share=0.3)
    assert of_colours(move).abs().max() < 1e-5 < move.abs().max()
    guide = ShellGuide(bank, config(trust=10.0))
    move = guide.move(x0, 0.4, share=0.3, conditional=x0 / 1.1)
    kept = math.exp(-guide.config.contrast * guide.trace[0].excess[0])
    assert kept < 0.95
    assert_close(of_colours(move), 0.3 * (kept - 1) * of_colours(x0 - x0.mean((2, 3, 4), keepdim=True)))


def test_the_gain_is_what_the_guide_made_of_the_details_size(bank, latents):
    x0 = latents(37)
    guides = [ShellGuide(bank, config(radius=r, trust=10.0)) for r in (0.3, 8.0)]
    for guide in guides:
        guide.begin([0.5, 0.4, 0.1, 0.0])
        for index, sigma in enumerate((0.5, 0.4)):
            guide.move(x0, sigma, share=guide.step_at(index)[1], index=index)
    less, more = ([step.gain[0] for step in guide.trace] for guide in guides)
    assert less[1] < less[0] < 0 < more[0] < more[1]
    colours = guides[1].bank.shell.leading(bank.guided).colours(directions=3)
    clip = x0 - x0.mean((2, 3, 4), keepdim=True)
    detail = clip - torch.einsum("cd,bdthw->bcthw", colours, clip)
    fresh = ShellGuide(bank, config(radius=8.0, trust=10.0))
    fresh.begin([0.5, 0.4, 0.1, 0.0])
    moved = detail + fresh.move(x0, 0.5, share=fresh.step_at(0)[1])  # without cfg, moves are of detail alone
    assert more[0] == pytest.approx(0.2 * math.log(moved.norm() / detail.norm()), rel=1e-3)


def test_alarms_tell_too_much_detail_and_too_little():
    def step(gain, excess=0.0, distance=1.0):
        return Step(0, 0.3, [distance], 1.0, [excess], [1.0], [0.1], [gain])

    alarm = partial(balance.alarm, expected=0.264)

    assert alarm(step(0.15)) is None
    assert alarm(step(0.15), config=BalanceConfig(noise=-0.154)) == "noise"
    assert alarm(step(0.15), config=BalanceConfig(regression=0.2)) == "mean regression"
    assert alarm(step(0.2, distance=3.0), config=BalanceConfig(outward=0.1)) is None
    assert alarm(step(0.15), expected=-0.3) == "noise"
    assert alarm(step(0.7)) == "noise"
    assert alarm(step(0.7, distance=0.5)) is None  # a smooth clip may be given more
    assert alarm(step(0.2, distance=3.0)) == "noise"
    assert alarm(step(-0.2)) == "mean regression"
    assert alarm(step(-0.2, excess=0.3)) is None  # cfg had added more
    assert alarm(Step(0, 0.3, [1.0] * 2, 1.0, [0.0] * 2, [1.0] * 2, [0.1] * 2, [0.0, 0.7]), clip=1) == "noise"


def test_a_clip_is_guided_alike_alone_and_in_a_batch(bank, latents):
    x0 = torch.cat([latents(33), 1.3 * latents(34)])
    together, alone = ShellGuide(bank, config()), [ShellGuide(bank, config()), ShellGuide(bank, config())]
    for sigma in (0.45, 0.3):
        move = together.move(x0, sigma, share=0.3)
        for i, guide in enumerate(alone):
            assert_close(guide.move(x0[i : i + 1], sigma, share=0.3)[0], move[i], atol=1e-6, rtol=1e-5)


def test_trust_bounds_the_move(bank, latents):
    x0 = 3 * latents(35)
    guide = ShellGuide(bank, config(trust=0.01))
    move = guide.move(x0, 0.5, share=1.0)
    assert move.square().mean().sqrt() <= 0.0101 * x0.square().mean().sqrt()


@pytest.mark.parametrize(
    "knobs",
    [
        {"calm": 1.0},
        {"contrast": 0.0},
        {"colours": 1},
        {"colours": 0},
        {"fine": 1.0},
        {"least": 0.95},
        {"most": 1.5},
        {"gate": 1.0},
        {"share": 0.5},
        {"dose": 0.5},
        {"trust": 0.001},
    ],
)
def test_every_number_that_decides_on_a_clip_is_a_knob(bank, latents, knobs):
    x0 = torch.cat([1.6 * latents(38), latents(39)])

    def moved(**knobs):
        guide = ShellGuide(bank, config(**knobs))
        guide.begin([0.5, 0.3, 0.1, 0.0])
        return guide.move(x0, 0.5, share=guide.step_at(0)[1], conditional=0.9 * x0)

    assert_close(moved(), moved(share=0.34, dose=1.24, contrast=1.5, colours=3, fine=5 / 12, least=0.5, most=6, gate=3))
    assert (moved(**knobs) - moved()).abs().max() > 1e-4


def test_without_channels_of_colour_all_channels_are_detail(bank, latents):
    shell = bank.shell
    assert shell.colours(directions=0).abs().max() == 0
    assert_close(shell.colours(directions=shell.channels), torch.eye(shell.channels), atol=1e-5, rtol=0)
    assert ShellGuide(bank, config(colours=99)).move(latents(40), 0.4, share=0.3).abs().max() < 1e-5


def test_latents_of_another_vae_are_refused(bank):
    with pytest.raises(BankError, match="16-channel latents, this model makes 48"):
        ShellGuide(bank, config()).move(torch.randn(1, 48, 2, 8, 8), 0.5, share=0.3)
    with pytest.raises(UsageError):
        ShellGuide(bank, config(), strength=0.1)


STILL = config(toward=0.0, radius=1.0, calm=0.0, contrast=0.0, window=(0.0, 1.0))


def test_a_guide_that_multiplies_by_one_moves_nothing_whatever_it_sees(bank, latents):
    guide = ShellGuide(bank, STILL)
    guide.begin([1.0, 0.5, 0.0])
    assert guide.step_at(0)[1] == guide.step_at(1)[1] == 0
    assert not STILL.acts
    for seed in (3, 4):
        assert not guide.move(3 * latents(seed), 0.4, share=0.3).any()


def test_toward_says_how_much_the_calibrated_radius_counts(bank, latents):
    x0, plain = latents(5), {"radius": 1.0, "calm": 0.0, "contrast": 0.0}
    toward = [ShellGuide(bank, config(toward=t, **plain)).move(2 * x0, 0.3, share=0.3) for t in (0.0, 0.5, 1.0)]
    sizes = [float(move.norm()) for move in toward]
    assert sizes[0] == 0 < sizes[1] < sizes[2]


def test_a_fits_gains_push_as_they_say_and_hold_at_the_usual_excess(bank, latents):
    x0, free = latents(6), {"toward": 0.0, "calm": 2.0, "contrast": 1.0, "trust": 10.0}
    usual = x0 * 0.9
    outward = ShellGuide(bank, config(coarse=1.2, radius=1.5, **free))
    moved = x0 + outward.move(x0, 0.3, share=0.3)
    assert bank.shell.residuals(moved)[1].median() > bank.shell.residuals(x0)[1].median()
    guide = ShellGuide(bank, config(radius=1.0, **free))
    guide.move(x0, 0.3, share=0.3, conditional=usual)
    excess = guide.trace[0].excess[0]
    held = ShellGuide(bank, config(radius=1.0, usual=excess, **free))
    assert excess > 0.02
    assert held.move(x0, 0.3, share=0.3, conditional=usual).norm() < 1e-3 * x0.norm()


def test_tone_takes_contrast_back_from_every_clip(bank, latents):
    guide, x0 = ShellGuide(bank, config(toward=0.0, radius=1.0, calm=0.0, contrast=0.0, tone=-0.3)), latents(7)
    after = x0 + guide.move(x0, 0.3, share=0.5)
    spread = [guide._of_colours(x - x.mean((2, 3, 4), keepdim=True)).norm() for x in (x0, after)]
    assert spread[1] / spread[0] == pytest.approx(1 - 0.5 * (1 - math.exp(-0.3)), rel=1e-3)


def test_the_first_latent_frame_has_a_radius_of_its_own(bank, latents):
    x0 = latents(34)
    usual = bank.curve.radius
    moves, before = [], []
    for row in (usual[0], 0.5 * usual[0]):
        curve = dataclasses.replace(bank.clean, radius=torch.stack([row, usual[1]]))
        own = dataclasses.replace(bank, clean=curve)
        moves.append(ShellGuide(own, config(radius=2.0, trust=10.0, first=True)).move(x0, 0.3, share=0.3))
        before.append(ShellGuide(own, config(radius=2.0, trust=10.0)).move(x0, 0.3, share=0.3))
    assert_close(moves[0][:, :, 1:], moves[1][:, :, 1:])
    assert_close(before[0], before[1])
    first = [move[:, :, 0].square().mean() for move in moves]
    assert first[1] > 1.05 * first[0]  # what is texture in it is nearer to the skeleton: less of it is taken for flat
