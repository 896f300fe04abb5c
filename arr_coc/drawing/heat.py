"""Scores over the image, as a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .boxes import Box
from .style import contrast, font, shade


def draw_heat(
    image: Image.Image,
    boxes: Sequence[Box],
    cells: Sequence[np.ndarray],
    *,
    labels: Sequence[str] = (),
    top: float | None = None,
    width: int = 480,
) -> Image.Image:
    """Values over an image: bright where they are high, the picture grey below.

    Parameters
    ----------
    image
        The picture.
    boxes
        N pixel boxes.
    cells
        Per box ``[rows, columns]`` values >= 0; a single number is a ``[1, 1]`` array.
    labels
        N short texts, one in the corner of each box.
    top
        The value that is drawn brightest; by default the highest.
    width
        Of the result, in pixels.

    Raises
    ------
    ValueError
        If there is not one array per box.
    """
    if len(boxes) != len(cells):
        raise ValueError(f"{len(boxes)} boxes for {len(cells)} arrays of cells; give one per patch")
    scale = width / image.width
    size = (width, max(1, round(image.height * scale)))
    heat = np.zeros((size[1], size[0]))
    for (left, upper, right, lower), values in zip(boxes, cells, strict=True):
        x, y, end, bottom = (round(side * scale) for side in (left, upper, right, lower))
        if end > x and bottom > y:
            # nearest keeps the cells apart, which is what the model has
            grid = Image.fromarray(np.asarray(values, dtype=np.float32))
            heat[y:bottom, x:end] = np.asarray(grid.resize((end - x, bottom - y), Image.Resampling.NEAREST))
    top = max(float(heat.max()) if top is None else top, 1e-12)
    places = np.clip(heat / top, 0, 1)
    table = np.array([shade(i / 255) for i in range(256)], dtype=np.uint8)
    colors = Image.fromarray(table[(places * 255).astype(np.uint8)])
    grey = image.convert("L").resize(size, Image.Resampling.BICUBIC).convert("RGB")
    canvas = Image.blend(grey, colors, 0.62)
    draw = ImageDraw.Draw(canvas)
    for i, box in enumerate(boxes):
        x, y, end, bottom = (round(side * scale) for side in box)
        draw.rectangle((x, y, end - 1, bottom - 1), outline=(255, 255, 255), width=1)
        if labels:
            face = font(max(11, min(width // 26, (end - x) // 5)))
            behind = shade(float(places[min(y + 8, size[1] - 1), min(x + 8, width - 1)]))
            draw.text((x + 6, y + 4), labels[i], font=face, fill=contrast(behind))
    return canvas
