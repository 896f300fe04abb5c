"""Pictures drawn once and read many times: a folder of arrays that the trainer maps into memory.

``pixels.npy`` ``[N, H, W, 3]`` uint8, ``glyphs.npy`` ``[G, 9]`` float32 with ``starts.npy`` ``[N + 1]``, and
``facts.jsonl`` with what a page says, one line a picture.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...pages.canvas import PATCH


@dataclass(frozen=True)
class Pool:
    """``N`` pictures of one size with the glyphs and facts of each."""

    pixels: np.ndarray
    glyphs: np.ndarray
    starts: np.ndarray
    facts: list[Any]

    def __len__(self) -> int:
        return len(self.pixels)

    def glyphs_of(self, i: int) -> np.ndarray:
        """``[g, 9]``, the glyphs of picture ``i``."""
        return self.glyphs[self.starts[i] : self.starts[i + 1]]


def draw_pool(folder: Path, n: int, grid: tuple[int, int], draw: Callable[[random.Random], tuple[Any, Any]],
              name: str) -> None:  # fmt: skip
    """Draw ``n`` pictures of ``grid`` patches into ``folder``; picture ``i`` depends on (name, i) alone."""
    if (folder / "facts.jsonl").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shape = (n, grid[0] * PATCH, grid[1] * PATCH, 3)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, shape)
    glyphs, starts, facts = [], [0], list[str]()
    for i in tqdm(range(n), desc=f"drawing {folder.name}", mininterval=5):
        canvas, fact = draw(random.Random(f"{name}/{i}"))
        pixels[i] = canvas.pixels()
        glyphs.append(np.asarray(canvas.glyphs, dtype=np.float32).reshape(-1, 9))
        starts.append(starts[-1] + len(canvas.glyphs))
        facts.append(json.dumps(fact))
    pixels.flush()
    np.save(folder / "glyphs.npy", np.concatenate(glyphs))
    np.save(folder / "starts.npy", np.asarray(starts))
    (folder / "writing").write_text("\n".join(facts) + "\n", encoding="utf-8")
    (folder / "writing").rename(folder / "facts.jsonl")


def open_pool(folder: Path) -> Pool:
    """A folder that ``draw_pool`` finished."""
    facts = [json.loads(line) for line in (folder / "facts.jsonl").read_text(encoding="utf-8").splitlines()]
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    return Pool(pixels, np.load(folder / "glyphs.npy"), np.load(folder / "starts.npy"), facts)


def distort(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Bolder strokes, noise, uneven light and contrast on ``[n, H, W, 3]`` pictures in [0, 1], float32."""
    n, h, w, _ = pixels.shape
    pixels = np.stack([bolder(rng, picture) for picture in pixels])
    gain = rng.uniform(0.8, 1.1, (n, 1, 1, 1)).astype(np.float32)
    slope = rng.uniform(-0.15, 0.15, (n, 2, 1, 1, 1)).astype(np.float32)
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32)[None, :, None, None]
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None, None, :, None]
    out = pixels * (gain + slope[:, 0] * y + slope[:, 1] * x)
    strength = rng.uniform(0, 0.04, (n, 1, 1, 1)).astype(np.float32)
    out = out + strength * rng.standard_normal(out.shape, dtype=np.float32)
    return np.clip(out, 0, 1)


def bolder(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """In half of the cases a picture ``[H, W, 3]`` whose dark or light strokes grow by up to a pixel to the right."""
    u = rng.random()
    if u >= 0.5:
        return picture
    before = np.concatenate([picture[:, :1], picture[:, :-1]], 1)
    thick = np.minimum(picture, before) if u < 0.35 else np.maximum(picture, before)
    amount = np.float32(rng.uniform(0.2, 1))
    return (1 - amount) * picture + amount * thick
