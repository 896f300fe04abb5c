"""The seam between the wrapper and the planner: what may be looked at, what is decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .patches import Patch

if TYPE_CHECKING:
    from allocator import Decision


@dataclass
class Scene:
    """One question with its patches: all that a planner may look at.

    It is built from that question alone, so another image in the batch can't change a bit of it. What a planner does
    not list in ``needs`` is left empty (``glance``) or ``None`` (``pixels``).

    Attributes
    ----------
    patches
        N patches of all images of the question, in raster order (entry, view, top, left).
    costs
        ``[N, K]`` visual tokens that each patch really spends at each budget.
    pixels
        Per patch ``[3, H, W]`` float32 RGB in [0, 1] at full detail; ``None`` if not asked for or if it can't be
        recovered (no image processor at hand that states mean and deviation).
    glance
        Per patch ``[g_i, D]`` visual tokens at the floor budget.
    glance_grids
        Per patch (rows, columns) with rows * columns == g_i.
    question
        The question in words, for people and logs.
    question_ids
        ``[Q]`` text tokens of the question.
    question_embeddings
        ``[Q, D]`` input embeddings of ``question_ids``.
    read_attention
        ``layers -> [len(layers), heads, sum g_i]``, layers as numbers or shares of the depth: attention mass from the
        last prompt token to every glance token, softmax over the whole visible prompt (so a head sums to at most 1),
        patches concatenated in order. One pass of the language model over the glance prompt, stopped after the last
        layer read; cached.
    glance_answer
        ``() -> [V]`` next-token log-probabilities after the glance prompt (full depth); cached. Where it is called
        before ``read_attention``, or announced in ``needs``, the two share one pass.
    timings
        Seconds by stage, filled as it goes.
    kept
        What was worked out from the pictures alone, by whoever did, as tensors: the next question about them finds it
        where pictures are kept; ``None`` where they are not.
    """

    patches: list[Patch]
    costs: torch.Tensor
    pixels: list[torch.Tensor] | None
    glance: list[torch.Tensor]
    glance_grids: list[tuple[int, int]]
    question: str
    question_ids: torch.Tensor
    question_embeddings: torch.Tensor
    read_attention: Callable[[Sequence[float]], torch.Tensor]
    glance_answer: Callable[[], torch.Tensor]
    timings: dict[str, float] = field(default_factory=dict)
    kept: dict[Any, Any] | None = None


@dataclass
class Plan:
    """What a planner decided for one question.

    Attributes
    ----------
    budgets
        N nominal budgets.
    decision
        The policy's decision, or ``None`` where no policy of the allocator was asked.
    scores
        Per scorer ``[N]`` scores in [0, 1].
    tension
        What balancing set, for the log.
    timings
        Seconds by stage. "knowing" may hold the reading of the glance, which the scene has timed: it is taken off.
    """

    budgets: list[int]
    decision: Decision | None = None
    scores: dict[str, torch.Tensor] = field(default_factory=dict)
    tension: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)


class Planner(Protocol):
    """Whatever can plan.

    ``needs`` is a subset of {"pixels", "glance", "answer"}: what the scene must hold. "answer" says that
    ``glance_answer`` will be asked for as well as ``read_attention``, so that one pass serves both in either order. A
    planner that needs nothing sees the patches and their costs only, and the question may then be empty.
    """

    needs: frozenset[str]

    def plan(self, scene: Scene) -> Plan:
        """Choose one nominal budget per patch."""
