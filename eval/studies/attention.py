"""What a model's attention is like, measured over the glance: does it look where the answer stands?

For every layer and head: how often the patch that the last prompt token looks at most is one that holds the evidence
(and how often it would be if another question about the same picture were asked, which tells habit from looking), how
flat the look is, and whether some place of the picture draws it whatever is asked. For the glance's answer: how well
margin, entropy and probability foretell that it is wrong. Models are measured on pictures of one grid each, so that
places can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from allocator.storage import replace_file
from arr_coc.asking.ask import answers, prepare
from arr_coc.learning.rewards import normalize_answer
from arr_coc.scene.contract import Plan, Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from arr_coc.wrapping.wrapper import ArrCoc

SINK = 5.0
"""A place is a sink of a head if in most questions it draws more than so many times its share of the head's
look at the picture."""
BINS = 10


@dataclass
class _Look:
    """A planner that writes down all attention of a glance and answers with the floor everywhere."""

    layers: int
    floor: int
    needs: frozenset[str] = frozenset({"glance", "answer"})
    mass: np.ndarray = field(default_factory=lambda: np.empty(0))  # [layers, heads, tokens]
    sizes: list[int] = field(default_factory=list)
    logp: np.ndarray = field(default_factory=lambda: np.empty(0))

    def plan(self, scene: Scene) -> Plan:
        self.mass = scene.read_attention(range(self.layers)).float().numpy()
        self.sizes = [rows * columns for rows, columns in scene.glance_grids]
        self.logp = scene.glance_answer().double().numpy()
        return Plan([self.floor] * len(scene.patches))


def study(arr: ArrCoc, samples: Sequence[Mapping[str, Any]], progress: bool = True) -> dict[str, Any]:
    """Measure a wrapped model on questions with known evidence, on pictures of one grid.

    Parameters
    ----------
    arr
        The wrapped model; its planner is put back.
    samples
        Questions with ``image``, ``question``, ``answers``, ``evidence`` and ``grid``.
    progress
        Whether to show a bar.

    Returns
    -------
    dict
        ``questions``, ``chance`` and per layer and head (``[layers][heads]``) ``hit``, ``swapped`` (the same look held
        against the evidence of the question before), ``entropy`` (1 is flat), ``image`` (share of a head's attention
        that goes to the picture), ``sink`` (largest share of one place, in units of the even share); per layer
        ``layer_hit`` (heads averaged), ``best`` (chosen on even questions, judged on odd ones), ``last_two``,
        ``sink_heads`` (share of heads with a sink) and ``doubt`` (AUROC of margin, entropy and probability for a wrong
        answer, expected calibration error and the reliability curve).

    Raises
    ------
    ValueError
        With fewer than twenty questions, or pictures of several grids.
    """
    grids = {tuple(sample["grid"]) for sample in samples}
    if len(samples) < 20 or len(grids) != 1:
        raise ValueError(f"{len(samples)} questions on grids {sorted(grids)}; give at least 20, all of one grid")
    layers = len(arr.family.attentions(arr.model))
    look, before = _Look(layers, arr.config.budgets[0]), arr.planner
    rows: list[dict[str, Any]] = []
    arr.planner = look
    try:
        for sample in tqdm(samples, desc="attention", unit="question", disable=not progress):
            inputs = prepare(arr.processor, [sample["image"]], [sample["question"]]).to(arr.model.device)
            sequences = arr.model.generate(**inputs, do_sample=False, max_new_tokens=8)
            said = answers(arr.processor, inputs["input_ids"], sequences)[0]
            right = normalize_answer(said) in {normalize_answer(answer) for answer in sample["answers"]}
            rows.append(_row(look, sample["evidence"], right))
    finally:
        arr.planner = before
    return _joined(rows)


def _row(look: _Look, evidence: Sequence[int], right: bool) -> dict[str, Any]:
    edges = np.cumsum([0, *look.sizes])
    patches = np.stack([look.mass[..., a:b].sum(-1) for a, b in zip(edges[:-1], edges[1:], strict=True)], -1)
    top = np.sort(np.exp(look.logp))[::-1]
    share = look.mass / np.maximum(look.mass.sum(-1, keepdims=True), 1e-12)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(-1) / np.log(share.shape[-1])
    return {
        "patches": patches, "share": share, "entropy": entropy, "image": look.mass.sum(-1), "evidence": set(evidence),
        "right": right, "margin": 1 - (top[0] - top[1]), "probability": 1 - top[0],
        "entropy of the answer": float(-(np.exp(look.logp) * look.logp).sum()),
    }  # fmt: skip


def _hits(rows: Sequence[dict[str, Any]], shift: int = 0) -> np.ndarray:
    """``[questions, layers, heads]``: whether the top patch is evidence (of the question ``shift`` before)."""
    found = []
    for i, row in enumerate(rows):
        top = row["patches"].argmax(-1)
        found.append(np.isin(top, list(rows[i - shift]["evidence"])))
    return np.stack(found)


def _layer_hits(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """``[questions, layers]``: the same of the mean over heads."""
    return np.stack([np.isin(row["patches"].mean(1).argmax(-1), list(row["evidence"])) for row in rows])


def _joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    asked = [row for row in rows if row["evidence"]]
    count = asked[0]["patches"].shape[-1]
    by_layer = _layer_hits(asked)
    chosen = int(by_layer[::2].mean(0).argmax())
    share = np.median([row["share"] for row in rows], 0)  # of each place, whatever is asked: [layers, heads, tokens]
    sink = share.max(-1) * share.shape[-1]
    return {
        "questions": len(rows), "with_evidence": len(asked), "patches": count,
        "chance": float(np.mean([len(row["evidence"]) / count for row in asked])),
        "hit": _hits(asked).mean(0).tolist(), "swapped": _hits(asked, 1).mean(0).tolist(),
        "entropy": np.mean([row["entropy"] for row in rows], 0).tolist(),
        "image": np.mean([row["image"] for row in rows], 0).tolist(), "sink": sink.tolist(),
        "sink_heads": float((sink >= SINK).mean()), "layer_hit": by_layer.mean(0).tolist(),
        "best": {"layer": chosen, "hit": float(by_layer[1::2, chosen].mean())},
        "last_two": by_layer[:, -2:].mean(0).tolist(), "doubt": _doubt(rows),
    }  # fmt: skip


def _doubt(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How well what the glance says of its answer foretells a mistake."""
    from sklearn.metrics import roc_auc_score

    wrong = np.array([not row["right"] for row in rows])
    signals = ("margin", "entropy of the answer", "probability")
    mixed = 0 < wrong.sum() < len(wrong)
    auc = {s: float(roc_auc_score(wrong, [row[s] for row in rows])) if mixed else None for s in signals}
    said = np.array([1 - row["probability"] for row in rows])
    order = np.array_split(np.argsort(said), BINS)
    curve = [[float(said[b].mean()), float(1 - wrong[b].mean()), len(b)] for b in order if len(b)]
    error = sum(n * abs(p - a) for p, a, n in curve) / len(rows)
    return {"right": float(1 - wrong.mean()), "auroc": auc, "calibration_error": error, "curve": curve}


