"""The hook: guided schedulers equal loops written by hand, and a pipeline is left as it was found."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from torch.testing import assert_close

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import guided

STEPS = 8
CONFIG = GuideConfig(window=(0.05, 0.95))
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
SCHEDULERS = {
    "unipc": lambda: UniPCMultistepScheduler(**FLOW),
    "dpm": lambda: DPMSolverMultistepScheduler(**FLOW, algorithm_type="dpmsolver++"),
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "lcm": lambda: FlowMatchLCMScheduler(shift=3.0),
}


def velocity(sample: torch.Tensor, sigma: float) -> torch.Tensor:
    """A stand-in for the transformer: smooth, nonlinear, and nowhere near the shell."""
    return torch.tanh(1.3 * sample + sigma) + 0.2 * sample.roll(1, -1)


def run(scheduler, start, guide=None, steps=STEPS):
    scheduler.set_timesteps(steps)
    torch.manual_seed(5)  # what a scheduler that noises anew draws from
    sample = start
    for i, t in enumerate(scheduler.timesteps):
        sample = scheduler.step(velocity(sample, float(scheduler.sigmas[i])), t, sample, return_dict=False)[0]
    return sample


def guided_x0(guide, sample, sigma, index):
    """x0 after the guide, as the equations have it: no velocity in between."""
    x0 = sample - sigma * velocity(sample, sigma)
    if guide.step_at(index)[1] > 0:
        x0 = x0 + guide.move(x0, sigma, share=guide.step_at(index)[1], index=index)
    return x0


def by_hand_euler(sigmas, sample, guide):
    for i, (s, n) in enumerate(pairwise(sigmas)):
        x0 = guided_x0(guide, sample, s, i)
        sample = x0 + (n / s) * (sample - x0)
    return sample


def by_hand_lcm(sigmas, sample, guide):
    """Consistency sampling, Song et al. 2023 (arXiv 2303.01469, algorithm 1): x0, noised anew to the next level."""
    torch.manual_seed(5)
    for i, (s, n) in enumerate(pairwise(sigmas)):
        x0 = guided_x0(guide, sample, s, i)
        sample = (1 - n) * x0 + n * torch.randn(x0.shape)
    return sample


def by_hand_dpm(sigmas, sample, guide):
    """DPM-Solver++(2M), Lu et al. 2022 (arXiv 2211.01095, algorithm 2); first order at both ends."""
    before = None
    for i, (s, n) in enumerate(pairwise(sigmas)):
        x0 = guided_x0(guide, sample, s, i)
        if n == 0:
            sample = x0
            break
        h = _lambda(n) - _lambda(s)
        data = x0
        if before is not None and i < STEPS - 1:
            r = (_lambda(s) - _lambda(sigmas[i - 1])) / h
            data = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        sample = (n / s) * sample - (1 - n) * (-h).expm1() * data
        before = x0
    return sample


def by_hand_unipc(sigmas, sample, guide):
    """UniPC-2 with B2(h) = e^h - 1 and its corrector, Zhao et al. 2023 (arXiv 2302.04867), predicting x0."""
    x0s, last, order = [], None, 0
    for i, (s, n) in enumerate(pairwise(sigmas)):
        x0 = guided_x0(guide, sample, s, i)
        if last is not None:
            sample = _unipc_update(last, x0s, sigmas[: i + 1], order, corrected=x0)
        x0s.append(x0)
        last = sample
        order = min(2, order + 1, STEPS - i)
        sample = _unipc_update(sample, x0s, [*sigmas[: i + 1], n], order)
    return sample


def _unipc_update(sample, x0s, sigmas, order, corrected=None):
    s, n = sigmas[-2], sigmas[-1]
    if n == 0:
        return x0s[-1]
    h = _lambda(n) - _lambda(s)
    phi = (-h).expm1()
    base = (n / s) * sample - (1 - n) * phi * x0s[-1]
    slopes, nodes = [], []
    if order == 2:
        node = (_lambda(sigmas[-3]) - _lambda(s)) / h
        slopes.append((x0s[-2] - x0s[-1]) / node)
        nodes.append(node)
    if corrected is None:
        weights = [torch.tensor(0.5)] * len(slopes)
    else:
        slopes.append(corrected - x0s[-1])
        nodes.append(torch.ones(()))
        phi_2 = phi / -h - 1
        phi_3 = phi_2 / -h - 0.5
        wanted = torch.stack([phi_2 / phi, 2 * phi_3 / phi])[: len(nodes)]
        matrix = torch.stack([torch.stack(nodes) ** power for power in range(len(nodes))])
        weights = [torch.tensor(0.5)] if len(nodes) == 1 else list(torch.linalg.solve(matrix, wanted))
    for weight, slope in zip(weights, slopes, strict=True):
        base = base - (1 - n) * phi * weight * slope
    return base


def _lambda(sigma):
    sigma = torch.as_tensor(sigma)
    return (1 - sigma).log() - sigma.log()


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [("unipc", by_hand_unipc), ("dpm", by_hand_dpm), ("euler", by_hand_euler), ("lcm", by_hand_lcm)],
)
def test_a_guided_scheduler_equals_a_loop_by_hand(name, by_hand, bank, latents):
    start = latents(7)
    pipe, guide = SimpleNamespace(scheduler=SCHEDULERS[name]()), ShellGuide(bank, CONFIG)
    with guided(pipe, guide):
        result = run(pipe.scheduler, start)
    sigmas = list(pipe.scheduler.sigmas.float())
    mine = ShellGuide(bank, CONFIG)
    mine.begin([float(sigma) for sigma in sigmas], renoised=name == "lcm")
    wanted = by_hand(sigmas, start, mine)
    assert_close(result, wanted, atol=1e-5, rtol=1e-5)
    assert len(guide.trace) == len(mine.trace) > 3
    assert not torch.allclose(result, run(SCHEDULERS[name](), start), atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_strength_zero_is_the_stock_scheduler_to_the_bit(name, bank, latents):
    start, pipe = latents(8), SimpleNamespace(scheduler=SCHEDULERS[name]())
    with guided(pipe, ShellGuide(bank, strength=0.0)):
        result = run(pipe.scheduler, start)
    assert torch.equal(result, run(SCHEDULERS[name](), start))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_scheduler_is_as_before_after_an_exception(name, bank):
    pipe = SimpleNamespace(scheduler=SCHEDULERS[name]())
    scheduler, kind, keys = pipe.scheduler, type(pipe.scheduler), set(vars(pipe.scheduler))
    with pytest.raises(ZeroDivisionError), guided(pipe, ShellGuide(bank)):  # noqa: PT012
        assert type(pipe.scheduler) is not kind
        assert isinstance(pipe.scheduler, kind)
        assert type(pipe.scheduler).__name__ == kind.__name__
        raise ZeroDivisionError
    assert pipe.scheduler is scheduler
    assert type(scheduler) is kind
    assert set(vars(scheduler)) == keys


def test_every_sampling_starts_a_new_trace(bank, latents):
    pipe, guide = SimpleNamespace(scheduler=SCHEDULERS["unipc"]()), ShellGuide(bank, CONFIG)
    with guided(pipe, guide):
        first = run(pipe.scheduler, latents(9))
        trace = list(guide.trace)
        second = run(pipe.scheduler, latents(9))
    assert torch.equal(first, second)
    assert guide.trace == trace
    assert [step.index for step in trace] == sorted({step.index for step in trace})


@pytest.mark.parametrize("cond_first", [True, False])
def test_what_cfg_adds_is_heard_from_the_transformer(cond_first, bank, latents):
    cond, uncond = latents(3), latents(4)
    model = torch.nn.Identity()
    model.register_forward_hook(lambda _m, _a, out: (out,))
    pipe = SimpleNamespace(scheduler=SCHEDULERS["euler"](), transformer=model)
    pipe.scheduler.set_timesteps(4)
    sample, t = latents(5), pipe.scheduler.timesteps[0]
    with guided(pipe, ShellGuide(bank, GuideConfig(window=(0.0, 1.0)))) as guide:
        for pred in (cond, uncond) if cond_first else (uncond, cond):
            model(pred)
        pipe.scheduler.step(uncond + 3 * (cond - uncond), t, sample, return_dict=False)
    sigma = guide.trace[0].sigma
    alone = ShellGuide(bank, GuideConfig(window=(0.0, 1.0)))
    x0, before = (sample - sigma * v for v in (uncond + 3 * (cond - uncond), cond))
    alone.move(x0, sigma, share=0.3, conditional=before)
    assert_close(torch.tensor(guide.trace[0].excess), torch.tensor(alone.trace[0].excess))
    assert guide.trace[0].excess != [0.0]
    assert len(model._forward_hooks) == 1  # the test's own


def test_a_half_precision_velocity_stays_half_precision(bank, latents):
    pipe = SimpleNamespace(scheduler=SCHEDULERS["euler"]())
    pipe.scheduler.set_timesteps(4)
    with guided(pipe, ShellGuide(bank, GuideConfig(window=(0.0, 1.0)))):
        out = pipe.scheduler.step(latents(1).bfloat16(), pipe.scheduler.timesteps[0], latents(2), return_dict=False)[0]
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchHeunDiscreteScheduler(),
        UniPCMultistepScheduler(),
        UniPCMultistepScheduler(**FLOW, predict_x0=False),
        DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min"),
    ],
    ids=["heun", "epsilon", "noise", "dpmsolver"],
)
def test_schedulers_that_cannot_be_guided_are_refused(scheduler, bank):
    with (
        pytest.raises(ModelError, match="cannot guide"),
        guided(SimpleNamespace(scheduler=scheduler), ShellGuide(bank)),
    ):
        pass
