"""The wheel holds both packages with their data, and nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("allocator", "arr_coc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_every_source_file_is_in_the_wheel_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    ours = {name for name in wheel.namelist() if ".dist-info/" not in name}
    own = ROOT / "arr_coc/reference/pages/data"
    skipped = {"__pycache__", ".mypy_cache", ".ruff_cache"}
    sources = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file()
        and own not in file.parents
        and not skipped & set(file.parts)
        and file.suffix not in (".pyc", ".pyo")
    }
    assert ours == sources  # the pages model's weights are for a source checkout
    assert {name.split("/")[0] for name in ours} == set(PACKAGES)


def test_types_and_weights_travel(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    weights = [name for name in names if name.endswith(".safetensors")]
    assert weights and all(name.startswith("arr_coc/reference/") for name in weights), weights
    assert sum(wheel.getinfo(name).file_size for name in names) < 15_000_000


def test_own_questions_are_judged_without_a_clone(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """What is installed is enough for `arr_coc.evaluate` and `arr-coc evaluate`: no eval/, no configs/."""
    wheel.extractall(tmp_path / "site")
    code = (
        "import json, sys; import arr_coc; from typer.testing import CliRunner; from arr_coc.cli import app\n"
        "assert arr_coc.__file__.startswith(sys.argv[1])\n"
        "(row,) = arr_coc.reference.generate(1, grid=(1, 1), kinds=['color'])\n"
        "row['image'].save('a.png')\n"
        "line = {'image': 'a.png', 'question': row['question'], 'answers': row['answers']}\n"
        "open('own.jsonl', 'w').write(json.dumps(line))\n"
        "shown = CliRunner().invoke(app, ['evaluate', 'own.jsonl', '--max-new-tokens', '2'])\n"
        "assert shown.exit_code == 0, shown.output\n"
        "print(shown.output)\n"
        "assert 'eval' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 question on 1 image, vqa_accuracy" in done.stdout


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    meta = Parser().parsestr(wheel.read(name).decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert meta["Name"] == "arr-coc" and meta["License-Expression"] == "Apache-2.0"
    assert meta["Version"] == project["version"]
    assert any(n.endswith("licenses/LICENSE") for n in wheel.namelist())
    scripts = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "arr-coc = arr_coc.cli:app" in scripts


def test_version_is_stated_once_and_the_same() -> None:
    import arr_coc

    assert arr_coc.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_third_party_import_is_a_dependency() -> None:
    """Nothing the packages import is missing from pyproject.toml; what only an extra brings is imported lazily."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[ ]", r)[0].lower().replace("-", "_") for r in requirements}

    modules = {"scikit_learn": "sklearn", "pyyaml": "yaml", "pillow": "PIL"}
    core = {modules.get(n, n) for n in names(project["dependencies"])}
    optional = {
        extra: {modules.get(n, n) for n in names(found)} for extra, found in project["optional-dependencies"].items()
    }
    lazily = ("timm", "heif", "eval", "serve", "client", "vllm", "peers", "jax")
    extras = set().union(*(optional[extra] for extra in lazily))
    # What only one host or one extra loads may name it at its top; everything else imports it where it is used.
    serve = optional["serve"] | {"starlette", "pydantic", "h11"}
    hosts = {"arr_coc/serving": serve, "arr_coc/commands/serve.py": serve, "arr_coc/asking/lmms.py": {"lmms_eval"}}
    hosts["arr_coc/engines/vllm"] = serve | {"vllm"}
    known = core | set(sys.stdlib_module_names) | set(PACKAGES)
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    found = {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found = {(node.module or "").split(".")[0]}
                else:
                    continue
                where = str(file.relative_to(ROOT))
                allowed = known if node in tree.body else known | extras | {"peft"}
                allowed = allowed.union(*(brought for host, brought in hosts.items() if where.startswith(host)))
                assert found <= allowed, f"{where}: {found - allowed}"
