"""Options that several commands share, each said once. Knows nothing of what the commands do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Prompts = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="What to show; may be repeated.")]
PromptsFile = Annotated[
    Path | None,
    typer.Option("--prompts-file", help="Prompts, one a line, flags of its own at its end; # starts a comment."),
]
NegativePrompt = Annotated[str | None, typer.Option("--negative-prompt", help="What to avoid.")]
Steps = Annotated[int | None, typer.Option("--steps", "--num-inference-steps", help="Sampling steps.")]
Cfg = Annotated[float | None, typer.Option("--cfg", "--guidance-scale", help="Classifier-free guidance.")]
Cfg2 = Annotated[
    float | None, typer.Option("--cfg-2", "--guidance-scale-2", help="Of a second transformer (Wan2.2-A14B).")
]
Shift = Annotated[float | None, typer.Option("--shift", "--flow-shift", help="Flow shift.")]
Frames = Annotated[int | None, typer.Option("--frames", "--num-frames", help="4n+1.")]
Size = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels, e.g. 832x480.")]
Fps = Annotated[int | None, typer.Option("--fps", help="Of the file.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="A diffusers folder or hub id; the embedded tiny Wan if not given.", envvar="SHELLLCC_MODEL"
    ),
]
Preset = Annotated[str | None, typer.Option("--preset", help="Named defaults; chosen by the model if not given.")]
Strength = Annotated[
    str | None,
    typer.Option(
        "--strength",
        help="Of the guidance: 0 is off, 1 the default, 2 twice; `auto` is what `tune` found for the prompt.",
        envvar="SHELLLCC_STRENGTH",
    ),
]
Radius = Annotated[float | None, typer.Option("--radius", help="Sharpness: factor on the radius of real latents.")]
Window = Annotated[str | None, typer.Option("--window", help="LOW:HIGH, the sigmas at which the guide acts.")]
Bank = Annotated[
    str | None,
    typer.Option("--bank", help="Anchor bank: a file or a shipped name. (default: auto)", envvar="SHELLLCC_BANK"),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1.", envvar="SHELLLCC_DEVICE")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; the VAE stays float32.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

Folder = Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder; a run goes on where it was.")]
Seeds = Annotated[str | None, typer.Option("--seeds", "--seed", help="Of the noise, e.g. 0,1,2. (default: 0)")]
Embed = Annotated[bool, typer.Option("--embed", help="Put the videos into the page: one file to send.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove the run that the folder holds.")]
Replay = Annotated[
    Path | None, typer.Option("--replay-folder", help="Keep the steps that strengths share there, not in memory.")
]


def print_json(record: Any) -> None:
    print(json.dumps(record, ensure_ascii=False))


def say(line: str) -> None:
    """A line to the user, on stderr."""
    print(f"shelllcc: {line}".encode(errors="replace").decode(), file=sys.stderr)
