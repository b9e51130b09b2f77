"""The commands `shelllcc anchors ...`: parse, one call, print. Heavy libraries are imported inside commands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.sources import (
    ClipsOption,
    Device,
    EngineName,
    Folder,
    Fps,
    Frames,
    ModelOption,
    Size,
    Sources,
    Workers,
    bank_for,
    encoding_of,
    latents_of,
    parse_shard,
)
from shelllcc.commands.tables import DOTS, facts, short, table
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank


app = typer.Typer(no_args_is_help=True, help="Make, fetch, check and study anchor banks.")


Output = Annotated[Path, typer.Option("--output", "-o", **options.TO, help="The bank to write, a .safetensors file.")]
BankArgument = Annotated[str, typer.Argument(metavar="BANK", help="A bank: a file, a name, or auto.")]
Json = options.Json


@app.command()
def build(
    sources: Sources,
    output: Output,
    model: ModelOption = None,
    kind: Annotated[str, typer.Option(help="covariance, or local for local coordinate coding.")] = "covariance",
    patch: Annotated[int, typer.Option(help="Side of a patch in latent voxels: 1 (the paper's) or 3.")] = 3,
    anchors: Annotated[int | None, typer.Option(help="Number of anchors. (default: by kind)")] = None,
    components: Annotated[int | None, typer.Option(help="Principal directions of patches. (default: by patch)")] = None,
    neighbours: Annotated[int | None, typer.Option(help="Anchors in a local code. (default: by patch)")] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Share of the videos that sets the distances. (default: 0.15)")
    ] = None,
    sample: Annotated[int | None, typer.Option(help="Most patches that a set contributes. (default: 200000)")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample and of k-means. (default: 0)")] = None,
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    clips: ClipsOption = 1,
    latents: Folder = None,
    engine: EngineName = "local",
    workers: Workers = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: encode that share of the videos and stop. (default: all)")
    ] = None,
    device: Device = None,
    overwrite: options.Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bank from good videos or their latents; an interrupted build goes on where it was."""
    from shelllcc.anchors.build import Recipe
    from shelllcc.guidance.wan.banks.make import build_bank

    _check_output(output, overwrite=overwrite)
    recipe = Recipe.usual(
        kind, patch, anchors=anchors, components=components, neighbours=neighbours, held_out=held_out, sample=sample,
        seed=seed,
    )  # fmt: skip
    encoding = encoding_of(model, size, fps, frames, clips, latents or output.with_suffix(".latents"), device)
    part = parse_shard(shard)
    gathered = latents_of(sources, encoding, workers, part, engine, device)
    if part != (0, 1):
        report = {"latents": str(encoding.folder), "files": len(gathered.files), "skipped": gathered.skipped}
        _print(report | {"next": "when all shards are done, the same command without --shard"}, as_json)
        return
    bank = build_bank(gathered, encoding, recipe, output, overwrite=overwrite)
    _print(_said(bank) | {"skipped": gathered.skipped}, as_json)


