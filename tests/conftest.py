"""Shared fixtures: a synthetic shell and bank, the embedded pipeline, and where optional real data may lie."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401  before `_keep`: it asks the collector who refers to what
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it, and so would ours
torch.set_num_threads(1)  # several are slow beside other processes, and a fork of them hangs
ROOT = Path(__file__).parent.parent


def pytest_collection_finish() -> None:
    _keep()


def _keep() -> None:
    """What is here stays to the end: garbage collections, each a quarter of a second else, pass over it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What lies in the user's cache changes no test, and no test changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHELLLCC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def latents() -> Callable[..., torch.Tensor]:
    """Smooth random latents (b 16 t h w): neighbours agree, as in real ones."""

    def make(seed: int = 0, batch: int = 1, frames: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
        noise = torch.randn(batch, 16, frames, height + 4, width + 4, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.avg_pool3d(noise, (1, 5, 5), stride=1)
        return smooth / smooth.std()

    return make


@pytest.fixture(scope="session")
def shell(bank):
    return bank.shell


@pytest.fixture(scope="session")
def bank(latents: Callable[..., torch.Tensor]):
    from shelllcc.anchors.bank import Bank
    from shelllcc.anchors.build import Recipe, fit_shell

    clips = [latents(seed)[0] for seed in range(12)]
    fit = fit_shell(clips[0:8:2], clips[1:8:2], clips[8:], Recipe(anchors=2))
    provenance = {"source": "smooth noise"}
    return Bank(fit.shell, fit.guided, fit.clean, "synthetic", "0" * 16, provenance, fit.quantiles)


@pytest.fixture(scope="session")
def pipe():
    """The embedded tiny Wan on the CPU."""
    from shelllcc.guidance.wan.model.pipeline import find_model, load_pipeline

    loaded = load_pipeline(find_model(None), device="cpu")
    _keep()
    return loaded


@pytest.fixture(scope="session")
def prepared(pipe) -> Callable[[pytest.MonkeyPatch], None]:
    """What every command would do alike is done once: parsers, the embedded model and its sha256."""
    import typer

    from shelllcc import cli
    from shelllcc.guidance.wan.model import pipeline

    app, sha256 = typer.main.get_command(cli.app), pipeline.weights_sha256(pipeline.TINY)
    load_pipeline, weights_sha256 = pipeline.load_pipeline, pipeline.weights_sha256

    def load(model, loading=None, **options):
        pipeline.pick_device(options.get("device"))
        return pipe if model.is_tiny else load_pipeline(model, loading, **options)

    def prepare(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(cli, "app", app)
        patch.setattr(pipeline, "load_pipeline", load)
        patch.setattr(
            pipeline, "weights_sha256", lambda path: sha256 if path == pipeline.TINY else weights_sha256(path)
        )

    return prepare


@pytest.fixture(scope="session")
def fit_at_cfg_2() -> str:
    """The file of the fit that ships for the embedded model at cfg 2, for tests that are to make none."""
    from shelllcc.guidance.fit import shelf
    from shelllcc.guidance.fit.fit import read_fit

    [path] = (path for path in shelf.SHIPPED.glob("*.json") if read_fit(path).belongs.cfg == 2)
    return str(path)


@pytest.fixture
def shelllcc(monkeypatch, capsys, tmp_path, tmp_path_factory, prepared):
    """Run the command line in this process, with the loaded embedded model; returns (exit code, stdout, stderr)."""
    from shelllcc import cli

    prepared(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path.parent / "cache"))
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path / "banks"))
    monkeypatch.setenv("SHELLLCC_PROFILES", str(tmp_path_factory.mktemp("profiles")))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["shelllcc", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        if "--json" in words and out:
            check_schema([*map(str, words)], out.splitlines()[-1])
        return stop.value.code, out, err

    return run


@functools.cache
def _validators():
    """Of what commands print with --json, by their words."""
    import jsonschema

    read = ((path.stem, json.loads(path.read_text())) for path in ROOT.glob("docs/schemas/*.json"))
    return {name: jsonschema.Draft202012Validator(schema) for name, schema in read}


def check_schema(words: list[str], line: str) -> None:
    """What a command printed for programs is as docs/schemas says."""
    import jsonschema

    known = _validators()
    named = (name for i, word in enumerate(words) for name in ("-".join(words[i : i + 2]), word) if name in known)
    if (name := next(named, None)) is not None:  # else the words name no command, and it was an error
        wrong = jsonschema.exceptions.best_match(known[name].iter_errors(json.loads(line)))
        while wrong is not None and wrong.context:  # of several forms, that which it comes nearest to
            wrong = max(wrong.context, key=lambda error: len(error.absolute_path))
        if wrong is not None:
            pytest.fail(f"{name} --json at {list(wrong.absolute_path)}: {wrong.message[:400]}")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or -n by signal n, and what it said."""

    code: int
    out: str
    err: str
    seconds: float


class Shell:
    """Runs commands in `folder`, each in a fork that has the model loaded; what they say in `said`."""

    def __init__(
        self, folder: Path, prepare: Callable[[pytest.MonkeyPatch], None], cache: Path, said: Path | None = None
    ) -> None:
        self.prepare, self.cache = prepare, cache
        self.folder, self.said = folder, said or folder.with_name(f"{folder.name}.said")
        self.said.mkdir(exist_ok=True)
        self.count = 0

    def start(self, words: list[str], before: Callable[[], None] = lambda: None) -> tuple[int, Path]:
        self.count += 1
        out = self.said / f"{self.count}"
        pid = os.fork()
        if pid == 0:
            _child(self, out, words, before)
        return pid, out

    def end(self, pid: int, out: Path, *, kill_after: float | None = None) -> Ended:
        began = time.monotonic()
        deadline = began + (60 if kill_after is None else kill_after)
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            time.sleep(0.002)
        texts = (out.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err"))
        return Ended(os.waitstatus_to_exitcode(done[1]), *texts, time.monotonic() - began)

    def run(
        self, words: list[str], *, kill_after: float | None = None, before: Callable[[], None] = lambda: None
    ) -> Ended:
        return self.end(*self.start(words, before), kill_after=kill_after)


def _child(shell: Shell, out: Path, words: list[str], before: Callable[[], None]) -> None:
    """The command line in this forked process, which it ends."""
    code = 99
    try:
        os.chdir(shell.folder)
        for number, path in ((1, out.with_suffix(".out")), (2, out.with_suffix(".err"))):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        sys.argv = ["shelllcc", *map(str, words)]
        from shelllcc import cli
        from shelllcc.guidance import files

        gc.freeze()  # what is here already is not looked through, and its pages stay shared
        shell.prepare(pytest.MonkeyPatch())
        files._swept.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
        for name in ("banks", "profiles"):
            os.environ[f"SHELLLCC_{name.upper()}"] = str(shell.said / name)
        os.environ["SHELLLCC_CACHE"] = str(shell.cache)
        before()
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@pytest.fixture(scope="session")
def forked(prepared, tmp_path_factory) -> Callable[..., Shell]:
    """Makes a `Shell` of a folder. What commands import late is here already."""
    for name in ("faiss", "matplotlib.pyplot", "rich.live", "rich.progress", "typer._adapters"):
        importlib.import_module(name)
    cache = tmp_path_factory.mktemp("cache")
    return lambda folder, **where: Shell(folder, prepared, cache, **where)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference values and real Wan2.1 latents, which are not part of the repository."""
    folder = Path(os.environ.get("SHELLLCC_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference data at {folder}; SHELLLCC_SHARED names another place")
    return folder
