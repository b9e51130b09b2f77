"""Options that several commands share, each said once. Knows nothing of what the commands do.

Those that go together are a dataclass: a command that is `expanded` takes it as one parameter.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption

from shelllcc.commands import given, streams
from shelllcc.guidance.errors import ShellLCCError, UsageError
from shelllcc.guidance.files import at_home
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.paths import reason
from shelllcc.guidance.wan.model.presets import PRESETS

if TYPE_CHECKING:
    from shelllcc.guidance.wan.clips.asked import Asked, How
    from shelllcc.guidance.wan.clips.request import Value


def place(text: str | Path) -> Path:
    """A file to write to, its `~` replaced. Raises UsageError for what names nothing, or a folder that nobody means."""
    if Path(text) == Path():
        raise UsageError(f"{str(text) or 'an empty path'} is no place for results; give a file or folder of their own")
    return folder(text)


def folder(text: str | Path) -> Path:
    """A folder to write to, its `~` replaced. Raises UsageError as `place`, but that `.` may be meant."""
    if not str(text) or Path(text) in (Path(".."), Path("~")):
        raise UsageError(f"{str(text) or 'an empty path'} is no place for results; give a file or folder of their own")
    try:
        str(text).encode()
        path = at_home(Path(text))
        path.exists()
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {text!s} is no UTF-8, in which records are kept; give another one") from error
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise UsageError(f"{text!s} is no place for results: {reason(error)}") from error
    return path


def source(text: str | Path) -> Path:
    """A path to read from, its `~` replaced. Raises UsageError."""
    return at_home(Path(text))


TO: dict[str, Any] = {"parser": place, "metavar": "PATH"}
INTO: dict[str, Any] = {"parser": folder, "metavar": "PATH"}
FROM: dict[str, Any] = {"parser": source, "metavar": "PATH"}

Prompts = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="What to show; may be repeated.")]
PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts-file", **FROM, help="Prompts, one a line, flags of its own at its end; # starts a comment."
    ),
]
MODEL, RESULTS, MORE = "Model and memory", "Output", "More"
PANELS: Mapping[str, tuple[str, ...]] = {
    "Prompt": ("prompt", "prompts_file", "negative_prompt", "image", "last_image", "seed", "seeds"),
    "Guidance": (
        *("strength", "strengths", "variant", "radius", "window", "bank", "fit", "fit_budget"),
        *("clips", "budget", "again"),
    ),
    "Sampling": ("preset", "steps", "cfg", "cfg_2", "shift", "sigmas", "scheduler", "size", "frames", "fps"),
    RESULTS: ("output", "overwrite", "resume", "compare", "preview", "show", "layout", "embed", "as_json", "quiet"),
    MODEL: (
        *("model", "transformer", "transformer_2", "lora", "device", "dtype", "quantize", "offload", "tiling"),
        *("cache", "replay_folder"),
    ),
    MORE: (),  # all others, and --help
}
"""The panels of the help of commands that sample, and the parameters in them, in this order."""
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A diffusers folder or hub id. (default: the embedded tiny Wan)",
        envvar="SHELLLCC_MODEL",
        rich_help_panel=MODEL,
    ),
]
Preset = Annotated[
    str | None, typer.Option("--preset", help="Named defaults. (default: by the model)", rich_help_panel=MODEL)
]
Strength = Annotated[
    str | None,
    typer.Option(
        "--strength",
        help="Of the guidance: 0 is off, 2 twice; `auto` is what `tune` found for the prompt. (default: 1)",
        envvar="SHELLLCC_STRENGTH",
    ),
]
Bank = Annotated[
    str | None,
    typer.Option(
        "--bank",
        help="Anchor bank: a file or a name. (default: auto)",
        envvar="SHELLLCC_BANK",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1. (default: cuda where there is one)",
        envvar="SHELLLCC_DEVICE",
        rich_help_panel=MODEL,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.", rich_help_panel=RESULTS)]


def _json(value: bool) -> bool:
    if value:
        streams.results_alone()
    return value


def _quiet(value: bool) -> bool:
    if value:
        streams.hush()
    return value


Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout.", callback=_json, rich_help_panel=RESULTS),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="No progress and no notes; errors alone. (default: off)",
        callback=_quiet,
        rich_help_panel=RESULTS,
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Show the result when it is there.", rich_help_panel=RESULTS)]
Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", **INTO, help="The run's folder; a run goes on where it was. (default: in outputs)"),
]
Seeds = Annotated[str | None, typer.Option("--seeds", "--seed", help="Of the noise, e.g. 0,1,2. (default: 0)")]
Embed = Annotated[bool, typer.Option("--embed", help="Put the videos into the page: one file to send.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace other clips, or the run that the folder holds.")]
Replay = Annotated[
    Path | None,
    typer.Option("--replay-folder", **INTO, help="Keep the steps that strengths share there, not in memory."),
]


def _preset(text: str, field: str) -> str:
    """The help of a flag that a preset has a default for, with that of the embedded model."""
    usual = PRESETS["tiny"]
    value = f"{usual.width}x{usual.height}" if field == "size" else getattr(usual, field)
    words = f"{value:g}" if isinstance(value, (int, float)) else value or "none"
    words = "the model's" if field == "scheduler" else words
    return f"{text} (default: the preset's; tiny: {words})"


def _knob(text: str, field: str) -> str:
    """The help of a flag that sets the guide, with the guide's default."""
    value = getattr(GuideConfig(), field)
    words = ":".join(f"{end:g}" for end in value) if isinstance(value, tuple) else f"{value:g}"
    return f"{text} (default: {words}, or the fit's)"


