"""The command `fit`: parse, one call, print; and fits that other commands make first. Heavy libraries inside."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.tables import facts, table
from shelllcc.guidance.errors import BankError, OutputError, UsageError
from shelllcc.guidance.fit.fit import UNTOLD
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from pathlib import Path

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.files import JsonObject
    from shelllcc.guidance.fit.fit import Belongs, Fit
    from shelllcc.guidance.fit.fitting import Progress
    from shelllcc.guidance.wan.clips.asked import Asked
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.resolve import Resolved

EVERY = 15  # seconds between lines of progress where stderr is no terminal


@options.expanded
def fit(
    *,
    clips: Annotated[
        int | None,
        typer.Option(
            min=4, help="Clips that are sampled again. (default: 24, 16 with a full-size model; 8 on the CPU)"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first clip's noise.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Also where there is a fit.")] = False,
    show: options.Open = False,
    common: options.Common,
    dry_run: options.DryRun = False,
    sampling: options.Sampling,
    loading: options.Loading,
) -> None:
    """Fit the guide to a model as it is sampled here: real clips go in, and should come back as real clips.

    Give it what `generate` gets: steps, cfg, shift, adapters. A fit that was killed goes on where it was.
    """
    from shelllcc.guidance.fit import shelf
    from shelllcc.guidance.wan.clips.parallel import alone
    from shelllcc.guidance.wan.clips.resolve import resolve
    from shelllcc.guidance.wan.fits.making import shape_for
    from shelllcc.guidance.wan.model.pipeline import foresee, pick_device
    from shelllcc.guidance.wan.model.placing import check_device

    alone("fit")
    check_device(common.device, here=not dry_run)
    asked = replace(common.asked(sampling, loading), prompts=("any",), fit="never")
    if not dry_run:
        start(asked, common.device)
    resolved = resolve(asked, wanted=True, pictured=False)
    request, bank = resolved.requests[0], _bank_of(resolved)
    for note in resolved.notes:
        if "tiny model knows no subject" not in note:
            streams.say(f"note: {note}")
    belongs = _belongs(resolved, request, bank)
    path = shelf.folder() / f"{belongs.name}.json"
    known = None if again else shelf.find(belongs)
    if dry_run:
        shape = shape_for(resolved.model, request, common.device or "cpu", clips, asked.values)
        there = bool(known and known.exact)
        place = shelf.SHIPPED / path.name if there and not path.exists() else path
        report = {"dry_run": True, "fit": str(place), "known": there, "belongs": belongs.as_dict()}
        report |= {"clips": asdict(shape), "loaded": foresee(resolved.model, resolved.loading)}
        if common.as_json:
            streams.print_json(report)
            return
        about: JsonObject = {"model": resolved.model.name, "bank": bank.name, "loaded": report["loaded"]}
        made = f"{shape.clips} of {shape.side}x{shape.side}, {plural(shape.frames, 'frame')}"
        about |= {"found": "there is one: nothing to make, but by --again"} if there else {"clips": made}
        facts(about | {"fit": str(place)})
        return
    pick_device(common.device)
    found = known.fit if known and known.exact else None
    if found is None:
        if again:
            path.unlink(missing_ok=True)
        found = make(resolved, request, bank, common.device, clips=clips, given=asked.values, seed=seed)
    page = path.with_suffix(".html")  # in the user's folder, also of a fit that ships
    path = path if path.exists() else shelf.SHIPPED / path.name
    record = found.as_dict() | {"digest": found.digest, "words": found.words(), "path": str(path)}
    record |= {"known": bool(known and known.exact), "report": _page(page, record)}
    if common.as_json:
        streams.print_json(record)
    else:
        _report(found, record)
    if show and record["report"]:
        options.show(page)


def prepare(asked: Asked, fitting: options.Fitting, device: str | None, *, needed: bool = False) -> Asked:
    """Have the fits that a command is to follow made, as far as that may be; returns what is asked for.

    What cannot be made in time is said in one line, with the command that makes it, and sampled without guidance; where
    guidance is `needed`, as there is nothing to do without, it raises TooLongError.
    """
    from shelllcc.commands.progress import planned
    from shelllcc.guidance.errors import TooLongError
    from shelllcc.guidance.wan.clips.fitted import check_asked
    from shelllcc.guidance.wan.clips.resolve import fit_command, resolve

    asked = replace(asked, fit=check_asked(fitting.fit))
    if asked.fit == "never" or asked.sidecar is not None:
        return asked
    try:
        start(asked, device)
        with planned(passes=3) as planning:
            resolved = resolve(asked, planning=planning)
    except (UsageError, BankError):  # the plan says it, with all that is wrong
        return asked
    if resolved.bank is None:
        return asked
    wanted = resolved.unfitted
    if asked.fit == "anew":
        wanted = tuple(request for request in resolved.requests if request.guide.strength > 0) or wanted
    made = set[str]()
    for request in wanted:
        belongs = _belongs(resolved, request, resolved.bank)
        if belongs.name in made or not _may(asked, resolved, request):
            continue
        made.add(belongs.name)
        most = None if asked.fit == "anew" else 60 * fitting.fit_budget
        try:
            found = make(resolved, request, resolved.bank, device, most=most)
        except TooLongError as error:
            makes = f"`{fit_command(asked)}` makes it"
            if needed and resolved.unguided:
                budget = math.ceil(error.seconds / 60)
                advice = f"{makes}, --fit-budget {budget} waits for it, --fit never guides without one"
                raise TooLongError(error.seconds, error.most, advice) from error
            streams.say(f"note: {error}; {makes}")
            break
        streams.say(f"note: {found.words()}")
    return asked


def start(asked: Asked, device: str | None) -> None:
    """Make the starter bank of a model whose VAE has no bank, unless one was named or nothing is to be guided."""
    from shelllcc.anchors.choose import AUTO
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.fit.shelf import banks_fitted
    from shelllcc.guidance.wan.banks.start import bank_or_start
    from shelllcc.guidance.wan.clips.fitted import weights_of
    from shelllcc.guidance.wan.clips.resolve import loading_of
    from shelllcc.guidance.wan.model.pipeline import find_model

    if asked.bank not in (None, AUTO) or asked.values.get("strength") == 0:
        return
    model = find_model(asked.model)
    with TerminalReporter() as reporter:

        def on_clip(done: int, total: int) -> None:
            if not done:
                reporter.stage("making a bank of photographs")
            reporter.count(done, total)

        fitted = banks_fitted(weights_of(model, loading_of(asked)))
        bank_or_start(model, fitted=fitted, device=device, on_clip=on_clip)


def make(
    resolved: Resolved,
    request: Request,
    bank: Bank,
    device: str | None,
    *,
    clips: int | None = None,
    given: Collection[str] = (),
    seed: int = 0,
    most: float | None = None,
) -> Fit:
    """A fit, with its progress on stderr."""
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.studio import Studio
    from shelllcc.guidance.wan.fits.making import make_fit

    said = time.monotonic()
    with TerminalReporter() as reporter:

        def on_cost(seconds: float) -> None:
            reporter.note(f"fitting the guide to this model takes about {_minutes(seconds)}")

        def on_progress(progress: Progress) -> None:
            nonlocal said
            state = f"{progress.stage}, clip {progress.done} of {progress.total}"
            left = "" if progress.left is None else f", {_minutes(progress.left)} left"
            reporter.count(progress.done, progress.total, state + left)
            if not reporter.live and time.monotonic() - said > EVERY:
                said = time.monotonic()
                reporter.line(f"shelllcc: fitting: {state}{left}")

        studio = Studio(resolved.model, resolved.loading, reporter, device=device)
        return make_fit(
            studio,
            request,
            bank,
            clips=clips,
            given=given,
            seed=seed,
            most=most,
            on_progress=on_progress,
            on_cost=on_cost,
        )


def _may(asked: Asked, resolved: Resolved, request: Request) -> bool:
    """Whether a request waits for a fit: not where the guide's defaults were found for its model and bank."""
    from shelllcc.guidance.wan.clips.fitted import defaults_hold

    return asked.fit == "anew" or not defaults_hold(resolved.model, _bank_of(resolved), request)


