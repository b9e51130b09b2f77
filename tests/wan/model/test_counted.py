"""Counts that were made before: the shipped ones are what would be counted, kept ones serve, and a dry run is light."""

import json
import os
import subprocess
import sys

import pytest

from shelllcc.guidance.versions import version
from shelllcc.guidance.wan.model import counted
from shelllcc.guidance.wan.model.counted import LIBRARIES, SHIPPED, key_of, known
from training.counts import shipped

HEAVY = (
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "torchao",
    "bitsandbytes",
    "scipy",
    "sklearn",
    "torch._dynamo",
)


def test_what_ships_is_what_is_counted(root):
    """Where this fails after an update of a library or of the counting: `python -m training.counts`."""
    pinned = (root / "constraints.txt").read_text().split()
    if others := [name for name in LIBRARIES if f"{name}=={version(name)}".partition("+")[0] not in pinned]:
        pytest.skip(f"counts ship for what constraints.txt names; {', '.join(others)} is another here")
    assert dict(shipped()) == json.loads(SHIPPED.read_text())


@pytest.mark.parametrize("words", [[], ["--device", "cuda", "--strength", "2", "--cfg", "3", "--quantize", "fp8"]])
def test_a_dry_run_loads_no_library_of_models(words, tmp_path):
    code = f"""
import sys
from shelllcc.cli import main
sys.argv = ["shelllcc", "generate", "--prompt", "x", "--dry-run", "--json", *{words}]
try:
    main()
except SystemExit as end:
    print(end.code, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    env = os.environ | {"SHELLLCC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "0 []"
    [planned] = json.loads(done.stdout)["memory"]
    assert planned["peak_GB"] > 0
    assert not (tmp_path / "cache").exists()


class Counter:
    """Counts how often it was asked, in the way of `count_vae`."""

    __name__ = "count_vae"

    def __init__(self):
        self.asked = []

    def __call__(self, config, *facts):
        self.asked.append((config, *facts))
        return {"parameters": len(self.asked), "flops": 0.1}


@pytest.fixture
def count(monkeypatch, tmp_path):
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path / "cache"))
    return Counter()


def test_a_count_is_made_once_for_each_geometry_and_size(count):
    first = known(count, {"z_dim": 16, "_diffusers_version": "1"}, (1, 16, 5, 24, 24))
    assert known(count, {"z_dim": 16, "_diffusers_version": "2"}, (1, 16, 5, 24, 24)) == first
    assert len(count.asked) == 1
    assert known(count, {"z_dim": 48}, (1, 16, 5, 24, 24)) != first
    assert known(count, {"z_dim": 16}, (1, 16, 5, 24, 25)) != first
    assert len(count.asked) == 3


def test_a_count_of_other_libraries_or_another_counting_is_not_taken(count, monkeypatch):
    first = known(count, {"z_dim": 16})
    for name, value in (("version", lambda library: "0.0"), ("COUNTING", SHIPPED)):
        with monkeypatch.context() as patch:
            patch.setattr(counted, name, value)
            counted._counting.cache_clear()
            assert known(count, {"z_dim": 16}) != first
    counted._counting.cache_clear()
    assert known(count, {"z_dim": 16}) == first


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}", '{"parameters": null}', '{"parameters": true}', "\xff"])
def test_a_broken_count_is_made_anew(broken, count, tmp_path):
    known(count, {"z_dim": 16})
    [file] = (tmp_path / "cache/counts").iterdir()
    file.write_bytes(broken.encode("latin-1"))
    assert known(count, {"z_dim": 16})["parameters"] == 2
    assert known(count, {"z_dim": 16})["parameters"] == 2


def test_a_count_is_given_where_it_cannot_be_kept(count, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert [known(count, {"z_dim": 16})["parameters"] for _ in range(2)] == [1, 2]


def test_keys_tell_parts_apart():
    other = Counter()
    other.__name__ = "count_transformer"
    assert key_of(Counter(), {}) != key_of(other, {})
