"""A network whose form is the problem's: one patch holds what is missing; which, is it missing, what restores it.

The reward of an allocation s is 1 with probability

    1 - need + need * recovery * sum_i where_i * restored_i(s_i),      restored_i(0) = 0, restored_i(K-1) = 1,

with a distribution over patches ``where = sum_m gate_m(z) reading_m``, a mixture of several readings of where to look
and of an even spread, gated by what is known of the question as experts are (Jacobs, Jordan, Nowlan & Hinton,
"Adaptive mixtures of local experts", Neural Computation 3, 1991); with ``need(z)`` and ``recovery(z)`` logistic; and
with ``restored_i(k)`` an ordinal regression on the patch's own features. The gain over the floor is a sum over
patches, so the knapsack oracle stays exact. A reading that misleads loses its gate, and what remains is the even
spread: a hedge.

An ensemble carries the uncertainty: every member has a prior of its own and draws its own weight for every reward
(bootstrap; Osband, Aslanides & Cassirer, "Randomized prior functions for deep reinforcement learning", NeurIPS 2018).
Exploring plays one member at random (ensemble sampling; Lu & Van Roy, NeurIPS 2017), and probes the prior and the
readings one by one. Without exploration the mean of the members plays, and only where they agree that it is better
than the prior (see `allocator.policies.caution`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import FloatArray, IntArray, count, floats, ints, number
from ...decision import Decision
from ...linalg import tensor
from ...policy import Policy
from ...problem import Problem
from ...registry import register_policy
from ..caution import Cautious

_HEADS = ("gate", "need", "recovery", "level", "step")
_REPLAY = {"contexts", "covariates", "index", "sizes", "rewards", "weights"}
SCALES = {"gate": 2.0, "recovery": 0.5}
"""Prior deviations of these heads' weights, as multiples: a reading may mislead, but full detail is seldom in vain."""
_EDGE = 1e-4  # probabilities stay this far from 0 and 1
_UNKNOWN = 1e6  # deviation of a reward of which nothing was learned; finite, since it may be multiplied by zero


