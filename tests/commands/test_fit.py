"""`shelllcc fit`, and what other commands do with a fit."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shelllcc.anchors.manifold import import_checkpoint
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.fit import shelf
from shelllcc.guidance.fit.fit import Band, Fit, read_fit, write_fit
from shelllcc.guidance.fit.judge import BANDS, Drift
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.fitted import belonging, defaults_hold, weights_of
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.resolve import fit_command, resolve
from shelllcc.guidance.wan.fits import making, trips
from shelllcc.guidance.wan.model.loading import Loading, Lora
from shelllcc.guidance.wan.model.pipeline import TINY, find_model
from shelllcc.guidance.wan.model.presets import PRESETS

SMALL = ("--size", "32x32", "--frames", "5", "--steps", "4")
GUIDE = GuideConfig(window=(0.0, 0.9), toward=0.0, coarse=1.1, radius=2.0, tone=0.0, calm=0.0, contrast=0.0)


def fit_for(bank, *, steps=4, cfg=1.0, model=None, guide=GUIDE):
    model = model or find_model(None)
    request = Request.resolve(PRESETS["tiny"], prompt="any", steps=steps, cfg=cfg)
    return Fit(
        belongs=belonging(request, model, Loading(), bank),
        guide=guide,
        bands=(*(Band(f"{name} px", -0.29, 0.03, -0.02, 0.02) for name in BANDS), Band("contrast", 0.0, 0.1, 0.0, 0.1)),
        clips=("a cat",) * 8,
        left_out=(),
        seed=0,
        sigma=0.95,
        size=(32, 32, 5),
        model=model.name,
        bank=bank.name,
        versions={},
    )


@pytest.fixture(scope="module")
def tiny_bank(pipe):
    from shelllcc.anchors.choose import load_bank

    return load_bank("auto", pipe)


def test_the_command_that_is_told_makes_the_fit_that_was_lacking(shelllcc, tmp_path):
    size = find_model(None).transformer["num_attention_heads"] * find_model(None).transformer["attention_head_dim"]
    save_file({"blocks.0.attn1.to_q.diff": torch.zeros(size, size)}, tmp_path / "x y.safetensors")
    loading = {"quantize": "fp8", "loras": (Lora(str(tmp_path / "x y.safetensors"), 0.5),)}
    values = {"width": 32, "height": 32, "frames": 5, "cfg": 2.0}
    asked = Asked(prompts=("any",), preset="wan-1.3b-480p", values=values, loading=loading, fit="never")
    found = resolve(asked, wanted=True)
    lacking = belonging(found.requests[0], found.model, found.loading, found.bank)
    program, *words = shlex.split(fit_command(asked))
    code, out, err = shelllcc(*words, "--size", "32x32", "--frames", "5", "--dry-run", "--json")
    assert (program, code) == ("shelllcc", 0), err
    assert json.loads(out)["belongs"] == json.loads(json.dumps(lacking.as_dict()))


def test_a_dry_run_says_whether_there_is_a_fit_and_is_a_table_for_people(shelllcc, tmp_path):
    for words, known in (([], True), (["--again"], False), (["--steps", "7"], False)):
        code, out, err = shelllcc("fit", *words, "--dry-run", "--json")
        assert code == 0, err
        seen = json.loads(out)
        assert seen["known"] == known
        assert Path(seen["fit"]).exists() == known
        code, out, _ = shelllcc("fit", *words, "--dry-run")
        assert code == 0
        assert ("there is one" in out) == known
        assert ("8 of 192x192, 17 frames" in out) == (not known)
        assert seen["fit"] in out
        assert "{" not in out


def test_an_adapter_on_one_transformer_or_the_other_makes_another_model(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    ways = [{}, {"high": 1.0}, {"low": 1.0}, {"high": 0.5}]
    loras = [(Lora(str(tmp_path / "x.safetensors"), **way),) for way in ways]
    assert len({weights_of(find_model(None), Loading(loras=found)) for found in loras}) == 4


@pytest.fixture
def drifting(monkeypatch):
    """Round trips of a model that leaves out a fifth of the fine detail, measured at once."""

    def drift(self, number, config):
        bend = 0.0 if config is None else 0.2 * (config.radius - 1) / config.radius
        return Drift((-0.22 + bend, -0.22 + bend, -0.02, 0.0), 0.01 * (-1) ** number, 0.0, 0.9)

    monkeypatch.setattr(trips.Trips, "drift", drift)


def test_a_fit_is_made_kept_and_followed(shelllcc, tmp_path, drifting, monkeypatch):
    code, out, err = shelllcc("fit", *SMALL, "--clips", 4, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert "leaves out 20% of the finest detail" in record["words"]
    fit = read_fit(tmp_path / "banks" / "fits" / record["path"].rpartition("/")[2])
    assert fit.guide.radius > 1.2
    assert not list((tmp_path / "banks" / "fits" / "begun").glob("*.json"))
    page = Path(record["report"])
    assert page == Path(record["path"]).with_suffix(".html")
    assert "leaves out 20% of the finest detail" in page.read_text()
    assert str(tmp_path) not in page.read_text()
    page.unlink()
    code, out, err = shelllcc("fit", *SMALL, "--json")
    assert json.loads(out) == record | {"known": True}
    assert page.exists()
    assert shelllcc("fit", *SMALL)[1].splitlines()[-1] == f"report    {page}"
    code, out, err = shelllcc("generate", "-p", "a tabby cat", *SMALL, "-o", "x.mp4")
    assert code == 0, err
    sidecar = json.loads((tmp_path / "x.json").read_text())
    assert sidecar["request"]["radius"] == fit.guide.radius
    assert sidecar["request"]["toward"] == 0
    assert sidecar["fit"]["digest"] == fit.digest == record["digest"]
    assert sidecar["trace"]
    shutil.rmtree(tmp_path / "banks")
    code, out, err = shelllcc("generate", "--from", "x.json", "-o", "again.mp4")
    assert code == 0, err
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["frames_sha256"]["guided"] == sidecar["frames_sha256"]["guided"]


def test_strength_goes_from_stock_over_the_fit_to_twice_as_far(shelllcc, tmp_path, tiny_bank):
    write_fit(fit_for(tiny_bank), tmp_path / "banks" / "fits")
    found = {}
    for name, flags in {
        "stock": ("--strength", 0),
        "fit": (),
        "one": ("--strength", 1),
        "two": ("--strength", 2),
    }.items():
        code, _, err = shelllcc("generate", "-p", "a tabby cat", *SMALL, *flags, "-o", f"{name}.mp4")
        assert code == 0, err
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    moves = {name: sum(step["gain"][0] for step in record["trace"][-1:]) for name, record in found.items()}
    assert found["stock"]["trace"] == []
    assert list(found["fit"]["frames_sha256"].values()) == list(found["one"]["frames_sha256"].values())
    assert 0 < moves["one"] < moves["two"]


def test_never_takes_the_guides_own_defaults_and_flags_go_before_a_fit(shelllcc, tmp_path, tiny_bank):
    write_fit(fit_for(tiny_bank), tmp_path / "banks" / "fits")
    shelllcc("generate", "-p", "a tabby cat", *SMALL, "--fit", "never", "-o", "never.mp4")
    shelllcc("generate", "-p", "a tabby cat", *SMALL, "--radius", "2.5", "-o", "flag.mp4")
    never, flag = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("never", "flag"))
    assert never["request"]["radius"] == GuideConfig.radius
    assert never["fit"] is None
    assert flag["request"]["radius"] == 2.5
    assert flag["request"]["coarse"] == GUIDE.coarse
    assert flag["fit"] is None  # it is followed in part alone
    code, _, err = shelllcc("generate", "-p", "a tabby cat", *SMALL, "--fit", "sometimes", "-o", "y.mp4")
    assert code == 2
    assert "auto, never, anew" in err


def test_the_nearest_fit_is_taken_with_one_remark_but_none_of_another_bank_model_or_adapter(
    shelllcc, tmp_path, tiny_bank
):
    folder = tmp_path / "banks" / "fits"
    write_fit(fit_for(tiny_bank, steps=5), folder)
    code, _, err = shelllcc("generate", "-p", "a tabby cat", *SMALL, "-o", "near.mp4")
    assert code == 0
    assert err.count("nearest fit") == 1
    assert json.loads((tmp_path / "near.json").read_text())["request"]["radius"] == 2.0
    fit = fit_for(tiny_bank, steps=4)
    for number, other in enumerate(({"bank": "other"}, {"weights": "other"}, {"cfg": 3.0})):
        shutil.rmtree(folder)
        write_fit(replace(fit, belongs=replace(fit.belongs, **other)), folder)
        code, _out, err = shelllcc("generate", "-p", "a tabby cat", *SMALL, "-o", f"{number}.mp4")
        assert json.loads((tmp_path / f"{number}.json").read_text())["request"]["radius"] == GuideConfig.radius


def test_a_torn_fit_is_refused_in_one_line(shelllcc, tmp_path, tiny_bank):
    path = write_fit(fit_for(tiny_bank), tmp_path / "banks" / "fits")
    path.write_text(path.read_text().replace("2.0", "9.0", 1))
    code, _, err = shelllcc("generate", "-p", "a tabby cat", *SMALL, "-o", "x.mp4")
    assert code == 2
    assert err.count("\n") == 1
    assert "digest does not match" in err


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """A copy of the tiny model whose latents are another VAE's, as far as anybody can tell."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(TINY, folder)
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    config["latents_std"][0] *= 1.01
    path.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def other_bank(other_model, tiny_bank, tmp_path_factory):
    from shelllcc.anchors.bankfile import save_bank
    from shelllcc.anchors.fingerprints import fingerprint

    path = tmp_path_factory.mktemp("banks") / "other.safetensors"
    vae = fingerprint(find_model(str(other_model)).vae)
    return save_bank(replace(tiny_bank, vae=vae, model="other", path=None, beside=()), path)


