"""Bank files: whole, checked, and made the same twice."""

import json
import pickle

import faiss
import pytest
import torch
from torch.testing import assert_close

from shelllcc.anchors import search
from shelllcc.anchors.bank import Bank, check_bank
from shelllcc.anchors.bankfile import read_bank, save_bank
from shelllcc.anchors.build import KINDS, Recipe, fit_shell
from shelllcc.anchors.calibrate import calibrate_radius
from shelllcc.anchors.choose import load_bank
from shelllcc.anchors.draws import draw
from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.anchors.score import score_latents
from shelllcc.anchors.shelf import shipped_banks
from shelllcc.guidance.errors import BankError, OutputError
from shelllcc.guidance.geometry import coding
from shelllcc.guidance.geometry.patches import average_tokens
from shelllcc.guidance.wan.banks.analyze import radial, share_of_pairs, usage


@pytest.fixture
def file(bank, tmp_path):
    return save_bank(bank, tmp_path / "bank.safetensors").path


def test_a_saved_bank_comes_back_whole(bank, file):
    loaded = load_bank(file)
    for name in ("mean", "basis"):
        assert torch.equal(getattr(loaded.shell, name), getattr(bank.shell, name))
    for name in ("anchors", "whitening"):
        assert torch.equal(getattr(loaded.shell.skeleton, name), getattr(bank.shell.skeleton, name))
    assert torch.equal(loaded.clean.radius, bank.clean.radius)
    assert torch.equal(loaded.quantiles, bank.quantiles)
    assert (loaded.model, loaded.vae, loaded.provenance) == (bank.model, bank.vae, bank.provenance)
    assert len(loaded.sha256) == 64
    assert not list(file.parent.glob(".part*"))


@pytest.mark.parametrize(("kind", "patch"), KINDS)
def test_the_same_latents_make_the_same_bytes_on_one_thread_and_two(latents, tmp_path, kind, patch):
    clips = [latents(seed, frames=9, height=60, width=60)[0] for seed in range(6)]
    recipe = Recipe.usual(kind, patch, anchors=32)
    blobs, before = [], (torch.get_num_threads(), faiss.omp_get_max_threads())
    try:
        for threads, name in ((1, "a"), (2, "b")):
            torch.set_num_threads(threads)
            faiss.omp_set_num_threads(threads)
            fit = fit_shell(clips[0:4:2], clips[1:4:2], clips[4:], recipe)
            assert faiss.omp_get_max_threads() == threads
            assert torch.get_num_threads() == threads
            bank = Bank(fit.shell, fit.guided, fit.clean, "m", "v", {}, fit.quantiles)
            blobs.append(save_bank(bank, tmp_path / name).path.read_bytes())
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
    assert blobs[0] == blobs[1]


def test_a_changed_byte_is_noticed(file):
    blob = bytearray(file.read_bytes())
    blob[-9] ^= 1
    file.write_bytes(blob)
    with pytest.raises(BankError, match=r"changed after it was made|finite"):
        read_bank(file)


def test_changed_metadata_is_noticed(file):
    file.write_bytes(file.read_bytes().replace(b'"vae":"0000000000000000"', b'"vae":"0000000000000001"'))
    with pytest.raises(BankError, match="changed after it was made"):
        read_bank(file)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_torn_file_is_refused(file, kept):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BankError, match="not a whole safetensors file"):
        read_bank(file)


def test_foreign_files_are_refused_and_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    bomb = tmp_path / "bomb.safetensors"
    bomb.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BankError):
        read_bank(bomb)
    assert not (tmp_path / "executed").exists()

    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BankError, match="no anchor bank"):
        read_bank(tmp_path / "other.safetensors")
    with pytest.raises(BankError, match="no bank at nowhere"):
        load_bank("nowhere")


