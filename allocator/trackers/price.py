"""A price that keeps a stream of decisions at its target mean cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checks import number


@dataclass(kw_only=True, eq=False)
class PriceTracker:
    """Dual ascent: lambda <- max(0, lambda + eta (spent - target)).

    The multiplier of a long-run budget, learned online (Agrawal & Devanur 2016, linear contextual bandits with
    knapsacks). Pass `price` to `Policy.select`, then call `update` with what the decision spent.

    Parameters
    ----------
    target : float
        Mean cost per decision to hold, in tokens.
    eta : float
        Step, in price units per token of excess. The price has settled to within about eta x (spread of the cost).
    price : float
        Starting price, in reward units per token.

    Attributes
    ----------
    spent : float
        Total cost so far.
    rounds : int
        Decisions so far.
    """

    target: float
    eta: float
    price: float = 0.0
    spent: float = 0.0
    rounds: int = 0

    def __post_init__(self) -> None:
        number("target", self.target, low=0.0)
        number("price", self.price, low=0.0)
        if number("eta", self.eta) <= 0:
            raise ValueError(f"eta must be positive, got {self.eta}")

    def update(self, spent: float) -> float:
        """Move the price after a decision that cost `spent` tokens; returns the new price.

        Raises
        ------
        TypeError, ValueError
            If `spent` is negative, NaN or infinite; the tracker is unchanged then.
        """
        spent = number("spent", spent, low=0.0)
        self.price = max(0.0, self.price + self.eta * (spent - self.target))
        self.spent += spent
        self.rounds += 1
        return self.price

    @property
    def mean(self) -> float:
        """Mean cost per decision so far (0 before the first)."""
        return self.spent / self.rounds if self.rounds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "target": self.target,
            "eta": self.eta,
            "price": self.price,
            "spent": self.spent,
            "rounds": self.rounds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is incomplete or malformed; the tracker is unchanged then.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(f"price tracker state must hold {sorted(self.state_dict())}, got {sorted(state)}")
        restored = PriceTracker(**state)
        self.__dict__.update(restored.__dict__)
