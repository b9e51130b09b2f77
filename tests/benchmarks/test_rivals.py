"""The rivals' loop against stock WanPipeline, their rules against the papers, and the model left as it was."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import pytest
import torch
from torch.testing import assert_close

from benchmarks import rivals
from benchmarks.rivals import GRID, Rival, forwards, guider, sample_latents
from benchmarks.stepping import STEPPINGS
from shelllcc.guidance.geometry.threads import one_thread

TEXT, SEED = "a tabby cat, zoom in, daylight", 3
STEPS = {"num_inference_steps": 3}
SIZE = {"height": 32, "width": 32, "num_frames": 5}
APG_RESCALE = "adaptive_projected_guidance_rescale"
WEAK = {"layers": (3,), "scale": 1.0}


def rival(name, cfg=3.0, **knobs):
    return Rival(name, cfg, tuple(knobs.items()))


EFFECTIVE = [
    rival("apg", eta=0.0, **{APG_RESCALE: 5.0}, adaptive_projected_guidance_momentum=-0.5),
    rival("cfg-zero", zero_init_steps=0),
    rival("fdg", cfg=1.0, band_scales=(3.0,)),
    rival("skip-layer", **WEAK),
    rival("skip-layer", cfg=1.0, **WEAK),
    rival("tcfg"),
    rival("magnitude", alpha=2.0),
    rival("rescaled", guidance_rescale=0.7),
    rival("perturbed-attention", **WEAK),
    rival("detail-daemon", amount=1.0),
    rival("lying-sigma", factor=-0.1),
    rival("epsilon-scaling", scale=1.02),
    rival("tsr", k=0.8),
    rival("self-refining", start=0.0, until=(0.5, 1.0), threshold=0.05),
]
STOPPED = [  # nothing is left of the stock pipeline to change
    rival("detail-daemon", amount=0.0),
    rival("lying-sigma", factor=0.0),
    rival("epsilon-scaling", scale=1.0),
    rival("tsr", k=1.0),
    rival("self-refining", times=(0, 0), start=0.0),
]
NEUTRAL = [
    rival("apg", eta=1.0, **{APG_RESCALE: 0.0}),
    rival("fdg", band_scales=(3.0, 3.0)),
    rival("skip-layer", layers=(3,), scale=0.0),
    rival("skip-layer", cfg=1.0, layers=(3,), scale=0.0),
    rival("magnitude", alpha=0.0),
    rival("rescaled", guidance_rescale=0.0),
    rival("perturbed-attention", layers=(3,), scale=0.0),
]


def name(value):
    return f"{value.name}-{value.cfg:g}"


@pytest.fixture(scope="module", autouse=True)
def thread():
    """Tensors this small are slower on more threads, and far slower where those have to wait for a core."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def stock(pipe):
    """Stock WanPipeline's latents for a cfg."""

    def sample(cfg):
        noise = torch.Generator().manual_seed(SEED)
        return pipe(TEXT, "", **SIZE, **STEPS, guidance_scale=cfg, generator=noise, output_type="latent").frames

    return sample


@pytest.fixture(scope="module")
def plain(stock):
    return {cfg: stock(cfg) for cfg in (1.0, 3.0)}


@pytest.fixture(scope="module")
def sample(pipe):
    return lambda one: sample_latents(pipe, [TEXT], [SEED], rival=one, steps=3, **SIZE)


@pytest.fixture(scope="module")
def sampled(plain, sample):
    """Latents of every rival, sampled one after the other once the stock pipeline has shown its own."""
    return {one: sample(one) for one in EFFECTIVE}


@pytest.fixture
def preds():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 4, 2, 8, 8, generator=draw).unbind()  # cond, uncond, weak


def ask(one, *preds, step=1):
    """What the rule makes of given predictions, in a step of ten."""
    rule = guider(one)
    rule.set_state(step, 10, None)
    passes = rule.prepare_inputs({"text": (preds[0], preds[1])})
    for each, pred in zip(passes, preds, strict=False):
        each.noise_pred = pred
    return rule(passes).pred


def product(a, b):
    return (a * b).sum((1, 2, 3, 4), keepdim=True)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_plain_guidance_is_the_stock_pipeline(sample, plain, cfg):
    assert_close(sample(rival("cfg", cfg)), plain[cfg], atol=1e-5, rtol=0)


@pytest.mark.parametrize("one", STOPPED, ids=name)
def test_a_changed_step_of_strength_0_is_the_plain_one_to_the_bit(sample, plain, one):
    ordinary = sample(rival("cfg"))
    assert torch.equal(sample(one), ordinary)
    assert_close(ordinary, plain[3.0], atol=1e-5, rtol=0)
    assert forwards(one) == 2


@pytest.mark.parametrize("one", EFFECTIVE, ids=name)
def test_a_rival_acts(sampled, plain, one):
    assert sampled[one].dtype == torch.float32
    assert sampled[one].isfinite().all()
    assert (sampled[one] - plain[one.cfg]).abs().max() > 1e-2


def test_rivals_leave_the_model_as_it_was(pipe, sampled, stock, plain):
    assert hooks(pipe.transformer) == 0
    assert torch.equal(stock(3.0), plain[3.0])


