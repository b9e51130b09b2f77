"""Starter banks for any Wan VAE: of photographs that ship, encoded by the model's own VAE.

Nothing is downloaded and no video is needed. Clips are encoded one by one into files beside the bank, whole or not at
all, so that a start that was killed goes on where it was. Knows nothing of terminals and transformers.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any

from torch import Tensor

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.build import starter_recipe
from shelllcc.anchors.choose import STARTER, choose_bank
from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.anchors.latents import LatentFile, open_latents, save_latents
from shelllcc.anchors.shelf import latents_folder, open_bank, user_folder
from shelllcc.guidance.errors import BankError, ModelError, UsageError
from shelllcc.guidance.geometry.threads import one_thread
from shelllcc.guidance.jobs.ahead import worked_ahead
from shelllcc.guidance.jobs.work import Engine, Here, work_off
from shelllcc.guidance.media.photographs import PHOTOGRAPHS, Take, film, starter_side, takes
from shelllcc.guidance.wan.banks.encode import Encoding, encode_frames, vae_of
from shelllcc.guidance.wan.banks.framing import framing_of
from shelllcc.guidance.wan.banks.make import Gathered, build_bank, gather
from shelllcc.guidance.wan.model.pipeline import Model, pick_device, vae_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORM = 1  # changes when the same photograph would give other latents
FRAMES = 17  # of a clip: five latent frames
AHEAD, CORES = 8, 4  # threads at most that film clips before they are needed, and that encode them on the CPU
MOVES = 3  # clips of a photograph; on the CPU one, which makes nearly as good a bank


@dataclass(frozen=True)
class Shots:
    """How photographs become clips: pixels of a side, frames, and clips of each photograph."""

    size: int
    frames: int = FRAMES
    moves: int = MOVES

    @classmethod
    def usual(cls, model: Model, device: str) -> Shots:
        """What suits a model's VAE and a device."""
        scale = int(model.vae.get("scale_factor_spatial") or 8)
        return cls(starter_side(scale), moves=1 if device.startswith("cpu") else MOVES)


def starter_path(model: Model) -> Path:
    """Where the starter bank of a model's VAE lies, or would lie."""
    return user_folder() / f"starter-{fingerprint(model.vae)}.safetensors"


def bank_or_start(
    model: Model,
    *,
    fitted: Collection[str] = (),
    device: str | None = None,
    shots: Shots | None = None,
    engine: Engine | None = None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Bank, list[str]]:
    """What `choose_bank` gives for a model unasked, with a starter bank made first where nothing fits its VAE.

    Raises as `start_bank`.
    """
    known = fingerprint(model.vae), model.fingerprint
    try:
        return choose_bank(None, *known, model=model.name, fitted=fitted)
    except BankError:
        start_bank(model, device=device, shots=shots, engine=engine, on_clip=on_clip)
    return choose_bank(None, *known, model=model.name, fitted=fitted)


