"""From a plan to files: sample, write the videos, then the sidecar. Knows nothing of terminals.

The sidecar takes its place last, so that it proves a finished clip.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import OutOfMemoryError
from shelllcc.guidance.files import JsonObject, as_json, sha256_of, whole_file, write_bytes
from shelllcc.guidance.measures.balance import ADVICE, ALARMS, alarm
from shelllcc.guidance.measures.verdict import Sampled, Verdict
from shelllcc.guidance.media.video import encode
from shelllcc.guidance.versions import versions
from shelllcc.guidance.wan.clips import fitted
from shelllcc.guidance.wan.clips.parallel import agree_on_clip
from shelllcc.guidance.wan.clips.plan import Plan
from shelllcc.guidance.wan.clips.replacing import companions
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.stills import contents_of, pictures
from shelllcc.guidance.wan.model.seams import device_of
from shelllcc.guidance.wan.model.tokens import cuts_of

if TYPE_CHECKING:
    from diffusers import WanPipeline

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.wan.clips.prefix import Prefix
    from shelllcc.guidance.wan.clips.sample import Clip, Moment
    from shelllcc.guidance.wan.clips.studio import Studio


def generate(plan: Plan, studio: Studio) -> JsonObject:
    """Sample and write the clips of a plan; returns the sidecar's record. Ranks but the main one write nothing."""
    with plan.claimed() if studio.ranks.is_main else contextlib.nullcontext():
        return _generate(plan, studio)


def _generate(plan: Plan, studio: Studio) -> JsonObject:
    from shelllcc.guidance.wan.clips.prefix import Prefix
    from shelllcc.guidance.wan.clips.sample import first_move

    arms = {"unguided": plan.request.unguided()} if plan.compare else {}
    arms[plan.label] = plan.request
    studio.expect(arms.values())
    prefix = None
    if plan.compare:
        prefix = Prefix(1 + first_move(studio.pipe, plan.request, plan.request.guide))
    made = {label: make(request, plan.bank, studio, name=label, prefix=prefix) for label, request in arms.items()}
    clips = {label: clip for label, (clip, _) in made.items()}
    for clip in clips.values():
        agree_on_clip(studio.ranks, clip)
    if not studio.ranks.is_main:
        return {}
    studio.reporter.stage("writing")
    seconds = {key: value for _, spent in made.values() for key, value in spent.items()}
    return write(plan, studio.pipe, clips, seconds)


def make(
    request: Request,
    bank: Bank | None,
    studio: Studio,
    *,
    name: str,
    prefix: Prefix | None = None,
) -> tuple[Clip, dict[str, float]]:
    """Sample one clip, `name` to the reporter; returns it and how long sampling and decoding took.

    Raises OutOfMemoryError with what to try next.
    """
    from shelllcc.guidance.wan.clips.sample import guide_for, sample

    pipe, reporter, loading = studio.pipe, studio.reporter, studio.loading
    on_x0 = None
    if studio.preview is not None and studio.ranks.is_main:
        studio.preview.begin(pipe.vae, device_of(pipe))
        on_x0 = studio.preview.show
    reporter.stage(f"{name} sampling")
    started = time.perf_counter()
    decoding = [started]

    computed = 0  # of the transformer's calls

    def on_moment(moment: Moment) -> None:
        nonlocal computed
        if prefix is not None:
            before, computed = computed, prefix.calls[-1].computed
            moment = replace(moment, replayed=computed == before, kept=prefix.steps)
        reporter.step(moment)
        if moment.is_last:
            decoding[0] = time.perf_counter()
            reporter.stage(f"{name} decoding")

    guide = guide_for(request, bank)
    images = pictures(request, studio.model)
    how: JsonObject = {"images": images, "prefix": prefix, "texts": studio.texts, "cache": loading.cache}
    try:
        clip = sample(pipe, request, guide, **how, on_moment=on_moment, on_decoded=reporter.count, on_x0=on_x0)
    except OutOfMemoryError as error:
        raise OutOfMemoryError(error.stage, loading.relief(error.stage, studio.device)) from error
    sampling, rest = decoding[0] - started, time.perf_counter() - decoding[0]
    return clip, {f"{name}_sampling": round(sampling, 3), f"{name}_decoding": round(rest, 3)}


