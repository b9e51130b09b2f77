"""The quality bench: its captions, its arms, how a rival's best is chosen, and what it says must hold."""

from __future__ import annotations

import importlib
import itertools
import json
from collections import Counter
from dataclasses import asdict, replace

import imageio.v3 as imageio
import pytest
import torch
import typer
from torch.testing import assert_close

from benchmarks import best_rivals, controls, gates, picture, quality, samples, vae_reconstruction
from benchmarks.bounds import Gate, within
from benchmarks.captions import SPLITS, captions, prompts, real_clips, seeds
from benchmarks.gates import Row
from benchmarks.judge import COLUMNS
from benchmarks.picture import montage
from benchmarks.rivals import GRID, Rival
from benchmarks.samples import Arm, Sampler, sample_batch
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import write_json
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.wan.model.presets import PRESETS
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS, understand


def test_no_caption_is_in_both_splits_and_each_split_is_balanced():
    tuning, held_out = (set(captions(64, split)) for split in SPLITS)
    assert len(tuning) == len(held_out) == 64
    assert not tuning & held_out
    assert not set(seeds(64, "tuning")) & set(seeds(64, "held-out"))
    for split in (tuning, held_out):
        assert set(Counter(words.subject for words in split).values()) == {2, 3}
        assert set(Counter(words.move for words in split).values()) == {8}
        assert set(Counter(words.light for words in split).values()) == {16}
        assert set(Counter(words.free for words in split if words.free).values()) <= {3, 4, 5, 6}
        assert len({words.free for words in split}) == 6
        for kind in ("move", "light"):
            assert len({(words.subject, getattr(words, kind)) for words in split}) == 64


def test_real_clips_show_what_the_captions_say_and_no_more():
    from training.studio import Studio

    studio = Studio([torch.zeros(3, 400, 500)] * len(SUBJECTS))
    seen = set()
    for split in SPLITS:
        for draw_number in (0, 1):
            clips = real_clips(studio, 64, split, draw_number=draw_number)
            for words, text, clip in zip(captions(64, split), prompts(64, split), clips, strict=True):
                assert (list(SUBJECTS)[clip.subject], clip.move, clip.light, clip.free) == words
                assert understand(text) == understand(clip.text)
            seen |= {(clip.centre, clip.half, clip.angle) for clip in clips}
    assert len(seen) == 4 * 64


def test_the_default_arm_is_the_stock_pipeline(pipe):
    text, number, usual = prompts(1)[0], 7, pipe.scheduler
    preset = PRESETS["tiny"]
    stock = pipe(
        text, "", **samples.SMOKE, num_inference_steps=preset.steps, guidance_scale=preset.cfg, output_type="pt",
        generator=torch.Generator().manual_seed(number),
    ).frames  # fmt: skip
    frames = sample_batch(pipe, [text], [number], Arm(), **samples.SMOKE)
    assert pipe.scheduler is usual
    assert_close(frames.permute(0, 1, 4, 2, 3) / 255.0, stock, atol=0.5 / 255 + 1e-6, rtol=0)


def test_an_arm_is_sampled_once_and_anew_when_the_guide_changes(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "FOLDER", tmp_path)
    sampler = Sampler(device="cpu", batch=2, count=2, smoke=True)
    sampler.pipes["tiny"] = pipe
    arm = Arm(steps=3, guide=GuideConfig(window=(0.0, 1.0)))
    first = sampler.sample(arm)
    assert first.frames.shape == (2, 5, 32, 32, 3)
    assert first.moved > 0
    assert not torch.equal(first.frames, sampler.sample(arm.base).frames)
    with monkeypatch.context() as patch:
        patch.setattr(samples, "sample_batch", None)
        again = sampler.sample(arm)
        assert torch.equal(again.frames, first.frames)
        assert again.moved == first.moved
        patch.setattr(samples, "guidance_sha256", lambda: "other")
        with pytest.raises(TypeError):
            sampler.sample(arm)
        assert sampler.sample(arm.base).moved == 0


