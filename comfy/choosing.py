"""Which bank and which fit guide a sampling in ComfyUI: those that were named, or the best that suit.

The shelves are the command line's. ComfyUI does not say which weights it loaded, and with what adapters, so that a fit
is known by the shape of its model; whoever samples with adapters names the fit that was made with them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from shelllcc.anchors.bank import Bank, check_bank
from shelllcc.anchors.choose import choose_bank
from shelllcc.anchors.shelf import all_banks, calibrations_folder, open_bank
from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.fit import shelf
from shelllcc.guidance.fit.fit import Fit, read_fit
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.words import plural

AUTO = "auto"
DEFAULTS = "none: the guide's defaults"
NEAR = 0.02  # noise levels that differ by no more are the same ones


@dataclass(frozen=True)
class Sampling:
    """What ComfyUI says of a sampling. `vae` and `shapes` are fingerprints; `sigmas` end in 0 unless it is a part.

    `scheduler` is the name of diffusers' class that does the same, or else of ComfyUI's function.
    """

    vae: str
    shapes: tuple[str, ...]
    scheduler: str
    sigmas: tuple[float, ...]
    shift: float
    cfg: float

    @property
    def steps(self) -> int:
        """How many steps the whole of it has, told by how far noise levels lie apart before the shift."""
        return max(len(self.sigmas) - 1, round(1 / max(self._fall, 1e-6)))

    @property
    def after(self) -> tuple[float, ...]:
        """The noise level after those of a part, as the whole's schedule goes on; none where it ends."""
        bare = self._bare(self.sigmas[-1]) - self._fall
        return (self.shift * bare / (1 + (self.shift - 1) * bare),) if bare > 1e-6 else ()

    @property
    def _fall(self) -> float:
        """How far a step falls, before the shift."""
        bare = [*map(self._bare, self.sigmas)]
        return statistics.median([before - after for before, after in itertools.pairwise(bare)] or [1.0])

    def _bare(self, sigma: float) -> float:
        return sigma / (self.shift - (self.shift - 1) * sigma)


def banks() -> list[str]:
    """Names of banks that ship and of the user's own, "auto" first."""
    return [AUTO, *dict.fromkeys(path.stem for path in all_banks())]


def fits() -> list[str]:
    """Labels of fits that ship and of the user's own, "auto" first, and the guide's defaults."""
    return [AUTO, DEFAULTS, *map(label, _fits())]


def shelves() -> str:
    """What lies on the shelves now, by names and times: files of banks, calibrations and fits."""
    files = [*all_banks(), *sorted(calibrations_folder().glob("*")), *shelf.every()]
    return "\n".join(f"{path}:{path.stat().st_mtime_ns}" for path in files if path.exists())


def label(fit: Fit) -> str:
    """What a fit was made for, with its file's name, by which it is found again."""
    made = fit.belongs
    how = f"sigmas {', '.join(f'{s:.3g}' for s in made.sigmas)}" if made.sigmas else f"shift {made.shift:g}"
    model = fit.model.rstrip("/").rpartition("/")[2]
    return f"{model}, {plural(made.steps, 'step')}, cfg {made.cfg:g}, {how} [{made.name}]"


def choose(bank: str, fit: str, sampling: Sampling) -> tuple[Bank, GuideConfig, str]:
    """The bank, the guide's knobs at strength 1, and what the user should hear of it.

    Raises BankError where no bank is of the model's latents, UsageError where no fit is there, with what makes one.
    """
    if fit == DEFAULTS:
        return _of_shape(bank, sampling), GuideConfig(), ""
    named = None if bank == AUTO else _named(bank, sampling.vae)
    found = _nearest(named, sampling) if fit == AUTO else _labelled(fit)
    if found is None:
        what = f"this model at {plural(sampling.steps, 'step')}, cfg {sampling.cfg:g}, shift {sampling.shift:g}"
        raise UsageError(
            f"no fit says how to guide {what}: make one with the node Shell-LCC Fit, or with "
            f"`shelllcc fit --model MODEL --steps {sampling.steps} "
            f"--cfg {sampling.cfg:g}`, choose one, or choose '{DEFAULTS}'"
        )
    if named is not None and named.identity != found.belongs.bank:
        raise UsageError(
            f"the fit was made with the bank {found.bank}, not with {named.name}; choose that one, or auto"
        )
    if not found.guide.by_sigma:
        raise UsageError(f"the fit {found.belongs.name} is of an older kind; make it anew with `shelllcc fit`")
    chosen = named or _of_identity(found, sampling.vae)
    return chosen.with_digest(found.belongs.calibration), found.guide, f"Shell-LCC: {label(found)}; {found.words()}"


def _fits() -> list[Fit]:
    """The fits that can be read, each once; the user's own first."""
    known: dict[str, Fit] = {}
    for path in shelf.every():
        try:
            fit = read_fit(path)
        except UsageError:
            continue
        known.setdefault(fit.belongs.name, fit)
    return list(known.values())


def _labelled(text: str) -> Fit:
    """The fit of that label."""
    name = text.rpartition("[")[2].rstrip("]")
    for fit in _fits():
        if fit.belongs.name == name:
            return fit
    raise UsageError(f"the fit '{text}' is not there any more; choose another one, or make it anew with `shelllcc fit`")


def _nearest(bank: Bank | None, sampling: Sampling) -> Fit | None:
    """The fit of a model of this shape and of this bank, or of any that is there, that was made nearest."""
    identities = {bank.identity} if bank else {found.identity for found in _of_space(sampling.vae)}
    suiting = [fit for fit in _fits() if fit.transformer in sampling.shapes and fit.belongs.bank in identities]
    ranked = sorted((_apart(fit, sampling), fit.belongs.name, n) for n, fit in enumerate(suiting))
    return suiting[ranked[0][2]] if ranked and ranked[0][0] < math.inf else None


def _apart(fit: Fit, sampling: Sampling) -> float:
    """How far the sampling is from that of a fit (Belongs.distance), bank, calibration and weights aside."""
    made = fit.belongs
    if not made.sigmas:
        here = replace(made, scheduler=sampling.scheduler, cfg=sampling.cfg, steps=sampling.steps, shift=sampling.shift)
        return here.distance(made)
    if any(all(abs(s - level) > NEAR for level in made.sigmas) for s in sampling.sigmas if s > 0):
        return math.inf  # its levels were given, and are not those of this sampling, nor of one that this is a part of
    return replace(made, scheduler=sampling.scheduler, cfg=sampling.cfg).distance(made)


def _named(name: str, vae: str) -> Bank:
    bank = open_bank(name)
    check_bank(bank, vae)
    return bank


def _of_space(vae: str) -> list[Bank]:
    """All banks of a VAE's latents that can be read."""
    found = list[Bank]()
    for path in map(Path, all_banks()):
        try:
            bank = open_bank(path)
        except BankError:
            continue
        found += [bank] if bank.vae == vae else []
    return found


def _of_identity(fit: Fit, vae: str) -> Bank:
    for bank in _of_space(vae):
        if bank.identity == fit.belongs.bank:
            return bank
    raise BankError(f"the bank {fit.bank}, with which the fit was made, is not there for this model's latents ({vae})")


def _of_shape(name: str, sampling: Sampling) -> Bank:
    """The bank of that name, or the best, with the calibration for the model in force where there is one."""
    calibrated = [choose_bank(name, sampling.vae, shape)[0] for shape in sampling.shapes]
    return next((bank for bank in calibrated if bank.chosen), calibrated[0])
