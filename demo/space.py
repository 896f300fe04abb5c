"""A Hugging Face Space out of this clone."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("allocator", "arr_coc", "eval", "demo")
AT_THE_TOP = ("README.md", "requirements.txt")
"""What a Space looks for in its own root, beside `APP`."""
APP = """from demo.app import main

if __name__ == "__main__":
    main()
"""


def assemble(out: Path) -> Path:
    """Copy the packages, and what a Space looks for to the top of the folder.

    Parameters
    ----------
    out
        Made; must not exist yet.

    Raises
    ------
    ValueError
        If it exists.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; name a new folder")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyi", ".*")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, out / package, ignore=ignore)
    (out / "app.py").write_text(APP, encoding="utf-8")
    for name in AT_THE_TOP:
        shutil.copy(ROOT / "demo" / name, out / name)
    return out
