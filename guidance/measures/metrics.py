"""Measures of grey frames: sharpness, and whether the sharpness is real. Knows nothing of models or files.

Videos are float32 (b t H W) of grey frames (channel mean) in [0, 1], before any encoding. Sharpness alone is fooled by
noise: a video is better only if its spectrum and patches come nearer to real ones while gradients stay heavy-tailed,
flat places stay flat and time stays calm.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["replicate", "zeros"]


def grey(frames: Tensor) -> Tensor:
    """Grey (b t H W) in [0, 1] of uint8 or float RGB frames (b t H W 3)."""
    scale = 255.0 if frames.dtype == torch.uint8 else 1.0
    return frames.float().mean(-1) / scale


def laplacian_variance(video: Tensor, *, border: Border = "replicate") -> Tensor:
    """lap (b,): variance of the 3x3 Laplacian of each frame, averaged over frames (Shell-LCC, evaluation).

    The paper's code borders frames with zeros, so that the frames' edges count as detail.
    """
    return _laplacian(video, border).flatten(2).var(-1).mean(-1)


def high_frequency_share(video: Tensor) -> Tensor:
    """hf (b,): share of spectral energy, without the mean, at a normalised radius above 0.25 cycles a pixel."""
    power = torch.fft.fft2(video - video.mean((-2, -1), keepdim=True)).abs().square()
    outside = frequency(video.shape[-2], video.shape[-1], video.device) > 0.25
    return (power * outside).sum((-2, -1)).div(power.sum((-2, -1)).clamp_min(1e-12)).mean(-1)


def radial_power(video: Tensor, *, bins: int = 48) -> Tensor:
    """(b, bins - 1) power, averaged over frames, in rings of equal width up to Nyquist; the innermost is left out."""
    return _rings(power(video).mean(1), bins)


def radial_spectrum(video: Tensor, *, bins: int = 48) -> Tensor:
    """(bins - 1,) log10 of the power, averaged over all frames of the set, in the rings of `radial_power`."""
    return (_rings(power(video).mean((0, 1)), bins) + 1e-12).log10()


def spectrum_distance(video: Tensor, real: Tensor) -> float:
    """Mean |log10 power ratio| over the rings of the two sets' spectra; 0 is equal."""
    return float((radial_spectrum(video) - radial_spectrum(real)).abs().mean())


def sliced_wasserstein(
    video: Tensor, real: Tensor, *, seed: int = 0, patches: int = 32768, directions: int = 128
) -> float:
    """`patch_distance` of patches drawn from the two sets at the same places."""
    a, b = (band_patches(v, patches, seed=seed) for v in (video, real))
    return patch_distance(a, b, seed=seed, directions=directions)


def band_patches(video: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """(count, 49) 7x7 patches of the finest level of the Laplacian pyramid, at places drawn from the seed."""
    frames = video.flatten(0, 1)[:, None]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=video.device) / 16
    blur = F.conv2d(F.pad(frames, (2, 2, 2, 2), mode="reflect"), torch.outer(taps, taps)[None, None])
    band = (frames - blur)[:, 0]
    n, h, w = band.shape
    dice = torch.Generator().manual_seed(seed)
    i, y, x = (torch.randint(0, high, (count,), generator=dice).to(video.device) for high in (n, h - 6, w - 6))
    offset = torch.arange(7, device=video.device)
    rows, columns = (y[:, None] + offset)[:, :, None], (x[:, None] + offset)[:, None, :]
    return band[i[:, None, None], rows, columns].flatten(1)


def patch_directions(*, seed: int = 0, directions: int = 128) -> Tensor:
    """(49, directions) unit vectors, random but for the seed."""
    return F.normalize(torch.randn(49, directions, generator=torch.Generator().manual_seed(seed)), dim=0)


def patch_distance(patches: Tensor, real: Tensor, *, seed: int = 0, directions: int = 128) -> float:
    """Sliced Wasserstein-1 distance of two sets of as many patches (n, 49), over the real patches' deviation.

    After Karras et al. 2017 (arXiv 1710.10196, section 5), without their normalisation of contrast: contrast is what
    over-smoothing takes away.
    """
    axes = patch_directions(seed=seed, directions=directions).to(patches.device)
    distance = ((patches @ axes).sort(0).values - (real @ axes).sort(0).values).abs().mean()
    return float(distance / real.std())


