"""Does the camera move as the prompt says? `python -m benchmarks.camera_moves`

Dense optical flow between frames (iterative Lucas-Kanade, scikit-image) is fitted by a shift, a zoom and a roll; the
largest, in pixels at the frame's edge, names the move. Judged first on real clips, whose moves are known exactly.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from skimage.registration import optical_flow_ilk
from torch import Tensor

from benchmarks.captions import captions, real_frames
from benchmarks.samples import standard_arms
from training.clips import Studio
from training.photographs import load

STILL = 0.4  # pixels a frame at 192 x 192 below which a camera stands still


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


def agreement(frames: Tensor) -> tuple[float, list[str]]:
    """Share of the clips of benchmarks.captions that move as their caption says, and what the others do."""
    wanted = [move for _, move, _ in captions(len(frames))]
    found = [name_move(clip) for clip in frames]
    wrong = [f"{w} seen as {f}" for w, f in zip(wanted, found, strict=True) if w != f]
    return 1 - len(wrong) / len(wanted), wrong


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
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Clips sampled at once.")] = 1,
) -> None:
    arms = {"real clips, held out": real_frames(Studio(load(), device))}
    for name, frames in (arms | standard_arms(device=device, batch=batch)).items():
        share, wrong = agreement(frames)
        print(f"{name:<30}{share:.3f}  {'; '.join(wrong)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
