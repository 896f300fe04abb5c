"""Any image becomes a grid of patches; bad input is named."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from arr_coc import reference
from arr_coc.asking.ask import prepare
from arr_coc.reference.processor import ReferenceProcessor, build_processor


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.mark.parametrize(
    ("size", "grid"),
    [((640, 427), (2, 3)), ((320, 320), (2, 2)), ((480, 480), (3, 3)), ((40, 30), (1, 1)), ((3000, 300), (1, 3)),
     ((1, 900), (3, 1)), ((161, 100), (1, 2))],
)  # fmt: skip
def test_the_grid_follows_the_aspect(processor, size, grid):
    image = Image.new("RGB", size, "teal")
    assert processor.patch_grid(image) == grid
    inputs = processor(images=image, text="what color is the sign ?")
    assert inputs["image_grid_thw"].tolist() == [[1, 20, 20]] * (grid[0] * grid[1])
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 400 * grid[0] * grid[1]


def test_chat_template_and_direct_call_agree(processor):
    samples = list(reference.generate(2, seed=1))
    images, questions = [s["image"] for s in samples], [s["question"] for s in samples]
    chat, direct = prepare(processor, images, questions), processor(images=images, text=questions)
    assert set(chat) == set(direct)
    assert all(torch.equal(chat[k], direct[k]) for k in direct)


def test_a_missing_question_mark_is_added_and_unknown_words_are_allowed(processor):
    image = Image.new("RGB", (160, 160))
    a = processor(images=image, text="What number is on the zebra")
    b = processor(images=image, text="what number is on the gnu?")
    assert torch.equal(a["input_ids"], b["input_ids"])


def test_saving_round_trip(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = ReferenceProcessor.from_pretrained(tmp_path)
    sample = next(reference.generate(1, seed=2))
    a, b = (p(images=sample["image"], text=sample["question"]) for p in (processor, again))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_bad_input_is_named(processor):
    image = Image.new("RGB", (160, 160))
    with pytest.raises(ValueError, match="is empty"):
        processor(images=image, text="  ")
    with pytest.raises(ValueError, match="marks 2 images with <img> but 1 were given"):
        processor(images=image, text="<img> <img> what is on the sign ?")
    with pytest.raises(ValueError, match="2 images .* for 1 texts|1 texts"):
        processor(images=[[image], [image]], text=["what is on the sign ?"])
    with pytest.raises(ValueError, match="text is None"):
        processor(images=image)
