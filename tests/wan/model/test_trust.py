"""Nothing that others made runs code here, and nothing that they name is fetched unasked."""

import io
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.wan.model.loading import Loading, Lora
from shelllcc.guidance.wan.model.pipeline import (
    TINY,
    check_loading,
    find_model,
    load_pipeline,
    load_text_encoder,
    load_vae,
)

PARTS = ("vae", "transformer", "text_encoder")


class Bomb:
    """A pickle that makes a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def model(tmp_path):
    """A folder with the embedded model, to be changed."""
    return shutil.copytree(TINY, tmp_path / "model")


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """A file that exists once foreign code ran, and a module on the path that makes it."""
    mark = tmp_path / "executed"
    (tmp_path / "elsewhere.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass UMT5EncoderModel: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    return mark


def weights_of(part):
    return next(part.glob("*.safetensors"))


def as_pickle(part, name=None):
    """Put a part's weights into the .bin file that diffusers or transformers would look for."""
    file = weights_of(part)
    name = name or ("pytorch_model.bin" if part.name == "text_encoder" else "diffusion_pytorch_model.bin")
    torch.save(load_file(file), part / name)
    file.unlink()


def as_shard(part, shard):
    """Put a part's weights into one shard named by an index."""
    file, tensors = weights_of(part), load_file(weights_of(part))
    file.unlink()
    torch.save(tensors, part / shard) if shard.endswith(".bin") else save_file(tensors, part / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
    (part / f"{file.name}.index.json").write_text(json.dumps(index))


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("spoil", [as_pickle, lambda part: as_shard(part, "x-00001-of-00001.bin")])
def test_pickled_weights_are_refused_before_anything_is_loaded(spoil, part, model, shelllcc, monkeypatch):
    spoil(model / part)
    monkeypatch.setattr("torch.load", lambda *args, **options: pytest.fail("a pickle was opened"))
    code, out, err = shelllcc("generate", "--model", model, "-p", "a cat", "--strength", 0, "--dry-run")
    assert (code, out) == (1, ""), err
    assert len(err.splitlines()) == 1
    assert f"{model / part}" in err
    assert ".bin" in err
    with pytest.raises(ModelError, match=r"\.bin"):
        load_pipeline(find_model(str(model)), device="cpu")
    if part == "text_encoder":
        with pytest.raises(ModelError, match=r"\.bin"):
            load_text_encoder(find_model(str(model)), device="cpu")
    if part == "vae":
        with pytest.raises(ModelError, match=r"\.bin"):
            load_vae(str(model), "local", device="cpu")


@pytest.mark.parametrize("part", PARTS)
def test_the_libraries_are_told_to_read_no_pickle_either(part, model, monkeypatch):
    as_pickle(model / part)
    monkeypatch.setattr("shelllcc.guidance.wan.model.pipeline.check_weights", lambda folder, parts: None)
    monkeypatch.setattr("torch.load", lambda *args, **options: pytest.fail("a pickle was opened"))
    found = find_model(str(model))
    with pytest.raises(ModelError, match=r"^cannot load [^\n]*$"):
        load_pipeline(found, device="cpu")
    if part == "text_encoder":
        with pytest.raises(ModelError, match=r"^cannot load [^\n]*$"):
            load_text_encoder(found, device="cpu")


@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_shards_of_the_hub_are_no_pickles(part, hub, model, monkeypatch):
    whole = find_model("some/model")
    as_shard(model / part, "x-00001-of-00001.bin")
    monkeypatch.setattr("diffusers.AutoencoderKLWan.from_pretrained", lambda *args, **options: torch.nn.Identity())
    monkeypatch.setattr(
        "diffusers.WanTransformer3DModel.from_pretrained", lambda *args, **options: pytest.fail("asked")
    )
    with pytest.raises(ModelError, match=r"x-00001-of-00001\.bin"):
        load_pipeline(whole, device="cpu")


def test_a_pickle_beside_safetensors_is_left_alone(model, executed):
    for part in PARTS:
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
            (model / part / name).write_bytes(pickle.dumps(Bomb(executed)))
    as_shard(model / "vae", "x-00001-of-00001.safetensors")
    pipe = load_pipeline(find_model(str(model)), device="cpu")
    assert not executed.exists()
    for name, tensor in load_file(weights_of(TINY / "vae")).items():
        assert torch.equal(pipe.vae.state_dict()[name], tensor.float())


def test_pickles_of_a_part_that_a_file_replaces_are_no_matter(model):
    file = shutil.copy(weights_of(model / "transformer"), model / "other.safetensors")
    as_pickle(model / "transformer")
    load_pipeline(find_model(str(model)), Loading(transformer=str(file)), device="cpu", text_encoder=False)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("text_encoder", ["elsewhere", "UMT5EncoderModel"], "'elsewhere'"),
        ("scheduler", ["elsewhere", "UMT5EncoderModel"], "'elsewhere'"),
        ("vae", ["elsewhere", "UMT5EncoderModel"], "'elsewhere'"),
        ("watermark", ["elsewhere", "UMT5EncoderModel"], "'elsewhere'"),
        ("text_encoder", [["elsewhere"], "UMT5EncoderModel"], "elsewhere"),
        ("text_encoder", ["elsewhere"], "only classes of diffusers and transformers"),
        ("text_encoder", ["transformers", "AutoModel"], "AutoModel"),
        ("tokenizer", ["transformers", "AutoTokenizer"], "AutoTokenizer"),
        ("scheduler", ["diffusers", "DiffusionPipeline"], "DiffusionPipeline"),
        ("tokenizer", ["diffusers", "DiffusionPipeline"], "DiffusionPipeline"),
        ("_class_name", ["pipeline", "WanPipeline"], "not a WanPipeline"),
    ],
)
def test_a_model_that_names_other_code_is_refused(part, value, said, model, executed, shelllcc):
    for place in (model, model / "text_encoder", model / "scheduler"):
        for name in ("elsewhere.py", "pipeline.py"):
            shutil.copy(model.parent / "elsewhere.py", place / name)
    change(model / "model_index.json", **{part: value})
    code, out, err = shelllcc("generate", "--model", model, "-p", "a cat", "--strength", 0, "-o", "x.mp4")
    assert (code, out) == (1, ""), err
    assert said in err
    assert len(err.splitlines()) == 1
    assert not executed.exists()


