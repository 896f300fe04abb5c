"""What a broken contract raises."""

from __future__ import annotations


class Broken(AssertionError):
    """A rule of the contract does not hold; the message names the part, the rule and the remedy."""


def require(holds: object, message: str) -> None:
    """Raise `Broken` unless a rule holds."""
    if not holds:
        raise Broken(message)
