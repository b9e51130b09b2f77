"""docs/commands.md: every command and flag, as the commands themselves tell. `make docs` writes it.

Knows nothing of what commands do; tests/commands/test_docs.py holds the page to them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from shelllcc import cli
from shelllcc.commands import options

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Commands

Every command and its flags; `make docs` writes this page from the commands themselves. `shelllcc COMMAND --help` shows
the same, and every command takes `--help`, `-h`. What several commands share is said once, at the end. Flags of
commands that sample come in this order, here and in their help: {panels}.
"""


def commands(command: Any, name: str = "shelllcc") -> Iterator[tuple[str, Any]]:
    """The command and all below it, by the words that call them."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {word}")


def page() -> str:
    """The page, as Markdown."""
    every = dict(commands(typer.main.get_command(cli.app)))
    users = defaultdict[str, list[str]](list)  # of a parameter that is worded so
    for name, command in every.items():
        for parameter in command.params:
            users[_line(parameter)].append(name.removeprefix("shelllcc "))
    parts = [HEAD.format(panels=", ".join(options.PANELS))]
    for name, command in every.items():
        shared = [parameter for parameter in command.params if len(users[_line(parameter)]) > 1]
        lines = [_line(parameter) for parameter in command.params if parameter not in shared]
        if shared:
            lines.append(f"- shared: {', '.join(f'`{_names(parameter)[0]}`' for parameter in shared)}")
        words = " ".join([name, *(_name(p) for p in command.params if p.param_type_name == "argument")])
        parts.append("\n\n".join(filter(None, [f"## {words}", _one_line(command.help), "\n".join(lines)])) + "\n")
    said = sorted(line for line, names in users.items() if len(names) > 1)
    times = Counter(line.split(":")[0] for line in said)  # one name may stand for two things
    of = {line: f" ({', '.join(users[line])})" if times[line.split(":")[0]] > 1 else "" for line in said}
    parts.append("## Shared\n\n" + "\n".join(f"{line}{of[line]}" for line in said) + "\n")
    return "\n".join(parts)


def _line(parameter: Any) -> str:
    """A parameter with its names, its help, its default and its environment variable."""
    text = _one_line(parameter.help)
    has_default = parameter.default is not None and parameter.default is not False and parameter.default != ()
    if has_default and not parameter.required:
        text = re.sub(r" \(default: [^)]*\)", "", text) + f" (default: {parameter.default})"
    if parameter.envvar:
        text += f" [`{parameter.envvar}`]"
    return f"- {', '.join(f'`{name}`' for name in _names(parameter))}: {text}"


def _names(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [_name(parameter)]
    return [*parameter.opts, *parameter.secondary_opts]


def _name(parameter: Any) -> str:
    """An argument as a usage line has it."""
    name = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
