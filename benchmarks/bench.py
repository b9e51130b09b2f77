"""A sampler's arms, each judged once against real clips of the same captions. Knows nothing of which arms there are."""

from __future__ import annotations

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import controls
from benchmarks.captions import real_frames, subjects
from benchmarks.judge import Judged, Measured, compare, measure
from benchmarks.samples import FOLDER, Arm, Sampler
from benchmarks.subjects import classifier
from shelllcc.guidance.files import whole_file
from shelllcc.guidance.wan.model.pipeline import weights_sha256
from training.studio import Studio


class Bench:
    """`bench[arm]` is the arm, judged; its clips are sampled and measured when it is first asked for."""

    def __init__(self, sampler: Sampler, studio: Studio) -> None:
        self.sampler, self.studio = sampler, studio
        self.classifier: nn.Module = classifier(studio, smoke=sampler.smoke)
        self.real = self.measure(self.real_clips(0))
        self.judged: dict[Arm, Judged] = {}

    def real_clips(self, draw_number: int) -> Tensor:
        """uint8 (n, t, H, W, 3): real clips of the captions through the pipeline's VAE, from disk if they are there."""
        s = self.sampler
        name = f"real-{s.split}-{s.count}-{draw_number}-{weights_sha256(s.model)[:12]}"
        path = FOLDER / f"{name}{'-smoke' if s.smoke else ''}.safetensors"
        if not path.exists():
            films = real_frames(self.studio, s.count, s.split, draw_number=draw_number, **s.film)
            with whole_file(path) as part:
                save_file({"frames": controls.through_vae(s.pipe().vae, films)}, part)
        return load_file(path)["frames"]

    def measure(self, frames: Tensor) -> Measured:
        return measure(frames, subjects(self.sampler.count, self.sampler.split), self.classifier)

    def judge(self, frames: Tensor) -> Judged:
        """Of uint8 clips (n, t, H, W, 3) of the captions, in their order."""
        return compare(self.measure(frames), self.real)

    def __getitem__(self, arm: Arm) -> Judged:
        if arm not in self.judged:
            self.judged[arm] = self.judge(self.sampler.sample(arm).frames)
        return self.judged[arm]
