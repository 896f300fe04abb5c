"""Grounding supervision: chosen attention heads learn where the evidence is. It serves training only.

From answers alone routing stays at chance for thousands of steps; with this it is solved in a few hundred.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from ..questions import Question
from ..world import PATCH, Picture
from .labels import evidence_cells
from .packed import TOKEN_GRIDS, Packed

NOWHERE = [0]
"""Where there is nothing to read: the beginning of the prompt."""


def words_to_read(question: Question) -> tuple[list[int], list[int], list[int]]:
    """Indices of the words that name the last referent, the kind of question, and the other referent."""
    words = question.text.split()
    compare = question.kind == "compare"
    near = [k for k, word in enumerate(words) if word in question.referents[-1] and len(words) - k <= 4]
    heads = {"compare": ("larger",), "yesno": ("there",), "count": ("many",)}.get(question.kind, (question.kind,))
    kind = [k for k, word in enumerate(words) if word in heads and (k < 3 or compare)]
    far = [k for k, word in enumerate(words) if compare and word in question.referents[0] and len(words) - k > 4]
    return near, kind, far


def cells_to_read(
    question: Question, picture: Picture, budgets: Sequence[int], offsets: Sequence[int]
) -> list[list[int]]:
    """Prompt indices of the cells that hold the evidence: one list for each referent."""
    evidence = question.evidence if question.kind in ("compare", "yesno") else question.evidence[:1]
    kind = "number" if question.kind == "compare" else question.kind
    found = [
        (offsets[p] + evidence_cells(picture.signs[p][i], kind, PATCH, TOKEN_GRIDS[budgets[p]])).tolist()
        for p, i in evidence
    ]
    return found if question.kind == "compare" else [[k for cells in found for k in cells]]


def grounding_loss(
    packed: Packed,
    pictures: Sequence[Picture],
    budgets: Sequence[Sequence[int]],
    questions: Sequence[Sequence[Question]],
    offsets: Sequence[Sequence[int]],
    rows_of: torch.Tensor,
    image_rows: torch.Tensor,
) -> torch.Tensor:
    """-log attention on the known evidence, for the heads that shall ground: on each word, on any of the cells.

    Words are all needed ("top" alone names three patches of nine), so their log masses are averaged, not their masses
    summed. A sum is content with one of them, and routing by place then stays at chance.

    At "?": layer 0 head 0 reads the words that name the (last) referent, head 1 the kind of question, head 2 the other
    referent of a comparison; layers 1 and 2 read the evidence cells, head 0 those of the last referent and head 1
    those of the first. In layer 0, head 3 of every image cell reads the two words that place its patch.

    Parameters
    ----------
    packed
        The forward pass of ``B`` pictures, with the image scores of ``image_rows``.
    pictures, budgets, questions
        One of each, one budget per patch and ``Q`` questions for every picture.
    offsets
        ``[B, N]``, prompt index of each patch's first cell.
    rows_of
        ``[B, prompt]``, where each index of the prompt lies among the keys of ``packed`` (see ``language.thin``).
    image_rows
        ``[B, R]``, keys of ``packed``: image cells that shall read their place.

    Returns
    -------
    torch.Tensor
        Scalar, nats.
    """
    length = packed.hidden.shape[2]
    prompt = packed.question_scores[0].shape[-1] - length
    wanted: dict[tuple[int, int], list[tuple[int, int, list[int]]]] = defaultdict(list)
    for b, asked in enumerate(questions):
        for j, question in enumerate(asked):
            row = j * length + len(question.text.split()) - 1
            near, kind, far = ([prompt + k for k in words] for words in words_to_read(question))
            wanted[0, 0].append((b, row, near or NOWHERE))
            if kind:
                wanted[0, 1].append((b, row, kind))
            wanted[0, 2].append((b, row, far or NOWHERE))
            evidence = cells_to_read(question, pictures[b], budgets[b], offsets[b])
            sought = [rows_of[b, cells].tolist() for cells in evidence]
            for layer in (1, 2):
                wanted[layer, 0].append((b, row, sought[-1] or NOWHERE))
                wanted[layer, 1].append((b, row, sought[0] or NOWHERE))
    total = packed.hidden.new_zeros(())
    for (layer, head), rows in wanted.items():
        index = torch.tensor([(b, row) for b, row, _ in rows])
        scores = packed.question_scores[layer][index[:, 0], head, index[:, 1]]
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for r, (_, _, keys) in enumerate(rows):
            allowed[r, keys] = True
        if layer == 0:
            mass = (scores.log_softmax(-1) * allowed).sum(-1) / allowed.sum(-1)
        else:
            mass = scores.masked_fill(~allowed, -1e9).logsumexp(-1) - scores.logsumexp(-1)
        total = total - mass.mean()
    assert packed.image_scores is not None  # language_loss asked for them
    starts = rows_of.gather(1, torch.tensor(offsets))  # [B, N]
    patch = torch.searchsorted(starts, image_rows, right=True) - 1
    first = starts.gather(1, patch)[..., None]
    place = packed.image_scores.gather(2, torch.cat([first - 3, first - 2], -1))
    return total - 2 * (place.mean(-1) - packed.image_scores.logsumexp(-1)).mean()
