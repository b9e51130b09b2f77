"""Round trips of a Wan model in diffusers: its own pipeline, begun at a later step.

Nothing of the sampling is built anew. What the guide does not touch is sampled once a clip and replayed
(wan.clips.prefix). On a GPU several clips are one batch: one alone is so small that the GPU waits for its next kernel.
Knows nothing of what is solved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shelllcc.guidance.faults import told
from shelllcc.guidance.fit.trips import START, RoundTrips, Sampled, Take
from shelllcc.guidance.guide.scheduler import renoises
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.sample import Clip, Start, noise_levels, sample, sample_together, scheduled
from shelllcc.guidance.wan.model.memory import costs
from shelllcc.guidance.wan.model.pipeline import pick_dtype
from shelllcc.guidance.wan.model.seams import decoded_in_part, device_of

if TYPE_CHECKING:
    from diffusers import WanPipeline
    from numpy.typing import NDArray
    from PIL.Image import Image

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.fit.judge import Drift
    from shelllcc.guidance.guide.config import GuideConfig
    from shelllcc.guidance.guide.guide import ShellGuide
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.sample import Frames, Moment
    from shelllcc.guidance.wan.clips.studio import Studio

SMALLER = "use a smaller --size or fewer --frames"
MOST_TOGETHER = 8  # clips of a batch: beyond it even the smallest Wan keeps a GPU busy
ROOM = 0.8  # of a GPU's memory, that a batch may fill by its plan


class Trips(RoundTrips):
    """Round trips as `request` samples, its prompt and size aside, with the pipeline of a studio.

    `together` clips at most are sampled as one batch, None as many as suit the device.
    """

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
        together: int | None = None,
        on_moment: Callable[[Moment], None] = lambda moment: None,
    ) -> None:
        self.studio, self.request, self.on_moment = studio, request, on_moment
        with scheduled(studio.pipe, request):
            renoised = renoises(studio.pipe.scheduler)
        levels, model = noise_levels(studio.pipe, request), studio.model
        sampled = Sampled(model.name, model.fingerprint, request.negative_prompt, request.width, request.height)
        super().__init__(bank, takes, levels, sampled, renoised=renoised, seed=seed, sigma=sigma, shown=shown)
        self.together = together or batch_for(studio, request)
        self._prefixes: dict[int, Prefix] = {}

    def decoded(self, latents: Tensor) -> Frames:
        return decoded(self.studio.pipe, latents)

    def drifts(self, numbers: Sequence[int], config: GuideConfig | None) -> list[Drift]:
        if len(numbers) == 1:
            return super().drifts(numbers, config)
        guide = self._guide(config)
        for number in numbers:
            self.real(number)
        with decoded_in_part(self.studio.pipe.vae, self.shown), _decoded_in_turn(self.studio.pipe.vae):
            clips = sample_together(
                self.studio.pipe,
                [self._request(number) for number in numbers],
                guide,
                starts=[self._start(number) for number in numbers],
                prefixes=[self._prefix(number) for number in numbers],
                texts=self.studio.texts,
                on_moment=self.on_moment,
            )
        return [self._judged(number, clip, clip.trace) for number, clip in zip(numbers, clips, strict=True)]

    def _sample(self, number: int, guide: ShellGuide | None) -> Clip:
        images = self._images(number)
        with decoded_in_part(self.studio.pipe.vae, self.shown):
            return sample(
                self.studio.pipe,
                self._request(number),
                guide,
                prefix=self._prefix(number),
                texts=self.studio.texts,
                cache=self.studio.loading.cache,
                start=self._start(number),
                images=images,
                on_moment=self.on_moment,
            )

    def _request(self, number: int) -> Request:
        return self.request.changed(prompt=self.takes[number].caption, seed=self.seed + number)

    def _start(self, number: int) -> Start:
        noised = (1 - self.sigma) * self.takes[number].latents + self.sigma * self._noise(number)
        return Start(noised[None], self.index)

    def _prefix(self, number: int) -> Prefix:
        return self._prefixes.setdefault(number, Prefix(self.shared))

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


def batch_for(studio: Studio, request: Request) -> int:
    """How many clips fit into one batch on the studio's device by the plan of its memory, MOST_TOGETHER at most.

    One on the CPU, on several ranks, and with models that need images or feature caches, which see a batch as one.
    """
    alone = studio.model.needs_image or studio.loading.cache != "none" or studio.ranks.count > 1
    if alone or not studio.device.startswith("cuda"):
        return 1
    device, loading = device_of(studio.pipe), studio.loading
    room = ROOM * (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    plan = costs(studio.model, request, loading, dtype=pick_dtype(loading.dtype, studio.device))
    sampling = plan.loaded(loading.offload, tiling=loading.tiling)["sampling"]
    return max(1, min(MOST_TOGETHER, int((room - sampling.weights) / sampling.work)))


@contextlib.contextmanager
def _decoded_in_turn(vae: Any) -> Iterator[None]:
    """Within the block the VAE decodes the clips of a batch one after the other: each keeps a GPU busy, and takes more
    memory than all of them did while they were sampled."""
    before, vae.use_slicing = vae.use_slicing, True
    try:
        yield
    finally:
        vae.use_slicing = before


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