def test_code_beside_a_part_is_refused(model, executed):
    shutil.copy(model.parent / "elsewhere.py", model / "text_encoder" / "transformers.py")
    with pytest.raises(ModelError, match=r"text_encoder/transformers\.py"):
        find_model(str(model))
    assert not executed.exists()


def test_attention_from_the_hub_is_refused(model):
    change(model / "text_encoder" / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(ModelError, match="someone/kernel"):
        find_model(str(model))


@pytest.mark.parametrize("name", ["style.bin", "style.pt", "style.safetensors"])
def test_a_pickle_is_no_adapter_and_no_transformer(name, tmp_path, executed):
    pytest.importorskip("peft", reason="LoRAs need the library peft")
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Bomb(executed)))
    for loading in (Loading(loras=(Lora(str(file)),)), Loading(transformer=str(file))):
        with pytest.raises(ModelError) as error:
            load_pipeline(find_model(None), loading, device="cpu", text_encoder=False)
        assert "\n" not in str(error.value)
    if name != "style.safetensors":
        for source in (str(file), f"owner/name/{name}"):
            with pytest.raises(ModelError, match=r"\.safetensors"):
                check_loading(find_model(None), Loading(loras=(Lora(source),)), "cpu")
    assert not executed.exists()


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    """A hub whose every repository is the embedded model, and the names that were asked of it; its cache is empty."""
    asked = []

    def download(repo, name, revision=None):
        asked.append(repo)
        return str(model / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shelllcc.guidance.wan.model.memory.forecasts", lambda *_: [])  # counted elsewhere
    return asked


@pytest.fixture
def foreign(shelllcc, tmp_path):
    """Write a sidecar as somebody else's: an own one with other names in it. Returns its path."""
    words = ("--frames", 5, "--size", "64x64", "--steps", 2, "--strength", 0, "--dry-run", "--json")
    code, out, err = shelllcc("generate", "-p", "a cat", *words)
    assert code == 0, err
    clip = json.loads(out)["clips"][0]

    def write(**names):
        (tmp_path / "clip.json").write_text(json.dumps(clip | names))
        return tmp_path / "clip.json"

    return write


def model_of(source):
    return {"source": source, "revision": "x"}


def in_cache(tmp_path, repo, files, commit="0" * 40):
    """Lay files into the hub's cache as huggingface_hub does."""
    folder = tmp_path / "cache" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    shutil.copytree(files, snapshot)
    return snapshot


def test_a_sidecar_has_nothing_fetched_that_the_user_did_not_name(hub, foreign, shelllcc):
    file = foreign(model=model_of("some/model"))
    replay = ("generate", "--from", file, "--dry-run")
    for words in ((), ("--json",)):
        code, out, err = shelllcc(*replay, *words)
        assert code == 2, err
        assert (json.loads(out)["error"]["exit_code"] if words else out) == (2 if words else "")
        assert len(err.splitlines()) == 1
        assert "some/model" in err
        assert "--trust" in err
    assert hub == []
    for words in (("--trust", "--json"), ("--model", "some/model", "--json")):
        hub.clear()
        code, out, err = shelllcc(*replay, *words)
        assert code == 0, err
        assert json.loads(out)["clips"][0]["model"]["source"] == "some/model"
        assert set(hub) == {"some/model"}
    hub.clear()
    assert shelllcc(*replay, "--model", "tiny")[0] == 0
    assert shelllcc(*replay, "--model", "some/model@v2")[0] == 0
    assert set(hub) == {"some/model"}


@pytest.mark.parametrize("place", ["variable", "toml"])
def test_a_name_of_the_users_own_needs_no_question(place, hub, foreign, shelllcc, tmp_path, monkeypatch):
    file = foreign(model=model_of("some/model"))
    if place == "variable":
        monkeypatch.setenv("SHELLLCC_MODEL", "some/model")
    else:
        (tmp_path / "shelllcc.toml").write_text('[generate]\nmodel = "some/model"\n')
    assert shelllcc("generate", "--from", file, "--dry-run")[0] == 0
    file = foreign(model=model_of("some/model@refs"))
    assert shelllcc("generate", "--from", file, "--dry-run")[0] == 2


def test_trust_is_a_flag_alone(hub, foreign, shelllcc, tmp_path):
    (tmp_path / "shelllcc.toml").write_text("[generate]\ntrust = true\n")
    assert shelllcc("generate", "--from", foreign(model=model_of("some/model")), "--dry-run")[0] == 2
    assert hub == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("\n", 2), ("n\n", 2), ("", 2)])
