"""Comparing: prompts sampled in several variants, or videos that exist. Knows nothing of terminals."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import sha256_of, whole_file
from shelllcc.guidance.measures.figures import change, figures
from shelllcc.guidance.measures.verdict import Verdict
from shelllcc.guidance.media.footage import Footage, read_video
from shelllcc.guidance.media.video import frames_in, write_video
from shelllcc.guidance.wan.clips.parse import Variant, slug
from shelllcc.guidance.wan.clips.plan import Resolved
from shelllcc.guidance.wan.clips.recorded import bank_record, model_record
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.workbench.runs import Layout, Run, Shown
from shelllcc.guidance.workbench.sweep import Sweep

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
    A damaged one is not measured. Raises UsageError for other sizes, VideoError for one of which nothing can be read.
    """
    if len(videos) < 2:
        raise UsageError("give two videos or more, the reference first: shelllcc compare BASE.mp4 OTHER.mp4")
    read = [read_video(path) for path in videos]
    shapes = {video.frames.shape[1:3] for video in read}
    if len(shapes) > 1:
        pairs = zip(videos, (video.frames for video in read), strict=True)
        sizes = ", ".join(f"{path.name} {frames.shape[2]}x{frames.shape[1]}" for path, frames in pairs)
        raise UsageError(f"videos of one size can be compared, these are {sizes}")
    for line in _remarks(videos, read):
        on_note(line)
    shortest = min((len(video.frames) for video in read if not video.damaged), default=0)
    labels = _labels(videos)
    asked = {
        "title": "compare",
        "videos": [{"label": n, "sha256": sha256_of(p)} for n, p in zip(labels, videos, strict=True)],
    }
    settings = {label: str(path) for label, path in zip(labels, videos, strict=True)}
    run = Run(folder, title="compare", asked=asked, settings=settings, fps=round(read[0].rate, 3), inputs=videos)
    with run.held(anew=anew):
        run.record.add(*(run.path(0, f"{label}.mp4").name for label in labels))
        shown = []
        for label, path, video in zip(labels, videos, read, strict=True):
            file = run.path(0, f"{label}.mp4")
            if (
                path.suffix.lower() == ".mp4"
                and file.is_file()
                and sha256_of(file) != sha256_of(path)
                and frames_in(file)
            ):
                raise UsageError(f"{file} is not the copy that this run made; move it away, or give another --output")
            _copy(path, file, video.frames, run.fps)
            withheld = _withheld(video, read[0])
            part = video.frames[:shortest]
            own = {} if video.damaged else figures(part)
            apart = 0.0 if withheld else change(part, read[0].frames[:shortest])
            size, length = (video.frames.shape[2], video.frames.shape[1]), len(video.frames)
            shown.append(Shown(label, label, file.name, size, length, {}, own, apart, withheld=withheld))
        item = run.show(0, prompt=" | ".join(path.name for path in videos), seed=None, clips=shown)
        return item, run.publish(layout=layout, embed=embed)


def _remarks(videos: Sequence[Path], read: Sequence[Footage]) -> Iterator[str]:
    """What to know of videos that are not all sound, SDR, of one length and one frame rate."""
    for path, video in zip(videos, read, strict=True):
        if video.damaged:
            yield f"{path} is damaged: {_loss(video)}"
        if video.hdr:
            yield f"{path} is HDR ({video.hdr}); its frames were tone-mapped, as `anchors build` does"
    lengths = [len(video.frames) for video in read if not video.damaged]
    if len(set(lengths)) > 1:
        yield f"the videos differ in length: figures are of the first {min(lengths)} frames"
    rates = [video.rate for video in read]
    if max(rates) > 1.01 * min(rates):
        yield "the videos differ in frame rate: frames are compared one by one, and shown at the first one's"


def _withheld(video: Footage, reference: Footage) -> Verdict | None:
    """What is said in place of a verdict on quality, where the frames of the two do not tell it."""
    if video.damaged:
        return Verdict("damaged", _loss(video))
    if reference.damaged:
        return Verdict("not comparable", f"the reference is damaged: {_loss(reference)}")
    if video.hdr != reference.hdr:  # a tone curve changes contrast and detail by itself
        kinds = [f"HDR ({kind}), tone-mapped," if kind else "SDR" for kind in (video.hdr, reference.hdr)]
        return Verdict("not comparable", f"{kinds[0]} beside {kinds[1]}".rstrip(","))
    return None


def _loss(video: Footage) -> str:
    return f"{video.damaged} of {video.total} frames could not be decoded"


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
