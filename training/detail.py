"""Fine detail of videos: what a decoder may get wrong there, as losses to train on and as figures to report.

Videos are (b c t H W) in [-1, 1]. Knows nothing of models or clips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16  # pixels; the side of the blocks whose strength is compared
PHASED = 8  # and of those whose phases are


def laplacian(video: Tensor) -> Tensor:
    """3x3 Laplacian (b t H W) of the grey frames, on the scale of [0, 1]."""
    grey = video.mean(1) / 2
    p = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:] - 4 * grey


def low_pass(video: Tensor) -> Tensor:
    """The video under a 3x3 binomial filter, which lets nothing through at the finest frequency of either axis."""
    p = F.pad(video, (1, 1, 1, 1, 0, 0), mode="replicate")
    p = (p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]) / 4
    return (p[..., :-2, :] + 2 * p[..., 1:-1, :] + p[..., 2:, :]) / 4


def alternation(video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What alternates from pixel to pixel: along both axes (a checkerboard), along x, along y; each of gain 1 there."""
    across = (video[..., :-2] - 2 * video[..., 1:-1] + video[..., 2:]) / 4
    along = (video[..., :-2] + 2 * video[..., 1:-1] + video[..., 2:]) / 4

    def high(v: Tensor) -> Tensor:
        return (v[..., :-2, :] - 2 * v[..., 1:-1, :] + v[..., 2:, :]) / 4

    def low(v: Tensor) -> Tensor:
        return (v[..., :-2, :] + 2 * v[..., 1:-1, :] + v[..., 2:, :]) / 4

    return high(across), low(across), high(along)


def phases(video: Tensor) -> tuple[Tensor, Tensor]:
    """How far the pixels of even and of odd places differ in each 8 x 8 block, along x, along y, and along both.

    The three patterns (3 H W) of 1 and -1 that alternate from pixel to pixel, and the means (3 b*c*t 1 h w) of the
    video times each in every block. Texture has hardly any, since its phase is another everywhere; a decoder whose last
    layer unfolds pixels can leave it in all blocks alike.
    """
    y, x = (torch.arange(n, device=video.device) for n in video.shape[-2:])
    signs = torch.stack([(-1.0) ** (k * x[None] + m * y[:, None]) for k, m in ((1, 0), (0, 1), (1, 1))])
    means = [F.avg_pool2d((video * sign).flatten(0, 2)[:, None], PHASED, ceil_mode=True) for sign in signs]
    return signs, torch.stack(means)


def without_phases(video: Tensor) -> Tensor:
    """The video less what alternates from pixel to pixel in one phase through a block: stripes and checkerboards."""
    h, w = video.shape[-2:]
    signs, means = phases(video)
    spread = means.repeat_interleave(PHASED, -1).repeat_interleave(PHASED, -2)[..., :h, :w]
    return video - (signs[:, None, None] * spread).sum(0).view_as(video)


def texture_loss(output: Tensor, video: Tensor) -> Tensor:
    """Mismatch of the mean |Laplacian| of every 16 x 16 block, of frames and of low-passed ones, as a logarithm.

    Blocks, frames and absolute values, since a mean square over a clip is met most cheaply by a few bright dots; and
    never with what alternates in one phase, since stripes and checkerboards too faint to see are the cheapest way to
    raise it otherwise.
    """
    mismatch = output.new_zeros(())
    for seen in (without_phases, low_pass):
        strength, wanted = (F.avg_pool2d(laplacian(seen(v)).abs(), BLOCK) + 1 / 255 for v in (output, video))
        mismatch = mismatch + (strength / wanted).log().abs().mean() / 2
    return mismatch


def alternation_loss(output: Tensor, video: Tensor) -> Tensor:
    """How much more the blocks of the output alternate from pixel to pixel than those of the video, in all channels."""
    excess = output.new_zeros(())
    for made, true in zip(alternation(output), alternation(video), strict=True):
        strength, wanted = (F.avg_pool2d(v.abs().flatten(0, 2), BLOCK, ceil_mode=True) for v in (made, true))
        excess = excess + (strength - wanted).relu().mean()
    return excess


def phase_loss(output: Tensor, video: Tensor) -> Tensor:
    """Mean |difference| of the `phases`: no strength of texture excuses stripes or a checkerboard of one phase."""
    return (phases(output)[1] - phases(video)[1]).abs().mean()


def stripes(video: Tensor) -> Tensor:
    """(b,) energy at the ends of the spectrum's axes over that just below them, of each grey frame, meaned over frames.

    Mean power of the bins within 0.05 of an axis and beyond 0.49 cycles a pixel along it, over that from 0.42 to 0.475,
    the larger of both axes; under a Hann window. Photographs have about 1; fine lines of two pixels' period have tens.
    """
    power, y, x = _spectrum(video)
    power = power.mean(1)

    def end(along: Tensor, across: Tensor, seen: Tensor) -> Tensor:
        band = seen[:, across < 0.05]
        near, last = (along > 0.42) & (along < 0.475), along > 0.49
        return band[..., last].mean((1, 2)) / band[..., near].mean((1, 2)).clamp_min(1e-12)

    return torch.maximum(end(x, y, power), end(y, x, power.transpose(1, 2)))


def checkerboard(video: Tensor) -> Tensor:
    """(b,) energy of the spectrum's corner over that of its middle band, of each grey frame, averaged over frames.

    Mean power of the bins beyond 0.48 cycles a pixel along both axes, over that of the ring of 0.2 to 0.3; under a Hann
    window. Photographs have less than 0.01.
    """
    power, y, x = _spectrum(video)
    y = y[:, None]
    radius = (x.square() + y.square()).sqrt()
    corner, middle = (x > 0.48) & (y > 0.48), (radius >= 0.2) & (radius < 0.3)
    return (power[..., corner].mean(-1) / power[..., middle].mean(-1).clamp_min(1e-12)).mean(-1)


def kurtosis(frames: Tensor) -> Tensor:
    """(b,) kurtosis of the Laplacian (b H W) of one frame of each clip: high where a few dots stand out."""
    centred = frames.flatten(1) - frames.flatten(1).mean(1, keepdim=True)
    return centred.pow(4).mean(1) / centred.square().mean(1).square().clamp_min(1e-16)


def _spectrum(video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Power (b t H W) of the grey frames under a Hann window, and |cycles a pixel| (H,), (W,) of its bins."""
    grey = video.mean(1)
    h, w = grey.shape[-2:]
    window = torch.outer(torch.hann_window(h, device=grey.device), torch.hann_window(w, device=grey.device))
    power = torch.fft.fft2((grey - grey.mean((-2, -1), keepdim=True)) * window).abs().square()
    return power, *(torch.fft.fftfreq(n, device=grey.device).abs() for n in (h, w))
