"""Flow, patches, coding and shell: properties that must hold for any input."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from shelllcc.guidance import coding, shell, skeletons
from shelllcc.guidance.flow import shift_velocity, x0_from_velocity
from shelllcc.guidance.patches import average_tokens, to_tokens


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_x0_and_shifted_velocity_follow_the_flow():
    x0, noise, move, sigma = randn(2, 4, 3, 5, 5), randn(2, 4, 3, 5, 5, seed=1), randn(2, 4, 3, 5, 5, seed=2), 0.37
    sample, velocity = (1 - sigma) * x0 + sigma * noise, noise - x0
    assert_close(x0_from_velocity(sample, velocity, sigma), x0, atol=1e-5, rtol=1e-5)
    shifted = shift_velocity(velocity, move, sigma)
    assert_close(x0_from_velocity(sample, shifted, sigma), x0 + move, atol=1e-5, rtol=1e-5)
    assert shift_velocity(velocity.bfloat16(), move, sigma).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [1, 3, 5])
def test_averaging_unchanged_patches_gives_the_latents_back(size):
    x = randn(2, 4, 3, 7, 6)
    assert_close(average_tokens(to_tokens(x, size=size), x.shape, size=size), x)


def test_a_patch_is_the_neighbourhood_of_its_voxel():
    x = randn(1, 2, 2, 5, 6)
    token = to_tokens(x, size=3).view(1, 2, 5, 6, 2, 3, 3)[0, 1, 2, 3]
    assert_close(token, x[0, :, 1, 1:4, 2:5])


def test_nearest_is_exhaustive_search_whatever_the_chunk(monkeypatch):
    tokens, anchors = randn(500, 8), randn(40, 8, seed=1)
    wanted = torch.cdist(tokens, anchors).argsort(dim=1)[:, :5]
    assert torch.equal(coding.nearest(tokens, anchors, k=5), wanted)
    monkeypatch.setattr(coding, "ENTRIES", 64 * 40)
    assert torch.equal(coding.nearest(tokens, anchors, k=5), wanted)


def test_local_coordinates_sum_to_one_and_rebuild_what_their_neighbours_span():
    neighbours = randn(30, 4, 16)
    true = torch.softmax(randn(30, 4, seed=1), -1)
    tokens = (true[:, None] @ neighbours)[:, 0]
    weights = coding.local_coordinates(tokens, neighbours, ridge=1e-7)
    assert_close(weights.sum(-1), torch.ones(30))
    assert_close(weights, true, atol=2e-3, rtol=2e-3)


def test_one_neighbour_is_the_nearest_anchor():
    tokens, anchors = randn(20, 6), randn(9, 6, seed=1)
    point, index = skeletons.Anchors(anchors, torch.eye(6)[None]).code(tokens)
    assert_close(point, anchors[torch.cdist(tokens, anchors).argmin(1)])
    assert torch.equal(point, anchors[index])


def test_whitened_norm_uses_each_tokens_own_anchor():
    residual, whitening = randn(1000, 6), randn(40, 6, 6, seed=1)
    index = (randn(1000, seed=2).abs() * 12).long().clamp_max(39)  # some own several blocks, some nothing
    assert index.bincount(minlength=40).max() > 64
    assert (index.bincount(minlength=40) == 0).any()
    wanted = torch.stack([(r @ whitening[i]).norm() for r, i in zip(residual, index, strict=True)])
    assert_close(skeletons.whitened_norm(residual, index, whitening), wanted)


def test_a_token_on_the_shell_does_not_move_and_full_strength_reaches_it():
    residual, whitening = randn(40, 6), randn(1, 6, 6, seed=1)
    index = torch.zeros(40, dtype=torch.long)
    distance = skeletons.whitened_norm(residual, index, whitening)
    still = shell.move_to_radius(residual, distance, distance, strength=1.0, reach=9.0)
    assert_close(still, torch.zeros_like(still))
    radius = torch.full_like(distance, 3.0)
    moved = residual + shell.move_to_radius(residual, distance, radius, strength=1.0, reach=1e9)
    assert_close(skeletons.whitened_norm(moved, index, whitening), radius)


def test_the_move_is_the_preconditioned_gradient_of_the_shell_energy():
    residual, whitening, radius = randn(1, 5).double(), randn(1, 5, 5, seed=1).double(), 2.0
    index = torch.zeros(1, dtype=torch.long)

    def energy(r):
        return 0.5 * (skeletons.whitened_norm(r, index, whitening) - radius).square().sum()

    step, gradient = 1e-6, torch.zeros(1, 5).double()
    for i in range(5):
        nudge = torch.zeros(1, 5).double()
        nudge[0, i] = step
        gradient[0, i] = (energy(residual + nudge) - energy(residual - nudge)) / (2 * step)
    metric = whitening[0] @ whitening[0].T  # the inverse of the squared scale
    wanted = -0.25 * torch.linalg.solve(metric, gradient[0])
    distance = skeletons.whitened_norm(residual, index, whitening)
    move = shell.move_to_radius(residual, distance, torch.full_like(distance, radius), strength=0.25, reach=1e9)
    assert_close(move[0], wanted, rtol=1e-6, atol=1e-8)


def test_reach_bounds_the_outward_move():
    residual, distance = randn(8, 4), torch.full((8,), 0.1)
    move = shell.move_to_radius(residual, distance, torch.ones(8), strength=0.5, reach=2.0)
    assert_close(move, 0.5 * residual)


def test_distance_is_one_for_held_out_latents_and_tells_blur_and_noise(shell, latents):
    x = torch.cat([latents(seed) for seed in range(20, 26)])
    median = shell.residuals(x)[1].median()
    assert 0.9 < median < 1.1
    blurred = torch.nn.functional.avg_pool3d(x, (1, 3, 3), stride=1, padding=(0, 1, 1))
    noisy = x + 0.3 * randn(*x.shape)
    assert shell.residuals(blurred)[1].median() < 0.9 * median
    assert shell.residuals(noisy)[1].median() > 1.1 * median


def test_the_lifted_move_leaves_every_patch_its_mean(shell, latents):
    x = latents(27)
    tokens = to_tokens(x, size=shell.patch)
    flat = tokens.unflatten(-1, (16, 9)).mean(-1, keepdim=True).expand(-1, -1, -1, 9).flatten(-2)
    whole = replace(shell, basis=torch.eye(144), mean=torch.zeros(144))
    assert_close(whole.lift(flat, x.shape), torch.zeros_like(x), atol=1e-5, rtol=0)
    assert whole.lift(tokens, x.shape).abs().max() > 0.1


def test_radius_is_linear_between_calibrated_levels():
    curve = shell.Curve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[1.0, 2.0, 4.0], [2.0, 2.0, 6.0]]))
    for sigma, wanted in ((0.0, (1.0, 2.0)), (0.25, (1.5, 2.0)), (0.75, (3.0, 4.0)), (1.0, (4.0, 6.0))):
        assert_close(torch.tensor(curve.at(sigma)), torch.tensor(wanted))


def test_the_leading_components_of_a_bank_are_a_bank_of_their_own(bank, latents):
    """A triangular whitening of all components whitens the leading ones, too."""
    x = latents(31)
    some = bank.shell.leading(40)
    residual, distance = some.residuals(x)
    covariance = torch.linalg.inv((bank.shell.skeleton.whitening @ bank.shell.skeleton.whitening.mT).double())
    _, index = some.skeleton.code(some.project(x)[0])
    inner = torch.linalg.inv(covariance[:, :40, :40])[index]
    wanted = (residual[0].double()[:, None] @ inner @ residual[0].double()[..., None]).flatten().sqrt()
    assert_close(distance[0].double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("new", [False, True])
def test_distances_do_not_touch_the_choice_of_tf32(shell, latents, new):
    matmul = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if new else ("allow_tf32", True)
    if not hasattr(matmul, name):
        pytest.skip("this torch has no such setting")
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        shell.residuals(latents(3))
        assert getattr(matmul, name) == value
    finally:
        setattr(matmul, name, before)
