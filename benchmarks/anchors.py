"""What banks cost, each beside a plain baseline in the same run.

`python -m benchmarks.anchors`          k-means and search against scikit-learn, memory of a build from 10 and 200 clips
`python -m benchmarks.anchors --gpu`    the guide's cost a step at 832x480 and 1280x720, 81 frames, for every kind of
                                        bank, and the reward of Shell-LCC's authors with autograd, on a CUDA device
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.build import KINDS
from shelllcc.anchors.manifold import manifold_bank, reward
from shelllcc.guidance.geometry.patches import to_tokens
from shelllcc.guidance.geometry.shell import Curve, Shell
from shelllcc.guidance.geometry.skeletons import Anchors
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide

SHAPES = {"480p": (1, 16, 21, 60, 104), "720p": (1, 16, 21, 90, 160)}


def smooth_noise(shape: tuple[int, ...], *, seed: int = 0) -> Tensor:
    """Latents (b c t h w) of unit deviation in which neighbours agree, as in real ones."""
    noise = torch.randn(*shape[:3], shape[3] + 2, shape[4] + 2, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool3d(noise, (1, 3, 3), stride=1)
    return smooth / smooth.std()


def bank_of(kind: str, patch: int) -> Bank:
    """A bank in the shape of that kind's defaults, of patches of smooth noise; for timing alone."""
    anchors, components, guided, neighbours = KINDS[kind, patch]
    tokens = to_tokens(smooth_noise((1, 16, 4, 60, 104)), size=patch)[0]
    basis = torch.linalg.qr(torch.randn(tokens.shape[1], components, generator=torch.Generator().manual_seed(0)))[0]
    chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))[:anchors]
    whitening = torch.eye(components).expand(anchors if kind == "covariance" else 1, -1, -1) / components**0.5
    skeleton = Anchors(tokens[chosen] @ basis, whitening.contiguous(), neighbours)
    shell = Shell(patch, tokens.mean(0), basis, skeleton)
    return Bank(shell, guided, Curve(torch.zeros(1), torch.ones(2, 1)), "random", "0" * 16, {})


def authors_bank(bases: int = 4096, hidden: int = 512) -> Bank:
    """A manifold of the authors' size with random weights."""
    from shelllcc.anchors.train import Manifold

    state = Manifold(16, bases, hidden).state_dict()
    return manifold_bank(
        {k: v for k, v in state.items() if "num_batches" not in k}, model="random", vae="0" * 16, provenance={}
    )


def on_gpu(work: Callable[[], object], *, rounds: int = 20) -> tuple[float, float]:
    """Milliseconds a call, and GB allocated above what was there before."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / rounds * 1e3, (torch.cuda.max_memory_allocated() - before) / 1e9


def gpu() -> None:
    """Print the cost of one guided step, and of the authors' reward, at both sizes."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{'':<34}" + "".join(f"{size + ' ms':>10}{'GB':>8}" for size in SHAPES))
    rows: dict[str, Callable[[Tensor], Callable[[], object]]] = {}
    for kind, patch in KINDS:
        guide = ShellGuide(bank_of(kind, patch), GuideConfig(window=(0.0, 1.0)))
        rows[f"guide, {kind} {patch}x{patch}"] = lambda x, g=guide: lambda: (g.begin([]), g.move(x, 0.4, share=0.3))  # type: ignore[misc]
    authors = authors_bank()
    guide = ShellGuide(authors, GuideConfig(window=(0.0, 1.0)))
    rows["guide, the authors' manifold"] = lambda x, g=guide: lambda: (g.begin([]), g.move(x, 0.4, share=0.3))  # type: ignore[misc]
    shell = authors.shell.to(torch.device("cuda"))

    def differentiate(x: Tensor) -> object:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(reward(shell, leaf), leaf)

    rows["the authors' reward, with autograd"] = lambda x: lambda: differentiate(x)
    for name, make in rows.items():
        cells = ""
        for shape in SHAPES.values():
            milliseconds, gigabytes = on_gpu(make(smooth_noise(shape).cuda()))
            cells += f"{milliseconds:>10.2f}{gigabytes:>8.3f}"
            torch.cuda.empty_cache()
        print(f"{name:<34}{cells}", flush=True)


def clock(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def against_scikit_learn(points: int = 100_000) -> None:
    """k-means of 25 rounds and exact search, faiss's seconds beside scikit-learn's."""
    import faiss
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.neighbors import NearestNeighbors

    from shelllcc.anchors.search import nearest

    dice = np.random.default_rng(0)
    print(f"{points} points, {faiss.omp_get_max_threads()} threads{'':<18}{'here':>8}{'sklearn':>9}{'ratio':>7}")
    for m, d in ((32, 96), (1024, 16)):
        x = dice.standard_normal((points, d), dtype=np.float32)
        ours = faiss.Kmeans(d, m, niter=25, seed=0, min_points_per_centroid=1, max_points_per_centroid=points)
        theirs = KMeans(m, init="random", n_init=1, max_iter=25, tol=0, random_state=0)
        seconds = clock(lambda ours=ours, x=x: ours.train(x)), clock(lambda theirs=theirs, x=x: theirs.fit(x))  # type: ignore[misc]
        print(
            f"k-means, {m} anchors of {d:<18}{seconds[0]:>12.2f} s{seconds[1]:>7.2f} s{seconds[1] / seconds[0]:>7.1f}"
        )
    for m, d, k in ((32, 96, 1), (4096, 16, 1), (4096, 16, 8)):
        x, b = dice.standard_normal((points, d), dtype=np.float32), dice.standard_normal((m, d), dtype=np.float32)
        tokens, anchors = torch.from_numpy(x), torch.from_numpy(b)
        brute = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(b)
        started = time.perf_counter()
        mine = nearest(tokens, anchors, k=k).numpy()
        middle = time.perf_counter()
        theirs = brute.kneighbors(x, return_distance=False)
        seconds = middle - started, time.perf_counter() - middle
        name = f"search, {m} anchors of {d}, k {k}"
        same = float(np.mean(theirs == mine))
        print(f"{name:<38}{seconds[0]:>6.2f} s{seconds[1]:>7.2f} s{seconds[1] / seconds[0]:>7.1f}  same {same:.6f}")


BUILD = """
import resource, sys, time
from shelllcc.cli import main
sys.argv = ["shelllcc", "anchors", "build", sys.argv[1], "--model", "wan2.1-vae", "-o", sys.argv[2], "--json"]
started = time.time()
try:
    main()
except SystemExit:
    pass
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"\\npeak {peak:.2f} GB in {time.time() - started:.0f} s")
"""


def build_memory(few: int = 10, many: int = 200) -> None:
    """Peak memory of the command `anchors build` from few and many clips of 832x480, 41 frames."""
    from shelllcc.anchors.latents import save_latents

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        for i in range(many):
            save_latents(folder / "clips" / f"{i}.safetensors", smooth_noise((1, 16, 11, 60, 104), seed=i), {})
            if i + 1 in (few, many):
                arguments = [sys.executable, "-c", BUILD, str(folder / "clips"), str(folder / f"{i}.safetensors")]
                done = subprocess.run(arguments, capture_output=True, text=True, check=True)
                assert json.loads(done.stdout.splitlines()[0])["bank"]
                print(f"build from {i + 1} clips: {done.stdout.splitlines()[-1]}", flush=True)


def main(
    on: Annotated[bool, typer.Option("--gpu", help="The guide's cost on a CUDA device instead.")] = False,
) -> None:
    if on:
        gpu()
        return
    against_scikit_learn()
    build_memory()


if __name__ == "__main__":
    typer.run(main)
