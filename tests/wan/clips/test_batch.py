"""`batch` and its engines: the same bytes from any workers, also when some are killed; shards, failures, refusals."""

import contextlib
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from shelllcc.guidance.errors import LostGpuError, ModelError, OutOfMemoryError, OutputError, UsageError
from shelllcc.guidance.files import sha256_of
from shelllcc.guidance.jobs.engines import _gpus, engine_of
from shelllcc.guidance.jobs.processes import Processes, _Place
from shelllcc.guidance.jobs.work import Here, Outcome, work_off
from shelllcc.guidance.wan.clips import batch as module
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.parse import strengths

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "3", "--window", "0:1"]
PROMPTS = "a tabby cat, zoom in, daylight\n# no\na rocket, pan left, night --seed 7\na flower, roll, fog\n"
TWO = "a tabby cat, zoom in, daylight\na rocket, pan left, night --seed 7\n"
NO_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
TOYS = """
import functools, os, signal, time
from shelllcc.guidance.errors import LostGpuError, ModelError, OutOfMemoryError
from shelllcc.guidance.jobs.work import SpentError

class Closing:
    def __del__(self):
        time.sleep(1)

class Unreadable:
    def __reduce__(self):
        return int, ("no number",)

def start(folder):
    return functools.partial(work, folder)

def work(folder, job):
    with (folder / job).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    tries = len((folder / job).read_text().split())
    if job == "doomed" or (job == "killed" and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "slow":
        time.sleep(600)
    if job == "missing":
        raise ModelError("no model at /nowhere")
    if job.startswith("bug"):
        raise KeyError(job)
    if job == "spent" and tries == 1:
        raise SpentError("bad")
    if job == "lost" and tries == 1:
        raise LostGpuError("sampling", "CUDA error: an illegal memory access was encountered")
    if job == "full":
        raise OutOfMemoryError("encoding videos", "use fewer --workers")
    if job == "foreign":
        class ForeignError(OutOfMemoryError):
            pass
        error = ForeignError("decoding", "try --tiling")
        error.held = lambda: None
        raise error
    if job in ("late", "closing"):
        Closing() if job == "closing" else time.sleep(1)
    if job == "function":
        return lambda: None
    if job == "unreadable":
        return Unreadable()
    return "bad" if job == "bad" else f"{job} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
"""


