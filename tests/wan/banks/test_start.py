"""Starter banks: of any VAE, the same each time, whole after a kill, and better with the user's own videos."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from shelllcc.anchors.bankfile import read_bank, save_bank
from shelllcc.anchors.build import starter_recipe
from shelllcc.anchors.choose import choose_bank
from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.anchors.latents import open_latents, save_latents
from shelllcc.anchors.manifold import import_checkpoint
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.media.photographs import PHOTOGRAPHS
from shelllcc.guidance.wan.banks.start import Shots, bank_or_start, start_bank, starter_path
from shelllcc.guidance.wan.model.pipeline import TINY, Model, find_model, folder_fingerprint

SMALL = Shots(48, frames=5, moves=1)
TOYS = {
    "16 channels": {},
    "48 channels": dict(
        z_dim=48, decoder_base_dim=8, in_channels=12, out_channels=12, is_residual=True, patch_size=2,
        scale_factor_spatial=16, latents_mean=[0.1] * 48, latents_std=[1.1] * 48,
    ),
    "8 channels": dict(z_dim=8, latents_mean=[0.0] * 8, latents_std=[1.0] * 8),
}  # fmt: skip


@pytest.fixture(autouse=True)
def banks(monkeypatch, tmp_path):
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path / "banks"))
    return tmp_path / "banks"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A model of a toy VAE alone."""
    made = {}

    def make(kind="16 channels"):
        if kind not in made:
            folder = tmp_path_factory.mktemp("toy")
            torch.manual_seed(0)
            vae = AutoencoderKLWan(**dict(base_dim=8, num_res_blocks=1) | TOYS[kind])
            vae.save_pretrained(folder / "vae")
            config = json.loads((folder / "vae/config.json").read_text())
            made[kind] = Model(str(folder), folder_fingerprint_of(folder), {}, config, False)
        return made[kind]

    return make


def folder_fingerprint_of(folder: Path) -> str:
    (folder / "model_index.json").write_text("{}")
    return folder_fingerprint(folder)


@pytest.mark.parametrize("kind", TOYS)
def test_any_vae_gets_a_bank_that_fits_it(toy, kind):
    model, seen = toy(kind), []
    shots = Shots(128, frames=5, moves=2) if kind == "48 channels" else SMALL
    bank = start_bank(model, device="cpu", shots=shots, on_clip=lambda done, total: seen.append((done, total)))
    channels = int(model.vae["z_dim"])
    assert bank.vae == fingerprint(model.vae)
    assert bank.shell.channels == channels
    assert (bank.shell.skeleton.dimensions, bank.guided) == (9 * channels, 6 * channels)
    assert bank.path == starter_path(model)
    clips = len(PHOTOGRAPHS) * shots.moves
    assert seen == [(done, clips) for done in range(clips + 1)]
    assert choose_bank(None, bank.vae)[0].identity == bank.identity
    assert 0.05 < bank.shell.survival < 1
    assert bank.shell.skeleton.usage is not None


def test_it_says_what_it_is_made_of(toy):
    bank = start_bank(toy(), device="cpu", shots=SMALL)
    known = bank.provenance
    assert known["made_by"] == "shelllcc anchors start"
    assert known["photographs"][0] == {
        "name": PHOTOGRAPHS[0].name,
        "author": PHOTOGRAPHS[0].author,
        "licence": PHOTOGRAPHS[0].licence,
        "sha256": PHOTOGRAPHS[0].sha256,
    }
    assert (known["videos"], known["added"], known["shots"]["size"]) == (len(PHOTOGRAPHS), 0, 48)
    files = [open_latents(path) for path in sorted(bank.path.with_suffix(".latents").iterdir())]
    assert {file.source for file in files} == {p.sha256 for p in PHOTOGRAPHS}
    assert set(known["held_out"]) < {p.sha256 for p in PHOTOGRAPHS}
    assert any(file.caption == "a raccoon, static shot, daylight" for file in files)


def test_the_same_weights_make_the_same_bytes_and_a_second_start_makes_nothing(toy, banks, monkeypatch):
    first = start_bank(toy(), device="cpu", shots=SMALL)
    before = {path: path.stat().st_mtime_ns for path in banks.rglob("*.safetensors")}
    seen = []
    again = start_bank(toy(), device="cpu", shots=SMALL, on_clip=lambda *count: seen.append(count))
    assert (again.sha256, seen) == (first.sha256, [])
    assert {path: path.stat().st_mtime_ns for path in banks.rglob("*.safetensors")} == before
    monkeypatch.setenv("SHELLLCC_BANKS", str(banks.parent / "others"))
    assert start_bank(toy(), device="cpu", shots=SMALL).sha256 == first.sha256


def test_videos_of_the_users_own_join_the_photographs(toy, tmp_path, latents):
    model, heard = toy(), []
    file = tmp_path / "mine.safetensors"
    save_latents(file, latents(5), {"vae": fingerprint(model.vae)})
    plain = start_bank(model, device="cpu", shots=SMALL)
    more = start_bank(model, device="cpu", shots=SMALL, add=[file])
    assert [bank.provenance["added"] for bank in (plain, more)] == [0, 1]
    assert more.identity != plain.identity
    assert start_bank(model, device="cpu", shots=SMALL).sha256 == more.sha256
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(UsageError, match="none of the videos or latents to add could be used"):
        start_bank(model, device="cpu", shots=SMALL, add=[broken], on_note=heard.append)
    assert "broken.mp4" in heard[0]
    assert read_bank(starter_path(model)).sha256 == more.sha256
    assert start_bank(model, device="cpu", shots=SMALL, overwrite=True).sha256 == plain.sha256


