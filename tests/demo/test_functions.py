"""What is drawn and said, without a page: the same functions serve the command line, the report and the demo."""

from __future__ import annotations

import base64
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arr_coc.drawing import draw_heat, grid_boxes, palette, titled
from demo.explain import Explanation, PatchReport
from demo.gallery import SIGN_QUESTIONS, Asking, Entry, documents, gallery
from demo.host import Host, Settings
from demo.patchmap import patch_map, plain_map, said_context
from demo.words import answer_card, both_savings, compared, download, moves, saving, verdict

GREY = Image.new("RGB", (320, 320), (200, 200, 200))
BOXES = grid_boxes(GREY.size, (2, 2))


def explanation(budgets: tuple[int, ...] = (64, 64, 400, 128)) -> Explanation:
    costs = [64, 128, 256, 400]
    reports = [
        PatchReport(
            budget=budget, realised=budget, costs=costs, scores={"participatory": 0.25}, detail=[0.4, 0.2, 0.1, 0.0],
            gains=[0.0, 0.1, 0.2, 0.3], values=[0.0, 0.05, None, 0.1], runner_up=128, margin=0.05, context={"r": 1.0},
        )
        for budget in budgets
    ]  # fmt: skip
    return Explanation((64, 128, 256, 400), reports, [], 0.2, 0.0)


def test_the_map_has_one_mask_per_level_and_one_choice_per_patch() -> None:
    page = patch_map(GREY, BOXES, explanation(), "m")
    masks = dict(re.findall(r'<g class="arr-mask arr-m(\d+)"[^>]*>(.*?)</g>', page))
    assert {level: mask.count("<rect") for level, mask in masks.items()} == {"64": 2, "128": 1, "256": 0, "400": 1}
    for level, color in palette((64, 128, 256, 400)).items():
        assert f'arr-m{level}" stroke="#{bytes(color).hex()}"' in page
    assert re.findall(r'fill="(.*?)"', page) == ["none"]  # frames and tags: the picture keeps its colours
    assert page.count('type="radio"') == page.count('class="arr-detail') == 4
    # The patch with most tokens is chosen at first, and its report is the one that the rules show.
    (chosen,) = re.findall(r'arr-p(\d)" [^>]*><input type="radio"[^>]* checked', page)
    assert chosen == "2" and "400 of 400 tokens" in page and "row 2, column 1" in page
    assert "–" in page  # a budget that was not open to choice
    assert "http" not in page and "<script" not in page  # nothing fetched, nothing run


def test_maps_on_one_page_do_not_share_their_rules() -> None:
    rules = re.findall(r"#([\w-]+):has", patch_map(GREY, BOXES, explanation(), "one"))
    assert set(rules) == {"one"}


def test_the_map_says_what_the_limit_forbade_and_what_a_blind_policy_is() -> None:
    forced = explanation()
    for report in forced.patches:
        report.margin, report.runner_up = -0.25, 400
    assert "400 would be worth 0.250 more than 64, but the limit" in patch_map(GREY, BOXES, forced, "m")
    blind = explanation()
    for report in blind.patches:
        report.values, report.gains, report.scores, report.detail, report.context = [], [], {}, [], {}
    page = patch_map(GREY, BOXES, blind, "m")
    assert "looks at nothing" in page and "expected gain" not in page and "detail lost" not in page


def test_a_map_needs_one_box_per_patch() -> None:
    with pytest.raises(ValueError, match="3 boxes for 4 patches"):
        patch_map(GREY, BOXES[:3], explanation(), "m")
    with pytest.raises(ValueError, match="4 boxes for 1 arrays"):
        draw_heat(GREY, BOXES, [np.ones((1, 1))])


def test_heat_is_brightest_where_the_value_is_highest() -> None:
    cells = [np.zeros((8, 8)) for _ in BOXES]
    cells[3][1, 6] = 0.7
    heat = np.asarray(draw_heat(GREY, BOXES, cells, width=320).convert("L")).astype(int)
    y, x = np.unravel_index(heat[2:-2, 2:-2].argmax(), heat[2:-2, 2:-2].shape)
    bright = heat[185:195, 285:295].mean()
    assert bright > heat[100, 100] + 60, (y, x)
    # With a given top a low value stays dark.
    dim = np.asarray(draw_heat(GREY, BOXES, cells, width=320, top=7.0).convert("L")).astype(int)
    assert dim[185:195, 285:295].mean() < bright - 40
    assert titled("a title", GREY).height > GREY.height


def test_gallery_pictures_have_questions_and_known_answers(pictures: list[Entry]) -> None:
    drawn = [entry for entry in pictures if not entry.title.startswith("photograph")]
    assert len(drawn) >= 4 and len(pictures) - len(drawn) >= 2
    for entry in drawn:
        rows, columns = entry.image.height // 160, entry.image.width // 160
        assert len(entry.questions) >= 4 and len({q.kind for q in entry.questions}) >= 4
        assert all(q.answer and all(p < rows * columns for p in q.evidence) for q in entry.questions)
        assert entry.truth(entry.questions[0].text) is entry.questions[0] and entry.truth("what ?") is None
    photograph = pictures[-1]
    assert [q.text for q in photograph.questions] == list(SIGN_QUESTIONS)
    assert photograph.truth(SIGN_QUESTIONS[0]) is None
    assert gallery(None)[-1].questions != photograph.questions


