"""A good citizen: attach at public seams, leave no trace, and work inside what people put around a model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import arr_coc
from arr_coc.config import ArrCocConfig
from tests import tiny
from tests.wrapping.conftest import BUDGETS, SIDE, Pattern, built
from tests.wrapping.test_exactness import MIXED, PROMPTS, families, generated, logits

CONFIG = ArrCocConfig(budgets=BUDGETS, patch_side=SIDE)


def state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """``__dict__`` of every module, containers copied, so that anything left behind shows."""

    def shown(value: Any) -> Any:
        if isinstance(value, nn.Module | torch.Tensor):
            return id(value)
        # A wrapper's own text tells of its last question; what it is does not change with that.
        bound = getattr(value, "__self__", None)
        return (id(bound), value.__func__) if isinstance(bound, arr_coc.ArrCoc) else repr(value)

    def frozen(value: Any) -> Any:
        return {key: shown(v) for key, v in value.items()} if isinstance(value, dict) else shown(value)

    return {name: {key: frozen(v) for key, v in vars(module).items()} for name, module in model.named_modules()}


@families
def test_detaching_leaves_no_trace(name):
    model = tiny.build(name)
    inputs = model.make(PROMPTS)
    answer = logits(model.model, inputs)
    before = state(model.model)
    with arr_coc.wrap(model.model, tiny.tokenizer(), CONFIG, Pattern(*MIXED)) as arr:
        logits(model.model, inputs)
        arr.planner.scenes[0].read_attention([1])
        arr.planner.scenes[0].glance_answer()
        model.model.generate(**inputs, max_new_tokens=2)
        assert state(model.model) != before
    assert state(model.model) == before
    assert torch.equal(logits(model.model, inputs), answer)
    before = state(model.model)
    with arr:
        assert arr.attached and logits(model.model, inputs).shape != answer.shape
    arr.detach()
    assert state(model.model) == before


class Broken(Pattern):
    """Fails after it has looked."""

    def plan(self, scene):
        scene.read_attention([1])
        raise ArithmeticError("no plan")


@families
@pytest.mark.parametrize("where", ["planner", "tower", "model"])
def test_an_exception_inside_leaves_no_trace(name, where):
    model = tiny.build(name)
    inputs = model.make(PROMPTS)
    logits(model.model, inputs)
    before = state(model.model)
    planner = Broken(*MIXED) if where == "planner" else Pattern(*MIXED)
    module = {"tower": model.model.base_model.visual, "model": model.model.base_model.language_model}.get(where)
    arr = arr_coc.wrap(model.model, tiny.tokenizer(), CONFIG, planner)
    attached = state(model.model)

    def fail(*_):
        raise ArithmeticError("no luck")

    for call in (lambda: model.model(**inputs), lambda: model.model.generate(**inputs, max_new_tokens=2)):
        handle = module.register_forward_pre_hook(fail) if module is not None else None
        with pytest.raises(ArithmeticError):
            call()
        if handle is not None:
            handle.remove()
        assert {k: v for k, v in state(model.model).items() if k != "model"} == {
            k: v for k, v in attached.items() if k != "model"
        }
    arr.detach()
    assert state(model.model) == before


def test_wrapping_twice_is_refused():
    model = tiny.build("reference")
    with arr_coc.wrap(model.model, None, CONFIG, Pattern(4)):
        with pytest.raises(ValueError, match="already wrapped"):
            arr_coc.wrap(model.model, None, CONFIG, Pattern(4))
    with arr_coc.wrap(model.model, None, CONFIG, Pattern(4)):
        pass


def test_a_generate_of_ones_own_comes_back():
    model = tiny.build("reference")
    original = model.model.generate
    model.model.generate = lambda *args, **kwargs: original(*args, **kwargs)
    mine = model.model.generate
    with arr_coc.wrap(model.model, None, CONFIG, Pattern(4, needs=())):
        assert model.model.generate != mine
    assert model.model.generate is mine


def test_a_deep_copy_has_a_wrapper_of_its_own():
    model = tiny.build("reference")
    inputs = model.make(PROMPTS[:1])
    with arr_coc.wrap(model.model, tiny.tokenizer(), CONFIG, Pattern(4)) as arr:
        twin = copy.deepcopy(model.model)
        with torch.no_grad():
            twin.lm_head.weight.zero_()
        theirs = twin.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
        assert arr.last == [] and twin.generate.__self__.last[0].tokens == 16
        assert float(theirs.logits[0].abs().max()) == 0
    assert twin.generate.__self__.attached


def test_calling_forward_past_the_hooks_is_refused():
    model = tiny.build("reference")
    with (
        arr_coc.wrap(model.model, None, CONFIG, Pattern(4)),
        pytest.raises(RuntimeError, match="called directly, past its hooks"),
    ):
        model.model.forward(**model.make(PROMPTS[:1]))


def test_text_alone_passes_through(wrapped):
    model = built("qwen2_vl")
    inputs = model.make([[7], [5]])
    before, answer = logits(model.model, inputs), generated(model.model, inputs).sequences
    wrapped(model, 4)
    assert torch.equal(logits(model.model, inputs), before)
    assert torch.equal(generated(model.model, inputs).sequences, answer)
    assert torch.equal(
        model.model.generate(inputs["input_ids"][:1], max_new_tokens=5, do_sample=False)[:, :7],
        inputs["input_ids"][:1],
    )


def test_positional_arguments_and_tensor_first(wrapped):
    model = built("reference")
    inputs = tiny.one(model.make(PROMPTS), 1)
    wrapped(model, *MIXED)
    want, answer = logits(model.model, inputs), generated(model.model, inputs).sequences
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    with torch.no_grad():
        assert torch.equal(model.model(ids, mask, **inputs).logits, want)
    again = model.model.generate(ids, attention_mask=mask, **inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(again, answer)
    config = copy.deepcopy(model.model.generation_config)
    config.update(max_new_tokens=5, do_sample=False)
    assert torch.equal(model.model.generate(ids, config, attention_mask=mask, **inputs), answer)


@pytest.mark.parametrize("source", ["argument", "config", "model"])
def test_max_and_min_length_count_the_prompt_as_given(source, wrapped):
    model = tiny.build("reference")
    inputs = tiny.one(model.make(PROMPTS), 0)
    length = inputs["input_ids"].shape[1]
    model.model.generation_config.eos_token_id = list(
        tiny.WORDS
    )  # every word ends the answer, once min_length is reached
    options = {"max_length": length + 6, "min_length": length + 3}
    if source == "argument":
        extra = options
    elif source == "config":
        config = copy.deepcopy(model.model.generation_config)
        config.update(**options)
        extra = {"generation_config": config}
    else:
        model.model.generation_config.update(**options)
        extra = {}
    model.model.generation_config.do_sample = False
    native = model.model.generate(**inputs, **extra)
    wrapped(model, 4)
    ours = model.model.generate(**inputs, **extra)
    assert ours.shape[1] == native.shape[1] > length
    longer = {"max_length": length + 6, "eos_token_id": tiny.EOS}
    assert model.model.generate(**inputs, **longer).shape[1] == length + 6


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's own
def test_inside_peft(wrapped):
    from peft import LoraConfig, get_peft_model

    model = tiny.build("qwen2_5_vl")
    inputs = model.make(PROMPTS[:2])
    adapted = get_peft_model(model.model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.eval()
    full = logits(adapted, inputs)
    with arr_coc.wrap(adapted, tiny.tokenizer(), CONFIG, Pattern(*MIXED)) as arr:
        assert arr.model is adapted.get_base_model()
        short = logits(adapted, inputs)
        assert short.shape[1] == max(map(len, arr.kept)) < full.shape[1]
        answer = adapted.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert torch.equal(answer[:, :-3], inputs["input_ids"])
        with adapted.disable_adapter():
            assert (logits(adapted, inputs) - short).abs().max() > 1e-3
        adapted.train()
        adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
        assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    assert torch.equal(logits(adapted.eval(), inputs), full)


def test_trainer_steps_with_full_budget_are_those_of_the_untouched_model(tmp_path):
    from transformers import Trainer, TrainingArguments

    def losses(wrap: bool, *pattern: int) -> list[float]:
        model = tiny.build("qwen2_vl")
        inputs = model.make(PROMPTS[:2], left=False)
        batch = inputs | {"labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=1, learning_rate=1e-3, report_to=[],
            logging_steps=1, save_strategy="no", use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
            gradient_accumulation_steps=2,
        )  # fmt: skip
        enable = "activation_checkpointing_enable"
        getattr(model.model, enable, getattr(model.model, "gradient_checkpointing_enable", None))()
        trainer = Trainer(model.model, arguments, train_dataset=[0, 1, 2, 3], data_collator=lambda _: dict(batch))
        arr = arr_coc.wrap(model.model, tiny.tokenizer(), CONFIG, Pattern(*pattern)) if wrap else None
        trainer.train()
        if arr is not None:
            assert [record.tokens for record in arr.last] == ([256, 181] if pattern == (64,) else [120, 76])
        return [line["loss"] for line in trainer.state.log_history if "loss" in line]

    native = losses(False)
    assert len(native) == 2 and native[0] != native[1]
    assert losses(True, 64) == native
    assert losses(True, *MIXED) != native


def test_in_a_pipeline(tmp_path):
    from PIL import Image
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor, pipeline

    model = tiny.build("qwen2_vl")
    words = tiny.tokenizer()
    words.add_special_tokens({"additional_special_tokens": []})
    template = (
        "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<vs> <img> <ve> {% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}"
    )
    words.image_token, words.video_token = "<img>", "<video>"
    words.image_token_id, words.video_token_id = tiny.IMAGE, tiny.VIDEO
    images = Qwen2VLImageProcessor(patch_size=4, merge_size=2, min_pixels=64, max_pixels=128 * 128)
    processor = Qwen2VLProcessor(
        images, words, Qwen2VLVideoProcessor(patch_size=4, merge_size=2), chat_template=template
    )
    pipe = pipeline("image-text-to-text", model=model.model, processor=processor)
    photo = Image.new("RGB", (96, 64), (200, 30, 30))
    chat = [{"role": "user", "content": [{"type": "image", "image": photo}, {"type": "text", "text": "w40 w41 w42"}]}]
    native = pipe(text=chat, max_new_tokens=3, return_full_text=False, do_sample=False)
    with arr_coc.wrap(model.model, processor, CONFIG, Pattern(64, needs=("glance", "pixels"))) as arr:
        assert pipe(text=chat, max_new_tokens=3, return_full_text=False, do_sample=False) == native
        (scene,) = arr.planner.scenes
        assert scene.question == "w40 w41 w42"
        assert torch.allclose(scene.pixels[0].mean((1, 2)), torch.tensor([200, 30, 30]) / 255, atol=1e-2)
        arr.planner = Pattern(4)
        assert (
            len(
                pipe(text=chat, max_new_tokens=3, return_full_text=False, do_sample=False)[0]["generated_text"].split()
            )
            == 3
        )
        assert arr.last[0].tokens == 8 and arr.last[0].full_tokens == 96


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_videos_pass_through_untouched(name, wrapped):
    model = built(name)
    inputs = tiny.one(model.make([[4, (16, 16), 3]]), 0)
    ids = torch.cat([inputs["input_ids"], torch.tensor([[tiny.START, *[tiny.VIDEO] * 16, tiny.END, 30, 31]])], 1)
    generator = torch.Generator().manual_seed(0)
    inputs |= {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == tiny.IMAGE).int() + 2 * (ids == tiny.VIDEO).int(),
        "pixel_values_videos": torch.randn(64, 3 * 2 * 16, generator=generator),
        "video_grid_thw": torch.tensor([[1, 8, 8]]),
    }  # fmt: skip
    before, answer = logits(model.model, inputs), generated(model.model, inputs).sequences
    arr = wrapped(model, 64, needs=())
    assert torch.equal(logits(model.model, inputs), before)
    assert torch.equal(generated(model.model, inputs).sequences, answer)
    arr.planner.pattern = MIXED
    short = logits(model.model, inputs)
    assert short.shape[1] == ids.shape[1] - 256 + 120
    assert torch.equal(
        generated(model.model, inputs).sequences, generated(model.model, inputs, use_cache=False).sequences
    )


def test_with_offloaded_weights(wrapped):
    """Under accelerate's hooks weights rest on the meta device between the calls of their own modules."""
    from accelerate import cpu_offload

    model = tiny.build("qwen3_vl")
    inputs = model.make(PROMPTS)
    arr = wrapped(model, *MIXED)
    want, answer = logits(model.model, inputs), generated(model.model, inputs).sequences
    read = arr.planner.scenes[0].read_attention([0, 2])
    arr.detach()
    cpu_offload(model.model, execution_device="cpu")
    assert all(weight.is_meta for weight in model.model.parameters())
    arr = wrapped(model, *MIXED)
    assert torch.equal(logits(model.model, inputs), want)
    assert torch.equal(generated(model.model, inputs).sequences, answer)
    assert torch.equal(arr.planner.scenes[0].read_attention([0, 2]), read)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_half_precision_and_eager_attention(name, wrapped):
    model = tiny.build(name)
    inputs = model.make(PROMPTS[:2])
    wrapped(model, *MIXED)
    sdpa = logits(model.model, inputs)
    model.model.set_attn_implementation("eager")
    eager = logits(model.model, inputs)
    assert (eager[:, -80:] - sdpa[:, -80:]).abs().max() < 1e-4  # what is padded is nobody's
    model.model.to(torch.bfloat16)
    native = built(name)
    arr = wrapped(model, BUDGETS[-1])
    ours = logits(model.model, inputs)
    arr.detach()
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, logits(model.model, inputs))
    arr = wrapped(model, *MIXED)
    assert torch.isfinite(logits(model.model, inputs)).all()
    assert arr.planner.scenes[0].glance[0].dtype == torch.float32
    assert native.model.dtype == torch.float32
