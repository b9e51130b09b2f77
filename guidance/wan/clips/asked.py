"""What the user asked for, on its way from a command to the plan. Knows nothing of what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from shelllcc.guidance.wan.clips.request import Value
from shelllcc.guidance.wan.model.loading import Lora

How = str | bool | tuple[Lora, ...]  # of a field of Loading


@dataclass(frozen=True)
class Asked:
    """What was given; None, False, and what a mapping does not hold, was not.

    prompts    and those of a prompts file, whose lines may have values of their own
    model      a folder or hub id; `bank` a file or name, `preset` a name
    output     a file, or the folder of several clips
    values     fields of Request and knobs of its guide, by name; the strength may be `auto`
    seeds      that each prompt is sampled with, if not with its own or `seed` of the values
    loading    fields of Loading, by name
    sidecar    of a clip to replay
    compare    also the unguided clip, and both side by side
    overwrite  what lies there, whatever made it
    fit        `auto` takes the fit that there is, `never` none, `anew` one that is made now
    """

    prompts: tuple[str, ...] = ()
    prompts_file: Path | None = None
    model: str | None = None
    bank: str | None = None
    preset: str | None = None
    output: Path | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    loading: Mapping[str, How] = field(default_factory=dict)
    sidecar: Path | None = None
    compare: bool = False
    overwrite: bool = False
    fit: str = "auto"

    @property
    def sources(self) -> set[str]:
        """The model and the adapters, which may be names on the hub."""
        loras = self.loading.get("loras")
        adapters = {lora.source for lora in loras} if isinstance(loras, tuple) else set[str]()
        return adapters | ({self.model} if self.model else set())

    def with_values(self, **values: Value) -> Asked:
        """With further values, in place of those that were given."""
        return replace(self, values={**self.values, **values})

    def without(self, name: str) -> Asked:
        """As if that value had not been given."""
        return replace(self, values={key: value for key, value in self.values.items() if key != name})
