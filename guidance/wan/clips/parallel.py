"""One clip over several GPUs: the processes that torchrun started, and transformers spread over them.

Every process holds the whole model and the whole latents. Inside a transformer each computes a share of the tokens, and
attention exchanges tokens for heads (Ulysses, arXiv 2309.14509); what the transformer says is gathered again, so that
schedulers, guides, hooks and prefixes meet what they meet with one GPU. All of that moves bytes and adds nothing up:
where GPUs and libraries are the same, every process steps the same latents, bit for bit.

Knows nothing of requests, files or the command line. Importing it does not load torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from shelllcc.guidance.errors import ModelError, SamplingError, ShellLCCError, UsageError, first_line
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.seams import peer_lost, share_tokens
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from diffusers import WanPipeline
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

    from shelllcc.guidance.wan.clips.sample import Clip

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)  # of processes that wait for another: the main one writes files meanwhile
UNSPREAD = ("first-block",)  # it compares a block's input with its output: all tokens with a share


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` that make a clip together; one alone unless torchrun started it.

    `device` is where it computes; None is the usual one.
    """

    rank: int = 0
    count: int = 1
    device: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


@contextlib.contextmanager
def joined(device: str | None = None, *, patience: timedelta = PATIENCE) -> Iterator[Ranks]:
    """Within the block the processes of torchrun are connected; without torchrun nothing is done.

    Each has a GPU of its machine to itself, or the CPU. Processes other than the main one are silent. Where several
    fail, the first alone tells: its error leaves the block, with its rank. The others leave by SystemExit as soon as
    they notice, or torchrun ends them. Only a good end closes the connections in order, as that waits for all.

    Raises UsageError for a device that processes cannot share out, SamplingError where others are gone or not alike.
    """
    place = _place()
    if place is None:
        yield Ranks(device=device)
        return
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    rank, count, local = place
    store = _meet(rank, count, patience)
    try:
        ranks = Ranks(rank, count, _own_device(device, local))
        backend = "cpu:gloo,cuda:nccl" if _kind(ranks) == "cuda" else "gloo"  # gloo for lengths and hashes
        own = PrefixStore("group", store)
        dist.init_process_group(backend, store=own, rank=rank, world_size=count, timeout=patience)
        with contextlib.nullcontext() if ranks.is_main else _silence():
            agree(ranks, _hardware(ranks), "GPU or torch")
            yield ranks
    except (Exception, KeyboardInterrupt) as error:
        if not _is_first(store):
            raise SystemExit(_exit_code(error)) from None
        said = _as_of(rank, error)
        if said is error:
            raise
        raise said from error
    dist.destroy_process_group()


def alone(command: str) -> None:
    """Raise UsageError where torchrun started several processes of a command that is for one."""
    if (place := _place()) is not None:
        raise UsageError(f"`{command}` is for one process, torchrun started {place[1]}; see `batch --workers`")


def check(ranks: Ranks, heads: int, loading: Loading | None = None) -> None:
    """Raise UsageError for what cannot be spread: so many heads, a cache that compares tokens. Needs no connection."""
    if ranks.count == 1:
        return
    if not _share_out(heads, ranks.count):
        fitting = [str(n) for n in range(1, heads + 1) if _share_out(heads, n)]
        raise UsageError(
            f"{heads} attention heads cannot be spread over {plural(ranks.count, 'process')}; "
            f"--nproc-per-node may be {', '.join(fitting)}"
        )
    if loading is not None and loading.cache in UNSPREAD:
        raise UsageError(f"--cache {loading.cache} is for one GPU; choose another, or start one process")


def spread(pipe: WanPipeline, ranks: Ranks) -> None:
    """Let every process compute a share of the tokens of each transformer, however many there are. For good.

    All processes call it, once, when the pipeline is loaded, and from then on sample together. One does nothing.
    Raises UsageError for heads that cannot be shared out, ModelError for an attention backend that cannot exchange.
    """
    if ranks.count == 1:
        return
    models: list[Any] = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    for model in (m for m in models if m is not None):
        check(ranks, model.config.num_attention_heads)
        try:
            share_tokens(model, rank=ranks.rank, count=ranks.count, device_type=_kind(ranks))
        except ValueError as error:
            raise ModelError(f"cannot spread {type(model).__name__}: {first_line(error)}") from error
        model.register_forward_pre_hook(_split_timestep, with_kwargs=True)
        model.proj_out.register_forward_hook(_gather)


