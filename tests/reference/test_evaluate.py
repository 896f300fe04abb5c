"""The accuracy table judges what the product's own path generates, and a broken measurement goes on."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
import torch
from PIL import Image

from arr_coc.asking import ask as asking
from arr_coc.reference import vocabulary as V
from arr_coc.reference.processor import build_processor
from arr_coc.reference.questions import ask
from arr_coc.reference.training import evaluate as E
from arr_coc.reference.training.packed import TOKEN_GRIDS, to_tokens
from arr_coc.reference.training.train import load_run
from arr_coc.reference.world import draw_picture


@pytest.fixture(scope="module")
def model(short_run):
    return load_run(short_run)


@pytest.fixture(scope="module")
def table(short_run) -> dict:
    return E.read_table(short_run / "accuracy.json")


def generated(model, picture, questions) -> torch.Tensor:
    """Two greedy tokens for each question by ``generate`` through the processor: ``[Q, 2]``."""
    image = Image.fromarray(picture.pixels)
    inputs = asking.prepare(build_processor(), [image] * len(questions), [q.text for q in questions])
    out = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    return out[:, inputs["input_ids"].shape[1] :]


def test_verdicts_are_those_of_generate(model):
    judged = 0
    for i, kind in enumerate(("number", "yesno", "compare", "color")):
        rng = random.Random(i)
        picture = draw_picture(rng, "eval", (1, 2) if i % 2 else (2, 2))
        question = ask(rng, picture, kind)
        if question is None:
            continue
        first, second = generated(model, picture, [question])[0].tolist()
        reader, budgets = E.PictureReader(model, picture), E.allocate("uniform 400", question, len(picture.signs))
        said = dataclasses.replace(question, answer=V.VOCABULARY[first])
        logits, batch = reader.logits(budgets, [said])
        assert logits.argmax(-1)[batch.labels != E.IGNORE].tolist() == [first, second]
        assert reader.right(budgets, [said]) == [second == V.EOS]
        other = dataclasses.replace(question, answer=V.VOCABULARY[(first + 1) % len(V.VOCABULARY)])
        assert reader.right(budgets, [other]) == [False]
        judged += 1
    assert judged >= 3


def test_every_patch_is_read_at_its_own_budget(model):
    rng = random.Random(2)
    picture = draw_picture(rng, "eval", (2, 2))
    question = next(q for _ in range(50) if (q := ask(rng, picture, "color")) is not None)
    reader, budgets = E.PictureReader(model, picture), (400, 64, 128, 256)
    for other in ((64, 64, 64, 64), (256, 400, 64, 128)):  # what was read before must not leak
        different, _ = reader.logits(other, [question])
    logits, batch = reader.logits(budgets, [question])
    length = len(question.text.split())
    ids = torch.cat([batch.ids[0], batch.tokens[0, 0, :length]])[None]
    grids = [TOKEN_GRIDS[b] for b in budgets]
    with torch.no_grad():
        stock = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == V.IMAGE).long(),
            pixel_values=torch.cat([to_tokens(reader.pixels[p : p + 1], g) for p, g in enumerate(grids)]),
            image_grid_thw=torch.tensor([[1, *g] for g in grids]),
        ).logits[0, -length:]  # fmt: skip
    assert torch.allclose(stock, logits[0, 0, :length], atol=1e-4)
    assert not torch.allclose(stock, different[0, 0, :length], atol=1e-3)


def test_a_right_answer_needs_the_word_and_the_end(model):
    rng = random.Random(0)
    picture = draw_picture(rng, "eval", (1, 1))
    question = next(q for _ in range(50) if (q := ask(rng, picture)) is not None)

    class Oracle(E.PictureReader):
        ends = True

        def logits(self, budgets, questions):
            logits, batch = super().logits(budgets, questions)
            logits.scatter_(-1, batch.labels.clamp(min=0)[..., None], 1e9)
            if not self.ends:
                logits[..., V.EOS] = -1e9
            return logits, batch

    reader = Oracle(model, picture)
    assert reader.right([64], [question]) == [True]
    reader.ends = False
    assert reader.right([64], [question]) == [False]


def test_every_row_has_its_pictures_and_every_allocation_its_tokens(table):
    assert table["complete"]
    records = {(r["row"], r["allocation"]): r for r in table["records"]}
    rows = {"all", "shape", "color", "letter", "count", "yesno", "compare"}
    rows |= {f"{kind} @{level}" for kind in ("number", "word") for level in (64, 128, 256, 400)}
    assert set(records) == {(row, allocation) for row in rows for allocation in E.ALLOCATIONS}
    assert {r["count"] for r in records.values()} == {1}
    for (row, allocation), r in records.items():
        if allocation == "oracle":
            assert 64 / 400 <= r["share"] < 1 or row == "compare"
        else:
            assert r["share"] == pytest.approx(int(allocation.split()[1]) / 400)
        assert 0 <= r["low"] <= r["accuracy"] <= r["high"] <= 1


def test_rows_ask_what_they_say():
    for picture, rows in E.draw_rows(2, 3):
        for name, question in rows:
            kind, _, level = name.partition(" @")
            assert kind in ("all", question.kind)
            assert not level or question.level == int(level)
            assert all(question.text.split() and p < len(picture.signs) for p, _ in question.evidence)


def test_the_oracle_pays_for_the_evidence_only():
    rng = random.Random(1)
    picture = draw_picture(rng, "eval", (3, 3))
    question = next(q for _ in range(50) if (q := ask(rng, picture, "number")) is not None)
    budgets = E.allocate("oracle", question, 9)
    assert [p for p, b in enumerate(budgets) if b == 400] == [p for p, _ in question.evidence]
    assert sorted(budgets)[:8] == [64] * 8


def test_a_broken_measurement_goes_on_to_the_same_table(model, tmp_path, monkeypatch):
    monkeypatch.setattr(E, "GROUPS", ((None, ("color", "count")), (256, E.PRINTED)))
    whole = E.evaluate(model, 2, 0, progress=False)
    file, judge, calls = tmp_path / "table.json", E.judge, 0

    def dies(*args):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return judge(*args)

    with monkeypatch.context() as patch:
        patch.setattr(E, "judge", dies)
        patch.setattr(E, "SAVE_EVERY", 0)
        with pytest.raises(KeyboardInterrupt):
            E.evaluate(model, 2, 0, file, progress=False)
    assert E.read_table(file)["pictures"] == 2 and not E.read_table(file)["complete"]
    resumed = E.evaluate(model, 2, 0, file, progress=False)
    assert resumed["records"] == whole["records"] and resumed["pictures"] == whole["pictures"]
    with monkeypatch.context() as patch:
        patch.setattr(E, "judge", dies)  # a finished table is read, not measured
        assert E.evaluate(model, 2, 0, file, progress=False) == json.loads(file.read_text())


def test_other_measurements_and_foreign_files_are_refused(model, short_run, tmp_path):
    with pytest.raises(ValueError, match="was measured with n 1, not 2; name another file"):
        E.evaluate(model, 2, 0, short_run / "accuracy.json")
    (tmp_path / "foreign.json").write_text('{"n": 1}')
    with pytest.raises(ValueError, match="is not an accuracy table"):
        E.evaluate(model, 1, 0, tmp_path / "foreign.json")
    assert (tmp_path / "foreign.json").read_text() == '{"n": 1}'
    with pytest.raises(ValueError, match="n is 0"):
        E.evaluate(model, 0)


def test_wilson_interval():
    low, high = E.wilson(45, 50)  # by hand: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    assert (low, high) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    assert E.wilson(0, 10)[0] == 0 and E.wilson(10, 10)[1] == 1


def test_markdown_shows_every_cell(table):
    lines = E.markdown_table(table).splitlines()
    assert len(lines) == 2 + 15 and all(line.count("|") == 8 for line in lines)
    assert lines[0].startswith("| question | uniform 64 |") and "| number @256 |" in "\n".join(lines)
