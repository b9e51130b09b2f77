"""The exception tree.

ShellLCCError
├── UsageError        what was asked for cannot be (the command line exits with 2)
├── ModelError        a model that cannot be found, read or guided
├── BankError         a bank that cannot be read or does not fit the model
├── VideoError        a video that cannot be read
├── SamplingError     sampling went wrong, e.g. the model gave NaN
│   └── OutOfMemoryError  it did not fit into memory
└── OutputError       a file that cannot be written
    └── DiskFullError     for want of room
"""

from __future__ import annotations


class ShellLCCError(Exception):
    """Root of all errors that this package raises on purpose; its message is one line that says what to do."""


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
    """A stage of sampling that did not fit into memory; `advice` is what to try."""

    def __init__(self, stage: str, advice: str = "use fewer --frames or a smaller --size") -> None:
        super().__init__(f"out of memory while {stage}; {advice}")
        self.stage = stage


class OutputError(ShellLCCError):
    """A file that cannot be written."""


class DiskFullError(OutputError):
    """A file that cannot be written for want of room."""
