"""Requests as sidecars have them: flat, and of a time when the guide had fewer knobs."""

import json
from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.wan.clips import profiles
from shelllcc.guidance.wan.clips import request as module
from shelllcc.guidance.wan.clips.recorded import is_request, is_run
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.presets import PRESETS

BEFORE = {  # of a sidecar of version 0.1
    "prompt": "a tabby cat, zoom in, daylight", "negative_prompt": "", "seed": 0, "width": 64, "height": 64,
    "frames": 5, "fps": 8, "steps": 4, "cfg": 1.0, "cfg_2": None, "shift": 3.0, "strength": 1.0, "radius": 3.4,
    "window": [0.0, 0.95], "preset": "tiny", "calm": 3.8, "trust": 0.3,
}  # fmt: skip
SMALL = ["--size", "64x64", "--frames", "5", "--steps", "3", "--window", "0:0.9"]


@dataclass(frozen=True)
class Newer(GuideConfig):
    """The guide with knobs that nobody has heard of."""

    fuzz: "float" = 0.5
    reach: "tuple[float, float]" = (0.0, 1.0)
    rings: "int" = 3


def given(**values):
    small = {"width": 64, "height": 64, "frames": 5, "steps": 4, "window": (0.0, 0.95)}
    return Request.resolve(PRESETS["tiny"], **{"prompt": BEFORE["prompt"], **small, **values})


def then(**values):
    """As `given`, by a guide as it was before."""
    return given(
        **{name: value for name, value in module.BEFORE.items() if value != ()}, radius=3.4, calm=3.8, **values
    )


@pytest.fixture
def newer(monkeypatch):
    monkeypatch.setattr(module, "GuideConfig", Newer)


def test_a_request_is_flat_in_json_and_comes_back_whole(newer):
    request = given(strength=0.5, fuzz=0.7, reach=(0.2, 0.8), rings=2, seed=3)
    record = json.loads(json.dumps(request.as_dict()))
    assert not any(isinstance(value, dict) for value in record.values())
    assert {field.name for field in fields(Newer)} <= record.keys()
    assert (record["fuzz"], record["reach"], record["rings"]) == (0.7, [0.2, 0.8], 2)
    assert Request.from_dict(record) == request
    assert request.changed(fuzz=0.5, seed=4) == given(strength=0.5, reach=(0.2, 0.8), rings=2, seed=4)
    assert request.unguided() == request.changed(strength=0.0)


@pytest.mark.parametrize(
    "wrong", [{"fuzz": "a"}, {"reach": [0.1]}, {"reach": [True, "x"]}, {"rings": 1.5}, {"rings": True}]
)
def test_a_knob_of_a_wrong_type_is_refused(wrong, newer):
    with pytest.raises(UsageError, match="no proper"):
        Request.from_dict(BEFORE | wrong)


def test_a_record_of_before_is_that_of_a_request_with_the_guide_of_then(newer):
    assert Request.from_dict(BEFORE) == then()
    assert is_request(BEFORE, then())
    assert is_request(BEFORE | {"fuzz": 0.5, "reach": [0, 1]}, then())
    for other in ({"fuzz": 0.7}, {"reach": [0, 0.9]}, {"strength": 0.9}, {"unheard": 1}, {"seed": "x"}):
        assert not is_request(BEFORE | other, then())
    assert not is_request(BEFORE, then(fuzz=0.7))
    assert not is_request(None, then())


def test_a_run_of_before_goes_on_and_keeps_what_it_is_named_by(newer):
    def asked(*requests):
        model, loading = {"source": "tiny", "revision": "0"}, Loading().recipe()
        return {"title": "tune", "model": model, "bank": None, "loading": loading, "requests": list(requests)}

    assert then().lasting() == BEFORE
    assert is_run(asked(BEFORE), asked(then().lasting()))
    assert is_run(asked(BEFORE), asked(then().as_dict()))
    assert then(fuzz=0.7).lasting() == BEFORE | {"fuzz": 0.7}
    for other in ([then(fuzz=0.7).lasting()], [then(steps=5).lasting()], [BEFORE, BEFORE], []):
        assert not is_run(asked(BEFORE), asked(*other))


def test_a_profile_of_before_is_found(newer, monkeypatch, tmp_path):
    monkeypatch.setenv("SHELLLCC_PROFILES", str(tmp_path))
    model = SimpleNamespace(name="tiny", revision="10307b320b40446e", is_local=False)
    identity = "0553f411de5e3962de17da90bcf418ff011e09c099d8d37e9cc466eefc94e36a"
    bank = SimpleNamespace(name="tiny-wan", identity=identity, sha256="0" * 64, chosen=None)
    free = ("seed", "strength", "preset", "fps")
    old = {
        "strength": 1.24,
        "settings": {key: value for key, value in BEFORE.items() if key not in free},
        "model": {"source": "tiny", "revision": "10307b320b40446e"},
        "bank": {"name": "tiny-wan", "identity": identity},
        "balance": -0.02,
    }
    (tmp_path / "13b28381e995.json").write_text(json.dumps(old))  # so `tune` of version 0.1 named it
    assert profiles.find(then(), model, Loading(), bank)["strength"] == 1.24
    assert profiles.tuned_request(then(), model, Loading(), bank)[0] == then(strength=1.24)
    assert profiles.find(then(fuzz=0.7), model, Loading(), bank) is None
    stored = profiles.store(then(fuzz=0.7), model, Loading(), bank, {"strength": 2.0, "balance": 0.0})
    assert profiles.find(then(fuzz=0.7), model, Loading(), bank) == stored


def test_clips_of_before_are_skipped_and_replayed(shelllcc, tmp_path, monkeypatch):
    words = ["generate", "--prompt", BEFORE["prompt"], *SMALL, "-o", "a.mp4", "--json"]
    record = json.loads(shelllcc(*words)[1])["clips"][0]
    monkeypatch.setattr(module, "GuideConfig", Newer)
    assert json.loads(shelllcc(*words, "--resume")[1]) == {"clips": [], "skipped": 1}
    assert shelllcc("generate", "--from", "a.json", "-o", "b.mp4")[0] == 0
    again = json.loads((tmp_path / "b.json").read_text())
    assert again["frames_sha256"] == record["frames_sha256"]
    assert again["request"] == record["request"] | {"fuzz": 0.5, "reach": [0.0, 1.0], "rings": 3}
