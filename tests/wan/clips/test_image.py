"""Image-to-video on toy models of both kinds: 36 channels, with and without an image encoder, and 5B's first frame."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from benchmarks.wan_geometry import TOY_TEXT, TOY_TRANSFORMER, TOY_VAE, tokenizer
from shelllcc.guidance.geometry.threads import one_thread
from shelllcc.guidance.media.image import cut, stretched

VAE_5B = TOY_VAE | dict(
    z_dim=48, decoder_base_dim=8, in_channels=12, out_channels=12, is_residual=True, patch_size=2,
    scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
)  # fmt: skip
KINDS = ("wan2.1", "a14b", "5b")
SIZES = {"wan2.1": "64x64", "a14b": "64x64", "5b": "96x96"}  # 5B's grid is 32 pixels, and a patch 3 latents


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def toy(kind):
    torch.manual_seed(0)
    channels = dict(in_channels=48, out_channels=48) if kind == "5b" else dict(in_channels=36, out_channels=16)
    seen = dict(image_dim=16, added_kv_proj_dim=48) if kind == "wan2.1" else {}
    shape = TOY_TRANSFORMER | channels | seen
    clip = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28)
    sees = kind == "wan2.1"
    return WanImageToVideoPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel(UMT5Config(**TOY_TEXT)),
        transformer=WanTransformer3DModel(**shape),
        transformer_2=WanTransformer3DModel(**shape) if kind == "a14b" else None,
        vae=AutoencoderKLWan(**(VAE_5B if kind == "5b" else TOY_VAE)),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        image_encoder=CLIPVisionModel(CLIPVisionConfig(patch_size=14, **clip)) if sees else None,
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=dict(height=28, width=28))
        if sees
        else None,
        boundary_ratio=0.9 if kind == "a14b" else None,
        expand_timesteps=kind == "5b",
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a toy of each kind; 5B's as the released one is, a WanPipeline; with a bank and an image."""
    from shelllcc.anchors.bank import Bank
    from shelllcc.anchors.bankfile import save_bank
    from shelllcc.anchors.build import Recipe, fit_shell
    from shelllcc.anchors.fingerprints import fingerprint

    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        pipe = toy(kind)
        pipe.save_pretrained(folder / kind)
        if kind == "5b":
            index = json.loads((folder / kind / "model_index.json").read_text())
            del index["image_encoder"], index["image_processor"]
            (folder / kind / "model_index.json").write_text(json.dumps(index | {"_class_name": "WanPipeline"}))
        channels = pipe.vae.config.z_dim
        dice = torch.Generator().manual_seed(0)
        noise = [torch.randn(channels, 3, 12, 12, generator=dice) for _ in range(12)]
        clips = [torch.nn.functional.avg_pool3d(x, (1, 3, 3), stride=1) * 2 for x in noise]
        fit = fit_shell(clips[0:8:2], clips[1:8:2], clips[8:], Recipe(anchors=2))
        of = fingerprint(dict(pipe.vae.config))
        save_bank(
            Bank(fit.shell, fit.guided, fit.clean, "smooth", of, {"source": "x"}, fit.quantiles),
            folder / f"{kind}.safetensors",
        )
    colours = np.linspace(0, 255, 80 * 60 * 3).reshape(60, 80, 3).astype(np.uint8)
    Image.fromarray(colours).save(folder / "cat.png")
    return folder


def words(models, kind, *more, image=True):
    """A small clip; the guide as it is, for there is no fit for a toy."""
    given = ["--image", models / "cat.png"] if image else []
    return ["generate", "--model", models / kind, "--bank", models / f"{kind}.safetensors", "--fit", "never",
            "--radius", "2", "--window", "0:1", "--prompt", "a cat", "--size", SIZES[kind], "--frames", "9",
            "--steps", "3", "--cfg", "2", "--json", *given, *more]  # fmt: skip


def record(answer):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out.splitlines()[-1])["clips"][0]


def one_line(answer):
    code, _, err = answer
    assert code == 2, err
    [line] = [line for line in err.splitlines() if not line.startswith("shelllcc: note: ")]
    return line


