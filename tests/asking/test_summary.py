"""What was spent, said in a line; stages that don't overlap; pictures of the budgets."""

from __future__ import annotations

import re
from typing import Any

import pytest
from PIL import Image

import arr_coc
from arr_coc.wrapping.record import LOOKING
from tests.wrapping.conftest import Pattern


@pytest.fixture
def asked(reference: tuple[Any, Any]) -> Any:
    model, processor = reference
    sample = next(arr_coc.reference.generate(1, seed=5, grid=(2, 2), kinds=["number"]))
    with arr_coc.wrap(model, processor, limit=0.5) as arr:
        yield arr, arr_coc.ask(arr, sample["image"], sample["question"])


def test_the_line_says_tokens_share_and_seconds(asked) -> None:
    arr, answer = asked
    allocation = arr.last[0]
    line = r"([\d,]+) of 1,600 visual tokens, (\d+) %; (\d+\.\d\d) s, of which looking (\d+\.\d\d)"
    said = re.fullmatch(line, arr.summary())
    assert said and int(said[1].replace(",", "")) == sum(allocation.realised) == allocation.tokens
    assert int(said[2]) == round(100 * allocation.tokens / 1600)
    assert float(said[3]) == pytest.approx(allocation.timings["total"], abs=0.006) and float(said[4]) <= float(said[3])
    assert allocation.summary() in repr(allocation) and allocation.summary() in repr(arr)
    assert all(part in repr(arr) for part in ("Qwen2VLForConditionalGeneration", "limit 0.5", "neural_mixture"))
    assert repr(answer).startswith(f"<Asked: {answer.answer!r}") and len(repr(answer)) < 200


def test_before_and_after(reference) -> None:
    model, processor = reference
    arr = arr_coc.wrap(model, processor)
    assert arr.summary() == "no question asked yet" and "detached" not in repr(arr)
    arr.detach()
    assert "detached" in repr(arr)


@pytest.mark.parametrize("policy", [{"policy": "thompson"}, {"policy": "uniform", "budget": 128}])
def test_no_second_is_in_two_stages(reference, policy) -> None:
    """The stages are parts of the total: together they can't exceed it, whatever the machine does."""
    model, processor = reference
    sample = next(arr_coc.reference.generate(1, seed=5, grid=(2, 2), kinds=["number"]))
    with arr_coc.wrap(model, processor, **policy) as arr:
        arr_coc.ask(arr, sample["image"], sample["question"], 1)
        timings = arr.last[0].timings
    parts = {stage: seconds for stage, seconds in timings.items() if stage != "total"}
    assert all(seconds >= 0 for seconds in parts.values()) and sum(parts.values()) <= timings["total"]
    assert list(timings)[-1] == "total" and set(LOOKING) - {"balancing"} <= {*parts} or policy["policy"] == "uniform"


def test_the_reading_of_the_glance_is_not_counted_as_knowing(reference) -> None:
    """A scorer reads the glance within its own time; what the reading took is taken off."""
    import time

    from arr_coc.scene.contract import Plan

    model, processor = reference
    sample = next(arr_coc.reference.generate(1, grid=(1, 1)))

    class Slow(Pattern):
        def plan(self, scene: Any) -> Plan:
            began = time.perf_counter()
            scene.read_attention([-1])
            plan = super().plan(scene)
            plan.timings["knowing"] = time.perf_counter() - began
            self.read, self.knowing = scene.timings["read"], plan.timings["knowing"]
            return plan

    planner = Slow(64)
    with arr_coc.wrap(model, processor, planner=planner) as arr:
        arr_coc.ask(arr, sample["image"], sample["question"], 1)
        assert arr.last[0].timings["knowing"] == pytest.approx(planner.knowing - planner.read)


def test_plots(asked) -> None:
    arr, answer = asked
    allocation = arr.last[0]
    whole = answer.plot()
    assert whole.mode == "RGB" and whole.width == 640
    assert allocation.plot(answer.image, grid=(2, 2), answer=answer.answer).size == whole.size
    blank = allocation.plot(grid=(2, 2))
    assert blank.getpixel((blank.width // 4, blank.width // 4)) != whole.getpixel((blank.width // 4, blank.width // 4))
    assert allocation.plot().height > blank.height  # without the grid one entry below another
    with pytest.raises(ValueError, match="give grid="):
        allocation.plot(answer.image)
    drawn = arr_coc.draw_allocation(answer.image, allocation, (2, 2), answer.answer)
    assert drawn.size == whole.size


def test_ask_takes_a_path(asked, tmp_path) -> None:
    arr, answer = asked
    answer.image.save(tmp_path / "a.png")
    again = arr_coc.ask(arr, tmp_path / "a.png", answer.allocation.question)
    assert again.answer == answer.answer and again.allocation.budgets == answer.allocation.budgets
    assert isinstance(again.image, Image.Image)
