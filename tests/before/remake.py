"""The records in this folder with the weights and bank of now: `python tests/before/remake.py`, half a minute.

They keep the form and the words that version 0.1.0 gave them. Every clip is sampled anew, and of its new record goes in
what follows from weights and bank; `--to` writes another folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NOW = ["--model", "tiny", "--bank", "auto"]
KEPT = {"request", "requests", "loading", "versions", "seconds", "videos", "sidecar", "device", "scheduler", "path"}


def like(old: Any, new: Any) -> Any:
    """`new` in the form of `old`: its keys alone, those of KEPT as they were."""
    if isinstance(old, str) and isinstance(new, dict):  # a bank was its file's sha256
        return new["sha256"]
    if isinstance(old, dict):
        return {key: value if key in KEPT or key not in new else like(value, new[key]) for key, value in old.items()}
    if isinstance(old, list) and len(old) == len(new):
        return [like(*pair) for pair in zip(old, new, strict=True)]
    return new


def read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def write(path: Path, record: Any) -> None:
    lines = [json.dumps(line, ensure_ascii=False) for line in record] if path.suffix == ".jsonl" else None
    text = "\n".join(lines) if lines is not None else json.dumps(record, indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def shelllcc(folder: str, *words: str | Path) -> None:
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "shelllcc", *map(str, words), "--device", "cpu"]
    subprocess.run(command, cwd=folder, env=surroundings, check=True, stdout=subprocess.DEVNULL)


def remake(to: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("generate.json", "batch.json", "run/00_strength-1.json"):
            clip = Path(folder, Path(name).name)
            shelllcc(folder, "generate", "--from", HERE / name, *NOW, "-o", clip.with_suffix(".mp4"))
            write(to / name, like(read(HERE / name), read(clip)))
        made, run = read(to / "generate.json"), read(HERE / "run/run.json")
        write(to / "run/run.json", run | {"model": made["model"], "bank": made["bank"]["sha256"]})


if __name__ == "__main__":
    remake(Path(sys.argv[sys.argv.index("--to") + 1]) if "--to" in sys.argv else HERE)
