"""What the scorers know, held against the evidence of the reference world.

Every question of the reference world names the patches that decide it and the budget that resolves them. So it can be
counted how often the most relevant patch is one of them (and how often still when the question is another one),
whether the detail that a budget destroys tells fine print from coarse, whether the doubt of a glance foretells its
mistakes, and how much of "is this question fine or coarse?" a linear probe reads from the context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from allocator.storage import replace_file
from arr_coc.asking.ask import Asked, ask
from arr_coc.asking.images import load_image
from arr_coc.attending.planners import PolicyPlanner
from arr_coc.drawing import contact_sheet, draw_heat, patch_boxes, titled
from arr_coc.knowing.detail import scene_detail_loss
from arr_coc.reference.training.evaluate import wilson
from arr_coc.scene.patches import full_tokens

from .operations import enlarged, operations, prefill_operations

if TYPE_CHECKING:
    from arr_coc.wrapping.wrapper import ArrCoc

FINE = 256
"""Questions whose evidence needs this budget or more are fine."""


def study(
    arr: ArrCoc,
    samples: Sequence[Mapping[str, Any]],
    out: Path,
    photographs: Sequence[Path] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Measure the scorers on reference questions, and draw their maps.

    Parameters
    ----------
    arr
        The wrapped model; its planner must look at the image.
    samples
        Reference questions, with ``evidence``, ``level``, ``kind`` and ``answers``.
    out
        Folder for ``knowing.json``, ``knowing.md`` and ``maps.png``.
    photographs
        Further pictures for the maps.
    progress
        Whether to show a bar.

    Returns
    -------
    dict
        What ``knowing.json`` holds.

    Raises
    ------
    ValueError
        Without questions, or if the planner looks at nothing.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} questions; give at least two: each picture is also asked another one's")
    if not isinstance(arr.planner, PolicyPlanner):
        raise ValueError(
            f"policy {arr.config.policy!r} looks at nothing; wrap the model with 'heuristic' or 'thompson'"
        )
    arr.planner.thorough = True
    rows = []
    for i, sample in enumerate(tqdm(samples, desc="knowing", unit="question", disable=not progress)):
        asked = ask(arr, sample["image"], sample["question"], 4)
        other = ask(arr, sample["image"], samples[i - 1]["question"], 4)
        rows.append(_row(arr, sample, asked, other))
    found = {
        "questions": len(rows), "top_patch": _top_patches(rows), "detail": _detail(rows), "doubt": _doubt(rows),
        "probe": _probe(rows), "cost": _cost(arr, samples),
        "readers": [reader.name for reader in arr.planner.contexts.relevance.readers],
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "knowing.json", json.dumps(found, indent=1) + "\n")
    replace_file(out / "knowing.md", markdown(found))
    pictures = [(sample["image"], sample["question"]) for sample in samples[:3]]
    pictures += [(load_image(path), "is there a red sign ?") for path in photographs]
    pages = [page for image, question in pictures for page in maps(arr, image, question)]
    contact_sheet(pages, columns=len(pages) // len(pictures)).quantize(256).save(out / "maps.png")
    return found


def maps(arr: ArrCoc, image: Image.Image, question: str) -> list[Image.Image]:
    """One map per scorer, and of the detail that the smallest budget destroys; the look in cells of the glance."""
    asked = ask(arr, image, question, 4)
    contexts = arr.planner.contexts  # type: ignore[attr-defined]
    readers = {reader.name: reader for reader in contexts.relevance.readers}
    boxes = patch_boxes(image.size, asked.allocation.patches, asked.grid)
    pages = []
    for name, scores in asked.allocation.scores.items():
        cells = [np.array([[value]]) for value in scores]
        title = name
        if name in readers:
            title = f"{name}: {question}"
            looks = readers[name].cell_map(asked.scene)
            cells = [c.cpu().numpy().reshape(g) for c, g in zip(looks, asked.scene.glance_grids, strict=True)]
        heat = draw_heat(image, boxes, cells, labels=[f"{value:.2f}" for value in scores], width=360)
        pages.append(titled(title, heat))
    lost = scene_detail_loss(asked.scene).per_patch[:, 0].tolist()
    heat = draw_heat(
        image, boxes, [np.array([[v]]) for v in lost], labels=[f"{100 * v:.0f} %" for v in lost], width=360
    )
    return [*pages, titled(f"detail lost at {arr.config.budgets[0]} tokens", heat)]


def _row(arr: ArrCoc, sample: Mapping[str, Any], asked: Asked, other: Asked) -> dict[str, Any]:
    contexts = arr.planner.contexts  # type: ignore[attr-defined]
    scores = asked.plan.scores
    logp = asked.scene.glance_answer()
    decision = asked.plan.decision
    assert decision is not None
    top = int(contexts.relevance.join(scores).argmax()) if contexts.relevance.readers else 0
    u, e = decision.covariates[:2].tolist()
    return {
        "kind": sample["kind"], "level": int(sample["level"]), "evidence": list(sample["evidence"]),
        "patches": len(asked.allocation.patches), "tops": {name: int(s.argmax()) for name, s in scores.items()},
        "swapped": {name: int(np.argmax(s)) for name, s in other.allocation.scores.items()},
        "detail": contexts.detail(asked.scene)[top].tolist(), "u": u, "e": e,
        "wrong": arr.processor.tokenizer.decode(int(logp.argmax())).strip() not in sample["answers"],
        "code": decision.covariates.tolist(), "context": decision.contexts[top].tolist(),
    }  # fmt: skip


def _top_patches(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Per scorer and kind: how often its top patch is evidence, by chance, and when another question was asked."""
    asked = [row for row in rows if row["evidence"]]
    groups = {"all": asked} | {k: [r for r in asked if r["kind"] == k] for k in sorted({r["kind"] for r in asked})}
    return {
        name: {
            kind: {
                "questions": len(group),
                "hit": _share([row["tops"][name] in row["evidence"] for row in group]),
                "swapped": _share([row["swapped"][name] in row["evidence"] for row in group]),
                "chance": float(np.mean([len(row["evidence"]) / row["patches"] for row in group])),
            }
            for kind, group in groups.items()
        }
        for name in asked[0]["tops"]
    }