FOUR = PRESETS["tiny-4step"].sigmas


@pytest.mark.parametrize(
    "values",
    [{}, *({"cfg": cfg} for cfg in (2.0, 3.0, 5.0)), {"sigmas": FOUR}, {"sigmas": FOUR, "scheduler": "lcm"}],
)
def test_the_fits_that_ship_are_those_of_the_models_own_settings(values, tiny_bank):
    """Their weights, bank and calibration are those that ship, too: whoever changes one makes the fits anew."""
    few = "sigmas" in values
    scheduler = {"scheduler": values["scheduler"]} if "scheduler" in values else {}
    given = scheduler if few else values
    resolved = resolve(Asked(prompts=("a tabby cat",), preset="tiny-4step" if few else None, values=given))
    assert resolved.unfitted == resolved.notes == ()
    [request] = resolved.requests
    found = shelf.find(belonging(request, resolved.model, resolved.loading, tiny_bank))
    assert found.exact
    assert found.fit.guide == request.guide
    assert found.fit.transformer == resolved.model.fingerprint
    assert found.fit.guide.last == few


def test_the_guides_defaults_are_the_fit_of_the_models_own_settings(tiny_bank):
    [request] = resolve(Asked(prompts=("a tabby cat",))).requests
    assert request.guide == GuideConfig()