def test_a_torn_bank_and_torn_latents_are_made_anew_and_anothers_bank_is_left(toy, bank):
    model = toy("8 channels")
    whole = start_bank(model, device="cpu", shots=SMALL)
    path = starter_path(model)
    path.write_bytes(path.read_bytes()[:1000])
    latents = sorted(path.with_suffix(".latents").iterdir())[0]
    latents.write_bytes(latents.read_bytes()[:100])
    assert start_bank(model, device="cpu", shots=SMALL).sha256 == whole.sha256
    save_bank(bank, path)
    with pytest.raises(UsageError, match="is no starter bank; move it away, or --overwrite it"):
        start_bank(model, device="cpu", shots=SMALL)
    assert read_bank(path).identity == bank.identity


def finished(folder):
    """Files that are not being written."""
    return [path for path in folder.glob("*.safetensors") if not path.name.startswith(".")]


@pytest.mark.faults
def test_killed_half_way_it_leaves_nothing_torn_and_goes_on(toy, banks):
    model = toy("8 channels")
    code = (
        "import sys; from shelllcc.guidance.wan.banks.start import Shots, start_bank;"
        "from shelllcc.guidance.wan.model.pipeline import Model;"
        "from shelllcc.guidance.jobs.engines import engine_of; shots = Shots(48, frames=5, moves=1);"
        f"start_bank({model!r}, device='cpu', shots=shots, engine=engine_of('local', 2, device='cpu'))"
    )
    folder = starter_path(model).with_suffix(".latents")
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        while not folder.is_dir() or len(finished(folder)) < 3:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not starter_path(model).exists()
    done = [path for path in finished(folder) if open_latents(path).clips == 1]
    assert 3 <= len(done) < len(PHOTOGRAPHS)
    seen = list[int]()
    bank = start_bank(model, device="cpu", shots=SMALL, on_clip=lambda done, total: seen.append(done))
    assert seen[0] == len(done)
    shutil.rmtree(banks)
    assert start_bank(model, device="cpu", shots=SMALL).sha256 == bank.sha256


def test_shots_suit_the_vae_and_the_device(toy):
    assert Shots.usual(toy(), "cpu") == Shots(192, moves=1)
    assert Shots.usual(toy("48 channels"), "cuda") == Shots(256, moves=3)
    assert starter_recipe(16).components == 144
    assert starter_recipe(200).components == 432


@pytest.fixture
def copy(tmp_path):
    """The embedded model with another normalisation of its latents: another fingerprint."""
    folder = tmp_path / "copy"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.py", "__pycache__"))
    for weights in TINY.rglob("*.safetensors"):
        (folder / weights.relative_to(TINY)).symlink_to(weights)
    config = json.loads((folder / "vae/config.json").read_text())
    config["latents_mean"] = [mean + 0.01 for mean in config["latents_mean"]]
    (folder / "vae/config.json").write_text(json.dumps(config))
    return folder


def test_the_command_makes_a_bank_for_a_model_whose_vae_has_none(copy, shelllcc, monkeypatch):
    monkeypatch.setattr(Shots, "usual", classmethod(lambda cls, model, device: Shots(48, frames=5, moves=1)))
    code, out, err = shelllcc("anchors", "info", "auto", "--json")
    assert "tiny-wan" in out
    code, out, err = shelllcc("anchors", "start", "--model", copy, "--workers", "1", "--device", "cpu", "--json")
    assert code == 0, err
    assert json.loads(out)["bank"].endswith(f"starter-{fingerprint(find_model(str(copy)).vae)}.safetensors")
    assert "encoding photographs" in err
    code, told, err = shelllcc("anchors", "info", json.loads(out)["bank"], "--json")
    assert 0.05 < json.loads(told)["survival"] < 1
    code, again, err = shelllcc("anchors", "start", "--model", copy, "--workers", "1", "--device", "cpu", "--json")
    assert json.loads(again) == json.loads(out)
    words = ("--steps", "4", "--size", "64x64", "--frames", "5", "--seed", "1", "--device", "cpu", "--json")
    code, out, err = shelllcc(
        "generate", "--model", copy, "--prompt", "gravel, static shot, daylight", "--fit", "never", *words
    )
    assert code == 0, err
    assert "is not calibrated for this model" in err
    assert "starter-" in Path(json.loads(out)["clips"][0]["sidecar"]).read_text()


def test_the_first_use_of_a_model_makes_its_bank_and_others_have_theirs(copy, shared, banks):
    shipped, _ = bank_or_start(find_model(None))
    assert (shipped.name, banks.exists()) == ("tiny-wan", False)
    model, seen = find_model(str(copy)), []
    manifold = import_checkpoint(shared / "golden/reference_checkpoint.pth", model="m", vae=fingerprint(model.vae))
    save_bank(manifold, banks / "a manifold.safetensors")  # it would need a fit
    shots = Shots(48, frames=5, moves=1)
    first, remarks = bank_or_start(model, device="cpu", shots=shots, on_clip=lambda *count: seen.append(count))
    assert (first.path, seen[-1]) == (starter_path(model), (len(PHOTOGRAPHS), len(PHOTOGRAPHS)))
    assert "is not calibrated for this model" in remarks[0]
    seen.clear()
    assert bank_or_start(model, on_clip=lambda *count: seen.append(count))[0].sha256 == first.sha256
    assert seen == []
