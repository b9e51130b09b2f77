"""Rivals that change a step, each against its published formula in the words of its own source: x0, sigma, snr."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from benchmarks.stepping import STEPPINGS, DetailDaemon, Moment, SelfRefining

SIGMA = 0.6


@pytest.fixture
def latents():
    return torch.randn(2, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def velocity(latents, times):
    """A model whose answer depends on the latents, and on the noise level that it is told."""
    return (3 * latents).sin() * (1 + times)


def noises(latents):
    dice = torch.Generator().manual_seed(1)
    return lambda: torch.randn(latents.shape, generator=dice)


def x0_of(name, latents, *, index=12, steps=25, sigma=SIGMA, shift=5.0, cfg=2.0, **knobs):
    """The x0 that a sampler sees, after a step of these knobs."""
    at = Moment(index, steps, sigma, shift, cfg)
    given, predicted = STEPPINGS[name](**knobs)(latents, at, velocity, noises(latents))
    return given - sigma * predicted


def test_detail_daemon_tells_the_model_a_lower_sigma_and_the_sampler_the_true_one(latents):
    times = 1 - 0.1 * 0.5 * 2.0  # amount .5 at the middle step, cfg 2
    expected = latents - SIGMA * times * velocity(latents, times)
    assert_close(x0_of("detail-daemon", latents, amount=0.5), expected)
    least = x0_of("detail-daemon", latents, amount=50.0)
    assert_close(least, latents - SIGMA * 1e-6 * velocity(latents, 1e-6))


def test_detail_daemon_rises_and_falls_by_half_cosines():
    daemon = DetailDaemon(amount=0.4)
    doses = [daemon.dose(index, 11) for index in range(11)]
    quarter = [(1 - torch.tensor(torch.pi * way).cos().item()) / 2 * 0.4 for way in (0, 1 / 3, 2 / 3, 1)]
    assert doses == pytest.approx([0, 0, *quarter, *quarter[-2::-1], 0, 0], abs=1e-6)
    early = [DetailDaemon(amount=0.4, bias=0.0).dose(index, 11) for index in range(11)]
    assert early.index(max(early)) == 2
    assert max(early) == 0.4


def test_a_lie_about_sigma_is_told_between_two_percents_of_the_shifted_way(latents):
    times = 0.95
    lied, true = (latents - SIGMA * t * velocity(latents, t) for t in (times, 1.0))
    assert_close(x0_of("lying-sigma", latents), lied)
    assert_close(x0_of("lying-sigma", latents, start=0.8), true)
    for sigma, lies in ((0.98, False), (0.977, True), (0.358, True), (0.356, False)):
        told = []
        at = Moment(0, 25, sigma, 5.0, 1.0)
        STEPPINGS["lying-sigma"]()(latents, at, lambda some, t, told=told: told.append(t) or some, noises(latents))
        assert (told == [times]) == lies, sigma


def test_epsilon_scaling_divides_the_predicted_noise(latents):
    x0 = latents - SIGMA * velocity(latents, 1.0)
    assert_close(x0_of("epsilon-scaling", latents), latents - (latents - x0) / 1.005)


def test_temporal_rescaling_is_a_lerp_from_the_scaled_latents_to_x0(latents):
    for sigma in (0.999, SIGMA, 0.01):
        x0 = latents - sigma * velocity(latents, 1.0)
        snr = ((1 - sigma) / sigma) ** 2
        for k, spread in ((0.8, 1.0), (1.3, 0.5)):
            r = (snr * spread**2 + 1) / (snr * spread**2 / k + 1)
            expected = torch.lerp(latents / (1 - sigma), x0, r)
            found = x0_of("tsr", latents, sigma=sigma, k=k, spread=spread)
            assert_close(found, expected, atol=1e-3 if sigma > 0.99 else 1e-5, rtol=1e-4)
    assert x0_of("tsr", latents, sigma=1.0).isfinite().all()


def test_refining_predicts_perturbs_and_keeps_what_is_certain(latents):
    """By hand, as the authors' loop has it: a buffer of the mask, x0 and Euler's next latents."""
    following, threshold, draw = 0.5, 0.7, noises(latents)
    predicted = velocity(latents, 1.0)
    x0, after, certain = latents - SIGMA * predicted, latents + (following - SIGMA) * predicted, None
    for _ in range(3):
        again = (1 - SIGMA) * x0 + SIGMA * draw()
        predicted = velocity(again, 1.0)
        newer, stepped = again - SIGMA * predicted, again + (following - SIGMA) * predicted
        calm = torch.norm(newer - x0, p=1, dim=1) / 4 < threshold
        certain = calm if certain is None else certain | calm
        keep = certain[:, None].float()
        x0, after = keep * x0 + (1 - keep) * newer, keep * after + (1 - keep) * stepped
    assert 0.1 < keep.mean() < 0.9
    refining = SelfRefining(times=(3,), until=(1.0,), threshold=threshold)
    given, asked = refining(latents, Moment(12, 25, SIGMA, 5.0, 1.0), velocity, noises(latents))
    assert_close(given - SIGMA * asked, x0)
    assert_close(given + (following - SIGMA) * asked, after)


def test_a_settled_clip_is_left_and_the_others_go_on(latents):
    def refined(rounds, settled):
        refining = SelfRefining(times=(rounds,), until=(1.0,), threshold=0.7, settled=settled)
        return torch.stack(refining(latents, Moment(12, 25, SIGMA, 5.0, 1.0), velocity, noises(latents)))

    once, twice = refined(1, 1.0), refined(2, 1.0)  # the first round leaves 20% of the first clip, 35% of the second
    found = refined(2, 0.25)
    assert_close(found[:, 0], twice[:, 0])
    assert_close(found[:, 1], once[:, 1])
    assert (twice - once).abs().amax((0, 2, 3, 4, 5)).min() > 0.1


def test_refining_falls_on_the_steps_of_the_authors_plan():
    extra = [SelfRefining().passes(index, 40) - 1 for index in range(40)]
    assert extra == [0] * 2 + [3] * 4 + [1] * 8 + [0] * 26
