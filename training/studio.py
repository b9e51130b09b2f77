"""The renderer of the clips that training draws by their seeds."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from shelllcc.guidance.media import camera
from training.clips import Clip, draw
from training.photographs import FRAME


class Studio(camera.Camera):
    """Photographs on a device, ready to be filmed: a camera that draws its clips by their seeds."""

    def draw(self, seeds: Sequence[int]) -> list[Clip]:
        return [draw(seed, self.shapes) for seed in seeds]

    def film(
        self,
        clips: Sequence[camera.Clip],
        *,
        frames: int = 17,
        size: int = FRAME,
        window: tuple[int, int, int] | None = None,
    ) -> Tensor:
        return super().film(clips, frames=frames, size=size, window=window)
