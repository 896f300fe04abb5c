"""The world of pages: what is drawn, what it states, and that its splits share nothing that they should not."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arr_coc.reference import generate
from arr_coc.reference.pages.canvas import FONTS, PATCH
from arr_coc.reference.pages.dense import HEADS, cell_labels, crowded
from arr_coc.reference.pages.page import BLOCKS, draw_page, patches_of, skewed, turned
from arr_coc.reference.pages.questions import KINDS, WORDINGS, ask, askable, lines


def samples(n: int = 40, **given: object) -> list[dict]:
    return list(generate(n, world="pages", **given))


def test_a_sample_depends_on_split_seed_and_number_alone():
    once, twice = samples(6, seed=3), samples(9, seed=3)
    for a, b in zip(once, twice, strict=False):
        assert np.array_equal(np.asarray(a.pop("image")), np.asarray(b.pop("image")))
        assert a == b
    assert [s["question"] for s in samples(6, seed=4)] != [s["question"] for s in once]


def test_splits_share_neither_pictures_nor_wordings():
    by_split = {split: samples(30, split=split) for split in ("train", "learn", "eval")}
    pictures = {split: {s["image"].tobytes() for s in found} for split, found in by_split.items()}
    assert not pictures["train"] & pictures["eval"]
    assert not pictures["learn"] & pictures["eval"]
    for kind, wordings in WORDINGS.items():
        assert not set(wordings["train"]) & set(wordings["eval"]), kind


def test_judging_has_a_font_that_training_lacks():
    assert set(FONTS["eval"]) - set(FONTS["train"])


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_split_takes_its_own_part_of_the_photographs(monkeypatch: pytest.MonkeyPatch, split: str):
    from arr_coc.reference.pages import page

    marked = np.zeros((427, 640, 3), np.uint8)
    marked[:, : int(0.55 * 640)] = (255, 0, 0)
    marked[:, int(0.75 * 640) :] = (0, 0, 255)
    monkeypatch.setattr(page, "photographs", lambda: (marked,))
    wanted = {"train": (255, 0, 0), "eval": (0, 0, 255)}[split]
    for seed in range(20):
        ground = np.asarray(page.ground(random.Random(seed), (64, 64), split, 1.0))
        assert (ground == wanted).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(1, 1), (1, 2), (2, 2), (3, 4)]))
def test_facts_are_true_of_the_print_inside_their_boxes(seed: int, grid: tuple[int, int]):
    canvas, page = draw_page(random.Random(seed), "eval", grid)
    height, width = grid[0] * PATCH, grid[1] * PATCH
    printed = {tuple(round(v) for v in box): text for text, box, *_ in page["spans"]}
    for one in page["facts"]:
        for left, top, right, bottom in one["boxes"]:
            assert 0 <= left < right <= width + 1 and 0 <= top < bottom <= height + 1
        inside = [printed.get(tuple(box)) for box in one["boxes"]]
        if one["kind"] in ("field", "cell", "on", "says", "title"):
            assert inside[0] == one["answer"]
        if one["kind"] in ("field", "cell"):
            assert set(one["about"]) <= set(inside)
    assert canvas.image.size == (width, height)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_question_has_one_answer(seed: int):
    _, page = draw_page(random.Random(seed), "eval", (2, 2))
    answers: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for one in askable(page):
        answers.setdefault((one["kind"], tuple(one["about"])), set()).add(one["answer"])
    assert all(len(found) == 1 for found in answers.values())


def test_larger_names_the_larger_one():
    page = {"spans": [], "blocks": [], "facts": [
        {"kind": "field", "about": [word], "answer": value, "boxes": [], "level": 64}
        for word, value in (("tea", "4.50"), ("milk", "12.00"))
    ]}  # fmt: skip
    told = {tuple(f["about"]): f["answer"] for f in askable(page) if f["kind"] == "larger"}
    assert told == {("tea", "milk"): "milk", ("milk", "tea"): "milk"}


def test_presence_is_asked_of_what_is_there_and_what_is_not():
    said = set()
    for seed in range(40):
        _, page = draw_page(random.Random(seed), "train", (1, 2))
        printed = {span[0] for span in page["spans"]}
        for question in ask(random.Random(seed), page, 4, "eval", ["present"]):
            words = set(question.text.split())
            assert (question.answer == "yes") == bool(words & printed), (question, printed)
            said.add(question.answer)
    assert said == {"yes", "no"}


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        ([(10, 10, 60, 20)], [0]),
        ([(150, 10, 170, 20)], [0, 1]),
        ([(150, 10, 162, 20)], [0]),  # two pixels beyond the border
        ([(10, 150, 60, 175)], [0, 2]),
        ([(10, 10, 20, 20), (200, 200, 210, 210)], [0, 3]),
        ([], []),
    ],
)
def test_patches_of_boxes(boxes: list[tuple[float, ...]], wanted: list[int]):
    assert patches_of(boxes, (2, 2)) == wanted


def test_every_kind_can_be_asked_for():
    for kind in KINDS:
        assert {s["kind"] for s in samples(2, kinds=[kind])} == {kind}


def test_lines_read_from_the_top_and_from_the_left():
    _, page = draw_page(random.Random(1), "train", (1, 1))
    page["blocks"], page["spans"] = [{"spans": [0, 3]}], [
        ["b", [50, 10, 60, 20], 64, "black", "white"],
        ["c", [5, 40, 15, 50], 64, "black", "white"],
        ["a", [5, 12, 15, 22], 64, "black", "white"],
    ]  # fmt: skip
    assert lines(page) == [["a", "b"], ["c"]]


def test_cells_are_labelled_with_the_character_that_they_show():
    canvas = crowded(random.Random(0))
    labels = cell_labels(np.asarray(canvas.glyphs), (0, 0, 160, 160), (40, 40))
    assert labels.shape == (len(HEADS), 40, 40)
    for x0, y0, x1, y1, char, *_ in canvas.glyphs:
        row, col = int((y0 + y1) / 2 / 4), int((x0 + x1) / 2 / 4)
        if x1 - x0 > 5 and row < 40 and col < 40:
            assert char in labels[:2, row, col]


def test_print_too_small_for_the_cells_is_not_labelled():
    canvas = crowded(random.Random(0), levels={400: 1.0})
    labels = cell_labels(np.asarray(canvas.glyphs), (0, 0, 160, 160), (8, 8))
    assert (labels[:3] <= 0).all() and (labels[:3] == -1).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "test"}, "split"),
        ({"kinds": ["number"]}, "kind"),
        ({"grid": (5, 1)}, "grid"),
    ],
)
def test_wrong_restrictions_are_named(wrong: dict, message: str):
    with pytest.raises(ValueError, match=message):
        samples(1, **wrong)


def test_an_unknown_world_is_named():
    with pytest.raises(ValueError, match="world 'page' is unknown"):
        list(generate(1, world="page"))


def test_every_block_can_be_drawn_in_every_split():
    from PIL import Image

    from arr_coc.reference.pages.canvas import Canvas

    for name, draw in BLOCKS.items():
        for split in FONTS:
            for seed in range(10):
                canvas = Canvas(1, 2, Image.new("RGB", (320, 160)), split)
                facts = draw(random.Random(seed), canvas, (0, 0, 319, 159), set())
                assert facts and canvas.spans, name


def page_of(*kinds: str, **more: object) -> dict:
    blocks = [{"kind": kind, "box": [0, 0, 150, 150], "spans": [0, 0]} for kind in kinds]
    return {"spans": [], "facts": [], "blocks": blocks, "grid": [1, 1], **more}


def test_signs_are_counted_over_the_page_and_bars_only_where_one_chart_has_them():
    def counts(page: dict) -> dict:
        return {f["about"][0]: f["answer"] for f in askable(page) if f["kind"] == "count"}

    one = {"kind": "color", "about": ["jan"], "answer": "red", "boxes": [], "level": 64, "block": 0}
    assert counts(page_of("sign", "sign", "tiles", "tiles")) == {"signs": "2"}
    assert counts(page_of("bars", facts=[one, one | {"about": ["feb"]}])) == {"bars": "2"}


def test_a_line_is_found_by_its_corner():
    spans = [["tea", [165, 5, 190, 15], 64, "black", "white"], ["25", [200, 5, 220, 15], 400, "black", "white"],
             ["milk", [165, 40, 190, 50], 64, "black", "white"]]  # fmt: skip
    block = {"kind": "fields", "box": [160, 0, 319, 150], "spans": [0, 3]}
    told = {tuple(f["about"]): (f["answer"], f["level"])
            for f in askable(page_of(spans=spans, blocks=[block], grid=[1, 2])) if f["kind"] == "line"}  # fmt: skip
    assert told == {("first", "right"): ("tea 25", 400), ("last", "right"): ("milk", 64)}


def test_a_sum_adds_the_two_values():
    facts = [
        {"kind": "field", "about": [word], "answer": value, "boxes": [], "level": 64}
        for word, value in (("tea", "45"), ("milk", "58"), ("rice", "3.20"))
    ]
    told = {tuple(f["about"]): f["answer"] for f in askable(page_of(facts=facts)) if f["kind"] == "sum"}
    assert told == {("tea", "milk"): "103", ("milk", "tea"): "103"}


def test_what_is_absent_is_not_printed():
    for seed in range(20):
        _, page = draw_page(random.Random(seed), "train", (1, 2))
        printed = {span[0] for span in page["spans"]}
        for question in ask(random.Random(seed), page, 3, "eval", ["absent"]):
            words = [w.strip("?,") for w in question.text.split()]
            assert question.answer in words and question.answer not in printed
            assert any(w in printed for w in words)


def test_a_turned_box_holds_what_it_held():
    from PIL import Image

    picture = Image.new("RGB", (320, 160), "white")
    picture.paste((255, 0, 0), (250, 20, 280, 30))
    for seed in range(8):
        askew, angle = skewed(random.Random(seed), picture, 3)
        left, top, right, bottom = turned((250, 20, 280, 30), angle, picture.size)
        red = np.argwhere(np.asarray(askew)[..., 1] < 100)
        assert red[:, 0].min() >= top - 1 and red[:, 0].max() <= bottom and red[:, 1].min() >= left - 1
        assert red[:, 1].max() <= right and (right - left) * (bottom - top) < 3 * 300