@register_policy("neural_mixture")
@dataclass(kw_only=True, eq=False)
class NeuralMixture(Cautious, Policy):
    """Ensemble sampling over mixtures of readings. Rewards lie in [0, 1]; others are clipped.

    Parameters
    ----------
    dim, arms : int
        Context dimension d and number of arms K; arm 0 is the floor.
    covariates : int
        Number m of covariates.
    prior_mean : array-like, shape [K-1, d], optional
        Weights of the prior's values, by which it plays until what it has seen supports a departure. Without them
        nothing holds it back.
    readings : sequence of int, optional
        Columns of the contexts that say where to look; each is cut at zero and divided by its sum over the patches.
        All columns by default.
    reading_prior : array-like, shape [readings + 1], optional
        Prior logits of the gates, the even spread last; all alike by default.
    need_prior : array-like, shape [m + 1], optional
        Prior weights of the need's logit, the intercept first; zero by default.
    levels : sequence of int, optional
        Columns of the contexts that tell which arm restores a patch; all by default.
    probe : float
        Share of explored questions on which the prior plays, or a member that takes one reading at random for certain.
        Who always hedges sees neither the prior fail nor a better reading do without the hedge.
    members : int
        Networks in the ensemble.
    prior_scale : float
        Standard deviation of every weight around its prior.
    spread : float
        Standard deviation of the members' priors around the common one.
    train_every, steps, batch, rate
        Rewards between trainings, Adam steps per training, rewards per step, learning rate. From forty trainings on
        they come half as often whenever the rewards have doubled.
    memory : int
        Rewards kept for replay, the most recent ones; of their contexts only the columns that are read.
    caution, surcharge, patience
        See `Cautious`.
    **options
        See `Policy`.
    """

    feedback: ClassVar[Literal["none", "full", "semi"]] = "full"
    needs_model: ClassVar[bool] = True
    randomised: ClassVar[bool] = True

    prior_mean: Any = None
    readings: Any = None
    reading_prior: Any = None
    need_prior: Any = None
    levels: Any = None
    probe: float = 0.25
    members: int = 12
    prior_scale: float = 0.5
    spread: float = 0.5
    train_every: int = 50
    steps: int = 80
    batch: int = 256
    rate: float = 0.03
    memory: int = 5000
    weights: dict[str, Tensor] = field(init=False, repr=False)
    centre: dict[str, Tensor] = field(init=False, repr=False)
    replay: list[tuple[FloatArray, FloatArray, IntArray, float, FloatArray]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("members", "train_every", "steps", "batch", "memory"):
            count(option, getattr(self, option))
        for option in ("prior_scale", "rate"):
            if number(option, getattr(self, option)) <= 0:
                raise ValueError(f"{option} must be positive, got {getattr(self, option)}")
        number("spread", self.spread, low=0.0)
        number("probe", self.probe, low=0.0, high=1.0)
        d, k = count("dim", self.dim), count("arms", self.arms, low=2)
        if self.prior_mean is not None:
            floats("prior_mean", self.prior_mean, (k - 1, d))
        self._where, self._level = self._columns("readings"), self._columns("levels")
        self._read = np.union1d(self._where, self._level)
        m, r, x = self.covariates + 1, len(self._where) + 1, len(self._level) + self.covariates + 1
        # The arms' thresholds: a level, and a positive step from each arm to the next.
        shapes = {"gate": (m, r), "need": (m,), "recovery": (m,), "level": (x,), "step": (x, max(k - 3, 0))}
        centre = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        if self.reading_prior is not None:
            centre["gate"][0] = tensor(floats("reading_prior", self.reading_prior, (r,)))
        if self.need_prior is not None:
            centre["need"][:] = tensor(floats("need_prior", self.need_prior, (m,)))
        centre["recovery"][0] = 3.0  # full detail is nearly always enough
        centre["level"][0], centre["step"][0] = -0.6, 1.2
        self.centre = {}
        for name in _HEADS:
            noise = self.generator.standard_normal((self.members, *centre[name].shape))
            noise[0] = 0.0
            self.centre[name] = centre[name] + self.spread * SCALES.get(name, 1.0) * tensor(noise)
        self.weights = {name: value.clone() for name, value in self.centre.items()}
        self.replay = []

    def _columns(self, option: str) -> IntArray:
        given = getattr(self, option)
        if given is None:
            return np.arange(count("dim", self.dim))
        columns = ints(option, given, (None,))
        if len(columns) == 0 or columns.min() < 0 or columns.max() >= count("dim", self.dim):
            raise ValueError(f"{option}={list(columns)} must name columns of the contexts, 0 to {self.dim} less one")
        return columns

    # What goes in, and what comes out.

    def _inputs(self, contexts: FloatArray, covariates: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Readings [N, r], question [m + 1], patches [N, x], of contexts' columns `_read`."""
        n = len(contexts)
        where, level = (np.searchsorted(self._read, columns) for columns in (self._where, self._level))
        shares = np.clip(contexts[:, where], 0.0, None) + 1e-9
        readings = np.hstack([shares / shares.sum(axis=0), np.full((n, 1), 1.0 / n)])
        question = np.concatenate([[1.0], covariates])
        return readings, question, np.hstack([np.tile(question, (n, 1)), contexts[:, level]])

    @staticmethod
    def _heads(
        weights: dict[str, Tensor], readings: Tensor, questions: Tensor, patches: Tensor, owner: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of every member: where [E, R], need times recovery and need [2, E, B], restored by arm [E, R, K-1]."""
        gate = torch.einsum("bm,emr->ebr", questions, weights["gate"]).softmax(-1)
        where = (gate[:, owner] * readings).sum(-1)
        need = torch.einsum("bm,em->eb", questions, weights["need"]).sigmoid()
        recovery = torch.einsum("bm,em->eb", questions, weights["recovery"]).sigmoid()
        level = torch.einsum("nx,ex->en", patches, weights["level"])[..., None]
        steps = F.softplus(torch.einsum("nx,exk->enk", patches, weights["step"])).cumsum(-1)
        below = torch.cat([level, level + steps], -1).sigmoid()
        return where, torch.stack([need * recovery, need]), torch.cat([below, torch.ones_like(level)], -1)

    def _of_one(self, contexts: FloatArray, covariates: FloatArray) -> tuple[Tensor, Tensor, Tensor]:
        """`_heads` of one question: [E, N], [2, E, 1], [E, N, K-1]."""
        readings, question, patches = (tensor(part) for part in self._inputs(contexts[:, self._read], covariates))
        owner = torch.zeros(len(readings), dtype=torch.long)
        with torch.no_grad():
            where, needs, restored = self._heads(self.weights, readings, question[None], patches, owner)
        return where, needs, restored[..., -1:] if self.arms == 2 else restored

    def _member_values(self, problem: Problem, reading: int | None = None) -> FloatArray:
        """Gain over the floor by every member, [E, N, K]; as if one reading were certain, if one is given."""
        where, needs, restored = self._of_one(problem.contexts, problem.covariates)
        if reading is not None:
            shares = self._inputs(problem.contexts[:, self._read], problem.covariates)[0]
            where = tensor(shares[:, reading]).expand_as(where)
        gains = (needs[0][:, :, None] * where[..., None] * restored).numpy()
        return np.concatenate([np.zeros((*gains.shape[:2], 1)), gains], axis=2)

    def _score(self, problem: Problem) -> FloatArray:
        if problem.temperature == 0:
            return self._member_values(problem).mean(axis=0)
        member, chance = self.generator.integers(self.members), self.generator.random() / max(self.probe, 1e-12)
        reading = int(self.generator.integers(len(self._where)))
        if chance < 0.5 and (prior := self._prior_values(problem)) is not None:
            return prior
        return self._member_values(problem, reading if 0.5 <= chance < 1.0 else None)[member]

    # Caution.

    def _prior_values(self, problem: Problem) -> FloatArray | None:
        if self.prior_mean is None:
            return None
        theta = floats("prior_mean", self.prior_mean, (None, None))
        return np.hstack([np.zeros((len(problem.contexts), 1)), problem.contexts @ theta.T])

    def stakes(self, contexts: FloatArray, covariates: FloatArray, probabilities: FloatArray) -> FloatArray:
        """The reward that every member expects, ``[members]``."""
        where, needs, restored = self._of_one(contexts, covariates)
        got = torch.einsum("en,enk,nk->e", where, restored, tensor(probabilities[:, 1:]))
        expected: FloatArray = (1.0 - needs[1, :, 0] + needs[0, :, 0] * got).numpy()
        return expected

    def weigh(self, stakes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Over the members; nothing is sure before the first training."""
        deviation = stakes.std(axis=1) if self._informed() else np.full(len(stakes), _UNKNOWN)
        return stakes.mean(axis=1), deviation

    def _informed(self) -> bool:
        return self.rounds >= self.train_every

    def forget(self, gamma: float) -> None:
        """Scale the weights of the rewards kept for replay; the next training hears of it."""
        gamma = number("gamma", gamma, low=0.0, high=1.0)
        self.replay = [(x, z, index, y, weights * gamma) for x, z, index, y, weights in self.replay]
        self._acquit(gamma)

    # Learning.

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        for seen, (decision, reward) in enumerate(zip(decisions, rewards, strict=True), self.rounds + 1):
            weights = self.generator.standard_exponential(self.members)
            weights[0] = 1.0
            clipped = float(np.clip(reward, 0.0, 1.0))
            kept = decision.contexts[:, self._read]
            self.replay.append((kept, decision.covariates, decision.index, clipped, weights))
            del self.replay[: -self.memory]
            if seen % (self.train_every << max((seen // (20 * self.train_every)).bit_length() - 1, 0)) == 0:
                self._train()

    def _train(self) -> None:
        """Maximise the posterior of every member on the replay, from where it stands."""
        parts = [self._inputs(x, z) for x, z, *_ in self.replay]
        sizes = np.array([len(part[0]) for part in parts])
        starts, total = np.cumsum(sizes) - sizes, len(parts)
        readings, patches = (tensor(np.concatenate([part[j] for part in parts])) for j in (0, 2))
        questions = tensor(np.stack([part[1] for part in parts]))
        arms = torch.from_numpy(np.concatenate([index for _, _, index, _, _ in self.replay]))
        rewards = tensor(np.array([reward for *_, reward, _ in self.replay]))
        mass = tensor(np.stack([weights for *_, weights in self.replay], axis=1))
        free = {name: value.clone().requires_grad_(True) for name, value in self.weights.items()}
        optimiser = torch.optim.Adam(free.values(), lr=self.rate)
        for _ in range(self.steps):
            chosen = self.generator.choice(total, size=min(self.batch, total), replace=False)
            owner = np.repeat(np.arange(len(chosen)), sizes[chosen])
            before = np.cumsum(sizes[chosen]) - sizes[chosen]
            rows = np.arange(len(owner)) + (starts[chosen] - before)[owner]
            where, needs, restored = self._heads(
                free, readings[rows], questions[chosen], patches[rows], torch.from_numpy(owner)
            )
            restored = F.pad(restored[..., -1:] if self.arms == 2 else restored, (1, 0))
            picked = restored.gather(-1, arms[rows].expand(self.members, -1)[..., None])[..., 0]
            got = torch.zeros_like(needs[0]).index_add(1, torch.from_numpy(owner), where * picked)
            right = (1.0 - needs[1] + needs[0] * got).clamp(_EDGE, 1.0 - _EDGE)
            y = rewards[chosen]
            likelihood = (mass[:, chosen] * (y * right.log() + (1.0 - y) * (1.0 - right).log())).mean(dim=1)
            apart = sum(
                (((free[name] - self.centre[name]) / SCALES.get(name, 1.0)) ** 2).flatten(1).sum(1) for name in _HEADS
            )
            loss = (apart / (2.0 * self.prior_scale**2 * total) - likelihood).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.weights = {name: value.detach() for name, value in free.items()}

    def merge(self, other: Any) -> None:
        """Refused: networks do not add up."""
        raise ValueError(f"policy {self.name!r} cannot be merged: each worker's networks are its own")

    # State.

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"weights.{name}": value.clone() for name, value in self.weights.items()}
        tensors |= {f"centre.{name}": value.clone() for name, value in self.centre.items()}
        if self.replay:
            contexts, covariates, index, rewards, weights = zip(*self.replay, strict=True)
            tensors["replay.contexts"] = tensor(np.concatenate(contexts))
            tensors["replay.covariates"] = tensor(np.stack(covariates))
            tensors["replay.index"] = torch.from_numpy(np.concatenate(index))
            tensors["replay.sizes"] = torch.tensor([len(part) for part in index])
            tensors["replay.rewards"] = tensor(np.array(rewards))
            tensors["replay.weights"] = tensor(np.stack(weights))
        return tensors

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        loaded: dict[str, dict[str, Tensor]] = {}
        for kind in ("weights", "centre"):
            mine = getattr(self, kind)
            missing = [f"{kind}.{name}" for name in _HEADS if f"{kind}.{name}" not in tensors]
            if missing:
                raise ValueError(f"state of policy {self.name!r} lacks the tensors {missing}")
            loaded[kind] = {
                name: tensor(floats(f"{kind}.{name}", tensors.pop(f"{kind}.{name}"), tuple(mine[name].shape)))
                for name in _HEADS
            }
        kept = {name.removeprefix("replay."): tensors.pop(name) for name in list(tensors) if "replay." in name}
        replay = []
        if kept:
            if set(kept) != _REPLAY:
                raise ValueError(f"the replay tensors of policy {self.name!r} are incomplete: {sorted(kept)}")
            ends = np.cumsum(ints("replay.sizes", kept["sizes"], (None,)))
            contexts = floats("replay.contexts", kept["contexts"], (int(ends[-1]), len(self._read)))
            covariates = floats("replay.covariates", kept["covariates"], (len(ends), self.covariates))
            arms = ints("replay.index", kept["index"], (int(ends[-1]),))
            rewards = floats("replay.rewards", kept["rewards"], (len(ends),))
            weights = floats("replay.weights", kept["weights"], (len(ends), self.members))
            for rows, z, reward, own in zip(
                np.split(np.arange(ends[-1]), ends[:-1]), covariates, rewards, weights, strict=True
            ):
                replay.append((contexts[rows], z, arms[rows], float(reward), own))
        super()._load_tensors(tensors)
        self.weights, self.centre, self.replay = loaded["weights"], loaded["centre"], replay
