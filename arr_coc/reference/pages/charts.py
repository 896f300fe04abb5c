"""Bar and line charts as matplotlib draws them, set into a page; the renderer says where each text stands."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

from .blocks import VALUE_LEVELS, Face, Fact, fact
from .canvas import COLOR_ID, Box, Canvas, Span, tone
from .lexicon import CHARACTER_ID, CITIES, DAYS, MONTHS, NUMBER_ID, TEAMS, WORD_ID

DOTS = 72
"""Dots per inch of the figure: one point is one pixel."""


def chart(rng: random.Random, canvas: Canvas, box: Box, taken: set[str]) -> list[Fact]:
    """Upright bars of one colour, or a line with marks: names below, and the number at each."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    left, top, right, bottom = (int(v) for v in box)
    width, height = right - left, bottom - top
    words = [w for w in rng.choice((MONTHS, TEAMS, CITIES, DAYS)) if w not in taken]
    label, value = Face(rng, canvas, {128: 0.4, 256: 0.3, 400: 0.3}), Face(rng, canvas, VALUE_LEVELS)
    room = width - 12
    chosen = rng.sample(words, rng.randint(2, min(len(words), 4 if width < 200 else 7)))
    label.fit(canvas, max(chosen, key=len), room / len(chosen) - 4)
    value.fit(canvas, "000", room / len(chosen) - 4)
    while len(chosen) > 2 and canvas.width(max(chosen, key=len), label.name, label.size) > room / len(chosen) - 4:
        chosen.pop()
    taken.update(chosen)
    ground, color = rng.choice(("white", "white", "yellow", "grey")), rng.choice(("red", "green", "blue", "purple"))
    numbers = rng.sample(range(10, 1000 if rng.random() < 0.5 else 100), len(chosen))
    shade, paper = ([v / 255 for v in tone(rng, c)] for c in (color, ground))
    figure = Figure(figsize=(width / DOTS, height / DOTS), dpi=DOTS, facecolor=paper)
    agg = FigureCanvasAgg(figure)
    lower, upper = (label.size + 8) / height, (height - value.size - 8) / height
    axes = figure.add_axes((6 / width, lower, room / width, upper - lower), facecolor=paper)
    places = range(len(chosen))
    if rng.random() < 0.6:
        axes.bar(places, numbers, width=rng.uniform(0.4, 0.8), color=shade)
    else:
        axes.plot(places, numbers, color=shade, marker=rng.choice("os^"), linewidth=rng.uniform(1, 2.5))
    if rng.random() < 0.4:
        axes.grid(axis="y", alpha=0.4)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(rng.random() < 0.3)
    axes.set(xlim=(-0.5, len(chosen) - 0.5), ylim=(0, 1.02 * max(numbers)), xticks=[], yticks=[])
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    texts = []
    for place, word, n in zip(places, chosen, numbers, strict=True):
        for text, face, y, coordinates, align in (
            (str(n), value, n, axes.transData, "bottom"),
            (word, label, -3 / (height * (upper - lower)), axes.get_xaxis_transform(), "top"),
        ):
            font = FontProperties(fname=str(folder / face.name), size=face.size)
            lift = 2 if align == "bottom" else 0
            set_text = axes.annotate(
                text, (place, y), (0, lift), xycoords=coordinates, textcoords="offset points", ha="center", va=align,
                fontproperties=font, annotation_clip=False, color="black",
            )  # fmt: skip
            texts.append((set_text, text, face))
    agg.draw()
    canvas.image.paste(Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3]), (left, top))
    spans = []
    for set_text, text, face in texts:
        x0, y0, x1, y1 = set_text.get_window_extent(agg.get_renderer()).extents
        spans.append(note(canvas, text, (left + x0, top + height - y1, left + x1, top + height - y0), face, ground))
    facts = [
        fact("field", [word], str(n), [spans[2 * i], spans[2 * i + 1]])
        for i, (word, n) in enumerate(zip(chosen, numbers, strict=True))
    ]
    most = chosen[numbers.index(max(numbers))]
    facts.append({"kind": "most", "about": [], "answer": most, "boxes": [[left, top, right, bottom]],
                  "level": label.level})  # fmt: skip
    return facts


def note(canvas: Canvas, text: str, box: Box, face: Face, ground: str) -> Span:
    """Record print that something else has set: its span, and its glyphs at their shares of the width."""
    left, top, right, bottom = (float(round(v)) for v in box)
    scale = (right - left) / canvas.width(text, face.name, face.size)
    x = left
    for c in text:
        end = x + scale * canvas.width(c, face.name, face.size)
        word = WORD_ID.get(text, NUMBER_ID)
        canvas.glyphs.append((x, top, end, bottom, CHARACTER_ID[c], word, COLOR_ID["black"], COLOR_ID[ground],
                              face.size))  # fmt: skip
        x = end
    span = Span(text, (left, top, right, bottom), face.level, "black", ground)
    canvas.spans.append(span)
    return span