def test_the_defaults_hold_for_the_tiny_model_and_anchors_alone(tiny_bank, shared):
    manifold = import_checkpoint(shared / "golden/reference_checkpoint.pth", model="m", vae=tiny_bank.vae)
    assert defaults_hold(find_model(None), tiny_bank)
    assert not defaults_hold(find_model(None), manifold)
    request = Request.resolve(PRESETS["tiny"], prompt="any")
    assert defaults_hold(find_model(None), tiny_bank, request)
    assert not defaults_hold(find_model(None), tiny_bank, request.changed(cfg=3.0))  # which has other faults
    assert not defaults_hold(find_model(None), tiny_bank, request.changed(sigmas=FOUR))


def test_a_model_without_a_fit_is_fitted_first_or_sampled_without_guidance(
    shelllcc, tmp_path, other_model, other_bank, drifting, monkeypatch
):
    assert not defaults_hold(find_model(str(other_model)), other_bank)
    words = ("generate", "-p", "a tabby cat", *SMALL, "--model", other_model, "--bank", other_bank.path)
    code, _, err = shelllcc(*words, "--fit", "never", "-o", "never.mp4")
    assert code == 0, err
    monkeypatch.setattr(making, "cost", lambda trips, watch, **call: 1e6)
    monkeypatch.setattr(making._Watch, "steps", [1.0], raising=False)
    monkeypatch.setattr(making._Watch, "__init__", lambda self: None)
    code, _, err = shelllcc(*words, "-o", "long.mp4")
    assert code == 0, err
    assert f"shelllcc fit --model {other_model} --bank {other_bank.path} --steps 4" in err
    assert json.loads((tmp_path / "long.json").read_text())["request"]["strength"] == 0
    code, _, err = shelllcc(*words, "-o", "both.mp4", "--compare")
    assert code == 0, err
    assert err.count("sampling without guidance, and nothing to compare") == 1
    record = json.loads((tmp_path / "both.json").read_text())
    assert (record["compare"], record["request"]["strength"], [*record["videos"]]) == (False, 0, ["unguided"])
    for command in (["compare"], ["tune", "--budget", "2"]):
        code, _, err = shelllcc(*command, *words[1:], "-o", "none")
        assert code == 1
        [line] = [line for line in err.splitlines() if "fit takes about" in line or "error" in line]
        assert f"`shelllcc fit --model {other_model} --bank {other_bank.path} --steps 4` makes it" in line
        assert "--fit-budget 16667" in line
        assert not (tmp_path / "none").exists()
    (tmp_path / "prompts.txt").write_text("a tabby cat\n")
    code, _, err = shelllcc("batch", "prompts.txt", *words[3:], "-o", "all")
    assert code == 0, err
    assert "sampling without guidance: no fit" in err
    monkeypatch.setattr(making, "cost", lambda trips, watch, **call: 60.0)
    code, _, err = shelllcc(*words, "-o", "fitted.mp4")
    assert code == 0, err
    assert "leaves out 20% of the finest detail" in err
    assert json.loads((tmp_path / "fitted.json").read_text())["fit"]["model"] == str(other_model)
    words = ("compare", "-p", "a tabby cat", *SMALL, "--model", other_model, "--bank", other_bank.path, "-o", "run")
    code, _, err = shelllcc(*words)
    assert code == 0, err
    assert "fitting" not in err
    assert "leaves out 20% of the finest detail" in (tmp_path / "run" / "report.html").read_text()


