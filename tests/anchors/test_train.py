"""Training the authors' manifold: parity with their formulas, losses, resumption, several processes."""

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from shelllcc.anchors import train
from shelllcc.anchors.train import (
    Manifold,
    TrainConfig,
    begin,
    save_checkpoint,
    shell_loss,
    skeleton_loss,
    train_manifold,
)
from shelllcc.guidance.errors import BankError, OutputError, UsageError
from shelllcc.guidance.geometry.threads import one_thread

SHARED = Path(os.environ.get("SHELLLCC_SHARED", Path(__file__).parents[3] / "shared"))
SMALL = TrainConfig(bases=32, hidden=16, epochs_skeleton=3, epochs_shell=2, lr=1e-2, save_every=2)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def clips(latents):
    """Five clips of two lengths."""
    return [latents(seed, frames=2 + seed % 2, height=8, width=8)[0] for seed in range(5)]


@pytest.fixture(scope="module")
def golden():
    """The authors' form of a checkpoint, and what their formulas give on it."""
    from safetensors.torch import load_file

    file = SHARED / "golden/reference_checkpoint.pth"
    if not file.exists():
        pytest.skip(f"no {file}; SHELLLCC_SHARED names the folder that holds golden/")
    return torch.load(file, weights_only=True), load_file(file.with_suffix(".expected.safetensors"))


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """A run left alone: its state, its folder and the terms of its epochs."""
    folder, report = tmp_path_factory.mktemp("trained"), []
    state = train_manifold(clips, SMALL, folder, on_epoch=lambda *epoch: report.append(epoch))
    return state, folder, report


def as_tokens(clip):
    return clip.flatten(1).T


def assert_same(state, other):
    assert list(state) == list(other)
    for name in state:
        assert torch.equal(state[name], other[name]), name


def test_the_manifold_is_the_authors(golden):
    saved, expected = golden
    manifold = Manifold(16, 256, 64).eval()
    manifold.load_state_dict(saved["model"])
    latents = expected["latents"].clone().requires_grad_()
    tokens = latents.movedim(1, -1).flatten(0, 3)
    z_hat, weights = manifold.skeleton(tokens)
    assert_close(z_hat, expected["skeleton"], atol=1e-5, rtol=1e-5)
    assert_close(weights.sum(1), torch.ones(len(tokens)))
    assert_close(manifold.scale(z_hat), expected["scale"], atol=1e-5, rtol=1e-5)
    distance = manifold.distance(tokens)
    assert_close(distance, expected["distance"], atol=1e-5, rtol=1e-5)
    (slope,) = torch.autograd.grad(distance.mean(), latents)
    assert_close(slope, expected["reward_grad"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1000, 50])
def test_the_losses_are_what_they_say(clips, monkeypatch, chunk):
    monkeypatch.setattr(train, "CHUNK", chunk)  # 128 tokens: in one piece, and in three
    config = replace(SMALL, usage=0.3, proximity=0.7, regularisation=0.2)
    manifold = begin(clips, config)
    with torch.no_grad():  # away from the anchors' start on tokens, from scale 1 and bias 0
        for parameter in manifold.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    other, tokens = copy.deepcopy(manifold), as_tokens(clips[0])

    z_hat, weights = other.skeleton(tokens)
    far = (tokens[:, None] - other.basis).square().sum(-1)
    usage = weights.mean(0)
    naive = {
        "reconstruction": (z_hat - tokens).square().mean(),
        "locality": (weights * far).sum(1).mean(),
        "usage": (usage * (usage / (1 / 32)).log()).sum(),
        "proximity": far.min(0).values.mean(),
    }
    whole = naive["reconstruction"] + naive["locality"] + 0.3 * naive["usage"] + 0.7 * naive["proximity"]
    compare(skeleton_loss(manifold, tokens, config), naive | {"loss": whole}, manifold, other)

    manifold.eval(), other.eval()
    z_hat = other.skeleton(tokens)[0].detach()
    scale = other.scale(z_hat)
    distance = ((tokens - z_hat) / (scale + 1e-6)).square().sum(1).sqrt()
    naive = {"shell": (distance - 1).square().mean(), "regularisation": scale.log().square().mean()}
    whole = naive["shell"] + 0.2 * naive["regularisation"]
    compare(shell_loss(manifold, tokens, config), naive | {"loss": whole}, manifold, other)


