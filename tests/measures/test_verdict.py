"""Figures and verdicts: what is the same, what is noise, what is blur; and the search that steers by them."""

import math

import numpy as np
import pytest
import torch

from shelllcc.guidance.measures.balance import balance
from shelllcc.guidance.measures.figures import beside, change, figures
from shelllcc.guidance.measures.verdict import Sampled, judge
from shelllcc.guidance.workbench.search import Probe, best, propose, retrace, search


def texture(seed=0, frames=6, side=96):
    """A still clip with edges, fine texture and a flat half."""
    dice = np.random.default_rng(seed)
    grain = np.kron(dice.random((side // 2, side)), np.ones((2, 1)))
    picture = np.where(np.arange(side)[None] < side // 2, 0.5, grain)
    picture[side // 4 : side // 2, 10:30] = 0.9
    clip = np.stack([picture] * frames)
    return np.repeat((255 * clip).round().astype(np.uint8)[..., None], 3, axis=3)


def noised(clip, deviation):
    noise = np.random.default_rng(1).standard_normal(clip.shape)
    return (clip + deviation * noise).round().clip(0, 255).astype(np.uint8)


def blurred(clip):
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(taps, taps).expand(3, 1, 5, 5)
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    soft = torch.nn.functional.conv2d(torch.nn.functional.pad(frames, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
    return soft.round().byte().permute(0, 2, 3, 1).numpy()


def verdict(clip, reference):
    return of_figures(figures(clip), figures(reference), change(clip, reference))


def of_figures(ours, theirs, moved):
    return judge(ours | beside(ours, theirs) | {"change": moved}, theirs)


def test_a_clip_beside_itself_has_ratios_of_one_and_no_change():
    clip = texture()
    ratios = beside(figures(clip), figures(clip))
    assert {value for name, value in ratios.items() if name.endswith("_ratio")} == {1.0}
    assert ratios["spectrum"] == ratios["fine"] == change(clip, clip) == 0
    assert verdict(clip, clip).word == "same"


@pytest.mark.parametrize("deviation", [2, 4, 10])
def test_noise_raises_the_noise_alarm(deviation):
    assert verdict(noised(texture(), deviation), texture()).word == "noise alarm"


def test_blur_raises_the_mean_regression_alarm_and_its_undoing_is_better():
    assert verdict(blurred(texture()), texture()).word == "mean-regression alarm"
    assert verdict(texture(), blurred(texture())).word == "better"


@pytest.mark.parametrize(
    ("name", "lap", "moved"), [("cat", 3.36, 0.095), pytest.param("horse", 2.60, 0.084, marks=pytest.mark.slow)]
)
def test_real_clips_have_the_papers_figures(shared, name, lap, moved):
    from shelllcc.guidance.media.footage import read_video

    base, tuned = (read_video(shared / f"data/wan13b_{name}_{kind}.mp4")[0] for kind in ("base", "tuned"))
    ours, theirs = figures(tuned), figures(base)
    assert beside(ours, theirs)["lap_ratio"] == pytest.approx(lap, rel=0.02)
    assert change(tuned, base) == pytest.approx(moved, rel=0.02)
    assert of_figures(ours, theirs, moved).word == "better"
    few, plain = base[:5], figures(base[:5])
    for clip, word in ((few, "same"), (noised(few, 4), "noise alarm"), (blurred(few), "mean-regression alarm")):
        assert of_figures(figures(clip), plain, change(clip, few)).word == word


PLAIN = dict.fromkeys(("lap_ratio", "hf_ratio", "kurtosis_ratio", "flat_ratio", "jitter_ratio", "contrast_ratio"), 1.0)
PLAIN |= {"noise": 0.0, "fine": 0.0, "change": 0.01}


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        *((0.05, -0.4, "better"), (-0.1, 0.3, "better"), (0.03, -0.16, "better")),
        *((0.14, 0.02, "worse"), (-0.41, -0.1, "worse"), (-0.41, -0.4, "same")),
        *((0.14, -0.1, "same"), (0.07, -0.01, "same"), (-0.1, 0.12, "same")),  # 0 itself is known to .2 alone
    ],
)
def test_the_balance_decides_where_it_is_known_and_tells(ours, theirs, word):
    assert judge(PLAIN | {"balance": ours}, {"balance": theirs}).word == word


def test_calming_a_harsh_clip_is_no_mean_regression():
    calmed = PLAIN | {"lap_ratio": 0.6, "fine": -0.2, "balance": 0.0}
    assert judge(calmed, {"balance": 0.4}).word == "better"
    assert judge(calmed | {"balance": -0.3}, {"balance": 0.1}).word == "mean-regression alarm"


def test_too_much_detail_is_the_noise_alarm_and_flicker_is_worse():
    assert judge(PLAIN | {"balance": 0.4}, {"balance": -0.4}, "noise").word == "noise alarm"
    assert judge(PLAIN | {"balance": 0.0, "jitter_ratio": 1.5}, {"balance": -0.4}).word == "worse"


def test_balance_adds_what_cfg_and_guide_made_and_how_far_out_the_clip_lies():
    plain = balance(gain=0, excess=0, distance=1)
    assert balance(gain=0.1, excess=0.2, distance=1) - plain == pytest.approx(0.3)
    assert balance(gain=0, excess=0, distance=math.e) - plain == pytest.approx(0.5)


def probes(curve, most=5, alarm=lambda strength: False):
    return list(search(lambda s: Probe(s, curve(s), alarm(s)), most=most))


CURVES = [
    (lambda s: 0.3 * math.log1p(s) - 0.2, lambda s: False, "right"),
    (lambda s: 0.1 * s - 0.25, lambda s: s > 2, ""),
    (lambda s: -0.2, lambda s: False, "strength changes nothing"),
    (lambda s: -0.1 * s - 0.2, lambda s: False, "leads away from 0"),
    (lambda s: 0.02 * s - 0.4, lambda s: False, "as far as is tried"),
]


@pytest.mark.parametrize(("curve", "alarm", "ended"), CURVES)
@pytest.mark.parametrize("most", [2, 3, 5, 8])
def test_a_search_is_retraced_from_its_probes_in_any_order(curve, alarm, ended, most):
    found = probes(curve, most, alarm)
    searched = retrace(found[::-1])
    assert list(searched.probes) == found
    assert len(searched.whys) == len(found)
    assert all(searched.whys)
    assert searched.ended
    if most == 8:
        assert ended in searched.ended
    for before in range(2, len(found)):
        assert propose(found[:before], high=3.0) == found[before].strength


def test_probes_of_other_rules_are_told_by_strength_and_without_reasons():
    searched = retrace([Probe(2.0, 0.1), Probe(0.0, -0.2), Probe(0.77, 0.02)])
    assert [probe.strength for probe in searched.probes] == [0.0, 0.77, 2.0]
    assert (searched.whys, searched.ended) == ((), "")


@pytest.mark.parametrize(
    ("curve", "right"),
    [
        (lambda s: 0.3 * math.log1p(s) - 0.2, math.expm1(0.2 / 0.3)),  # a smooth base, sharpened
        (lambda s: 0.4 * math.exp(-s) - 0.15, -math.log(0.15 / 0.4)),  # a harsh one, calmed
        (lambda s: 0.1 * s - 0.25, 2.5),  # beyond strength 1
    ],
)
def test_the_search_finds_where_the_balance_is_right(curve, right):
    found = probes(curve)
    assert len(found) <= 5
    assert best(found).strength == pytest.approx(right, abs=0.15)
    assert best(found).cost < 0.02


@pytest.mark.parametrize("curve", [lambda s: 0.2 + 0.1 * s, lambda s: -0.2 - 0.1 * s, lambda s: 0.3 + 0.001 * s])
def test_the_search_stops_early_where_guidance_does_not_help(curve):
    found = probes(curve)
    assert len(found) == 2
    assert best(found).strength == 0


def test_the_search_stays_below_the_first_alarm():
    found = probes(lambda s: 0.2 * s - 0.5, alarm=lambda s: s > 1.4)
    assert 1 <= best(found).strength <= 1.4
    assert not best(found).alarm


def test_the_search_keeps_its_budget_and_tries_nothing_twice():
    for most in (1, 2, 3, 9):
        found = probes(lambda s: math.tanh(3 * (s - 2.2)), most=most)
        assert len(found) <= most
        assert len({probe.strength for probe in found}) == len(found)


@pytest.mark.parametrize("own", [None, "noise", "mean regression"])
def test_the_alarm_of_a_clip_is_its_own_whatever_it_lies_beside(own):
    """Grass at strength 1 had too much detail beside its unguided clip, it was said, not alone; real grass has more."""
    step = {"excess": [0.0], "gain": [0.144], "alarm": own}
    clean = {name.removesuffix("_ratio"): 1.0 for name in PLAIN if name.endswith("_ratio")}
    clean |= {"busy": 1.0, "power": [0.0] * 47}
    clip, grass = (Sampled(clean | {"distance": d}, trace, 0.028) for d, trace in ((1.166, [step]), (0.958, [])))
    found = {clip.beside(beside, moved)[0].word for beside in (grass, clip) for moved in (0.0, 0.02)}
    told = {word for word in found if word.endswith("alarm")}
    assert told == ({own.replace(" ", "-") + (" alarm")} if own else set())
    assert len(found) == 1 or own is None
