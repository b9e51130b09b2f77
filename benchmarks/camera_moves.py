"""Does the camera move as the prompt says? `python -m benchmarks.camera_moves --device cuda --batch 64`

Dense optical flow between frames (iterative Lucas-Kanade, scikit-image) is fitted by a shift, a zoom and a roll; the
largest, in pixels at the frame's edge, names the move. Judged first on real clips, whose moves are known exactly.
The figures go to runs/camera_moves.json.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from skimage.registration import optical_flow_ilk
from torch import Tensor

from benchmarks.captions import Split, captions
from benchmarks.obeyed import judge_prompts
from benchmarks.samples import Sampler
from shelllcc.guidance.wan.model.pipeline import TINY
from training import options
from training.options import BankName, Batch, Cache, Device, Folder, Model, Smoke
from training.photographs import HELD, load
from training.studio import Studio

STILL = 0.4  # pixels a frame at 192 x 192 below which a camera stands still
AS_ASKED = 0.95  # share of the clips


def name_move(frames: Tensor) -> str:
    """The move of one uint8 clip (t, H, W, 3)."""
    grey = frames.float().mean(-1).numpy() / 255
    fits = np.array([_fit(grey[i], grey[i + 2]) / 2 for i in range(0, len(grey) - 2, 2)])
    right, down, zoom, roll = np.median(fits, axis=0)
    half = frames.shape[1] / 2
    sizes = {"x": abs(right), "y": abs(down), "zoom": abs(zoom) * half, "roll": abs(roll) * half}
    largest = max(sizes, key=sizes.__getitem__)
    if sizes[largest] < STILL:
        return "static"
    return {
        "x": "pan left" if right > 0 else "pan right",  # the picture moves against the camera
        "y": "tilt up" if down > 0 else "tilt down",
        "zoom": "zoom in" if zoom > 0 else "zoom out",
        "roll": "roll",
    }[largest]


def wrong(frames: Tensor, split: Split) -> list[str]:
    """The clips of benchmarks.captions that move otherwise than their caption says, in words."""
    wanted = [words.move for words in captions(len(frames), split)]
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(name_move, frames))
    return [f"{w} seen as {f}" for w, f in zip(wanted, found, strict=True) if w != f]


def _fit(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Shift (right, down) in pixels, zoom and roll in 1/pixel of the flow, by weighted, trimmed least squares."""
    contrast = max(float(before.std()), 1e-3)
    v, u = optical_flow_ilk((before - before.mean()) / contrast, (after - after.mean()) / contrast, radius=9)
    h, w = before.shape
    y, x = np.mgrid[0:h, 0:w] - np.array([h - 1, w - 1]).reshape(2, 1, 1) / 2
    texture = np.hypot(*np.gradient(before)) / contrast
    inside = np.zeros_like(texture)
    inside[12:-12, 12:-12] = 1
    weight = np.minimum(texture, np.quantile(texture, 0.95)) * inside
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate(
        [np.stack([one, zero, x, -y], -1).reshape(-1, 4), np.stack([zero, one, y, x], -1).reshape(-1, 4)]
    )
    values, weights = np.concatenate([u.ravel(), v.ravel()]), np.concatenate([weight.ravel()] * 2)
    solution = np.zeros(4)
    for _ in range(4):  # reweighted: outliers of the flow count little
        scaled = rows * weights[:, None]
        solution = np.linalg.lstsq(scaled.T @ rows, scaled.T @ values, rcond=None)[0]
        error = np.abs(rows @ solution - values)
        weights = np.concatenate([weight.ravel()] * 2) / (0.3 + error)
    return solution


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
    judge_prompts("camera_moves", f"moves as asked in {AS_ASKED:.0%}", wrong, sampler, studio, least=AS_ASKED)


if __name__ == "__main__":
    options.run(main)
