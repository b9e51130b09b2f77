"""Round trips: clips noised, sampled again as the user samples, and set beside where they came from.

Nothing of the sampling is built anew: it is the pipeline's own, begun at a later step. What the guide does not touch is
sampled once a clip and replayed (wan.clips.prefix). Knows nothing of what is solved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shelllcc.anchors.score import typical_distance
from shelllcc.guidance.faults import told
from shelllcc.guidance.fit.judge import Drift, drift
from shelllcc.guidance.guide import dose
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import renoises
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.sample import Clip, Start, noise_levels, sample, scheduled
from shelllcc.guidance.wan.model.seams import decoded_in_part

if TYPE_CHECKING:
    from diffusers import WanPipeline
    from numpy.typing import NDArray
    from PIL.Image import Image

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.sample import Frames, Moment
    from shelllcc.guidance.wan.clips.studio import Studio

START = 0.95  # sigma: what is missing went missing above; from lower down hardly any drift is seen
EARLY = 0.85  # sigma: where a guide begins that takes away; what cfg overdoes is made there, and made anew later on
LEAST = 0.1  # smallest factor of a residual where the last step is nearly all there is
SMALLER = "use a smaller --size or fewer --frames"


@dataclass(frozen=True)
class Take:
    """A real clip and its caption: normalised latents (c t h w), float32, on the CPU."""

    caption: str
    latents: Tensor


class Trips:
    """Round trips of `takes` as `request` samples, its prompt and size aside, with the pipeline of a studio.

    Of a clip `shown` latent frames are decoded and judged; None is all of them.
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
        on_moment: Callable[[Moment], None] = lambda moment: None,
    ) -> None:
        self.studio, self.request, self.bank, self.takes = studio, request, bank, takes
        self.seed, self.shown, self.on_moment = seed, shown, on_moment
        levels = noise_levels(studio.pipe, request)
        self.index = begin_at(levels, sigma)
        self.levels = levels[self.index :]
        with scheduled(studio.pipe, request):
            self.window, self.last = dose.interval(levels, renoised=renoises(studio.pipe.scheduler))
        self.dose = GuideConfig.dose
        self._prefixes: dict[int, Prefix] = {}
        self._real: dict[int, Frames] = {}

    @property
    def sigma(self) -> float:
        """The noise level that clips are sampled again from."""
        return self.levels[0]

    @property
    def tail(self) -> int:
        """Steps that every further guide samples."""
        return len(self.levels) - 1 - self._shared

    @property
    def _shared(self) -> int:
        return 1 + dose.first_move(self.levels, self.guide(radius=2.0))

    def act_early(self) -> None:
        """Let guides begin at EARLY, their steps as large as in the usual window; few steps have none to add."""
        low, high = self.window
        if not self.last and high < EARLY:
            self.window, self.dose = (low, EARLY), self.dose * (EARLY - low) / (high - low)

    def guide(self, **knobs: Any) -> GuideConfig:
        """A fit's guide for these noise levels: it multiplies what a clip has, and leaves alone what is not named.

        Where the last step acts, hardly any other does, and may take more of a residual away.
        """
        usual: dict[str, Any] = {"coarse": 1.0, "radius": 1.0, "tone": 0.0, "calm": 0.0, "contrast": 0.0, "flat": 1.0}
        usual |= {"least": LEAST} if self.last else {}
        acts: dict[str, Any] = {"window": self.window, "dose": self.dose, "last": self.last, "by_sigma": True}
        return GuideConfig(first=True, toward=0.0, **(acts | usual | knobs))

    def drift(self, number: int, config: GuideConfig | None) -> Drift:
        """What becomes of a clip under a guide; None is none."""
        guide = None if config is None or not config.acts else ShellGuide(self.bank, config)
        back = self._sample(number, guide)
        real = self.real(number)
        last = guide.trace[-1] if guide and guide.trace else None
        seen = {"excess": last.excess[0], "gain": last.gain[0]} if last else {}
        latents = self.takes[number].latents.to(back.latents.device)
        return drift(back.frames, real, distance=typical_distance(self.bank, latents), **seen)

    def real(self, number: int) -> Frames:
        """The clip (t, H, W, 3) as the model's decoder shows it."""
        if number not in self._real:
            self._real[number] = decoded(self.studio.pipe, self.takes[number].latents[:, : self.shown])
        return self._real[number]

    def _sample(self, number: int, guide: ShellGuide | None) -> Clip:
        take, pipe = self.takes[number], self.studio.pipe
        dice = torch.Generator().manual_seed(self.seed + number)
        noise = torch.randn(take.latents.shape, generator=dice)
        noised = (1 - self.sigma) * take.latents + self.sigma * noise
        prefix = self._prefixes.setdefault(number, Prefix(self._shared))
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


def begin_at(levels: Sequence[float], sigma: float) -> int:
    """The step, none of pure noise and not the last, whose noise level is nearest to sigma."""
    inner = [index for index, level in enumerate(levels[:-2]) if level < 0.995] or [0]
    return min(inner, key=lambda index: abs(levels[index] - sigma))


@torch.no_grad()
def decoded(pipe: WanPipeline, latents: Tensor) -> Frames:
    """uint8 frames (t, H, W, 3) of normalised latents (c t h w). Raises OutOfMemoryError and LostGpuError."""
    vae = pipe.vae
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    with told("decoding", SMALLER):
        raw = (latents[None].cpu() * std + mean).to(device=_device(pipe), dtype=vae.dtype)
        video = vae.decode(raw, return_dict=False)[0]
        frames: NDArray = pipe.video_processor.postprocess_video(video, output_type="np")[0]  # type: ignore[type-arg]
    return (frames * 255).round().astype("uint8")


def _device(pipe: WanPipeline) -> torch.device:
    from shelllcc.guidance.wan.model.seams import device_of

    return device_of(pipe)
