"""What people and programs read: one line an error, JSON alone on stdout, file and line at fault, no control codes."""

import io
import json
import os
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch

from shelllcc.commands.running import _Ended
from shelllcc.guidance.terminal import json_text, shown
from shelllcc.guidance.wan.model.pipeline import TINY

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "3"]
PROMPT = ["--prompt", "a tabby cat, zoom in, daylight"]
WILD = "a\x1b]0;cat\x07 \x9b31m\u202ecat\r\nend\x7f\u2066"


@pytest.fixture(autouse=True)
def _memory_is_not_counted(monkeypatch):
    """It takes the better part of a second, and tests of its own look at it."""
    monkeypatch.setattr("shelllcc.guidance.wan.model.memory.forecasts", lambda *_: [])


def one_line(err):
    lines = [line for line in err.splitlines() if not line.startswith("shelllcc: note: ")]
    assert len(lines) == 1, err
    return lines[0]


def sober(text):
    """Whether a terminal would do nothing with it but show it."""
    return not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\u200c\u200d" for c in text
    )


# Replays


@pytest.fixture
def sidecar(shelllcc, tmp_path):
    """Write a sidecar with some values changed, without a clip."""
    from shelllcc.guidance.versions import versions

    record = json.loads(shelllcc("generate", *PROMPT, *SMALL, "--dry-run", "--json")[1])["clips"][0] | {
        "versions": versions()
    }

    def write(**changed):
        (tmp_path / "clip.json").write_text(json.dumps(record | changed))
        return record

    return write


@pytest.mark.parametrize("other", ["99.0", "0.0.1"])
def test_a_replay_says_that_another_version_made_the_clip(other, sidecar, shelllcc):
    own = sidecar()["versions"]["shelllcc"]
    code, _, err = shelllcc("generate", "--from", "clip.json", "--dry-run")
    assert (code, err) == (0, "")
    sidecar(versions={"shelllcc": other})
    code, _, err = shelllcc("generate", "--from", "clip.json", "--dry-run")
    assert code == 0
    way = f"`pip install shelllcc=={other}` is that one"
    assert err == f"shelllcc: note: made by shelllcc {other}, this is {own}: the clip may differ; {way}\n"


def test_a_replay_says_that_the_model_is_of_another_revision(sidecar, shelllcc, tmp_path, monkeypatch):
    here = tmp_path / "b0b"
    here.symlink_to(TINY)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, name, **options: here / name)
    asked = ["generate", "--from", "clip.json", "--dry-run", "--strength", "0", "--trust"]
    sidecar(model={"source": "owner/name", "revision": here.name}, bank=None)
    assert shelllcc(*asked)[2] == ""
    sidecar(model={"source": "owner/name", "revision": "a0a"}, bank=None)
    code, _, err = shelllcc(*asked)
    assert code == 0
    said = "made with revision a0a of owner/name, this is b0b: the clip may differ; --model owner/name@a0a is that one"
    assert err == f"shelllcc: note: {said}\n"
    assert shelllcc(*asked, "--model", "owner/name")[2] == "", "another model was asked for"


