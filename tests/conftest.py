"""Shared fixtures: a synthetic shell and bank, the embedded pipeline, and where optional real data may lie."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def latents() -> Callable[..., torch.Tensor]:
    """Smooth random latents (b 16 t h w): neighbours agree, as in real ones."""

    def make(seed: int = 0, batch: int = 1, frames: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
        noise = torch.randn(batch, 16, frames, height + 4, width + 4, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.avg_pool3d(noise, (1, 5, 5), stride=1)
        return smooth / smooth.std()

    return make


@pytest.fixture(scope="session")
def shell(bank):
    return bank.shell


@pytest.fixture(scope="session")
def bank(latents: Callable[..., torch.Tensor]):
    from shelllcc.anchors.bank import Bank
    from shelllcc.anchors.build import Recipe, fit_shell

    clips = [latents(seed)[0] for seed in range(12)]
    fit = fit_shell(clips[0:8:2], clips[1:8:2], clips[8:], Recipe(anchors=2))
    provenance = {"source": "smooth noise"}
    return Bank(fit.shell, fit.guided, fit.clean, "synthetic", "0" * 16, provenance, fit.quantiles)


@pytest.fixture(scope="session")
def pipe():
    """The embedded tiny Wan on the CPU."""
    from shelllcc.guidance.wan.model.pipeline import find_model, load_pipeline

    return load_pipeline(find_model(None), device="cpu")


@pytest.fixture
def shelllcc(monkeypatch, capsys, tmp_path, tmp_path_factory, pipe):
    """Run the command line in this process, with the loaded embedded model; returns (exit code, stdout, stderr)."""
    from shelllcc import cli
    from shelllcc.guidance.wan.model import pipeline

    real = pipeline.load_pipeline

    def load(model, loading=None, **options):
        pipeline.pick_device(options.get("device"))
        return pipe if model.is_tiny else real(model, loading, **options)

    monkeypatch.setattr(pipeline, "load_pipeline", load)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path.parent / "cache"))
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path / "banks"))
    monkeypatch.setenv("SHELLLCC_PROFILES", str(tmp_path_factory.mktemp("profiles")))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["shelllcc", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference values and real Wan2.1 latents, which are not part of the repository."""
    folder = Path(os.environ.get("SHELLLCC_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference data at {folder}; SHELLLCC_SHARED names another place")
    return folder
