"""What is known of a question, as numbers: one context vector per patch, and covariates of the question as a whole.

The vectors (``Contexts.slots`` names every entry) are bounded by construction, so they need no running statistics.
Value means gain over the floor. A patch can only gain if the question is about it and the glance has not already
answered it, so the first slots are multiples of ``relevance_doubt``: the relevance ``r`` of the patch relative to the
most relevant one (see `Relevance`) times the model's doubt ``u`` about the answer its glance gives. With
``loss_b`` the detail that budget ``b`` destroys *where the question looks* and ``q`` a random projection of the
question, they are ``r u`` times

    loss_b, 1, u, q, each score that is blind to the question

and, where several scorers read the question, the relative score of each, so that a learner may trust one more. The
score heuristic "worth of a budget = relevance times doubt times the detail it restores" is linear in them; it is
the prior mean of the learners and, frozen, the baseline they must beat.

Where relevance or doubt is wrong, no weight on such a product can say so. The ``free`` slots, whose prior mean is
zero, can: readings of where to look, each as shares over the patches (``share relevance``; what else its scorer reads,
as ``share peak``, the maximum over layers; ``share words``, the similarity of glance and question in the embedding
space; relevance times the detail lost; what relevance leaves out; each other score; the detail lost; an even spread),
some times doubt or ``q``, and the detail lost without any factor.

The covariates explain how hard the question is whatever is allocated: ``doubt`` u, the probability ``other_mass`` that
the glance gives to all other answers, their squares, ``q`` and ``u q``; free, also the log-odds of doubt, and whether
relevance can be trusted: how flat it is, whether it agrees with the words, what detail its first patch has lost.
Without them hard questions, which are given more tokens, would make detail look harmful.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..balancing import flatness
from ..knowing import Scorer
from ..knowing.detail import DetailLoss, scene_detail_loss
from ..knowing.doubt import Doubt
from ..knowing.participatory import word_map
from ..knowing.relevance import Relevance

if TYPE_CHECKING:
    from ..scene.contract import Scene

QUESTION_WIDTH = 8
PRIOR_STRENGTH = 1.0
"""Reward the score heuristic expects from restoring all detail of a patch of relevance and doubt 1."""
PRIOR_PRECISION = 10.0
"""Prior precision of the heuristic's slots, in observations of unit noise."""
FREE_PRECISION = 40.0
"""That of the free slots: shrunk harder, since there are more of them and most questions need none."""
WORTHLESS = 0.01
"""Where relevance times doubt (free: doubt alone) is below this, the detail lost is not measured: no more can be
gained there."""
TYPICAL_LOSS = 0.4
"""Share of local detail that a typical picture loses per share of resolution given up, where none was measured: fitted
to the means over reference questions, .25, .17 and .07 at 64, 128 and 256 of 400 tokens (eval/records/knowing)."""
LOG_ODDS = 3.0
"""Log-odds of doubt are divided by this, and cut at a thousand to one, to be of the size of other covariates."""
GATES = {"relevance": 0.0, "words": -5.5, "even": -5.0, "irrelevance": -7.0}
"""Prior logits of the readings, -6 where none is named: relevance is trusted until rewards say otherwise."""


