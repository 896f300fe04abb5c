"""What the page says of answers: short HTML, every foreign word escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from arr_coc.learning.rewards import normalize_answer
from arr_coc.reference.questions import location
from eval.reporting.summary import STAGES

from .gallery import Asking
from .host import Answered
from .patchmap import SCORE_WORDS

WAITING = '<p class="saved waiting" aria-live="polite">Measuring full detail beside it …</p>'
PERFECT = 0.999
"""Scores from here on are called right."""


def answer_card(
    answered: Answered,
    truth: Asking | None = None,
    before: Answered | None = None,
    full: Answered | None = None,
    address: str = "",
) -> str:
    """Answer, and beside it full detail: tokens and time of both, what was saved, which budgets moved.

    Parameters
    ----------
    answered
        The answer at the chosen budgets.
    truth
        What is known of the question.
    before
        The answer that was shown before, for what moved since.
    full
        The same question at full detail; ``None`` while that is being measured.
    address
        The query that shows this answer again.
    """
    allocation = answered.allocation
    beside = "" if full is None else (
        f'<span class="beside">full detail: <b>{said(full)}</b> {verdict(full, truth)}</span>'
    )  # fmt: skip
    moved = moves(before, answered)
    moved = f'<p class="moved">{escape(moved)}</p>' if moved else ""
    tokens = _bars(
        "visual tokens",
        (answered.settings.policy, allocation.tokens, f"{allocation.tokens:,}"),
        ("full detail", allocation.full_tokens, f"{allocation.full_tokens:,}"),
    )
    time = _bars(
        "time",
        (answered.settings.policy, answered.seconds, _milliseconds(answered.seconds)),
        ("full detail", None if full is None else full.seconds, "…" if full is None else _milliseconds(full.seconds)),
    )
    saved = WAITING if full is None else f'<p class="saved" aria-live="polite">{escape(saving(answered, full))}</p>'
    return (
        f'<div class="card" data-address="{escape(address)}"><p class="asked">{escape(answered.question)}</p>'
        f'<p class="answer">{said(answered)} {verdict(answered, truth, told=True)}{beside}</p>'
        f'<div class="pair">{tokens}{time}</div>{saved}{moved}'
        f'<p class="times">{escape(stages(answered))}</p></div>'
    )


def verdict(answered: Answered, truth: Asking | None, told: bool = False) -> str:
    """Right, wrong or in between, as the metric of the question has it; empty where nobody knows the answer.

    Parameters
    ----------
    answered, truth
        Answer, and what is known of the question.
    told
        Whether to add what the right answer is.
    """
    if truth is None:
        return ""
    score, metric = truth.score(answered.answer), truth.metric.replace("_", " ")
    if score >= PERFECT:
        return f'<span class="right" title="by {metric}">✓ right</span>'
    says = f" it says {escape(truth.answer)}" if told else ""
    if score > 0:
        return f'<span class="wrong" title="by {metric}">≈ {score:.2f} by {metric};{says}</span>'
    return f'<span class="wrong" title="by {metric}">✗{says or " wrong"}</span>'


def saving(answered: Answered, full: Answered) -> str:
    """What the budgets saved against full detail, in one sentence; a loss is told as plainly."""
    same = normalize_answer(answered.answer) == normalize_answer(full.answer)
    opening = "The same answer as full detail" if same else "Another answer than full detail's"
    tokens, most = answered.allocation.tokens, full.allocation.tokens
    if tokens >= most:
        return f"{opening}, and all of its {most:,} tokens: nothing was saved."
    spared = full.seconds - answered.seconds
    line = f"{opening} for {100 * tokens / most:.0f} % of its tokens"
    if spared > 0:
        line += f" and {100 * answered.seconds / full.seconds:.0f} % of its time"
        return f"{line}: {most - tokens:,} tokens and {_milliseconds(spared)} saved."
    return (
        f"{line}: {most - tokens:,} tokens saved, but it took {_milliseconds(-spared)} longer this time, looking "
        "first included."
    )


def said(answered: Answered) -> str:
    """The answer, escaped."""
    return escape(answered.answer or "(no answer)")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds < 5 else f"{seconds:,.1f} s"


def _bars(title: str, own: tuple[str, float, str], full: tuple[str, float | None, str]) -> str:
    """Two bars to one scale, each with its figure."""
    most = max(own[1], full[1] or 0.0, 1e-9)
    lines = "".join(
        f'<span>{escape(name)}</span><div class="bar {kind}" role="img" aria-label="{escape(name)}: {figure}">'
        f'<i style="width:{100 * (value or 0.0) / most:.1f}%"></i></div><b>{figure}</b>'
        for kind, (name, value, figure) in (("own", own), ("all", full))
    )
    return f'<div class="bars"><h4>{title}</h4>{lines}</div>'


def notice(text: str) -> str:
    """A card without an answer."""
    return f'<div class="card"><p class="notice">{escape(text)}</p></div>'


def download(label: str, name: str, data: bytes, kind: str) -> str:
    """A link that saves what travels inside it; the server keeps no file.

    Parameters
    ----------
    label, name
        Words of the link, and the name of the saved file.
    data, kind
        Contents and media type.
    """
    inside = base64.b64encode(data).decode("ascii")
    return f'<a class="save" download="{escape(name)}" href="data:{kind};base64,{inside}">{escape(label)}</a>'


def moves(before: Answered | None, now: Answered) -> str:
    """How the budgets changed between two questions on one picture; empty if they can't be compared."""
    if before is None or before.image.tobytes() != now.image.tobytes() or before.boxes != now.boxes:
        return ""
    old, new = before.allocation.budgets, now.allocation.budgets
    changed = [f"{place(now, i)} {a} → {b}" for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if not changed:
        return "Same budgets as for your last question."
    more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
    return "The budgets moved: " + ", ".join(changed[:6]) + more + "."


def place(answered: Answered, patch: int) -> str:
    """The words for where a patch lies."""
    rows = sorted({box[1] for box in answered.boxes})
    columns = sorted({box[0] for box in answered.boxes})
    row, column = rows.index(answered.boxes[patch][1]), columns.index(answered.boxes[patch][0])
    if len(rows) <= 3 and len(columns) <= 3:
        return " ".join(location((len(rows), len(columns)), row * len(columns) + column))
    return f"row {row + 1} column {column + 1}"


STAGE_WORDS = {
    "glance": "a first glance", "read": "what the glance would answer", "knowing": "scoring the patches",
    "balancing": "weighing", "attending": "choosing budgets", "encode": "encoding at the budgets",
    "splice": "putting together", "generate": "answering", "prefill": "reading", "decode": "answering",
    "total": "in all",
}  # fmt: skip
"""What the model and the policy do in each stage of the record's timings."""


def stages(answered: Answered) -> str:
    """Milliseconds by stage."""
    timings = answered.allocation.timings.items()
    return "In ms: " + ", ".join(f"{STAGE_WORDS.get(name, name)} {1000 * s:.0f}" for name, s in timings) + "."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain HTML table; cells are text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


COMPARED = ("policy", "answer", "tokens", "share of full", "ms in all", *STAGES)


def compared(answers: Sequence[Answered]) -> str:
    """A table of several answers to one question."""
    rows = []
    for answered in answers:
        allocation = answered.allocation
        columns = [sum(allocation.timings.get(stage, 0.0) for stage in behind) for behind in STAGES.values()]
        rows.append(
            [
                answered.settings.policy, answered.answer or "(no answer)", f"{allocation.tokens:,}",
                f"{100 * allocation.tokens / allocation.full_tokens:.0f} %", f"{1000 * answered.seconds:,.0f}",
                *(f"{1000 * seconds:,.0f}" for seconds in columns),
            ]
        )  # fmt: skip
    return table(COMPARED, rows)


def sources(answered: Answered) -> str:
    """A table of what the policy went by, patch by patch: scores, and the detail that the smallest budget destroys."""
    scores = (SCORE_WORDS.get(name, name) for name in answered.allocation.scores)
    header = ["patch", *scores, f"detail lost at {answered.explanation.budgets[0]}", "budget"]
    rows = []
    for i, report in enumerate(answered.explanation.patches):
        detail = f"{100 * report.detail[0]:.0f} %" if report.detail else "–"
        rows.append([place(answered, i), *(f"{v:.2f}" for v in report.scores.values()), detail, str(report.budget)])
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


def tensions(answered: Answered) -> str:
    """A table of what balancing read and set."""
    found = answered.allocation.tension
    rows = [[key.replace("_", " "), f"{found[key]:.3f}", words] for key, words in MEANINGS.items() if key in found]
    return table(("signal", "value", "meaning"), rows)


def both_savings(answers: Sequence[Answered], full: Answered) -> str:
    """What several policies spent against full detail, in a sentence each."""
    lines = [
        f"<p><b>{escape(a.settings.policy)}</b> says <b>{said(a)}</b>. {escape(saving(a, full))}</p>" for a in answers
    ]
    return f'<div class="card"><p class="asked">{escape(full.question)}</p>{"".join(lines)}</div>'
