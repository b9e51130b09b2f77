"""Options that several commands share, each said once. Knows nothing of what the commands do.

Those that go together are a dataclass: a command that is `expanded` takes it as one parameter.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO, get_type_hints

import typer

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.terminal import json_text, shown

RESULTS: ContextVar[TextIO | None] = ContextVar("RESULTS", default=None)  # where they go if not to sys.stdout

Prompts = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="What to show; may be repeated.")]
PromptsFile = Annotated[
    Path | None,
    typer.Option("--prompts-file", help="Prompts, one a line, flags of its own at its end; # starts a comment."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="A diffusers folder or hub id; the embedded tiny Wan if not given.", envvar="SHELLLCC_MODEL"
    ),
]
Preset = Annotated[str | None, typer.Option("--preset", help="Named defaults; chosen by the model if not given.")]
Strength = Annotated[
    str | None,
    typer.Option(
        "--strength",
        help="Of the guidance: 0 is off, 1 the default, 2 twice; `auto` is what `tune` found for the prompt.",
        envvar="SHELLLCC_STRENGTH",
    ),
]
Bank = Annotated[
    str | None,
    typer.Option("--bank", help="Anchor bank: a file or a shipped name. (default: auto)", envvar="SHELLLCC_BANK"),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1.", envvar="SHELLLCC_DEVICE")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")]


def _json(value: bool) -> bool:
    if value:
        results_alone()
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", callback=_json)]

Folder = Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder; a run goes on where it was.")]
Seeds = Annotated[str | None, typer.Option("--seeds", "--seed", help="Of the noise, e.g. 0,1,2. (default: 0)")]
Embed = Annotated[bool, typer.Option("--embed", help="Put the videos into the page: one file to send.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace other clips, or the run that the folder holds.")]
Replay = Annotated[
    Path | None, typer.Option("--replay-folder", help="Keep the steps that strengths share there, not in memory.")
]


@dataclass(frozen=True)
class Sampling:
    """How clips are sampled; None is the preset's."""

    negative_prompt: Annotated[str | None, typer.Option("--negative-prompt", help="What to avoid.")] = None
    steps: Annotated[int | None, typer.Option("--steps", "--num-inference-steps", help="Sampling steps.")] = None
    cfg: Annotated[float | None, typer.Option("--cfg", "--guidance-scale", help="Classifier-free guidance.")] = None
    cfg_2: Annotated[
        float | None, typer.Option("--cfg-2", "--guidance-scale-2", help="Of a second transformer (Wan2.2-A14B).")
    ] = None
    shift: Annotated[float | None, typer.Option("--shift", "--flow-shift", help="Flow shift.")] = None
    frames: Annotated[int | None, typer.Option("--frames", "--num-frames", help="4n+1.")] = None
    size: Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels, e.g. 832x480.")] = None
    fps: Annotated[int | None, typer.Option("--fps", help="Of the file.")] = None
    radius: Annotated[
        float | None, typer.Option("--radius", help="Sharpness: factor on the radius of real latents.")
    ] = None
    window: Annotated[str | None, typer.Option("--window", help="LOW:HIGH, the sigmas at which the guide acts.")] = None

    def values(self) -> dict[str, Any]:
        """As fields of a Request. Raises UsageError."""
        from shelllcc.guidance.wan import parse

        found = asdict(self)
        width, height = parse.size(found.pop("size"))
        return found | {"width": width, "height": height, "window": parse.window(self.window)}


