"""Find and load a Wan pipeline. Knows nothing of guidance, requests or files to write."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.anchors.fingerprints import WAN21_VAE, model_fingerprint
from shelllcc.guidance.errors import ModelError, OutOfMemoryError, UsageError, first_line
from shelllcc.guidance.faults import out_of_memory
from shelllcc.guidance.files import fingerprint_of
from shelllcc.guidance.wan.model.caches import check_cache
from shelllcc.guidance.wan.model.loading import SHIPPED, Loading, check_name
from shelllcc.guidance.wan.model.loras import add_loras, check_lora, foresee_loras
from shelllcc.guidance.wan.model.placing import DENOISERS, check_device, check_offload, place
from shelllcc.guidance.wan.model.spared import import_wan_alone
from shelllcc.guidance.wan.model.trust import check_hub_shards, check_parts, check_weights, hub_says
from shelllcc.guidance.wan.model.weights import cast_at_rest, check_file, load_transformer, reading, require

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLWan, WanPipeline

TINY = Path(__file__).parent.parent / "tiny"
DIFFUSERS = "a Wan folder or hub id in diffusers' format, e.g. Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
LATENTS_ALONE = "wan2.1-vae"
PARTS = (
    "transformer",
    "transformer_2",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "image_encoder",
    "image_processor",
)
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
IMAGE_KEYS = ("image_dim", "pos_embed_seq_len")
WEIGHTS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Model:
    """A pipeline folder or hub id (owner/name or owner/name@revision), and its configs, read without any weights.

    `revision` is the hub's, or of a folder the fingerprint of its files. `boundary` is the sigma below which the second
    transformer of two takes over, `scheduler` the name of the scheduler's class, `first_frame` whether an image may be
    given in place of the first latent frame (`expand_timesteps`, TI2V-5B).
    """

    source: str
    revision: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    two_stage: bool
    text_encoder: dict[str, Any] = field(default_factory=dict)
    boundary: float | None = None
    scheduler: str = ""
    image_encoder: dict[str, Any] = field(default_factory=dict)
    first_frame: bool = False

    @property
    def needs_image(self) -> bool:
        """Whether it takes an image's latents and a mask as channels beside its own, as Wan's I2V models do."""
        return wants_image(self.transformer)

    @property
    def takes_image(self) -> bool:
        return self.needs_image or self.first_frame

    @property
    def takes_last_image(self) -> bool:
        """Whether an image encoder is in the way, that reads one image alone."""
        return self.needs_image and (not self.transformer.get("image_dim") or self.needs_last_image)

    @property
    def needs_last_image(self) -> bool:
        return self.needs_image and bool(
            self.transformer.get("image_dim") and self.transformer.get("pos_embed_seq_len")
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Pixels of which height and width must be multiples: the VAE's compression times the patch."""
        scale = int(self.vae.get("scale_factor_spatial") or 8)
        patch = self.transformer["patch_size"]
        return scale * int(patch[1]), scale * int(patch[2])

    @property
    def is_tiny(self) -> bool:
        return self.source == str(TINY)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of the user's."""
        return not self.is_tiny and Path(self.source).is_dir()

    @property
    def name(self) -> str:
        return "tiny" if self.is_tiny else self.source

    @property
    def fingerprint(self) -> str:
        """What it shares with the models whose calibration it can use."""
        return model_fingerprint(self.transformer, boundary=self.boundary)


def find_model(model: str | None) -> Model:
    """The model at a path, in the hub's cache or on the hub; None or "tiny" is the embedded one.

    Raises ModelError, and UsageError for what can be no name.
    """
    if model not in (None, "tiny"):
        check_name(str(model))
    folder = TINY if model in (None, "tiny") else Path(str(model))
    if folder.resolve() == TINY.resolve():
        return _describe(str(TINY), weights_sha256(TINY)[:16], TINY)
    if folder.is_dir():
        return _describe(str(folder), folder_fingerprint(folder), folder)
    if folder.suffix in WEIGHTS:
        raise ModelError(f"{model} is a single file; give it as --transformer, beside the --model it was made for")
    if not _is_hub_id(str(model)):
        raise ModelError(f"no model at {model}; give {DIFFUSERS}, or `tiny`")
    return _find_on_hub(str(model))


def find_latent_space(model: str | None) -> Model:
    """As `find_model`, and `wan2.1-vae` for ready latents of Wan2.1's VAE: a model that has no weights."""
    if model != LATENTS_ALONE:
        return find_model(model)
    return Model(LATENTS_ALONE, "none", {}, dict(WAN21_VAE), False)


