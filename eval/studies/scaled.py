"""Counted and measured: models of published shape, made small enough for a CPU, timed beside what `estimate` counts.

Widths are divided by `WIDTH` (by `NARROW` where a picture has many tokens) and depths by `DEPTH`, in tower and
language model alike, so that the ratio of their parameters stays; tokens, patches, windows, merging, levels and
families are the published ones. Heads are 64 wide. Weights are random: what is measured does not depend on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import arr_coc
from arr_coc.asking.estimate import estimate, made_up
from arr_coc.config import ArrCocConfig
from arr_coc.scene.contract import Plan, Scene

from .shares import MODELS, ROWS

WIDTH, NARROW, DEPTH, HEAD = 4, 8, 4, 64
MANY = 2000
"""Tokens of a picture from which on a model is made narrow."""
IDS = {"image_token_id": 990, "video_token_id": 991, "vision_start_token_id": 992, "image_token_index": 990}
WORDS = 40


def scaled(name: str, by: int) -> tuple[Any, Any]:
    """The configuration of a published model, its widths divided by a number, and its image processor."""
    config, images = MODELS[name]()
    text, vision = config.text_config, config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads, keys = (max(1, n * head // by // HEAD) for n in (text.num_attention_heads, text.num_key_value_heads))
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = heads, keys, HEAD
    text.num_hidden_layers //= DEPTH
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    rope = text.rope_parameters
    if "mrope_section" in rope:
        rope["mrope_section"] = [part * HEAD // head for part in rope["mrope_section"]]
    text.vocab_size, text.pad_token_id, text.bos_token_id, text.eos_token_id = 1000, 995, 996, 997
    for part in (text, vision):
        for size in ("hidden_size", "intermediate_size", "out_hidden_size"):
            if hasattr(part, size):
                setattr(part, size, getattr(part, size) // by)
    deep = "depth" if hasattr(vision, "depth") else "num_hidden_layers"
    setattr(vision, deep, round(getattr(vision, deep) / DEPTH))
    setattr(vision, "num_heads" if hasattr(vision, "num_heads") else "num_attention_heads", 16 // by)
    for levels in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        if getattr(vision, levels, None):
            setattr(vision, levels, [(level + 1) // DEPTH - 1 for level in getattr(vision, levels)])
    for ids, value in IDS.items():
        if hasattr(config, ids):
            setattr(config, ids, value)
    return config, images


def built(name: str, by: int) -> tuple[Any, Any]:
    """The scaled model, with random weights, and its image processor."""
    from transformers import AutoModelForImageTextToText

    config, images = scaled(name, by)
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval(), images


class Raising:
    """Reads the glance to its end; then raises some patches to full detail."""

    needs = frozenset({"glance", "answer"})

    def __init__(self, budgets: Sequence[int]) -> None:
        self.floor, self.full = budgets[0], budgets[-1]
        self.raised: Sequence[int] = ()

    def plan(self, scene: Scene) -> Plan:
        """The floor but for the raised patches."""
        scene.glance_answer()
        return Plan([self.full if i in self.raised else self.floor for i in range(len(scene.patches))])


def peak(call: Callable[[], Any]) -> int:
    """Most bytes that a call holds at once beyond what was there before, by what torch's allocator reports."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    recorded = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in recorded if e.name() == "[memory]")
    return int(np.cumsum([change for _, change in changes]).max())


