"""The few-step student: what it learns from, and that its file loads as any LoRA does."""

import itertools

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


def ring_of(teacher, student, *, own=False, size=4):
    from training.distill import Ring
    from training.transformer import tokenizer

    ring = Ring(teacher, student, tokenizer(), (2, 1, 4, 4), size=size, steps=12, seed="0", device=torch.device("cpu"))
    ring.own = own
    ring.renew(size)
    return ring


def test_a_student_of_a_teacher_that_one_step_follows_has_nothing_to_learn():
    from training.distill import SIGMAS

    exact = lambda x, sigma, tokens: (x - 0.7) / sigma  # noqa: E731  all clips are one: straight ways
    for own in (False, True):
        x, aim, _, level = ring_of(exact, exact, own=own).draw(64)
        sigma = torch.tensor(SIGMAS)[level].view(-1, 1, 1, 1, 1)
        assert_close(aim, exact(x, sigma, None), atol=0.02, rtol=0.01)  # both are kept in bfloat16
    curved = lambda x, sigma, tokens: x / (sigma**2 + (1 - sigma) ** 2) * (2 * sigma - 1)  # noqa: E731  Gaussian clips
    x, aim, _, level = ring_of(curved, curved).draw(64)
    sigma = torch.tensor(SIGMAS)[level].view(-1, 1, 1, 1, 1)
    assert (aim - curved(x, sigma, None)).square().mean() > 0.01


def test_the_teacher_goes_on_from_where_its_student_is():
    exact = lambda x, sigma, tokens: (x - 0.7) / sigma  # noqa: E731
    astray = lambda x, sigma, tokens: exact(x, sigma, tokens) + 1  # noqa: E731
    from training.distill import SIGMAS

    for own, error in ((False, 0.0), (True, 1.0)):
        ring = ring_of(exact, astray, own=own)
        between = SIGMAS[0] - SIGMAS[1]
        assert_close(
            ring.states[:, 1].float(),
            ring.states[:, 0].float() - between * (ring.aims[:, 0].float() + error),
            atol=0.02,
            rtol=0.02,
        )
        end = ring.states[:, -1].float() - SIGMAS[-1] * ring.aims[:, -1].float()
        assert_close(end, torch.full_like(end, 0.7), atol=0.03, rtol=0)


def test_small_steps_are_those_of_diffusers_solver():
    from diffusers import DPMSolverMultistepScheduler

    from training.distill import solve

    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas.tolist()
    velocity = lambda x, sigma: torch.sin(3 * x) + sigma  # noqa: E731
    begun = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64)
    x = begun
    for sigma, time in zip(sigmas, scheduler.timesteps, strict=False):
        x = scheduler.step(velocity(x, sigma), time, x).prev_sample
    assert_close(solve(velocity, begun, sigmas), x, atol=2e-4, rtol=2e-4)


def test_small_steps_meet_every_level_of_the_student():
    from training.distill import SIGMAS, ways

    parts = ways(SIGMAS, 24)
    assert [way[0] for way in parts] == list(SIGMAS)
    assert [way[-1] for way in parts] == [*SIGMAS[1:], 0.0]
    assert sum(len(way) - 1 for way in parts) == 24
    assert all(a > b for way in parts for a, b in itertools.pairwise(way))


def test_no_caption_that_is_held_out_is_learnt(monkeypatch):
    from benchmarks.captions import captions
    from shelllcc.guidance.wan.tiny.vocabulary import understand

    zero = lambda x, sigma, tokens: torch.zeros_like(x)  # noqa: E731
    ring = ring_of(zero, zero)
    held_out = {(words.subject, words.move, words.light) for words in captions(64, "held-out")}
    shown = {(said.subject, said.move, said.light) for said in map(understand, ring._texts(2000))}
    assert not shown & held_out
    assert len(shown) > 600  # of 28 x 8 x 4


def test_the_recipe_runs_resumes_and_its_file_is_a_lora_of_3_mb_at_most(root, forked, tmp_path):
    from training import options
    from training.distill import adapt, main

    shell = forked(root, said=tmp_path / "said")

    def step(*words, code=0):
        done = shell.run(["--smoke", "--out", str(tmp_path / "run"), *words], before=lambda: options.run(main))
        assert done.code == code, done.err[-2000:]
        return done

    assert "distill step 2 " in step("--steps", "2").out
    assert "distill step 4 " in step("--steps", "4").out
    assert "has another rank; give another --out" in step("--steps", "4", "--rank", "4", code=2).err
    file = tmp_path / "run/distilled.safetensors"
    assert file.stat().st_size <= 3_000_000

    from safetensors.torch import load_file

    from shelllcc.guidance.wan.model.loading import Loading, Lora
    from shelllcc.guidance.wan.model.pipeline import find_model, load_pipeline

    tensors = load_file(file)
    ranks = {t.shape[0] for name, t in tensors.items() if "lora_A" in name}
    assert len(ranks) == 1
    assert 8 <= ranks.pop() <= 64
    plain = load_pipeline(find_model(None), text_encoder=False)
    pipe = load_pipeline(find_model(None), Loading(loras=(Lora(str(file)),)), text_encoder=False)
    assert any("not applied" in remark for remark in pipe.remarks) is False
    layers = adapt(plain.transformer, None)
    for name, layer in layers.items():
        layer.down.data = tensors[f"transformer.{name}.lora_A.weight"].float()
        layer.up.data = tensors[f"transformer.{name}.lora_B.weight"].float() + 0  # as the student computed
    inputs = dict(hidden_states=torch.randn(1, 16, 2, 4, 4), timestep=torch.tensor([625.0]), return_dict=False)
    inputs["encoder_hidden_states"] = torch.randn(1, 8, plain.transformer.config.text_dim)
    with torch.no_grad():
        assert_close(pipe.transformer(**inputs)[0], plain.transformer(**inputs)[0], atol=1e-4, rtol=1e-3)
