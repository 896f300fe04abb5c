"""The reference VLM's processor: any photograph becomes a grid of patches, each an image entry behind two place words.

``"<bos> top left <vs> <img> x 400 <ve> top right ... <ve> what number is on the red sign ?"``: the way InternVL and
SmolVLM split images, so a patch is one attention segment natively and re-encoding it at another budget is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import BatchFeature, Qwen2VLImageProcessor
from transformers.processing_utils import ProcessorMixin

from ..wrapping.question import check_question
from .model import PIXEL_MEAN, PIXEL_STD, VIT_PATCH, build_tokenizer
from .questions import location
from .world import PATCH

MAX_SIDE = 3
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<img>{% elif part['type'] == 'text' %}"
    "{{ ' ' + part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


class ReferenceProcessor(ProcessorMixin):
    """Images and questions to the inputs of the reference VLM.

    ``processor(images=image, text="what number is on the red sign ?")`` or lists of both. ``images`` may hold one list
    of images per text. They come first: a text may begin with one ``<img>`` for each, as the chat template writes it,
    but a control token among the words is refused, since it would be none.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token = "<img>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)

    def patch_grid(self, image: Image.Image) -> tuple[int, int]:
        """Rows and columns of patches for an image: up to 3 x 3, nearest in aspect, never finer than its pixels.

        Raises ValueError for an image without pixels.
        """
        width, height = image.size
        if width < 1 or height < 1:
            raise ValueError(f"the image is {width} x {height} pixels; both sides must be at least 1")
        candidates = [
            (rows, cols)
            for rows in range(1, min(MAX_SIDE, math.ceil(height / PATCH)) + 1)
            for cols in range(1, min(MAX_SIDE, math.ceil(width / PATCH)) + 1)
        ]
        return min(
            candidates, key=lambda g: (round(abs(math.log((g[1] / g[0]) / (width / height))), 3), -g[0] * g[1])
        )

    def split(self, image: Image.Image) -> list[Image.Image]:
        """The patches of an image in raster order, 160 x 160 pixels each.

        The image is resized (bicubic, antialiased) to its grid; one that fits already keeps its pixels.
        """
        rows, cols = self.patch_grid(image)
        image, size = image.convert("RGB"), (cols * PATCH, rows * PATCH)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return [
            image.crop((c * PATCH, r * PATCH, (c + 1) * PATCH, (r + 1) * PATCH))
            for r in range(rows)
            for c in range(cols)
        ]

    def picture_text(self, image: Image.Image) -> str:
        """What stands in a prompt for an image: for every patch its two place words and its placeholders."""
        grid, tokens = self.patch_grid(image), self.image_token * (PATCH // VIT_PATCH) ** 2
        places = [location(grid, p) for p in range(grid[0] * grid[1])]
        return " ".join(f"{row} {col} <vs>{tokens}<ve>" for row, col in places)

    def _prompt(self, text: str, images: Sequence[Image.Image]) -> str:
        question = text.replace(self.image_token, " ").strip()
        if not question.strip("? "):
            raise ValueError(f"the question {text!r} is empty; write one, such as 'what number is on the red sign ?'")
        words = text
        while words.lstrip().startswith(self.image_token):
            words = words.lstrip().removeprefix(self.image_token)
        check_question(self, words)
        marks = text.count(self.image_token)
        if marks not in (0, len(images)):
            raise ValueError(
                f"the text marks {marks} images with <img> but {len(images)} were given; mark each of them, or none"
            )
        if not marks:
            text = self.image_token * len(images) + " " + text
        pieces = text.split(self.image_token)
        prompt = pieces[0] + "".join(
            self.picture_text(image) + piece for image, piece in zip(images, pieces[1:], strict=True)
        )
        # The model reads its answer off the question mark; a question typed without one gets it.
        return "<bos> " + prompt + ("" if prompt.rstrip().endswith("?") else " ?")

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        padding: bool | str = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs of the model for a batch of ``B`` questions.

        Parameters
        ----------
        images
            One PIL image, one per text, or one list of them per text; None asks without a picture.
        text
            The question or a list of them.
        return_tensors, padding
            As everywhere in transformers; padding goes to the left.
        **kwargs
            Ignored: what generic callers pass to every processor.

        Returns
        -------
        BatchFeature
            ``input_ids``, ``attention_mask``, ``mm_token_type_ids``, each ``[B, L]`` int64, and for images
            ``pixel_values`` ``[400 * patches, 192]`` float32 and ``image_grid_thw`` ``[patches, 3]`` int64.

        Raises
        ------
        ValueError
            For an empty question, a zero-size image, or counts of images and texts that do not match.
        """
        if text is None:
            raise ValueError("text is None; give the question (or a list of questions) as text=")
        texts = [text] if isinstance(text, str) else list(text)
        if images is None:
            groups: list[list[Image.Image]] = [[] for _ in texts]
        elif not isinstance(images, (list, tuple)):
            groups = [[images]]
        elif images and isinstance(images[0], (list, tuple)):
            groups = [list(group) for group in images]
        else:
            groups = [list(images)] if len(texts) == 1 else [[image] for image in images]
        if len(groups) != len(texts):
            raise ValueError(
                f"{len(groups)} images (or groups of images) for {len(texts)} texts; give one for each text"
            )
        prompts = [self._prompt(t, group) for t, group in zip(texts, groups, strict=True)]
        encoded = self.tokenizer(prompts, padding=padding, return_tensors=return_tensors, return_token_type_ids=False)
        data = dict(encoded)
        data["mm_token_type_ids"] = (encoded["input_ids"] == self.image_token_id).long()
        patches = [patch for group in groups for image in group for patch in self.split(image)]
        if patches:
            data.update(self.image_processor(images=patches, return_tensors=return_tensors))
        return BatchFeature(data)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Texts of generated ids ``[B, L]``, for the image-text-to-text pipeline."""
        return self.tokenizer.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes of this processor's output."""
        return ["input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"]


def build_processor() -> ReferenceProcessor:
    """The processor as it ships.

    A stock Qwen2-VL image processor without resizing, the word tokenizer and a minimal chat template.
    """
    image_processor = Qwen2VLImageProcessor(
        do_resize=False, patch_size=VIT_PATCH, merge_size=1, temporal_patch_size=1,
        image_mean=[PIXEL_MEAN] * 3, image_std=[PIXEL_STD] * 3,
    )  # fmt: skip
    return ReferenceProcessor(image_processor, build_tokenizer(), chat_template=CHAT_TEMPLATE)