def test_on_a_terminal_the_user_is_asked(answer, code, hub, foreign, shelllcc, monkeypatch):
    file = foreign(model=model_of("some/model"))
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    found, out, err = shelllcc("generate", "--from", file, "--dry-run")
    assert found == code, err
    assert f"{file} names some/model on the hub; fetch it? [y/N] " in err
    assert set(hub) == ({"some/model"} if code == 0 else set())
    assert "fetch it?" not in out


def test_what_is_in_the_cache_needs_no_question(hub, foreign, model, shelllcc, tmp_path):
    replay = ("generate", "--from", foreign(model=model_of("some/model")), "--dry-run")
    snapshot = in_cache(tmp_path, "some/model", model)
    assert shelllcc(*replay)[0] == 0
    as_shard(snapshot / "vae", "x-00001-of-00001.safetensors")
    assert shelllcc(*replay)[0] == 0
    for lost in ("vae/x-00001-of-00001.safetensors", "scheduler/scheduler_config.json"):
        (snapshot / lost).rename(tmp_path / "lost")
        assert shelllcc(*replay)[0] == 2, lost
        (tmp_path / "lost").rename(snapshot / lost)
    assert shelllcc(*replay)[0] == 0


def test_adapters_are_asked_for_too(hub, foreign, shelllcc, tmp_path):
    pytest.importorskip("peft", reason="LoRAs need the library peft")
    named = ("some/style", "some/style/a.safetensors", "some/style/in/a.safetensors")
    for source in named:
        file = foreign(loading={"loras": [{"source": source, "weight": 1.0}]})
        replay = ("generate", "--from", file, "--dry-run")
        code, _, err = shelllcc(*replay)
        assert code == 2, err
        assert f"{source} on the hub" in err
        assert shelllcc(*replay, "--trust")[0] == 0
        assert shelllcc(*replay, "--lora", source)[0] == 0
    (tmp_path / "style/in").mkdir(parents=True)
    for name in ("a.safetensors", "in/a.safetensors"):
        save_file({"proj_out.diff_b": torch.ones(64)}, tmp_path / "style" / name)
    in_cache(tmp_path, "some/style", tmp_path / "style")
    for source, code in (*((source, 0) for source in named), ("some/style/../b.safetensors", 2), ("some/b", 2)):
        file = foreign(loading={"loras": [{"source": source, "weight": 1.0}]})
        assert shelllcc("generate", "--from", file, "--dry-run")[0] == code, source


@pytest.mark.parametrize("name", ["a\0b/c", "a/" + "b" * 300, "a/" * 3000, "a/\x1b[31m", "https://x.org/y", "a/b/c/d"])
def test_names_that_are_none_are_told_in_one_line(name, hub, foreign, shelllcc):
    for names in ({"model": model_of(name)}, {"loading": {"loras": [{"source": name, "weight": 1.0}]}}):
        code, out, err = shelllcc("generate", "--from", foreign(**names), "--dry-run")
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert hub == []


def test_a_name_too_long_is_told_of_the_users_own_too(shelllcc):
    for flag in ("--model", "--lora", "--transformer"):
        for name in ("a/" + "b" * 300, "a/" * 3000):
            code, out, err = shelllcc("generate", "-p", "a cat", "--strength", 0, flag, name)
            assert (code, out, len(err.splitlines())) == (2, "", 1), err


@pytest.mark.parametrize("kind", ["pickle", "folder", "device", "url", "none"])
def test_a_bank_that_a_sidecar_names_is_read_as_a_bank_or_not_at_all(kind, foreign, shelllcc, tmp_path, executed):
    (tmp_path / "x").write_bytes(pickle.dumps(Bomb(executed)))
    (tmp_path / "f").mkdir()
    path = {"pickle": tmp_path / "x", "folder": tmp_path / "f", "device": "/dev/zero", "url": "https://x.org/b"}
    path = str(path.get(kind, "/nowhere/x.safetensors"))
    record = json.loads(foreign().read_text())
    file = foreign(
        bank={"path": path, "name": "https://x.org/b", "sha256": "0"}, request=record["request"] | {"strength": 1.0}
    )
    code, out, err = shelllcc("generate", "--from", file, "--dry-run")
    assert (code, out, len(err.splitlines())) == (1, "", 1), err
    assert not executed.exists()
