"""A neural encoder under the aggregated Bayesian last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...checks import FloatArray, count, floats, ints, number
from ...decision import Decision
from ...linalg import tensor
from .base import Aggregated

_LAYERS = ("hidden.weight", "hidden.bias")


@dataclass(kw_only=True, eq=False)
class NeuralAggregated(Aggregated):
    """Aggregated model on e(x) = [x, relu(W x + c)]: the encoder is trained on replay, the last layer stays Bayesian.

    After every training the posterior is rebuilt from the replay with the new features: statistics of old features are
    meaningless under new ones. The raw context stays among the features, so the method starts as, and never falls far
    below, the linear one. Riquelme, Tucker & Snoek 2018 (neural linear); Xu et al. 2020 (Neural-LinUCB).

    Parameters
    ----------
    width : int
        Hidden units.
    train_every : int
        Rewards between trainings.
    steps : int
        Adam steps per training.
    batch : int
        Super-arms per step.
    rate : float
        Learning rate.
    memory : int
        Rewards kept for replay, the most recent ones; the posterior knows no older ones after a training.
    **options
        See `Aggregated`; the prior mean applies to the raw context, hidden features have prior mean zero.
    """

    width: int = 32
    train_every: int = 50
    steps: int = 60
    batch: int = 64
    rate: float = 3e-3
    memory: int = 5000
    hidden: torch.nn.Linear = field(init=False, repr=False)
    replay: list[tuple[FloatArray, FloatArray, np.ndarray, float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for option in ("width", "train_every", "steps", "batch", "memory"):
            count(option, getattr(self, option))
        if number("rate", self.rate) <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        given = self.prior_mean, self.prior_precision
        self._widen_prior()
        super().__post_init__()
        self.prior_mean, self.prior_precision = given  # config() must return what the caller gave
        d = count("dim", self.dim)
        self.hidden = torch.nn.utils.skip_init(torch.nn.Linear, d, self.width, dtype=torch.float64)
        with torch.no_grad():
            self.hidden.weight.copy_(tensor(self.generator.standard_normal((self.width, d)) * (2 / d) ** 0.5))
            self.hidden.bias.zero_()
        self.replay = []

    def _widen_prior(self) -> None:
        shape = (count("arms", self.arms, low=2) - 1, count("dim", self.dim))
        pad = ((0, 0), (0, self.width))
        if self.prior_mean is not None:
            self.prior_mean = np.pad(floats("prior_mean", self.prior_mean, shape), pad)
        if np.ndim(self.prior_precision) > 0:
            precision = floats("prior_precision", self.prior_precision, shape)
            self.prior_precision = np.pad(precision, pad, constant_values=float(precision.min(initial=np.inf)))

    def _width(self) -> int:
        return super()._width() + self.width

    def _encode(self, contexts: FloatArray) -> FloatArray:
        with torch.no_grad():
            hidden = torch.relu(self.hidden(tensor(contexts))).numpy()
        return np.hstack([contexts, hidden / self.width**0.5])

    def _phi(self, decision: Decision) -> FloatArray:
        # Never the decision's own features: the encoder may have been trained since it was taken.
        return self._features(decision.contexts, decision.covariates, decision.index)

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        for decision, reward in zip(decisions, rewards, strict=True):
            super()._learn([decision], [reward])
            self.replay.append((decision.contexts, decision.covariates, decision.index, float(reward)))
            del self.replay[: -self.memory]
            if self.posterior.rounds % self.train_every == 0:
                self._train()
                self._rebuild()

    def forget(self, gamma: float) -> None:
        """Keep the newest share gamma of the replay, since the posterior is rebuilt from it."""
        kept = round(number("gamma", gamma, low=0.0, high=1.0) * len(self.replay))
        del self.replay[: len(self.replay) - kept]
        self._rebuild()

    def _rebuild(self) -> None:
        """Recompute the last layer's statistics with the present encoder."""
        seen = self.posterior.rounds
        self.posterior.reset()
        if self.replay:
            phi = np.stack([self._features(x, z, index) for x, z, index, _ in self.replay])
            self.posterior.update(phi, np.array([reward for *_, reward in self.replay]))
        self.pool = None  # of features that are no more
        self.posterior.rounds = seen  # rewards learned from, also those the replay has dropped

    def _train(self) -> None:
        """Fit encoder and a throw-away last layer to the standardised replay."""
        y = np.array([reward for *_, reward in self.replay])
        target = tensor((y - y.mean()) / (y.std() + 1e-8))
        sizes = np.array([len(index) for _, _, index, _ in self.replay])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        x = tensor(np.concatenate([x for x, *_ in self.replay]))
        arms = tensor(np.concatenate([index for _, _, index, _ in self.replay]))
        z = tensor(np.stack([np.concatenate([[1.0], z]) for _, z, *_ in self.replay]))
        head = torch.zeros(self.slots[0] + 1, self.slots[1], dtype=torch.float64, requires_grad=True)
        shift = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([*self.hidden.parameters(), head, shift], lr=self.rate)
        for _ in range(self.steps):
            chosen = self.generator.choice(len(y), size=min(self.batch, len(y)), replace=False)
            owner = np.repeat(np.arange(len(chosen)), sizes[chosen])
            before = np.cumsum(sizes[chosen]) - sizes[chosen]
            rows = tensor(np.arange(len(owner)) + (starts[chosen] - before)[owner])
            encoded = torch.cat([x[rows], torch.relu(self.hidden(x[rows])) / self.width**0.5], dim=1)
            picked = head * (torch.arange(len(head)) > 0)[:, None]  # the floor's features are zero
            gains = (encoded * picked[arms[rows]]).sum(dim=1)
            fitted = (z[chosen] @ shift).index_add(0, tensor(owner), gains)
            loss = torch.nn.functional.mse_loss(fitted, target[chosen]) + 1e-3 * head.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def merge(self, other: Any) -> None:
        """Refused: posteriors over different encoders do not add up."""
        raise ValueError(f"policy {self.name!r} cannot be merged: each worker's encoder has features of its own")

    def _tensors(self) -> dict[str, Tensor]:
        tensors = super()._tensors()
        tensors["hidden.weight"] = self.hidden.weight.detach().clone()
        tensors["hidden.bias"] = self.hidden.bias.detach().clone()
        if self.replay:
            tensors["replay.contexts"] = tensor(np.concatenate([x for x, *_ in self.replay]))
            tensors["replay.covariates"] = tensor(np.stack([z for _, z, *_ in self.replay]))
            tensors["replay.index"] = tensor(np.concatenate([index for _, _, index, _ in self.replay]))
            tensors["replay.sizes"] = torch.tensor([len(index) for _, _, index, _ in self.replay])
            tensors["replay.rewards"] = torch.tensor([reward for *_, reward in self.replay], dtype=torch.float64)
        return tensors

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        missing = [name for name in _LAYERS if name not in tensors]
        if missing:
            raise ValueError(f"state of policy {self.name!r} lacks the tensors {missing}")
        weights = [
            floats(name, tensors.pop(name), tuple(getattr(self.hidden, name.split(".")[1]).shape)) for name in _LAYERS
        ]
        kept = {
            name.removeprefix("replay."): tensors.pop(name) for name in list(tensors) if name.startswith("replay.")
        }
        replay = []
        if kept:
            if set(kept) != {"contexts", "covariates", "index", "sizes", "rewards"}:
                raise ValueError(f"the replay tensors of policy {self.name!r} are incomplete: {sorted(kept)}")
            ends = np.cumsum(ints("replay.sizes", kept["sizes"], (None,)))
            contexts = floats("replay.contexts", kept["contexts"], (int(ends[-1]), self.dim))
            covariates = floats("replay.covariates", kept["covariates"], (len(ends), self.covariates))
            arms = ints("replay.index", kept["index"], (int(ends[-1]),))
            rewards = floats("replay.rewards", kept["rewards"], (len(ends),))
            for rows, z, reward in zip(np.split(np.arange(ends[-1]), ends[:-1]), covariates, rewards, strict=True):
                replay.append((contexts[rows], z, arms[rows], float(reward)))
        super()._load_tensors(tensors)
        with torch.no_grad():
            for name, array in zip(_LAYERS, weights, strict=True):
                getattr(self.hidden, name.split(".")[1]).copy_(tensor(array))
        self.replay = replay