@app.command()
def start(
    model: ModelOption = None,
    add: Annotated[
        list[str] | None,
        typer.Option(help="Videos or latents of your own that join the photographs; may be repeated."),
    ] = None,
    workers: Workers = None,
    device: Device = None,
    overwrite: options.Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bank for any Wan VAE of photographs that ship: no video, no download. It is kept in your folder of banks.

    A second start takes what is there; --add makes it better, --overwrite makes it anew without what was added.
    """
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.jobs.engines import engine_of
    from shelllcc.guidance.wan.banks.start import start_bank, starter_path
    from shelllcc.guidance.wan.model.pipeline import find_latent_space, pick_device

    found = find_latent_space(model)
    _check_output(starter_path(found))
    target = pick_device(device)
    usual = (os.cpu_count() or 1) if target == "cpu" else 1
    engine = engine_of("local", workers or usual, device=target)
    with contextlib.redirect_stdout(sys.stderr), TerminalReporter() as reporter:
        reporter.stage("encoding photographs")
        bank = start_bank(
            found,
            device=target,
            add=add or (),
            engine=engine,
            overwrite=overwrite,
            on_clip=reporter.count,
            on_note=reporter.note,
        )
    _print(_said(bank), as_json)


@app.command()
def calibrate(
    bank: BankArgument,
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Videos or latents; those held out by the bank are used. (default: BANK.latents)"),
    ] = None,
    model: ModelOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", **options.TO, help="A bank to write with it. (default: beside, in your folder)"),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Clips to use at most.")] = 16,
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    clips: ClipsOption = 1,
    latents: Folder = None,
    workers: Workers = None,
    device: Device = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of the transformer: float32, bfloat16 or float16. (default: float32 on the CPU, else bfloat16)"
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure the radius over sigma for a model, from held-out real clips noised and denoised once.

    It is kept in your folder of banks; BANK itself is not written.
    """
    from shelllcc.anchors.bankfile import save_bank
    from shelllcc.anchors.shelf import calibrations_folder, keep_calibration, latents_folder, open_bank
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.banks.make import calibrate_bank, check_free, held_out_files
    from shelllcc.guidance.wan.model.loading import Loading
    from shelllcc.guidance.wan.model.pipeline import load_pipeline

    found = bank_for(bank, model)
    _check_output(output or calibrations_folder() / "x.safetensors", overwrite=overwrite)
    loading = Loading(dtype=dtype)
    path = found.path or Path(bank)
    folder = latents or latents_folder(path)
    if not sources and not folder.is_dir():
        raise UsageError(f"give held-out videos or latents: there is no {folder}")
    encoding = encoding_of(model, size, fps, frames, clips, folder, device, found)
    if not encoding.model.transformer:
        raise UsageError(f"{encoding.model.name} has no transformer to calibrate for; give --model")
    if output is not None and not overwrite:
        check_free(output, found.provenance, {*(c.fingerprint for c in found.calibrations), encoding.model.fingerprint})
    files, note = held_out_files(found, latents_of(sources or [str(folder)], encoding, workers).files)
    if note:
        streams.say(f"note: {note}")
    pipe = load_pipeline(encoding.model, loading, device=device)
    with TerminalReporter() as reporter:
        reporter.stage("calibrating")
        measured = calibrate_bank(found, files, pipe, model=encoding.model.name, most=most, on_clip=reporter.count)
    if output is None:
        written = keep_calibration(found, measured)
        _print({"calibration": str(written)} | _said(open_bank(path)), as_json)
    else:
        _print(_said(save_bank(found.with_calibration(measured), output)), as_json)


@app.command("import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(**options.FROM, help="A manifold in the form of the authors' shell_lcc.pth.")
    ],
    output: Output,
    model: ModelOption = "wan2.1-vae",
    held_out: Annotated[
        list[str] | None, typer.Option(help="Real videos or latents that set the radius. (default: 1)")
    ] = None,
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    latents: Folder = None,
    workers: Workers = None,
    device: Device = None,
    overwrite: options.Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a bank of the manifold that Shell-LCC's authors released."""
    from shelllcc.anchors.bankfile import save_bank
    from shelllcc.anchors.fingerprints import fingerprint
    from shelllcc.anchors.latents import Clips
    from shelllcc.anchors.manifold import import_checkpoint
    from shelllcc.guidance.wan.banks.make import check_free

    _check_output(output, overwrite=overwrite)
    encoding = encoding_of(model, size, fps, frames, 1, latents or output.with_suffix(".latents"), device)
    real = Clips(latents_of(held_out, encoding, workers).files if held_out else [], int(encoding.model.vae["z_dim"]))
    vae = fingerprint(encoding.model.vae)
    bank = import_checkpoint(checkpoint, model=encoding.model.name, vae=vae, held_out=real)
    if not overwrite:
        check_free(output, bank.provenance)
    _print(_said(save_bank(bank, output)), as_json)


@app.command()
def train(
    sources: Sources,
    output: Output,
    model: ModelOption = None,
    export: Annotated[
        Path | None, typer.Option(**options.TO, help="Also write the form of the authors' shell_lcc.pth.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(**options.TO, help="Checkpoints; a run found there goes on. (default: OUTPUT.training)"),
    ] = None,
    bases: Annotated[int | None, typer.Option(help="Anchors. (default: 4096)")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the networks. (default: 512)")] = None,
    epochs_skeleton: Annotated[int | None, typer.Option(help="Of the first stage. (default: 500)")] = None,
    epochs_shell: Annotated[int | None, typer.Option(help="Of the second stage. (default: 100)")] = None,
    clips_per_step: Annotated[int | None, typer.Option(help="In each process. (default: 2)")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Most voxels of a clip a step; less memory. (default: all)")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. (default: 0.001)")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the networks, the order and the draws. (default: 0)")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the videos that sets the radius.")] = 0.15,
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    clips: ClipsOption = 1,
    latents: Folder = None,
    workers: Workers = None,
    device: Device = None,
    overwrite: options.Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train the paper's manifold, a skeleton and then its shell, as its authors do.

    Several GPUs: `accelerate launch -m shelllcc anchors train ...` or torchrun.
    """
    from shelllcc.anchors.train import TrainConfig
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.banks.make import train_bank

    _check_output(output, overwrite=overwrite)
    if not 0 < held_out < 1:
        raise UsageError(f"--held-out is a share between 0 and 1, e.g. 0.15, got {held_out}")
    if export is not None and (export.is_dir() or not export.suffix):
        raise UsageError(f"--export is a file such as shell_lcc.pth, got {export}")
    given: dict[str, Any] = {
        "bases": bases, "hidden": hidden, "epochs_skeleton": epochs_skeleton, "epochs_shell": epochs_shell,
        "clips_per_step": clips_per_step, "tokens": tokens, "lr": lr, "seed": seed,
    }  # fmt: skip
    config = TrainConfig(**{key: value for key, value in given.items() if value is not None})
    encoding = encoding_of(model, size, fps, frames, clips, latents or output.with_suffix(".latents"), device)
    gathered = latents_of(sources, encoding, workers)
    folder = run or output.with_suffix(".training")
    with TerminalReporter() as reporter:

        def on_epoch(stage: str, epoch: int, terms: dict[str, float]) -> None:
            last = config.epochs_skeleton if stage == "skeleton" else config.epochs_shell
            if epoch == 1:
                reporter.stage(f"training the {stage}")
            state = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
            reporter.count(epoch, last, f"epoch {epoch}/{last}  {state}")

        bank = train_bank(
            gathered, encoding, config, held_out, folder, output, export=export, overwrite=overwrite, on_epoch=on_epoch
        )
    if bank is not None:
        _print(_said(bank), as_json)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A published name (see `anchors list`) or an http(s) URL.")],
    sha256: Annotated[str | None, typer.Option(help="Refuse a file of any other hash.")] = None,
    folder: Annotated[
        Path | None, typer.Option(**options.INTO, help="Where to. (default: the user's folder of banks)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a published bank or manifold. It guides once it is fitted to a model, or named by --bank."""
    from shelllcc.anchors.pull import check_name
    from shelllcc.anchors.pull import pull as fetch
    from shelllcc.anchors.shelf import user_folder
    from shelllcc.commands.progress import TerminalReporter

    check_name(name)
    with TerminalReporter() as reporter:
        reporter.stage(f"fetching {name}")
        place = folder or user_folder()
        bank = fetch(name, place, sha256=sha256, on_progress=reporter.fetched, on_note=reporter.note)
    _print(_said(bank), as_json)


@app.command()
def analyze(
    bank: BankArgument,
    real: Annotated[list[str], typer.Argument(help="Real videos or latents; those held out by the bank are judged.")],
    generated: Annotated[
        list[str] | None, typer.Option(help="Generated videos or latents to tell from them; may be repeated.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", **options.INTO, help="A folder.")] = Path("analysis"),
    model: ModelOption = None,
    most: Annotated[int, typer.Option(min=1, help="Clips of each kind at most.")] = 64,
    size: Size = None,
    fps: Fps = None,
    frames: Frames = None,
    clips: ClipsOption = 1,
    latents: Folder = None,
    workers: Workers = None,
    device: Device = None,
    overwrite: options.Overwrite = False,
    as_json: Json = False,
) -> None:
    """Study a bank: what it tells from real clips, which kind and how many videos do, what its shell looks like."""
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.banks.study import check_folder, study

    found = bank_for(bank, model)
    if not overwrite:
        check_folder(output, found)
    encoding = encoding_of(model, size, fps, frames, clips, latents or output / "latents", device, found)
    truth = latents_of(real, encoding, workers).files
    made = latents_of(generated, encoding, workers).files if generated else []
    with TerminalReporter() as reporter:
        table, notes = study(found, truth, made, encoding, output, most=most, on_stage=reporter.stage)
    for note in notes:
        streams.say(f"note: {note}")
    if as_json:
        streams.print_json(table)
        return
    heads = f"{'noise .1':>9}{'noise .2':>9}{'blur':>7}{'generated':>11}"
    streams.print_line(f"{'share of pairs with the real clip nearer':<52}{heads}")
    for name, row in table["distinguishability"].items():
        _print_shares(name, row)
    for row in table.get("data_efficiency", ()):
        _print_shares(f"fitted to {plural(row['videos'], 'video')}", row)
    streams.print_line(f"{'anchors in effective use':<52}{table['usage']['real']['effective']:>9.2f}")
    for path in table["files"]:
        streams.print_line(str(path))


@app.command()
def info(bank: BankArgument, as_json: Json = False) -> None:
    """What a bank holds, what it fits and where it came from."""
    from shelllcc.anchors.choose import choose_bank

    found, remarks = choose_bank(bank)
    for remark in remarks:
        streams.say(f"note: {remark}")
    said = _said(found, whole=True)
    if as_json:
        streams.print_json(said)
    else:
        _print_bank(said)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The banks that are known by name, and those that can be fetched."""
    from shelllcc.anchors.pull import PUBLISHED
    from shelllcc.anchors.shelf import all_banks, open_bank
    from shelllcc.guidance.errors import BankError

    banks: list[JsonObject] = []
    for path in all_banks():
        try:
            banks.append(_said(open_bank(path)))
        except BankError as error:
            banks.append({"bank": str(path), "broken": str(error)})
    published = {name: entry.about for name, entry in PUBLISHED.items()}
    if as_json:
        streams.print_json({"banks": banks, "published": published})
        return
    for entry in banks:
        streams.print_line(f"{Path(entry['bank']).stem:<16} {entry.get('broken') or entry['shape']}  {entry['bank']}")
    for name, about in published.items():
        streams.print_line(f"{name:<16} {about}; `shelllcc anchors pull {name}`")


@app.command()
def verify(
    bank: BankArgument,
    sha256: Annotated[str | None, typer.Option(help="The hash that the file must have.")] = None,
    as_json: Json = False,
) -> None:
    """Check that a bank is whole and unchanged; exit 1 where it is not."""
    from shelllcc.anchors.choose import choose_bank
    from shelllcc.guidance.errors import BankError

    found, _ = choose_bank(bank)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"--sha256 takes 64 hexadecimal digits, got {sha256!r}")
    if sha256 is not None and sha256.lower() != found.sha256:
        raise BankError(f"{found.path} has the sha256 {found.sha256}, not {sha256}: it is another file; fetch it anew")
    _print({"bank": str(found.path), "whole": True, "sha256": found.sha256}, as_json)


def _said(bank: Bank, *, whole: bool = False) -> JsonObject:
    """What to say of a bank; it takes torch."""
    from shelllcc.anchors.describe import describe

    return describe(bank, whole=whole)


def _print_bank(said: JsonObject) -> None:
    """A bank for people; --json has its provenance, every level and whole hashes."""
    plain = (str, int, float)
    about = {name: value for name, value in said.items() if isinstance(value, plain)}
    about |= {name: f"{said[name][:16]}{DOTS}" for name in ("identity", "sha256") if name in about}
    origin = said.get("provenance") or {}
    source = {"source" if name == "source" else f"source {name}": value for name, value in origin.items()}
    about |= {name.replace("_", " "): short(str(value)) for name, value in source.items() if isinstance(value, plain)}
    facts(about)
    distances = said.get("held_out_distance", {})
    rows = [(name.replace("_", " "), *(f"{value:.3f}" for value in row.values())) for name, row in distances.items()]
    if rows:
        table(("distance of real clips", *next(iter(distances.values()))), rows)
    curves = [
        (short(curve["model"], 40), *(f"{end(curve['sigmas']):.2f}" for end in (min, max)))
        for curve in said.get("calibrations", [])
    ]
    if curves:
        table(("calibrated for", "from sigma", "to"), curves)


def _print_shares(name: str, row: dict[str, float]) -> None:
    made = f"{row['generated']:>11.3f}" if "generated" in row else ""
    streams.print_line(f"{name:<52}{row['noise 0.1']:>9.3f}{row['noise 0.2']:>9.3f}{row['blur']:>7.3f}{made}")


def _check_output(path: Path, *, overwrite: bool = True) -> None:
    """Raise UsageError or OutputError where no bank can be written, or may not be without `overwrite`."""
    from shelllcc.guidance.errors import OutputError

    if path.suffix != ".safetensors":
        raise UsageError(f"a bank is a .safetensors file, got {path}")
    if len(path.name.encode()) > 240:
        raise OutputError(f"the name {path.name[:40]}... is too long for a file; give a shorter one")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file in it")
    existing = next(p for p in path.absolute().parents if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OutputError(f"cannot write to {path.parent}; give another --output")
    if not overwrite and path.exists():
        from shelllcc.guidance.wan.banks.make import check_free

        check_free(path)


def _print(report: JsonObject, as_json: bool) -> None:
    if as_json:
        streams.print_json(report)
        return
    for key, value in report.items():
        if value not in ([], None):
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            streams.print_line(f"{key:<18} {text}")
