"""One clip over two processes on the CPU: real torchrun, real exchanges, and what becomes of failures.

The file is also the program that torchrun starts: `python -m torch.distributed.run ... test_parallel.py TASK FOLDER`.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from shelllcc.guidance.errors import SamplingError, UsageError
from shelllcc.guidance.wan.clips.parallel import Ranks, agree, check, from_main, joined, spread
from shelllcc.guidance.wan.model.loading import Loading

SIZES = {"even": (48, 48, 5), "uneven": (48, 48, 9)}  # width, height, frames: 18 tokens and 27
SIZES["image"] = SIZES["uneven"]  # from an image, as TI2V-5B takes one: the first frame's tokens are of noise level 0
CASES = ("tiny float32 even", "tiny float32 uneven", "tiny bfloat16 uneven", "toy float32 uneven", "toy float32 image")


def launch(task, folder):
    """Two processes under torchrun, in the background."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    gone = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in os.environ.items() if name not in gone}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SHELLLCC_CACHE": str(folder)}
    return subprocess.Popen(
        [*words, __file__, task, str(folder)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def forks(forked):
    """Runs a task as `launch` does: by torchrun's agent, but agent and workers are forks that import nothing."""

    def run(task, folder):
        shell = forked(folder)
        shell.prepare = lambda patch: None
        return shell.run([], before=lambda: _as_agent(task, folder), kill_after=120)

    return run


def _as_agent(task, folder):
    """What torchrun does with two processes. Ends this one."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    every = 3 if "killed" in task else 0.1  # else it may end rank 0 before it tells
    words = dict(min_nodes=1, max_nodes=1, nproc_per_node=2, run_id=folder.name, max_restarts=0, start_method="fork")
    words |= dict(rdzv_backend="c10d", rdzv_endpoint="localhost:0", monitor_interval=every)
    try:
        elastic_launch(LaunchConfig(**words), fail)(task, folder)
    except ChildFailedError:
        sys.exit(1)
    sys.exit(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What both ranks made of every case, by rank: made once, whichever of pytest's workers asks first.

    By torchrun as it is typed: forks of a process that has computed cannot always load a model.
    """
    if torch.version.cuda and not torch.cuda.is_available():
        pytest.skip("diffusers exchanges sizes on a GPU where torch was built for CUDA, and there is none")
    several = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent / "clips" if several else tmp_path_factory.mktemp("clips")
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "spoken").exists():
            process = launch("clips", folder)
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            (folder / "spoken").write_text(out)
    assert (folder / "spoken").read_text().splitlines() == ["rank 0 speaks"]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def apart(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("case", CASES)
def test_ranks_are_alike_to_the_bit_and_equal_one_process(made, case):
    first, second = (rank[case] for rank in made)
    assert first["share"] != second["share"] or "even" in case.split()
    assert first["share"] + second["share"] == first["tokens"] == second["tokens"]
    torch.testing.assert_close(first["latents"], second["latents"], rtol=0, atol=0)
    assert first["trace"] == second["trace"]
    assert len(first["trace"]) >= 2
    assert apart(first["latents"], first["alone"]) < (1e-3 if "float32" in case else 2e-2)
    for ours, theirs in zip(first["trace"], first["trace alone"], strict=True):
        assert ours["move"] == pytest.approx(theirs["move"], rel=1e-3 if "float32" in case else 2e-2)


@pytest.mark.parametrize(
    ("case", "moved"), [("toy float32 uneven", [True] * 3), ("toy float32 image", [False, True, True])]
)
def test_of_a_clip_from_an_image_the_first_frame_is_moved_on_no_rank(made, case, moved):
    assert [rank[case]["moved"] for rank in made] == [moved] * 2


@pytest.mark.parametrize("case", ["tiny float32 uneven", "toy float32 uneven"])
def test_a_prefix_replays_what_was_gathered(made, case):
    for rank in made:
        assert apart(rank[case]["latents"], rank[case]["unguided"]) > 1e-2
        torch.testing.assert_close(rank[case]["replayed"], rank[case]["latents"], rtol=0, atol=0)
        assert rank[case]["calls"] == [(10, 0), (4, 6)]


def test_values_are_compared_and_told(made):
    assert [rank["from main"] for rank in made] == [{"said by": 0}] * 2
    for rank in made:
        assert rank["disagreement"] == "rank 1 has another number than rank 0; all of them must be alike"


@pytest.mark.parametrize(
    ("task", "told"), [("both fail", "no such thing"), ("rank 1 is killed", "rank 0 lost the others")]
)
def test_one_rank_tells_of_a_failure_and_nobody_waits_for_ever(forks, tmp_path, task, told):
    done = forks(task, tmp_path)
    assert done.code == 1
    assert_one_error(done.err, told)


def test_a_rank_s_failure_is_told_as_its_own_under_torchrun_as_it_is_typed(tmp_path):
    process = launch("rank 1 fails", tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert_one_error(err, "rank 1: no such thing")


def assert_one_error(err, told):
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told in line


def test_an_interrupt_ends_all(tmp_path):
    process = launch("both wait", tmp_path)
    while len(list(tmp_path.glob("*.waits"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("interrupted") == 1
    assert not list(tmp_path.glob("*.done"))


def test_one_process_connects_to_nothing(monkeypatch):
    for rank, count in ((None, None), ("0", "1"), ("zero", "2")):
        for name, value in (("RANK", rank), ("WORLD_SIZE", count), ("LOCAL_RANK", rank)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        with joined("cpu") as ranks:
            assert ranks == Ranks(device="cpu")
            assert ranks.is_main
            assert not torch.distributed.is_initialized()
            spread(object(), ranks)
            agree(ranks, "anything", "word")
            check(ranks, 5, Loading(cache="first-block"))
            assert from_main(ranks, 3) == 3


@pytest.mark.parametrize(
    ("count", "heads", "options", "told"),
    [
        (8, 12, {}, "12 attention heads cannot be spread over 8 processes; --nproc-per-node may be 1, 2, 3, 4, 6, 12"),
        (13, 12, {}, "12 attention heads cannot be spread over 13"),
        (2, 12, {"cache": "first-block"}, "--cache first-block is for one GPU"),
    ],
)
def test_what_cannot_be_spread_is_told_before_loading(count, heads, options, told):
    with pytest.raises(UsageError, match=told):
        check(Ranks(0, count), heads, Loading(**options))


@pytest.mark.parametrize(("count", "heads"), [(2, 5), (2, 12), (7, 40), (8, 40), (3, 40)])
def test_heads_may_be_shared_out_unevenly(count, heads):
    check(Ranks(0, count), heads, Loading())


def clips(folder):
    """Sample every case over both processes, and with a prefix; and before it on the first of them alone."""
    with joined("cpu") as ranks:
        print(f"rank {ranks.rank} speaks")
        made = {case: _clip(case, ranks) for case in CASES}
        made["from main"] = from_main(ranks, {"said by": ranks.rank})
        with pytest.raises(SamplingError) as error:
            agree(ranks, str(ranks.rank), "number")
        made["disagreement"] = str(error.value)
        torch.save(made, folder / f"{ranks.rank}.pt")


def _clip(case, ranks):
    from PIL import Image

    from shelllcc.guidance.guide.guide import ShellGuide
    from shelllcc.guidance.wan.clips.parallel import agree_on_clip
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.sample import guide_for, sample
    from shelllcc.guidance.wan.model.presets import PRESETS

    kind, dtype, size = case.split()
    width, height, frames = SIZES[size]
    pipe, bank = _toy() if kind == "toy" else _tiny(dtype)
    values = dict(width=width, height=height, frames=frames, steps=5, cfg=3.0, cfg_2=2.0, strength=2.0)
    request = Request.resolve(PRESETS["tiny"], prompt="a tabby cat, zoom in, daylight", window=(0.0, 0.9), **values)
    images = {"image": Image.linear_gradient("L").convert("RGB").resize((width, height))} if size == "image" else {}
    alone = sample(pipe, request, guide_for(request, bank), images=images) if ranks.is_main else None
    spread(pipe, ranks)
    shares, handle = _listen(pipe)
    moves, own = [], ShellGuide.move
    ShellGuide.move = lambda *args, **how: moves.append(own(*args, **how)) or moves[-1]
    clip = sample(pipe, request, guide_for(request, bank), images=images)
    ShellGuide.move = own
    agree_on_clip(ranks, clip)
    handle.remove()
    found = _with_prefix(pipe, request, bank) if case.endswith("float32 uneven") else {}
    frames, height, width = clip.latents.shape[2:]
    if alone is not None:
        found |= {"alone": alone.latents, "trace alone": [asdict(step) for step in alone.trace]}
    return found | {
        "latents": clip.latents,
        "trace": [asdict(step) for step in clip.trace],
        "share": shares[0],
        "tokens": frames * height * width // 4,
        "moved": [any(bool(move[:, :, frame].any()) for move in moves) for frame in range(frames)],
    }


def _with_prefix(pipe, request, bank):
    from shelllcc.guidance.wan.clips.prefix import Prefix
    from shelllcc.guidance.wan.clips.sample import guide_for, sample

    prefix = Prefix(3)
    unguided = sample(pipe, request.changed(strength=0.0), prefix=prefix)
    replayed = sample(pipe, request, guide_for(request, bank), prefix=prefix)
    calls = [(calls.computed, calls.replayed) for calls in prefix.calls]
    return {"unguided": unguided.latents, "replayed": replayed.latents, "calls": calls}


def _listen(pipe):
    """How many tokens the last block of this process gave in each call."""
    shares = []
    return shares, pipe.transformer.blocks[-1].register_forward_hook(lambda _, args, out: shares.append(out.shape[1]))


def _tiny(dtype):
    from shelllcc import load_bank
    from shelllcc.guidance.wan.model.pipeline import find_model, load_pipeline

    pipe = load_pipeline(find_model(None), device="cpu")
    for part in (pipe.transformer, pipe.text_encoder):
        part.to(getattr(torch, dtype))
    return pipe, load_bank("auto", pipe)


def _toy():
    """Two transformers of two heads, as in Wan2.2-A14B, that take a timestep for every token, as in 5B."""
    from diffusers import WanPipeline, WanTransformer3DModel

    from benchmarks.wan_geometry import TOY_TRANSFORMER, make_pipeline, smooth_noise_bank
    from shelllcc.guidance.wan.model.pipeline import quieten

    quieten()
    parts = make_pipeline(toy=True, device="cpu").to(torch.float32).components
    parts["transformer_2"] = WanTransformer3DModel(**TOY_TRANSFORMER)
    pipe = WanPipeline(**parts, boundary_ratio=0.6, expand_timesteps=True)
    pipe.text_encoder.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe, smooth_noise_bank(dict(pipe.vae.config))


def fail(task, folder):
    """Join, fail as the task says, and tell it as the command line does."""
    try:
        with joined("cpu") as ranks:
            if task == f"rank {ranks.rank} is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if task in (f"rank {ranks.rank} fails", "both fail"):
                raise UsageError("no such thing")
            if task == "both wait":
                (folder / f"{ranks.rank}.waits").touch()
                time.sleep(60)
            agree(ranks, "anything", "word")
            (folder / f"{ranks.rank}.done").touch()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (UsageError, SamplingError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))
    if sys.argv[1] == "clips":
        clips(Path(sys.argv[2]))
    else:
        fail(sys.argv[1], Path(sys.argv[2]))
