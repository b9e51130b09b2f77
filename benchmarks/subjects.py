"""Do clips show the subject of their prompt? `python -m benchmarks.subjects --device cuda --batch 64`

A small convolutional classifier learns the subjects from frames of real clips; it is first judged on held-out real
clips, then names the subjects of 64 unguided clips, and of guided ones. The figures go to runs/subjects.json.
"""

from __future__ import annotations

import hashlib
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bounds import RUNS
from benchmarks.captions import Split, subjects
from benchmarks.obeyed import judge_prompts
from benchmarks.samples import Sampler
from shelllcc.guidance.wan.model.pipeline import TINY
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS
from training import options
from training.clips import HELD_OUT
from training.options import BankName, Batch, Cache, Device, Folder, Model, Smoke
from training.photographs import HELD, PHOTOGRAPHS, load
from training.studio import Studio

SIDE = 64
SEEN, EPOCHS = 8192, 8  # real clips to learn from


def classifier(studio: Studio, *, smoke: bool = False) -> nn.Module:
    """The trained classifier, from disk if it is there; a toy for `smoke`."""
    from safetensors.torch import load_file, save_file

    if smoke:
        return train_classifier(studio, clips_seen=64, epochs=1)
    recipe = hashlib.sha256(repr((PHOTOGRAPHS, SEEN, EPOCHS)).encode()).hexdigest()
    path = RUNS / f"subjects-{recipe[:8]}.safetensors"
    if path.exists():
        model = network().to(studio.sheet.device)
        model.load_state_dict(load_file(path, str(studio.sheet.device)))
        return model.eval()
    model = train_classifier(studio)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model


def network() -> nn.Module:
    widths = [3, 32, 64, 128, 128]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, len(SUBJECTS)))


@torch.enable_grad()
def train_classifier(studio: Studio, *, clips_seen: int = SEEN, epochs: int = EPOCHS, seed: int = 0) -> nn.Module:
    """A classifier (b, 3, 64, 64) in [-1, 1] -> a logit a subject, from the first frame of real clips."""
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


def wrong(model: nn.Module, frames: Tensor, split: Split) -> list[str]:
    """The clips of benchmarks.captions in which the classifier names another subject than the caption, in words."""
    names, wanted = list(SUBJECTS), subjects(len(frames), split)
    pairs = zip(wanted.tolist(), name_subjects(model, frames).tolist(), strict=True)
    return [f"{names[asked]} seen as {names[seen]}" for asked, seen in pairs if asked != seen]


def _small(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)


def main(
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    batch: Batch = 1,
    count: int = 64,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    sampler = Sampler(device=device, batch=batch, split="held-out", count=count, smoke=smoke, model=model, bank=bank)
    studio = Studio(load(cache, folder=folder, stand_in=smoke), device)
    judge = partial(wrong, classifier(studio, smoke=smoke))
    judge_prompts("subjects", "every subject named", judge, sampler, studio)


if __name__ == "__main__":
    options.run(main)
