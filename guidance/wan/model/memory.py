"""How much memory each stage of sampling takes, before any weights are loaded. Knows nothing of terminals.

What the parts of a model take is counted as they run (counting.py), once for each geometry and size (counted.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.wan.model.counted import known
from shelllcc.guidance.wan.model.counting import (
    count_image,
    count_image_encoder,
    count_text_encoder,
    count_transformer,
    count_vae,
)
from shelllcc.guidance.wan.model.loading import CHOICES, Loading
from shelllcc.guidance.wan.model.pipeline import Model, check_loading, pick_dtype

if TYPE_CHECKING:
    import torch

AT_REST: Mapping[str, float] = {"none": 0.0, "fp8": 1.0, "int8": 1.0, "nf4": 0.5}  # bytes of a weight; 0 as computed
RATES: Mapping[str, float] = {"NVIDIA H200": 5.0e14}  # FLOPs a second in bfloat16, measured (benchmarks/gpu.py)


class Size(Protocol):
    """What of a request decides on memory."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def frames(self) -> int: ...

    @property
    def cfg(self) -> float: ...


@dataclass(frozen=True)
class Stage:
    """Bytes on the device at the worst moment: of weights, and of everything else."""

    weights: int
    work: int

    @property
    def peak(self) -> int:
        return self.weights + self.work


@dataclass(frozen=True)
class Costs:
    """Bytes that sampling a request takes, part by part; `loaded` says at which moments which of them meet.

    parameters of each part of the model, latents (b c t h w), FLOPs of a step; bytes of each transformer's weights at
    rest and of the largest layer of it, of the VAE, and of the text encoder and its largest layer; and bytes beside all
    weights while encoding a prompt, in a call of the transformer, and decoding the latents whole and in tiles; and of a
    model that needs an image its encoder's weights and what the VAE takes for it.
    """

    parameters: Mapping[str, int]
    latents: tuple[int, ...]
    flops: float
    transformers: tuple[int, ...]
    layer: int
    vae: int
    encoder: tuple[int, int]
    encoding: int
    sampling: int
    decoding: tuple[int, int]
    image: tuple[int, int] = (0, 0)

    def loaded(self, offload: str, *, tiling: bool) -> dict[str, Stage]:
        """The stages of a sampling, in their order."""
        decoding, denoisers = self.decoding[tiling], sum(self.transformers)
        stages = {}
        if self.encoder[0]:  # a group is a layer there
            stages["encoding"] = Stage(self.encoder[offload == "group"], self.encoding)
        if offload == "none":
            stages["sampling"] = Stage(denoisers + self.vae, self.sampling)
            stages["decoding"] = Stage(denoisers + self.vae, decoding)
        elif offload == "model":
            stages["sampling"] = Stage(max(self.transformers), self.sampling)
            stages["decoding"] = Stage(self.vae, decoding)
        else:  # the layer at work, and the next on its way
            stages["sampling"] = Stage(2 * self.layer + self.vae, self.sampling)
            stages["decoding"] = Stage(self.vae, decoding)
        return self._from_image(stages, offload)

    def _from_image(self, stages: dict[str, Stage], offload: str) -> dict[str, Stage]:
        """With the stage in which the image of an image model is encoded, and its encoder's weights where they stay."""
        seer, work = self.image
        if not work:
            return stages
        stays = seer if offload == "none" else 0
        found = {name: Stage(s.weights + (stays if name != "encoding" else 0), s.work) for name, s in stages.items()}
        weights = found["sampling"].weights if offload == "none" else max(seer * (offload == "model"), self.vae)
        first = {"encoding": found.pop("encoding")} if "encoding" in found else {}
        return first | {"image": Stage(weights, work)} | found


