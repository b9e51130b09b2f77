"""The nodes without ComfyUI: with torch, numpy and safetensors alone, and what they choose and refuse."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import platformdirs
import pytest
import torch

from shelllcc.anchors import build
from shelllcc.anchors.choose import load_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint, model_fingerprint
from shelllcc.anchors.search import nearest
from shelllcc.comfy import choosing, guiding, models
from shelllcc.comfy.picture import frames_picture
from shelllcc.guidance import paths
from shelllcc.guidance.errors import ModelError, UsageError
from shelllcc.guidance.fit.fit import Band, Belongs, Fit, from_dict, write_fit
from shelllcc.guidance.guide.config import GuideConfig


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SHELLLCC_BANKS")}
    words = [sys.executable, str(root / "tests/comfy/alone.py"), str(root)]
    done = subprocess.run(
        words, env=outside | {"XDG_DATA_HOME": str(folder)}, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_nodes_need_torch_numpy_and_safetensors_alone(root, alone):
    assert alone["nodes"] == ["ShellLCCFit", "ShellLCCGuidance", "ShellLCCScore"]
    assert alone["missing"] == []
    assert alone["home"] == str(root / "__init__.py")


def test_the_guide_acts_in_its_window_alone(alone):
    assert alone["off"]
    assert all(size == 0 for size in alone["moved"][:5]), alone["moved"]
    assert all(size > 0 for size in alone["moved"][5:9]), alone["moved"]
    assert alone["moved"][9] == 0  # the last step: nothing could mend it


def test_given_frames_and_references_stay(alone):
    assert alone["frames"][0] == 0 < min(alone["frames"][1:])
    assert alone["behind"][:2] == [0, 0]
    assert alone["behind"][2] > 0


def test_a_clone_beside_another_shelllcc_says_so(root, tmp_path):
    copied = tmp_path / "__init__.py"
    copied.write_bytes((root / "__init__.py").read_bytes())
    spec = importlib.util.spec_from_file_location("custom_nodes_shelllcc", copied)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        with pytest.raises(ImportError, match=r"another shelllcc, .*; remove one of them"):
            _ = module.comfy_entrypoint
    finally:
        del sys.modules[spec.name]


def test_a_host_without_platformdirs_finds_the_same_folder(monkeypatch, tmp_path):
    for home in (None, str(tmp_path)):
        if home:
            monkeypatch.setenv("XDG_DATA_HOME", home)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "platformdirs", None)
            found = paths.data_folder("banks")
        assert str(found.parent) == platformdirs.user_data_dir("shelllcc")
        assert found == paths.data_folder("banks")


def test_a_host_without_faiss_finds_the_same_anchors(monkeypatch):
    tokens, anchors = torch.randn(50, 8), torch.randn(300, 8)
    found = nearest(tokens, anchors, k=3)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert torch.equal(nearest(tokens, anchors, k=3), found)


def test_a_host_without_faiss_places_anchors_about_as_well(monkeypatch):
    dice = torch.Generator().manual_seed(0)
    places = torch.randn(6, 8, generator=dice) * 5
    tokens = (places[:, None] + torch.randn(6, 200, 8, generator=dice)).flatten(0, 1)

    def missed(centres):
        return float(torch.cdist(tokens, centres).amin(1).square().mean())

    usual = missed(build._kmeans(tokens, 12, 0))
    monkeypatch.setitem(sys.modules, "faiss", None)
    found = build._kmeans(tokens, 12, 0)
    assert torch.equal(found, build._kmeans(tokens, 12, 0))
    assert missed(found) < 1.15 * usual < missed(tokens[:12])


SHAPE = model_fingerprint(dict(num_layers=30, patch_size=(1, 2, 2)))
BANDS = (Band("2 to 4", 0.0, 0.01, 0.0, 0.01), Band("contrast", 0.0, 0.01, 0.0, 0.01))


@pytest.fixture
def fits(monkeypatch, tmp_path):
    """Fits of the shipped bank, at 20 and at 40 steps, of four given levels, and of another shape."""
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    bank = load_bank("auto")
    euler = Belongs(bank.identity, None, "0" * 16, "FlowMatchEulerDiscreteScheduler", 20, 5.0, None, 5.0)
    few = replace(euler, steps=4, cfg=1.0, shift=1.0, sigmas=(1.0, 0.9375, 0.8333, 0.625))
    made = {"20": euler, "40": replace(euler, steps=40), "few": few, "other": replace(euler, steps=30)}
    for name, belongs in made.items():
        shape = "f" * 16 if name == "other" else SHAPE
        guide = GuideConfig(radius=2.0)
        clips = ("a", "b", "c", "d")
        fit = Fit(belongs, guide, BANDS, clips, (), 0, 0.95, (64, 64, 9), "a/Wan", bank.name, {}, transformer=shape)
        assert from_dict(fit.as_dict()) == fit
        write_fit(fit, tmp_path / "fits")
    return made


def sampling(steps, shift=5.0, cfg=5.0, part=slice(None), sigmas=None):
    bare = [1 - i / steps for i in range(steps + 1)]
    levels = sigmas or [shift * s / (1 + (shift - 1) * s) for s in bare]
    scheduler = "FlowMatchEulerDiscreteScheduler"
    return choosing.Sampling("", (SHAPE,), scheduler, tuple(levels[part]), shift, cfg)


def chosen(asked, fit="auto"):
    return choosing.choose("auto", fit, replace(asked, vae=load_bank("auto").vae))


@pytest.mark.parametrize(("asked", "found"), [
    (sampling(20), "20"), (sampling(24), "20"), (sampling(36), "40"), (sampling(30), "20 40"),
    (sampling(20, part=slice(0, 11)), "20"), (sampling(20, part=slice(10, None)), "20"),
    (sampling(4, cfg=1.0, sigmas=[1.0, 0.9375, 0.8333, 0.625, 0.0]), "few"),
    (sampling(4, cfg=1.0, sigmas=[1.0, 0.9375, 0.8333, 0.625, 0.0], part=slice(2, None)), "few"),
])  # fmt: skip
def test_auto_takes_the_nearest_fit_of_a_model_of_this_shape(fits, asked, found):
    label = chosen(asked)[2]
    assert any(fits[name].name in label for name in found.split()), label


@pytest.mark.parametrize("asked", [
    sampling(20, cfg=1.0), sampling(100), replace(sampling(20), shapes=("0" * 16,)), sampling(4, shift=8.0, cfg=1.0),
])  # fmt: skip
def test_without_a_fit_that_suits_it_says_what_makes_one(fits, asked):
    with pytest.raises(UsageError, match=rf"shelllcc fit --model MODEL --steps {asked.steps} --cfg {asked.cfg:g}"):
        chosen(asked)


def test_a_fit_is_taken_by_its_label_whatever_is_sampled(fits):
    names = {belongs.name for belongs in fits.values()}
    labels = [label for label in choosing.fits()[2:] if any(name in label for name in names)]
    assert len(labels) == 4
    for label in labels:
        assert label in chosen(sampling(8, cfg=1.0), label)[2]
    with pytest.raises(UsageError, match="is not there any more"):
        chosen(sampling(20), "gone [0123456789abcdef]")


def test_a_part_goes_on_as_the_schedule_does():
    whole = sampling(20).sigmas
    for cut in (5, 12, 19):
        assert sampling(20, part=slice(0, cut + 1)).after == pytest.approx(
            [*whole[cut + 1 : cut + 2]] if cut < 19 else []
        )
        assert sampling(20, part=slice(cut, None)).steps == 20 or cut == 19


def test_shapes_and_latents_are_told_as_the_command_line_does():
    facts = dict(num_layers=30, num_heads=12, dim=1536, ffn_dim=8960, in_dim=16, patch_size=(1, 2, 2))
    theirs = dict(num_layers=30, num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, text_dim=4096)
    theirs |= dict(in_channels=16, patch_size=[1, 2, 2])
    model = SimpleNamespace(model_config=SimpleNamespace(unet_config=facts))
    shapes = models.shapes_of(SimpleNamespace(model=model))
    assert model_fingerprint(theirs) in shapes
    assert model_fingerprint(theirs, boundary=0.875) in shapes
    wan = {name: torch.tensor(WAN21_VAE[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std")}
    assert models.space_of_format(SimpleNamespace(latent_channels=16, **wan)) == fingerprint(WAN21_VAE)


@pytest.mark.parametrize(("name", "said"), [
    ("Flux", "this model is Flux"), ("WAN21_FlowRVS", "a Wan that makes masks"),
    ("WAN21_CausalAR", "a Wan that samples block after block"),
])  # fmt: skip
def test_other_models_are_refused_by_name(name, said):
    kind = type(name, (type("WAN21", (), {}),) if name.startswith("WAN") else (), {})
    with pytest.raises(ModelError, match=said):
        guiding.guide_model(SimpleNamespace(model=kind()), guiding.Wanted())


def test_flat_packs_are_refused():
    packed = torch.zeros(1, 1, 960)
    run = object.__new__(guiding._Run)
    run.wanted, run.sigmas, run.whole = guiding.Wanted(), [1.0, 0.3, 0.0], True
    run.guide = SimpleNamespace(step_at=lambda index: (0.3, 0.5))
    with pytest.raises(ModelError, match="video latents"):
        run.moved(dict(denoised=packed, sigma=torch.tensor([0.3])))


def test_a_picture_has_a_bar_for_each_frame():
    picture = frames_picture([[1.0, 0.5, 4.0], [1.0, 1.0, 1.0]])
    assert picture.shape == (2, 256, 512, 3)
    high = [(picture[0, :, x, 0] < 0.5).sum() for x in (90, 256, 420)]
    assert high[1] < high[0] < high[2]
    assert 0 <= picture.min() <= picture.max() <= 1
