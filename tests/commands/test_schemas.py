"""What --json prints, held to docs/schemas. Whatever tests print with --json is held to them, too (conftest)."""

from __future__ import annotations

import json
import runpy

import jsonschema
import pytest
import typer

from shelllcc import cli

SMALL = ["--frames", "5", "--size", "32x32", "--steps", "4"]
CAT = "a tabby cat, zoom in, daylight"
ELSEWHERE = {  # long ones, that other tests run with --json anyway
    "anchors build": "tests/wan/banks/test_anchors.py",
    "anchors train": "tests/wan/banks/test_anchors.py",
    "anchors analyze": "tests/wan/banks/test_anchors.py",
    "anchors calibrate": "tests/wan/banks/test_anchors.py",
    "anchors start": "tests/wan/banks/test_start.py",
    "anchors pull": "tests/anchors/test_pull.py",
    "fit": "tests/commands/test_fit.py",
}
IMPORT = ["anchors", "import"]
HERE = {
    "generate": ["-p", CAT, *SMALL, "--compare", "-o", "clip.mp4"],
    "compare": ["-p", CAT, *SMALL, "--strengths", "0,2", "-o", "run"],
    "tune": ["-p", CAT, *SMALL, "--window", "0:0.99", "--budget", "2", "-o", "tuned"],
    "report": ["run", "tuned", "-o", "gallery.html"],
    "batch": ["prompts.txt", *SMALL, "-o", "clips"],
    "score": ["clip.mp4", "--bank", "tiny-wan", "--size", "32x32", "--frames", "5"],
    "doctor": [],
    "anchors info": ["tiny-wan"],
    "anchors list": [],
    "anchors verify": ["tiny-wan"],
    "profiles list": [],
}


@pytest.fixture(scope="module")
def table(root):
    return runpy.run_path(str(root / "docs/schemas.py"))


def with_json(command=None, name=""):
    """The commands that take --json, by their words."""
    command = command or typer.main.get_command(cli.app)
    if any("--json" in parameter.opts for parameter in command.params):
        yield name
    for word, below in getattr(command, "commands", {}).items():
        yield from with_json(below, f"{name} {word}".strip())


def validator(table, command):
    return jsonschema.Draft202012Validator(table["schema"](command))


def test_every_command_that_takes_json_has_a_schema_and_is_run(table, root):
    assert set(with_json()) == set(table["RESULTS"]) == HERE.keys() | ELSEWHERE.keys() | {" ".join(IMPORT)}
    for command, file in ELSEWHERE.items():
        words = '"' + '", "'.join(command.split())
        text = (root / file).read_text()
        assert words in text, command
        assert '"--json"' in text, command


def test_the_files_are_those_that_make_docs_writes(table, root):
    written = {path: path.read_text() for path in (root / "docs/schemas").iterdir()}
    assert written == {root / path: text for path, text in table["files"]().items()}
    for text in written.values():
        schema = json.loads(text)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert f":{table['VERSION']}:" in schema["$id"]


def objects(schema):
    for part in schema if isinstance(schema, list) else schema.values() if isinstance(schema, dict) else ():
        yield from objects(part)
    if isinstance(schema, dict) and schema.get("type") == "object":
        yield schema


def test_objects_are_closed_and_their_keys_described(table):
    """Open are only tables by name, and records of others: where a bank came from, what a profile belongs to."""
    for command in table["RESULTS"]:
        for found in objects(table["schema"](command)):
            for name, key in found.get("properties", {}).items():
                below = [key, *key.get("anyOf", [])]
                assert any(part.get("description") or "$ref" in part for part in below), (command, name)
            if "properties" in found:
                assert found["additionalProperties"] is False, (command, found["description"])


def test_what_commands_print_is_as_their_schemas_say(shelllcc, table, tmp_path):
    (tmp_path / "prompts.txt").write_text("a tabby cat, static, night\n")
    for command, words in HERE.items():
        code, out, err = shelllcc(*command.split(), *words, "--json")
        assert code == 0, (command, err)
        printed = json.loads(out)
        validator(table, command).validate(printed)
        with pytest.raises(jsonschema.ValidationError):
            validator(table, command).validate(printed | {"unheard of": 1})
    for command in ("generate", "compare", "batch"):
        validator(table, command).validate(json.loads(shelllcc(command, *HERE[command], "--dry-run", "--json")[1]))
    for words in (["compare", "clip.mp4", "clip.mp4", "-o", "two"], ["compare", "clip.mp4", "clip.mp4", "--dry-run"]):
        validator(table, "compare").validate(json.loads(shelllcc(*words, "--json")[1]))
    validator(table, "fit").validate(json.loads(shelllcc("fit", *SMALL, "--dry-run", "--json")[1]))
    validator(table, "generate").validate(json.loads(shelllcc("generate", "-p", "", "--json")[1]))


def test_what_an_import_prints_is_as_its_schema_says(shelllcc, table, shared):
    checkpoint = shared / "golden/reference_checkpoint.pth"
    code, out, err = shelllcc(*IMPORT, checkpoint, "-o", "manifold.safetensors", "--json")
    assert code == 0, err
    validator(table, " ".join(IMPORT)).validate(json.loads(out))