def last_latents(monkeypatch):
    """The latents of every clip that is sampled, as they come."""
    from shelllcc.guidance.wan.clips import sample

    clips, own = [], sample.sample
    monkeypatch.setattr(sample, "sample", lambda *args, **how: clips.append(own(*args, **how)) or clips[-1])
    return clips


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_from_an_image_is_guided_behind_its_first_frame_and_replays(
    kind, models, shelllcc, tmp_path, monkeypatch
):
    clips = last_latents(monkeypatch)
    made = record(shelllcc(*words(models, kind, "--strength", "2", "-o", "a/a.mp4", "--compare")))
    plain, moved = (clip.latents[0] for clip in clips)
    assert made["frames_sha256"]["guided"] != made["frames_sha256"]["unguided"]
    assert not torch.equal(moved[:, 1:], plain[:, 1:])
    replay = record(shelllcc("generate", "--from", "a/a.json", "-o", "b/b.mp4", "--json"))
    assert replay["frames_sha256"] == made["frames_sha256"]
    assert replay["request"] == made["request"]
    [copy] = (tmp_path / "a").glob("image-*.png")
    digest = hashlib.sha256((models / "cat.png").read_bytes()).hexdigest()
    assert made["request"]["image"] == digest == hashlib.sha256(copy.read_bytes()).hexdigest()
    assert copy.read_bytes() == next((tmp_path / "b").glob("image-*.png")).read_bytes()
    shelllcc_again = shelllcc(*words(models, kind, "--strength", "2", "-o", "a/a.mp4", "--compare", "--resume"))
    assert json.loads(shelllcc_again[1])["skipped"] == 1
    copy.write_bytes(b"another")
    assert "is not the image" in one_line(shelllcc("generate", "--from", "a/a.json", "-o", "c.mp4"))
    copy.unlink()
    assert "is missing" in one_line(shelllcc("generate", "--from", "a/a.json", "-o", "c.mp4"))
    assert not list(tmp_path.glob("c*"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_guide_leaves_the_first_latent_frame_alone(kind, models, shelllcc, monkeypatch):
    """No step moves it. What is not moved may still answer, in later steps, to what was: 36 channels attend to it."""
    from shelllcc.guidance.guide import guide as guides

    moves, own = [], guides.ShellGuide.move
    monkeypatch.setattr(guides.ShellGuide, "move", lambda *args, **how: moves.append(own(*args, **how)) or moves[-1])
    record(shelllcc(*words(models, kind, "--strength", "2", "--compare", "-o", "a.mp4")))
    assert moves
    assert all(not move[:, :, 0].any() and move[:, :, 1:].any() for move in moves)


@pytest.mark.parametrize("kind", KINDS)
def test_a_move_that_no_step_follows_leaves_the_clips_first_latent_frame_to_the_bit(kind, models):
    from shelllcc.anchors.choose import choose_bank
    from shelllcc.anchors.fingerprints import fingerprint
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.sample import guide_for, noise_levels, sample
    from shelllcc.guidance.wan.clips.stills import pictures, sized, still_at
    from shelllcc.guidance.wan.model.pipeline import find_model, load_pipeline
    from shelllcc.guidance.wan.model.presets import PRESETS

    model = find_model(str(models / kind))
    pipe = load_pipeline(model, device="cpu")
    side = int(SIZES[kind].partition("x")[0])
    small = dict(prompt="a cat", width=side, height=side, frames=9, steps=3, image=still_at(str(models / "cat.png")))
    request = sized(Request.resolve(PRESETS["diffusers-480p"], **small), model)
    last = noise_levels(pipe, request)[-2]
    guided = request.changed(strength=2.0, radius=2.0, window=(0.0, last + 1e-3), last=True, by_sigma=True)
    bank, _ = choose_bank(str(models / f"{kind}.safetensors"), fingerprint(model.vae))
    own = type(pipe), dict(pipe.config), set(vars(pipe))
    plain, moved = (
        sample(pipe, one, guide_for(one, bank), images=pictures(one, model)).latents
        for one in (request.unguided(), guided)
    )
    assert torch.equal(moved[:, :, 0], plain[:, :, 0])
    assert not torch.equal(moved[:, :, 1:], plain[:, :, 1:])
    assert (type(pipe), dict(pipe.config)) == own[:2], "5B is a pipeline for text again"
    assert not {"image_encoder", "image_processor"} & (set(vars(pipe)) - own[2])


@pytest.mark.parametrize("kind", KINDS)
def test_unguided_it_is_the_stock_pipeline_to_the_bit(kind, models, shelllcc):
    made = record(shelllcc(*words(models, kind, "--strength", "0", "--shift", "3", "-o", "a.mp4")))
    request = made["request"]
    shape = request["width"], request["height"]
    assert shape == {"wan2.1": (64, 48), "a14b": (64, 48), "5b": (96, 96)}[kind]
    pipe = WanImageToVideoPipeline.from_pretrained(models / kind)
    pipe.set_progress_bar_config(disable=True)
    fit = cut if kind == "5b" else stretched
    picture = fit(Image.open(models / "cat.png"), *shape)
    stock = pipe(
        image=picture, prompt="a cat", negative_prompt=request["negative_prompt"], width=shape[0], height=shape[1],
        num_frames=9, num_inference_steps=3, guidance_scale=2.0,
        guidance_scale_2=request["cfg_2"] if kind == "a14b" else None,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).frames[0]  # fmt: skip
    digest = hashlib.sha256((stock * 255).round().astype(np.uint8).tobytes()).hexdigest()
    assert made["frames_sha256"]["unguided"] == digest


def test_a_last_image_is_held_too_where_a_model_takes_one(models, shelllcc, tmp_path, monkeypatch):
    from shelllcc.guidance.guide import guide as guides

    moves, own = [], guides.ShellGuide.move
    monkeypatch.setattr(guides.ShellGuide, "move", lambda *args, **how: moves.append(own(*args, **how)) or moves[-1])
    Image.new("RGB", (40, 40), "red").save(tmp_path / "end.png")
    both = ["--last-image", "end.png", "--strength", "2"]
    made = record(shelllcc(*words(models, "a14b", *both, "-o", "a.mp4")))
    assert {"image", "last_image"} == made["images"].keys()
    assert moves
    assert all(not move[:, :, [0, -1]].any() and move[:, :, 1].any() for move in moves)
    for kind in ("wan2.1", "5b"):
        assert "takes no last image" in one_line(shelllcc(*words(models, kind, *both, "-o", "b.mp4")))


def test_what_does_not_go_together_is_refused_before_anything_is_sampled(models, shelllcc, tmp_path):
    tiny = ["generate", "--prompt", "a cat", "-o", "x.mp4"]
    assert "tiny makes videos of text alone" in one_line(shelllcc(*tiny, "--image", models / "cat.png"))
    assert "a14b makes videos from an image" in one_line(shelllcc(*words(models, "a14b", "-o", "x.mp4", image=False)))
    assert "cannot read the image gone.png" in one_line(shelllcc(*tiny, "--image", "gone.png"))
    (tmp_path / "torn.png").write_bytes((models / "cat.png").read_bytes()[:-60])
    assert "cannot read the image torn.png" in one_line(
        shelllcc(*words(models, "a14b", "--image", "torn.png", "-o", "x.mp4", image=False))
    )
    assert not list(tmp_path.glob("x*"))


def test_5b_samples_text_alone_as_before(models, shelllcc):
    made = record(shelllcc(*words(models, "5b", "--strength", "1", "-o", "a.mp4", image=False)))
    assert "image" not in made["request"]
    assert "images" not in made


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def listed(models, tmp_path):
    """A prompts file whose second and third lines have an image of their own, and how every command samples it."""
    [_, *rest] = words(models, "a14b", image=False)
    at = rest.index("--prompt")
    (tmp_path / "lists").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "lists/red.png")
    (tmp_path / "lists/tall").mkdir()
    Image.new("RGB", (30, 60), "blue").save(tmp_path / "lists/tall/blue.PNG")
    (tmp_path / "lists/prompts.txt").write_text("a cat\na wall --image red.png\na sea --image 'tall/blue.PNG'\n")
    return ["--image", models / "cat.png", *rest[:at], *rest[at + 2 :]]


def expected(models, tmp_path):
    """Prompt, image and size of every line, the command's own image where a line has none."""
    files = [models / "cat.png", tmp_path / "lists/red.png", tmp_path / "lists/tall/blue.PNG"]
    return list(zip(("a cat", "a wall", "a sea"), map(digest_of, files), ((64, 48), (64, 64), (32, 80)), strict=True))


def told(requests):
    return [(one["prompt"], one["image"], (one["width"], one["height"])) for one in requests]


@pytest.mark.parametrize("command", ["generate", "batch", "compare", "tune"])
def test_a_line_has_its_own_image_or_else_the_commands(command, models, shelllcc, tmp_path, listed):
    file = ["lists/prompts.txt"] if command == "batch" else ["--prompts-file", "lists/prompts.txt"]
    more = {"tune": ["--budget", "2"], "compare": ["--strengths", "0,2"], "generate": ["--compare"]}.get(command, [])
    code, _, err = shelllcc(command, *file, *listed, *more, "-o", "made")
    assert code == 0, err
    found = (json.loads(path.read_text()) for path in sorted((tmp_path / "made").rglob("*.json")))
    records = [record for record in found if "request" in record]
    by_prompt = {record["request"]["prompt"]: record["request"] for record in records}
    assert told(by_prompt[prompt] for prompt in ("a cat", "a wall", "a sea")) == expected(models, tmp_path)
    assert len(records) == 3 * (2 if command in ("compare", "tune") else 1)
    copies = {path.name: digest_of(path) for path in (tmp_path / "made").rglob("image-*")}
    assert all(name[6:18] == digest[:12] for name, digest in copies.items())
    assert set(copies.values()) == {digest for _, digest, _ in expected(models, tmp_path)}
    named = {record["request"]["image"]: record["images"]["image"] for record in records}
    assert all(Path(path).name[6:18] == digest[:12] for digest, path in named.items())


def test_what_was_tuned_is_of_its_image(models, shelllcc, tmp_path, listed):
    code, out, err = shelllcc("tune", "--prompt", "a cat", *listed, "--budget", "2", "-o", "run")
    assert code == 0, err
    [profile] = json.loads(out.splitlines()[-1])["profiles"]
    assert profile["settings"]["image"] == digest_of(models / "cat.png")
    auto = ["generate", "--prompt", "a cat", *listed, "--strength", "auto", "--dry-run"]
    found = json.loads(shelllcc(*auto)[1])
    assert [clip["request"]["strength"] for clip in found["clips"]] == [profile["strength"]]
    other = [tmp_path / "lists/red.png" if word == models / "cat.png" else word for word in auto]
    code, out, err = shelllcc(*other)
    assert "tune" in err, "another image was not tuned"


def test_a_run_begun_anew_takes_its_own_copies_with_it_but_no_image_that_it_reads(models, shelllcc, tmp_path, listed):
    compare = ["compare", "--prompt", "a cat", *listed, "--strengths", "0,2", "-o", "run"]
    assert shelllcc(*compare)[0] == 0
    [copy] = (tmp_path / "run").glob("image-*.png")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.mp4")}
    (tmp_path / "run/image-0123456789ab.png").write_bytes(b"somebody's")
    red = [tmp_path / "lists/red.png" if word == models / "cat.png" else word for word in compare]
    assert "another run" in one_line(shelllcc(*red))
    assert shelllcc(*red, "--overwrite")[0] == 0
    assert not copy.exists()
    assert {path.name[6:18] for path in (tmp_path / "run").glob("image-*.png")} == {
        "0123456789ab",
        digest_of(tmp_path / "lists/red.png")[:12],
    }
    [own] = (path for path in (tmp_path / "run").glob("image-*.png") if path.name[6] != "0")
    again = [own if word == models / "cat.png" else word for word in compare]
    code, _, err = shelllcc(*again, "--overwrite")
    assert code == 0, err
    assert digest_of(own) == digest_of(tmp_path / "lists/red.png"), "the image that it reads is its own copy"
    kept = own.stat().st_ino
    assert shelllcc(*again, "--overwrite")[0] == 0
    assert own.stat().st_ino == kept, "what a run reads is never gone, not even for a while"
    back = [own if word == models / "cat.png" else word for word in compare[:-1]]
    assert shelllcc(*back, "other")[0] == 0
    assert shelllcc(*compare, "--overwrite")[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.mp4")} == before


def test_a_copy_has_a_name_of_a_runs_whatever_the_image_is_called(models, shelllcc, tmp_path, listed):
    from shelllcc.guidance.wan.clips.request import Request, Still
    from shelllcc.guidance.wan.clips.stills import copies
    from shelllcc.guidance.wan.model.presets import PRESETS
    from shelllcc.guidance.workbench.claims import NAME

    for name in ("cat.png", "cat.PNG", "cat.png~", "cat.p n g", "кот.пнг", "cat", ".png"):
        request = Request.resolve(PRESETS["tiny"], prompt="a cat", image=Still("0" * 64, name))
        assert NAME.fullmatch(copies(request, tmp_path)["image"].name), name
    (tmp_path / "cat.png~").write_bytes((models / "cat.png").read_bytes())
    given = [tmp_path / "cat.png~" if word == models / "cat.png" else word for word in listed]
    for again in ([], ["--overwrite"]):
        code, _, err = shelllcc("compare", "--prompt", "a cat", *given, "--strengths", "0,2", "-o", "run", *again)
        assert code == 0, err


def test_compare_batch_and_lines_of_prompts_take_images(models, shelllcc, tmp_path):
    [_, *rest] = words(models, "a14b", image=False)
    at = rest.index("--prompt")
    how = rest[:at] + rest[at + 2 :]
    (tmp_path / "lists").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "lists/red.png")
    (tmp_path / "lists/prompts.txt").write_text("a cat\na wall --image red.png\n")
    code, out, err = shelllcc(
        "compare", "--prompts-file", "lists/prompts.txt", "--image", models / "cat.png", *how, "-o", "run"
    )
    assert code == 0, err
    items = json.loads(out.splitlines()[-1])["items"]
    assert [item["prompt"] for item in items] == ["a cat", "a wall"]
    assert len(list((tmp_path / "run").glob("image-*.png"))) == 2
    code, out, err = shelllcc("generate", "--from", "run/01_strength-1.json", "-o", "again/x.mp4", "--json")
    assert code == 0, err
    [replay] = json.loads(out.splitlines()[-1])["clips"]
    first = json.loads((tmp_path / "run/01_strength-1.json").read_text())
    assert replay["frames_sha256"]["guided"] == first["frames_sha256"]["guided"]
    same = ["compare", "--prompts-file", "lists/prompts.txt", "--image", models / "cat.png", *how, "--strengths", "0,2"]
    assert "another run" in one_line(shelllcc(*same, "-o", "run"))
    assert shelllcc(*same, "-o", "run", "--overwrite", "--dry-run")[0] == 0
    code, out, err = shelllcc("batch", "lists/prompts.txt", "--image", models / "cat.png", *how, "-o", "clips")
    assert code == 0, err
    assert len(json.loads(out.splitlines()[-1])["clips"]) == 2
    assert len(list((tmp_path / "clips").rglob("image-*.png"))) == 2
    (tmp_path / "prompts.txt").write_text("a cat\na wall --image gone.png\n")
    line = one_line(shelllcc("batch", "prompts.txt", "--image", models / "cat.png", *how, "-o", "more"))
    assert "prompts.txt:2: cannot read the image gone.png" in line


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_knows_what_an_image_takes(kind, models, shelllcc):
    code, out, err = shelllcc(*words(models, kind, "--dry-run", "-o", "a.mp4"))
    assert code == 0, err
    [memory] = json.loads(out)["memory"]
    assert ("image" in memory["GB"]) == (kind != "5b")
    assert ("image_encoder" in memory["parameters"]) == (kind == "wan2.1")


def test_a_fit_gives_an_image_model_the_first_frames_of_its_clips(models, shelllcc):
    how = words(models, "wan2.1", image=False)
    at = how.index("--fit")
    how = how[1:at] + how[at + 2 : how.index("--radius")]
    small = ["--size", "32x32", "--frames", "5", "--steps", "4", "--cfg", "1", "--clips", "4", "--json"]
    code, out, err = shelllcc("fit", *how, *small)
    assert code == 0, err
    fit = json.loads(out.splitlines()[-1])
    assert len(fit["clips"]) + len(fit["left_out"]) == 4
    text = ["--size", "32x32", "--frames", "5", "--steps", "4", "--cfg", "1", "--prompt", "a cat", "--json"]
    made = record(shelllcc("generate", *how, *text, "--image", models / "cat.png", "-o", "a.mp4"))
    assert made["fit"]["digest"] == fit["digest"]  # the one that was made, found again