# shelllcc.toml


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[generate]\nsteps = true", "[generate] steps must be a whole number, got true"),
        ("[generate]\nsteps = 3.0", "[generate] steps must be a whole number, got 3.0"),
        ('[generate]\nnum-inference-steps = "9"', '[generate] num-inference-steps must be a whole number, got "9"'),
        ('[generate]\ncfg = "3"', '[generate] cfg must be a number, got "3"'),
        ("[compare]\ncfg = false", "[compare] cfg must be a number, got false"),
        ("[tune]\nsize = 64", "[tune] size must be a string, got 64"),
        ("[generate]\nnegative-prompt = true", "[generate] negative-prompt must be a string, got true"),
        ("[generate]\nstrength = true", "[generate] strength must be a number or a string, got true"),
        ("[generate]\nstrength = [1, 2]", "[generate] strength must be a number or a string, got [1, 2]"),
        ("[generate]\noutput = 5", "[generate] output must be a string, got 5"),
        ('[generate]\ncompare = "yes"', '[generate] compare must be true or false, got "yes"'),
        ("[generate]\ntiling = 1", "[generate] tiling must be true or false, got 1"),
        ("[generate]\nsteps = [3]", "[generate] steps must be a whole number, got [3]"),
        ("[generate.steps]\nmany = 3", '[generate] steps must be a whole number, got {"many": 3}'),
        ("[generate]\nlora = 5", "[generate] lora must be a string or a list of them, got 5"),
        ("[generate]\nlora = [5]", "[generate] lora must be a string or a list of them, got [5]"),
        ("[generate]\nprompt = {a = 1}", '[generate] prompt must be a string or a list of them, got {"a": 1}'),
        ("[generate]\nsteps = 2024-01-01", '[generate] steps must be a whole number, got "2024-01-01"'),
        ("[batch]\nretries = -1", "[batch] retries must be 0 or more, got -1"),
        ("[anchors.build]\npatch = true", "[anchors.build] patch must be a whole number, got true"),
        ("[anchors]\nbuild = 3", "anchors.build is no table of a command"),
        ("[generate]\nsteps = 3\nnum-inference-steps = 4", "num-inference-steps says again what another key says"),
        ("[generate]\ncfg = 1" + "0" * 400, "[generate] cfg is too large a number"),
    ],
)  # fmt: skip
def test_values_of_the_config_file_are_checked_by_type(text, says, shelllcc, tmp_path):
    (tmp_path / "shelllcc.toml").write_text(text)
    code, out, err = shelllcc("generate", *PROMPT, "--dry-run")
    assert (code, out) == (2, "")
    line = one_line(err)
    assert line.startswith("shelllcc: error: shelllcc.toml: ")
    assert says in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cfg = 3", {"cfg": 3.0}),
        ('strength = "2"', {"strength": 2.0}),
        ("strength = 2", {"strength": 2.0}),
        ('prompt = "a rocket"', {"prompt": "a rocket"}),
        ('prompt = ["a rocket"]', {"prompt": "a rocket"}),
    ],
)
def test_proper_values_of_the_config_file_are_heard(text, expected, shelllcc, tmp_path):
    (tmp_path / "shelllcc.toml").write_text(f"[generate]\n{text}\n")
    code, out, err = shelllcc("generate", *([] if "prompt" in expected else PROMPT), "--dry-run", "--json")
    assert code == 0, err
    request = json.loads(out)["clips"][0]["request"]
    assert request | expected == request


