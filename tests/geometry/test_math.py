"""Flow, patches, coding and shell: properties that must hold for any input."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from shelllcc.guidance.geometry import coding, shell, skeletons
from shelllcc.guidance.geometry.flow import shift_velocity, x0_from_velocity
from shelllcc.guidance.geometry.patches import average_tokens, to_tokens

FREE = {"least": 0.5, "most": 6.0, "gate": 3.0}


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


def test_a_clip_on_the_shell_does_not_move_and_one_off_it_reaches_it():
    residual, whitening = randn(2, 40, 6), randn(1, 6, 6, seed=1)
    still = shell.stretch(residual, torch.ones(2), beyond=torch.ones(6), texture=0.1, **FREE)
    assert_close(still, torch.zeros_like(still))
    index = torch.zeros(80, dtype=torch.long)
    distance = skeletons.whitened_norm(residual.flatten(0, 1), index, whitening).view(2, 40)
    radius = distance.median(1).values * torch.tensor([0.8, 1.7])
    moved = residual + shell.stretch(
        residual, radius / distance.median(1).values, beyond=torch.ones(6), texture=0.0, **FREE
    )
    after = skeletons.whitened_norm(moved.flatten(0, 1), index, whitening).view(2, 40)
    assert_close(after.median(1).values, radius)


def test_the_move_is_the_preconditioned_gradient_of_the_clips_shell_energy():
    """Of (d - radius)^2 / 2 with d the root of the mean squared distance, times the number of patches."""
    residual, whitening, radius = randn(7, 5).double(), randn(1, 5, 5, seed=1).double(), 4.0
    index = torch.zeros(7, dtype=torch.long)

    def size(r):
        return skeletons.whitened_norm(r, index, whitening).square().mean().sqrt()

    gradient, step = torch.zeros(7, 5).double(), 1e-6
    for i, j in itertools.product(range(7), range(5)):
        nudge = torch.zeros(7, 5).double()
        nudge[i, j] = step
        up, down = (0.5 * (size(residual + n) - radius).square() for n in (nudge, -nudge))
        gradient[i, j] = (up - down) / (2 * step)
    metric = whitening[0] @ whitening[0].T  # the inverse of the squared scale
    wanted = -7 * torch.linalg.solve(metric, gradient.T).T
    ratio = (radius / size(residual))[None]
    assert FREE["least"] < ratio < FREE["most"]
    move = shell.stretch(residual[None], ratio, beyond=torch.ones(5), texture=0.0, **FREE)
    assert_close(move[0], wanted, rtol=1e-6, atol=1e-8)


def test_flat_patches_are_not_filled_with_noise_and_fine_directions_go_farthest():
    residual = torch.cat([randn(20, 48), 0.1 * randn(20, 48, seed=1)])[None]
    fineness = principal(48).fineness(fine=5 / 12)
    move = shell.stretch(residual, torch.ones(1), beyond=3**fineness, texture=1.0, **FREE)[0] / residual[0]
    assert_close(move[:, 0], torch.zeros(40))
    assert (move[:, :20].diff(dim=1) > 0).all()
    assert_close(move[:20, 20:], 2 * (1 / (1 + residual[0, :20].square().mean(-1) ** -1.5))[:, None].expand(-1, 28))
    assert move[20:].max() < 0.01
    inward = shell.stretch(residual, torch.tensor([0.7]), beyond=torch.ones(48), texture=1.0, **FREE)[0]
    assert_close(inward, -0.3 * residual[0])  # noise goes as fast as texture


def test_distance_is_one_for_held_out_latents_and_tells_blur_and_noise(shell, latents):
    x = torch.cat([latents(seed) for seed in range(20, 26)])
    median = shell.residuals(x)[1].median()
    assert 0.9 < median < 1.1
    blurred = torch.nn.functional.avg_pool3d(x, (1, 3, 3), stride=1, padding=(0, 1, 1))
    noisy = x + 0.3 * randn(*x.shape)
    assert shell.residuals(blurred)[1].median() < 0.9 * median
    assert shell.residuals(noisy)[1].median() > 1.1 * median


def principal(directions):
    skeleton = skeletons.Anchors(randn(9, directions), torch.eye(directions)[None])
    return shell.Shell(1, torch.zeros(directions), torch.eye(directions), skeleton)


def test_fine_directions_are_the_last_principal_ones_and_those_in_which_a_manifold_varies_least():
    found = principal(49).fineness(fine=5 / 12)
    assert found[0] == 0
    assert_close(found[10], torch.tensor(0.5))
    assert (found[20:] == 1).all()
    spread = torch.tensor([0.1, 5.0, 1.0, 3.0])
    weights = {"basis": randn(200, 4) * spread, "global_scale": torch.ones(4), "global_bias": torch.zeros(4)}
    manifold = shell.Shell(1, torch.zeros(4), torch.eye(4), skeletons.Amortized(weights))
    assert_close(manifold.fineness(fine=5 / 12), torch.tensor([1.0, 0.0, 1.0, 0.8]))


def test_factors_keep_within_their_bounds_and_the_gate_has_its_power():
    residual, ones = randn(1, 20, 6), torch.ones(6)
    for ratio, factor in ((0.1, 0.8), (9.0, 2.0)):
        move = shell.stretch(residual, torch.tensor([ratio]), beyond=ones, texture=0.0, least=0.8, most=2.0, gate=2.0)
        assert_close(move, (factor - 1) * residual)
    pushed = shell.stretch(residual, torch.tensor([2.0]), beyond=ones, texture=0.5, least=0.5, most=6.0, gate=2.0)
    energy = residual.square().mean(-1, keepdim=True)
    assert_close(pushed, energy / (energy + 0.25) * residual)


@pytest.mark.parametrize("patch", [1, 3])
def test_colours_are_what_flat_patches_differ_in(patch):
    axes = torch.linalg.qr(randn(16, 16)).Q
    means = randn(40, 3, seed=1) @ axes[:, :3].T + 0.2 * randn(40, 16, seed=2) @ (axes[:, 3:] @ axes[:, 3:].T)
    texture = randn(40, 16, patch**2, seed=3)
    tokens = means[..., None] + (texture - texture.mean(-1, keepdim=True))
    skeleton = skeletons.Anchors(tokens.flatten(1), torch.eye(16 * patch**2)[None])
    found = shell.Shell(patch, torch.zeros(16 * patch**2), torch.eye(16 * patch**2), skeleton).colours(directions=3)
    assert_close(found @ found, found)
    assert_close(found.trace(), torch.tensor(3.0))
    assert torch.linalg.matrix_norm(found - axes[:, :3] @ axes[:, :3].T, 2) < 0.3  # the sine of the widest angle


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
