"""The study of a bank as files: analysis.json, a picture of its figures, and its shell decoded at several radii."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.build import split_sources
from shelllcc.anchors.latents import Clips, LatentFile
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import whole_file, write_json
from shelllcc.guidance.media.pictures import write_png
from shelllcc.guidance.media.video import check_output, read_tag, write_video
from shelllcc.guidance.wan.banks.analyze import analyze, radial
from shelllcc.guidance.wan.banks.encode import Encoding
from shelllcc.guidance.wan.model.pipeline import LATENTS_ALONE, load_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

FILES = ("analysis.json", "analysis.png", "radial.mp4", "radial.png")
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
TILE = 320  # pixels, the widest of a tile


def check_folder(folder: Path, bank: Bank) -> None:
    """Raise UsageError where there can be no folder, or a study of `bank` would replace other files than its own."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder as --output")
    check_output(folder / FILES[0])
    there = [folder / name for name in FILES if os.path.lexists(folder / name)]
    if not there:
        return
    try:
        known = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))["bank"]["sha256"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        known = None
    video = folder / "radial.mp4"
    if known != bank.sha256 or (video in there and read_tag(video).get("shows") != "radial"):
        raise UsageError(f"{there[0]} is of no study of this bank; give another --output, or --overwrite it")


def study(
    bank: Bank,
    real: Sequence[LatentFile],
    generated: Sequence[LatentFile],
    encoding: Encoding,
    folder: Path,
    *,
    most: int = 64,
    on_stage: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, Any], list[str]]:
    """Analyze the bank and write analysis.json, analysis.png, radial.mp4 and radial.png; the table, and remarks.

    Real videos that the bank held out are judged; where it names none of them, every other one is, and the rest are
    there for other banks to be fitted to.
    """
    notes = []
    named = set(bank.provenance.get("held_out", ()))
    sets = {file.source: "held out" if file.source in named else "placing" for file in real}
    if "held out" not in sets.values():
        notes.append(
            "the bank held none of these videos out; half of them are judged, and none may have made its anchors"
        )
        sets = split_sources(sets, 0.5) if len(sets) >= 3 else dict.fromkeys(sets, "held out")
    channels = bank.shell.channels
    held = Clips((file for file in real if sets[file.source] == "held out"), channels)
    others = sorted((file for file in real if sets[file.source] != "held out"), key=lambda file: file.source)
    fit = [Clips(files, channels) for _, files in groupby(others, key=lambda file: file.source)]
    if not len(held):
        raise UsageError("there is no held-out real clip to judge")
    table = analyze(bank, fit, held[:most], Clips(generated, channels)[:most], on_stage=on_stage)
    table |= {"bank": {"path": str(bank.path), "sha256": bank.sha256}, "files": []}
    write_json(folder / "analysis.json", table)  # by which a study that goes on knows the other files
    paths = [folder / "analysis.json"]
    if encoding.model.source == LATENTS_ALONE:
        notes.append("no radial reconstruction: it needs a model with a VAE's weights")
    else:
        on_stage("radial reconstruction")
        vae = load_vae(encoding.model.source, encoding.model.revision, device=encoding.device)
        tiles = radial_tiles(bank, held[0], vae)
        grid = _grid(tiles)
        write_video(folder / "radial.mp4", grid, fps=round(encoding.framing.fps or 16), record={"shows": "radial"})
        write_png(folder / "radial.png", np.concatenate([tile[len(tile) // 2] for tile in tiles], axis=1))
        paths += [folder / "radial.mp4", folder / "radial.png"]
    on_stage("picture")
    try:
        _draw(table, folder / "analysis.png")
        paths.append(folder / "analysis.png")
    except ImportError:
        notes.append("no picture: it needs matplotlib (pip install 'shelllcc[plots]')")
    table["files"] = [str(path) for path in paths]
    write_json(folder / "analysis.json", table)
    return table, notes


@torch.no_grad()
def radial_tiles(bank: Bank, latents: Tensor, vae: AutoencoderKLWan) -> list[Frames]:
    """The clip decoded with its residuals stretched by each of RADII, uint8 (t, H, W, 3), labelled.

    `latents` (c t h w) are normalised, as the bank is."""
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    tiles = []
    for radius in RADII:
        stretched = radial(bank.shell, latents, radius)[None] * std + mean
        video = vae.decode(stretched.to(vae.device)).sample[0].clamp(-1, 1).cpu()
        frames = ((video + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
        tiles.append(np.stack([_labelled(frame, f"r = {radius:g}") for frame in frames]))
    return tiles


def _labelled(frame: Frames, text: str) -> Frames:
    from PIL import Image, ImageDraw

    picture = Image.fromarray(frame)
    if picture.width > TILE:
        picture = picture.resize((TILE, round(frame.shape[0] * TILE / frame.shape[1] / 2) * 2), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 9 * len(text), 17), fill="black")
    draw.text((4, 2), text, fill="white", font_size=13)
    return np.asarray(picture)


def _grid(tiles: Sequence[Frames], across: int = 3) -> Frames:
    rows = [np.concatenate(tiles[i : i + across], axis=2) for i in range(0, len(tiles), across)]
    return np.concatenate(rows, axis=1)


def _draw(table: dict[str, Any], path: Path) -> None:
    """Histograms, distinguishability by kind of bank, data efficiency and usage in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, ((top, kinds), (efficiency, use)) = pyplot.subplots(2, 2, figsize=(13, 8.5), layout="constrained")
    edges = table["distance"]["edges"]
    for name, row in table["distance"]["sets"].items():
        top.stairs(row["histogram"], edges, label=f"{name}, mean {row['mean']:.2f}")
    top.set(
        title="Distance of patches", xlabel="shell distance; the last bin holds all beyond", ylabel="share of patches"
    )
    top.legend()

    names = list(table["distinguishability"])
    conditions = list(table["distinguishability"][names[0]])
    height = 0.8 / len(conditions)
    for i, condition in enumerate(conditions):
        places = [row + i * height for row in range(len(names))]
        kinds.barh(places, [table["distinguishability"][name][condition] for name in names], height, label=condition)
    kinds.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names, fontsize=8)
    kinds.invert_yaxis()
    kinds.axvline(0.5, color="grey", linewidth=0.8)
    kinds.set(title="Share of pairs with the real clip nearer", xlim=(0, 1))
    figure.legend(*kinds.get_legend_handles_labels(), loc="outside lower right", ncols=len(conditions))

    rows = table.get("data_efficiency", [])
    for condition in conditions if rows else ():
        efficiency.plot([row["videos"] for row in rows], [row[condition] for row in rows], "o-", label=condition)
    efficiency.set(title="Videos used by the bank", xlabel="videos", ylabel="share of pairs", ylim=(0, 1.02))
    if rows:
        efficiency.set_xscale("log")
        efficiency.set_xticks([row["videos"] for row in rows], [str(row["videos"]) for row in rows])
        efficiency.minorticks_off()

    for name, row in table["usage"].items():
        label = f"{name}, {row['effective']:.0%} in effective use"
        use.plot(range(1, len(row["shares"]) + 1), row["shares"], label=label)
    use.set(title="Anchors by use", xlabel="anchor, most used first", ylabel="share of patches")
    use.legend()
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