def test_an_exception_leaves_the_model_as_it_was(pipe, sample, stock, plain):
    def fail(*_):
        if hooks(pipe.transformer) > 1:  # this one, and those of the weakened pass
            raise KeyboardInterrupt

    for one in EFFECTIVE:
        if dict(one.knobs).get("layers"):
            handle = pipe.transformer.proj_out.register_forward_hook(fail)
            with pytest.raises(KeyboardInterrupt):
                sample(one)
            handle.remove()
            assert hooks(pipe.transformer) == 0
    assert torch.equal(stock(3.0), plain[3.0])


@pytest.mark.parametrize("one", NEUTRAL, ids=name)
def test_a_neutral_setting_is_plain_guidance(preds, one):
    cond, uncond, _ = preds
    assert forwards(one) == forwards(rival("cfg", one.cfg))
    assert_close(ask(one, cond, uncond), uncond + one.cfg * (cond - uncond), atol=1e-4, rtol=0)


@pytest.mark.parametrize("one", [EFFECTIVE[-6], EFFECTIVE[-1]], ids=name)
def test_prompts_of_a_batch_do_not_see_each_other(pipe, sampled, one):
    both = sample_latents(pipe, ["a rocket, pan left, dusk", TEXT], [SEED + 1, SEED], rival=one, steps=3, **SIZE)
    assert_close(both[1:], sampled[one], atol=1e-4, rtol=0)


@pytest.mark.parametrize("one", [one for one in EFFECTIVE if one.name not in STEPPINGS], ids=name)
def test_no_rule_mixes_the_clips_of_a_batch(preds, one):
    alone = [ask(one, *(pred[i : i + 1] for pred in preds)) for i in range(2)]
    assert_close(ask(one, *preds), torch.cat(alone), atol=1e-4, rtol=0)


def hooks(transformer):
    modules = list(transformer.modules())
    theirs = [m._diffusers_hook.hooks for m in modules if hasattr(m, "_diffusers_hook")]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules) + sum(map(len, theirs))


def test_frames_are_the_stock_pipelines(pipe):
    call = dict(generator=torch.Generator().manual_seed(SEED), guidance_scale=3.0, output_type="pt", **SIZE, **STEPS)
    video = pipe(TEXT, "", **call).frames
    frames = rivals.sample_batch(pipe, [TEXT], [SEED], rival=rival("cfg"), steps=3, **SIZE)
    assert frames.dtype == torch.uint8
    assert_close(frames.permute(0, 1, 4, 2, 3) / 255.0, video, atol=1 / 255, rtol=0)


def test_cfg_zero_scales_uncond_to_lie_nearest_cond(preds):
    cond, uncond, _ = preds
    nearest = product(cond, uncond) / product(uncond, uncond) * uncond
    assert_close(ask(rival("cfg-zero", zero_init_steps=1), cond, uncond), nearest + 3 * (cond - nearest))
    assert not ask(rival("cfg-zero", zero_init_steps=2), cond, uncond).any()


def test_apg_guides_orthogonally_to_cond_and_not_beyond_the_threshold(preds):
    cond, uncond, _ = preds
    change = 5 * (cond - uncond) / product(cond - uncond, cond - uncond).sqrt()
    expected = cond + 2 * (change - product(change, cond) / product(cond, cond) * cond)
    assert_close(ask(rival("apg", eta=0.0, **{APG_RESCALE: 5.0}), cond, uncond), expected)


def test_rescaling_gives_the_deviation_of_cond(preds):
    cond, uncond, _ = preds
    guided = uncond + 3 * (cond - uncond)
    full = ask(rival("rescaled", guidance_rescale=1.0), cond, uncond)
    assert_close(full.flatten(1).std(1), cond.flatten(1).std(1))
    assert_close(ask(rival("rescaled", guidance_rescale=0.3), cond, uncond), 0.3 * full + 0.7 * guided)


def test_tcfg_keeps_of_uncond_what_lies_along_the_common_direction(preds):
    cond, uncond, _ = preds
    cond = cond + 2 * uncond
    pairs = torch.stack([cond, uncond], 1).flatten(2)
    common = torch.linalg.eigh(pairs.mT @ pairs).eigenvectors[..., -1].view_as(uncond)
    along = product(uncond, common) * common
    assert_close(ask(rival("tcfg"), cond, uncond), along + 3 * (cond - along), atol=1e-3, rtol=0)


def test_magnitude_awareness_damps_large_changes(preds):
    cond, uncond, _ = preds
    change = cond - uncond
    ratio = (product(change, change) / product(uncond, uncond)).sqrt()
    expected = uncond + (1 + 2 * torch.exp(-2 * ratio)) * change
    assert_close(ask(rival("magnitude", alpha=2.0), cond, uncond), expected)


def test_bands_are_scaled_apart():
    checks = torch.ones(48, 48)
    checks[::2, ::2] = checks[1::2, 1::2] = -1
    scaled = rivals.scale_bands((checks + 5)[None, None], (7.0, 2.0, 3.0))[0, 0]
    assert_close(scaled[16:-16, 16:-16], (7 * checks + 3 * 5)[16:-16, 16:-16])
    noise = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    assert_close(rivals.scale_bands(noise, (1.0, 1.0, 1.0)), noise)


