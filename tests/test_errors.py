"""What torch's errors mean is read by their type; out of memory is one line at every stage; errors travel whole."""

import importlib
import inspect
import pickle
import pkgutil
from functools import partial

import numpy as np
import pytest
import torch

import shelllcc
from shelllcc.guidance.errors import LostGpuError, OutOfMemoryError, ShellLCCError, plain
from shelllcc.guidance.faults import answers, gpu_lost, out_of_memory, told
from shelllcc.guidance.jobs.engines import engine_of
from shelllcc.guidance.jobs.work import work_off
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import sample
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.wan.model import pipeline
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import find_model
from shelllcc.guidance.wan.model.presets import PRESETS

ILLEGAL = "CUDA error: an illegal memory access was encountered"


def accelerator_error(words, code):
    """As torch raises it for a failure of CUDA."""
    error = torch.AcceleratorError(f"{words}\nCUDA kernel errors might be asynchronously reported")
    error.error_code = code
    return error


def too_large():
    return torch.empty(10**15)


def caught(run):
    with pytest.raises((RuntimeError, MemoryError)) as found:
        run()
    return found.value


ERRORS = {
    "torch on the CPU": (lambda: caught(too_large), "memory"),
    "numpy": (lambda: caught(lambda: np.empty(10**15)), "memory"),
    "CUDA's allocator": (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory"),
    "CUDA's host memory": (lambda: accelerator_error("CUDA error: out of memory", 2), "memory"),
    "illegal access": (lambda: accelerator_error(ILLEGAL, 700), "lost"),
    "assert": (lambda: accelerator_error("CUDA error: device-side assert triggered", 710), "lost"),
    "words alone": (lambda: RuntimeError("view size is not compatible with input's memory format"), ""),
    "a bug": (lambda: KeyError("memory"), ""),
}


@pytest.mark.parametrize(("make", "means"), ERRORS.values(), ids=list(ERRORS))
def test_what_an_error_means_is_read_by_its_type(make, means):
    error = make()
    assert (out_of_memory(error), gpu_lost(error)) == (means == "memory", means == "lost")
    kind = {"memory": OutOfMemoryError, "lost": LostGpuError, "": type(error)}[means]
    with pytest.raises(kind) as found, told("calibrating", "try less"):
        raise error
    if means == "lost":
        assert (found.value.stage, found.value.reason) == ("calibrating", str(error).splitlines()[0])
    assert "\n" not in str(found.value)


def test_a_device_answers_or_not():
    assert answers("cpu")
    assert not answers("cuda:99")


def request(**values):
    small = {"prompt": "a tabby cat, zoom in, daylight", "width": 32, "height": 32, "frames": 5, "steps": 2}
    return Request.resolve(PRESETS["tiny"], **{**small, **values})


@pytest.mark.parametrize("name", ["torch on the CPU", "illegal access", "words alone"])
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_sampling_that_fails_is_told_and_leaves_the_pipeline_as_it_was(name, part, pipe):
    make, means = ERRORS[name]
    before = sample(pipe, request()).frames_sha256

    def fail(*_):
        raise make()

    module = pipe.transformer if part == "transformer" else pipe.vae.decoder
    hook = module.register_forward_pre_hook(fail)
    stage = "sampling" if part == "transformer" else "decoding"
    words = {"memory": f"^out of memory while {stage}; ", "lost": f"^the GPU's context is lost while {stage} .*illegal"}
    try:
        with pytest.raises({"memory": OutOfMemoryError, "lost": LostGpuError, "": RuntimeError}[means]) as found:
            sample(pipe, request())
    finally:
        hook.remove()
    assert found.match(words.get(means, "memory format"))
    assert sample(pipe, request()).frames_sha256 == before


@pytest.mark.parametrize("when", ["loading", "encoding"])
def test_out_of_memory_while_prompts_are_encoded_is_one_line(when, shelllcc, tmp_path, monkeypatch):
    real = pipeline.load_text_encoder

    def load(*args, **options):
        if when == "loading":
            raise OutOfMemoryError("putting the model on cuda", "try --quantize fp8")
        texts = real(*args, **options)
        texts.text_encoder.register_forward_pre_hook(lambda *_: too_large())
        return texts

    monkeypatch.setattr(pipeline, "load_text_encoder", load)
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path / "cache"))
    words = ["--size", "32x32", "--frames", "5", "--steps", "2"]
    (tmp_path / "prompts.txt").write_text("a tabby cat\na rocket")
    commands = {"generate": ["-p", "a tabby cat", "-o", "x.mp4"], "batch": ["prompts.txt", "-o", "clips"]}
    for command, more in commands.items():
        code, out, err = shelllcc(command, *more, *words)
        errors = [line for line in err.splitlines() if "error" in line]
        assert (code, out) == (1, "")
        assert errors == ["shelllcc: error: out of memory while encoding prompts; try --dtype bfloat16"]


