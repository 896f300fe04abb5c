"""The second reference model's processor: the stock classes of Qwen2.5-VL around a small tokenizer."""

from __future__ import annotations

from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from .canvas import PATCH
from .model import PIXEL_MEAN, PIXEL_STD, VIT_PATCH
from .tokenizer import SPECIAL, build_tokenizer

MAX_PATCHES = 16
CHAT_TEMPLATE = (
    SPECIAL["bos"] + "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    + SPECIAL["vision_start"] + SPECIAL["image"] + SPECIAL["vision_end"] +
    "{% elif part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}" + SPECIAL["eos"] + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + SPECIAL["assistant"] + "{% endif %}"
)  # fmt: skip


def build_processor() -> Qwen2_5_VLProcessor:
    """Whole pictures in one entry, 8 pixels a visual token, between one and sixteen patches of 160 x 160 pixels."""
    sizes = dict(
        patch_size=VIT_PATCH, merge_size=1, temporal_patch_size=1, image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3, size={"shortest_edge": PATCH**2, "longest_edge": MAX_PATCHES * PATCH**2},
    )  # fmt: skip
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**sizes), build_tokenizer(), Qwen2VLVideoProcessor(**sizes), chat_template=CHAT_TEMPLATE
    )