def test_defaults_do_not_hinder_comparing_videos_that_exist(shelllcc, tmp_path, monkeypatch):
    (tmp_path / "shelllcc.toml").write_text(
        '[compare]\nsteps = 9\nstrengths = "0,2"\npreset = "tiny"\ndtype = "float32"'
    )
    monkeypatch.setenv("SHELLLCC_OFFLOAD", "none")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    code, out, err = shelllcc("compare", "a.mp4", "b.mp4", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["videos"] == ["a.mp4", "b.mp4"]
    for flag in (["--steps", "9"], ["--strengths", "0,2"], ["--preset", "tiny"], ["--dtype", "float32"]):
        code, _, err = shelllcc("compare", "a.mp4", "b.mp4", *flag, "--dry-run")
        assert (code, "not both" in one_line(err)) == (2, True)


def test_a_flag_goes_before_a_default_that_it_excludes(shelllcc, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("grass\n")
    (tmp_path / "shelllcc.toml").write_text('[compare]\nstrengths = "0,2"\n[batch]\nseed = 3\n')
    monkeypatch.setenv("SHELLLCC_STRENGTH", "2")
    batch = ["batch", "prompts.txt", "-o", "clips", *SMALL, "--dry-run", "--json"]
    code, out, err = shelllcc(*batch, "--strengths", "0,1", "--seeds", "7")
    assert code == 0, err
    assert [(c["strength"], c["seed"]) for c in json.loads(out)["clips"]] == [(0, 7), (1, 7)]
    code, out, err = shelllcc("compare", *PROMPT, "--variants", "strength=0; strength=3", *SMALL, "--dry-run", "--json")
    assert code == 0, err
    assert [c["settings"]["strength"] for c in json.loads(out)["clips"]] == [0, 3]
    (tmp_path / "shelllcc.toml").write_text("[generate]\nsteps = 9\nshift = 2\n[batch]\nsigmas = '1,.5'\n")
    levels = ["--sigmas", "1,.9375,.8333,.625"]
    code, out, err = shelllcc("generate", *PROMPT, *levels, "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["clips"][0]["request"]["steps"] == 4
    code, _, err = shelllcc(
        "batch", "prompts.txt", "-o", "clips", "--steps", "6", "--dry-run"
    )  # two levels are two steps
    assert code == 0, err
    (tmp_path / "lines.txt").write_text("grass --shift 5\ngrass --steps 3\ngrass\n")  # a line goes before a flag
    code, out, err = shelllcc("generate", "--prompts-file", "lines.txt", *levels, "-o", "d", "--dry-run", "--json")
    assert code == 0, err
    found = [clip["request"] for clip in json.loads(out)["clips"]]
    assert [(len(one["sigmas"]), one["shift"]) for one in found] == [(0, 5.0), (0, 3.0), (4, 3.0)]
    code, _, err = shelllcc("generate", *PROMPT, *levels, "--steps", "9", "--dry-run")
    assert (code, "leave one out" in one_line(err)) == (2, True)
    for words in ([*batch, "--strengths", "0,1", "--strength", "1"], [*batch, "--seeds", "0", "--seed", "0"]):
        code, _, err = shelllcc(*words)
        assert (code, "not both" in one_line(err)) == (2, True)


# Devices


@pytest.fixture
def commands(tmp_path):
    """A command of each kind that takes a device, with what it needs."""
    (tmp_path / "prompts.txt").write_text("grass\n")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    return {
        "generate": ["generate", *PROMPT, *SMALL],
        "compare": ["compare", *PROMPT, *SMALL],
        "tune": ["tune", *PROMPT, *SMALL],
        "batch": ["batch", "prompts.txt", "-o", "clips", *SMALL],
        "build": ["anchors", "build", "clip.mp4", "-o", "bank.safetensors"],
        "calibrate": ["anchors", "calibrate", "tiny-wan", "clip.mp4", "-o", "bank.safetensors"],
        "train": ["anchors", "train", "clip.mp4", "-o", "bank.safetensors"],
        "analyze": ["anchors", "analyze", "tiny-wan", "clip.mp4"],
        "score": ["score", "clip.mp4"],
    }


DRY = ("generate", "compare", "batch")


@pytest.mark.parametrize("device", ["tpu", "cuda:-1", "cuda:one", "cuda:", "cuda:01", "cpu:1", "", "CUDA", "cuda:²"])
def test_what_names_no_device_is_refused_in_every_command(device, commands, shelllcc, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for name, words in commands.items():
        code, out, err = shelllcc(*words, "--device", device, *(["--dry-run"] if name in DRY else []))
        assert (code, out) == (2, ""), (name, err)
        assert one_line(err).startswith("shelllcc: error: --device is cpu, cuda or cuda:N"), name
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_may_be_planned_for_and_is_refused_at_once(commands, shelllcc, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for name, words in commands.items():
        for device in ("cuda", "cuda:99"):
            if name in DRY:
                assert shelllcc(*words, "--device", device, "--dry-run")[0] == (1 if ":" in device else 0), name
            code, out, err = shelllcc(*words, "--device", device)
            assert (code, out) == (1, ""), (name, err)
            assert f"device {device} is not available here; GPUs that torch finds: 0" in one_line(err), name
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_among_gpus_that_are_here_the_number_holds_even_for_a_plan(commands, shelllcc):
    count = torch.cuda.device_count()
    for name in DRY:
        assert shelllcc(*commands[name], "--device", f"cuda:{count - 1}", "--dry-run")[0] == 0
        code, _, err = shelllcc(*commands[name], "--device", f"cuda:{count}", "--dry-run")
        assert (code, "is not available here" in one_line(err)) == (1, True)


# JSON


ERRORS = {
    "usage": (["generate", "--prompt", " "], 2, "UsageError"),
    "unknown flag": (["generate", *PROMPT, "--sharpness", "2"], 2, "UsageError"),
    "wrong value": (["generate", *PROMPT, "--steps", "many"], 2, "UsageError"),
    "missing argument": (["batch", "-o", "clips"], 2, "UsageError"),
    "unknown command": (["generat"], 2, "UsageError"),
    "model": (["generate", *PROMPT, "--model", "/nowhere"], 1, "ModelError"),
    "bank": (["anchors", "info", "nowhere"], 1, "BankError"),
    "compare": (["compare", *PROMPT, "--strengths", "1"], 2, "UsageError"),
    "tune": (["tune", *PROMPT, "--seeds", "one"], 2, "UsageError"),
    "score": (["score", "none.mp4"], 2, "UsageError"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "code", "kind"), ERRORS.values(), ids=ERRORS)
def test_json_holds_for_errors(words, code, kind, shelllcc):
    got, out, err = shelllcc(*words, "--json")
    error = json.loads(out)["error"]
    assert (got, error["exit_code"], error["type"]) == (code, code, kind)
    assert one_line(err) == f"shelllcc: error: {error['message']}"
    assert shelllcc(*words)[1] == ""


def test_json_that_the_config_file_asks_for_holds_for_errors_too(shelllcc, tmp_path):
    (tmp_path / "shelllcc.toml").write_text("[generate]\njson = true\n")
    for words in (["--frames", "6"], ["--sharpness", "2"]):
        assert json.loads(shelllcc("generate", *PROMPT, *words)[1])["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[generate]\njson = true\nsteps = 'x'\n", ["generate", *PROMPT]),
        ("[generate]\njson = true  # for programs\n[compare\n", ["generate", *PROMPT]),
        ("generate.json = true\nnope = 1\n", ["generate", *PROMPT]),
        ("[anchors.list]\njson = true\n[anchors.info]\nnope = 1\n", ["anchors", "list"]),
    ],
)
def test_a_config_file_that_is_wrong_is_told_as_it_asks(text, words, shelllcc, tmp_path):
    (tmp_path / "shelllcc.toml").write_text(text)
    code, out, err = shelllcc(*words)
    assert (code, json.loads(out)["error"]["exit_code"]) == (2, 2)
    assert one_line(err) == f"shelllcc: error: {json.loads(out)['error']['message']}"
    assert shelllcc("profiles", "list")[:2] == (2, "")


def test_what_is_no_text_in_a_prompt_is_shown(shelllcc):
    for text, at, said in (("a\0cat", 2, "'\\x00'"), (os.fsdecode(b"ca\xff"), 3, "'\\udcff'")):
        code, _, err = shelllcc("generate", "--prompt", text, "--dry-run")
        assert code == 2
        assert f"the prompt holds what is no text: character {at}, {said}; remove it" in one_line(err)


def test_a_repository_in_another_format_is_told_from_one_that_is_not_there(shelllcc, monkeypatch):
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def download(*_, **__):
        raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError, "404")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    code, _, err = shelllcc("generate", *PROMPT, "--model", "owner/name")
    assert code == 1
    assert "owner/name on the hub lacks files of a Wan in diffusers' format; give a Wan folder or hub id" in one_line(
        err
    )


@pytest.mark.parametrize("flag", ["--model", "--transformer", "--lora"])
def test_a_name_that_is_no_utf8_is_refused_before_anything_is_loaded(flag, shelllcc, tmp_path):
    name = os.fsdecode(b"m\xff")
    (tmp_path / name).mkdir()
    code, _, err = shelllcc("generate", *PROMPT, flag, name)
    assert code == 2
    assert "is no UTF-8, as weights' names must be; rename it" in one_line(err)


@pytest.mark.parametrize(
    ("raised", "code", "kind"),
    [
        (_Ended(15), 143, "Interrupted"),
        (KeyboardInterrupt, 130, "Interrupted"),
        (ZeroDivisionError, 1, "ZeroDivisionError"),
    ],
)
def test_interrupts_and_the_unexpected_are_json_too(raised, code, kind, shelllcc, monkeypatch):
    from shelllcc.guidance.wan.clips import profiles

    def fail(**options):
        raise raised

    monkeypatch.setattr(profiles, "every", fail)
    got, out, _ = shelllcc("profiles", "list", "--json")
    assert got == code
    assert json.loads(out)["error"] | {"message": ""} == {"type": kind, "message": "", "exit_code": code}


NOISE = """
import ctypes, os, subprocess, sys
from shelllcc import cli
from shelllcc.guidance.wan.clips import profiles
def noisy(**options):
    print("noise of a library")
    os.write(1, b"noise of C\\n")
    subprocess.run(["echo", "noise of a process"], check=True)
    ctypes.CDLL(None).printf(b"noise that comes at the exit\\n")
    if os.environ.get("FAIL"):
        raise ValueError("no profiles")
    return []
profiles.every = noisy
sys.argv = ["shelllcc", "profiles", "list", "--json"]
cli.main()
"""


@pytest.mark.parametrize("fail", ["", "1"])
def test_nothing_but_the_object_reaches_stdout(fail, tmp_path, root):
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "SHELLLCC_PROFILES": str(tmp_path), "FAIL": fail}
    done = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, env=env, cwd=tmp_path)
    record = json.loads(done.stdout)
    assert done.returncode == (1 if fail else 0)
    assert done.stdout.count("\n") == 1
    assert ("error" in record) == bool(fail)
    assert done.stderr.count("noise") == 4


