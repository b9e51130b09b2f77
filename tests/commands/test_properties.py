"""Whatever names, prompts files, shelllcc.toml and sidecars hold: one line, the right exit code, no file elsewhere.

Commands are only planned (--dry-run) or fail, but for a few clips of one step. Examples are the same in every run.
"""

import copy
import json
import math
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "3"]
HARD = [
    "", " ", ".", "..", "../..", "/", "/etc/passwd", "~", "~nobody/x", "-", "--", "-o", "\\", "%s", "$HOME", "*",
    "[/x]", "[red]", "a\nb", "\r", "\t", "\x1b[2J", "\x07", "\x9b31m", "\u202e", "\u2028", "\ufeff", "\udcff", "é",
    "x" * 300, "猫" * 100, "9" * 400, "1" * 5000 + "x64", "0/" + "1" * 5000, "1" * 5000, "nan", "inf", "-1", "0", "6",
    "1e999", "64x64", "0:1", "1:0", "auto", "none", "tiny", "tiny-wan", "a/b", "a/b@c", "hf.co/x/y", "a:1", "clip.mp4",
    "clip.json", "x.safetensors", "x.gguf", "no/such/folder/x.mp4", "taken/x.mp4", "folder", "folder.mp4", "²", "١",
    "--json", "cuda", "cpu", "float32", "int8", "true", "0,1", "0,0", "strength=0; strength=1", "a: radius=2",
]  # fmt: skip
words = st.one_of(
    st.sampled_from(HARD),
    st.text(st.characters(exclude_categories=(), exclude_characters="\0"), max_size=12),
    st.lists(st.sampled_from(HARD), min_size=2, max_size=3).map("".join),
)
numbers = st.one_of(st.integers(), st.sampled_from([0, 1, -1, 2**63, 10**400]), st.just(10**400), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, words)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
tried = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def run(shelllcc, monkeypatch, tmp_path):
    """Run a command that is to say what it should and write nothing; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr("shelllcc.guidance.wan.model.memory.forecasts", lambda *_: [])
    (tmp_path / "taken").write_text("a file where a folder should be")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    (tmp_path / "prompts.txt").write_text("grass\n")

    def run(*arguments):
        before = snapshot(tmp_path)
        code, out, err = shelllcc(*arguments)
        told = [line for line in err.splitlines() if not line.startswith("shelllcc: note: ")]
        if "anchors" in arguments or "score" in arguments:  # progress
            told = [line for line in told if line.startswith("shelllcc: error: ") or not line.startswith("shelllcc: ")]
        assert code in (0, 1, 2), (arguments, err)
        assert len(told) == (code != 0), (arguments, code, err)
        assert all(line.startswith("shelllcc: error: ") for line in told), (arguments, err)
        assert not re.search("error: unexpected [A-Z]|Traceback|Errno", err), (arguments, err)
        assert sober(out + err), (arguments, out, err)
        assert code == 0 or out == "" or "error" in json.loads(out), (arguments, out)
        assert snapshot(tmp_path) == before, arguments
        return code, out, err

    return run


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def sober(text):
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return not any(unicodedata.category(c) in kinds and c not in "\n\u200c\u200d" for c in text)


def planned(out):
    """The files that a plan would write, for a plan of `generate` or `batch`."""
    for clip in json.loads(out)["clips"]:
        yield from map(Path, [*clip["videos"].values(), clip["sidecar"]] if "videos" in clip else [clip["video"]])


FLAGS = [
    "prompt", "prompts-file", "negative-prompt", "model", "bank", "preset", "output", "from", "seed", "strength",
    "steps", "cfg", "cfg-2", "shift", "frames", "size", "fps", "radius", "window", "dtype", "offload", "quantize",
    "transformer", "lora", "cache", "device",
]  # fmt: skip
TAKING = {
    "generate": (["generate", "-p", "grass", *SMALL, "--dry-run"], FLAGS),
    "compare": (["compare", "-p", "grass", *SMALL, "--dry-run"], [*FLAGS, "strengths", "variants", "seeds", "layout"]),
    "batch": (["batch", "prompts.txt", "-o", "out", *SMALL, "--dry-run"], [*FLAGS, "strengths", "shard", "retries"]),
}
BUILD = ["anchors", "build", "nowhere.mp4", "-o"]
GIVEN = [
    ["anchors", "info"], ["anchors", "verify"], ["anchors", "verify", "tiny-wan", "--sha256"], BUILD,
    [*BUILD, "bank.safetensors", "--size"], ["anchors", "import", "-o", "bank.safetensors"],
    ["score", "x.mp4", "--bank"], ["profiles", "show"], ["profiles", "import"], ["profiles", "forget"],
    ["compare", "clip.mp4", "--dry-run"], ["--config"], [],
]  # fmt: skip


@tried
@given(st.data(), st.sampled_from(list(TAKING)), st.booleans())
def test_any_words_for_a_flag_are_planned_or_refused_in_one_line(run, data, command, as_json):
    begin, flags = TAKING[command]
    chosen = data.draw(st.lists(st.sampled_from(flags), min_size=1, max_size=2))
    given = [f"--{flag}={data.draw(words, label=flag)}" for flag in chosen]
    code, out, _ = run(*begin, *given, *(["--json"] if as_json else []))
    if as_json:
        assert ("error" in json.loads(out)) == (code != 0)


@tried
@given(st.sampled_from(GIVEN), words, st.booleans())
def test_any_words_for_an_argument_end_in_one_line(run, command, word, as_json):
    if command == ["profiles", "show"] or not as_json:
        run(*command, word)
    else:
        run(*command, word, "--json")


line = st.builds(
    lambda prompt, flags: " ".join([prompt, *flags]),
    words,
    st.lists(st.builds("--{} {}".format, st.sampled_from([*FLAGS[8:19], "x"]), words | numbers.map(str)), max_size=2),
)
files = st.one_of(
    st.lists(line, max_size=3).map(lambda lines: "\n".join(["grass", *lines]).encode(errors="replace")),
    st.binary(max_size=40),
)


@tried
@given(files, st.sampled_from(["generate", "compare", "batch"]))
def test_any_prompts_file_is_planned_or_refused_by_file_and_line(run, tmp_path, content, command):
    (tmp_path / "prompts.txt").write_bytes(content)
    given = ["prompts.txt", "-o", "out"] if command == "batch" else ["--prompts-file", "prompts.txt", "-o", "out"]
    code, out, err = run(command, *given, *SMALL, "--dry-run", "--json")
    assert code in (0, 2)
    if code:
        assert re.search(r"prompts\.txt:\d+: |the prompts file prompts\.txt", err), err
    elif command != "compare":
        inside = (tmp_path / "out").resolve()
        assert all(path.resolve().is_relative_to(inside) for path in planned(out))


def toml(value):
    """A value as TOML writes it, where it can."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