@pytest.fixture(autouse=True)
def one_thread():
    """In this process: several are slow beside other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Work without a model, importable in other processes; returns what starts it, and where it leaves its pids."""
    import functools

    (tmp_path / "lib").mkdir()
    (tmp_path / "pids").mkdir()
    (tmp_path / "lib/toys.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    spec = importlib.util.spec_from_file_location("toys", tmp_path / "lib/toys.py")
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toys", loaded)
    spec.loader.exec_module(loaded)
    return functools.partial(loaded.start, tmp_path / "pids"), tmp_path / "pids"


def outcomes(jobs, start, engine, retries=2):
    found = work_off(jobs, start, engine, retries=retries, failure=lambda result: result if result == "bad" else "")
    return {outcome.job: outcome for outcome in found if not outcome.again}


def tries(pids, job):
    return (pids / job).read_text().split()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_dies_loses_nothing_but_itself(toys, workers):
    start, pids = toys
    jobs = ["a", "killed", "b", "doomed", "bug", "bad", "spent", "lost", "c"]
    found = outcomes(jobs, start, Processes(workers))
    assert set(found) == set(jobs)
    for job in ("a", "killed", "b", "spent", "lost", "c"):
        assert found[job] == Outcome(job, f"{job} None")
    assert "signal 9" in found["doomed"].died
    assert found["bug"].died == "unexpected KeyError: 'bug'"
    assert found["bad"].result == "bad"
    counts = {job: len(tries(pids, job)) for job in jobs}
    assert counts == dict.fromkeys(jobs, 1) | {"killed": 2, "doomed": 3, "bug": 3, "bad": 3, "spent": 2, "lost": 2}
    for job in ("killed", "doomed", "bug", "spent", "lost"):  # each time in a process of its own
        assert len(set(tries(pids, job))) == counts[job]
    assert not any(alive(int(pid)) for job in jobs for pid in tries(pids, job))


def test_here_and_in_processes_the_outcomes_are_the_same(toys):
    start, pids = toys
    jobs = ["a", "bug", "bad", "spent"]
    here = outcomes(jobs, start, Here(), retries=1)
    (pids / "spent").unlink()
    assert outcomes(jobs, start, Processes(2), retries=1) == here


@pytest.mark.parametrize("engine", [Here(), Processes(2)])
def test_an_error_of_ours_ends_the_run_as_it_is(toys, engine):
    with pytest.raises(ModelError, match=r"^no model at /nowhere$"):
        outcomes(["a", "missing", "b"], toys[0], engine)


@pytest.mark.parametrize("engine", [Here(), Processes(1)])
def test_an_error_arrives_with_its_words_and_attributes(toys, engine):
    with pytest.raises(OutOfMemoryError, match=r"^out of memory while encoding videos; use fewer --workers$") as caught:
        outcomes(["full"], toys[0], engine)
    assert (caught.value.stage, caught.value.advice) == ("encoding videos", "use fewer --workers")


def test_what_cannot_be_sent_does_not_kill_the_worker(toys, capfd):
    start, pids = toys
    found = outcomes(["a", "function", "unreadable", "b"], start, Processes(1), retries=0)
    assert [found[job].result for job in "ab"] == ["a None", "b None"]
    for job in ("function", "unreadable"):
        assert found[job].died.startswith("its result cannot be sent: ")
    assert len({tries(pids, job)[0] for job in found}) == 1
    with pytest.raises(OutOfMemoryError, match=r"^out of memory while decoding; try --tiling$"):
        outcomes(["foreign"], start, Processes(1))
    assert "Traceback" not in capfd.readouterr().err


def test_when_job_after_job_fails_the_rest_is_given_up(toys):
    start, pids = toys
    jobs = [f"bug{number}" for number in range(60)]
    with pytest.raises(ModelError, match="given up after 20 failures in a row, the last: unexpected KeyError"):
        outcomes(jobs, start, Here())
    assert len(list(pids.iterdir())) == 20
    mixed = [name for number in range(30) for name in (f"bug-{number}", f"good-{number}")]
    assert sum(bool(outcome.died) for outcome in outcomes(mixed, start, Here(), retries=0).values()) == 30


def test_workers_share_out_the_gpus_that_this_process_may_use(toys, monkeypatch):
    found = outcomes(["a", "b", "c", "d"], toys[0], Processes(2, gpus=["5", "GPU-7"]))
    assert {outcome.result.split()[1] for outcome in found.values()} <= {"5", "GPU-7"}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert _gpus(None) == _gpus("cuda") == ["0", "1"]
    assert _gpus("cuda:1") == _gpus("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7")
    assert _gpus(None) == ["5", "GPU-7"]


def test_an_interrupt_ends_every_worker(toys, tmp_path):
    code = (
        "import functools, pathlib, toys\n"
        "from shelllcc.guidance.jobs.processes import Processes\nfrom shelllcc.guidance.jobs.work import work_off\n"
        "if __name__ == '__main__':\n"
        "    start = functools.partial(toys.start, pathlib.Path('pids'))\n"
        "    try:\n"
        "        list(work_off(['slow', 'a', 'b'], start, Processes(2)))\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped')\n"
    )
    process = elsewhere(code, tmp_path)
    wait_for(lambda: (tmp_path / "pids/slow").exists() and tries(tmp_path / "pids", "slow"))
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert out == "stopped\n"
    assert not alive(int(tries(tmp_path / "pids", "slow")[0]))


@pytest.mark.parametrize("job", ["late", "closing"])
def test_a_worker_that_nobody_waits_for_ends_without_a_word(job, toys, capfd):
    start, pids = toys
    place = _Place(pickle.dumps(start), {})
    place.give(job)
    wait_for(lambda: (pids / job).exists() and tries(pids, job))
    time.sleep(0.2)
    if job == "late":
        place.pipe.close()
    else:
        place.process.terminate()  # within a __del__, where Python swallows what is raised
    place.process.join(30)
    assert place.process.exitcode in (0, 1)
    assert capfd.readouterr().err == ""
    place.end()


@NO_RAY
def test_on_a_ray_cluster_the_outcomes_are_the_same(toys, tmp_path):
    start, pids = toys
    jobs = ["a", "killed", "bug", "bad", "spent", "b"]
    here = outcomes(["a", "bug", "bad", "spent", "b"], start, Here(), retries=1)
    for path in pids.iterdir():
        path.unlink()
    code = (
        "import functools, json, pathlib, toys\n"
        "from shelllcc.guidance.jobs.engines import engine_of\nfrom shelllcc.guidance.jobs.work import work_off\n"
        "start = functools.partial(toys.start, pathlib.Path('pids'))\n"
        "engine = engine_of('ray', 2, device='cpu')\n"
        f"found = work_off({jobs}, start, engine, retries=1, failure=lambda r: r if r == 'bad' else '')\n"
        "print(json.dumps([[o.job, o.result, o.died] for o in found if not o.again]))\n"
    )
    done = elsewhere(code, tmp_path).communicate(timeout=120)[0]
    found = {job: Outcome(job, result, died) for job, result, died in json.loads(done.splitlines()[-1])}
    assert found.pop("killed").result.startswith("killed ")
    assert {job: (outcome.died, bool(outcome.result)) for job, outcome in found.items()} == {
        job: (outcome.died, bool(outcome.result)) for job, outcome in here.items()
    }
    assert [len(tries(pids, job)) for job in jobs] == [1, 2, 2, 2, 2, 1]
    assert all(len(set(tries(pids, job))) == 2 for job in ("killed", "bug", "spent"))  # in a new process each time


def asked(prompts_file, output, **values):
    return Asked(prompts_file=prompts_file, output=output, values=values)


def made_here(folder, text, ways, **values):
    """Hashes by file name of clips that were made one after the other in this process."""
    (folder / "prompts.txt").write_text(text)
    planned = module.plan_batch(asked(folder / "prompts.txt", folder / "clips", **values), variants=strengths(ways))
    rows = [row for done in module.make_clips(planned, Here(), device="cpu") for row in done.made]
    return {Path(row["video"]).name: (row["frames_sha256"], row["sha256"]) for row in rows}


def test_the_number_of_threads_changes_no_frame(tmp_path):
    found = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        torch.set_num_threads(threads)  # at this size another number makes other frames
        found.append(made_here(folder, TWO[:30], "1", width=112, height=96, frames=9, steps=2, window=(0.0, 1.0)))
    assert len(found[0]) == 1
    assert found[0] == found[1]


@pytest.mark.faults
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=NO_RAY)])
def test_a_worker_killed_while_it_samples_leaves_the_bytes_of_serial_generation(engine, tmp_path):
    (tmp_path / "serial").mkdir()
    serial = made_here(tmp_path / "serial", TWO, "0,1", width=32, height=32, frames=5, steps=8)
    (tmp_path / "prompts.txt").write_text(TWO)
    words = ["prompts.txt", "-o", "clips", "--engine", engine, "--workers", "2", "--strengths", "0,1", "--json"]
    sizes = ["--size", "32x32", "--frames", "5", "--steps", "8", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shelllcc", "batch", *words, *sizes],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path_of()},
    )  # fmt: skip
    title = "ray::_Actor" if engine == "ray" else "--multiprocessing-fork"
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        wait_for(lambda: process.poll() is not None or list(tmp_path.glob("clips/*/[!.]*.json")))
        busy = workers(process.pid, title)
        assert len(busy) == 2, process.communicate()
        os.kill(busy[0], signal.SIGKILL)
        left = 4 - len(list(tmp_path.glob("clips/*/[!.]*.json")))
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert left > 1
    report = json.loads(out)
    assert report["failed"] == []
    assert len(report["clips"]) + report["skipped"] == 4
    sidecars = {path.with_suffix(".mp4"): json.loads(path.read_text()) for path in tmp_path.glob("clips/*/[!.]*.json")}
    found = {path.name: (*record["frames_sha256"].values(), sha256_of(path)) for path, record in sidecars.items()}
    assert len(serial) == 4
    assert found == serial


