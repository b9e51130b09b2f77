"""The exception tree.

ShellLCCError
├── UsageError        what was asked for cannot be (the command line exits with 2)
├── ModelError        a model that cannot be found, read or guided
├── BankError         a bank that cannot be read or does not fit the model
├── VideoError        a video that cannot be read
├── SamplingError     sampling went wrong, e.g. the model gave NaN
│   ├── OutOfMemoryError  it did not fit into memory
│   └── LostGpuError      the GPU failed, and this process cannot use it again
└── OutputError       a file that cannot be written
    └── DiskFullError     for want of room

All of them travel between processes whole: message, type and attributes.
"""

from __future__ import annotations

from typing import Any


class ShellLCCError(Exception):
    """Root of all errors that this package raises on purpose; its message is one line that says what to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


class UsageError(ShellLCCError):
    """What was asked for cannot be."""


class ModelError(ShellLCCError):
    """A model that cannot be found, read or guided."""


class BankError(ShellLCCError):
    """A bank that cannot be read or does not fit the model."""


class VideoError(ShellLCCError):
    """A video that cannot be read."""


class SamplingError(ShellLCCError):
    """Sampling went wrong."""


class OutOfMemoryError(SamplingError):
    """A stage of the work that did not fit into memory; `advice` is what to try."""

    def __init__(self, stage: str, advice: str = "use fewer --frames or a smaller --size") -> None:
        super().__init__(f"out of memory while {stage}; {advice}")
        self.stage, self.advice = stage, advice


class LostGpuError(SamplingError):
    """The GPU failed in a stage, for a `reason` in CUDA's words; only a new process can use it again."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"the GPU's context is lost while {stage} ({reason}); run the same command again")
        self.stage, self.reason = stage, reason


class TooLongError(SamplingError):
    """A fit would take longer than it may; `seconds` is what it would take, `most` what it may, `advice` what to do."""

    def __init__(self, seconds: float, most: float, advice: str = "") -> None:
        told = f"a fit takes about {seconds / 60:.1f} minutes here, more than the {most / 60:.1f} it may"
        super().__init__(told + (f"; {advice}" if advice else ""))
        self.seconds, self.most = seconds, most


class OutputError(ShellLCCError):
    """A file that cannot be written."""


class DiskFullError(OutputError):
    """A file that cannot be written for want of room."""


def plain(error: ShellLCCError) -> ShellLCCError:
    """The message of an error alone, as one of the tree above: whatever the error was, that can be sent."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == __name__)
    return _restored(kind, (str(error),), {})


def _restored(kind: type[ShellLCCError], args: tuple[Any, ...], attributes: dict[str, Any]) -> ShellLCCError:
    """An error as it was; its own __init__, which takes other arguments than its message, is not called again."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def first_line(error: BaseException) -> str:
    """What an error says, or else its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
