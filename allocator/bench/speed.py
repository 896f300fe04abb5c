"""Speed of scoring and of the oracle, each beside its floor or its rival in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from allocator.extras import optional
from allocator.knapsack import solve
from allocator.policies import Thompson
from allocator.scoring import block_sigma, stack_factors

BUDGETS = np.array([64, 128, 256, 400])


def _milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Least of several timings: the others measure the machine's other work."""
    call()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best * 1e3


def scoring(contexts: int = 10_000, arms: int = 4, device: str = "cpu") -> list[dict[str, Any]]:
    """Sigma of every context and arm: one GEMM, the bare GEMM of the same FLOPs, and a loop over contexts."""
    rows = []
    for d in (32, 64, 128):
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(arms, d, d, dtype=torch.float64, generator=generator)
        covariances = root @ root.transpose(1, 2) / d + torch.eye(d)
        x = torch.randn(contexts, d, generator=generator).to(device)
        stacked = stack_factors(covariances).to(device)
        small, singles = x[:200], covariances.to(torch.float32).to(device)
        sync = torch.cuda.synchronize if device != "cpu" else lambda: None

        def form(x: torch.Tensor = x, w: torch.Tensor = stacked, sync: Callable[[], Any] = sync) -> None:
            block_sigma(x, w, arms)
            sync()

        def bare(x: torch.Tensor = x, w: torch.Tensor = stacked, sync: Callable[[], Any] = sync) -> None:
            torch.mm(x, w)
            sync()

        def loop(x: torch.Tensor = small, p: torch.Tensor = singles, sync: Callable[[], Any] = sync) -> None:
            for row in x:
                for k in range(arms):
                    torch.sqrt(row @ p[k] @ row)
            sync()

        gemm, floor = _milliseconds(form, 15), _milliseconds(bare, 15)
        looped = _milliseconds(loop, 2) * contexts / len(small)
        flops = 2 * contexts * arms * d * d
        rows.append(
            {
                "d": d,
                "sigma_ms": gemm,
                "bare_gemm_ms": floor,
                "ratio": gemm / floor,
                "loop_ms": looped,
                "speed_up": looped / gemm,
                "mflop": flops / 1e6,
                "gflop_per_s": flops / gemm / 1e6,
            }
        )
    return rows


def oracle() -> list[dict[str, Any]]:
    """The knapsack beside scipy.optimize.milp, noisy values, a limit of 140 tokens per patch."""
    rows = []
    for patches in (4, 9, 36, 256, 1000):
        values = np.random.default_rng(patches).normal(size=(patches, 4))
        found = solve(values, BUDGETS, 140 * patches)
        row: dict[str, Any] = {
            "patches": patches,
            "gap": found.gap,
            "ms": _milliseconds(lambda v=values, n=patches: solve(v, BUDGETS, 140 * n), 7),  # type: ignore[misc]
        }
        if patches <= 36:
            row["milp_ms"] = _milliseconds(lambda v=values, n=patches: _milp(v, 140 * n), 2)  # type: ignore[misc]
        rows.append(row)
    return rows


def _milp(values: np.ndarray, limit: int) -> None:
    scipy = optional("scipy.optimize", "scipy")
    patches, arms = values.shape
    costs = np.tile(BUDGETS, patches)
    rules = [
        scipy.LinearConstraint(np.kron(np.eye(patches), np.ones(arms)), 1, 1),
        scipy.LinearConstraint(costs[None], -np.inf, limit),
    ]
    scipy.milp(-values.ravel(), integrality=np.ones(values.size), bounds=scipy.Bounds(0, 1), constraints=rules)


def decisions() -> list[dict[str, Any]]:
    """Milliseconds per decision and per update of the default method, flat over rounds."""
    rows = []
    for patches, d in ((4, 40), (36, 40), (1000, 40), (36, 600)):
        policy = Thompson(dim=d, arms=4)
        rng = np.random.default_rng(0)
        times: list[tuple[float, float]] = []
        for _ in range(12 if d > 100 else 60):
            x = rng.normal(size=(patches, d)) / d**0.5
            began = time.perf_counter()
            decision = policy.select(x, costs=BUDGETS, limit=150 * patches)
            chosen = time.perf_counter()
            policy.update(decision, rng.random())
            times.append((chosen - began, time.perf_counter() - chosen))
        select, update = np.median(np.array(times), axis=0) * 1e3
        rows.append({"patches": patches, "d": d, "features": 3 * d + 1, "select_ms": select, "update_ms": update})
    return rows