def start_bank(
    model: Model,
    *,
    device: str | None = None,
    add: Sequence[str | Path] = (),
    shots: Shots | None = None,
    engine: Engine | None = None,
    overwrite: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Bank:
    """The starter bank of a model's VAE, made where there is none, and kept in the user's folder.

    `add` are videos or latents of the user's own that join the photographs; with them, or with `overwrite`, it is made
    anew, of these alone, in place of an earlier one. The bytes depend on the VAE's weights, the kind of device, the
    shots and `add` alone. `on_clip` hears how many of the photographs' clips are encoded. Raises UsageError where
    something else lies in its place or nothing of `add` can be used, ModelError, OutOfMemoryError, OutputError.
    """
    path = starter_path(model)
    there = _bank_there(path, overwrite=overwrite)
    if there is not None and not add:
        return there
    target = engine.device if engine is not None and engine.device else pick_device(device)
    framing = framing_of(model, frames=FRAMES)
    encoding = Encoding(model, framing, latents_folder(path), target, vae_weights(model))
    shots = shots or Shots.usual(model, target)
    files = _photographs(encoding, shots, engine or Here(), on_clip)
    others = gather(add, encoding, engine=engine) if add else Gathered([], [], [])
    for note in (*(f"skipped: {reason}" for reason in others.skipped), *others.notes):
        on_note(note)
    if add and not others.files:
        raise UsageError("none of the videos or latents to add could be used")
    everything = Gathered([*files, *others.files], others.skipped, others.notes)
    origin = {
        "source": "photographs that ship with shelllcc" + (", and the user's own videos" if others.files else ""),
        "made_by": STARTER,
        "photographs": [
            {"name": p.name, "author": p.author, "licence": p.licence, "sha256": p.sha256} for p in PHOTOGRAPHS
        ],
        "shots": asdict(shots),
        "added": len({file.source for file in others.files}),
        "device": target.partition(":")[0],
        "vae_weights": encoding.weights,
        "framing": None,  # of videos that are scored: as suits their model
    }
    build_bank(everything, encoding, starter_recipe(int(model.vae["z_dim"])), path, origin=origin, overwrite=True)
    return open_bank(path)


def _bank_there(path: Path, *, overwrite: bool) -> Bank | None:
    """The starter bank at a path, if a sound one lies there and may stay."""
    if overwrite or not path.exists():
        return None
    try:
        bank = open_bank(path)
    except BankError:
        return None  # torn, or of a format that is no more: it is made anew
    if bank.provenance.get("made_by") != STARTER:
        raise UsageError(f"{path} is no starter bank; move it away, or --overwrite it")
    return bank


def _photographs(
    encoding: Encoding, shots: Shots, engine: Engine, on_clip: Callable[[int, int], None]
) -> list[LatentFile]:
    """The latents of the photographs' clips, encoded where they are not yet."""
    jobs = [(take, _path(encoding, shots, take)) for take in takes(shots.size, moves=shots.moves)]
    waiting = [job for job in jobs if not _is_whole(job[1])]
    done = len(jobs) - len(waiting)
    on_clip(done, len(jobs))
    ahead = [take for take, _ in waiting] if engine.workers == 1 else []  # several share the jobs out as they come
    with closing(work_off(waiting, partial(_encoder, encoding, shots, ahead), engine)) as outcomes:
        for outcome in outcomes:
            if outcome.again:
                continue
            if outcome.died:
                raise ModelError(f"cannot encode the photographs: {outcome.died}")
            done += 1
            on_clip(done, len(jobs))
    return [open_latents(path) for _, path in jobs]


def _encoder(encoding: Encoding, shots: Shots, ahead: Sequence[Take]) -> Callable[[tuple[Take, Path]], None]:
    """What a worker does with a clip; those `ahead` will come in this order, and are begun before they do."""
    return partial(_encode, encoding=encoding, made=_Made(encoding, shots, ahead))


class _Made:
    """Clips as latents: the expected ones are filmed ahead by threads, on the CPU encoded as well, others when needed.

    The threads encode each on one core with a VAE of its own, which has a memory of the frames before.
    """

    def __init__(self, encoding: Encoding, shots: Shots, ahead: Sequence[Take]) -> None:
        self.encoding, self.shots, self._expected = encoding, shots, deque(ahead)
        self._own = local()
        self._ahead: Iterator[NDArray[Any] | Tensor]
        if encoding.device.startswith("cpu"):
            self._ahead = worked_ahead(self._encoded, ahead, CORES)
        else:
            self._ahead = worked_ahead(self._filmed, ahead, AHEAD)

    def __call__(self, take: Take) -> Tensor:
        vae = vae_of(self.encoding)  # loaded here, not by several threads at a time
        made = self._next() if self._expected and self._expected[0] == take else self._filmed(take)
        return made if isinstance(made, Tensor) else encode_frames(vae, made)

    def _next(self) -> NDArray[Any] | Tensor:
        self._expected.popleft()
        return next(self._ahead)

    def _filmed(self, take: Take) -> NDArray[Any]:
        return film(take, self.shots.size, frames=self.shots.frames)

    def _encoded(self, take: Take) -> Tensor:
        if not hasattr(self._own, "vae"):
            self._own.vae = copy.deepcopy(vae_of(self.encoding))
        return encode_frames(self._own.vae, self._filmed(take))


def films(takes: Sequence[Take], size: int, *, frames: int = FRAMES, threads: int = AHEAD) -> Iterator[NDArray[Any]]:
    """The clips as `film` gives each, in their order, filmed by so many threads at most while earlier ones are in use.

    Raises VideoError as `film`.
    """
    return worked_ahead(partial(film, size=size, frames=frames), takes, threads)


def _encode(job: tuple[Take, Path], *, encoding: Encoding, made: _Made) -> None:
    take, path = job
    with one_thread():
        latents = made(take)
    metadata = {
        "source": take.photograph.sha256,
        "name": f"{take.photograph.name} {take.number}",
        "vae": fingerprint(encoding.model.vae),
        "model": encoding.model.name,
        "caption": take.caption,
    }
    save_latents(path, latents[None], metadata)


def _is_whole(path: Path) -> bool:
    """Whether a file of latents lies there that can be read."""
    try:
        return path.exists() and bool(open_latents(path).clips)
    except BankError:
        return False


def _path(encoding: Encoding, shots: Shots, take: Take) -> Path:
    """The file of latents of a photograph's clip."""
    vae: list[Any] = [fingerprint(encoding.model.vae), encoding.weights, encoding.device.partition(":")[0]]
    facts = json.dumps([FORM, take.photograph.sha256, take.number, shots.size, shots.frames, *vae])
    return encoding.folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.safetensors"
