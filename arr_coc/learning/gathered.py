"""What a calibration has gathered, on the disk: a broken one goes on from it, if it is its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allocator.storage import replace_file

_NUMBERS = (int, float)


class Gathered:
    """Rows as of `arr_coc.learning.calibrate.row_of`, in ``OUT.answers.jsonl`` and ``OUT.maps/``.

    Parameters
    ----------
    out
        File of the calibration; None keeps nothing.
    by
        The model that answers.
    depth
        Its layers.

    Raises
    ------
    ValueError
        If what is there is damaged, other than in a last line that a kill cut off, or another model's.
    """

    def __init__(self, out: Path | None, by: str, depth: int) -> None:
        self.by, self.rows = by, list[dict[str, Any]]()
        self._journal = None if out is None else out.with_name(out.name + ".answers.jsonl")
        self._maps = None if out is None else out.with_name(out.name + ".maps")
        if self._journal is None or self._maps is None:
            return
        self._maps.mkdir(parents=True, exist_ok=True)
        lines = self._journal.read_bytes().splitlines(keepends=True) if self._journal.exists() else []
        for number, line in enumerate(lines):
            try:
                cells = np.array(np.load(self._maps / f"{number}.npy", mmap_mode="r", allow_pickle=False))
                row = {**json.loads(line), "cells": cells}
                _check(row, depth)
            except (ValueError, TypeError, LookupError, OSError, EOFError, RecursionError) as error:
                if number == len(lines) - 1 and not line.endswith(b"\n"):  # a kill fell into it: asked once more
                    replace_file(self._journal, b"".join(lines[:-1]).decode())
                    break
                raise ValueError(
                    f"{self._journal}, line {number + 1}, is damaged ({error}); remove the file to begin anew"
                ) from error
            if row["by"] != by:
                raise ValueError(
                    f"{self._journal} holds answers of {row['by']!r}, this model is {by!r}; choose another --out, or "
                    "remove the file to begin anew"
                )
            self.rows.append(row)

    def compare(self, number: int, sample: Mapping[str, Any]) -> None:
        """Refuse, by ValueError, to go on with other questions than those that were answered."""
        if self.rows[number]["asked"] != _asked(sample):
            raise ValueError(
                f"question {number + 1} is not the one that {self._journal} answers; choose another --out, or "
                "remove the file to begin anew"
            )

    def append(self, sample: Mapping[str, Any], row: dict[str, Any]) -> None:
        """Keep a row; it is on the disk when this returns."""
        self.rows.append({**row, "by": self.by, "asked": _asked(sample)})
        if self._journal is None or self._maps is None:
            return
        with (self._maps / f"{len(self.rows) - 1}.npy").open("wb") as file:
            np.save(file, row["cells"])
            file.flush()
            os.fsync(file.fileno())
        with self._journal.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({k: v for k, v in self.rows[-1].items() if k != "cells"}) + "\n")
            lines.flush()
            os.fsync(lines.fileno())


def _asked(sample: Mapping[str, Any]) -> str:
    text = json.dumps([str(sample["question"]), str(sample.get("image_id", ""))])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _check(row: Mapping[str, Any], depth: int) -> None:
    cells, own, count = row["cells"], row["own"], len(row["own"])
    if cells.shape != (count, depth, 64) or cells.dtype != np.float32 or not np.isfinite(cells).all():
        raise ValueError(f"its maps are {cells.dtype} of {cells.shape}, or not finite")
    if not all(isinstance(x, _NUMBERS) and np.isfinite(x) for x in [*own, row["doubt"]]) or not 0 <= row["doubt"] <= 1:
        raise ValueError("its scores are no finite numbers")
    if not isinstance(row["changed"], bool) or not isinstance(row["picture"], str) or not isinstance(row["by"], str):
        raise ValueError("it is no answer of a calibration")
    for patch, needed in row["needed"].items():
        if not patch.isdecimal() or int(patch) >= count or not isinstance(needed, bool):
            raise ValueError(f"it says {needed!r} of patch {patch!r}")
