"""From a rendered question to its scene: what the planner sees, built from what the engine gave back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...config import ArrCocConfig
from ...families import family_for
from ...realizing import Realizer, make_realizer
from ...realizing.call import Call, Grid
from ...scene import Scene
from ...scene.patches import realised_costs
from ...wrapping.planning import pixel_scale, special_ids, tokenizer_of
from ...wrapping.question import find_question
from ..prompt import kept_rows, kept_tokens
from .inputs import patches_between, question_of
from .names import OPTION


@dataclass
class Glanced:
    """What a glance has left.

    Attributes
    ----------
    attention
        ``[heads, prompt tokens]`` of every layer that was read, by its number.
    embeddings
        ``[words, D]`` of the question.
    logprobs
        Of the likeliest next tokens, by id.
    """

    attention: Mapping[int, torch.Tensor]
    embeddings: torch.Tensor
    logprobs: Mapping[int, float]


class Describer:
    """Describes the questions of one served model, without its weights.

    Parameters
    ----------
    hf_config
        The model's configuration.
    processor
        Its processor.

    Raises
    ------
    ValueError
        If the model is of an unknown family.
    """

    config: ArrCocConfig
    realizer: Realizer

    def __init__(self, hf_config: Any, processor: Any) -> None:
        from transformers import AutoModelForImageTextToText

        with torch.device("meta"):
            self.model = AutoModelForImageTextToText.from_config(hf_config).eval()
        self.family = family_for(self.model)
        self.tokenizer = tokenizer_of(processor)
        self.scale, self.special = pixel_scale(processor), special_ids(self.model, self.tokenizer)

    def serve(self, config: ArrCocConfig) -> None:
        """Describe for a policy of this configuration.

        Raises
        ------
        ValueError
            If the model can't be realised as it asks.
        """
        if config.positions == "keep" and not hasattr(self.model.base_model, "get_rope_index"):
            raise ValueError(
                f"positions='keep' of this policy can't be had: an engine counts the tokens of a "
                f"{type(self.model).__name__} without gaps; learn a policy with positions='auto', or serve it with "
                "arr-coc serve"
            )
        if config.answer_line:
            raise ValueError(
                f"answer_line={config.answer_line!r}: the engine's glance is the question as it stands; leave it empty"
            )
        self.config, self.realizer = config, make_realizer(config.realizer, self.family)
        if config.scaled:
            self.realizer.full = config.budgets[-1]

    def question(self, given: Mapping[str, Any]) -> Call | None:
        """The question of a rendered input, see `question_of`."""
        return question_of(given, self.model, self.family, self.config.patch_side)

    def words(self, call: Call) -> tuple[str, list[int]]:
        """What is asked, and its token ids.

        Raises
        ------
        ValueError
            If nothing is.
        """
        text, ids = find_question(
            call.inputs["input_ids"][0], self.family.image_token(self.model), self.special, self.tokenizer
        )
        if ids.numel() == 0:
            raise ValueError("no words of the user stand beside the image, so no patch can matter more than another")
        return text, ids.tolist()

    def grids(self, call: Call, budgets: Sequence[int]) -> list[Grid]:
        """The grid that each patch gets for its budget."""
        return [self.realizer.grid(self.family, patch, b) for patch, b in zip(call.patches, budgets, strict=True)]

    def allocation(self, call: Call, given: Mapping[str, Any], budgets: Sequence[Sequence[int]]) -> list[int]:
        """Budgets per image, one after another.

        Raises
        ------
        ValueError
            If they don't fit the question.
        """
        places = given["mm_placeholders"]["image"]
        if not isinstance(budgets, list) or len(budgets) != len(places):
            raise ValueError(f"{OPTION} must hold one list of budgets for each of the {len(places)} images")
        flat: list[int] = []
        for number, (own, place) in enumerate(zip(budgets, places, strict=True)):
            patches = patches_between(call, place.offset, place.offset + place.length)
            if not isinstance(own, list) or len(own) != len(patches):
                raise ValueError(f"{OPTION}[{number}] must hold {len(patches)} budgets, one for each patch")
            for budget in own:
                if budget not in self.config.budgets:
                    raise ValueError(f"{OPTION}[{number}] holds {budget!r}, which is none of {self.config.budgets}")
            flat += own
        return flat

    def floor(self, call: Call) -> list[Grid]:
        """Every patch at the floor."""
        return self.grids(call, [self.config.budgets[0]] * len(call.patches))

    def scene(self, call: Call, words: tuple[str, list[int]], layers: Mapping[float, int], glanced: Glanced) -> Scene:
        """The scene of a question.

        Parameters
        ----------
        call, words
            The question, and what is asked.
        layers
            The number of each layer that a planner may name.
        glanced
            What its glance has left.
        """
        floor = self.floor(call)
        places = self._places(call, floor)
        vocabulary = self.model.config.get_text_config().vocab_size
        answer = torch.full((vocabulary,), float("-inf"))
        for token, value in glanced.logprobs.items():
            answer[token] = value
        pixels = None
        if self.scale is not None:
            pixels = self.family.pixels(self.model, call.inputs, call.patches, self.scale)
        attention = {layer: rows[:, places] for layer, rows in glanced.attention.items()}
        return Scene(
            patches=call.patches,
            costs=realised_costs(call.patches, self.config.budgets, partial(self.realizer.grid, self.family)),
            pixels=pixels,
            glance=[],
            glance_grids=floor,
            question=words[0],
            question_ids=torch.tensor(words[1]),
            question_embeddings=glanced.embeddings,
            read_attention=lambda asked: torch.stack([attention[layers[layer]] for layer in asked]),
            glance_answer=lambda: answer,
        )

    def _places(self, call: Call, grids: Sequence[Grid]) -> torch.Tensor:
        """Where the tokens of the glance stand in its prompt, patch after patch."""
        keep = kept_rows(call, grids)
        stays = kept_tokens(call, keep)
        slots = keep.cumsum(0) - 1
        rows = torch.cat([call.anchors(patch, grid) for patch, grid in zip(call.patches, grids, strict=True)])
        images = call.placeholders[0].cpu()[stays].nonzero().squeeze(1)
        return images[slots[rows]]
