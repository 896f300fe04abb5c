"""What comes out of a policy: `Choice` and `Decision`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from .checks import FloatArray, IntArray, floats, ints, number


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What `_choose` returns: a super-arm and how likely it was."""

    index: IntArray
    log_propensity: float | None = None
    probabilities: FloatArray | None = None
    shadow_price: float = 0.0
    gap: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """One super-arm, and everything that learning, logging and off-policy evaluation need of it.

    Attributes
    ----------
    policy : str
        Registered name of the method that chose.
    index : IntArray, shape [N]
        Chosen arm per patch.
    costs : IntArray, shape [N]
        Cost of each chosen arm.
    values : FloatArray, shape [N, K]
        Values the oracle maximised: the method's, minus price times cost, plus coverage.
    log_propensity : float or None
        Natural logarithm of the probability of this super-arm; None where it has no closed form.
    probabilities : FloatArray, shape [N, K], or None
        Per-patch distribution; only if the patches were drawn independently.
    features : FloatArray or None
        Phi, shape [p] (full-bandit) or [N, p] (semi-bandit).
    contexts : FloatArray, shape [N, d]
    covariates : FloatArray, shape [m]
    price, shadow_price, gap : float
        Price paid per unit of cost, the limit's multiplier, and the oracle's proven gap.
    table : IntArray, shape [N, K], or None
        What every arm would have cost; None in logs that are older.
    """

    policy: str
    index: IntArray
    costs: IntArray
    values: FloatArray
    log_propensity: float | None
    probabilities: FloatArray | None
    features: FloatArray | None
    contexts: FloatArray
    covariates: FloatArray
    price: float
    shadow_price: float
    gap: float
    table: IntArray | None = None

    @property
    def cost(self) -> int:
        """Total cost of the super-arm."""
        return int(self.costs.sum())

    @property
    def propensity(self) -> float | None:
        """Probability of the super-arm; may underflow to 0 for many patches, where `log_propensity` does not."""
        return None if self.log_propensity is None else math.exp(self.log_propensity)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a JSON line."""
        return {name: plain(getattr(self, name)) for name in _DECISION_FIELDS}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Decision:
        """Read back a JSON line.

        Raises
        ------
        ValueError
            If a field is missing or malformed.
        """
        missing = [name for name in _DECISION_FIELDS if name not in data and name != "table"]
        if missing:
            raise ValueError(f"a logged decision lacks {missing}; it was not written by Decision.to_dict")
        patches, features = len(data["index"]), data["features"]
        if patches == 0:
            raise ValueError("a logged decision needs at least one patch, its super-arm is empty")
        log_p, optional, table = data["log_propensity"], data["probabilities"], data.get("table")
        return cls(
            policy=str(data["policy"]),
            index=ints("index", data["index"], (patches,)),
            costs=ints("costs", data["costs"], (patches,)),
            values=floats("values", data["values"], (patches, None)),
            log_propensity=None if log_p is None else number("log_propensity", log_p),
            probabilities=None if optional is None else floats("probabilities", optional, (patches, None)),
            features=None if features is None else floats("features", features, (None,) * np.ndim(features)),
            contexts=floats("contexts", np.reshape(data["contexts"], (patches, -1)), (patches, None)),
            covariates=floats("covariates", data["covariates"], (None,)),
            price=number("price", data["price"]),
            shadow_price=number("shadow_price", data["shadow_price"]),
            gap=number("gap", data["gap"]),
            table=None if table is None else ints("table", table, (patches, None)),
        )


_DECISION_FIELDS = tuple(item.name for item in fields(Decision))


def plain(value: Any, finite: bool = False) -> Any:
    """Turn tensors, arrays and devices into what JSON can hold; with `finite`, NaN and infinity become None."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, torch.device):
        return str(value)
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(item, finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, finite) for item in value]
    return value
