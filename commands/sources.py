"""Options of commands that read videos or latents, and what these name: latents, encoded where they are not yet."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import options, streams
from shelllcc.guidance.errors import UsageError

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.wan.banks.encode import Encoding
    from shelllcc.guidance.wan.banks.make import Gathered

Sources = Annotated[
    list[str], typer.Argument(help="Videos, or latents (.safetensors, .pt): files, folders, globs, text lists.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Whose VAE: a diffusers folder or hub id; `wan2.1-vae` for ready latents of it. (default: the tiny Wan)",
        envvar="SHELLLCC_MODEL",
    ),
]
Size = Annotated[
    str | None, typer.Option("--size", help="272p, 480p, 720p, 1080p or WIDTHxHEIGHT. (default: the model's)")
]
Fps = Annotated[float | None, typer.Option("--fps", help="Frame rate; 0 keeps the file's own. (default: the model's)")]
Frames = Annotated[int | None, typer.Option("--frames", help="Of a clip, 4n+1. (default: the model's)")]
ClipsOption = Annotated[int, typer.Option("--clips", help="Most clips taken from one video.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--latents", **options.TO, help="Where encoded videos are kept (default: a .latents folder beside the bank)."
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes. (default: the cores; 1 on a GPU)")]
EngineName = Annotated[
    str, typer.Option("--engine", help="local, or ray for a running Ray cluster (or this machine as one).")
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1. (default: cuda where there is one)", envvar="SHELLLCC_DEVICE"),
]


def bank_for(name: str | None, model: str | None) -> Bank:
    """The bank of that name for the latents of that model; what the user should hear of it is said."""
    from shelllcc.anchors.choose import choose_bank
    from shelllcc.anchors.fingerprints import fingerprint
    from shelllcc.guidance.wan.model.pipeline import find_latent_space

    bank, remarks = choose_bank(name, fingerprint(find_latent_space(model).vae))
    for remark in remarks:
        streams.say(f"note: {remark}")
    return bank


def encoding_of(
    model: str | None,
    size: str | None,
    fps: float | None,
    frames: int | None,
    clips: int,
    folder: Path,
    device: str | None,
    bank: Bank | None = None,
) -> Encoding:
    """How to encode videos: what was asked for, or else as the bank's own were, or else what suits the model."""
    from shelllcc.guidance.wan.banks.encode import Encoding
    from shelllcc.guidance.wan.banks.framing import framing_of
    from shelllcc.guidance.wan.model.pipeline import find_latent_space, pick_device, vae_weights

    found = find_latent_space(model)
    framing = framing_of(found, bank, size=size, fps=fps, frames=frames, clips=clips)
    return Encoding(found, framing, folder, pick_device(device), vae_weights(found))


def latents_of(
    sources: list[str],
    encoding: Encoding,
    workers: int | None,
    shard: tuple[int, int] = (0, 1),
    engine: str = "local",
    device: str | None = None,
) -> Gathered:
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.jobs.engines import engine_of
    from shelllcc.guidance.wan.banks.make import gather

    if engine == "local" and workers is None:
        workers = (os.cpu_count() or 1) if encoding.device == "cpu" else 1
    chosen = engine_of(engine, workers, device=device if engine == "ray" else encoding.device)
    encoding = replace(encoding, device=chosen.device or encoding.device)
    with contextlib.redirect_stdout(sys.stderr), TerminalReporter() as reporter:  # Ray says there that a worker died
        reporter.stage("encoding")
        gathered = gather(sources, encoding, engine=chosen, shard=shard, on_file=reporter.count)
    for note in (*(f"skipped: {reason}" for reason in gathered.skipped), *gathered.notes):
        streams.say(f"note: {note}")
    if not gathered.files:
        raise UsageError("none of the sources could be used; the notes say why")
    return gathered


def parse_shard(text: str | None) -> tuple[int, int]:
    """(i, n) of i/n, i from 0 or as Slurm counts, below n."""
    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    sound = all(part.isdecimal() and len(part) < 10 for part in (index, count))
    if not (sound and int(index) < int(count)):
        raise UsageError(f"a shard is i/n with i from 0 to n-1, e.g. 0/4, got {text}")
    return int(index), int(count)
