"""What the page says of answers: short HTML, every foreign word escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from arr_coc.reference.questions import location
from eval.reporting.summary import STAGES

from .gallery import Asking
from .host import Shown


def answer_card(shown: Shown, truth: Asking | None = None, before: Shown | None = None) -> str:
    """Answer, tokens and time, and which budgets moved since another question on the same picture."""
    allocation = shown.allocation
    verdict = ""
    if truth is not None:
        right = shown.answer == truth.answer
        verdict = (
            '<span class="right">✓ right</span>' if right
            else f'<span class="wrong">✗ it says {escape(truth.answer)}</span>'
        )  # fmt: skip
    share = allocation.tokens / allocation.full_tokens
    moved = moves(before, shown)
    moved = f'<p class="moved">{escape(moved)}</p>' if moved else ""
    return (
        f'<div class="card"><p class="asked">{escape(shown.question)}</p>'
        f'<p class="answer">{escape(shown.answer or "(no answer)")} {verdict}</p>'
        f'<div class="bar" role="img" aria-label="{100 * share:.0f} % of full detail">'
        f'<i style="width:{100 * share:.1f}%"></i></div>'
        f"<p><b>{allocation.tokens:,}</b> of {allocation.full_tokens:,} visual tokens "
        f"(<b>{100 * share:.0f} %</b> of full detail), {1000 * shown.seconds:,.0f} ms</p>{moved}"
        f'<p class="times">{escape(stages(shown))}</p></div>'
    )


def moves(before: Shown | None, now: Shown) -> str:
    """How the budgets changed between two questions on one picture; empty if they can't be compared."""
    if before is None or before.image.tobytes() != now.image.tobytes() or before.boxes != now.boxes:
        return ""
    old, new = before.allocation.budgets, now.allocation.budgets
    changed = [f"{place(now, i)} {a} → {b}" for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if not changed:
        return "Same budgets as for your last question."
    more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
    return "The budgets moved: " + ", ".join(changed[:6]) + more + "."


def place(shown: Shown, patch: int) -> str:
    """The words for where a patch lies."""
    rows = sorted({box[1] for box in shown.boxes})
    columns = sorted({box[0] for box in shown.boxes})
    row, column = rows.index(shown.boxes[patch][1]), columns.index(shown.boxes[patch][0])
    if len(rows) <= 3 and len(columns) <= 3:
        return " ".join(location((len(rows), len(columns)), row * len(columns) + column))
    return f"row {row + 1} column {column + 1}"


def stages(shown: Shown) -> str:
    """Milliseconds by stage."""
    timings = shown.allocation.timings.items()
    return "milliseconds: " + ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in timings)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain HTML table; cells are text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


COMPARED = ("policy", "answer", "tokens", "share of full", "ms in all", *STAGES)


def compared(answers: Sequence[Shown]) -> str:
    """A table of several answers to one question."""
    rows = []
    for shown in answers:
        allocation = shown.allocation
        columns = [sum(allocation.timings.get(stage, 0.0) for stage in behind) for behind in STAGES.values()]
        rows.append(
            [
                shown.settings.policy, shown.answer or "(no answer)", f"{allocation.tokens:,}",
                f"{100 * allocation.tokens / allocation.full_tokens:.0f} %", f"{1000 * shown.seconds:,.0f}",
                *(f"{1000 * seconds:,.0f}" for seconds in columns),
            ]
        )  # fmt: skip
    return table(COMPARED, rows)


def sources(shown: Shown) -> str:
    """A table of what the policy went by, patch by patch: scores, and the detail that the smallest budget destroys."""
    header = ["patch", *shown.allocation.scores, f"lost at {shown.explanation.budgets[0]}", "budget"]
    rows = []
    for i, report in enumerate(shown.explanation.patches):
        detail = f"{100 * report.detail[0]:.0f} %" if report.detail else "–"
        rows.append([place(shown, i), *(f"{v:.2f}" for v in report.scores.values()), detail, str(report.budget)])
    return table(header, rows)


MEANINGS = {
    "price": "reward that a full-detail image costs",
    "fineness": "how much the words ask for detail",
    "flatness": "0: the look rests on one patch; 1: on all alike",
    "disagreement": "0: the scorers rank alike; 1: opposed",
    "compress": "− particularise … + compress",
    "explore": "− exploit … + explore (acts while learning)",
    "diversify": "− focus … + diversify",
    "price_factor": "what compress ↔ particularise makes of the price",
    "coverage": "largest bonus or charge that focus ↔ diversify lays on a patch",
}
"""Signals of the record that the page shows, in words."""


def tensions(shown: Shown) -> str:
    """A table of what balancing read and set."""
    found = shown.allocation.tension
    rows = [[key.replace("_", " "), f"{found[key]:.3f}", words] for key, words in MEANINGS.items() if key in found]
    return table(("signal", "value", "meaning"), rows)


def saving(one: Shown, other: Shown, full: Shown) -> str:
    """What two policies spent against full detail, in two sentences."""
    lines = []
    for shown in (one, other):
        share = shown.allocation.tokens / full.allocation.tokens
        same = "the same answer as" if shown.answer == full.answer else "another answer than"
        lines.append(
            f"<p><b>{escape(shown.settings.policy)}</b> says <b>{escape(shown.answer or '(no answer)')}</b>: {same} "
            f"full detail ({escape(full.answer or '(no answer)')}), for {100 * share:.0f} % of its tokens.</p>"
        )
    return f'<div class="card">{"".join(lines)}</div>'
