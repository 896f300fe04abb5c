"""The contract of a scorer, on scenes that need no model."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..knowing import Scorer, make_scorer
from ..scene.contract import Scene
from ..scene.patches import Patch, realised_costs
from .base import require

BUDGETS = (64, 128, 256, 400)
NEEDS = frozenset({"pixels", "glance"})
QUESTIONS = ("what number is on the red sign ?", "is there a dog ?", "what does the small print say ?")


def make_scene(
    question: str = QUESTIONS[0],
    pixels: Sequence[Tensor] | None = None,
    patches: Sequence[Patch] | None = None,
    seed: int = 0,
) -> Scene:
    """A scene without a model: by default four patches of random texture, each more contrasted than the one before.

    Embeddings of the question, attention and the answer of the glance are drawn from the question's words, so two
    questions look in different places; pixels and glance depend on ``seed`` alone.

    Parameters
    ----------
    question
        Its words.
    pixels
        Per patch ``[3, H, W]`` in [0, 1].
    patches
        Their places; by default each patch is an image of its own of 20 x 20 visual tokens.
    seed
        Of pixels and glance.
    """
    picture, asked = (torch.Generator().manual_seed(n) for n in (seed, zlib.crc32(question.encode())))
    if pixels is None:
        contrast = [0.1 + 0.2 * i for i in range(4 if patches is None else len(patches))]
        pixels = [(0.5 + c * (torch.rand(3, 80, 80, generator=picture) - 0.5)).clamp(0, 1) for c in contrast]
    places = [Patch(i, 0, 0, 20, 0, 20) for i in range(len(pixels))] if patches is None else list(patches)
    cells = 64 * len(places)
    words = question.split() or ["?"]
    embeddings = torch.randn(len(words), 8, generator=asked)
    attention = torch.rand(64, 2, max(cells, 1), generator=asked).pow(4)
    attention = attention[..., :cells] / attention.sum(-1, keepdim=True).clamp_min(1e-9)
    answer = torch.randn(16, generator=asked).log_softmax(0)

    def read_attention(layers: Sequence[float]) -> Tensor:
        rows = [int(64 * layer) if isinstance(layer, float) else layer for layer in layers]
        return attention[rows]

    return Scene(
        patches=places,
        costs=realised_costs(places, BUDGETS),
        pixels=list(pixels),
        glance=[torch.randn(64, 8, generator=picture) for _ in places],
        glance_grids=[(8, 8)] * len(places),
        question=question,
        question_ids=torch.arange(len(words)),
        question_embeddings=embeddings,
        read_attention=read_attention,
        glance_answer=lambda: answer,
    )


def check_scorer(scorer: Scorer | str, scenes: Sequence[Scene] = (), **options: Any) -> None:
    """Hold a scorer to its contract.

    Parameters
    ----------
    scorer
        A scorer, or the registered name of one.
    scenes
        Further scenes of your own, for instance in which your patch of interest is known.
    options
        Of a scorer that is named.

    Raises
    ------
    Broken
        If its declaration is malformed; if scores are not ``[N]`` float32 in [0, 1]; if they depend on the questions
        asked before, or change what they were given; if a map does not have the cells of its patches; or if
        ``reads_question`` says another thing than three questions about one picture do.
    """
    made = make_scorer(scorer, **options) if isinstance(scorer, str) else scorer
    require(isinstance(made, Scorer), f"{made!r} is no Scorer; derive it from arr_coc.knowing.Scorer")
    name = made.name
    require(isinstance(name, str) and name and name != Scorer.name, f"{type(made).__name__} needs a `name` of its own")
    require(set(made.needs) <= NEEDS, f"scorer {name!r}: needs={set(made.needs)} must be among {set(NEEDS)}")
    require(isinstance(made.reads_question, bool), f"scorer {name!r}: reads_question must be True or False")
    asked = [make_scene(question) for question in QUESTIONS]
    ragged = make_scene(QUESTIONS[0], [torch.rand(3, 80, 104), torch.rand(3, 8, 8)], _ragged())
    for scene in (*asked, ragged, *scenes):
        _check_one(made, scene)
    first = made(asked[0])
    made(asked[1])
    require(torch.equal(made(asked[0]), first), f"scorer {name!r}: the same scene scored otherwise after another one")
    moved = any(not torch.equal(made(scene), first) for scene in asked[1:])
    if made.reads_question:
        require(moved, f"scorer {name!r} says it reads the question, but three questions on one picture score alike")
    else:
        require(
            not moved,
            f"scorer {name!r} scores one picture otherwise for another question; set reads_question = True, or it is "
            "averaged with those that look at the picture alone",
        )


def _ragged() -> list[Patch]:
    return [Patch(0, 0, 0, 10, 0, 13), Patch(1, 0, 0, 1, 0, 1)]


def _check_one(scorer: Scorer, scene: Scene) -> None:
    name, count = scorer.name, len(scene.patches)
    shown = dataclasses.replace(
        scene,
        pixels=None if scene.pixels is None else [p.clone() for p in scene.pixels],
        glance=[g.clone() for g in scene.glance],
    )
    scores = scorer(shown)  # holds it to shape and range
    require(scores.dtype == torch.float32, f"scorer {name!r} gives {scores.dtype}")
    for given, kept in ((shown.pixels or [], scene.pixels or []), (shown.glance, scene.glance)):
        same = all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
        require(same, f"scorer {name!r} changes the scene it is given; work on copies")
    cells = scorer.cell_map(shown)
    sizes = [rows * columns for rows, columns in scene.glance_grids]
    require(
        len(cells) == count and [tuple(c.shape) for c in cells] == [(size,) for size in sizes],
        f"scorer {name!r}: cell_map must give one number per glance cell, {sizes}",
    )
    finite = all(bool((c >= 0).all() and c.isfinite().all()) for c in cells)
    require(finite, f"scorer {name!r}: cell_map must give finite numbers >= 0")