@dataclass(frozen=True)
class Loading:
    """How the model is loaded; None is what a replayed sidecar says, or the default."""

    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; the VAE stays float32.")
    ] = None
    offload: Annotated[
        str | None,
        typer.Option(
            "--offload",
            help="To main memory: none, model (one part on the GPU at a time), group (one block). (default: none)",
            envvar="SHELLLCC_OFFLOAD",
        ),
    ] = None
    quantize: Annotated[
        str | None,
        typer.Option("--quantize", help="The transformer's weights: none, fp8, int8 (torchao), nf4 (bitsandbytes)."),
    ] = None
    tiling: Annotated[
        bool | None, typer.Option("--tiling/--no-tiling", help="Decode in tiles: less memory.", show_default=False)
    ] = None
    transformer: Annotated[
        str | None, typer.Option("--transformer", help="A .safetensors or .gguf in place of the model's transformer.")
    ] = None
    transformer_2: Annotated[
        str | None, typer.Option("--transformer-2", help="The same for the second one (Wan2.2-A14B).")
    ] = None
    lora: Annotated[list[str] | None, typer.Option("--lora", help="PATH_OR_ID:WEIGHT; may be repeated.")] = None
    cache: Annotated[
        str | None, typer.Option("--cache", help="Reuse features of earlier steps: none, first-block, taylorseer, pab.")
    ] = None

    def values(self) -> dict[str, Any]:
        """As fields of what loads a model. Raises UsageError."""
        from shelllcc.guidance.wan.loading import Lora, local

        found = asdict(self)
        lora = found.pop("lora")
        found |= {key: local(found[key]) for key in ("transformer", "transformer_2") if found[key]}
        return found | {"loras": tuple(map(Lora.parse, lora)) if lora else None}


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its dataclasses of options in place of these."""
    hints = get_type_hints(command, include_extras=True)
    own, groups = dict[str, Any](), dict[str, Any]()
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            inside = get_type_hints(hints[name], include_extras=True)
            for hint in inside.values():
                hint.__metadata__[0].rich_help_panel = hints[name].__name__
            own |= {field.name: (inside[field.name], field.default) for field in fields(hints[name])}
        else:
            own[name] = hints[name], parameter.default

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__annotations__ = {name: hint for name, (hint, _) in own.items()}
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            for name, (hint, default) in own.items()
        ]
    )
    return run


def is_flag(ctx: typer.Context, parameter: str) -> bool:
    """Whether it was given on the command line, not by a variable or shelllcc.toml."""
    source = ctx.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def one_of(ctx: typer.Context, first: str, second: str) -> tuple[Any, Any]:
    """Two parameters that exclude each other: a flag counts before a default. Raises UsageError where both count."""
    given = {name: value for name in (first, second) if (value := ctx.params[name]) not in (None, [], ())}
    flags = {name: value for name, value in given.items() if is_flag(ctx, name)}
    chosen = flags or given
    if len(chosen) > 1:
        names = {p.name: p.opts[0] for p in ctx.command.params}
        raise UsageError(f"give {names[first]} or {names[second]}, not both")
    return chosen.get(first), chosen.get(second)


def print_json(record: Any, *, indent: int | None = None) -> None:
    """A result for programs, on stdout; letters are escaped only where stdout cannot hold them."""
    text = json_text(record, indent=indent)
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        text = json.dumps(record, indent=indent)
    _result(text)


def print_line(line: str) -> None:
    """A line of a result for people, on stdout."""
    _result(shown(line))


def fitting(text: str) -> str:
    """The text, letters that stdout cannot hold escaped."""
    return text.encode(_encoding(), "backslashreplace").decode(_encoding())


def say(line: str) -> None:
    """A line to the user, on stderr."""
    if sys.stderr is not None:  # print would take stdout
        print(shown(f"shelllcc: {line}"), file=sys.stderr)


def agreed(fact: str) -> bool:
    """Whether the user says yes to fetching what `fact` tells, asked on stderr; no where nobody is there to ask."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        return False
    print(shown(f"shelllcc: {fact}; fetch it? [y/N] "), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Within the block `results_alone` may be called; `sys.stdout` is afterwards what it was."""
    before, token = sys.stdout, RESULTS.set(None)
    try:
        yield
    finally:
        results, sys.stdout = RESULTS.get(), before
        RESULTS.reset(token)
        if results is not None and results is not before:
            with contextlib.suppress(OSError):  # its reader has left
                results.close()


def results_alone() -> None:
    """Keep stdout for results: what libraries or their processes print there goes to stderr from now on.

    File descriptor 1 stays with stderr until the process ends: C libraries may print what they hold at the exit.
    """
    stream = sys.stdout
    if stream is None or RESULTS.get() is not None:
        return
    if _is_descriptor(stream, 1):
        stream.flush()
        if sys.stderr is None:  # closed: its number must not become that of the results
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        stream = os.fdopen(os.dup(1), "w", encoding=stream.encoding)
        os.dup2(2, 1)
    RESULTS.set(stream)
    sys.stdout = sys.stderr


def wants_json(error: BaseException | None = None) -> bool:
    """Whether the command that ran, or could not be parsed, was to print JSON."""
    words = sys.argv[1:]
    words = words[: words.index("--")] if "--" in words else words
    ctx = getattr(error, "ctx", None)  # of the parser's errors
    configured = ctx is not None and ctx.lookup_default("as_json") is True
    return "--json" in words or RESULTS.get() is not None or configured


def _result(text: str) -> None:
    stream = RESULTS.get() or sys.stdout
    if stream is not None:
        print(fitting(text), file=stream, flush=True)


def _encoding() -> str:
    return getattr(RESULTS.get() or sys.stdout, "encoding", None) or "utf-8"


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):
        return False