def compare(terms, naive, manifold, other):
    """Terms, gradients and BatchNorm's statistics are the same."""
    assert terms.keys() == naive.keys()
    for name, term in terms.items():
        assert_close(term, naive[name], atol=1e-5, rtol=1e-5)
    for model, loss in ((manifold, terms["loss"]), (other, naive["loss"])):
        model.zero_grad()
        loss.backward()
    for (name, ours), theirs in zip(manifold.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(manifold.buffers(), other.buffers(), strict=True):
        assert_close(ours, theirs)


def test_an_anchor_without_use_has_a_finite_slope(clips):
    manifold = begin(clips, SMALL)
    with torch.no_grad():
        manifold.predictor[5].bias[0] = -1000.0
    skeleton_loss(manifold, as_tokens(clips[0]), SMALL)["loss"].backward()
    assert all(p.grad.isfinite().all() for name, p in manifold.named_parameters() if "head" not in name)


def test_anchors_start_on_voxels_of_many_clips(clips):
    manifold = begin(clips, SMALL)
    of_clip = [(manifold.basis[:, None] == as_tokens(clip)).all(-1).any(1) for clip in clips]
    owners = torch.stack(of_clip).nonzero()[:, 0].tolist()
    assert len(owners) == 32
    assert set(owners) == set(range(5))
    assert len(manifold.basis.unique(dim=0)) == 32


def test_held_out_clips_lie_on_the_shell_and_noised_ones_outside(latents, tmp_path):
    clips = [latents(seed)[0] for seed in range(12)]
    config = replace(SMALL, hidden=32, epochs_skeleton=30, epochs_shell=40)
    report = []
    state = train_manifold(clips, config, tmp_path, on_epoch=lambda *epoch: report.append(epoch))
    for stage, epochs in (("skeleton", 30), ("shell", 40)):
        losses = [terms["loss"] for name, _, terms in report if name == stage]
        assert len(losses) == epochs
        assert losses[-1] < 0.9 * losses[0]
    manifold = Manifold(16, 32, 32).eval()
    manifold.load_state_dict(state)
    held_out = torch.cat([as_tokens(latents(seed)[0]) for seed in range(20, 24)])
    noise = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean, mild, strong = (manifold.distance(held_out + level * noise).mean() for level in (0.0, 0.5, 1.0))
    assert 0.9 < clean < 1.1
    assert clean + 0.05 < mild
    assert mild + 0.1 < strong


def test_the_second_stage_leaves_the_skeleton_alone(clips, trained, tmp_path):
    first = train_manifold(clips, replace(SMALL, epochs_shell=0), tmp_path)
    for name, tensor in trained[0].items():
        assert torch.equal(tensor, first[name]) == (not name.startswith("surface_head")), name


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, tokens=40)], ids=["all", "some tokens"])
def test_more_epochs_later_equal_one_run(clips, tmp_path, config):
    whole = train_manifold(clips, config, tmp_path / "whole")
    for skeleton, shell in ((1, 0), (3, 1), (3, 2)):
        parts = train_manifold(clips, replace(config, epochs_skeleton=skeleton, epochs_shell=shell), tmp_path / "parts")
    assert_same(parts, whole)
    files = [torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("whole", "parts")]
    assert_same(*(file["model"] for file in files))
    for ours, theirs in zip(*(file["optimizer"]["state"].values() for file in files), strict=True):
        assert_same(ours, theirs)
    assert files[0]["config"] == files[1]["config"]


@pytest.mark.parametrize("kill", [("skeleton", 1), ("skeleton", 3), ("shell", 1), ("shell", 2)])
def test_a_killed_run_goes_on_as_if_nothing_were(clips, trained, tmp_path, kill):
    def on_epoch(stage, epoch, terms):
        seen.append((stage, epoch))
        if (stage, epoch) == kill:
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        train_manifold(clips, SMALL, tmp_path, on_epoch=on_epoch)
    assert seen[-1] == kill
    assert_same(train_manifold(clips, SMALL, tmp_path), trained[0])


def test_a_finished_run_is_handed_back(clips, trained):
    state, folder, report = trained
    assert [epoch[:2] for epoch in report] == [("skeleton", 1), ("skeleton", 2), ("skeleton", 3), ("shell", 1), ("shell", 2)]  # fmt: skip  # noqa: E501
    assert set(report[0][2]) == {"reconstruction", "locality", "usage", "proximity", "loss"}
    before = (folder / "checkpoint.pth").stat().st_mtime_ns
    assert_same(train_manifold(clips, SMALL, folder, on_epoch=lambda *epoch: pytest.fail("trained on")), state)
    assert (folder / "checkpoint.pth").stat().st_mtime_ns == before
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pth"]


