"""The host: answers that are the evaluator's own, settings that hold, and visitors that never meet."""

from __future__ import annotations

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import demo.host as module
from arr_coc import reference
from arr_coc.asking.ask import ask
from arr_coc.asking.models import wrap_with
from demo.gallery import Entry
from demo.host import KEPT_PIXELS, LONGEST_QUESTION, TAUGHT, Host, Settings, Taught
from demo.study import SOURCES
from demo.tabs.ask import draw_map

QUESTION = "what number is on the purple sign ?"


def signature(folder: str | None) -> dict[str, str]:
    assert folder is not None
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder).iterdir()}


def test_an_answer_is_what_the_wrapped_model_gives(host: Host, pictures: list[Entry]) -> None:
    """The study planner with nothing changed is the planner itself."""
    for entry in (pictures[0], pictures[-1]):
        text = entry.questions[0].text
        shown = host.ask(entry.image, text)
        with wrap_with(host.model, host.processor, {"policy": host.folder}) as arr:
            plain = ask(arr, entry.image, text)
        assert (shown.answer, shown.allocation.budgets) == (plain.answer, plain.allocation.budgets)
        assert shown.allocation.scores == plain.allocation.scores
        assert shown.allocation.tokens == sum(shown.allocation.realised) <= shown.allocation.full_tokens
        record = shown.record()
        assert record["tokens"] == sum(record["realised"]) and record["question"] == text


