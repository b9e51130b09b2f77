"""torch's compiler, put off until something compiles: to import it takes a second, and the embedded model never does.

diffusers and transformers import it for decorators and a context that mean nothing to what is not compiled. Those are
here; whoever asks for anything else of it gets torch's own. Knows nothing of what is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

COMPILER = "torch._dynamo"
TRACED = f"{COMPILER}._trace_wrapped_higher_order_op"  # transformers' masks enter a context of it


class Uncompiled(ModuleType):
    """Stands for torch's compiler; what is not here is torch's own, which takes its place then."""

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self.__path__ = []  # a package
        self.allow_in_graph = self.assume_constant_result = self.disable = _left_alone
        self.eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))  # of which nothing is one
        self.is_compiling = lambda: False
        self.finder = _Parts(self)

    def begin(self) -> None:
        """Take the compiler's place."""
        traced = ModuleType(TRACED)
        vars(traced)["TransformGetItemToIndex"] = lambda: self.own(TRACED).TransformGetItemToIndex()
        vars(traced)["__getattr__"] = lambda name: self.part(TRACED, name)
        sys.modules |= {COMPILER: self, TRACED: traced}
        vars(importlib.import_module("torch"))["_dynamo"] = self
        sys.meta_path.insert(0, self.finder)

    def own(self, name: str = COMPILER) -> ModuleType:
        """A module of torch's own compiler, from now on in its place."""
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER], sys.modules[TRACED], vars(sys.modules["torch"])["_dynamo"]
            sys.meta_path.remove(self.finder)
        return importlib.import_module(name)

    def part(self, module: str, name: str) -> Any:
        """What torch's own calls so. Python itself asks for names with underscores: no reason to import it."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.own(module), name)

    def __getattr__(self, name: str) -> Any:
        return self.part(COMPILER, name)


class _Parts(MetaPathFinder):
    """Finds the compiler's parts for Python's import: before any of them torch's own is imported, whole."""

    def __init__(self, standing: Uncompiled) -> None:
        self.standing = standing

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if not name.startswith(f"{COMPILER}."):
            return None
        path = self.standing.own().__path__
        there = sys.modules.get(name)
        return PathFinder.find_spec(name, path) if there is None else ModuleSpec(name, _There(there))


class _There(Loader):
    """Loads a module that was imported meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, _: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def put_off_compiler() -> None:
    """Until something compiles, torch's compiler is not imported, unless it is there already."""
    if COMPILER not in sys.modules:
        Uncompiled().begin()


def _left_alone(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Callable[..., Any]:
    """A decorator, with arguments or without, that leaves a function as it is."""
    return _left_alone if function is None else function