def load_pipeline(
    model: Model, loading: Loading | None = None, *, device: str | None = None, text_encoder: bool = True
) -> WanPipeline:
    """The pipeline with its weights on `device` (CUDA if there is one), or offloaded from it; its VAE in float32.

    Without `text_encoder` it takes embeddings alone, and the encoder is not read. What was said of the files is in
    `remarks` of the pipeline. Raises ModelError, and UsageError for a loading that this model or device cannot have.
    """
    loading = loading or Loading()
    quieten(needed=_needed(model, loading))
    target = pick_device(device)
    check_loading(model, loading, target)
    with remarked() as remarks:
        pipe = _load(model, loading, target, text_encoder=text_encoder)
    pipe.remarks = remarks
    return pipe


def _load(model: Model, loading: Loading, target: str, *, text_encoder: bool) -> WanPipeline:
    number = pick_dtype(loading.dtype, target)
    repo, revision = _repo(model.source), _hub_revision(model.source, model.revision)
    parts: dict[str, Any] = {"vae": load_vae(model.source, model.revision, device="cpu")}
    denoisers = DENOISERS if model.two_stage else DENOISERS[:1]
    for part in denoisers:
        parts[part] = load_transformer(repo, revision, part, loading, number)
    if not text_encoder:
        parts |= {"text_encoder": None, "tokenizer": None}
    if model.image_encoder:
        parts["image_encoder"] = _load_image_encoder(repo, revision)
    with reading(model.source):
        pipe: WanPipeline = _pipeline_class(model).from_pretrained(
            repo, revision=revision, dtype=number, use_safetensors=True, **parts
        )
    add_loras(pipe, loading.loras, number)
    if loading.quantize == "fp8":
        for part in denoisers:
            cast_at_rest(parts[part], number)
    if loading.tiling:
        pipe.vae.enable_tiling()
    pipe.set_progress_bar_config(disable=True)
    place(pipe, loading.offload, target, hooked=loading.cache != "none")
    return pipe


def foresee(model: Model, loading: Loading) -> list[str]:
    """What loading would say of the LoRAs, said now from their headers, with no weights read.

    Raises ModelError and UsageError as `load_pipeline` would of them.
    """
    with remarked() as lines:
        if loading.loras:
            quieten()
            require("peft", "--lora")
            foresee_loras(model.transformer, loading.loras, two_stage=model.two_stage)
    return lines


@contextlib.contextmanager
def remarked() -> Iterator[list[str]]:
    """What is logged for the user within the block, for the sidecars of what is sampled later."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("shelllcc")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def load_text_encoder(model: Model, loading: Loading | None = None, *, device: str | None = None) -> WanPipeline:
    """A pipeline of the text encoder and the tokenizer alone, to call `encode_prompt` of. Raises as `load_pipeline`."""
    loading = loading or Loading()
    quieten(needed=_needed(model, loading))
    target = pick_device(device)
    check_offload(loading.offload, target)
    seers = ("image_encoder", "image_processor") if model.needs_image else ()
    others = dict.fromkeys(("vae", "transformer", "transformer_2", *seers))
    check_weights(Path(model.source), ("text_encoder",))
    with reading(f"the text encoder of {model.source}"):
        pipe: WanPipeline = _pipeline_class(model).from_pretrained(
            _repo(model.source),
            revision=_hub_revision(model.source, model.revision),
            dtype=pick_dtype(loading.dtype, target),
            use_safetensors=True,
            **others,
        )
    place(pipe, "group" if loading.offload == "group" else "none", target)
    return pipe


def wants_image(transformer: Mapping[str, Any]) -> bool:
    """Whether a transformer of this config takes more channels than it gives: a mask's and an image's."""
    return int(transformer.get("in_channels") or 0) > int(transformer.get("out_channels") or 0) > 0


def _pipeline_class(model: Model) -> Any:
    import diffusers

    return diffusers.WanImageToVideoPipeline if model.needs_image else diffusers.WanPipeline


def _load_image_encoder(repo: str, revision: str | None) -> Any:
    """In float32, as Wan's own script has it."""
    import torch
    from transformers import CLIPVisionModel

    if revision is not None:
        check_hub_shards(repo, revision, "image_encoder")
    with reading(f"the image encoder of {repo}"):
        return CLIPVisionModel.from_pretrained(
            repo, subfolder="image_encoder", revision=revision, dtype=torch.float32, use_safetensors=True
        )


def check_loading(model: Model, loading: Loading, device: str) -> None:
    """Raise UsageError or ModelError where a model cannot be loaded so: missing files, libraries, parts or devices."""
    check_offload(loading.offload, device)
    check_cache(loading.cache, model.transformer)
    replaced = {part for part in DENOISERS if getattr(loading, part) is not None}
    check_weights(
        Path(model.source),
        [part for part in ("vae", "text_encoder", "image_encoder", *DENOISERS) if part not in replaced],
    )
    if loading.transformer_2 is not None and not model.two_stage:
        raise UsageError("--transformer-2 is for models with a second transformer (Wan2.2-A14B); leave it out")
    for file in (loading.transformer, loading.transformer_2):
        if file is not None:
            check_file(file)
    if loading.loras:
        require("peft", "--lora")
        for lora in loading.loras:
            check_lora(lora, two_stage=model.two_stage)
    if loading.quantize == "int8":
        require("torchao", "--quantize int8")
    if loading.quantize == "nf4":
        if device.startswith("cpu"):
            raise UsageError("--quantize nf4 needs a GPU; on the CPU use int8 or fp8")
        if loading.offload == "group":
            raise UsageError("--quantize nf4 does not go with --offload group: use --offload model, or fp8 or int8")
        require("bitsandbytes", "--quantize nf4")


