"""A retraining report for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def to_markdown(report: dict[str, Any]) -> str:
    """The report of `arr_coc.serving.nightly.retrain` as Markdown."""
    verdict = f"promoted to version {report['promoted']}" if report["promoted"] else "the incumbent stays"
    lines = [
        f"# Retraining, {report['time']}: {verdict}",
        "",
        f"Incumbent {report['incumbent']}; {report['reason']}.",
        "",
        "| log | |",
        "|---|---:|",
        *(f"| {name} | {_number(value)} |" for name, value in report["log"].items()),
        "",
    ]
    if report["passed over"]:
        lines += ["Passed over in the log, the first of them:", "", *(f"- {place}" for place in report["passed over"])]
        lines.append("")
    if report["judgement"] is not None:
        lines += _judgement(report["judgement"], report["confidence"])
        lines += [
            f"Against {name}, by a linear model of the rewards: {_estimate(e, sign=True)}.\n"
            for name, e in report["references"].items()
        ]
    return "\n".join([*lines, *_drift(report["drift"])]) + "\n"


def _judgement(j: dict[str, Any], confidence: float) -> list[str]:
    level = f"{100 * confidence:g} %"
    lines = [
        f"## Off-policy, on {j['rounds']:,} held-out rounds ({level} intervals)",
        "",
        "| estimate of | incumbent | new |",
        "|---|---:|---:|",
    ]
    names = {
        "dr": "reward, doubly robust",
        "snips": "reward, self-normalised weights",
        "dm": "reward, by the model alone",
    }
    for key, name in names.items():
        cells = [_estimate(j[side][key]) if key in j[side] else "nothing comparable" for side in ("incumbent", "new")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    tokens = " | ".join(f"{100 * share:.1f} %" for share in j["tokens"])
    weights = " | ".join(f"{j[side]['dr']['ess']:.0f}" for side in ("incumbent", "new"))
    slate = "does not apply" if j["slate"] is None else _estimate(j["slate"], sign=True)
    return [
        *lines,
        f"| tokens, share of full detail (exact) | {tokens} |",
        f"| effective sample size | {weights} |",
        "",
        f"**New minus incumbent, net of the price: {_estimate(j['difference'], sign=True)}.** They choose differently "
        f"in {100 * j['changed']:.1f} % of the rounds; the log can speak about {100 * j['supported']:.1f} % of those "
        f"({j['tries']:.1f} expected tries), and the bounds count the rest as lost and as won.",
        "",
        f"By the slate estimator, on the explored rounds, if rewards add up over patches: {slate}.",
        "",
    ]


def _drift(drift: dict[str, Any]) -> list[str]:
    lines = ["## Drift", ""]
    if drift["alarms"]:
        times = ", ".join(
            datetime.fromtimestamp(a["time"], UTC).isoformat(timespec="seconds") for a in drift["alarms"]
        )
        lines.append(
            f"The reward has fallen ({times}). "
            + (
                "Only rounds after the last fall were used, and the first version weighs no more than they do."
                if drift["first round"]
                else "Too few rounds came after it to learn from them alone."
            )
        )
    else:
        lines.append("The reward has not fallen.")
    if drift["psi"] is None:
        lines.append("Contexts were not compared: the incumbent has no reference, or there are too few rounds.")
    else:
        says = "the questions look different from those it was learned on" if drift["shifted"] else "no shift"
        lines.append(f"Contexts: largest population stability index {drift['psi']:.3f}, {says}.")
    return lines


def _estimate(e: dict[str, Any], sign: bool = False) -> str:
    mark = "+" if sign else ""
    return f"{e['value']:{mark}.4f} [{e['low']:{mark}.4f}, {e['high']:{mark}.4f}]"


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
