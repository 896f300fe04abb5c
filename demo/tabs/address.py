"""The address of a page keeps what was asked: picture, question, policy and terms, so that a link shows them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

OWN = "own"
"""What the address calls a picture of the visitor's, which is kept nowhere."""
LONGEST = 600
"""Letters of one value that are read."""


@dataclass(frozen=True)
class Address:
    """What an address says, as text; empty where it says nothing. Nothing in it has been checked.

    Attributes
    ----------
    model, picture, question
        Name of the model, title of a picture of the gallery (or `OWN`), the words asked.
    policy, price, limit, realizer, budgets
        As of `demo.host.Settings`; ``budgets`` with dots between.
    """

    model: str = ""
    picture: str = ""
    question: str = ""
    policy: str = ""
    price: str = ""
    limit: str = ""
    realizer: str = ""
    budgets: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Address:
        """The known parts of a query; others (themes, signatures of a host) are none of ours."""
        return cls(**{name: str(query[name])[:LONGEST] for name in cls.__dataclass_fields__ if name in query})

    def __str__(self) -> str:
        """The query, from its question mark on; parts that say nothing are left out."""
        said = {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name))}
        return "?" + urlencode(said)

    def __bool__(self) -> bool:
        return self != Address()