def row(name: str, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """One model and picture: shares of the untouched model's time, counted and measured, and of its memory."""
    config = ArrCocConfig()
    whole_model, fitted = MODELS[name]()
    published = estimate(whole_model, size, fitted, config, WORDS).forecast
    by = NARROW if published.tokens > MANY else WIDTH
    model, images = built(name, by)
    known = estimate(model, size, images, config, WORDS)
    forecast = known.forecast
    arr = arr_coc.wrap(model, None, config, Raising(known.budgets))
    planner: Any = arr.planner
    planner.direct = known.way == "direct"
    inputs = dict(made_up(arr, images, size, WORDS).inputs)
    if hasattr(model.base_model, "get_rope_index"):
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == arr.family.image_token(model)).long()
    patches = sorted({0, forecast.patches // 2, forecast.patches - 1})
    looks = {"nothing raised": [], **{f"patch {i + 1} raised": [i] for i in patches}}

    def first() -> None:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)

    def untouched() -> None:
        arr.detach()
        first()
        arr.attach()

    def raising(which: Sequence[int]) -> Callable[[], None]:
        def call() -> None:
            planner.raised = which
            first()

        return call

    calls = {"untouched": untouched} | {label: raising(which) for label, which in looks.items()}
    seconds: dict[str, list[float]] = {label: [] for label in calls}
    first()
    for _ in range(rounds):
        for label, call in calls.items():
            began = time.process_time()
            call()
            seconds[label].append(time.process_time() - began)
    least = {label: min(values) for label, values in seconds.items()}
    raised = float(np.mean([least[label] for label, which in looks.items() if which]))
    each = [forecast.looks[i] for i in patches]
    whole = peak(untouched)
    memory = {label: peak(raising(which)) / whole for label, which in looks.items()}
    memory["everything raised"] = peak(raising(range(forecast.patches))) / whole
    direct = known.way == "direct"
    return {
        "model": name, "size": list(size), "way": known.way, "tokens": forecast.tokens, "patches": forecast.patches,
        "widths divided by": by, "tower": {"published": published.tower, "scaled": forecast.tower},
        "seconds": least["untouched"], "untouched megabytes": whole / 1e6,
        "nothing raised": {"counted": known.unchanged, "measured": least["nothing raised"] / least["untouched"]},
        "one patch raised": {"counted": 1.0 if direct else float(np.mean(each)) / forecast.untouched,
                             "measured": raised / least["untouched"]},
        "memory": memory,
    }  # fmt: skip


def measure(rounds: int = 3, models: Sequence[str] = tuple(MODELS)) -> list[dict[str, Any]]:
    """All rows of `eval.studies.shares`, one after another."""
    return [row(name, size, rounds) for name, size in ROWS if name in models]


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [
        "# Counted and measured on scaled shapes", "",
        f"Written by `python -m eval scaled`: models of published shape with widths divided by {WIDTH} "
        f"({NARROW} above {MANY:,} tokens) and depths by {DEPTH}, random weights, float32, heads of {HEAD}; "
        f"the published tokens and patches, {WORDS} words. "
        "Time to the first token as a share of the untouched model's: processor seconds of one thread, the "
        "least of a few turns; one patch raised: the mean over the first, the middle and the last. Counted is what "
        "`arr-coc estimate` says of the scaled model for the same patches. Off: measured over counted, less one. "
        "Tower: its share of the untouched model's operations, published / scaled. Memory: the most that is held at "
        "once beyond the weights, as a share of the untouched model's.", "",
        "| model and picture | tokens | tower | untouched | nothing raised, counted | measured | off | one patch "
        "raised, counted | measured | off | memory: nothing / one / everything raised |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for one in found:
        memory = one["memory"]
        most = max(v for k, v in memory.items() if k.startswith("patch"))
        cells = [f"{one['tower']['published']:.0%} / {one['tower']['scaled']:.0%}", f"{one['seconds']:.2f} s"]
        for kind in ("nothing raised", "one patch raised"):
            counted, measured = one[kind]["counted"], one[kind]["measured"]
            cells += [f"{counted:.0%}", f"{measured:.0%}", f"{measured / counted - 1:+.0%}"]
        cells.append(f"{memory['nothing raised']:.2f} / {most:.2f} / {memory['everything raised']:.2f}")
        way = ", direct" if one["way"] == "direct" else ""
        width, height = one["size"]
        lines.append(f"| {one['model']}, {width} x {height}{way} | {one['tokens']:,} | " + " | ".join(cells) + " |")
    run = {(one["model"], *one["size"]) for one in found}
    missing = [f"{name}, {size[0]} x {size[1]}" for name, size in ROWS if (name, *size) not in run]
    if missing:
        lines += ["", f"Not run: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def write(found: Sequence[dict[str, Any]], folder: Path) -> str:
    """Write ``scaled.md`` and ``scaled.json``; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaled.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "scaled.md").write_text(markdown(found), encoding="utf-8")
    return markdown(found)
