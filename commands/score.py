"""The command `score`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.sources import (
    ClipsOption,
    Device,
    Fps,
    Frames,
    ModelOption,
    Size,
    Sources,
    bank_for,
    encoding_of,
)
from shelllcc.guidance.errors import UsageError


def score(
    files: Sources,
    bank: Annotated[
        str | None, typer.Option(help="A bank: a file or a name. (default: auto)", envvar="SHELLLCC_BANK")
    ] = None,
    model: ModelOption = None,
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    clips: ClipsOption = 1,
    device: Device = None,
    as_json: options.Json = False,
) -> None:
    """How far videos, or normalised latents, lie from a bank's shell.

    A distance is over that of real videos: 1 is theirs. Too smooth a clip may lie near, a noisy one far, so that a
    lower one is no better: for a verdict on two clips there is `compare`.

    Animated GIF and WebP, and folders that hold frames alone, are videos, too.

    Latents are safetensors with a key `latents`, (b c t h w), or the .pt (t c h w) of Shell-LCC's authors.
    """
    from shelllcc.anchors.choose import AUTO, choose_bank
    from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint
    from shelllcc.anchors.sources import Sources as Found
    from shelllcc.anchors.sources import expand
    from shelllcc.guidance.media.stills import is_stills
    from shelllcc.guidance.wan.banks.own_videos import leave_out_ours
    from shelllcc.guidance.wan.banks.score import score_files

    pictures = [path for path in map(Path, files) if is_stills(path)]
    others = [file for file in files if Path(file) not in pictures]
    found, notes = leave_out_ours(expand(others) if others or not pictures else Found((), ()))
    found = replace(found, videos=(*found.videos, *pictures))
    for note in notes:
        streams.say(f"note: {note}")
    named = bank not in (None, AUTO)
    if named and model is None and not found.videos and choose_bank(bank)[0].vae == fingerprint(WAN21_VAE):
        model = "wan2.1-vae"
    chosen = bank_for(bank, model)
    encoding = encoding_of(model, size, fps, frames, clips, Path(), device, chosen if named else None)
    scores = list(score_files(found, chosen, encoding, on_problem=lambda line: streams.say(f"note: {line}")))
    if not scores:
        raise UsageError("none of the files could be scored; the notes say why")
    if as_json:
        rows = [{"file": str(s.path), "clip": s.clip} | asdict(s.score) | {"outside": s.score.outside} for s in scores]
        streams.print_json({"bank": str(chosen.path), "sha256": chosen.sha256, "scores": rows})
        return
    streams.print_line(f"{'mean':>8}{'median':>8}{'5%':>8}{'95%':>8}{'nearer':>8}{'farther':>8}  per latent frame")
    for scored in scores:
        row = scored.score
        ends = row.quantiles["0.05"], row.quantiles["0.95"]
        shares = "".join(f"{share:>8.3f}" if share is not None else f"{'-':>8}" for share in (row.below, row.above))
        curve = " ".join(f"{value:.2f}" for value in row.per_frame)
        name = f"{scored.path}[{scored.clip}]" if scored.clip else str(scored.path)
        streams.print_line(f"{row.mean:>8.3f}{row.median:>8.3f}{ends[0]:>8.3f}{ends[1]:>8.3f}{shares}  {curve}  {name}")