def gradient_kurtosis(video: Tensor) -> Tensor:
    """(b,) kurtosis of horizontal and vertical gradients: high for edges and texture, 3 for noise."""
    gradients = torch.cat([video.diff(dim=-1).flatten(1), video.diff(dim=-2).flatten(1)], dim=1)
    centred = gradients - gradients.mean(1, keepdim=True)
    return centred.pow(4).mean(1) / centred.square().mean(1).square().clamp_min(1e-16)


def pan_sharpness(video: Tensor) -> Tensor:
    """(b,) energy of horizontal gradients over that of vertical ones; the blur of a pan lowers it.

    In white texture a box of n pixels along the move divides it by n.
    """
    along, across = (video.diff(dim=dim).square().flatten(1).mean(1) for dim in (-1, -2))
    return along / across.clamp_min(1e-12)


def flat_residual(video: Tensor, *, block: int = 8, share: float = 0.1) -> Tensor:
    """(b,) mean Laplacian deviation in the flattest blocks, in grey levels of 255: noise shows here first."""
    return block_residuals(video, block=block, share=share)[0]


def block_residuals(video: Tensor, *, block: int = 8, share: float = 0.1) -> tuple[Tensor, Tensor]:
    """(b,) mean Laplacian deviations in a share of the blocks, the flattest and the busiest, in grey levels of 255.

    Noise adds as much to the one as to the other, detail in proportion.
    """
    h, w = (s // block * block for s in video.shape[-2:])
    blocks = _laplacian(video)[..., :h, :w].unfold(-2, block, block).unfold(-2, block, block)
    deviation = blocks.flatten(-2).std(-1).flatten(1).sort(1).values
    count = max(1, int(share * deviation.shape[1]))
    return 255 * deviation[:, :count].mean(1), 255 * deviation[:, -count:].mean(1)


def jitter(video: Tensor) -> Tensor:
    """(b,) mean |second difference| over time, in grey levels of 255."""
    return 255 * video.diff(n=2, dim=1).abs().flatten(1).mean(1) if video.shape[1] > 2 else video.new_zeros(len(video))


def contrast(video: Tensor) -> Tensor:
    """(b,) standard deviation of the grey values of a clip, over space and time."""
    return video.flatten(1).std(1)


def colour(frames: Tensor) -> Tensor:
    """(b, 3) mean red, green and blue in [0, 1] of uint8 or float RGB frames (b t H W 3)."""
    scale = 255.0 if frames.dtype == torch.uint8 else 1.0
    return frames.float().mean((1, 2, 3)) / scale


def _laplacian(video: Tensor, border: Border = "replicate") -> Tensor:
    p = F.pad(video, (1, 1, 1, 1), mode="constant" if border == "zeros" else border)
    return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:] - 4 * video


def power(video: Tensor) -> Tensor:
    """(b t H W) power of every bin of fft2 of the frames, without their means and under a Hann window."""
    h, w = video.shape[-2:]
    window = torch.outer(torch.hann_window(h), torch.hann_window(w)).to(video.device)
    return torch.fft.fft2((video - video.mean((-2, -1), keepdim=True)) * window).abs().square()


def _rings(power: Tensor, bins: int) -> Tensor:
    """(..., bins - 1) mean of the power (..., H, W) in rings of equal width up to Nyquist, without the innermost."""
    ring = (frequency(power.shape[-2], power.shape[-1], power.device) / 0.5 * bins).long()
    kept = (ring < bins) & (ring > 0)
    inside = power[..., kept]
    total = torch.zeros(*power.shape[:-2], bins, device=power.device).index_add_(-1, ring[kept], inside)
    count = ring[kept].bincount(minlength=bins)
    return total[..., 1:] / count[1:].clamp_min(1)


def frequency(h: int, w: int, device: torch.device) -> Tensor:
    """Radius in cycles a pixel of every bin of fft2; the sides' Nyquist is 0.5."""
    y, x = torch.fft.fftfreq(h, device=device), torch.fft.fftfreq(w, device=device)
    return (y[:, None].square() + x.square()).sqrt()
