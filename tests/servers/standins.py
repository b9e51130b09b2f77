"""Stand-ins of the servers' hooks, written from their documents: as little of each as the plug-ins lean on.

`sglang` and `vllm_omni` put modules of those names in place; each samples with a Wan transformer and a scheduler of
diffusers, in the order of calls of the server's own loop (the files are named in servers/).
"""

from __future__ import annotations

import enum
import functools
import pkgutil
import sys
from types import ModuleType, SimpleNamespace

import torch


def modules(patch, names):
    """Empty modules of these dotted names and of the packages above them."""
    found = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            dotted = ".".join(parts[:end])
            if dotted not in sys.modules:
                patch.setitem(sys.modules, dotted, ModuleType(dotted))
                if end > 1:
                    setattr(sys.modules[dotted.rpartition(".")[0]], parts[end - 1], sys.modules[dotted])
        found[name] = sys.modules[name]
    return found


class HookType(enum.Enum):
    AFTER = "after"
    AROUND = "around"


def sglang(patch, home="sglang.multimodal_gen.runtime.platforms.plugins", *, by_name=True):
    """SGLang's plug-ins and its denoising stage; `by_name` is how the stage calls its prediction."""
    stages = "sglang.multimodal_gen.runtime.pipelines_core.stages.denoising"
    found = modules(patch, [home, stages])
    hooks = []
    found[home].HookType = HookType
    found[home].plugin_hook = lambda target, type=HookType.AFTER: lambda hook: hooks.append((target, type, hook))

    class DenoisingStage:
        def __init__(self, transformer, scheduler):
            self.transformer, self.scheduler = transformer, scheduler

        def forward(self, batch, server_args):
            latents = batch.latents
            for i, t in enumerate(batch.timesteps):
                told = dict(current_model=self.transformer, latent_model_input=latents, timestep=t.expand(len(latents)))
                told |= dict(batch=batch, timestep_index=i, attn_metadata=None, target_dtype=latents.dtype)
                told |= dict(current_guidance_scale=batch.guidance_scale, image_kwargs={}, pos_cond_kwargs={})
                told |= dict(neg_cond_kwargs={}, server_args=server_args)
                more = dict(guidance=None, latents=latents)
                predict = self._predict_noise_with_cfg
                pred = predict(**told, **more) if by_name else predict(*told.values(), **more)
                latents = self.scheduler.step(model_output=pred, timestep=t, sample=latents, return_dict=False)[0]
            batch.latents = latents
            return batch

        def _predict_noise_with_cfg(
            self, current_model, latent_model_input, timestep, batch, timestep_index, attn_metadata, target_dtype,
            current_guidance_scale, image_kwargs, pos_cond_kwargs, neg_cond_kwargs, server_args, guidance, latents,
        ):  # fmt: skip
            def predicted(words):
                return current_model(latent_model_input, timestep, words, return_dict=False)[0]

            cond = predicted(batch.prompt_embeds[0])
            if not batch.do_classifier_free_guidance or timestep_index >= batch.cfg_gate_step:
                return cond
            uncond = predicted(batch.negative_prompt_embeds[0])
            return uncond + current_guidance_scale * (cond - uncond)

    found[stages].DenoisingStage = DenoisingStage

    def apply():
        for target, kind, hook in hooks:
            owner, name = target.rpartition(".")[::2]
            owner = pkgutil.resolve_name(owner)
            original = getattr(owner, name)
            assert kind is HookType.AROUND
            setattr(owner, name, _around(original, hook))
        return len(hooks)

    return SimpleNamespace(stage=DenoisingStage, apply=apply)


def _around(original, hook):
    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        return hook(original, *args, **kwargs)

    return wrapper


def request(words, none, latents, cfg, scheduler, **more):
    """What SGLang hands from stage to stage."""
    told = dict(prompt_embeds=[words], negative_prompt_embeds=[none], latents=latents, guidance_scale=cfg, extra={})
    told |= dict(timesteps=scheduler.timesteps, do_classifier_free_guidance=cfg > 1, did_sp_shard_latents=False)
    return SimpleNamespace(**told | dict(is_warmup=False, image_latent=None, scheduler=None, cfg_gate_step=99) | more)


def vllm_omni(patch):
    """vLLM-Omni's registry of pipelines and its Wan pipeline, whose predictions are tuples, as there."""
    registry, pipelines = "vllm_omni.diffusion.registry", "vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2"
    found = modules(patch, [registry, pipelines])
    known = {}

    def register_diffusion_model(model_arch, module_name, class_name, pre_process_func_name, post_process_func_name):
        known[model_arch] = (module_name, class_name, pre_process_func_name, post_process_func_name)

    class CFGParallelMixin:
        def predict_noise_maybe_with_cfg(self, do_true_cfg, true_cfg_scale, positive_kwargs, negative_kwargs):
            positive = self.predict_noise(**positive_kwargs)
            if not do_true_cfg:
                return positive
            negative = self.predict_noise(**negative_kwargs)
            return self.combine_cfg_noise((positive,), (negative,), true_cfg_scale, False)

        def combine_cfg_noise(self, positive_noise_pred, negative_noise_pred, true_cfg_scale, cfg_normalize=False):
            (cond,), (uncond,) = positive_noise_pred, negative_noise_pred
            return uncond + true_cfg_scale * (cond - uncond)

        def scheduler_step_maybe_with_cfg(self, noise_pred, t, latents, do_true_cfg, per_request_scheduler=None):
            scheduler = per_request_scheduler or self.scheduler
            return scheduler.step(noise_pred, t, latents, return_dict=False)[0]

    class Wan22Pipeline(CFGParallelMixin):
        def __init__(self, *, od_config):
            self.transformer, self.scheduler = od_config.transformer, od_config.scheduler

        def predict_noise(self, current_model, **told):
            return current_model(**told, return_dict=False)[0]

        def forward(self, req):
            params = req.sampling_params_list[0]
            self.scheduler.set_timesteps(params.num_inference_steps)
            latents = torch.cat([one.latents for one in req.sampling_params_list])
            cfg, told = params.guidance_scale, {}
            for t in self.scheduler.timesteps:
                for name, words in (("positive", req.words), ("negative", req.none)):
                    told[f"{name}_kwargs"] = dict(
                        current_model=self.transformer,
                        hidden_states=latents,
                        timestep=t.expand(len(latents)),
                        encoder_hidden_states=words,
                    )
                pred = self.predict_noise_maybe_with_cfg(do_true_cfg=cfg > 1, true_cfg_scale=cfg, **told)
                latents = self.scheduler_step_maybe_with_cfg(pred, t, latents, cfg > 1)
            return latents

    def get_wan22_pre_process_func(od_config):
        def pre_process(request):
            request.batch_compatibility_key = ("wan22_image_condition", False)
            return request

        return pre_process

    found[registry].register_diffusion_model = register_diffusion_model
    found[pipelines].Wan22Pipeline = Wan22Pipeline
    found[pipelines].get_wan22_pre_process_func = get_wan22_pre_process_func
    found[pipelines].get_wan22_post_process_func = lambda od_config: None
    return SimpleNamespace(known=known, pipeline=Wan22Pipeline)
