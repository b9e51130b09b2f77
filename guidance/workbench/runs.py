"""The folder of a run: its clips and their names, what was asked, results for people and for programs, the page.

`NN_label.mp4`, `manifest.json` and `results.jsonl` are as the Shell-LCC authors' tools write them. Knows nothing of
sampling. Everything is written whole or not at all, and made anew from what lies in the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shelllcc.guidance.errors import OutputError, UsageError
from shelllcc.guidance.files import JsonObject, fingerprint_of, refusal, whole_file, write_json
from shelllcc.guidance.measures.balance import EXPECTED
from shelllcc.guidance.measures.verdict import Sampled, Verdict
from shelllcc.guidance.media.video import check_output, write_video
from shelllcc.guidance.versions import version
from shelllcc.guidance.wan.clips.parse import Knob
from shelllcc.guidance.workbench.claims import FILE, LOCK, PICTURES, PUBLISHED, Record, identity, manifest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

Layout = Literal["authors", "vbench"]
LAYOUTS: tuple[Layout, ...] = ("authors", "vbench")
INNER = ("power", "busy", "busy_ratio", "fine")  # figures that verdicts are made of, and nobody reads
NAME_BYTES = 200  # of a prompt in a file name


def check_layout(layout: str) -> Layout:
    """The layout of that name. Raises UsageError."""
    if layout not in LAYOUTS:
        raise UsageError(f"no layout {layout}; there are {', '.join(LAYOUTS)}")
    return layout


@dataclass(frozen=True)
class Shown:
    """A clip of an item: what its file is called, what differs in it, its own figures and what the guide saw.

    `change` is that of a pixel beside the reference, `expected` the balance of a clip as it should be (GuideConfig).
    """

    label: str
    title: str
    video: str
    size: tuple[int, int]
    frames: int
    settings: Mapping[str, Knob]
    figures: JsonObject
    change: float
    trace: Sequence[JsonObject] = ()
    expected: float = EXPECTED
    withheld: Verdict | None = None  # in place of one on its quality, where its frames cannot be judged

    @property
    def sampled(self) -> Sampled:
        """What its verdict rests on."""
        return Sampled(self.figures, self.trace, self.expected)


class Run:
    """A run's folder. `asked` is all that decides on its clips: only an equal run may go on in the folder.

    `inputs` are videos that it reads, which it never removes or replaces. Who writes a file there adds it to `record`.
    `fit` are the words and bands of the fit that its clips follow, for the page.
    """

    def __init__(
        self,
        folder: Path,
        *,
        title: str,
        asked: JsonObject,
        settings: JsonObject,
        fps: float,
        inputs: Iterable[Path] = (),
        fit: JsonObject | None = None,
    ) -> None:
        self.folder, self.title, self.settings, self.fps, self.fit = folder, title, settings, fps, fit
        self.record = Record(folder, asked, inputs)
        self.items: dict[int, JsonObject] = {}
        self._pictured: dict[int, list[str]] = {}  # the clips that an item's pictures were made of, in a run before

    def check(self, *, anew: bool = False) -> None:
        """Raise as `held` would, but for another process there, and touch nothing."""
        self.record.check_claim(anew=anew)
        check_output(self.folder / FILE)

    @contextlib.contextmanager
    def held(self, *, anew: bool = False) -> Iterator[Run]:
        """Within the block the folder is this run's alone.

        With `anew`, what another run wrote there is removed, and nothing else. Raises OutputError where another process
        holds it, and UsageError where it holds a run that asked for something else, or files of a run's names that no
        run wrote.
        """
        import filelock

        lock = filelock.FileLock(self.folder / LOCK, timeout=0)
        try:
            self.record.check()  # before the lock's file is made
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            raise OutputError(f"another run holds {self.folder}; wait for it, or give another --output") from error
        except OSError as error:
            raise OutputError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        try:
            self.record.claim(anew=anew)
            self._pictured = {item["idx"]: list(item["videos"].values()) for item in manifest_of(self.folder)}
            yield self
        finally:
            lock.release()

    def path(self, index: int, name: str) -> Path:
        """The file of an item, e.g. `00_unguided.mp4`."""
        return self.folder / f"{index:02d}_{name}"

    def show(self, index: int, *, prompt: str, seed: int | None, clips: Sequence[Shown]) -> JsonObject:
        """Judge an item's clips beside the first one, and make its pictures; returns its record."""
        item = record_of(index, prompt=prompt, seed=seed, fps=self.fps, clips=clips)
        item |= self._pictures(index, clips)
        self.items[index] = item
        return item

    def publish(self, *, layout: Layout = "authors", embed: bool = False) -> Path:
        """Write manifest, results and page of the items there are; returns the page."""
        from shelllcc.guidance.workbench.report import write_report

        items = [self.items[index] for index in sorted(self.items)]
        labels = list(dict.fromkeys(clip["label"] for item in items for clip in item["clips"]))
        manifest = [
            {"idx": i["idx"], "prompt": i["prompt"], "videos": {clip["label"]: clip["video"] for clip in i["clips"]}}
            for i in items
        ]
        self.record.add(*PUBLISHED)
        write_json(self.folder / "manifest.json", {"labels": labels, "fps": self.fps, "items": manifest})
        lines = [
            {"idx": item["idx"], "prompt": item["prompt"], "seed": item["seed"]} | clip
            for item in items
            for clip in item["clips"]
        ]
        with whole_file(self.folder / "results.jsonl") as part:
            part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        page = self.folder / "report.html"
        write_report(page, self.as_dict(items), embed=embed)
        if layout == "vbench":
            self._vbench(items)
        return page

    def as_dict(self, items: Sequence[JsonObject]) -> JsonObject:
        """What the page shows. Its `id` and those of its clips, by which votes are kept, outlive the page."""
        return {
            "id": identity(self.record.asked),
            "title": self.title,
            "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "version": version(),
            "settings": dict(self.settings),
            "fit": self.fit,
            "reference": items[0]["clips"][0]["label"] if items else None,
            "fps": self.fps,
            "items": [
                {**item, "clips": [{**c, "id": fingerprint_of(self.folder / c["video"])} for c in item["clips"]]}
                for item in items
            ],
        }

    def _pictures(self, index: int, clips: Sequence[Shown]) -> dict[str, str | None]:
        """Side by side, montage and trace of an item, made of its files; kept where they are newer than its clips."""
        from shelllcc.guidance.media.pictures import labelled, montage, write_png
        from shelllcc.guidance.workbench.traceplot import trace_svg

        traces = {clip.title: clip.trace for clip in clips if clip.trace}
        files = {kind: self.path(index, name) for kind, name in PICTURES.items() if traces or kind != "trace_plot"}
        self.record.add(*(path.name for path in files.values()))
        newest = max((self.folder / clip.video).stat().st_mtime_ns for clip in clips)
        known = self._pictured.get(index) == [clip.video for clip in clips]
        if not known or not all(path.exists() and path.stat().st_mtime_ns >= newest for path in files.values()):
            frames = {clip.title: _frames(self.folder / clip.video) for clip in clips}
            write_video(files["side_by_side"], labelled(frames), fps=self.fps, record={"shows": "compare"})
            write_png(files["montage"], montage(frames))
            if traces:
                with whole_file(files["trace_plot"]) as part:
                    part.write_text(trace_svg(traces, title="the guide's trace"), encoding="utf-8")
        return {kind: path.name for kind, path in files.items()} | ({} if traces else {"trace_plot": None})

    def _vbench(self, items: Sequence[JsonObject]) -> None:
        """`vbench/LABEL/{prompt}-{i}.mp4`, i counting the seeds of a prompt; links where the file system has them."""
        counts: dict[str, int] = {}
        links: dict[str, Path] = {}
        for item in items:
            number = counts.get(item["prompt"], 0)
            counts[item["prompt"]] = number + 1
            name = f"{_safe(item['prompt'])}-{number}.mp4"
            links |= {f"vbench/{clip['label']}/{name}": self.folder / clip["video"] for clip in item["clips"]}
        self.record.add(*links)
        for name, clip in links.items():
            _link(self.folder / name, clip)


