"""Balancing: three tensions, each a bounded function of the question and the scores.

compress <-> particularise sets the price of a token, exploit <-> explore the temperature of the posterior, and
focus <-> diversify a coverage value per patch and budget. After Vervaeke, Lillicrap and Richards, "Relevance
realization and the emerging framework in cognitive science", J. Logic Comput. 22(1), 2012, where opponent pairs, not
fixed goals, settle what is relevant. Every tension has a sign in [-1, 1], a strength, and a switch: strength 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .config import TENSIONS

if TYPE_CHECKING:
    from .scene.contract import Scene

# Words that ask for something small or counted. English, and no more than a hint: in another language it never fires,
# and a learned policy sees the question's embedding anyway.
FINE_WORDS = (
    "read small tiny fine little text word words number numbers digit digits letter letters written write says say "
    "label price time date name brand plate many count larger detail details exactly"
).split()


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Strengths of the tensions; zero switches one off.

    Parameters
    ----------
    price
        Octaves by which the price may rise or fall: it stays within a factor of ``2 ** price``.
    temperature
        Octaves by which the posterior's scale may rise or fall.
    coverage
        Share of the token price that is given back to, or charged on top of, single patches.
    unit
        Reward units per full-detail image in which coverage is reckoned, so that it also acts at price zero.
    fine_words
        Lower-case words that mark a question after detail.

    Raises
    ------
    ValueError
        If a strength is negative, not finite or, for ``coverage``, above 1.
    """

    price: float = 0.25
    temperature: float = 0.25
    coverage: float = 0.1
    unit: float = 0.3
    fine_words: tuple[str, ...] = tuple(FINE_WORDS)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "fine_words":
                continue
            most = 1.0 if field.name == "coverage" else 4.0
            if not (isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= most):
                raise ValueError(f"BalanceConfig({field.name}={value!r}) must be a number from 0 (off) to {most:g}.")


def balance_config(tensions: Iterable[str]) -> BalanceConfig:
    """The default strength for the tensions named, none for the others."""
    off: dict[str, Any] = {name: 0.0 for name in TENSIONS if name not in set(tensions)}
    return BalanceConfig(**off)


@dataclass(frozen=True)
class Balance:
    """What balancing sets.

    Attributes
    ----------
    price
        The price, in the unit in which it was passed, times a factor near one.
    temperature
        Factor on the posterior's standard deviation, near one.
    coverage
        ``[N, K]`` float32 reward units to add to the values; zero at the floor.
    log
        Every signal and sign behind those that act, for the record.
    """

    price: float
    temperature: float
    coverage: Tensor
    log: dict[str, float]


def fineness(question: str, fine_words: tuple[str, ...] = tuple(FINE_WORDS)) -> float:
    """How much a question asks for detail: 0 without a fine word, 1/2 with one, 3/4 with two, ..."""
    words = set(re.findall(r"\w+", question.lower()))
    return 1.0 - 0.5 ** len(words & set(fine_words))


def flatness(scores: Tensor) -> float:
    """Entropy of scores as a share of its maximum: 0 for all on one patch, 1 for all alike (or nothing anywhere).

    A single patch is neither: 0.5.
    """
    if scores.numel() < 2:
        return 0.5
    weights = scores.double().clamp_min(0)
    total = float(weights.sum())
    if total <= 0:
        return 1.0
    p = weights / total
    return min(1.0, max(0.0, float(-torch.special.xlogy(p, p).sum()) / math.log(p.numel())))


def disagreement(scores: Mapping[str, Tensor]) -> float:
    """How little the scorers correlate over patches: 0 when they rank alike, 1/2 when unrelated, 1 when opposed.

    A scorer that tells no patch from another takes no part; with fewer than two left there is nothing to compare: 0.5.
    """
    rows = torch.stack([s.double().cpu() for s in scores.values()]) if scores else torch.zeros(0, 1)
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1)
    rows = rows[norms > 1e-6] / norms[norms > 1e-6, None]
    if len(rows) < 2:
        return 0.5
    among = rows @ rows.T
    pairs = len(rows) * (len(rows) - 1)
    return min(1.0, max(0.0, (1.0 - float(among.sum() - among.trace()) / pairs) / 2))


