"""The guide: its knobs, its trace and its independence of the batch."""

import pytest
import torch
from torch.testing import assert_close

from shelllcc.guidance.config import GuideConfig
from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.guide import ShellGuide


@pytest.mark.parametrize(
    "knobs",
    [
        {"strength": -0.1},
        {"strength": 1.5},
        {"strength": float("nan")},
        {"window": (0.5, 0.5)},
        {"window": (-0.1, 1.0)},
        {"radius": 0.0},
        {"radius": float("inf")},
        {"trust": -1.0},
        {"feedback": 2.0},
        {"last": -0.5},
    ],
)
def test_knobs_are_checked(knobs):
    with pytest.raises(UsageError):
        GuideConfig(**knobs)


def test_guiding_brings_the_distance_nearer_to_the_target(bank, latents):
    for factor in (0.6, 1.5):  # too smooth, too harsh
        x0 = latents(30) * factor
        guide = ShellGuide(bank, GuideConfig(strength=0.5, radius=1.0, feedback=0.0, trust=10.0))
        before = bank.shell.residuals(x0)[1].median()
        after = bank.shell.residuals(x0 + guide.move(x0, 0.3))[1].median()
        target = guide.trace[0].target
        assert abs(after - target) < abs(before - target)


def test_radius_is_a_sharpness_knob(bank, latents):
    x0 = latents(31)
    moved = [x0 + ShellGuide(bank, GuideConfig(radius=r, feedback=0.0)).move(x0, 0.3) for r in (0.8, 1.0, 1.2)]
    distances = [float(bank.shell.residuals(m)[1].median()) for m in moved]
    assert distances == sorted(distances)


def test_feedback_leans_on_a_sample_that_stays_off_the_curve(bank, latents):
    x0 = latents(32) * 0.7
    guide = ShellGuide(bank, GuideConfig(feedback=0.5))
    for index in range(4):
        guide.move(x0, 0.5, index=index)
    aimed = [step.aimed[0] for step in guide.trace]
    assert aimed == sorted(aimed)
    assert aimed[-1] > aimed[0]


def test_a_clip_is_guided_alike_alone_and_in_a_batch(bank, latents):
    x0 = torch.cat([latents(33), 1.3 * latents(34)])
    together, alone = ShellGuide(bank), [ShellGuide(bank), ShellGuide(bank)]
    for sigma in (0.45, 0.3):
        move = together.move(x0, sigma)
        for i, guide in enumerate(alone):
            assert_close(guide.move(x0[i : i + 1], sigma)[0], move[i], atol=1e-6, rtol=1e-5)


def test_trust_bounds_the_move(bank, latents):
    x0 = 3 * latents(35)
    guide = ShellGuide(bank, GuideConfig(strength=1.0, trust=0.01))
    move = guide.move(x0, 0.5)
    assert move.square().mean().sqrt() <= 0.0101 * x0.square().mean().sqrt()


def test_the_guide_acts_in_its_window_alone(bank):
    guide = ShellGuide(bank, GuideConfig(strength=0.4, window=(0.2, 0.8), last=0.5))
    assert [guide.strength_at(s) for s in (0.0, 0.1, 0.2, 0.5, 0.8, 0.9)] == [0, 0, 0.4, 0.4, 0.4, 0]
    assert guide.strength_at(0.3, last=True) == 0.2
    assert ShellGuide(bank, strength=0.0).strength_at(0.4) == 0


def test_latents_of_another_vae_are_refused(bank):
    with pytest.raises(BankError, match="16-channel latents, this model makes 48"):
        ShellGuide(bank).move(torch.randn(1, 48, 2, 8, 8), 0.5)
    with pytest.raises(UsageError):
        ShellGuide(bank, GuideConfig(), strength=0.1)
