"""What people see: help with defaults and examples, tables that fit, the tag of a video as a record, quiet, --open."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
import tracemalloc

import pytest
import typer
from rich.cells import cell_len
from typer import rich_utils

from shelllcc import cli
from shelllcc.commands import options, progress, tables
from shelllcc.commands.examples import EXAMPLES, example
from shelllcc.guidance.wan.clips import fitted, planning
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.plan import plan_clips
from shelllcc.guidance.wan.clips.planning import Planning
from shelllcc.guidance.wan.model.presets import PRESETS

SMALL = ["--frames", "5", "--size", "32x32", "--steps", "2"]
CAT = "a tabby cat, zoom in, daylight"


def leaves(command=None, name=""):
    command = command or typer.main.get_command(cli.app)
    if not hasattr(command, "commands"):
        yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from leaves(below, f"{name} {word}".strip())


@pytest.mark.parametrize("name", [name for name, _ in leaves()])
def test_every_command_has_an_example_of_flags_that_it_has(name):
    command = dict(leaves())[name]
    assert command.epilog == example(name)
    words = shlex.split(EXAMPLES[name])
    assert " ".join(words).startswith(name)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_help_says_the_default_of_what_a_preset_sets():
    told = {parameter.name: parameter.help for parameter in dict(leaves())["generate"].params}
    assert f"tiny: {PRESETS['tiny'].steps})" in told["steps"]
    assert f"tiny: {PRESETS['tiny'].width}x{PRESETS['tiny'].height})" in told["size"]


def test_help_says_of_every_option_what_holds_without_it():
    """A default, in words where it is decided at run time; off, or none; but for what must be given."""
    named = {"show_completion", "install_completion", "help"}  # typer's own: they do a thing and end
    app = typer.main.get_command(cli.app)
    for name, command in [("", app), *leaves()]:
        for option in command.params:
            assert option.help, (name, option.name)
            if option.param_type_name == "option" and option.name not in named and not option.required:
                shown = option.show_default and option.default is not None and option.default is not False
                assert shown or re.search(r"\(default: .+\)", option.help), (name, option.name, option.help)


def test_the_version_has_a_short_flag(shelllcc):
    assert shelllcc("-V")[:2] == shelllcc("--version")[:2]


def test_a_clip_is_replayed_from_its_own_tag(shelllcc, tmp_path):
    code, out, err = shelllcc("generate", "-p", CAT, *SMALL, "--seed", "3", "-o", "one.mp4", "--json")
    assert code == 0, err
    [first] = json.loads(out)["clips"]
    (tmp_path / "one.json").unlink()
    code, out, err = shelllcc("generate", "--from", "one.mp4", "-o", "two.mp4", "--json")
    assert code == 0, err
    [again] = json.loads(out)["clips"]
    assert again["frames_sha256"] == first["frames_sha256"]
    assert again["request"] == first["request"]
    (tmp_path / "bare.mp4").write_bytes(b"no video")
    code, _, err = shelllcc("generate", "--from", "bare.mp4")
    assert code == 2
    assert "no record of a clip in its tag" in err
    assert shelllcc("generate", "--from", "none.mp4")[0] == 2


def test_quiet_says_what_went_wrong_alone(shelllcc):
    code, out, err = shelllcc("generate", "-p", "a unicorn", *SMALL, "--quiet", "-o", "quiet.mp4")
    assert (code, err) == (0, "")
    assert "quiet.mp4" in out
    code, _, err = shelllcc("--quiet", "generate", "-p", "a unicorn", "--steps", "0")
    assert code == 2
    assert err.startswith("shelllcc: error: ")


def test_open_shows_the_clip(shelllcc, tmp_path, monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("what opens files is named otherwise there")
    opener = tmp_path / "bin/xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{opener.parent}:{os.environ['PATH']}")
    assert shelllcc("generate", "-p", CAT, *SMALL, "-o", "shown.mp4", "--open")[0] == 0
    assert (tmp_path / "opened").read_text().strip() == str(tmp_path / "shown.mp4")


@pytest.mark.parametrize(
    "words",
    [["generate", "-p", CAT], ["compare", "-p", CAT], ["batch", "prompts.txt", "-o", "out"]],
    ids=lambda words: words[0],
)
def test_a_dry_run_is_a_table_for_people(words, shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{CAT}\n")
    code, out, err = shelllcc(*words, *SMALL, "--dry-run")
    assert code == 0, err
    assert CAT in out
    assert "dry run" in out
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(out)
    assert json.loads(shelllcc(*words, *SMALL, "--dry-run", "--json")[1])["dry_run"] is True


def test_doctor_and_info_are_tables_for_people(shelllcc):
    for words in (["doctor"], ["anchors", "info", "tiny-wan"]):
        code, out, err = shelllcc(*words)
        assert code == 0, err
        assert not re.search(r"[{}\[\]]", out)
        assert max(map(len, out.splitlines())) <= 160


HEADS = ("prompt", "seed", "clip", "sharpness", "hf", "flat", "kurtosis", "spectrum", "change", "balance", "distance")
ROW = ("00 a tabby cat, zoom in, daylight", "0", "strength 1.5", *(["1.234"] * 6), "+0.123", "▁▂▃▄▅▆▇█", "noise alarm")
SPARE = ("flat", "kurtosis", "hf", "spectrum", "distance", "change", "seed", "prompt")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_keeps_what_decides_whole_at_any_width(width, capsys, monkeypatch):
    monkeypatch.setattr(tables, "WIDTH", width)
    tables.table((*HEADS, "verdict"), [ROW], spare=SPARE)
    head, row, *rest = capsys.readouterr().out.splitlines()
    assert max(map(len, (head, row, *rest))) <= width
    whole = {"clip": "strength 1.5", "sharpness": "1.234", "balance": "+0.123", "verdict": "noise alarm"}
    for name, cell in whole.items():
        assert name in head
        assert cell in row
    assert ("kurtosis" in head) == (width == 200)


SAMPLING = {name: command for name, command in leaves() if any(p.name == "steps" for p in command.params)}


@pytest.mark.parametrize("name", SAMPLING)
def test_flags_of_commands_that_sample_come_in_the_same_groups(shelllcc, monkeypatch, name):
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    code, out, _ = shelllcc(*name.split(), "--help")
    assert code == 0
    assert max(map(cell_len, out.splitlines())) <= 80
    shown = [panel for panel in re.findall("^╭─ (.+?) ─+╮$", out, re.MULTILINE) if panel != "Arguments"]
    assert shown == list(options.PANELS)
    parts = re.split("^╭─ .+ ─+╮$", out, flags=re.MULTILINE)[-len(shown) :]
    for panel, part in zip(shown, parts, strict=True):
        flags = [p.opts[0] for p in SAMPLING[name].params if getattr(p, "rich_help_panel", None) == panel]
        assert re.findall(r"^│[ *]{1,6}(--[\w-]+)", part, re.MULTILINE) == flags + ["--help"] * (panel == "More")


def test_no_group_of_flags_names_what_no_command_has():
    known = {parameter.name for command in SAMPLING.values() for parameter in command.params}
    assert {name for names in options.PANELS.values() for name in names} <= known


def test_many_prompts_are_planned_with_one_look_for_their_fit(shelllcc, tmp_path, monkeypatch):
    """What all lines share is found once, so that 100,000 of them take seconds: `benchmarks.start` times them."""
    looks, find = [], fitted.find
    monkeypatch.setattr(fitted, "find", lambda *given: looks.append(given) or find(*given))
    lines = "".join(f"grass, take {index}\n" for index in range(500)) + "grass --steps 3\n"
    (tmp_path / "prompts.txt").write_text(lines)
    code, out, err = shelllcc("batch", "prompts.txt", "-o", "out", "--dry-run")
    assert code == 0, err
    assert len(looks) == 2
    assert re.search(r"^clips +501$", out, re.MULTILINE)
    assert len(out.splitlines()) < 40
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["batch"], ["generate", "--prompts-file"]])
def test_planning_many_clips_is_told_of_and_planning_few_is_not(shelllcc, tmp_path, monkeypatch, words):
    for many in (60, 40):
        monkeypatch.setattr(progress, "MANY", 50)
        (tmp_path / "prompts.txt").write_text("".join(f"grass, take {index}\n" for index in range(many)))
        code, _, err = shelllcc(*words, "prompts.txt", "-o", "out", "--dry-run")
        assert code == 0, err
        assert err.count("shelllcc: planning 60 clips") == (many == 60), err
        assert "planning 40" not in err


def test_a_plan_says_which_share_of_it_is_done_and_takes_little_memory(tmp_path, monkeypatch):
    shares, peaks = [], []
    monkeypatch.setattr(planning, "EVERY", 100)
    for count in (10, 4000):
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("".join(f"grass, take {index}\n" for index in range(count)))
        tracemalloc.start()
        told = Planning(lambda clips, share: shares.append((clips, share)))
        plans = plan_clips(Asked(prompts_file=prompts, output=tmp_path / "out"), planning=told)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(plans) == count
    found = [share for clips, share in shares if clips == 4000]
    assert found == sorted(found) == pytest.approx([step / 200 for step in range(200)])
    assert (peaks[1] - peaks[0]) / 4000 < 2000  # bytes a clip


def test_many_prompts_are_planned_with_one_try_of_their_folder_and_few_rows(shelllcc, tmp_path, monkeypatch):
    tries, rows, row, place = [], [], tables.planned, tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: tries.append(given) or place(**given))
    monkeypatch.setattr(tables, "planned", lambda *given: rows.append(given) or row(*given))
    (tmp_path / "prompts.txt").write_text("".join(f"grass, take {index}\n" for index in range(300)))
    code, out, err = shelllcc("generate", "--prompts-file", "prompts.txt", "-o", "out", "--dry-run")
    assert code == 0, err
    assert len(tries) == 1
    assert len(rows) == tables.MOST
    assert "and 280 more" in out
    (tmp_path / "in" / "007-grass-take-7.mp4").mkdir(parents=True)
    code, out, err = shelllcc("generate", "--prompts-file", "prompts.txt", "-o", "in", "--dry-run")
    assert code == 2
    assert "007-grass-take-7.mp4 is a folder" in err


def test_lines_of_a_file_keep_their_own_settings_and_seeds(shelllcc, tmp_path):
    lines = ["grass --seed 7", "grass", "a cat --steps 3", "grass --seed 9 --steps 3", "a cat"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    code, out, err = shelllcc("generate", "--prompts-file", "prompts.txt", "-o", "out", "--dry-run", "--json")
    assert code == 0, err
    found = [clip["request"] for clip in json.loads(out)["clips"]]
    steps = PRESETS["tiny"].steps
    assert [(one["prompt"], one["seed"], one["steps"]) for one in found] == [
        *[("grass", 7, steps), ("grass", 1, steps), ("a cat", 2, 3), ("grass", 9, 3), ("a cat", 4, steps)]
    ]


def test_no_word_comes_twice_in_what_a_bank_is(shelllcc):
    code, out, _ = shelllcc("anchors", "info", "tiny-wan")
    assert code == 0
    names = [re.split(r" {2,}", line)[0] for line in out.splitlines()]
    assert "source" in names
    assert not [name for name in names if len({*name.split()}) < len(name.split())]


def test_the_columns_of_doctor_begin_at_one_place(shelllcc):
    lines = shelllcc("doctor")[1].splitlines()[:-1]
    starts = {re.match(r"(\S*\s+)", line).end() for line in lines}
    assert len(starts) == 1, lines


def test_a_name_that_nobody_publishes_is_refused_before_anything_is_fetched(shelllcc):
    code, out, err = shelllcc("anchors", "pull", "nosuch")
    assert (code, out) == (2, "")
    assert err == "shelllcc: error: no published bank nosuch; known by name: shell-lcc; or give an http(s) URL\n"


def test_a_plan_says_once_what_a_size_takes(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{CAT}\n{CAT} --cfg 2\n{CAT} --cfg 3 --steps 4\n{CAT} --size 32x32\n")
    code, out, err = shelllcc("generate", "--prompts-file", "prompts.txt", *SMALL, "--fit", "never", "--dry-run")
    assert code == 0, err
    [line] = [line for line in out.splitlines() if line.startswith("memory")]
    sizes = re.findall(r"(\d+x\d+), \d+ frames?", line)
    assert len(sizes) == len({*sizes}) == 1 + ("32x32" not in SMALL)


def test_a_stage_is_told_once_without_a_terminal(shelllcc):
    for words in (["--steps", "2"], ["--steps", "3"]):
        code, _, err = shelllcc(
            "generate", "-p", CAT, "--size", "32x32", "--frames", "5", *words, "-o", "a.mp4", "--overwrite"
        )
        assert code == 0, err
        said = [line for line in err.splitlines() if "note" not in line]
        assert len(said) == len({*said}), said
        assert "shelllcc: loading" in said
