"""The house rules: who may import whom, what the wheel holds, and how fast help is."""

import ast
import itertools
import re
import resource
import runpy
import subprocess
import sys
import tomllib

import pytest

HEAVY = ("torch", "diffusers", "faiss", "imageio", "transformers", "numpy")


def imports(path, *, late=True):
    """Every module that a file may import: `from a import b` counts as a and as a.b; `late` ones of functions, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(root, *parts):
    return [p for part in parts for p in sorted((root / part).rglob("*.py"))]


ROOMS = {  # each from the ground up, and whom it may import
    "ground": (),  # the files of guidance/ itself
    "geometry": ("ground",),
    "anchors": ("ground", "geometry"),
    "guide": ("ground", "geometry", "anchors"),
    "measures": ("ground", "guide"),
    "media": ("ground",),
    "jobs": ("ground",),
    "fit": ("ground", "anchors", "guide", "measures"),
    "wan/tiny": (),
    "wan/model": ("ground", "anchors"),
    "wan/clips": (
        "ground",
        "geometry",
        "anchors",
        "guide",
        "measures",
        "media",
        "jobs",
        "fit",
        "wan/tiny",
        "wan/model",
    ),
    "wan/banks": ("ground", "geometry", "anchors", "media", "jobs", "wan/model", "wan/clips"),
    "wan/fits": (
        *("ground", "geometry", "anchors", "guide", "measures", "media", "fit", "wan/model", "wan/clips", "wan/banks"),
    ),
    "workbench": ("ground", "geometry", "anchors", "measures", "media", "wan/model", "wan/clips"),
    "comfy": ("ground", "anchors", "guide", "media", "fit"),
    "servers": ("ground", "anchors", "guide", "fit"),
    "commands": (
        *("ground", "geometry", "anchors", "guide", "measures", "media", "jobs", "fit"),
        *("wan/model", "wan/clips", "wan/banks", "wan/fits", "workbench"),
    ),
    "cli": ("ground", "commands"),
}


def room_of(module):
    """The room that a module of the package lies in."""
    parts = module.removeprefix("shelllcc.").removeprefix("guidance.").split(".")
    if parts[0] == "wan":
        return "/".join(parts[:2])
    return parts[0] if parts[0] in ROOMS else "ground"


def modules(root):
    for path in (*sources(root, "guidance", "anchors", "comfy", "servers", "commands"), root / "cli.py"):
        yield path, ".".join(("shelllcc", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")


def test_arrows_point_down(root):
    known = {name for _, name in modules(root)}
    drawn = set()
    for path, name in modules(root):
        for module in imports(path):
            if module in known and module not in ("shelllcc", "shelllcc.guidance", "shelllcc.guidance.wan"):
                drawn.add((room_of(name), room_of(module)))
    allowed = {(room, below) for room, rooms in ROOMS.items() for below in rooms}
    assert {arrow for arrow in drawn if arrow[0] != arrow[1]} <= allowed
    order = list(ROOMS)
    assert all(order.index(below) < order.index(room) for room, below in allowed)


def test_no_file_imports_in_a_circle(root):
    known = {name for _, name in modules(root)}
    arrows = {name: {m for m in imports(path, late=False) if m in known} - {name} for path, name in modules(root)}
    while free := [name for name, below in arrows.items() if not below & arrows.keys()]:
        for name in free:
            del arrows[name]
    assert not arrows


def test_the_mathematics_imports_torch_alone(root):
    allowed = ("torch", "__future__", "collections.abc", "contextlib", "dataclasses", "shelllcc.guidance.geometry")
    for path in sources(root, "guidance/geometry"):
        for module in imports(path):
            assert module.startswith(allowed), (path.name, module)


def test_architecture_draws_the_house_as_it_is(root):
    text = (root / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawing = text.split("```")[1].strip("\n")
    folders, named = list[str](), []
    for line in drawing.splitlines():
        word, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        del folders[depth:]
        folders.append(word)
        named.append("".join(folders))
    shown = sorted(name for name in named if name.endswith(".py"))
    there = [path.relative_to(root).as_posix() for path, _ in modules(root) if path.name != "__init__.py"]
    assert shown == sorted(there)


LIBRARIES_OWN = ("guidance/guide/seams.py", "guidance/wan/model/seams.py")
OURS = ("__class__", "__dict__")  # of the special names, those that only an object's own class touches
PRIVATE_BUT_USUAL = {
    "guidance/jobs/processes.py": {"_exit"},  # of os, documented
    "guidance/wan/model/counting.py": {"_python_dispatch", "_pytree", "_cdata"},  # of torch, which has no public ones
    "guidance/errors.py": {"__dict__"},  # of exceptions that are pickled
}


def private_names(path):
    """Names that begin with an underscore and are another object's: attributes, imports, words to getattr, keywords."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call):
            yield from (word.arg or "" for word in node.keywords)
            if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
                yield from (word.value for word in node.args[1:2] if isinstance(word, ast.Constant))


