"""What a clip was made with is known again: model folders, banks and their calibrations, in old records and new."""

import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shelllcc.anchors import shelf
from shelllcc.anchors.bank import Calibration
from shelllcc.anchors.bankfile import read_bank, save_bank
from shelllcc.anchors.choose import load_bank
from shelllcc.anchors.fingerprints import model_fingerprint
from shelllcc.anchors.shelf import keep_calibration, open_bank
from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.geometry.shell import Curve
from shelllcc.guidance.wan.clips import profiles
from shelllcc.guidance.wan.clips.recorded import is_loading, is_run
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.loading import Loading, Lora
from shelllcc.guidance.wan.model.pipeline import TINY, find_model
from shelllcc.guidance.wan.model.presets import PRESETS

CLIP = ["--prompt", "a tabby cat, zoom in, daylight", "--size", "32x32", "--frames", "5", "--steps", "3"]
CLIP += ["--window", "0:1"]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def wan(tmp_path):
    """A model folder of the user's own: the tiny Wan's files."""
    return shutil.copytree(TINY, tmp_path / "wan")


@pytest.fixture
def banks(tmp_path, monkeypatch):
    """The user's folder of banks."""
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path / "banks"))
    return tmp_path / "banks"


def change(folder, name=WEIGHTS):
    """Another file of the same size."""
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({key: tensor * 1.5 for key, tensor in load_file(path).items()}, path)
    else:
        path.write_bytes(path.read_bytes().replace(b"e", b"f"))


def curve(*radii):
    """A calibration for the tiny model, of these radii."""
    line = torch.tensor(radii)
    levels = torch.linspace(0, 1, len(radii))
    return Calibration("tiny", find_model(None).fingerprint, Curve(levels, torch.stack([line, line])))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def made(shelllcc, *words):
    code, out, err = shelllcc("generate", *words, "--json")
    assert code == 0, err
    return json.loads(out)["clips"], err


