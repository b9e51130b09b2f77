"""Defaults from shelllcc.toml, each value of the type of the parameter that it stands for.

Knows nothing of what commands do with them. Everything raises UsageError with file, table and key.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.paths import reason

KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {  # of a parameter: in words, and what TOML may hold for it
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a string", (str,)),
    Path: ("a string", (str,)),
}
NUMBERS_AS_TEXT = ("strength", "strengths", "seeds")  # one number does, though more may be written there


def defaults(path: Path, commands: dict[str, Any]) -> dict[str, Any]:
    """The tables of the file by command, and by command of a group, keys as parameters."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    return _by_command(str(path), tables, commands, "")


def wants_json(path: Path, command: str | None) -> bool:
    """Whether a file, also one that cannot be read as TOML, says `json = true` for a command or one of its group."""
    table = ""
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if head := re.match(r"\s*\[\s*([\w.-]+)", line):
                table = f"{head[1]}."
            elif said := re.match(r"\s*([\w.-]*\bjson)\s*=\s*true\b", line):
                words = f"{table}{said[1]}".split(".")
                if words[0] == command and set(words[1:-1]) <= set(sys.argv):
                    return True
    return False


def _by_command(file: str, tables: dict[str, Any], commands: dict[str, Any], group: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise UsageError(f"{file}: {group}{name} is no table of a command; there are {', '.join(commands)}")
        command = commands[name]
        if inside := getattr(command, "commands", None):
            found[name] = _by_command(file, table, inside, f"{group}{name}.")
        else:
            found[name] = _of_command(f"{file}: [{group}{name}]", table, command)
    return found


def _of_command(place: str, table: dict[str, Any], command: Any) -> dict[str, Any]:
    flags = {flag.lstrip("-"): parameter for parameter in command.params for flag in parameter.opts}
    hints = inspect.signature(command.callback, eval_str=True).parameters
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in flags:
            raise UsageError(f"{place} has no flag --{key}; remove the line, or see the command's --help")
        parameter = flags[key]
        if parameter.name in found:
            raise UsageError(f"{place} {key} says again what another key says; remove one of them")
        found[parameter.name] = _checked(f"{place} {key}", value, parameter, hints[parameter.name].annotation)
    return found


def _checked(place: str, value: Any, parameter: Any, hint: Any) -> Any:
    kind, several = kind_of(hint)
    what, allowed = KINDS[kind]
    if several and isinstance(value, list) and all(type(part) in allowed for part in value):
        return value
    if parameter.name in NUMBERS_AS_TEXT:
        what, allowed = "a number or a string", (int, float, str)
    if type(value) not in allowed:
        raise UsageError(f"{place} must be {what}{' or a list of them' if several else ''}, got {_short(value)}")
    if several:
        return [value]
    low = getattr(parameter, "min", None)
    if low is not None and value < low:
        raise UsageError(f"{place} must be {low} or more, got {value}")
    if kind is float and type(value) is int and abs(value) > 1e300:
        raise UsageError(f"{place} is too large a number, got {_short(value)}")
    return str(value) if kind is str else value


def kind_of(hint: Any) -> tuple[Any, bool]:
    """The type of one value of a parameter, and whether it takes several."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        [hint] = (part for part in get_args(hint) if part is not type(None))
    return (get_args(hint)[0], True) if get_origin(hint) is list else (hint, False)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"
