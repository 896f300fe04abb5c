"""The map is that of today's files, and every file says in its first line what it is."""

from __future__ import annotations

from .map import LAYERS, PAGE, ROOT, clause, replaced


def test_the_map_is_of_today() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert replaced(page) == page, "a file came, went or changed its first line: run `make map`"


def test_every_file_says_what_it_is() -> None:
    mute = [str(f.relative_to(ROOT)) for layer in LAYERS for f in (ROOT / layer).rglob("*.py") if not clause(f)]
    assert not mute, mute
