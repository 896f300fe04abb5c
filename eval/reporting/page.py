"""The report of a run: one table for the terminal and for Markdown, the figures, and the page of patch budgets."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from PIL import Image
from rich import box
from rich.table import Table

from allocator.storage import replace_file
from arr_coc.drawing import contact_sheet, draw_budgets
from arr_coc.learning.statistics import verdict as in_words
from arr_coc.learning.tasks import Task, TaskConfig

from ..records import Record
from . import plots
from .statistics import Difference
from .summary import STAGES, by_method

P_VALUE = "two-sided permutation test that flips the sign of whole images' differences"
COLUMNS = ("method", "accuracy [95% CI]", "tokens", "share of full", "ms in all", *STAGES)


def rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """The table's cells, one row per method in the order of the run."""
    table = []
    for label, method in metrics["methods"].items():
        times = method["milliseconds"]
        table.append(
            [
                label,
                _interval(method["accuracy"]),
                f"{method['tokens']['mean']:,.0f}",
                f"{100 * method['share']:.0f}%",
                f"{times['total']:.0f}" if "total" in times else "–",
                *(f"{times[stage]:.0f}" if stage in times else "–" for stage in STAGES),
            ]
        )
    return table


def verdict(metrics: Mapping[str, Any]) -> str:
    """What the run shows of the policy under test, beside full detail: a sentence or two."""
    methods, label = metrics["methods"], _pictured(metrics)
    base = next((name for name in ("full", *reversed(metrics["uniform"])) if name in metrics["differences"]), None)
    found = metrics["differences"].get(base, {}).get(label)
    ours = methods[label]
    if found is None or (base != "full" and base != metrics["uniform"][-1]):
        accuracy = _interval(ours["accuracy"])
        return f"**{label} is right in {accuracy} % of the questions at {100 * ours['share']:.0f} % of full detail.**"
    difference = Difference(**{name: found[name] for name in (item.name for item in fields(Difference))})
    share = ours["tokens"]["mean"] / methods[base]["tokens"]["mean"]
    said = in_words(difference, metrics["images"], share, "full detail")
    times = [methods[name]["milliseconds"].get("first token") for name in (label, base)]
    if all(times):
        said += f"; its first token is there after {100 * times[0] / times[1]:.0f} % of the time"
        said += f" ({times[0]:.0f} of {times[1]:.0f} ms, medians)"
    return f"**{label} is {said}.**"


