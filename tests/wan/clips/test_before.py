"""What version 0.1.0 wrote before the house was moved (tests/before): sidecars replay bit for bit."""

import importlib.util
import json
import shutil

import pytest

from shelllcc.guidance.geometry.threads import one_thread
from shelllcc.guidance.wan.model.pipeline import find_model

SIZE = ["--size", "64x64", "--frames", "5", "--steps", "12", "--cfg", "1"]
RUN = ["compare", "--prompt", "a rocket, tilt up, night", *SIZE, "--strengths", "0,1", "-o", "run", "--json"]


def remake(root):
    """tests/before/remake.py, which makes these records anew for other weights."""
    spec = importlib.util.spec_from_file_location("remake", root / "tests/before/remake.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert record["request"] | before["request"] == record["request"]  # which has the knobs that came since
    moves = [[step["move"][0] for step in made["trace"]] for made in (record, before)]
    if record["versions"]["torch"] != before["versions"]["torch"]:  # of another torch the last bits differ
        assert moves[0] == pytest.approx(moves[1], rel=1e-4)
        return
    assert record["frames_sha256"] == before["frames_sha256"]
    assert moves[0] == moves[1]
    anew = remake(root).like(before, record)  # what is in the folder once weights change
    assert anew | {key: before[key] for key in ("metrics", "sha256")} == before
    assert anew["metrics"].keys() == before["metrics"].keys()
    assert anew["sha256"] == record["sha256"]


@pytest.mark.parametrize("name", ["generate.json", "batch.json", "run/00_strength-1.json"])
def test_a_sidecar_of_other_weights_is_refused_by_their_fingerprint(name, shelllcc, root, tmp_path):
    record = json.loads((root / "tests/before" / name).read_text())
    record["model"]["revision"] = "0123456789abcdef"
    record["bank"]["sha256"] = "0" * 64  # new weights have a new bank, too
    (tmp_path / "clip.json").write_text(json.dumps(record))
    again = ["generate", "--from", "clip.json", "-o", "again.mp4", "--steps", "3"]
    code, _, err = shelllcc(*again)
    [line] = err.splitlines()
    assert code == 2
    assert "0123456789abcdef" in line
    assert find_model(None).revision in line
    assert not (tmp_path / "again.mp4").exists()
    assert "--model tiny --bank auto" in line  # which is true:
    code, _, err = shelllcc(*again, "--model", "tiny", "--bank", "auto")
    assert code == 0, err
    assert json.loads((tmp_path / "again.json").read_text())["model"]["revision"] == find_model(None).revision


def test_a_run_of_other_weights_is_refused_in_one_line(shelllcc, root, tmp_path):
    shutil.copytree(root / "tests/before/run", tmp_path / "run")
    told = (tmp_path / "run/run.json").read_text()
    (tmp_path / "run/run.json").write_text(told.replace(find_model(None).revision, "0123456789abcdef"))
    code, _, err = shelllcc(*RUN)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "run" in err


def test_a_run_of_before_is_another_one_today_and_stays_as_it_was(shelllcc, root, tmp_path):
    """Its guide had knobs of its own, which no fit of today has: it is refused, not gone on with under others."""
    shutil.copytree(root / "tests/before/run", tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    code, _, err = shelllcc(*RUN)
    assert code == 2
    [line] = err.splitlines()
    assert "run" in line
    assert {path: path.read_bytes() for path in files} == files