def test_with_stderr_closed_stdout_is_still_for_results_alone(tmp_path):
    (tmp_path / f"{0:012}.json").write_text("{")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "SHELLLCC_PROFILES": str(tmp_path)}
    noise = NOISE.replace("os.write(1,", "os.write(2, b'noise on 2\\n'); os.write(1,")
    for arguments in ("-m shelllcc profiles list --json", f"-c {shlex.quote(noise)}"):
        command = f"{shlex.quote(sys.executable)} {arguments} 2>&-"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, cwd=tmp_path)
        assert json.loads(done.stdout)["profiles"] == []


@pytest.mark.parametrize("flags", [["--json"], []])
def test_stdout_that_holds_no_letters_of_a_prompt_gets_escapes(flags, tmp_path):
    profile = {"strength": 1.0, "balance": 0.0, "sampled": 1, "settings": {"prompt": "猫"}, "name": "0" * 12}
    profile |= {"model": {"source": "tiny"}, "bank": {"name": "tiny-wan"}}
    (tmp_path / f"{0:012}.json").write_text(json.dumps(profile))
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "SHELLLCC_PROFILES": str(tmp_path)}
    words = [sys.executable, "-m", "shelllcc", "profiles", "list", *flags]
    done = subprocess.run(words, capture_output=True, text=True, env=env | {"PYTHONIOENCODING": "ascii"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if flags:
        assert json.loads(done.stdout)["profiles"][0]["settings"]["prompt"] == "猫"


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        ("generate --json -o a.mp4", "cp1252"),
        ("generate --dry-run", "cp1252"),
        ("batch -o all --json", "ascii"),
        *(("compare --strengths 0,1 -o run", encoding) for encoding in ("cp1252", "ascii", "gbk")),
    ],
)
def test_a_result_is_whole_on_a_stdout_that_cannot_hold_the_prompt(words, encoding, shelllcc, monkeypatch, tmp_path):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", stdout)
    (tmp_path / "prompts.txt").write_text("猫 🐈\n", encoding="utf-8")
    command, *flags = words.split()
    given = ["prompts.txt"] if command == "batch" else ["--prompt", "猫 🐈"]
    code, _, err = shelllcc(command, *given, *flags, "--size", "32x32", "--frames", "5", "--steps", "2")
    assert code == 0, err
    text = stdout.buffer.getvalue().decode(encoding)
    if "--dry-run" in words:
        assert r"\u732b \U0001f408" in text
    elif "--json" in words:
        assert "猫 🐈" in str(json.loads(text))
    else:
        assert "reference" in text