@dataclass(frozen=True)
class Sampling:
    """How clips are sampled; None is the preset's."""

    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", help=_preset("What to avoid.", "negative_prompt"))
    ] = None
    steps: Annotated[
        int | None, typer.Option("--steps", "--num-inference-steps", help=_preset("Sampling steps.", "steps"))
    ] = None
    cfg: Annotated[
        float | None, typer.Option("--cfg", "--guidance-scale", help=_preset("Classifier-free guidance.", "cfg"))
    ] = None
    cfg_2: Annotated[
        float | None,
        typer.Option("--cfg-2", "--guidance-scale-2", help=_preset("Of a second transformer (Wan2.2-A14B).", "cfg_2")),
    ] = None
    shift: Annotated[float | None, typer.Option("--shift", "--flow-shift", help=_preset("Flow shift.", "shift"))] = None
    sigmas: Annotated[
        str | None,
        typer.Option(
            "--sigmas", help=_preset("Noise levels of all steps in place of both, e.g. 1,.9375,.8333,.625.", "sigmas")
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help=_preset("unipc, dpm, euler, or lcm, which noises anew.", "scheduler")),
    ] = None
    frames: Annotated[int | None, typer.Option("--frames", "--num-frames", help=_preset("4n+1.", "frames"))] = None
    size: Annotated[
        str | None, typer.Option("--size", help=_preset("WIDTHxHEIGHT in pixels, e.g. 832x480.", "size"))
    ] = None
    fps: Annotated[int | None, typer.Option("--fps", help=_preset("Of the file.", "fps"))] = None
    radius: Annotated[
        float | None, typer.Option("--radius", help=_knob("Sharpness: factor on the radius of real latents.", "radius"))
    ] = None
    window: Annotated[
        str | None, typer.Option("--window", help=_knob("Guidance interval LOW:HIGH, in sigmas.", "window"))
    ] = None

    def values(self) -> dict[str, Value]:
        """As fields of a Request, those that were given. Raises UsageError."""
        from shelllcc.guidance.wan.clips import parse

        found = asdict(self)
        width, height = parse.size(found.pop("size"))
        return _given(
            found
            | {
                "width": width,
                "height": height,
                "window": parse.window(self.window),
                "sigmas": parse.sigmas(self.sigmas),
            }
        )


