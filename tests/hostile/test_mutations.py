"""Saved policies, stores and logs with bytes and values changed: read, or refused in words; nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arr_coc.reference
from allocator import Policy
from allocator.logged.explore import Exploration, Explorer
from allocator.logged.rounds import read_rounds
from arr_coc.serving.nightly import RetrainConfig, retrain
from arr_coc.serving.store import Store, resolve
from arr_coc.wrapping.saving import POLICY, load_planner
from tests.retraining.world import WEAK, believing, make_store

from .histories import Poison, mutate_line, serve, write

WHOLE = os.environ.get("ARR_COC_HOSTILE") == "all"
COUNT = 500 if WHOLE else 150
VALUES = (None, True, -1, 0, 2**31, 2**63, 1e308, float("nan"), "x", "../../etc", [], {}, [1] * 50, {"a": {}}, 10**9)


def mutate_json(text: str, rng: np.random.Generator) -> str:
    """JSON with one value, somewhere, replaced, deleted or doubled."""
    data = json.loads(text)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        for key, value in items:
            places.append((node, key))
            if isinstance(value, dict | list) and value:
                walk(value)

    walk(data)
    for _ in range(int(rng.integers(1, 3))):
        node, key = places[int(rng.integers(len(places)))]
        try:
            match int(rng.integers(3)):
                case 0:
                    del node[key]
                case _:
                    node[key] = VALUES[int(rng.integers(len(VALUES)))]
        except (KeyError, IndexError):
            pass
    return json.dumps(data)


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    broken = bytearray(data)
    for _ in range(int(rng.choice([1, 4, 30]))):
        broken[int(rng.integers(len(broken)) if rng.random() < 0.5 else rng.integers(min(3000, len(broken))))] = int(
            rng.integers(256)
        )
    return bytes(broken[: int(rng.integers(len(broken)))] if rng.random() < 0.2 else broken)


def mutate_tensors(data: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file whose header, and the state in it, is sound JSON with something changed."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.8:
        state = header["__metadata__"]["policy_state"]
        header["__metadata__"]["policy_state"] = mutate_json(state, rng)
        text = json.dumps(header)
    else:
        text = mutate_json(json.dumps(header), rng)
    return struct.pack("<Q", len(text)) + text.encode() + data[8 + size :]


def mutate_policy(folder: Path, n: int, rng: np.random.Generator) -> None:
    """A fresh copy of the shipped policy, with something changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(arr_coc.reference.policy_path(), folder)
    config, policy = folder / "config.json", folder / POLICY
    match n % 4:
        case 0:
            config.write_text(mutate_json(config.read_text(), rng))
        case 1:
            config.write_bytes(mutate_bytes(config.read_bytes(), rng))
        case 2:
            policy.write_bytes(mutate_bytes(policy.read_bytes(), rng))
        case _:
            policy.write_bytes(mutate_tensors(policy.read_bytes(), rng))


def test_mutated_policies_are_read_or_refused(tmp_path: Path, reference: Any) -> None:
    rng, seen = np.random.default_rng(0), Counter[str]()
    folder = tmp_path / "policy"
    for n in range(COUNT):
        mutate_policy(folder, n, rng)
        try:
            _, planner = load_planner(folder, *reference)
            if hasattr(planner, "policy"):
                explorer = Explorer(planner.policy, Exploration())
                explorer.rehearse(planner.config.budgets, planner.price / 2400)
            seen["read"] += 1
        except (ValueError, TypeError, FileNotFoundError) as error:
            assert str(error) and len(str(error)) < 5000
            seen["refused"] += 1
    assert seen["refused"] > COUNT / 3 and seen["read"] > 0, seen


SIZES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from allocator import Policy
try:
    Policy.load(sys.argv[1])
except (ValueError, TypeError) as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("option", "value"), [("dim", 10**9), ("arms", 10**8), ("covariates", 10**6), ("dim", 30_000)]
)
def test_a_policy_that_declares_a_huge_size_takes_no_memory(tmp_path: Path, option: str, value: int) -> None:
    from allocator.storage import read_state, write_state

    believing(*WEAK).save(tmp_path / "a.safetensors")
    state = read_state(tmp_path / "a.safetensors")
    state["config"][option] = value
    state["config"]["prior_mean"] = None
    write_state(tmp_path / "a.safetensors", state)
    done = subprocess.run(
        [sys.executable, "-c", SIZES, str(tmp_path / "a.safetensors"), str(6 * 2**30)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("refused:"), done.stdout + done.stderr[-1000:]


def test_mutated_stores_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = make_store(tmp_path / "whole", believing(*WEAK))
    whole.add(lambda new: shutil.copytree(whole.folder("0001"), new, dirs_exist_ok=True), {})
    whole.point_to("0002")
    for n in range(COUNT):
        path = tmp_path / "store"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole.path, path)
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and p.name not in (POLICY, "README.md", ".lock")]
        file = files[n % len(files)]
        if rng.random() < 0.2:
            file.unlink()
        else:
            file.write_bytes(mutate_bytes(file.read_bytes() or b"\n", rng))
        store = Store(path)
        for use in (
            partial(resolve, path),
            partial(store.facts, "0001"),
            store.roll_back,
            partial(store.point_to, "0001"),
        ):
            with contextlib.suppress(ValueError):
                use()
        with contextlib.suppress(ValueError):
            assert store.current in store.versions


def test_mutated_logs_are_read_and_what_is_sound_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    policy = believing(*WEAK)
    served = serve(policy, COUNT + 100, "0001", seed=1)
    write(tmp_path / "log", served, Poison(), seed=1)
    for path in tmp_path.glob("log/*"):
        lines = path.read_bytes().splitlines(keepends=True)
        for k in rng.permutation(len(lines))[:COUNT]:
            lines[k] = mutate_line(lines[k], rng)
        path.write_bytes(b"".join(lines))
    joined = read_rounds(tmp_path / "log")
    assert joined.damage.lines > COUNT / 2 and 2 < len(joined.rounds) < COUNT + 100
    assert len(joined.damage.places) == 20
    for r in joined.rounds:
        assert 0 <= r.reward <= 1 and np.isfinite(r.decision.contexts).all()
    report = retrain(tmp_path / "log", make_store(tmp_path, policy), RetrainConfig(fewest=2))
    assert report["promoted"] is None and report["log"]["damaged lines"] >= joined.damage.lines
    assert isinstance(Policy.load(tmp_path / "policy" / POLICY), Policy)