# Prompts files


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("grass --frames 6", "the number of frames must be 4n+1, got 6"),
        ("grass --strength 99", "strength goes from 0"),
        ("grass --size 65x64", "width must be a multiple of 16"),
        ("grass --steps 0", "the number of steps must lie in"),
        ("grass --cfg nan", "cfg must be positive"),
        ("grass --window 0.9:0.1", "the window is LOW:HIGH"),
        ("grass --seed -1", "the seed must lie in"),
        ("--steps 4", "the prompt is empty"),
        ("gr\0ass", "no text"),
    ],
)
def test_what_a_line_of_a_prompts_file_asks_in_vain_is_named_by_file_and_line(line, says, shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"# a comment\ngrass\n{line}\n")
    small = ["--frames", "5", "--steps", "3", "--dry-run"]
    for words in (
        ["generate", "--prompts-file", "prompts.txt", *small],
        ["compare", "--prompts-file", "prompts.txt", *small],
        ["tune", "--prompts-file", "prompts.txt", *small[:-1]],
        ["batch", "prompts.txt", "-o", "clips", *small],
    ):
        code, out, err = shelllcc(*words)
        assert (code, out) == (2, ""), err
        assert one_line(err).startswith("shelllcc: error: prompts.txt:3: ")
        assert says in err


