"""The README's picture: `python -m benchmarks.picture docs/images/guided.png`

The middle frames of some of benchmarks.captions, unguided in the upper row and guided in the lower one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import imageio.v3 as iio
import numpy as np
import typer

from benchmarks.samples import standard_arms

SHOWN = (3, 6, 7, 11, 19, 30, 46)  # cat, grass, gravel, motorcycle, cat, temple, temple


def main(
    out: Path,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Clips sampled at once.")] = 1,
) -> None:
    rows = [
        np.concatenate([frames[i, frames.shape[1] // 2].numpy() for i in SHOWN], axis=1)
        for frames in standard_arms(device=device, batch=batch).values()
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(out, np.concatenate(rows, axis=0))


if __name__ == "__main__":
    typer.run(main)