def without_empty(header: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that say nothing in any row."""
    kept = [i for i in range(len(header)) if any(row[i] not in ("", "–") for row in cells)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in cells]


def terminal_table(metrics: Mapping[str, Any], title: str | None = None) -> Table:
    """The table for the terminal, narrow enough for 80 columns: the stages of the time are in the report."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns, cells = without_empty(COLUMNS[:5], [row[:5] for row in rows(metrics)])
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    return table


def markdown_table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table without empty columns, its first column left and the others right aligned."""
    header, cells = without_empty(header, cells)
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


def write(
    folder: Path,
    metrics: Mapping[str, Any],
    records: Sequence[Record],
    config: Mapping[str, Any],
    task: Task | None = None,
) -> None:
    """Write ``pareto.png``, ``kinds.png``, ``learning.png`` (if a policy learned here), ``overlays.png`` (if the task
    is at hand) and the report into a run folder."""
    uniform = list(metrics["uniform"])
    plots.pareto(metrics, folder / "pareto.png", uniform)
    if config["run"].get("timed"):
        plots.pareto(metrics, folder / "time.png", uniform, time=True)
    shown = _shown(metrics)
    if len(next(iter(metrics["methods"].values()))["kinds"]) > 1:
        plots.kinds(metrics, folder / "kinds.png", shown)
    if task is not None and config["run"]["overlays"]:
        _overlays(folder / "overlays.png", metrics, records, task, config["run"]["overlays"])
    if logs := sorted(folder.glob("learning/**/log.jsonl")):
        colors = {label: color for label, (color, _) in plots.styles(metrics).items()}
        plots.learning_curve(logs, folder / "learning.png", colors={folder.name: colors[_pictured(metrics)], **colors})
    text = markdown(metrics, config, folder)
    replace_file(folder / "report.md", text)
    replace_file(folder / "report.html", html(text, folder))


def rewrite(folder: Path, metrics: Mapping[str, Any], records: Sequence[Record], config: Mapping[str, Any]) -> None:
    """Draw the report of a finished run again, from its own records."""
    write(folder, metrics, records, config, Task(TaskConfig(**config["task"])))


def markdown(metrics: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> str:
    """The report as Markdown."""
    full, data = metrics["full tokens"], metrics["data"]
    parts = [
        f"# Evaluation on {data['task']}",
        verdict(metrics),
        f"{metrics['questions']:,} questions on {metrics['images']:,} images; {config['task']['reward']}; "
        f"{full['mean']:,.0f} tokens at full detail (p10 {full['p10']:,.0f}, p90 {full['p90']:,.0f}). Intervals "
        f"are 95 % bootstrap intervals over images. {_how_timed(config)} LM is splice, prefill and decoding. A method "
        "with fewer questions answered the first of them.",
        markdown_table(COLUMNS, rows(metrics)),
        *_explained(metrics),
        "![accuracy against tokens](pareto.png)",
        *_costs(metrics),
        *(["![accuracy against time to the first token](time.png)"] if (folder / "time.png").exists() else []),
    ]
    for base, methods in metrics["differences"].items():
        cells = [[label, *_difference(found)] for label, found in methods.items()]
        header = ("method", f"minus {base}, points [95% CI]", "p", "wins / losses", "n")
        parts += [f"## Paired with {base}", f"p: {P_VALUE}.", markdown_table(header, cells)]
    if metrics["matched"]:
        cells = []
        for label, found in metrics["matched"].items():
            timed = found.get("at equal time")
            timed = _difference(timed)[0] if timed else "–"
            cells.append([label, *_difference(found), _tokens(found["tokens of equal accuracy"]), timed])
        header = ("method", "minus uniform, points [95% CI]", "p", "uniform needs", "at equal time, points")
        parts += [
            "## At matched tokens",
            "Against the mixture of the two neighbouring uniform budgets with the same mean tokens; the tokens at "
            "which uniform budgets reach the method's accuracy; and the difference at the same mean time to the first "
            "token, where the uniform budgets reach that.",
            markdown_table(header, cells),
        ]
    if metrics.get("curves"):
        cells = [
            [name, f"{found['tokens'][0]:,.0f} to {found['tokens'][1]:,.0f}", _interval(found["accuracy"]),
             *_difference(found["minus uniform"])]
            for name, found in metrics["curves"].items()
        ]  # fmt: skip
        header = ("curve", "tokens", "mean accuracy [95% CI]", "minus uniform, points [95% CI]", "p")
        parts += [
            "## Area under the accuracy-token curve",
            "Mean accuracy over the range of tokens that a curve and the uniform budgets both reach.",
            markdown_table(header, cells),
        ]
    utility = metrics["utility"]
    for base, found in utility["differences"].items():
        cells = [
            [label, f"{100 * utility['methods'][label][0]:.1f}", *_difference(difference)]
            for label, difference in found.items()
        ]
        parts += [
            f"## Score less {utility['price']:g} times the share of full detail",
            f"What a learner maximises at that price; {base} has {100 * utility['methods'][base][0]:.1f}.",
            markdown_table(("method", "utility", f"minus {base}, points [95% CI]", "p"), cells),
        ]
    if any("pope" in method for method in metrics["methods"].values()):
        cells = [
            [label, *(f"{100 * value:.1f}" for value in method["pope"].values())]
            for label, method in metrics["methods"].items()
        ]
        header = ("method", "accuracy", "precision", "recall", "F1", "share of yes")
        parts += ["## Yes and no", markdown_table(header, cells)]
    parts += ["## By kind of question", markdown_table(*kind_rows(metrics))]
    if (folder / "kinds.png").exists():
        parts.append("![accuracy by kind of question](kinds.png)")
    if (folder / "learning.png").exists():
        parts += ["## Learning", "![reward and tokens while learning](learning.png)"]
    if (folder / "overlays.png").exists():
        parts += [
            "## Budgets",
            "Up to half of the pictures are mistakes, picked on purpose; the table says how rare they are.",
            f"![patch budgets of {_pictured(metrics)}](overlays.png)",
        ]
    parts += ["## Data", f"{data['rows read']:,} rows read, {len(data['unreadable'])} unreadable."]
    parts += [f"- row {bad['row']}: {bad['reason']}" for bad in data["unreadable"][:20]]
    parts += [f"- {label} could not run: {reason}" for label, reason in metrics["skipped"].items()]
    return "\n\n".join(parts) + "\n"


def _how_timed(config: Mapping[str, Any]) -> str:
    """What the times of a run are: of questions asked one at a time, or parts of a batch's."""
    run = config["run"]
    text = "Times are medians per question, in milliseconds, without image preprocessing"
    if run.get("timed"):
        return f"{text}, of {run['timed']} questions answered one at a time with nothing shared."
    if run["batch_size"] > 1:
        return f"{text}; each question bears an equal part of its batch of {run['batch_size']}."
    return f"{text}."


def _explained(metrics: Mapping[str, Any]) -> list[str]:
    """Each method in a line; those that differ by a number share one."""
    kinds: dict[str, list[str]] = {}
    for label, about in metrics.get("about", {}).items():
        if label in metrics["methods"]:
            kinds.setdefault(about, []).append(f"`{label}`")
    lines = [f"- {', '.join(labels)}: {about}" for about, labels in kinds.items()]
    return ["## The methods", "\n".join(lines)] if lines else []


def html(text: str, folder: Path) -> str:
    """A Markdown report as one HTML page that carries its pictures along, for mailing."""
    body = MarkdownIt("commonmark").enable("table").render(text)
    for picture in folder.glob("*.png"):
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        body = body.replace(f'src="{picture.name}"', f'src="data:image/png;base64,{data}"')
    title = text.partition("\n")[0].lstrip("# ")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c20 }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; white-space: nowrap }
