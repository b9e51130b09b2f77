"""The studio: the text encoder comes once, goes before the transformer comes, and stays away where texts are known."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.wan.clips import embeddings
from shelllcc.guidance.wan.clips.embeddings import encoder_fingerprint
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import sample
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.wan.model import pipeline
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import TINY, find_model
from shelllcc.guidance.wan.model.presets import PRESETS

CAT, GRASS = "a tabby cat, zoom in, daylight", "grass, static, dusk"


class Silent:
    def __init__(self):
        self.stages = []

    def stage(self, name):
        self.stages.append(name)

    def step(self, moment):
        pass

    def count(self, done, total):
        pass


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """Makes studios of the embedded model that share one cache of texts."""
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path / "cache"))
    return lambda: Studio(find_model(None), Loading(), Silent(), device="cpu")


def request(**values):
    return Request.resolve(PRESETS["tiny"], **{"prompt": CAT, "width": 32, "height": 32, "frames": 5, **values})


def own_embedding(pipe, prompt):
    with torch.no_grad():
        return pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)[0]


def test_all_expected_prompts_are_encoded_at_once_before_the_pipeline_is_loaded(studio):
    first = studio()
    first.expect([request(), request(prompt=GRASS, cfg=2.0, negative_prompt="fog")])
    assert first.pipe.text_encoder is None
    assert first.reporter.stages == ["encoding prompts", "loading"]
    for prompt in (CAT, GRASS, "fog"):
        first.texts.embed(prompt)
    again = studio()
    again.expect([request()])
    assert again.pipe.text_encoder is None
    assert again.reporter.stages == ["loading"]


@pytest.mark.parametrize("prompt", [CAT, ""])
def test_embeddings_from_disk_are_the_encoders_own(studio, pipe, prompt, monkeypatch):
    own = own_embedding(pipe, prompt)
    torch.testing.assert_close(studio().texts.embed(prompt), own, rtol=0, atol=0)
    monkeypatch.setattr(pipeline, "load_text_encoder", lambda *args, **kwargs: pytest.fail("encoded again"))
    torch.testing.assert_close(studio().texts.embed(prompt), own, rtol=0, atol=0)


def test_embeddings_of_other_libraries_or_threads_are_not_taken(studio, tmp_path, monkeypatch):
    kept = tmp_path / "cache" / "texts"

    def encoded():
        before = set(kept.glob("*"))
        for path in before:
            save_file({"embedding": torch.ones(3, 128)}, path)  # another encoder's
        studio().texts.embed(CAT)
        return len(set(kept.glob("*")) - before)

    assert [encoded(), encoded()] == [1, 0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert encoded() == 1
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(embeddings, "version", lambda name: "0.1" if name == "transformers" else "9")
    assert [encoded(), encoded()] == [1, 0]


def test_a_prompt_that_nobody_expected_is_encoded_when_it_is_asked_for(studio, pipe):
    late = studio()
    assert late.pipe.text_encoder is None
    torch.testing.assert_close(late.texts.embed(GRASS), own_embedding(pipe, GRASS), rtol=0, atol=0)


def test_a_broken_or_unwritable_cache_is_no_error(studio, tmp_path, monkeypatch):
    own = studio().texts.embed(GRASS)
    [file] = (tmp_path / "cache" / "texts").iterdir()
    file.write_bytes(b"torn")
    torch.testing.assert_close(studio().texts.embed(GRASS), own, rtol=0, atol=0)
    monkeypatch.setenv("SHELLLCC_CACHE", str(file))
    torch.testing.assert_close(studio().texts.embed(GRASS), own, rtol=0, atol=0)


def test_another_encoder_or_dtype_has_another_fingerprint(tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    model = find_model(str(tmp_path / "model"))
    before = encoder_fingerprint(model, "float32")
    assert before == encoder_fingerprint(find_model(None), "float32")
    assert before != encoder_fingerprint(model, "bfloat16")
    [weights] = (tmp_path / "model" / "text_encoder").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert before != encoder_fingerprint(model, "float32")


def test_frames_do_not_depend_on_cached_texts(studio, pipe):
    wanted = request(steps=3, cfg=3.0, negative_prompt="fog")
    clips = [sample(pipe, wanted, texts=texts) for texts in (None, studio().texts, studio().texts)]
    clips.append(sample(studio().pipe, wanted, texts=studio().texts))
    assert len({clip.frames_sha256 for clip in clips}) == 1


def test_a_file_counts_by_its_content_wherever_it_lies(shelllcc, tmp_path, monkeypatch):
    [own] = (TINY / "transformer").glob("*.safetensors")
    file = tmp_path / "t.safetensors"
    shutil.copy(own, file)
    words = [
        "generate",
        "-p",
        CAT,
        "--size",
        "32x32",
        "--frames",
        "5",
        "--steps",
        "2",
        "--transformer",
        "t.safetensors",
    ]
    assert shelllcc(*words, "-o", "a.mp4")[0] == 0
    assert "1 of 1 clip finished" in shelllcc(*words, "-o", "a.mp4", "--resume")[2]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert shelllcc("generate", "--from", "../a.json", "-o", "b.mp4")[0] == 0
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, _, err = shelllcc("generate", "--from", "../a.json", "-o", "c.mp4")
    assert (code, "is not the file that the sidecar names" in err) == (2, True)
    monkeypatch.chdir(tmp_path)
    assert "finished" not in shelllcc(*words, "-o", "a.mp4", "--resume")[2]


def test_a_clip_of_another_dtype_is_not_the_one_asked_for(shelllcc, tmp_path):
    words = ["generate", "-p", CAT, "--size", "32x32", "--frames", "5", "--steps", "2", "-o", "a.mp4"]
    assert shelllcc(*words)[0] == 0
    sidecar = tmp_path / "a.json"
    assert "finished" in shelllcc(*words, "--resume")[2]
    sidecar.write_text(sidecar.read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    assert "finished" not in shelllcc(*words, "--resume")[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lora", "nope.safetensors"], "no LoRA at nope.safetensors"),
        (["--transformer", "nope.gguf"], "no file nope.gguf"),
        (["--offload", "model", "--device", "cpu"], "nothing to offload from"),
        (["--transformer-2", "x.gguf"], "second transformer"),
    ],
)
def test_a_dry_run_checks_how_the_model_would_be_loaded(shelllcc, words, told):
    code, _, err = shelllcc("generate", "-p", CAT, "--dry-run", *words)
    assert code in (1, 2)
    assert told in err


@pytest.mark.parametrize(
    "loading", ["x", [1], {"transformer": 5}, {"tiling": "no"}, {"loras": [{"weight": 1}]}, {"a": ""}]
)
def test_a_sidecar_whose_loading_is_none_gets_one_line(loading):
    with pytest.raises(UsageError, match="loading is no proper one"):
        Loading.from_recipe(loading)
