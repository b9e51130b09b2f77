"""A contract for each seam: what the libraries keep private and we lean on is there, and does what we need it to do.

A library's update that breaks one fails here by the seam's name; everything else of it is public.
"""

import contextlib
import inspect
import subprocess
import sys
import threading
import types
from datetime import timedelta

import pytest
import torch

from shelllcc.guidance.guide import seams as of_guide
from shelllcc.guidance.guide.scheduler import SUPPORTED
from shelllcc.guidance.wan.model import seams


@pytest.fixture(scope="module")
def diffusers():
    from shelllcc.guidance.wan.model.pipeline import quieten

    quieten()
    import diffusers

    return diffusers


@pytest.fixture
def transformer(diffusers):
    torch.manual_seed(0)
    config = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=3)
    return diffusers.WanTransformer3DModel(**config, text_dim=8, freq_dim=8, ffn_dim=16).eval()


def call(model, seed=0):
    torch.manual_seed(seed)
    latents, text = torch.randn(1, 4, 1, 4, 4), torch.randn(1, 3, 8)
    with torch.no_grad():
        return model(latents, torch.tensor([500.0]), text, return_dict=False)[0]


@pytest.fixture
def pipe(diffusers, transformer):
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
    return diffusers.WanPipeline(**parts, transformer=transformer, scheduler=diffusers.UniPCMultistepScheduler())


def test_device_of_a_pipeline_is_where_it_computes_though_offloaded(pipe, transformer):
    from accelerate import cpu_offload_with_hook

    assert seams.device_of(pipe) == pipe.device == torch.device("cpu")
    cpu_offload_with_hook(transformer, torch.device("meta"))  # as enable_model_cpu_offload does
    assert seams.device_of(pipe) == torch.device("meta")
    assert pipe.device == torch.device("cpu")


def test_source_of_a_pipeline_is_where_it_was_loaded_from(diffusers, pipe):
    from shelllcc.guidance.wan.model.pipeline import TINY

    assert seams.source_of(diffusers.ModularPipeline.from_pretrained(str(TINY))) == str(TINY)
    assert seams.source_of(diffusers.modular_pipelines.WanBlocks().init_pipeline()) == seams.source_of(pipe) == ""


def test_image_taken_makes_a_pipeline_for_images_and_takes_it_back(pipe, diffusers):
    kind, config, parts = type(pipe), dict(pipe.config), set(vars(pipe))
    with contextlib.suppress(KeyError), seams.image_taken(pipe):
        assert type(pipe) is diffusers.WanImageToVideoPipeline
        assert pipe.components["image_encoder"] is None  # what diffusers asks for of all parts finds these, too
        raise KeyError
    assert (type(pipe), dict(pipe.config), set(vars(pipe))) == (kind, config, parts)
    pipe.__class__ = diffusers.WanImageToVideoPipeline
    with seams.image_taken(pipe):
        assert "image_encoder" not in vars(pipe)  # one of images is left as it is


def test_group_offload_again_moves_what_a_failed_call_left(transformer):
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(transformer, torch.device("cpu"), offload_type="leaf_level")
    hooks = [registry.get_hook("group_offloading") for registry in seams._registries(transformer)]
    groups = [hook.group for hook in hooks if hook is not None]
    assert len(groups) > 10
    away = []
    for group in groups:
        group.offload_ = lambda group=group: away.append(group)
    seams.group_offload_again(transformer)
    assert away == groups


def test_keep_calls_apart_gives_each_call_of_cfg_its_own_attention(diffusers, transformer):
    transformer.enable_cache(
        diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=lambda: 500,
        )
    )
    seams.keep_calls_apart(transformer)

    def step(seeds):
        said = []
        for name, seed in zip(("cond", "uncond"), seeds, strict=True):
            with transformer.cache_context(name):
                said.append(call(transformer, seed))
        return said

    apart, alike = step((0, 1)), step((0, 1))  # the second step takes the attention of the first: all is as it was
    torch.testing.assert_close(alike, apart, rtol=0, atol=0)
    transformer.disable_cache()
    torch.testing.assert_close([call(transformer, 0), call(transformer, 1)], apart, rtol=0, atol=0)


def test_forward_exchanged_is_heard_by_hooks_and_undone_under_an_exception(transformer):
    from accelerate.hooks import ModelHook, add_hook_to_module

    for hooked in (False, True):  # by accelerate, as offloading does
        if hooked:
            add_hook_to_module(transformer, ModelHook())
        before, heard = call(transformer), []
        own = transformer.__dict__.get("forward")
        assert (own is not None) == hooked
        handle = transformer.register_forward_hook(lambda model, args, out, heard=heard: heard.append(out[0]))
        double = lambda forward: lambda *args, **kwargs: (2 * forward(*args, **kwargs)[0],)  # noqa: E731
        with contextlib.suppress(KeyError), seams.forward_exchanged([transformer], double):
            torch.testing.assert_close(call(transformer), 2 * before, rtol=0, atol=0)
            raise KeyError
        handle.remove()
        torch.testing.assert_close(heard, [2 * before], rtol=0, atol=0)
        assert transformer.__dict__.get("forward") is own
        torch.testing.assert_close(call(transformer), before, rtol=0, atol=0)