def test_an_ordinary_model_is_given_pictures_of_its_size() -> None:
    pictures = {entry.title: entry for entry in gallery(None)}
    assert {"page", "receipt", "chart"} <= set(pictures) and any(name.startswith("photograph") for name in pictures)
    for name in ("page", "receipt", "chart"):
        entry = pictures[name]
        assert entry.image.width * entry.image.height > 400_000
        for asked in entry.questions:
            assert asked.score(asked.answer) == 1 and asked.score("a zebra") < 0.5, asked
    total = sum(float(price) for _, _, price in documents.GOODS)
    assert documents.TOTAL == f"{total:.2f}"
    assert "LB-2207/14" in documents.SMALL_PRINT and min(documents.STOPS, key=documents.STOPS.__getitem__) == "Museum"


def test_a_verdict_is_the_metrics(host: Host, pictures: list[Entry]) -> None:
    shown: Any = host.ask(pictures[0].image, "is there a red sign ?")
    page = Asking("q", "Ida Lindqvist", metric="anls")
    for answer, said in (("ida lindqvist", "✓ right"), ("Ida Lindquist", "≈ 0.92 by anls"), ("no", "✗")):
        shown.answer = answer
        assert said in verdict(shown, page)
    shown.answer = "310"  # within a twentieth
    assert "✓" in verdict(shown, Asking("q", "300", metric="relaxed_accuracy"))
    assert verdict(shown, None) == ""


def test_what_was_saved_is_one_sentence_and_a_loss_is_one_too(host: Host, pictures: list[Entry]) -> None:
    shown, full = (
        host.ask(pictures[0].image, "is there a red sign ?", Settings(policy=f"uniform-{n}")) for n in (64, 400)
    )
    shown.answer, full.answer, shown.seconds, full.seconds = "No.", "no", 0.1, 0.4
    told = saving(shown, full)
    opening = "The same answer as full detail for 16 % of its tokens and 25 % of its time"
    assert told == f"{opening}: 2,016 tokens and 300 ms saved."
    shown.answer, shown.seconds = "yes", 0.5
    told = saving(shown, full)
    assert told.startswith("Another answer than full detail's for 16 %") and "took 100 ms longer" in told
    assert "nothing was saved" in saving(full, full)


def test_the_two_bars_are_to_one_scale(host: Host, pictures: list[Entry]) -> None:
    shown, full = (
        host.ask(pictures[0].image, "is there a red sign ?", Settings(policy=f"uniform-{n}")) for n in (64, 400)
    )
    shown.seconds, full.seconds = 0.3, 0.2  # slower than full detail: its bar is the longer one
    widths = re.findall(r'class="bar (own|all)".*?width:([\d.]+)%', answer_card(shown, full=full))
    assert widths == [("own", "16.0"), ("all", "100.0"), ("own", "100.0"), ("all", "66.7")]
    waiting = answer_card(shown)
    assert "Measuring full detail" in waiting and "Measuring" not in answer_card(shown, full=full)


def test_a_link_holds_what_it_saves() -> None:
    link = download("all of it", 'a"b.bin', bytes(range(256)), "application/zip")
    inside = re.search(r'href="data:application/zip;base64,(.*?)"', link)
    assert inside is not None and base64.b64decode(inside[1]) == bytes(range(256))
    assert 'download="a&quot;b.bin"' in link


@pytest.mark.parametrize(
    ("size", "least", "most"),
    [((200, 1800), 90, 120), ((9000, 300), 2700, 3000), ((480, 320), 0, 960), ((1, 900), 90, 120)],
)
def test_strips_are_neither_endless_nor_hairlines(size: tuple[int, int], least: int, most: int) -> None:
    """Width of the map in pixels, between what it has at least and what a large window gives it at most."""
    page = plain_map(Image.new("RGB", size), "m")
    found = re.search(r"aspect-ratio:([\d.]+);width:max\((\d+)px,min\((\d+)px,100%\)\)", page)
    assert found is not None
    ratio, low, high = float(found[1]), int(found[2]), int(found[3])
    assert least <= max(low, min(high, 900)) <= most
    assert low / ratio >= 90  # high enough to see its patches
    assert ("long strip" in page) == (max(size) > 5 * min(size))


def test_every_slot_has_words(host: Host, pictures: list[Entry]) -> None:
    for report in host.ask(pictures[0].image, "is there a red sign ?").explanation.patches:
        told = said_context(report.context)
        assert not [words for words in told if "_" in words or re.search(r"\bq\d|relevance|loss", words)]
        assert sum(len(numbers.split()) for numbers in told.values()) == len(report.context)
    assert said_context({"own_score": 0.5}) == {"own score": "+0.50"}


def test_cards_escape_what_people_and_models_write(host: Host, pictures: list[Entry]) -> None:
    shown = host.ask(pictures[0].image, "<img src=x onerror=alert(1)> ?")
    shown.answer = "<b>bold</b>"
    for text in (answer_card(shown, Asking("q", "<i>")), both_savings([shown], shown), compared([shown])):
        assert "<img" not in text and "<b>bold" not in text and "<i>" not in text


def test_moves_name_the_patches_whose_budgets_changed(host: Host, pictures: list[Entry]) -> None:
    entry = pictures[0]
    low, high = (host.ask(entry.image, "is there a red sign ?", Settings(policy=f"uniform-{b}")) for b in (64, 256))
    assert moves(low, high).startswith("The budgets moved: top left 64 → 256, ")
    assert moves(low, low) == "Same budgets as for your last question."
    assert moves(None, high) == ""
    other = host.ask(pictures[1].image, "is there a red sign ?", Settings(policy="uniform-64"))
    assert moves(low, other) == ""


def test_right_and_wrong_are_told(host: Host, pictures: list[Entry]) -> None:
    shown: Any = host.ask(pictures[0].image, "is there a red sign ?")
    assert "right" in answer_card(shown, Asking("q", shown.answer))
    assert "it says zebra" in answer_card(shown, Asking("q", "zebra"))
    plain = answer_card(shown)
    assert "right" not in plain and f"<b>{shown.allocation.tokens:,}</b>" in plain