def _bank_of(resolved: Resolved) -> Bank:
    if resolved.bank is None:
        raise UsageError("to fit there must be a bank; " + " ".join(resolved.notes))
    return resolved.bank


def _belongs(resolved: Resolved, request: Request, bank: Bank) -> Belongs:
    from shelllcc.guidance.wan.clips.fitted import belonging

    return belonging(request, resolved.model, resolved.loading, bank)


def _page(path: Path, record: JsonObject) -> str | None:
    """Write the page of a fit; None where nothing can be written, as a fit that ships is shown there, too."""
    from shelllcc.guidance.workbench.pages import write_fit_page

    try:
        write_fit_page(path, record)
    except OutputError as error:
        streams.say(f"note: there is no page: {error}")
        return None
    return str(path)


def _report(found: Fit, record: JsonObject) -> None:
    """The evidence, for people."""
    rows = [
        (band.name, _percent(band.before), _error(band.before_error), _percent(band.after), _error(band.after_error))
        for band in found.bands
    ]
    table(("detail of", "unguided", "+-", "guided", "+-"), rows)
    guide = found.guide
    knobs = {name: getattr(guide, name) for name in ("coarse", "radius", "tone", "calm", "contrast")}
    low, high = guide.window
    streams.print_line(f"guide     {', '.join(f'{k} {v:g}' for k, v in knobs.items())}, window {low:g}:{high:.3g}")
    streams.print_line(f"clips     {len(found.clips)} came back, {len(found.left_out)} left out")
    streams.print_line(f"found     {record['words']}")
    streams.print_line(f"fit       {record['path']}{' (made before)' if record['known'] else ''}")
    if record["report"]:
        streams.print_line(f"report    {record['report']}")


def _percent(drift: float) -> str:
    """A drift as what is too much or missing of an amplitude."""
    return f"{math.exp(drift) - 1:+.1%}"


def _error(error: float) -> str:
    return f"{error:.1%}" if error < UNTOLD else "?"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
