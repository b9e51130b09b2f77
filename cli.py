"""The command line: parse, one call, print. Heavy libraries are imported inside commands."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shelllcc import cli_anchors, cli_batch, cli_compare, cli_config
from shelllcc import cli_options as options
from shelllcc.guidance.errors import ShellLCCError, UsageError
from shelllcc.guidance.terminal import shown_lines
from shelllcc.guidance.trace import ADVICE

if TYPE_CHECKING:
    from shelllcc.guidance.wan.parallel import Ranks

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Shell-LCC guidance for Wan text-to-video: sharper, truer videos at sampling time, with no weight update.",
)
app.add_typer(cli_anchors.app, name="anchors")
app.add_typer(cli_compare.profiles, name="profiles")


def _version(value: bool) -> None:
    if value:
        from shelllcc.guidance import versions

        options.print_line(f"shelllcc {versions.version() or 'of a checkout that is not installed'}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Defaults by command. (default: shelllcc.toml)", envvar="SHELLLCC_CONFIG")
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if config is not None or Path("shelllcc.toml").exists():
        ctx.default_map = cli_config.defaults(config or Path("shelllcc.toml"), getattr(ctx.command, "commands", {}))


@app.command()
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
        Path | None, typer.Option("--output", "-o", help="The .mp4; a folder for several prompts.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also the unguided clip and both side by side.")] = False,
    sidecar: Annotated[Path | None, typer.Option("--from", help="Replay a clip's .json; flags override it.")] = None,
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
    from shelllcc.guidance.wan import parallel, parse
    from shelllcc.guidance.wan.placing import check_device
    from shelllcc.guidance.wan.plan import plan_clips

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
                not as_json and ranks.count == 1 and options.agreed(f"{sidecar} names {name} on the hub")
            )

        plans = plan_clips(**chosen, loading=how, vouched=named, may_fetch=may_fetch, values=values)
        parallel.check(ranks, plans[0].model.transformer["num_attention_heads"], plans[0].loading)
        for note in dict.fromkeys(note for plan in plans for note in plan.notes):
            options.say(f"note: {note}")
        if not ranks.is_main and dry_run:
            return
        if dry_run:
            report = {"dry_run": True, "clips": [plan.describe() for plan in plans], "memory": _memory(plans, device)}
            options.print_json(report, indent=None if as_json else 2)
            return
        finished = parallel.from_main(ranks, [resume and plan.finished() for plan in plans])
        waiting = [plan for plan, done in zip(plans, finished, strict=True) if not done]
        if any(finished):
            options.say(f"{sum(finished)} of {len(plans)} clips are finished already")
            doubts = (plan.doubt() for plan, done in zip(plans, finished, strict=True) if done)
            for doubt in dict.fromkeys(filter(None, doubts)):
                options.say(f"note: {doubt}")
        records = _generate(waiting, ranks)
        if not ranks.is_main:
            return
        if as_json:
            options.print_json({"clips": records, "skipped": sum(finished)})
            return
        for record in records:
            for label, path in [*record["videos"].items(), ("sidecar", record["sidecar"])]:
                options.print_line(f"{label:<9} {path}")


app.command()(cli_compare.compare)
app.command()(cli_compare.tune)
app.command()(cli_batch.batch)
app.command()(cli_anchors.score)


@app.command()
def doctor(as_json: options.Json = False) -> None:
    """Check this installation: versions, devices, ffmpeg, the embedded model, the banks, one guided step."""
    from shelllcc.guidance.wan.doctor import examine

    report = examine()
    if as_json:
        options.print_json(report)
    else:
        for key, value in report.items():
            options.print_line(f"{key:<12} {json.dumps(value) if isinstance(value, (dict, list)) else value}")
    if not report["ok"]:
        raise typer.Exit(1)


class _Ended(BaseException):
    """A signal that ends the process as an interrupt does: files are removed and workers ended on the way out."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Remarks(logging.Handler):
    """What the package logs, as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        options.say(f"note: {record.getMessage()}")


def main() -> None:
    """Run the command line; errors are one line on stderr and, with --json, one object on stdout.

    Exit 0 done, 1 failed, 2 usage, 130 interrupted, 128 + n ended by signal n.
    """
    logging.getLogger("shelllcc").handlers = [_Remarks()]
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, _end)
    with options.own_stdout():
        try:
            code = app(standalone_mode=False)
        except _Ended as ended:
            code = 128 + ended.number
            _say_end(f"ended by {signal.Signals(ended.number).name}", code)
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except BrokenPipeError:  # the reader of stdout left; nothing more can be said to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 1
        except Exception as error:
            code = _failed(error)
        if code == 130:
            _say_end("interrupted", code)
    sys.exit(code if isinstance(code, int) else 0)


def _end(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise _Ended(number)


def _memory(plans: list[Any], device: str | None) -> list[dict[str, Any]]:
    """What each size and length of clip takes on the device, which need not be there."""
    import torch

    from shelllcc.guidance.wan.memory import forecast
    from shelllcc.guidance.wan.pipeline import check_loading, pick_dtype

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
    from shelllcc.guidance.wan.generate import generate as sample
    from shelllcc.guidance.wan.progress import TerminalReporter

    records: list[dict[str, Any]] = []
    if not plans:
        return records
    with TerminalReporter() as reporter:
        reporter.stage("loading")
        from shelllcc.guidance.wan.studio import Studio

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


def _failed(error: Exception) -> int:
    """Say it in one line and return the exit code. The parser's own errors know theirs."""
    if os.environ.get("SHELLLCC_DEBUG") == "1":
        import traceback

        if sys.stderr is not None:
            print(shown_lines(traceback.format_exc()), file=sys.stderr)
    kind = type(error).__name__
    if hasattr(error, "format_message"):
        kind, message, code = "UsageError", error.format_message(), int(getattr(error, "exit_code", 2))
    elif isinstance(error, ShellLCCError):
        message, code = str(error), 2 if isinstance(error, UsageError) else 1
    else:
        message, code = f"unexpected {kind}: {error}; SHELLLCC_DEBUG=1 shows where", 1
    message = " ".join(message.split())
    if message:
        options.say(f"error: {message}")
    _report(kind, message, code, error)
    return code


def _say_end(line: str, code: int) -> None:
    """How a signal ended it, as `_failed` says an error."""
    options.say(line)
    _report("Interrupted", line, code)


def _report(kind: str, message: str, code: int, error: BaseException | None = None) -> None:
    """The error for programs, where JSON was asked for."""
    if options.wants_json(error):
        with contextlib.suppress(BrokenPipeError):
            options.print_json({"error": {"type": kind, "message": message, "exit_code": code}})