def test_out_of_memory_while_calibrating_is_told(pipe, root, latents, tmp_path):
    from shelllcc.anchors.bankfile import read_bank
    from shelllcc.anchors.latents import open_latents, save_latents
    from shelllcc.guidance.wan.banks.make import calibrate_bank

    save_latents(tmp_path / "x.safetensors", latents(0, frames=2, height=8, width=8), {})
    files = [open_latents(tmp_path / "x.safetensors")]
    for part, stage in {"text_encoder": "encoding prompts", "transformer": "calibrating"}.items():
        hook = getattr(pipe, part).register_forward_pre_hook(lambda *_: too_large())
        try:
            with pytest.raises(OutOfMemoryError, match=f"^out of memory while {stage}; try --dtype bfloat16"):
                calibrate_bank(read_bank(root / "anchors/tiny-wan.safetensors"), files, pipe, model="tiny")
        finally:
            hook.remove()


def test_what_to_try_is_what_helps_the_text_encoder():
    loadings = [Loading(offload=way) for way in ("none", "model", "group")]
    advice = [loading.relief("encoding prompts", "cuda") for loading in loadings]
    assert advice == ["try --offload group", "try --offload group", "use a larger GPU"]
    assert Loading(dtype="bfloat16").relief("encoding prompts", "cpu") == "use a machine with more memory"


def test_memory_holds_the_texts_that_are_needed_next(tmp_path, monkeypatch):
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path))
    texts = Studio(find_model(None), Loading(), Quiet(), device="cpu").texts
    texts.hold(["a cat", "fog"])
    first = texts.embed("a cat")
    texts.hold(["a dog", "fog", "a dog"])
    assert set(texts._known) == {"a dog", "fog"}
    torch.testing.assert_close(texts.embed("a cat"), first, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_transformer_makes_room_for_a_text_encoder_that_comes_late(tmp_path, monkeypatch):
    def load(*args, **options):
        def encode(*_):
            places.append(next(studio.pipe.transformer.parameters()).device.type)
            if places[-1] == "cuda":
                torch.empty(10**13, device="cuda")

        texts = real(*args, **options)
        texts.text_encoder.register_forward_pre_hook(encode)
        return texts

    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path))
    places, real = [], pipeline.load_text_encoder
    studio = Studio(find_model(None), Loading(), Quiet(), device="cuda")
    assert studio.pipe.text_encoder is None
    before = torch.cuda.memory_allocated()
    monkeypatch.setattr(pipeline, "load_text_encoder", load)
    late = studio.texts.embed("a late cat")
    assert places == ["cuda", "cpu"]
    assert next(studio.pipe.transformer.parameters()).device.type == "cuda"
    assert torch.cuda.memory_allocated() <= before
    monkeypatch.undo()
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path / "other"))
    alone = Studio(find_model(None), Loading(), Quiet(), device="cuda").texts.embed("a late cat")
    torch.testing.assert_close(late, alone, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_worker_whose_gpu_is_lost_is_replaced(tmp_path):
    engine = engine_of("local", None)
    found = work_off(["a", "lost", "b"], partial(partial, on_gpu, tmp_path), engine, retries=1)
    outcomes = [(outcome.job, outcome.result, outcome.again) for outcome in found]
    assert outcomes == [("a", 10.0, False), ("lost", None, True), ("b", 10.0, False), ("lost", 10.0, False)]


def on_gpu(folder, job):
    ones = torch.ones(10, device="cuda")
    with told("sampling", "try less"):
        if job == "lost" and not (folder / job).exists():
            (folder / job).touch()
            ones[torch.tensor([1000], device="cuda")].sum().item()
        return ones.sum().item()


class Quiet:
    def stage(self, name):
        pass


def classes(root):
    yield root
    for kind in root.__subclasses__():
        yield from classes(kind)


def test_every_error_of_ours_travels_whole():
    for module in pkgutil.walk_packages(shelllcc.__path__, "shelllcc."):
        outside = ("tests", "benchmarks", "training", "comfy.", "servers.vllm_omni_wan", "__main")  # want their hosts
        if not module.name.removeprefix("shelllcc.").startswith(outside):
            importlib.import_module(module.name)
    ours = [kind for kind in classes(ShellLCCError) if kind.__module__.startswith("shelllcc.")]
    assert {OutOfMemoryError, LostGpuError} < set(ours)
    for kind in ours:
        own = inspect.signature(kind).parameters.values() if "__init__" in vars(kind) else []
        numbers = [parameter.annotation in (float, "float") for parameter in own] or [False]
        error = kind(*(60.0 + at if number else f"word {at}" for at, number in enumerate(numbers)))
        error.rank = 3
        for found in (pickle.loads(pickle.dumps(error)), pickle.loads(pickle.dumps(plain(error)))):
            assert type(found) is kind
            assert str(found) == str(error)
            assert found.args == error.args
        assert vars(pickle.loads(pickle.dumps(error))) == vars(error)
