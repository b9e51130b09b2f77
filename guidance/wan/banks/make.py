"""Banks of a Wan model: gather latents from videos and files, build, calibrate. Knows nothing of terminals.

Memory is bounded: videos and latents are taken one at a time, and the fit keeps a sample of patches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shelllcc.anchors.bank import Bank, Calibration, check_bank
from shelllcc.anchors.bankfile import LAYERS, MAX_BYTES, read_bank, save_bank
from shelllcc.anchors.build import Recipe, fit_shell, split_sources
from shelllcc.anchors.calibrate import calibrate_radius
from shelllcc.anchors.fingerprints import fingerprint, pipeline_fingerprint
from shelllcc.anchors.latents import Clips, LatentFile, open_latents
from shelllcc.anchors.manifold import manifold_bank
from shelllcc.anchors.sources import expand
from shelllcc.anchors.torchfile import load_tensors
from shelllcc.anchors.train import Report, TrainConfig, save_checkpoint, train_manifold
from shelllcc.guidance.errors import BankError, ModelError, UsageError
from shelllcc.guidance.faults import told
from shelllcc.guidance.jobs.work import Engine
from shelllcc.guidance.wan.banks.encode import Encoding, encode_videos
from shelllcc.guidance.wan.banks.own_videos import leave_out_ours
from shelllcc.guidance.wan.model.seams import device_of
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from diffusers import WanPipeline

SMALLER = "try --dtype bfloat16, a smaller --size or a larger GPU"
NAMED = 256  # held-out videos that a bank's provenance names


@dataclass(frozen=True)
class Gathered:
    """Files of latents, each once, in an order that is theirs alone; what was passed over; and remarks."""

    files: list[LatentFile]
    skipped: list[str]
    notes: list[str]


def gather(
    sources: Sequence[str | Path],
    encoding: Encoding,
    *,
    engine: Engine | None = None,
    shard: tuple[int, int] = (0, 1),
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> Gathered:
    """The latents of the sources, videos encoded where they are not yet.

    `shard` (i, n) takes every n-th video from the i-th, and all files of latents. Unreadable and damaged ones are
    passed over, and what we made to be looked at is left out.
    """
    found, notes = leave_out_ours(expand(sources))
    videos = found.videos[shard[0] :: shard[1]]
    own = encoding.folder.resolve()  # in among the sources, it holds what is encoded below, perhaps framed otherwise
    latents = [path for path in found.latents if not (videos and path.resolve().is_relative_to(own))]
    paths, skipped = latents, list[str]()
    for done, result in enumerate(encode_videos(videos, encoding, engine=engine), 1):
        if result.latents is None:
            skipped.append(result.reason)
        else:
            paths.append(result.latents)
        on_file(done, len(videos))
    files: dict[tuple[str, int], LatentFile] = {}
    vae, channels = fingerprint(encoding.model.vae), int(encoding.model.vae["z_dim"])
    others = 0
    foreign: list[float] = []  # deviations of latents that do not say whose they are
    for path in sorted(set(paths)):
        try:
            file = open_latents(path)
            if path.parent.resolve() == own and file.framing not in ("", encoding.framing_text):
                others += 1
                continue
            if file.vae not in (None, vae):
                raise BankError(f"{path} holds latents of another VAE ({file.vae}, this model's is {vae})")
            spreads = [float(file.load(i, channels).std()) for i in range(file.clips)]
            foreign += [] if file.vae else spreads
        except BankError as error:
            skipped.append(str(error))
            continue
        files.setdefault((file.source, file.clips), file)
    if others and not files:
        skipped.append(
            f"{own} holds {plural(others, 'file')} of latents of another size, rate or length; give these, or videos"
        )
    if foreign:
        notes.append(f"latents that do not say their VAE are taken for normalised ones of {encoding.model.name}")
    if foreign and not 0.4 < (typical := sorted(foreign)[len(foreign) // 2]) < 1.6:
        notes.append(f"their deviation is {typical:.2f}, that of normalised ones about 1: were they normalised?")
    return Gathered([files[key] for key in sorted(files)], sorted(skipped), notes)


def check_free(
    output: Path, provenance: Mapping[str, Any] | None = None, calibrated: Collection[str] | None = None
) -> None:
    """Raise UsageError where `output` holds no bank, or given a provenance one that the new one does not make up for.

    That has this provenance, and no calibration but for the models of these fingerprints, by default none.
    """
    if not output.exists():
        return
    try:
        there = read_bank(output)
    except BankError as error:
        raise UsageError(f"{output} is no bank; give another --output, or --overwrite it") from error
    known = json.loads(json.dumps(provenance or {}))
    more = {c.fingerprint for c in there.calibrations} - set(calibrated or ()) if provenance is not None else set()
    if more or any(there.provenance.get(key) != value for key, value in known.items()):
        raise UsageError(f"{output} holds another bank; give another --output, or --overwrite it")


def build_bank(
    gathered: Gathered,
    encoding: Encoding,
    recipe: Recipe,
    output: Path,
    *,
    origin: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Bank:
    """Fit, save and return the bank of the gathered latents.

    Its bytes depend on the latents, the recipe, the framing, the model's name and `origin`, which joins the provenance,
    alone. Raises UsageError where `output` holds another one, unless `overwrite`.
    """
    channels = int(encoding.model.vae["z_dim"])
    sets = split_sources((file.source for file in gathered.files), recipe.held_out)
    parts = {
        name: Clips((f for f in gathered.files if sets[f.source] == name), channels)
        for name in ("placing", "scaling", "held out")
    }
    held = [file for file in gathered.files if sets[file.source] == "held out"]
    counts = {name: len(clips) for name, clips in parts.items()}
    provenance = _provenance("build", encoding, sets, counts, held) | {"recipe": asdict(recipe)}
    provenance |= dict(origin or {})
    if not overwrite:
        check_free(output, provenance)
    fit = fit_shell(parts["placing"], parts["scaling"], parts["held out"], recipe)
    provenance["coverage"] = round(fit.coverage, 4)
    space = encoding.model.name, fingerprint(encoding.model.vae)
    return save_bank(Bank(fit.shell, fit.guided, fit.clean, *space, provenance, fit.quantiles), output)


def train_bank(
    gathered: Gathered,
    encoding: Encoding,
    config: TrainConfig,
    held_out: float,
    folder: Path,
    output: Path,
    *,
    export: Path | None = None,
    overwrite: bool = False,
    on_epoch: Report = lambda stage, epoch, terms: None,
) -> Bank | None:
    """Train a manifold on all but the held-out videos, save it as a bank, and with `export` as a checkpoint.

    Raises UsageError where `output` or `export` holds anything but an earlier make, unless `overwrite`.

    Checkpoints go to `folder`, and a run found there goes on. Under `accelerate launch` or torchrun only the main
    process writes the bank; the others return None.
    """
    from accelerate import PartialState  # type: ignore[import-untyped]

    process = PartialState(cpu=encoding.device == "cpu")
    channels = int(encoding.model.vae["z_dim"])
    sets = split_sources((file.source for file in gathered.files), held_out)
    held = [file for file in gathered.files if sets[file.source] == "held out"]
    clips = Clips((file for file in gathered.files if sets[file.source] != "held out"), channels)
    provenance = _provenance("train", encoding, sets, {"training": len(clips), "held out": len(held)}, held)
    provenance |= {"recipe": asdict(config)}
    if not overwrite:
        check_free(output, provenance | {"recipe": _trained(output, config)})
        if export is not None and export.exists() and not _is_export(export, config):
            raise UsageError(f"{export} is no export of this training; give another --export, or --overwrite it")
    try:
        state = train_manifold(clips, config, folder, data=_digest(sets), on_epoch=on_epoch)
        if not process.is_main_process:
            return None
    finally:
        process.destroy_process_group()
    if export is not None:
        save_checkpoint(state, export, {"config": asdict(config), "epoch": config.epochs_shell})
    bank = manifold_bank(
        {name: state[name] for name in LAYERS},
        model=encoding.model.name,
        vae=fingerprint(encoding.model.vae),
        provenance=provenance,
        held_out=Clips(held, channels),
    )
    return save_bank(bank, output)


def _trained(path: Path, config: TrainConfig) -> dict[str, Any]:
    """The recipe of a bank there, if this training goes on from it with more epochs; else its own."""
    try:
        known = read_bank(path).provenance.get("recipe")
    except BankError:
        known = None
    return known if isinstance(known, dict) and _goes_on(known, config) else asdict(config)


def _is_export(path: Path, config: TrainConfig) -> bool:
    """Whether a checkpoint is one of this training, or of fewer epochs of it."""
    try:
        known = load_tensors(path, most=MAX_BYTES)["config"]
    except (BankError, TypeError, KeyError):
        return False
    return isinstance(known, dict) and _goes_on(known, config)


def _goes_on(known: Mapping[str, Any], config: TrainConfig) -> bool:
    wanted = asdict(config)
    epochs = [key for key in wanted if key.startswith("epochs")]
    less = all(isinstance(known.get(key), int) and known[key] <= wanted[key] for key in epochs)
    return less and all(known.get(key) == value for key, value in wanted.items() if key not in epochs)


def held_out_files(bank: Bank, files: Sequence[LatentFile]) -> tuple[list[LatentFile], str]:
    """Those files that the bank held out, and a remark; all of them where it names none of these."""
    named = set(bank.provenance.get("held_out", ()))
    held = [file for file in files if file.source in named]
    if held:
        return held, ""
    return list(files), "none of these videos is known to be held out by the bank; make sure that none made its anchors"


@torch.no_grad()
def calibrate_bank(
    bank: Bank,
    files: Sequence[LatentFile],
    pipe: WanPipeline,
    *,
    model: str,
    most: int = 16,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """The radius over sigma of the pipeline's transformers, from at most `most` held-out clips.

    Captions are those of the videos; a clip without one is denoised without a prompt, and no cfg is used. Raises
    BankError where the bank does not fit, ModelError where the model gives NaN, OutOfMemoryError and LostGpuError.
    """
    check_bank(bank, fingerprint(pipe.vae.config))
    device = device_of(pipe)
    _, *grid = pipe.transformer.config.patch_size
    clips = Clips(files, bank.shell.channels, device, grid=(grid[0], grid[1]))
    if not len(clips):
        raise UsageError("no clip to calibrate with; give videos or latents that did not make the anchors")
    clips = clips[:: -(-len(clips) // most)]
    captions = [file.caption for file, _ in clips.entries]
    with told("encoding prompts", SMALLER):
        states = [
            pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=512, device=device)[0]
            for text in captions
        ]
    boundary = pipe.config.get("boundary_ratio")

    def denoise(noised: Tensor, sigma: float, index: int) -> Tensor:
        second = boundary is not None and sigma < boundary and pipe.transformer_2 is not None
        transformer = pipe.transformer_2 if second else pipe.transformer
        timestep = torch.full((1,), 1000 * sigma, device=device)
        inputs = noised.to(transformer.dtype), timestep, states[index].to(transformer.dtype)
        velocity: Tensor = transformer(*inputs, return_dict=False)[0]
        if not torch.isfinite(velocity).all():
            raise ModelError(f"the model gave NaN or infinity at sigma {sigma:g}; check its weights or --dtype")
        return velocity

    shell = bank.shell.leading(bank.guided).to(device)
    with told("calibrating", SMALLER):
        curve = calibrate_radius(shell, clips, denoise, on_clip=lambda done: on_clip(done, len(clips)))
    return Calibration(model, pipeline_fingerprint(pipe), curve)


def _digest(sets: Mapping[str, str]) -> str:
    """One sha256 over the sources and what each is for."""
    return hashlib.sha256("\n".join(f"{source} {sets[source]}" for source in sorted(sets)).encode()).hexdigest()


def _provenance(
    command: str, encoding: Encoding, sets: Mapping[str, str], clips: Mapping[str, int], held: Sequence[LatentFile]
) -> dict[str, Any]:
    return {
        "source": f"videos or latents given to `shelllcc anchors {command}`",
        "made_by": f"shelllcc anchors {command}",
        "videos": len(sets),
        "clips": dict(clips),
        "sources_sha256": _digest(sets),
        "held_out": sorted({file.source for file in held})[:NAMED],
        "framing": asdict(encoding.framing),
    }
