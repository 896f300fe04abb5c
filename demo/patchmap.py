"""The patch map: a picture with its budgets as one piece of HTML, to hover, click and step through with the keyboard.

No script and nothing fetched: the picture travels inside, and CSS alone shows the patch under the pointer, or else the
chosen one. It works in a mailed report as well as in the demo.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from arr_coc.drawing.boxes import Box
from arr_coc.drawing.style import contrast, palette

if TYPE_CHECKING:
    from .explain import Explanation, PatchReport

SCORE_WORDS = {
    "propositional": "information in it",
    "perspectival": "stands out",
    "participatory": "asked for",
}
"""What a scorer's number says, for people who have not read the paper."""

FACTORS = {
    "relevance_doubt": "asked for, and the glance in doubt",
    "doubt": "doubt about the answer",
    "other_mass": "chance of another answer",
    **SCORE_WORDS,
}
"""What the factors of a slot of the context vector say; `said_context` adds those that carry a number."""
WORDING = "wording of the question"

STYLE = """
.arr-map { --line: color-mix(in srgb, currentColor 18%, transparent); display: grid; gap: 1rem; font: 15px/1.45
  system-ui, sans-serif; grid-template-columns: minmax(0, 5fr) minmax(16rem, 4fr); align-items: start }
.arr-map * { box-sizing: border-box }
.arr-map.arr-wide { grid-template-columns: minmax(0, 1fr) }
.arr-map .arr-view { overflow: auto; max-height: 660px; border-radius: 6px }
.arr-map .arr-picture { position: relative; overflow: hidden; line-height: 0 }
.arr-map img { width: 100%; height: 100%; display: block; margin: 0; max-width: none }
.arr-map img.arr-seen { position: absolute; inset: 0; height: 100%; image-rendering: pixelated; visibility: hidden }
.arr-map:has(.arr-see:checked) img.arr-seen { visibility: visible }
.arr-map svg { position: absolute; inset: 0; width: 100%; height: 100% }
.arr-map .arr-patch { position: absolute; cursor: pointer; margin: 0; container-type: size }
.arr-map .arr-patch input { position: absolute; opacity: 0; inset: 0; width: 100%; height: 100%; margin: 0;
  cursor: pointer }
.arr-map .arr-tag { position: absolute; left: 5px; top: 5px; padding: 2px 6px; border-radius: 4px; line-height: 1.3;
  font-weight: 600; font-size: 14px; pointer-events: none; box-shadow: 0 0 0 1.5px #fff }
@container (max-width: 54px) or (max-height: 40px) { .arr-map .arr-tag { font-size: 10.5px; padding: 0 3px; left: 3px;
  top: 3px } }
.arr-map .arr-patch:hover::after, .arr-map .arr-patch:has(input:checked)::after { content: ""; position: absolute;
  inset: 3px; border: 2px dashed #fff; outline: 1px solid #0008; border-radius: 3px; pointer-events: none }
.arr-map .arr-patch:has(input:focus-visible)::after { border-style: solid; outline: 3px solid #000 }
.arr-map .arr-legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin-top: .5rem; font-size: 14px }
.arr-map .arr-cue { font-size: 13px; opacity: .75; margin: .3rem 0 0 }
.arr-map .arr-legend label { display: inline-flex; align-items: center; gap: .35rem; cursor: pointer }
.arr-map .arr-legend i { width: 1em; height: 1em; border-radius: 3px; display: inline-block }
.arr-map .arr-legend input { all: revert; margin: 0; width: 1em; height: 1em }
.arr-map .arr-detail { display: none }
.arr-map .arr-detail h4 { margin: 0 0 .2rem; font-size: 16px }
.arr-map .arr-detail p { margin: .2rem 0 .5rem }
.arr-map .arr-scroll { overflow-x: auto }
.arr-map table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums }
.arr-map th, .arr-map td { text-align: right; padding: .2rem .35rem; border: 0; border-bottom: 1px solid var(--line);
  font-weight: 400 }
.arr-map th { opacity: .75 }
.arr-map th:first-child, .arr-map td:first-child { text-align: left }
.arr-map tr.arr-chosen td { font-weight: 700 }
.arr-map meter { width: 100%; height: .8em }
.arr-map .arr-scores { display: grid; grid-template-columns: auto 1fr auto; gap: .1rem .6rem; align-items: center;
  margin: .6rem 0; font-size: 14px }
.arr-map summary { cursor: pointer; font-size: 14px; margin-top: .4rem }
.arr-map .arr-context { font-size: 13px; margin: .3rem 0; padding: 0; list-style: none }
.arr-map .arr-context li { display: flex; justify-content: space-between; gap: .4rem; margin: 0; padding: 0 }
@media (max-width: 760px) { .arr-map { grid-template-columns: minmax(0, 1fr) }
  .arr-map th, .arr-map td { padding: .2rem .25rem } }
"""