def novelty(scene: Scene, relevance: Tensor) -> Tensor:
    """``[N]`` in [0, 1]: 1 far from every more relevant patch of its view, 0 on top of one, 1/2 beside one."""
    place = torch.tensor([[p.top + p.bottom, p.left + p.right] for p in scene.patches]).double() / 2
    side = torch.tensor([max(p.height, p.width) for p in scene.patches]).double()
    view = torch.tensor([[p.entry, p.view] for p in scene.patches])
    distance = torch.cdist(place, place) / side[:, None]
    near = (1 - distance / 2).clamp_min(0) * (view[:, None] == view[None]).all(-1)
    stronger = relevance[None] > relevance[:, None]
    return (1 - (near * stronger).amax(1)).float()


def _mean(scores: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([score.float().cpu() for score in scores.values()]).mean(0)


class Balancer:
    """The three tensions.

    Parameters
    ----------
    config
        Strengths.
    relevance
        From the scores by name to ``[N]`` where the question looks, as `Relevance.join`; by default their mean.
    """

    def __init__(
        self, config: BalanceConfig | None = None, relevance: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    ) -> None:
        self.config = config or BalanceConfig()
        self.relevance = relevance or _mean

    def __call__(self, scene: Scene, scores: Mapping[str, Tensor], price: float) -> Balance:
        """Weigh one question.

        Parameters
        ----------
        scene
            The question; only its words, patches and costs are read.
        scores
            Per scorer ``[N]`` in [0, 1]; at least one.
        price
            Price before balancing, >= 0.

        Returns
        -------
        Balance

        Raises
        ------
        ValueError
            If there are no scores, one has the wrong length or is not finite, or ``price`` is negative or not
            finite.
        """
        count = len(scene.patches)
        if not scores:
            raise ValueError("Balancing needs at least one score; name one in ArrCocConfig(scorers=...).")
        for name, score in scores.items():
            if tuple(score.shape) != (count,) or not bool(score.isfinite().all()):
                raise ValueError(f"Score {name!r} must hold {count} finite numbers, one per patch; it is {score}.")
        if not (math.isfinite(price) and price >= 0):
            raise ValueError(f"price={price!r} must be a finite number >= 0.")
        config, log = self.config, dict[str, float]()
        factor, temperature, coverage = 1.0, 1.0, torch.zeros(scene.costs.shape)
        if config.price:
            fine = fineness(scene.question, config.fine_words)
            factor = 2.0 ** (-config.price * fine / 2)
            log |= {"fineness": fine, "compress": -fine / 2, "price_factor": factor}
        if not (config.temperature or config.coverage):
            return Balance(price * factor, temperature, coverage, log)
        relevance = self.relevance(scores).float().cpu()
        flat = flatness(relevance)
        log["flatness"] = flat
        if config.temperature:
            apart = disagreement(scores)
            temperature = 2.0 ** (config.temperature * (flat + apart - 1.0))
            log |= {"disagreement": apart, "explore": flat + apart - 1.0, "temperature": temperature}
        if config.coverage:
            coverage = self._coverage(scene, relevance, 2.0 * flat - 1.0)
            log |= {"diversify": 2.0 * flat - 1.0, "coverage": float(coverage.abs().max())}
        return Balance(price * factor, temperature, coverage, log)

    def _coverage(self, scene: Scene, relevance: Tensor, diversify: float) -> Tensor:
        """Diversify: give back part of the price of a first step beyond the floor, least beside a stronger patch.
        Focus: charge more for every step of a patch, most for the least relevant."""
        costs = scene.costs.float().cpu()
        token = self.config.coverage * self.config.unit / float(costs[:, -1].sum().clamp_min(1))
        beyond = costs - costs[:, :1]
        if diversify >= 0:
            # An arm that costs no more than the floor is the floor.
            dearer = torch.where(beyond > 0, beyond, torch.inf).amin(1, keepdim=True)
            step = torch.where(beyond > 0, dearer.nan_to_num(posinf=0.0), 0.0)
            return token * diversify * novelty(scene, relevance)[:, None] * step
        lesser = 1 - relevance / relevance.max().clamp_min(1e-9)
        return token * diversify * lesser[:, None] * beyond
