"""Several processes of one run, as `accelerate launch` starts them: who am I, and what do the others have?

    accelerate launch --config_file configs/accelerate-cpu.yaml -m arr_coc.cli learn configs/learn.yaml

Only collective calls are offered, in the order of ranks, so that every process sees the same. What fails in one
process breaks the others' next call, and the launcher ends them all: a run fails, it never hangs longer than the
timeout, and what was not committed before is simply done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allocator import Decision, make_policy
from allocator.policies.full_bandit.base import Aggregated
from allocator.policies.full_bandit.neural_base import NeuralAggregated

if TYPE_CHECKING:
    from allocator import Policy

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Workers:
    """The processes of a run; by itself one process alone.

    Attributes
    ----------
    rank, size
        Which one this is, and how many there are.
    device
        Where tensors must lie to be exchanged.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def start(cls, timeout: timedelta = TIMEOUT) -> Workers:
        """The processes that a launcher started, connected; this one alone if none did."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timeout)
        return cls(state.process_index, state.num_processes, state.device)

    def stop(self) -> None:
        """Take leave of the others, once all are here."""
        if self.size > 1:
            self.wait()
            torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what all share."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value (JSON data), in the order of ranks."""
        if self.size == 1:
            return [value]
        mine = torch.frombuffer(bytearray(json.dumps(value, allow_nan=False).encode()), dtype=torch.uint8)
        sizes = [int(size) for size in self.gather_tensor(torch.tensor(len(mine)))]
        padded = torch.nn.functional.pad(mine, (0, max(sizes) - len(mine)))
        parts = zip(self.gather_tensor(padded), sizes, strict=True)
        return [json.loads(part[:size].numpy().tobytes()) for part, size in parts]

    def gather_tensor(self, tensor: Tensor) -> list[Tensor]:
        """Everybody's tensor (of one shape and dtype), in the order of ranks, on the CPU."""
        if self.size == 1:
            return [tensor]
        mine = tensor.to(self.device).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        torch.distributed.all_gather(parts, mine)
        return [part.cpu() for part in parts]


def update_together(policy: Policy, decisions: Sequence[Decision], rewards: Sequence[float], workers: Workers) -> None:
    """Learn what all processes saw in this round, so that every process then holds the same policy.

    Sufficient statistics are added in the order of ranks: the posterior is that of one process that saw all rewards,
    up to rounding. Policies whose memory is none learn from everybody's decisions, with the same draws.
    """
    if workers.size == 1:
        policy.update_many(decisions, rewards)
        return
    if not isinstance(policy, Aggregated) or isinstance(policy, NeuralAggregated) or policy.forgetting < 1.0:
        _learn_all(policy, decisions, rewards, workers)
        return
    part: Any = make_policy(policy.name, **policy.config())
    part.update_many(decisions, rewards)
    grams, moments = (workers.gather_tensor(getattr(part.posterior, name)) for name in ("gram", "moment"))
    counts = workers.gather(part.rounds)
    for gram, moment, count in zip(grams, moments, counts, strict=True):
        part.posterior.gram, part.posterior.moment = gram.to(part.posterior.device), moment.to(part.posterior.device)
        part.posterior.rounds = part.rounds = count
        policy.merge(part)


def _learn_all(policy: Policy, decisions: Sequence[Decision], rewards: Sequence[float], workers: Workers) -> None:
    mine = [{"decision": d.to_dict(), "reward": float(y)} for d, y in zip(decisions, rewards, strict=True)]
    told = [record for part in workers.gather(mine) for record in part]
    own = policy.generator.bit_generator.state  # exploring goes on apart
    policy.generator.bit_generator.state = np.random.default_rng([policy.seed, policy.rounds]).bit_generator.state
    policy.update_many([Decision.from_dict(r["decision"]) for r in told], [r["reward"] for r in told])
    policy.generator.bit_generator.state = own
