"""Feature caches of diffusers: steps that reuse what earlier ones computed. Faster, and other frames.

Knows nothing of guidance or files. Every sampling starts with empty caches, and leaves none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.wan.model.placing import DENOISERS
from shelllcc.guidance.wan.model.seams import keep_calls_apart

if TYPE_CHECKING:
    from diffusers import WanPipeline


@contextlib.contextmanager
def cached(pipe: WanPipeline, name: str, *, steps: int) -> Iterator[None]:
    """Within the block, samplings of `steps` steps use the cache of that name on all transformers of the pipeline.

    Afterwards the transformers are as they were, also on an exception. Raises ModelError as `check_cache` does.
    """
    models = [model for part in DENOISERS if (model := getattr(pipe, part, None)) is not None]
    for model in models:
        check_cache(name, model.config)
    with contextlib.ExitStack() as stack:
        for model in models if name != "none" else ():
            model.enable_cache(_config(name, pipe, steps))
            stack.callback(model.disable_cache)
            keep_calls_apart(model)
        yield


def check_cache(name: str, transformer: Mapping[str, Any]) -> None:
    """Raise ModelError where a cache cannot work with a model of this config."""
    if name == "first-block" and transformer["num_layers"] < 2:
        raise ModelError(
            "--cache first-block needs a transformer of two blocks or more; this one has one; leave --cache out"
        )


def _config(name: str, pipe: WanPipeline, steps: int) -> Any:
    """The settings of diffusers' documentation, where it has any that hold for Wan."""
    import diffusers

    if name == "first-block":
        return diffusers.FirstBlockCacheConfig(threshold=0.1)  # its own 0.05 seldom skips a step
    if name == "taylorseer":  # without lite mode it finds no layer of Wan, and would keep the outputs of every one
        return diffusers.TaylorSeerCacheConfig(
            cache_interval=5, disable_cache_before_step=max(3, steps // 5), max_order=1, use_lite_mode=True
        )
    return diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 800),
        current_timestep_callback=lambda: pipe.current_timestep,
    )
