"""The authors' manifold: read from both forms of its checkpoint, equal to reference values, and never executed."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from shelllcc.anchors.bankfile import read_bank, save_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint
from shelllcc.anchors.manifold import import_checkpoint, read_checkpoint, reward
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide

PLACE = {"model": "wan2.1", "vae": fingerprint(WAN21_VAE)}
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


@pytest.fixture(scope="module")
def golden(shared):
    return shared / "golden/reference_checkpoint.pth"


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden.with_name("reference_checkpoint.expected.safetensors"))


@pytest.fixture
def imported(golden, tmp_path):
    """The golden bank, written and read back."""
    return read_bank(save_bank(import_checkpoint(golden, **PLACE), tmp_path / "bank.safetensors").path)


def test_skeleton_scale_and_distance_equal_the_reference(imported, expected):
    shell = imported.shell
    tokens = shell.project(expected["latents"])[0]
    points, weights = shell.skeleton.code(tokens)
    assert_close(weights.sum(-1), torch.ones(len(tokens)))
    assert_close(points, expected["skeleton"], **CLOSE)
    assert_close(shell.skeleton.scale(points), expected["scale"], **CLOSE)
    assert_close(shell.residuals(expected["latents"])[1][0], expected["distance"], **CLOSE)


@pytest.mark.parametrize(("name", "band"), [("reward", None), ("band_reward", 0.444)])
def test_rewards_and_their_gradients_equal_the_reference(imported, expected, name, band):
    latents = expected["latents"].clone().requires_grad_()
    value = reward(imported.shell, latents, band=band)
    assert_close(value[None], expected[name], **CLOSE)
    value.backward()
    gradient, wanted = latents.grad, expected[f"{name}_grad"]
    assert float((gradient - wanted).norm() / wanted.norm()) < 1e-5
    assert_close(gradient, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_both_forms_of_the_keys_are_read(golden, tmp_path):
    content = torch.load(golden, weights_only=True)
    content["model"] = {f"module.{key}": value for key, value in content["model"].items()}
    torch.save(content, tmp_path / "ddp.pth")
    torch.save(content["model"], tmp_path / "bare.pth")
    wanted = read_checkpoint(golden)
    for name in ("ddp.pth", "bare.pth"):
        found = read_checkpoint(tmp_path / name)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_the_guide_moves_real_shaped_latents_toward_the_manifolds_radius(imported, expected):
    guide = ShellGuide(imported, GuideConfig(toward=1.0, radius=1.0, coarse=1.0, tone=0.0, trust=10.0))
    x0 = expected["latents"]
    moved = x0 + guide.move(x0, 0.5, share=1.0)  # all of the way, but not in brightness and colour
    gap = [float((imported.shell.residuals(x)[1].median() - guide.trace[0].target).abs()) for x in (x0, moved)]
    assert gap[1] < 0.8 * gap[0]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def damaged(name: str, golden: Path, folder: Path) -> Path:
    path = folder / "bad.pth"
    content = torch.load(golden, weights_only=True)
    match name:
        case "a pickle bomb":
            path.write_bytes(pickle.dumps(Bomb(folder / "executed")))
        case "a bomb in a torch file":
            torch.save(content | {"optimizer": Bomb(folder / "executed")}, path)
            (folder / "executed").unlink(missing_ok=True)
        case "truncated":
            path.write_bytes(golden.read_bytes()[:-2000])
        case "empty":
            path.write_bytes(b"")
        case "NaN":
            content["model"]["basis"][3, 3] = float("nan")
            torch.save(content, path)
        case "a missing layer":
            del content["model"]["surface_head.2.bias"]
            torch.save(content, path)
        case "a wrong shape":
            content["model"]["basis"] = content["model"]["basis"][:, :8].clone()
            torch.save(content, path)
        case "sparse":
            content["model"]["basis"] = content["model"]["basis"].to_sparse()
            torch.save(content, path)
        case "complex":
            content["model"]["basis"] = content["model"]["basis"] + 0j
            torch.save(content, path)
        case "more than is stored":
            content["model"]["basis"] = torch.zeros(1).expand(1 << 18, 1 << 18)
            torch.save(content, path)
        case "a negative variance":
            content["model"]["predictor.1.running_var"] *= -1
            torch.save(content, path)
        case "a list":
            torch.save([1, 2], path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "a pickle bomb",
        "a bomb in a torch file",
        "truncated",
        "empty",
        "NaN",
        "a missing layer",
        "a wrong shape",
        "sparse",
        "complex",
        "more than is stored",
        "a negative variance",
        "a list",
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line_and_never_executed(name, golden, tmp_path):
    path = damaged(name, golden, tmp_path)
    with pytest.raises(BankError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]
