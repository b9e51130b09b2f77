"""The judge of the quality bench on synthetic clips: what noise and blur do to each column, and what chance may."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from benchmarks import judge
from shelllcc.guidance.measures import metrics

COUNT = 18


def film(seed):
    """uint8 (5, 40, 40, 3): twenty boxes on grey, tinted by the seed, that drift over a faint texture."""
    dice = torch.Generator().manual_seed(seed)
    picture = torch.full((3, 48, 48), 90.0) + 3 * torch.randn(48, 48, generator=dice)
    for _ in range(20):
        y, x = torch.randint(0, 40, (2,), generator=dice).tolist()
        shade = 60 * torch.rand(1, generator=dice) - 30
        picture[:, y : y + 8, x : x + 8] += shade
    picture[seed % 3] += 30
    frames = [picture[:, t : t + 40, 2 * t : 2 * t + 40] for t in range(5)]
    return torch.stack(frames).permute(0, 2, 3, 1).round().clamp(0, 255).byte()


def noised(frames, sigma):
    noise = torch.randn(frames.shape[:-1], generator=torch.Generator().manual_seed(7))[..., None]
    return (frames + sigma * noise).round().clamp(0, 255).byte()


def blurred(frames):
    pictures = F.pad(frames.flatten(0, 1).permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(pictures, 3, stride=1).permute(0, 2, 3, 1).reshape(frames.shape).round().byte()


def some(measured, chosen):
    return judge.Measured(**{field.name: getattr(measured, field.name)[chosen] for field in fields(measured)})


@pytest.fixture(scope="module")
def real_frames():
    return torch.stack([film(seed) for seed in range(COUNT)])


@pytest.fixture(scope="module")
def look():
    """Measures clips with a classifier that names the strongest colour, which is the seed's."""
    linear = torch.nn.Linear(3, 16)
    linear.weight.data = torch.eye(16, 3)
    linear.bias.data = torch.full((16,), -9.0).index_fill(0, torch.arange(3), 0.0)
    classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear)

    def measure(frames, first=0, patches=64):
        measured = judge.measure(frames, torch.arange(first, first + len(frames)) % 3, classifier)
        return replace(measured, patches=measured.patches[:, :patches])  # fewer than 512 for speed

    return measure


@pytest.fixture(scope="module")
def real(real_frames, look):
    return look(real_frames)


@pytest.fixture(scope="module")
def soft(real_frames, look):
    return look(blurred(real_frames))


@pytest.fixture(scope="module")
def noisy(real_frames, look):
    return look(noised(real_frames, 8))


@pytest.fixture(scope="module")
def near(look):
    """Another draw of the same captions."""
    return look(torch.stack([film(COUNT + seed) for seed in range(COUNT)]))


def test_real_clips_against_themselves_have_ratios_one_and_distances_nought(real):
    itself = judge.compare(real, real)
    row, interval = itself.values, itself.intervals()
    assert tuple(row) == tuple(interval) == judge.COLUMNS
    wanted = dict.fromkeys(judge.COLUMNS, 1.0) | dict.fromkeys(("spec", "swd", "colour"), 0.0)
    assert row == pytest.approx(wanted)
    for column, value in wanted.items():
        assert interval[column] == pytest.approx((value, value)), column


def test_noise_roughens_and_lightens_the_tails_and_blur_smooths(real, noisy, soft):
    grain, blur = (judge.compare(arm, real).values for arm in (noisy, soft))
    assert min(grain[column] for column in ("lap", "hf", "flat", "jitter", "contrast")) > 1.02
    assert min(grain["lap"], grain["flat"]) > 2
    assert grain["kurt"] < 0.7
    assert max(blur[column] for column in ("lap", "hf", "flat", "contrast")) < 0.98
    assert blur["lap"] < 0.3
    assert min(row[column] for row in (grain, blur) for column in ("spec", "swd")) > 0.2