img { max-width: 100% }"""


def _costs(metrics: Mapping[str, Any]) -> list[str]:
    """The table of tokens, times and memory."""
    columns = ("total", "first token", "glance", "plan", "encode", "prefill", "decode")
    cells, kinds = [], set()
    for label, method in metrics["methods"].items():
        tokens, times = method["tokens"], method["milliseconds"]
        memory = f"{method['memory'] / 2**20:,.0f}" if "memory" in method else "–"
        kinds |= {method["memory of"]} if "memory" in method else set()
        cells.append(
            [label, f"{method.get('questions', metrics['questions']):,}",
             f"{tokens['p10']:,.0f} / {tokens['p90']:,.0f}",
             *(f"{times[c]:.0f}" if c in times else "–" for c in columns), memory]
        )  # fmt: skip
    text = "Medians in milliseconds; encode is the vision tower, prefill ends with the first token."
    if kinds:
        text += f" Memory is the peak over the call, in MiB above its start ({', '.join(sorted(kinds))})."
    header = ("method", "n", "tokens p10 / p90", *columns, "MiB")
    return ["## Tokens, time and memory", text, markdown_table(header, cells)]


def _interval(values: Sequence[float]) -> str:
    value, low, high = (100 * v for v in values)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def kind_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table by kind of question."""
    most = max(metrics["methods"].values(), key=lambda method: sum(k["questions"] for k in method["kinds"].values()))
    names, cells = list(most["kinds"]), []
    for label, method in metrics["methods"].items():
        cells.append(
            [label]
            + [
                f"{100 * k['accuracy'][0]:.1f} ({k['tokens']:,.0f})" if k else "–"
                for k in (method["kinds"].get(name) for name in names)
            ]
        )
    counts = [most["kinds"][name]["questions"] for name in names]
    header = ["accuracy (tokens)", *(f"{name}, n={count}" for name, count in zip(names, counts, strict=True))]
    return header, cells


def _difference(found: Mapping[str, Any]) -> list[str]:
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    cells = [f"{value:+.1f} [{low:+.1f}, {high:+.1f}]", f"{found['p']:.3g}"]
    if "mcnemar" in found:
        cells.append(f"{found['wins']} / {found['losses']}")
        cells.append(f"{found['questions']:,}" if "questions" in found else "–")
    return cells


def _tokens(value: float | None) -> str:
    return "more than it has" if value is None else f"{value:,.0f}"


def _shown(metrics: Mapping[str, Any], most: int = 6) -> list[str]:
    """Methods for the bars, few enough to read: the pictured one, the ends of the uniform curve, then as the run has
    them."""
    uniform = list(metrics["uniform"])
    rest = [label for label in metrics["methods"] if label not in uniform and label not in ("full", "blind")]
    ranked = dict.fromkeys([_pictured(metrics), *uniform[:1], *uniform[-1:], *rest, *metrics["methods"]])
    return sorted(list(ranked)[:most], key=lambda label: metrics["methods"][label]["tokens"]["mean"])


def _pictured(metrics: Mapping[str, Any]) -> str:
    """The method whose budgets are drawn: learned, else heuristic, else the one whose tokens differ most."""
    methods = metrics["methods"]
    for label in ("learned", "heuristic"):
        if label in methods:
            return label
    allocating = [label for label in methods if "encode" in methods[label]["milliseconds"]] or list(methods)
    return max(allocating, key=lambda label: methods[label]["tokens"]["p90"] - methods[label]["tokens"]["p10"])


def _overlays(path: Path, metrics: Mapping[str, Any], records: Sequence[Record], task: Task, count: int) -> None:
    """The page of budgets: half of it answered wrong where there are that many, otherwise from the start of the
    task."""
    label = _pictured(metrics)
    own = [record for record in by_method(records)[label] if record["boxes"]]
    wrong = [record for record in own if record["score"] < 0.5][: count // 2]
    right = [record for record in own if record["score"] >= 0.5][: count - len(wrong)]
    wanted = {record["question_id"]: record for record in [*right, *wrong]}
    pictures = []
    for sample in task:
        record = wanted.pop(sample["question_id"], None)
        if record is not None:
            pictures.append(draw_record(sample["image"], record, metrics["budgets"]))
        if not wanted:
            break
    if pictures:
        rate = sum(record["score"] >= 0.5 for record in own) / len(own)
        title = f"Patch budgets of {label}: {len(right)} right, {len(wrong)} wrong. "
        if wrong:
            title += "Mistakes were picked on purpose: "
        contact_sheet(pictures, 3, f"{title}{100 * rate:.0f} % of all answers are right").save(path)


def draw_record(image: Image.Image, record: Record, levels: Sequence[int]) -> Image.Image:
    """The overlay of one question record over its image."""
    width, height = image.size
    boxes = [
        (left * width // 1000, top * height // 1000, right * width // 1000, bottom * height // 1000)
        for left, top, right, bottom in record["boxes"]
    ]
    return draw_budgets(
        image, boxes, record["budgets"], record["realised"], levels=levels, full_tokens=record["full_tokens"],
        question=record["question"], answer=record["answer"], truth=" / ".join(record["answers"][:3]),
        score=record["score"],
    )  # fmt: skip
