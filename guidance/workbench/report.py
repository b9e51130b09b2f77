"""The page of a run: one HTML file that shows its videos beside each other, with figures, verdicts and a blind vote.

Knows where a run's files lie and how data enter a page unharmed; what the page looks like and does is in `page/`.
Knows nothing of models, sampling or how the figures were measured.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from shelllcc.guidance.files import whole_file

SCRIPTS = (
    "dom",
    "theme",
    "gallery",
    "clock",
    "player",
    "stage",
    "figures",
    "trace",
    "fit",
    "blind",
    "page",
)  # each builds on those before it
DATA = re.compile(r'<script type="application/json" id="run">(.*?)</script>', re.DOTALL)
KINDS = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
}
DRAWN_BY_THE_PAGE = ("side_by_side", "trace_plot")  # the page shows both itself, so a single file needs no copy


def read_report(path: Path) -> dict[str, Any]:
    """What a page of ours shows, as `write_report` put it there; nothing of a page that is none, or of no file."""
    try:
        found = DATA.search(path.read_text(encoding="utf-8"))
        run = json.loads(found[1]) if found else None
    except (OSError, ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) else {}


def write_report(path: Path, run: Mapping[str, Any], *, embed: bool = False) -> None:
    """Write the page of `run`, whole or not at all; its files are named relative to the folder of `path`.

    Embedded, the page holds its videos and needs no file beside it. A file that is missing is reported by the page.
    Raises OutputError.
    """
    write_page(path, _with_files(run, path.parent, embed=embed))


def write_page(
    path: Path, data: Mapping[str, Any], *, inside: str | None = None, scripts: Sequence[str] = SCRIPTS
) -> None:
    """Write a page of the house, whole or not at all: a template of `page/`, its scripts, and data as JSON.

    The template is that of a run, or a small one around what is `inside`, "fit" or "tune". Raises OutputError.
    """
    page = _page(_plain(data), inside, scripts)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8", newline="\n")


def _page(data: Any, inside: str | None, scripts: Sequence[str]) -> str:
    """The template with style, scripts and data in their places, and the hashes by which its policy lets them in."""
    folder = files("shelllcc.guidance.workbench") / "page"
    style = (folder / "page.css").read_text(encoding="utf-8")
    bodies = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in scripts]
    script = "\n".join(['"use strict";', "(() => {", *bodies, "})();", ""])
    parts = {
        "style": style,
        "script": script,
        "style-hash": _hash(style),
        "script-hash": _hash(script),
        "run": _json_for_html(data),
    }
    if inside is not None:
        parts |= {"inside": inside, "main": (folder / f"{inside}.html").read_text(encoding="utf-8")}
    text = (folder / ("page.html" if inside is None else "small.html")).read_text(encoding="utf-8")
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], text)


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json_for_html(value: Any) -> str:
    """JSON in ASCII that no HTML parser takes for markup, whatever the strings in it are."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _plain(value: Any) -> Any:
    """The same with null for numbers that JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


def _with_files(run: Mapping[str, Any], folder: Path, *, embed: bool) -> dict[str, Any]:
    """The run with {name, url} for each file that it names."""

    def placed(part: Mapping[str, Any], *keys: str) -> dict[str, Any]:
        return {**part, **{key: _file(part.get(key), folder, embed=embed) for key in keys}}

    items = []
    for item in run.get("items", ()):
        whole = {**item, **dict.fromkeys(DRAWN_BY_THE_PAGE)} if embed else item
        clips = [placed(clip, "video") for clip in item.get("clips", ())]
        items.append({**placed(whole, "montage", *DRAWN_BY_THE_PAGE), "clips": clips})
    pages = {"runs": [placed(one, "page") if not embed else {**one, "page": None} for one in run.get("runs", ())]}
    return {**run, **(pages if "runs" in run else {}), "items": items}


def _file(name: str | Mapping[str, None] | None, folder: Path, *, embed: bool) -> Mapping[str, str | None] | None:
    """How the page names a file and where it finds it; no URL where it should be embedded and cannot be read.

    A name that is already such a mapping is known to name no file.
    """
    if not name or isinstance(name, Mapping):
        return name or None
    if not embed:
        url = quote(name, safe="/", errors="surrogateescape")
        return {"name": name, "url": f"./{url}"}  # ./ so that no name is read as a host
    kind = KINDS.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")
    try:
        content = base64.b64encode(Path(os.path.normpath(folder / name)).read_bytes()).decode()  # as a browser
    except OSError:
        return {"name": name, "url": None}
    return {"name": "", "url": f"data:{kind};base64,{content}"}
