"""What real latents use of a bank: its places, and what overlap leaves of a move."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from shelllcc.anchors.bankfile import read_bank, save_bank
from shelllcc.anchors.build import Recipe, fit_shell
from shelllcc.anchors.manifold import import_checkpoint
from shelllcc.anchors.shelf import open_bank
from shelllcc.anchors.use import as_used
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.geometry.patches import to_tokens
from shelllcc.guidance.geometry.shell import Shell
from shelllcc.guidance.geometry.skeletons import Anchors


def along_residuals(shell, clip):
    """How far a move along all residuals, by as much as they are, takes the patches along them."""
    residual, _ = shell.residuals(clip[None])
    moved = shell.to_latents(residual, clip[None].shape, lambda part: part)
    return float((to_tokens(moved, size=shell.patch) @ shell.basis * residual).sum() / residual.square().sum())


@pytest.mark.parametrize(("kind", "patch"), [("covariance", 1), ("covariance", 3), ("local", 3)])
def test_a_move_means_what_it_says_for_patches_of_any_kind(latents, kind, patch):
    clips = [latents(seed)[0] for seed in range(12)]
    recipe = Recipe.usual(kind, patch, anchors=8, components=16, neighbours=4 if kind == "local" else None)
    shell = fit_shell(clips[0:8:2], clips[1:8:2], clips[8:], recipe).shell
    bare = dataclasses.replace(shell, survival=1.0)
    assert along_residuals(shell, latents(99)[0]) == pytest.approx(1, abs=0.05)
    if patch == 1:
        assert shell.survival == 1
        assert along_residuals(bare, latents(99)[0]) == pytest.approx(1, abs=1e-4)
    else:
        assert along_residuals(bare, latents(99)[0]) < 0.95
        assert along_residuals(bare, latents(99)[0]) == pytest.approx(shell.survival, abs=0.05)


def line_of_anchors(*places, scale):
    """A shell of voxels with two channels and anchors at these places, whose residuals have these scales."""
    whitening = torch.stack([torch.eye(2) / s for s in scale])
    return Shell(1, torch.zeros(2), torch.eye(2), Anchors(torch.tensor(places), whitening))


def test_anchors_that_nobody_visits_do_not_count():
    near = line_of_anchors([0.0, 0.0], [1.0, 0.0], scale=(1.0, 1.0))
    far = line_of_anchors([0.0, 0.0], [1.0, 0.0], [0.0, 50.0], scale=(1.0, 1.0, 40.0))
    clip = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    used = as_used(far, [clip], guided=2)
    assert far.texture > 10 * near.texture
    assert used.texture == pytest.approx(near.texture)
    assert used.skeleton.usage[2] == 0
    assert float(used.skeleton.usage.sum()) == pytest.approx(1)
    assert_close(far.colours(directions=1), torch.tensor([[0.0, 0.0], [0.0, 1.0]]), atol=0.02, rtol=0)
    assert_close(used.colours(directions=1), near.colours(directions=1))


def test_each_clip_counts_alike_whatever_its_length():
    shell = line_of_anchors([0.0, 0.0], [9.0, 0.0], scale=(1.0, 1.0))
    still, long = torch.zeros(2, 1, 4, 4), torch.full((2, 9, 8, 8), 9.0)
    assert_close(as_used(shell, [still, long], guided=2).skeleton.usage, torch.tensor([0.5, 0.5]))


@pytest.fixture(scope="module")
def checkpoint(shared):
    return shared / "golden/reference_checkpoint.pth"


def test_a_manifold_is_judged_where_tokens_lie_and_not_by_bases_that_nobody_uses(checkpoint, latents):
    place = {"model": "wan2.1", "vae": "0" * 16}
    bare, used = (import_checkpoint(checkpoint, held_out=held, **place).shell for held in ((), [latents(3)[0]]))
    idle = used.skeleton.weights | {"predictor.5.bias": used.skeleton.weights["predictor.5.bias"].clone()}
    idle["basis"] = torch.cat([idle["basis"][:-1], torch.full((1, 16), 1e3)])
    idle["predictor.5.bias"][-1] = -1e4
    weights = dict(idle)
    lonely = dataclasses.replace(bare, skeleton=dataclasses.replace(bare.skeleton, weights=weights))
    again = as_used(lonely, [latents(3)[0]], guided=16)
    assert (again.skeleton.points.abs() < 100).all()
    assert (lonely.skeleton.points.abs() > 100).any()
    coded, _ = used.skeleton.code(used.project(latents(3))[0])
    assert used.skeleton.spread == pytest.approx(float(used.skeleton.scale(coded).square().mean().sqrt()), rel=0.05)
    assert torch.equal(used.skeleton.order, used.skeleton.points.var(0).argsort(descending=True))
    assert used.survival == 1


def test_what_is_used_is_written_read_and_part_of_the_identity(bank, checkpoint, latents, tmp_path):
    manifold = import_checkpoint(checkpoint, model="m", vae="0" * 16, held_out=[latents(3)[0]])
    for made in (bank, manifold):
        read = read_bank(save_bank(made, tmp_path / "bank.safetensors").path)
        assert read.identity == made.identity
        assert read.shell.survival == made.shell.survival
        assert read.shell.texture == made.shell.texture
        assert_close(read.shell.colours(directions=1), made.shell.colours(directions=1))
    assert bank.shell.survival < 1
    other = dataclasses.replace(bank, shell=dataclasses.replace(bank.shell, survival=0.5))
    assert other.identity != bank.identity


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("usage", torch.tensor([0.7, 0.7]), "usage must be 2 shares that add up to 1"),
        ("usage", torch.tensor([1.0]), "usage must be 2 shares"),
        ("survival", torch.tensor([0.0]), r"survival must be one number from 0\.05 to 1"),
        ("survival", torch.tensor([0.9, 0.9]), "survival must be one number"),
        ("visited", torch.ones(4, 144), "too many"),
    ],
)
def test_a_bank_whose_use_makes_no_sense_is_refused(bank, tmp_path, part, value, told, monkeypatch):
    from shelllcc.anchors import bank as banks

    tensors = banks.Bank.tensors.fget(bank) | {part: value}
    monkeypatch.setattr(banks.Bank, "tensors", property(lambda self: dict(tensors)))
    with pytest.raises(BankError, match=told):
        save_bank(bank, tmp_path / "bank.safetensors")


def test_banks_of_before_are_as_they_were(monkeypatch, tmp_path):
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    shipped = open_bank("tiny-wan")
    if "usage" in shipped.tensors:
        pytest.skip("the shipped bank says what is used")
    assert shipped.shell.survival == 1
    scale = torch.linalg.inv(shipped.shell.skeleton.whitening)
    usual = float(scale.square().sum((1, 2)).mean().div(shipped.shell.skeleton.dimensions).sqrt())
    assert shipped.shell.skeleton.spread == usual