def test_the_columns_are_the_metrics_of_the_whole_set(real_frames, look):
    frames = real_frames[:8]
    noisy, real = look(noised(frames, 8), patches=512), look(frames, patches=512)
    video, reference = metrics.grey(noised(frames, 8)), metrics.grey(frames)
    row = judge.compare(noisy, real).values
    for column, measure in judge.RATIOS.items():
        assert row[column] == pytest.approx(float(measure(video).mean() / measure(reference).mean()), rel=1e-4)
    assert row["spec"] == pytest.approx(metrics.spectrum_distance(video, reference), rel=1e-4)
    exact = metrics.patch_distance(noisy.patches.flatten(0, 1), real.patches.flatten(0, 1))
    assert row["swd"] == pytest.approx(exact, rel=2e-3)
    assert row["swd"] == pytest.approx(metrics.sliced_wasserstein(video, reference, patches=8192), rel=0.03)
    assert metrics.sliced_wasserstein(reference, reference, patches=512) == 0


def test_a_resample_is_the_set_of_the_clips_it_chose(real, near):
    chosen = torch.tensor([3, 3, 3, 17, 9, 0, 9])
    columns = judge._columns(near, real, judge._weights(chosen[None], COUNT))
    row = {column: float(columns[column]) for column in judge.COLUMNS}
    wanted = judge.compare(some(near, chosen), some(real, chosen)).values
    exact = metrics.patch_distance(near.patches[chosen].flatten(0, 1), real.patches[chosen].flatten(0, 1))
    assert row.pop("swd") == pytest.approx(wanted.pop("swd"), rel=0.02) == pytest.approx(exact, rel=0.02)
    assert row == pytest.approx(wanted, rel=1e-4)
    whole = judge.compare(near, real).values
    assert all(abs(row[column] / whole[column] - 1) > 1e-3 for column in row if column != "acc")


def test_contrast_and_colour_are_known_where_the_clip_is(look):
    clip = torch.zeros(1, 3, 32, 32, 3, dtype=torch.uint8)
    clip[..., :16, :] = torch.tensor([153, 51, 102], dtype=torch.uint8)  # half a picture of grey 0.4
    assert_close(metrics.colour(clip), torch.tensor([[0.3, 0.1, 0.2]]))
    assert_close(metrics.contrast(metrics.grey(clip)), torch.tensor([0.2]), rtol=1e-3, atol=0)
    brighter = clip.clone()
    brighter[..., 0] += 6
    brighter[..., 2] -= brighter[..., 2].clamp_max(12)
    assert judge.compare(look(brighter), look(clip)).values["colour"] == pytest.approx((6 + 0 + 6) / 3, abs=1e-3)


def test_colour_is_paired_by_caption(real):
    turned = torch.arange(COUNT).roll(1)
    row = judge.compare(some(real, turned), real).values
    assert row["lap"] == pytest.approx(1)
    assert row["colour"] > 10  # the tints of neighbours differ by 30 in two of three channels


def test_the_power_of_each_clip_lies_in_the_rings_of_its_waves():
    x = torch.arange(64.0)
    waves = torch.stack([(2 * torch.pi * cycles * x / 64).sin() for cycles in (8, 20)])
    video = waves[:, None, None].expand(2, 3, 64, 64)
    power = metrics.radial_power(video, bins=32)  # one cycle a frame for each ring, the innermost left out
    assert power.argmax(1).tolist() == [7, 19]
    assert_close(power.mean(0).add(1e-12).log10(), metrics.radial_spectrum(video, bins=32))


