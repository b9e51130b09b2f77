"""Where a value comes from, flag, variable or file, where an error is over it. Knows nothing of what values mean."""

from __future__ import annotations

import inspect
import os
import re
import sys
from typing import Any

from shelllcc.commands.config import KINDS, kind_of


def origin(ctx: Any, message: str) -> str | None:
    """The variable, or the file and key, of the one value that a message names with its parameter and no flag gave."""
    words = set(re.findall(r"[\w-]+", message.lower()))
    for parameter in ctx.command.params:
        source, value = ctx.get_parameter_source(parameter.name), ctx.params.get(parameter.name)
        flags = (flag.lstrip("-").lower() for flag in parameter.opts)
        names = {parameter.name, *flags, *(flag.lower() for flag in parameter.opts)}
        if source is None or value is None or not names & words or str(value).lower() not in message.lower():
            continue
        if source.name == "ENVIRONMENT":
            return f"set by {parameter.envvar}"
        if source.name == "DEFAULT_MAP":
            table = ".".join(_names(ctx))
            file = ctx.find_root().params.get("config_file") or "shelllcc.toml"
            return f"set in {file}: [{table}] {parameter.opts[0].lstrip('-')}"
    return None


def _names(ctx: Any) -> list[str]:
    """A command's name, after that of its group."""
    return [] if ctx.parent is None else [*_names(ctx.parent), ctx.info_name]


def refusal(error: Any) -> str | None:
    """What the parser's error over a number means: of which flag or variable, what that takes, and what it got."""
    parameter, command = getattr(error, "param", None), getattr(getattr(error, "ctx", None), "command", None)
    callback = getattr(command, "callback", None)
    if parameter is None or callback is None:
        return None
    hint = inspect.signature(callback, eval_str=True).parameters[parameter.name].annotation
    place, value = _said(parameter)
    kind, low = kind_of(hint)[0], getattr(parameter, "min", None)
    if kind not in (int, float) or value is None:
        return None
    return f"{place} takes {KINDS[kind][0]}{'' if low is None else f', {low} or more'}, got {value}"


def _said(parameter: Any) -> tuple[str, str | None]:
    """By which flag a parameter was given, or by which variable, and as what; None where it is not to be found."""
    words = sys.argv[1:]
    for index in reversed(range(len(words))):  # of one that is given twice the last counts
        flag, equals, value = words[index].partition("=")
        if flag in parameter.opts:
            return flag, value if equals else next(iter(words[index + 1 :]), None)
    variable = str(parameter.envvar or "")
    return variable, os.environ.get(variable)
