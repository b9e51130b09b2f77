"""Settings written as text."""

import pytest

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.wan.clips import parse


def lines(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    return parse.read_prompts(path)


def test_a_line_of_a_prompts_file_has_flags_of_its_own(tmp_path):
    found = lines(
        tmp_path,
        "\ufeff# a comment\n\na cat, fog\ngrass --seed 3 --cfg=2.5 --window 0:0.7\n"
        'a flower -- roll, night --negative-prompt "blurry, --grey" --size 64x48\n'
        "gravel --strength auto --flow-shift 5\n",
    )
    assert [(line.prompt, dict(line.values)) for line in found] == [
        ("a cat, fog", {}),
        ("grass", {"seed": 3, "cfg": 2.5, "window": (0.0, 0.7)}),
        ("a flower -- roll, night", {"negative_prompt": "blurry, --grey", "width": 64, "height": 48}),
        ("gravel", {"strength": "auto", "shift": 5.0}),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grass --sed 3", "no flag --sed"),
        ("grass --seed", "--seed takes one value"),
        ("grass --seed 1 2", "no flag 2"),
        ("# a line\ngrass --seed one", "prompts.txt:2: seed takes a whole number"),
        ("grass --size big", "WIDTHxHEIGHT"),
        ('grass --negative-prompt "open', "a quote is not closed"),
        ("grass --Seed 3", "no flag --Seed"),
        ("grass --seed 1 --seed 2", "comes twice"),
        ("grass --seed --cfg 2", "--seed takes one value"),
        ("# nothing\n\n", "holds no prompt"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, says):
    with pytest.raises(UsageError, match=says):
        lines(tmp_path, text)


def test_strengths_are_variants():
    assert [(v.label, v.title, v.settings["strength"]) for v in parse.strengths("0,0.5, 2")] == [
        ("unguided", "unguided", 0.0), ("strength-0.5", "strength 0.5", 0.5), ("strength-2", "strength 2", 2.0),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "0,", "one", "11", "-1", "nan", "0,0.0", "1e999"])
def test_bad_strengths_are_refused(text):
    with pytest.raises(UsageError):
        parse.strengths(text)


def test_variants_are_over_any_knob():
    soft, wide, plain = parse.variants(["Soft & calm: radius=2.5, calm=4; window=0:0.8,strength=2", "strength=0"])
    assert (soft.label, soft.title, soft.settings) == ("soft-calm", "Soft & calm", {"radius": 2.5, "calm": 4.0})
    assert (wide.label, wide.settings) == ("window-0-0.8-strength-2", {"window": (0.0, 0.8), "strength": 2.0})
    assert plain.label == "strength-0"


@pytest.mark.parametrize(
    "text",
    [
        "radius",
        "radius=",
        "a:radius=1",
        "radius=1,radius=2",
        "steps=3",
        "radius=0",
        "window=1:0",
        "a: radius=1; a: radius=2",
        "../x=1",
    ],
)
def test_bad_variants_are_refused(text):
    with pytest.raises(UsageError):
        parse.variants([text])


@pytest.mark.parametrize(
    "prompt", ["a/b\\c", "../../etc", "\u202eabc", "🐈 cat", "</script>", "x" * 10_000, "", "a\nb", "猫"]
)
def test_a_slug_is_a_safe_name(prompt):
    name = parse.slug(prompt)
    assert name
    assert len(name.encode()) <= parse.SLUG_BYTES
    assert all(c.isalnum() or c == "-" for c in name)