def batch(shelllcc, tmp_path, *words, text=PROMPTS, code=0):
    (tmp_path / "prompts.txt").write_text(text)
    got, out, err = shelllcc("batch", "prompts.txt", "-o", "clips", *SMALL, *words, "--json")
    assert got == code, err
    return json.loads(out), err


def test_a_clip_is_that_of_generate_and_its_name_that_of_its_line(shelllcc, tmp_path):
    report, _ = batch(shelllcc, tmp_path, "--seed", "5")
    words = ["--prompts-file", "prompts.txt", *SMALL, "--seed", "5", "-o", "flat", "--json"]
    known = json.loads(shelllcc("generate", *words)[1])["clips"]
    assert [row["seed"] for row in report["clips"]] == [c["request"]["seed"] for c in known] == [5, 7, 7]
    assert [row["sha256"] for row in report["clips"]] == [c["sha256"]["guided"] for c in known]
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("clips/*/*.mp4"))
    assert names == [
        "clips/0000/000000-a-tabby-cat-zoom-in-daylight.mp4",
        "clips/0000/000001-a-rocket-pan-left-night.mp4",
        "clips/0000/000002-a-flower-roll-fog.mp4",
    ]


def test_strengths_share_their_first_steps_and_make_the_bytes_of_each_alone(shelllcc, tmp_path, monkeypatch):
    made, real = [], module.Prefix

    def prefix(*args):
        made.append(real(*args))
        return made[-1]

    monkeypatch.setattr(module, "Prefix", prefix)
    later = ["--steps", "6", "--window", "0:0.9"]
    sweep = ["--strengths", "0,1,2", *later]
    report, _ = batch(shelllcc, tmp_path, *sweep, text="a tabby cat, zoom in, daylight")
    [prefix] = made
    assert [(calls.computed, calls.replayed) for calls in prefix.calls] == [(6, 0), (3, 3), (3, 3)]
    words = ["--prompt", "a tabby cat, zoom in, daylight", *SMALL, *later, "--strength", "2"]
    alone = json.loads(shelllcc("generate", *words, "-o", "x.mp4", "--json")[1])["clips"][0]
    assert report["clips"][2]["sha256"] == alone["sha256"]["guided"]
    gone = Path(report["clips"][1]["video"])
    gone.unlink()
    again, _ = batch(shelllcc, tmp_path, *sweep, text="a tabby cat, zoom in, daylight")
    assert again == {"clips": [report["clips"][1]], "skipped": 2, "failed": []}


