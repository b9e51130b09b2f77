"""What the embedded model never calls: not imported by a command, untouched in anybody else's process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from shelllcc.guidance.wan.model.loading import Loading, Lora
from shelllcc.guidance.wan.model.pipeline import TINY, _needed, find_model
from shelllcc.guidance.wan.model.spared import OPTIONAL, TRIED

WHOLE = ("torch._dynamo.convert_frame", "torch.distributed.tensor")  # torch's own, and what they bring
ENTRIES = {"command": "from shelllcc.__main__ import main", "library": "from shelllcc.cli import main"}
CODE = """
import atexit, gc, json, os, sys
{entry}
sys.argv = ["shelllcc", *{words}]
try:
    main()
except SystemExit as end:
    from diffusers.utils import is_peft_available
    seen = [end.code, [name for name in {optional} if name in sys.modules], is_peft_available()]
    turns, kept = os.environ.get("GOMP_SPINCOUNT"), gc.get_freeze_count() / len(gc.get_objects() + [0])
    print(json.dumps([*seen, turns, kept]), file=sys.stderr)
"""


def run(entry, words, tmp_path):
    """The exit code of a command, the libraries that it imported, whether diffusers takes PEFT for there, how often
    waiting threads turn, and how many objects Python leaves alone for each one that it still searches for garbage."""
    pytest.importorskip("peft")
    code = CODE.format(entry=ENTRIES[entry], words=words, optional=OPTIONAL + TRIED + WHOLE)
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env |= {"SHELLLCC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_command_imports_no_library_that_the_embedded_model_never_calls(entry, tmp_path):
    exit_code, imported, peft, turns, kept = run(entry, ["doctor", "--json"], tmp_path)
    assert exit_code == 0
    assert imported == [] if entry == "command" else {*WHOLE} <= set(imported)
    assert peft == (entry == "library")
    assert turns == ("5000" if entry == "command" else None)
    assert (kept > 100) == (entry == "command")  # nothing is searched for garbage when the process ends


def test_a_lora_of_the_embedded_model_needs_peft_and_not_what_peft_could_use(tmp_path):
    words = ["generate", "--preset", "tiny-4step", "-p", "a cat", "--size", "32x32", "--frames", "5", "-o", "a.mp4"]
    exit_code, imported, peft, *_ = run("command", words, tmp_path)
    assert (exit_code, peft) == (0, True)
    older = "torch.distributed.tensor"  # which older PEFTs import themselves
    assert [name for name in imported if name != older] == ["peft"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A toy Wan's folder as people have them."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("distilled.safetensors", "*.py"))
    return folder


def test_a_plain_model_of_a_folder_needs_none_of_them_either(plain, tmp_path):
    few = ["--size", "64x64", "--frames", "5", "--steps", "2", "--fit", "never", "--strength", "0"]
    words = ["generate", "--model", str(plain), "-p", "a cat", *few, "-o", "a.mp4"]
    exit_code, imported, peft, *_ = run("command", words, tmp_path)
    assert (exit_code, imported, peft) == (0, [], False)
    own = run("command", ["generate", "-p", "a cat", *few, "-o", "b.mp4"], tmp_path)
    assert own[0] == 0
    hashes = [json.loads((tmp_path / name).read_text())["frames_sha256"] for name in ("a.json", "b.json")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("transformer/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "torchao"}}),
        ("scheduler/scheduler_config.json", {"use_beta_sigmas": True}),
        ("tokenizer/tokenizer.json", None),
    ],
)
def test_a_model_that_may_need_one_of_them_is_not_plain(part, change, plain, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    assert _needed(find_model(str(folder)), Loading()) == []
    assert _needed(find_model(str(folder)), Loading(quantize="int8")) is None
    assert _needed(find_model(str(folder)), Loading(loras=(Lora("a.safetensors"),))) is None
    if change is None:
        (folder / part).unlink()
    else:
        (folder / part).write_text(json.dumps(json.loads((folder / part).read_text()) | change))
    assert _needed(find_model(str(folder)), Loading()) is None


def test_parts_that_nobody_imported_come_when_they_are_asked_for(tmp_path):
    """Older PEFTs ask for torch.distributed.tensor, which others had imported."""
    code = """
import sys
from shelllcc.guidance.wan.model.spared import claim_process, import_wan_alone
claim_process(), import_wan_alone()
import torch.distributed
assert torch.distributed.is_available() and "torch.distributed.tensor" not in sys.modules
print(torch.distributed.tensor.DTensor.__name__, hasattr(torch.distributed, "nothing"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["DTensor", "False"], done.stderr


def test_the_models_of_transformers_are_read_once_and_the_same_are_there(tmp_path):
    code = """
import sys
opened = []
def hear(event, seen):
    if event == "open" and "modeling_albert" in str(seen[0]):
        opened.append(event)
sys.addaudithook(hear)
if "ours" in sys.argv:
    from shelllcc.guidance.wan.model.spared import claim_process, import_wan_alone
    claim_process(), import_wan_alone()
import transformers, transformers.models
print(len(opened), hash(str(sorted(dir(transformers.models)))))
"""
    env = os.environ | {"PYTHONHASHSEED": "0"}
    words = ([sys.executable, "-c", code, who] for who in ("ours", "theirs"))
    ours, theirs = (
        subprocess.run(each, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout.split()
        for each in words
    )
    assert (ours[0], theirs[0]) == ("1", "2")
    assert ours[1] == theirs[1]


ASKING = (
    "import torch._dynamo.config as found; print(found.recompile_limit > 0)",
    "from torch._dynamo.utils import counters; print(counters is sys.modules['torch._dynamo.utils'].counters)",
    "print(torch._dynamo.config is sys.modules['torch._dynamo.config'])",
    "from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex as found\n"
    "with found(): print(True)",
    "from torch._dynamo._trace_wrapped_higher_order_op import trace_wrapped; print(callable(trace_wrapped))",
    "print(True)",
)


def test_who_compiles_after_all_has_torchs_own_compiler():
    """However they ask for it: each in a fork of a process that has put it off."""
    code = f"""
import os, sys, torch
from shelllcc.guidance.wan.model.uncompiled import put_off_compiler
put_off_compiler()
assert torch.compiler.disable(abs) is abs and not torch.compiler.is_compiling()
assert "torch._dynamo.convert_frame" not in sys.modules
for asking in {ASKING}:
    if child := os.fork():
        print(asking, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    exec(asking)
    print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist(), flush=True)
    assert sys.modules["torch._dynamo"] is torch._dynamo and torch._dynamo.__file__
    assert torch._dynamo.utils.__spec__.origin == torch._dynamo.utils.__file__
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wanted = "".join(f"True\n[2.0, 2.0]\n{asking} 0\n" for asking in ASKING)
    assert done.stdout == wanted, done.stderr
