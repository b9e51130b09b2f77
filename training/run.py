"""What every training run shares: its GPUs, budget, step, weight average, and checkpoints that survive a kill.

Knows nothing of what is trained.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.optim import MuonAdamW

WARM_UP = 3  # calls before one is recorded: libraries choose their kernels in them


class Team:
    """The processes of one run, a GPU each, as `torchrun` starts them; without it, this one alone, or on the CPU."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        if self.size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def average(self, values: Tensor) -> None:
        """Replace `values` by their mean over the processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size

    def agree(self, number: float) -> float:
        """The first process's number, so that all take the same turn."""
        if self.size == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64)
        torch.distributed.broadcast(shared, 0)
        return float(shared)


class Budget:
    """Progress from 0 to 1 over `steps`, or over `minutes` of training where they run out first.

    The clock is read at each `tick` (every eighth, where processes must agree on it).
    """

    def __init__(self, steps: int, minutes: float | None, team: Team | None = None) -> None:
        self.steps, self.minutes, self.team = steps, minutes, team or Team()
        self.step, self.seconds = 0, 0.0
        self._since = time.monotonic()

    def resume(self, step: int, seconds: float) -> None:
        self.step, self.seconds = step, seconds
        self._since = time.monotonic() - seconds

    def tick(self) -> None:
        self.step += 1
        if self.team.size == 1 or self.step % 8 == 0:
            self.seconds = self.team.agree(time.monotonic() - self._since)

    @property
    def progress(self) -> float:
        by_time = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(self.step / self.steps, by_time))

    def rate(self, warmup: int = 50) -> float:
        """Learning-rate factor: linear warm-up, then a cosine down to 2%."""
        return min(1.0, (self.step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))


class Recorded:
    """`function` of tensors that stay in place, recorded as a CUDA graph and replayed; on a CPU it is just called.

    A step of a small network is a thousand launches, and the GPU waits for them: recorded, it is one. What the function
    returns is overwritten by the next call.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.calls = function, 0
        self.graph: Any = None
        self.result: Any = None

    def __call__(self) -> Any:
        if not torch.cuda.is_available():
            return self.function()
        if self.graph is not None:
            self.graph.replay()
            return self.result
        self.calls += 1
        if self.calls <= WARM_UP:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                result = self.function()
            torch.cuda.current_stream().wait_stream(beside)
            return result
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result = self.function()
        self.graph.replay()
        return self.result


class Descent:
    """Gradient descent of named parameters on `losses(phase)["total"]`, averaged over a team's GPUs and clipped to 1.

    Both halves of a step, the gradients of a phase and the optimizer's move, are recorded on a GPU: `losses` may read
    tensors that stay in place alone, and draws its noise from the device's own generator.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        losses: Callable[[Hashable], dict[str, Tensor]],
        *,
        lr: float,
        team: Team,
    ) -> None:
        pairs = [(n, p) for n, p in named if p.requires_grad]
        self.parameters = [p for _, p in pairs]
        self.optimizer = MuonAdamW(pairs, lr=lr)
        self.losses, self.team = losses, team
        self.sizes = [p.numel() for p in self.parameters]
        self.gradient = torch.zeros(sum(self.sizes), device=self.parameters[0].device)
        self._slopes: dict[Hashable, Recorded] = {}
        self._move = Recorded(self._clip_and_move)

    def step(self, rate: float, phase: Hashable = None) -> dict[str, Tensor]:
        """One step at `rate` times the learning rate; the losses, on the device."""
        if phase not in self._slopes:
            self._slopes[phase] = Recorded(lambda: self._slope(phase))
        losses: dict[str, Tensor] = self._slopes[phase]()
        self.team.average(self.gradient)
        self.optimizer.set_rate(rate)
        self._move()
        return losses

    def _slope(self, phase: Hashable) -> dict[str, Tensor]:
        for p in self.parameters:
            p.grad = None
        losses = self.losses(phase)
        losses["total"].backward()
        # A weight that a captionless model does not use has none.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch.cat([g.flatten() for g in grads], out=self.gradient)
        return {name: loss.detach() for name, loss in losses.items()}

    def _clip_and_move(self) -> None:
        self.gradient.mul_((1 / (self.gradient.norm() + 1e-6)).clamp(max=1.0))
        for p, grad in zip(self.parameters, self.gradient.split(self.sizes), strict=True):
            p.grad = grad.view_as(p)
        self.optimizer.step()


class Average:
    """Exponential moving average of a network's parameters, with a short memory early on."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.shadow = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the trained weights, in place."""
        for p, s in zip(self.parameters, self.shadow, strict=True):
            kept = p.detach().clone()
            p.copy_(s)
            s.copy_(kept)

    def state(self) -> list[Tensor]:
        """The average as half-precision differences from the trained weights: small, so that few digits do."""
        return [(s - p.detach()).half() for p, s in zip(self.parameters, self.shadow, strict=True)]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Take up `state` again; the parameters must hold the weights that it was taken with."""
        for s, p, d in zip(self.shadow, self.parameters, state, strict=True):
            s.copy_(p.detach() + d.to(p))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip in a batch of videos in [-1, 1], over all its frames."""
    error = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return -10 * error.log10()


class Going(Protocol):
    """A training that goes on step by step, with all that a checkpoint holds."""

    budget: Budget

    def step(self) -> Tensor:
        """One step; its loss, on the device."""

    def state(self) -> dict[str, Any]: ...


def go_on(
    training: Going, team: Team, checkpoint: Path, *, name: str, save_every: float = 60.0, stop: float | None = None
) -> None:
    """Train to the end of the budget, or for `stop` seconds; leave a checkpoint then, and every `save_every` seconds.

    Prints the loss, averaged over the last steps, every 15 seconds. Raises RuntimeError where it is no finite number.
    """
    budget = training.budget
    saved = logged = first = budget.seconds
    running = torch.ones((), device=team.device)
    while budget.progress < 1.0 and (stop is None or budget.seconds - first < stop):
        running.lerp_(training.step(), 0.005 if budget.step > 200 else 0.1)
        if budget.seconds - logged > 15 or budget.progress >= 1.0:
            logged, loss = budget.seconds, float(running)
            if team.leads:
                said = f"{name} step {budget.step} {logged:.0f} s progress {budget.progress:.3f} loss {loss:.4f}"
                print(said, flush=True)
            if not math.isfinite(loss):
                raise RuntimeError(f"the loss became {loss} at step {budget.step}; lower --lr")
        if team.leads and budget.seconds - saved > save_every:
            saved = budget.seconds
            save(checkpoint, training.state())
    if team.leads:
        save(checkpoint, training.state())
