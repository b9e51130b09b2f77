"""What diffusers and transformers would import, and the embedded model, as other plain ones, never calls.

Optional libraries, torch's compiler, its exchange between processes, and all of transformers' models for a second time.

They cost two seconds and more. Once diffusers holds a library for missing it does so until the process ends: only a
process that is wholly ours, a command's, may be told so. Knows nothing of what is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from shelllcc.guidance.wan.model.uncompiled import put_off_compiler

OPTIONAL = (
    *("peft", "torchao", "scipy", "sklearn", "bitsandbytes", "torchvision", "librosa", "sentencepiece"),
    *("gguf", "jinja2"),
)
TRIED = ("trio",)  # by httpx, which does without where importing it fails
READER, READS = "transformers.utils.import_utils", "create_import_structure_from_path"
_claimed: list[bool] = []


def claim_process() -> None:
    """Say that this process runs one command and nothing of anybody else."""
    _claimed.append(True)


def import_wan_alone(*needed: str) -> None:
    """Import what a plain Wan needs of diffusers, and of the optional libraries those that are needed, in a process
    that is ours: these, too, hear that the others are missing."""
    if not _claimed or "diffusers" in sys.modules:
        return
    put_off_compiler()
    with _uncollected(), _alone(), _read_once(), _missing(tuple(name for name in OPTIONAL if name not in needed)):
        from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel  # noqa: F401
        from transformers import AutoTokenizer, UMT5EncoderModel  # noqa: F401

        for name in needed:
            importlib.import_module(name)
        if "peft" in needed:  # which asks but once, when it puts an adapter on
            from peft.import_utils import is_torchao_available

            is_torchao_available()


@contextlib.contextmanager
def _missing(names: tuple[str, ...]) -> Iterator[None]:
    """Within the block, libraries that ask whether these are installed, or try TRIED, hear that they are not."""
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in names else found(name, package)

    importlib.util.find_spec = find_spec
    tried: list[str] = [name for name in TRIED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(tried))  # type: ignore[arg-type]  # None there makes an import fail
    try:
        yield
    finally:
        importlib.util.find_spec = found
        for name in tried:
            del sys.modules[name]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Within the block, libraries that ask whether processes can be connected hear no, unless this one is.

    Parts of torch's that they would have imported for others, too, are then imported when somebody asks for them.
    """
    from torch import distributed

    known = distributed.is_available
    if not (known() and distributed.is_initialized()):
        distributed.is_available = lambda: False
        vars(distributed).setdefault("__getattr__", _part_of_distributed)
    try:
        yield
    finally:
        distributed.is_available = known


def _part_of_distributed(name: str) -> object:
    """The submodule of torch.distributed. Raises AttributeError where there is none, as the package itself does."""
    try:
        if name.startswith("__"):
            raise ModuleNotFoundError(name)
        return importlib.import_module(f"torch.distributed.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'torch.distributed' has no attribute {name!r}") from error


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Within the block transformers reads the 1,600 files of its models once: it would for itself, and for `models`."""
    finder = _Reader()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Reader(MetaPathFinder):
    """Finds READER, and has it remember what READS gave for a folder; a file stands for its folder there."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == READER else None
        loader: Any = spec and spec.loader
        if loader is not None:
            loader.exec_module = functools.partial(self._run, loader.exec_module)
        return spec

    @staticmethod
    def _run(run: Callable[[ModuleType], None], module: ModuleType) -> None:
        run(module)
        if not hasattr(module, READS):  # older ones
            return
        read = functools.cache(getattr(module, READS))

        def remembered(path: str | os.PathLike[str]) -> Any:
            text = os.fspath(path)
            return read(os.path.split(text)[0] if text.endswith(".py") else text)

        vars(module)[READS] = remembered


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Within the block no garbage is collected, and what is made there is never looked at: libraries stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
