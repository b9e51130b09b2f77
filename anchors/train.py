"""Train Shell-LCC's amortized manifold from latents, in two stages. Knows nothing of files of latents, banks or video.

Model, losses and defaults are those of "Your Data Manifold is Secretly a Reward Model" (arXiv 2606.30248). A token is
one latent voxel, the d channels at one (t, h, w) of normalised VAE latents: tokens are float32 (n, d).
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shelllcc.anchors.torchfile import load_tensors
from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.files import write_bytes

CHUNK = 32_768  # tokens whose weights over all anchors are held at once
Report = Callable[[str, int, dict[str, float]], None]  # stage, epoch from 1 on, its mean terms


@dataclass(frozen=True)
class TrainConfig:
    """Every knob of the training; the defaults are the authors'. Weights are those of the losses' terms."""

    bases: int = 4096  # anchors
    hidden: int = 512  # width of the networks
    epochs_skeleton: int = 500
    epochs_shell: int = 100
    clips_per_step: int = 2  # in each process
    lr: float = 1e-3
    usage: float = 0.1
    proximity: float = 0.1
    regularisation: float = 0.01
    seed: int = 0
    save_every: int = 10  # epochs
    tokens: int | None = None  # most tokens taken from a clip a step, drawn anew each epoch; None takes all

    def __post_init__(self) -> None:
        least = dict(bases=1, hidden=1, epochs_skeleton=1, epochs_shell=0, clips_per_step=1, save_every=1, tokens=2)
        for name, low in (least | dict(usage=0, proximity=0, regularisation=0)).items():
            value = getattr(self, name)
            if value is not None and not low <= value < math.inf:
                raise UsageError(f"{name} must be at least {low}, got {value}")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr must be positive, got {self.lr:g}")


class Manifold(nn.Module):
    """A skeleton of anchors that a network codes, and a shell around it; named as in the authors' checkpoint."""

    def __init__(self, channels: int, bases: int, hidden: int, *, seed: int = 0) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.zeros(bases, channels))
        self.global_scale = nn.Parameter(torch.ones(1))
        self.global_bias = nn.Parameter(torch.zeros(1, channels))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            stem = (nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
            self.predictor = nn.Sequential(*stem, nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, bases))
            self.surface_head = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def skeleton(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The skeleton's point (n, d) under each token, and the weights (n, m) of the anchors that make it."""
        weights = self.predictor(tokens).softmax(-1)
        return self.place(weights @ self.basis), weights

    def scale(self, z_hat: Tensor) -> Tensor:
        """The shell's scale (n, d) around points of the skeleton."""
        return self.surface_head(z_hat).exp()

    def distance(self, tokens: Tensor) -> Tensor:
        """Shell distance (n,), in the memory of `mix`."""
        z_hat = self.place(self.mix(tokens)[0])
        return ((tokens - z_hat) / (self.scale(z_hat) + 1e-6)).norm(dim=-1)

    def place(self, mixture: Tensor) -> Tensor:
        """The skeleton's point (n, d) of a mixture of anchors."""
        return mixture * self.global_scale + self.global_bias

    def mix(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mixtures of anchors (n, d), and the mean weight (m,) of each anchor, without all (n, m) weights at once.

        BatchNorm alone couples tokens; what follows runs CHUNK tokens at a time, and again in the backward pass. That
        is a third more arithmetic, but 6 GB rather than 25 for two 720p clips. `TrainConfig.tokens` lowers n.
        """
        parts = self.predictor[:3](tokens).split(CHUNK)
        again = len(parts) > 1 and torch.is_grad_enabled()
        pairs = [checkpoint(self._mix, part, use_reentrant=False) if again else self._mix(part) for part in parts]
        mixtures, totals = zip(*pairs, strict=True)
        return torch.cat(mixtures), torch.stack(totals).sum(0) / len(tokens)

    def _mix(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.predictor[3:](hidden).softmax(-1)
        return weights @ self.basis, weights.sum(0)


def skeleton_loss(manifold: Manifold, tokens: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """Stage 1: the terms, and under "loss" their weighted sum.

    Weights w sum to 1, so the locality sum_k w_k |z - b_k|^2 is |z|^2 - 2 z.(w B) + w.|b|^2, with no (n, m, d) table.
    """
    basis = manifold.basis
    mixture, usage = manifold.mix(tokens)
    spread = tokens.square().sum(-1).mean() - 2 * (tokens * mixture).sum(-1).mean()
    with torch.no_grad():  # each anchor's nearest token of every chunk
        near = [part[(part.square().sum(-1) - 2 * basis @ part.T).argmin(1)] for part in tokens.split(CHUNK)]
    terms = {
        "reconstruction": (manifold.place(mixture) - tokens).square().mean(),
        "locality": spread + usage @ basis.square().sum(-1),
        "usage": (usage * (usage.clamp_min(1e-12) * len(basis)).log()).sum(),  # KL(mean usage || uniform)
        "proximity": (basis - torch.stack(near)).square().sum(-1).min(0).values.mean(),
    }
    extra = config.usage * terms["usage"] + config.proximity * terms["proximity"]
    return terms | {"loss": terms["reconstruction"] + terms["locality"] + extra}


def shell_loss(manifold: Manifold, tokens: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """Stage 2: the terms, and under "loss" their weighted sum. No gradient reaches the skeleton."""
    with torch.no_grad():
        z_hat = manifold.place(manifold.mix(tokens)[0])
    log_scale = manifold.surface_head(z_hat)
    distance = ((tokens - z_hat) / (log_scale.exp() + 1e-6)).norm(dim=-1)
    terms = {"shell": (distance - 1).square().mean(), "regularisation": log_scale.square().mean()}
    return terms | {"loss": terms["shell"] + config.regularisation * terms["regularisation"]}


def train_manifold(
    clips: Sequence[Tensor],
    config: TrainConfig,
    folder: Path,
    *,
    data: str = "",
    on_epoch: Report = lambda stage, epoch, terms: None,
) -> dict[str, Tensor]:
    """Train on `clips`, latents (d, t, h, w) loaded one at a time; the state dict, on the CPU.

    `data` names the clips; a checkpoint of others is refused. A later call goes on from `folder/checkpoint.pth`, with
    more epochs if asked; on the CPU that equals an undisturbed run bit for bit. Under `accelerate launch` or
    `torchrun` every process takes its own clips of an epoch, and must see `folder`; gradients and BatchNorm's running
    statistics are averaged over processes at every step, on CPU and GPU alike, so that all stay equal. `on_epoch` is
    called in the main process.
    """
    from accelerate import Accelerator  # type: ignore[import-untyped]

    if not len(clips):
        raise UsageError("there are no clips to train on")
    accelerator = Accelerator(mixed_precision="no")
    path, channels = folder / "checkpoint.pth", clips[0].shape[0]
    saved = _read(path, config, channels, data) or {"model": begin(clips, config).state_dict(), "stage": "skeleton"}
    done = {"skeleton": config.epochs_skeleton, "shell": 0, saved["stage"]: saved.get("epoch", 0)}
    manifold = Manifold(channels, config.bases, config.hidden)
    manifold.load_state_dict(saved["model"])
    accelerator.wait_for_everyone()  # nobody writes before all have read
    manifold.to(accelerator.device)
    for stage, loss in (("skeleton", skeleton_loss), ("shell", shell_loss)):
        manifold.train(stage == "skeleton")
        trained = [p for name, p in manifold.named_parameters() if ("surface_head" in name) == (stage == "shell")]
        optimizer = torch.optim.Adam(trained, lr=config.lr)
        if "optimizer" in saved and saved["stage"] == stage:
            optimizer.load_state_dict(saved["optimizer"])
        last = getattr(config, f"epochs_{stage}")
        for epoch in range(done[stage] + 1, last + 1):
            batches = _batches(clips, channels, config, (stage, epoch), accelerator)
            terms = _epoch(manifold, optimizer, (loss(manifold, tokens, config) for tokens in batches), accelerator)
            if not math.isfinite(terms["loss"]):
                raise BankError(f"NaN in epoch {epoch} of the {stage}; lower lr ({config.lr:g}) or check the latents")
            if accelerator.is_main_process:
                if epoch % config.save_every == 0 or epoch == last:
                    entries = dict(
                        config=asdict(config) | {"data": data},
                        epoch=epoch,
                        optimizer=optimizer.state_dict(),
                        stage=stage,
                    )
                    save_checkpoint(manifold.state_dict(), path, entries)
                on_epoch(stage, epoch, terms)
    accelerator.wait_for_everyone()
    return {name: tensor.detach().cpu() for name, tensor in manifold.state_dict().items()}


def save_checkpoint(model: Mapping[str, Tensor], path: Path, entries: Mapping[str, Any] | None = None) -> None:
    """Write a state dict as the authors release theirs; `entries` replace or add to config, epoch and optimizer."""
    bases, channels = model["basis"].shape
    sizes = {"embedding_dim": channels, "num_bases": bases, "hidden_dim": len(model["predictor.0.bias"])}
    state: dict[str, Any] = {"config": {}, "epoch": 0, "optimizer": {}, **(entries or {})}
    state |= {"model": {name: tensor.cpu() for name, tensor in model.items()}, "config": state["config"] | sizes}
    contents = io.BytesIO()  # given a path, torch would store its random name
    torch.save(state, contents)
    write_bytes(path, contents.getvalue())


def begin(clips: Sequence[Tensor], config: TrainConfig) -> Manifold:
    """The manifold before its first step: seeded networks, and random real voxels as anchors."""
    channels, generator = clips[0].shape[0], _generator(config.seed, "anchors")
    sources = torch.randperm(len(clips), generator=generator)[: config.bases].tolist()
    pool = torch.cat([_tokens(clips[i], channels, -(-config.bases // len(sources)), generator) for i in sources])
    if len(pool) < config.bases:
        raise UsageError(f"{len(pool)} of the {config.bases} voxels that anchors need came from the clips; lower bases")
    manifold = Manifold(channels, config.bases, config.hidden, seed=config.seed)
    manifold.basis.data.copy_(pool[torch.randperm(len(pool), generator=generator)[: config.bases]])
    return manifold


def _batches(
    clips: Sequence[Tensor], channels: int, config: TrainConfig, when: tuple[str, int], accelerator: Any
) -> Iterator[Tensor]:
    """This process's tokens for every step of an epoch; order and draws depend on seed, stage, epoch and rank alone."""
    rank, world = accelerator.process_index, accelerator.num_processes
    order = torch.randperm(len(clips), generator=_generator(config.seed, *when)).tolist()
    padded = [order[i % len(order)] for i in range(math.ceil(len(order) / world) * world)]  # as many steps everywhere
    mine, draws = padded[rank::world], _generator(config.seed, *when, rank)
    for start in range(0, len(mine), config.clips_per_step):
        step = mine[start : start + config.clips_per_step]
        yield torch.cat([_tokens(clips[i], channels, config.tokens, draws) for i in step]).to(accelerator.device)


def _epoch(
    manifold: Manifold, optimizer: torch.optim.Optimizer, steps: Iterable[dict[str, Tensor]], accelerator: Any
) -> dict[str, float]:
    """Take one optimiser step for each of `steps`' terms; their means, all NaN if any number was not finite."""
    means: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    statistics = [buffer for buffer in manifold.buffers() if manifold.training and buffer.is_floating_point()]
    for terms in steps:
        optimizer.zero_grad()
        terms["loss"].backward()
        values = torch.stack([term.detach() for term in terms.values()])
        tensors = [values, *(p.grad for p in optimizer.param_groups[0]["params"]), *statistics]
        flat = accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), "mean")
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))
        optimizer.step()
        means.append(torch.where(flat.isfinite().all(), values, torch.nan))
    return dict(zip(terms, torch.stack(means).mean(0).tolist(), strict=True))


