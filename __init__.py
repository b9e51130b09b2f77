"""Shell-LCC guidance for Wan text-to-video sampling, with no weight update.

    from shelllcc import ShellGuide, guided, load_bank

    with guided(pipe, ShellGuide(load_bank("auto", pipe), strength=0.3)):
        frames = pipe(prompt).frames[0]

The method is "Your Data Manifold is Secretly a Reward Model: Shell-LCC for Text-to-Video Generation" (arXiv
2606.30248), applied to the predicted x0 while sampling. Names are loaded when they are first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank
    from shelllcc.anchors.choose import load_bank
    from shelllcc.guidance.errors import ShellLCCError
    from shelllcc.guidance.guide.config import GuideConfig
    from shelllcc.guidance.guide.guide import ShellGuide
    from shelllcc.guidance.guide.modular import ShellGuider
    from shelllcc.guidance.guide.scheduler import guided
    from shelllcc.guidance.wan.clips.fitted import fitted_guide

_HOME = {
    "Bank": "anchors.bank",
    "load_bank": "anchors.choose",
    "ShellLCCError": "guidance.errors",
    "GuideConfig": "guidance.guide.config",
    "ShellGuide": "guidance.guide.guide",
    "ShellGuider": "guidance.guide.modular",
    "guided": "guidance.guide.scheduler",
    "fitted_guide": "guidance.wan.clips.fitted",
    "comfy_entrypoint": "comfy.nodes",
}
WEB_DIRECTORY = "comfy/web"  # where ComfyUI finds help on the nodes
__all__ = [
    "Bank",
    "GuideConfig",
    "ShellGuide",
    "ShellGuider",
    "ShellLCCError",
    "fitted_guide",
    "guided",
    "load_bank",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (other := sys.modules["shelllcc"].__file__) != __file__:
        raise ImportError(f"another shelllcc, {other}, was loaded before this one, {__file__}; remove one of them")
    return getattr(import_module(f"shelllcc.{_HOME[name]}"), name)


sys.modules.setdefault("shelllcc", sys.modules[__name__])  # ComfyUI loads a clone under a name made of its path