@dataclass(frozen=True)
class Images:
    """What clips of an image-to-video model begin and end with."""

    image: Annotated[
        str | None,
        typer.Option("--image", metavar="FILE", help="The first frame; the clip has its aspect, about --size."),
    ] = None
    last_image: Annotated[
        str | None, typer.Option("--last-image", metavar="FILE", help="The last frame, of models that take one.")
    ] = None

    def given(self, asked: Asked) -> Asked:
        """What is asked for, with these."""
        return asked.with_values(**_given(asdict(self)))


@dataclass(frozen=True)
class Loading:
    """How the model is loaded; None is what a replayed sidecar says, or the default."""

    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="float32, bfloat16 or float16; the VAE stays float32. (default: float32 on the CPU, else bfloat16)",
        ),
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
        typer.Option(
            "--quantize",
            help="The transformer's weights: none, fp8, int8 (torchao), nf4 (bitsandbytes). (default: none)",
        ),
    ] = None
    tiling: Annotated[
        bool | None,
        typer.Option("--tiling/--no-tiling", help="Decode in tiles: less memory. (default: no)", show_default=False),
    ] = None
    transformer: Annotated[
        str | None,
        typer.Option("--transformer", help="A .safetensors or .gguf in place of it. (default: the model's own)"),
    ] = None
    transformer_2: Annotated[
        str | None,
        typer.Option("--transformer-2", help="The same for the second one (Wan2.2-A14B). (default: the model's own)"),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora", help="PATH_OR_ID:WEIGHT, of two transformers :WEIGHT@high, @low, @both; may be repeated."
        ),
    ] = None
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache", help="Reuse features of earlier steps: none, first-block, taylorseer, pab. (default: none)"
        ),
    ] = None

    def values(self) -> dict[str, How]:
        """As fields of what loads a model, those that were given. Raises UsageError."""
        from shelllcc.guidance.wan.model.loading import Lora, local

        found = asdict(self)
        lora = found.pop("lora")
        found |= {key: local(found[key]) for key in ("transformer", "transformer_2") if found[key]}
        return _given(found | {"loras": tuple(map(Lora.parse, lora)) if lora else None})


@dataclass(frozen=True)
class Fitting:
    """How the guide is fitted to the model before it guides."""

    fit: Annotated[
        str,
        typer.Option("--fit", help="How the guide is set: auto (the fit for these settings), never, anew, or a file."),
    ] = "auto"
    fit_budget: Annotated[
        float, typer.Option("--fit-budget", min=0, help="Most minutes that a fit may take when there is none yet.")
    ] = 3.0


@dataclass(frozen=True)
class Common:
    """What every command that samples takes."""

    model: Model = None
    preset: Preset = None
    bank: Bank = None
    device: Device = None
    as_json: Json = False
    quiet: Quiet = False

    def asked(
        self, sampling: Sampling, loading: Loading, *, seed: int | None = None, strength: str | None = None
    ) -> Asked:
        """What is asked for, but the prompts and where the clips go. Raises UsageError."""
        from shelllcc.guidance.wan.clips import parse
        from shelllcc.guidance.wan.clips.asked import Asked

        values = sampling.values() | _given({"seed": seed, "strength": parse.strength(strength)})
        return Asked(model=self.model, preset=self.preset, bank=self.bank, values=values, loading=loading.values())


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in values.items() if value is not None}


def show(path: Path) -> None:
    """Open a page or a clip with what the system opens such files with; where it has nothing, say so."""
    ends_at_once = sys.platform.startswith("linux")  # xdg-open hands the file on, and its child is to be awaited
    if typer.launch(str(path.absolute()), wait=ends_at_once) != 0:
        streams.say(f"note: nothing here opens {path}; open it by hand")


