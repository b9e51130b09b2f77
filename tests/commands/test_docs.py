"""README.md and docs/ name every command and flag there is, and none that is not; the README's examples run."""

import ast
import re
import runpy
import shlex

import pytest
import torch
import typer

from shelllcc import cli
from shelllcc.commands import config

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
NOT_RUN = (  # of the README: what fetches or installs, full-size models, what writes into the user's shell
    "git clone ", "make ", "python -m venv ", ".venv/bin/python -m pip ", "M=", "shelllcc --install-completion",
)  # fmt: skip
OF_OTHERS = re.compile(r"^(?:pip|ray) .*|^.*-m (?=shelllcc)")  # calls of other programs, and what they call us with


@pytest.fixture(scope="module")
def app():
    return typer.main.get_command(cli.app)


@pytest.fixture(scope="module")
def pages(root):
    log = root / "docs/research-log.md"  # tells of the past
    return {path: path.read_text() for path in [root / "README.md", *root.glob("docs/*.md")] if path != log}


def code_of(text):
    """The lines of the shell in a page and its inline code, comments away."""
    for kind, block in FENCED.findall(text):
        if kind in ("", "bash"):
            yield from re.sub(r"\s+#.*", "", block.replace("\\\n", " "), flags=re.MULTILINE).splitlines()
    yield from INLINE.findall(FENCED.sub("", text))


def leaf(app, words):
    """The command that words name, and the words that are left for it."""
    command, name = app, "shelllcc"
    while words and words[0] in getattr(command, "commands", {}):
        command, name, words = command.commands[words[0]], words[0], words[1:]
    return command, name, words


def calls(text):
    """Every call of shelllcc that a page shows, as words."""
    for line in code_of(text):
        if called := re.search(r"(?:^|-m |bin/)shelllcc +(.*)", line):
            yield shlex.split(called[1])


def flags_of(command):
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def flags_of_module(path):
    """What `python -m` of a module takes: its `main` is given to typer, or else each of its commands."""
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    taken = [node for node in functions if node.name == "main"] or [node for node in functions if node.decorator_list]
    assert taken, path
    named = {node.value for each in taken for node in ast.walk(each.args) if isinstance(node, ast.Constant)}
    arguments = [argument for each in taken for argument in (*each.args.args, *each.args.kwonlyargs)]
    return named | {f"--{argument.arg.replace('_', '-')}" for argument in arguments}


def every(command, *words):
    yield words, command
    for word, below in getattr(command, "commands", {}).items():
        yield from every(below, *words, word)


def test_every_call_that_a_page_shows_parses(app, pages):
    seen = 0
    for path, text in pages.items():
        for words in calls(text):
            if words[0].isupper() or words == [
                "--install-completion"
            ]:  # COMMAND, and what would write into a shell's file
                continue
            command, name, left = leaf(app, words)
            assert not hasattr(command, "commands") or not left or left[0].startswith("-"), (path.name, words)
            partly = not left or any(word.endswith("...") for word in left)  # names it, and does not call it
            command.make_context(name, [word for word in left if word != "..."], resilient_parsing=partly)
            assert {w.split("=")[0] for w in left if w.startswith("-")} <= flags_of(command), (path.name, words)
            seen += 1
    assert seen > 40


def test_every_flag_that_a_page_names_exists(app, pages, root):
    known = {"--help"} | {flag for _, command in every(app) for flag in flags_of(command)}
    for path, text in pages.items():
        for code in code_of(text):
            if module := re.search(r"python -m (benchmarks\.\w+|training\.\w+)", code):
                source = root / f"{module[1].replace('.', '/')}.py"
                assert set(FLAG.findall(code)) <= flags_of_module(source), (path.name, code)
            else:
                assert set(FLAG.findall(OF_OTHERS.sub("", code))) <= known, (path.name, code)


def test_every_make_target_that_a_page_names_exists(pages, root):
    targets = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    named = {m[1] for text in pages.values() for code in code_of(text) if (m := re.match(r"make ([\w-]+)", code))}
    assert {"demo", "test", "check"} <= named <= targets