def patch_map(
    image: Image.Image,
    boxes: Sequence[Box],
    explanation: Explanation,
    name: str,
    *,
    seen: Image.Image | None = None,
    side: int = 1000,
) -> str:
    """The map of one answered question.

    One mask per budget level, which its box in the legend switches; one choice per patch, whose report stands beside
    the picture.

    Parameters
    ----------
    image
        The picture.
    boxes
        N pixel boxes.
    explanation
        What `demo.explain.explain` says of the N patches.
    name
        Tells this map from others on the page: letters, digits and dashes.
    seen
        What the model saw, of the picture's size; a switch then shows it.
    side
        The picture is embedded at most so large, in pixels along the side of a square of its area.

    Returns
    -------
    str
        One HTML element with its style.

    Raises
    ------
    ValueError
        If there is not one box per patch.
    """
    reports = explanation.patches
    if len(boxes) != len(reports):
        raise ValueError(f"{len(boxes)} boxes for {len(reports)} patches; give one per patch")
    colors = palette(explanation.budgets)
    shown = max(range(len(reports)), key=lambda i: reports[i].realised)
    rules, patches, details = [], [], []
    rows = sorted({box[1] for box in boxes})
    columns = sorted({box[0] for box in boxes})
    for i, (box, report) in enumerate(zip(boxes, reports, strict=True)):
        place = f"row {rows.index(box[1]) + 1}, column {columns.index(box[0]) + 1}"
        color = colors[report.budget]
        patches.append(
            f'<label class="arr-patch arr-p{i}" style="{_place(box, image.size)}">'
            f'<input type="radio" name="{name}" aria-label="patch in {place}: {report.realised} tokens"'
            f"{' checked' if i == shown else ''}>"
            f'<span class="arr-tag" style="background:{_css(color)};color:{_css(contrast(color))}">'
            f"{report.realised}</span></label>"
        )
        details.append(f'<section class="arr-detail arr-d{i}">{_detail(report, explanation, place)}</section>')
        rules.append(
            f"#{name}:has(.arr-p{i} input:checked):not(:has(.arr-patch:hover)) .arr-d{i},"
            f"#{name}:has(.arr-p{i}:hover) .arr-d{i}{{display:block}}"
        )
    masks, legend = [], []
    for rank, (level, color) in enumerate(colors.items()):
        members = [i for i, report in enumerate(reports) if report.budget == level]
        rules.append(f"#{name}:has(.arr-l{level}:not(:checked)) .arr-m{level}{{display:none}}")
        legend.append(
            f'<label><input type="checkbox" class="arr-l{level}" checked aria-label="frames of {level} tokens">'
            f'<i style="background:{_css(color)}"></i>{level} tokens × {len(members)}</label>'
        )
        rectangles = "".join(_frame(boxes[i], 2 + 2 * rank) for i in members)
        masks.append(f'<g class="arr-mask arr-m{level}" stroke="{_css(color)}">{rectangles}</g>')
    picture = f'<img src="{_data(image, side)}" alt="the picture">'
    if seen is not None:
        picture += f'<img class="arr-seen" src="{_data(seen, side)}" alt="what the model saw">'
        legend.append('<label><input type="checkbox" class="arr-see">show what the model saw</label>')
    frames = (
        f'<svg viewBox="0 0 {image.width} {image.height}" preserveAspectRatio="none" fill="none" aria-hidden="true">'
        f"{''.join(masks)}</svg>{''.join(patches)}"
    )
    return (
        f"{_opening(image.size, name)}<style>{STYLE}{''.join(rules)}</style><div>"
        f"{_view(image.size, picture + frames)}"
        f'<div class="arr-legend">{"".join(legend)}</div></div><div>{"".join(details)}</div></div>'
    )


def plain_map(image: Image.Image, name: str, side: int = 1000) -> str:
    """A picture without budgets yet, as large as its map will be; parameters as of `patch_map`."""
    picture = f'<img src="{_data(image, side)}" alt="the picture">'
    view = _view(image.size, picture)
    return f"{_opening(image.size, name)}<style>{STYLE}</style><div>{view}</div><div></div></div>"


TALLEST, NARROWEST, STRIP = 640, 96, 40.0
"""Pixels of a map: a picture is drawn no taller than the first and no narrower than the second, so that a strip of a
picture is scrolled; beyond the third, the ratio of its sides, it is drawn squeezed."""
WIDE = 2.2
"""Ratio of width to height from which on the report stands below the picture."""


def _opening(size: tuple[int, int], name: str) -> str:
    wide = " arr-wide" if size[0] > WIDE * size[1] else ""
    return f'<div class="arr-map{wide}" id="{name}">'