def test_patches_lie_at_the_same_places_in_every_arm_and_whatever_else_is_measured(real_frames, real, look):
    half = look(real_frames[:6] // 2)
    assert_close(look(real_frames[:6] // 2 * 2).patches, 2 * half.patches)
    assert torch.equal(look(real_frames[:3]).patches, real.patches[:3])
    assert not torch.equal(look(real_frames[:1].expand(2, -1, -1, -1, -1)).patches.diff(dim=0), torch.zeros(1, 64, 49))


def test_fidelity_is_the_share_of_named_subjects(real_frames, real, look):
    assert real.named.all()
    assert not look(real_frames, first=1).named.any()
    mixed = replace(real, named=torch.arange(COUNT) < 9)
    assert judge.compare(mixed, real).values["acc"] == pytest.approx(0.5)


def test_the_interval_holds_the_value_and_shrinks_with_the_clips(real, soft, near):
    for arm in (soft, near):
        judged = judge.compare(arm, real)
        row, interval = judged.values, judged.intervals()
        for column in ("lap", "spec", "swd", "kurt", "flat", "contrast", "colour"):
            low, high = interval[column]
            assert low < high, column
            assert low - 1e-6 <= row[column] <= high + 1e-6, column
    few = torch.arange(COUNT // 3)
    wide, narrow = (judge.compare(some(soft, c), some(real, c)).intervals() for c in (few, few.repeat(4)))
    for column in ("lap", "hf", "kurt", "flat", "contrast", "colour"):
        ratio = (narrow[column][1] - narrow[column][0]) / (wide[column][1] - wide[column][0])
        assert 0.35 < ratio < 0.7, column  # four times the clips halve it


def test_the_interval_is_as_wide_as_its_level_says(real, soft):
    ratio = soft.lap.mean() / real.lap.mean()
    deviation = (soft.lap - ratio * real.lap).std() / real.lap.mean() / COUNT**0.5  # by the delta method
    for level, deviations in ((0.5, 1.35), (0.68, 1.99), (0.95, 3.92)):
        low, high = judge.compare(soft, real).intervals(level=level)["lap"]
        assert high - low == pytest.approx(float(deviations * deviation), rel=0.25), level


def test_resampling_depends_on_the_seed_alone(real, near):
    once = judge.compare(near, real, seed=3).intervals()
    torch.rand(5)
    assert judge.compare(near, real, seed=3).intervals()["swd"] == once["swd"]
    assert judge.compare(near, real, seed=4).intervals()["swd"] != once["swd"]


def test_worse_is_said_of_noise_and_nothing_of_equals(real, near, noisy):
    close, grainy = judge.compare(near, real), judge.compare(noisy, real)
    sides = grainy.sides(close)
    assert {sides[column] for column in ("lap", "spec", "swd", "kurt", "flat", "jitter")} == {"worse"}
    assert sides["acc"] == "even"
    back = close.sides(grainy)
    assert {column for column, side in back.items() if side == "better"} >= {"lap", "spec", "swd", "kurt", "flat"}
    assert set(close.sides(close).values()) == {"even"}


def test_a_difference_that_few_clips_make_is_chance(real, near):
    lap = near.lap.clone()
    lap[0] *= 4
    odd, usual = (judge.compare(arm, real) for arm in (replace(near, lap=lap), near))
    assert odd.values["lap"] > 1.1 * usual.values["lap"]
    assert odd.sides(usual)["lap"] == "even"


def test_smoother_than_real_is_not_worse_where_only_grain_counts(real, near, soft):
    base = judge.compare(near, real)
    sides = judge.compare(soft, real).sides(base)
    assert sides["lap"] == sides["spec"] == "worse"
    assert sides["flat"] != "worse"
    assert sides["jitter"] != "worse"
    crisp = replace(near, kurt=2 * near.kurt)
    assert judge.compare(crisp, real).sides(base)["kurt"] != "worse"


def test_the_verdict_names_the_broken_rules(real, near, soft, noisy):
    close, smooth, grainy = (judge.compare(arm, real) for arm in (near, soft, noisy))
    assert close.verdict(smooth) == []
    rules = [line.partition(":")[0] for line in grainy.verdict(close)]
    assert rules[:4] == ["lap comes no nearer", "spec comes no nearer", "kurtosis falls", "jitter rises"]
    assert rules[4:] == [f"flat {grainy.values['flat']:.3g} over 1.2"]
    unsure = judge.compare(replace(near, named=torch.arange(COUNT) % 2 == 0), real)
    assert unsure.verdict(smooth) == ["prompt fidelity falls: 0.5, base 1"]
    assert [line.split(" comes")[0] for line in close.verdict(close)] == ["lap", "spec"]


def test_flat_blocks_must_stay_calm_beyond_the_interval(real, near, soft):
    smooth = judge.compare(soft, real)
    spread = torch.linspace(0.2, 1.8, COUNT)  # of mean 1
    unsure = judge.compare(replace(near, flat=1.25 * real.flat.mean() * spread), real)
    assert unsure.values["flat"] == pytest.approx(1.25)
    assert unsure.verdict(smooth) == []
    sure = judge.compare(replace(near, flat=1.25 * real.flat), real)
    assert sure.verdict(smooth) == ["flat 1.25 over 1.2"]


def test_sets_of_other_captions_are_refused(real, near):
    with pytest.raises(ValueError, match="the arm has 5 clips and the real ones are 18"):
        judge.compare(some(near, torch.arange(5)), real)
    with pytest.raises(ValueError, match="'lap': 3"):
        replace(near, lap=near.lap[:3])