def flags_alone(ctx: typer.Context, asked: Asked) -> Asked:
    """What was asked for by flags, as if nothing else had been set: so a replay hears it, but for --offload, which says
    where a clip is made, not what it is."""
    parameters = {"prompts": "prompt", "width": "size", "height": "size", "loras": "lora"}

    def kept(given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if is_flag(ctx, parameters.get(name, name))}

    own = kept({field.name: getattr(asked, field.name) for field in fields(asked)})
    offload = {key: how for key, how in asked.loading.items() if key == "offload"}
    return type(asked)(**own, values=kept(asked.values), loading=kept(asked.loading) | offload)


class Told(TyperCommand):
    """A command whose help says of every option what holds where it is not given; the many of one that samples come
    in PANELS."""

    def __init__(self, *words: Any, **how: Any) -> None:
        super().__init__(*words, **how)
        for option in self.params:
            unset = option.default is None or option.default is False or option.default == ()
            if not isinstance(option, TyperOption) or option.required or not unset:
                continue
            if "(default: " not in (option.help or ""):
                option.help = f"{option.help} (default: {'off' if option.is_flag else 'none'})"
        self.samples = any(option.name == "steps" for option in self.params)
        if self.samples:
            for option in self.params:
                if isinstance(option, TyperOption):
                    option.rich_help_panel = next((p for p, names in PANELS.items() if option.name in names), MORE)
            self.params.sort(key=_rank)

    def invoke(self, ctx: Any) -> Any:
        """Run it; an error over a value that no flag gave says where it comes from."""
        try:
            return super().invoke(ctx)
        except ShellLCCError as error:
            if (origin := given.origin(ctx, str(error))) is not None:
                error.args = (f"{error} ({origin})", *error.args[1:])
            raise

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if self.samples and isinstance(option, TyperOption):
            option.rich_help_panel = MORE
        return option


def _rank(parameter: Any) -> tuple[int, int]:
    """Where a parameter stands in the help: arguments first, then by panel, and within it."""
    panel: str = getattr(parameter, "rich_help_panel", None) or ""
    if panel not in PANELS:
        return -1, 0
    names = PANELS[panel]
    return [*PANELS].index(panel), names.index(parameter.name) if parameter.name in names else len(names)


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its dataclasses of options in place of these."""
    hints = get_type_hints(command, include_extras=True)
    own, groups = dict[str, Any](), dict[str, Any]()
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            inside = get_type_hints(hints[name], include_extras=True)
            own |= {field.name: (inside[field.name], field.default) for field in fields(hints[name])}
        else:
            own[name] = hints[name], parameter.default

    asks_context = own.pop("ctx", None)
    own = {"ctx": (typer.Context, inspect.Parameter.empty), **own}

    @functools.wraps(command)
    def run(ctx: typer.Context, **given: Any) -> None:
        given |= dict.fromkeys(_outdone(ctx) & given.keys()) | ({"ctx": ctx} if asks_context else {})
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


def _outdone(ctx: typer.Context) -> set[str]:
    """Parameters that a default set and that a flag stands in place of."""
    if "sigmas" not in ctx.params:
        return set()
    from shelllcc.guidance.wan.clips.request import INSTEAD

    left = {name for name, others in INSTEAD.items() if any(is_flag(ctx, other) for other in others)}
    return {name for name in left if not is_flag(ctx, name)}


def one_of(ctx: typer.Context, first: str, second: str) -> tuple[Any, Any]:
    """Two parameters that exclude each other: a flag counts before a default. Raises UsageError where both count."""
    given = {name: value for name in (first, second) if (value := ctx.params[name]) not in (None, [], ())}
    flags = {name: value for name, value in given.items() if is_flag(ctx, name)}
    chosen = flags or given
    if len(chosen) > 1:
        names = {p.name: p.opts[0] for p in ctx.command.params}
        raise UsageError(f"give {names[first]} or {names[second]}, not both")
    return chosen.get(first), chosen.get(second)
