"""The command `doctor`."""

from __future__ import annotations

import json

import typer

from shelllcc.commands import options, streams


def doctor(as_json: options.Json = False) -> None:
    """Check this installation: versions, devices, ffmpeg, the embedded model, the banks, one guided step."""
    from shelllcc.guidance.workbench.doctor import examine

    report = examine()
    if as_json:
        streams.print_json(report)
    else:
        for key, value in report.items():
            streams.print_line(f"{key:<12} {json.dumps(value) if isinstance(value, (dict, list)) else value}")
    if not report["ok"]:
        raise typer.Exit(1)
