"""SGLang-diffusion's plug-in: a hook around the prediction of every step moves its x0. Imports no SGLang.

Read at sgl-project/sglang, in python/sglang/multimodal_gen: the entry points' group and `plugin_hook` in
runtime/platforms/plugins.py (261bfaec), before that in plugins/__init__.py (f7fa69e3), with
srt/plugins/hook_registry.py (106f37ce) for what an AROUND hook is called with; the hooked
`DenoisingStage._predict_noise_with_cfg`, whose caller hands its result and `latents` to `scheduler.step`, in
runtime/pipelines_core/stages/denoising.py (0ab0ff9c); `Req` in runtime/pipelines_core/schedule_batch.py (0230ddc2). It
was never run in SGLang itself: docs/servers.md.

SGLang hands plug-ins nothing that a request could carry to them, so that the strength is the process's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.guide.scheduler import conditional_of, moved_output, renoises
from shelllcc.servers.settings import Settings, check_served, new_guide, settings

TARGET = "sglang.multimodal_gen.runtime.pipelines_core.stages.denoising.DenoisingStage._predict_noise_with_cfg"
HOMES = (
    "sglang.multimodal_gen.runtime.platforms.plugins",
    "sglang.multimodal_gen.plugins",
    "sglang.srt.plugins.hook_registry",
)  # of plugin_hook, newest first
IMAGES = ("image_latent", "condition_image", "pil_image")  # of a request, where it starts from an image
KEY = "shelllcc"  # in a request's own `extra`


def register() -> None:
    """The entry point: hook the prediction, where the environment names a fit. Raises UsageError for a bad strength."""
    wanted = settings()
    if wanted is None or wanted.strength == 0:
        return
    hooks = _hooks()
    hooks.plugin_hook(TARGET, hooks.HookType.AROUND)(around(wanted))


def around(wanted: Settings) -> Callable[..., Any]:
    """The hook: called in place of the prediction, which is `original`, with all that this is called with.

    A request that cannot be guided fails with a ModelError, in one sentence: it never passes unguided.
    """

    def predict(original: Callable[..., Any], stage: Any, *args: Any, **kwargs: Any) -> Any:
        told = inspect.signature(original).bind(stage, *args, **kwargs).arguments
        batch, index, latents = told["batch"], int(told["timestep_index"]), told["latents"]
        if getattr(batch, "is_warmup", False):
            return original(stage, *args, **kwargs)
        scheduler = getattr(batch, "scheduler", None) or stage.scheduler
        _check(scheduler, batch, told["server_args"], latents)
        heard = list[Tensor]()
        hook = told["current_model"].register_forward_hook(lambda _model, _args, output: heard.append(_first(output)))
        try:
            output = original(stage, *args, **kwargs)
        finally:
            hook.remove()
        return _moved(wanted, batch, scheduler, index, output, latents, heard)

    return predict


def _moved(
    wanted: Settings, batch: Any, scheduler: Any, index: int, output: Tensor, latents: Tensor, heard: list[Tensor]
) -> Tensor:
    """The prediction of a step, moved; the guide is the request's own, and goes with its last step."""
    if index == 0:
        batch.extra[KEY] = new_guide(wanted.fit, wanted.strength)
        batch.extra[KEY].begin(scheduler.sigmas.tolist(), renoised=renoises(scheduler))
    guide = batch.extra.get(KEY)
    if guide is None:
        raise ModelError(
            "Shell-LCC heard nothing of this request's first step; it guides samplings from their beginning"
        )
    if index == len(scheduler.sigmas) - 2:
        del batch.extra[KEY]
    if batch.do_classifier_free_guidance and len(heard) not in (1, 2):  # 1 where SGLang leaves cfg out from a step on
        raise ModelError(
            f"Shell-LCC must hear both predictions of cfg, and heard {len(heard)}; start SGLang without CUDA graphs "
            "and torch.compile"
        )
    return moved_output(guide, index, output, latents, conditional_of(heard, output))


def _check(scheduler: Any, batch: Any, server: Any, latents: Any) -> None:
    """Raise ModelError for a request that cannot be guided as it is."""
    check_served(scheduler)
    if latents.ndim != 5:
        raise ModelError(f"Shell-LCC guides video latents (b c t h w); these are {tuple(latents.shape)}")
    if getattr(batch, "did_sp_shard_latents", False):
        raise ModelError("Shell-LCC needs a clip's latents whole; start SGLang with --sp-degree 1")
    if getattr(server, "enable_cfg_parallel", False) and batch.do_classifier_free_guidance:
        raise ModelError("Shell-LCC must hear both predictions of cfg; start SGLang without --enable-cfg-parallel")
    if any(getattr(batch, name, None) is not None for name in IMAGES):
        raise ModelError("Shell-LCC guides text-to-video in SGLang, not yet image-to-video")


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _hooks() -> Any:
    """SGLang's module with `plugin_hook`, which has moved between versions: whoever calls plug-ins has imported it.

    Raises ImportError where there is none. Nothing is imported here: that could settle SGLang's platform too early.
    """
    for home in HOMES:
        if hasattr(module := sys.modules.get(home), "plugin_hook"):
            return module
    raise ImportError(f"this SGLang has no plugin_hook, where {' or '.join(HOMES)} was looked for")