def write(
    plan: Plan,
    pipe: WanPipeline,
    clips: Mapping[str, Clip],
    seconds: Mapping[str, float],
    *,
    metrics: JsonObject | None = None,
) -> JsonObject:
    """Write the clips of a plan, by label, then the sidecar; returns its record, with `metrics` among its own."""
    from shelllcc.guidance.media.pictures import labelled

    recipe: JsonObject = plan.describe() | {
        "device": str(device_of(pipe)),
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "scheduler": type(pipe.scheduler).__name__,
        "versions": versions(),
        "frames_sha256": {label: clip.frames_sha256 for label, clip in clips.items()},
    }
    record = recipe | {
        "seconds": seconds,
        "metrics": _metrics(clips, plan.bank) | dict(metrics or {}),
        "trace": trace_of(clips[plan.label]),
        "alarm": clips[plan.label].alarm,
        "fit": fitted.record_of(fitted.followed(plan.request, plan.model, plan.loading, plan.bank)),
    }
    if plan.compare:
        record["verdict"] = asdict(_verdict(record, plan.request))
    if cuts := cuts_of(plan.model, plan.request):
        record["cut"] = cuts
    if loaded := getattr(pipe, "remarks", None):  # of a LoRA or a transformer's file
        record["loaded"] = loaded
    frames: dict[str, Iterable[Any]] = {label: clip.frames for label, clip in clips.items()}
    if plan.compare:
        frames["compare"] = labelled({label: clip.frames for label, clip in clips.items()})
    tag = _anywhere(recipe)
    stale = companions(plan.sidecar, plan.videos.values())
    for name, copy in plan.images.items():
        if not copy.exists():
            write_bytes(copy, contents_of(plan.request.stills[name]))
    with contextlib.ExitStack() as files:  # nothing takes its place before all is written; the sidecar comes last
        sidecar = files.enter_context(whole_file(plan.sidecar))
        record["sha256"] = {}
        for label, path in plan.videos.items():
            part = files.enter_context(whole_file(path))
            encode(part, frames[label], path, fps=plan.request.fps, record={"shows": label} | tag)
            record["sha256"][label] = sha256_of(part)
        sidecar.write_text(as_json(record), encoding="utf-8")
    for path in stale:
        path.unlink(missing_ok=True)
    return record


def trace_of(clip: Clip) -> list[JsonObject]:
    """Every step of the guide, with the alarm that stood after it."""
    expected = clip.request.guide.expected
    return [asdict(step) | {"alarm": alarm(step, expected=expected)} for step in clip.trace]


def remarks(record: JsonObject) -> Iterator[str]:
    """What the user should hear of a clip, by its sidecar."""
    if (why := left_alone(record)) is not None:
        yield why
    told, found = record.get("verdict"), record["alarm"]
    if told is not None and told["word"].endswith("alarm"):  # its own, or one that shows beside the unguided clip alone
        yield f"{told['word']}: {told['why']}"
    elif found is not None:
        yield f"{ALARMS[found]}: {ADVICE[found]}"


def left_alone(record: JsonObject) -> str | None:
    """Why the guide did nothing in a clip that it was to guide, by its sidecar."""
    guide = Request.from_dict(record["request"]).guide
    guided = record["bank"] and guide.strength > 0
    if guided and not guide.acts:
        return "the guide left this clip alone: its fit found no drift beyond chance"
    if guided and not record["trace"]:
        low, high = record["request"]["window"]
        return f"the guide never acted: no step but the last lies in the sigmas {low:g}:{high:g}; widen --window"
    return None


def _verdict(record: JsonObject, request: Request) -> Verdict:
    """That of `compare` on the guided clip beside the unguided one."""
    metrics = record["metrics"]
    guided = Sampled(metrics["guided"], record["trace"], request.guide.expected)
    return guided.beside(Sampled(metrics["unguided"], (), request.guide.expected), metrics["change"])[0]


def _anywhere(recipe: JsonObject) -> JsonObject:
    """The recipe without what only this machine knows: the same clip has the same tag in any folder, on any GPU."""
    bank = recipe["bank"] and {key: value for key, value in recipe["bank"].items() if key != "path"}
    kept = {key: value for key, value in recipe.items() if key not in ("videos", "sidecar", "images")}
    return kept | {"bank": bank, "device": str(recipe["device"]).partition(":")[0]}


def _metrics(clips: Mapping[str, Clip], bank: Bank | None) -> JsonObject:
    """Figures of every clip; with two of them, those of the guided one beside the unguided one."""
    from shelllcc.anchors.score import typical_distance
    from shelllcc.guidance.measures.figures import beside, change, figures

    table: JsonObject = {label: figures(clip.frames) for label, clip in clips.items()}
    if bank is not None:
        for label, clip in clips.items():
            table[label]["distance"] = typical_distance(bank, clip.latents[0])
    if len(clips) == 2:
        pair = [clips[label].frames for label in ("guided", "unguided")]
        table |= beside(table["guided"], table["unguided"]) | {"change": change(pair[0], pair[1])}
    return table