keys = st.sampled_from([*FLAGS, "json", "compare", "tiling", "strengths", "seeds", "variants", "retries"]) | words
tables = st.sampled_from([*TAKING, "tune", "score", "anchors", "anchors.build", "profiles"]) | words.map(json.dumps)
configs = st.one_of(
    st.builds(
        lambda table, entries: f"[{table}]\n" + "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in entries.items()),
        tables,
        st.dictionaries(keys, values, max_size=2),
    ),
    st.text(max_size=30),
)  # fmt: skip


@tried
@given(configs, st.sampled_from(list(TAKING)))
def test_any_config_file_is_heard_or_refused(run, tmp_path, content, command):
    (tmp_path / "shelllcc.toml").write_text(content, encoding="utf-8", errors="replace")
    try:
        run(*TAKING[command][0])
    finally:
        (tmp_path / "shelllcc.toml").unlink()


def places(record, path=()):
    """Every key of a record, as the way to it."""
    for key, value in record.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@tried
@given(st.data())
def test_any_sidecar_is_replayed_or_refused(run, tmp_path, data):
    record = copy.deepcopy(a_sidecar(run))
    for way in data.draw(st.lists(st.sampled_from(list(places(record))), min_size=1, max_size=2, unique=True)):
        inside = record
        for key in way[:-1]:
            inside = inside.get(key) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside[way[-1]] = data.draw(values, label=".".join(way))
    (tmp_path / "sidecar.json").write_text(json.dumps(record), encoding="utf-8")
    code, out, _ = run("generate", "--from", "sidecar.json", "--dry-run", "--json")
    if code == 0:
        inside = (tmp_path / "outputs").resolve()
        assert all(path.resolve().is_relative_to(inside) for path in planned(out))


@tried
@given(st.one_of(values.map(json.dumps).map(str.encode), st.binary(max_size=30)))
def test_a_file_that_is_no_sidecar_is_refused(run, tmp_path, content):
    (tmp_path / "sidecar.json").write_bytes(content)
    assert run("generate", "--from", "sidecar.json", "--dry-run")[0] == 2
    run("profiles", "import", "sidecar.json")


_SIDECAR = {}


def a_sidecar(run):
    if not _SIDECAR:
        _SIDECAR.update(json.loads(run("generate", "-p", "a tabby cat", *SMALL, "--dry-run", "--json")[1])["clips"][0])
        _SIDECAR.update(device="cpu", dtype="float32", versions={"shelllcc": "0.1.0"}, metrics={}, trace=[], alarm=None)
    return _SIDECAR


@settings(tried, max_examples=4)
@given(words.filter(str.strip))
def test_any_prompt_that_is_sampled_writes_into_the_output_alone(shelllcc, tmp_path, prompt):
    (tmp_path / "wild.txt").write_text(prompt.replace("\n", " "), encoding="utf-8", errors="replace")
    tiny = ["--size", "16x16", "--frames", "1", "--steps", "1", "--cfg", "1"]
    code, _, err = shelllcc("generate", "--prompts-file", "wild.txt", "-o", "out", *tiny)
    assert code in (0, 2), err
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"wild.txt", "out"}
