"""The README's picture: `python -m benchmarks.picture docs/images/guided.png`, some minutes on a CPU

The middle frames of some of benchmarks.captions at cfg 1, unguided in the upper row and guided in the lower one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import imageio.v3 as iio
import numpy as np
import typer

from benchmarks.captions import prompts, seeds
from benchmarks.samples import Arm, Sampler, sample_batch
from shelllcc.guidance.guide.config import GuideConfig

SHOWN = (3, 6, 7, 11, 19, 30, 46)  # cat, grass, gravel, motorcycle, cat, temple, temple


def main(
    out: Path,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    cfg: Annotated[float, typer.Option(help="Classifier-free guidance.")] = Arm().cfg,
) -> None:
    sampler, rows = Sampler(device=device, batch=1), []
    texts, numbers = [prompts()[i] for i in SHOWN], [seeds()[i] for i in SHOWN]
    for arm in (Arm(cfg), Arm(cfg, guide=GuideConfig())):
        clips = sample_batch(sampler.pipe(), texts, numbers, arm, sampler.guide(arm)).numpy()
        rows.append(np.concatenate(list(clips[:, clips.shape[1] // 2]), axis=1))
    out.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(out, np.concatenate(rows, axis=0))


if __name__ == "__main__":
    typer.run(main)
