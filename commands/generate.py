"""The command `generate`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shelllcc.commands import options, streams
from shelllcc.guidance.measures.balance import ADVICE

if TYPE_CHECKING:
    from shelllcc.guidance.wan.clips.parallel import Ranks


@options.expanded
def generate(
    ctx: typer.Context,
    *,
    prompt: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the noise; further prompts take the next ones. (default: 0)")
    ] = None,
    strength: options.Strength = None,
    bank: options.Bank = None,
    model: options.Model = None,
    preset: options.Preset = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", **options.TO, help="The .mp4; a folder for several prompts.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also the unguided clip and both side by side.")] = False,
    sidecar: Annotated[
        Path | None, typer.Option("--from", **options.FROM, help="Replay a clip's .json; flags override it.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Fetch what --from names on the hub, unasked.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip clips that are finished.")] = False,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    sampling: options.Sampling,
    loading: options.Loading,
) -> None:
    """Sample videos pulled onto the shell of real latents. Under torchrun, all processes make each clip together."""
    from shelllcc.guidance.wan.clips import parallel, parse
    from shelllcc.guidance.wan.clips.plan import plan_clips
    from shelllcc.guidance.wan.model.placing import check_device

    chosen: dict[str, Any] = {
        "prompts": list(prompt or []), "prompts_file": prompts_file, "model": model, "bank": bank, "preset": preset,
        "output": output, "compare": compare, "sidecar": sidecar, "overwrite": overwrite,
    }  # fmt: skip
    with parallel.joined(device) as ranks:
        check_device(device, here=not dry_run)
        values = sampling.values() | {"seed": seed, "strength": parse.strength(strength)}
        how = loading.values()
        named = {name for name in (model, *(lora.source for lora in how["loras"] or ())) if name}
        if sidecar is not None:  # a replay hears flags alone, not variables or shelllcc.toml
            offload = how["offload"]  # where a clip is made, not what it is
            chosen, values, how = (_flags_alone(ctx, d) for d in (chosen, values, how))
            how["offload"] = offload
        trusted = bool(_flags_alone(ctx, {"trust": trust}))

        def may_fetch(name: str) -> bool:
            return trusted or (
                not as_json and ranks.count == 1 and streams.agreed(f"{sidecar} names {name} on the hub")
            )

        plans = plan_clips(**chosen, loading=how, vouched=named, may_fetch=may_fetch, values=values)
        parallel.check(ranks, plans[0].model.transformer["num_attention_heads"], plans[0].loading)
        for note in dict.fromkeys(note for plan in plans for note in plan.notes):
            streams.say(f"note: {note}")
        if not ranks.is_main and dry_run:
            return
        if dry_run:
            report = {"dry_run": True, "clips": [plan.describe() for plan in plans], "memory": _memory(plans, device)}
            streams.print_json(report, indent=None if as_json else 2)
            return
        finished = parallel.from_main(ranks, [resume and plan.finished() for plan in plans])
        waiting = [plan for plan, done in zip(plans, finished, strict=True) if not done]
        if any(finished):
            streams.say(f"{sum(finished)} of {len(plans)} clips are finished already")
            doubts = (plan.doubt() for plan, done in zip(plans, finished, strict=True) if done)
            for doubt in dict.fromkeys(filter(None, doubts)):
                streams.say(f"note: {doubt}")
        records = _generate(waiting, ranks)
        if not ranks.is_main:
            return
        if as_json:
            streams.print_json({"clips": records, "skipped": sum(finished)})
            return
        for record in records:
            for label, path in [*record["videos"].items(), ("sidecar", record["sidecar"])]:
                streams.print_line(f"{label:<9} {path}")


def _memory(plans: list[Any], device: str | None) -> list[dict[str, Any]]:
    """What each size and length of clip takes on the device, which need not be there."""
    import torch

    from shelllcc.guidance.wan.model.memory import forecast
    from shelllcc.guidance.wan.model.pipeline import check_loading, pick_dtype

    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_loading(plans[0].model, plans[0].loading, target)
    found = {}
    for plan in plans:
        request = plan.request
        size = {"width": request.width, "height": request.height, "frames": request.frames, "cfg": request.cfg}
        if tuple(size.values()) not in found:
            dtype = pick_dtype(plan.loading.dtype, target)
            found[tuple(size.values())] = size | forecast(plan.model, request, plan.loading, dtype=dtype)
    return list(found.values())


def _generate(plans: list[Any], ranks: Ranks) -> list[dict[str, Any]]:
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.generate import generate as sample

    records: list[dict[str, Any]] = []
    if not plans:
        return records
    with TerminalReporter() as reporter:
        reporter.stage("loading")
        from shelllcc.guidance.wan.clips.studio import Studio

        studio = Studio(plans[0].model, plans[0].loading, reporter, ranks=ranks)
        studio.expect(plan.request for plan in plans)
        for plan in plans:
            record = sample(plan, studio)
            if not ranks.is_main:
                continue
            records.append(record)
            if plan.bank and not record["trace"]:
                low, high = plan.request.window
                reporter.note(
                    f"the guide never acted: no step but the last lies in the sigmas {low:g}:{high:g}; widen --window"
                )
            if found := record["alarm"]:
                reporter.note(f"{found} alarm: {ADVICE[found]}")
    return records


def _flags_alone(ctx: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given as flags; the others as if they had not been set."""
    parameters = {"prompts": "prompt", "width": "size", "height": "size", "loras": "lora"}
    return {name: value for name, value in given.items() if options.is_flag(ctx, parameters.get(name, name))}
