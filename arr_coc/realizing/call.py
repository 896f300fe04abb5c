"""One model call, taken apart: entries, patches, placeholders, and each question on its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

import torch

from ..families import Entry, Family, Features
from ..scene.patches import Patch, make_patches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Grid = tuple[int, int]

SEQUENCE_KEYS = (
    "input_ids",
    "attention_mask",
    "labels",
    "token_type_ids",
    "mm_token_type_ids",
    "moe_mm_token_type_ids",
)


class Call:
    """The inputs of one ``forward`` or ``generate`` that carries images.

    Parameters
    ----------
    model, family
        The transformers model and its family.
    inputs
        Keyword arguments of the call, with ``input_ids`` ``[B, L]``, ``attention_mask`` ``[B, L]`` and pixel values.
    side
        Side of a patch in visual tokens.

    Raises
    ------
    ValueError
        If entries, feature rows and placeholders do not add up.
    """

    def __init__(self, model: PreTrainedModel, family: Family, inputs: dict[str, Any], side: int) -> None:
        self.model, self.family, self.inputs, self.side = model, family, inputs, side
        self.entries: list[Entry] = family.layout(model, inputs)
        self.borrowed: Features | None = None
        self._alone: dict[int, Call] = {}
        self._whole: ReferenceType[Call] | None = None  # the call that this is all of
        self.placeholders: torch.Tensor = inputs["input_ids"] == family.image_token(model)
        self.sample_of = _owners(self.entries, self.placeholders.sum(1).tolist())
        self.starts = [0]
        for entry in self.entries:
            self.starts.append(self.starts[-1] + entry.count)
        multiple = family.cut_multiple(model)
        if multiple > side:
            raise ValueError(
                f"patch_side={side} is below the attention window of this tower; use at least {multiple}."
            )
        views = ((e, v, view.height, view.width) for e, n in enumerate(self.entries) for v, view in enumerate(n.views))
        self.patches: list[Patch] = make_patches(views, side, multiple)

    @property
    def batch(self) -> int:
        """Number of samples B."""
        return int(self.inputs["input_ids"].shape[0])

    def patches_of(self, sample: int) -> list[int]:
        """Indices of the patches of one sample, in order."""
        return [i for i, patch in enumerate(self.patches) if self.sample_of[patch.entry] == sample]

    def per_sample(self, keep: torch.Tensor) -> list[int]:
        """How many of the kept feature rows ``[rows]`` each sample has."""
        kept = [0] * self.batch
        for owner, part in zip(self.sample_of, keep.split([entry.count for entry in self.entries]), strict=True):
            kept[owner] += int(part.sum())
        return kept

    def rows(self, patch: Patch) -> torch.Tensor:
        """``[height, width]`` feature rows of a patch, counted over the whole call."""
        view = self.entries[patch.entry].views[patch.view]
        return view.rows(patch.top, patch.bottom, patch.left, patch.right) + self.starts[patch.entry]

    def anchors(self, patch: Patch, grid: Grid) -> torch.Tensor:
        """Feature rows (``[rows * columns]``, rising) whose placeholders a patch keeps at a grid.

        Each cell of the grid takes over the placeholder at its centre, so raster order, and with it the causal order
        of the visual tokens, stays as it was.
        """
        rows = self.rows(patch)
        return rows[_centres(patch.height, grid[0])][:, _centres(patch.width, grid[1])].reshape(-1)

    def native(self, index: int, grid: Grid) -> bool:
        """Whether a grid leaves a patch at full detail."""
        return grid == (self.patches[index].height, self.patches[index].width)

    def without_orphans(self, keep: torch.Tensor) -> torch.Tensor:
        """``keep`` ``[rows]`` without the glue (newlines) behind rows of tokens that keep nothing."""
        keep = keep.clone()
        for start, entry in zip(self.starts, self.entries, strict=False):
            for view in entry.views:
                glue = view.stride - view.width
                if glue > 0:
                    rows = view.rows(0, view.height, 0, view.stride) + start
                    keep[rows[:, view.width :]] &= keep[rows[:, : view.width]].any(1, keepdim=True)
        return keep

    def orphaned_text(self, keep: torch.Tensor) -> torch.Tensor:
        """``[B, L]`` bool: text that stands between two rows of a view, where it has nothing left to part.

        A row's break stays with it as long as a row below it stays too.
        """
        orphaned = torch.zeros(self.placeholders.shape, dtype=torch.bool)
        samples, places = self.placeholders.cpu().nonzero(as_tuple=True)
        for start, entry in zip(self.starts, self.entries, strict=False):
            for view in entry.views:
                rows = view.rows(0, view.height, 0, view.stride or view.width) + start
                first, last = places[rows[:, 0]], places[rows[:, -1]]
                if view.height < 2 or bool((first[1:] == last[:-1] + 1).all()):
                    continue
                alive = keep[rows].any(1)
                below = alive.flip(0).cummax(0).values.flip(0)
                for row in (~(alive[:-1] & below[1:])).nonzero().squeeze(1).tolist():
                    orphaned[samples[start], last[row] + 1 : first[row + 1]] = True
        return orphaned

    @cached_property
    def full(self) -> Features:
        """The untouched model's own features of this call; computed once."""
        features = self.family.encode(self.model, self.inputs)
        count = features.streams[0].shape[0]
        if count != self.starts[-1]:
            raise ValueError(
                f"The tower returned {count} visual tokens where the layout of {type(self.family).__name__} expects "
                f"{self.starts[-1]}; this model does not lay its tokens out as its family does."
            )
        return features

    @cached_property
    def own_positions(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The model's own M-RoPE positions and deltas of this call, computed once; ``None`` for 1-D models."""
        whole = self._whole() if self._whole is not None else None
        if whole is not None:
            return whole.own_positions
        return self.family.positions(self.model, self.inputs, self.inputs["attention_mask"])

    def adopt(self, questions: Sequence[Call | None]) -> None:
        """Take over the features of questions (one per sample, or ``None``) that have been encoded alone.

        A single question's features are those of the call, to the bit. Those of several are put together in
        :attr:`borrowed`, which serves every purpose but handing over the untouched model's own output.
        """
        looked = [question for question in questions if question is not None and "full" in vars(question)]
        if len(looked) < len(set(self.sample_of)):
            return
        if len(looked) == 1:
            self.full = looked[0].full
        else:
            streams = zip(*(question.full.streams for question in looked), strict=True)
            self.borrowed = Features(tuple(torch.cat(same) for same in streams), looked[0].full.output)

    def prompt(self, sample: int) -> torch.Tensor:
        """Places of one sample's prompt: no padding, no answer."""
        kept = self.inputs["attention_mask"][sample].bool().nonzero().squeeze(1)
        return kept[: _prompt_length(self.inputs.get("labels"), self.placeholders, sample, kept)]

    def question(self, sample: int) -> Call:
        """One sample alone: its prompt, and only its own images; the same object each time."""
        if sample not in self._alone:
            self._alone[sample] = self._question(sample)
        return self._alone[sample]

    def with_words(self, place: int, words: Sequence[int]) -> Call:
        """This call of one question with more words in its prompt, in front of the token at ``place``."""
        inputs = dict(self.inputs)
        length, count = inputs["input_ids"].shape[1], len(words)
        # What a token is beside its id (text, not padding) the new ones take from the word before them.
        source = torch.tensor([*range(place), *[place - 1] * count, *range(place, length)])
        for key in SEQUENCE_KEYS:
            if inputs.get(key) is not None:
                inputs[key] = inputs[key].index_select(1, source.to(inputs[key].device))
        inputs["input_ids"][0, place : place + count] = inputs["input_ids"].new_tensor(list(words))
        return Call(self.model, self.family, inputs, self.side)

    def _question(self, sample: int) -> Call:
        ids, kept = self.inputs["input_ids"], self.prompt(sample)
        entries = [e for e, owner in enumerate(self.sample_of) if owner == sample]
        inputs = self.family.take(self.model, self.inputs, entries)
        for key in SEQUENCE_KEYS:
            if key != "labels" and self.inputs.get(key) is not None:
                inputs[key] = self.inputs[key][sample : sample + 1].index_select(1, kept.to(ids.device))
        alone = Call(self.model, self.family, inputs, self.side)
        if self.batch == 1 and len(kept) == ids.shape[1]:
            alone._whole = ref(self)
        return alone


def _centres(size: int, count: int) -> torch.Tensor:
    """``count`` strictly rising cell centres in ``range(size)``; all of them when ``count == size``."""
    return ((2 * torch.arange(count) + 1) * size) // (2 * count)


def _owners(entries: Sequence[Entry], placeholders: Sequence[int]) -> list[int]:
    """The sample of each entry, by counting placeholders."""
    owners, sample, room = [], 0, placeholders[0] if placeholders else 0
    for index, entry in enumerate(entries):
        while room == 0 and sample + 1 < len(placeholders):
            sample += 1
            room = placeholders[sample]
        if entry.count > room:
            raise ValueError(
                f"Image entry {index} fills {entry.count} placeholders, but sample {sample} has {room} left "
                f"(placeholders per sample: {list(placeholders)}, visual tokens per entry: "
                f"{[e.count for e in entries]}). Pass the ids and the pixels of one and the same processor call."
            )
        owners.append(sample)
        room -= entry.count
    if room or any(placeholders[sample + 1 :]):
        raise ValueError(
            f"The prompt holds {sum(placeholders)} image placeholders, the images fill "
            f"{sum(e.count for e in entries)}. Pass the ids and the pixels of one and the same processor call."
        )
    return owners


def _prompt_length(labels: torch.Tensor | None, images: torch.Tensor, sample: int, kept: torch.Tensor) -> int:
    """How many of the kept tokens come before the answer: a look at the answer would leak it into the allocation.

    Labels that also supervise the prompt (from the image on) can't tell the two apart; then all tokens count.
    """
    if labels is None:
        return len(kept)
    supervised = (labels[sample, kept] != -100).nonzero()
    first = int(supervised[0]) if len(supervised) else len(kept)
    last_image = images[sample, kept].nonzero()
    return first if len(last_image) == 0 or first > int(last_image[-1]) else len(kept)
