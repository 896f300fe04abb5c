"""Speed of scoring, of the oracle and of whole decisions, each beside its floor or its rivals in the same run.

On the CPU the time is that of the process, not of the clock on the wall: other work on the machine then disturbs less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from allocator.knapsack.solver import solve, solve_many
from allocator.linalg import block_sigma, cholesky, stack_factors
from allocator.policies import Thompson

from .extras import optional

BUDGETS = np.array([64, 128, 256, 400])


def _milliseconds(calls: Sequence[Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """Least of several timings of each call, taken in turns."""
    best = [float("inf")] * len(calls)
    for turn in range(repeats + 1):
        for at, call in enumerate(calls):
            began = clock()
            call()
            if turn:  # the first turn warms up
                best[at] = min(best[at], (clock() - began) * 1e3)
    return best


def scoring(contexts: int = 10_000, arms: int = 4, device: str = "cpu") -> list[dict[str, Any]]:
    """Sigma of every context and arm: in blocks, by the bare GEMM of the same FLOPs, and by loops over contexts.

    The loops know the covariances ("cached loop") or solve against the precision's Cholesky factor ("solving loop"),
    as a policy without stacked factors must.
    """
    rows = []
    for d in (32, 64, 128):
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(arms, d, d, dtype=torch.float64, generator=generator)
        covariances = root @ root.transpose(1, 2) / d + torch.eye(d)
        x = torch.randn(contexts, d, generator=generator).to(device)
        stacked = stack_factors(covariances).to(device)
        some = x[:100]
        cached = covariances.to(torch.float32).to(device)
        factors = cholesky(torch.linalg.inv(covariances)).to(torch.float32).to(device)

        def sync(device: str = device) -> None:
            if device != "cpu":
                torch.cuda.synchronize()

        def blocks(x: torch.Tensor = x, w: torch.Tensor = stacked) -> None:
            block_sigma(x, w, arms)
            sync()

        def bare(x: torch.Tensor = x, w: torch.Tensor = stacked) -> None:
            torch.mm(x, w)
            sync()

        def loop(x: torch.Tensor = some, p: torch.Tensor = cached) -> None:
            for row in x:
                for k in range(arms):
                    torch.sqrt(row @ p[k] @ row)
            sync()

        def solving(x: torch.Tensor = some, factors: torch.Tensor = factors) -> None:
            for row in x:
                for k in range(arms):
                    torch.linalg.vector_norm(torch.linalg.solve_triangular(factors[k], row[:, None], upper=False))
            sync()

        clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        sigma, gemm = _milliseconds([blocks, bare], 15, clock)
        looped, solved = (t * contexts / len(some) for t in _milliseconds([loop, solving], 3, clock))
        flops = 2 * contexts * arms * d * d
        rows.append(
            {
                "device": device,
                "d": d,
                "sigma ms": sigma,
                "bare GEMM ms": gemm,
                "ratio": sigma / gemm,
                "cached loop ms": looped,
                "speed-up": looped / sigma,
                "solving loop ms": solved,
                "its speed-up": solved / sigma,
                "MFLOP": flops / 1e6,
                "GFLOP/s": flops / gemm / 1e6,
                "GFLOP/s that 1 ms takes": flops / 1e6,
            }
        )
    return rows


def oracle() -> list[dict[str, Any]]:
    """The knapsack beside scipy's milp (HiGHS) and OR-tools' CP-SAT, noisy values, 140 tokens per patch."""
    rows = []
    for patches in (4, 9, 36, 256, 1000):
        generator = np.random.default_rng(patches)
        values = generator.normal(size=(patches, 4))
        limit = 140 * patches
        found = solve(values, BUDGETS, limit)
        batch = [generator.normal(size=(patches, 4)) for _ in range(64 if patches <= 36 else 8)]
        calls: list[Callable[[], Any]] = [
            partial(solve, values, BUDGETS, limit),
            partial(solve_many, batch, BUDGETS, limit),
        ]
        one, many = _milliseconds(calls, 7, time.process_time)
        quick = solve(values, BUDGETS, limit, method="lagrange")
        row: dict[str, Any] = {
            "patches": patches,
            "ms": one,
            "ms in a batch": many / len(batch),
            "gap": found.gap,
            "Lagrangian's loss": found.value - quick.value,
            "its proven gap": quick.gap,
        }
        rivals = {"milp": _milp, "CP-SAT": _cp_sat} if patches <= 256 else {}
        for name, rival in rivals.items():
            try:
                if abs(rival(values, limit) - found.value) > 1e-4 * abs(found.value):
                    raise RuntimeError(f"{name} and the knapsack disagree at {patches} patches")
            except ImportError:
                continue
            row[f"{name} ms"] = _milliseconds([partial(rival, values, limit)], 2, time.process_time)[0]
        rows.append(row)
    return rows


def _milp(values: np.ndarray, limit: int) -> float:
    scipy = optional("scipy.optimize", "scipy")
    patches, arms = values.shape
    rules = [
        scipy.LinearConstraint(np.kron(np.eye(patches), np.ones(arms)), 1, 1),
        scipy.LinearConstraint(np.tile(BUDGETS, patches)[None], -np.inf, limit),
    ]
    found = scipy.milp(
        -values.ravel(),
        integrality=np.ones(values.size),
        bounds=scipy.Bounds(0, 1),
        constraints=rules,
        options={"mip_rel_gap": 1e-6},
    )
    return -float(found.fun)


def _cp_sat(values: np.ndarray, limit: int) -> float:
    module = optional("ortools.sat.python.cp_model", "ortools")
    model = module.CpModel()
    chosen = [[model.new_bool_var("") for _ in row] for row in values]
    for row in chosen:
        model.add_exactly_one(row)
    flat, costs = [var for row in chosen for var in row], np.tile(BUDGETS, len(values))
    model.add(sum(int(cost) * var for cost, var in zip(costs, flat, strict=True)) <= limit)
    scale = 10**6  # the solver knows whole numbers only
    model.maximize(sum(int(round(scale * v)) * var for v, var in zip(values.ravel(), flat, strict=True)))
    solver = module.CpSolver()
    solver.parameters.num_workers = 1
    solver.solve(model)
    return float(solver.objective_value) / scale


def decisions() -> list[dict[str, Any]]:
    """A decision and an update of the default method, and its memory, before and after many rounds."""
    rows = []
    for patches, d, many in ((4, 40, 0), (36, 40, 0), (36, 40, 10**6), (1000, 40, 0), (1000, 666, 0), (1000, 2000, 0)):
        policy = Thompson(dim=d, arms=4, prior_precision=10.0)
        rng = np.random.default_rng(0)
        for _ in range(many // 1000):
            policy.posterior.update(rng.normal(size=(1000, policy.posterior.dim)), rng.random(1000))
        policy.rounds = policy.posterior.rounds
        times: list[tuple[float, float]] = []
        for _ in range(40 if d <= 100 else 6 if d < 1000 else 3):
            x = rng.normal(size=(patches, d)) / d**0.5
            began = time.process_time()
            decision = policy.select(x, costs=BUDGETS, limit=150 * patches)
            chosen = time.process_time()
            policy.update(decision, rng.random())
            times.append((chosen - began, time.process_time() - chosen))
        select, update = np.median(np.array(times[1:]), axis=0) * 1e3
        state = sum(tensor.nbytes for tensor in policy.state_dict()["tensors"].values())
        rows.append(
            {
                "patches": patches,
                "d": d,
                "features": policy.posterior.dim,
                "rounds before": many,
                "select ms": select,
                "update ms": update,
                "state MB": state / 1e6,
            }
        )
    return rows
