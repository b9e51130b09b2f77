"""Muon for the matrices of a network and AdamW for the rest, behind one step().

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) orthogonalises the momentum of each matrix by a
Newton-Schulz iteration; convolutions count as matrices of (out, in * kernel). The update is scaled to AdamW's usual
size (Moonlight, arXiv 2502.16982), so that both share one learning rate. torch.optim.Muon takes 2-D weights alone and
steps them one by one; here those of one shape go together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW:
    """Both optimizers over the named parameters of a network; a step reads tensors that stay in place alone."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], *, lr: float, weight_decay: float = 0.01) -> None:
        parameters = [(n, p) for n, p in named if p.requires_grad]
        matrices = [p for n, p in parameters if _is_matrix(n, p)]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in parameters if id(p) not in chosen]
        self.lr, self.weight_decay = lr, weight_decay
        self.rate = torch.tensor(lr, device=rest[0].device)
        on_gpu = dict(fused=True, capturable=True) if rest[0].is_cuda else {}
        self.adamw = torch.optim.AdamW(rest, lr=self.rate, betas=(0.9, 0.98), weight_decay=weight_decay, **on_gpu)
        groups: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for p in matrices:
            groups[(p.shape[0], p[0].numel())].append(p)
        self.groups = list(groups.values())
        self.momentum = [torch.zeros_like(torch.stack([p.flatten(1) for p in g])) for g in self.groups]

    def set_rate(self, scale: float) -> None:
        """Step at `scale` times the learning rate from now on."""
        self.rate.fill_(self.lr * scale)

    @torch.no_grad()
    def step(self) -> None:
        """One step along the parameters' gradients."""
        self.adamw.step()
        moved, updates = [], []
        for group, momentum in zip(self.groups, self.momentum, strict=True):
            grad = torch.stack([p.grad.flatten(1) for p in group if p.grad is not None])
            momentum.lerp_(grad, 0.05)
            update = orthogonalise(grad.lerp(momentum, 0.95)) * (0.2 * max(momentum.shape[1:]) ** 0.5)
            moved += [p.data for p in group]
            updates += [u.view_as(p) for p, u in zip(group, update, strict=True)]
        torch._foreach_mul_(moved, 1 - self.rate * self.weight_decay)
        torch._foreach_mul_(updates, -self.rate)
        torch._foreach_add_(moved, updates)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state alone: Muon's momentum is as large as the network, and made again within fifty steps."""
        return self.adamw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adamw.load_state_dict(state)
        for options in self.adamw.param_groups:
            options["lr"] = self.rate


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices of a (n, a, b) stack, by five quintic Newton-Schulz steps."""
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).to(matrices.dtype)


def _is_matrix(name: str, p: nn.Parameter) -> bool:
    """Whether Muon may have it: a real matrix, and no embedding, table, first or last layer."""
    edges = ("shared", "embed", "conv_in", "conv_out", "quant", "patch", "proj_out", "table", "condition", "relative")
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 16 and not any(e in name for e in edges)
