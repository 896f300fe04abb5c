"""Pictures show what was spent, where it was spent, in colours that stay apart."""

import numpy as np
import pytest
from PIL import Image

from arr_coc.drawing import (
    contact_sheet,
    draw_allocation,
    draw_budgets,
    draw_seen,
    grid_boxes,
    palette,
    patch_boxes,
    seen_grids,
)
from arr_coc.scene.patches import Patch, make_patches
from arr_coc.wrapping.record import Allocation

GREY = Image.new("RGB", (320, 320), (200, 200, 200))


def luminance(color):
    return 0.2126 * color[0] + 0.7152 * color[1] + 0.0722 * color[2]


@pytest.mark.parametrize("levels", [(64, 128, 256, 400), (1, 2), tuple(range(10, 90, 10)), (64,)])
def test_palette_rises_in_lightness(levels):
    shades = [luminance(color) for color in palette(levels).values()]
    assert list(palette(reversed(levels))) == sorted(levels)
    assert all(b - a > 10 for a, b in zip(shades, shades[1:], strict=False))


def test_each_patch_is_framed_in_the_colour_of_its_budget():
    boxes, budgets = grid_boxes(GREY.size, (2, 2)), [64, 128, 256, 400]
    picture = np.asarray(draw_budgets(GREY, boxes, budgets, width=640))
    colors = palette(budgets)
    for (left, top, right, bottom), budget in zip(boxes, budgets, strict=True):
        # The middle of the lower edge, twice the size: clear of the tag in the corner.
        assert tuple(picture[2 * bottom - 3, left + right]) == colors[budget]
        middle = picture[top + bottom, left + right].astype(int)
        assert np.abs(middle - 200).max() <= 30  # the picture stays legible
    assert tuple(picture[2 * boxes[0][3] // 2, 320 // 2]) == (200, 200, 200)  # the floor is not tinted


def test_caption_grows_the_picture_and_is_optional():
    boxes = grid_boxes(GREY.size, (1, 1))
    bare = draw_budgets(GREY, boxes, [64])
    full = draw_budgets(
        GREY, boxes, [64], levels=(64, 400), full_tokens=400, question="what ?", answer="", truth="cat", score=0.0
    )
    assert bare.width == full.width == 640 and full.height > bare.height > 640


def test_boxes_cover_the_image_without_overlap():
    for size, grid in (((321, 167), (2, 3)), ((10, 10), (3, 3))):
        covered = np.zeros((size[1], size[0]), int)
        for left, top, right, bottom in grid_boxes(size, grid):
            covered[top:bottom, left:right] += 1
        assert (covered == 1).all()


def test_ragged_patches_keep_their_proportions():
    patches = make_patches([(0, 0, 30, 45)])
    boxes = patch_boxes((900, 600), patches)
    assert boxes[0] == (0, 0, 300, 300) and boxes[-1] == (600, 300, 900, 600)
    assert patch_boxes((100, 50), [Patch(i, 0, 0, 20, 0, 20) for i in range(2)], (1, 2))[1] == (50, 0, 100, 50)


def test_patches_without_a_place_are_refused():
    patches = [Patch(i, 0, 0, 20, 0, 20) for i in range(4)]
    with pytest.raises(ValueError, match="several views; give grid="):
        patch_boxes((100, 100), patches)
    with pytest.raises(ValueError, match="a grid of 2 x 3 has no place for 4 patches"):
        patch_boxes((100, 100), patches, (2, 3))
    with pytest.raises(ValueError, match="1 boxes, 2 budgets"):
        draw_budgets(GREY, [(0, 0, 1, 1)], [64, 64])
    with pytest.raises(ValueError, match="levels is empty"):
        palette([])


def test_what_the_model_saw_is_coarse_where_the_budget_is_small():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 320, 3), dtype=np.uint8))
    patches = [Patch(i, 0, 0, 20, 0, 20) for i in range(2)]
    allocation = Allocation("q", patches, [64, 400], [64, 400], 464, 800)
    grids = seen_grids(allocation)
    assert grids == [(8, 8), (20, 20)]
    seen = np.asarray(draw_seen(noise, grid_boxes(noise.size, (1, 2)), grids, cell=8)).astype(int)
    assert (seen[:, 160:] == np.asarray(noise)[:, 160:]).all()  # full detail is the picture itself
    assert seen[:, :160].std() < 0.7 * seen[:, 160:].std()
    left = seen[:, :160, 0]
    assert len({tuple(row) for row in left.tolist()}) == 64  # 8 tokens of 8 pixels


def test_an_allocation_draws_itself_and_pages_hold_many():
    patches = [Patch(i, 0, 0, 20, 0, 20) for i in range(4)]
    allocation = Allocation("what ?", patches, [64, 64, 400, 64], [64, 64, 400, 64], 592, 1600)
    picture = draw_allocation(GREY, allocation, grid=(2, 2), answer="cat", levels=(64, 128, 256, 400))
    page = contact_sheet([picture] * 5, columns=2, title="five")
    assert page.width == 2 * picture.width + 48 and page.height > 3 * picture.height
    with pytest.raises(ValueError, match="nothing to show"):
        contact_sheet([])


def test_a_strip_of_any_aspect_stays_small():
    for size in ((1, 3000), (3000, 1)):
        picture = draw_budgets(Image.new("RGB", size, "teal"), [(0, 0, *size)], [64], [64])
        assert picture.width * picture.height < 4_000_000
