"""The suite at every dependency's lower bound on Python 3.11, and with the newest of each on 3.13: `make test-bounds`.

    python tests/bounds.py [lowest | newest] [WORDS FOR PYTEST ...]

Each has an environment in .cache/bounds, which is kept for the next time, that of the newest for a week. Standard
library alone: it runs before anything is installed.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".cache" / "bounds"
PYTHONS = {"lowest": "3.11", "newest": "3.13"}


def main() -> int:
    words = sys.argv[1:]
    bounds = [word for word in words if word in PYTHONS] or list(PYTHONS)
    ended = {bound: suite(environment(bound), [w for w in words if w not in PYTHONS]) for bound in bounds}
    for bound, (code, said) in ended.items():
        print(f"{bound} on Python {PYTHONS[bound]}: {said or f'pytest ended with {code}'}")
    return max(code for code, _ in ended.values())


def pins(project: dict[str, Any]) -> Iterator[str]:
    """What every requirement of a pyproject.toml names as its lower bound, as pip's constraints."""
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *(r for extra in extras.values() for r in extra)):
        if found := re.fullmatch(r"([\w-]+)>=([\w.]+)(?:,<[\w.]+)?", requirement):
            yield f"{found[1]}=={found[2]}"
        elif not requirement.startswith(f"{project['name']}["):
            raise ValueError(f"no lower bound in {requirement!r}; write NAME>=VERSION")


def environment(bound: str) -> Path:
    """The Python of an environment with the package, its extras and their versions; made where it is not there."""
    folder = FOLDER / bound
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = sorted(set(pins(project)))
    week = "{} week {}".format(*datetime.date.today().isocalendar()[:2])  # until when the newest are new
    wanted = "\n".join(lowest if bound == "lowest" else [week, *lowest])
    python, made = folder / "bin" / "python", folder / "made-of.txt"
    if made.is_file() and made.read_text(encoding="utf-8") == wanted:
        return python
    run(f"python{PYTHONS[bound]}", "-m", "venv", "--clear", folder)
    (folder / "constraints.txt").write_text("\n".join(lowest) if bound == "lowest" else "", encoding="utf-8")
    run(python, "-m", "pip", "install", "-q", "-c", folder / "constraints.txt", "-e", f"{ROOT}[dev]")
    made.write_text(wanted, encoding="utf-8")
    return python


def suite(python: Path, words: list[str]) -> tuple[int, str]:
    """How pytest ended there, and its last line."""
    typing = ROOT / ".cache" / "typing"
    typing.mkdir(parents=True, exist_ok=True)
    if not (typing / "shelllcc").exists():
        (typing / "shelllcc").symlink_to("../..")
    env = os.environ | {"PYTHONPATH": f"{typing}:{ROOT}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", *words]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last.strip("= ")


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    sys.exit(main())
