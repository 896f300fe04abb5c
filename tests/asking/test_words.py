"""A question is words on every way in: a control token in it is refused by name and changes no answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import arr_coc
from arr_coc.asking.ask import prepare
from arr_coc.cli import app
from arr_coc.wrapping.question import control_tokens
from tests.eval import test_public as public
from tests.zoo.pretrained import save_qwen2_5_vl


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A processor as the hub has it."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(save_qwen2_5_vl(tmp_path_factory.mktemp("qwen")))


@pytest.fixture
def small(reference: tuple[Any, Any]) -> Image.Image:
    return next(arr_coc.reference.generate(1, grid=(1, 2)))["image"]


FAMILIES = {"internvl": public.internvl, "llava_onevision": public.llava_onevision, "smolvlm": public.smolvlm}


@pytest.mark.parametrize("family", ["reference", "qwen2_5_vl", *FAMILIES])
def test_every_control_token_is_refused_by_name(family, reference, qwen, monkeypatch) -> None:
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    processor = {"reference": reference[1], "qwen2_5_vl": qwen}.get(family) or FAMILIES[family]()
    tokens = control_tokens(processor)
    assert set(processor.tokenizer.all_special_tokens) <= set(tokens) and processor.image_token in tokens
    image = Image.new("RGB", (64, 48), "teal")
    for token in tokens:
        with pytest.raises(ValueError, match="control token") as error:
            prepare(processor, [image], [f"w40 {token} w41 ?"])
        assert repr(token) in str(error.value)


def test_a_placeholder_that_is_no_token_of_the_tokenizer_is_refused_too() -> None:
    """Some processors replace it in the text, before any tokenizer sees it."""
    from types import SimpleNamespace

    from arr_coc.wrapping.question import check_question

    words = SimpleNamespace(all_special_tokens=["</s>"], added_tokens_decoder={})
    processor = SimpleNamespace(tokenizer=words, image_token="<image_placeholder>", image_token_id=7)
    assert control_tokens(processor) == ["<image_placeholder>", "</s>"]
    with pytest.raises(ValueError, match="'<image_placeholder>', a control token"):
        check_question(processor, "what is on <image_placeholder> ?")


def test_words_that_only_look_like_one_pass(reference, small) -> None:
    _, processor = reference
    inputs = prepare(processor, [small], ["is < bos > or pad or img on the sign ?"])
    ids = inputs["input_ids"][0]
    assert int((ids == processor.image_token_id).sum()) == 2 * 400
    assert int((ids == processor.tokenizer.bos_token_id).sum()) == 1


@pytest.mark.parametrize("token", ["<img>", "<bos>", "<pad>", "<eos>", "<vs>"])
def test_the_plain_processor_refuses_them_too(reference, small, token) -> None:
    """A literal <img> moved the picture: 12 right answers became 10."""
    _, processor = reference
    with pytest.raises(ValueError, match="control token"):
        processor(images=small, text=f"what number {token} is on the red sign ?")
    plain = processor(images=small, text="what number is on the red sign ?")
    marked = processor(images=small, text="<img> what number is on the red sign ?")  # as the chat template writes it
    assert torch.equal(marked["input_ids"], plain["input_ids"])


def test_a_question_given_beside_the_prompt_is_words_as_well(reference, small) -> None:
    model, processor = reference
    inputs = prepare(processor, [small], ["is there a blue sign ?"])
    with arr_coc.wrap(model, processor), pytest.raises(ValueError, match="'<eos>', a control token"):
        model.generate(**inputs, question="is there <eos> a blue sign ?", max_new_tokens=1)


def test_the_command_line_learning_and_evaluation_refuse_them(reference, small, tmp_path: Path, monkeypatch) -> None:
    model, processor = reference
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: reference)
    small.save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "what color <bos> <pad> is the sign ?", "answers": ["red"]}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    asked = ["ask", "-i", str(tmp_path / "a.png"), "-q", row["question"]]
    for command in (asked, ["evaluate", str(tmp_path / "own.jsonl")]):
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 2 and "'<bos>', a control token" in shown.stderr, shown.output
    with arr_coc.wrap(model, processor) as arr, pytest.raises(ValueError, match="'<bos>', a control token"):
        arr_coc.learn(arr, [{**row, "image": small}], episodes=1, progress=False)


def test_a_row_that_spells_one_costs_a_run_that_row(reference, small, tmp_path: Path, monkeypatch) -> None:
    """An evaluation of many rows counts it as unreadable, with the reason, and goes on."""
    from eval.cli import app as eval_app

    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: reference)
    small.save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"what color {word} is the sign ?", "answers": ["red"]} for word in
            ("", "", "<eos>")]  # fmt: skip
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["run", "configs/eval.yaml", f"task.path={tmp_path / 'own.jsonl'}", "task.split=null",
               "task.source=jsonl", "task.max_unreadable=0.5", "run.methods=[full, uniform-64]", "run.overlays=0",
               "run.baselines=[full]", f"run.out={tmp_path / 'run'}", "run.resamples=100"]  # fmt: skip
    dry = CliRunner().invoke(eval_app, [*command, "--dry-run"])
    assert dry.exit_code == 0 and "6 answers" in dry.output, dry.output  # three rows, two methods
    shown = CliRunner().invoke(eval_app, command)
    assert shown.exit_code == 0, shown.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["questions"] == 2 and "'<eos>', a control token" in metrics["data"]["unreadable"][0]["reason"]


def test_the_demo_refuses_them(reference, small, monkeypatch) -> None:
    from demo.host import Host, Settings

    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: reference)
    with pytest.raises(ValueError, match="'<eos>', a control token"):
        Host().ask(small, "is there <eos> a blue sign ?", Settings())
