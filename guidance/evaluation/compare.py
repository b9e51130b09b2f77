"""Comparing: prompts sampled in several variants, or videos that exist. Knows nothing of terminals."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.evaluation.figures import change, figures
from shelllcc.guidance.evaluation.runs import Layout, Run, Shown
from shelllcc.guidance.evaluation.sweep import Sweep
from shelllcc.guidance.files import sha256_of, whole_file
from shelllcc.guidance.wan.footage import read_video
from shelllcc.guidance.wan.parse import Variant, slug
from shelllcc.guidance.wan.plan import Resolved
from shelllcc.guidance.wan.recorded import bank_record, model_record
from shelllcc.guidance.wan.request import Request
from shelllcc.guidance.wan.studio import Studio
from shelllcc.guidance.wan.video import write_video

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TAKEN = ("compare", "montage", "trace")  # an item's pictures are called so


def run_of(folder: Path, title: str, resolved: Resolved, requests: Sequence[Request], asked: Mapping[str, Any]) -> Run:
    """The run of these requests in a folder; `asked` is what else decides on its clips."""
    first, bank = requests[0], resolved.bank
    common = {"title": title, "model": model_record(resolved.model), "bank": bank_record(bank)}
    common |= {"dtype": resolved.loading.dtype, "loading": resolved.loading.recipe()}
    varying = ("prompt", "seed", "strength")
    settings = {
        "model": resolved.model.name,
        "bank": bank and bank.name,
        **{k: v for k, v in first.as_dict().items() if k not in varying and v is not None},
    }
    everything = common | {"requests": [request.as_dict() for request in requests]} | dict(asked)
    return Run(folder, title=title, asked=everything, settings=settings, fps=first.fps)


def check_variants(variants: Sequence[Variant], requests: Sequence[Request], resolved: Resolved) -> None:
    """Raise UsageError for variants that cannot be compared."""
    if len(variants) < 2:
        raise UsageError("there is nothing to compare; give two --strengths or --variants or more, e.g. 0,1")
    if taken := next((v.label for v in variants if v.label in TAKEN), None):
        raise UsageError(f"a variant cannot be named {taken}: a file of the run is; give it another name")
    for variant in variants:
        guides = any(replace(request, **variant.settings).strength for request in requests)
        if guides and resolved.bank is None:
            raise UsageError("to guide there must be a bank; " + " ".join(resolved.notes))


def compare_prompts(
    run: Run,
    resolved: Resolved,
    requests: Sequence[Request],
    variants: Sequence[Variant],
    studio: Studio,
    *,
    layout: Layout = "authors",
    embed: bool = False,
) -> Iterator[dict[str, Any]]:
    """Sample what is not there yet; yields the record of each request, its clips judged beside the first variant's.

    Manifest, results and page are those of the finished requests, also when it is interrupted.
    """
    studio.expect(requests)
    try:
        for index, request in enumerate(requests):
            with contextlib.closing(Sweep(run, index, request, resolved, variants, studio)) as sweep:
                for variant in variants:
                    sweep.clip(variant)
            studio.reporter.stage(f"{index:02d} pictures")
            yield run.show(index, prompt=request.prompt, seed=request.seed, clips=sweep.shown())
    finally:
        if run.items:
            run.publish(layout=layout, embed=embed)


def compare_videos(
    videos: Sequence[Path],
    folder: Path,
    *,
    layout: Layout = "authors",
    embed: bool = False,
    anew: bool = False,
    on_note: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Any], Path]:
    """The record of existing videos of one size, judged beside the first, and the page.

    mp4 files are copied, others encoded. Where they differ in length, all are measured over the frames of the shortest.
    Raises UsageError for other sizes.
    """
    if len(videos) < 2:
        raise UsageError("give two videos or more, the reference first: shelllcc compare BASE.mp4 OTHER.mp4")
    read = [read_video(path) for path in videos]
    shapes = {frames.shape[1:3] for frames, _ in read}
    if len(shapes) > 1:
        sizes = ", ".join(f"{p.name} {f.shape[2]}x{f.shape[1]}" for p, (f, _) in zip(videos, read, strict=True))
        raise UsageError(f"videos of one size can be compared, these are {sizes}")
    shortest = min(len(frames) for frames, _ in read)
    if any(len(frames) != shortest for frames, _ in read):
        on_note(f"the videos differ in length: figures are of the first {shortest} frames")
    rates = [rate for _, rate in read]
    if max(rates) > 1.01 * min(rates):
        on_note("the videos differ in frame rate: frames are compared one by one, and shown at the first one's")
    labels = _labels(videos)
    asked = {
        "title": "compare",
        "videos": [{"label": n, "sha256": sha256_of(p)} for n, p in zip(labels, videos, strict=True)],
    }
    settings = {label: str(path) for label, path in zip(labels, videos, strict=True)}
    run = Run(folder, title="compare", asked=asked, settings=settings, fps=round(rates[0], 3), inputs=videos)
    with run.held(anew=anew):
        run.record.add(*(run.path(0, f"{label}.mp4").name for label in labels))
        shown = []
        for label, path, (frames, _) in zip(labels, videos, read, strict=True):
            file = run.path(0, f"{label}.mp4")
            _copy(path, file, frames, run.fps)
            part, reference = frames[:shortest], read[0][0][:shortest]
            size = (frames.shape[2], frames.shape[1])
            shown.append(Shown(label, label, file.name, size, len(frames), {}, figures(part), change(part, reference)))
        item = run.show(0, prompt=" | ".join(path.name for path in videos), seed=None, clips=shown)
        return item, run.publish(layout=layout, embed=embed)


def _copy(path: Path, file: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """An mp4 as it is; another video as H.264, without an odd row or column, which that cannot hold."""
    if path.suffix.lower() == ".mp4":
        with whole_file(file) as part:
            shutil.copyfile(path, part)
    else:
        height, width = (side // 2 * 2 for side in frames.shape[1:3])
        write_video(file, frames[:, :height, :width], fps=fps)


def _labels(videos: Sequence[Path]) -> list[str]:
    """A name for each video, from its file's; a number goes behind names that come twice, or are taken."""
    names: list[str] = []
    for number, path in enumerate(videos):
        name = slug(path.stem, "video")
        names.append(f"{name}-{number}" if name in (*names, *TAKEN) else name)
    return names
