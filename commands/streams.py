"""What commands say, and where: results on stdout, everything else on stderr. Knows nothing of what is said."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TextIO

from shelllcc.guidance.terminal import json_text, shown

RESULTS: ContextVar[TextIO | None] = ContextVar("RESULTS", default=None)  # where they go if not to sys.stdout
QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)


def print_json(record: Any, *, indent: int | None = None) -> None:
    """A result for programs, on stdout; letters are escaped only where stdout cannot hold them."""
    text = json_text(record, indent=indent)
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        text = json.dumps(record, indent=indent)
    _result(text)


def print_line(line: str) -> None:
    """A line of a result for people, on stdout."""
    _result(shown(line))


def fitting(text: str) -> str:
    """The text, letters that stdout cannot hold escaped."""
    return text.encode(_encoding(), "backslashreplace").decode(_encoding())


def hush() -> None:
    """Say nothing from now on but what went wrong."""
    QUIET.set(True)


def is_quiet() -> bool:
    """Whether only what went wrong is said."""
    return QUIET.get()


def say(line: str, *, wrong: bool = False) -> None:
    """A line to the user, on stderr; what went `wrong` is said also where quiet was asked for."""
    if sys.stderr is not None and (wrong or not QUIET.get()):  # print would take stdout
        print(shown(f"shelllcc: {line}"), file=sys.stderr)


def agreed(fact: str) -> bool:
    """Whether the user says yes to fetching what `fact` tells, asked on stderr; no where nobody is there to ask."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        return False
    print(shown(f"shelllcc: {fact}; fetch it? [y/N] "), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Within the block `results_alone` may be called; `sys.stdout` is afterwards what it was."""
    before, token, quiet = sys.stdout, RESULTS.set(None), QUIET.set(False)
    try:
        yield
    finally:
        results, sys.stdout = RESULTS.get(), before
        RESULTS.reset(token)
        QUIET.reset(quiet)
        if results is not None and results is not before:
            with contextlib.suppress(OSError):  # its reader has left
                results.close()


def results_alone() -> None:
    """Keep stdout for results: what libraries or their processes print there goes to stderr from now on.

    File descriptor 1 stays with stderr until the process ends: C libraries may print what they hold at the exit.
    """
    stream = sys.stdout
    if stream is None or RESULTS.get() is not None:
        return
    if _is_descriptor(stream, 1):
        stream.flush()
        if sys.stderr is None:  # closed: its number must not become that of the results
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        stream = os.fdopen(os.dup(1), "w", encoding=stream.encoding)
        os.dup2(2, 1)
    RESULTS.set(stream)
    sys.stdout = sys.stderr


def wants_json(error: BaseException | None = None) -> bool:
    """Whether the command that ran, or could not be parsed, was to print JSON."""
    words = sys.argv[1:]
    words = words[: words.index("--")] if "--" in words else words
    ctx = getattr(error, "ctx", None)  # of the parser's errors
    configured = ctx is not None and ctx.lookup_default("as_json") is True
    return "--json" in words or RESULTS.get() is not None or configured


def _result(text: str) -> None:
    stream = RESULTS.get() or sys.stdout
    if stream is not None:
        print(fitting(text), file=stream, flush=True)


def _encoding() -> str:
    return getattr(RESULTS.get() or sys.stdout, "encoding", None) or "utf-8"


def _is_descriptor(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):
        return False