def costs(model: Model, request: Size, loading: Loading, *, dtype: torch.dtype) -> Costs:
    """What sampling a request takes, its transformer in `dtype` and quantized as `loading` says."""
    number = str(dtype).removeprefix("torch.")
    latents = latents_shape(model, request)
    transformer = known(count_transformer, model.transformer, latents, number)
    vae = known(count_vae, model.vae, latents)
    texts = known(count_text_encoder, model.text_encoder, number) if model.text_encoder else None
    names = ("transformer", "transformer_2") if model.two_stage else ("transformer",)
    files = [getattr(loading, name) for name in names]
    a_weight = AT_REST[loading.quantize] or dtype.itemsize
    at_rest = tuple(
        Path(file).stat().st_size if file and file.endswith(".gguf") else int(a_weight * transformer["parameters"])
        for file in files
    )
    seer = known(count_image_encoder, model.image_encoder) if model.image_encoder else None
    image = known(count_image, model.vae, latents) if model.needs_image else None
    parts = dict.fromkeys(names, transformer) | {"vae": vae} | ({"text_encoder": texts} if texts else {})
    parts |= {"image_encoder": seer} if seer else {}
    return Costs(
        parameters={name: int(part["parameters"]) for name, part in parts.items()},
        latents=latents,
        flops=transformer["flops"] * (2 if request.cfg > 1 else 1),
        transformers=at_rest,
        layer=int(transformer["layer"] * max(at_rest) / transformer["weights"]),
        vae=int(vae["weights"]),
        encoder=(int(texts["weights"]), int(texts["layer"])) if texts else (0, 0),
        encoding=int(texts["work"]) if texts else 0,
        sampling=int(transformer["work"]),
        decoding=(int(vae["whole"]), int(vae["tiles"])),
        image=(int(seer["weights"]) if seer else 0, int(image["work"]) if image else 0),
    )


def forecasts(model: Model, requests: Iterable[Size], loading: Loading, device: str | None) -> list[JsonObject]:
    """What `--dry-run` says of each size and length of clip among the requests, on a device that need not be here.

    Raises UsageError for a loading that the device cannot do.
    """
    import torch

    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_loading(model, loading, target)
    dtype = pick_dtype(loading.dtype, target)
    found = dict[tuple[float, ...], JsonObject]()
    for request in requests:
        size = {name: getattr(request, name) for name in ("width", "height", "frames", "cfg")}
        if (key := tuple(size.values())) not in found:
            found[key] = size | forecast(model, request, loading, dtype=dtype)
    return list(found.values())


def forecast(model: Model, request: Size, loading: Loading, *, dtype: torch.dtype) -> JsonObject:
    """What `--dry-run` says of a request, as JSON, in GB (1e9 bytes): its stages, and the peak of every way to load."""
    found = costs(model, request, loading, dtype=dtype)
    stages = found.loaded(loading.offload, tiling=loading.tiling)
    peaks = {
        f"--offload {way}{' --tiling' if tiling else ''}": max(
            s.peak for s in found.loaded(way, tiling=tiling).values()
        )
        for way in CHOICES["offload"]
        for tiling in (False, True)
    }
    return {
        "parameters": dict(found.parameters),
        "latents": list(found.latents),
        "dtype": str(dtype).removeprefix("torch."),
        "step_TFLOP": round(found.flops / 1e12, 1),
        "step_seconds": {gpu: round(found.flops / rate, 2) for gpu, rate in RATES.items()},
        "GB": {name: {"weights": _giga(s.weights), "work": _giga(s.work), "peak": _giga(s.peak)}
               for name, s in stages.items()},
        "peak_GB": _giga(_peak(stages)),
        "peak_GB_with": {way: _giga(peak) for way, peak in peaks.items()},
    }  # fmt: skip


def latents_shape(model: Model, request: Size) -> tuple[int, ...]:
    """Shape (b c t h w) of a request's latents."""
    scale = int(model.vae.get("scale_factor_spatial") or 8)
    frames = (request.frames - 1) // int(model.vae.get("scale_factor_temporal") or 4) + 1
    return (1, int(model.vae["z_dim"]), frames, request.height // scale, request.width // scale)


def _peak(stages: Mapping[str, Stage]) -> int:
    return max(stage.peak for stage in stages.values())


def _giga(size: float) -> float:
    return round(size / 1e9, 2)
