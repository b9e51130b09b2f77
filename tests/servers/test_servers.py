"""The servers' plug-ins on stand-ins of their hooks: as `guided`, off unless asked for, never silently unguided."""

import importlib.util
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler
from torch.testing import assert_close

from shelllcc.anchors.choose import load_bank
from shelllcc.guidance.errors import BankError, ModelError, UsageError
from shelllcc.guidance.fit.fit import Band, Belongs, Fit, write_fit
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import guided
from shelllcc.servers import settings
from shelllcc.servers import sglang as for_sglang
from shelllcc.servers import vllm_omni as for_vllm

_spec = importlib.util.spec_from_file_location("standins", Path(__file__).with_name("standins.py"))
standins = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(standins)

FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
WAN_UNIPC = type("FlowUniPCMultistepScheduler", (UniPCMultistepScheduler,), {})  # named as servers name Wan's own
SCHEDULERS = {"unipc": lambda: WAN_UNIPC(**FLOW), "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0)}
STOCK = {"unipc": lambda: UniPCMultistepScheduler(**FLOW), "euler": SCHEDULERS["euler"]}
WIDE = GuideConfig(window=(0.0, 0.9), last=True, by_sigma=True, calm=3.8, contrast=1.5)  # what cfg adds counts
STEPS = 5


@pytest.fixture(scope="module")
def tiny_bank(pipe):
    return load_bank("auto", pipe)


@pytest.fixture(scope="module")
def fit_file(tiny_bank, tmp_path_factory):
    curve = tiny_bank.chosen.digest
    made_for = Belongs(tiny_bank.identity, curve, "0" * 16, "UniPCMultistepScheduler", STEPS, 3.0, None, 3.0)
    bands = (Band("2 to 4", 0.0, 0.01, 0.0, 0.01), Band("contrast", 0.0, 0.01, 0.0, 0.01))
    fit = Fit(made_for, WIDE, bands, tuple("abcd"), (), 0, 0.95, (64, 64, 5), "a/Wan", tiny_bank.name, {})
    return write_fit(fit, tmp_path_factory.mktemp("fits"))


@pytest.fixture
def served(monkeypatch, fit_file):
    monkeypatch.setenv("SHELLLCC_SERVE_FIT", str(fit_file))
    monkeypatch.delenv("SHELLLCC_SERVE_STRENGTH", raising=False)


@pytest.fixture(scope="module")
def words(pipe):
    with torch.no_grad():
        return pipe.encode_prompt(["a tabby cat, zoom in, daylight"], max_sequence_length=512)


def noise(clips=1, seed=3):
    return torch.randn(clips, 16, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def wanted(pipe, tiny_bank, words, monkeypatch):
    """The latents of the stock pipeline within `guided`, at a strength; unguided at 0."""

    def sampled(name, cfg, strength, clips=1):
        monkeypatch.setattr(pipe, "scheduler", STOCK[name]())
        told = dict(
            zip(("prompt_embeds", "negative_prompt_embeds"), (w.repeat(clips, 1, 1) for w in words), strict=True)
        )
        told |= dict(latents=noise(clips), guidance_scale=cfg, num_inference_steps=STEPS, output_type="latent")
        with guided(pipe, ShellGuide(tiny_bank, replace(WIDE, strength=strength))):
            return pipe(**told, height=32, width=32, num_frames=5).frames

    return sampled


@pytest.fixture
def in_sglang(monkeypatch, pipe, words):
    """Registers the plug-in in the stand-in, as the server's loader would, and samples one request."""

    def sampled(name, cfg, server=None, scheduler=None, registered=1, **more):
        with monkeypatch.context() as patch:
            stand_in = standins.sglang(patch, by_name=more.pop("by_name", True))
            for_sglang.register()
            assert stand_in.apply() == registered
            scheduler = scheduler or SCHEDULERS[name]()
            scheduler.set_timesteps(STEPS)
            stage, asked = stand_in.stage(pipe.transformer, scheduler), dict(latents=noise()) | more
            batch = standins.request(*words, asked.pop("latents"), cfg, scheduler, **asked)
            with torch.no_grad():
                stage.forward(batch, server or SimpleNamespace(enable_cfg_parallel=False))
            assert batch.extra == {}
            return batch.latents

    return sampled


@pytest.mark.parametrize(("name", "cfg", "by_name"), [("unipc", 3.0, True), ("euler", 1.0, False)])
def test_sglang_samples_as_guided(name, cfg, by_name, in_sglang, served, wanted):
    result = in_sglang(name, cfg, by_name=by_name)
    assert_close(result, wanted(name, cfg, 1.0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(result, wanted(name, cfg, 0.0), atol=0.05)


def test_sglang_has_the_strength_of_its_environment(in_sglang, served, wanted, monkeypatch):
    monkeypatch.setenv("SHELLLCC_SERVE_STRENGTH", "0.4")
    assert_close(in_sglang("unipc", 3.0), wanted("unipc", 3.0, 0.4), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("home", for_sglang.HOMES)
def test_sglang_of_other_versions_has_its_hooks_elsewhere(home, served, monkeypatch):
    stand_in = standins.sglang(monkeypatch, home)
    for_sglang.register()
    assert stand_in.apply() == 1
    assert stand_in.stage._predict_noise_with_cfg.__wrapped__


def test_sglang_is_left_alone_unless_it_names_a_fit(in_sglang, wanted, fit_file, monkeypatch):
    monkeypatch.delenv("SHELLLCC_SERVE_FIT", raising=False)
    assert torch.equal(in_sglang("unipc", 3.0, registered=0), wanted("unipc", 3.0, 0.0))
    monkeypatch.setenv("SHELLLCC_SERVE_FIT", str(fit_file))
    monkeypatch.setenv("SHELLLCC_SERVE_STRENGTH", "0")
    assert torch.equal(in_sglang("unipc", 3.0, registered=0), wanted("unipc", 3.0, 0.0))


def test_sglangs_warm_up_is_not_guided(in_sglang, served, wanted):
    assert torch.equal(in_sglang("unipc", 3.0, is_warmup=True), wanted("unipc", 3.0, 0.0))


def test_sglang_may_leave_cfg_out_from_a_step_on(in_sglang, served):
    late, early = (in_sglang("unipc", 3.0, cfg_gate_step=step) for step in (99, 3))
    assert torch.isfinite(early).all()
    assert not torch.equal(late, early)


def test_sglang_without_hooks_says_so(served):
    with pytest.raises(ImportError, match="no plugin_hook"):
        for_sglang.register()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (dict(did_sp_shard_latents=True), "--sp-degree 1"),
        (dict(server=SimpleNamespace(enable_cfg_parallel=True)), "without --enable-cfg-parallel"),
        (dict(image_latent=torch.zeros(1)), "not yet image-to-video"),
        (dict(latents=torch.zeros(1, 64, 16)), r"these are \(1, 64, 16\)"),
        (dict(scheduler=FlowMatchHeunDiscreteScheduler()), "cannot guide FlowMatchHeun"),
    ],
)
def test_a_request_that_sglang_cannot_have_guided_fails(more, says, in_sglang, served):
    with pytest.raises(ModelError, match=says):
        in_sglang("unipc", 3.0, **more)


def test_a_prediction_that_is_not_heard_fails(served, fit_file):
    """As under CUDA graphs, which do not call the model."""
    scheduler = SCHEDULERS["euler"]()
    scheduler.set_timesteps(STEPS)
    stage = SimpleNamespace(scheduler=scheduler)
    hook = for_sglang.around(settings.settings())

    def predict(self, current_model, batch, timestep_index, server_args, latents):
        return torch.zeros_like(latents)

    told = dict(current_model=torch.nn.Identity(), server_args=SimpleNamespace(), latents=noise())
    batch = standins.request(None, None, None, 3.0, scheduler)
    with pytest.raises(ModelError, match="without CUDA graphs"):
        hook(predict, stage, batch=batch, timestep_index=0, **told)
    late = standins.request(None, None, None, 1.0, scheduler)
    with pytest.raises(ModelError, match="from their beginning"):
        hook(predict, stage, batch=late, timestep_index=2, **told)


@pytest.fixture
def in_vllm(monkeypatch, pipe, words):
    """Registers the plug-in in the stand-in and samples a batch of requests with the pipeline that is then Wan's."""

    def sampled(name, cfg, extra=({},), *, stock=False, times=1, **more):
        with monkeypatch.context() as patch:
            stand_in = standins.vllm_omni(patch)
            for_vllm.register()
            module, kind, before, after = stand_in.known["WanPipeline"]
            patch.delitem(sys.modules, module, raising=False)
            module = importlib.import_module(module)
            assert module.get_wan22_post_process_func(None) is None
            assert after == "get_wan22_post_process_func"
            config = SimpleNamespace(transformer=pipe.transformer, scheduler=SCHEDULERS[name]())
            made = (stand_in.pipeline if stock else getattr(module, kind))(od_config=config)
            for key, value in more.items():
                setattr(made, key, value)
            told, latents = dict(guidance_scale=cfg, num_inference_steps=STEPS), noise(len(extra))
            asked = [
                SimpleNamespace(extra_args=args, latents=latents[n : n + 1], **told) for n, args in enumerate(extra)
            ]
            requests = [getattr(module, before)(config)(SimpleNamespace(sampling_params=one)) for one in asked]
            both = [w.repeat(len(extra), 1, 1) for w in words]
            req = SimpleNamespace(sampling_params_list=asked, words=both[0], none=both[1], prompts=["a cat"])
            with torch.no_grad():
                results = [made.forward(req) for _ in range(times)]
            patch.delitem(sys.modules, module.__name__)
            assert torch.equal(results[0], results[-1])
            return results[0], [request.batch_compatibility_key for request in requests]

    return sampled


@pytest.mark.parametrize(("name", "cfg"), [("unipc", 3.0), ("euler", 1.0)])
def test_vllm_omni_samples_as_guided(name, cfg, in_vllm, served, wanted):
    assert_close(in_vllm(name, cfg, times=2)[0], wanted(name, cfg, 1.0), atol=1e-5, rtol=1e-5)


def test_a_request_to_vllm_omni_has_its_own_strength(in_vllm, served, wanted):
    weak, keys = in_vllm("unipc", 3.0, [{"shelllcc": 0.4}, {"shelllcc": "0.4", "flow_shift": 3}])
    assert_close(weak, wanted("unipc", 3.0, 0.4, clips=2), atol=1e-5, rtol=1e-5)
    assert keys == [("wan22_image_condition", False, "shelllcc", 0.4)] * 2


def test_vllm_omni_at_strength_zero_is_its_own_to_the_bit(in_vllm, served):
    assert torch.equal(in_vllm("unipc", 3.0, [{"shelllcc": 0}])[0], in_vllm("unipc", 3.0, stock=True)[0])


def test_vllm_omni_is_left_alone_unless_it_names_a_fit(monkeypatch):
    monkeypatch.delenv("SHELLLCC_SERVE_FIT", raising=False)
    known = standins.vllm_omni(monkeypatch).known
    for_vllm.register()
    assert known == {}


def test_a_request_that_vllm_omni_cannot_have_guided_fails(in_vllm, served):
    for asked in ("loud", -1, 11, float("nan"), True, None, [1]):
        with pytest.raises(UsageError, match=r"extra_params\.shelllcc is a strength from 0"):
            in_vllm("unipc", 3.0, [{"shelllcc": asked}])
    with pytest.raises(UsageError, match="one batch has one strength"):
        in_vllm("unipc", 3.0, [{"shelllcc": 1}, {}, {"shelllcc": 2}])
    with pytest.raises(ModelError, match="WanDMDPipeline"):
        in_vllm("unipc", 3.0, is_dmd=True)


def test_vllm_omnis_step_wise_execution_and_images_are_refused(served, monkeypatch):
    standins.vllm_omni(monkeypatch)
    monkeypatch.delitem(sys.modules, "shelllcc.servers.vllm_omni_wan", raising=False)
    module = importlib.import_module("shelllcc.servers.vllm_omni_wan")
    made = module.ShellWan22Pipeline(od_config=SimpleNamespace(transformer=None, scheduler=None))
    with pytest.raises(ModelError, match="without step-wise execution"):
        made.scheduler_step_maybe_with_cfg(None, None, None, False, per_request_scheduler=SCHEDULERS["euler"]())
    asked = SimpleNamespace(sampling_params=SimpleNamespace(extra_args={}))
    asked.prompts = [{"prompt": "a cat", "multi_modal_data": {"image": "cat.png"}}]
    with pytest.raises(ModelError, match="not yet image-to-video"):
        made.forward(asked)
    monkeypatch.delitem(sys.modules, "shelllcc.servers.vllm_omni_wan")


def test_what_is_set_wrong_is_said(monkeypatch, fit_file, tmp_path):
    monkeypatch.setenv("SHELLLCC_SERVE_FIT", str(fit_file))
    monkeypatch.setenv("SHELLLCC_SERVE_STRENGTH", "much")
    for register in (for_sglang.register, for_vllm.register):
        with pytest.raises(UsageError, match="SHELLLCC_SERVE_STRENGTH is a strength from 0"):
            register()
    with pytest.raises(UsageError, match="cannot read the fit"):
        settings.new_guide(tmp_path / "none.json", 1.0)
    monkeypatch.setattr(settings, "all_banks", lambda: [tmp_path / "torn.safetensors"])
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / fit_file.name
    again.write_bytes(fit_file.read_bytes())
    with pytest.raises(BankError, match="SHELLLCC_BANKS names its folder"):
        settings.new_guide(again, 1.0)


def test_entry_points_name_what_is_there(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    groups = {"sglang.multimodal_gen.plugins": for_sglang, "vllm_omni.general_plugins": for_vllm}
    for group, module in groups.items():
        (named,) = project["entry-points"][group].values()
        assert named == f"{module.__name__}:register"
        assert f"`{group}`" in (root / "docs/servers.md").read_text(encoding="utf-8")