def test_clips_are_loaded_one_at_a_time(clips, trained, tmp_path):
    class Lazy:
        def __len__(self):
            return len(clips)

        def __getitem__(self, index):
            assert isinstance(index, int)
            loaded.append(index)
            return clips[index]

    loaded = []
    assert_same(train_manifold(Lazy(), SMALL, tmp_path), trained[0])
    assert sorted(loaded[-5:]) == list(range(5))  # each once an epoch
    assert len(loaded) <= 5 * 5 + 5 + 2


def test_the_training_does_not_touch_the_callers_random_numbers(clips, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train_manifold(clips, replace(SMALL, epochs_skeleton=1, epochs_shell=0), tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [("bases", 16), ("hidden", 8), ("lr", 1e-3), ("seed", 1), ("tokens", 50), ("clips_per_step", 1), ("usage", 0.2),
     ("epochs_skeleton", 9), ("epochs_skeleton", 2), ("epochs_shell", 1)],
)  # fmt: skip
def test_another_trainings_checkpoint_is_refused(clips, trained, field, value):
    with pytest.raises(UsageError, match=rf"checkpoint\.pth.*\b{field}\b"):
        train_manifold(clips, replace(SMALL, **{field: value}), trained[1])


def test_other_latents_or_files_are_refused(clips, trained, tmp_path):
    with pytest.raises(UsageError, match="embedding_dim 16, not 8"):
        train_manifold([clip[:8] for clip in clips], SMALL, trained[1])
    save_checkpoint(trained[0], tmp_path / "checkpoint.pth")  # an export holds nothing to go on from
    with pytest.raises(BankError, match="no checkpoint of a training"):
        train_manifold(clips, SMALL, tmp_path)
    (tmp_path / "checkpoint.pth").write_bytes((trained[1] / "checkpoint.pth").read_bytes()[:1000])
    with pytest.raises(BankError, match="no checkpoint of a training"):
        train_manifold(clips, SMALL, tmp_path)
    with pytest.raises(UsageError, match="no clips"):
        train_manifold([], SMALL, tmp_path / "a")
    with pytest.raises(UsageError, match=r"latents \(16, t, h, w\).*\(8, 3, 8, 8\)"):
        train_manifold([clips[0], clips[1][:8]], SMALL, tmp_path / "b")
    with pytest.raises(UsageError, match="lower bases"):
        train_manifold(clips[:1], replace(SMALL, bases=500), tmp_path / "c")


@pytest.mark.parametrize(
    "wrong",
    [{"bases": 0}, {"hidden": 0}, {"epochs_skeleton": 0}, {"epochs_shell": -1}, {"clips_per_step": 0}, {"tokens": 1},
     {"save_every": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"usage": -0.1}, {"regularisation": float("inf")}],
    ids=str,
)  # fmt: skip
def test_a_wrong_config_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_a_training_that_diverges_stops_and_keeps_its_checkpoint(clips, tmp_path):
    config = replace(SMALL, save_every=1)
    train_manifold(clips, replace(config, epochs_skeleton=1, epochs_shell=0), tmp_path)
    before = (tmp_path / "checkpoint.pth").read_bytes()
    broken = clips[0].clone()
    broken[3, 0, 2, 2] = torch.nan
    with pytest.raises(BankError, match=r"NaN in epoch 2 of the skeleton; lower lr \(0\.01\)"):
        train_manifold([broken, *clips[1:]], config, tmp_path)
    assert (tmp_path / "checkpoint.pth").read_bytes() == before


def test_an_exported_file_has_the_authors_form(clips, golden, tmp_path):
    config = replace(SMALL, bases=256, hidden=64, epochs_skeleton=1, epochs_shell=1)
    state = train_manifold(clips, config, tmp_path)
    save_checkpoint(state, tmp_path / "shell_lcc.pth", {"epoch": 2, "config": {"lr": config.lr}})
    ours, theirs = torch.load(tmp_path / "shell_lcc.pth", weights_only=True), golden[0]
    assert ours.keys() == theirs.keys()
    assert {name: (t.shape, t.dtype) for name, t in ours["model"].items()} == {
        name: (t.shape, t.dtype) for name, t in theirs["model"].items()
    }
    sizes = ("embedding_dim", "num_bases", "hidden_dim", "lr")
    assert [ours["config"][name] for name in sizes] == [16, 256, 64, 1e-2]
    assert [theirs["config"][name] for name in sizes[:3]] == [16, 256, 64]
    assert ours["epoch"] == 2
    assert_same(ours["model"], state)
    going = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert going.keys() == theirs.keys() | {"stage"}
    assert going["config"]["epochs_skeleton"] == 1
    assert_same(going["model"], state)


def test_the_same_state_makes_the_same_bytes(trained, tmp_path):
    files = [tmp_path / "a.pth", tmp_path / "b.pth"]
    for file in files:
        save_checkpoint(trained[0], file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_file_that_cannot_be_written_is_named(trained, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        save_checkpoint(trained[0], tmp_path / "file" / "shell_lcc.pth")


WORKER = """
import sys
import os
import torch
from pathlib import Path
from accelerate import PartialState
from shelllcc.anchors.train import TrainConfig, train_manifold

torch.set_num_threads(1)
folder = Path(sys.argv[1])
for name, (clips, settings) in torch.load(folder / "runs.pt").items():
    state = train_manifold(clips, TrainConfig(**settings), folder / name)
    where = PartialState()
    torch.save(state, folder / f"{name}-{where.process_index}-of-{where.num_processes}.pt")
where.wait_for_everyone()
where.destroy_process_group()
os._exit(0)  # gloo's threads now and then abort an interpreter that winds down
"""
PAIR = dict(bases=32, hidden=16, epochs_skeleton=2, epochs_shell=1, lr=1e-2, clips_per_step=1)
ODD = dict(bases=32, hidden=16, epochs_skeleton=2, epochs_shell=1, tokens=30, save_every=1)


@pytest.fixture(scope="module")
def two_processes(root, clips, tmp_path_factory):
    """The folder of two trainings by two processes: of two clips ("pair"), and of five, some tokens of each ("odd")."""
    folder = tmp_path_factory.mktemp("two")
    torch.save({"pair": (clips[:2], PAIR), "odd": (clips, ODD)}, folder / "runs.pt")
    (folder / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}/.cache/typing:{root}"}
    done = subprocess.run(
        [*launch, folder / "worker.py", folder],
        env=os.environ | settings,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["pair", "odd"])
def test_two_processes_end_equal_and_write_one_checkpoint(two_processes, name):
    one, two = (torch.load(two_processes / f"{name}-{rank}-of-2.pt") for rank in range(2))
    assert_same(one, two)
    assert all(tensor.isfinite().all() for tensor in one.values())
    assert [path.name for path in (two_processes / name).iterdir()] == ["checkpoint.pth"]
    saved = torch.load(two_processes / name / "checkpoint.pth", weights_only=True)
    assert (saved["stage"], saved["epoch"]) == ("shell", 1)
    assert_same(saved["model"], one)


def test_two_processes_match_a_loop_written_out(two_processes, clips):
    config = TrainConfig(**PAIR)  # every step of an epoch is both clips, one a process
    manifold = begin(clips[:2], config)
    for stage, loss, epochs in (("skeleton", skeleton_loss, 2), ("shell", shell_loss, 1)):
        manifold.train(stage == "skeleton")
        own = [p for name, p in manifold.named_parameters() if name.startswith("surface") == (stage == "shell")]
        optimizer = torch.optim.Adam(own, lr=config.lr)
        for _ in range(epochs):
            ranks = [copy.deepcopy(manifold) for _ in range(2)]
            for rank, clip in zip(ranks, clips[:2], strict=True):
                rank.zero_grad()
                loss(rank, as_tokens(clip), config)["loss"].backward()
            for ours, *theirs in zip(manifold.parameters(), *(rank.parameters() for rank in ranks), strict=True):
                ours.grad = None if theirs[0].grad is None else (theirs[0].grad + theirs[1].grad) / 2
            for ours, *theirs in zip(manifold.buffers(), *(rank.buffers() for rank in ranks), strict=True):
                ours.copy_((theirs[0] + theirs[1]) / 2)
            optimizer.step()
    trained = torch.load(two_processes / "pair-0-of-2.pt")
    for name, tensor in manifold.state_dict().items():
        assert_close(trained[name], tensor, atol=1e-5, rtol=1e-5)