def test_what_is_wrong_for_every_line_is_no_lines_fault(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text("grass\ngrass --frames 5\n")
    code, _, err = shelllcc("generate", "--prompts-file", "prompts.txt", "--frames", "6", "--dry-run")
    assert code == 2
    assert one_line(err).startswith("shelllcc: error: the number of frames")


def test_strengths_that_exclude_each_other_are_named_by_file_and_line(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text("grass\ngrass --strength 0\n")
    for words in (
        ["batch", "prompts.txt", "-o", "clips", "--strengths", "0,1", *SMALL, "--dry-run"],
        ["generate", "--prompts-file", "prompts.txt", "--compare", *SMALL, "--dry-run"],
    ):
        code, _, err = shelllcc(*words)
        assert code == 2
        assert one_line(err).startswith("shelllcc: error: prompts.txt:2: ")


# Control characters


def test_control_characters_are_shown_and_letters_left_alone():
    assert shown("猫 👩\u200d🚀 é\u3000x") == "猫 👩\u200d🚀 é\u3000x"
    assert shown("\x1b[2J\a\r\n\t\x9b\u202e\udc9b\u2028") == r"\x1b[2J\x07\r\n\t\x9b\u202e\udc9b\u2028"
    every = "".join(map(chr, [*range(0x3000), 0xD800, 0xDFFF, 0xFEFF, 0xE0041]))
    assert sober(shown(every))
    for indent in (None, 2):
        text = json_text({every: [every]}, indent=indent)
        assert sober(text)
        assert json.loads(text) == json.loads(json.dumps({every: [every]}))
    assert r"\u009b" in json_text("\x9b")


def test_no_control_character_reaches_the_terminal(shelllcc, tmp_path, monkeypatch):
    from shelllcc.guidance.wan.clips import profiles

    profile = {"strength": 1.0, "balance": 0.0, "probes": [], "seeds": [0], "created": "", "settings": {"prompt": WILD}}
    profile |= {"model": {"source": WILD, "revision": None}, "bank": {"name": WILD}, "name": "0" * 12}
    (profiles.folder() / f"{0:012}.json").write_text(json.dumps(profile))
    (tmp_path / "prompts.txt").write_text(f"{WILD.replace(chr(10), ' ')} --frames 6\n")
    (tmp_path / "wild.toml").write_text(f"[generate]\n{json.dumps(WILD)} = 1\n")
    wild = tmp_path / WILD.replace("/", "")
    wild.mkdir()
    for words in (
        ["generate", "--prompt", WILD, *SMALL, "--dry-run"],
        ["generate", "--prompt", WILD, *SMALL, "--dry-run", "--json"],
        ["generate", "--prompts-file", "prompts.txt"],
        ["generate", "--prompts-file", WILD],
        ["generate", *PROMPT, "--model", WILD],
        ["generate", *PROMPT, "--bank", WILD, "--json"],
        ["generate", *PROMPT, "--steps", WILD],
        ["generate", *PROMPT, f"--{WILD}"],
        ["generate", *PROMPT, "--from", WILD],
        ["generate", *PROMPT, "--device", WILD],
        ["compare", *PROMPT, "--variants", f"{WILD}: radius=x"],
        ["--config", "wild.toml", "generate"],
        ["profiles", "list"],
        ["profiles", "list", "--json"],
        ["profiles", "show", "000"],
        [WILD],
    ):
        _, out, err = shelllcc(*words)
        assert sober(out), (words, out)
        assert sober(err), (words, err)
        assert out + err


def test_a_traceback_shows_control_characters(shelllcc, monkeypatch):
    monkeypatch.setenv("SHELLLCC_DEBUG", "1")
    code, out, err = shelllcc("generate", *PROMPT, "--model", WILD)
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert sober(err)


def test_progress_shows_control_characters(capsys):
    from shelllcc.commands.progress import TerminalReporter

    with TerminalReporter() as reporter:
        for say in (reporter.stage, reporter.note, reporter.line):
            say(WILD)
        reporter.count(1, 2, WILD)
    out, err = capsys.readouterr()
    assert out == ""
    assert sober(err)
    assert err.count("\n") == 3


@pytest.mark.parametrize(("cfg", "said"), [("1", True), ("2", False)])
def test_a_negative_prompt_that_has_no_part_is_told(cfg, said, shelllcc):
    words = ["generate", *PROMPT, *SMALL, "--cfg", cfg, "--fit", "never", "--dry-run"]
    assert ("no part in clips at cfg 1" in shelllcc(*words, "--negative-prompt", "blur")[2]) == said
    assert "--negative-prompt" not in shelllcc(*words)[2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "--steps", "abc"], "--steps takes a whole number, got abc"),
        (["generate", "--num-inference-steps=abc"], "--num-inference-steps takes a whole number, got abc"),
        (["generate", "--cfg", "high"], "--cfg takes a number, got high"),
        (["generate", "--strength", "abc"], "--strength takes a number, or auto, got abc"),
        (["generate", "--fit-budget", "-1"], "--fit-budget takes a number, 0 or more, got -1"),
        (["anchors", "analyze", "x", "y", "--most", "few"], "--most takes a whole number, 1 or more, got few"),
        (["batch", "a.txt", "-o", "b", "--retries", "-1"], "--retries takes a whole number, 0 or more, got -1"),
    ],
)
def test_a_flag_that_takes_a_number_says_so(words, says, shelllcc):
    prompt = PROMPT if words[0] == "generate" else []
    code, _, err = shelllcc(*words, *prompt)
    assert code == 2
    assert one_line(err) == f"shelllcc: error: {says}"