def test_a_weak_model_is_guided_away_from(preds):
    cond, uncond, weak = preds
    pag = dict(layers=(3,), scale=0.5, start=0.2)
    plain = uncond + 3 * (cond - uncond)
    assert_close(ask(rival("perturbed-attention", **pag), cond, uncond, weak, step=2), plain + 0.5 * (cond - weak))
    assert_close(ask(rival("perturbed-attention", **pag), cond, uncond, weak, step=1), plain)
    assert_close(ask(rival("perturbed-attention", 1.0, **pag), cond, weak, step=2), cond + 0.5 * (cond - weak))


def test_our_skipping_is_diffusers_skipping(sample, sampled, monkeypatch):
    theirs = rival("skip-layer", **WEAK)
    ours = rivals.WeakModel(3.0, lambda model: rivals.skip_layers(model, layers=[3]), scale=1.0, start=0.01)
    monkeypatch.setattr(rivals, "guider", lambda *_: ours)
    assert_close(sample(theirs), sampled[theirs], atol=1e-5, rtol=0)


def test_perturbed_attention_sees_each_token_alone(pipe):
    attention, dim = pipe.transformer.blocks[3].attn1, 320
    tokens = torch.randn(1, 5, dim, generator=torch.Generator().manual_seed(0))
    alone = attention(tokens.view(5, 1, dim)).view(1, 5, dim)  # attention over one token has nothing else to see
    handles = rivals.perturb_attention(pipe.transformer, layers=[3])
    perturbed = attention(tokens)
    for handle in handles:
        handle.remove()
    assert_close(perturbed, alone, atol=1e-5, rtol=0)


def test_the_transformer_is_told_another_noise_level_and_the_sampler_is_not(pipe, sample):
    told, plain = [], []
    for one, seen in ((rival("lying-sigma", factor=-0.1, start=0.0, end=1.0), told), (rival("cfg"), plain)):
        handle = pipe.transformer.register_forward_pre_hook(
            lambda _model, _args, given, seen=seen: seen.append(given["timestep"].item()), with_kwargs=True
        )
        sample(one)
        handle.remove()
    assert told == pytest.approx([0.9 * timestep for timestep in plain])
    assert len(told) == 2 * 3


def test_a_refined_step_is_eulers_as_the_authors_have_it_whatever_the_sampler_remembers(pipe, sample):
    """The second of three steps refined: UniPC must forget the first, whose latents led elsewhere."""
    one = rival("self-refining", cfg=1.0, times=(1,), start=0.3, until=(0.6,), threshold=0.0)
    seen = []
    handle = pipe.transformer.register_forward_hook(
        lambda _model, _args, given, out: seen.append((given["hidden_states"], out[0])), with_kwargs=True
    )
    sample(one)
    handle.remove()
    _, (before, first), (again, last), (following, _) = seen
    sigma, lower = map(float, pipe.scheduler.sigmas[1:3])
    noise = torch.Generator().manual_seed(SEED)
    _, fresh = (torch.randn(before.shape, generator=noise) for _ in range(2))  # after the one that sampling began with
    assert_close(again, (1 - sigma) * (before - sigma * first) + sigma * fresh)
    assert_close(following, again + (lower - sigma) * last, atol=1e-5, rtol=0)


def test_forwards_count_the_passes():
    assert forwards(rival("cfg", 1.0)) == 1
    assert forwards(rival("fdg", 1.0, band_scales=(3.0,))) == 2
    assert forwards(rival("perturbed-attention", 1.0, **WEAK)) == 2
    assert forwards(rival("perturbed-attention", **WEAK)) == 3
    assert forwards(rival("skip-layer", **WEAK, stop=0.2)) == 2 + 4 / 25
    assert forwards(rival("skip-layer", 1.0, **WEAK, stop=0.2)) == 1 + 4 / 25
    assert forwards(rival("self-refining", 1.0), steps=40) == 1.5
    assert forwards(rival("self-refining", 2.0, times=(2, 0)), steps=40) == 2 * (1 + 4 * 2 / 40)


def test_the_grid_tries_every_rival_a_few_times(pipe):
    counts = Counter(one.name for one in GRID)
    assert set(counts) == set(rivals.NAMES) - {"cfg"}
    assert max(counts.values()) <= 14
    assert len(set(GRID)) == len({json.dumps(asdict(one)) for one in GRID}) == len(GRID)
    for one in GRID:
        guider(one, pipe.transformer)
        assert (1 if one.name in STEPPINGS else 1.01) <= forwards(one) <= 3


def test_unknown_rivals_and_layers_are_refused(pipe):
    with pytest.raises(ValueError, match="no rival is called pag; there are cfg"):
        Rival("pag", 2.0)
    with pytest.raises(ValueError, match=r"no layers \[7\] to weaken; the transformer has 0 to 6"):
        guider(rival("skip-layer", layers=(7,), scale=1.0), pipe.transformer)