def _detail(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation of the detail lost where the question looks with the budget that the evidence needs."""
    from scipy.stats import spearmanr

    levels = np.array([row["level"] for row in rows])
    lost = np.array([row["detail"] for row in rows])
    means = {str(level): lost[levels == level].mean(0).tolist() for level in np.unique(levels)}
    ranks = [spearmanr(column, levels) for column in lost.T]
    return {"rank": [{"value": float(r.statistic), "p": float(r.pvalue)} for r in ranks], "mean_by_level": means}


def _doubt(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Area under the ROC curve with which doubt foretells that the glance's answer is wrong."""
    from sklearn.metrics import roc_auc_score

    binary = [row["kind"] in ("yesno", "compare") for row in rows]
    wrong = np.array([row["wrong"] for row in rows])
    groups = {"all": np.ones(len(rows), bool), "yes or no": np.array(binary), "others": ~np.array(binary)}
    return {
        group: {
            name: float(roc_auc_score(wrong[of], np.array([row[name] for row in rows])[of]))
            for name in ("u", "e")
            if 0 < wrong[of].sum() < of.sum()
        }
        for group, of in groups.items()
    } | {"wrong": _share(wrong.tolist())}


def _probe(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Cross-validated accuracy of a linear probe for "fine or coarse?", beside that of the commoner answer."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fine = np.array([row["level"] >= FINE for row in rows])
    if min(fine.sum(), (~fine).sum()) < 5:
        return {}
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    features = {"question": "code", "context of the top patch": "context"}
    found = {
        name: float(cross_val_score(probe, np.array([row[key] for row in rows]), fine, cv=5).mean())
        for name, key in features.items()
    }
    return {**found, "commoner answer": float(max(fine.mean(), 1 - fine.mean()))}


def _cost(arr: ArrCoc, samples: Sequence[Mapping[str, Any]], most: int = 15) -> dict[str, float]:
    """Scorers and contexts beside the prefill at full detail, side by side on the largest pictures."""
    sizes = [arr.processor.patch_grid(sample["image"]) for sample in samples]
    largest = max(rows * columns for rows, columns in sizes)
    chosen = [s for s, (rows, columns) in zip(samples, sizes, strict=True) if rows * columns == largest][:most]
    ours, prefill, counted = [], [], []
    for sample in chosen:
        asked = ask(arr, sample["image"], sample["question"], 1)
        timings = asked.allocation.timings
        # The pass over the glance ("read") is an answer of the language model, counted in the time to the first token.
        ours.append(1000 * timings["knowing"])
        full = [[max(arr.config.budgets)] * largest]
        arr.model.generate(**asked.inputs, do_sample=False, max_new_tokens=1, allocation=full)
        prefill.append(1000 * (arr.last[0].timings["encode"] + arr.last[0].timings["generate"]))
        counted.append(operations(partial(arr.planner.plan, enlarged(asked.scene))))
    tokens = full_tokens(asked.scene.patches)
    return {
        "patches": largest, "questions": len(chosen), "knowing_ms": float(np.median(ours)),
        "prefill_ms": float(np.median(prefill)), "ratio": float(np.median(np.array(ours) / np.array(prefill))),
        "tokens": tokens, "operations": max(counted), "operations_7b": prefill_operations(tokens),
    }  # fmt: skip


def _share(hits: Sequence[bool]) -> dict[str, float]:
    """A share with its 95 % interval (Wilson)."""
    low, high = wilson(int(sum(hits)), len(hits))
    return {"value": sum(hits) / len(hits), "low": low, "high": high}


def markdown(found: Mapping[str, Any]) -> str:
    """The study as a page."""

    def share(s: Mapping[str, float]) -> str:
        return f"{100 * s['value']:.1f} [{100 * s['low']:.1f}, {100 * s['high']:.1f}]"

    lines = [f"# What the scorers know\n\n{found['questions']} questions of the reference world.\n"]
    lines.append(
        "Top patch is evidence, % [95 % Wilson interval]; the last two columns ask about the same picture with"
    )
    lines.append("another picture's question, and count what chance would hit.\n")
    lines.append(
        "| scorer | kind | questions | top patch | another question | chance |\n|---|---|---:|---:|---:|---:|"
    )
    for name, kinds in found["top_patch"].items():
        for kind, f in kinds.items():
            if kind == "all" or name in found["readers"]:
                chance = f"{100 * f['chance']:.0f}"
                lines.append(
                    f"| {name} | {kind} | {f['questions']} | {share(f['hit'])} | {share(f['swapped'])} | {chance} |"
                )
    lines.append("\nDetail lost where the question looks, by the budget that the evidence needs:\n")
    reduced = range(len(found["detail"]["rank"]))
    lines.append("| evidence needs | " + " | ".join(f"lost at budget {k + 1}" for k in reduced) + " |")
    lines.append("|---|" + "---:|" * len(reduced))
    for level, means in found["detail"]["mean_by_level"].items():
        lines.append(f"| {level} | " + " | ".join(f"{m:.3f}" for m in means) + " |")
    ranks = ", ".join(f"{r['value']:.2f} (p = {r['p']:.1g})" for r in found["detail"]["rank"])
    lines.append(f"\nRank correlation with that budget: {ranks}.")
    lines.append(
        f"\nThe glance alone is wrong in {share(found['doubt']['wrong'])} %. Area under the ROC curve with which"
    )
    lines.append("doubt foretells it (u: one less the margin of the two likeliest; e: one less the likeliest):\n")
    lines.append("| questions | u | e |\n|---|---:|---:|")
    for group, auc in found["doubt"].items():
        if group != "wrong" and auc:
            lines.append(f"| {group} | {auc['u']:.3f} | {auc['e']:.3f} |")
    probe = ", ".join(f"{name} {100 * value:.1f} %" for name, value in found["probe"].items())
    lines.append(f"\nLinear probe, fine ({FINE} tokens or more) or coarse, five-fold: {probe}.")
    cost = found["cost"]
    lines.append(
        f"\nScorers and contexts for {cost['patches']} patches, without the pass over the glance: "
        f"{100 * cost['ratio']:.1f} % of the prefill at full detail ({cost['knowing_ms']:.0f} and "
        f"{cost['prefill_ms']:.0f} ms, medians of {cost['questions']} questions side by side)."
    )
    lines.append(
        f"By operations, on pictures of the size that Qwen2.5-VL-7B's {cost['tokens']:,} tokens have: at most "
        f"{cost['operations'] / 1e9:.1f} G, which is {100 * cost['operations'] / cost['operations_7b']:.3f} % of the "
        f"{cost['operations_7b'] / 1e12:.0f} T of its prefill at full detail."
    )
    return "\n".join(lines) + "\n\n![Maps of every scorer](maps.png)\n"