def load_vae(source: str, revision: str, *, device: str) -> AutoencoderKLWan:
    """The VAE of a pipeline folder or hub id alone, in float32. Raises ModelError."""
    if source == LATENTS_ALONE:
        raise ModelError(f"{source} stands for ready latents; to read videos give --model with a VAE's weights")
    quieten()
    import torch
    from diffusers import AutoencoderKLWan

    repo, commit = _repo(source), _hub_revision(source, revision)
    check_weights(Path(source), ("vae",))
    if commit is not None:
        check_hub_shards(repo, commit, "vae")
    with reading(f"the VAE of {source}"):
        vae = AutoencoderKLWan.from_pretrained(
            repo, subfolder="vae", revision=commit, dtype=torch.float32, use_safetensors=True
        )
    return _move(vae, source, device)


def pick_device(device: str | None) -> str:
    """The device to run on: the one asked for, or CUDA where there is one, or the CPU. Raises as `check_device`."""
    import torch

    check_device(device)
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device} is not available here: {first_line(error)}") from error
    return device


def quieten(*, needed: Sequence[str] | None = None) -> None:
    """Keep diffusers, transformers and the libraries that they import off stderr: progress there is ours.

    The libraries speak while they are imported: call this before the first class of diffusers is. `needed` are the
    optional ones that will be needed, None where any of them may be (see spared).
    """
    for library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if needed is not None:
        import_wan_alone(*needed)
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _needed(model: Model, loading: Loading) -> list[str] | None:
    """The optional libraries that a model needs: for adapters of the embedded one PEFT. None for other adapters, files,
    quantizations and models, which may need any."""
    if loading.transformer or loading.transformer_2 or loading.quantize != "none":
        return None
    if model.is_tiny:
        return ["peft"] if loading.loras else []
    return [] if _is_plain(model) and not loading.loras else None


def _is_plain(model: Model) -> bool:
    """Whether a folder's model asks for no optional library: it sees no images, no part of it is quantized, its
    tokenizer needs no other to be read, and its noise levels are no quantiles of scipy's."""
    folder = Path(model.source)
    if not model.is_local or model.takes_image or not (folder / "tokenizer" / "tokenizer.json").is_file():
        return False
    configs = [_read_json(path) for path in sorted(folder.glob("*/*config.json"))]
    return not any(config.get("quantization_config") or config.get("use_beta_sigmas") for config in configs)