def test_every_variable_that_a_page_names_is_read(app, pages, root):
    named = {name for text in pages.values() for name in re.findall(r"SHELLLCC_[A-Z_]*[A-Z]", text)}
    read = {p.envvar for _, command in every(app) for p in command.params if p.envvar}
    assert read <= named
    sources = [p for part in ("guidance", "anchors", "commands", "servers") for p in (root / part).rglob("*.py")]
    read |= set(re.findall(r"SHELLLCC_[A-Z_]*[A-Z]", "".join(path.read_text() for path in sources)))
    assert named <= read


def test_every_command_and_flag_is_documented(app, root):
    page = (root / "docs/commands.md").read_text()
    assert page == runpy.run_path(str(root / "docs/commands.py"))["page"](), "`make docs` writes it"
    shared = page.split("## Shared\n")[1]
    for words, command in every(app):
        [section] = re.findall(
            rf"^## {' '.join(['shelllcc', *words])}(?: [^a-z\n]*)?\n(.*?)(?=^## )", page, re.M | re.S
        )
        for parameter in command.params:
            flags = [f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts) if flag.startswith("-")]
            assert all(flag in section or (flags[0] in section and flag in shared) for flag in flags), (words, flags)
    assert all(command.help for _, command in every(app))


def test_the_defaults_of_the_pages_are_taken(app, pages, tmp_path):
    [text] = [block for page in pages.values() for kind, block in FENCED.findall(page) if kind == "toml"]
    (tmp_path / "shelllcc.toml").write_text(text)
    assert config.defaults(tmp_path / "shelllcc.toml", app.commands) == {"generate": {"strength": "0.8", "steps": 30}}


def test_the_python_example_of_the_readme_runs(pages, root, monkeypatch):
    """As it is, but on a smaller picture and in fewer steps; what it gives is guided."""
    [text] = [block for kind, block in FENCED.findall(pages[root / "README.md"]) if kind == "python"]
    full, less = "height=192, width=192, num_frames=17", "height=32, width=32, num_frames=5, num_inference_steps=12"
    small = text.replace(full, less)
    assert small != text
    monkeypatch.chdir(root)
    clips = {}
    for strength in ("1.5", "0.0"):
        names = {}
        torch.manual_seed(0)
        exec(small.replace("strength=1.5", f"strength={strength}"), names)
        clips[strength] = names["frames"]
        assert names["frames"].shape == (5, 32, 32, 3)
    assert not (clips["1.5"] == clips["0.0"]).all()


def test_every_command_of_the_readme_runs_in_its_order(shelllcc, pages, root, tmp_path):
    """As they stand, but for smaller clips in fewer steps; --model is that of the reader."""
    lines = [
        line
        for kind, block in FENCED.findall(pages[root / "README.md"])
        if kind == "bash"
        for line in code_of(f"```bash\n{block}```")
    ]
    ran, left = [], []
    for line in lines:
        called = re.search(r"(?:^|-m )shelllcc +(.*)", line)
        if line.startswith(NOT_RUN) or called is None or "$M" in line:
            left.append(line)
            continue
        words = shlex.split(called[1])
        sampled = words[0] in ("generate", "compare", "tune") and "--from" not in words
        small = ["--size", "32x32", "--frames", "5"] if sampled or words[0] == "score" else []
        steps = ["--steps", "4", "--window", "0:0.99"] if sampled and "--preset" not in words else []
        code, _, err = shelllcc(*words, *small, *steps)
        assert code == 0, (line, err)
        ran.append(words[0])
    assert {"generate", "compare", "tune", "score", "doctor"} == set(ran)
    assert all(line.startswith(NOT_RUN) or "$M" in line for line in left), left
    assert (tmp_path / "outputs/demo.compare.mp4").exists()


def test_the_readme_is_short_and_what_it_shows_is_there(pages, root):
    text = pages[root / "README.md"]
    assert len(text.splitlines()) <= 130
    for path, page in pages.items():
        for target in re.findall(r"\]\(([^)#:\s]+)\)", page):
            assert (path.parent / target).exists(), (path.name, target)
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in {head.lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
