"""Do clips show the subject of their prompt? `python -m benchmarks.subjects`

A small convolutional classifier learns the sixteen subjects from frames of real clips; it is first judged on held-out
real clips, then names the subjects of 64 unguided clips, and of guided ones.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from benchmarks.captions import real_frames, subjects
from benchmarks.samples import standard_arms
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS
from training.clips import HELD_OUT, Studio
from training.photographs import load

SIDE = 64
WEIGHTS = Path("runs/subjects.safetensors")


def classifier(studio: Studio) -> nn.Module:
    """The trained classifier, from disk if it is there."""
    from safetensors.torch import load_file, save_file

    if WEIGHTS.exists():
        model = network().to(studio.sheet.device)
        model.load_state_dict(load_file(WEIGHTS, str(studio.sheet.device)))
        return model.eval()
    model = train_classifier(studio)
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), WEIGHTS)
    return model


def network() -> nn.Module:
    widths = [3, 32, 64, 128, 128]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, len(SUBJECTS)))


def train_classifier(studio: Studio, *, clips_seen: int = 4096, epochs: int = 6, seed: int = 0) -> nn.Module:
    """A classifier (b, 3, 64, 64) in [-1, 1] -> 16 logits, from the first frame of real clips."""
    torch.manual_seed(seed)
    device = studio.sheet.device
    drawn = studio.draw(range(HELD_OUT - clips_seen, HELD_OUT))
    pictures = torch.cat([_small(studio.film(drawn[i : i + 16], frames=1)[:, :, 0]) for i in range(0, clips_seen, 16)])
    labels = torch.tensor([c.subject for c in drawn], device=device)
    model = network().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * (clips_seen // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(0, clips_seen, (64,)).to(device)
        x = pictures[chosen]
        x = x * (0.8 + 0.4 * torch.rand(64, 1, 1, 1, device=device)) + 0.05 * torch.randn_like(x)
        loss = F.cross_entropy(model(x), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def name_subjects(model: nn.Module, frames: Tensor) -> Tensor:
    """Index of the subject (n,) of uint8 clips (n, t, H, W, 3), by the mean logits of three frames."""
    device = next(model.parameters()).device
    picked = frames[:, [0, frames.shape[1] // 2, -1]].to(device).float() / 127.5 - 1
    logits = model(_small(picked.flatten(0, 1).permute(0, 3, 1, 2)))
    return logits.view(len(frames), 3, -1).mean(1).argmax(-1).cpu()


def accuracy(model: nn.Module, frames: Tensor) -> float:
    """Share of the clips of benchmarks.captions in which the classifier names the caption's subject."""
    return float((name_subjects(model, frames) == subjects(len(frames))).float().mean())


def _small(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Clips sampled at once.")] = 1,
) -> None:
    studio = Studio(load(), device)
    model = classifier(studio)
    print(f"real clips, held out          {accuracy(model, real_frames(studio)):.3f}")
    for name, frames in standard_arms(device=device, batch=batch).items():
        print(f"{name:<30}{accuracy(model, frames):.3f}")


if __name__ == "__main__":
    typer.run(main)