def test_shards_are_the_whole_and_share_nothing(shelllcc, tmp_path):
    text = "".join(f"a cat number {number}\n" for number in range(1001))

    def clips(*words):
        return batch(shelllcc, tmp_path, "--strengths", "0,1", "--seeds", "3,4", "--dry-run", *words, text=text)[0]

    whole = clips()["clips"]
    shards = [clips("--shard", f"{number}/3")["clips"] for number in range(3)]
    assert len(whole) == 4004
    assert [len(shard) for shard in shards] == [1336, 1334, 1334]
    assert sorted(clip["video"] for shard in shards for clip in shard) == sorted(clip["video"] for clip in whole)
    assert [clip for shard in shards for clip in shard if clip["video"].endswith("0000-a-cat-number-1000")] == []
    last = Path(whole[-1]["video"])
    assert last == tmp_path / "clips/0001/001000-a-cat-number-1000-seed4.strength-1.mp4"
    assert not any(clip["finished"] for clip in whole)
    assert batch(shelllcc, tmp_path, "--shard", "5/6")[0] == {"clips": [], "skipped": 0, "failed": []}


def test_finished_clips_are_skipped_and_torn_ones_made_again(shelllcc, tmp_path):
    first, _ = batch(shelllcc, tmp_path)
    torn = Path(first["clips"][1]["video"])
    torn.write_bytes(torn.read_bytes()[:1000])
    second, err = batch(shelllcc, tmp_path)
    assert second == {"clips": [first["clips"][1]], "skipped": 2, "failed": []}
    assert "3/3 clips" in err
    assert batch(shelllcc, tmp_path)[0] == {"clips": [], "skipped": 3, "failed": []}
    assert [clip["finished"] for clip in batch(shelllcc, tmp_path, "--dry-run")[0]["clips"]] == [True] * 3
    longer, _ = batch(shelllcc, tmp_path, text=PROMPTS + "grass, pan left, sunset")
    assert (len(longer["clips"]), longer["skipped"]) == (1, 3)