def test_share_tokens_finds_the_plan_and_what_it_passes_over(diffusers, transformer):
    """That it computes the same over two processes is held by test_parallel."""
    assert set(transformer._cp_plan) == {"rope", "blocks.0", "proj_out", ""}
    assert set(transformer._cp_plan[""]) == {"timestep"}
    assert list(inspect.signature(transformer._resolve_parallel_config).parameters) == ["config"]
    assert list(inspect.signature(diffusers.ParallelConfig.setup).parameters)[1:4] == ["rank", "world_size", "device"]
    with seams._resolved_on_cpu(transformer, 0, 2):
        assert "_resolve_parallel_config" in vars(transformer)
    assert "_resolve_parallel_config" not in vars(transformer)


def test_peer_lost_knows_what_gloo_says_when_another_is_gone(tmp_path):
    import torch.distributed as dist

    groups = {}

    def join(rank):
        store = dist.FileStore(str(tmp_path / "store"), 2)
        groups[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=20))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del groups[1]
    with pytest.raises(RuntimeError) as error:
        groups[0].allreduce([torch.ones(1)]).wait()
    assert seams.peer_lost(error.value)
    assert seams.peer_lost(dist.DistNetworkError("gone"))
    assert not seams.peer_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not seams.peer_lost(OSError(seams.GLOO))