def realistic(found: Mapping[str, Any]) -> dict[str, bool]:
    """Which marks of real models' attention a measurement shows (Kang et al. 2025 and others give the numbers)."""
    auc = found["doubt"]["auroc"]["margin"]
    return {
        "the last two layers look at the evidence in at most half of the questions": max(found["last_two"]) <= 0.5,
        "the best layer, chosen on other questions, in at least .65": found["best"]["hit"] >= 0.65,
        "a quarter of the heads has a place that draws 5 times its share": found["sink_heads"] >= 0.25,
        "doubt foretells mistakes with an AUROC of .6 to .8": auc is not None and 0.6 <= auc <= 0.8,
    }


def figure(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Heads of every model by how often their top patch is evidence and by sinks, and its reliability curve."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(12, 3.6 * len(found)), layout="constrained")
    axes = page.subplots(len(found), 3, squeeze=False)
    for row, (name, one) in zip(axes, found.items(), strict=True):
        heat = row[0].imshow(one["hit"], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        row[0].set_title(f"{name}: top patch is evidence\n(chance {one['chance']:.2f})")
        page.colorbar(heat, ax=row[0])
        sinks = row[1].imshow(one["sink"], vmin=0, vmax=2 * SINK, cmap="magma", aspect="auto")
        row[1].set_title("share of the place that draws most\n(1 = even; median over questions)")
        page.colorbar(sinks, ax=row[1])
        for axis in row[:2]:
            axis.set(xlabel="head", ylabel="layer", xticks=range(len(one["hit"][0])), yticks=range(len(one["hit"])))
        said, right, _ = zip(*one["doubt"]["curve"], strict=True)
        row[2].plot([0, 1], [0, 1], color="grey", linestyle=":")
        row[2].plot(said, right, marker="o")
        auc = one["doubt"]["auroc"]["margin"]
        row[2].set(xlabel="probability of the glance's first token", ylabel="share of right answers", xlim=(0, 1),
                   ylim=(0, 1))  # fmt: skip
        row[2].set_title(
            f"doubt: AUROC {'-' if auc is None else f'{auc:.2f}'} (margin),\n"
            f"calibration error {one['doubt']['calibration_error']:.2f}"
        )
    return page


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The measurements for people."""
    lines = ["# What attention is like, over the glance", ""]
    for name, one in found.items():
        best, doubt = one["best"], one["doubt"]
        heads = np.array(one["hit"])
        where = np.unravel_index(heads.argmax(), heads.shape)
        lines += [
            f"## {name}: {one['questions']} questions, pictures of {one['patches']} patches", "",
            "| measured | value |", "|---|---|",
            f"| top patch is evidence by chance | {one['chance']:.2f} |",
            f"| by layer, heads averaged | {', '.join(f'{v:.2f}' for v in one['layer_hit'])} |",
            f"| best layer, judged on other questions | {best['hit']:.2f} (layer {best['layer']}) |",
            f"| best head | {heads.max():.2f} (layer {where[0]}, head {where[1]}) |",
            f"| that head, another question's evidence | {np.array(one['swapped'])[where]:.2f} |",
            f"| heads with a place that draws {SINK:.0f} times its share | {100 * one['sink_heads']:.0f} % |",
            f"| attention that goes to the picture, by layer | "
            f"{', '.join(f'{np.mean(v):.2f}' for v in one['image'])} |",
            f"| evenness of the look (1 is flat), by layer | "
            f"{', '.join(f'{np.mean(v):.2f}' for v in one['entropy'])} |",
            f"| right answers of the glance | {100 * doubt['right']:.0f} % |",
            f"| AUROC of margin, entropy, probability for a mistake | "
            f"{', '.join('-' if v is None else f'{v:.2f}' for v in doubt['auroc'].values())} |",
            f"| expected calibration error | {doubt['calibration_error']:.2f} |", "",
        ]  # fmt: skip
        lines += [f"- {'yes' if is_so else 'no'}: {mark}" for mark, is_so in realistic(one).items()] + [""]
    return "\n".join([*lines, "![heads, sinks and reliability](attention.png)", ""])


def write(found: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """``attention.json``, ``attention.md`` and ``attention.png`` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "attention.json", json.dumps(found, indent=1) + "\n")
    replace_file(out / "attention.md", markdown(found))
    figure(found).savefig(out / "attention.png", dpi=90)