@pytest.mark.parametrize(
    ("variables", "toml", "words", "says"),
    [
        ({"STRENGTH": "abc"}, "", [], "--strength takes a number, or auto, got abc (set by SHELLLCC_STRENGTH)"),
        ({"OFFLOAD": "abc"}, "", [], "got abc (set by SHELLLCC_OFFLOAD)"),
        ({"DEVICE": "abc"}, "", [], "got abc (set by SHELLLCC_DEVICE)"),
        ({"BANK": "nosuch"}, "", [], "(set by SHELLLCC_BANK)"),
        ({"BANK": "nosuch"}, "", ["--bank", "other"], "no bank at other; known by name are tiny-wan"),
        ({"MODEL": "no/such"}, "", [], "(set by SHELLLCC_MODEL)"),
        ({"STRENGTH": "-1"}, "", [], "got -1 (set by SHELLLCC_STRENGTH)"),
        ({}, 'strength = "abc"', [], "got abc (set in shelllcc.toml: [generate] strength)"),
        ({}, 'size = "abc"', [], "got abc (set in shelllcc.toml: [generate] size)"),
        ({}, "steps = 0", [], "got 0 (set in shelllcc.toml: [generate] steps)"),
        ({}, "fps = 0\nframes = 5", [], "got 0 (set in shelllcc.toml: [generate] fps)"),
        ({}, "frames = 6", [], "(set in shelllcc.toml: [generate] frames)"),
        ({}, "frames = 6", ["--frames", "7"], "got 7; the nearest is 9"),
        ({"STRENGTH": "abc"}, "", ["--steps", "0", "--strength", "1"], "steps must lie in 1 .. 1000, got 0"),
    ],
)
def test_an_error_over_a_default_names_where_it_is_set(variables, toml, words, says, shelllcc, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(f"SHELLLCC_{name}", value)
    if toml:
        (tmp_path / "shelllcc.toml").write_text(f"[generate]\n{toml}\n")
    code, _, err = shelllcc("generate", *PROMPT, "--dry-run", *words)
    assert code in (1, 2)
    assert one_line(err).endswith(says)


@pytest.mark.parametrize("offline", [True, False])
def test_what_the_hub_was_not_asked_for_names_the_variable(offline, shelllcc, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    from shelllcc.guidance.errors import ModelError
    from shelllcc.guidance.wan.model import loras
    from shelllcc.guidance.wan.model.weights import reading

    def ask(*_, **__):
        raise LocalEntryNotFoundError("cannot reach it")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    for name in ("hf_hub_download", "list_repo_files", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", ask)
    code, _, err = shelllcc("generate", *PROMPT, "--model", "nobody/nothing")
    assert code == 1
    said = [one_line(err)]
    with pytest.raises(ModelError) as refused:
        loras._on_disk("nobody/nothing")
    said.append(str(refused.value))

    def load():
        with reading("the vae of nobody/nothing"):
            raise OSError("cannot reach it") from LocalEntryNotFoundError("as transformers and diffusers have it")

    with pytest.raises(ModelError) as refused:
        load()
    said.append(str(refused.value))
    assert [("HF_HUB_OFFLINE is set" in line) for line in said] == [offline] * 3
    assert [("cannot reach it" in line) for line in said] == [not offline] * 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
@pytest.mark.parametrize(
    "words", [["profiles", "list"], ["profiles", "list", "--json"], ["--version"], ["fit", "--help"]]
)
def test_a_full_disk_under_stdout_is_said_in_one_line(words, tmp_path):
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "SHELLLCC_PROFILES": str(tmp_path)}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "shelllcc", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "shelllcc: error: disk full: cannot write the result to stdout; free some space\n"
