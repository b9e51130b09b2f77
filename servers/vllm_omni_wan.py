"""vLLM-Omni's Wan pipeline, with x0 moved before every step of its scheduler. Imports vLLM-Omni.

Read at vllm-project/vllm-omni: `Wan22Pipeline` in vllm_omni/diffusion/models/wan2_2/pipeline_wan2_2.py (0027c20a),
whose loop calls `predict_noise_maybe_with_cfg` and `scheduler_step_maybe_with_cfg`; these, and `combine_cfg_noise`,
which every rank calls with both predictions, in vllm_omni/diffusion/distributed/cfg_parallel.py (0473904e). A request's
`extra_params` become `sampling_params.extra_args` in vllm_omni/entrypoints/openai/serving_video.py, from which that
pipeline takes `sample_solver` and `flow_shift`, too. It was never run in vLLM-Omni itself: docs/servers.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from vllm_omni.diffusion.models.wan2_2 import pipeline_wan2_2
from vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2 import Wan22Pipeline, get_wan22_post_process_func

from shelllcc.guidance.errors import ModelError, UsageError
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import begin_step, moved_output
from shelllcc.servers.settings import check_served, check_strength, new_guide, settings

__all__ = ["ShellWan22Pipeline", "get_wan22_post_process_func", "get_wan22_pre_process_func"]
KEY = "shelllcc"  # of a request's strength among its extra_params


def get_wan22_pre_process_func(od_config: Any) -> Callable[[Any], Any]:
    """As vLLM-Omni's own; requests of other strengths get batches of their own. Raises UsageError for no strength."""
    stock = pipeline_wan2_2.get_wan22_pre_process_func(od_config)

    def pre_process(request: Any) -> Any:
        strength = strength_of(request.sampling_params)
        request = stock(request)
        key = getattr(request, "batch_compatibility_key", None) or ()
        request.batch_compatibility_key = (*key, KEY, strength)
        return request

    return pre_process


def strength_of(sampling_params: Any) -> float:
    """The strength that a request asks for by `extra_params: {"shelllcc": 0.5}`, or else the server's."""
    wanted, asked = settings(), getattr(sampling_params, "extra_args", None) or {}
    if wanted is None:
        return 0.0
    return check_strength(asked[KEY], f"extra_params.{KEY}") if KEY in asked else wanted.strength


class ShellWan22Pipeline(Wan22Pipeline):  # type: ignore[misc]  # vLLM-Omni is not here
    """Wan22Pipeline, guided; at strength 0 its own to the bit. A request that cannot be guided fails."""

    _guide: ShellGuide | None = None
    _positive: Tensor | None = None

    def forward(self, req: Any, *args: Any, **kwargs: Any) -> Any:
        """One sampling of requests of the same strength; the guide is its own."""
        every = getattr(req, "sampling_params_list", None) or [req.sampling_params]
        strengths = {strength_of(one) for one in every}
        if len(strengths) > 1:
            raise UsageError(f"one batch has one strength, got {sorted(strengths)}")
        wanted, strength = settings(), strengths.pop()
        if wanted is not None and strength > 0:
            if getattr(self, "is_dmd", False):
                raise ModelError("Shell-LCC cannot guide WanDMDPipeline, which has no scheduler's step")
            if any(map(_has_image, getattr(req, "prompts", []))):
                raise ModelError("Shell-LCC guides text-to-video in vLLM-Omni, not yet image-to-video")
            self._guide = new_guide(wanted.fit, strength)
        try:
            return super().forward(req, *args, **kwargs)
        finally:
            self._guide = self._positive = None

    def combine_cfg_noise(self, positive_noise_pred: Any, *args: Any, **kwargs: Any) -> Any:
        """As the stock one; the prediction from the prompt alone is kept for the step."""
        if self._guide is not None:
            self._positive = positive_noise_pred[0] if isinstance(positive_noise_pred, tuple) else positive_noise_pred
        return super().combine_cfg_noise(positive_noise_pred, *args, **kwargs)

    def scheduler_step_maybe_with_cfg(
        self, noise_pred: Any, t: Any, latents: Any, do_true_cfg: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """The stock step, with the prediction moved; ranks of a pipeline that hold none pass."""
        apart = args[0] if args else kwargs.get("per_request_scheduler")
        if apart is not None and settings() is not None:
            raise ModelError(
                "Shell-LCC guides whole samplings; start vLLM-Omni without step-wise execution, or without it"
            )
        if self._guide is not None and noise_pred is not None:
            check_served(self.scheduler)
            index, positive = begin_step(self._guide, self.scheduler, t), self._positive
            self._positive = None
            noise_pred = moved_output(self._guide, index, noise_pred, latents, positive if do_true_cfg else None)
        return super().scheduler_step_maybe_with_cfg(noise_pred, t, latents, do_true_cfg, *args, **kwargs)


def _has_image(prompt: Any) -> bool:
    given = None if isinstance(prompt, str) else prompt.get("multi_modal_data")
    return bool(given and given.get("image") is not None)
