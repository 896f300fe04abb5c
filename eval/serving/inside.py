"""What budgets are worth inside an engine: exactness in every mode, questions a second, callers over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .exactness import REFERENCE, engine_environment, policy_of, run
from .server import ENGINE, ROOT, Sample, Server, samples
from .stand_ins import KINDS, make_stand_in

CALLERS = (1, 4, 16, 64)


def exact(folder: Path, n: int, kinds: Sequence[str] = (*REFERENCE, *KINDS)) -> dict[str, Any]:
    """Plans, answers and propensities against the wrapper's, ``n`` questions for every model and mode."""
    found = {}
    for kind in kinds:
        model = kind if kind in REFERENCE else str(make_stand_in(kind, folder / kind))
        found[kind] = run(model, n, folder)
    return found


def rate(n: int, rounds: int = 4, seed: int = 100) -> dict[str, Any]:
    """Questions a second inside an engine on one thread, full detail against the policy.

    In a process of its own, with the engine's own defaults. Every round asks both ways the same questions, all at
    once, in alternating order; no question comes twice, so full detail finds nothing in a cache, and the policy what
    its own glances left. Rendering, glances and planning are included.

    Returns
    -------
    dict
        Per way the rates of the rounds, processor time, visual tokens and share right; the ratio with its 95 %
        interval over rounds, by the clock and by processor time, which other work on the machine hardly changes.
    """
    code = f"from eval.serving.inside import rate_here; rate_here({n}, {rounds}, {seed})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=engine_environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rate_here(n: int, rounds: int, seed: int) -> None:
    """`rate`, in this process, printed as JSON."""
    from allocator.logged.explore import Exploration
    from arr_coc import reference

    from .offline import OfflineEngine

    table: dict[str, dict[str, list[float]]] = {}
    with OfflineEngine(
        "reference", policy_of("reference"), Exploration(share=0), max_model_len=4096, max_num_batched_tokens=4096,
        enforce_eager=True,
    ) as engine:  # fmt: skip

        def ask(way: str, part: Sequence[Sample]) -> None:
            began, before = time.perf_counter(), time.process_time()
            given = [engine.render([s["image"]], s["question"]) for s in part]
            if way == "policy":
                requests, spent = [], 0
                for one, (call, words, glanced) in zip(given, engine.glance(given), strict=True):
                    scene = engine.describer.scene(call, words, engine.layers, glanced)
                    budgets = engine.policies.once().plan(scene).budgets
                    requests.append(engine.at(one, call, budgets))
                    spent += sum(rows * columns for rows, columns in engine.describer.grids(call, budgets))
            else:
                requests, spent = given, sum(400 * s["grid"][0] * s["grid"][1] for s in part)
            outputs = engine.generate(requests, 4)
            decode = engine.processor.tokenizer.decode
            said = [decode(o.outputs[0].token_ids, skip_special_tokens=True).strip() for o in outputs]
            row = table.setdefault(way, {"seconds": [], "cpu": [], "tokens": [], "right": []})
            row["seconds"].append(time.perf_counter() - began)
            row["cpu"].append(time.process_time() - before)
            row["tokens"].append(spent / len(part))
            row["right"].append(sum(s["answer"] == text for s, text in zip(part, said, strict=True)) / len(part))

        for way in ("full detail", "policy"):
            ask(way, list(reference.generate(6, split="eval", seed=1)))
        table.clear()
        for turn in range(rounds):
            part = list(reference.generate(n, split="eval", seed=seed + turn))
            for way in ("full detail", "policy")[:: 1 if turn % 2 == 0 else -1]:
                ask(way, part)
    rates = {way: [n / s for s in row["seconds"]] for way, row in table.items()}
    print(json.dumps({
        "questions": n * rounds, "rounds": rounds,
        "per second": rates,
        "visual tokens": {way: float(np.mean(row["tokens"])) for way, row in table.items()},
        "right": {way: float(np.mean(row["right"])) for way, row in table.items()},
        "cpu ms per question": {way: 1000 * float(np.mean(row["cpu"])) / n for way, row in table.items()},
        "policy over full detail": ratio(rates["policy"], rates["full detail"]),
        "the same by processor time": ratio(*(
            [n / s for s in table[way]["cpu"]] for way in ("policy", "full detail")
        )),
    }))  # fmt: skip


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The geometric mean ratio of paired rates, with a 95 % t interval over the pairs."""
    from scipy import stats

    logs = np.log(np.array(mine) / np.array(theirs))
    half = 0.0
    if len(logs) > 1:
        half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    mean = float(logs.mean())
    return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def callers(
    folder: Path, n: int, rounds: int = 2, numbers: Sequence[int] = CALLERS, progress: Callable[[str], Any] = print
) -> dict[str, Any]:
    """Over HTTP: our own process and vLLM with the plugin, under 1, 4, 16 and 64 callers, in alternating rounds.

    Returns
    -------
    dict
        Per number of callers and way, over all rounds: questions a second, processor time of all processes of the
        server, latency (of the engine also to the first token, streamed) in milliseconds, visual tokens, share right;
        and how many answers and budgets of the two servers were equal.
    """
    table: dict[int, dict[str, list[dict[str, Any]]]] = {number: {} for number in numbers}
    options = ("--explore", "0", "--timeout", "600", "--queue", "256")
    with (
        Server(folder / "own" / "log", *options) as own,
        Server(folder / "engine" / "log", *options, *ENGINE, "--max-new-tokens", "4") as engine,
    ):
        own.wait()
        engine.wait()
        ways: dict[str, tuple[str, bool, bool]] = {
            "own process, policy": (own.url, False, False),
            "vLLM, policy": (engine.url, False, True),
            "vLLM, full detail": (engine.url, True, True),
        }
        for way in ways.values():
            asyncio.run(_ask_all(samples(4, seed=1), 2, *way))
        for turn in range(rounds):
            for number in numbers:
                part = samples(max(n, number), seed=1000 + 10 * turn + number)
                for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
                    server = own if name.startswith("own") else engine
                    began, before = time.perf_counter(), server.cpu()
                    replies = asyncio.run(_ask_all(part, number, *ways[name]))
                    spent = {"seconds": time.perf_counter() - began, "cpu": server.cpu() - before}
                    rows = table[number].setdefault(name, [])
                    rows.append({**spent, "replies": replies})
                    progress(f"{number} callers, {name}: {len(part) / rows[-1]['seconds']:.2f} a second")
    return {str(number): _summary(rows) for number, rows in table.items()}


def _summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, rounds in rows.items():
        replies = [reply for one in rounds for reply in one["replies"]]
        latency = np.array([reply["seconds"] for reply in replies]) * 1000
        first = np.array([reply["first"] for reply in replies]) * 1000
        found[name] = {
            "per second": [len(one["replies"]) / one["seconds"] for one in rounds],
            "cpu ms per question": [1000 * one["cpu"] / len(one["replies"]) for one in rounds],
            "p50 ms": float(np.median(latency)), "p95 ms": float(np.quantile(latency, 0.95)),
            "first token p50 ms": float(np.median(first)),
            "visual tokens": float(np.mean([reply["tokens"] for reply in replies])),
            "right": float(np.mean([reply["right"] for reply in replies])),
        }  # fmt: skip
    mine, theirs = rows["vLLM, policy"], rows["own process, policy"]
    pairs = [
        (a["said"], a["budgets"]) == (b["said"], b["budgets"])
        for one, other in zip(mine, theirs, strict=True)
        for a, b in zip(one["replies"], other["replies"], strict=True)
    ]
    found["equal answers and budgets"] = f"{sum(pairs)} of {len(pairs)}"
    for title, one, other in (
        ("vLLM: policy over full detail", "vLLM, policy", "vLLM, full detail"),
        ("policy: vLLM over own process", "vLLM, policy", "own process, policy"),
    ):
        found[title] = ratio(found[one]["per second"], found[other]["per second"])
        spent = (found[other]["cpu ms per question"], found[one]["cpu ms per question"])
        found[f"{title}, by processor time"] = ratio(*spent)
    return found


async def _ask_all(part: Sequence[Sample], number: int, url: str, full: bool, chat: bool) -> list[dict[str, Any]]:
    """Ask everything, ``number`` at a time, in order."""
    import httpx

    gate = asyncio.Semaphore(number)
    async with httpx.AsyncClient(base_url=url, timeout=900, limits=httpx.Limits(max_connections=number)) as client:

        async def one(q: Sample) -> dict[str, Any]:
            async with gate:
                began = time.perf_counter()
                found = await (_streamed(client, q, full, began) if chat else _posted(client, q, began))
                return {**found, "seconds": time.perf_counter() - began, "right": found["said"] == q["answer"]}

        return list(await asyncio.gather(*(one(q) for q in part)))


async def _posted(client: Any, q: Sample, began: float) -> dict[str, Any]:
    reply = await client.post("/answer", files={"image": ("image", q["png"])}, data={"question": q["question"]})
    data = reply.raise_for_status().json()
    first = time.perf_counter() - began
    return {"said": data["answer"], "budgets": data["budgets"], "tokens": data["tokens"], "first": first}


async def _streamed(client: Any, q: Sample, full: bool, began: float) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(q["png"]).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": q["question"]}]
    body: dict[str, Any] = {
        "model": "reference", "messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0,
        "stream": True,
    }  # fmt: skip
    if full:
        body["mm_processor_kwargs"] = {"arr_coc": [[400] * (q["grid"][0] * q["grid"][1])]}
    said, noted, first = "", {}, 0.0
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            noted = event.get("arr_coc", noted)
            word = event["choices"][0]["delta"].get("content") or ""
            if word and not said:
                first = time.perf_counter() - began
            said += word
    return {"said": said.strip(), "budgets": noted["budgets"], "tokens": noted["tokens"], "first": first}