def record_of(index: int, *, prompt: str, seed: int | None, fps: float, clips: Sequence[Shown]) -> JsonObject:
    """An item as its record: every clip with its figures beside the first one's, and a verdict."""
    return {"idx": index, "prompt": prompt, "seed": seed, "fps": fps, "clips": [_clip_record(c, clips) for c in clips]}


def verdict_of(clip: Shown, reference: Shown) -> tuple[Verdict, JsonObject]:
    """The verdict on a clip beside a reference, and the figures that it rests on."""
    if clip.withheld is not None:
        return clip.withheld, dict(clip.figures)
    return clip.sampled.beside(reference.sampled, clip.change)


def _clip_record(clip: Shown, clips: Sequence[Shown]) -> JsonObject:
    verdict, figures = verdict_of(clip, clips[0])
    if clip is clips[0] and clip.withheld is None:
        verdict = Verdict("reference", "the others are judged beside it")
        guided = [other for other in clips if other.trace]
        last = min(guided, key=lambda other: (other.trace[0]["sigma"], other.label), default=clip)
        figures |= clip.sampled.balance(last.sampled.excess)
    return {
        "label": clip.label,
        "title": clip.title,
        "video": clip.video,
        "width": clip.size[0],
        "height": clip.size[1],
        "frames": clip.frames,
        "settings": dict(clip.settings),
        "figures": {name: value for name, value in figures.items() if name not in INNER},
        "verdict": {"word": verdict.word, "why": verdict.why},
        "trace": [dict(step) for step in clip.trace],
    }


def _link(link: Path, clip: Path) -> None:
    """A link to a clip, or a copy of it, in place of the one before. Raises OutputError."""
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            os.link(clip, link)
        except OSError:
            with whole_file(link) as part:
                shutil.copyfile(clip, part)
    except OSError as error:
        raise refusal(link, error) from error


def _frames(path: Path) -> Frames:
    from shelllcc.guidance.media.footage import read_video

    return read_video(path)[0]


def _safe(prompt: str) -> str:
    """A prompt as a file's name: itself, as far as a file's name can hold it, else shortened, with a hash."""
    kept = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in prompt)
    if kept == prompt and len(kept.encode()) <= NAME_BYTES:
        return kept
    short = kept.encode()[:NAME_BYTES].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
