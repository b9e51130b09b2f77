"""What guides a server's samplings: one fit, named in its environment, and a strength. Knows no server's classes.

Installing this package changes no server: without SHELLLCC_SERVE_FIT its plug-ins do nothing. A fit is named, not
found, since servers do not say which weights they loaded; it brings its bank and all knobs of the guide.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.shelf import all_banks, open_bank
from shelllcc.guidance.errors import BankError, ModelError, UsageError
from shelllcc.guidance.fit.fit import Fit, read_fit
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import check_scheduler

FIT, STRENGTH = "SHELLLCC_SERVE_FIT", "SHELLLCC_SERVE_STRENGTH"
MOST = 10.0
OF_SERVERS = (
    "FlowUniPCMultistepScheduler",
    "WanEulerScheduler",
)  # Wan's own, which servers carry: flows, one call a step

logger = logging.getLogger("shelllcc")


@dataclass(frozen=True)
class Settings:
    """A fit's file, and the strength of requests that name none: 0 is off, 1 what the fit was made at."""

    fit: Path
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength(self.strength, STRENGTH)


def settings() -> Settings | None:
    """What the environment asks for; None where it names no fit. Raises UsageError for what is no strength."""
    if not (fit := os.environ.get(FIT)):
        return None
    return Settings(Path(fit).expanduser(), check_strength(os.environ.get(STRENGTH, "1"), STRENGTH))


def check_strength(value: Any, name: str) -> float:
    """A strength as a number. Raises UsageError unless it is one from 0 to 10."""
    try:
        strength = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        strength = float("nan")
    if not 0 <= strength <= MOST:
        raise UsageError(f"{name} is a strength from 0 (off) over 1 to {MOST:g}, got {value!r}")
    return strength


def new_guide(fit: Path, strength: float) -> ShellGuide:
    """A guide for one sampling. Raises UsageError and BankError where the fit or its bank cannot be read."""
    found, bank = _loaded(fit)
    return ShellGuide(bank, replace(found.guide, strength=strength))


def check_served(scheduler: Any) -> None:
    """Raise ModelError unless a server's scheduler takes a flow velocity and one evaluation a step."""
    if type(scheduler).__name__ not in OF_SERVERS:
        check_scheduler(scheduler)
        return
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    if kind != "flow_prediction" or not getattr(scheduler, "predict_x0", True):
        raise ModelError(f"cannot guide {type(scheduler).__name__} unless it predicts x0 of a flow; it has {kind}")


@cache
def _loaded(path: Path) -> tuple[Fit, Bank]:
    """A fit and its bank, read once in a process."""
    fit = read_fit(path)
    for place in all_banks():
        try:
            bank = open_bank(place)
        except BankError:
            continue
        if bank.identity == fit.belongs.bank:
            logger.info("Shell-LCC guides by %s, made with %s: %s", path, fit.model, fit.words())
            return fit, bank.with_digest(fit.belongs.calibration)
    raise BankError(f"the bank {fit.bank}, with which {path} was made, is not there; SHELLLCC_BANKS names its folder")
