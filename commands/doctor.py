"""The command `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.tables import facts

if TYPE_CHECKING:
    from shelllcc.guidance.files import JsonObject


def doctor(as_json: options.Json = False) -> None:
    """Check this installation: versions, devices, ffmpeg, the embedded model, the banks, one guided step."""
    from shelllcc.guidance.workbench.doctor import examine

    report = examine()
    if as_json:
        streams.print_json(report)
    else:
        _print(report)
    if not report["ok"]:
        raise typer.Exit(1)


def _print(report: JsonObject) -> None:
    """The report for people: problems last, where they are seen."""
    installed = {name: found for name, found in report["versions"].items() if found}
    versions = [f"{name} {found}" for name, found in installed.items()]
    lines = [", ".join(versions[index : index + 4]) for index in range(0, len(versions), 4)]
    step = report.get("step")
    facts(
        {"versions": lines[0]}
        | {" " * (1 + index): line for index, line in enumerate(lines[1:])}
        | {
            "devices": report["devices"],
            "threads": report["threads"],
            "ffmpeg": report["ffmpeg"].partition(" at ")[0],
            "model": f"tiny, {report.get('tiny_model_sha256', '')[:16]}",
            "banks": [bank["name"] for bank in report["banks"]],
            "step": step
            and f"{step['seconds']:.1f} s, guided by {step['move']:.3f} at distance {step['distance']:.3f}",
        }
    )
    for problem in report["problems"]:
        streams.print_line(f"problem   {problem}")
    streams.print_line("all is well" if report["ok"] else "something is missing; see the problems")
