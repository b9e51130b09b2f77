"""One choice of a bank, for Python and every command."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from shelllcc.anchors.bank import Calibration
from shelllcc.anchors.bankfile import save_bank
from shelllcc.anchors.choose import choose_bank, load_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint, model_fingerprint
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
def test_auto_is_the_first_bank_that_fits(banks, auto):
    chosen, remarks = choose_bank(auto, VAE)
    assert (chosen.name, remarks) == ("b", [])
    assert choose_bank(auto)[0].name == "tiny-wan"  # for any model: what ships comes first
    with pytest.raises(BankError, match=r"no bank fits this model's VAE \(ffff\)"):
        choose_bank(auto, "ffff")


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
    with pytest.warns(UserWarning, match="bank b is not calibrated for this model"):
        assert load_bank("auto", pipe).name == "b"


def test_commands_take_auto(banks, shelllcc):
    code, out, err = shelllcc("anchors", "info", "auto", "--json")
    assert code == 0, err
    assert '"tiny-wan' in out or "tiny-wan.safetensors" in out