@pytest.mark.parametrize(
    "name",
    [
        WEIGHTS,
        "transformer/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ],
)
def test_a_model_folder_is_known_by_its_files(name, wan, tmp_path):
    first = find_model(str(wan)).revision
    (wan / "README.md").write_text("read me")
    (wan / "transformer/README.md").write_text("read me")
    (wan / "transformer/.lock").write_text("")
    assert find_model(str(wan)).revision == first != "local"
    file = wan / name
    blob = bytearray(file.read_bytes())
    blob[0 if name == WEIGHTS else -1] ^= 1  # its size stays
    before = first
    if file.suffix == ".json":
        file.write_text(file.read_text() + " ")
    else:
        file.write_bytes(blob)
    assert find_model(str(wan)).revision != before


def test_both_transformers_count_and_a_snapshot_of_links_is_its_files(wan, tmp_path):
    shutil.copytree(wan / "transformer", wan / "transformer_2")
    index = json.loads((wan / "model_index.json").read_text())
    edit(wan / "model_index.json", transformer_2=index["transformer"], boundary_ratio=0.875)
    snapshot = tmp_path / "models--a--b/snapshots/0123"
    for number, path in enumerate(path for path in wan.rglob("*") if path.is_file()):
        blob = tmp_path / f"models--a--b/blobs/{number}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(wan)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    first = find_model(str(wan))
    assert first.two_stage
    assert find_model(str(snapshot)).revision == first.revision
    change(wan, "transformer_2/diffusion_pytorch_model.safetensors")
    assert find_model(str(wan)).revision != first.revision
    edit(wan / "model_index.json", boundary_ratio="high")
    with pytest.raises(ModelError, match="boundary_ratio 'high'"):
        find_model(str(wan))


def test_a_large_folder_is_fingerprinted_at_once(wan):
    os.truncate(wan / WEIGHTS, 28 << 30)  # sparse
    started = time.perf_counter()
    first = find_model(str(wan)).revision
    assert time.perf_counter() - started < 1
    os.truncate(wan / WEIGHTS, (28 << 30) + 1)
    assert find_model(str(wan)).revision != first


def test_a_changed_model_folder_is_not_taken_for_the_one_that_made_a_clip(shelllcc, wan, tmp_path):
    [record], _ = made(shelllcc, *CLIP, "--model", wan, "--fit", "never", "-o", "a.mp4")
    assert record["model"] == {"source": str(wan), "revision": find_model(str(wan)).revision}
    again = [*CLIP, "--model", wan, "--fit", "never", "-o", "a.mp4", "--resume"]
    assert made(shelllcc, *again)[0] == []
    [same], err = made(shelllcc, "--from", "a.json", "-o", "b.mp4")
    assert same["frames_sha256"] == record["frames_sha256"]
    assert "note" not in err
    change(wan)
    code, out, err = shelllcc("generate", "--from", "a.json", "-o", "b.mp4", "--dry-run")
    assert (code, out) == (2, "")
    assert err == (
        f"shelllcc: error: the model folder {wan} is not what the sidecar was made with; "
        f"give --model {wan} to use it all the same\n"
    )
    assert shelllcc("generate", "--from", "a.json", "--model", wan, "-o", "c.mp4", "--dry-run")[0] == 0
    edit(tmp_path / "a.json", model={"source": str(wan), "revision": "local"})  # as sidecars were before
    code, out, err = shelllcc("generate", "--from", "a.json", "-o", "c.mp4", "--dry-run")
    assert code == 0
    assert f"note: the sidecar does not say which weights {wan} held" in err
    clips, err = made(shelllcc, *again)
    assert clips == []
    assert f"note: the sidecar does not say which weights {wan} held" in err
    edit(tmp_path / "a.json", model=record["model"])
    code, _, err = shelllcc("generate", *again)
    assert code == 2
    assert "a.json is the record of another clip, of another model, bank or loading; give another --output" in err
    [other], _ = made(shelllcc, *again, "--overwrite")
    assert other["frames_sha256"] != record["frames_sha256"]
    assert other["model"]["revision"] != record["model"]["revision"]


def test_a_profile_belongs_to_a_folder_s_weights(wan, tmp_path, monkeypatch):
    monkeypatch.setenv("SHELLLCC_PROFILES", str(tmp_path / "profiles"))
    bank, request = load_bank("tiny-wan"), Request.resolve(PRESETS["tiny"], prompt="a cat")
    model = find_model(str(wan))
    kept = profiles.store(request, model, Loading(), bank, {"strength": 2.0, "balance": 0.1})
    assert profiles.find(request, model, Loading(), bank) == kept
    change(wan)
    other = find_model(str(wan))
    assert profiles.find(request, other, Loading(), bank) is None
    older = replace(other, revision="local")  # as profiles were before
    belongs = profiles.identity(request, older, Loading(), bank) | {"bank": {"name": bank.name, "sha256": bank.sha256}}
    old = kept | belongs | {"name": profiles.name_of(belongs)}
    del old["calibration"]
    (tmp_path / "profiles" / f"{old['name']}.json").write_text(json.dumps(old))
    tuned, note = profiles.tuned_request(request, other, Loading(), bank)
    assert tuned.guide.strength == 2.0
    assert "does not say which weights" in note
    assert profiles.find(request, find_model(None), Loading(), bank) is None


def test_a_profile_outlives_a_calibration_and_says_so(banks, tmp_path, monkeypatch):
    monkeypatch.setenv("SHELLLCC_PROFILES", str(tmp_path / "profiles"))
    model, request = find_model(None), Request.resolve(PRESETS["tiny"], prompt="a cat")
    bank = open_bank("tiny-wan").for_model(model.fingerprint)
    profiles.store(request, model, Loading(), bank, {"strength": 2.0, "balance": 0.1})
    assert profiles.tuned_request(request, model, Loading(), bank)[1] == "strength 2, as tuned for this prompt"
    keep_calibration(bank, curve(1.0, 1.1))
    tuned, note = profiles.tuned_request(request, model, Loading(), open_bank("tiny-wan").for_model(model.fingerprint))
    assert tuned.guide.strength == 2.0
    assert "calibrated since" in note


def test_the_files_of_an_adapter_s_folder_are_told(tmp_path):
    (tmp_path / "style").mkdir()
    save_file({"x": torch.zeros(2)}, tmp_path / "style/a.safetensors")
    loading = Loading(loras=(Lora(str(tmp_path / "style")),))
    first = loading.recipe()
    save_file({"x": torch.ones(2)}, tmp_path / "style/a.safetensors")
    assert loading.recipe() != first
    assert not is_loading(first, loading.recipe())
    assert is_loading(first | {"fingerprints": {}}, loading.recipe())  # as sidecars were before
    assert not is_loading(first | {"tiling": True, "fingerprints": {}}, loading.recipe())


def test_a_run_goes_on_with_what_it_was_begun_with(shelllcc, wan, tmp_path):
    words = ["compare", *CLIP, "--strengths", "0,1", "--model", wan, "--fit", "never", "-o", "run"]
    assert shelllcc(*words)[0] == 0
    run, clips = tmp_path / "run/run.json", sorted((tmp_path / "run").glob("00_*.mp4"))
    record = json.loads(run.read_text())
    asked = record["asked"]
    times = [path.stat().st_mtime_ns for path in clips]
    older = {"bank": asked["bank"]["sha256"], "model": {"source": str(wan), "revision": "local"}}
    run.write_text(json.dumps(asked | older))  # as runs were before
    for path in (tmp_path / "run").glob("00_*.json"):
        edit(path, bank={"sha256": older["bank"]}, model=older["model"])
    code, _, err = shelllcc(*words)
    assert code == 0
    assert f"note: the run does not say which weights {wan} held" in err
    assert [path.stat().st_mtime_ns for path in clips] == times
    assert json.loads(run.read_text()) == record
    for changed in ({"model": asked["model"] | {"revision": "0" * 16}}, {"bank": "0" * 64}, {"bank": None}):
        assert not is_run(asked | changed, asked)
    assert not is_run(asked | {"bank": asked["bank"] | {"calibration": None}}, asked)
    assert is_run(asked | {"bank": asked["bank"] | {"sha256": "0" * 64}}, asked)
    change(wan)
    code, _, err = shelllcc(*words)
    assert code == 2
    assert "holds another run" in err


def test_models_of_one_shape_and_another_number_of_stages_share_no_calibration(root):
    config = dict(
        num_layers=40, num_attention_heads=40, attention_head_dim=128, ffn_dim=13824, text_dim=4096, in_channels=16,
        patch_size=[1, 2, 2],
    )  # fmt: skip
    assert model_fingerprint(config) == "723c080614ce03ef"  # as banks have it
    assert len({model_fingerprint(config, boundary=b) for b in (None, 0.875, 0.9)}) == 3
    shipped = read_bank(root / "anchors/tiny-wan.safetensors")
    assert [c.fingerprint for c in shipped.calibrations] == [find_model(None).fingerprint]
    assert shipped.for_model(find_model(None).fingerprint).chosen is not None


def test_an_identity_is_what_decides_on_a_distance(bank, tmp_path):
    calibrated = save_bank(replace(bank, provenance={"a": "b"}).with_calibration(curve(1.0, 2.0)), tmp_path / "a")
    plain = save_bank(bank, tmp_path / "b")
    assert calibrated.sha256 != plain.sha256
    assert calibrated.identity == plain.identity == bank.identity == read_bank(tmp_path / "a").identity
    skeleton = replace(bank.shell.skeleton, whitening=bank.shell.skeleton.whitening * 2)
    others = [
        replace(bank, shell=replace(bank.shell, skeleton=skeleton)),
        replace(bank, clean=Curve(bank.clean.sigmas, bank.clean.radius * 2)),
        replace(bank, guided=bank.guided - 1),
        replace(bank, vae="1" * 16),
    ]
    assert len({other.identity for other in (bank, *others)}) == 5


def test_an_identity_has_the_bytes_that_the_docs_say(root):
    path = root / "anchors/tiny-wan.safetensors"
    blob = path.read_bytes()
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    facts = [[key, header["__metadata__"][key]] for key in ("guided", "k", "kind", "patch", "vae")]
    digest = hashlib.sha256(json.dumps(facts).encode())
    tensors = load_file(path)
    for name in ("anchors", "basis", "mean", "radius", "sigmas", "survival", "usage", "whitening"):
        digest.update(f"{name}{tuple(tensors[name].shape)}torch.float32".encode() + tensors[name].numpy().tobytes())
    assert read_bank(path).identity == digest.hexdigest()


def test_calibrating_leaves_the_bank_alone_and_every_way_to_it_finds_the_curve(shelllcc, pipe, tmp_path, root):
    shipped = root / "anchors/tiny-wan.safetensors"
    before, mark = shipped.read_bytes(), shipped.stat().st_mtime_ns
    generator = torch.Generator().manual_seed(3)
    channels = read_bank(shipped).shell.channels
    save_file({"latents": torch.randn(1, channels, 2, 8, 8, generator=generator)}, tmp_path / "one.safetensors")
    code, out, err = shelllcc("anchors", "calibrate", "tiny-wan", "one.safetensors", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (shipped.read_bytes(), shipped.stat().st_mtime_ns) == (before, mark)
    assert Path(report["calibration"]).parent == Path(os.environ["SHELLLCC_BANKS"], "calibrations")
    assert report["calibrated_for"] == ["tiny"]
    measured = open_bank("tiny-wan").beside[0]
    for name in ("tiny-wan", "auto", shipped):
        assert load_bank(name, pipe).chosen.digest == measured.digest
    [record], _ = made(shelllcc, *CLIP, "-o", "a.mp4")
    assert record["bank"]["calibration"] == measured.digest
    aimed = measured.curve.at(record["trace"][0]["sigma"])[1]
    assert record["trace"][0]["target"] == pytest.approx(aimed)
    facts = json.loads(shelllcc("anchors", "info", "tiny-wan", "--json")[1])
    assert [c["model"] for c in facts["calibrations"]] == ["tiny"]
    code, out, _ = shelllcc("anchors", "calibrate", "tiny-wan", "one.safetensors", "-o", "with.safetensors", "--json")
    assert code == 0
    assert [c.digest for c in read_bank(tmp_path / "with.safetensors").calibrations] == [measured.digest]


def test_a_clip_made_before_calibrating_replays_to_the_bit(shelllcc, tmp_path):
    bare = save_bank(replace(read_bank(shelf.locate("tiny-wan")), calibrations=()), tmp_path / "bare.safetensors")
    [first], _ = made(shelllcc, *CLIP, "--bank", "bare.safetensors", "-o", "a.mp4")
    assert first["bank"]["calibration"] is None
    keep_calibration(bare, curve(0.5, 0.4))
    again = ["--from", "a.json", "-o", "b.mp4"]
    [same], err = made(shelllcc, *again)
    assert same["frames_sha256"] == first["frames_sha256"]
    assert "bank bare is used not calibrated, as then" in err
    [other], _ = made(shelllcc, *again, "--bank", "bare.safetensors", "--overwrite")
    assert other["frames_sha256"] != first["frames_sha256"]
    resumed, _ = made(shelllcc, *CLIP, "--bank", "bare.safetensors", "-o", "a.mp4", "--resume", "--overwrite")
    assert [clip["frames_sha256"] for clip in resumed] == [other["frames_sha256"]]
    keep_calibration(open_bank("bare.safetensors"), curve(0.9, 0.8))
    code, out, err = shelllcc("generate", *again)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "was calibrated anew; give --bank" in err


def test_a_sidecar_that_names_the_file_s_digest_replays_with_the_file_s_calibration(shelllcc, tmp_path):
    [first], _ = made(shelllcc, *CLIP, "-o", "a.mp4")
    bank = read_bank(shelf.locate("tiny-wan"))
    older = {"name": bank.name, "path": str(bank.path), "sha256": bank.sha256}
    edit(tmp_path / "a.json", bank=older)
    assert made(shelllcc, *CLIP, "-o", "a.mp4", "--resume")[0] == []
    keep_calibration(bank, curve(0.5, 0.4))
    [same], err = made(shelllcc, "--from", "a.json", "-o", "b.mp4")
    assert same["frames_sha256"] == first["frames_sha256"]
    assert "used as calibrated then" in err
    edit(tmp_path / "a.json", bank=older | {"sha256": bank.identity})
    assert shelllcc("generate", "--from", "a.json", "-o", "b.mp4", "--dry-run")[0] == 0
    for wrong in ({"sha256": "0" * 64}, {"identity": "0" * 64}):
        edit(tmp_path / "a.json", bank=older | wrong)
        code, _, err = shelllcc("generate", "--from", "a.json", "-o", "b.mp4", "--dry-run")
        assert code == 1
        assert "is not the one that the sidecar names" in err


def test_the_newest_calibration_holds_in_every_file_of_the_bank(banks, tmp_path):
    own, first, second, third = (curve(r, r) for r in (1.0, 2.0, 3.0, 4.0))
    bank = replace(read_bank(shelf.locate("tiny-wan")), calibrations=(own,))
    save_bank(bank, tmp_path / "a.safetensors")

    def current(name):
        [found] = open_bank(tmp_path / f"{name}.safetensors").current
        return found.digest

    keep_calibration(open_bank(tmp_path / "a.safetensors"), first)
    assert current("a") == first.digest
    save_bank(open_bank(tmp_path / "a.safetensors").with_calibration(second), tmp_path / "b.safetensors")
    assert (current("a"), current("b")) == (first.digest, second.digest)
    keep_calibration(open_bank(tmp_path / "b.safetensors"), third)
    assert (current("a"), current("b")) == (third.digest, third.digest)
    assert len(list((banks / "calibrations").iterdir())) == 1


def test_torn_and_foreign_calibrations_are_passed_over_with_a_remark(shelllcc, pipe, tmp_path):
    bank = read_bank(shelf.locate("tiny-wan"))
    path = keep_calibration(bank, curve(1.0, 1.1))
    sound, tensors = path.read_bytes(), load_file(path)
    other = keep_calibration(replace(bank, vae="1" * 16), curve(1.0, 1.1))
    assert other != path
    from safetensors import safe_open

    from shelllcc.anchors.bankfile import write_tensors

    with safe_open(path, "pt") as file:
        about = {key: value for key, value in file.metadata().items() if key != "digest"}
    foreign = other.read_bytes()
    other.unlink()
    broken = {"torn": sound[:-5], "empty": b"", "foreign": foreign, "changed": sound[:-1] + bytes([sound[-1] ^ 1])}
    for name, (change_of, facts) in {
        "nan": ({"radius": tensors["radius"] * float("nan")}, {}),
        "shape": ({"radius": tensors["radius"][:, :1].contiguous()}, {}),
        "falling": ({"sigmas": tensors["sigmas"].flip(0)}, {}),
        "negative": ({"radius": -tensors["radius"]}, {}),
        "header": ({}, {"replaces": "5"}),
        "model": ({}, {"fingerprint": "0" * 16}),
    }.items():
        write_tensors(path, tensors | change_of, about | facts)
        broken[name] = path.read_bytes()
    for name, blob in broken.items():
        path.write_bytes(blob)
        found = open_bank("tiny-wan")
        assert found.beside == (), name
        assert found.for_model(find_model(None).fingerprint).chosen.digest == bank.calibrations[0].digest
        [remark] = found.remarks
        assert str(path) in remark
    code, _, err = shelllcc("generate", *CLIP, "--dry-run")
    assert code == 0
    assert sum("passed over a calibration" in line for line in err.splitlines()) == 1
    with pytest.warns(UserWarning, match="passed over a calibration"):
        load_bank("tiny-wan", pipe)
    path.write_bytes(sound)
    assert load_bank("tiny-wan", pipe).chosen.digest == curve(1.0, 1.1).digest


def test_a_batch_goes_on_with_clips_that_older_versions_made(shelllcc, wan, tmp_path):
    (tmp_path / "prompts.txt").write_text("a tabby cat, zoom in, daylight\n")
    words = ["batch", "prompts.txt", *CLIP[2:], "--model", wan, "--fit", "never", "-o", "many"]
    words += ["--workers", "1", "--json"]
    code, out, err = shelllcc(*words)
    assert code == 0, err
    [sidecar] = (tmp_path / "many").rglob("*.json")
    edit(sidecar, model={"source": str(wan), "revision": "local"})
    code, out, err = shelllcc(*words)
    assert (code, json.loads(out)["clips"]) == (0, [])
    assert f"note: the sidecar does not say which weights {wan} held" in err