def test_private_names_of_libraries_lie_in_the_seams(root):
    for path in (*sources(root, "guidance", "anchors", "comfy", "servers", "commands"), root / "cli.py"):
        name = path.relative_to(root).as_posix()
        if name not in LIBRARIES_OWN:
            found = {
                word for word in private_names(path) if word.startswith("_") and (word[:2] != "__" or word in OURS)
            }
            assert found <= PRIVATE_BUT_USUAL.get(name, set()), name


def test_only_main_imports_the_command_line(root):
    for path in sources(root, "guidance", "anchors", "comfy", "servers", "commands", "training", "benchmarks"):
        assert not any(module.startswith("shelllcc.cli") for module in imports(path)), path


def test_every_package_folder_is_in_the_wheel(root):
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {
        p.parent
        for part in ("guidance", "anchors", "comfy", "servers", "commands")
        for p in (root / part).rglob("__init__.py")
    }
    found = {"shelllcc"} | {"shelllcc." + ".".join(f.relative_to(root).parts) for f in folders}
    assert listed == found


def test_every_requirement_has_a_lower_bound_that_can_be_tried(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pins = set(runpy.run_path(str(root / "tests/bounds.py"))["pins"](project))
    assert {"transformers==5.3", "typer==0.29", "gguf==0.17.1"} <= pins
    assert len({pin.partition("==")[0] for pin in pins}) == len(pins)  # one bound a library
    with pytest.raises(ValueError, match="write NAME>=VERSION"):
        list(runpy.run_path(str(root / "tests/bounds.py"))["pins"](project | {"dependencies": ["torch"]}))


def test_help_is_fast_and_light():
    code = "import sys, shelllcc.cli as c; sys.argv=['shelllcc','--help']\ntry: c.main()\nexcept SystemExit: pass\n"
    code += f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert "generate" in done.stdout
        assert done.stderr.strip() == "[]"
    assert min(seconds) < 1.0  # of a core: 0.3 s on a quiet machine; the least, as others may use this one


def test_the_package_size_keeps_its_budget(root):
    files = [path for path in (root / "guidance/wan/tiny").rglob("*") if path.is_file()]
    adapter = root / "guidance/wan/tiny/distilled.safetensors"
    assert sum(path.stat().st_size for path in files if path != adapter) < 44_000_000
    assert adapter.stat().st_size < 3_000_000


def test_the_mathematics_stays_small(root):
    files = [*sources(root, "guidance/geometry"), root / "guidance/guide/guide.py"]
    assert sum(len(path.read_text().splitlines()) for path in files) < 700


MANY = (
    "anchor",
    "clip",
    "failure",
    "file",
    "frame",
    "GPU",
    "job",
    "process",
    "profile",
    "seed",
    "step",
    "video",
    "worker",
)


def test_a_number_and_its_noun_are_said_by_plural(root):
    """So that nobody reads "1 clips". What stands in thousands (`:,`) is never one."""
    nouns = re.compile(rf"^ ({'|'.join(MANY)})(e?s)\b")
    wrong = []
    for path, name in modules(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            pairs = itertools.pairwise(node.values) if isinstance(node, ast.JoinedStr) else ()
            wrong += [
                f"{name}:{node.lineno}{after.value}"
                for before, after in pairs
                if isinstance(before, ast.FormattedValue)
                and before.format_spec is None
                and isinstance(after, ast.Constant)
                and nouns.match(after.value)
            ]
    assert wrong == []
