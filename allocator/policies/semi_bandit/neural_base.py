"""Neural bandits with gradient features, learned from one reward per patch.

The reward of (patch i, arm k) is f(u; W) with u = x_i (x) phi_k. Uncertainty is linear in the gradient g = df/dW:
s^2 = g' Z^-1 g with Z = lambda I + sum g g' over the arms played (Zhou, Li & Gu 2020). The paper's network carries a
factor sqrt(m) and divides by m again (g / sqrt(m), loss / m); here the 1 / sqrt(m) is in the second layer's start, so
both are gone. The network has one hidden layer, so the gradient is written down instead of traced, and it starts as
the zero function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ...checks import FloatArray, IntArray, count, floats, number
from ...decision import Decision
from ...linalg import tensor
from ...policy import Policy
from ...posterior import Posterior
from ...problem import Problem


@dataclass(kw_only=True, eq=False)
class NeuralSemi(Policy):
    """Base of the gradient-feature methods; subclasses say how a mean and a deviation become a value.

    Covariates are recorded, not modelled, as in `SemiLinear`.

    Parameters
    ----------
    dim, arms : int
        Context dimension d and number of arms K.
    arm_features : array-like, shape [K, q], optional
        phi; an arm whose row is zero is worth exactly 0. Default: the identity, the paper's disjoint coding.
    width : int
        Hidden units (even).
    nu : float
        Exploration: the deviation is nu s, in reward units.
    ridge : float
        lambda of Z and of the pull of the weights to their start.
    full : bool
        Keep the full matrix Z instead of its diagonal; it has (d q + 1) width rows, so only for small networks.
    train_every, steps, batch, rate
        Rounds between trainings; Adam steps, rows and learning rate of each.
    memory : int
        Rows (patches) kept for training, the most recent ones.
    **options
        See `Policy`.
    """

    feedback: ClassVar[Literal["none", "full", "semi"]] = "semi"
    needs_model: ClassVar[bool] = True

    arm_features: Any = None
    width: int = 64
    nu: float = 0.1
    ridge: float = 1.0
    full: bool = False
    train_every: int = 20
    steps: int = 40
    batch: int = 128
    rate: float = 3e-3
    memory: int = 20000
    phi: FloatArray = field(init=False, repr=False)
    weights: list[Tensor] = field(init=False, repr=False)
    start: list[Tensor] = field(init=False, repr=False)
    diagonal: Tensor = field(init=False, repr=False)
    matrix: Posterior | None = field(init=False, repr=False, default=None)
    inputs: list[FloatArray] = field(init=False, repr=False)
    targets: list[FloatArray] = field(init=False, repr=False)
    scale: tuple[float, float] = field(init=False, repr=False, default=(0.0, 1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("width", "train_every", "steps", "batch", "memory"):
            count(option, getattr(self, option))
        for option in ("ridge", "rate"):
            if number(option, getattr(self, option)) <= 0:
                raise ValueError(f"{option} must be positive, got {getattr(self, option)}")
        number("nu", self.nu, low=0.0)
        if self.width % 2:
            raise ValueError(
                f"width must be even (the network starts as a difference of two halves), got {self.width}"
            )
        arms, dim = count("arms", self.arms), count("dim", self.dim)
        given = self._default_features(arms) if self.arm_features is None else self.arm_features
        self.phi = floats("arm_features", given, (arms, None))
        size = dim * self.phi.shape[1]
        half = self.width // 2
        first = self.generator.standard_normal((half, size)) * (2 / size) ** 0.5
        second = self.generator.standard_normal(half) / self.width**0.5
        self.weights = [
            tensor(np.vstack([first, first])),
            tensor(np.concatenate([second, -second])),
        ]
        self.start = [weight.clone() for weight in self.weights]
        parameters = self.width * (size + 1)
        self.diagonal = torch.full((parameters,), self.ridge, dtype=torch.float64)
        self.matrix = Posterior(parameters, precision=self.ridge) if self.full else None
        self.inputs, self.targets = [], []

    def _default_features(self, arms: int) -> FloatArray:
        return np.eye(arms)

    def _explore(self, mean: FloatArray, deviation: FloatArray) -> FloatArray:
        """Values from means and deviations, both [N, K] in reward units."""
        raise NotImplementedError

    def _joint(self, contexts: FloatArray) -> Tensor:
        """u of every (patch, arm), [N K, d q]."""
        return tensor(np.einsum("nd,kq->nkdq", contexts, self.phi).reshape(-1, self.start[0].shape[1]))

    def _forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """f [n] and the hidden activations [n, width]."""
        hidden = torch.relu(u @ self.weights[0].T)
        return hidden @ self.weights[1], hidden

    def _gradient(self, u: Tensor, hidden: Tensor) -> Tensor:
        """df/dW of every row, [n, p]."""
        inner = (hidden > 0) * self.weights[1]
        return torch.cat([(inner[:, :, None] * u[:, None, :]).flatten(1), hidden], dim=1)

    def _variance(self, u: Tensor, hidden: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix.sigma(self._gradient(u, hidden)).square()
        # g'Z^-1 g with diagonal Z factorises into two products, so the gradients are never formed.
        cut = self.start[0].numel()
        first = (1.0 / self.diagonal[:cut]).view(self.start[0].shape)
        inner = ((hidden > 0) * self.weights[1]).square()
        return (inner * (u.square() @ first.T)).sum(dim=1) + hidden.square() @ (1.0 / self.diagonal[cut:])

    def _score(self, problem: Problem) -> FloatArray:
        shape = problem.costs.shape
        u = self._joint(problem.contexts)
        fitted, hidden = self._forward(u)
        known = np.broadcast_to(self.phi.any(axis=1), shape)
        middle, spread = self.scale
        mean = np.where(known, middle + spread * fitted.view(shape).numpy(), 0.0)
        if problem.temperature == 0.0 or self.nu == 0.0:
            return mean
        deviation = self._variance(u, hidden).clamp_min(0.0).sqrt().view(shape).numpy()
        return self._explore(mean, np.where(known, self.nu * problem.temperature * deviation, 0.0))

    def _features(self, contexts: FloatArray, covariates: FloatArray, index: IntArray) -> FloatArray:
        return (contexts[:, :, None] * self.phi[index][:, None, :]).reshape(len(index), -1)

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        for done, (decision, reward) in enumerate(zip(decisions, rewards, strict=True)):
            known = self.phi[decision.index].any(axis=1)
            rows = self._features(decision.contexts, decision.covariates, decision.index)[known]
            if len(rows):
                self.inputs.append(rows)
                self.targets.append(reward[known])
                u = tensor(rows)
                gradient = self._gradient(u, self._forward(u)[1])
                if self.matrix is not None:
                    self.matrix.update(gradient.numpy(), np.zeros(len(rows)))
                else:
                    self.diagonal += gradient.square().sum(dim=0)
            if (self.rounds + done + 1) % self.train_every == 0 and self.inputs:
                self._train()

    def _train(self) -> None:
        """Least squares on the standardised replay, with a pull of the weights to their start."""
        x, y = np.concatenate(self.inputs)[-self.memory :], np.concatenate(self.targets)[-self.memory :]
        self.inputs, self.targets = [x], [y]
        self.scale = (float(y.mean()), float(y.std()) or 1.0)
        u, target = tensor(x), tensor((y - self.scale[0]) / self.scale[1])
        weights = [weight.clone().requires_grad_() for weight in self.weights]
        optimiser = torch.optim.Adam(weights, lr=self.rate)
        for _ in range(self.steps):
            rows = tensor(self.generator.integers(len(y), size=min(self.batch, len(y))))
            fitted = torch.relu(u[rows] @ weights[0].T) @ weights[1]
            pull = sum((w - w0).square().sum() for w, w0 in zip(weights, self.start, strict=True))
            loss = torch.nn.functional.mse_loss(fitted, target[rows]) + self.ridge / len(y) * pull
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.weights = [weight.detach() for weight in weights]

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            "first": self.weights[0].clone(),
            "second": self.weights[1].clone(),
            "start.first": self.start[0].clone(),
            "start.second": self.start[1].clone(),
            "diagonal": self.diagonal.clone(),
            "scale": torch.tensor(self.scale, dtype=torch.float64),
        }
        if self.inputs:
            tensors["inputs"] = tensor(np.concatenate(self.inputs))
            tensors["targets"] = tensor(np.concatenate(self.targets))
        if self.matrix is not None:
            tensors |= {f"matrix.{name}": tensor for name, tensor in self.matrix.state_dict().items()}
        return tensors

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors().items() if "matrix." not in name}
        shapes.pop("inputs", None)
        shapes.pop("targets", None)
        matrix = {name.removeprefix("matrix."): value for name, value in tensors.items() if name.startswith("matrix.")}
        replay = {name: tensors[name] for name in ("inputs", "targets") if name in tensors}
        rest = {name: value for name, value in tensors.items() if name not in replay and "matrix." not in name}
        if set(rest) != set(shapes) or bool(matrix) != self.full or len(replay) == 1:
            raise ValueError(
                f"policy {self.name!r} needs the tensors {sorted(shapes)}, the state holds {sorted(tensors)}"
            )
        loaded = {name: tensor(floats(name, rest[name], shape)) for name, shape in shapes.items()}
        inputs = floats("inputs", replay["inputs"], (None, shapes["first"][1])) if replay else None
        if self.matrix is not None:
            self.matrix.load_state_dict(matrix)
        self.weights = [loaded["first"], loaded["second"]]
        self.start = [loaded["start.first"], loaded["start.second"]]
        self.diagonal = loaded["diagonal"]
        self.scale = (float(loaded["scale"][0]), float(loaded["scale"][1]))
        self.inputs = [] if inputs is None else [inputs]
        self.targets = [] if inputs is None else [floats("targets", replay["targets"], (len(inputs),))]