def test_shortened_runs_its_first_blocks_and_leaves_the_whole_alone(transformer):
    before, ran = call(transformer), []
    for index, block in enumerate(transformer.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    call(seams.shortened(transformer, 2))
    assert ran == [0, 1]
    torch.testing.assert_close(call(transformer), before, rtol=0, atol=0)


@pytest.fixture(params=SUPPORTED)
def scheduler(request, diffusers):
    flow = (
        {} if request.param.startswith("FlowMatch") else {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    )
    made = getattr(diffusers, request.param)(**flow)
    made.set_timesteps(4)
    return made


def test_begin_finds_the_first_step_once(scheduler):
    assert scheduler.step_index is None
    assert of_guide.begin(scheduler, scheduler.timesteps[0])
    assert scheduler.step_index == 0
    assert not of_guide.begin(scheduler, scheduler.timesteps[0])
    scheduler.step(torch.zeros(1, 4), scheduler.timesteps[0], torch.ones(1, 4))
    assert scheduler.step_index == 1
    assert not of_guide.begin(scheduler, scheduler.timesteps[1])
    scheduler.set_timesteps(4)
    assert scheduler.step_index is None


def test_step_exchanged_keeps_identity_and_gives_the_class_back(scheduler):
    kind, config = type(scheduler), scheduler.config

    def exchange(step):
        return lambda self, said, time, sample, **how: step(self, 0 * said, time, sample, **how)

    with contextlib.suppress(KeyError), of_guide.step_exchanged(scheduler, exchange):
        assert isinstance(scheduler, kind)
        assert (type(scheduler).__name__, type(scheduler).__module__) == (kind.__name__, kind.__module__)
        assert scheduler.config is config
        torch.manual_seed(0)  # of one that noises anew
        stayed = scheduler.step(torch.ones(1, 4), scheduler.timesteps[0], torch.ones(1, 4), return_dict=False)[0]
        raise KeyError
    assert type(scheduler) is kind
    scheduler.set_timesteps(4)
    torch.manual_seed(0)
    plain = scheduler.step(torch.zeros(1, 4), scheduler.timesteps[0], torch.ones(1, 4), return_dict=False)[0]
    torch.testing.assert_close(stayed, plain, rtol=0, atol=0)


def test_begun_later_gives_a_schedule_of_its_own_and_the_class_back(scheduler):
    kind = type(scheduler)
    scheduler.set_timesteps(6)
    sigmas, timesteps = scheduler.sigmas.clone(), scheduler.timesteps.clone()
    clean, noise = torch.tensor([[0.3, -1.0, 2.0, 0.5]]), torch.tensor([[1.0, 0.2, -0.4, 0.7]])
    with contextlib.suppress(KeyError), of_guide.begun_later(scheduler, 2):
        scheduler.set_timesteps(6)
        assert torch.equal(scheduler.sigmas, sigmas[2:])
        assert torch.equal(scheduler.timesteps, timesteps[2:])
        x = (1 - sigmas[2]) * clean + sigmas[2] * noise
        for index, time in enumerate(scheduler.timesteps):
            x = scheduler.step((x - clean) / sigmas[2 + index], time, x, return_dict=False)[0]
        torch.testing.assert_close(x, clean, rtol=0, atol=2e-3)
        raise KeyError
    assert type(scheduler) is kind
    scheduler.set_timesteps(6)
    assert torch.equal(scheduler.sigmas, sigmas)


def test_seams_load_no_library():
    code = "import sys, shelllcc.guidance.wan.model.seams, shelllcc.guidance.guide.seams\n"
    code += "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_seam_has_a_contract():
    """By name: `test_NAME_..` in this file."""
    named = {name for name in globals() if name.startswith("test_")}
    for module in (seams, of_guide):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                assert any(test.startswith(f"test_{name}_") for test in named), name


def test_decoded_in_part_shows_what_the_whole_would(diffusers):
    torch.manual_seed(0)
    config = dict(base_dim=4, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True])
    vae = diffusers.AutoencoderKLWan(**config, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
    latents = torch.randn(1, 4, 4, 4, 4)
    with torch.no_grad():
        whole = vae.decode(latents, return_dict=False)[0]
        with seams.decoded_in_part(vae, 2):
            part = vae.decode(latents, return_dict=False)[0]
        with contextlib.suppress(KeyError), seams.decoded_in_part(vae, 2):
            raise KeyError
        torch.testing.assert_close(part, whole[:, :, :5])
        assert "decode" not in vars(vae)
        with seams.decoded_in_part(vae, None):
            assert vae.decode(latents, return_dict=False)[0].shape == whole.shape


@pytest.mark.parametrize("tiled", [False, True])
def test_decoded_hears_of_every_latent_frame(diffusers, tiled):
    config = dict(base_dim=4, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True])
    vae = diffusers.AutoencoderKLWan(**config, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
    if tiled:
        sides = dict(tile_sample_min_height=16, tile_sample_min_width=16)
        vae.enable_tiling(**sides, tile_sample_stride_height=8, tile_sample_stride_width=8)
    heard, latents = [], torch.randn(1, 4, 3, 4, 6)
    with torch.no_grad():
        plain = vae.decode(latents, return_dict=False)[0]
        with seams.decoded(types.SimpleNamespace(vae=vae), lambda done, total: heard.append((done, total))):
            told = vae.decode(latents, return_dict=False)[0]
    torch.testing.assert_close(told, plain, rtol=0, atol=0)
    total = len(heard)
    assert (total == 3) is not tiled
    assert heard == [(done, total) for done in range(1, total + 1)]
    assert "decode" not in vars(vae)
    assert not vae.decoder._forward_hooks


@pytest.mark.parametrize("name", SUPPORTED)
def test_levels_exchanged_are_those_given_whatever_the_shift(diffusers, name):
    flow = {} if name.startswith("FlowMatch") else {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    shift = {"shift": 7.0} if name.startswith("FlowMatch") else {"flow_shift": 7.0}
    scheduler, sigmas = getattr(diffusers, name)(**flow, **shift), (1.0, 0.9375, 0.8333, 0.625)
    kind = type(scheduler)
    with of_guide.levels_exchanged(scheduler, sigmas):
        scheduler.set_timesteps(50, device="cpu")
        assert scheduler.sigmas.tolist() == pytest.approx([*sigmas, 0.0], abs=2e-6)
        assert scheduler.timesteps.tolist() == pytest.approx([1000 * sigma for sigma in sigmas], abs=2e-3)
        scheduler.set_begin_index(0)
        sample = torch.randn(1, 4, 1, 4, 4)
        for time in scheduler.timesteps:
            sample = scheduler.step(torch.zeros_like(sample), time, sample, return_dict=False)[0]
        assert torch.isfinite(sample).all()
        with of_guide.begun_later(scheduler, 2):
            scheduler.set_timesteps(4)
            assert scheduler.sigmas.tolist() == pytest.approx([0.8333, 0.625, 0.0])
    assert type(scheduler) is kind
    scheduler.set_timesteps(4)
    assert scheduler.sigmas.tolist() != pytest.approx([*sigmas, 0.0], abs=1e-2)


def test_noise_drawn_from_a_generator_is_that_of_its_seed(diffusers):
    scheduler = diffusers.FlowMatchLCMScheduler(shift=5.0)

    def made(seed):
        scheduler.set_timesteps(2)
        scheduler.set_begin_index(0)
        sample = torch.zeros(1, 4, 1, 4, 4)
        with of_guide.noise_drawn_from(scheduler, torch.Generator().manual_seed(seed)):
            return scheduler.step(sample, scheduler.timesteps[0], sample, return_dict=False)[0]

    assert torch.equal(made(3), made(3))
    assert not torch.equal(made(3), made(4))
    wanted = scheduler.sigmas[1] * torch.randn((1, 4, 1, 4, 4), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(made(3), wanted)
