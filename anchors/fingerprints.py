"""Fingerprints: which latents share a space, and which models share a calibration. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

WAN21_VAE: Mapping[str, Any] = {
    "z_dim": 16,
    "latents_mean": [
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ],
    "latents_std": [
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ],
}  # fmt: skip
"""What the config of Wan2.1's VAE says of its latent space; Wan2.2-A14B and Qwen-Image share it."""


def fingerprint(vae_config: Mapping[str, Any]) -> str:
    """What makes two VAEs share a latent space, as 16 hex digits: channels, compression and normalisation."""
    statistics = [[round(float(v), 4) for v in vae_config[key]] for key in ("latents_mean", "latents_std")]
    scales = [vae_config.get("scale_factor_temporal") or 4, vae_config.get("scale_factor_spatial") or 8]
    return _short([int(vae_config["z_dim"]), scales, statistics])


def model_fingerprint(transformer_config: Mapping[str, Any], *, boundary: float | None = None) -> str:
    """What makes two models share a calibration, as 16 hex digits: their transformer's shape, and `boundary`, the sigma
    below which a second transformer takes over (None without one). Fine-tunes share their base's."""
    keys = ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "text_dim", "in_channels")
    patch = [int(v) for v in transformer_config["patch_size"]]
    stages = [] if boundary is None else [float(boundary)]
    return _short([*(transformer_config.get(key) for key in keys), patch, *stages])


def pipeline_fingerprint(pipe: Any) -> str:
    """The `model_fingerprint` of a diffusers Wan pipeline."""
    two = getattr(pipe, "transformer_2", None) is not None
    return model_fingerprint(pipe.transformer.config, boundary=pipe.config.get("boundary_ratio") if two else None)


def _short(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
