"""The guide: its knobs, its trace and its independence of the batch."""

import math

import pytest
import torch
from torch.testing import assert_close

from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import CONTRAST, DOSE, SHARE, ShellGuide
from shelllcc.guidance.guide.trace import Step
from shelllcc.guidance.measures.balance import alarm


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
    ],
)
def test_knobs_are_checked(knobs):
    with pytest.raises(UsageError):
        GuideConfig(**knobs)


def test_guiding_brings_the_distance_nearer_to_the_target(bank, latents):
    for factor in (0.6, 1.5):  # too smooth, too harsh
        x0 = latents(30) * factor
        guide = ShellGuide(bank, GuideConfig(radius=1.0, trust=10.0))
        before = bank.shell.residuals(x0)[1].median()
        after = bank.shell.residuals(x0 + guide.move(x0, 0.3, share=0.5))[1].median()
        target = guide.trace[0].target
        assert abs(after - target) < abs(before - target)


def test_radius_is_a_sharpness_knob(bank, latents):
    x0 = latents(31)
    moved = [x0 + ShellGuide(bank, GuideConfig(radius=r)).move(x0, 0.3, share=0.3) for r in (0.8, 1.5, 3.0)]
    distances = [float(bank.shell.residuals(m)[1].median()) for m in moved]
    assert distances == sorted(distances)


def test_what_cfg_adds_calms_the_guide(bank, latents):
    x0 = latents(32)
    guides = [ShellGuide(bank) for _ in range(3)]
    befores = (None, x0 / 1.05, x0 / 1.2)
    moved = [x0 + g.move(x0, 0.4, share=0.3, conditional=c) for g, c in zip(guides, befores, strict=True)]
    distances = [float(bank.shell.residuals(m)[1].median()) for m in moved]
    assert distances == sorted(distances, reverse=True)
    assert guides[0].trace[0].excess == [0.0]
    guides[2].move(x0, 0.3, share=0.3, conditional=x0)
    assert guides[2].trace[1].excess == guides[2].trace[0].excess  # read once, where the window opens


def test_brightness_and_colour_keep_their_place_and_lose_what_cfg_added(bank, latents):
    x0 = latents(36)
    colours = bank.shell.leading(bank.guided).colours()

    def of_colours(move):
        return torch.einsum("cd,bdthw->bcthw", colours, move)

    move = ShellGuide(bank).move(x0, 0.4, share=0.3)
    assert of_colours(move).abs().max() < 1e-5 < move.abs().max()
    guide = ShellGuide(bank, GuideConfig(trust=10.0))
    move = guide.move(x0, 0.4, share=0.3, conditional=x0 / 1.1)
    kept = math.exp(-CONTRAST * guide.trace[0].excess[0])
    assert kept < 0.95
    assert_close(of_colours(move), 0.3 * (kept - 1) * of_colours(x0 - x0.mean((2, 3, 4), keepdim=True)))


def test_the_gain_is_what_the_guide_made_of_the_details_size(bank, latents):
    x0 = latents(37)
    guides = [ShellGuide(bank, GuideConfig(radius=r, trust=10.0)) for r in (0.3, 8.0)]
    for guide in guides:
        guide.begin([0.5, 0.4, 0.1, 0.0])
        for index, sigma in enumerate((0.5, 0.4)):
            guide.move(x0, sigma, share=guide.step_at(index)[1], index=index)
    less, more = ([step.gain[0] for step in guide.trace] for guide in guides)
    assert less[1] < less[0] < 0 < more[0] < more[1]
    colours = guides[1].bank.shell.leading(bank.guided).colours()
    clip = x0 - x0.mean((2, 3, 4), keepdim=True)
    detail = clip - torch.einsum("cd,bdthw->bcthw", colours, clip)
    fresh = ShellGuide(bank, GuideConfig(radius=8.0, trust=10.0))
    fresh.begin([0.5, 0.4, 0.1, 0.0])
    moved = detail + fresh.move(x0, 0.5, share=fresh.step_at(0)[1])  # without cfg, moves are of detail alone
    assert more[0] == pytest.approx(0.2 * math.log(moved.norm() / detail.norm()), rel=1e-3)