class Contexts:
    """Scores and context vectors of a scene.

    Parameters
    ----------
    budgets
        The K budgets.
    scorers
        In the order in which their scores enter.
    confidence
        Whether the doubt is read from the glance (one full-depth pass over the glance tokens); else u = e = 1, and the
        heuristic is relevance times restored detail.
    seed
        Of the question's projection.
    detail
        Whether the detail lost is measured; else it is what is typical of each budget, see `TYPICAL_LOSS`.
    trust
        What a calibration says: ``relevance_floor``, the relevance of any patch relative to the first; ``doubt``,
        knots (doubt, probability that detail changes the answer) between which doubt is interpolated.
    tokenizer
        Of the model's answers: spellings of one answer are then one candidate. See `Doubt`.
    slots
        ``"free"``: all slots. ``"gated"``: only those that are multiples of relevance times doubt.

    Attributes
    ----------
    slots, covariates
        Names of the entries, in order.
    free
        Index of the first free slot.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        scorers: Sequence[Scorer],
        confidence: bool = True,
        seed: int = 0,
        detail: bool = True,
        slots: str = "free",
        trust: Mapping[str, Any] | None = None,
        tokenizer: Any = None,
    ):
        self.scorers, self.confidence, self.seed, self.measured = list(scorers), confidence, seed, detail
        self.typical = torch.tensor([TYPICAL_LOSS * (1 - math.sqrt(b / budgets[-1])) for b in budgets[:-1]])
        self.budgets, self.reduced, self.kind = tuple(budgets), [f"loss_{b}" for b in budgets[:-1]], slots
        questions = [f"q{i}" for i in range(QUESTION_WIDTH)]
        self.between = Doubt(tokenizer)
        self.floor, self.knots = 0.0, None
        if trust is not None:
            self.floor, self.knots = float(trust.get("relevance_floor") or 0.0), trust.get("doubt")
        self.relevance = Relevance(scorers)
        single = len(self.relevance.readers) == 1
        self.factors = [s.name for s in scorers if not (single and s.reads_question)]
        factors = ["doubt", *self.reduced, *questions, *self.factors]
        self.slots = ["relevance_doubt", *(f"relevance_doubt {name}" for name in factors)]
        self.covariates = ["doubt", "other_mass", "doubt doubt", "other_mass other_mass", *questions]
        self.covariates += [f"doubt {q}" for q in questions]
        self.free = len(self.slots)
        told = {f"relevance_doubt {name}" for name in self.factors}
        self._by_relevance = [name not in told for name in self.slots]
        lost = self.reduced[0]
        more = [name for reader in self.relevance.readers for name in reader.more_readings]
        self._shares = ["relevance", *more, "words", f"relevance {lost}", "irrelevance", *self.factors, lost]
        if slots == "free":
            self.slots += [f"share {name}" for name in [*self._shares, "even"]]
            self.slots += [*self.reduced, f"{self.reduced[0]} everywhere"]
            self.slots += [f"share {name} doubt" for name in ("relevance", "words", "even")]
            self.slots += [f"share {name} {q}" for name in ("relevance", "even") for q in questions]
            self.covariates += ["log_odds", "flatness", "agreement", f"{self.reduced[0]} of the first"]
            self._by_relevance += [False] * (len(self.slots) - self.free)

    def prior_mean(self) -> np.ndarray:
        """``[K-1, d]``: arm k is worth relevance times doubt times the detail it restores, ``ru (d_0 - d_k)``."""
        theta = np.zeros((len(self.reduced), len(self.slots)))
        theta[:, self.slots.index(f"relevance_doubt {self.reduced[0]}")] = PRIOR_STRENGTH
        for k, name in enumerate(self.reduced[1:]):
            theta[k, self.slots.index(f"relevance_doubt {name}")] = -PRIOR_STRENGTH
        return theta

    def prior_precision(self, gated: float = PRIOR_PRECISION) -> float | np.ndarray:
        """``[K-1, d]`` precision of the prior, or one number where all slots have the same."""
        if self.free == len(self.slots):
            return gated
        row = np.full(len(self.slots), gated)
        row[self.free :] = FREE_PRECISION
        return np.tile(row, (len(self.reduced), 1))

    def mixture_prior(self) -> dict[str, Any]:
        """Options of the ``neural_mixture`` policy: its readings, where they start, and that need starts as doubt.

        Raises
        ------
        ValueError
            With gated slots, which hold no readings.
        """
        if self.kind != "free":
            raise ValueError(
                "policy='neural_mixture' mixes readings of where to look, which gated slots do not hold; choose "
                "slots='free', or policy='thompson'"
            )
        need = np.zeros(1 + len(self.covariates))
        need[1 + self.covariates.index("log_odds")] = LOG_ODDS
        return {
            "readings": [self.slots.index(f"share {name}") for name in self._shares],
            "reading_prior": [GATES.get(name, -6.0) for name in [*self._shares, "even"]],
            "need_prior": need,
            "levels": [self.slots.index(name) for name in [*self.reduced, f"{self.reduced[0]} everywhere"]],
        }

    def question_code(self, embeddings: Tensor) -> Tensor:
        """``[8]``: the mean embedding of the question, at unit length, under a fixed Gaussian projection."""
        mean = embeddings.float().mean(0)
        mean = mean / mean.norm().clamp_min(1e-6)
        generator = torch.Generator().manual_seed(self.seed)
        projection = torch.randn(QUESTION_WIDTH, mean.numel(), generator=generator)
        return projection.to(mean.device) @ mean / 2

    def __call__(self, scene: Scene, reads: np.ndarray | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Contexts ``[N, d]``, covariates ``[m]`` and the scores by name.

        Parameters
        ----------
        scene
            One question.
        reads
            ``[d]`` bool, the entries that will be read (all by default). Where these are multiples of relevance alone,
            other scores are not worked out, the detail lost only where there is something to gain, and other entries
            and the covariates are zero.
        """
        if reads is not None and not (reads & ~np.array(self._by_relevance)).any():
            return self._by_relevance_alone(scene)
        # The full-depth pass goes first: attention is then read off the same pass.
        u, e = self._believed(scene)
        scores = {scorer.name: self._score(scorer, scene) for scorer in self.scorers}
        relevance = self.floor + (1 - self.floor) * _relative(self.relevance.join(scores))
        readers = {reader.name for reader in self.relevance.readers}
        others = [_relative(scores[name]) if name in readers else scores[name] for name in self.factors]
        worth = u * relevance if self.kind == "gated" else torch.full_like(relevance, u)
        looked, everywhere = self.losses(scene, worth, scores)
        question = self.question_code(scene.question_embeddings).cpu()
        contexts = self._gated(u, relevance, looked, question, others)
        covariates = torch.cat([question.new_tensor([u, e, u * u, e * e]), question, u * question])
        if self.kind == "gated":
            return contexts, covariates, scores
        readings = [
            relevance, *self._more(scene), self.words(scene), relevance * looked[:, 0], 1 - relevance, *others,
            everywhere[:, 0], torch.ones_like(relevance),
        ]  # fmt: skip
        shares = torch.stack([_shares(reading) for reading in readings], 1)
        where, words, even = (shares[:, [i]] for i in (0, self._shares.index("words"), -1))
        lost = torch.cat([looked, everywhere[:, :1]], 1) / TYPICAL_LOSS
        free = [shares, lost, u * where, u * words, u * even, where * question, even * question]
        odds = math.log(max(u, 1e-3) / max(1 - u, 1e-3)) / LOG_ODDS
        agreement, of_first = float((where * words).sum()), float(lost[int(where.argmax()), 0])
        trust = question.new_tensor([odds, flatness(where[:, 0]), agreement, of_first])
        return torch.cat([contexts, *free], 1), torch.cat([covariates, trust]), scores

    def _by_relevance_alone(self, scene: Scene) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As the call, where nothing is read but what is a multiple of relevance."""
        u, _ = self._believed(scene)
        scores = {scorer.name: self._score(scorer, scene) for scorer in self.relevance.voices}
        relevance = self.floor + (1 - self.floor) * _relative(self.relevance.join(scores))
        # A patch that shows much may be raised at a tenth of that worth; everywhere else no price is low enough.
        looked, _ = self.losses(scene, 10 * u * relevance, scores)
        question = self.question_code(scene.question_embeddings).cpu()
        gated = self._gated(u, relevance, looked, question, [torch.zeros_like(relevance)] * len(self.factors))
        rest = gated.new_zeros(len(gated), len(self.slots) - self.free)
        return torch.cat([gated, rest], 1), gated.new_zeros(len(self.covariates)), scores

    def _believed(self, scene: Scene) -> tuple[float, float]:
        """Doubt, as far as a calibration says that it is to be believed, and the probability of all other answers."""
        u, e = self.doubt(scene)
        return (u if self.knots is None else float(np.interp(u, *self.knots))), e

    @staticmethod
    def _gated(u: float, relevance: Tensor, looked: Tensor, question: Tensor, others: Sequence[Tensor]) -> Tensor:
        """``[N, free]``: the entries that are multiples of relevance times doubt."""
        asked = torch.cat([question.new_tensor([1.0, u]), question]).expand(len(relevance), -1)
        known = torch.cat([asked[:, :2], looked, asked[:, 2:], *(score[:, None] for score in others)], 1)
        return u * relevance[:, None] * known

    @staticmethod
    def _score(scorer: Scorer, scene: Scene) -> Tensor:
        """``[N]``; scores of pixels that hold whatever is asked are kept with the pictures."""
        if scene.kept is None or scorer.reads_question or scorer.needs != {"pixels"}:
            return scorer(scene).cpu()
        if scorer not in scene.kept:
            scene.kept[scorer] = scorer(scene).cpu()
        found: Tensor = scene.kept[scorer]
        return found

    def _more(self, scene: Scene) -> list[Tensor]:
        found = []
        for reader in self.relevance.readers:
            readings = reader.readings(scene) if reader.more_readings else {}
            found += [readings[name].float().cpu() for name in reader.more_readings]
        return found

    def doubt(self, scene: Scene) -> tuple[float, float]:
        """Doubt u about the glance's answer and probability e of all other answers, both in [0, 1]; see `Doubt`."""
        return self.between(scene.glance_answer(), scene.question) if self.confidence else (1.0, 1.0)

    @staticmethod
    def words(scene: Scene) -> Tensor:
        """``[N]`` similarity of a patch's four likest glance tokens to the words that single tokens out.

        A second reading of where to look, in the wrapped model's embedding space, that needs no pass; zero everywhere
        where the question has no words.
        """
        if not len(scene.question_embeddings) or not scene.glance:
            return torch.zeros(len(scene.patches))
        cells = word_map(torch.cat(list(scene.glance)), scene.question_embeddings).cpu()
        sizes = [len(tokens) for tokens in scene.glance]
        return torch.stack([part.topk(min(4, len(part))).values.sum() for part in cells.split(sizes)])

    def detail(self, scene: Scene, worth: Tensor | None = None, scores: Mapping[str, Tensor] | None = None) -> Tensor:
        """``[N, K-1]`` share of detail each reduced budget destroys, weighted by where the question looks.

        It is measured where ``worth [N]`` is at least `WORTHLESS` (everywhere by default), and else what is typical;
        without pixels it is typical everywhere. ``scores`` are those of the scene, if they are known.
        """
        return self.losses(scene, worth, scores)[0]

    def losses(
        self, scene: Scene, worth: Tensor | None = None, scores: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Twice ``[N, K-1]``: as `detail`, and over all of the patch alike."""
        looked = self.typical.repeat(len(scene.patches), 1)
        everywhere = looked.clone()
        rows = [i for i in range(len(looked)) if worth is None or worth[i] >= WORTHLESS]
        if scene.pixels is None or not self.measured or not rows:
            return looked, everywhere
        loss = self._detail_loss(scene, rows)
        found = loss.per_patch
        if self.relevance.readers:
            cells = self.relevance.cell_map(scene, scores)
            found = loss.attended([cells[i] / cells[i].sum().clamp_min(1e-9) for i in rows])
        looked[rows], everywhere[rows] = found[:, :-1].cpu(), loss.per_patch[:, :-1].cpu()
        return looked, everywhere

    @staticmethod
    def _detail_loss(scene: Scene, rows: Sequence[int]) -> DetailLoss:
        """Of some patches; where pictures are kept, that of all is worked out once and kept."""
        if scene.kept is not None:
            if "detail" not in scene.kept:
                whole = scene_detail_loss(scene)
                scene.kept["detail"] = whole.per_patch, whole.per_cell
            return DetailLoss(*(values[rows] for values in scene.kept["detail"]))
        assert scene.pixels is not None
        return scene_detail_loss(
            dataclasses.replace(
                scene,
                patches=[scene.patches[i] for i in rows],
                pixels=[scene.pixels[i] for i in rows],
                costs=scene.costs[rows],
                glance_grids=[scene.glance_grids[i] for i in rows],
            )
        )


def _relative(score: Tensor) -> Tensor:
    return score / score.max().clamp_min(1e-6)


def _shares(scores: Tensor) -> Tensor:
    """``[N]`` scores as shares, even where there are none."""
    total = scores.sum()
    return scores / total if total > 1e-9 else torch.full_like(scores, 1 / len(scores))
