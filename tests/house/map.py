"""The map of the house: a clause per folder and file, which is each file's own first line. `make map` writes it."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "arr_coc" / "README.md"
LAYERS = ("allocator", "arr_coc", "eval", "demo")
BEGIN, END = "<!-- the map: written by `make map` -->\n", "<!-- end of the map -->\n"


def clause(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def lines(folder: Path, depth: int = 0) -> list[str]:
    """Markdown bullets of a package, folders first, then files, each with its clause."""
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "_")))
    found = []
    for sub in (p for p in inside if (p / "__init__.py").is_file()):
        found.append(f"{'  ' * depth}- **{sub.name}/** {clause(sub / '__init__.py')}")
        found += lines(sub, depth + 1)
    return found + [f"{'  ' * depth}- `{p.name}` {clause(p)}" for p in inside if p.suffix == ".py"]


def drawn() -> str:
    """The whole map, layer by layer, from the ground up."""
    parts = [
        f"### {layer}\n\n{clause(ROOT / layer / '__init__.py')}\n\n" + "\n".join(lines(ROOT / layer))
        for layer in LAYERS
    ]
    return BEGIN + "\n" + "\n\n".join(parts) + "\n\n" + END


def replaced(page: str) -> str:
    """The page with today's map in it."""
    before, rest = page.split(BEGIN)
    return before + drawn() + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    subprocess.run(["git", "diff", "--stat", str(PAGE)], cwd=ROOT, check=False)
