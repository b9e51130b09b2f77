"""The dose: how far each step goes, from its noise levels alone."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from shelllcc.guidance.guide import dose
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide

GUIDED = GuideConfig()


def flow(steps, shift=3.0):
    u = [1 - i / steps for i in range(steps + 1)]
    return [shift * v / (1 + (shift - 1) * v) for v in u]


def test_it_loads_no_torch():
    code = "import sys, shelllcc.guidance.guide.dose; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("config", [GUIDED, GuideConfig(strength=0.0), GuideConfig(strength=3.0, window=(0.1, 0.9))])
@pytest.mark.parametrize("steps", [1, 4, 25])
def test_shares_are_the_guides_own(bank, steps, config):
    guide, sigmas = ShellGuide(bank, config), flow(steps)
    guide.begin(sigmas)
    steps_of_guide = [guide.step_at(index) for index in range(steps)]
    assert steps_of_guide == list(zip(sigmas[:-1], dose.shares(sigmas, config), strict=True))
    acts = [index for index, (_, share) in enumerate(steps_of_guide) if share > 0]
    assert dose.first_move(sigmas, config) == (acts[0] if acts else steps)


def test_the_guide_acts_in_its_window_alone_and_leaves_the_last_step():
    config = GuideConfig(window=(0.2, 0.8))
    sigmas = [1.0, 0.9, 0.8, 0.5, 0.2, 0.1, 0.0]
    assert [share > 0 for share in dose.shares(sigmas, config)] == [False, False, True, True, True, False]
    assert dose.first_move(sigmas, config) == 2
    assert dose.shares([0.7, 0.0], config) == [0.0]
    assert dose.first_move([0.7, 0.0], config) == 1
    assert set(dose.shares([0.5, 0.4, 0.0], GuideConfig(strength=0.0))) == {0.0}


def test_a_scheduler_that_starts_a_little_off_is_inside_as_far_as_the_edge():
    levels, config = [0.804, 0.4, 0.0], GuideConfig(window=(0.2, 0.8))
    assert dose.shares(levels, config)[0] > 0
    assert dose.shares(levels, GuideConfig(window=(0.2, 0.8), edge=1e-3)) == [0.0, 0.0]


def test_few_steps_and_many_get_the_same_dose():
    def left(steps, strength=1.0):
        """What the dose leaves of the way: each step's share enters the sample by 1 - next / sigma."""
        sigmas = flow(steps)
        shares = dose.shares(sigmas, GuideConfig(strength=strength, by_sigma=False))
        return sum(share * weight for share, weight in zip(shares, dose.weights(sigmas), strict=True))

    assert left(25) == pytest.approx(GUIDED.share * GUIDED.dose, rel=0.05)
    for steps in (10, 50, 100):
        assert left(steps) == pytest.approx(left(25), rel=0.3)
    grown = [left(25, strength) for strength in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert grown == sorted(set(grown))
    assert max(dose.shares(flow(10), GuideConfig(strength=10.0, by_sigma=False))) <= 1


@pytest.mark.parametrize(("steps", "shift"), [(25, 3.0), (8, 5.0), (6, 5.0), (4, 5.0), (50, 8.0), (12, 5.0)])
def test_an_interval_holds_enough_steps_whatever_the_schedule(steps, shift):
    sigmas = flow(steps, shift)
    window, last = dose.interval(sigmas)
    config = GuideConfig(window=window, last=last)
    entering = [w for w, s in zip(dose.weights(sigmas), dose.shares(sigmas, config), strict=True) if s > 0]
    assert sum(entering) >= dose.ENOUGH
    assert last == (sigmas[-2] >= dose.LARGE)
    assert (window, last) == ((0.0, 0.5), False) or steps < 25


FOUR = [1.0, 0.9375, 0.8333, 0.625, 0.0]
BY_SIGMA = GuideConfig(by_sigma=True, last=True, window=(0.0, 0.95))


def spent(sigmas, config, *, renoised=False):
    """The part of the dose that a sampling got: the logarithm of what each step leaves, as it enters the sample."""
    entering = dose.weights(sigmas, renoised=renoised)
    shares = dose.shares(sigmas, config, renoised=renoised)
    return sum(w * math.log(1 - share) for w, share in zip(entering, shares, strict=True)) / math.log(1 - config.share)


@pytest.mark.parametrize("renoised", [False, True])
def test_by_sigma_every_number_of_steps_gets_the_dose(renoised):
    config = replace(BY_SIGMA, window=(0.0, 1.0))
    for sigmas in (FOUR, flow(25), flow(8, 5.0), flow(100), flow(20, 8.0)):
        assert spent(sigmas, config, renoised=renoised) == pytest.approx(config.dose, rel=1e-3)


@pytest.mark.parametrize("renoised", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_by_sigma_two_parts_of_a_sampling_go_as_far_as_the_whole(renoised, cut):
    """As two experts in ComfyUI, each of which sees its own noise levels alone."""
    whole = dose.shares(FOUR, BY_SIGMA, renoised=renoised)
    parts = [FOUR[: cut + 1], FOUR[cut:]]
    assert [share for part in parts for share in dose.shares(part, BY_SIGMA, renoised=renoised)] == whole
    if cut == 2:  # which an even share cannot do
        even = replace(BY_SIGMA, by_sigma=False)
        assert [share for part in parts for share in dose.shares(part, even)] != dose.shares(FOUR, even)


def test_by_sigma_the_last_step_goes_far_where_it_is_all_there_is_and_hardly_where_it_is_small():
    window, last = dose.interval(FOUR)
    four = dose.shares(FOUR, replace(BY_SIGMA, window=window, last=last))
    assert four[:3] == [0.0, 0.0, 0.0]
    assert four[3] == pytest.approx(1 - (1 - BY_SIGMA.share) ** BY_SIGMA.dose)
    many = dose.shares(flow(50), replace(BY_SIGMA, window=(0.0, 0.5)))
    assert 0 < many[-1] < 0.1
    assert many[-1] < 0.25 * max(many)
    strong = replace(BY_SIGMA, window=window, strength=10.0)
    assert max(dose.shares(FOUR, strong)) == dose.MOST  # nothing mends what the last step overdoes
    assert dose.shares([0.5, 0.5, 0.0], replace(BY_SIGMA, strength=0.0)) == [0.0, 0.0]


def test_a_move_enters_by_what_is_left_of_x0():
    assert dose.weights(FOUR) == pytest.approx([1 - 0.9375, 1 - 0.8333 / 0.9375, 1 - 0.625 / 0.8333, 1.0])
    assert dose.weights(FOUR, renoised=True) == pytest.approx([0.0625, 0.1667, 0.375, 1.0])
