"""Round trips of a Wan model in diffusers: its own pipeline, begun at a later step.

Nothing of the sampling is built anew. What the guide does not touch is sampled once a clip and replayed
(wan.clips.prefix). Knows nothing of what is solved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shelllcc.guidance.faults import told
from shelllcc.guidance.fit.trips import START, RoundTrips, Sampled, Take
from shelllcc.guidance.guide.scheduler import renoises
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.sample import Clip, Start, noise_levels, sample, scheduled
from shelllcc.guidance.wan.model.seams import decoded_in_part, device_of

if TYPE_CHECKING:
    from diffusers import WanPipeline
    from numpy.typing import NDArray
    from PIL.Image import Image

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.guide.guide import ShellGuide
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.sample import Frames, Moment
    from shelllcc.guidance.wan.clips.studio import Studio

SMALLER = "use a smaller --size or fewer --frames"


class Trips(RoundTrips):
    """Round trips as `request` samples, its prompt and size aside, with the pipeline of a studio."""

    def __init__(
        self,
        studio: Studio,
        request: Request,
        bank: Bank,
        takes: Sequence[Take],
        *,
        seed: int = 0,
        sigma: float = START,
        shown: int | None = None,
        on_moment: Callable[[Moment], None] = lambda moment: None,
    ) -> None:
        self.studio, self.request, self.on_moment = studio, request, on_moment
        with scheduled(studio.pipe, request):
            renoised = renoises(studio.pipe.scheduler)
        levels, model = noise_levels(studio.pipe, request), studio.model
        sampled = Sampled(model.name, model.fingerprint, request.negative_prompt, request.width, request.height)
        super().__init__(bank, takes, levels, sampled, renoised=renoised, seed=seed, sigma=sigma, shown=shown)
        self._prefixes: dict[int, Prefix] = {}

    def decoded(self, latents: Tensor) -> Frames:
        return decoded(self.studio.pipe, latents)

    def _sample(self, number: int, guide: ShellGuide | None) -> Clip:
        take, pipe = self.takes[number], self.studio.pipe
        noised = (1 - self.sigma) * take.latents + self.sigma * self._noise(number)
        prefix = self._prefixes.setdefault(number, Prefix(self.shared))
        images = self._images(number)
        with decoded_in_part(pipe.vae, self.shown):
            return sample(
                pipe,
                self.request.changed(prompt=take.caption, seed=self.seed + number),
                guide,
                prefix=prefix,
                texts=self.studio.texts,
                cache=self.studio.loading.cache,
                start=Start(noised[None], self.index),
                images=images,
                on_moment=self.on_moment,
            )

    def _images(self, number: int) -> dict[str, Image]:
        """What a model that needs images is given of a clip: its first frame, and its last to one that needs two."""
        model = self.studio.model
        if not model.needs_image:
            return {}
        from PIL.Image import fromarray

        if model.needs_last_image:
            frames = decoded(self.studio.pipe, self.takes[number].latents)
            return {"image": fromarray(frames[0]), "last_image": fromarray(frames[-1])}
        return {"image": fromarray(self.real(number)[0])}


@torch.no_grad()
def decoded(pipe: WanPipeline, latents: Tensor) -> Frames:
    """uint8 frames (t, H, W, 3) of normalised latents (c t h w). Raises OutOfMemoryError and LostGpuError."""
    vae = pipe.vae
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    with told("decoding", SMALLER):
        raw = (latents[None].cpu() * std + mean).to(device=device_of(pipe), dtype=vae.dtype)
        video = vae.decode(raw, return_dict=False)[0]
        frames: NDArray = pipe.video_processor.postprocess_video(video, output_type="np")[0]  # type: ignore[type-arg]
    return (frames * 255).round().astype("uint8")
