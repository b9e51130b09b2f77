"""Comparing: prompts sampled in several variants, or videos that exist. Knows nothing of terminals."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import UsageError, VideoError
from shelllcc.guidance.files import JsonObject, sha256_of, whole_file
from shelllcc.guidance.measures.figures import change, figures
from shelllcc.guidance.measures.verdict import Verdict
from shelllcc.guidance.media.footage import Footage, read_video
from shelllcc.guidance.media.stills import as_video, content_sha256
from shelllcc.guidance.media.video import frames_in, write_video
from shelllcc.guidance.paths import reason
from shelllcc.guidance.terminal import shown
from shelllcc.guidance.wan.clips.generate import left_alone
from shelllcc.guidance.wan.clips.parse import Variant, slug
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.words import plural
from shelllcc.guidance.workbench.planned import TAKEN, Planned
from shelllcc.guidance.workbench.runs import Layout, Run, Shown
from shelllcc.guidance.workbench.sweep import Sweep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def compare_prompts(
    run: Run,
    planned: Planned,
    variants: Sequence[Variant],
    studio: Studio,
    *,
    layout: Layout = "authors",
    embed: bool = False,
    on_note: Callable[[str], None] = lambda line: None,
) -> Iterator[JsonObject]:
    """Sample what is not there yet; yields the record of each request, its clips judged beside the first variant's.

    Manifest, results and page are those of the finished requests, also when it is interrupted. `on_note` hears where
    the guide did nothing.
    """
    studio.expect(planned.requests)
    if not any(request.changed(**way.settings).guide.strength for request in planned.requests for way in variants):
        on_note("no clip is guided: every variant has strength 0")
    try:
        for index, request in enumerate(planned.requests):
            with contextlib.closing(Sweep(run, index, request, planned.resolved, variants, studio)) as sweep:
                for variant in variants:
                    if (why := left_alone(sweep.clip(variant))) is not None:
                        on_note(f"{variant.title}: {why}")
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
) -> tuple[JsonObject, Path]:
    """The record of existing videos of one size, judged beside the first, and the page.

    mp4 files are copied, others encoded. Where they differ in length, all are measured over the frames of the shortest.
    A damaged one is not measured. Raises UsageError for other sizes, VideoError for one of which nothing can be read,
    or that changes meanwhile: what is hashed, measured and copied is one content.
    """
    _check_count(videos)
    hashes = _hashes(videos)
    read = _read_alike(videos)
    for path, known in zip(videos, hashes, strict=True):
        _check_same(content_sha256(path), known, path)
    for line in _remarks(videos, read):
        on_note(line)
    named = dict(zip(_labels(videos), videos, strict=True))
    run = _run_of(named, hashes, folder, fps=round(read[0].rate, 3))
    with run.held(anew=anew):
        run.record.add(*(run.path(0, f"{label}.mp4").name for label in named))
        shown = list(_shown(run, named, read, hashes))
        item = run.show(0, prompt=" | ".join(path.name for path in videos), seed=None, clips=shown)
        return item, run.publish(layout=layout, embed=embed)


def check_videos(videos: Sequence[Path], folder: Path, *, anew: bool = False) -> None:
    """Raise as `compare_videos` would for so many videos, for one that is not there, and for the folder."""
    _check_count(videos)
    _run_of(dict(zip(_labels(videos), videos, strict=True)), _hashes(videos), folder, fps=1).check(anew=anew)


def _hashes(videos: Sequence[Path]) -> list[str]:
    """What videos hold. Raises VideoError for one that is not there or cannot be read."""
    found = []
    for path in videos:
        try:
            found.append(content_sha256(path))
        except (OSError, ValueError) as error:
            raise VideoError(f"cannot read {shown(str(path))}: {reason(error)}") from error
    return found


def folder_of(videos: Sequence[Path]) -> Path:
    """Where videos are compared if no folder is given."""
    return Path("outputs") / f"compare-{slug(videos[0].stem)}"


def _check_count(videos: Sequence[Path]) -> None:
    if len(videos) < 2:
        raise UsageError("give two videos or more, the reference first: shelllcc compare BASE.mp4 OTHER.mp4")


def _read_alike(videos: Sequence[Path]) -> list[Footage]:
    """The videos, read. Raises UsageError unless they are of one size."""
    read = [_read(path) for path in videos]
    if len({video.frames.shape[1:3] for video in read}) > 1:
        pairs = zip(videos, (video.frames for video in read), strict=True)
        sizes = ", ".join(f"{path.name} {frames.shape[2]}x{frames.shape[1]}" for path, frames in pairs)
        raise UsageError(f"videos of one size can be compared, these are {sizes}")
    return read


def _read(path: Path) -> Footage:
    with as_video(path) as file:
        return read_video(file)


def _check_same(now: str, then: str, path: Path) -> None:
    """Raise VideoError where a video is another one by now."""
    if now != then:
        raise VideoError(f"{shown(str(path))} changed while it was compared; give the command anew when it is finished")


def _run_of(named: Mapping[str, Path], hashes: Sequence[str], folder: Path, *, fps: float) -> Run:
    """The run of existing videos, by label, and what they hold."""
    about = [{"label": label, "sha256": known} for label, known in zip(named, hashes, strict=True)]
    asked: JsonObject = {"title": "compare", "videos": about}
    settings = {label: str(path) for label, path in named.items()}
    return Run(folder, title="compare", asked=asked, settings=settings, fps=fps, inputs=named.values())


def _shown(run: Run, named: Mapping[str, Path], read: Sequence[Footage], hashes: Sequence[str]) -> Iterator[Shown]:
    """The videos, taken into the run's folder and measured as far as all of them go."""
    shortest = min((len(video.frames) for video in read if not video.damaged), default=0)
    for (label, path), video, known in zip(named.items(), read, hashes, strict=True):
        file = run.path(0, f"{label}.mp4")
        _check_copy(path, file)
        _copy(path, file, video.frames, run.fps, known)
        withheld = _withheld(video, read[0])
        part = video.frames[:shortest]
        own = {} if video.damaged else figures(part)
        apart = 0.0 if withheld else change(part, read[0].frames[:shortest])
        size, length = (video.frames.shape[2], video.frames.shape[1]), len(video.frames)
        yield Shown(label, label, file.name, size, length, {}, own, apart, withheld=withheld)


