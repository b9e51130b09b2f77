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


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_command_imports_no_library_that_the_embedded_model_never_calls(entry, tmp_path):
    pytest.importorskip("peft")
    code = CODE.format(entry=ENTRIES[entry], words=["doctor", "--json"], optional=OPTIONAL + TRIED)
    env = os.environ | {"SHELLLCC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    exit_code, imported, peft = json.loads(done.stderr.splitlines()[-1])
    assert exit_code == 0
    assert (imported == []) == (entry == "command")
    assert peft == (entry == "library")
