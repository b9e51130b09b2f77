"""Where fits lie, and which of them a sampling takes. Knows nothing of how they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from shelllcc.anchors.shelf import user_folder
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.fit.fit import Belongs, Fit, read_fit, write_fit
from shelllcc.guidance.words import plural

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Found:
    """A fit for a sampling, and a remark where it was made for another one. Without a fit, `remark` says why."""

    fit: Fit | None
    exact: bool
    remark: str = ""


def folder() -> Path:
    """Where `shelllcc fit` keeps fits: beside the user's banks."""
    return user_folder() / "fits"


def keep(fit: Fit) -> Path:
    """Write a fit into the user's folder; returns its file. Raises OutputError."""
    return write_fit(fit, folder())


def every() -> list[Path]:
    """The user's fits, then those that ship."""
    return [*sorted(folder().glob("*.json")), *sorted(SHIPPED.glob("*.json"))]


def find(wanted: Belongs) -> Found:
    """The fit made for this very sampling, or else the nearest of the same bank and model.

    Raises UsageError where the one made for it is torn or was edited; others that are so are passed over.
    """
    for place in (folder(), SHIPPED):
        path = place / f"{wanted.name}.json"
        if path.exists():
            fit = read_fit(path)
            if fit.belongs != wanted:
                raise UsageError(f"the fit {path} was made for something else than its name says; remove it")
            return Found(fit, True)
    others = [fit for fit in map(_sound, every()) if fit is not None]
    near = sorted(others, key=lambda fit: (wanted.distance(fit.belongs), fit.belongs.name))[:1]
    for fit in near:
        if wanted.distance(fit.belongs) < math.inf:
            remark = f"guided by the nearest fit, of {_sampling(fit.belongs)}; `shelllcc fit` makes one of its own"
            return Found(fit, False, remark)
    return Found(None, False)


def banks_fitted(weights: str) -> frozenset[str]:
    """Identities of the banks that fits of a model, with its adapters, were made with."""
    fits = [fit for fit in map(_sound, every()) if fit is not None]
    return frozenset(fit.belongs.bank for fit in fits if fit.belongs.weights == weights)


def of_shape(transformer: str, bank: str) -> list[Fit]:
    """The user's fits of a model of that shape and of a bank, of any sampling and whatever weights."""
    fits = [fit for fit in map(_sound, sorted(folder().glob("*.json"))) if fit is not None]
    return [fit for fit in fits if (fit.transformer, fit.belongs.bank) == (transformer, bank)]


def _sound(path: Path) -> Fit | None:
    try:
        return read_fit(path)
    except UsageError:
        return None


def _sampling(belongs: Belongs) -> str:
    how = f"sigmas {', '.join(f'{s:.4g}' for s in belongs.sigmas)}" if belongs.sigmas else f"shift {belongs.shift:g}"
    return f"{plural(belongs.steps, 'step')}, cfg {belongs.cfg:g}, {how}, {belongs.scheduler}"