def _remarks(videos: Sequence[Path], read: Sequence[Footage]) -> Iterator[str]:
    """What to know of videos that are not all sound, SDR, of one length and one frame rate."""
    for path, video in zip(videos, read, strict=True):
        if video.damaged:
            yield f"{path} is damaged: {_loss(video)}"
        if video.hdr:
            yield f"{path} is HDR ({video.hdr}); its frames were tone-mapped, as `anchors build` does"
    lengths = [len(video.frames) for video in read if not video.damaged]
    if len(set(lengths)) > 1:
        yield f"the videos differ in length: figures are of the first {plural(min(lengths), 'frame')}"
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
    return f"{video.damaged} of {plural(video.total, 'frame')} could not be decoded"


def _check_copy(path: Path, file: Path) -> None:
    """Raise UsageError where somebody's video lies in the place of an mp4's copy. A torn one is made again."""
    if path.suffix.lower() == ".mp4" and file.is_file() and sha256_of(file) != sha256_of(path) and frames_in(file):
        raise UsageError(f"{file} is not the copy that this run made; move it away, or give another --output")


def _copy(path: Path, file: Path, frames: NDArray[np.uint8], fps: float, known: str) -> None:
    """An mp4 as it is, of sha256 `known`; another as H.264, without an odd row or column, which that cannot have."""
    if path.suffix.lower() == ".mp4":
        with whole_file(file) as part:
            shutil.copyfile(path, part)
            _check_same(sha256_of(part), known, path)
    else:
        height, width = (side // 2 * 2 for side in frames.shape[1:3])
        write_video(file, frames[:, :height, :width], fps=fps)


def _labels(videos: Sequence[Path]) -> list[str]:
    """A name for each video, from its file's; a number goes behind names that come twice, or are taken."""
    names: list[str] = []
    for number, path in enumerate(videos):
        name = slug(path.stem, "video")
        others = (f"{name}-{behind}" for behind in itertools.count(number))
        names.append(next(n for n in itertools.chain([name], others) if n not in (*names, *TAKEN)))
    return names
