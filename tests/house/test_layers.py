"""Layers only look down: allocator <- arr_coc <- eval <- demo, and the packages say what they are."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("allocator", "arr_coc", "eval", "demo")
# allocator is a bandit library: numbers in, numbers out.
ALLOCATOR_MAY_USE = {"allocator", "numpy", "safetensors", "torch"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, wherever the statement stands."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Level 1 is the file's own package, whether the file is a module of it or its __init__.
            base = list(parts[: -node.level]) if node.level else []
            yield ".".join(base + ([node.module] if node.module else []))


@pytest.mark.parametrize("package", LAYERS)
def test_imports_only_look_down(package: str) -> None:
    above = set(LAYERS[LAYERS.index(package) + 1 :]) | {"tests"}
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules(package)
        for name in imports(file)
        if name.split(".")[0] in above
    ]
    assert not wrong, wrong


def test_relative_imports_are_resolved() -> None:
    """The checker itself: an upward import must be seen, relative or not."""
    scene = ROOT / "arr_coc" / "scene"
    names = set(imports(scene / "patches.py")) | set(imports(scene / "contract.py"))
    assert "arr_coc.scene.patches" in names and "allocator" in names and "torch" in names


def _arrows(depth: int | None = None) -> dict[str, set[str]]:
    """Who imports whom when the code runs: files, or with ``depth`` the rooms (folders and single files) of a layer.

    What only the type checker reads is left out: a type reference ties no knot.
    """
    files = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for layer in LAYERS for f in modules(layer)}
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}

    def room(name: str) -> str:
        # The trainer uses the whole plugin, and nothing of the plugin uses it: a room of its own beside what it made.
        own = name.startswith("arr_coc.reference.training")
        return ".".join(name.split(".")[: depth + own]) if depth else name

    found: dict[str, set[str]] = {}
    for name, file in files.items():
        tree, parts = ast.parse(file.read_text(encoding="utf-8")), file.relative_to(ROOT).with_suffix("").parts
        checked = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
        for node in set(ast.walk(tree)) - {inner for block in checked for inner in ast.walk(block)}:
            if not isinstance(node, ast.ImportFrom):
                continue
            base = [*(parts[: -node.level] if node.level else ()), *([node.module] if node.module else [])]
            for alias in node.names:
                target = next((t for t in (".".join([*base, alias.name]), ".".join(base)) if t in files), None)
                face = depth and {target, name} & set(LAYERS)  # a layer's own face stands above its rooms
                if target and room(target) != room(name) and not face:
                    found.setdefault(room(name), set()).add(room(target))
    return found


@pytest.mark.parametrize("depth", [None, 2], ids=["files", "rooms"])
def test_imports_go_in_no_circle(depth: int | None) -> None:
    try:
        order = list(graphlib.TopologicalSorter(_arrows(depth)).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) > 40


@pytest.mark.parametrize(("layer", "most"), [("allocator", 15), ("arr_coc", 18), ("eval", 15), ("demo", 17)])
def test_a_layer_can_be_read_from_its_listing(layer: str, most: int) -> None:
    rooms = {f.relative_to(ROOT / layer).parts[0] for f in modules(layer)} - {"__init__.py", "__main__.py"}
    assert len(rooms) <= most, sorted(rooms)


@pytest.mark.parametrize("package", LAYERS)
def test_inside_a_package_imports_are_relative(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in modules(package)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == package
    ]
    assert not wrong, wrong


def test_allocator_knows_nothing_of_images() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules("allocator")
        for name in imports(file)
        if name.split(".")[0] not in ALLOCATOR_MAY_USE | set(sys.stdlib_module_names)
    ]
    assert not wrong, wrong


def test_one_family_file_does_not_know_another_layer_of_the_plugin() -> None:
    """Only the wrapper and what stands above it may know planners; families and realisers may not."""
    for folder in ("families", "realizing"):
        for file in modules(f"arr_coc/{folder}"):
            upward = ("arr_coc.wrapping", "arr_coc.attending", "arr_coc.learning", "arr_coc.cli", "arr_coc.knowing")
            assert not [name for name in imports(file) if name.startswith(upward)], file


def test_import_has_no_side_effects() -> None:
    """``import arr_coc, allocator`` loads no model library, changes no random state and no Pillow global."""
    code = (
        "import random, sys; before = random.getstate()\n"
        "import arr_coc, arr_coc.config\n"
        "assert random.getstate() == before\n"
        "heavy = {'transformers', 'matplotlib', 'sklearn', 'PIL', 'datasets', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import allocator\n"
        "heavy = {'transformers', 'PIL', 'arr_coc.wrapping.wrapper'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_exist() -> None:
    for package in ("arr_coc", "allocator"):
        module = importlib.import_module(package)
        assert module.__all__ and len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert getattr(module, name, None) is not None, f"{package}.{name}"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("arr_coc", "wrap ArrCoc ArrCocConfig learn reference"),
        ("allocator", "solve_knapsack make_policy Decision"),
        ("arr_coc.reference", "load generate"),
    ],
)
def test_documented_names(module: str, names: str) -> None:
    for name in names.split():
        assert callable(getattr(importlib.import_module(module), name)) or name == "reference"


def test_top_level_is_what_was_agreed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git clone")
    allowed = set("pyproject.toml arr_coc allocator eval configs tests demo README.md LICENSE Makefile".split())
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= allowed