def _tokens(clip: Tensor, channels: int, most: int | None, generator: torch.Generator) -> Tensor:
    """The clip's tokens in (t h w) order, or `most` of them at random."""
    if clip.ndim != 4 or clip.shape[0] != channels:
        raise UsageError(f"clips must be latents ({channels}, t, h, w), one has the shape {tuple(clip.shape)}")
    tokens = clip.float().flatten(1).T
    return tokens if most is None else tokens[torch.randperm(len(tokens), generator=generator)[:most]]


def _generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on the key alone."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big"))


def _read(path: Path, config: TrainConfig, channels: int, data: str) -> dict[str, Any] | None:
    """The checkpoint to go on from, if there is one. Raises UsageError where it is another training's."""
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = load_tensors(path)
        theirs, stage, epoch = saved["config"], saved["stage"], saved["epoch"]
    except (BankError, KeyError, TypeError) as error:
        raise BankError(f"{path} is no checkpoint of a training; move it away to start anew") from error
    free = {"save_every", "epochs_shell"} | ({"epochs_skeleton"} if stage == "skeleton" else set())
    for name, ours in (asdict(config) | {"embedding_dim": channels, "data": data}).items():
        if name not in free and theirs.get(name) != ours:
            raise UsageError(f"{path} was trained with {name} {theirs.get(name)}, not {ours}; use another folder")
    if epoch > getattr(config, f"epochs_{stage}"):
        raise UsageError(f"{path} has {epoch} epochs; epochs_{stage} must be no less")
    return saved