def _view(size: tuple[int, int], inside: str) -> str:
    """The picture in a window that it fits, or in which it scrolls."""
    ratio = min(max(size[0] / size[1], 1 / STRIP), STRIP)
    least = round(NARROWEST * max(1.0, ratio))
    style = f"aspect-ratio:{ratio:.4f};width:max({least}px,min({round(TALLEST * ratio)}px,100%))"
    cue = "" if 1 / 5 < ratio < 5 else '<p class="arr-cue">A long strip: scroll the picture to see all of it.</p>'
    return (
        f'<div class="arr-view" tabindex="-1"><div class="arr-picture" role="radiogroup" aria-label="patches" '
        f'style="{style}">{inside}</div></div>{cue}'
    )


def _detail(report: PatchReport, explanation: Explanation, place: str) -> str:
    """Everything about one patch."""
    full = report.costs[-1]
    parts = [
        f"<h4>Patch in {place}: {report.realised} of {full} tokens</h4>",
        f"<p>{_choice(report, explanation)}</p>",
        _budget_table(report, explanation.budgets),
    ]
    if report.scores:
        lines = "".join(
            f"<span>{escape(SCORE_WORDS.get(name, name))} <small>({escape(name)})</small></span>"
            f'<meter min="0" max="1" value="{value:.3f}"></meter><span>{value:.2f}</span>'
            for name, value in report.scores.items()
        )
        parts.append(f'<div class="arr-scores">{lines}</div>')
    if report.context:
        told = said_context(report.context).items()
        entries = "".join(f"<li><span>{escape(k)}</span><span>{v}</span></li>" for k, v in told)
        parts.append(
            f"<details><summary>what the policy read of it</summary>"
            f'<p>Each number was multiplied by the first.</p><ul class="arr-context">{entries}</ul></details>'
        )
    return "".join(parts)


def said_context(context: Mapping[str, float]) -> dict[str, str]:
    """A context vector in words: each slot is a product of factors, and the projections of the question are one line.

    Parameters
    ----------
    context
        Values by the names of :attr:`arr_coc.attending.Contexts.slots`.
    """
    said: dict[str, list[float]] = {}
    for slot, value in context.items():
        first, *others = (_factor(name) for name in slot.split())
        said.setdefault(" × ".join(others) or first, []).append(value)
    return {words: " ".join(f"{value:+.2f}" for value in values) for words, values in said.items()}


def _factor(name: str) -> str:
    if name in FACTORS:
        return FACTORS[name]
    if name.startswith("loss_"):
        return f"detail lost at {name.removeprefix('loss_')}"
    if name[:1] == "q" and name[1:].isdigit():
        return WORDING
    return name.replace("_", " ")


def _choice(report: PatchReport, explanation: Explanation) -> str:
    """The choice and its runner-up in one sentence."""
    if not report.values:
        return "This policy looks at nothing: it values no budget above another."
    if report.runner_up is None or report.margin is None:
        return f"{report.budget} was the only choice."
    if report.margin < 0:
        return (
            f"{report.runner_up} would be worth {-report.margin:.3f} more than {report.budget}, but the limit on all "
            "tokens forbids it."
        )
    return f"Chosen: {report.budget}. Runner-up: {report.runner_up}, worth {report.margin:.3f} less."


def _budget_table(report: PatchReport, budgets: Sequence[int]) -> str:
    header = ["budget", "tokens"]
    header += ["detail lost"] if report.detail else []
    header += ["expected gain", "after price"] if report.values else []
    lines = []
    for k, budget in enumerate(budgets):
        cells = [str(budget), str(report.costs[k])]
        if report.detail:
            cells.append(f"{100 * report.detail[k]:.0f} %")
        if report.values:
            cells += [_number(report.gains[k]), _number(report.values[k])]
        chosen = ' class="arr-chosen"' if budget == report.budget else ""
        lines.append(f"<tr{chosen}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{cell}</th>" for cell in header)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="arr-scroll">{table}</div>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _css(color: tuple[int, int, int]) -> str:
    return "#" + bytes(color).hex()


def _place(box: Box, size: tuple[int, int]) -> str:
    left, top, right, bottom = box
    return (
        f"left:{100 * left / size[0]:.3f}%;top:{100 * top / size[1]:.3f}%;"
        f"width:{100 * (right - left) / size[0]:.3f}%;height:{100 * (bottom - top) / size[1]:.3f}%"
    )


def _frame(box: Box, line: int) -> str:
    """The frame of a patch; half of its line lies inside."""
    left, top, right, bottom = box
    return (
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" stroke-width="{line}" '
        'vector-effect="non-scaling-stroke"/>'
    )


def _data(image: Image.Image, side: int) -> str:
    """The picture as a data address."""
    picture = image.convert("RGB")
    scale = side / (picture.width * picture.height) ** 0.5
    if scale < 1:
        picture = picture.resize([max(1, round(length * scale)) for length in picture.size])
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