def test_a_clip_that_fails_does_not_stop_the_others(shelllcc, tmp_path):
    in_the_way = tmp_path / "clips/0000/000001-a-rocket-pan-left-night.mp4"
    in_the_way.mkdir(parents=True)
    report, err = batch(shelllcc, tmp_path, "--retries", "1", code=1)
    assert len(report["clips"]) == 2
    [failed] = report["failed"]
    assert failed["video"] == str(in_the_way)
    assert "cannot write" in failed["reason"]
    assert [line for line in err.splitlines() if "failed:" in line] == [
        f"shelllcc: failed: {in_the_way}: {failed['reason']}"
    ]
    in_the_way.rmdir()
    assert batch(shelllcc, tmp_path)[0]["skipped"] == 2


ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("error", "studios"),
    [
        (KeyError("passing"), [0, 0, 1]),  # once may happen; after a second one in a row the worker is replaced
        (OutOfMemoryError("sampling", "try --offload model"), [0, 0, 0]),
        (LostGpuError("sampling", ILLEGAL), [0, 1, 2]),
    ],
    ids=["bug", "memory", "GPU"],
)
def test_a_failure_that_passes_is_tried_again(error, studios, shelllcc, tmp_path, monkeypatch):
    failed, seen, real = [], [], module.make

    def make(request, bank, studio, **options):
        if request.guide.strength == 1:
            seen.append(studio)
            if len(failed) < 2:
                failed.append(request)
                raise error
        return real(request, bank, studio, **options)

    monkeypatch.setattr(module, "make", make)
    report, _ = batch(shelllcc, tmp_path, "--strengths", "0,1", text="a tabby cat, zoom in, daylight")
    assert ([row["strength"] for row in report["clips"]], report["skipped"]) == ([0.0, 1.0], 0)
    different = list(dict.fromkeys(map(id, seen)))
    assert [different.index(id(studio)) for studio in seen] == studios


def test_the_model_is_loaded_once_for_many_companies_and_through_retries(tmp_path, monkeypatch):
    from shelllcc.guidance.wan.model import pipeline

    text = "".join(f"a tabby cat number {number}\n" for number in range(5))
    (tmp_path / "whole").mkdir()
    whole = made_here(tmp_path / "whole", text, "1", width=32, height=32, frames=5, steps=2)

    loads, failed = [], []
    for name in ("load_pipeline", "load_text_encoder"):
        counted(monkeypatch, pipeline, name, loads)
    real = module.make

    def make(request, *args, **options):
        if "number 1" in request.prompt and not failed:
            failed.append(request)
            raise KeyError("passing")
        return real(request, *args, **options)

    monkeypatch.setattr(module, "make", make)
    monkeypatch.setattr(module, "COMPANY", 2)
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path / "a file"))  # no embedding stays on disk
    (tmp_path / "parts").mkdir()
    parts = made_here(tmp_path / "parts", text, "1", width=32, height=32, frames=5, steps=2)
    assert loads == ["load_text_encoder", "load_pipeline", *["load_text_encoder"] * 3]  # the last for the retry
    assert len(failed) == 1
    assert parts == whole


def counted(monkeypatch, owner, name, calls):
    """Have the calls of a function noted."""
    real = getattr(owner, name)

    def call(*args, **options):
        calls.append(name)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, call)


def test_a_model_that_cannot_be_loaded_ends_the_run_in_one_line(shelllcc, tmp_path):
    import shutil

    from shelllcc.guidance.wan.model.pipeline import TINY

    shutil.copytree(TINY, tmp_path / "broken")
    (tmp_path / "broken/transformer/diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    code, out, err = shelllcc("batch", "prompts.txt", "-o", "clips", *SMALL, "--model", "broken")
    assert (code, out) == (1, "")
    assert "broken" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_the_text_encoder_is_asked_for_all_prompts_at_once(tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"a cat number {n} --cfg {1 + n % 2}\n" for n in range(600)))
    planned = module.plan_batch(asked(tmp_path / "prompts.txt", tmp_path, negative_prompt="fog"))
    companies = list(dict.fromkeys(job.company for job in planned.jobs))
    assert [len(company) for company in companies] == [257, 257, 89]
    assert {prompt for company in companies for prompt in company} == {job.request.prompt for job in planned.jobs} | {
        "fog"
    }