def agree(ranks: Ranks, value: str | bytes, what: str) -> None:
    """Raise SamplingError, on every rank, unless all give the same. All call it; `what` is what they give."""
    if ranks.count == 1:
        return
    import torch
    import torch.distributed as dist

    digest = hashlib.sha256(value.encode() if isinstance(value, str) else value).digest()
    own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    found = [torch.empty_like(own) for _ in range(ranks.count)]
    dist.all_gather(found, own)
    others = [str(rank) for rank, each in enumerate(found) if not torch.equal(each, found[0])]
    if others:
        raise SamplingError(f"rank {', '.join(others)} has another {what} than rank 0; all of them must be alike")


def agree_on_clip(ranks: Ranks, clip: Clip) -> None:
    """Raise SamplingError, on every rank, unless all ended with the same latents and the same trace, bit for bit."""
    if ranks.count == 1:
        return
    import torch

    latents = clip.latents.detach().cpu().contiguous().view(torch.uint8)
    agree(ranks, latents.numpy().tobytes() + repr(clip.trace).encode(), "clip")


def from_main(ranks: Ranks, value: T) -> T:
    """What rank 0 gives, on every rank. All call it; what the others give is nothing."""
    if ranks.count == 1:
        return value
    import torch
    import torch.distributed as dist

    given = [value]
    dist.broadcast_object_list(given, src=0, device=torch.device("cpu"))
    return given[0]


def _split_timestep(_model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """This rank's part of timesteps (b n) of tokens, which Wan2.2-5B has: offloading drops diffusers' own split."""
    import torch.distributed as dist

    timestep = kwargs["timestep"]
    if timestep.ndim == 2:
        kwargs["timestep"] = timestep.tensor_split(dist.get_world_size(), dim=1)[dist.get_rank()]
    return args, kwargs


def _gather(_module: Any, _args: Any, tokens: Tensor) -> Tensor:
    """Every rank's tokens (b n d) after each other: what diffusers does, but gloo gathers equal lengths alone."""
    import torch
    import torch.distributed as dist

    count = dist.get_world_size()
    own = torch.tensor(tokens.shape[1])
    lengths = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(lengths, own)
    longest = int(max(lengths))
    padded = torch.nn.functional.pad(tokens, (0, 0, 0, longest - tokens.shape[1])).contiguous()
    parts = [torch.empty_like(padded) for _ in range(count)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:, : int(length)] for part, length in zip(parts, lengths, strict=True)], dim=1)


def _place() -> tuple[int, int, int] | None:
    """Rank, count, and rank on this machine, as torchrun says; None where it did not start this process."""
    said = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if any(number is None or not number.isdecimal() for number in said):
        return None
    rank, count, local = (int(str(number)) for number in said)
    return (rank, count, local) if count > 1 else None


def _meet(rank: int, count: int, patience: timedelta) -> Store:
    """The store that torchrun keeps for its processes."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", rank, count, timeout=patience))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"cannot reach the other {plural(count - 1, 'rank')} of torchrun: {first_line(error)}; start them all anew"
        ) from error
    return PrefixStore("shelllcc", store)


def _own_device(device: str | None, local: int) -> str:
    """Where this process computes. On a GPU, it becomes torch's current one."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        return device
    if device != "cuda":
        raise UsageError(f"under torchrun --device is cuda or cpu, got {device}; every process takes a GPU of its own")
    if local >= (found := torch.cuda.device_count()):
        raise UsageError(
            f"{plural(found, 'GPU')} here, and a process wants number {local}; use --nproc-per-node {found}"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _hardware(ranks: Ranks) -> str:
    """What makes the same sums give the same bits."""
    import torch

    return f"{torch.__version__} {torch.cuda.get_device_name() if _kind(ranks) == 'cuda' else ''}"


def _kind(ranks: Ranks) -> str:
    return str(ranks.device).partition(":")[0]


def _share_out(heads: int, count: int) -> bool:
    """Whether diffusers shares so many heads out: all but the last process get as many, and that one at least one."""
    each = -(-heads // count)
    return each * count - heads < each


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,  # noqa: PTH123
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _is_first(store: Store) -> bool:
    """Whether this process is the first to fail; what others meet afterwards may come of it."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # torchrun itself is gone
        return True


def _as_of(rank: int, error: Exception | KeyboardInterrupt) -> Exception | KeyboardInterrupt:
    """The error as its rank tells it: in its own words on rank 0."""
    if isinstance(error, KeyboardInterrupt):
        return error
    if peer_lost(error):
        return SamplingError(f"rank {rank} lost the others ({first_line(error)}); was one killed for its memory?")
    if rank == 0:
        return error
    if isinstance(error, ShellLCCError):
        error.args = (f"rank {rank}: {error}",)
        return error
    return SamplingError(f"rank {rank}: unexpected {type(error).__name__}: {error}")


def _exit_code(error: Exception | KeyboardInterrupt) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, UsageError) else 1
