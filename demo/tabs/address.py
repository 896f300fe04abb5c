"""The address of a page keeps what was asked: picture, question, policy and terms, so that a link shows them again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from ..host import Host, Settings

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

    @classmethod
    def of(cls, model: str, picture: str, question: str, settings: Settings, host: Host) -> Address:
        """What was asked of a host; terms that are its own are left out."""
        return cls(
            model=model,
            picture=picture,
            question=question,
            policy="" if settings.policy == host.default_policy else settings.policy,
            price="" if settings.price is None else f"{settings.price:g}",
            limit="" if settings.limit is None else f"{settings.limit:g}",
            realizer="" if settings.realizer == Settings().realizer else settings.realizer,
            budgets="" if settings.budgets in ((), host.budgets) else ".".join(map(str, settings.budgets)),
        )

    def known(self, name: str, offered: Collection[str], otherwise: str, wrong: list[str]) -> str:
        """A part, if it is one of those offered; else ``otherwise``, and a line in ``wrong``."""
        value = str(getattr(self, name))
        if value and value not in offered:
            wrong.append(f"{name} {value!r}")
        return value if value in offered else otherwise

    def settings(self, host: Host, wrong: list[str]) -> Settings:
        """The terms that a host can keep; those that it can't go to ``wrong``."""
        named = self.budgets.split(".") if self.budgets else []
        if unknown := [budget for budget in named if budget not in map(str, host.budgets)]:
            wrong.append(f"budgets {'.'.join(unknown)!r}")
        return Settings(
            policy=self.known("policy", host.policies(), host.default_policy, wrong),
            price=self._share("price", wrong),
            limit=self._share("limit", wrong),
            realizer=self.known("realizer", host.realizers(), Settings().realizer, wrong),
            budgets=tuple(budget for budget in host.budgets if str(budget) in named),
        )

    def _share(self, name: str, wrong: list[str]) -> float | None:
        """A number in [0, 1]."""
        value = getattr(self, name)
        try:
            if value and 0 <= float(value) <= 1:
                return float(value)
        except ValueError:
            pass
        if value:
            wrong.append(f"{name} {value!r}")
        return None

    def __str__(self) -> str:
        """The query, from its question mark on; parts that say nothing are left out."""
        said = {name: value for name in self.__dataclass_fields__ if (value := getattr(self, name))}
        return "?" + urlencode(said)

    def __bool__(self) -> bool:
        return self != Address()
