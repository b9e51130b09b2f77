"""The studio: the text encoder comes once, goes before the transformer comes, and stays away where texts are known."""

import shutil

import pytest
import torch

from shelllcc.guidance.wan import pipeline
from shelllcc.guidance.wan.loading import Loading
from shelllcc.guidance.wan.pipeline import TINY, find_model
from shelllcc.guidance.wan.presets import PRESETS
from shelllcc.guidance.wan.request import Request
from shelllcc.guidance.wan.sample import sample
from shelllcc.guidance.wan.studio import Studio
from shelllcc.guidance.wan.texts import encoder_fingerprint

CAT, GRASS = "a tabby cat, zoom in, daylight", "grass, static, dusk"


class Silent:
    def __init__(self):
        self.stages = []

    def stage(self, name):
        self.stages.append(name)

    def step(self, moment):
        pass


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """Makes studios of the embedded model that share one cache of texts."""
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path / "cache"))
    return lambda: Studio(find_model(None), Loading(), Silent(), device="cpu")


def request(**values):
    return Request.resolve(PRESETS["tiny"], **{"prompt": CAT, "width": 64, "height": 64, "frames": 5, **values})


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
