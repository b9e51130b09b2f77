"""The commands `profiles ...`: parse, one call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.tables import short, table
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.words import plural

app = typer.Typer(no_args_is_help=True, help="The strengths that `tune` found.")


@app.command("list")
def list_profiles(as_json: options.Json = False) -> None:
    """All profiles, by prompt."""
    from shelllcc.guidance.wan.clips import profiles as store

    found = list(store.every(on_broken=lambda line: streams.say(f"note: {line}")))
    if as_json:
        streams.print_json({"folder": str(store.folder()), "profiles": found})
        return
    table(
        ("profile", "prompt", "strength", "balance", "model", "bank"),
        [(p["name"], short(p["settings"]["prompt"]), f"{p['strength']:g}", f"{p['balance']:+.3f}",
          p["model"]["source"], p["bank"]["name"]) for p in found],
    )  # fmt: skip


Name = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name, the beginning of it, or its prompt.")]


@app.command()
def show(name: Name) -> None:
    """Everything that a profile holds, as JSON."""
    from shelllcc.guidance.wan.clips import profiles as store

    for profile in store.named(name):
        streams.print_json(profile, indent=2)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(**options.TO, help="The JSON file to write.")],
    name: Annotated[list[str] | None, typer.Argument(metavar="PROFILE", help="Which. (default: all)")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write profiles to one file, to keep or to give away."""
    from shelllcc.guidance.wan.clips import profiles as store

    chosen = [profile for one in name for profile in store.named(one)] if name else store.every()
    streams.print_line(f"{plural(store.export(output, chosen, overwrite=overwrite), 'profile')} written to {output}")


@app.command("import")
def import_profiles(
    path: Annotated[Path, typer.Argument(**options.FROM, help="A file that `profiles export` wrote.")],
    overwrite: options.Overwrite = False,
) -> None:
    """Take over the profiles of a file."""
    from shelllcc.guidance.wan.clips import profiles as store

    streams.print_line(f"{plural(store.take_over(path, overwrite=overwrite), 'profile')} taken over")


@app.command()
def forget(
    name: Annotated[list[str] | None, typer.Argument(metavar="PROFILE", help="Names, or prompts.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Remove profiles."""
    from shelllcc.guidance.wan.clips import profiles as store

    if bool(name) == every:
        raise UsageError("give the profiles to forget, or --all")
    if every:
        streams.print_line(f"{plural(store.forget_all(), 'profile')} forgotten")
        return
    found = {profile["name"] for one in name or [] for profile in store.named(one)}
    for one in found:
        store.forget(one)
    streams.print_line(f"{plural(len(found), 'profile')} forgotten")