def test_weights_are_known_by_their_bytes_wherever_they_lie(tmp_path, other_model):
    import torch
    from safetensors.torch import save_file

    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_file({"x": torch.full((4,), value)}, tmp_path / f"{name}.safetensors")
    tiny = find_model(None)

    def weights(name, weight=1.0, model=tiny):
        return weights_of(model, Loading(loras=(Lora(str(tmp_path / f"{name}.safetensors"), weight),)))

    assert weights("a") == weights("b") != weights("c")
    assert weights("a", 0.5) != weights("a") != weights_of(tiny, Loading())
    assert weights_of(find_model(str(other_model)), Loading()) != weights_of(tiny, Loading())
    moved = tmp_path / "moved"
    shutil.copytree(other_model, moved)
    assert weights_of(find_model(str(moved)), Loading()) == weights_of(find_model(str(other_model)), Loading())
    assert weights_of(tiny, Loading(tiling=True, dtype="float32")) == weights_of(tiny, Loading())
    assert weights_of(tiny, Loading(quantize="int8")) != weights_of(tiny, Loading())


def test_python_takes_the_fit_of_a_pipeline(tmp_path, monkeypatch, pipe, tiny_bank):
    import diffusers

    from shelllcc import fitted_guide, guided
    from shelllcc.guidance.wan.model.pipeline import TINY

    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path))
    with pytest.raises(UsageError, match="shelllcc fit --model tiny --steps 4 --cfg 1`"):
        fitted_guide(pipe, steps=4, cfg=1.0)
    write_fit(fit_for(tiny_bank), tmp_path / "fits")
    guide = fitted_guide(pipe, steps=4, cfg=1.0, strength=2.0)
    assert guide.config == replace(GUIDE, strength=2.0)
    with pytest.warns(UserWarning, match="nearest fit"):
        assert fitted_guide(pipe, steps=5, cfg=1.0).config == GUIDE
    modular = diffusers.ModularPipeline.from_pretrained(str(TINY))
    modular.load_components()
    assert fitted_guide(modular, steps=4, cfg=1.0).config == GUIDE
    with pytest.raises(UsageError, match="which files this pipeline was loaded from"):
        fitted_guide(diffusers.modular_pipelines.WanBlocks().init_pipeline(), steps=4, cfg=1.0)
    with guided(pipe, guide):
        pipe(
            "a cat", height=32, width=32, num_frames=5, num_inference_steps=4, guidance_scale=1.0, output_type="latent"
        )
    assert guide.trace


def test_a_model_without_a_bank_gets_one_and_a_fit_by_itself(
    shelllcc, tmp_path, other_model, other_bank, drifting, monkeypatch
):
    from shelllcc.guidance.wan.banks import start

    made = []

    def start_bank(model, **options):
        made.append(model.name)
        path = start.starter_path(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(other_bank.path, path)

    monkeypatch.setattr(start, "start_bank", start_bank)
    words = ("generate", "-p", "a tabby cat", *SMALL, "--model", other_model)
    code, _, err = shelllcc(*words, "--strength", "0", "-o", "stock.mp4")
    assert code == 0, err
    assert made == []
    for name in ("first", "second"):
        code, _, err = shelllcc(*words, "-o", f"{name}.mp4")
        assert code == 0, err
    assert made == [str(other_model)]
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "second"))
    assert first["fit"]["guide"]["radius"] > 1.2
    assert first["frames_sha256"] == second["frames_sha256"]
    assert "fitting" not in err