def test_alarms_tell_too_much_detail_and_too_little():
    def step(gain, excess=0.0, distance=1.0):
        return Step(0, 0.3, [distance], 1.0, [excess], [1.0], [0.1], [gain])

    assert alarm(step(0.15)) is None
    assert alarm(step(0.45)) == "noise"
    assert alarm(step(0.45, distance=0.6)) is None  # a smooth clip may be given more
    assert alarm(step(0.2, distance=2.0)) == "noise"
    assert alarm(step(-0.2)) == "mean regression"
    assert alarm(step(-0.2, excess=0.3)) is None  # cfg had added more
    assert alarm(Step(0, 0.3, [1.0] * 2, 1.0, [0.0] * 2, [1.0] * 2, [0.1] * 2, [0.0, 0.45]), clip=1) == "noise"


def test_a_clip_is_guided_alike_alone_and_in_a_batch(bank, latents):
    x0 = torch.cat([latents(33), 1.3 * latents(34)])
    together, alone = ShellGuide(bank), [ShellGuide(bank), ShellGuide(bank)]
    for sigma in (0.45, 0.3):
        move = together.move(x0, sigma, share=0.3)
        for i, guide in enumerate(alone):
            assert_close(guide.move(x0[i : i + 1], sigma, share=0.3)[0], move[i], atol=1e-6, rtol=1e-5)


def test_trust_bounds_the_move(bank, latents):
    x0 = 3 * latents(35)
    guide = ShellGuide(bank, GuideConfig(trust=0.01))
    move = guide.move(x0, 0.5, share=1.0)
    assert move.square().mean().sqrt() <= 0.0101 * x0.square().mean().sqrt()


def test_the_guide_acts_in_its_window_alone_and_leaves_the_last_step(bank):
    guide = ShellGuide(bank, GuideConfig(window=(0.2, 0.8)))
    shares = guide.shares([1.0, 0.9, 0.8, 0.5, 0.2, 0.1, 0.0])
    assert [share > 0 for share in shares] == [False, False, True, True, True, False]
    assert guide.shares([0.7, 0.0]) == [0.0]
    assert guide.shares([0.801, 0.4, 0.0])[0] > 0  # a scheduler that starts a little off
    assert set(ShellGuide(bank, strength=0.0).shares([0.5, 0.4, 0.0])) == {0.0}


def test_few_steps_and_many_get_the_same_dose(bank):
    def sigmas(steps, shift=3.0):
        u = [1 - i / steps for i in range(steps + 1)]
        return [shift * v / (1 + (shift - 1) * v) for v in u]

    def left(steps, strength=1.0):
        """What the dose leaves of the way: each step's share enters the sample by 1 - next / sigma."""
        noise = sigmas(steps)
        shares = ShellGuide(bank, strength=strength).shares(noise)
        return sum(share * (1 - after / s) for share, s, after in zip(shares, noise[:-1], noise[1:], strict=True))

    assert left(25) == pytest.approx(SHARE * DOSE, rel=0.05)
    for steps in (10, 50, 100):
        assert left(steps) == pytest.approx(left(25), rel=0.3)
    grown = [left(25, strength) for strength in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert grown == sorted(set(grown))
    assert max(ShellGuide(bank, strength=10.0).shares(sigmas(10))) <= 1


def test_latents_of_another_vae_are_refused(bank):
    with pytest.raises(BankError, match="16-channel latents, this model makes 48"):
        ShellGuide(bank).move(torch.randn(1, 48, 2, 8, 8), 0.5, share=0.3)
    with pytest.raises(UsageError):
        ShellGuide(bank, GuideConfig(), strength=0.1)
