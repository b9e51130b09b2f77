"""vLLM-Omni's plug-in: says that Wan's pipeline is `ShellWan22Pipeline`. Imports vLLM-Omni when registered.

Read at vllm-project/vllm-omni: the entry points' group in vllm_omni/plugins/__init__.py (6a96e66e), and
`register_diffusion_model`, which "can be used ... to replace an existing built-in pipeline", in
vllm_omni/diffusion/registry.py (documented for `stable` in the API reference, vllm_omni.diffusion.registry). It was
never run in vLLM-Omni itself: docs/servers.md.
"""

from __future__ import annotations

from shelllcc.servers.settings import settings

ARCHITECTURE = "WanPipeline"  # text-to-video of Wan2.1 and Wan2.2, and Wan2.2's 5B
PIPELINE = "shelllcc.servers.vllm_omni_wan"


def register() -> None:
    """The entry point: take the place of Wan's pipeline, where the environment names a fit; may be called again."""
    if settings() is None:
        return
    from vllm_omni.diffusion.registry import register_diffusion_model

    register_diffusion_model(
        model_arch=ARCHITECTURE,
        module_name=PIPELINE,
        class_name="ShellWan22Pipeline",
        pre_process_func_name="get_wan22_pre_process_func",
        post_process_func_name="get_wan22_post_process_func",
    )
