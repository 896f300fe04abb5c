"""Facts that follow from what a page states: comparisons, sums, counts, and what stands in a corner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .canvas import PATCH

Stated = dict[str, Any]
COUNTED = {"sign": "signs", "bars": "bars", "table": "rows", "tiles": "tiles"}
"""What is counted of a kind of block: the blocks themselves for signs, else what the only one of its kind holds."""


def amount(text: str) -> float | None:
    """The number that a value states, if it states one."""
    try:
        return float(text.rstrip("%"))
    except ValueError:
        return None


def block_lines(spans: Sequence[Sequence[Any]]) -> list[list[Sequence[Any]]]:
    """The spans of a block line by line, from the top and from the left."""
    out: list[list[Sequence[Any]]] = []
    row: list[Sequence[Any]] = []
    for span in sorted(spans, key=lambda s: (s[1][1] + s[1][3]) / 2):
        middle = (span[1][1] + span[1][3]) / 2
        if row and middle - sum((s[1][1] + s[1][3]) / 2 for s in row) / len(row) > 6:
            out.append(sorted(row, key=lambda s: s[1][0]))
            row = []
        row.append(span)
    return [*out, sorted(row, key=lambda s: s[1][0])] if row else out


def compared(fields: Sequence[Stated]) -> Iterator[Stated]:
    """Which of two values is larger, and the sum of two small ones."""
    amounts = [(f, amount(f["answer"])) for f in fields]
    known = [(f, x) for f, x in amounts if x is not None][:4]
    for a, x in known:
        for b, y in known:
            if a is b:
                continue
            both = {"about": [a["about"][0], b["about"][0]], "boxes": a["boxes"] + b["boxes"],
                    "level": max(a["level"], b["level"])}  # fmt: skip
            if x != y:
                yield {"kind": "larger", "answer": (a if x > y else b)["about"][0], **both}
            if a["answer"].isdigit() and b["answer"].isdigit() and x + y < 200:
                yield {"kind": "sum", "answer": str(int(x + y)), **both}


def counted(page: Mapping[str, Any]) -> Iterator[Stated]:
    """How many signs there are on a page, and bars, rows or tiles where one block alone has them."""
    for kind, name in COUNTED.items():
        found = [i for i, block in enumerate(page["blocks"]) if block.get("kind") == kind]
        if not found or (kind != "sign" and len(found) > 1):
            continue
        first, last = page["blocks"][found[0]]["spans"]
        number = {
            "sign": len(found),
            "bars": sum(f["kind"] == "color" and f["block"] == found[0] for f in page["facts"]),
            "tiles": sum(f["kind"] == "color" and f["block"] == found[0] for f in page["facts"]),
            "table": len(block_lines(page["spans"][first:last])) - 1,
        }[kind]
        boxes = [[round(v) for v in page["blocks"][i]["box"]] for i in found]
        yield {"kind": "count", "about": [name], "answer": str(number), "boxes": boxes,
               "level": 128 if kind == "table" else 64}  # fmt: skip


def placed(page: Mapping[str, Any]) -> Iterator[Stated]:
    """The first and the last line of the block of one patch in each corner of a page."""
    rows, cols = page.get("grid", (1, 1))
    for r, high in ((0, "top"), (rows - 1, "bottom")) if rows > 1 else ((0, ""),):
        for c, side in ((0, "left"), (cols - 1, "right")) if cols > 1 else ((0, ""),):
            where = f"{high} {side}".strip()
            x, y = (c + 0.5) * PATCH, (r + 0.5) * PATCH
            for block in page["blocks"] if where else ():
                left, top, right, bottom = block["box"]
                here = left <= x <= right and top <= y <= bottom and max(right - left, bottom - top) < PATCH
                if not here or block["kind"] not in ("fields", "bars", "sign"):
                    continue
                told = block_lines(page["spans"][slice(*block["spans"])])
                for name, line in (("first", told[0]), ("last", told[-1])) if told else ():
                    if len(line) <= 2:
                        yield {"kind": "line", "about": [name, where], "answer": " ".join(s[0] for s in line),
                               "boxes": [[round(v) for v in s[1]] for s in line],
                               "level": max(s[2] for s in line)}  # fmt: skip


def askable(page: Mapping[str, Any]) -> list[Stated]:
    """The facts of a page that a question can single out, with those derived from them."""
    seen: dict[tuple[str, tuple[str, ...]], int] = {}
    for one in page["facts"]:
        key = (one["kind"], tuple(one["about"]))
        seen[key] = seen.get(key, 0) + 1
    told = [f for f in page["facts"] if seen[f["kind"], tuple(f["about"])] == 1]
    fields = [f for f in told if f["kind"] == "field"]
    return [*told, *compared(fields), *counted(page), *placed(page)]
