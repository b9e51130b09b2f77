"""Encode and decode a whole clip in one pass through a stock AutoencoderKLWan.

The stock class walks over time in chunks of four frames and caches features between them: right for memory, slow for
training. Its weights run here over all frames at once, with the same result (tests/test_training.py compares them),
fused norms, and without the clamp of the decoder, which would kill the gradients of saturated pixels. Only the
residual form (`is_residual=True`) is handled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanDecoder3d,
    WanEncoder3d,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
    patchify,
    unpatchify,
)

FORMAT = torch.channels_last_3d  # of activations: the norms are over channels


def encode(vae: AutoencoderKLWan, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance (b c t h w), raw VAE latents, of a (b 3 f H W) video in [-1, 1]."""
    encoder: WanEncoder3d = vae.encoder
    x = _conv(encoder.conv_in, patchify(video, vae.config.patch_size).contiguous(memory_format=FORMAT))
    for block in encoder.down_blocks:
        shortcut = block.avg_shortcut(x)
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        if block.downsampler is not None:
            x = _downsample(block.downsampler, x)
        x = x + shortcut
    x = _conv(encoder.conv_out, F.silu(_norm(encoder.norm_out, _middle(encoder.mid_block, x))))
    mean, logvar = _conv(vae.quant_conv, x).float().chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """The video (b 3 f H W) of raw VAE latents (b c t h w), not clamped to [-1, 1]."""
    decoder: WanDecoder3d = vae.decoder
    latents = latents.contiguous(memory_format=FORMAT)
    x = _middle(decoder.mid_block, _conv(decoder.conv_in, _conv(vae.post_quant_conv, latents)))
    for block in decoder.up_blocks:
        shortcut = None if block.avg_shortcut is None else block.avg_shortcut(x, first_chunk=True)
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        if block.upsampler is not None:
            x = _upsample(block.upsampler, x)
        if shortcut is not None:
            x = x + shortcut
    x = _conv(decoder.conv_out, F.silu(_norm(decoder.norm_out, x)))
    return unpatchify(x.float(), vae.config.patch_size)


def _middle(block: WanMidBlock, x: torch.Tensor) -> torch.Tensor:
    x = _resnet(block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _resnet(resnet, _attention(attention, x))
    return x


def _resnet(block: WanResidualBlock, x: torch.Tensor) -> torch.Tensor:
    shortcut = x if isinstance(block.conv_shortcut, torch.nn.Identity) else _conv(block.conv_shortcut, x)
    x = _conv(block.conv1, F.silu(_norm(block.norm1, x)))
    x = _conv(block.conv2, F.silu(_norm(block.norm2, x)))
    return x + shortcut


def _attention(block: WanAttentionBlock, x: torch.Tensor) -> torch.Tensor:
    b, c, t, h, w = x.shape
    tokens = x.permute(0, 2, 3, 4, 1).reshape(b * t, h * w, c)
    tokens = F.rms_norm(tokens, (c,), block.norm.gamma.view(c).to(tokens.dtype), 1e-12)
    qkv = F.linear(tokens, block.to_qkv.weight.view(3 * c, c), block.to_qkv.bias)
    q, k, v = (part[:, None] for part in qkv.chunk(3, dim=-1))
    out = F.scaled_dot_product_attention(q, k, v)[:, 0]
    out = F.linear(out, block.proj.weight.view(c, c), block.proj.bias)
    return x + out.view(b, t, h, w, c).permute(0, 4, 1, 2, 3)


def _norm(norm: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    c = x.shape[1]
    last = x.permute(0, 2, 3, 4, 1)
    return F.rms_norm(last, (c,), norm.gamma.view(c).to(x.dtype), 1e-12).permute(0, 4, 1, 2, 3)


def _conv(conv: WanCausalConv3d, x: torch.Tensor) -> torch.Tensor:
    past = conv._padding[4]
    if past:
        x = F.pad(x, (0, 0, 0, 0, past, 0))
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, padding=(0, conv._padding[2], conv._padding[0]))


def _frames(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A 2-D layer on every frame of (b c t h w)."""
    b, _, t = x.shape[:3]
    y = layer(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


def _downsample(block: WanResample, x: torch.Tensor) -> torch.Tensor:
    x = _frames(block.resample, x)
    if block.mode == "downsample3d":  # the first frame stays by itself
        conv = block.time_conv
        x = torch.cat([x[:, :, :1], F.conv3d(x, conv.weight, conv.bias, conv.stride)], dim=2)
    return x


def _upsample(block: WanResample, x: torch.Tensor) -> torch.Tensor:
    if block.mode == "upsample3d":  # the first frame stays by itself, the others do not see it
        b, c, t, h, w = x.shape
        later = _conv(block.time_conv, x[:, :, 1:]).reshape(b, 2, c, t - 1, h, w)
        later = later.permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * (t - 1), h, w)
        x = torch.cat([x[:, :, :1], later], dim=2)
    return _frames(block.resample, x)
