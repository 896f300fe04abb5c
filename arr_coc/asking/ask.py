"""From images and questions to model inputs, and from generated ids back to answers: one path for every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..config import nearest
from ..scene.patches import by_view
from ..wrapping.question import check_question
from ..wrapping.record import Answered
from .images import load_image

if TYPE_CHECKING:
    from ..scene.contract import Plan, Scene
    from ..wrapping.wrapper import ArrCoc


def prepare(processor: Any, images: Sequence[Any], questions: Sequence[str]) -> Any:
    """Inputs for ``generate``, one image and one question per row, left-padded.

    Images may have any form that :func:`arr_coc.asking.images.load_image` reads.

    Goes through the processor's chat template, as every current VLM expects; a processor without one gets its image
    token in front of the question.

    Raises
    ------
    ValueError
        If the counts differ, a question is empty or spells a control token, or there is nothing to ask.
    """
    if len(images) != len(questions) or not questions:
        raise ValueError(f"{len(images)} images for {len(questions)} questions; give one image for each question")
    for question in questions:
        check_question(processor, question)
    images = [load_image(image) for image in images]
    if getattr(processor, "chat_template", None):
        messages = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
            for image, question in zip(images, questions, strict=True)
        ]
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True,
            processor_kwargs={"return_tensors": "pt", "padding": True, "padding_side": "left"},
        )  # fmt: skip
        if isinstance(inputs["input_ids"], list):  # SmolVLM's template drops return_tensors
            inputs.convert_to_tensors("pt")
        return inputs
    token = getattr(processor, "image_token", None)
    if token is None:
        known = [name for name in dir(processor) if "token" in name or "template" in name]
        raise ValueError(
            f"{type(processor).__name__} has neither a chat template nor an image token; set processor.chat_template. "
            + nearest("image_token", known)
        )
    return processor(
        images=[[image] for image in images], text=[f"{token} {q}" for q in questions],
        return_tensors="pt", padding=True, padding_side="left",
    )  # fmt: skip


def answers(processor: Any, prompt_ids: torch.Tensor, sequences: torch.Tensor) -> list[str]:
    """The new words of ``generate``'s output ``[B, L']`` after its prompt ``[B, L]``."""
    tokenizer = getattr(processor, "tokenizer", processor)
    new = sequences[:, prompt_ids.shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


@dataclass(repr=False, kw_only=True)
class Asked(Answered):
    """One question about one image, answered: what is printed, drawn and explained afterwards.

    Attributes
    ----------
    image
        The picture.
    plan, scene
        The planner's plan and what it saw.
    inputs
        What the processor made of image and question.
    levels
        The budgets that could be chosen.
    views
        Per patch what the model saw of the image, ``[3, H, W]`` RGB in [0, 1], where it was given several views of it.
    """

    image: Image.Image
    plan: Plan
    scene: Scene
    inputs: Any
    levels: tuple[int, ...] = ()
    views: list[torch.Tensor] = field(default_factory=list)

    def plot(self) -> Image.Image:
        """The image with its budgets and the answer; of a model that is given several views, those as it sees them."""
        from ..drawing import draw_allocation, draw_views

        if self.several_views:
            return draw_views(self.views, self.allocation, self.answer, self.levels)
        return draw_allocation(self.image, self.allocation, self.grid, self.answer, levels=self.levels)

    @property
    def several_views(self) -> bool:
        """Whether the model was given several views of the image (tiles, an overview) that do not tile it."""
        return self.grid is None and len(by_view(self.allocation.patches)) > 1


def seen_pixels(arr: ArrCoc, asked: Asked) -> list[torch.Tensor]:
    """Per patch ``[3, H, W]`` RGB in [0, 1] as the model was given it; empty if the family can't tell."""
    scale = arr.builder.scale or (0.0, 1.0)
    return arr.family.pixels(arr.model, asked.inputs, asked.allocation.patches, scale) or []


def ask(arr: ArrCoc, image: Any, question: str, max_new_tokens: int | None = None) -> Asked:
    """Ask a wrapped model one question about one image.

    Parameters
    ----------
    arr
        The wrapped model.
    image
        In any form that :func:`arr_coc.asking.images.load_image` reads: a path, a PIL image, an array, ...
    question
        What to ask about it.
    max_new_tokens
        Longest answer; the model's own default otherwise.

    Raises
    ------
    ValueError
        If the question is empty or spells a control token, or the image can't be used.
    """
    from ..attending.planners import Recorder

    image = load_image(image)
    inputs = prepare(arr.processor, [image], [question]).to(arr.model.device)
    length = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    recorder = Recorder(arr.planner, scenes=True)
    arr.planner = recorder
    try:
        sequences = arr.model.generate(**inputs, do_sample=False, **length)
    finally:
        arr.planner = recorder.planner
    (answer,), (allocation,) = answers(arr.processor, inputs["input_ids"], sequences), arr.last
    grid = arr.processor.patch_grid(image) if hasattr(arr.processor, "patch_grid") else None
    asked = Asked(
        image=image, answer=answer, allocation=allocation, grid=grid, plan=recorder.plans[0],
        scene=recorder.scenes[0], inputs=inputs, levels=arr.config.budgets,
    )  # fmt: skip
    if asked.several_views:
        asked.views = seen_pixels(arr, asked)
    return asked
