"""The house rules: who may import whom, what the wheel holds, and how fast help is."""

import ast
import subprocess
import sys
import time
import tomllib

import pytest

HEAVY = ("torch", "diffusers", "faiss", "imageio", "transformers", "numpy")


def imports(path):
    """Every module that a file may import: `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(root, *parts):
    return [p for part in parts for p in sorted((root / part).rglob("*.py"))]


def test_the_mathematics_imports_torch_alone(root):
    allowed = (
        "torch",
        "__future__",
        "dataclasses",
        "shelllcc.guidance.geometry.coding",
        "shelllcc.guidance.geometry.patches",
    )
    allowed += (
        "shelllcc.guidance.geometry.skeletons",
        "shelllcc.guidance.geometry.precision",
        "collections.abc",
        "contextlib",
    )
    for name in ("flow", "patches", "coding", "skeletons", "shell", "precision"):
        for module in imports(root / "guidance" / f"{name}.py"):
            assert module.startswith(allowed) or module == "shelllcc.guidance", (name, module)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("anchors", ("shelllcc.guidance.wan", "shelllcc.guidance.evaluation", "shelllcc.cli", "training")),
        ("guidance/wan", ("shelllcc.cli", "training", "benchmarks")),
        ("guidance/evaluation", ("shelllcc.cli", "training", "benchmarks")),
    ],
)
def test_lower_floors_do_not_import_upper_ones(root, folder, forbidden):
    for path in sources(root, folder):
        for module in imports(path):
            assert not module.startswith(forbidden), (path.name, module)


def test_only_main_imports_the_command_line(root):
    for path in sources(root, "guidance", "anchors", "training", "benchmarks"):
        assert not any(module.startswith("shelllcc.cli") for module in imports(path)), path


def test_every_package_folder_is_in_the_wheel(root):
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent for part in ("guidance", "anchors") for p in (root / part).rglob("__init__.py")}
    found = {"shelllcc"} | {"shelllcc." + ".".join(f.relative_to(root).parts) for f in folders}
    assert listed == found


def test_help_is_fast_and_light():
    code = "import sys, shelllcc.cli as c; sys.argv=['shelllcc','--help']\ntry: c.main()\nexcept SystemExit: pass\n"
    code += f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - started)
        assert "generate" in done.stdout
        assert done.stderr.strip() == "[]"
    assert min(seconds) < 1.0  # 0.3 s on a quiet machine; the least, as others may use this one


def test_the_package_size_keeps_its_budget(root):
    size = sum(p.stat().st_size for p in (root / "guidance/wan/tiny").rglob("*") if p.is_file())
    assert size < 44_000_000


def test_the_mathematics_stays_small(root):
    names = ("flow", "patches", "coding", "skeletons", "shell", "guide")
    lines = sum(len((root / "guidance" / f"{name}.py").read_text().splitlines()) for name in names)
    assert lines < 600