def weights_sha256(folder: Path) -> str:
    """One sha256 over the weights of a pipeline folder, in the order of their paths; adapters beside them aside."""
    beside = {path.name for path in SHIPPED.values()}
    files = sorted(path for path in folder.rglob("*.safetensors") if path.name not in beside)
    return _sha256_of(folder, tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache
def _sha256_of(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Over files of a folder, their names and bytes, read once while their sizes and times stay."""
    digest = hashlib.sha256()
    for path, *_ in files:
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def folder_fingerprint(folder: Path) -> str:
    """16 hex digits of what decides on a clip in a pipeline folder: every part's files, and model_index.json.

    Of large files it reads some blocks alone (see `fingerprint_of`); links, as in the hub's cache, are followed. Raises
    ModelError.
    """
    digest = hashlib.sha256()
    files = [path for part in PARTS for path in sorted((folder / part).rglob("*"))]
    try:
        for path in (folder / "model_index.json", *files):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
                digest.update(f"{name} {fingerprint_of(path)}\n".encode())
    except OSError as error:
        raise ModelError(f"cannot read the model {folder}: {error.filename}: {error.strerror}") from error
    return digest.hexdigest()[:16]


def vae_weights(model: Model) -> str:
    """What tells a model's VAE weights from others of its shape: the hub's revision, or a hash of a folder's files."""
    folder = Path(model.source) / "vae"
    return weights_sha256(folder)[:16] if folder.is_dir() else model.revision


def _describe(source: str, revision: str, folder: Path) -> Model:
    """The model whose configs lie in a folder. Raises ModelError where they are no Wan's."""
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") not in PIPELINES:
        raise ModelError(
            f"{source} holds {index.get('_class_name') or 'no pipeline'}, not a WanPipeline; give {DIFFUSERS}"
        )
    check_parts(index, source, folder)
    second = index.get("transformer_2")
    transformer, vae = (_read_json(folder / part / "config.json") for part in ("transformer", "vae"))
    patch = transformer.get("patch_size")
    sizes = [transformer.get("num_attention_heads"), transformer.get("attention_head_dim"), vae.get("z_dim")]
    statistics = [vae.get(key) for key in ("latents_mean", "latents_std")]
    if not isinstance(patch, list) or len(patch) != 3 or not all(isinstance(v, int) for v in [*patch, *sizes]):
        raise ModelError(
            f"{source} has no proper transformer and VAE configs (patch_size, heads, z_dim); fetch it anew"
        )
    if not all(isinstance(v, list) and all(isinstance(x, (int, float)) for x in v) for v in statistics):
        raise ModelError(f"{source}/vae/config.json has no proper latents_mean and latents_std; fetch it anew")
    encoder = folder / "text_encoder" / "config.json"
    texts = _read_json(encoder) if encoder.is_file() else {}
    two_stage = isinstance(second, list) and second[0] is not None
    boundary = index.get("boundary_ratio") if two_stage else None
    if boundary is not None and not (type(boundary) in (int, float) and 0 <= boundary <= 1):
        raise ModelError(f"{source}/model_index.json has boundary_ratio {boundary!r}; it must be a number from 0 to 1")
    scheduler = index.get("scheduler")
    name = str(scheduler[1]) if isinstance(scheduler, list) and len(scheduler) == 2 else ""
    sees = folder / "image_encoder" / "config.json"
    seer = _read_json(sees) if sees.is_file() and index.get("image_encoder", [None])[0] else {}
    _check_channels(source, transformer, vae, sees=bool(seer))
    first_frame = index.get("expand_timesteps") is True
    return Model(source, revision, transformer, vae, two_stage, texts, boundary, name, seer, first_frame)


def _check_channels(source: str, transformer: Mapping[str, Any], vae: Mapping[str, Any], *, sees: bool) -> None:
    """Raise ModelError where an image model takes other channels than Wan's do, or lacks its image encoder."""
    if not wants_image(transformer):
        return
    z, taken = int(vae["z_dim"]), transformer["in_channels"]
    if taken != 2 * z + 4 or not all(type(transformer.get(key)) in (int, type(None)) for key in IMAGE_KEYS):
        raise ModelError(f"{source} takes {taken} channels, an image-to-video Wan {2 * z + 4}; give {DIFFUSERS}")
    if transformer.get("image_dim") and not sees:
        raise ModelError(f"{source} lacks the image_encoder that its transformer needs; fetch it anew")


def _find_on_hub(model: str) -> Model:
    """Fetch the configs alone. Raises ModelError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
    )
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()
    repo, _, revision = model.partition("@")
    try:
        files = [
            Path(hf_hub_download(repo, name, revision=revision or None))
            for name in ("model_index.json", "transformer/config.json", "vae/config.json", "text_encoder/config.json")
        ]
        if wants_image(_read_json(files[1])) and (_read_json(files[0]).get("image_encoder") or [None])[0]:
            hf_hub_download(repo, "image_encoder/config.json", revision=revision or None)
    except RemoteEntryNotFoundError as error:
        raise ModelError(f"{model} on the hub lacks files of a Wan in diffusers' format; give {DIFFUSERS}") from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"no model {model}: not a folder here, and {hub_says(error)}") from error
    return _describe(model, files[0].parent.name, files[0].parent)


def _move(part: Any, source: str, device: str) -> Any:
    try:
        return part.to(device)
    except (MemoryError, RuntimeError) as error:  # no room, no such device, or the part cannot run there
        if out_of_memory(error):
            raise OutOfMemoryError(f"putting {source} on {device}", "use a larger GPU or --device cpu") from error
        raise ModelError(f"cannot put {source} on {device}: {first_line(error)}") from error


def pick_dtype(dtype: str | None, device: str) -> torch.dtype:
    """The dtype of that name; unless given, float32 on the CPU and bfloat16 elsewhere."""
    import torch

    number: torch.dtype = getattr(torch, Loading(dtype=dtype).dtype_on(device))
    return number


def _repo(source: str) -> str:
    """What diffusers finds a model by: a folder, or a hub id without its revision."""
    return source if Path(source).is_dir() else source.partition("@")[0]


def _hub_revision(source: str, revision: str) -> str | None:
    return revision if _is_hub_id(source) and not Path(source).is_dir() else None


def _is_hub_id(model: str) -> bool:
    owner, _, name = model.partition("/")
    return bool(owner and name) and "/" not in name and not model.startswith((".", "/", "~"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"no Wan pipeline there: cannot read {path}: {error.strerror}; give {DIFFUSERS}") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}; fetch the model anew") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path} is not a JSON object; fetch the model anew")
    return record
