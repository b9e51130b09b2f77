"""Fine detail of videos: what a decoder may get wrong there, as losses to train on and as figures to report.

Videos are (b c t H W) in [-1, 1]. Knows nothing of models or clips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16  # pixels; the side of the blocks whose strength is compared


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


def without_checkerboard(video: Tensor) -> Tensor:
    """The video less what alternates from pixel to pixel along both axes."""
    return video - F.pad(alternation(video)[0], (1, 1, 1, 1, 0, 0), mode="replicate")


def texture_loss(output: Tensor, video: Tensor) -> Tensor:
    """Mismatch of the mean |Laplacian| of every 16 x 16 block, of frames and of low-passed ones, as a logarithm.

    Blocks, frames and absolute values, since a mean square over a clip is met most cheaply by a few bright dots; and
    never with what alternates along both axes, since a checkerboard too faint to see is the cheapest way to raise it
    otherwise.
    """
    mismatch = output.new_zeros(())
    for seen in (without_checkerboard, low_pass):
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


def checkerboard(video: Tensor) -> Tensor:
    """(b,) energy of the spectrum's corner over that of its middle band, of each grey frame, averaged over frames.

    Mean power of the bins beyond 0.48 cycles a pixel along both axes, over that of the ring of 0.2 to 0.3; under a Hann
    window. Photographs have less than 0.01.
    """
    grey = video.mean(1)
    h, w = grey.shape[-2:]
    window = torch.outer(torch.hann_window(h, device=grey.device), torch.hann_window(w, device=grey.device))
    power = torch.fft.fft2((grey - grey.mean((-2, -1), keepdim=True)) * window).abs().square()
    y, x = torch.fft.fftfreq(h, device=grey.device).abs()[:, None], torch.fft.fftfreq(w, device=grey.device).abs()
    radius = (x.square() + y.square()).sqrt()
    corner, middle = (x > 0.48) & (y > 0.48), (radius >= 0.2) & (radius < 0.3)
    return (power[..., corner].mean(-1) / power[..., middle].mean(-1).clamp_min(1e-12)).mean(-1)


def kurtosis(frames: Tensor) -> Tensor:
    """(b,) kurtosis of the Laplacian (b H W) of one frame of each clip: high where a few dots stand out."""
    centred = frames.flatten(1) - frames.flatten(1).mean(1, keepdim=True)
    return centred.pow(4).mean(1) / centred.square().mean(1).square().clamp_min(1e-16)
