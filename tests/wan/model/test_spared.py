"""Libraries that the embedded model never calls: not imported by a command, untouched in anybody else's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from shelllcc.guidance.wan.model.spared import OPTIONAL, TRIED

ENTRIES = {"command": "from shelllcc.__main__ import main", "library": "from shelllcc.cli import main"}
CODE = """
import json, sys
{entry}
sys.argv = ["shelllcc", *{words}]
try:
    main()
except SystemExit as end:
    from diffusers.utils import is_peft_available
    seen = [end.code, [name for name in {optional} if name in sys.modules], is_peft_available()]
    print(json.dumps(seen), file=sys.stderr)
"""


def run(entry, words, tmp_path):
    """The exit code of a command, the libraries that it imported, and whether diffusers takes PEFT for there."""
    pytest.importorskip("peft")
    code = CODE.format(entry=ENTRIES[entry], words=words, optional=OPTIONAL + TRIED)
    env = os.environ | {"SHELLLCC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_command_imports_no_library_that_the_embedded_model_never_calls(entry, tmp_path):
    exit_code, imported, peft = run(entry, ["doctor", "--json"], tmp_path)
    assert exit_code == 0
    assert (imported == []) == (entry == "command")
    assert peft == (entry == "library")


def test_a_lora_of_the_embedded_model_needs_peft_and_not_what_peft_could_use(tmp_path):
    words = ["generate", "--preset", "tiny-4step", "-p", "a cat", "--size", "64x64", "--frames", "5", "-o", "a.mp4"]
    exit_code, imported, peft = run("command", words, tmp_path)
    assert (exit_code, peft) == (0, True)
    assert {"peft"} <= set(imported) <= {"peft", "torchao"}  # PEFT looks for that one when it puts an adapter on