def test_nan_is_not_saved(bank, tmp_path):
    from dataclasses import replace

    skeleton = bank.shell.skeleton
    broken = replace(bank.shell, skeleton=replace(skeleton, anchors=skeleton.anchors * float("nan")))
    with pytest.raises(BankError, match="finite"):
        save_bank(replace(bank, shell=broken), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_said(bank, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_bank(bank, tmp_path / "file" / "bank.safetensors")


def test_a_bank_of_another_vae_is_refused(bank):
    with pytest.raises(BankError, match="anchors build"):
        check_bank(bank, "1" * 16)


def test_the_fingerprint_knows_the_latent_space_alone():
    config = {"z_dim": 2, "latents_mean": [0.0, 1.0], "latents_std": [1.0, 2.0], "base_dim": 96}
    assert fingerprint(config) == fingerprint(config | {"base_dim": 32, "scale_factor_spatial": 8})
    assert fingerprint(config) != fingerprint(config | {"latents_mean": [0.0, 1.1]})
    assert fingerprint(config) != fingerprint(config | {"scale_factor_spatial": 16})


def test_calibration_finds_the_smoothing_of_the_denoiser(shell, latents):
    clips = torch.cat([latents(seed) for seed in range(40, 46)])

    def perfect(noised, sigma, index):
        return (noised - clips[index : index + 1]) / sigma

    def smoothing(noised, sigma, index):
        return (noised - (1 - sigma) * clips[index : index + 1]) / sigma  # predicts a weaker x0 at higher noise

    level = calibrate_radius(shell, list(clips), perfect, sigmas=(0.0, 0.5, 1.0))
    assert_close(level.sigmas, torch.tensor([0.0, 0.5, 1.0]))
    assert_close(level.radius[1], level.radius[1, :1].expand(3), rtol=1e-3, atol=1e-3)
    _, falling = calibrate_radius(shell, list(clips), smoothing, sigmas=(0.0, 0.5, 0.9)).radius
    assert falling[0] > falling[1] > falling[2]


def test_shipped_banks_are_whole_and_say_where_they_come_from():
    assert shipped_banks()
    for path in shipped_banks():
        bank = read_bank(path)
        assert json.dumps(bank.provenance)
        assert bank.provenance["source"]
        assert bank.calibrations[0].curve.sigmas.numel() > 8
        assert 0.3 < float(bank.quantiles[0, 3]) < 2


@pytest.mark.parametrize(("m", "d", "k"), [(32, 96, 1), (1024, 16, 8), (512, 24, 4), (100, 16, 8)])
def test_both_searches_find_the_same_neighbours(m, d, k):
    generator = torch.Generator().manual_seed(m)
    tokens, anchors = torch.randn(3000, d, generator=generator), torch.randn(m, d, generator=generator)
    wanted = torch.cdist(tokens.double(), anchors.double()).topk(k, largest=False).indices
    for found in (search.nearest(tokens, anchors, k=k), coding.nearest(tokens, anchors, k=k)):
        assert float((found == wanted).float().mean()) > 0.9999  # float32 may swap two that are as near


def test_a_token_of_nan_has_an_index_and_no_distance(shell):
    tokens = torch.full((3, shell.skeleton.dimensions), float("nan"))
    _, distance = shell.skeleton.residuals(tokens)
    assert distance.isnan().all()


def test_a_draw_is_seeded_ordered_and_takes_every_column():
    grid = torch.arange(20 * 60 * 104)
    drawn = draw(grid, 1200, seed=3)
    assert torch.equal(drawn, draw(grid, 1200, seed=3))
    assert not torch.equal(drawn, draw(grid, 1200, seed=4))
    assert (drawn.diff() > 0).all()
    assert set((drawn % 104).tolist()) == set(range(104))
    assert torch.equal(draw(grid[:5], 9, seed=0), grid[:5])


def test_about_a_tenth_of_held_out_patches_lie_outside_the_shell(bank, latents):
    scores = [score_latents(bank, latents(seed)[0]) for seed in range(50, 60)]
    for side in ("below", "above"):
        assert 0.02 < sum(getattr(score, side) for score in scores) / 10 < 0.1


def test_radial_gives_the_latents_at_one_and_the_skeleton_at_zero(bank, latents):
    x, shell = latents(61)[0], bank.shell
    assert_close(radial(shell, x, 1.0), x)
    tokens = shell.project(x[None])[0]
    points, _ = shell.skeleton.code(tokens)
    skeleton = average_tokens((points @ shell.basis.T + shell.mean)[None], x[None].shape, size=shell.patch)[0]
    assert_close(radial(shell, x, 0.0), skeleton, atol=1e-4, rtol=1e-4)


def test_usage_counts_every_patch_once(bank, latents):
    clips = [latents(seed)[0] for seed in (70, 71)]
    index = torch.cat([bank.shell.skeleton.code(bank.shell.project(clip[None])[0])[1] for clip in clips])
    wanted = (index.bincount(minlength=2) / len(index)).sort(descending=True).values
    assert_close(torch.tensor(usage(bank.shell, clips)["shares"]), wanted, atol=1e-5, rtol=0)


def test_shares_of_pairs():
    assert share_of_pairs([1.0, 2.0], [3.0, 4.0]) == 1
    assert share_of_pairs([1.0, 2.0], [1.0, 2.0]) == 0.5
    assert share_of_pairs([3.0, 4.0], [1.0]) == 0
