"""The patch map: a picture with its budgets as one piece of HTML, to hover, click and step through with the keyboard.

No script and nothing fetched: the picture travels inside, and CSS alone shows the patch under the pointer, or else the
chosen one. It works in a mailed report as well as in the demo.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
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

STYLE = """
.arr-map { --line: color-mix(in srgb, currentColor 18%, transparent); display: grid; gap: 1rem; font: 15px/1.45
  system-ui, sans-serif; grid-template-columns: minmax(0, 5fr) minmax(16rem, 4fr); align-items: start }
.arr-map * { box-sizing: border-box }
.arr-map .arr-picture { position: relative; border-radius: 6px; overflow: hidden; line-height: 0 }
.arr-map img { width: 100%; display: block; margin: 0 }
.arr-map img.arr-seen { position: absolute; inset: 0; height: 100%; image-rendering: pixelated; visibility: hidden }
.arr-map:has(.arr-see:checked) img.arr-seen { visibility: visible }
.arr-map svg { position: absolute; inset: 0; width: 100%; height: 100% }
.arr-map .arr-patch { position: absolute; cursor: pointer; margin: 0 }
.arr-map .arr-patch input { position: absolute; opacity: 0; inset: 0; width: 100%; height: 100%; margin: 0;
  cursor: pointer }
.arr-map .arr-tag { position: absolute; left: 5px; top: 5px; padding: 2px 6px; border-radius: 4px; line-height: 1.3;
  font-weight: 600; font-size: 14px; pointer-events: none }
.arr-map .arr-patch:hover::after, .arr-map .arr-patch:has(input:checked)::after { content: ""; position: absolute;
  inset: 3px; border: 2px dashed #fff; outline: 1px solid #0008; border-radius: 3px; pointer-events: none }
.arr-map .arr-patch:has(input:focus-visible)::after { border-style: solid; outline: 3px solid #000 }
.arr-map .arr-legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin-top: .5rem; font-size: 14px }
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
.arr-map .arr-context { columns: 3 7rem; font-size: 12.5px; margin: .3rem 0; padding: 0; list-style: none }
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
    width: int = 900,
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
    width
        The picture is embedded at most so wide, in pixels.

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
            f'<label><input type="checkbox" class="arr-l{level}" checked aria-label="show the mask of {level} tokens">'
            f'<i style="background:{_css(color)}"></i>{level} tokens × {len(members)}</label>'
        )
        faint = 0.42 - 0.3 * rank / max(1, len(colors) - 1)  # what gets little detail is veiled most
        rectangles = "".join(_rectangle(boxes[i], 2 + 2 * rank) for i in members)
        masks.append(
            f'<g class="arr-mask arr-m{level}" fill="{_css(color)}" fill-opacity="{faint:.2f}" '
            f'stroke="{_css(color)}">{rectangles}</g>'
        )
    picture = f'<img src="{_data(image, width)}" alt="the picture">'
    if seen is not None:
        picture += f'<img class="arr-seen" src="{_data(seen, width)}" alt="what the model saw">'
        legend.append('<label><input type="checkbox" class="arr-see">show what the model saw</label>')
    return (
        f'<div class="arr-map" id="{name}"><style>{STYLE}{"".join(rules)}</style><div>'
        f'<div class="arr-picture" role="radiogroup" aria-label="patches">{picture}'
        f'<svg viewBox="0 0 {image.width} {image.height}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(masks)}</svg>{''.join(patches)}</div>"
        f'<div class="arr-legend">{"".join(legend)}</div></div><div>{"".join(details)}</div></div>'
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
        entries = "".join(f"<li><span>{escape(k)}</span><span>{v:+.2f}</span></li>" for k, v in report.context.items())
        parts.append(f'<details><summary>context vector</summary><ul class="arr-context">{entries}</ul></details>')
    return "".join(parts)


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


def _rectangle(box: Box, line: int) -> str:
    left, top, right, bottom = box
    return (
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" stroke-width="{line}" '
        'vector-effect="non-scaling-stroke"/>'
    )


def _data(image: Image.Image, width: int) -> str:
    """The picture as a data address."""
    picture = image.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, max(1, round(picture.height * width / picture.width))))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
