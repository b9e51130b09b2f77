"""A command from its words to its exit code: signals, errors in one line, remarks."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys

import typer

from shelllcc.commands import given, streams
from shelllcc.guidance.errors import ShellLCCError, UsageError
from shelllcc.guidance.files import FULL
from shelllcc.guidance.terminal import shown_lines


class _Ended(BaseException):
    """A signal that ends the process as an interrupt does: files are removed and workers ended on the way out."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Remarks(logging.Handler):
    """What the package logs, as notes on stderr, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.said = set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if (message := record.getMessage()) not in self.said:
            self.said.add(message)
            streams.say(f"note: {message}")


def run(app: typer.Typer) -> None:
    """Run the command line; errors are one line on stderr and, with --json, one object on stdout.

    Exit 0 done, 1 failed, 2 usage, 130 interrupted, 128 + n ended by signal n.
    """
    logging.getLogger("shelllcc").handlers = [_Remarks()]
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, _end)
    with streams.own_stdout():
        try:
            code = app(standalone_mode=False)
        except _Ended as ended:
            code = 128 + ended.number
            _say_end(f"ended by {signal.Signals(ended.number).name}", code)
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except BrokenPipeError:  # the reader of stdout left; nothing more can be said to it
            _give_up_stdout()
            code = 1
        except Exception as error:
            code = _failed(error)
        if code == 130:
            _say_end("interrupted", code)
    sys.exit(code if isinstance(code, int) else 0)


def _give_up_stdout() -> None:
    """What it still holds is lost, so that the exit does not fail over it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise _Ended(number)


def _failed(error: Exception) -> int:
    """Say it in one line and return the exit code. The parser's own errors know theirs."""
    if os.environ.get("SHELLLCC_DEBUG") == "1":
        import traceback

        if sys.stderr is not None:
            print(shown_lines(traceback.format_exc()), file=sys.stderr)
    kind = type(error).__name__
    if hasattr(error, "format_message"):
        message = given.refusal(error) or error.format_message()
        kind, code = "UsageError", int(getattr(error, "exit_code", 2))
    elif isinstance(error, ShellLCCError):
        message, code = str(error), 2 if isinstance(error, UsageError) else 1
    elif (
        isinstance(error, OSError) and error.filename is None and error.errno in FULL
    ):  # of a file, ours would be raised
        _give_up_stdout()
        kind, message, code = "DiskFullError", "disk full: cannot write the result to stdout; free some space", 1
    else:
        message, code = f"unexpected {kind}: {error}; SHELLLCC_DEBUG=1 shows where", 1
    message = " ".join(message.split())
    if message:
        streams.say(f"error: {message}", wrong=True)
    _report(kind, message, code, error)
    return code


def _say_end(line: str, code: int) -> None:
    """How a signal ended it, as `_failed` says an error."""
    streams.say(line, wrong=True)
    _report("Interrupted", line, code)


def _report(kind: str, message: str, code: int, error: BaseException | None = None) -> None:
    """The error for programs, where JSON was asked for."""
    if streams.wants_json(error):
        with contextlib.suppress(OSError):  # it was stdout itself
            streams.print_json({"error": {"type": kind, "message": message, "exit_code": code}})
