"""One prompt and seed, sampled in several ways that differ in the guide alone. Knows nothing of terminals or pages.

What all ways share, the transformer's calls before the guide first acts, is computed once (wan.clips.prefix).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.measures.figures import change
from shelllcc.guidance.media.video import frames_in
from shelllcc.guidance.wan.clips.generate import make, write
from shelllcc.guidance.wan.clips.parse import Variant
from shelllcc.guidance.wan.clips.plan import Plan
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.replacing import video_in_the_way
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.resolve import Resolved
from shelllcc.guidance.wan.clips.sample import Clip, first_move
from shelllcc.guidance.wan.clips.sidecar import read_sidecar
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.workbench.runs import Run, Shown


class Sweep:
    """The clips of one request in several variants, each sampled when it is asked for and not there yet.

    `variants` are those to come: the prefix is recorded as far as the latest of their first moves.
    """

    def __init__(
        self, run: Run, index: int, request: Request, resolved: Resolved, variants: Sequence[Variant], studio: Studio
    ) -> None:
        self.run, self.index, self.request, self.resolved, self.studio = run, index, request, resolved, studio
        self.variants = variants
        self.reference = variants[0]
        self.records: dict[str, tuple[Variant, JsonObject]] = {}
        self.sampled = 0
        self._seen: Clip | None = None  # the reference's clip, once this process has sampled it

    @functools.cached_property
    def prefix(self) -> Prefix:
        """What the variants share; made when the first of them is sampled."""
        requests = [self.plan(variant).request for variant in self.variants]
        moves = [first_move(self.studio.pipe, r, r.guide) for r in requests if r.guide.strength]
        folder = self.studio.folder and Path(tempfile.mkdtemp(prefix="shelllcc-", dir=self.studio.folder))
        return Prefix(1 + max(moves, default=self.request.steps), folder=folder)

    def plan(self, variant: Variant) -> Plan:
        request = self.request.changed(**variant.settings)
        resolved = self.resolved
        path = self.run.path(self.index, f"{variant.label}.mp4")
        return Plan(resolved.model, request, resolved.bank, path, False, resolved.loading)

    def finished(self, variant: Variant) -> JsonObject | None:
        """The sidecar's record of a variant's clip, if it is there, whole, and measured beside a reference."""
        plan = self.plan(variant)
        if not plan.finished():
            return None
        record = read_sidecar(plan.sidecar)
        return record if isinstance(record["metrics"].get("change"), float) else None

    def clip(self, variant: Variant) -> JsonObject:
        """The sidecar's record of a variant's clip, which is sampled unless it is there, whole."""
        plan = self.plan(variant)
        known = self.finished(variant)
        if known is not None:
            record = known
            self._recorded(plan)
        elif variant == self.reference:
            _check_free(plan)
            self._seen, seconds = self._make(variant)
            self._recorded(plan)
            record = write(plan, self.studio.pipe, {plan.label: self._seen}, seconds, metrics={"change": 0.0})
        else:
            if self._seen is None and self.reference.label not in self.records:
                self.clip(self.reference)
            if self._seen is None:  # its file is there, but not the frames before they were encoded
                self._seen, _ = self._make(self.reference)
            _check_free(plan)
            clip, seconds = self._make(variant)
            beside = {"change": change(clip.frames, self._seen.frames), "beside": self._seen.frames_sha256}
            self._recorded(plan)
            record = write(plan, self.studio.pipe, {plan.label: clip}, seconds, metrics=beside)
        self.records[variant.label] = (variant, record)
        return record

    def close(self) -> None:
        """Forget what the variants share."""
        if "prefix" in self.__dict__:
            self.prefix.discard()
            del self.prefix

    def shown(self) -> list[Shown]:
        """The clips there are, the reference first."""
        first = {self.reference.label: (self.reference, self.clip(self.reference))}
        found = list((first | self.records).values())
        return [self._shown(variant, record) for variant, record in found]

    def _recorded(self, plan: Plan) -> None:
        """The run's record has a clip's files before they are written."""
        self.run.record.add(plan.output.name, plan.sidecar.name, *(path.name for path in plan.images.values()))

    def _make(self, variant: Variant) -> tuple[Clip, dict[str, float]]:
        name = f"{self.index:02d} {variant.title}"
        self.sampled += 1
        return make(self.plan(variant).request, self.resolved.bank, self.studio, name=name, prefix=self.prefix)

    def _shown(self, variant: Variant, record: JsonObject) -> Shown:
        plan, metrics = self.plan(variant), record["metrics"]
        request = plan.request
        return Shown(
            label=variant.label,
            title=variant.title,
            video=plan.output.name,
            size=(request.width, request.height),
            frames=request.frames,
            settings=variant.settings,
            figures=metrics[plan.label],
            change=metrics["change"],
            trace=record["trace"],
            expected=request.guide.expected,
        )


def _check_free(plan: Plan) -> None:
    """Raise UsageError where somebody's video lies in a clip's place. A torn one, or a torn sidecar, is made again."""
    try:
        known = read_sidecar(plan.sidecar)
    except UsageError:
        known = {}
    path = video_in_the_way(plan.videos, known if plan.made(known) else {}, plan.made)
    if path is not None and frames_in(path):
        raise UsageError(f"{path} is not the clip that this run made; move it away, or give another --output")