def test_neither_drawing_nor_waiting_is_charged_to_the_policy(
    host: Host, pictures: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that stands still except where work is done: 5 for asking, 100 for explaining and for drawing."""
    now = 0.0

    def costs(seconds: float, real: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            nonlocal now
            now += seconds
            return real(*args, **kwargs)

        return timed

    for name, seconds in (("ask", 5.0), ("explain", 100.0), ("draw_seen", 100.0), ("wrap_with", 100.0)):
        monkeypatch.setattr(module, name, costs(seconds, getattr(module, name)))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    assert host.ask(pictures[2].image, QUESTION).seconds == 5.0 and now == 305.0


def test_what_was_taught_answers_with_its_own_state(host: Host, pictures: list[Entry]) -> None:
    with host.wrapped({"policy": "thompson"}) as arr:
        state = arr.planner.policy.state_dict()
    untaught = Taught("thompson", 0.2, state)
    heuristic = host.ask(pictures[0].image, QUESTION, Settings(policy="thompson", price=0.2))
    same = host.ask(pictures[0].image, QUESTION, Settings(policy=TAUGHT), taught=untaught)
    assert same.allocation.budgets == heuristic.allocation.budgets and same.record()["policy"] == TAUGHT
    nothing = torch.zeros_like(state["tensors"]["posterior.prior_mean"])
    assert not torch.equal(nothing, state["tensors"]["posterior.prior_mean"])
    flat = {**state, "tensors": {**state["tensors"], "posterior.prior_mean": nothing}}
    other = host.ask(pictures[0].image, QUESTION, Settings(policy=TAUGHT), taught=Taught("thompson", 0.2, flat))
    assert set(other.allocation.budgets) == {64}  # it expects nothing of any detail
    dear = host.ask(pictures[0].image, QUESTION, Settings(policy=TAUGHT), taught=Taught("thompson", 50.0, state))
    assert set(dear.allocation.budgets) == {64}  # the price that it was taught at


def test_full_detail_is_neither_limited_nor_priced(host: Host, pictures: list[Entry]) -> None:
    terms = Settings(price=0.4, limit=0.2, budgets=(64, 128), realizer="rescale")
    full = host.ask(pictures[2].image, QUESTION, host.full(terms))
    assert full.allocation.tokens == full.allocation.full_tokens and full.settings.realizer == "rescale"


def test_the_model_is_left_as_it_was(host: Host, pictures: list[Entry]) -> None:
    host.ask(pictures[0].image, QUESTION)
    with pytest.raises(ValueError, match="limit"):
        host.ask(pictures[0].image, QUESTION, Settings(limit=-0.01))
    assert "generate" not in vars(host.model) and not host.model._forward_pre_hooks


def test_the_budgets_follow_the_question(host: Host, pictures: list[Entry]) -> None:
    """Two questions about print on different patches of one picture: the dearest patch is another one."""
    pairs = moved = 0
    for entry in pictures:
        fine = [q for q in entry.questions if q.kind in ("number", "word") and len(q.evidence) == 1]
        for one, other in itertools.combinations(fine, 2):
            if one.evidence != other.evidence:
                budgets = [host.ask(entry.image, q.text).allocation.budgets for q in (one, other)]
                pairs, moved = pairs + 1, moved + (budgets[0] != budgets[1])
    assert pairs >= 2 and moved == pairs


def test_explanations_agree_with_the_decision(host: Host, pictures: list[Entry]) -> None:
    shown = host.ask(pictures[0].image, QUESTION)
    for i, report in enumerate(shown.explanation.patches):
        assert report.budget == shown.allocation.budgets[i] and report.realised == shown.allocation.realised[i]
        values = np.array(report.values, dtype=float)
        # No limit binds, so each patch takes its best value and the next best is the runner-up.
        chosen = host.budgets.index(report.budget)
        assert chosen == values.argmax() and report.margin is not None and report.margin >= 0
        assert host.budgets.index(report.runner_up) == np.argsort(values)[-2]
        price = host.price / shown.allocation.full_tokens
        charged = price * (np.array(report.costs) - report.costs[0])
        np.testing.assert_allclose(np.array(report.gains, dtype=float) - values, charged, atol=1e-9)
        assert report.detail[-1] == 0 and sorted(report.detail, reverse=True) == report.detail
        assert len(report.context) > 10
    assert abs(sum(look.sum() for look in shown.explanation.looks) - 1) < 1e-4


def test_a_limit_holds_and_the_explanation_names_what_it_forbade(host: Host, pictures: list[Entry]) -> None:
    free = host.ask(pictures[1].image, pictures[1].questions[0].text, Settings(price=0.0))
    tight = host.ask(pictures[1].image, pictures[1].questions[0].text, Settings(price=0.0, limit=0.2))
    assert tight.allocation.tokens <= 0.2 * tight.allocation.full_tokens < free.allocation.tokens
    assert tight.explanation.shadow_price > 0
    assert any(report.margin is not None and report.margin < 0 for report in tight.explanation.patches)


def test_price_moves_tokens_one_way(host: Host, pictures: list[Entry]) -> None:
    spent = [host.ask(pictures[0].image, QUESTION, Settings(price=p)).allocation.tokens for p in (0.0, 0.2, 1.0, 50.0)]
    assert spent == sorted(spent, reverse=True) and spent[-1] == 64 * 6
    without = host.ask(pictures[0].image, QUESTION, Settings(price=1.0), off=["price"]).allocation
    assert without.tokens == spent[0] and without.tension["price"] == 0


@pytest.mark.parametrize("allowed", [(64, 400), (128, 256), (256,)])
def test_only_allowed_budgets_are_chosen(host: Host, pictures: list[Entry], allowed: tuple[int, ...]) -> None:
    shown = host.ask(pictures[0].image, QUESTION, Settings(budgets=allowed))
    assert set(shown.allocation.budgets) <= set(allowed)
    for report in shown.explanation.patches:
        assert [v is not None for v in report.values] == [b in allowed for b in host.budgets]
    assert set(
        host.ask(pictures[0].image, QUESTION, Settings(policy="random", budgets=allowed)).allocation.budgets
    ) <= set(allowed)


def test_silenced_sources_are_silent(host: Host, pictures: list[Entry]) -> None:
    def contexts(*off: str) -> list[dict[str, float]]:
        return [r.context for r in host.ask(pictures[0].image, QUESTION, off=off).explanation.patches]

    whole = contexts()
    assert len({round(c["relevance_doubt"], 6) for c in whole}) > 1
    assert len({round(c["relevance_doubt"], 6) for c in contexts("participatory")}) == 1
    assert {c["relevance_doubt propositional"] for c in contexts("propositional")} == {0.0}
    # Not measured: every patch is taken to lose what is typical of the budget.
    assert all(c["relevance_doubt loss_64"] == pytest.approx(0.24 * c["relevance_doubt"]) for c in contexts("detail"))
    assert any(c["relevance_doubt loss_64"] != pytest.approx(0.24 * c["relevance_doubt"], rel=0.01) for c in whole)
    assert all(c["relevance_doubt doubt"] == c["relevance_doubt"] for c in contexts("doubt"))
    assert any(c["relevance_doubt doubt"] != c["relevance_doubt"] for c in whole)
    assert set(SOURCES) == {"propositional", "perspectival", "participatory", "detail", "doubt", "price"}


def test_tensions_act_only_when_asked(host: Host, pictures: list[Entry]) -> None:
    still = host.ask(pictures[0].image, QUESTION, tensions=[]).allocation.tension
    acting = host.ask(pictures[0].image, QUESTION, tensions=["price", "coverage"]).allocation.tension
    assert not {"price_factor", "coverage", "fineness"} & set(still)  # what does not act is not computed
    assert acting["price_factor"] != 1 and acting["coverage"] > 0  # "number" asks for detail
    assert acting["fineness"] == 0.5


def test_every_policy_and_realizer_of_the_lists_answers(host: Host, pictures: list[Entry]) -> None:
    entry = pictures[2]  # the smallest: 2 x 2
    assert TAUGHT in host.policies()
    for policy in host.policies():
        if policy == TAUGHT:
            continue  # there is nothing yet that was taught
        shown = host.ask(entry.image, entry.questions[0].text, Settings(policy=policy))
        if policy.startswith("uniform-"):
            assert set(shown.allocation.budgets) == {int(policy[8:])} and shown.explanation.price is None
    for realizer in host.realizers():
        assert host.ask(entry.image, entry.questions[0].text, Settings(realizer=realizer)).answer


@pytest.mark.parametrize(
    ("settings", "question", "said"),
    [
        (Settings(policy="lerned"), QUESTION, "Did you mean 'learned'"),
        (Settings(policy="taught"), QUESTION, "teach it on the Learning tab first"),
        (Settings(policy="uniform-256", budgets=(64, 128)), QUESTION, "needs the budget 256"),
        (Settings(budgets=(65,)), QUESTION, "none of the budgets"),
        (Settings(price=-1.0), QUESTION, "price=-1.0"),
        (Settings(price=float("nan")), QUESTION, "price=nan"),
        (Settings(realizer="zoom"), QUESTION, "zoom"),
        (Settings(limit=-0.05), QUESTION, "limit=-0.05"),
        (None, "   ", "empty"),
        (None, "word " * LONGEST_QUESTION, "letters; at most"),
    ],
)
def test_bad_settings_get_one_clear_error(
    host: Host, pictures: list[Entry], settings: Settings | None, question: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        host.ask(pictures[0].image, question, settings)


def test_large_and_odd_pictures(host: Host) -> None:
    big = host.ask(Image.new("RGB", (5000, 3000), "teal"), "is there a red sign ?")
    assert big.image.width * big.image.height == pytest.approx(KEPT_PIXELS, rel=0.01)
    assert big.image.width / big.image.height == pytest.approx(5 / 3, rel=0.01)
    strip = host.ask(Image.new("RGB", (9000, 300)), "is there a red sign ?")
    assert strip.image.height > 280  # scaled by its area, not by its longer side
    for size in ((1, 1), (1, 900), (900, 1)):
        shown = host.ask(Image.new("L", size), "is there a red sign ?")
        assert shown.allocation.tokens == sum(shown.allocation.realised) and len(shown.boxes) == len(
            shown.explanation.patches
        )


def test_many_at_once_get_what_each_would_get_alone(host: Host, pictures: list[Entry]) -> None:
    asked = [(e, q.text, p) for e in pictures[:4] for q, p in zip(e.questions, (None, 0.0, 1.0), strict=False)]
    alone = [host.ask(e.image, text, Settings(price=p)) for e, text, p in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda a: host.ask(a[0].image, a[1], Settings(price=a[2])), asked))
    for one, other in zip(alone, together, strict=True):
        assert one.record() | {"timings": None} == other.record() | {"timings": None}


def test_asking_changes_nothing_that_is_shared(host: Host, pictures: list[Entry]) -> None:
    before, random_state = signature(host.folder), torch.get_rng_state()
    one = host.ask(pictures[0].image, QUESTION, explore=True)
    two = host.ask(pictures[0].image, QUESTION, explore=True)
    # Both start from the same saved generator: the first draw moved nobody else's.
    assert one.allocation.budgets == two.allocation.budgets
    assert signature(host.folder) == before and torch.equal(torch.get_rng_state(), random_state)
    assert host.folder == str(reference.policy_path())


def test_a_model_of_tiles_shows_them_as_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    from tests import tiny, zoo

    model = zoo.build("llava_next").model
    words = tiny.tokenizer()
    words.image_token, words.image_token_id = "<img>", tiny.IMAGE
    side = model.config.vision_config.image_size
    images = LlavaNextImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side},
        image_grid_pinpoints=model.config.image_grid_pinpoints,
    )  # fmt: skip
    template = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<img> {% else %}"
    template += "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    processor = LlavaNextProcessor(
        images, words, patch_size=2, vision_feature_select_strategy="default", chat_template=template,
        image_token="<img>", num_additional_image_tokens=1,
    )  # fmt: skip
    monkeypatch.setattr("demo.host.load_vlm", lambda *a, **k: (model, processor))
    mine = Host("tiles")
    shown = mine.ask(Image.new("RGB", (96, 48), (200, 30, 30)), "w40 w41 w42")
    patches = shown.allocation.patches
    assert len({patch.view for patch in patches}) == 2 and len(shown.boxes) == len(patches)
    assert shown.image.size == shown.seen.size and max(box[3] for box in shown.boxes) == shown.image.height
    for left, top, right, bottom in shown.boxes:
        assert np.allclose(np.array(shown.image)[top:bottom, left:right], (200, 30, 30), atol=3)
    assert len({(box[0], box[1]) for box in shown.boxes}) == len(patches)
    assert draw_map(shown, "map").count('<label class="arr-patch') == len(patches)
