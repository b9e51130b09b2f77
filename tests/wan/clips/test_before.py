"""What version 0.1.0 wrote before the house was moved (tests/before): sidecars replay bit for bit, runs go on."""

import json
import shutil

import pytest

from shelllcc.guidance.geometry.threads import one_thread


@pytest.fixture(autouse=True)
def _one_thread():
    """As these clips were made: the number of threads may change the last bits of a sum."""
    with one_thread():
        yield


@pytest.mark.parametrize("name", ["generate.json", "batch.json", "run/00_strength-1.json"])
def test_a_sidecar_of_before_replays_bit_for_bit(name, shelllcc, root, tmp_path):
    before = json.loads((root / "tests/before" / name).read_text())
    code, out, err = shelllcc("generate", "--from", root / "tests/before" / name, "-o", "again.mp4", "--json")
    assert code == 0, err
    [record] = json.loads(out)["clips"]
    assert record["frames_sha256"] == before["frames_sha256"]
    assert record["request"] | before["request"] == record["request"]  # which has the knobs that came since
    assert [step["move"] for step in record["trace"]] == [step["move"] for step in before["trace"]]


def test_a_run_of_before_goes_on_and_samples_nothing(shelllcc, root, tmp_path, monkeypatch):
    from shelllcc.guidance.wan.clips import sample

    shutil.copytree(root / "tests/before/run", tmp_path / "run")
    clips = {path: path.read_bytes() for path in (tmp_path / "run").glob("00_*.mp4")}
    assert len(clips) == 2
    monkeypatch.setattr(sample, "sample", lambda *args, **options: pytest.fail("a clip was sampled"))
    size = ["--size", "64x64", "--frames", "5", "--steps", "12"]
    words = ["compare", "--prompt", "a rocket, tilt up, night", *size, "--strengths", "0,1", "-o", "run", "--json"]
    code, out, err = shelllcc(*words)
    assert code == 0, err
    assert [clip["label"] for clip in json.loads(out)["items"][0]["clips"]] == ["unguided", "strength-1"]
    assert {path: path.read_bytes() for path in clips} == clips
