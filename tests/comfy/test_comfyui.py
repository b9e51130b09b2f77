"""The nodes in the real ComfyUI, which samples the embedded Wan (host.py), beside the product's own guided loop."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from shelllcc.anchors.bankfile import save_bank
from shelllcc.anchors.choose import STARTER, choose_bank, load_bank
from shelllcc.anchors.describe import describe
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint, pipeline_fingerprint
from shelllcc.anchors.score import score_latents
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.fit.fit import Band, Belongs, Fit, read_fit, write_fit
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import guided
from shelllcc.guidance.guide.seams import levels_exchanged
from shelllcc.guidance.media import photographs
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.fitted import followed
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.resolve import resolve
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.wan.fits.making import Shape, chosen_takes, encoded
from shelllcc.guidance.wan.fits.trips import Trips
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import find_model
from shelllcc.guidance.wan.model.presets import PRESETS

DEFAULTS = GuideConfig()
OF_FIT = replace(DEFAULTS, radius=2.0, calm=2.0, window=(0.0, 0.7))


@pytest.fixture(scope="module")
def host(root):
    return runpy.run_path(str(root / "tests/comfy/host.py"))


@pytest.fixture(scope="module")
def fit(host, pipe):
    """A fit of the tiny Wan at these settings, as the command line makes them."""
    bank = load_bank("auto", pipe)
    calibration = bank.chosen.digest if bank.chosen else None
    belongs = Belongs(
        bank.identity, calibration, "0" * 16, "FlowMatchEulerDiscreteScheduler", host["STEPS"], host["CFG"], None,
        host["SHIFT"],
    )  # fmt: skip
    bands = (Band("2 to 4", -0.2, 0.01, 0.0, 0.01), Band("contrast", 0.0, 0.01, 0.0, 0.01))
    return Fit(
        belongs, OF_FIT, bands, ("a", "b", "c", "d"), (), 0, 0.95, (64, 64, 9), "tiny", bank.name, {},
        transformer=pipeline_fingerprint(pipe),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sampled(root, host, pipe, fit, tmp_path_factory):
    """Latents by name, and notes, of one run of ComfyUI."""
    place = root / "runs/comfyui"
    if not (place / "ComfyUI/nodes.py").exists():
        pytest.skip("there is no ComfyUI in runs/comfyui; `make comfyui` fetches one")
    folder = tmp_path_factory.mktemp("comfyui")
    write_fit(fit, folder / "banks/fits")
    save_bank(replace(load_bank("auto", pipe), vae=fingerprint(WAN21_VAE)), folder / "banks/wan21.safetensors")
    save_file(texts_of(host, pipe), folder / "texts.safetensors")
    clone = folder / "custom_nodes/shelllcc"
    clone.parent.mkdir()
    clone.symlink_to(root)
    words = [root / "tests/comfy/host.py", place / "ComfyUI", place / "lib", clone, folder / "out.safetensors"]
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=outside | {"SHELLLCC_BANKS": str(folder / "banks"), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(folder / "out.safetensors", framework="pt") as file:
        notes = json.loads(file.metadata()["notes"]) | {"banks": str(folder / "banks")}
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


def test_strength_0_is_no_node_bit_for_bit(host, sampled):
    latents, _ = sampled
    for sampler in host["SAMPLERS"]:
        assert torch.equal(latents[f"{sampler}.stock"], latents[f"{sampler}.off"]), sampler


def test_every_sampler_is_guided(host, sampled):
    latents, _ = sampled
    moved = {s: float((latents[f"{s}.guided"] - latents[f"{s}.stock"]).std()) for s in host["SAMPLERS"]}
    assert all(moved["euler"] / 3 < size < moved["euler"] * 3 for size in moved.values()), moved  # solvers extrapolate


@pytest.mark.parametrize(("name", "knobs", "cfg"), [
    ("euler.stock", None, 3.0), ("euler.guided", DEFAULTS, 3.0), ("euler.cfg1", DEFAULTS, 1.0), ("fit", OF_FIT, 3.0),
])  # fmt: skip
def test_euler_is_the_products_own_loop(host, sampled, pipe, name, knobs, cfg):
    latents, _ = sampled
    assert_close(latents[name], own(host, pipe, knobs, cfg), rtol=0, atol=1e-4)


def test_halves_are_the_whole(sampled):
    latents, _ = sampled
    for cut in (9, 10):
        assert_close(latents[f"euler.halves{cut}"], latents["euler.guided"], rtol=0, atol=1e-4)
        assert_close(latents[f"heun.halves{cut}"], latents["heun.guided"], rtol=0, atol=1e-4)


def test_the_same_graph_gives_the_same_bytes(sampled):
    latents, _ = sampled
    assert torch.equal(latents["euler.again"], latents["euler.guided"])


def test_clips_of_a_batch_are_guided_alone(sampled):
    latents, _ = sampled
    assert_close(
        latents["euler.batch"], torch.cat([latents["euler.guided"], latents["euler.flipped"]]), rtol=0, atol=1e-4
    )


def test_after_an_interruption_nothing_is_left(sampled):
    latents, notes = sampled
    assert notes["interrupted"].startswith("InterruptProcessingException")
    assert torch.equal(latents["euler.after"], latents["euler.guided"])


def test_frames_in_context_windows_are_guided_as_one_clip(sampled):
    latents, _ = sampled
    moved = (latents["windows.guided"] - latents["windows.stock"]).square().mean((0, 1, 3, 4)).sqrt()
    assert (moved > moved.mean() / 4).all(), moved


def test_an_image_in_front_is_not_moved(sampled):
    latents, _ = sampled
    stock, guided = (latents[f"image.{name}"] for name in ("stock", "guided"))
    assert torch.equal(stock[:, :, 0], guided[:, :, 0])
    assert ((stock - guided).abs().amax((0, 1, 3, 4))[1:] > 0).all()


def test_comfyui_takes_the_nodes_in_a_graph_and_shows_their_help(sampled):
    _, notes = sampled
    assert notes["workflow"] == [True, []]
    accepted, [told] = notes["no such fit"]
    assert not accepted
    assert told.startswith("fit: 'gone' not in")
    assert notes["help"] == ["ShellLCCFit.md", "ShellLCCGuidance.md", "ShellLCCScore.md"]


def test_comfyui_takes_the_example_workflows(root, sampled):
    """In the form of programs; test_browser.py holds it to the one that ships."""
    names = {path.stem for path in (root / "example_workflows").glob("*.json")}
    assert sampled[1]["examples"] == {name: [True, []] for name in names}
    assert len(names) == 2


def test_the_score_is_the_products(sampled, pipe):
    latents, notes = sampled
    score = score_latents(load_bank("auto", pipe), latents["euler.stock"][0])
    assert notes["score"] == pytest.approx(score.mean, rel=1e-4)


def test_the_fit_node_measures_shows_progress_and_goes_on_after_an_interruption(host, sampled):
    found = sampled[1]["fitted"]
    whole = 7 * host["FIT"]["clips"]
    assert found["bar"][0] == [1, whole]
    assert [done for done, _ in found["bar"]] == [*range(1, len(found["bar"]) + 1)]
    assert found["interrupted"]
    assert found["begun"] == [found["file"]]
    assert found["unbroken"]  # one that was not interrupted is the same file, byte for byte
    assert re.search(r"leaves out \d\d% of the contrast", found["words"])
    assert found["words"] in found["again"]
    assert found["through"]


def test_the_fit_node_gives_an_image_model_the_first_frame_of_each_clip(sampled):
    """On a model of 36 channels, as WanImageToVideo tells one of an image; what it measures is what is wrong."""
    found = sampled[1]["fitted"]["of an image"]
    assert found["image_to_video"]
    assert found["given"] == [[True, False]], "the first latent frame of two, and no other"
    assert found["apart"] < 0.5 < found["others"], "each clip's own frame, as the VAE has it"
    assert re.search(r"leaves out \d\d% of the contrast", found["words"])
    assert found["guide"]["radius"] > 0
    assert all(trip["bands"] != found["drifts"][0]["bands"] for trip in found["drifts"][1:])


def test_what_a_fit_cannot_be_made_of_is_refused_in_a_sentence(sampled):
    found = sampled[1]["fitted"]
    assert "guided already" in found["guided already"]
    assert found["switch"] == "two models switch after a step from 1 to 3, got 0"
    assert found["vae"].startswith("this VAE makes 48-channel latents, the model has 16")


def test_a_fit_is_of_its_weights_and_adapters(sampled):
    stock, paler, adapted, other = sampled[1]["fitted"]["weights"]
    assert stock == paler
    assert len({stock, adapted, other}) == 3


def test_where_no_bank_is_of_its_latents_a_starter_is_made_that_the_command_line_takes(sampled, monkeypatch):
    notes = sampled[1]
    found = notes["fitted"]["started"]
    assert found["same"]
    assert found["told"] == [[number, len(photographs.PHOTOGRAPHS)] for number in range(len(photographs.PHOTOGRAPHS))]
    monkeypatch.setenv("SHELLLCC_BANKS", notes["banks"])
    bank, _ = choose_bank(None, found["vae"])
    assert bank.path.name == found["file"] == f"starter-{found['vae']}.safetensors"
    assert bank.provenance["made_by"] == STARTER
    assert describe(bank, whole=True)


def test_round_trips_are_those_of_the_command_line(host, sampled, pipe, tmp_path):
    """The same clip comes back with the same drift from ComfyUI's sampler, VAE and text as from the pipeline's."""
    found = sampled[1]["fitted"]
    asked = host["FIT"]
    shape = Shape(asked["size"], asked["frames"], asked["clips"])
    studio = Studio(find_model(None), Loading(), SimpleNamespace(stage=print, step=print), device="cpu")
    studio.__dict__["pipe"] = pipe
    studio.texts.folder = tmp_path
    takes = list(encoded(pipe, chosen_takes(shape, studio.model), shape))
    size = dict(width=asked["size"], height=asked["size"], frames=asked["frames"], cfg=asked["cfg"])
    levels = [1.0, *found["levels"][:-1]]
    size |= dict(scheduler="euler", sigmas=levels)
    request = Request.resolve(PRESETS["tiny"], prompt="any", negative_prompt="", **size)
    trips = Trips(studio, request, load_bank("auto", pipe), takes)
    assert trips.levels == pytest.approx(found["levels"], abs=1e-6)
    assert trips.tail == found["tail"]
    for config, theirs in zip((None, trips.guide(radius=2.0, coarse=1.3)), found["drifts"], strict=True):
        ours = asdict(trips.drift(1, config))
        for name, value in ours.items():
            assert theirs[name] == pytest.approx(value, abs=2e-3), name


def test_what_the_model_said_is_said_again(sampled):
    found = sampled[1]["fitted"]
    assert found["replayed"] == len(found["levels"]) - 1 - found["tail"]
    assert found["alone"] == found["drifts"][1]  # replayed or not


def test_trips_through_two_models_that_are_one_are_those_of_the_one(sampled):
    found = sampled[1]["fitted"]
    for one, two in zip(found["drifts"], found["two"], strict=True):
        assert two["bands"] == pytest.approx(one["bands"], abs=1e-3)


def test_node_and_command_line_read_each_others_fits(host, sampled, pipe, monkeypatch):
    latents, notes = sampled
    monkeypatch.setenv("SHELLLCC_BANKS", notes["banks"])
    file = Path(notes["banks"]) / "fits" / notes["fitted"]["file"]
    made = read_fit(file)
    assert made.guide.acts
    values = dict(steps=host["FIT"]["steps"], cfg=host["FIT"]["cfg"], width=64, height=64, frames=5)
    resolved = resolve(Asked(prompts=("a cat",), values=values, fit=str(file)))
    [request] = resolved.requests
    assert replace(request.guide, strength=1.0) == made.guide
    assert not resolved.unfitted
    assert followed(request, resolved.model, resolved.loading, resolved.bank) == made
    shape = [1.0, *notes["fitted"]["levels"][:-1]]
    assert_close(latents["own fit"], own(host, pipe, request.guide, host["FIT"]["cfg"], shape), rtol=0, atol=1e-4)


def test_a_fit_of_another_bank_or_model_is_refused(sampled, monkeypatch):
    notes = sampled[1]
    monkeypatch.setenv("SHELLLCC_BANKS", notes["banks"])
    fit = read_fit(Path(notes["banks"]) / "fits" / notes["fitted"]["file"])
    for change, said in (
        ({"transformer": "f" * 16}, "another shape"),
        ({"belongs": replace(fit.belongs, bank="f" * 16)}, "was made with the bank"),
    ):
        file = write_fit(replace(fit, **change), Path(notes["banks"]) / "other")
        with pytest.raises(UsageError, match=said):
            resolve(Asked(prompts=("a cat",), fit=str(file)))
    with pytest.raises(UsageError, match=r"there is no gone\.json"):
        resolve(Asked(prompts=("a cat",), fit="gone.json"))


@pytest.mark.slow
def test_guidance_takes_little_time(root):
    """On two cores. Where others use this machine, the seconds of cores tell: those of the clock are theirs."""
    place = root / "runs/comfyui"
    if not (place / "ComfyUI/nodes.py").exists():
        pytest.skip("there is no ComfyUI in runs/comfyui; `make comfyui` fetches one")
    words = [root / "tests/comfy/timing.py", place / "ComfyUI", place / "lib", root]
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, *map(str, words)], env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio, of cores"] <= 1.15, found
    if found["load before"] < 0.5 and found["load after"] < 2.5:
        assert found["ratio, seconds"] <= 1.15, found


def test_start_and_end_are_limits(sampled):
    latents, _ = sampled
    assert torch.equal(latents["euler.above"], latents["euler.stock"])


def test_what_cannot_be_is_refused_in_a_sentence(sampled):
    _, notes = sampled
    assert notes["imported"] == []
    assert "guided already" in notes["twice"]
    assert "shelllcc fit --model MODEL --steps 2 --cfg 3" in notes["unfitted"]
    assert "sigmas fall" in notes["rising"]
    assert "3 reference frames in front leave nothing of 3" in notes["all front"]
    assert "got (1, 4, 8, 8)" in notes["scored"]
    assert notes["channels"].startswith("BankError: no bank fits this model's VAE")
    assert "this model is QwenImage: its latents are like Wan's, but of images" in notes["image model"]
    assert all("\n" not in note for note in notes.values() if isinstance(note, str))


def texts_of(host, pipe):
    """What the tiny Wan's text encoder says of the captions of a fit's clips."""
    clips = photographs.some(host["FIT"]["size"], host["FIT"]["clips"], known=True)
    said = {take.caption: take.caption for take in clips} | {"(none)": ""}
    how = dict(do_classifier_free_guidance=False, max_sequence_length=512)
    embedded = {name: pipe.encode_prompt(text, **how)[0] for name, text in said.items()}
    return {name: tensor.contiguous() for name, tensor in embedded.items()}


def own(host, pipe, knobs, cfg, levels=None):
    """What the product samples by itself from the same noise, noise levels and texts."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    noise, sigmas, (positive, negative) = host["inputs"]()
    levels = levels or sigmas[:-1].tolist()
    before, pipe.scheduler = pipe.scheduler, FlowMatchEulerDiscreteScheduler(shift=host["SHIFT"])
    call = dict(
        prompt_embeds=positive, negative_prompt_embeds=negative if cfg > 1 else None, latents=noise.clone(),
        height=64, width=80, num_frames=9, num_inference_steps=len(levels), guidance_scale=cfg, output_type="latent",
    )  # fmt: skip
    try:
        with levels_exchanged(pipe.scheduler, levels):
            if knobs is None:
                return pipe(**call).frames
            with guided(pipe, ShellGuide(load_bank("auto", pipe), knobs)):
                return pipe(**call).frames
    finally:
        pipe.scheduler = before
