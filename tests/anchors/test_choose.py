"""One choice of a bank, for Python and every command."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from shelllcc.anchors.bank import Calibration
from shelllcc.anchors.bankfile import save_bank
from shelllcc.anchors.choose import choose_bank, load_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint, model_fingerprint
from shelllcc.anchors.manifold import import_checkpoint
from shelllcc.anchors.shelf import keep_calibration
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.geometry.shell import Curve

SHAPE = {"num_layers": 2, "patch_size": [1, 2, 2]}
VAE, MODEL = fingerprint(WAN21_VAE), model_fingerprint(SHAPE)


@pytest.fixture
def banks(bank, tmp_path, monkeypatch):
    """A user's folder with a bank for no model, and two for the Wan2.1 VAE, the second calibrated for MODEL."""
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    ours = dataclasses.replace(bank, vae=VAE)
    curve = Curve(torch.tensor([0.0, 1.0]), torch.ones(2, 2))
    save_bank(bank, tmp_path / "a.safetensors")
    save_bank(ours, tmp_path / "b.safetensors")
    save_bank(ours.with_calibration(Calibration("mine", MODEL, curve)), tmp_path / "c.safetensors")
    return tmp_path


@pytest.mark.parametrize("auto", [None, "auto"])
def test_auto_prefers_a_bank_that_is_calibrated_and_says_where_others_are_as_good(banks, auto):
    chosen, remarks = choose_bank(auto, VAE)
    assert (chosen.name, remarks) == ("b", ["b, c fit alike: took b; --bank names another"])
    chosen, remarks = choose_bank(auto, VAE, MODEL)
    assert (chosen.name, remarks) == ("c", [])
    assert choose_bank(auto)[0].name == "tiny-wan"  # for any model: what ships comes first
    with pytest.raises(BankError, match=r"no bank fits this model's VAE \(ffff\): make one of photographs that ship"):
        choose_bank(auto, "ffff")


def made(bank, folder, name, *, by="shelllcc anchors build", videos=9, **more):
    """A bank for the Wan2.1 VAE of that origin, in that folder."""
    provenance = {"made_by": by, "videos": videos, **more}
    guided = bank.guided - len(name)  # no two are one bank by their identity
    ours = dataclasses.replace(bank, vae=VAE, provenance=provenance, guided=guided)
    return save_bank(ours, folder / f"{name}.safetensors")


def test_auto_goes_by_fit_then_calibration_then_origin_then_videos_and_never_by_name(bank, tmp_path, monkeypatch):
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    made(bank, tmp_path, "a", by="shelllcc anchors start", videos=99)
    assert choose_bank(None, VAE, MODEL)[0].name == "a"
    made(bank, tmp_path, "few", videos=3)
    assert choose_bank(None, VAE, MODEL)[0].name == "few"
    made(bank, tmp_path, "many", videos=30)
    assert choose_bank(None, VAE, MODEL)[0].name == "many"
    curve = Curve(torch.tensor([0.0, 1.0]), torch.ones(2, 2))
    keep_calibration(choose_bank("few")[0], Calibration("mine", MODEL, curve))
    assert choose_bank(None, VAE, MODEL)[0].name == "few"
    fitted = made(bank, tmp_path, "zz", by="shelllcc anchors start")
    chosen, remarks = choose_bank(None, VAE, MODEL, fitted=[fitted.identity])
    assert (chosen.name, remarks) == ("zz", [])  # a fit needs no calibration


def test_what_was_fetched_does_not_guide_by_itself(bank, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    manifold = import_checkpoint(shared / "golden/reference_checkpoint.pth", model="m", vae=VAE)
    save_bank(manifold, tmp_path / "manifold.safetensors")
    fetched = made(bank, tmp_path, "fetched", url="https://example.org/bank.safetensors")
    with pytest.raises(BankError, match=r"no bank fits .* fit fetched with `shelllcc fit --model o/m --bank fetched`"):
        choose_bank(None, VAE, MODEL, model="o/m")
    assert choose_bank(None, VAE)[0].name in ("fetched", "manifold")  # it scores
    assert choose_bank("manifold", VAE, MODEL)[0].name == "manifold"  # it was named
    assert choose_bank(None, VAE, MODEL, fitted=[manifold.identity])[0].name == "manifold"
    keep_calibration(fetched, Calibration("mine", MODEL, Curve(torch.tensor([0.0, 1.0]), torch.ones(2, 2))))
    assert choose_bank(None, VAE, MODEL)[0].name == "fetched"


@pytest.mark.parametrize("name", ["c", "c.safetensors"])
def test_a_bank_is_named_or_given_as_a_file(banks, name, monkeypatch):
    monkeypatch.chdir(banks)
    assert choose_bank(name, VAE)[0].name == "c"
    with pytest.raises(BankError, match="was made from latents of"):
        choose_bank("a", VAE)


def test_the_calibration_is_the_models_and_its_want_is_remarked(banks):
    calibrated, remarks = choose_bank("c", VAE, MODEL)
    assert (calibrated.chosen.fingerprint, remarks) == (MODEL, [])
    bare, [remark] = choose_bank("b", VAE, MODEL, model="org/wan")
    assert bare.chosen is None
    assert "bank b is not calibrated for this model" in remark
    assert remark.endswith("/b.safetensors --model org/wan`")
    assert choose_bank("b", VAE)[1] == []  # nobody asked for a model


def test_files_that_are_passed_over_are_remarked(banks):
    beside = banks / "calibrations" / f"{choose_bank('c')[0].identity[:16]}-{MODEL}.safetensors"
    beside.parent.mkdir()
    beside.write_bytes(b"torn")
    _, [remark] = choose_bank("c", VAE, MODEL)
    assert beside.name in remark


def test_python_hears_what_a_command_does(banks):
    config = SimpleNamespace(get=lambda key: None)
    pipe = SimpleNamespace(vae=SimpleNamespace(config=WAN21_VAE), config=config, transformer=SimpleNamespace())
    pipe.transformer.config = SHAPE
    assert load_bank("c", pipe).chosen.fingerprint == MODEL
    assert load_bank("auto", pipe).name == "c"
    with pytest.warns(UserWarning, match="bank b is not calibrated for this model"):
        assert load_bank("b", pipe).name == "b"


def test_commands_take_auto(banks, shelllcc):
    code, out, err = shelllcc("anchors", "info", "auto", "--json")
    assert code == 0, err
    assert '"tiny-wan' in out or "tiny-wan.safetensors" in out
