"""How a model is put into memory: weights, precision, offloading, adapters, caches. Checked before anything is loaded.

Knows nothing of torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import fingerprint_of
from shelllcc.guidance.paths import here

LENGTH = 512  # tokens of a prompt, as WanPipeline pads by default
CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("float32", "bfloat16", "float16"),
    "offload": ("none", "model", "group"),
    "quantize": ("none", "fp8", "int8", "nf4"),
    "cache": ("none", "first-block", "taylorseer", "pab"),
}
STAGES: Mapping[str, tuple[str, ...]] = {"high": ("high",), "low": ("low",), "both": ("high", "low")}
LORA = "--lora takes PATH_OR_ID, PATH_OR_ID:WEIGHT or PATH_OR_ID:WEIGHT@STAGE"
SHIPPED: Mapping[str, Path] = {  # adapters that come with the package, by name
    "tiny-4step": Path(__file__).parent.parent / "tiny" / "distilled.safetensors"
}
NAME_BYTES, PATH_BYTES = 255, 4095  # that a file's name and whole path may have


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter: a file, a folder, or a hub id (owner/name, or owner/name/file.safetensors).

    Of two transformers, `high` and `low` are its weights on the one for high noise and on that for low noise; None
    leaves one out. Without either it has `weight` wherever its file belongs.
    """

    source: str
    weight: float = 1.0
    high: float | None = None
    low: float | None = None

    @property
    def staged(self) -> bool:
        """Whether it says which transformers it is for."""
        return (self.high, self.low) != (None, None)

    def __str__(self) -> str:
        if not self.staged:
            return self.source if self.weight == 1 else f"{self.source}:{self.weight:g}"
        if self.high == self.low:
            return f"{self.source}:{self.high:g}@both"
        stages = {"high": self.high, "low": self.low}
        return self.source + "".join(f":{w:g}@{stage}" for stage, w in stages.items() if w is not None)

    @classmethod
    def parse(cls, text: str) -> Lora:
        """From SOURCE, SOURCE:WEIGHT, SOURCE:WEIGHT@STAGE or SOURCE:WEIGHT@high:WEIGHT@low; STAGE is high, low or both.

        Raises UsageError.
        """
        source, given = text, dict[str, float]()
        while match := re.fullmatch(r"(.*?)(?::([^:@/\\]*))?@(\w+)", source, re.DOTALL):
            stages = STAGES.get(match[3])
            if stages is None and _number(match[2] or "") is None:
                break  # the sign is of the path
            weight = 1.0 if match[2] is None else _number(match[2])
            if stages is None or weight is None or given.keys() & set(stages):
                raise UsageError(f"{LORA}, STAGE high, low or both, each once; got {text!r}")
            source, given = match[1], dict.fromkeys(stages, weight) | given
        rest, colon, number = source.rpartition(":")
        weight = _number(number) if colon else None  # else the colon is of the path
        source = source if weight is None else rest
        if (
            not source.strip()
            or (weight is not None and given)
            or not all(map(math.isfinite, [weight or 0, *given.values()]))
        ):
            raise UsageError(f"{LORA}, got {text!r}")
        return cls(local(source), 1.0 if weight is None else weight, **given)

    def as_dict(self) -> dict[str, Any]:
        """As JSON; without stages as records had it before there were any."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Loading:
    """Raises UsageError.

    dtype        of the transformer and the text encoder; None is the device's usual one. The VAE stays float32
    offload      none: all on the device; model: one part at a time; group: one block at a time
    quantize     weights of the transformer at rest: fp8 (cast layer by layer), int8 (torchao), nf4 (bitsandbytes)
    tiling       decode in overlapping tiles
    transformer  a single file (.safetensors, .gguf) in place of the model's own transformer; transformer_2 likewise
    loras        adapters, all at once
    cache        a feature cache of diffusers: faster, other frames
    """

    dtype: str | None = None
    offload: str = "none"
    quantize: str = "none"
    tiling: bool = False
    transformer: str | None = None
    transformer_2: str | None = None
    loras: tuple[Lora, ...] = field(default=())
    cache: str = "none"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed and not (name == "dtype" and value is None):
                raise UsageError(f"--{name} is one of {', '.join(allowed)}, got {value}")
        if self.quantize != "none" and any(str(f).endswith(".gguf") for f in (self.transformer, self.transformer_2)):
            raise UsageError("a .gguf transformer is quantized already; leave --quantize out")
        for source in self._sources():
            check_name(source)

    def recipe(self) -> dict[str, Any]:
        """What of it makes other frames, as JSON; the dtype, which the device may choose, aside.

        Local files come with their fingerprints, so that another one under the same name is noticed.
        """
        record = asdict(self)
        del record["dtype"], record["offload"]
        places = [Path(source) for source in self._sources()]
        files = [path for path in places if path.is_file()]
        files += [path for folder in places if folder.is_dir() for path in sorted(folder.glob("*.safetensors"))]
        prints = {str(path): fingerprint_of(path) for path in files}
        shipped = {source: SHIPPED[source] for source in self._sources() if source in SHIPPED}
        prints |= {source: fingerprint_of(path) for source, path in shipped.items() if path.is_file()}
        return record | {"loras": [lora.as_dict() for lora in self.loras], "fingerprints": prints}

    def _sources(self) -> list[str]:
        """What is read beside the model."""
        return [s for s in (self.transformer, self.transformer_2, *(lora.source for lora in self.loras)) if s]

    def dtype_on(self, device: str) -> str:
        """The dtype that it means there: unless given, float32 on the CPU and bfloat16 elsewhere."""
        return self.dtype or ("float32" if device.startswith("cpu") else "bfloat16")

    def changes(self) -> dict[str, Any]:
        """The part of the recipe that is not the default's."""
        usual = Loading().recipe()
        return {key: value for key, value in self.recipe().items() if value != usual[key]}

    def relief(self, stage: str, device: str) -> str:
        """What to try next where memory does not suffice for a stage (encoding prompts, sampling or decoding)."""
        on_cpu, encoding = device.startswith("cpu"), stage == "encoding prompts"
        if encoding and on_cpu:
            return "use a machine with more memory" if self.dtype == "bfloat16" else "try --dtype bfloat16"
        if encoding:  # the encoder is whole on the device, but in groups
            return "use a larger GPU" if self.offload == "group" else "try --offload group"
        if on_cpu:
            return "use fewer --frames or a smaller --size"
        if stage == "decoding" and not self.tiling:
            return "try --tiling"
        if self.offload != "group":
            return f"try --offload {'model' if self.offload == 'none' else 'group'}"
        return "use fewer --frames, a smaller --size or a larger GPU"

    @classmethod
    def from_recipe(cls, record: Mapping[str, Any]) -> Loading:
        """The loading of a sidecar's recipe. Raises UsageError where it is not one."""
        try:
            values = {key: value for key, value in record.items() if key != "fingerprints"}
            loras = tuple(map(_recorded, values.pop("loras", ())))
            for key, value in values.items():
                kinds = (bool,) if key == "tiling" else (str, type(None))
                if not isinstance(value, kinds):
                    raise TypeError(f"{key} is {value!r}")
            return cls(**values, loras=loras)
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise UsageError(
                f"the sidecar's loading is no proper one: {error}; give a sidecar that was not edited"
            ) from error


def check_name(source: str) -> None:
    """Raise UsageError for a name that neither a file nor a hub id can have."""
    if "\0" in source:
        raise UsageError(f"no file and no hub id has a null character in its name, as {source[:40]!r} has")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {source[-60:]!r} is no UTF-8, as weights' names must be; rename it") from error
    name = source.encode()
    if max(map(len, name.split(b"/"))) > NAME_BYTES or len(name) > PATH_BYTES:
        raise UsageError(f"no file and no hub id has a name as long as {source[:40]}..")


def local(source: str) -> str:
    """The whole path of a file or folder that is here; a hub id as it is. Raises UsageError."""
    check_name(source)
    path = here(source)
    return str(path.absolute()) if path else source


def _recorded(record: Mapping[str, Any]) -> Lora:
    """The adapter of a sidecar's recipe."""
    stages = {stage: float(record[stage]) for stage in ("high", "low") if record.get(stage) is not None}
    return Lora(str(record["source"]), float(record["weight"]), **stages)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