def test_a_clip_that_is_not_seen_here_is_told(tmp_path, monkeypatch):
    class Elsewhere(Here):
        def run(self, waiting, start):
            yield Outcome(waiting.popleft(), module.Done(({"sidecar": str(tmp_path / "other/x.json")},)))

    monkeypatch.setattr(module, "PATIENCE", 0)
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    planned = module.plan_batch(asked(tmp_path / "prompts.txt", tmp_path))
    with pytest.raises(OutputError, match="storage that all machines share"):
        list(module.make_clips(planned, Elsewhere()))


def test_without_ray_one_line_says_how_to_get_it(shelllcc, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'shelllcc\[ray\]'"):
        engine_of("ray")
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    code, out, err = shelllcc("batch", "prompts.txt", "-o", "clips", *SMALL, "--engine", "ray")
    assert (code, out, err.count("\n")) == (2, "", 1)


NASTY = {
    "no file": (2, ["none.txt"], "cannot read the prompts file"),
    "empty": (2, ["empty.txt"], "holds no prompt"),
    "comments": (2, ["comments.txt"], "holds no prompt"),
    "bytes": (2, ["bytes.txt"], "cannot read the prompts file"),
    "flag of a line": (2, ["line.txt"], "line.txt:1: no flag --sharp"),
    "output is a file": (2, ["one.txt", "-o", "empty.txt"], "needs a folder"),
    "output is a clip": (2, ["one.txt", "-o", "x.mp4"], "needs a folder"),
    "shard": (2, ["one.txt", "--shard", "3/2"], "a shard is i/n"),
    "shard words": (2, ["one.txt", "--shard", "first"], "a shard is i/n"),
    "workers": (2, ["one.txt", "--workers", "0"], "--workers"),
    "retries": (2, ["one.txt", "--retries", "-1"], "--retries"),
    "engine": (2, ["one.txt", "--engine", "slurm"], "no engine slurm; there are local, ray"),
    "two kinds of seeds": (2, ["one.txt", "--seed", "1", "--seeds", "1,2"], "not both"),
    "a seed twice": (2, ["one.txt", "--seeds", "1,1"], "comes twice"),
    "strengths": (2, ["one.txt", "--strengths", "0,much"], "takes a number"),
    "a strength twice": (2, ["one.txt", "--strengths", "1,1.0"], "two variants are"),
    "device": (1, ["one.txt", "--device", "cuda:77"], "device cuda:77 is not available"),
    "cache": (2, ["one.txt", "--strengths", "0,1", "--cache", "first-block"], "leave --cache out"),
}


@pytest.mark.parametrize(("code", "words", "said"), NASTY.values(), ids=list(NASTY))
def test_bad_input_gets_one_line_and_leaves_nothing(code, words, said, shelllcc, tmp_path):
    files = {"empty": "", "comments": "# a\n\n", "line": "a cat --sharp 2", "one": "a tabby cat"}
    for name, text in files.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    before = sorted(tmp_path.rglob("*"))
    output = [] if "-o" in words else ["-o", "clips"]
    got, out, err = shelllcc("batch", *words, *SMALL, *output)
    lines = [line for line in err.splitlines() if "at a time" not in line]
    assert (got, out, len(lines)) == (code, "", 1), err
    assert lines[0].startswith("shelllcc: error: ")
    assert said in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def path_of(*more):
    """Where this process finds modules."""
    return os.pathsep.join([*map(str, more), *map(os.path.abspath, filter(None, sys.path))])


def elsewhere(code, tmp_path):
    """A process that runs code with the toys at hand."""
    (tmp_path / "run.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path_of(tmp_path / "lib")},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(done, seconds=120):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def workers(pid, title):
    """The processes with a title that a process has started: not their own, which bear it between fork and exec."""
    parents = offspring(pid)
    titled = {child for child in parents if title in command(child)}
    return sorted(child for child in titled if parents[child] not in titled)


def offspring(pid):
    """The processes that a process has started, and theirs: each with its parent."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, more = {}, {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more}
        found |= {child: parents[child] for child in more}
    return found


def command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
