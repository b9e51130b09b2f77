"""The Typer app: which command lives where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shelllcc.commands import (
    anchors,
    batch,
    compare,
    config,
    doctor,
    fit,
    generate,
    options,
    profiles,
    report,
    running,
    score,
    streams,
    tune,
)
from shelllcc.commands.examples import example
from shelllcc.guidance.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Shell-LCC guidance for Wan text-to-video: sharper, truer videos at sampling time, with no weight update.",
)
app.command()(generate.generate)
app.command()(compare.compare)
app.command()(fit.fit)
app.command()(tune.tune)
app.command()(batch.batch)
app.command()(report.report)
app.command()(score.score)
app.command()(doctor.doctor)
app.add_typer(anchors.app, name="anchors")
app.add_typer(profiles.app, name="profiles")
for group, below in (("", app), ("anchors ", anchors.app), ("profiles ", profiles.app)):
    for known in below.registered_commands:
        word = known.name or getattr(known.callback, "__name__", "")
        known.epilog, known.cls = example(f"{group}{word}"), options.Told


def _version(value: bool) -> None:
    if value:
        from shelllcc.guidance import versions

        streams.print_line(f"shelllcc {versions.version() or 'of a checkout that is not installed'}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="Defaults by command. (default: shelllcc.toml)", envvar="SHELLLCC_CONFIG"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print it. (default: off)")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    if config_file is not None or Path("shelllcc.toml").exists():
        path = config_file or Path("shelllcc.toml")
        try:
            ctx.default_map = config.defaults(path, getattr(ctx.command, "commands", {}))
        except UsageError:
            if config.wants_json(path, ctx.invoked_subcommand):
                streams.results_alone()
            raise


def main() -> None:
    """Run the command line. Exit 0 done, 1 failed, 2 usage, 130 interrupted, 128 + n ended by signal n."""
    running.run(app)