def test_a_random_direction_moves_as_far(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "FOLDER", tmp_path)
    sampler = Sampler(device="cpu", batch=1, count=1, smoke=True)
    sampler.pipes["tiny"] = pipe
    arm = Arm(steps=1, guide=GuideConfig(window=(0.0, 1.0)))
    guides = [sampler.guide(a) for a in (arm, replace(arm, random=True))]
    x0 = torch.randn(2, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    shell, random = (guide.move(x0, 0.4, share=0.3) for guide in guides)
    assert_close(random.square().mean((1, 2, 3, 4)), shell.square().mean((1, 2, 3, 4)))
    assert (shell * random).sum().abs() < 0.1 * shell.square().sum()


def test_costs_count_the_passes_of_the_transformer():
    assert Arm(1.0, steps=25).forwards == 25
    assert Arm(2.0, steps=25).forwards == 50
    assert (
        Arm(1.0, steps=25, rival=Rival("perturbed-attention", 1.5, (("layers", (3,)), ("scale", 0.5)))).forwards == 75
    )


def test_an_unsharp_mask_reaches_the_sharpness_asked_for():
    draw = torch.Generator().manual_seed(0)
    blobs = torch.randn(8, 3, 6, 6, generator=draw).sigmoid()
    frames = (255 * torch.nn.functional.interpolate(blobs, 48, mode="bicubic").clamp(0, 1)).byte()
    frames = frames.permute(0, 2, 3, 1)[:, None]
    wanted = 2 * float(controls._lap(frames))
    sharp, amount = controls.unsharp_to(frames, wanted)
    assert 0 < amount < 4
    assert abs(controls._lap(sharp) / wanted - 1) < 0.15


def test_the_best_rival_is_nearest_among_the_faithful(monkeypatch, tmp_path):
    def tried(cfg, spec, swd, acc):
        return {"rival": {"name": "apg", "cfg": cfg, "knobs": []}, "spec": spec, "swd": swd, "acc": acc}

    rows = [tried(2.0, 0.2, 0.2, 1.0), tried(3.0, 0.1, 0.1, 1.0), tried(5.0, 0.05, 0.05, 0.5)]
    monkeypatch.setattr(best_rivals, "NAMES", ("apg",))
    assert best_rivals.choose(rows, least=0.9) == [rows[1]]
    assert best_rivals.choose(rows, least=1.1) == [rows[2]]
    monkeypatch.setattr(best_rivals, "BEST", tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"benchmarks\.best_rivals"):
        best_rivals.best_rivals()


def test_a_rival_survives_its_way_through_json():
    for rival in GRID:
        assert best_rivals._rival(json.loads(json.dumps(asdict(rival)))) == rival


def row(group, forwards=25.0, moved=0.0, worse=(), **columns):
    usual = dict.fromkeys(COLUMNS, 1.0) | columns
    return Row(group, usual, {}, {c: "worse" if c in worse else "even" for c in COLUMNS}, [], forwards, moved, 0.0)


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(gates, "DEFAULT", "cfg 2")
    cells = itertools.product(quality.SAMPLERS, (12, 25, 50), (3, 5))
    return {
        gates.FLOOR: row("floor", spec=0.03, swd=0.02),
        "cfg 1, unguided": row("cfg", spec=0.18, swd=0.12, lap=0.5, kurt=0.9, flat=1.0),
        "cfg 1, guided": row("cfg", spec=0.05, swd=0.03, lap=1.0, kurt=0.95, flat=1.1),
        "cfg 3, unguided": row("cfg", 50, spec=0.05, swd=0.16),
        "cfg 3, guided": row("cfg", 50, spec=0.03, swd=0.04),
        "cfg 1, random direction": row("controls", spec=0.18, swd=0.12),
        "apg, cfg 2": row("rivals", 50, spec=0.06, swd=0.05),
        **{f"cfg 3, strength {s:g}": row("strength", moved=s, lap=1.2) for s in (0.5, 1, 2, 4)},
        **{f"{a}, {b} steps, shift {c}, unguided": row("samplers", spec=0.2, swd=0.2) for a, b, c in cells},
        "unipc, 12 steps, shift 3, guided": row("samplers", spec=0.1, swd=0.1),
    }


def test_what_must_hold_can_hold(rows):
    assert [str(gate) for gate in gates.check(rows) if not gate.held] == []


@pytest.mark.parametrize(
    ("name", "changed", "missed"),
    [
        ("cfg 1, guided", {"flat": 1.2}, "flat below"),
        ("cfg 1, guided", {"lap": 1.2}, "cfg 1, lap"),
        ("cfg 1, guided", {"kurt": 0.8}, "kurtosis"),
        ("apg, cfg 2", {"swd": 0.01}, "better than apg, cfg 2"),
        ("cfg 3, strength 4", {"lap": 1.6}, "strength 4"),
        ("unipc, 12 steps, shift 3, guided", {"swd": 0.3}, "helps: unipc"),
    ],
)
def test_what_must_hold_can_miss(rows, name, changed, missed):
    rows[name] = replace(rows[name], columns=rows[name].columns | changed)
    assert [missed in gate.name for gate in gates.check(rows) if not gate.held] == [True]


def test_the_model_by_itself_must_be_half_as_far_from_real_as_the_first_one_was(rows, monkeypatch):
    for spec, held in ((0.0175, True), (0.0176, False)):
        monkeypatch.setattr(gates, "DEFAULT", "cfg 3")
        rows["cfg 3, unguided"] = row("cfg", 50, spec=spec, swd=0.02)
        gate, other = list(gates._truth(rows))
        assert (gate.held, other.held) == (held, True)
        assert str(gate).startswith("holds" if held else "MISS")


def test_harm_and_a_strength_that_moves_less_are_missed(rows):
    rows["cfg 3, guided"] = replace(rows["cfg 3, guided"], sides={"acc": "worse"} | rows["cfg 3, guided"].sides)
    rows["cfg 3, guided"].sides["acc"] = "worse"
    rows["cfg 1, guided"].sides["swd"] = "worse"
    rows["cfg 3, strength 2"] = replace(rows["cfg 3, strength 2"], moved=0.7)
    missed = [gate.name for gate in gates.check(rows) if not gate.held]
    assert missed == [
        "cfg 1, guided, swd not worse",
        "cfg 3, guided, no worse in acc, jitter, colour, contrast",
        "applied move grows with strength 0.5, 1, 2",
    ]


def test_every_group_names_its_arms():
    groups = {group: quality.arms(group) for group in quality.GROUPS if group != "rivals"}
    assert len(groups["cfg"]) == 10
    assert len(groups["samplers"]) == 36
    assert all(arm.base.guide is None for arms in groups.values() for arm in arms.values())


def test_the_rows_are_drawn(rows, tmp_path):
    pytest.importorskip("matplotlib")
    gates.draw(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").stat().st_size > 10_000


def test_bounds_say_what_was_measured():
    assert str(within("lap", 0.85, low=0.85, high=1.1)) == "holds  lap at least 0.85 and at most 1.1: 0.85"
    assert str(within("lap", 0.8, low=0.85)) == "MISS   lap at least 0.85: 0.80"
    assert not within("lap", float("nan"), low=0.85).held


def test_a_montage_shows_pairs_one_above_the_other():
    first, second = (torch.full((3, 2, 2, 3), grey, dtype=torch.uint8) for grey in (200, 100))
    picture = montage(first, second, columns=2, enlarge=2)
    assert picture.shape == (16, 8, 3)
    assert (picture[:4] == 200).all()
    assert (picture[4:8] == 100).all()
    assert (picture[8:, 4:] == 0).all()  # the fourth pair is none


def test_the_early_checkpoint_is_a_pipeline_of_its_own(tmp_path, monkeypatch):
    from benchmarks import early
    from shelllcc.guidance.wan.model.pipeline import TINY, weights_sha256

    monkeypatch.chdir(tmp_path)
    early.main(smoke=True)
    sampler = Sampler(device="cpu", batch=1, count=1, smoke=True)
    frames = sampler.sample(Arm(steps=1, model="early")).frames
    assert frames.shape == (1, 5, 32, 32, 3)
    assert weights_sha256(samples.EARLY) != weights_sha256(TINY)


def test_a_manifold_of_the_authors_kind_is_a_bank_of_the_tiny_model(tmp_path, capsys):
    from benchmarks import manifold
    from shelllcc.anchors.choose import load_bank
    from shelllcc.anchors.fingerprints import fingerprint
    from shelllcc.guidance.wan.model.pipeline import find_model

    manifold.main(out=tmp_path / "manifold.safetensors", smoke=True)
    bank = load_bank(tmp_path / "manifold.safetensors")
    assert (bank.model, bank.shell.patch) == ("shelllcc-tiny-wan", 1)
    assert bank.kind != "anchors"
    assert bank.vae == fingerprint(find_model(None).vae)
    assert bank.quantiles is not None  # held-out clips set its radius
    assert "MB, radius" in capsys.readouterr().out


def test_rivals_are_sought_by_name_and_the_others_rows_stay():
    with pytest.raises(UsageError, match="no rival is called nobody"):
        best_rivals.chosen(["nobody"])
    assert best_rivals.chosen(None) == best_rivals.NAMES
    assert best_rivals.chosen(["apg"]) == ("apg",)


def test_four_steps_at_full_size_are_timed_in_turn_with_every_step_guided():
    from benchmarks import gpu

    found = gpu.few(gpu.Bench(toy=True), rounds=1)
    assert found["moves"] == 4
    assert found["ratio"] == pytest.approx(found["guided_s"] / found["unguided_s"])


@pytest.mark.slow
@pytest.mark.parametrize("a14b", [False, True])
def test_a_starter_bank_and_a_fit_of_full_size_run_to_the_end_at_a_toy_size(a14b, capsys):
    from benchmarks import full_size_fit

    full_size_fit.main(a14b=a14b, toy=True, clips=4, steps=4)
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["model"] == ("A14B" if a14b else "1.3B")
    assert record["clips"] == 4
    assert record["estimated_s"] > 0
    assert record["bank_s"] > 0


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder to run in, and the options of a toy run: two captions, noise for photographs that no wheel holds."""
    return tmp_path_factory.mktemp("toy"), dict(count=2, batch=2, smoke=True)


@pytest.mark.parametrize("name", ["subjects", "camera_moves"])
def test_judges_of_prompts_run_at_a_toy_size_and_keep_their_figures(name, toy, monkeypatch, capsys):
    folder, options = toy
    monkeypatch.chdir(folder)
    importlib.import_module(f"benchmarks.{name}").main(**options)
    lines = capsys.readouterr().out.splitlines()
    record = json.loads((folder / f"runs/{name}.json").read_text())
    assert len(lines) == len(record["gates"]) == 3
    assert list(record["wrong"]) == ["real clips", *[g["name"].rsplit(",", 1)[0] for g in record["gates"][1:]]]


def test_the_quality_table_runs_at_a_toy_size(toy, monkeypatch, capsys):
    folder, options = toy
    monkeypatch.chdir(folder)
    monkeypatch.setattr(quality, "CFGS", (1.0,))
    quality.main(split="held-out", only="cfg", plot=None, **options)
    record = json.loads((folder / "runs/quality-held-out.json").read_text())
    assert list(record["rows"]) == [gates.FLOOR, "cfg 1, unguided", "cfg 1, guided"]
    assert record["gates"]
    table = (folder / "runs/quality-held-out.md").read_text().splitlines()
    assert len(table) == 5
    assert len({line.count("|") for line in table}) == 1
    assert "cfg 1, guided" in capsys.readouterr().out


def test_the_reconstruction_runs_at_a_toy_size(toy, monkeypatch, capsys):
    folder, _ = toy
    monkeypatch.chdir(folder)
    vae_reconstruction.main(smoke=True)
    record = json.loads((folder / "runs/vae_reconstruction.json").read_text())
    assert set(record["subjects"]["usual"]) == {"astronaut"}
    assert len(record["gates"]) == 10
    said = capsys.readouterr().out
    assert all(str(Gate(**gate)) in said for gate in record["gates"])


def test_pictures_are_drawn_at_a_toy_size(toy, monkeypatch):
    folder, _ = toy
    monkeypatch.chdir(folder)
    picture.guided(folder / "guided.png", smoke=True)
    assert imageio.imread(folder / "guided.png").shape == (64, 32 * len(picture.SHOWN), 3)
    picture.real_above_sampled(folder / "montage.png", subjects="cat,brick", columns=2, enlarge=2, smoke=True)
    assert imageio.imread(folder / "montage.png").shape == (128, 128, 3)
    assert set(picture.SHOWN) <= set(SUBJECTS)
    texts = [prompts()[number] for number in picture.chosen(picture.SHOWN)]
    assert [understand(text).subject for text in texts] == list(picture.SHOWN)


def test_what_follows_from_new_weights_is_made_by_commands_that_exist(root, tmp_path):
    from benchmarks import remake

    steps = remake.steps(device="cpu", batch=1, photographs=["--folder", str(tmp_path)])
    assert {*steps, "place"} == {*remake.FAST, *remake.SLOW}
    for name, *words in itertools.chain(*steps.values()):
        if name != "-m":
            assert (root / name).is_file()
            continue
        module = importlib.import_module(words[0])
        if len(words) == 1 and not hasattr(module, "main"):
            continue
        command = typer.main.get_command(getattr(module, "app", None) or wrapped(module.main))
        with command.make_context("remake", words[1:], resilient_parsing=False) as context:
            if hasattr(command, "resolve_command"):
                _, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
                inner.make_context("remake", rest).close()


def wrapped(main):
    app = typer.Typer()
    app.command()(main)
    return app


def test_new_parts_take_the_place_of_the_old_ones_and_half_a_model_does_not(tmp_path):
    from benchmarks import remake

    for part in remake.PARTS:
        (tmp_path / "new" / part).mkdir(parents=True)
        (tmp_path / "new" / part / "weights").write_text("new")
        (tmp_path / "old" / part).mkdir(parents=True)
        (tmp_path / "old" / part / "left").write_text("old")
    remake.place(tmp_path / "new", tmp_path / "old")
    assert sorted(p.name for p in (tmp_path / "old").rglob("*") if p.is_file()) == ["weights"] * 5
    (tmp_path / "new/vae").rename(tmp_path / "new/gone")
    with pytest.raises(UsageError, match="has no vae"):
        remake.place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old/vae/weights").exists()


def test_the_cards_figures_are_those_of_the_records(toy, monkeypatch):
    from training import card

    folder, _ = toy
    monkeypatch.chdir(folder)
    assert card.measured(folder / "nowhere") is None
    for name in ("subjects", "camera_moves"):
        gate = asdict(Gate(f"{name} as asked", "1 of 2", False))
        write_json(folder / f"runs/{name}.json", {"count": 2, "wrong": {"real clips": ["x"]}, "gates": [gate]})
    mean = dict(
        psnr=34.56, lap=0.9, kurtosis_first=1.2, checkerboard=0.1, checkerboard_raw=0.01, stripes=3.0, stripes_raw=1.0
    )
    record = {"per_subject": 3, "mean": {"usual": mean}, "floor": 29.0, "gates": []}
    write_json(folder / "runs/vae_reconstruction.json", record)
    columns = {"columns": dict(lap=1.0, spec=0.0123, swd=0.02)}
    arms = {f"cfg {PRESETS['tiny'].cfg:g}, {arm}": columns for arm in ("unguided", "guided")}
    write_json(folder / "runs/quality-held-out.json", {"rows": arms})
    text = card.measured(folder / "runs")
    for figure in (
        "| usual | 34.6 | 0.90 | 1.20 | 0.100 | 0.010 | 3.0 | 1.0 |",
        "1 of 2 real clips",
        "spec 0.012",
        "subjects as asked: 1 of 2",
        "29.0",
    ):
        assert figure in text.replace("\n  ", " ")
