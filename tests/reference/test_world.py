"""The world is reproducible, its answers are true, and the splits don't share pictures."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from arr_coc import reference
from arr_coc.reference import vocabulary as V
from arr_coc.reference.questions import KINDS, ask, location
from arr_coc.reference.training.labels import IGNORE, dense_labels, evidence_cells
from arr_coc.reference.world import COLORS, PATCH, draw_picture


def pictures(n: int, seed: str = "t"):
    return [draw_picture(random.Random(f"{seed}/{i}"), "eval") for i in range(n)]


def test_a_sample_depends_on_its_split_seed_and_index_alone():
    long = list(reference.generate(5, seed=3, split="eval"))
    short = list(reference.generate(2, seed=3, split="eval"))
    assert [s["question"] for s in short] == [s["question"] for s in long[:2]]
    assert np.array_equal(np.asarray(short[1]["image"]), np.asarray(long[1]["image"]))
    other = next(reference.generate(1, seed=3, split="learn"))
    assert other["image"].size != short[0]["image"].size or not np.array_equal(
        np.asarray(other["image"]), np.asarray(short[0]["image"])
    )


def test_every_kind_and_level_occurs_and_every_word_is_known():
    kinds, levels = Counter(), Counter()
    for sample in reference.generate(200, seed=0, split="learn"):
        kinds[sample["kind"]] += 1
        levels[sample["level"]] += 1
        assert all(word in V.TOKEN for word in [*sample["question"].split(), *sample["answer"].split()])
        assert len(sample["answers"]) == 10
        assert all(0 <= p < sample["grid"][0] * sample["grid"][1] for p in sample["evidence"])
    assert set(kinds) == set(KINDS)
    assert set(levels) == {64, 128, 256, 400}


@pytest.mark.parametrize("kind", list(KINDS))
def test_answers_follow_from_the_signs(kind):
    asked = 0
    for i, picture in enumerate(pictures(80)):
        question = ask(random.Random(i), picture, kind)
        if question is None:
            continue
        asked += 1
        shown = [picture.signs[p][k] for p, k in question.evidence]
        words = question.text.split()
        everyone = [s for signs in picture.signs for s in signs]
        if kind in ("shape", "color"):
            assert question.answer == getattr(shown[0], kind)
            assert question.answer not in words
        elif kind == "compare":
            assert question.answer == ("yes" if int(shown[0].value) > int(shown[1].value) else "no")
        elif kind == "yesno":
            color = next(w for w in words if w in COLORS)
            if "there" in words:
                shape = [w for w in words if w in V.CLASSES["shape"]]
                truth = any(s.color == color and (not shape or s.shape == shape[0]) for s in everyone)
            else:
                truth = shown[0].color == color
            assert question.answer == ("yes" if truth else "no")
        else:
            assert question.answer == shown[0].value
    assert asked > 20


def test_a_referent_names_one_sign_only():
    for i, picture in enumerate(pictures(60)):
        question = ask(random.Random(i), picture, "number")
        if question is None:
            continue
        named = []
        for p, signs in enumerate(picture.signs):
            for k, sign in enumerate(signs):
                traits = {sign.color, sign.shape, sign.value, *location(picture.grid, p)}
                if set(question.referents[0]) <= traits:
                    named.append((p, k))
        assert tuple(named) == question.evidence


def test_labels_mark_what_is_shown_where_it_is():
    for picture in pictures(20):
        for signs in picture.signs:
            labels = dense_labels(signs, PATCH, (20, 20))
            assert labels.min() >= IGNORE
            for sign in signs:
                x, y, w, h = sign.box
                middle = labels[:, int((y + h / 2) / 8), int((x + w / 2) / 8)]
                assert middle[1] == 1 + list(COLORS).index(sign.color)
            if not signs:
                assert not labels.any()


def test_evidence_lies_on_the_sign():
    for picture in pictures(20):
        for signs in picture.signs:
            for sign in signs:
                for grid in ((8, 8), (8, 16), (16, 16), (20, 20)):
                    x, y, w, h = sign.box
                    for cell in evidence_cells(sign, "number", PATCH, grid):
                        row, col = divmod(int(cell), grid[1])
                        assert (col + 1) * PATCH / grid[1] > x - 8 and col * PATCH / grid[1] < x + w + 8
                        assert (row + 1) * PATCH / grid[0] > y - 8 and row * PATCH / grid[0] < y + h + 8


def test_codes_are_orthonormal_and_words_compose():
    codes = list(V.codes().values())
    gram = np.array([[float(a @ b) for a in codes] for b in codes])
    assert np.allclose(gram, np.eye(len(codes)), atol=1e-5)
    table = V.initial_embeddings()
    same_tens = float(table[V.TOKEN["47"]] @ table[V.TOKEN["42"]])
    nothing_shared = float(table[V.TOKEN["47"]] @ table[V.TOKEN["red"]])
    assert same_tens == pytest.approx(2 / 3, abs=1e-5) and abs(nothing_shared) < 1e-5


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="split is 'test'; it must be one of train, learn, eval"):
        next(reference.generate(1, split="test"))
    with pytest.raises(ValueError, match="kind 'colour' is unknown"):
        next(reference.generate(1, kinds=["colour"]))
    with pytest.raises(ValueError, match=r"grid is \(4, 1\); it must be \(rows, cols\) with 1 to 3"):
        next(reference.generate(1, grid=(4, 1)))
